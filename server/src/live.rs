//! The write log of a served collection.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use collection::{Collection, CollectionError, LogConfig, Writer};
use indexer::{
    Batch, Committed, Committer, CompactConfig, CompactReport, DocumentChange, LiveError,
    NoProgress, Recipe, apply,
};
use openapi::{EvalReport, Task, TaskProgress, TaskState};
use retriever::Live;

use crate::state::{App, ServedCollection};
use crate::swap::{Slot, Source, switch_to_named};

/// Tasks that are remembered, more only while more go on.
const MAX_TASKS: usize = 100;

type Reply = Box<dyn FnOnce(Result<Committed, Arc<LiveError>>) + Send>;

/// Who writes a collection's log, and what was last seen of it.
#[derive(Default)]
pub(crate) struct Log {
    /// From the first write on.
    committer: tokio::sync::Mutex<Option<Arc<Committer>>>,
    /// Name and length of the last segment when it was last read.
    stamp: Mutex<Option<(PathBuf, u64)>>,
    /// Whether the log has what could not be shown. Changed by who may change what searches see.
    behind: Arc<AtomicBool>,
    compacting: AtomicBool,
}

/// Brings an open generation up to the end of the log.
pub(crate) fn catch_up(
    collection: &Collection,
    served: &ServedCollection,
) -> Result<u64, LiveError> {
    let encoder = served.encoder.as_ref().map(|encoder| &*encoder.model);
    indexer::replay(collection, &served.retriever, encoder)
}

impl Slot {
    /// Gives the log back, once what it was given is written; nothing where it is being folded.
    pub(crate) async fn close_log(&self) -> bool {
        if self.log.compacting.load(Ordering::Acquire) {
            return false;
        }
        self.log.committer.lock().await.take();
        true
    }

    /// Writes a batch to the log; the answer comes when every search that begins sees it.
    pub(crate) async fn commit(
        &self,
        source: &Source,
        config: LogConfig,
        batch: Batch,
    ) -> Result<Committed, Arc<LiveError>> {
        let hand = move |committer: &Committer, reply: Reply| committer.commit(batch, reply);
        self.hand(source, config, hand).await
    }

    /// What was answered to a request with this key, if it was written.
    pub(crate) async fn answered(
        &self,
        source: &Source,
        config: LogConfig,
        key: &str,
    ) -> Result<Option<Committed>, LiveError> {
        Ok(self.committer(source, config).await?.answered(key))
    }

    /// As [`Self::commit`], of a batch that `find` makes of what searches see when everything before it is written.
    pub(crate) async fn commit_found(
        &self,
        source: &Source,
        config: LogConfig,
        find: impl FnOnce(&Live) -> Result<Batch, LiveError> + Send + 'static,
    ) -> Result<Committed, Arc<LiveError>> {
        let answering = self.answering();
        let find = move || {
            let live = answering.lock().current().retriever.live();
            find(&live)
        };
        let hand = move |committer: &Committer, reply: Reply| committer.commit_found(find, reply);
        self.hand(source, config, hand).await
    }

    async fn hand(
        &self,
        source: &Source,
        config: LogConfig,
        hand: impl FnOnce(&Committer, Reply) + Send + 'static,
    ) -> Result<Committed, Arc<LiveError>> {
        let committer = self.committer(source, config).await?;
        let handed = Arc::downgrade(&committer);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reply: Reply = Box::new(move |committed| {
            let _ = sender.send(committed); // Nobody waits any more.
        });
        // Hands over in a thread that may wait: there may be many before it.
        let handing = tokio::task::spawn_blocking(move || hand(&committer, reply));
        let closed = || Arc::new(LiveError::Closed);
        handing.await.map_err(|_| closed())?;
        let committed = receiver.await.map_err(|_| closed())?;
        if committed.is_err() {
            self.give_up_broken(&handed).await;
        }
        committed
    }

    /// Gives the log back where it takes no more records: who writes next opens it again.
    async fn give_up_broken(&self, handed: &Weak<Committer>) {
        let mut held = self.log.committer.lock().await;
        let broken = held
            .take_if(|held| std::ptr::eq(Arc::as_ptr(held), handed.as_ptr()) && held.is_broken());
        // Its lock is free when its thread has ended.
        let _ = tokio::task::spawn_blocking(move || drop(broken)).await;
    }

    /// Becomes the writer of the log when first asked.
    async fn committer(
        &self,
        source: &Source,
        config: LogConfig,
    ) -> Result<Arc<Committer>, LiveError> {
        let mut held = self.log.committer.lock().await;
        if let Some(committer) = &*held {
            return Ok(Arc::clone(committer));
        }
        let answering = self.answering();
        let collection = source.collection.clone();
        let behind = Arc::clone(&self.log.behind);
        let opening = tokio::task::spawn_blocking(move || {
            let log = collection.log_writer("trawl serve: documents", config)?;
            {
                // What others wrote before.
                let answering = answering.lock();
                catch_up(&collection, &answering.current())?;
                behind.store(false, Ordering::Release);
            }
            Committer::start(log, move |changes, position| {
                let answering = answering.lock();
                let served = answering.current();
                let shown = match behind.load(Ordering::Acquire) {
                    false => show(&served, changes, position),
                    true => catch_up(&collection, &served).map(drop),
                };
                behind.store(shown.is_err(), Ordering::Release);
                shown
            })
        });
        let committer = opening.await.map_err(|_| LiveError::Closed)??;
        let committer = Arc::new(committer);
        *held = Some(Arc::clone(&committer));
        Ok(committer)
    }

    /// Applies what another process wrote to the log, where this server does not write it, and what could not be shown when this one
    /// wrote it; and leaves out what is to be left out of the generation that answers since it was published once more.
    pub(crate) async fn follow_log(&self, source: &Source) -> Result<(), LiveError> {
        let Ok(held) = self.log.committer.try_lock() else {
            return Ok(());
        };
        let stamp = source.collection.log_stamp();
        let behind = Arc::clone(&self.log.behind);
        let is_written =
            behind.load(Ordering::Acquire) || held.is_none() && *lock(&self.log.stamp) != stamp;
        let retriever = &self.current().retriever;
        let start = source.collection.replayed_after(retriever.generation())?;
        if !is_written && start <= retriever.live().start() {
            return Ok(());
        }
        let (answering, collection) = (self.answering(), source.collection.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let answering = answering.lock();
            catch_up(&collection, &answering.current())?;
            behind.store(false, Ordering::Release);
            Ok::<_, LiveError>(())
        });
        reading.await.map_err(|_| LiveError::Closed)??;
        *lock(&self.log.stamp) = stamp;
        Ok(())
    }

    /// Removes what every generation contains, if this server writes the log.
    async fn truncate(&self, writer: Writer) {
        let Some(committer) = self.log.committer.lock().await.clone() else {
            return;
        };
        let (sender, receiver) = tokio::sync::oneshot::channel();
        committer.truncate(writer, move |freed| {
            let _ = sender.send(freed); // Nobody waits any more.
        });
        if let Ok(Err(error)) = receiver.await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot shorten the write log"
            );
        }
    }
}

/// Applies changes for the searches to come.
fn show(
    served: &ServedCollection,
    changes: Vec<DocumentChange>,
    position: u64,
) -> Result<(), LiveError> {
    let retriever = &served.retriever;
    let recipe = Recipe::of(retriever.manifest(), retriever.row_form())?;
    let encoder = served.encoder.as_ref().map(|encoder| &*encoder.model);
    let mut live = Live::clone(&retriever.live());
    if live.position() >= position {
        return Ok(()); // The generation became current when they were in the log already.
    }
    for change in changes {
        apply(&mut live, change, &recipe, encoder)?;
    }
    live.advance(position);
    retriever.set_live(live);
    Ok(())
}

/// Work behind requests, newest last.
#[derive(Default)]
pub(crate) struct Tasks {
    tasks: Mutex<(u64, VecDeque<Known>)>,
}

struct Known {
    task: Task,
    cancelled: Arc<AtomicBool>,
}

impl Tasks {
    pub(crate) fn list(&self) -> Vec<Task> {
        let tasks = lock(&self.tasks);
        tasks.1.iter().map(|known| known.task.clone()).collect()
    }

    /// Tells a task to end, which it does at its next step; returns it as it is now.
    pub(crate) fn cancel(&self, id: &str) -> Option<Task> {
        let tasks = lock(&self.tasks);
        let known = tasks.1.iter().find(|known| known.task.task == id)?;
        known.cancelled.store(true, Ordering::Release);
        Some(known.task.clone())
    }

    /// Tells all tasks to end.
    pub(crate) fn cancel_all(&self) {
        for known in &lock(&self.tasks).1 {
            known.cancelled.store(true, Ordering::Release);
        }
    }

    /// As [`Self::begin`], unless a task of the kind goes on: then the id of that one is the error.
    pub(crate) fn begin_alone(
        &self,
        kind: &str,
        collection: &str,
    ) -> Result<(Task, Arc<AtomicBool>), String> {
        let mut tasks = lock(&self.tasks);
        let goes_on = |known: &&Known| {
            let Known { task, .. } = known;
            task.kind == kind && task.state == TaskState::Running
        };
        match tasks.1.iter().find(goes_on) {
            Some(known) => Err(known.task.task.clone()),
            None => Ok(begin(&mut tasks, kind, collection)),
        }
    }

    fn begin(&self, kind: &str, collection: &str) -> (Task, Arc<AtomicBool>) {
        begin(&mut lock(&self.tasks), kind, collection)
    }

    pub(crate) fn advance(&self, task: &str, progress: TaskProgress) {
        let mut tasks = lock(&self.tasks);
        if let Some(known) = find(&mut tasks, task) {
            known.task.progress = Some(progress);
        }
    }

    pub(crate) fn end(&self, task: &str, outcome: Result<Done, String>) {
        let mut tasks = lock(&self.tasks);
        if let Some(Known { task, cancelled }) = find(&mut tasks, task) {
            task.state = match outcome {
                Ok(Done::Folded(generation)) => {
                    task.generation = Some(generation);
                    TaskState::Done
                }
                Ok(Done::Evaluated(report)) => {
                    task.evaluation = Some(report);
                    TaskState::Done
                }
                Err(_) if cancelled.load(Ordering::Acquire) => TaskState::Cancelled,
                Err(error) => {
                    task.error = Some(error);
                    TaskState::Failed
                }
            };
        }
    }
}

/// What a task did.
pub(crate) enum Done {
    /// The write log is in this generation, which answers.
    Folded(String),
    Evaluated(EvalReport),
}

fn begin(
    tasks: &mut (u64, VecDeque<Known>),
    kind: &str,
    collection: &str,
) -> (Task, Arc<AtomicBool>) {
    tasks.0 += 1;
    let task = Task {
        task: format!("{kind}-{}", tasks.0),
        kind: kind.to_owned(),
        collection: collection.to_owned(),
        state: TaskState::Running,
        generation: None,
        progress: None,
        evaluation: None,
        error: None,
    };
    // One that goes on is kept: it is asked for, and told to end when the server does.
    let is_over = |known: &Known| known.task.state != TaskState::Running;
    if tasks.1.len() >= MAX_TASKS
        && let Some(oldest) = tasks.1.iter().position(is_over)
    {
        tasks.1.remove(oldest);
    }
    let cancelled = Arc::default();
    tasks.1.push_back(Known {
        task: task.clone(),
        cancelled: Arc::clone(&cancelled),
    });
    (task, cancelled)
}

fn find<'a>(tasks: &'a mut (u64, VecDeque<Known>), id: &str) -> Option<&'a mut Known> {
    tasks.1.iter_mut().find(|known| known.task.task == id)
}

/// Begins to fold the log of a collection into a new generation; none while that goes on already.
pub(crate) fn begin_compaction(app: &App, name: &str, slot: &Slot, source: Source) -> Option<Task> {
    if slot.log.compacting.swap(true, Ordering::AcqRel) {
        return None;
    }
    let (task, cancelled) = app.tasks.begin("compact", name);
    let (app, name, id) = (Arc::clone(app), name.to_owned(), task.task.clone());
    tokio::spawn(async move {
        let Ok(slot) = app.slot(&name) else { return };
        let outcome = fold(&app, &slot, &source, cancelled).await;
        slot.log.compacting.store(false, Ordering::Release);
        let outcome = outcome.inspect_err(
            |error| tracing::error!(collection = %name, error, "the write log was not folded"),
        );
        app.tasks.end(&id, outcome.map(Done::Folded));
    });
    Some(task)
}

/// Folds, and answers from the new generation. Its error is for the caller: it names no path.
async fn fold(
    app: &App,
    slot: &Slot,
    source: &Source,
    cancelled: Arc<AtomicBool>,
) -> Result<String, String> {
    let served = slot.current();
    let (collection, alias) = (source.collection.clone(), source.alias.clone());
    let folding = tokio::task::spawn_blocking(move || {
        let encoder = served.encoder.as_ref().map(|encoder| &*encoder.model);
        let config = CompactConfig {
            alias,
            publish: true,
        };
        indexer::compact(&collection, &config, encoder, &NoProgress, &cancelled)
    });
    let folded = folding.await.map_err(|error| error.to_string())?;
    let report = folded.map_err(|error| {
        let cause = std::error::Error::source(&error);
        match cause.and_then(|cause| cause.downcast_ref::<CollectionError>()) {
            Some(CollectionError::Locked { holder, .. }) => {
                format!("the collection is being written by {holder}")
            }
            _ => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot fold a write log"
                );
                error.to_string()
            }
        }
    })?;
    let generation = match report {
        CompactReport::Nothing { generation } => return Ok(generation.to_string()),
        CompactReport::Folded { generation, .. } => *generation,
    };
    let id = generation.id.to_string();
    let switched = switch_to_named(app, slot, source, generation).await;
    switched.map_err(|error| error.to_string())?;
    if let Ok(writer) = source
        .collection
        .writer("trawl serve: shorten the write log")
    {
        slot.truncate(writer).await;
    }
    Ok(id)
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_task_of_a_kind_goes_on_alone() {
        let tasks = Tasks::default();
        let (first, _) = tasks.begin_alone("eval", "docs").unwrap();
        tasks.begin("compact", "docs");
        assert_eq!(tasks.begin_alone("eval", "plain").unwrap_err(), first.task);
        tasks.end(&first.task, Err("it could not".to_owned()));
        let (second, cancelled) = tasks.begin_alone("eval", "plain").unwrap();
        tasks.cancel(&second.task).unwrap();
        assert!(cancelled.load(Ordering::Acquire));
        tasks.end(&second.task, Err("it was told to".to_owned()));
        let states: Vec<_> = tasks
            .list()
            .into_iter()
            .map(|task| (task.state, task.error))
            .collect();
        let failed = Some("it could not".to_owned());
        let expected = [
            (TaskState::Failed, failed),
            (TaskState::Running, None),
            (TaskState::Cancelled, None),
        ];
        assert_eq!(states, expected);
    }

    #[test]
    fn a_task_that_goes_on_is_not_forgotten_for_newer_ones() {
        let tasks = Tasks::default();
        let (first, cancelled) = tasks.begin_alone("eval", "docs").unwrap();
        for _ in 0..2 * MAX_TASKS {
            let (newer, _) = tasks.begin("compact", "docs");
            tasks.end(&newer.task, Ok(Done::Folded("a generation".to_owned())));
        }
        let known = tasks.list();
        assert_eq!((known.len(), &known[0]), (MAX_TASKS, &first));
        assert_eq!(tasks.begin_alone("eval", "docs").unwrap_err(), first.task);
        tasks.cancel_all();
        assert!(cancelled.load(Ordering::Acquire));
    }
}
