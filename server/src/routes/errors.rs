//! How routes may fail, for the document: groups of codes that routes name among their responses.
//!
//! A group says codes; [`described`] makes of them what a route answers: statuses, in the form of the route, with an example a code.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::Method;
use openapi::{CohereError, ErrorCode, FieldError, OpenAiError, Problem, TeiError};
use serde_json::Value;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder, Type,
};
use utoipa::{IntoResponses, ToSchema};

use crate::Scope;
use crate::form::{Form, is_work};
use crate::problem::ApiError;

/// What the layer before the routes refuses, wherever a request goes.
const EVERYWHERE: [ErrorCode; 2] = [ErrorCode::BadRequest, ErrorCode::HeadersTooLarge];

/// What it refuses where a key may be asked for.
const WITH_KEYS: [ErrorCode; 2] = [ErrorCode::Unauthorized, ErrorCode::RateLimited];

/// What it refuses where models and collections are needed.
const WORK: [ErrorCode; 3] = [
    ErrorCode::Overloaded,
    ErrorCode::Internal,
    ErrorCode::NotReady,
];

macro_rules! groups {
    ($($(#[$doc:meta])* $name:ident: $($code:ident),*;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let codes = [$(ErrorCode::$code),*];
                codes.map(|code| (code.as_str().to_owned(), Response::default().into())).into()
            }
        }
    )*};
}

groups! {
    /// The request has a body.
    Body: SlowClient, BodyTooLarge, UnsupportedMediaType, Validation;
    /// The body may ask for too much at once.
    TooMany: BatchTooLarge;
    /// A model is named.
    NamedModel: ModelNotFound;
    /// A model computes.
    Computing: BatchTooLarge, Draining, DeadlineExceeded;
    /// The path names a thing.
    Named: NotFound;
    /// A collection, or a generation of it, is named, and opened if it is not open.
    Opened: NotFound, FingerprintMismatch, SearchUnavailable, InsufficientStorage;
    /// A name is given that may be taken.
    New: AlreadyExists;
    /// The collection is written to.
    Written: NotFound, Locked;
    /// Something is kept that takes room.
    Kept: InsufficientStorage;
    /// `If-Match` is heeded.
    Matched: PreconditionFailed;
    /// The gate is asked.
    Gated: GateFailed;
    /// The server says whether it is ready.
    Readiness: NotReady, Draining;
}

/// Paths that never ask for a key, unless a list of public ones leaves them out.
const PUBLIC: [&str; 3] = ["/livez", "/readyz", "/health"];

/// Whether the document says that a path asks for a key.
pub(super) fn asks_for_key(path: &str) -> bool {
    !PUBLIC.contains(&path)
}

/// Puts in place of the groups what they stand for.
pub(super) fn described(mut document: OpenApi) -> OpenApi {
    let mut shared = BTreeMap::new();
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            let named = &mut operation.responses.responses;
            let mut codes: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
            for code in ErrorCode::ALL {
                let is_named = named.remove(code.as_str()).is_some();
                if is_named || is_usual(code, &method, path) {
                    codes.entry(code.status()).or_default().push(code);
                }
            }
            for (status, codes) in codes {
                let form = Form::of(path);
                let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
                let name = format!("{form:?}.{}", names.join("."));
                let reference = Ref::from_response_name(&name);
                named.insert(status.to_string(), reference.into());
                shared
                    .entry(name)
                    .or_insert_with(|| RefOr::T(response(form, &codes)));
            }
        }
    }
    document
        .components
        .get_or_insert_default()
        .responses
        .extend(shared);
    document
}

/// The operations of a path.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let operations = [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::DELETE, &mut item.delete),
    ];
    let there = |(method, operation): (Method, _)| Some((method, Option::as_mut(operation)?));
    operations.into_iter().filter_map(there)
}

fn is_usual(code: ErrorCode, method: &Method, path: &str) -> bool {
    EVERYWHERE.contains(&code)
        || asks_for_key(path) && WITH_KEYS.contains(&code)
        || Scope::of(method, path).is_some() && code == ErrorCode::Forbidden
        || is_work(path) && WORK.contains(&code)
}

/// One status, with an example for each of its codes.
fn response(form: Form, codes: &[ErrorCode]) -> Response {
    let schema = match form {
        Form::Problem => Problem::name(),
        Form::OpenAi => OpenAiError::name(),
        Form::Cohere => CohereError::name(),
        Form::Tei => TeiError::name(),
    };
    let examples = codes.iter().map(|&code| {
        let example = ExampleBuilder::new()
            .summary(code.title())
            .value(Some(example(form, code)));
        (code.as_str().to_owned(), RefOr::T(example.build()))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .examples_from_iter(examples);
    let named: Vec<String> = codes
        .iter()
        .map(|code| format!("`{}`: {}", code.as_str(), code.title()))
        .collect();
    let response = ResponseBuilder::new()
        .description(named.join("; "))
        .content(form.media_type(), content.build());
    let header = |text: &str, kind: Type| {
        let schema = utoipa::openapi::ObjectBuilder::new().schema_type(kind);
        HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(text))
            .build()
    };
    let response = match codes[0].status() {
        401 => response.header("WWW-Authenticate", header("`Bearer`", Type::String)),
        429 => response.header(
            "Retry-After",
            header("Seconds until another try is worth it", Type::Integer),
        ),
        _ => response,
    };
    response.build()
}

fn example(form: Form, code: ErrorCode) -> Value {
    let detail = code.title().to_lowercase();
    let error = match code {
        ErrorCode::Validation => ApiError::fields(vec![FieldError {
            pointer: "/top_k".to_owned(),
            code: "too_large".to_owned(),
            message: "is 5000, limit is 1000 (`limits.top_k`)".to_owned(),
            limit: Some(1000),
            given: Some(5000),
            setting: Some("limits.top_k".to_owned()),
        }]),
        ErrorCode::Overloaded => ApiError::overloaded(detail, Duration::from_secs(1)),
        ErrorCode::RateLimited => ApiError::rate_limited(detail, Duration::from_secs(1)),
        code => ApiError::new(code, detail),
    };
    let body = error.body(
        form,
        "/v1/collections/docs/search",
        "01K9ZP0Q6W3M4T7V8XKJ2C5D9E",
    );
    serde_json::from_slice(&body).expect("an error is JSON")
}
