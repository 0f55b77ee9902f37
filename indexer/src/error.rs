//! Why a build failed.

use std::path::PathBuf;

use crate::Phase;

/// Why a build failed. The collection's readers see no change; the build can be resumed, unless the corpus itself has to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum BuildError {
    /// The corpus cannot be read.
    #[error("cannot read the corpus")]
    Corpus(#[from] corpus::CorpusError),
    /// A template asks for a field that no passage, or no query, has.
    #[error("cannot use the template")]
    Template(#[from] corpus::TemplateError),
    /// The collection cannot be read or written.
    #[error("cannot use the collection")]
    Collection(#[from] collection::CollectionError),
    /// Object storage cannot be read or written.
    #[error("cannot use object storage")]
    Objects(#[from] objects::ObjectsError),
    /// The encoder failed.
    #[error("cannot encode the passages")]
    Encode(#[from] encoder::EncodeError),
    /// Vectors made elsewhere cannot be used.
    #[error("cannot use the vectors")]
    Vectors(#[from] crate::VectorsError),
    /// The index refused a vector, or could not be written.
    #[error("cannot write vectors")]
    WriteVectors(#[from] index::WriteError),
    /// Such rows have no graph, or none with such parameters.
    #[error("cannot build graphs of the vectors")]
    Graph(#[source] index::WriteError),
    /// The store could not be written.
    #[error("cannot write passages")]
    WriteStore(#[from] store::WriteError),
    /// Vectors that were just written cannot be read.
    #[error("cannot read the vectors back")]
    ReadVectors(#[from] index::OpenError),
    /// Passages that were just written cannot be read.
    #[error("cannot read the passages back")]
    ReadStore(#[from] store::StoreError),
    /// The generation cannot be opened.
    #[error("cannot open the generation")]
    Open(#[from] retriever::OpenError),
    /// The write log cannot be applied.
    #[error("cannot apply the write log")]
    Live(#[from] crate::LiveError),
    /// A corpus cannot hold what was never written, nor be completed by what is no longer there.
    #[error(
        "the write log can be replayed after positions {first} to {last}, not after {position}"
    )]
    LogPosition {
        position: u64,
        first: u64,
        last: u64,
    },
    /// A collection is created once.
    #[error("collection `{}` has generations", path.display())]
    Exists { path: PathBuf },
    /// A chunk changed on disk after it was checked.
    #[error("chunk `{}` is damaged: {reason}", path.display())]
    Chunk { path: PathBuf, reason: &'static str },
    /// A folder of the build cannot be made or read.
    #[error("cannot access `{}`", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// What is certain to be written does not fit.
    #[error("`{}` needs at least {needed} bytes more, {available} are free", path.display())]
    NoRoom {
        path: PathBuf,
        needed: u64,
        available: u64,
    },
    /// A generation is complete when each of its parts is.
    #[error("{} of {of} parts are missing: {}", missing.len(), first_of(missing))]
    MissingParts { missing: Vec<usize>, of: usize },
    /// There is nothing to put together, or more than one thing.
    #[error("{n_builds} builds in `{}` have parts, expected one", collection.display())]
    Builds {
        collection: PathBuf,
        n_builds: usize,
    },
    /// A record of a part, or what the parts share, is not what was written.
    #[error("`{}` is damaged", path.display())]
    Record { path: PathBuf },
    /// The corpus was written to while it was being read.
    #[error("the corpus changed while it was being indexed")]
    CorpusChanged,
    /// Ordinals are 32 bits wide.
    #[error("the corpus has {n_passages} passages, a generation holds at most {max}")]
    TooManyPassages { n_passages: u64, max: u64 },
    /// Every shard needs a row.
    #[error("{n_shards} shards cannot share {n_passages} passages")]
    Shards { n_shards: usize, n_passages: u64 },
    /// Passages of a document begin at least one token apart and leave no tokens out.
    #[error("a stride of {stride} tokens, expected 1 to {max_tokens}, the tokens of a passage")]
    Stride { stride: usize, max_tokens: usize },
    /// Documents are split by their text.
    #[error("documents cannot be split: the template has no `<text>`")]
    NothingToSplit,
    /// Vectors made elsewhere are of passages that exist already.
    #[error("documents cannot be split when vectors are brought")]
    SplitVectors,
    /// Chunks of no passages lead nowhere.
    #[error("a chunk needs at least one passage")]
    EmptyChunks,
    /// The caller asked to stop.
    #[error("interrupted in phase {} at {done} of {total} {}; the build can be resumed", phase.as_str(), phase.unit())]
    Interrupted { phase: Phase, done: u64, total: u64 },
}

/// The first of many numbers.
fn first_of(numbers: &[usize]) -> String {
    let shown: Vec<_> = numbers.iter().take(10).map(ToString::to_string).collect();
    let rest = if numbers.len() > shown.len() {
        ", …"
    } else {
        ""
    };
    shown.join(", ") + rest
}
