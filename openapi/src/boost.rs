use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Adds `weight · f(x)` to the scores of passages, where x is the value that they have in a field. Of several values the one with
/// the greatest f counts; a passage without a value gains nothing.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "field": "published", "function": "exp_decay", "origin": "now", "scale": "30d", "weight": 0.2
}))]
pub struct Boost {
    /// An integer or float field; for a decay, also a date field.
    pub field: String,
    /// What becomes of a value.
    pub function: BoostFunction,
    /// How much it counts; below zero, it takes away.
    #[serde(default = "one")]
    #[schema(default = 1.0)]
    pub weight: f64,
    /// Which scores it is added to.
    #[serde(default)]
    pub stage: BoostStage,
    /// Of a decay: where it is 1. A number; for dates `2026-11-20`, RFC 3339, or `now`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Value>,
    /// Of a decay: the distance at which it is `decay`. A number above 0; for dates a duration such as `30d` (s, m, h, d, w).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<Value>,
    /// Of a decay: values so near to the origin have the full 1. As `scale`, 0 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<Value>,
    /// Of a decay: between 0 and 1, 0.5 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1)]
    pub decay: Option<f64>,
}

/// What becomes of a value x. The decays are those of Elasticsearch, with `d = max(0, |x − origin| − offset)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BoostFunction {
    /// `exp(d · ln(decay) / scale)`
    ExpDecay,
    /// `exp(d² · ln(decay) / scale²)`
    GaussDecay,
    /// `max(0, 1 − d · (1 − decay) / scale)`
    LinearDecay,
    /// `ln(1 + max(x, 0))`
    Log1p,
    /// `x`
    Linear,
}

/// Which scores a boost is added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "retrieval")]
pub enum BoostStage {
    /// Those of the first stage, after fusion and before reranking: they decide which passages the cross-encoder reads.
    #[default]
    Retrieval,
    /// Those of the cross-encoder; needs `rerank`.
    Rerank,
}

/// An order by the values of a field in place of that by score, ties in the order of the corpus, passages without a value last.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"field": "year", "order": "desc"}))]
pub struct Sort {
    /// A keyword, integer, float, date or boolean field.
    pub field: String,
    /// Which end comes first. Of several values that one counts.
    #[serde(default)]
    pub order: SortOrder,
}

/// Which end of an order comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "asc")]
pub enum SortOrder {
    /// The smallest value.
    #[default]
    Asc,
    /// The greatest value.
    Desc,
}

/// Gives a document a rank, wherever the ranking has it, if at all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "d42", "rank": 1}))]
pub struct Pin {
    /// The document; where documents were split, its best passage is pinned. With `group_by` its group is. One that is not there,
    /// or does not pass the filters of request and key, has no effect.
    pub id: String,
    /// Its rank, from 1; behind the end of the ranking it comes last. Limit: `limits.window`.
    #[schema(minimum = 1)]
    pub rank: usize,
}

/// What a score is made of: that of the cross-encoder, its rank prior and the boosts of stage `rerank` where it read the passage; else
/// that of the first stage and the boosts of stage `retrieval`. It is rounded to 32 bits after each stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HitExplanation {
    /// The score of the first stage (or of its fusion) before boosts; absent where the ranking did not bring the passage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_stage: Option<f32>,
    /// What the cross-encoder leaves to the order of the first stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_prior: Option<f32>,
    /// What each boost added; none where the passage is behind the first `rank_window`.
    pub boosts: Vec<HitBoost>,
}

/// What a boost added to a score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HitBoost {
    /// The field.
    pub field: String,
    /// The function.
    pub function: String,
    /// Which score it was added to.
    pub stage: BoostStage,
    /// The value that counted, dates as seconds since 1970; absent where the passage has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<f64>,
    /// What the function made of it.
    pub value: f64,
    /// That times the weight.
    pub contribution: f64,
}

fn one() -> f64 {
    1.0
}
