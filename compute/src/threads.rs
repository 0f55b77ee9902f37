use std::thread::available_parallelism;

/// The number of threads to start: what was asked for, else what this process may use, at least 1.
///
/// The machine's answer counts the CPU affinity and the quota of the control group, so a container limited to
/// two CPUs gets two threads on any machine. A request is taken as it is, except that 0 means 1.
pub fn thread_budget(requested: Option<usize>) -> usize {
    requested
        .unwrap_or_else(|| available_parallelism().map_or(1, usize::from))
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_at_least_one_thread() {
        assert_eq!(thread_budget(Some(0)), 1);
        assert_eq!(thread_budget(Some(7)), 7);
        assert!(thread_budget(None) >= 1);
    }
}
