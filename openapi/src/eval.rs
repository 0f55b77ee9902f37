use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::filter::filter_or_null;
use crate::object::{object, object_or_null, objects};
use crate::{Boost, Filter, HybridOptions, RerankOptions, SearchMode, SearchOptions};

/// Queries with judgments, and how a collection is searched for them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "collection": "docs", "queries": {"q1": "how do bees find their way home"}, "qrels": {"q1": {"bees-3": 2, "bees-7": 1}},
    "measures": ["ndcg@10", "recall@100"], "mode": "hybrid"
}))]
pub struct EvalRequest {
    /// Name of the collection; `name@alias` or `name@generation` is another generation of it.
    pub collection: String,
    /// The texts of the queries, by id. Those without judgments are not searched.
    pub queries: BTreeMap<String, String>,
    /// The judgments: grades by the id of the query, then by that of the document; above 0 is relevant. Limit on the queries:
    /// `limits.eval_queries`.
    pub qrels: BTreeMap<String, BTreeMap<String, i32>>,
    /// What is measured, as `trawl eval` and trec_eval name it.
    #[serde(default = "usual")]
    #[schema(default = json!(["ndcg@10", "mrr@10", "recall@100"]))]
    pub measures: Vec<String>,
    /// Passages that each search finds, documents where these were split into passages. Unless given, as many as the measures look at; one that looks at all counts as 100.
    /// Limit: `limits.top_k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub top_k: Option<usize>,
    /// As in a search.
    #[serde(default)]
    pub mode: SearchMode,
    /// As in a search.
    #[serde(
        default,
        deserialize_with = "filter_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub filter: Option<Filter>,
    /// As in a search.
    #[serde(default, deserialize_with = "objects")]
    pub boosts: Vec<Boost>,
    /// As in a search.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub hybrid: Option<HybridOptions>,
    /// As in a search.
    #[serde(default, deserialize_with = "object")]
    pub search: SearchOptions,
    /// As in a search.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub rerank: Option<RerankOptions>,
}

fn usual() -> Vec<String> {
    ["ndcg@10", "mrr@10", "recall@100"]
        .map(str::to_owned)
        .to_vec()
}

/// How well a generation answers queries.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[schema(example = json!({
    "generation": "20261120T200000Z-77aa01", "model_fingerprint": "sha256:ab12", "queries": 84, "degraded": 0,
    "measures": {"ndcg@10": 0.84, "recall@100": 0.99}
}))]
pub struct EvalReport {
    /// The generation that was searched.
    pub generation: String,
    /// Fingerprint of its model and texts.
    pub model_fingerprint: String,
    /// Queries with judgments: the means are over all of them.
    pub queries: u64,
    /// Those of them whose answers lack a part, as where reranking took longer than its `timeout_ms`.
    pub degraded: u64,
    /// The mean of each measure; of one that counts, the sum.
    pub measures: BTreeMap<String, f64>,
}
