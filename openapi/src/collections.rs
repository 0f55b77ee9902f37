use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The collections that this server answers for, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CollectionList {
    /// Sorted by name.
    pub collections: Vec<Collection>,
}

/// A collection in short.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "name": "docs", "generation": "20261120T195500Z-3f9a1c", "passages": 83177, "width": 384, "metric": "cosine",
    "encoder": "all-MiniLM-L6-v2", "reranker": null, "model_fingerprint": "sha256:ab12…"
}))]
pub struct Collection {
    /// The name to search it by.
    pub name: String,
    /// The generation that answers.
    pub generation: String,
    /// Passages indexed.
    pub passages: u64,
    /// Values of a vector.
    pub width: usize,
    /// How vectors are compared: `inner_product`, `cosine` or `l2`.
    pub metric: String,
    /// The model that encodes queries; none where vectors were brought by the user.
    pub encoder: Option<String>,
    /// The cross-encoder that reranks, if one is there.
    pub reranker: Option<String>,
    /// Fingerprint of the model and texts that the generation was built with.
    pub model_fingerprint: String,
}

/// A collection in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CollectionDetail {
    /// The short form.
    #[serde(flatten)]
    pub collection: Collection,
    /// When the generation was finished, RFC 3339, UTC.
    pub created: String,
    /// How much was read and written.
    pub counts: CollectionCounts,
    /// Its shards, in the order of the passages they hold.
    pub shards: Vec<CollectionShard>,
    /// Bytes of all files of the generation.
    pub bytes: u64,
    /// How texts are made of records.
    pub templates: CollectionTemplates,
    /// Metadata fields and their types.
    pub schema: Value,
    /// The fingerprint entry by entry.
    pub fingerprint: Value,
    /// Digest of the corpus that was read.
    pub corpus_digest: String,
    /// Digest of vectors, ids and records: equal digests, equal content.
    pub content_digest: String,
    /// Whether a text's vector does not depend on what it was batched with.
    pub batch_invariant: bool,
}

/// How much a build read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectionCounts {
    /// Passages indexed.
    pub passages: u64,
    /// Lines of the corpus that were skipped as bad.
    pub bad_lines: u64,
    /// Passages longer than the model reads.
    pub truncated: u64,
    /// Template fields that a passage did not have.
    pub missing_fields: u64,
    /// Tokens encoded.
    pub tokens: u64,
}

/// One contiguous range of passages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectionShard {
    /// Ordinal of its first passage.
    pub first_ordinal: u32,
    /// Passages it holds.
    pub passages: u32,
    /// The encoder's arithmetic: `f32`, `fixed16`, `bf16` or `int8`.
    pub arithmetic: String,
}

/// How texts are made of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CollectionTemplates {
    /// Template of a passage's text.
    #[schema(example = "<title> <text>")]
    pub passage: String,
    /// Template of a query's text.
    #[schema(example = "<text>")]
    pub query: String,
}
