//! The candidates of a walk.

/// A node in a [`Pool`]: similarity, number and whether it was expanded, in one integer that sorts best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u64);

/// Nodes are numbered in 31 bits: one is left for the mark of an entry.
pub(super) const MAX_NODES: usize = 1 << 31;

impl Entry {
    #[inline(always)]
    fn new(node: u32, similarity: f32) -> Self {
        Self(u64::from(!rising(similarity)) << 32 | u64::from(node) << 1)
    }

    #[inline(always)]
    fn node(self) -> u32 {
        self.0 as u32 >> 1
    }

    fn similarity(self) -> f32 {
        let bits = !((self.0 >> 32) as u32) ^ (1 << 31);
        let bits = bits.cast_signed();
        f32::from_bits((bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()).cast_unsigned())
    }

    #[inline(always)]
    fn is_expanded(self) -> bool {
        self.0 & 1 == 1
    }
}

/// The bits of an `f32` as an integer of the same order.
#[inline(always)]
fn rising(value: f32) -> u32 {
    let bits = value.to_bits().cast_signed();
    (bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()).cast_unsigned() ^ (1 << 31)
}

/// The best nodes offered so far, best first, up to a capacity: the sets C and W of the paper's Algorithm 2 in one.
///
/// A candidate that W has no room for would never be expanded, so one sorted array serves as both.
#[derive(Debug, Default)]
pub(super) struct Pool {
    entries: Vec<Entry>,
    capacity: usize,
    /// No entry before it is unexpanded.
    next: usize,
}

impl Pool {
    /// Empties the pool; `capacity` is at least 1.
    pub fn clear(&mut self, capacity: usize) {
        self.entries.clear();
        self.entries.reserve(capacity);
        (self.capacity, self.next) = (capacity, 0);
    }

    /// Whether a node would be among the best.
    #[inline(always)]
    pub fn has_room_for(&self, node: u32, similarity: f32) -> bool {
        self.entries.len() < self.capacity
            || self
                .entries
                .last()
                .is_some_and(|&last| Entry::new(node, similarity) < last)
    }

    /// Adds a node that is not in the pool, if it is among the best.
    #[inline(always)]
    pub fn offer(&mut self, node: u32, similarity: f32) {
        let entry = Entry::new(node, similarity);
        if self.entries.len() == self.capacity {
            match self.entries.last() {
                Some(&last) if entry < last => self.entries.truncate(self.capacity - 1),
                _ => return,
            }
        }
        let at = self.entries.partition_point(|&other| other < entry);
        self.entries.insert(at, entry);
        self.next = self.next.min(at);
    }

    /// Marks the best unexpanded node as expanded and returns it.
    #[inline(always)]
    pub fn expand(&mut self) -> Option<u32> {
        let at = self.peek_at()?;
        self.entries[at].0 |= 1;
        self.next = at + 1;
        Some(self.entries[at].node())
    }

    /// The node that is expanded next, as far as is known.
    #[inline(always)]
    pub fn peek(&self) -> Option<u32> {
        self.peek_at().map(|at| self.entries[at].node())
    }

    #[inline(always)]
    fn peek_at(&self) -> Option<usize> {
        (self.next..self.entries.len()).find(|&at| !self.entries[at].is_expanded())
    }

    /// True when no node as similar as the best unexpanded one can enter.
    pub fn is_settled_by(&self, walk: &Self) -> bool {
        let next = walk.peek_at().map(|at| walk.entries[at]);
        let (Some(next), Some(last)) = (next, self.entries.last()) else {
            return false;
        };
        self.entries.len() == self.capacity && next > *last
    }

    /// The nodes and their similarities, best first.
    pub fn ranking(&self) -> impl ExactSizeIterator<Item = (u32, f32)> + '_ {
        self.entries
            .iter()
            .map(|entry| (entry.node(), entry.similarity()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pool_is_a_full_sort_cut_to_its_capacity(
            values in prop::collection::vec(-3i8..4, 0..60), capacity in 1usize..70,
        ) {
            let mut pool = Pool::default();
            pool.clear(capacity);
            for (node, &value) in (0u32..).zip(&values) {
                pool.offer(node, f32::from(value) / 2.0);
            }
            let mut all: Vec<_> = (0u32..).zip(values.iter().map(|&value| f32::from(value) / 2.0)).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(capacity);
            prop_assert_eq!(pool.ranking().collect::<Vec<_>>(), all.clone());
            let mut expanded = Vec::new();
            while let Some(node) = pool.expand() {
                expanded.push(node);
            }
            prop_assert_eq!(expanded, all.iter().map(|&(node, _)| node).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_better_node_is_expanded_before_what_was_next() {
        let mut pool = Pool::default();
        pool.clear(2);
        pool.offer(1, 1.0);
        assert_eq!(pool.expand(), Some(1));
        pool.offer(2, 0.5);
        pool.offer(3, 2.0);
        assert_eq!(pool.expand(), Some(3));
        assert_eq!(pool.expand(), None, "node 2 had no room");
    }
}
