use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use collection::{AliasName, Collection, Manifest};
use compute::accelerator::SharedAccelerator;
use encoder::{BiEncoder, CrossEncoder};
use openapi::ErrorCode;
use retriever::{
    ArithmeticMismatch, FingerprintError, Fusion, Milvus, OpenConfig, QueryEncoder, QueryInput,
    Reranker, Retriever, SearchError, SearchOptions, SearchResponse, Weights, check_arithmetic,
    check_encoder,
};
use tokio::sync::Semaphore;

use crate::auth::Auth;
use crate::cache::QueryCache;
use crate::live::{Tasks, catch_up};
use crate::metrics::Metrics;
use crate::model::{NoEncoder, OnBehalf, ServedEncoder, ServedReranker, Tokenizers};
use crate::problem::ApiError;
use crate::query_log::QueryLog;
use crate::remote::Remote;
use crate::scheduler::Class;
use crate::swap::{Slot, Source};
use crate::trace::Exporter;
use crate::{AuthConfig, AuthError, Limits, QueueConfig, ServerConfig, Tls};

/// Why a model or a collection cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Names stand in paths and labels.
    #[error("`{name}` is no name: 1 to 64 letters, digits, `.`, `_`, `-`, not beginning with `.`")]
    Name {
        /// The name.
        name: String,
    },
    /// Two things of a kind have one name.
    #[error("there are two {kind}s named `{name}`")]
    Duplicate {
        /// `encoder`, `reranker` or `collection`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// A collection is to be set up and is not there.
    #[error("there is no collection `{name}`")]
    NoCollection {
        /// The name.
        name: String,
    },
    /// An encoder is to be set up and is not there.
    #[error("there is no encoder `{name}`, or it is in use already")]
    NoEncoder {
        /// The name.
        name: String,
    },
    /// A collection names a model that is not there.
    #[error("collection `{collection}` names {kind} `{name}`, which is not loaded")]
    NoModel {
        /// The collection.
        collection: String,
        /// `encoder` or `reranker`.
        kind: &'static str,
        /// The model.
        name: String,
    },
    /// The encoder is not the one that made the vectors.
    #[error("encoder `{encoder}` does not belong to collection `{collection}`")]
    Fingerprint {
        /// The collection.
        collection: String,
        /// The encoder.
        encoder: String,
        /// The first entry that differs.
        source: FingerprintError,
    },
    /// Queries and vectors are of two kinds of arithmetic of which one is lossy, under `server.strict_arithmetic`.
    #[error("collection `{collection}` and encoder `{encoder}` are of different arithmetic")]
    Arithmetic {
        /// The collection.
        collection: String,
        /// The encoder.
        encoder: String,
        /// Which ones.
        source: ArithmeticMismatch,
    },
    /// A queue is set up so that it could never pass anything on.
    #[error("{setting} is {given}, expected {expected}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What was given.
        given: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// Documents that were written since the generation was built cannot be applied to it.
    #[error("cannot apply the write log of collection `{collection}`")]
    Log {
        /// The collection.
        collection: String,
        /// Why.
        source: indexer::LiveError,
    },
    /// The thread of a model cannot be started.
    #[error("cannot start the thread of model `{name}`")]
    Thread {
        /// The model.
        name: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A collection and the models that answer for it.
pub(crate) struct ServedCollection {
    pub(crate) name: String,
    pub(crate) retriever: Retriever,
    pub(crate) encoder: Option<Arc<ServedEncoder>>,
    pub(crate) reranker: Option<Arc<ServedReranker>>,
    /// How hybrid searches that do not say it otherwise are fused.
    pub(crate) fusion: Fusion,
    /// Where the vectors are searched, if not here.
    pub(crate) milvus: Option<Milvus>,
    /// What every answer has to say.
    pub(crate) warnings: Vec<String>,
}

impl ServedCollection {
    /// Answers searches with equal options.
    pub(crate) async fn answer(
        &self,
        queries: Vec<QueryInput>,
        options: &SearchOptions,
        class: Class,
    ) -> Result<Vec<SearchResponse>, SearchError> {
        let encoder = self.encoder.as_deref();
        let encoder = encoder.map(|model| OnBehalf { model, class });
        let encoder: &dyn QueryEncoder = encoder.as_ref().map_or(&NoEncoder, |encoder| encoder);
        let reranker = self.reranker.as_deref();
        let reranker = reranker.map(|model| OnBehalf { model, class });
        let reranker = reranker.as_ref().map(|reranker| reranker as &dyn Reranker);
        let retriever = &self.retriever;
        retriever
            .search_batch(queries, options, encoder, reranker)
            .await
    }
}

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Ready,
    Draining,
}

/// Everything that requests share.
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) encoders: BTreeMap<String, Arc<ServedEncoder>>,
    pub(crate) rerankers: BTreeMap<String, Arc<ServedReranker>>,
    collections: RwLock<BTreeMap<String, Arc<Slot>>>,
    /// Requests that may still begin.
    pub(crate) requests: Semaphore,
    pub(crate) tokenizers: Arc<Tokenizers>,
    pub(crate) tasks: Tasks,
    pub(crate) query_log: Option<QueryLog>,
    queries: Arc<QueryCache>,
    /// Whether the last known answer was as it should be.
    healthy: AtomicBool,
    phase: AtomicU8,
    pub(crate) traces: Option<Exporter>,
    /// What holds and searches the vectors of collections; nothing but the host when empty.
    pub(crate) devices: Vec<SharedAccelerator>,
    /// Held while a collection is made.
    creating: std::sync::Mutex<()>,
    // What may change while the server runs.
    auth: RwLock<Arc<Auth>>,
    limits: RwLock<Limits>,
    tls: RwLock<Option<Tls>>,
}

pub(crate) type App = Arc<Shared>;

impl Shared {
    pub(crate) fn new(config: ServerConfig, metrics: Metrics) -> Self {
        let metrics = Arc::new(metrics);
        let export = |endpoint: &String| {
            Exporter::start(endpoint, config.otlp_timeout, Arc::clone(&metrics))
        };
        Self {
            traces: config.otlp_endpoint.as_ref().map(export),
            metrics,
            encoders: BTreeMap::new(),
            rerankers: BTreeMap::new(),
            collections: RwLock::default(),
            requests: Semaphore::new(config.limits.requests.min(Semaphore::MAX_PERMITS)),
            tokenizers: Arc::new(Tokenizers::new(config.tokenizer_threads)),
            tasks: Tasks::default(),
            query_log: None,
            devices: Vec::new(),
            queries: Arc::new(QueryCache::new(config.query_cache_bytes)),
            healthy: AtomicBool::new(true),
            creating: std::sync::Mutex::default(),
            phase: AtomicU8::new(Phase::Starting as u8),
            auth: RwLock::default(),
            limits: RwLock::new(config.limits),
            tls: RwLock::default(),
            config,
        }
    }

    /// How a generation is opened to be served.
    pub(crate) fn open_config(&self) -> OpenConfig {
        OpenConfig {
            verify: self.config.verify,
            devices: self.devices.clone(),
        }
    }

    pub(crate) fn add_encoder(
        &mut self,
        name: &str,
        model: Arc<BiEncoder>,
        queue: QueueConfig,
    ) -> Result<(), AttachError> {
        check_new(&self.encoders, "encoder", name)?;
        check_queue(&queue)?;
        let (tokenizers, metrics) = (Arc::clone(&self.tokenizers), Arc::clone(&self.metrics));
        let queries = Arc::clone(&self.queries);
        let served = ServedEncoder::start(name, model, queue, tokenizers, queries, metrics)
            .map_err(|source| AttachError::Thread {
                name: name.to_owned(),
                source,
            })?;
        self.encoders.insert(name.to_owned(), Arc::new(served));
        Ok(())
    }

    pub(crate) fn add_reranker(
        &mut self,
        name: &str,
        model: Arc<CrossEncoder>,
        queue: QueueConfig,
    ) -> Result<(), AttachError> {
        check_new(&self.rerankers, "reranker", name)?;
        check_queue(&queue)?;
        let (tokenizers, metrics) = (Arc::clone(&self.tokenizers), Arc::clone(&self.metrics));
        let served =
            ServedReranker::start(name, model, queue, tokenizers, metrics).map_err(|source| {
                AttachError::Thread {
                    name: name.to_owned(),
                    source,
                }
            })?;
        self.rerankers.insert(name.to_owned(), Arc::new(served));
        Ok(())
    }

    /// Answers for a collection from here on, with the models named: encoder and reranker.
    pub(crate) fn add_collection(
        &self,
        name: &str,
        retriever: Retriever,
        (encoder, reranker): (Option<&str>, Option<&str>),
        source: Option<Source>,
    ) -> Result<(), AttachError> {
        self.check_name(name)?;
        let missing = |kind: &'static str, model: &str| AttachError::NoModel {
            collection: name.to_owned(),
            kind,
            name: model.to_owned(),
        };
        let encoder = match encoder {
            Some(model) => {
                let served = self
                    .encoders
                    .get(model)
                    .ok_or_else(|| missing("encoder", model))?;
                Some(Arc::clone(served))
            }
            None => None,
        };
        let warnings = self.fit(name, retriever.manifest(), encoder.as_deref())?;
        let reranker = match reranker {
            Some(model) => {
                let served = self
                    .rerankers
                    .get(model)
                    .ok_or_else(|| missing("reranker", model))?;
                Some(Arc::clone(served))
            }
            None => None,
        };
        let served = ServedCollection {
            name: name.to_owned(),
            retriever,
            encoder,
            reranker,
            fusion: Fusion::default(),
            milvus: None,
            warnings,
        };
        if let Some(source) = &source {
            catch_up(&source.collection, &served).map_err(|source| AttachError::Log {
                collection: name.to_owned(),
                source,
            })?;
        }
        let slot = Slot::new(served, source);
        let mut collections = self
            .collections
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        check_new(&collections, "collection", name)?;
        collections.insert(name.to_owned(), Arc::new(slot));
        Ok(())
    }

    /// Refuses a name that no collection can have, or that one has.
    pub(crate) fn check_name(&self, name: &str) -> Result<(), AttachError> {
        check_new(&read(&self.collections), "collection", name)
    }

    /// One collection is made at a time.
    pub(crate) fn creating(&self) -> std::sync::MutexGuard<'_, ()> {
        self.creating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The collections by name.
    pub(crate) fn slots(&self) -> Vec<(String, Arc<Slot>)> {
        let collections = read(&self.collections);
        let slots = collections.iter();
        slots
            .map(|(name, slot)| (name.clone(), Arc::clone(slot)))
            .collect()
    }

    /// Answers for a collection no longer; requests that have begun are answered.
    pub(crate) fn remove_collection(&self, name: &str) {
        let collections = self.collections.write();
        collections
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// A collection while nobody else knows of it.
    fn slot_mut(&mut self, name: &str) -> Result<&mut Slot, AttachError> {
        let collections = self.collections.get_mut();
        let collections = collections.unwrap_or_else(PoisonError::into_inner);
        let slot = collections.get_mut(name).and_then(Arc::get_mut);
        slot.ok_or_else(|| AttachError::NoCollection {
            name: name.to_owned(),
        })
    }

    /// Compares an encoder with a generation it is to answer for; returns what every answer has to say.
    pub(crate) fn fit(
        &self,
        collection: &str,
        manifest: &Manifest,
        encoder: Option<&ServedEncoder>,
    ) -> Result<Vec<String>, AttachError> {
        let Some(served) = encoder else {
            return Ok(Vec::new());
        };
        let names = || (collection.to_owned(), served.name.clone());
        check_encoder(manifest, &served.model).map_err(|source| {
            let (collection, encoder) = names();
            AttachError::Fingerprint {
                collection,
                encoder,
                source,
            }
        })?;
        match check_arithmetic(manifest, served.model.config().arithmetic) {
            Ok(()) => Ok(Vec::new()),
            Err(source) if self.config.strict_arithmetic => {
                let (collection, encoder) = names();
                Err(AttachError::Arithmetic {
                    collection,
                    encoder,
                    source,
                })
            }
            Err(mismatch) => Ok(vec![mismatch.to_string()]),
        }
    }

    pub(crate) fn follow(
        &mut self,
        name: &str,
        collection: Collection,
        alias: AliasName,
    ) -> Result<(), AttachError> {
        let slot = self.slot_mut(name)?;
        catch_up(&collection, &slot.current()).map_err(|source| AttachError::Log {
            collection: name.to_owned(),
            source,
        })?;
        slot.source = Some(Source { collection, alias });
        Ok(())
    }

    pub(crate) fn follow_remote(&mut self, name: &str, remote: Remote) -> Result<(), AttachError> {
        self.slot_mut(name)?.remote = Some(remote);
        Ok(())
    }

    pub(crate) fn set_fusion(&mut self, name: &str, fusion: Fusion) -> Result<(), AttachError> {
        if !fusion.weights.are_valid() {
            let Weights { dense, bm25 } = fusion.weights;
            return Err(AttachError::Setting {
                setting: "collections.NAME.hybrid.weights",
                given: format!("{dense} and {bm25}"),
                expected: "numbers from 0 on, one of them above",
            });
        }
        let served = self.slot_mut(name)?.current_mut();
        let served = served.ok_or_else(|| AttachError::NoCollection {
            name: name.to_owned(),
        })?;
        served.fusion = fusion;
        Ok(())
    }

    pub(crate) fn set_milvus(&mut self, name: &str, milvus: Milvus) -> Result<(), AttachError> {
        let served = self.slot_mut(name)?.current_mut();
        let served = served.ok_or_else(|| AttachError::NoCollection {
            name: name.to_owned(),
        })?;
        served.milvus = Some(milvus);
        Ok(())
    }

    pub(crate) fn auth(&self) -> Arc<Auth> {
        Arc::clone(&read(&self.auth))
    }

    pub(crate) fn set_auth(&self, config: AuthConfig) -> Result<(), AuthError> {
        let mut auth = self.auth.write().unwrap_or_else(PoisonError::into_inner);
        *auth = Arc::new(Auth::new(config, &auth, Instant::now())?);
        Ok(())
    }

    pub(crate) fn limits(&self) -> Limits {
        *read(&self.limits)
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    pub(crate) fn tls(&self) -> Option<Tls> {
        read(&self.tls).clone()
    }

    pub(crate) fn set_tls(&self, tls: Tls) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = Some(tls);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            phase if phase == Phase::Starting as u8 => Phase::Starting,
            phase if phase == Phase::Ready as u8 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Whether every model and collection gave its known answer when last asked.
    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// Notes an outcome; whether it is another than before.
    pub(crate) fn set_healthy(&self, healthy: bool) -> bool {
        self.healthy.swap(healthy, Ordering::AcqRel) != healthy
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub(crate) fn set_dimensions(
        &mut self,
        name: &str,
        dimensions: Vec<usize>,
    ) -> Result<(), AttachError> {
        let served = self.encoders.get_mut(name).and_then(Arc::get_mut);
        let served = served.ok_or_else(|| AttachError::NoEncoder {
            name: name.to_owned(),
        })?;
        let width = served.model.width();
        if let Some(wrong) = dimensions.iter().find(|n| !(1..=width).contains(*n)) {
            return Err(AttachError::Setting {
                setting: "models.NAME.dimensions",
                given: format!("{wrong} for a model of {width}"),
                expected: "numbers from 1 to the model's width",
            });
        }
        served.dimensions = dimensions;
        Ok(())
    }

    /// An encoder by name, or the only one.
    pub(crate) fn encoder(&self, name: Option<&str>) -> Result<Arc<ServedEncoder>, ApiError> {
        find(&self.encoders, "encoder", name)
    }

    /// A reranker by name, or the only one.
    pub(crate) fn reranker(&self, name: Option<&str>) -> Result<Arc<ServedReranker>, ApiError> {
        find(&self.rerankers, "reranker", name)
    }

    /// The generation that answers for a collection from here on.
    pub(crate) fn collection(&self, name: &str) -> Result<Arc<ServedCollection>, ApiError> {
        Ok(self.slot(name)?.current())
    }

    pub(crate) fn slot(&self, name: &str) -> Result<Arc<Slot>, ApiError> {
        let slot = read(&self.collections).get(name).cloned();
        slot.ok_or_else(|| {
            ApiError::new(
                ErrorCode::NotFound,
                format!("there is no collection `{name}`"),
            )
        })
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn find<T>(
    loaded: &BTreeMap<String, Arc<T>>,
    kind: &str,
    name: Option<&str>,
) -> Result<Arc<T>, ApiError> {
    let found = match name {
        Some(name) => loaded.get(name),
        None if loaded.len() == 1 => loaded.values().next(),
        None => None,
    };
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = loaded.keys().map(String::as_str).collect();
        let known = match known.as_slice() {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        let text = match name {
            Some(name) => format!("there is no {kind} `{name}`; loaded: {known}"),
            None => format!("`model` has to name a {kind}; loaded: {known}"),
        };
        ApiError::new(ErrorCode::ModelNotFound, text)
    })
}

fn check_new<T>(
    known: &BTreeMap<String, T>,
    kind: &'static str,
    name: &str,
) -> Result<(), AttachError> {
    check_name(name)?;
    if known.contains_key(name) {
        return Err(AttachError::Duplicate {
            kind,
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// Refuses what cannot be the name of a model or a collection.
///
/// # Errors
/// [`AttachError::Name`].
pub fn check_name(name: &str) -> Result<(), AttachError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if !(1..=64).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(AttachError::Name {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// Refuses a queue that could never pass anything on.
///
/// # Errors
/// [`AttachError::Setting`].
pub fn check_queue(queue: &QueueConfig) -> Result<(), AttachError> {
    let share = queue.interactive_share;
    if share > 0.0 && share < 1.0 {
        return Ok(());
    }
    Err(AttachError::Setting {
        setting: "queue.interactive_share",
        given: share.to_string(),
        expected: "a number between 0 and 1",
    })
}
