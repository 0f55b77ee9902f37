use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use collection::LogConfig;
use retriever::FilterLimits;
use serde::{Deserialize, Serialize};

/// Everything about a server but its models and collections, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Bytes of a request body at most (`server.max_body`).
    pub max_body_bytes: usize,
    /// Time a search has when it names none (`server.default_timeout`).
    pub default_timeout: Duration,
    /// The most time a request may ask for (`server.max_timeout`), and what embeddings and reranking have, whose size is
    /// the caller's choice.
    pub max_timeout: Duration,
    /// Time in which headers, and then the body, have to arrive (`server.read_timeout`).
    pub read_timeout: Duration,
    /// Time in which something of an answer has to go out: the client of one that does not is not reading
    /// (`server.write_timeout`).
    pub write_timeout: Duration,
    /// Time between two checks of the known answers, by which the server is ready or not (`server.check_interval`).
    pub check_interval: Duration,
    /// How long requests in flight may go on after the shutdown began (`server.shutdown_grace`).
    pub shutdown_grace: Duration,
    /// Texts turned into tokens at the same time.
    pub tokenizer_threads: usize,
    /// Refuses a collection whose vectors and queries are of different arithmetic, one of them 8 bits
    /// (`server.strict_arithmetic`); otherwise every answer has a warning.
    pub strict_arithmetic: bool,
    /// Reads every byte of a generation and compares checksums before it is served (`server.verify`).
    pub verify: bool,
    /// Bytes of remembered query vectors at most (`server.query_cache`); with 0 every query is encoded.
    pub query_cache_bytes: usize,
    /// Origins of pages that may ask from a browser (`cors.origins`); `*` is every one. None by default.
    pub cors_origins: Vec<String>,
    /// Memory that the process may hold (`server.max_memory`): a generation that does not fit beside the current one is not
    /// switched to. Without it, what the machine or the control group has.
    pub max_memory_bytes: Option<u64>,
    /// Folder of the collections that are made over HTTP (`server.data`); without, none are.
    pub data: Option<PathBuf>,
    /// How documents are written to the logs of collections (`documents.durability`).
    #[serde(skip)]
    pub log: LogConfig,
    /// Passages, or records, in the write log of a collection from which on it is folded into a new generation without being asked
    /// (`documents.compact_after`); never without.
    pub compact_after: Option<u32>,
    /// Where spans of requests are sent, as `http://127.0.0.1:4318` (`observability.otlp_endpoint`); nowhere without.
    pub otlp_endpoint: Option<String>,
    /// Time that a collector has to take them; then they are dropped.
    pub otlp_timeout: Duration,
    /// What one request may ask for.
    pub limits: Limits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            max_body_bytes: 32 << 20,
            default_timeout: Duration::from_secs(2),
            max_timeout: Duration::from_secs(30),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            check_interval: Duration::from_secs(10),
            shutdown_grace: Duration::from_secs(30),
            tokenizer_threads: 2,
            strict_arithmetic: false,
            verify: true,
            query_cache_bytes: 64 << 20,
            cors_origins: Vec::new(),
            max_memory_bytes: None,
            data: None,
            log: LogConfig::default(),
            compact_after: Some(100_000),
            otlp_endpoint: None,
            otlp_timeout: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// Limits on one request, and on all of them together. Errors name the setting: `limits.<field>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Hits of a search.
    pub top_k: usize,
    /// `offset + top_k` of a search.
    pub window: usize,
    /// Candidates that a walk through a graph keeps.
    pub ef: usize,
    /// Passages that one search reranks.
    pub rerank_candidates: usize,
    /// Filters within one another.
    pub filter_depth: usize,
    /// Conditions of a filter.
    pub filter_conditions: usize,
    /// Values that the conditions of a filter list.
    pub filter_values: usize,
    /// Fields whose values one search counts.
    pub facets: usize,
    /// Boosts of one search.
    pub boosts: usize,
    /// Pins of one search.
    pub pins: usize,
    /// Clicks and judgments of one request.
    pub feedback: usize,
    /// Bytes of a query text.
    pub query_bytes: usize,
    /// Characters of a fragment with the words of the query marked.
    pub highlight_chars: usize,
    /// Searches of one batch.
    pub batch_queries: usize,
    /// Queries of one evaluation, each with up to `top_k` ids in memory while it goes on; 0 refuses all of them.
    pub eval_queries: usize,
    /// Texts of one embeddings request.
    pub embedding_inputs: usize,
    /// Tokens whose vectors one `/embed_all` request gets: each is as large as that of a whole text.
    pub embed_all_tokens: usize,
    /// Bytes of the texts of one `/tokenize` request, and of the ids of one `/decode` request, four each: nothing of them is cut.
    pub tokenize_bytes: usize,
    /// Documents of one rerank request.
    pub rerank_documents: usize,
    /// Documents that one request adds or deletes.
    pub documents: usize,
    /// Memory of the documents of a collection that its write log adds or deletes; more are refused until they are folded.
    pub live_bytes: usize,
    /// Bytes of all headers of a request.
    pub header_bytes: usize,
    /// Requests under `/v1` in flight at the same time.
    pub requests: usize,
    /// Open connections; further ones wait to be accepted.
    pub connections: usize,
}

impl Limits {
    pub(crate) fn filter(&self) -> FilterLimits {
        FilterLimits {
            depth: self.filter_depth,
            conditions: self.filter_conditions,
            values: self.filter_values,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let filter = FilterLimits::default();
        Self {
            top_k: 1000,
            window: 10_000,
            ef: 10_000,
            rerank_candidates: 200,
            filter_depth: filter.depth,
            filter_conditions: filter.conditions,
            filter_values: filter.values,
            facets: 16,
            boosts: 16,
            pins: 100,
            feedback: 1000,
            query_bytes: 16 << 10,
            highlight_chars: 1000,
            batch_queries: 64,
            eval_queries: 0,
            embedding_inputs: 2048,
            embed_all_tokens: 32_768,
            tokenize_bytes: 1 << 20,
            rerank_documents: 1000,
            documents: 10_000,
            live_bytes: 1 << 30,
            header_bytes: 16 << 10,
            requests: 512,
            connections: 4096,
        }
    }
}

/// The queue in front of a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Tokens that may wait; what does not fit is refused with `overloaded`.
    pub max_tokens: usize,
    /// Tokens that the model reads at once; raised to the model's maximum length where it is smaller.
    pub max_batch_tokens: usize,
    /// The longest that an interactive request waits for the model to begin with it (`queue.max_wait`); then it is refused with
    /// `overloaded`. Bulk requests wait until their time is over.
    pub max_wait: Duration,
    /// Part of each batch that interactive requests may have while bulk requests wait, between 0 and 1.
    pub interactive_share: f64,
}

impl QueueConfig {
    /// The default for a model of `n_threads` threads: 2,048 tokens of a batch for each, up to 16,384.
    ///
    /// That is several groups for each thread, and a query may wait for one such batch of bulk work: 0.14 s on two
    /// threads that encode 29,000 tokens/s, as all-MiniLM-L6-v2 does.
    pub fn for_threads(n_threads: usize) -> Self {
        Self {
            max_tokens: 262_144,
            max_wait: Duration::from_secs(1),
            max_batch_tokens: (2048 * n_threads).clamp(2048, 16_384),
            interactive_share: 0.8,
        }
    }
}

impl Default for QueueConfig {
    /// That of two threads.
    fn default() -> Self {
        Self::for_threads(2)
    }
}
