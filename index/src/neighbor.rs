//! What order an answer has.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A row and its score for one query.
///
/// The order is total and best first: the higher score comes before the lower, and of equal scores the smaller
/// ordinal. So `sort()` ranks, and `min()` is the nearest.
#[derive(Clone, Copy, Debug)]
pub struct Neighbor {
    /// The row's number in the whole index, whatever shard it lies in.
    pub ordinal: u32,
    /// The row's [`score`](crate::score).
    pub score: f32,
}

impl Ord for Neighbor {
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.ordinal.cmp(&other.ordinal))
    }
}

impl PartialOrd for Neighbor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Neighbor {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Neighbor {}

/// The `k` best neighbors offered so far, in O(k) memory.
#[derive(Clone, Debug)]
pub(crate) struct TopK {
    k: usize,
    /// The worst is on top, since a worse neighbor is the greater one.
    heap: BinaryHeap<Neighbor>,
}

impl TopK {
    /// `k` is at least 1.
    pub fn new(k: usize) -> Self {
        Self {
            k,
            heap: BinaryHeap::new(),
        }
    }

    /// The score to reach: that of the `k`-th best, once there are `k`.
    pub fn threshold(&self) -> Option<f32> {
        if self.heap.len() < self.k {
            None
        } else {
            self.heap.peek().map(|worst| worst.score)
        }
    }

    /// Keeps the neighbor if it is among the `k` best; true when it is.
    pub fn offer(&mut self, neighbor: Neighbor) -> bool {
        if self.heap.len() < self.k {
            self.heap.push(neighbor);
            return true;
        }
        match self.heap.peek_mut() {
            Some(mut worst) if neighbor < *worst => {
                *worst = neighbor;
                true
            }
            _ => false,
        }
    }

    /// The neighbors, best first.
    pub fn into_ranking(self) -> Vec<Neighbor> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn top_k_is_a_full_sort_cut_to_k(scores in prop::collection::vec(0u8..8, 0..60), k in 1usize..70) {
            let mut all: Vec<_> = (0u32..).zip(&scores).map(|(ordinal, &score)| Neighbor { ordinal, score: score.into() }).collect();
            let mut best = TopK::new(k);
            all.iter().rev().for_each(|&neighbor| { best.offer(neighbor); });
            all.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.ordinal.cmp(&b.ordinal)));
            all.truncate(k);
            prop_assert_eq!(best.into_ranking(), all);
        }
    }
}
