use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use collection::{AliasName, Collection, LogConfig, sha256_hex};
use compute::accelerator::SharedAccelerator;
use encoder::{Arithmetic, BiEncoder, CrossEncoder, ModelOptions};
use objects::{Location, Watch};
use retriever::{OpenConfig, Retriever};
use server::{Control, QueueConfig, Remote, Server, ServerConfig};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::config::variables;
use crate::bundle::Bundle;
use crate::failure::{self, Exit, Failure};
use crate::milvus;
use crate::model::{self, ModelArgs};
use crate::output::Output;
use crate::progress::Progress;
use crate::server_auth::TlsSection;
use crate::server_file::{CollectionSection, ModelRole, ModelSection, ServerFile};
use crate::storage;

/// Arguments of `trawl serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A flag stands above the variable TRAWL__SECTION__KEY, that above the configuration file, and that above the default.
Without models in the file, each collection is answered by the model that its manifest names.

Examples:
  trawl serve data/docs
  trawl serve data/docs data/faq --rerank models/my-cross-encoder --bind 127.0.0.1:9000
  trawl serve docs.trawl
  trawl serve s3://bucket/docs
  TRAWL__LIMITS__TOP_K=100 trawl serve --config server.toml"
)]
pub struct ServeArgs {
    /// Folders of collections, bundles, and collections in object storage (docs/object-storage.md); each is served under the name of its
    /// folder or file.
    #[arg(value_name = "COLLECTION|BUNDLE|URL")]
    collections: Vec<PathBuf>,
    /// Configuration file (default: `server.toml` here, else in `/etc/trawl`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on (default: 127.0.0.1:8080).
    #[arg(long, value_name = "IP:PORT")]
    bind: Option<SocketAddr>,
    /// Listen on an address that other machines reach, although everybody there may then search.
    #[arg(long)]
    insecure: bool,
    /// Cross-encoder (directory or name) for the collections named here, used where a request asks for it; `none` loads
    /// none (default: trawl-reranker-small, which is in this binary).
    #[arg(long, value_name = "DIR|NAME", requires = "collections")]
    rerank: Option<PathBuf>,
    /// Refuse a collection whose vectors and queries are of different arithmetic where one of them is `int8`, instead of
    /// warning in every answer.
    #[arg(long)]
    strict_arithmetic: bool,
    /// Open generations without reading every byte and comparing checksums; `server.verify = false` does the same.
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(mut args: ServeArgs, output: &Output) -> anyhow::Result<()> {
    let stops = Stops::listen()?;
    let place = ServerFile::place(args.config.as_deref()).map(Path::to_owned);
    // Without a file there is nothing to read again, and the signal ends the process, as that of a terminal that is closed.
    let hangup = place.as_ref().map(|_| stops.hangup()).transpose()?;
    let state = place.as_deref().and_then(State::of);
    let file = ServerFile::read(place.as_deref(), variables())?;
    let seen = place.map(|place| Watched::new(place, state, Some(&file)));
    let device = &mut args.model.kernel.device;
    device.get_or_insert_with(|| file.server.device.clone());
    let config = resolve(&args, &file)?;
    let mut setup = Setup {
        server: Server::new(config),
        devices: args.model.kernel.devices()?,
        file: &file,
        args: &args,
        output,
        encoders: Vec::new(),
        rerankers: Vec::new(),
    };
    setup.server.set_auth(file.auth.resolve()?)?;
    setup.server.set_devices(setup.devices.clone());
    if let Some(tls) = &file.server.tls {
        setup.server.set_tls(tls.load()?);
    }
    if let Some(log) = file.query_log.resolve()? {
        let failed = || format!("cannot write query log `{}`", log.path.display());
        setup.server.set_query_log(&log).with_context(failed)?;
        output.remark(format!("query log: {}", log.path.display()));
    }
    for (name, section) in &file.models {
        setup.add_model(name, section)?;
        if !section.dimensions.is_empty() {
            let dimensions = section.dimensions.clone();
            setup.server.set_dimensions(name, dimensions)?;
        }
    }
    let collections = collections(&args, &file)?;
    for (name, section) in &collections {
        let bundle = model::bundle(&section.path)?;
        setup.add_collection(name, section, bundle.as_ref())?;
        output.remark(format!("collection `{name}`: {}", section.path.display()));
    }
    setup.server.add_created()?;
    run_until_stopped(setup.server, seen.zip(hangup), stops, output)
}

fn resolve(args: &ServeArgs, file: &ServerFile) -> anyhow::Result<ServerConfig> {
    let section = &file.server;
    let bind = args.bind.unwrap_or(section.bind);
    if !bind.ip().is_loopback() && file.auth.keys.is_empty() && !args.insecure {
        let text =
            format!("{bind} can be reached from other machines, and nobody is asked for a key");
        let hint = "make keys (`trawl config key NAME`), bind to 127.0.0.1, or say `--insecure` where a proxy or firewall stands in front";
        return Err(Failure::usage(text).hint(hint).into());
    }
    Ok(ServerConfig {
        bind,
        max_body_bytes: section.max_body.0,
        default_timeout: section.default_timeout.0,
        max_timeout: section.max_timeout.0,
        read_timeout: section.read_timeout.0,
        write_timeout: section.write_timeout.0,
        shutdown_grace: section.shutdown_grace.0,
        check_interval: section.check_interval.0,
        query_cache_bytes: section.query_cache.0,
        tokenizer_threads: compute::thread_budget(args.model.threads),
        strict_arithmetic: args.strict_arithmetic || section.strict_arithmetic,
        verify: section.verify && !args.no_verify,
        cors_origins: file.cors.origins.clone(),
        max_memory_bytes: section.max_memory.map(|bytes| bytes.0 as u64),
        data: section.data.clone(),
        log: LogConfig {
            durability: file.documents.durability,
            ..LogConfig::default()
        },
        compact_after: Some(file.documents.compact_after).filter(|n| *n > 0),
        otlp_endpoint: Some(file.observability.otlp_endpoint.clone())
            .filter(|endpoint| !endpoint.is_empty()),
        otlp_timeout: ServerConfig::default().otlp_timeout,
        limits: file.limits,
    })
}

/// The collections of the command line, or else those of the file.
fn collections(
    args: &ServeArgs,
    file: &ServerFile,
) -> anyhow::Result<Vec<(String, CollectionSection)>> {
    let named = |path: &PathBuf| {
        let absolute = std::path::absolute(path)?;
        let name = match path.is_file() {
            true => absolute.file_stem(),
            false => absolute.file_name(),
        };
        let name = name.and_then(|name| name.to_str());
        let name = name.with_context(|| format!("`{}` names no folder", path.display()))?;
        Ok((name.to_owned(), CollectionSection::at(path.clone())))
    };
    if !args.collections.is_empty() {
        return args.collections.iter().map(named).collect();
    }
    if file.collections.is_empty() && file.models.is_empty() {
        let hint = "name a folder made by `trawl index build`, or list it in `server.toml`";
        return Err(Failure::usage("there is nothing to serve")
            .hint(hint)
            .into());
    }
    Ok(file
        .collections
        .iter()
        .map(|(name, section)| (name.clone(), section.clone()))
        .collect())
}

/// A collection in object storage, and the folder into which it was copied. When the storage does not answer, or has lost the
/// alias, what was copied before is served.
fn copied(
    section: &CollectionSection,
    location: &Location,
    output: &Output,
) -> anyhow::Result<(Remote, PathBuf)> {
    let remote = Remote {
        objects: storage::open(location)?,
        poll: section.poll.0,
        keep: section.keep,
        one_at_a_time: section.one_at_a_time,
    };
    let alias = AliasName::parse(&section.alias)?;
    let path = match &section.cache {
        Some(path) => path.clone(),
        None => model::collections_cache()?.join(sha256_hex(location.to_string().as_bytes())),
    };
    let cache = Collection::create(&path)?;
    let progress = Progress::new(output);
    let goes_on = AtomicBool::new(false);
    let fetched = remote.fetch(
        &cache,
        &alias,
        Watch {
            on_bytes: &|done, total| progress.update("download", "bytes", done, total),
            cancelled: &goes_on,
        },
    );
    progress.finish();
    let error: anyhow::Error = match fetched {
        Ok(Some(_)) => return Ok((remote, path)),
        Ok(None) => {
            Failure::new(Exit::Failed, format!("`{location}` has no alias `{alias}`")).into()
        }
        Err(error) => error.into(),
    };
    if !cache.aliases()?.contains_key(&alias) {
        return Err(error);
    }
    let why = failure::texts(&error).join(": ");
    output.remark(format!("{why}; what was copied before is served"));
    Ok((remote, path))
}

/// A server on its way, and the models it has so far.
struct Setup<'a> {
    server: Server,
    devices: Vec<SharedAccelerator>,
    file: &'a ServerFile,
    args: &'a ServeArgs,
    output: &'a Output,
    encoders: Vec<(String, Arc<BiEncoder>)>,
    rerankers: Vec<Loaded>,
}

/// A cross-encoder, where it was read from, and the name that requests give it.
struct Loaded {
    name: String,
    directory: PathBuf,
    model: Arc<CrossEncoder>,
}

impl Setup<'_> {
    fn queue(&self, max_batch_tokens: Option<usize>) -> QueueConfig {
        let default = QueueConfig::for_threads(compute::thread_budget(self.args.model.threads));
        QueueConfig {
            max_tokens: self.file.queue.max_tokens,
            max_batch_tokens: max_batch_tokens.unwrap_or(default.max_batch_tokens),
            max_wait: self.file.queue.max_wait.0,
            interactive_share: self.file.queue.interactive_share,
        }
    }

    fn add_model(&mut self, name: &str, section: &ModelSection) -> anyhow::Result<()> {
        let queue = self.queue(section.max_batch_tokens);
        let arithmetic = section.precision.unwrap_or(Arithmetic::Auto);
        let config = self.args.model.encoder_config(arithmetic)?;
        match section.role {
            ModelRole::Encoder => {
                let path = model::find(&section.path)?;
                let encoder = model::load_encoder(&path, &ModelOptions::default(), &config)?;
                self.add_encoder(name, encoder, queue)
            }
            ModelRole::Reranker => {
                let directory = model::find(&section.path)?;
                let model = model::load_reranker(&directory, &config)?;
                self.add_reranker(name.to_owned(), directory, model, queue)
            }
        }
    }

    fn add_encoder(
        &mut self,
        name: &str,
        encoder: Arc<BiEncoder>,
        queue: QueueConfig,
    ) -> anyhow::Result<()> {
        self.server.add_encoder(name, Arc::clone(&encoder), queue)?;
        self.encoders.push((name.to_owned(), encoder));
        Ok(())
    }

    fn add_reranker(
        &mut self,
        name: String,
        directory: PathBuf,
        model: Arc<CrossEncoder>,
        queue: QueueConfig,
    ) -> anyhow::Result<()> {
        self.server.add_reranker(&name, Arc::clone(&model), queue)?;
        self.rerankers.push(Loaded {
            name,
            directory,
            model,
        });
        Ok(())
    }

    fn add_collection(
        &mut self,
        name: &str,
        section: &CollectionSection,
        bundle: Option<&Bundle>,
    ) -> anyhow::Result<()> {
        let context = || format!("cannot open collection `{}`", section.path.display());
        let remote = match storage::location(&section.path)? {
            Some(location) => Some(copied(section, &location, self.output).with_context(context)?),
            None => None,
        };
        let place = remote.as_ref().map_or(&section.path, |(_, cache)| cache);
        let path = bundle.map_or(place, |bundle| &bundle.collection);
        let files = Collection::open(path).with_context(context)?;
        let generation = files.resolve(&section.alias).with_context(context)?;
        let by_alias = generation.id.as_str() != section.alias;
        let config = OpenConfig {
            verify: self.file.server.verify && !self.args.no_verify,
            devices: self.devices.clone(),
        };
        let milvus = match &section.search {
            Some(address) => Some(milvus::open(address, section.search_timeout.0)?),
            None => None,
        };
        let retriever = match &milvus {
            Some(milvus) => Retriever::open_in_milvus(generation, config, milvus),
            None => Retriever::open(generation, config),
        };
        let retriever = retriever.with_context(context)?;
        let encoder = match &section.encoder {
            Some(encoder) => Some(encoder.clone()),
            None => {
                let packed = bundle.and_then(|bundle| bundle.encoder.as_deref());
                self.fitting_encoder(&retriever, packed)?
            }
        };
        let packed = bundle.map(|bundle| bundle.reranker.as_deref().unwrap_or(Path::new("none")));
        let default = Path::new(hub::DEFAULT_RERANKER);
        let asked = self.args.rerank.as_deref().or(packed);
        let reranker = match (&section.reranker, asked) {
            (Some(reranker), _) => Some(reranker.clone()),
            (None, _) if self.args.collections.is_empty() => None,
            (None, Some(path)) if path == Path::new("none") => None,
            (None, path) => Some(self.reranker(path.unwrap_or(default))?),
        };
        self.server
            .add_collection(name, retriever, encoder.as_deref(), reranker.as_deref())?;
        self.server.set_fusion(name, section.hybrid.fusion())?;
        if let Some(milvus) = milvus {
            self.server.set_milvus(name, milvus)?;
        }
        if by_alias {
            self.server
                .follow(name, files, AliasName::parse(&section.alias)?)?;
            if let Some((remote, _)) = remote {
                self.server.follow_remote(name, remote)?;
            }
        }
        Ok(())
    }

    /// The name of a loaded encoder that made the vectors, else of the one that `--model` names, that was packed, or that the
    /// manifest names, loaded now.
    fn fitting_encoder(
        &mut self,
        retriever: &Retriever,
        packed: Option<&Path>,
    ) -> anyhow::Result<Option<String>> {
        let manifest = retriever.manifest();
        if manifest.fingerprint["space"] == "external" {
            return Ok(None);
        }
        let fits = |(_, encoder): &&(String, Arc<BiEncoder>)| {
            retriever::check_encoder(manifest, encoder).is_ok()
        };
        if let Some((name, _)) = self.encoders.iter().find(fits) {
            return Ok(Some(name.clone()));
        }
        let mut model = self.args.model.clone();
        model.model = model.model.or_else(|| packed.map(Path::to_owned));
        let encoder = model::encoder_of(manifest, &model)?;
        let taken = self.encoders.iter().map(|(name, _)| name.as_str());
        let name = free_name(encoder.name(), &taken.collect::<Vec<_>>());
        self.add_encoder(&name, encoder, self.queue(None))?;
        Ok(Some(name))
    }

    /// The name of the cross-encoder of the command line or of a bundle, loaded unless it is there already.
    fn reranker(&mut self, path: &Path) -> anyhow::Result<String> {
        let directory = model::find(path)?;
        let mut loaded = self.rerankers.iter();
        if let Some(loaded) = loaded.find(|loaded| loaded.directory == directory) {
            return Ok(loaded.name.clone());
        }
        let config = self.args.model.encoder_config(Arithmetic::Auto)?;
        let model = model::load_reranker(&directory, &config)?;
        // Bundles bring copies of one model, and other models in folders of one name.
        let scores = |model: &CrossEncoder| (model.fingerprint(), model.rank_prior());
        let mut loaded = self.rerankers.iter();
        if let Some(loaded) = loaded.find(|loaded| scores(&loaded.model) == scores(&model)) {
            return Ok(loaded.name.clone());
        }
        let taken = self.rerankers.iter().map(|loaded| loaded.name.as_str());
        let name = free_name(&model::folder_name(path), &taken.collect::<Vec<_>>());
        self.add_reranker(name.clone(), directory, model, self.queue(None))?;
        Ok(name)
    }
}

/// The name, with a number behind it where other models have it.
fn free_name(name: &str, taken: &[&str]) -> String {
    let mut free = name.to_owned();
    let mut number = 2;
    while taken.contains(&free.as_str()) {
        free = format!("{name}-{number}");
        number += 1;
    }
    free
}

/// How long work that was told to stop may take for it.
const AFTER_GRACE: Duration = Duration::from_secs(1);

/// Ctrl-C and SIGTERM, from before there is a server: the first process of a container does not get signals that it has not
/// asked for.
pub struct Stops {
    runtime: Runtime,
    opened: oneshot::Sender<()>,
    /// Gives the signals back once there is a server. What came meanwhile is in them still.
    listening: JoinHandle<(Signal, Signal)>,
}

impl Stops {
    /// From here on a signal ends the process with exit code 130, until [`run_until_stopped`] takes over.
    pub fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let (mut interrupt, mut terminate) = {
            let _entered = runtime.enter();
            let interrupt = signal(SignalKind::interrupt())?;
            (interrupt, signal(SignalKind::terminate())?)
        };
        let (opened, is_opened) = oneshot::channel();
        let listening = runtime.spawn(async move {
            tokio::select! {
                () = either(&mut interrupt, &mut terminate) => std::process::exit(130),
                Ok(()) = is_opened => (interrupt, terminate),
            }
        });
        Ok(Self {
            runtime,
            opened,
            listening,
        })
    }

    /// SIGHUP, kept from here on until it is asked for.
    fn hangup(&self) -> anyhow::Result<Signal> {
        let _entered = self.runtime.enter();
        Ok(signal(SignalKind::hangup())?)
    }
}

/// Serves until Ctrl-C or SIGTERM, then finishes the requests in flight; a second signal ends the process at once. Keys, limits
/// and certificate are read again when the files that were `seen` change, and on the signal beside them.
pub fn run_until_stopped(
    server: Server,
    seen: Option<(Watched, Signal)>,
    stops: Stops,
    output: &Output,
) -> anyhow::Result<()> {
    let Stops {
        runtime,
        opened,
        listening,
    } = stops;
    let outcome = runtime.block_on(async {
        let _ = opened.send(()); // Somebody listens, or the next line fails.
        let (mut interrupt, mut terminate) = listening.await?;
        let server = server.bind().await?;
        let address = server.address();
        output.remark(format!(
            "serving on http://{address}, API at http://{address}/docs, Ctrl-C stops"
        ));
        let stop = async {
            either(&mut interrupt, &mut terminate).await;
            output.remark("finishing the requests in flight; once more to stop at once");
            tokio::spawn(async move {
                either(&mut interrupt, &mut terminate).await;
                std::process::exit(130);
            });
        };
        let control = server.control();
        tokio::select! {
            outcome = server.run(stop) => outcome?,
            () = follow(seen, &control, output) => {}
        }
        Ok(())
    });
    // Nobody waits for what is still computed, such as a text that an abandoned request has begun: the process ends.
    runtime.shutdown_timeout(AFTER_GRACE);
    outcome
}

/// Keeps keys, limits and certificate as the file has them. What cannot be used is told, and what was in force stays.
async fn follow(seen: Option<(Watched, Signal)>, control: &Control, output: &Output) {
    const EVERY: Duration = Duration::from_secs(2);
    let Some((mut seen, mut hangup)) = seen else {
        return std::future::pending().await;
    };
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let now = seen.look_again();
        if !asked && !now.is_due(&seen) {
            continue;
        }
        seen = now;
        match reload(&seen.place, control) {
            Ok(()) => output.remark(format!(
                "keys, limits and certificate read again from `{}`",
                seen.place.display()
            )),
            Err(error) => output.remark(format!("nothing changed: {error:#}")),
        }
    }
}

fn reload(path: &Path, control: &Control) -> anyhow::Result<()> {
    let file = ServerFile::read(Some(path), variables())?;
    let tls = file.server.tls.as_ref().map(TlsSection::load).transpose()?;
    control.set_auth(file.auth.resolve()?)?;
    control.set_limits(file.limits);
    if let Some(tls) = tls {
        control.set_tls(tls);
    }
    Ok(())
}

/// The files that settings come from, as they were at one time.
pub struct Watched {
    place: PathBuf,
    states: Vec<Option<State>>,
    read: Instant,
    most: Duration,
}

impl Watched {
    /// `state` is that of `place` from before `file` was read from it: what changes meanwhile is noticed later.
    fn new(place: PathBuf, state: Option<State>, file: Option<&ServerFile>) -> Self {
        let mut states = vec![state];
        let mut most = Duration::MAX;
        if let Some(tls) = file.and_then(|file| file.server.tls.as_ref()) {
            states.extend([State::of(&tls.cert), State::of(&tls.key)]);
            most = tls.reload.0;
        }
        Self {
            place,
            states,
            read: Instant::now(),
            most,
        }
    }

    fn look_again(&self) -> Self {
        let state = State::of(&self.place);
        let file = ServerFile::read(Some(&self.place), variables()).ok();
        Self::new(self.place.clone(), state, file.as_ref())
    }

    fn is_due(&self, before: &Self) -> bool {
        self.states != before.states || self.read.duration_since(before.read) >= before.most
    }
}

/// By what a change of a file is noticed. The clock of a file system may be too coarse to tell two changes in a row apart, so that
/// the content counts, too; not that of a pipe, which can be read once.
#[derive(PartialEq)]
struct State {
    modified: Option<SystemTime>,
    content: Option<Vec<u8>>,
}

impl State {
    /// None where there is no file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = path.metadata().ok()?;
        let content = metadata.is_file().then(|| std::fs::read(path).ok());
        Some(Self {
            modified: metadata.modified().ok(),
            content: content.flatten(),
        })
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_change_is_noticed_though_the_clock_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("server.toml");
        let write = |text: &str| {
            fs::write(&place, text).unwrap();
            let file = File::options().write(true).open(&place).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        };
        write("[limits]\ntop_k = 50\n");
        let before = Watched::new(place.clone(), State::of(&place), None);
        assert!(!before.look_again().is_due(&before));
        write("[limits]\ntop_k = 70\n");
        assert!(before.look_again().is_due(&before));
    }
}
