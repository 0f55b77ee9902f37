use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::Batches;
use crate::data::DataError;

/// Prepares the next batch of the epoch on another thread while one is trained on; at most one is ahead.
pub struct Prefetch<B: Batches> {
    batches: Arc<B>,
    ahead: Mutex<Option<Ahead<B::Batch>>>,
}

/// The batch that is being prepared.
struct Ahead<T> {
    place: (u64, usize),
    thread: JoinHandle<Result<T, DataError>>,
}

impl<B> Prefetch<B>
where
    B: Batches + 'static,
    B::Batch: 'static,
{
    /// Reads ahead in `batches`.
    pub fn new(batches: Arc<B>) -> Self {
        Self {
            batches,
            ahead: Mutex::new(None),
        }
    }

    fn take_ahead(&self) -> Option<Ahead<B::Batch>> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.take()
    }
}

impl<B> Batches for Prefetch<B>
where
    B: Batches + 'static,
    B::Batch: 'static,
{
    type Batch = B::Batch;

    fn len(&self, epoch: u64) -> usize {
        self.batches.len(epoch)
    }

    fn batch(&self, epoch: u64, index: usize) -> Result<B::Batch, DataError> {
        let batch = match self.take_ahead() {
            Some(ahead) if ahead.place == (epoch, index) => ahead
                .thread
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))?,
            // A batch that nobody asked for is dropped when it is done.
            _ => self.batches.batch(epoch, index)?,
        };
        if index + 1 < self.batches.len(epoch) {
            let batches = Arc::clone(&self.batches);
            let ahead = Ahead {
                place: (epoch, index + 1),
                thread: thread::spawn(move || batches.batch(epoch, index + 1)),
            };
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(ahead);
        }
        Ok(batch)
    }
}
