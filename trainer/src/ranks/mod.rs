//! Several processes that train one model: what they say to each other.
//!
//! Every rank has all weights and the whole order of the data, and takes its share of each batch. Nobody here starts,
//! finds or replaces ranks: a launcher does. A rank that is missing ends the run of all; the launcher starts them again, and
//! they go on from the last checkpoint.

mod error;
mod frame;
mod gradients;
#[cfg(feature = "mpi")]
mod mpi;
mod tcp;

use std::ops::Range;

pub use error::{CollectiveError, Difference};
pub(crate) use gradients::{agree, gather_numbers, reduce_gradients};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use tcp::{Tcp, TcpConfig};

/// What the ranks of a run do together. All of them make the same calls in the same order.
///
/// Every rank ends a call with equal bits.
pub trait Collective: Send + Sync {
    /// Which of the ranks this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world_size(&self) -> usize;

    /// Replaces values by their sums over all ranks. The order of additions depends on how many ranks and values there are alone.
    ///
    /// # Errors
    /// [`CollectiveError`], naming the rank that is missing.
    fn all_reduce(&self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Returns the values of each rank, which may be more of one than of another.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError>;

    /// Returns what rank 0 gave, whatever the others give.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn broadcast(&self, values: &[f32]) -> Result<Vec<f32>, CollectiveError>;

    /// Waits until all ranks are here.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn barrier(&self) -> Result<(), CollectiveError> {
        self.all_gather(&[]).map(drop)
    }

    /// Says that this rank is through: nothing is exchanged any more. One that leaves without has failed.
    fn finish(&self) {}

    /// Whether this rank writes checkpoints, logs and the model.
    fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there is nobody else.
    fn is_alone(&self) -> bool {
        self.world_size() == 1
    }

    /// The share of this rank in `n` things that stand in a row.
    fn share(&self, n: usize) -> Range<usize> {
        let start = |rank: usize| (rank * n).div_ceil(self.world_size());
        start(self.rank())..start(self.rank() + 1)
    }
}

/// One process alone: nothing is exchanged, and nothing costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        Ok(vec![values.to_vec()])
    }

    fn broadcast(&self, values: &[f32]) -> Result<Vec<f32>, CollectiveError> {
        Ok(values.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(usize, usize);

    impl Collective for Place {
        fn rank(&self) -> usize {
            self.0
        }

        fn world_size(&self) -> usize {
            self.1
        }

        fn all_reduce(&self, _: &mut [f32]) -> Result<(), CollectiveError> {
            unreachable!("shares need nobody")
        }

        fn all_gather(&self, _: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
            unreachable!("shares need nobody")
        }

        fn broadcast(&self, _: &[f32]) -> Result<Vec<f32>, CollectiveError> {
            unreachable!("shares need nobody")
        }
    }

    #[test]
    fn shares_are_even_and_cover_everything() {
        for (n, world_size) in [(32, 2), (32, 3), (1, 2), (2, 5), (0, 3), (7, 7)] {
            let shares: Vec<_> = (0..world_size)
                .map(|rank| Place(rank, world_size).share(n))
                .collect();
            let all: Vec<usize> = shares.iter().cloned().flatten().collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>(), "{n} of {world_size}");
            let even = n / world_size..=n.div_ceil(world_size);
            assert!(shares.iter().all(|share| even.contains(&share.len())));
            assert!(n == 0 || !shares[0].is_empty(), "rank 0 reports");
        }
    }
}
