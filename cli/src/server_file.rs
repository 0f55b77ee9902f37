//! `server.toml` and the environment variables that stand above it.

mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use collection::Durability;
use encoder::Arithmetic;
use milvus::Address;
use retriever::{Fusion, Weights};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use server::{Limits, QueryLogConfig, ServerConfig, nearest};
use toml::{Table, Value};

use crate::device::DeviceChoice;
use crate::failure::Failure;
use crate::fusion::FusionName;
use crate::server_auth::{AuthSection, TlsSection};

/// Looked for when no file is named, in this order.
const PLACES: [&str; 2] = ["server.toml", "/etc/trawl/server.toml"];
const PREFIX: &str = "TRAWL__";

/// What a server is to serve, and how.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerFile {
    pub server: ServerSection,
    pub models: BTreeMap<String, ModelSection>,
    pub collections: BTreeMap<String, CollectionSection>,
    pub limits: Limits,
    pub queue: QueueSection,
    pub documents: DocumentsSection,
    pub auth: AuthSection,
    pub cors: CorsSection,
    pub query_log: QueryLogSection,
    pub observability: ObservabilitySection,
}

/// `[server]`.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    pub bind: SocketAddr,
    pub max_body: Size,
    pub default_timeout: Time,
    pub max_timeout: Time,
    pub read_timeout: Time,
    pub write_timeout: Time,
    pub shutdown_grace: Time,
    #[serde(deserialize_with = "interval")]
    pub check_interval: Time,
    pub query_cache: Size,
    pub strict_arithmetic: bool,
    pub verify: bool,
    /// What holds and searches vectors: `auto`, `cpu`, `cuda:0`, `cuda:0,cuda:1` and so on.
    pub device: DeviceChoice,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSection>,
    /// Folder of the collections that are made over HTTP; without, none are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Memory that the process may hold; a generation that does not fit beside the current one is not switched to.
    pub max_memory: Option<Size>,
}

impl Default for ServerSection {
    fn default() -> Self {
        let config = ServerConfig::default();
        Self {
            bind: config.bind,
            max_body: Size(config.max_body_bytes),
            default_timeout: Time(config.default_timeout),
            max_timeout: Time(config.max_timeout),
            read_timeout: Time(config.read_timeout),
            write_timeout: Time(config.write_timeout),
            shutdown_grace: Time(config.shutdown_grace),
            check_interval: Time(config.check_interval),
            query_cache: Size(config.query_cache_bytes),
            strict_arithmetic: config.strict_arithmetic,
            verify: config.verify,
            device: DeviceChoice::default(),
            tls: None,
            data: None,
            max_memory: None,
        }
    }
}

/// `[models.NAME]`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Directory, or a name in the model folder.
    pub path: PathBuf,
    pub role: ModelRole,
    /// Numbers of its matrix products; `--precision` stands above it.
    pub precision: Option<Arithmetic>,
    pub max_batch_tokens: Option<usize>,
    /// Of an encoder: widths to which its vectors may be cut.
    #[serde(default)]
    pub dimensions: Vec<usize>,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelRole {
    Encoder,
    Reranker,
}

/// `[collections.NAME]`. What has a default is written, too.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionSection {
    /// Folder, bundle, or the URL of a collection in object storage.
    #[serde(skip_serializing)]
    pub path: PathBuf,
    /// Of a collection in object storage: folder of the generations that were copied; one in the user's cache folder without.
    pub cache: Option<PathBuf>,
    /// How often the alias in object storage is looked at.
    #[serde(default = "poll", deserialize_with = "interval")]
    pub poll: Time,
    /// The newest generations that the cache keeps, beside what is served and was served before.
    #[serde(default = "keep")]
    pub keep: usize,
    /// Whether servers that follow one alias in object storage change to another generation one after another.
    #[serde(default = "one_at_a_time")]
    pub one_at_a_time: bool,
    #[serde(default = "live")]
    pub alias: String,
    /// Milvus cluster that searches the vectors: `milvus://host:port,host:port/name`.
    #[serde(default, deserialize_with = "address", skip_serializing)]
    pub search: Option<Address>,
    /// Time of a search at one of its proxies.
    #[serde(default = "search_timeout")]
    pub search_timeout: Time,
    pub encoder: Option<String>,
    pub reranker: Option<String>,
    #[serde(default)]
    pub hybrid: HybridSection,
}

/// `[collections.NAME.hybrid]`: what a hybrid search does that does not say otherwise.
#[derive(Clone, Copy, Debug, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HybridSection {
    pub fusion: FusionName,
    /// The constant of `rrf`.
    pub k: NonZeroU32,
    pub weights: Weights,
}

impl Default for HybridSection {
    fn default() -> Self {
        Self {
            fusion: FusionName::Rrf,
            k: const { NonZeroU32::new(60).expect("60 is not 0") },
            weights: Weights::default(),
        }
    }
}

impl HybridSection {
    pub fn fusion(self) -> Fusion {
        Fusion {
            method: self.fusion.method(self.k.get()),
            weights: self.weights,
        }
    }
}

/// `[cors]`.
#[derive(Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsSection {
    /// Origins of pages that may ask from a browser; `*` is every one.
    pub origins: Vec<String>,
}

/// `[query_log]`.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryLogSection {
    /// The file; without, nothing is logged and no feedback taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Whether texts of queries are in it.
    pub text: bool,
    /// Bytes of a file at most.
    pub max_size: Size,
    /// Files at most, the one that is written included.
    pub files: usize,
}

impl Default for QueryLogSection {
    fn default() -> Self {
        let config = QueryLogConfig::new(PathBuf::new());
        Self {
            path: None,
            text: config.text,
            max_size: Size(config.max_bytes as usize),
            files: config.max_files,
        }
    }
}

impl QueryLogSection {
    /// The log, where there shall be one.
    pub fn resolve(&self) -> anyhow::Result<Option<QueryLogConfig>> {
        if self.files == 0 || self.max_size.0 == 0 {
            return Err(
                Failure::usage("`query_log.files` and `query_log.max_size` are above 0").into(),
            );
        }
        Ok(self.path.clone().map(|path| QueryLogConfig {
            path,
            text: self.text,
            max_bytes: self.max_size.0 as u64,
            max_files: self.files,
        }))
    }
}

/// `[observability]`.
#[derive(Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObservabilitySection {
    /// Collector of traces, OTLP over HTTP, such as `http://127.0.0.1:4318`; empty sends none.
    pub otlp_endpoint: String,
}

/// `[documents]`.
#[derive(Clone, Copy, Debug, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentsSection {
    /// What an acknowledged document survives: `fsync`, a machine that stops; `os`, a process that is killed.
    pub durability: Durability,
    /// Passages, or records, in the write log of a collection from which on it is folded into a new generation; 0 never does.
    pub compact_after: u32,
}

impl Default for DocumentsSection {
    fn default() -> Self {
        let config = ServerConfig::default();
        Self {
            durability: config.log.durability,
            compact_after: config.compact_after.unwrap_or(0),
        }
    }
}

/// `[queue]`.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSection {
    pub max_tokens: usize,
    pub max_wait: Time,
    pub interactive_share: f64,
}

impl Default for QueueSection {
    fn default() -> Self {
        let server::QueueConfig {
            max_tokens,
            max_wait,
            interactive_share,
            ..
        } = server::QueueConfig::default();
        Self {
            max_tokens,
            max_wait: Time(max_wait),
            interactive_share,
        }
    }
}

fn live() -> String {
    collection::LIVE.to_owned()
}

fn poll() -> Time {
    Time(Duration::from_secs(30))
}

fn keep() -> usize {
    2
}

fn search_timeout() -> Time {
    Time(milvus::Config::default().timeout)
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Address>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

fn one_at_a_time() -> bool {
    true
}

impl CollectionSection {
    /// A collection of which nothing but its place is said.
    pub fn at(path: PathBuf) -> Self {
        Self {
            path,
            cache: None,
            poll: poll(),
            keep: keep(),
            one_at_a_time: one_at_a_time(),
            alias: live(),
            search: None,
            search_timeout: search_timeout(),
            encoder: None,
            reranker: None,
            hybrid: HybridSection::default(),
        }
    }
}

impl ServerFile {
    /// Reads the file named, else the first one in its usual places, and puts the variables above it.
    pub fn read(
        named: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        let (text, place) = Self::text(named)?;
        Self::merge(&text, &place, variables)
    }

    /// The file that is read.
    pub fn place(named: Option<&Path>) -> Option<&Path> {
        let mut places = PLACES.map(Path::new).into_iter();
        named.or_else(|| places.find(|path| path.is_file()))
    }

    fn text(named: Option<&Path>) -> anyhow::Result<(String, String)> {
        let Some(path) = Self::place(named) else {
            return Ok((String::new(), "defaults".to_owned()));
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        Ok((text, format!("`{}`", path.display())))
    }

    fn merge(
        text: &str,
        place: &str,
        variables: impl Iterator<Item = (String, String)>,
    ) -> anyhow::Result<Self> {
        let mut table: Table = text.parse().map_err(|error| refused(place, &error))?;
        let mut names = Vec::new();
        for (name, value) in variables {
            if let Some(keys) = name.strip_prefix(PREFIX) {
                set(&mut table, keys, &value).map_err(Failure::usage)?;
                names.push(name);
            }
        }
        if names.is_empty() {
            // The text knows its lines, the table does not.
            return toml::from_str(text).map_err(|error| refused(place, &error).into());
        }
        names.sort();
        let place = format!("{place} with {}", names.join(", "));
        Self::deserialize(table).map_err(|error| refused(&place, &error).into())
    }
}

/// Sets `SECTION__KEY`. A value that is no TOML is a text.
fn set(table: &mut Table, keys: &str, value: &str) -> Result<(), String> {
    let (parents, key) = keys.rsplit_once("__").unwrap_or(("", keys));
    let mut table = table;
    for parent in parents.split("__").filter(|parent| !parent.is_empty()) {
        let parent = known(table, parent);
        let inner = table
            .entry(parent)
            .or_insert_with(|| Value::Table(Table::new()));
        table = inner
            .as_table_mut()
            .ok_or_else(|| format!("{PREFIX}{keys}: there is no such section"))?;
    }
    let parsed = format!("value = {value}").parse::<Table>().ok();
    let parsed = parsed.and_then(|mut table| table.remove("value"));
    let key = known(table, key);
    table.insert(
        key,
        parsed.unwrap_or_else(|| Value::String(value.to_owned())),
    );
    Ok(())
}

/// Variables are in capitals: a key is the one that is there but for its case, else in small letters.
fn known(table: &Table, key: &str) -> String {
    let found = table.keys().find(|known| known.eq_ignore_ascii_case(key));
    found.cloned().unwrap_or_else(|| key.to_ascii_lowercase())
}

fn refused(place: &str, error: &toml::de::Error) -> Failure {
    let failure = Failure::usage(format!("{place}: {}", error.to_string().trim_end()));
    match nearest(error.message()) {
        Some(known) => failure.hint(format!("did you mean `{known}`?")),
        None => failure,
    }
}

/// A number of bytes: `1024`, `"64KiB"`, `"32MiB"`, `"1GiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Size(pub usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number of bytes such as 1024 or \"32MiB\"")
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
        let unexpected = de::Unexpected::Signed(bytes);
        usize::try_from(bytes)
            .map(Size)
            .map_err(|_| E::invalid_value(unexpected, &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        let units = [
            ("KiB", 1usize << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("B", 1),
        ];
        let bytes = units.iter().find_map(|(unit, factor)| {
            let number: usize = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*factor)
        });
        let unexpected = de::Unexpected::Str(text);
        bytes
            .map(Size)
            .ok_or_else(|| E::invalid_value(unexpected, &self))
    }
}

/// A time: `"200ms"`, `"30s"`, `"2m"`, `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
        let millis = units.iter().find_map(|(unit, factor)| {
            let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*factor)
        });
        let expected = "a time such as \"200ms\", \"30s\" or \"2m\"";
        let unexpected = de::Unexpected::Str(&text);
        let millis = millis.ok_or_else(|| de::Error::invalid_value(unexpected, &expected))?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

/// A time between two things that are done again and again.
fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    let time = Time::deserialize(deserializer)?;
    match time.0.is_zero() {
        false => Ok(time),
        true => Err(de::Error::custom("is 0, expected a time above that")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        [server]
        bind = "127.0.0.1:9000"
        max_body = "1MiB"
        shutdown_grace = "500ms"
        strict_arithmetic = true
        [models.Enc]
        path = "models/enc"
        role = "encoder"
        [collections.docs]
        path = "data/docs"
        encoder = "Enc"
        hybrid = { fusion = "weighted", weights = { dense = 2, bm25 = 0.5 } }
        [limits]
        top_k = 50
        [queue]
        max_tokens = 1000
    "#;

    fn merge(text: &str, variables: &[(&str, &str)]) -> anyhow::Result<ServerFile> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        ServerFile::merge(text, "`server.toml`", variables.iter().map(owned))
    }

    #[test]
    fn a_file_stands_above_the_defaults() {
        let file = merge(FILE, &[]).unwrap();
        assert_eq!(file.server.bind.port(), 9000);
        assert_eq!(file.server.max_body, Size(1 << 20));
        assert_eq!(file.server.shutdown_grace, Time(Duration::from_millis(500)));
        assert!(file.server.strict_arithmetic);
        assert_eq!(
            file.server.read_timeout,
            ServerSection::default().read_timeout
        );
        assert_eq!(file.models["Enc"].role, ModelRole::Encoder);
        assert_eq!(file.collections["docs"].alias, "live");
        let fusion = Fusion {
            method: retriever::FusionMethod::Weighted,
            weights: Weights {
                dense: 2.0,
                bm25: 0.5,
            },
        };
        assert_eq!(file.collections["docs"].hybrid.fusion(), fusion);
        assert_eq!(
            (file.limits.top_k, file.limits.window),
            (50, Limits::default().window)
        );
    }

    #[test]
    fn a_variable_stands_above_the_file() {
        let variables = [
            ("TRAWL__SERVER__BIND", "127.0.0.1:9001"),
            ("TRAWL__SERVER__MAX_BODY", "2048"),
            ("TRAWL__SERVER__MAX_TIMEOUT", "1m"),
            ("TRAWL__MODELS__ENC__PATH", "elsewhere"),
            ("TRAWL__QUEUE__INTERACTIVE_SHARE", "0.5"),
            ("TRAWL__QUEUE__MAX_WAIT", "200ms"),
            ("TRAWL_MODELS", "not ours"),
        ];
        let file = merge(FILE, &variables).unwrap();
        assert_eq!(file.server.bind.port(), 9001);
        assert_eq!(file.server.max_body, Size(2048));
        assert_eq!(file.server.max_timeout, Time(Duration::from_secs(60)));
        assert_eq!(file.models["Enc"].path, Path::new("elsewhere"));
        assert_eq!(
            (file.queue.max_tokens, file.queue.interactive_share),
            (1000, 0.5)
        );
        assert_eq!(file.queue.max_wait, Time(Duration::from_millis(200)));
    }

    #[test]
    fn what_is_done_again_and_again_is_not_done_without_a_pause() {
        for text in [
            "[server]\ncheck_interval = \"0s\"",
            "[collections.docs]\npath = \"s3://bucket/docs\"\npoll = \"0ms\"",
        ] {
            let refused = merge(text, &[]).unwrap_err().to_string();
            assert!(refused.contains("is 0, expected a time above"), "{refused}");
            assert!(merge(&text.replace("\"0", "\"1"), &[]).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_place() {
        let refused = |text: &str, variables: &[(&str, &str)]| {
            format!("{:#}", merge(text, variables).unwrap_err())
        };
        let error = refused("[server]\nbnid = \"127.0.0.1:1\"", &[]);
        assert!(
            error.contains("`server.toml`") && error.contains("line 2"),
            "{error}"
        );
        assert!(error.contains("unknown field `bnid`"), "{error}");
        assert!(refused("[sever]", &[]).contains("unknown field `sever`"));
        let error = refused("", &[("TRAWL__LIMITS__TOPK", "3")]);
        assert!(
            error.contains("TRAWL__LIMITS__TOPK") && error.contains("`topk`"),
            "{error}"
        );
        for (text, expected) in [
            ("[server]\nmax_body = \"32 megabytes\"", "number of bytes"),
            ("[server]\nmax_body = -1", "number of bytes"),
            ("[server]\nshutdown_grace = \"soon\"", "a time such as"),
            ("[models.a]\nrole = \"encoder\"", "missing field `path`"),
            (
                "[models.a]\npath = \"a\"\nrole = \"both\"",
                "unknown variant `both`",
            ),
            ("server = 1", "invalid type"),
            ("[server", "line 1"),
        ] {
            let error = refused(text, &[]);
            assert!(error.contains(expected), "{error}");
        }
    }
}
