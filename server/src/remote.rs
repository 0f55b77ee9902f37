//! Generations that come from object storage.
//!
//! The generations of such a collection are copied into a folder, the cache, which is a collection itself: what was copied is
//! served as any other, and from there when the storage does not answer. The alias that counts is the one in the storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use collection::{AliasName, Collection, CollectionError, Generation, GenerationId, Retention};
use objects::{Objects, ObjectsError, Turn};
use tokio::time::{Instant, sleep};

use crate::state::App;
use crate::swap::{RETRY, Slot, Source, SwapError, switch};

/// A turn whose holder shows no sign of life for so long is over.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the holder does, and how often others look.
const SIGN: Duration = Duration::from_secs(5);

/// Where the generations of a collection come from, and how they are followed.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The collection in object storage.
    pub objects: Objects,
    /// How often its alias is looked at, on average.
    pub poll: Duration,
    /// Generations that are kept in the cache: the newest, beside what is served and was served before.
    pub keep: usize,
    /// Whether servers that follow the same alias change to another generation one after another, so that only one at a time
    /// holds two in memory.
    pub one_at_a_time: bool,
}

/// Why a generation in object storage is not followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The storage does not answer, or the generation is damaged.
    #[error("cannot use object storage")]
    Objects(#[from] ObjectsError),
    /// The cache cannot be written.
    #[error("cannot use the cache")]
    Cache(#[from] CollectionError),
    /// The generation cannot be served.
    #[error("the generation is not served")]
    Swap(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The task ended without an outcome.
    #[error("copying was broken off")]
    Stopped,
}

impl From<SwapError> for FollowError {
    fn from(error: SwapError) -> Self {
        Self::Swap(Box::new(error))
    }
}

impl Remote {
    /// Copies what the alias names into the cache, and makes the alias name it there. None when it names nothing.
    ///
    /// # Errors
    /// [`FollowError`]; the cache is then as it was.
    pub fn fetch(
        &self,
        cache: &Collection,
        alias: &AliasName,
        watch: objects::Watch<'_>,
    ) -> Result<Option<Generation>, FollowError> {
        let Some(id) = self.named(alias)? else {
            return Ok(None);
        };
        let generation = self.copy(cache, &id, watch)?;
        cache.writer(WRITER)?.set_alias(alias, &id)?;
        Ok(Some(generation))
    }

    fn named(&self, alias: &AliasName) -> Result<Option<GenerationId>, FollowError> {
        Ok(self.objects.aliases()?.now.remove(alias))
    }

    fn copy(
        &self,
        cache: &Collection,
        id: &GenerationId,
        watch: objects::Watch<'_>,
    ) -> Result<Generation, FollowError> {
        Ok(self.objects.pull(id, &cache.writer(WRITER)?, watch)?)
    }

    /// Removes what is not kept.
    fn tidy(&self, cache: &Collection) -> Result<(), FollowError> {
        let retention = Retention {
            keep: self.keep,
            keep_unfinished: false,
        };
        cache.writer(WRITER)?.gc(&retention)?;
        Ok(())
    }
}

const WRITER: &str = "trawl serve: object storage";

/// Tells the transfers of a task to stop when the task does.
struct StopWithTask(Arc<AtomicBool>);

impl Drop for StopWithTask {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Follows the alias of one collection, for as long as the server runs.
pub(crate) async fn follow(
    app: App,
    name: String,
    slot: Arc<Slot>,
    remote: Remote,
    source: Source,
) {
    let stop = StopWithTask(Arc::default());
    let holder = format!("{}-{:016x}", std::process::id(), rand::random::<u64>());
    let following = Following {
        app: &app,
        slot: &slot,
        remote: &remote,
        source: &source,
        stop: &stop.0,
        holder,
    };
    let mut failed: Option<(GenerationId, Instant)> = None;
    let mut answers = true;
    loop {
        // Servers that were started together do not ask together.
        sleep(remote.poll.mul_f64(rand::random_range(0.5..1.5))).await;
        let next = following.next().await;
        let answered = next.is_ok();
        let said = std::mem::replace(&mut answers, answered) == answered;
        if answered && !said {
            tracing::info!(collection = %name, "object storage answers again");
        }
        let next = match next {
            Ok(Some(next)) => next,
            Ok(None) => continue,
            Err(_) if said => continue,
            Err(error) => {
                tracing::warn!(collection = %name, error = &error as &dyn std::error::Error, "cannot read the alias in object storage");
                continue;
            }
        };
        if matches!(&failed, Some((id, at)) if *id == next && at.elapsed() < RETRY) {
            continue;
        }
        failed = None;
        if let Err(error) = following.change(&next).await {
            tracing::error!(collection = %name, generation = %next, error = &error as &dyn std::error::Error, "the generation in object storage is not served");
            failed = Some((next, Instant::now()));
        }
    }
}

/// What is followed, and by whom.
struct Following<'a> {
    app: &'a App,
    slot: &'a Slot,
    remote: &'a Remote,
    source: &'a Source,
    stop: &'a Arc<AtomicBool>,
    holder: String,
}

impl Following<'_> {
    /// What the alias names, if it is not what answers.
    async fn next(&self) -> Result<Option<GenerationId>, FollowError> {
        let (remote, alias) = (self.remote.clone(), self.source.alias.clone());
        let named = blocking(move || remote.named(&alias)).await?;
        let current = self.slot.current().retriever.generation().id.clone();
        Ok(named.filter(|id| *id != current))
    }

    /// Copies a generation, waits for its turn, and lets it answer.
    async fn change(&self, id: &GenerationId) -> Result<(), FollowError> {
        let (remote, cache) = (self.remote.clone(), self.source.collection.clone());
        let (wanted, stop) = (id.clone(), Arc::clone(self.stop));
        let generation = blocking(move || {
            let watch = objects::Watch {
                on_bytes: &|_, _| (),
                cancelled: &stop,
            };
            remote.copy(&cache, &wanted, watch)
        })
        .await?;
        if self.remote.one_at_a_time {
            let turn = Turn::new(
                self.remote.objects.clone(),
                self.source.alias.as_str(),
                self.holder.clone(),
                PATIENCE,
            );
            let Some(turn) = self.wait(turn, id).await? else {
                return Ok(()); // The alias names something else by now.
            };
            self.switch_within(turn, generation).await?;
        } else {
            self.switch(generation).await?;
        }
        let (remote, cache) = (self.remote.clone(), self.source.collection.clone());
        blocking(move || remote.tidy(&cache)).await
    }

    /// Waits for the turn as long as the alias names the generation.
    async fn wait(&self, turn: Turn, id: &GenerationId) -> Result<Option<Turn>, FollowError> {
        let mut turn = turn;
        loop {
            let taken = blocking(move || {
                let is_ours = turn.take()?;
                Ok((turn, is_ours))
            });
            let is_ours;
            (turn, is_ours) = taken.await?;
            if is_ours {
                return Ok(Some(turn));
            }
            sleep(SIGN.mul_f64(rand::random_range(0.2..0.6))).await;
            if self.next().await?.as_ref() != Some(id) {
                return Ok(None);
            }
        }
    }

    /// Switches while it shows that the turn lasts, and ends it.
    async fn switch_within(&self, turn: Turn, generation: Generation) -> Result<(), FollowError> {
        let mut turn = turn;
        let mut switching = std::pin::pin!(self.switch(generation));
        let switched = loop {
            tokio::select! {
                switched = &mut switching => break switched,
                () = sleep(SIGN) => {
                    turn = blocking(move || {
                        if let Err(error) = turn.take() {
                            tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew the turn");
                        }
                        Ok(turn)
                    })
                    .await?;
                }
            }
        };
        let ended = blocking(move || Ok(turn.end()?)).await;
        if let Err(error) = ended {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot end the turn"
            );
        }
        switched
    }

    async fn switch(&self, generation: Generation) -> Result<(), FollowError> {
        let (cache, alias, id) = (
            self.source.collection.clone(),
            self.source.alias.clone(),
            generation.id.clone(),
        );
        let naming = blocking(move || Ok(cache.writer(WRITER)?.set_alias(&alias, &id)?));
        switch(self.app, self.slot, generation, naming).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FollowError> + Send + 'static,
) -> Result<T, FollowError> {
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(|_| FollowError::Stopped)?
}
