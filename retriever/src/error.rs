//! Why a generation could not be opened, and why a search gave no answer.

use corpus::{FieldKind, TemplateError};
use store::FilterError;

use crate::{BackendError, ModelError, Weights};

/// Why a generation could not be opened for search.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The vectors cannot be read.
    #[error("cannot open the vectors of generation `{generation}`")]
    Index {
        /// The generation.
        generation: String,
        /// Why.
        source: index::OpenError,
    },
    /// The cluster that is to search the vectors does not hold them.
    #[error("cannot search generation `{generation}` in Milvus")]
    Milvus {
        /// The generation.
        generation: String,
        /// Why.
        source: crate::PublishedError,
    },
    /// The texts cannot be read.
    #[error("cannot open the texts of generation `{generation}`")]
    Store {
        /// The generation.
        generation: String,
        /// Why.
        source: store::StoreError,
    },
    /// Parts of one generation disagree.
    #[error(
        "{part} holds {found} passages, the manifest of generation `{generation}` says {expected}"
    )]
    Count {
        /// The generation.
        generation: String,
        /// `index` or `store`.
        part: &'static str,
        /// What the manifest says.
        expected: u64,
        /// What the part holds.
        found: u64,
    },
    /// The metadata fields of the manifest cannot be read.
    #[error("metadata fields of generation `{generation}`")]
    Schema {
        /// The generation.
        generation: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The texts know other documents than the manifest, or none.
    #[error(
        "the store knows {found} documents, the manifest of generation `{generation}` says {expected}"
    )]
    Documents {
        /// The generation.
        generation: String,
        /// What the manifest says.
        expected: u64,
        /// What the store holds.
        found: u64,
    },
    /// A template of the manifest cannot be read.
    #[error("template of generation `{generation}`")]
    Template {
        /// The generation.
        generation: String,
        /// Why.
        source: TemplateError,
    },
}

/// Why a search gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The vector of a query has the wrong width.
    #[error("query vector has {given} values, index width is {expected}")]
    Width {
        /// Values given.
        given: usize,
        /// Values of a row.
        expected: usize,
    },
    /// The query vector cannot be compared with rows.
    #[error("query vector holds a value that is not finite at position {position}")]
    NotFinite {
        /// Position of the value.
        position: usize,
    },
    /// Lexical search needs text.
    #[error("{mode} search needs a query text, a vector was given")]
    TextNeeded {
        /// `lexical`, `hybrid` or `rerank`.
        mode: &'static str,
    },
    /// A batch mixes texts and vectors.
    #[error("batch mixes query texts and query vectors")]
    MixedBatch,
    /// Reranking was asked for and there is no cross-encoder.
    #[error("no reranker is loaded")]
    NoReranker,
    /// The filter does not fit the collection.
    #[error("the filter does not fit the collection")]
    Filter(#[source] FilterError),
    /// A field cannot be counted.
    #[error("the facets do not fit the collection")]
    Facets(#[source] FilterError),
    /// A boost does not fit the collection.
    #[error("the boosts do not fit the collection")]
    Boosts(#[source] FilterError),
    /// Passages cannot be sorted so.
    #[error("the order does not fit the collection")]
    Sort(#[source] FilterError),
    /// The sources of a hybrid search cannot be weighed so.
    #[error(
        "weights {} and {} of a hybrid search, expected numbers from 0 on, one of them above",
        .0.dense, .0.bm25
    )]
    Weights(Weights),
    /// The encoder gave no vector.
    #[error("cannot encode the query")]
    Encode(#[source] ModelError),
    /// The cross-encoder gave no scores.
    #[error("cannot rerank")]
    Rerank(#[source] ModelError),
    /// The index gave no neighbors.
    #[error("cannot search the index")]
    Backend(#[source] BackendError),
    /// A passage cannot be read.
    #[error("cannot read a passage")]
    Store(#[source] store::StoreError),
    /// The deadline passed between two steps.
    #[error("deadline passed before {step}")]
    DeadlineExceeded {
        /// The step that was not begun.
        step: &'static str,
    },
    /// Passages are grouped by documents or by a keyword field.
    #[error(
        "cannot group by `{field}`: {}",
        if kind.is_some() { "not a keyword field" } else { "no such field" }
    )]
    GroupField {
        /// The field.
        field: String,
        /// What it is, if it is there.
        kind: Option<FieldKind>,
    },
    /// The search ended without an answer.
    #[error("search stopped without an answer")]
    Stopped,
}
