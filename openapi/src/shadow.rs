use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Lets another generation answer a share of the live searches, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShadowRequest {
    /// The candidate: a generation, or an alias that names it now.
    #[schema(example = "20261120T195500Z-3f9a1c")]
    pub generation: String,
    /// The share of searches, above 0 and up to 1.
    #[serde(default = "usual_share")]
    #[schema(default = 0.05, example = 0.05)]
    pub share: f64,
}

fn usual_share() -> f64 {
    0.05
}

/// How the answers of a candidate compare with those that were given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Shadow {
    /// The collection.
    pub collection: String,
    /// The generation that answers.
    pub live: String,
    /// The one that is compared with it.
    pub candidate: String,
    /// The share of searches that it answers, too.
    pub share: f64,
    /// Searches compared so far.
    pub compared: u64,
    /// Searches that the candidate could not answer.
    pub failed: u64,
    /// Searches whose turn it was while too many others waited.
    pub skipped: u64,
    /// Passages in both answers over those of the longer one; the mean. None before the first comparison.
    pub overlap: Option<f64>,
    /// Share of answers with the same passages in the same order.
    pub identical: Option<f64>,
    /// Share of answers that begin with the same passage.
    pub same_first: Option<f64>,
    /// Absolute difference of the scores of passages in both answers; the mean.
    pub score_drift: Option<f64>,
    /// Time of the live searches that were compared, the last 10,000.
    pub live_ms: Option<ShadowLatency>,
    /// Time of the candidate's. It waits behind live requests, and finds most query vectors remembered.
    pub candidate_ms: Option<ShadowLatency>,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShadowLatency {
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
}
