//! What to build.

use std::path::PathBuf;

use collection::{BuildMode, LIVE};
use corpus::{CorpusConfig, Template};
use encoder::ModelOptions;
use index::{HnswConfig, RowType};
use serde::Serialize;
use store::Language;

/// Passages in a chunk unless told otherwise.
pub const DEFAULT_CHUNK_PASSAGES: usize = 1024;

/// What to build, and where. The manifest keeps a copy.
#[derive(Clone, Debug, Serialize)]
pub struct BuildConfig {
    /// Folder of the collection; made when it is not there.
    pub collection: PathBuf,
    /// The passages.
    pub corpus: CorpusConfig,
    /// Where the encoder was loaded from, for the record; none when vectors are brought.
    pub model: Option<PathBuf>,
    /// How it was told to read its directory, for the record.
    pub model_options: ModelOptions,
    /// Whether the encoder takes the title and the templated text as a pair, in place of the templated text alone.
    pub passage_pair: bool,
    /// Splits documents that are longer than the encoder reads into passages: tokens from the beginning of a full one to
    /// that of the next, at least; what is left of its tokens is the most that the two share. Without it texts are cut.
    pub stride: Option<usize>,
    /// How a passage becomes the text that is encoded.
    pub passage_template: Template,
    /// How a query becomes the text that is encoded; searches read it from the manifest.
    pub query_template: Template,
    /// Number of shards.
    pub n_shards: usize,
    /// Passages in a chunk: what a kill can cost, and what is encoded together.
    pub chunk_passages: usize,
    /// How the vectors are stored.
    pub rows: RowType,
    /// The graph that is built over each shard; none for exact search alone.
    pub graph: Option<HnswConfig>,
    /// Language of the lexical index.
    pub language: Language,
    /// Alias or generation whose vectors are taken over where the text of a passage is the same; none to encode all.
    #[serde(skip)]
    pub base: Option<String>,
    /// How much of the write log the corpus holds already; none where it was exported without regard to it, so that everything
    /// that is in the log is replayed on the generation.
    #[serde(skip)]
    pub log_position: Option<LogPosition>,
    /// What to do about an earlier build with the same content.
    #[serde(skip)]
    pub mode: BuildMode,
    /// Whether the generation becomes `live`; the first one of a collection always does.
    #[serde(skip)]
    pub publish: bool,
}

/// How much of the write log a corpus holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogPosition {
    /// Everything up to a position.
    At(u64),
    /// Everything that was written before the build begins; when it is resumed, before it began.
    End,
}

impl BuildConfig {
    /// The same, with a corpus that is read as documents where those are split.
    pub(crate) fn split_if_asked(&self) -> Self {
        Self {
            corpus: CorpusConfig {
                split: self.stride.is_some(),
                ..self.corpus.clone()
            },
            ..self.clone()
        }
    }

    /// One shard, default templates and chunks, English, a new unpublished build that takes over what `live` has.
    pub fn new(
        collection: PathBuf,
        corpus: CorpusConfig,
        model: impl Into<Option<PathBuf>>,
    ) -> Self {
        Self {
            collection,
            corpus,
            model: model.into(),
            model_options: ModelOptions::default(),
            passage_pair: false,
            stride: None,
            passage_template: Template::default(),
            query_template: Template::query_default(),
            n_shards: 1,
            chunk_passages: DEFAULT_CHUNK_PASSAGES,
            rows: RowType::default(),
            graph: None,
            language: Language::default(),
            base: Some(LIVE.to_owned()),
            log_position: None,
            mode: BuildMode::New,
            publish: false,
        }
    }
}
