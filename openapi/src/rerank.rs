use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Documents to order by how well they answer a query, as Jina's and Cohere's clients ask. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[schema(example = json!({
    "model": "ce-mini", "query": "why is the sky blue", "top_n": 1, "return_documents": true,
    "documents": ["Air scatters blue light more than red.", "Bread rises because yeast breathes."]
}))]
pub struct RerankRequest {
    /// Name of a loaded cross-encoder; may be left out when exactly one is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The query.
    pub query: String,
    /// The documents. Limit: `limits.rerank_documents`.
    pub documents: Vec<RerankDocument>,
    /// Results returned; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub top_n: Option<usize>,
    /// Whether results carry their document.
    #[serde(default)]
    pub return_documents: bool,
}

/// A document: its text, or an object with the text under `text`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string or an object with a string under `text`"
)]
pub enum RerankDocument {
    /// The text.
    Text(String),
    /// The text in an object.
    #[serde(deserialize_with = "crate::object")]
    Object(RerankDocumentText),
}

impl RerankDocument {
    /// The text, whichever way it was given.
    #[must_use]
    pub fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Object(RerankDocumentText { text }) => text,
        }
    }
}

/// A document's text in an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RerankDocumentText {
    /// The text.
    pub text: String,
}

/// The documents, best first; equal scores keep the order given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "01K9ZP0Q6W3M4T7V8XKJ2C5D9E", "model": "ce-mini",
    "results": [{
        "index": 0, "relevance_score": 0.97, "document": {"text": "Air scatters blue light more than red."}
    }],
    "usage": {"total_tokens": 34}
}))]
pub struct RerankResponse {
    /// The request's id.
    pub id: String,
    /// The model that answered.
    pub model: String,
    /// Best first.
    pub results: Vec<RerankResult>,
    /// What it cost.
    pub usage: RerankUsage,
}

/// One document's score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RerankResult {
    /// Position of the document in the request.
    pub index: usize,
    /// The cross-encoder's score; higher is better.
    pub relevance_score: f32,
    /// The document, with `return_documents`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<RerankDocumentText>,
}

/// What reranking cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RerankUsage {
    /// Tokens of all pairs.
    pub total_tokens: usize,
}
