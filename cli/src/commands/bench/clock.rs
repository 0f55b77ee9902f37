//! Wall time, user CPU time, and what many repeats say together.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// The time of one pass over all texts.
pub struct Pass {
    pub wall: Duration,
    /// Of all threads of the process, in user mode.
    pub cpu: Duration,
    /// Wall time of each call in it.
    pub calls: Vec<Duration>,
}

/// Runs `call` on `items`, `per_call` at a time.
pub fn pass<T>(
    items: &[T],
    per_call: usize,
    mut call: impl FnMut(&[T]) -> anyhow::Result<()>,
) -> anyhow::Result<Pass> {
    let mut calls = Vec::with_capacity(items.len().div_ceil(per_call));
    let (cpu, start) = (user_cpu()?, Instant::now());
    for items in items.chunks(per_call) {
        let start = Instant::now();
        call(items)?;
        calls.push(start.elapsed());
    }
    let wall = start.elapsed();
    Ok(Pass {
        wall,
        cpu: user_cpu()?.saturating_sub(cpu),
        calls,
    })
}

fn user_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = usage.user_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.unsigned_abs()))
}

/// The median wall time of passes, in seconds.
pub fn wall(passes: &[Pass]) -> f64 {
    median(passes.iter().map(|pass| pass.wall))
}

/// The median CPU time of passes, in seconds.
pub fn cpu(passes: &[Pass]) -> f64 {
    median(passes.iter().map(|pass| pass.cpu))
}

/// The calls of all passes.
pub fn calls(passes: &[Pass]) -> Vec<Duration> {
    passes
        .iter()
        .flat_map(|pass| &pass.calls)
        .copied()
        .collect()
}

/// The middle one, or the mean of the two in the middle, in seconds; 0 of none.
pub fn median(times: impl IntoIterator<Item = Duration>) -> f64 {
    let mut times: Vec<Duration> = times.into_iter().collect();
    times.sort();
    let Some(&upper) = times.get(times.len() / 2) else {
        return 0.0;
    };
    let lower = times[(times.len() - 1) / 2];
    (lower + upper).as_secs_f64() / 2.0
}

/// The least time that `percent` of the times do not exceed, in milliseconds; 0 of none.
pub fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    let rank = (times.len() * percent).div_ceil(100);
    times
        .get(rank.saturating_sub(1))
        .map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_millis).collect()
    }

    fn check_median(values: &[u64], expected_ms: f64) {
        let found = median(milliseconds(values.iter().copied())) * 1e3;
        assert!((found - expected_ms).abs() < 1e-9, "{found}");
    }

    #[test]
    fn median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        check_median(&[], 0.0);
        check_median(&[7], 7.0);
        check_median(&[9, 1, 4], 4.0);
        check_median(&[9, 1, 4, 5], 4.5);
    }

    #[test]
    fn percentile_is_that_of_the_nearest_rank() {
        let hundred = milliseconds((1..=100).rev());
        assert_eq!(percentile_ms(&hundred, 50), 50.0);
        assert_eq!(percentile_ms(&hundred, 99), 99.0);
        assert_eq!(percentile_ms(&milliseconds([3, 1, 2]), 50), 2.0);
        assert_eq!(percentile_ms(&milliseconds([3, 1, 2]), 99), 3.0);
        assert_eq!(percentile_ms(&[], 50), 0.0);
    }

    #[test]
    fn a_pass_times_every_call_and_stops_at_the_first_error() {
        let mut sizes = Vec::new();
        let timed = pass(&[1, 2, 3, 4, 5], 2, |items| {
            sizes.push(items.len());
            Ok(())
        });
        let timed = timed.expect("no call fails");
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(timed.calls.len(), 3);
        assert!(timed.calls.iter().sum::<Duration>() <= timed.wall);
        let mut n_calls = 0;
        let failed = pass(&[1, 2, 3], 1, |_| {
            n_calls += 1;
            anyhow::bail!("full")
        });
        assert!(failed.is_err());
        assert_eq!(n_calls, 1);
    }
}
