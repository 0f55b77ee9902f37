//! The read path: query to vector to shards to passages, fused and reranked.
//!
//! A [`Retriever`] is one generation of a collection, open for reading. It owns no model: whoever calls it brings a
//! [`QueryEncoder`] and, if passages shall be reranked, a [`Reranker`]. On the command line these call the model at
//! once ([`DirectEncoder`], [`DirectReranker`]); in the server they are the scheduler, which batches what many
//! requests ask for. Where the vectors are searched is behind [`SearchBackend`]: in this process, or by a Milvus cluster.
//!
//! What was changed since the generation was built is a [`Live`] beside it: each search sees one of them, to its end.
//!
//! Every step has the same [`Deadline`]; what could not be done in time is named in [`SearchResponse::degraded`].

mod backend;
mod boost;
mod candidates;
mod deadline;
mod error;
mod expression;
mod fingerprint;
mod fusion;
mod group;
mod in_milvus;
mod live;
mod memory;
mod models;
mod pin;
mod published;
mod request;
mod retriever;
mod selection;
mod sort;

pub use backend::{BackendError, BackendRequest, InProcess, SearchBackend, open_index, open_rows};
pub use boost::{Boost, BoostFunction, BoostStage, Boosted, DecayShape};
pub use deadline::Deadline;
pub use error::{OpenError, SearchError};
pub use expression::{has_milvus_metadata, milvus_metadata};
pub use fingerprint::{ArithmeticMismatch, FingerprintError, check_arithmetic, check_encoder};
pub use fusion::{Fused, Fusion, FusionMethod, Weights};
pub use group::{Group, GroupBy, GroupScore, Grouping};
pub use in_milvus::{InMilvus, Milvus, milvus_distance};
pub use live::{ChangeError, Live, RowForm};
pub use models::{
    DirectEncoder, DirectReranker, Encoded, ModelError, QueryEncoder, QueryLength, Reranked,
    Reranker,
};
pub use pin::Pin;
pub use published::{Published, PublishedError};
pub use request::{
    Explanation, Fragment, Highlight, Hit, HitDocument, Include, Mode, OnTimeout, QueryInput,
    Relation, RerankRequest, Scores, SearchOptions, SearchRequest, SearchResponse, TextField,
    Timing, Total, Usage,
};
pub use retriever::{OpenConfig, Retriever};
pub use selection::MAX_FACET_VALUES;
pub use sort::{Sort, SortOrder};
pub use store::{
    Added, AddedPart, Bitmap, Bounds, Condition, Facet, FieldFault, Filter, FilterError,
    FilterLimits, Piece, SelectError, StoreError, Test, View,
};
