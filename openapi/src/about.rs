use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Which program answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"name": "trawl", "version": "0.1.0"}))]
pub struct Version {
    /// Always `trawl`.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What requests may ask for at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"settings": {"limits.top_k": 1000, "server.max_body": 33554432, "server.max_timeout": 30000}}))]
pub struct Limits {
    /// Limits by the names that errors give as `setting`; times are in milliseconds, sizes in bytes.
    pub settings: BTreeMap<String, u64>,
}
