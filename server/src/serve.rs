use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use compute::accelerator::SharedAccelerator;
use encoder::{BiEncoder, CrossEncoder};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use retriever::{Fusion, Milvus, Retriever};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::check::{CheckError, known_answers};
use crate::created::{self, CreatedError};
use crate::metrics::Metrics;
use crate::query_log::QueryLog;
use crate::remote::{self, Remote};
use crate::routes::router;
use crate::scheduler::Class;
use crate::state::{App, AttachError, Phase, Shared};
use crate::swap::follow;
use crate::unread::GivesUp;
use crate::{AuthConfig, AuthError, Limits, QueryLogConfig, QueueConfig, ServerConfig, Tls};

/// Why a server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not to be had.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A model or a collection failed its check.
    #[error("the check before serving failed")]
    Check(#[from] CheckError),
    /// The check ended without an outcome.
    #[error("the check before serving was broken off")]
    CheckStopped,
}

/// Models and collections that are about to be served.
///
/// Models come first, then the collections that name them, then [`Server::bind`] and [`BoundServer::run`].
pub struct Server {
    shared: Shared,
}

impl Server {
    /// A server without models and collections.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let metrics = Metrics::new().expect("histograms have at least one bucket");
        Self {
            shared: Shared::new(config, metrics),
        }
    }

    /// Adds a bi-encoder and starts the thread that owns it.
    ///
    /// # Errors
    /// [`AttachError`] when the name or the queue cannot be used.
    pub fn add_encoder(
        &mut self,
        name: &str,
        model: Arc<BiEncoder>,
        queue: QueueConfig,
    ) -> Result<(), AttachError> {
        self.shared.add_encoder(name, model, queue)
    }

    /// Adds a cross-encoder and starts the thread that owns it.
    ///
    /// # Errors
    /// [`AttachError`] when the name or the queue cannot be used.
    pub fn add_reranker(
        &mut self,
        name: &str,
        model: Arc<CrossEncoder>,
        queue: QueueConfig,
    ) -> Result<(), AttachError> {
        self.shared.add_reranker(name, model, queue)
    }

    /// Adds a collection under a name, with the names of the models that answer for it. Without an encoder it is searched
    /// by vector and by BM25.
    ///
    /// # Errors
    /// [`AttachError::Fingerprint`] when the encoder is not the one that made the collection's vectors; it names the first
    /// entry that differs.
    pub fn add_collection(
        &mut self,
        name: &str,
        retriever: Retriever,
        encoder: Option<&str>,
        reranker: Option<&str>,
    ) -> Result<(), AttachError> {
        self.shared
            .add_collection(name, retriever, (encoder, reranker), None)
    }

    /// Says to which widths beside its own an encoder's vectors may be cut (`dimensions` of a request): those that it was
    /// trained for. To be called before a collection names the encoder.
    ///
    /// # Errors
    /// [`AttachError::NoEncoder`], and [`AttachError::Setting`] for a width that the model's vectors do not have.
    pub fn set_dimensions(
        &mut self,
        encoder: &str,
        dimensions: Vec<usize>,
    ) -> Result<(), AttachError> {
        self.shared.set_dimensions(encoder, dimensions)
    }

    /// Says how hybrid searches of a collection are fused when they do not say it themselves.
    ///
    /// # Errors
    /// [`AttachError::NoCollection`], and [`AttachError::Setting`] for weights below zero or none above.
    pub fn set_fusion(&mut self, collection: &str, fusion: Fusion) -> Result<(), AttachError> {
        self.shared.set_fusion(collection, fusion)
    }

    /// Says where the vectors of a collection are searched from its next generation on; the one that was added is open already.
    ///
    /// # Errors
    /// [`AttachError::NoCollection`].
    pub fn set_milvus(&mut self, collection: &str, milvus: Milvus) -> Result<(), AttachError> {
        self.shared.set_milvus(collection, milvus)
    }

    /// Says who may use the server; without, everybody who reaches it.
    ///
    /// # Errors
    /// [`AuthError`] for keys that contradict one another or themselves.
    pub fn set_auth(&mut self, auth: AuthConfig) -> Result<(), AuthError> {
        self.shared.set_auth(auth)
    }

    /// Says which devices hold and search the vectors of generations that are opened from now on; without, the host does.
    pub fn set_devices(&mut self, devices: Vec<SharedAccelerator>) {
        self.shared.devices = devices;
    }

    /// Keeps what is searched and found in a log, and takes feedback into it.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn set_query_log(&mut self, config: &QueryLogConfig) -> std::io::Result<()> {
        let metrics = Arc::clone(&self.shared.metrics);
        self.shared.query_log = Some(QueryLog::open(config, metrics)?);
        Ok(())
    }

    /// Serves HTTPS, with a certificate.
    pub fn set_tls(&mut self, tls: Tls) {
        self.shared.set_tls(tls);
    }

    /// Follows an alias of the collection in files: when it names another generation, that one is opened, checked, and answers
    /// from then on. Requests that have begun are answered by the generation they began with.
    ///
    /// # Errors
    /// [`AttachError::NoCollection`] when no collection has the name.
    pub fn follow(
        &mut self,
        name: &str,
        files: collection::Collection,
        alias: collection::AliasName,
    ) -> Result<(), AttachError> {
        self.shared.follow(name, files, alias)
    }

    /// Copies what the alias of a followed collection names in object storage into its files, as long as the server runs.
    /// Documents and aliases of the collection cannot be changed over HTTP then.
    ///
    /// # Errors
    /// [`AttachError::NoCollection`] when no collection has the name.
    pub fn follow_remote(&mut self, name: &str, remote: Remote) -> Result<(), AttachError> {
        self.shared.follow_remote(name, remote)
    }

    /// Answers for the collections that were made over HTTP (`server.data`), too.
    ///
    /// # Errors
    /// [`CreatedError`] names what cannot be opened.
    pub fn add_created(&mut self) -> Result<(), CreatedError> {
        let Some(data) = &self.shared.config.data else {
            return Ok(());
        };
        for (created, path) in created::list(data)? {
            created::serve(&self.shared, &created, &path)?;
        }
        Ok(())
    }

    /// Takes the address. Connections wait until [`BoundServer::run`].
    ///
    /// # Errors
    /// [`ServeError::Bind`].
    pub async fn bind(self) -> Result<BoundServer, ServeError> {
        let address = self.shared.config.bind;
        let failed = |source| ServeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(BoundServer {
            app: Arc::new(self.shared),
            listener,
            address,
        })
    }
}

/// A server that has its address.
pub struct BoundServer {
    app: App,
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundServer {
    /// The address, with the port that was taken where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What can be changed while the server runs.
    #[must_use]
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.app))
    }

    /// Serves until `shutdown` is ready; then takes no more connections, finishes the requests in flight within the grace
    /// period, and returns.
    ///
    /// Models and collections are checked while the first connections are taken: `/readyz` and everything under `/v1` answer
    /// 503 until each of them gave its known answer.
    ///
    /// # Errors
    /// [`ServeError::Check`] when one of them did not.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { app, listener, .. } = self;
        let connections = Connections::new(Arc::clone(&app));
        let folding = tokio::spawn(fold_metrics(Arc::clone(&app)));
        let checking = tokio::spawn(check_again(Arc::clone(&app)));
        let following = tokio::spawn(follow(Arc::clone(&app)));
        let mut copying = JoinSet::new();
        for (name, slot) in app.slots() {
            if let (Some(remote), Some(source)) = (slot.remote.clone(), slot.source.clone()) {
                copying.spawn(remote::follow(Arc::clone(&app), name, slot, remote, source));
            }
        }
        let outcome = accept_until(&app, &listener, &connections, shutdown).await;
        app.enter(Phase::Draining);
        app.tasks.cancel_all();
        drop(listener);
        connections.drain(app.config.shutdown_grace).await;
        folding.abort();
        checking.abort();
        following.abort();
        copying.abort_all();
        // What it still has to write may take the disk a while.
        let closing = tokio::task::spawn_blocking(move || {
            if let Some(log) = &app.query_log {
                log.close();
            }
        });
        if let Err(error) = closing.await {
            tracing::error!(%error, "cannot close the query log");
        }
        outcome
    }
}

async fn accept_until(
    app: &App,
    listener: &TcpListener,
    connections: &Connections,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let checked = Arc::clone(app);
    // A model that is slow to begin, as on a busy machine, is no reason not to start.
    let mut check = tokio::spawn(async move { known_answers(&checked, Class::Bulk).await });
    loop {
        tokio::select! {
            () = &mut shutdown => {
                check.abort();
                return Ok(());
            }
            outcome = &mut check, if app.phase() == Phase::Starting => {
                outcome.map_err(|_| ServeError::CheckStopped)??;
                app.metrics.healthy(true);
                app.enter(Phase::Ready);
            }
            () = connections.accept(listener) => {}
        }
    }
}

/// Changes a server while it runs. Requests in flight go on under what they began with.
#[derive(Clone)]
pub struct Control(App);

impl Control {
    /// Puts other keys in force. What was used of the rate of a key that stays is kept.
    ///
    /// # Errors
    /// As [`Server::set_auth`]; then the keys before stay in force.
    pub fn set_auth(&self, auth: AuthConfig) -> Result<(), AuthError> {
        self.0.set_auth(auth)
    }

    /// Puts other limits in force: all but `requests` and `connections`, which are those of the start.
    pub fn set_limits(&self, limits: Limits) {
        self.0.set_limits(limits);
    }

    /// Answers new connections with another certificate.
    pub fn set_tls(&self, tls: Tls) {
        self.0.set_tls(tls);
    }
}

/// More headers are refused before anything of ours is asked. Those of hyper's own limit, 100, can be within `limits.header_bytes`.
const MOST_HEADERS: usize = 1024;

/// The open connections.
struct Connections {
    app: App,
    router: axum::Router,
    http: http1::Builder,
    permits: Arc<Semaphore>,
    graceful: GracefulShutdown,
    tasks: tokio_util::task::TaskTracker,
    stop: tokio_util::sync::CancellationToken,
}

impl Connections {
    fn new(app: App) -> Self {
        let config = &app.config;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.read_timeout);
        // hyper refuses on its own what is far over the limit; up to there the answer is ours and says why.
        http.max_buf_size((4 * config.limits.header_bytes).max(64 << 10));
        http.max_headers(MOST_HEADERS);
        let permits = config.limits.connections.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            http,
            permits: Arc::new(Semaphore::new(permits)),
            graceful: GracefulShutdown::new(),
            tasks: tokio_util::task::TaskTracker::new(),
            stop: tokio_util::sync::CancellationToken::new(),
            router: router(Arc::clone(&app)),
            app,
        }
    }

    /// Takes one connection and serves it in a task of its own. Dropping the future loses no connection.
    async fn accept(&self, listener: &TcpListener) {
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: some will be free again soon.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
        };
        let connection = self.connection(stream);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = stop.cancelled() => {}
            }
            drop(permit);
        });
    }

    fn connection(&self, stream: TcpStream) -> impl Future<Output = ()> + use<> {
        // Answers are written at once; waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(self.router.clone());
        let (http, watcher) = (self.http.clone(), self.graceful.watcher());
        let (tls, patience) = (self.app.tls(), self.app.config.read_timeout);
        let stream = GivesUp::new(stream, self.app.config.write_timeout);
        async move {
            // What becomes of a connection is for its client to know.
            let _ = match tls {
                None => {
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    watcher.watch(connection).await
                }
                Some(tls) => {
                    let Ok(Ok(stream)) = timeout(patience, tls.accept(stream)).await else {
                        return;
                    };
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    watcher.watch(connection).await
                }
            };
        }
    }

    /// Lets requests in flight end, for as long as `grace` allows.
    async fn drain(self, grace: Duration) {
        self.tasks.close();
        if timeout(grace, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(
                open = self.tasks.len(),
                "grace period is over, closing connections"
            );
        }
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

async fn fold_metrics(app: App) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    loop {
        every.tick().await;
        app.metrics.fold();
    }
}

/// Asks for the known answers again and again: a server whose models or collections stopped giving them is not ready until they do.
async fn check_again(app: App) {
    loop {
        tokio::time::sleep(app.config.check_interval).await;
        if app.phase() != Phase::Ready {
            continue;
        }
        let outcome = timeout(
            app.config.max_timeout,
            known_answers(&app, Class::Interactive),
        )
        .await;
        let failure = match outcome {
            Ok(Ok(())) => None,
            // Too much to do is no illness.
            Ok(Err(error)) if error.is_overload() => continue,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer within `server.max_timeout`".to_owned()),
        };
        let healthy = failure.is_none();
        app.metrics.healthy(healthy);
        match failure {
            _ if !app.set_healthy(healthy) => {}
            Some(reason) => tracing::error!(reason, "not ready: a known answer failed"),
            None => tracing::info!("ready again: the known answers are as they should be"),
        }
    }
}
