//! Changes of a collection between two builds: what the records of its write log mean.
//!
//! An *upsert* holds a document as it was sent and the vectors of its passages, made before it was acknowledged, with the
//! fingerprint they belong to: applying it needs no model, unless it is applied to a generation of another fingerprint. A
//! *delete* holds an id. [`replay`] brings an open generation up to the end of the log; [`Committer`] writes what many callers
//! ask for, a group at a time, and shows each group before it acknowledges it; [`compact`] folds the log into a new generation.

mod commit;
mod compact;
mod recipe;
mod record;
mod replay;

use collection::CollectionError;
use encoder::EncodeError;
use retriever::ChangeError;

pub use commit::{Batch, Committed, Committer, Remembered};
pub use compact::{CompactConfig, CompactReport, compact};
pub use recipe::{Draft, Recipe};
pub use record::{DocumentChange, Upsert};
pub use replay::{apply, replay};

/// Why documents cannot be changed, or changes not be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum LiveError {
    /// The collection cannot be read or written.
    #[error("cannot use the collection")]
    Collection(#[from] CollectionError),
    /// The manifest does not say how passages become vectors.
    #[error("generation `{generation}` cannot take documents: {reason}")]
    Manifest { generation: String, reason: String },
    /// In collections whose documents are split, ids such as `a#3` are those of passages.
    #[error("`{id}` is the id of a passage, not of a document")]
    PassageId { id: String },
    /// Vectors are brought, and this one is missing or not of the right width.
    #[error("document `{id}` has a vector of {found} values, expected {expected}")]
    Width {
        id: String,
        expected: usize,
        found: usize,
    },
    /// The vector or the metadata of a document does not fit.
    #[error("document `{id}` cannot be taken in")]
    Change {
        id: String,
        source: Box<ChangeError>,
    },
    /// Texts cannot be encoded.
    #[error("cannot encode document `{id}`")]
    Encode { id: String, source: EncodeError },
    /// The vectors of a document are those of another model, and there is no model to make others.
    #[error(
        "document `{id}` was encoded under {found}, the generation is of {expected}: an encoder is needed"
    )]
    Fingerprint {
        id: String,
        found: String,
        expected: String,
    },
    /// A filter does not fit the collection, or the passages cannot be looked through.
    #[error("cannot look for the documents")]
    Select(#[source] Box<retriever::SelectError>),
    /// A filter finds more than may be deleted at once.
    #[error("{n_found} documents pass the filter, limit is {limit}")]
    TooMany { n_found: usize, limit: usize },
    /// The log holds what this version does not know.
    #[error("record {position} of the write log cannot be read: {reason}")]
    Record { position: u64, reason: String },
    /// The thread that writes is gone.
    #[error("the write log is closed")]
    Closed,
}

impl From<retriever::SelectError> for LiveError {
    fn from(error: retriever::SelectError) -> Self {
        Self::Select(Box::new(error))
    }
}

impl LiveError {
    /// Whether what is on disk is damaged.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Collection(error) => error.is_corrupt(),
            Self::Record { .. } => true,
            _ => false,
        }
    }
}
