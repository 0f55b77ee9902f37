use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::Gate;

/// What an alias names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({ "collection": "docs", "alias": "live", "generation": "20261120T195500Z-3f9a1c", "previous": null, "served": true }))]
pub struct Alias {
    /// The collection.
    pub collection: String,
    /// The alias.
    pub alias: String,
    /// The generation it names; also in the header `ETag`.
    pub generation: String,
    /// The generation it named before its last change: what a rollback goes back to.
    pub previous: Option<String>,
    /// Whether this server answers from that generation now.
    pub served: bool,
}

/// Makes an alias name another generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AliasRequest {
    /// The generation.
    pub generation: String,
    /// Whether it is compared with the one that the alias names, and refused when it is worse; or what is asked then.
    #[serde(default)]
    #[schema(default = true)]
    pub gate: Gate,
    /// Leaves out of the generation what was written to the collection until now; without, it is applied to it. Another generation
    /// still gets it.
    #[serde(default)]
    #[schema(default = false)]
    pub drop_live: bool,
}

/// Makes an alias name what it named before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// As of [`AliasRequest`].
    #[serde(default)]
    #[schema(default = false)]
    pub drop_live: bool,
}

/// The generations of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GenerationList {
    /// Oldest first.
    pub generations: Vec<Generation>,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Generation {
    /// Its name.
    pub generation: String,
    /// The aliases that name it.
    pub aliases: Vec<String>,
    /// When it was finished, RFC 3339, UTC; none when its manifest is damaged.
    pub created: Option<String>,
    /// Passages indexed.
    pub passages: Option<u64>,
    /// Bytes of all files.
    pub bytes: Option<u64>,
    /// Fingerprint of the model and texts that it was built with.
    pub model_fingerprint: Option<String>,
    /// Digest of vectors, ids and records.
    pub content_digest: Option<String>,
    /// The report of the gate that it passed, if it was asked.
    pub gate: Option<Value>,
    /// Whether this server answers from it now.
    pub served: bool,
}
