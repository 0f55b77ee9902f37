use std::sync::{Mutex, MutexGuard, PoisonError};

use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::{CommunicatorCollectives, Root};
use mpi::{Count, Threading};

use super::{Collective, CollectiveError, Difference, gather_numbers};

/// All processes of an MPI job.
///
/// MPI decides how values travel and in which order they are added. A rank that is missing ends the job: calls do not
/// return then, so that nothing here names it. Nobody notices one that hangs.
pub struct Mpi {
    rank: usize,
    world_size: usize,
    /// One call at a time; none after the end.
    universe: Mutex<Option<Universe>>,
}

impl Mpi {
    /// Joins the job that this process was started in; `fingerprint` is what all ranks have to agree on.
    ///
    /// # Errors
    /// [`CollectiveError::Different`]; [`CollectiveError::NoMpi`] where MPI was started before, or cannot be called by one
    /// thread of several.
    pub fn join(fingerprint: [u8; 16]) -> Result<Self, CollectiveError> {
        let (universe, threading) =
            mpi::initialize_with_threading(Threading::Serialized).ok_or(CollectiveError::NoMpi)?;
        let world = universe.world();
        let ranks = Self {
            rank: world.rank() as usize,
            world_size: world.size() as usize,
            universe: Mutex::new(Some(universe)),
        };
        if threading < Threading::Serialized {
            return Err(CollectiveError::NoMpi);
        }
        let (halves, _) = fingerprint.as_chunks::<8>();
        let halves: Vec<u64> = halves
            .iter()
            .map(|&half| u64::from_le_bytes(half))
            .collect();
        let all = gather_numbers(&halves, &ranks)?;
        let what = Difference::Fingerprint;
        match all.iter().position(|one| *one != all[0]) {
            Some(rank) => Err(CollectiveError::Different { rank, what }),
            None => Ok(ranks),
        }
    }

    fn with_world<R>(&self, work: impl FnOnce(&SimpleCommunicator) -> R) -> R {
        let universe = self.universe();
        work(
            &universe
                .as_ref()
                .expect("nothing is exchanged after the end")
                .world(),
        )
    }

    fn universe(&self) -> MutexGuard<'_, Option<Universe>> {
        self.universe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(n_values: usize) -> Result<Count, CollectiveError> {
    Count::try_from(n_values).map_err(|_| CollectiveError::TooLong {
        n_values,
        max: Count::MAX as usize,
    })
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), CollectiveError> {
        count(values.len())?;
        let own = values.to_vec();
        self.with_world(|world| world.all_reduce_into(&own[..], values, SystemOperation::sum()));
        Ok(())
    }

    fn all_gather(&self, values: &[f32]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        let own = count(values.len())?;
        let mut counts: Vec<Count> = vec![0; self.world_size];
        self.with_world(|world| world.all_gather_into(&own, &mut counts[..]));
        let n: usize = counts.iter().map(|&count| count as usize).sum();
        count(n)?;
        let starts = counts.iter().scan(0, |next, &count| {
            *next += count;
            Some(*next - count)
        });
        let starts: Vec<Count> = starts.collect();
        let mut all = vec![0.0; n];
        let mut parts = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
        self.with_world(|world| world.all_gather_varcount_into(values, &mut parts));
        let parts = starts.iter().zip(&counts);
        Ok(parts
            .map(|(&start, &count)| all[start as usize..][..count as usize].to_vec())
            .collect())
    }

    fn broadcast(&self, values: &[f32]) -> Result<Vec<f32>, CollectiveError> {
        let mut n = count(values.len())?;
        self.with_world(|world| world.process_at_rank(0).broadcast_into(&mut n));
        let mut all = values.to_vec();
        all.resize(n as usize, 0.0);
        self.with_world(|world| world.process_at_rank(0).broadcast_into(&mut all[..]));
        Ok(all)
    }

    fn finish(&self) {
        drop(self.universe().take());
    }
}

impl Drop for Mpi {
    /// Does not leave the job unless it is through: leaving waits for the other ranks, and these may wait for this one.
    fn drop(&mut self) {
        std::mem::forget(self.universe().take());
    }
}
