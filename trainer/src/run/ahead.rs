//! The batches of a run, made while others are trained on.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use encoder::training::TrainingError;

use super::error::TrainError;
use crate::batches::{Batches, Counts};
use crate::objective::Preparation;

/// Epochs in a row without a batch after which there will be none.
const MOST_EMPTY_EPOCHS: u64 = 100;

/// Yields the batches of a run in order; a thread of its own reads and prepares up to two ahead.
pub(super) struct Ahead<B, I> {
    ready: Receiver<Result<Ready<B, I>, TrainError>>,
}

/// A batch to train on.
#[derive(Debug)]
pub(super) struct Ready<B, I> {
    pub(super) epoch: u64,
    /// Batches of the epoch from this one on.
    pub(super) n_left: usize,
    pub(super) batch: B,
    /// What the batch holds.
    pub(super) counts: Counts,
    /// What the objective's preparation made of it.
    pub(super) input: Result<I, TrainingError>,
}

impl<B: Send, I: Send> Ahead<B, I> {
    /// Begins with batch `index` of an epoch. The thread ends with the value that this returns, or after an error.
    pub(super) fn start<'scope, S>(
        scope: &'scope Scope<'scope, '_>,
        batches: &'scope S,
        prepare: Preparation<B, I>,
        (mut epoch, mut index): (u64, usize),
    ) -> Self
    where
        S: Batches<Batch = B>,
        B: 'scope,
        I: 'scope,
    {
        let (sender, receiver) = sync_channel(1);
        scope.spawn(move || {
            let mut n_empty = 0;
            loop {
                let n_left = batches.len(epoch).saturating_sub(index);
                let ready = if n_left > 0 {
                    n_empty = 0;
                    make(batches, &prepare, (epoch, index), n_left)
                } else if n_empty < MOST_EMPTY_EPOCHS {
                    n_empty += 1;
                    (epoch, index) = (epoch + 1, 0);
                    continue;
                } else {
                    let hint = ": no epoch has a batch";
                    Err(TrainError::Nothing { hint })
                };
                index += 1;
                let is_last = ready.is_err();
                if sender.send(ready).is_err() || is_last {
                    return;
                }
            }
        });
        Self { ready: receiver }
    }

    /// Returns the next batch.
    ///
    /// # Errors
    /// What reading it failed with; there is none after that.
    pub(super) fn next(&self) -> Result<Ready<B, I>, TrainError> {
        let ready = self.ready.recv();
        ready.expect("the thread goes on until it has sent an error")
    }
}

fn make<S: Batches, I>(
    batches: &S,
    prepare: &Preparation<S::Batch, I>,
    (epoch, index): (u64, usize),
    n_left: usize,
) -> Result<Ready<S::Batch, I>, TrainError> {
    let failed = |source| TrainError::Data {
        epoch,
        index,
        source,
    };
    let batch = batches.batch(epoch, index).map_err(failed)?;
    Ok(Ready {
        epoch,
        n_left,
        input: prepare(&batch),
        counts: batches.counts(epoch, index).map_err(failed)?,
        batch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataError;

    /// Batches that are their places: two an epoch, none in epoch 1 nor after epoch 3, and one that cannot be read.
    struct Places {
        bad: (u64, usize),
    }

    impl Batches for Places {
        type Batch = (u64, usize);

        fn len(&self, epoch: u64) -> usize {
            if epoch == 1 || epoch > 3 { 0 } else { 2 }
        }

        fn batch(&self, epoch: u64, index: usize) -> Result<(u64, usize), DataError> {
            match (epoch, index) {
                place if place == self.bad => Err(DataError::TooManyPassages),
                place => Ok(place),
            }
        }

        fn digest(&self) -> u64 {
            0
        }
    }

    /// Reads from a place to the end, and checks batches and how many are left of their epochs.
    fn check(
        bad: (u64, usize),
        start: (u64, usize),
        expected: &[((u64, usize), usize)],
    ) -> TrainError {
        let batches = Places { bad };
        std::thread::scope(|scope| {
            let prepare: Preparation<_, usize> = Box::new(|place: &(u64, usize)| Ok(place.1 + 7));
            let ahead = Ahead::start(scope, &batches, prepare, start);
            for &(place, n_left) in expected {
                let ready = ahead.next().expect("a batch");
                assert_eq!((ready.batch, ready.n_left), (place, n_left));
                assert_eq!(ready.epoch, place.0);
                assert_eq!(ready.input.expect("an input"), place.1 + 7);
            }
            ahead.next().expect_err("the end")
        })
    }

    #[test]
    fn batches_come_in_order_and_an_error_where_it_belongs() {
        let all = [((0, 0), 2), ((0, 1), 1), ((2, 0), 2), ((2, 1), 1)];
        let error = check((2, 1), (0, 0), &all[..3]);
        assert!(
            matches!(
                error,
                TrainError::Data {
                    epoch: 2,
                    index: 1,
                    ..
                }
            ),
            "{error}"
        );
        check((3, 0), (0, 1), &all[1..]); // a resumed run does not read what it has seen
    }

    #[test]
    fn a_run_without_further_batches_ends() {
        let error = check((9, 9), (3, 1), &[((3, 1), 1)]);
        assert!(matches!(error, TrainError::Nothing { .. }), "{error}");
    }

    #[test]
    fn a_run_that_ends_early_leaves_no_thread() {
        check((2, 1), (2, 0), &[((2, 0), 2)]);
        std::thread::scope(|scope| {
            let batches = Places { bad: (9, 9) };
            let batches: &'static Places = Box::leak(Box::new(batches));
            let prepare: Preparation<_, ()> = Box::new(|_: &(u64, usize)| Ok(()));
            drop(Ahead::start(scope, batches, prepare, (0, 0)));
        }); // returns once the thread has ended
    }
}
