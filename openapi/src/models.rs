use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The loaded models, as OpenAI's clients read them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"object": "list", "data": [{
    "id": "all-MiniLM-L6-v2", "object": "model", "created": 1763668500, "owned_by": "trawl", "role": "encoder",
    "fingerprint": "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "width": 384, "max_tokens": 256
}]}))]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// Encoders, then rerankers, each by name.
    pub data: Vec<Model>,
}

/// A loaded model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// The name that requests give as `model`.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When the server loaded it, in seconds since 1970.
    pub created: u64,
    /// Always `trawl`.
    pub owned_by: String,
    /// What it is for.
    pub role: ModelRole,
    /// Fingerprint of an encoder, with default templates; vectors of one fingerprint can be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Values of a vector, for encoders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Widths that `dimensions` may ask for beside `width`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dimensions: Vec<usize>,
    /// Most tokens of a text (of a pair, for rerankers).
    pub max_tokens: usize,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelRole {
    /// Texts to vectors.
    Encoder,
    /// Pairs of query and document to scores.
    Reranker,
}
