//! From one generation to the next, under load.
//!
//! Requests take the generation that is current when they begin, and keep it: an answer comes from one. The next one is opened
//! and has answered a search before it becomes current; the one before closes when its last request is done.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use collection::{AliasName, Collection, CollectionError, Generation, GenerationId, Manifest};
use compute::accelerator::AcceleratorError;
use index::LoadError;
use indexer::LiveError;
use retriever::{OpenError, Retriever};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior};

use crate::check::{CheckError, check_collection};
use crate::live::{Log, catch_up};
use crate::remote::Remote;
use crate::scheduler::Class;
use crate::shadow::Shadow;
use crate::state::{App, AttachError, ServedCollection, Shared};

/// How often aliases are looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// How long a generation that could not be served is left alone.
pub(crate) const RETRY: Duration = Duration::from_secs(30);

/// Generations beside the one that answers which stay open.
const MOST_OTHERS: usize = 2;

/// Where the generations of a served collection come from.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) collection: Collection,
    pub(crate) alias: AliasName,
}

/// A served collection, whichever generation answers for it.
pub(crate) struct Slot {
    answering: Arc<Answering>,
    pub(crate) log: Log,
    pub(crate) source: Option<Source>,
    /// Where its generations come from, if it is not this server that changes the collection.
    pub(crate) remote: Option<Remote>,
    /// Generations that were asked for by name, the latest last.
    others: Mutex<Vec<Arc<ServedCollection>>>,
    shadow: RwLock<Option<Arc<Shadow>>>,
    /// Held while the generation is changed.
    changing: Mutex<()>,
}

/// Who answers for a collection.
pub(crate) struct Answering {
    current: RwLock<Arc<ServedCollection>>,
    /// Held while changes are applied to the current generation, and while another becomes current.
    applying: std::sync::Mutex<()>,
}

/// The right to change what searches see.
pub(crate) struct Applying<'a> {
    answering: &'a Answering,
    _guard: std::sync::MutexGuard<'a, ()>,
}

impl Answering {
    pub(crate) fn lock(&self) -> Applying<'_> {
        let guard = self.applying.lock();
        Applying {
            answering: self,
            _guard: guard.unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn current(&self) -> Arc<ServedCollection> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Applying<'_> {
    pub(crate) fn current(&self) -> Arc<ServedCollection> {
        self.answering.current()
    }

    fn set(&self, next: Arc<ServedCollection>) {
        let current = self.answering.current.write();
        let mut current = current.unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, next);
        drop(current);
        drop(before); // Files are closed, if nobody reads them any more, where nobody waits.
    }
}

/// Why a generation is not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwapError {
    /// It cannot be found.
    #[error("cannot read the collection")]
    Collection(#[from] CollectionError),
    /// It cannot be opened.
    #[error("cannot open the generation")]
    Open(#[from] OpenError),
    /// Its vectors are not those of the encoder.
    #[error("the generation does not fit its encoder")]
    Attach(#[from] AttachError),
    /// It does not answer.
    #[error("the generation failed its check")]
    Check(#[from] CheckError),
    /// What was written since it was built cannot be applied to it.
    #[error("cannot apply the write log")]
    Log(#[from] LiveError),
    /// Both generations together are too large.
    #[error(
        "generation `{generation}` needs {needed} bytes of memory beside the current one, {available} are available (`server.max_memory`)"
    )]
    Memory {
        generation: String,
        needed: u64,
        available: u64,
    },
    /// The devices that search have no room for it beside the current one.
    #[error("generation `{generation}` has no room beside the current one")]
    DeviceMemory {
        generation: String,
        source: AcceleratorError,
    },
    /// The task ended without an outcome.
    #[error("opening was broken off")]
    Stopped,
}

impl SwapError {
    /// Of a generation that was not opened.
    fn open(generation: String, error: OpenError) -> Self {
        match error {
            OpenError::Index {
                source: index::OpenError::Load(LoadError::Device(source)),
                ..
            } if matches!(source, AcceleratorError::OutOfMemory { .. }) => {
                Self::DeviceMemory { generation, source }
            }
            error => Self::Open(error),
        }
    }
}

impl Slot {
    pub(crate) fn new(served: ServedCollection, source: Option<Source>) -> Self {
        Self {
            answering: Arc::new(Answering {
                current: RwLock::new(Arc::new(served)),
                applying: std::sync::Mutex::new(()),
            }),
            log: Log::default(),
            source,
            remote: None,
            others: Mutex::default(),
            shadow: RwLock::default(),
            changing: Mutex::new(()),
        }
    }

    /// The generation that answers now. Whoever keeps it is answered by it to the end.
    pub(crate) fn current(&self) -> Arc<ServedCollection> {
        self.answering.current()
    }

    pub(crate) fn answering(&self) -> Arc<Answering> {
        Arc::clone(&self.answering)
    }

    pub(crate) fn shadow(&self) -> Option<Arc<Shadow>> {
        let shadow = self.shadow.read();
        shadow.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the comparison that went on until now.
    pub(crate) fn set_shadow(&self, next: Option<Shadow>) -> Option<Arc<Shadow>> {
        let shadow = self.shadow.write();
        let mut shadow = shadow.unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *shadow, next.map(Arc::new))
    }

    pub(crate) fn current_mut(&mut self) -> Option<&mut ServedCollection> {
        let current = Arc::get_mut(&mut self.answering)?.current.get_mut();
        Arc::get_mut(current.unwrap_or_else(PoisonError::into_inner))
    }
}

/// Opens a generation beside the current one, lets it answer, runs `then`, and makes it current if that succeeds. The one that is
/// current stays; what `then` leaves out of it is left out.
///
/// One change at a time; `then` is what must not happen for a generation that cannot be served, nor fail after it is.
pub(crate) async fn switch<E: From<SwapError>>(
    app: &App,
    slot: &Slot,
    generation: Generation,
    then: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let _changing = slot.changing.lock().await;
    let current = slot.current();
    let is_current = current.retriever.generation().id == generation.id;
    let start = Instant::now();
    let collection = slot.source.as_ref().map(|source| source.collection.clone());
    let next = match is_current {
        true => current,
        false => {
            let next = prepare(app, current, generation, collection.clone()).await;
            next.inspect_err(|_| app.metrics.swap("refused"))?
        }
    };
    then.await?;
    let generation = next.retriever.generation().id.to_string();
    let answering = slot.answering();
    let switching = tokio::task::spawn_blocking(move || {
        let answering = answering.lock();
        if let Some(collection) = collection {
            catch_up(&collection, &next)?; // What was written since it was prepared.
        }
        if !is_current {
            answering.set(next);
        }
        Ok::<_, SwapError>(())
    });
    switching.await.map_err(|_| SwapError::Stopped)??;
    if is_current {
        return Ok(());
    }
    // What was compared is no longer what answers.
    slot.set_shadow(None);
    app.metrics.swap("done");
    tracing::info!(%generation, elapsed_ms = start.elapsed().as_millis() as u64, "switched");
    Ok(())
}

/// As [`switch`], to the generation that the alias was found to name; unless it names another one by now: then somebody else
/// switches, or has switched already.
pub(crate) async fn switch_to_named(
    app: &App,
    slot: &Slot,
    source: &Source,
    generation: Generation,
) -> Result<(), SwapError> {
    let (source, id) = (source.clone(), generation.id.clone());
    let is_named = async move {
        let reading = tokio::task::spawn_blocking(move || {
            let aliases = source.collection.aliases()?;
            Ok::<_, SwapError>(aliases.get(&source.alias) == Some(&id))
        });
        match reading.await.map_err(|_| SwapError::Stopped)?? {
            true => Ok(()),
            false => Err(None::<SwapError>),
        }
    };
    match switch(app, slot, generation, is_named).await {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(error)) => Err(error),
    }
}

/// The generation that an alias or an id names. It is opened where it is not open yet, in place of the one that was asked for longest ago.
pub(crate) async fn named(
    app: &App,
    slot: &Slot,
    source: Source,
    name: String,
) -> Result<Arc<ServedCollection>, SwapError> {
    let collection = source.collection.clone();
    let resolving = tokio::task::spawn_blocking(move || source.collection.resolve(&name));
    let generation = resolving.await.map_err(|_| SwapError::Stopped)??;
    let current = slot.current();
    if current.retriever.generation().id == generation.id {
        return Ok(current);
    }
    let mut others = slot.others.lock().await;
    let is_it = |other: &Arc<ServedCollection>| other.retriever.generation().id == generation.id;
    let found = match others.iter().position(is_it) {
        Some(place) => others.remove(place),
        None => prepare(app, current, generation, None).await?,
    };
    if others.len() == MOST_OTHERS {
        others.remove(0);
    }
    others.push(Arc::clone(&found));
    let written = Arc::clone(&found);
    let catching_up = tokio::task::spawn_blocking(move || catch_up(&collection, &written));
    catching_up.await.map_err(|_| SwapError::Stopped)??;
    Ok(found)
}

async fn prepare(
    app: &App,
    current: Arc<ServedCollection>,
    generation: Generation,
    collection: Option<Collection>,
) -> Result<Arc<ServedCollection>, SwapError> {
    check_memory(app, &generation, current.milvus.is_some())?;
    let config = app.open_config();
    let id = generation.id.to_string();
    let opening = tokio::task::spawn_blocking(move || {
        let opened = match &current.milvus {
            Some(milvus) => Retriever::open_in_milvus(generation, config, milvus),
            None => Retriever::open(generation, config),
        };
        let retriever = opened.map_err(|error| SwapError::open(id, error))?;
        Ok::<_, SwapError>((retriever, current))
    });
    let (retriever, current) = opening.await.map_err(|_| SwapError::Stopped)??;
    let encoder = current.encoder.clone();
    let warnings = app.fit(&current.name, retriever.manifest(), encoder.as_deref())?;
    let next = Arc::new(ServedCollection {
        name: current.name.clone(),
        retriever,
        encoder,
        reranker: current.reranker.clone(),
        fusion: current.fusion,
        milvus: current.milvus.clone(),
        warnings,
    });
    let next = match collection {
        None => next,
        Some(collection) => {
            let replaying =
                tokio::task::spawn_blocking(move || match catch_up(&collection, &next) {
                    // What the log has no more may be left out by what is written next; else that is where it is refused.
                    Ok(_) | Err(LiveError::Collection(CollectionError::LogGap { .. })) => Ok(next),
                    Err(error) => Err(SwapError::Log(error)),
                });
            replaying.await.map_err(|_| SwapError::Stopped)??
        }
    };
    // An exact search: it reads the vectors, so that the first request need not.
    check_collection(&next, Class::Bulk).await?;
    Ok(next)
}

/// Both generations are read while the last requests of the one before are answered.
fn check_memory(app: &Shared, generation: &Generation, remote: bool) -> Result<(), SwapError> {
    let limit = app
        .config
        .max_memory_bytes
        .or_else(compute::memory_limit_bytes);
    let (Some(limit), Some(used)) = (limit, compute::rss_bytes()) else {
        return Ok(());
    };
    let (needed, available) = (
        memory(&generation.manifest, remote),
        limit.saturating_sub(used),
    );
    match needed > available {
        true => Err(SwapError::Memory {
            generation: generation.id.to_string(),
            needed,
            available,
        }),
        false => Ok(()),
    }
}

/// Bytes of the files that searches read again and again: vectors and graphs, unless they are searched elsewhere, and ids.
fn memory(manifest: &Manifest, remote: bool) -> u64 {
    let is_read = |path: &str| path.starts_with("shards/") && !remote || path == "ids";
    let files = manifest.files.iter();
    files
        .filter(|file| is_read(&file.path))
        .map(|file| file.bytes)
        .sum()
}

/// Looks at the aliases of followed collections, for as long as the server runs.
pub(crate) async fn follow(app: App) {
    let mut every = tokio::time::interval(PERIOD);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed: Vec<(String, GenerationId, Instant)> = Vec::new();
    loop {
        every.tick().await;
        failed.retain(|(_, _, at)| at.elapsed() < RETRY);
        for (name, slot) in &app.slots() {
            let Some(source) = slot.source.clone() else {
                continue;
            };
            if let Err(error) = slot.follow_log(&source).await {
                tracing::error!(collection = %name, error = &error as &dyn std::error::Error, "cannot apply the write log");
            }
            let current = slot.current().retriever.generation().id.clone();
            let looked_at = source.clone();
            let named = tokio::task::spawn_blocking(move || {
                let Source { collection, alias } = looked_at;
                let named = collection.aliases()?.remove(&alias);
                let changed = named.filter(|id| *id != current);
                changed.map(|id| collection.generation(&id)).transpose()
            });
            let next = match named.await {
                Ok(Ok(Some(next))) => next,
                Ok(Ok(None)) | Err(_) => continue,
                Ok(Err(error)) => {
                    tracing::warn!(collection = %name, error = &error as &dyn std::error::Error, "cannot read the alias");
                    continue;
                }
            };
            let id = next.id.clone();
            if failed
                .iter()
                .any(|(of, failed, _)| of == name && *failed == id)
            {
                continue;
            }
            if let Err(error) = switch_to_named(&app, slot, &source, next).await {
                tracing::error!(collection = %name, generation = %id, error = &error as &dyn std::error::Error, "the generation is not served");
                failed.push((name.clone(), id, Instant::now()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use corpus::CorpusConfig;
    use encoder::{BiEncoder, EncoderConfig, ModelOptions};
    use indexer::{BuildConfig, NoProgress};
    use retriever::OpenConfig;

    use super::*;
    use crate::ServerConfig;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn what_an_alias_named_a_while_ago_is_not_switched_to() {
        let folder = tempfile::tempdir().unwrap();
        let (file, root) = (
            folder.path().join("corpus.jsonl"),
            folder.path().join("docs"),
        );
        std::fs::write(&file, "{\"_id\": \"a\", \"text\": \"salt\"}\n").unwrap();
        let model = testkit::fixture("models/tiny-bert");
        let config = EncoderConfig::default();
        let model = BiEncoder::load(&model, &ModelOptions::default(), &config).unwrap();
        let build = || {
            let corpus = CorpusConfig {
                paths: vec![file.clone()],
                ..CorpusConfig::default()
            };
            let config = BuildConfig::new(root.clone(), corpus, None);
            let stop = AtomicBool::new(false);
            let report = indexer::build(&config, &model, &NoProgress, &stop).unwrap();
            report.generation
        };
        let (first, second) = (build(), build());
        let files = Collection::open(&root).unwrap();
        let generation = |id: &GenerationId| files.generation(id).unwrap();

        let metrics = Metrics::new().unwrap();
        let mut shared = Shared::new(ServerConfig::default(), metrics);
        let retriever = Retriever::open(generation(&first), OpenConfig::default()).unwrap();
        let added = shared.add_collection("docs", retriever, (None, None), None);
        added.unwrap();
        let live = AliasName::parse("live").unwrap();
        shared.follow("docs", files.clone(), live).unwrap();
        let app = App::new(shared);
        let slot = app.slot("docs").unwrap();
        let source = slot.source.clone().unwrap();
        let current = || slot.current().retriever.generation().id.clone();

        // As somebody saw it before the alias was set back.
        let seen = generation(&second);
        let switched = switch_to_named(&app, &slot, &source, seen.clone()).await;
        switched.unwrap();
        assert_eq!(current(), first);
        let writer = files.writer("test").unwrap();
        writer.publish(&second).unwrap();
        drop(writer);
        let switched = switch_to_named(&app, &slot, &source, seen).await;
        switched.unwrap();
        assert_eq!(current(), second);
    }
}
