//! Reading a JSON body: type, size, time, syntax and fields, each with its own error.

use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use openapi::{ErrorCode, FieldError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment, Track};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use crate::problem::ApiError;
use crate::state::App;

/// A body read as `T`.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        if let Err(error) = check_type(&parts.headers) {
            discard(body, app.config.read_timeout);
            return Err(error);
        }
        let bytes = read(&parts.headers, body, app).await?;
        parse(&bytes).map(Json)
    }
}

/// As [`Json`], of a body that may be left out.
pub(crate) struct Optional<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<App> for Optional<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let checked = check_type(&parts.headers);
        if content_type(&parts.headers).is_some()
            && let Err(error) = checked
        {
            discard(body, app.config.read_timeout);
            return Err(error);
        }
        let bytes = read(&parts.headers, body, app).await?;
        if [&b""[..], b"null"].contains(&bytes.trim_ascii()) {
            return Ok(Self(T::default()));
        }
        checked?;
        parse(&bytes).map(Self)
    }
}

/// The documents of a body, each as JSON text: one, an array of them, or one on each line.
pub(crate) struct Lines {
    /// Each with its line, or its place in the array, from 1.
    pub(crate) texts: Vec<(usize, String)>,
    /// Whether the body is a document, and no list.
    pub(crate) is_one: bool,
    /// sha256 of the body.
    pub(crate) digest: String,
}

impl FromRequest<App> for Lines {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let is_lines = content_type(&parts.headers).is_some_and(|(_, essence)| {
            ["application/x-ndjson", "application/jsonl"].contains(&essence.as_str())
        });
        if !is_lines && let Err(error) = check_type(&parts.headers) {
            discard(body, app.config.read_timeout);
            return Err(error);
        }
        let bytes = read(&parts.headers, body, app).await?;
        let digest = Sha256::digest(&bytes);
        let (texts, is_one) = if is_lines {
            (split_lines(&bytes)?, false)
        } else {
            split_array(&bytes)?
        };
        Ok(Self {
            texts,
            is_one,
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

/// The lines of a body; an empty one, such as the last, is no document.
fn split_lines(bytes: &[u8]) -> Result<Vec<(usize, String)>, ApiError> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let text = format!("body is not UTF-8 at byte {}", error.valid_up_to());
        ApiError::new(ErrorCode::BadRequest, text)
    })?;
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    Ok(lines
        .map(|(place, line)| (place, line.to_owned()))
        .collect())
}

fn split_array(bytes: &[u8]) -> Result<(Vec<(usize, String)>, bool), ApiError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| syntax_error(&error))?;
    Ok(match value {
        Value::Array(documents) => {
            let texts = documents.iter().map(Value::to_string);
            ((1..).zip(texts).collect(), false)
        }
        document => (vec![(1, document.to_string())], true),
    })
}

/// Reads a body to its end.
async fn read(headers: &HeaderMap, mut body: Body, app: &App) -> Result<Vec<u8>, ApiError> {
    let max_bytes = app.config.max_body_bytes;
    let too_large = |given: Option<u64>| {
        let (code, setting) = (ErrorCode::BodyTooLarge, "server.max_body");
        ApiError::too_many(code, "bytes of the body:", given, max_bytes, setting)
    };
    if let Some(given) = declared_length(headers)
        && given > max_bytes as u64
    {
        discard(body, app.config.read_timeout);
        return Err(too_large(Some(given)));
    }
    let collected = timeout(app.config.read_timeout, collect(&mut body, max_bytes)).await;
    match collected {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            discard(body, app.config.read_timeout);
            Err(too_large(None))
        }
        Ok(Err(error)) => {
            let text = format!("body broke off: {error}");
            Err(ApiError::new(ErrorCode::BadRequest, text))
        }
        Err(_) => {
            let seconds = app.config.read_timeout.as_secs_f64();
            let text = format!("body did not arrive within {seconds} s (`server.read_timeout`)");
            Err(ApiError::new(ErrorCode::SlowClient, text))
        }
    }
}

/// The header and its type, without parameters.
fn content_type(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(CONTENT_TYPE)?;
    let given = String::from_utf8_lossy(value.as_bytes()).into_owned();
    let essence = given.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    Some((given, essence))
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let (given, essence) = content_type(headers).unzip();
    let essence = essence.unwrap_or_default();
    if essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
    {
        return Ok(());
    }
    let text = match given {
        Some(given) => format!("content-type is `{given}`, expected `application/json`"),
        None => "content-type is missing, expected `application/json`".to_owned(),
    };
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, text))
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The bytes of a body; `None` when they are more than `max_bytes`.
async fn collect(body: &mut Body, max_bytes: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len() + data.len() > max_bytes {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Some(bytes))
}

/// Reads on, for as long as a body has to arrive, and forgets what it reads. A client that is still sending would otherwise meet a
/// closed connection before it has read why.
pub(crate) fn discard(mut body: Body, read_timeout: Duration) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(read_timeout, async move {
        while let Some(Ok(_)) = body.frame().await {}
    }));
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let mut track = Track::new();
    let tracking = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    let value = openapi::object(tracking).map_err(|error: serde_json::Error| {
        let pointer = pointer(&track.path());
        if error.is_data() || is_out_of_range(&error) {
            field_error(pointer, &error)
        } else {
            syntax_error(&error)
        }
    })?;
    deserializer.end().map_err(|error| syntax_error(&error))?;
    Ok(value)
}

/// JSON has numbers of any size.
fn is_out_of_range(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("number out of range")
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    if is_out_of_range(error) {
        return field_error(String::new(), error);
    }
    ApiError::new(ErrorCode::BadRequest, format!("body is not JSON: {error}"))
}

fn field_error(mut pointer: String, error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    let starts = |kind: &str| message.starts_with(kind);
    let code = if starts("unknown field") {
        "unknown_field"
    } else if starts("unknown variant") {
        "unknown_value"
    } else if starts("duplicate field") {
        "duplicate"
    } else if starts("missing field") {
        if let Some(name) = message.split('`').nth(1) {
            pointer.push('/');
            pointer.push_str(&escape(name));
        }
        "missing"
    } else if is_out_of_range(error) {
        "too_large"
    } else {
        "wrong_type"
    };
    let code = code.to_owned();
    let meant = nearest(message).map(|known| format!("; did you mean `{known}`?"));
    let message = format!("is wrong: {message}{}", meant.unwrap_or_default());
    ApiError::fields(vec![FieldError {
        pointer,
        code,
        message,
        ..FieldError::default()
    }])
}

/// Of the fields that serde's message expects, the one most like the one it does not know.
#[must_use]
pub fn nearest(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("unknown field `")?;
    let (unknown, expected) = rest.split_once('`')?;
    let known = expected.split('`').skip(1).step_by(2);
    let like = |known: &str| strsim::jaro_winkler(unknown, known);
    let nearest = known.max_by(|a, b| like(a).total_cmp(&like(b)))?;
    (like(nearest) > 0.75).then_some(nearest)
}

/// RFC 6901.
pub(crate) fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path.iter() {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escape(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

pub(crate) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use openapi::SearchRequest;

    #[track_caller]
    fn check(body: &[u8], code: ErrorCode, detail: &str) {
        let error = parse::<SearchRequest>(body).expect_err("the body is bad");
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.detail.contains(detail), "{error:?}");
    }

    #[test]
    fn what_is_no_json_is_placed_by_line_and_column() {
        check(
            b"{\"query\":\n \"a\"",
            ErrorCode::BadRequest,
            "line 2 column 4",
        );
        check(b"", ErrorCode::BadRequest, "line 1 column 0");
        check(b"{\"query\": \"\xff\"}", ErrorCode::BadRequest, "line 1");
        check(
            b"{\"query\": \"a\"} x",
            ErrorCode::BadRequest,
            "trailing characters",
        );
    }

    #[test]
    fn a_bad_field_is_placed_by_pointer() {
        check(
            b"{\"query\": 1}",
            ErrorCode::Validation,
            "/query is wrong: invalid type",
        );
        check(
            b"{\"vector\": [1, \"a\"]}",
            ErrorCode::Validation,
            "/vector/1 is wrong",
        );
        check(
            b"{\"rerank\": {\"model\": 1}}",
            ErrorCode::Validation,
            "/rerank/model is wrong: unknown field",
        );
        check(
            b"{\"a/b~c\": 1}",
            ErrorCode::Validation,
            "/a~1b~0c is wrong: unknown field",
        );
        check(
            b"{\"rerank\": {\"canidates\": 1}}",
            ErrorCode::Validation,
            "did you mean `candidates`?",
        );
        check(
            b"{\"mode\": \"sparse\"}",
            ErrorCode::Validation,
            "/mode is wrong: unknown variant",
        );
        check(
            b"{\"top_k\": 1, \"top_k\": 2}",
            ErrorCode::Validation,
            "duplicate field",
        );
        check(b"{\"top_k\": -1}", ErrorCode::Validation, "/top_k is wrong");
        check(
            b"{\"vector\": [1e400]}",
            ErrorCode::Validation,
            "/vector/0 is wrong: number out of range",
        );
        check(
            b"{\"rerank\": [50]}",
            ErrorCode::Validation,
            "/rerank is wrong: invalid type",
        );
        check(
            b"[]",
            ErrorCode::Validation,
            "body is wrong: invalid type: sequence, expected an object",
        );
    }

    #[test]
    fn the_nearest_key_is_suggested() {
        let message =
            "unknown field `max_boddy`, expected one of `bind`, `max_body`, `max_timeout`";
        assert_eq!(nearest(message), Some("max_body"));
        assert_eq!(
            nearest("unknown field `xyz`, expected one of `bind`, `max_body`"),
            None
        );
        assert_eq!(nearest("missing field `path`"), None);
    }

    #[test]
    fn deep_nesting_is_refused() {
        let deep = |open: &str| open.repeat(100_000);
        for body in [
            deep("["),
            deep("{\"a\":"),
            format!("{{\"query\":{}", deep("[")),
        ] {
            assert!(parse::<SearchRequest>(body.as_bytes()).is_err());
            assert!(parse::<openapi::EmbeddingRequest>(body.as_bytes()).is_err());
        }
        let ignored = format!("{{\"model\": \"m\", \"input\": {}", deep("["));
        assert!(parse::<openapi::EmbeddingRequest>(ignored.as_bytes()).is_err());
    }
}
