use std::fmt;
use std::time::Duration;

use openapi::{ErrorCode, FieldError, OpenAiError, Problem};
use ureq::http::HeaderMap;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server, or something before it, said no.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The request cannot be written as JSON.
    #[error("cannot write the request of `{operation}`")]
    Request {
        /// The operation of the OpenAPI document.
        operation: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// Nothing answered, or not in time, or more than [`max_answer_bytes`](crate::ClientConfig::max_answer_bytes).
    #[error("cannot ask `{operation}`")]
    Transport {
        /// The operation of the OpenAPI document.
        operation: &'static str,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// What came is not what the operation answers.
    #[error("cannot read the answer of `{operation}`")]
    Answer {
        /// The operation of the OpenAPI document.
        operation: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The kind of error; none where the answer is not trawl's, or has a code that this client does not know.
    pub code: Option<ErrorCode>,
    /// What is wrong, for people; the whole body where it is not trawl's.
    pub detail: String,
    /// As in the header `x-request-id`; the server's log has the cause under it.
    pub request_id: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// The fields at fault.
    pub errors: Vec<FieldError>,
    /// What the gate found, where it refused.
    pub gate: Option<serde_json::Value>,
}

impl Refusal {
    /// Reads an answer whose status is an error's: a problem, an error as OpenAI's clients read it, or anything else.
    pub(crate) fn read(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name: &str| headers.get(name)?.to_str().ok();
        let seconds = header("retry-after").and_then(|seconds| seconds.parse().ok());
        let refusal = Self {
            status,
            code: None,
            detail: String::new(),
            request_id: header("x-request-id").map(str::to_owned),
            retry_after: seconds.map(Duration::from_secs),
            errors: Vec::new(),
            gate: None,
        };
        if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
            let exact = problem.retry_after_ms.map(Duration::from_millis);
            return Self {
                code: Some(problem.code),
                detail: problem.detail,
                request_id: Some(problem.request_id),
                retry_after: exact.or(refusal.retry_after),
                errors: problem.errors,
                gate: problem.gate,
                ..refusal
            };
        }
        if let Ok(OpenAiError { error }) = serde_json::from_slice(body) {
            return Self {
                code: Some(error.code),
                detail: error.message,
                ..refusal
            };
        }
        Self {
            detail: String::from_utf8_lossy(body).into_owned(),
            ..refusal
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.status)?;
        if let Some(code) = self.code {
            write!(formatter, " {}", code.as_str())?;
        }
        write!(formatter, ": {}", self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_refusal_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", "r-1".parse().unwrap());
        headers.insert("retry-after", "2".parse().unwrap());
        let problem = r#"{
            "type": "t", "title": "Server is overloaded", "status": 429, "detail": "queue is full", "instance": "/v1/rerank",
            "code": "overloaded", "retryable": true, "retry_after_ms": 1500, "request_id": "r-1"
        }"#;
        let openai = r#"{"error": {"message": "no model `m`", "type": "invalid_request_error", "param": null, "code": "model_not_found"}}"#;
        for (status, body, code, millis, text) in [
            (
                429,
                problem,
                Some(ErrorCode::Overloaded),
                1500,
                "429 overloaded: queue is full",
            ),
            (
                404,
                openai,
                Some(ErrorCode::ModelNotFound),
                2000,
                "404 model_not_found: no model `m`",
            ),
            (502, "bad gateway", None, 2000, "502: bad gateway"),
            (
                503,
                "{\"code\": \"later\"}",
                None,
                2000,
                "503: {\"code\": \"later\"}",
            ),
        ] {
            let refusal = Refusal::read(status, &headers, body.as_bytes());
            assert_eq!(refusal.code, code);
            assert_eq!(refusal.request_id.as_deref(), Some("r-1"));
            assert_eq!(refusal.retry_after, Some(Duration::from_millis(millis)));
            assert_eq!(refusal.to_string(), text);
        }
    }
}
