use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::object::objects;

/// What callers thought of what was found.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"feedback": [
    {"request_id": "01K9ZP0Q6W3M4T7V8XKJ2C5D9E", "id": "d42", "rank": 3},
    {"query": "how do bees find their way home", "id": "d7", "grade": 2}
]}))]
pub struct FeedbackRequest {
    /// Clicks and judgments, at least one. Limit: `limits.feedback`.
    #[serde(deserialize_with = "objects")]
    pub feedback: Vec<Feedback>,
}

/// A click on a document, or with a `grade` a judgment of it, for the query of a search or for a text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Feedback {
    /// The `request_id` of the search that found the document; this or `query` has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Which search of a batch, from 0.
    #[serde(default)]
    #[schema(default = 0)]
    pub place: usize,
    /// The text that was searched for. Only where texts are kept (`query_log.text`). Limit: `limits.query_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The document, or one of its passages.
    pub id: String,
    /// How relevant it is: 0 is not at all, at most 10. Without a grade somebody clicked on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 10)]
    pub grade: Option<usize>,
    /// Where it was shown, from 1; unless given, its rank in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub rank: Option<usize>,
}

/// That feedback was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackResponse {
    /// Clicks and judgments, all there were.
    pub accepted: usize,
    /// As in the header `x-request-id`.
    pub request_id: String,
}
