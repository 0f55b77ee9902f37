use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Why a request failed (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "type": "https://trawl.invalid/errors/validation", "title": "Request is not valid", "status": 422,
    "detail": "/top_k is 5000, limit is 1000 (limits.top_k)", "instance": "/v1/collections/docs/search",
    "code": "validation", "retryable": false, "request_id": "01K9ZP0Q6W3M4T7V8XKJ2C5D9E",
    "errors": [{
        "pointer": "/top_k", "code": "too_large", "message": "is 5000, limit is 1000",
        "limit": 1000, "given": 5000, "setting": "limits.top_k"
    }]
}))]
pub struct Problem {
    /// The code as a URI; it names the kind of error and leads nowhere.
    pub r#type: String,
    /// The kind of error, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This error, for people.
    pub detail: String,
    /// The path of the request.
    pub instance: String,
    /// The kind of error, for programs.
    pub code: ErrorCode,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to try again; the header `Retry-After` says it in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// As in the header `x-request-id`; the server's log has the cause under it.
    pub request_id: String,
    /// The fields at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// With `gate_failed`: what the gate found, with the questions that lost most side by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub gate: Option<Value>,
}

/// A field at fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// Where it is in the body (RFC 6901); empty for the body as a whole.
    pub pointer: String,
    /// `unknown_field`, `unknown_value`, `duplicate`, `wrong_type`, `missing`, `too_large`, `too_small`, `wrong_width`, `not_finite`, `zero`, `blank`,
    /// `conflict`, `unsupported`.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
    /// The most, or least, that is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<u64>,
    /// The server's setting that holds the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
}

/// The kinds of error. Codes are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the body is no JSON, or a header cannot be read.
    BadRequest,
    /// 401: no key, or one that is not known.
    Unauthorized,
    /// 403: the key may not do this, or not here.
    Forbidden,
    /// 404: no such route or collection.
    NotFound,
    /// 404: no such model.
    ModelNotFound,
    /// 405: the header `Allow` has the methods.
    MethodNotAllowed,
    /// 408: the request did not arrive in time.
    SlowClient,
    /// 409: the generation is worse than the one it would replace.
    GateFailed,
    /// 409: the generation was built with another model or other texts.
    FingerprintMismatch,
    /// 409: a collection has the name.
    AlreadyExists,
    /// 409: another process writes to the collection.
    Locked,
    /// 412: the alias names another generation than `If-Match` says.
    PreconditionFailed,
    /// 413: the body has too many bytes.
    BodyTooLarge,
    /// 413: the request has too many texts, or tokens.
    BatchTooLarge,
    /// 415: the body is not declared as JSON.
    UnsupportedMediaType,
    /// 422: the body is JSON, but not a valid request; `errors` has the fields.
    Validation,
    /// 429: the key has used up its rate; the header `Retry-After` says when to try again.
    RateLimited,
    /// 429: the queue is full; the header `Retry-After` says when to try again.
    Overloaded,
    /// 431: the headers have too many bytes.
    HeadersTooLarge,
    /// 500: the server is at fault.
    Internal,
    /// 503: models and collections are being checked.
    NotReady,
    /// 503: the server is about to stop.
    Draining,
    /// 503: the cluster that searches the vectors does not answer.
    SearchUnavailable,
    /// 504: the request's time is over.
    DeadlineExceeded,
    /// 507: two generations do not fit into memory at once.
    InsufficientStorage,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 25] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::ModelNotFound,
        Self::MethodNotAllowed,
        Self::SlowClient,
        Self::BodyTooLarge,
        Self::BatchTooLarge,
        Self::UnsupportedMediaType,
        Self::Validation,
        Self::Overloaded,
        Self::RateLimited,
        Self::HeadersTooLarge,
        Self::Internal,
        Self::NotReady,
        Self::Draining,
        Self::SearchUnavailable,
        Self::DeadlineExceeded,
        Self::GateFailed,
        Self::FingerprintMismatch,
        Self::AlreadyExists,
        Self::Locked,
        Self::PreconditionFailed,
        Self::InsufficientStorage,
    ];

    /// HTTP status, code as text, and title.
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "bad_request", "Request cannot be read"),
            Self::Unauthorized => (401, "unauthorized", "A key is needed"),
            Self::Forbidden => (403, "forbidden", "This is not allowed"),
            Self::NotFound => (404, "not_found", "No such thing"),
            Self::ModelNotFound => (404, "model_not_found", "No such model"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "Method is not allowed here"),
            Self::SlowClient => (408, "slow_client", "Request did not arrive in time"),
            Self::GateFailed => (
                409,
                "gate_failed",
                "Generation is worse than the one before",
            ),
            Self::FingerprintMismatch => (
                409,
                "fingerprint_mismatch",
                "Generation belongs to another model",
            ),
            Self::AlreadyExists => (409, "already_exists", "There is one already"),
            Self::Locked => (409, "locked", "Collection is being written"),
            Self::PreconditionFailed => (412, "precondition_failed", "Alias has changed"),
            Self::InsufficientStorage => (507, "insufficient_storage", "Not enough memory"),
            Self::BodyTooLarge => (413, "body_too_large", "Body has too many bytes"),
            Self::BatchTooLarge => (413, "batch_too_large", "Request asks for too much at once"),
            Self::UnsupportedMediaType => (
                415,
                "unsupported_media_type",
                "Body is not declared as JSON",
            ),
            Self::Validation => (422, "validation", "Request is not valid"),
            Self::RateLimited => (429, "rate_limited", "Key has used up its rate"),
            Self::Overloaded => (429, "overloaded", "Server is overloaded"),
            Self::HeadersTooLarge => (431, "headers_too_large", "Headers have too many bytes"),
            Self::Internal => (500, "internal", "Server failed"),
            Self::NotReady => (503, "not_ready", "Server is not ready yet"),
            Self::Draining => (503, "draining", "Server is about to stop"),
            Self::SearchUnavailable => (503, "search_unavailable", "Vectors cannot be searched"),
            Self::DeadlineExceeded => (504, "deadline_exceeded", "Time of the request is over"),
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// The code as it stands in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().1
    }

    /// The kind of error, for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn retryable(self) -> bool {
        matches!(self.status(), 408 | 429 | 503 | 504)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_reads_the_same_everywhere() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
