use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{RerankDocument, RerankResult};

/// Documents to order by how well they answer a query, as Cohere's second API asks. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[schema(example = json!({
    "model": "ce-mini", "query": "why is the sky blue", "top_n": 1, "max_tokens_per_doc": 256,
    "documents": ["Air scatters blue light more than red.", "Bread rises because yeast breathes."]
}))]
pub struct CohereRerankRequest {
    /// Name of a loaded cross-encoder.
    pub model: String,
    /// The query.
    pub query: String,
    /// The documents. Limit: `limits.rerank_documents`.
    pub documents: Vec<RerankDocument>,
    /// Results returned; all when left out.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub top_n: Option<usize>,
    /// Tokens that are read of each document, counted before query and document become a pair. A pair over the model's
    /// length is cut further.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_tokens_per_doc: Option<usize>,
}

/// The documents, best first; equal scores keep the order given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "01K9ZP0Q6W3M4T7V8XKJ2C5D9E",
    "results": [{"index": 0, "relevance_score": 0.97}],
    "meta": {
        "api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "tokens": {"input_tokens": 34},
        "warnings": ["1 of 2 documents was cut"]
    }
}))]
pub struct CohereRerankResponse {
    /// The request's id.
    pub id: String,
    /// Best first. `relevance_score` is between 0 and 1: the logistic function of the model's logit.
    pub results: Vec<RerankResult>,
    /// What it cost.
    pub meta: CohereMeta,
}

/// What a request cost, as Cohere's clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CohereMeta {
    /// Always version `2`.
    pub api_version: CohereVersion,
    /// Always one search unit.
    pub billed_units: CohereUnits,
    /// What was read.
    pub tokens: CohereTokens,
    /// What the caller may want to know: documents that were cut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The version of Cohere's API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CohereVersion {
    /// Always `2`.
    pub version: String,
}

/// What Cohere would bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CohereUnits {
    /// Searches.
    pub search_units: u32,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CohereTokens {
    /// Tokens of all pairs.
    pub input_tokens: usize,
}

/// An error as Cohere's clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CohereError {
    /// The request's id.
    pub id: String,
    /// What is wrong, for people.
    pub message: String,
    /// As in [`Problem`](crate::Problem).
    pub code: crate::ErrorCode,
}
