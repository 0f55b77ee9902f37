//! The one place where what went wrong becomes a status, a stable code and a text for the caller.
//!
//! Handlers return an [`ApiError`]. It travels as an extension of an empty response to the outermost layer, which knows the
//! request id, logs the cause and writes the body in the form of the route: `application/problem+json`, or that which the
//! clients of another API read.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use milvus::MilvusError;
use openapi::{
    CohereError, ErrorCode, FieldError, OpenAiError, OpenAiErrorBody, Problem, TeiError,
    TeiErrorType,
};
use retriever::{BackendError, FieldFault, FilterError, ModelError, SearchError};
use serde_json::Value;

use crate::form::Form;

type Cause = Box<dyn Error + Send + Sync>;

/// Why a request gets no answer.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) code: ErrorCode,
    pub(crate) detail: String,
    retry_after: Option<Duration>,
    fields: Vec<FieldError>,
    /// What the gate found.
    gate: Option<Box<Value>>,
    /// For the log, never for the caller.
    cause: Option<Cause>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            retry_after: None,
            fields: Vec::new(),
            gate: None,
            cause: None,
        }
    }

    /// A generation is worse than the one it is to replace.
    pub(crate) fn gate(detail: impl Into<String>, report: Value) -> Self {
        Self {
            gate: Some(report.into()),
            ..Self::new(ErrorCode::GateFailed, detail)
        }
    }

    /// The server's fault; the caller learns no more than that.
    pub(crate) fn internal(cause: impl Into<Cause>) -> Self {
        let error = Self::new(
            ErrorCode::Internal,
            "the server's log has the cause under the request id",
        );
        Self {
            cause: Some(cause.into()),
            ..error
        }
    }

    pub(crate) fn deadline_exceeded() -> Self {
        Self::new(
            ErrorCode::DeadlineExceeded,
            "no answer within the time of the request",
        )
    }

    pub(crate) fn rate_limited(detail: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(ErrorCode::RateLimited, detail);
        Self {
            retry_after: Some(retry_after),
            ..error
        }
    }

    pub(crate) fn overloaded(detail: impl Into<String>, retry_after: Duration) -> Self {
        let error = Self::new(ErrorCode::Overloaded, detail);
        Self {
            retry_after: Some(retry_after),
            ..error
        }
    }

    /// One or more fields of the body are at fault.
    pub(crate) fn fields(fields: Vec<FieldError>) -> Self {
        let detail: Vec<String> = fields
            .iter()
            .map(|field| match field.pointer.as_str() {
                "" => format!("body {}", field.message),
                pointer => format!("{pointer} {}", field.message),
            })
            .collect();
        Self {
            fields,
            ..Self::new(ErrorCode::Validation, detail.join("; "))
        }
    }

    /// One field of the body is at fault.
    pub(crate) fn field(
        pointer: impl Into<String>,
        code: &str,
        message: impl Into<String>,
    ) -> Self {
        let (code, message) = (code.to_owned(), message.into());
        let pointer = pointer.into();
        Self::fields(vec![FieldError {
            pointer,
            code,
            message,
            ..FieldError::default()
        }])
    }

    /// Names a field of the body that the faulty one was made of.
    pub(crate) fn moved(mut self, from: &str, to: &str) -> Self {
        for field in &mut self.fields {
            if field.pointer == from {
                field.pointer = to.to_owned();
            }
        }
        match self.code {
            ErrorCode::Validation if !self.fields.is_empty() => Self::fields(self.fields),
            _ => self,
        }
    }

    /// More than a setting allows, in a list or body as a whole.
    pub(crate) fn too_many(
        code: ErrorCode,
        what: &str,
        given: Option<u64>,
        limit: usize,
        setting: &str,
    ) -> Self {
        let limit = limit as u64;
        let message = match given {
            Some(given) => format!("{what} {given}, limit is {limit} (`{setting}`)"),
            None => format!("{what} more than {limit} (`{setting}`)"),
        };
        let field = FieldError {
            pointer: String::new(),
            code: "too_large".to_owned(),
            message: message.clone(),
            limit: Some(limit),
            given,
            setting: Some(setting.to_owned()),
        };
        Self {
            fields: vec![field],
            ..Self::new(code, message)
        }
    }

    pub(crate) fn model(error: ModelError) -> Self {
        match error {
            // What it took is the best guess of what it takes.
            ModelError::WaitedTooLong { waited, .. } => Self::overloaded(error.to_string(), waited),
            ModelError::Overloaded { retry_after, .. } => {
                Self::overloaded(error.to_string(), retry_after)
            }
            ModelError::TooLarge { given, limit } => {
                let given = Some(given as u64);
                let code = ErrorCode::BatchTooLarge;
                Self::too_many(
                    code,
                    "tokens of the request:",
                    given,
                    limit,
                    "queue.max_tokens",
                )
            }
            ModelError::DeadlineExceeded => Self::deadline_exceeded(),
            ModelError::ShuttingDown => Self::new(ErrorCode::Draining, error.to_string()),
            error => Self::internal(error),
        }
    }

    pub(crate) fn search(error: SearchError, by_vector: bool) -> Self {
        match error {
            SearchError::Width { given, expected } if by_vector => Self::fields(vec![FieldError {
                pointer: "/vector".to_owned(),
                code: "wrong_width".to_owned(),
                message: format!("has {given} values, the collection's vectors have {expected}"),
                limit: Some(expected as u64),
                given: Some(given as u64),
                setting: None,
            }]),
            SearchError::NotFinite { position } if by_vector => {
                let pointer = format!("/vector/{position}");
                Self::field(pointer, "not_finite", "does not fit a finite 32-bit float")
            }
            SearchError::Backend(BackendError::Search(index::SearchError::ZeroQuery {
                ..
            })) if by_vector => Self::field(
                "/vector",
                "zero",
                "is zero and has no direction to compare by",
            ),
            SearchError::TextNeeded { .. } => Self::field("/query", "missing", error.to_string()),
            SearchError::NoReranker => Self::field(
                "/rerank",
                "unsupported",
                "asks for a reranker, the collection has none (`collections.NAME.reranker`)",
            ),
            SearchError::Filter(error) => Self::fields(vec![filter_fault("/filter", error)]),
            SearchError::Facets(error) => Self::fields(vec![filter_fault("/facets", error)]),
            SearchError::Boosts(error) => Self::fields(vec![filter_fault("/boosts", error)]),
            SearchError::Sort(error) => Self::fields(vec![filter_fault("/sort", error)]),
            SearchError::GroupField { kind, .. } => match kind {
                Some(_) => Self::field("/group_by", "unsupported", "is not a keyword field"),
                None => Self::field("/group_by", "unknown_value", "names no field"),
            },
            SearchError::Encode(error) | SearchError::Rerank(error) => Self::model(error),
            SearchError::DeadlineExceeded { .. }
            | SearchError::Backend(BackendError::DeadlineExceeded) => Self::deadline_exceeded(),
            SearchError::Backend(BackendError::Milvus(error)) => Self::milvus(error),
            error => Self::internal(error),
        }
    }

    fn milvus(error: Arc<MilvusError>) -> Self {
        match *error {
            MilvusError::DeadlineExceeded { .. } => Self::deadline_exceeded(),
            _ => Self::search_unavailable(error),
        }
    }

    pub(crate) fn search_unavailable(cause: impl Into<Cause>) -> Self {
        let text = "the cluster that searches the vectors does not answer for this generation";
        Self {
            cause: Some(cause.into()),
            ..Self::new(ErrorCode::SearchUnavailable, text)
        }
    }

    /// What an error status means that axum or hyper gave without our doing.
    pub(crate) fn from_status(status: StatusCode) -> Self {
        let code = ErrorCode::ALL
            .into_iter()
            .find(|code| code.status() == status.as_u16());
        match code {
            Some(code) => Self::new(code, code.title().to_lowercase()),
            None if status.is_client_error() => {
                Self::new(ErrorCode::BadRequest, "request cannot be read")
            }
            None => Self::internal(format!("a handler answered {status}")),
        }
    }

    /// The cause and what lies behind it, for the log.
    pub(crate) fn causes(&self) -> String {
        let mut causes = Vec::new();
        let mut next = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes.join(": ")
    }

    /// Writes the body and the headers that belong to it. `response` keeps its other headers (`Allow`, for one).
    pub(crate) fn render(self, response: &mut Response, path: &str, request_id: &str, form: Form) {
        *response.status_mut() =
            StatusCode::from_u16(self.code.status()).expect("statuses of error codes are valid");
        if let Some(retry_after) = self.retry_after {
            let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == ErrorCode::Unauthorized {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        let body = self.body(form, path, request_id);
        response
            .headers_mut()
            .remove(axum::http::header::CONTENT_LENGTH);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
        *response.body_mut() = body.into();
    }

    /// The body in one of the forms.
    pub(crate) fn body(self, form: Form, path: &str, request_id: &str) -> Vec<u8> {
        let body = match form {
            Form::Problem => serde_json::to_vec(&self.problem(path, request_id)),
            Form::OpenAi => serde_json::to_vec(&self.openai()),
            Form::Cohere => serde_json::to_vec(&self.cohere(request_id)),
            Form::Tei => serde_json::to_vec(&self.tei()),
        };
        body.expect("an error has string keys only")
    }

    /// The native form.
    pub(crate) fn problem(self, path: &str, request_id: &str) -> Problem {
        Problem {
            r#type: format!("https://trawl.invalid/errors/{}", self.code.as_str()),
            title: self.code.title().to_owned(),
            status: self.code.status(),
            detail: self.detail,
            instance: path.to_owned(),
            code: self.code,
            retryable: self.code.retryable(),
            retry_after_ms: self.retry_after.map(|time| time.as_millis() as u64),
            request_id: request_id.to_owned(),
            errors: self.fields,
            gate: self.gate.map(|report| *report),
        }
    }

    fn cohere(self, request_id: &str) -> CohereError {
        CohereError {
            id: request_id.to_owned(),
            message: self.detail,
            code: self.code,
        }
    }

    fn tei(self) -> TeiError {
        let empty = self.fields.iter().any(|field| field.code == "too_small");
        let error_type = match self.code.status() {
            422 if empty => TeiErrorType::Empty,
            429 => TeiErrorType::Overloaded,
            503 => TeiErrorType::Unhealthy,
            500.. => TeiErrorType::Backend,
            _ => TeiErrorType::Validation,
        };
        TeiError {
            error: self.detail,
            error_type,
            code: self.code,
        }
    }

    fn openai(self) -> OpenAiError {
        let kind = match self.code.status() {
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let param = self
            .fields
            .into_iter()
            .map(|field| field.pointer)
            .find(|p| !p.is_empty());
        OpenAiError {
            error: OpenAiErrorBody {
                message: self.detail,
                r#type: kind.to_owned(),
                param: param.map(|pointer| pointer.trim_start_matches('/').to_owned()),
                code: self.code,
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        // Extensions have to be `Clone`, which a cause is not.
        response
            .extensions_mut()
            .insert(Carried(Arc::new(std::sync::Mutex::new(Some(self)))));
        response
    }
}

#[derive(Clone)]
struct Carried(Arc<std::sync::Mutex<Option<ApiError>>>);

/// Takes the error out of a response that carries one.
pub(crate) fn take_error(response: &mut Response) -> Option<ApiError> {
    let Carried(slot) = response.extensions_mut().remove()?;
    let mut slot = slot
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    slot.take()
}

/// What is wrong in a filter or list of facets, which stands at `root` in the body.
pub(crate) fn filter_fault(root: &str, error: FilterError) -> FieldError {
    let code = match &error.fault {
        FieldFault::Unknown { .. } => "unknown_value",
        FieldFault::Value { .. } => "wrong_type",
        FieldFault::TooLarge { .. } => "too_large",
        _ => "unsupported",
    };
    let pointer = format!("{root}{}", error.pointer);
    let mut field = FieldError {
        pointer,
        code: code.to_owned(),
        message: format!("is wrong: {}", error.fault),
        ..FieldError::default()
    };
    if let FieldFault::TooLarge { what, found, limit } = error.fault {
        let setting = format!("limits.filter_{what}");
        field.message = format!("is too large: {what} {found}, limit is {limit} (`{setting}`)");
        field.limit = Some(limit as u64);
        field.given = Some(found as u64);
        field.setting = Some(setting);
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_without_an_answer_is_no_fault_of_this_server() {
        let call = "Search";
        let tried = vec!["proxy-1:19530: connection refused".to_owned()];
        for (error, expected) in [
            (
                MilvusError::Unavailable { call, tried },
                ErrorCode::SearchUnavailable,
            ),
            (
                MilvusError::DeadlineExceeded { call },
                ErrorCode::DeadlineExceeded,
            ),
        ] {
            let error = ApiError::search(SearchError::Backend(Arc::new(error).into()), false);
            assert_eq!(error.code, expected);
            assert!(!error.detail.contains("proxy-1"), "{}", error.detail);
        }
    }
}
