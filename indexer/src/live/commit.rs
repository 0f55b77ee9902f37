//! The one thread that writes the log of a collection.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use collection::{CollectionError, LogWriter, NewRecord, Writer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::ANSWER;
use super::{DocumentChange, LiveError};

/// Batches that may wait for the thread.
const MAX_WAITING: usize = 1024;
/// Bytes of records that are written together, unless one batch has more.
const GROUP_BYTES: usize = 8 << 20;
/// Answers that are remembered.
const MAX_ANSWERS: usize = 10_000;

/// Changes that are written together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order in which they are applied.
    pub changes: Vec<DocumentChange>,
    /// What the caller is to be told when it asks the same again.
    pub answer: Option<Remembered>,
}

/// What was answered to a request that has a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// Digest of the key, and of who used it on what.
    pub key: String,
    /// Digest of what was asked.
    pub request: String,
    /// What was answered, but for the position.
    pub answer: Value,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    /// It is in the log up to this position, and every search that begins now sees it.
    Written {
        /// Position of its last record, or of the one before it where it has none.
        position: u64,
        /// Changes that it has.
        n_changes: usize,
    },
    /// A batch with its key was written before.
    Before {
        /// Position of the record that remembers it.
        position: u64,
        /// What was asked and answered then.
        remembered: Remembered,
    },
}

/// An error is that of the whole group.
type Reply = Box<dyn FnOnce(Result<Committed, Arc<LiveError>>) + Send>;
/// Makes a batch of what there is.
type Find = Box<dyn FnOnce() -> Result<Batch, LiveError> + Send>;
type Truncated = Box<dyn FnOnce(Result<u64, CollectionError>) + Send>;

enum Job {
    Write(Batch, Reply),
    Find(Find, Reply),
    Truncate(Writer, Truncated),
}

/// Writes batches to the log, as many at once as wait: one write and one fsync for all of them. Then it shows them to whoever
/// answers searches, and only then acknowledges them.
#[derive(Debug)]
pub struct Committer {
    sender: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    answers: Arc<Mutex<Answers>>,
    broken: Arc<AtomicBool>,
}

impl Committer {
    /// Starts the thread. `show` gets the changes of every group and the position of its last record, in the order of the log;
    /// after a call that failed, the next one shows what that did not, too.
    ///
    /// # Errors
    /// When the log cannot be read, or no thread be started.
    pub fn start(
        log: LogWriter,
        show: impl FnMut(Vec<DocumentChange>, u64) -> Result<(), LiveError> + Send + 'static,
    ) -> Result<Self, LiveError> {
        let mut answers = Answers::default();
        let mut failed = Ok(());
        let first = log.collection().log_positions()?.start;
        log.collection().read_log(first - 1, &mut |record| {
            if record.kind == ANSWER && failed.is_ok() {
                let read = serde_json::from_slice(record.payload);
                failed = read
                    .map(|answer| answers.add(record.position, answer))
                    .map_err(|error| LiveError::Record {
                        position: record.position,
                        reason: error.to_string(),
                    });
            }
        })?;
        failed?;
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let thread = thread::Builder::new().name("write log".to_owned());
        let answers = Arc::new(Mutex::new(answers));
        let broken = Arc::new(AtomicBool::new(false));
        let writing = Writing {
            log,
            broken: Arc::clone(&broken),
            answers: Arc::clone(&answers),
            unshown: Vec::new(),
            show,
        };
        let run = move || writing.run(&receiver);
        let thread = thread.spawn(run).map_err(|source| CollectionError::Io {
            path: "write log".into(),
            source,
        })?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            answers,
            broken,
        })
    }

    /// Whether the log is [broken](LogWriter::is_broken) after the last write that was answered.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// What was answered to a request with this key: [`Committed::Before`], if it was.
    #[must_use]
    pub fn answered(&self, key: &str) -> Option<Committed> {
        lock(&self.answers).before(key)
    }

    /// Hands over a batch; `reply` is called, on another thread, when it is written and shown. Waits while 1,024 batches wait.
    pub fn commit(
        &self,
        batch: Batch,
        reply: impl FnOnce(Result<Committed, Arc<LiveError>>) + Send + 'static,
    ) {
        self.send(Job::Write(batch, Box::new(reply)));
    }

    /// As [`Self::commit`], of a batch that `find` makes when everything before it is written and shown, and nothing comes between.
    pub fn commit_found(
        &self,
        find: impl FnOnce() -> Result<Batch, LiveError> + Send + 'static,
        reply: impl FnOnce(Result<Committed, Arc<LiveError>>) + Send + 'static,
    ) {
        self.send(Job::Find(Box::new(find), Box::new(reply)));
    }

    /// Removes what every generation contains; `reply` gets the number of bytes.
    pub fn truncate(
        &self,
        writer: Writer,
        reply: impl FnOnce(Result<u64, CollectionError>) + Send + 'static,
    ) {
        self.send(Job::Truncate(writer, Box::new(reply)));
    }

    fn send(&self, job: Job) {
        let sender = self.sender.as_ref().expect("there is one until the end");
        if let Err(error) = sender.send(job)
            && let Job::Write(_, reply) | Job::Find(_, reply) = error.0
        {
            reply(Err(Arc::new(LiveError::Closed)));
        }
    }
}

impl Drop for Committer {
    /// Writes what waits, and gives the log free.
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // A panic of the thread has been told to those who waited for it.
        }
    }
}

struct Writing<F> {
    log: LogWriter,
    /// What others know of it.
    broken: Arc<AtomicBool>,
    answers: Arc<Mutex<Answers>>,
    /// Answers to what was written, by the position of their record, until it is shown.
    unshown: Vec<(u64, Remembered)>,
    show: F,
}

impl<F: FnMut(Vec<DocumentChange>, u64) -> Result<(), LiveError>> Writing<F> {
    fn run(mut self, receiver: &Receiver<Job>) {
        let mut next = receiver.recv().ok();
        while let Some(job) = next.take() {
            match job {
                Job::Truncate(writer, reply) => {
                    let freed = self.log.truncate(&writer);
                    drop(writer);
                    reply(freed);
                }
                Job::Find(find, reply) => match find() {
                    Ok(batch) => {
                        let mut group = Group::default();
                        self.take(&mut group, batch, reply);
                        self.write(group);
                    }
                    Err(error) => reply(Err(Arc::new(error))),
                },
                Job::Write(batch, reply) => {
                    let mut group = Group::default();
                    self.take(&mut group, batch, reply);
                    while group.n_bytes < GROUP_BYTES {
                        match receiver.try_recv() {
                            Ok(Job::Write(batch, reply)) => self.take(&mut group, batch, reply),
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.write(group);
                }
            }
            next = next.or_else(|| receiver.recv().ok());
        }
    }

    /// Adds a batch to a group, unless one with its key was written before. A group that would become too large is written first,
    /// so that a batch larger than the log takes is refused alone.
    fn take(&mut self, group: &mut Group, batch: Batch, reply: Reply) {
        let key = batch.answer.as_ref().map(|answer| &answer.key);
        if let Some(key) = key {
            let before = lock(&self.answers).before(key);
            if let Some(before) = before {
                return reply(Ok(before));
            }
            let first = self.log.position() + 1;
            let waiting = group.answers.iter();
            let waiting = waiting.map(|(index, answer)| (first + *index as u64, answer));
            let unshown = self.unshown.iter();
            let before = unshown
                .map(|(position, answer)| (*position, answer))
                .chain(waiting)
                .find(|(_, answer)| answer.key == *key)
                .map(|(position, answer)| Committed::Before {
                    position,
                    remembered: answer.clone(),
                });
            if let Some(before) = before {
                group.again.push((before, reply));
                return;
            }
        }
        let n_changes = batch.changes.len();
        let changes = batch.changes.iter();
        let mut records: Vec<NewRecord> = changes.map(DocumentChange::to_record).collect();
        if let Some(answer) = &batch.answer {
            records.push(NewRecord {
                kind: ANSWER,
                payload: serde_json::to_vec(answer).expect("an answer has string keys only"),
            });
        }
        let n_bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        if group.n_bytes > 0 && group.n_bytes + n_bytes > GROUP_BYTES {
            self.write(std::mem::take(group));
        }
        group.n_bytes += n_bytes;
        group.changes.extend(batch.changes);
        group.records.append(&mut records);
        if let Some(answer) = batch.answer {
            group.answers.push((group.records.len() - 1, answer));
        }
        group.replies.push((group.records.len(), n_changes, reply));
    }

    fn write(&mut self, group: Group) {
        let written = self.log.append(&group.records);
        self.broken.store(self.log.is_broken(), Ordering::Release);
        let shown = match written {
            Ok(Range { start, end }) => {
                let answers = group.answers.into_iter();
                let answers = answers.map(|(index, answer)| (start + index as u64, answer));
                self.unshown.extend(answers);
                match (self.show)(group.changes, end - 1) {
                    Ok(()) => Ok(start),
                    Err(error) => Err((error, "changes were written, but cannot be shown")),
                }
            }
            Err(error) => Err((LiveError::Collection(error), "changes could not be written")),
        };
        match shown {
            Ok(start) => {
                for (position, answer) in self.unshown.drain(..) {
                    lock(&self.answers).add(position, answer);
                }
                for (n_records, n_changes, reply) in group.replies {
                    let position = start + n_records as u64 - 1;
                    reply(Ok(Committed::Written {
                        position,
                        n_changes,
                    }));
                }
                for (before, reply) in group.again {
                    reply(Ok(before));
                }
            }
            Err((error, what)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "{what}");
                let error = Arc::new(error);
                let again = group.again.into_iter().map(|(_, reply)| reply);
                for reply in group
                    .replies
                    .into_iter()
                    .map(|(_, _, reply)| reply)
                    .chain(again)
                {
                    reply(Err(Arc::clone(&error)));
                }
            }
        }
    }
}

/// What is written at once.
#[derive(Default)]
struct Group {
    records: Vec<NewRecord>,
    changes: Vec<DocumentChange>,
    n_bytes: usize,
    /// By the index of their record.
    answers: Vec<(usize, Remembered)>,
    /// With the number of records up to the end of their batch, and of its changes.
    replies: Vec<(usize, usize, Reply)>,
    /// Those who asked what another one of the group asks, or what is written and not shown yet; with their answers.
    again: Vec<(Committed, Reply)>,
}

/// The newest answers.
#[derive(Debug, Default)]
struct Answers {
    by_key: HashMap<String, (u64, Remembered)>,
    in_order: std::collections::VecDeque<String>,
}

impl Answers {
    fn before(&self, key: &str) -> Option<Committed> {
        let (position, remembered) = self.by_key.get(key)?;
        Some(Committed::Before {
            position: *position,
            remembered: remembered.clone(),
        })
    }

    fn add(&mut self, position: u64, answer: Remembered) {
        if self.in_order.len() == MAX_ANSWERS
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.by_key.remove(&oldest);
        }
        self.in_order.push_back(answer.key.clone());
        self.by_key.insert(answer.key.clone(), (position, answer));
    }
}

fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}
