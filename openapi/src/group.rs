use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::SearchHit;

/// How a group is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"method": "sum", "passages": 3}))]
pub struct GroupScore {
    /// What becomes of the scores of its best passages.
    #[serde(default)]
    pub method: GroupScoreMethod,
    /// How many of them count in a sum or mean.
    #[serde(default = "three")]
    #[schema(default = 3, minimum = 1)]
    pub passages: usize,
}

impl Default for GroupScore {
    fn default() -> Self {
        Self {
            method: GroupScoreMethod::default(),
            passages: three(),
        }
    }
}

/// What becomes of the scores of a group's best passages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "max")]
pub enum GroupScoreMethod {
    /// The best one is the group's.
    #[default]
    Max,
    /// They are added up.
    Sum,
    /// Their mean.
    Mean,
}

/// Passages of one document, or with one value of a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchGroup {
    /// Id of the document, or the value.
    pub id: String,
    /// Its place, from 1; groups skipped by `offset` count.
    pub rank: usize,
    /// Its score.
    pub score: f32,
    /// Whether it has its rank by a pin.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Its best passages, best first; `rank` is their place among all passages, 0 where a pin brought what the ranking did not.
    pub hits: Vec<SearchHit>,
}

/// The part of a document that a passage is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HitDocument {
    /// Id of the document.
    pub id: String,
    /// Place of the passage among those of the document, from 0.
    pub passage: u32,
    /// Its first character (Unicode scalar value) in the document's text.
    pub start: u32,
    /// The character after its last.
    pub end: u32,
}

fn three() -> usize {
    3
}
