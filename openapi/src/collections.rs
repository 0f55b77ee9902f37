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

/// A collection that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({ "encoder": "all-MiniLM-L6-v2", "schema": { "fields": { "lang": "keyword", "year": "integer" } } }))]
pub struct CollectionRequest {
    /// The model that encodes passages and queries; may be left out where one is loaded.
    pub encoder: Option<String>,
    /// Values of the vectors that documents bring, in place of an encoder.
    pub width: Option<usize>,
    /// How vectors that are brought are compared: `cosine` (default), `inner_product` or `l2`.
    pub metric: Option<String>,
    /// The cross-encoder that reranks.
    pub reranker: Option<String>,
    /// Metadata fields and their kinds; others are kept and not filtered by.
    pub schema: Option<Value>,
    /// Text of a passage that is encoded (default: `<title> <text>`).
    pub passage_template: Option<String>,
    /// Text of a query that is encoded (default: `<text>`).
    pub query_template: Option<String>,
    /// Splits long texts into passages; tokens from the beginning of one to that of the next, at least.
    pub stride: Option<usize>,
    /// How vectors are stored: `f32` (default), `f16`, `bf16` or `int8`.
    pub rows: Option<String>,
    /// Whether generations get a graph for approximate search.
    pub graph: bool,
    /// Language of the words: stop words and stemmer (default: `english`).
    pub language: Option<String>,
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
    /// The encoder's arithmetic: `f32`, `fixed16`, `bf16x3`, `bf16` or `int8`.
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
