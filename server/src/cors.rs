//! Pages of other origins: closed unless `cors.origins` names them.

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use openapi::ErrorCode;

use crate::problem::ApiError;

const METHODS: &str = "GET, POST, PUT, DELETE";
const ASKED: &str = "authorization, api-key, content-type, x-request-id, traceparent, idempotency-key, if-match, x-timeout-ms, x-priority";
const EXPOSED: &str = "x-request-id, traceparent, x-index-generation, x-model-fingerprint, server-timing, retry-after, etag, idempotent-replayed, \
                       x-compute-time, x-compute-tokens, x-compute-characters, x-total-time, x-tokenization-time, x-queue-time, x-inference-time";

/// The origin of the page that asks, where it is one of those allowed.
pub(crate) fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let known = |known: &String| known == "*" || known.as_bytes() == origin.as_bytes();
    origins.iter().any(known).then(|| origin.clone())
}

/// The answer to a browser that asks before it asks.
pub(crate) fn preflight(
    method: &Method,
    headers: &HeaderMap,
    origin: Option<&HeaderValue>,
) -> Option<Response> {
    if method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    if origin.is_none() {
        let text = "pages of this origin are not allowed here (`cors.origins`)";
        return Some(ApiError::new(ErrorCode::Forbidden, text).into_response());
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, ASKED),
        (ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

/// Lets the page read an answer.
pub(crate) fn expose(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    headers.append(VARY, HeaderValue::from_static("origin"));
}
