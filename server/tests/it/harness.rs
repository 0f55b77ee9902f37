//! A server on a free loopback port, a small collection, and a client.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use collection::{AliasName, Collection};
use corpus::CorpusConfig;
use encoder::{Arithmetic, BiEncoder, CrossEncoder, EncoderConfig, ModelOptions};
use indexer::{BuildConfig, NoProgress};
use retriever::{Fusion, FusionMethod, OpenConfig, Retriever, Weights};
use serde_json::Value;
use server::{Control, QueueConfig, ServeError, Server, ServerConfig};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::contract;

pub const CORPUS: &str = r#"{"_id": "tides", "title": "Tides", "text": "The sea comes in and goes out twice a day.", "lang": "en", "year": 1687}
{"_id": "bees", "title": "Bees", "text": "Returning foragers steer by the sun.", "lang": ["de", "en"], "year": 1973, "day": "1973-10-11"}
{"_id": "bread", "title": "", "text": "Dough rises because yeast breathes.", "lang": "fr"}
{"_id": "sky", "title": "The sky", "text": "Air scatters blue light more than red.", "lang": "en"}
{"_id": "glass", "title": "Glass", "text": "Sand melts and cools into a clear solid.", "lang": "en"}
{"_id": "owls", "title": "Owls", "text": "Soft feathers make their flight silent.", "lang": "en"}
"#;

/// Longer than a busy machine holds a thread up. Where a test is about a time that runs out, it sets that time itself.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Waits until something is so; `said` is what it was when time is up.
#[track_caller]
pub fn wait_until(mut is_so: impl FnMut() -> bool, said: &str) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn small_config() -> EncoderConfig {
    EncoderConfig {
        threads: 2,
        ..EncoderConfig::default()
    }
}

pub fn encoder(fixture: &str) -> Arc<BiEncoder> {
    let path = testkit::fixture(fixture);
    Arc::new(BiEncoder::load(&path, &ModelOptions::default(), &small_config()).unwrap())
}

pub fn reranker() -> Arc<CrossEncoder> {
    let path = testkit::fixture("models/tiny-cross-bert");
    Arc::new(CrossEncoder::load(&path, None, &small_config()).unwrap())
}

/// The encoder of `models/tiny-bert` in 8-bit arithmetic.
pub fn lossy_encoder() -> Arc<BiEncoder> {
    let config = EncoderConfig {
        arithmetic: Arithmetic::Int8,
        ..small_config()
    };
    let path = testkit::fixture("models/tiny-bert");
    Arc::new(BiEncoder::load(&path, &ModelOptions::default(), &config).unwrap())
}

/// Builds the small collection in `folder`.
pub fn build(folder: &Path, encoder: &BiEncoder) -> PathBuf {
    let (file, root) = (folder.join("corpus.jsonl"), folder.join("docs"));
    std::fs::write(&file, CORPUS).unwrap();
    let corpus = CorpusConfig {
        paths: vec![file],
        ..CorpusConfig::default()
    };
    let config = BuildConfig::new(root.clone(), corpus, None);
    indexer::build(&config, encoder, &NoProgress, &AtomicBool::new(false)).unwrap();
    root
}

pub fn open(root: &Path) -> Retriever {
    open_with(root, OpenConfig::default())
}

pub fn open_with(root: &Path, config: OpenConfig) -> Retriever {
    let generation = Collection::open(root).unwrap().resolve("live").unwrap();
    Retriever::open(generation, config).unwrap()
}

pub struct TestServer {
    pub address: SocketAddr,
    pub control: Control,
    /// The folder of the collections.
    pub root: PathBuf,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    _folder: TempDir,
}

impl TestServer {
    pub fn start() -> Self {
        Self::start_with(|_| {}, QueueConfig::default())
    }

    /// Serves `docs` with encoder `tiny` and reranker `tiny-cross`, and `plain` without models.
    pub fn start_with(tweak: impl FnOnce(&mut ServerConfig), queue: QueueConfig) -> Self {
        Self::start_over(&encoder("models/tiny-bert"), tweak, queue)
    }

    /// As [`Self::start_with`], over vectors that another encoder made.
    pub fn start_over(
        builder: &BiEncoder,
        tweak: impl FnOnce(&mut ServerConfig),
        queue: QueueConfig,
    ) -> Self {
        let started = Self::launch(builder, tweak, |_| {}, queue);
        started.wait_until_ready();
        started
    }

    /// As [`Self::start`], set up further.
    pub fn start_set(
        tweak: impl FnOnce(&mut ServerConfig),
        setup: impl FnOnce(&mut Server),
    ) -> Self {
        let started = Self::start_unasked(tweak, setup);
        started.wait_until_ready();
        started
    }

    /// The same, but nobody asks whether it is ready.
    pub fn start_unasked(
        tweak: impl FnOnce(&mut ServerConfig),
        setup: impl FnOnce(&mut Server),
    ) -> Self {
        let builder = encoder("models/tiny-bert");
        Self::launch(&builder, tweak, setup, QueueConfig::default())
    }

    fn launch(
        builder: &BiEncoder,
        tweak: impl FnOnce(&mut ServerConfig),
        setup: impl FnOnce(&mut Server),
        mut queue: QueueConfig,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let encoder = encoder("models/tiny-bert");
        let root = build(folder.path(), builder);
        let mut config = ServerConfig {
            bind: SocketAddr::from(([127, 0, 0, 1], 0)),
            default_timeout: PATIENCE,
            max_timeout: PATIENCE,
            read_timeout: PATIENCE,
            write_timeout: PATIENCE,
            check_interval: PATIENCE,
            shutdown_grace: PATIENCE,
            otlp_timeout: PATIENCE,
            ..ServerConfig::default()
        };
        tweak(&mut config);
        if queue.max_wait == QueueConfig::default().max_wait {
            queue.max_wait = PATIENCE;
        }
        let mut server = Server::new(config);
        server.add_encoder("tiny", encoder, queue).unwrap();
        server.set_dimensions("tiny", vec![8, 16]).unwrap();
        server
            .add_reranker("tiny-cross", reranker(), queue)
            .unwrap();
        server
            .add_collection("docs", open(&root), Some("tiny"), Some("tiny-cross"))
            .unwrap();
        let live = AliasName::parse("live").unwrap();
        server
            .follow("docs", Collection::open(&root).unwrap(), live)
            .unwrap();
        server
            .add_collection("plain", open(&root), None, None)
            .unwrap();
        let weighted = Fusion {
            method: FusionMethod::Weighted,
            weights: Weights {
                dense: 0.0,
                bm25: 1.0,
            },
        };
        server
            .add_collection("weighted", open(&root), Some("tiny"), None)
            .unwrap();
        server.set_fusion("weighted", weighted).unwrap();
        setup(&mut server);

        let (shutdown, stopped) = oneshot::channel();
        let (bound, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let server = server.bind().await?;
                bound.send((server.address(), server.control())).unwrap();
                let stopped = async {
                    let _ = stopped.await;
                };
                server.run(stopped).await
            })
        });
        let (address, control) = address.recv().unwrap();
        Self {
            address,
            control,
            root,
            shutdown: Some(shutdown),
            thread: Some(thread),
            _folder: folder,
        }
    }

    fn wait_until_ready(&self) {
        let request = b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let is_ready = || {
            let answer = self.connect().ask(request);
            answer.is_some_and(|answer| answer.status == 200)
        };
        wait_until(is_ready, "the server did not become ready");
    }

    pub fn get(&self, path: &str) -> Answer {
        self.raw(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes())
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, "", body.to_string().as_bytes())
    }

    pub fn search(&self, body: Value) -> Answer {
        self.post("/v1/collections/docs/search", &body)
    }

    /// `headers` are whole lines with their `\r\n`.
    pub fn post_with(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let kind = match headers.contains("content-type") {
            true => "",
            false => "content-type: application/json\r\n",
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{kind}{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    /// Sends bytes as they are and reads until the server closes.
    pub fn raw(&self, request: &[u8]) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream, Vec::new())
    }

    /// The answer of a server that gives requests little time. Where this thread is held up for longer than that, the connection is
    /// closed without an answer, and the request is sent again.
    #[track_caller]
    pub fn insist(&self, request: &[u8]) -> Answer {
        let answer = (0..50).find_map(|_| self.connect().ask(request));
        answer.expect("the server answers")
    }

    /// Begins the shutdown.
    pub fn stop(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Waits until the server has stopped by itself.
    pub fn wait(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap().unwrap();
        }
    }
}

/// A connection, and what was sent over it.
pub struct Client(TcpStream, Vec<u8>);

impl Client {
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.1.extend(bytes);
    }

    /// Sends a head and returns when the server asks for the body, so that the request is certainly being handled.
    pub fn begin(&mut self, path: &str, n_bytes: usize) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
             expect: 100-continue\r\ncontent-length: {n_bytes}\r\n\r\n"
        );
        self.send(head.as_bytes());
        let expected = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut answer = [0; 25];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, expected);
    }

    pub fn close_sending(&self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// Sends a request as far as the server takes it; its answer, if there is one.
    #[track_caller]
    pub fn ask(&mut self, request: &[u8]) -> Option<Answer> {
        let _ = self.0.write_all(request);
        self.1.extend(request);
        let mut bytes = Vec::new();
        let _ = self.0.read_to_end(&mut bytes);
        if bytes.is_empty() {
            return None;
        }
        let answer = Answer::parse(&bytes);
        contract::check(&self.1, &answer);
        Some(answer)
    }

    /// Reads until the server closes; the answer is one that the document foresees.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        let answer = Answer::parse(&bytes);
        contract::check(&self.1, &answer);
        answer
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub text: String,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer: `{text}`"));
        let mut lines = head.lines();
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        let headers = lines.map(header).collect();
        Self {
            status,
            headers,
            text: body.to_owned(),
        }
    }

    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: `{}`", self.text))
    }

    /// The body of a 200.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The problem of an error, checked for what all problems have.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["code"], code, "{self:?}");
        assert_eq!(
            problem["type"],
            format!("https://trawl.invalid/errors/{code}")
        );
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem
    }
}
