//! Which nodes a walk has seen.

/// A set of nodes that is emptied in no time: a node is in it when its mark is the current epoch.
#[derive(Debug, Default)]
pub(super) struct Visited {
    marks: Vec<u8>,
    epoch: u8,
}

impl Visited {
    /// Empties the set and makes room for nodes below `n`.
    pub fn clear(&mut self, n: usize) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 || self.marks.len() != n {
            self.marks.clear();
            self.marks.resize(n, 0);
            self.epoch = 1;
        }
    }

    /// Adds a node; true when it was not there.
    #[inline(always)]
    pub fn insert(&mut self, node: u32) -> bool {
        let mark = &mut self.marks[node as usize];
        let is_new = *mark != self.epoch;
        *mark = self.epoch;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_set_is_empty_however_often_it_is_cleared() {
        let mut visited = Visited::default();
        for round in 0..1000 {
            visited.clear(3);
            assert!(visited.insert(round % 3), "round {round}");
            assert!(!visited.insert(round % 3));
            assert!(visited.insert((round + 1) % 3));
        }
    }
}
