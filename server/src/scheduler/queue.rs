//! What waits for a model, and in which order it is taken. Knows no threads and no clock: the time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use encoder::{Output, Tokens};
use retriever::{Deadline, ModelError};
use tokio::sync::oneshot;

use super::{Answer, Class};
use crate::QueueConfig;

/// The rows of one request, and what they are to become.
pub(crate) struct Work {
    pub(crate) rows: Vec<Tokens>,
    pub(crate) output: Output,
}

impl From<Vec<Tokens>> for Work {
    fn from(rows: Vec<Tokens>) -> Self {
        let output = Output::default();
        Self { rows, output }
    }
}

/// The rows of one request, those that are still to be computed, and the way back.
pub(super) struct Job {
    /// In order; taken from the front.
    rows: VecDeque<Tokens>,
    output: Output,
    deadline: Deadline,
    submitted: Instant,
    reply: oneshot::Sender<Result<Answer, ModelError>>,
    answer: Answer,
    /// Rows handed out and not yet given back.
    n_computing: usize,
    /// Tells jobs apart; ascending in order of arrival.
    number: u64,
}

/// Rows of one job that are computed together with those of others.
pub(super) struct Part {
    pub(super) number: u64,
    pub(super) n_rows: usize,
}

/// What the model reads at once.
pub(super) struct Batch {
    /// The rows of all parts, one part after the other.
    pub(super) rows: Vec<Tokens>,
    pub(super) parts: Vec<Part>,
    pub(super) n_tokens: usize,
    /// The same for all rows.
    pub(super) output: Output,
}

/// Why rows were not admitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    TooLarge { given: usize, limit: usize },
    Full { held: usize, limit: usize },
}

/// How many requests ended without being computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) expired: u64,
    pub(super) cancelled: u64,
    pub(super) late: u64,
}

/// Two queues, interactive before bulk, bounded by the tokens in both.
///
/// While both classes wait, each batch adds `(1 − interactive_share) · max_batch_tokens` to the credit of bulk, and bulk may
/// fill as much of a batch as it has credit. The head of the bulk queue is thus taken after finitely many batches whatever
/// the interactive load, and interactive requests lose no more than their share allows.
pub(super) struct Queue {
    config: QueueConfig,
    interactive: VecDeque<Job>,
    bulk: VecDeque<Job>,
    /// Taken as a whole, still computing.
    computing: Vec<Job>,
    held_tokens: usize,
    /// Negative after bulk was given a row larger than its credit.
    bulk_credit: i64,
    next_number: u64,
    dropped: Dropped,
}

impl Queue {
    pub(super) fn new(config: QueueConfig) -> Self {
        Self {
            config,
            interactive: VecDeque::new(),
            bulk: VecDeque::new(),
            computing: Vec::new(),
            held_tokens: 0,
            bulk_credit: 0,
            next_number: 0,
            dropped: Dropped::default(),
        }
    }

    /// Tokens waiting.
    pub(super) fn held_tokens(&self) -> usize {
        self.held_tokens
    }

    /// Takes the counts of what was dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// Admits all rows of a request, or none.
    pub(super) fn push(
        &mut self,
        work: impl Into<Work>,
        class: Class,
        deadline: Deadline,
        now: Instant,
    ) -> Result<oneshot::Receiver<Result<Answer, ModelError>>, Refusal> {
        let Work { rows, output } = work.into();
        let n_tokens: usize = rows.iter().map(Tokens::len).sum();
        let limit = self.config.max_tokens;
        if n_tokens > limit {
            return Err(Refusal::TooLarge {
                given: n_tokens,
                limit,
            });
        }
        let longest = rows.iter().map(Tokens::len).max().unwrap_or(0);
        if longest > self.config.max_batch_tokens {
            let limit = self.config.max_batch_tokens;
            return Err(Refusal::TooLarge {
                given: longest,
                limit,
            });
        }
        if self.held_tokens + n_tokens > limit {
            self.drop_dead(Class::Interactive, now);
            self.drop_dead(Class::Bulk, now);
        }
        if self.held_tokens + n_tokens > limit {
            return Err(Refusal::Full {
                held: self.held_tokens,
                limit,
            });
        }
        let (reply, answered) = oneshot::channel();
        self.held_tokens += n_tokens;
        let job = Job {
            rows: rows.into(),
            output,
            deadline,
            submitted: now,
            reply,
            answer: Answer::default(),
            n_computing: 0,
            number: self.next_number,
        };
        self.next_number += 1;
        match class {
            Class::Interactive => self.interactive.push_back(job),
            Class::Bulk => self.bulk.push_back(job),
        }
        Ok(answered)
    }

    /// Takes the rows to compute next: at most `max_batch_tokens`, and none of a request that is expired or given up.
    pub(super) fn take_batch(&mut self, now: Instant) -> Option<Batch> {
        // Behind one that has begun, others may have waited too long.
        self.drop_dead(Class::Interactive, now);
        self.drop_dead_head(Class::Bulk, now);
        let budget = self.config.max_batch_tokens;
        let reserved = if self.interactive.is_empty() || self.bulk.is_empty() {
            self.bulk_credit = 0;
            0
        } else {
            let share = (1.0 - self.config.interactive_share) * budget as f64;
            self.bulk_credit = (self.bulk_credit + share.ceil() as i64).min(budget as i64);
            self.bulk_credit.max(0) as usize
        };
        let mut batch = Batch {
            rows: Vec::new(),
            parts: Vec::new(),
            n_tokens: 0,
            output: Output::default(),
        };
        self.fill(&mut batch, Class::Interactive, budget - reserved, now);
        let before_bulk = batch.n_tokens;
        self.fill(&mut batch, Class::Bulk, budget, now);
        let n_bulk = (batch.n_tokens - before_bulk) as i64;
        self.fill(&mut batch, Class::Interactive, budget, now);
        self.bulk_credit = match self.interactive.is_empty() {
            false => self.bulk_credit - n_bulk,
            // What nobody else wanted costs no credit: quiet times would be paid for with a standstill in the next flood.
            true if n_bulk > 0 => 0,
            true => self.bulk_credit,
        };
        (!batch.rows.is_empty()).then_some(batch)
    }

    /// Adds the values of a part to its request's answer, and answers it when they are complete.
    pub(super) fn complete(&mut self, part: &Part, values: &[f32], compute: Duration) {
        let Some((mut job, waiting)) = self.find(part.number) else {
            return;
        };
        job.answer.values.extend_from_slice(values);
        job.answer.compute += compute;
        job.n_computing -= part.n_rows;
        if job.rows.is_empty() && job.n_computing == 0 {
            // A request that has gone away meanwhile needs no answer.
            let _ = job.reply.send(Ok(job.answer));
        } else {
            self.put_back(job, waiting);
        }
    }

    /// Ends the request of a part with an error; its rows that still wait are dropped.
    pub(super) fn fail(&mut self, part: &Part, error: ModelError) {
        if let Some((job, _)) = self.find(part.number) {
            self.release(&job);
            let _ = job.reply.send(Err(error));
        }
    }

    /// Ends every request that waits.
    pub(super) fn close(&mut self) {
        for job in self.interactive.drain(..).chain(self.bulk.drain(..)) {
            let _ = job.reply.send(Err(ModelError::ShuttingDown));
        }
        self.held_tokens = 0;
    }

    fn fill(&mut self, batch: &mut Batch, class: Class, budget: usize, now: Instant) {
        loop {
            self.drop_dead_head(class, now);
            let Some(job) = self.waiting(class).front_mut() else {
                return;
            };
            if batch.rows.is_empty() {
                batch.output = job.output;
            } else if batch.output != job.output {
                return; // It begins a batch of its own; where this one is bulk, its credit grows until it does.
            }
            let rows_before = batch.rows.len();
            let tokens_before = batch.n_tokens;
            while let Some(row) = job.rows.front()
                && batch.n_tokens + row.len() <= budget
            {
                batch.n_tokens += row.len();
                batch.rows.extend(job.rows.pop_front());
            }
            let n_rows = batch.rows.len() - rows_before;
            if n_rows > 0 {
                if job.n_computing == 0 && job.answer.values.is_empty() {
                    job.answer.queue = now.saturating_duration_since(job.submitted);
                }
                job.n_computing += n_rows;
                let number = job.number;
                match batch.parts.last_mut() {
                    Some(last) if last.number == number => last.n_rows += n_rows,
                    _ => batch.parts.push(Part { number, n_rows }),
                }
            }
            let taken_whole = job.rows.is_empty();
            self.held_tokens -= batch.n_tokens - tokens_before;
            if !taken_whole {
                return;
            }
            let job = self
                .waiting(class)
                .pop_front()
                .expect("the head was just looked at");
            self.computing.push(job);
        }
    }

    fn waiting(&mut self, class: Class) -> &mut VecDeque<Job> {
        match class {
            Class::Interactive => &mut self.interactive,
            Class::Bulk => &mut self.bulk,
        }
    }

    /// Takes out the job with a number; says whether, and in which class, it still has rows waiting. A job of which a part
    /// was taken is the head of its class or taken as a whole.
    fn find(&mut self, number: u64) -> Option<(Job, Option<Class>)> {
        if let Some(position) = self.computing.iter().position(|job| job.number == number) {
            return Some((self.computing.swap_remove(position), None));
        }
        for class in [Class::Interactive, Class::Bulk] {
            if self
                .waiting(class)
                .front()
                .is_some_and(|job| job.number == number)
            {
                return self
                    .waiting(class)
                    .pop_front()
                    .map(|job| (job, Some(class)));
            }
        }
        None
    }

    fn put_back(&mut self, job: Job, waiting: Option<Class>) {
        match waiting {
            Some(class) => self.waiting(class).push_front(job),
            None => self.computing.push(job),
        }
    }

    fn drop_dead_head(&mut self, class: Class, now: Instant) {
        let max_wait = self.max_wait(class);
        while self
            .waiting(class)
            .front()
            .is_some_and(|job| job.is_dead(now, max_wait))
        {
            let job = self
                .waiting(class)
                .pop_front()
                .expect("the head was just looked at");
            self.bury(job, now);
        }
    }

    fn drop_dead(&mut self, class: Class, now: Instant) {
        let max_wait = self.max_wait(class);
        let (dead, alive): (VecDeque<Job>, VecDeque<Job>) = self
            .waiting(class)
            .drain(..)
            .partition(|job| job.is_dead(now, max_wait));
        *self.waiting(class) = alive;
        for job in dead {
            self.bury(job, now);
        }
    }

    fn max_wait(&self, class: Class) -> Duration {
        match class {
            Class::Interactive => self.config.max_wait,
            Class::Bulk => Duration::MAX,
        }
    }

    fn bury(&mut self, job: Job, now: Instant) {
        self.release(&job);
        if job.is_expired(now) {
            self.dropped.expired += 1;
            let _ = job.reply.send(Err(ModelError::DeadlineExceeded));
        } else if job.reply.is_closed() {
            self.dropped.cancelled += 1;
        } else {
            self.dropped.late += 1;
            let waited = now.saturating_duration_since(job.submitted);
            let limit = self.config.max_wait;
            let _ = job
                .reply
                .send(Err(ModelError::WaitedTooLong { waited, limit }));
        }
    }

    fn release(&mut self, job: &Job) {
        self.held_tokens -= job.rows.iter().map(Tokens::len).sum::<usize>();
    }
}

impl Job {
    fn is_expired(&self, now: Instant) -> bool {
        self.deadline.moment().is_some_and(|moment| moment <= now)
    }

    /// Whether the model did not begin with it in time.
    fn is_late(&self, now: Instant, max_wait: Duration) -> bool {
        let has_begun = self.n_computing > 0 || !self.answer.values.is_empty();
        let waited = now.saturating_duration_since(self.submitted);
        !has_begun && waited > max_wait
    }

    fn is_dead(&self, now: Instant, max_wait: Duration) -> bool {
        self.reply.is_closed() || self.is_expired(now) || self.is_late(now, max_wait)
    }
}
