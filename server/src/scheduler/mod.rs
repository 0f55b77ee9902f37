//! Many requests, one model: rows of tokens are gathered into batches of a bounded size and computed by one thread.

mod queue;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use encoder::{BiEncoder, CrossEncoder, EncodeError, Output, Tokens};
use retriever::{Deadline, ModelError};
use tokio::time::timeout_at;

use crate::QueueConfig;
use crate::metrics::Metrics;
pub(crate) use queue::Work;

use queue::{Batch, Part, Queue, Refusal};

/// How long the thread of a model looks for more work before it sleeps: a core that sleeps takes tens of microseconds to wake, a
/// tenth of what a query takes.
const AWAKE: Duration = Duration::from_micros(500);

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A person; goes first.
    Interactive,
    /// A program that works through a pile; always gets its share.
    Bulk,
}

/// What the model made of a request's rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Answer {
    /// Those of each row, one row after the other, in the order submitted.
    pub(crate) values: Vec<f32>,
    /// From submission until the first row was taken.
    pub(crate) queue: Duration,
    /// Time of all batches that held one of the rows.
    pub(crate) compute: Duration,
}

/// The model call behind a scheduler.
pub(crate) trait Engine: Send + 'static {
    /// Values that a row becomes.
    fn n_values(&self, row: &Tokens, output: Output) -> usize;

    /// Computes the values of all rows, in order.
    fn compute(&self, rows: &[Tokens], output: Output) -> Result<Vec<f32>, EncodeError>;
}

impl Engine for Arc<BiEncoder> {
    fn n_values(&self, row: &Tokens, output: Output) -> usize {
        BiEncoder::n_values(self, row, output)
    }

    fn compute(&self, rows: &[Tokens], output: Output) -> Result<Vec<f32>, EncodeError> {
        self.encode_as(rows, output)
    }
}

/// The scores of a pair, one a label, and then its logits.
impl Engine for Arc<CrossEncoder> {
    fn n_values(&self, _row: &Tokens, _output: Output) -> usize {
        2 * self.n_labels()
    }

    fn compute(&self, rows: &[Tokens], _output: Output) -> Result<Vec<f32>, EncodeError> {
        let scores = self.score(rows)?;
        let (values, logits) = (
            scores.values.chunks_exact(scores.n_labels),
            scores.logits.chunks_exact(scores.n_labels),
        );
        let pairs = values.zip(logits);
        Ok(pairs
            .flat_map(|(values, logits)| [values, logits].concat())
            .collect())
    }
}

/// A queue in front of one model and the thread that owns the model.
///
/// A request is admitted or refused as a whole, but its rows may be computed in several batches. What is expired, or
/// whose caller has gone away, is never computed. Dropping the scheduler ends the thread after its current batch.
pub(crate) struct Scheduler {
    shared: Arc<Shared>,
}

struct Shared {
    /// `encode` or `rerank`.
    stage: &'static str,
    /// Name of the model, as metrics show it.
    model: String,
    state: Mutex<State>,
    work: Condvar,
    /// How often [`Self::work`] was notified.
    n_notified: AtomicUsize,
    metrics: Arc<Metrics>,
}

struct State {
    queue: Queue,
    closed: bool,
    /// Smoothed speed of the model, the base of `Retry-After`; 0 until the first batch.
    tokens_per_second: f64,
}

impl Scheduler {
    /// Starts the thread that owns `engine`.
    pub(crate) fn start(
        stage: &'static str,
        model: &str,
        engine: impl Engine,
        config: QueueConfig,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let state = State {
            queue: Queue::new(config),
            closed: false,
            tokens_per_second: 0.0,
        };
        let shared = Arc::new(Shared {
            stage,
            model: model.to_owned(),
            state: Mutex::new(state),
            work: Condvar::new(),
            n_notified: AtomicUsize::new(0),
            metrics,
        });
        let owner = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(format!("{stage} {model}"))
            .spawn(move || owner.work_until_closed(&engine))?;
        Ok(Self { shared })
    }

    /// Computes the rows of one request. Dropping the future gives the request up.
    ///
    /// # Errors
    /// [`ModelError`] for the request as a whole.
    pub(crate) async fn submit(
        &self,
        work: impl Into<Work>,
        class: Class,
        deadline: Deadline,
    ) -> Result<Answer, ModelError> {
        let work = work.into();
        if work.rows.is_empty() {
            return Ok(Answer::default());
        }
        let answered = self.shared.admit(work, class, deadline)?;
        let outcome = match deadline.moment() {
            Some(moment) => timeout_at(moment.into(), answered).await,
            None => Ok(answered.await),
        };
        match outcome {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ModelError::Stopped),
            Err(_) => Err(ModelError::DeadlineExceeded),
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.notify(state);
    }
}

type Answered = tokio::sync::oneshot::Receiver<Result<Answer, ModelError>>;

impl Shared {
    fn admit(&self, work: Work, class: Class, deadline: Deadline) -> Result<Answered, ModelError> {
        let mut state = self.lock();
        let outcome = state.queue.push(work, class, deadline, Instant::now());
        let refused = match outcome {
            Ok(answered) => {
                self.metrics
                    .queue_tokens(&self.model, state.queue.held_tokens());
                self.notify(state);
                return Ok(answered);
            }
            Err(refusal) => refusal,
        };
        Err(match refused {
            Refusal::TooLarge { given, limit } => ModelError::TooLarge { given, limit },
            Refusal::Full { held, limit } => {
                self.metrics.dropped(&self.model, "overloaded", 1);
                let retry_after = retry_after(held, state.tokens_per_second);
                ModelError::Overloaded {
                    queue: self.stage,
                    held,
                    limit,
                    retry_after,
                }
            }
        })
    }

    fn work_until_closed(&self, engine: &dyn Engine) {
        while let Some(batch) = self.next_batch() {
            self.compute(engine, batch);
        }
    }

    /// Waits for the next batch; `None` once the scheduler is closed.
    fn next_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            if state.closed {
                state.queue.close();
                return None;
            }
            let batch = state.queue.take_batch(Instant::now());
            let dropped = state.queue.take_dropped();
            self.metrics
                .dropped(&self.model, "expired", dropped.expired);
            self.metrics
                .dropped(&self.model, "cancelled", dropped.cancelled);
            self.metrics.dropped(&self.model, "late", dropped.late);
            self.metrics
                .queue_tokens(&self.model, state.queue.held_tokens());
            if batch.is_some() {
                return batch;
            }
            state = self.wait(state);
        }
    }

    /// Waits until there may be more to do; other threads go first meanwhile.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let n_notified = self.n_notified.load(Ordering::Acquire);
        drop(state);
        let start = Instant::now();
        while start.elapsed() < AWAKE {
            if self.n_notified.load(Ordering::Acquire) != n_notified {
                return self.lock();
            }
            std::thread::yield_now();
        }
        let state = self.lock();
        let is_idle = |_: &mut State| self.n_notified.load(Ordering::Acquire) == n_notified;
        self.work
            .wait_while(state, is_idle)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that there is more to do. Counted before others see the state: else the thread could find it before the count, and
    /// sleep.
    fn notify(&self, state: MutexGuard<'_, State>) {
        self.n_notified.fetch_add(1, Ordering::Release);
        drop(state);
        self.work.notify_one();
    }

    fn compute(&self, engine: &dyn Engine, batch: Batch) {
        let start = Instant::now();
        let outcome = call(engine, &batch);
        let elapsed = start.elapsed();
        self.metrics
            .batch(&self.model, batch.rows.len(), batch.n_tokens, elapsed);
        match outcome {
            Ok(values) => {
                let mut state = self.lock();
                let speed = batch.n_tokens as f64 / elapsed.as_secs_f64().max(1e-6);
                state.tokens_per_second = match state.tokens_per_second {
                    0.0 => speed,
                    before => 0.8 * before + 0.2 * speed,
                };
                let (mut rows, mut rest) = (batch.rows.iter(), values.as_slice());
                for part in &batch.parts {
                    let rows = rows.by_ref().take(part.n_rows);
                    let n_values = rows.map(|row| engine.n_values(row, batch.output)).sum();
                    let (values, after) = rest.split_at(n_values);
                    state.queue.complete(part, values, elapsed);
                    rest = after;
                }
            }
            Err(error) if batch.parts.len() == 1 => self.fail(&batch.parts[0], error),
            // One request of the batch is at fault: computed one by one, only that one fails.
            Err(_) => {
                let mut rows = batch.rows.into_iter();
                for part in batch.parts {
                    let rows: Vec<Tokens> = rows.by_ref().take(part.n_rows).collect();
                    let n_tokens = rows.iter().map(Tokens::len).sum();
                    self.compute(
                        engine,
                        Batch {
                            rows,
                            parts: vec![part],
                            n_tokens,
                            output: batch.output,
                        },
                    );
                }
            }
        }
    }

    fn fail(&self, part: &Part, error: ModelError) {
        self.lock().queue.fail(part, error);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls the model; a panic inside it costs this batch, not the thread.
fn call(engine: &dyn Engine, batch: &Batch) -> Result<Vec<f32>, ModelError> {
    let Batch { rows, output, .. } = batch;
    let n_values = || -> usize { rows.iter().map(|row| engine.n_values(row, *output)).sum() };
    match catch_unwind(AssertUnwindSafe(|| engine.compute(rows, *output))) {
        Ok(Ok(values)) if values.len() == n_values() => Ok(values),
        Ok(Err(error)) => Err(ModelError::Failed(error)),
        Ok(Ok(_)) | Err(_) => Err(ModelError::Stopped),
    }
}

/// The time in which a queue of `held` tokens is worked off.
fn retry_after(held: usize, tokens_per_second: f64) -> Duration {
    let seconds = if tokens_per_second > 0.0 {
        held as f64 / tokens_per_second
    } else {
        1.0
    };
    Duration::from_secs_f64(seconds.clamp(0.1, 60.0))
}
