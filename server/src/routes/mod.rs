//! One file a route, and the router.

mod about;
mod aliases;
mod batch;
mod cohere;
mod collections;
mod documents;
mod embeddings;
mod errors;
mod eval;
mod feedback;
mod headers;
mod health;
mod models;
mod rerank;
mod search;
mod shadow;
mod tei;
mod ui;

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use openapi::{CohereError, ErrorCode, OpenAiError, Problem, TeiError};
use utoipa::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::body::discard;
use crate::exchange::exchange;
use crate::problem::ApiError;
use crate::state::App;
use crate::trace::Stages;

static GENERATION: HeaderName = HeaderName::from_static("x-index-generation");
static FINGERPRINT: HeaderName = HeaderName::from_static("x-model-fingerprint");
static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

#[derive(OpenApi)]
#[openapi(
    info(
        title = "trawl",
        description = "Dense retrieval: search collections by text or vector, embed and rerank texts.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    paths(
        search::search,
        batch::search_batch,
        feedback::feedback,
        eval::evaluate,
        collections::list,
        collections::show,
        collections::create,
        collections::delete,
        documents::add,
        documents::delete,
        documents::show,
        documents::compact,
        documents::tasks,
        documents::task,
        documents::cancel,
        aliases::generations,
        aliases::show,
        aliases::set,
        aliases::roll_back,
        shadow::show,
        shadow::set,
        shadow::end,
        embeddings::embed,
        models::list,
        models::show,
        rerank::rerank,
        cohere::rerank,
        tei::embed,
        tei::embed_all,
        tei::similarity,
        tei::rerank,
        tei::predict,
        tei::tokenize,
        tei::decode,
        tei::info,
        tei::health,
        about::version,
        about::limits,
        health::live,
        health::ready,
        health::metrics,
        health::document,
    ),
    components(schemas(Problem, OpenAiError, CohereError, TeiError)),
    tags(
        (name = "search", description = "Passages for a query"),
        (name = "documents", description = "Documents added and deleted between two builds"),
        (name = "generations", description = "Which generation answers, and which did"),
        (name = "models", description = "Vectors and scores of texts brought along"),
        (name = "text-embeddings-inference", description = "The same for clients of text-embeddings-inference"),
        (name = "operation", description = "Health, figures, this document"),
    ),
)]
struct Document;

/// The OpenAPI document of all routes, as JSON text that ends in a line feed.
#[must_use]
pub fn openapi_document() -> String {
    let document = errors::described(with_keys(Document::openapi()));
    document
        .to_pretty_json()
        .expect("the document has string keys only")
        + "\n"
}

/// Says of every route but the public ones that it may ask for a key.
fn with_keys(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let components = document.components.get_or_insert_default();
    let bearer = Http::new(HttpAuthScheme::Bearer);
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let header = ApiKey::Header(ApiKeyValue::new("api-key"));
    components.add_security_scheme("api-key", SecurityScheme::ApiKey(header));
    let names = ["bearer", "api-key"];
    let required = names.map(|name| SecurityRequirement::new(name, [] as [&str; 0]));
    for (path, item) in &mut document.paths.paths {
        if errors::asks_for_key(path) {
            errors::operations(item)
                .for_each(|(_, operation)| operation.security = Some(required.to_vec()));
        }
    }
    document
}

pub(crate) fn router(app: App) -> Router {
    // Without a validator: the page would otherwise ask a public one.
    let docs = SwaggerUi::new("/docs").config(
        Config::new(["/openapi.json"])
            .validator_url("none")
            .try_it_out_enabled(true),
    );
    let docs: Router<App> = Router::from(docs).layer(map_response(keep_to_ourselves));
    Router::new()
        .route("/v1/collections", get(collections::list))
        .route(
            "/v1/collections/{name}",
            get(collections::show)
                .put(collections::create)
                .delete(collections::delete),
        )
        .route("/v1/collections/{name}/search", post(search::search))
        .route("/v1/collections/{name}/feedback", post(feedback::feedback))
        .route("/v1/collections/{name}/documents", post(documents::add))
        .route(
            "/v1/collections/{name}/documents/delete",
            post(documents::delete),
        )
        .route(
            "/v1/collections/{name}/documents/{id}",
            get(documents::show),
        )
        .route("/v1/collections/{name}/compact", post(documents::compact))
        .route("/v1/tasks", get(documents::tasks))
        .route("/v1/tasks/{task}", get(documents::task))
        .route("/v1/tasks/{task}/cancel", post(documents::cancel))
        .route(
            "/v1/collections/{name}/search/batch",
            post(batch::search_batch),
        )
        .route(
            "/v1/collections/{name}/generations",
            get(aliases::generations),
        )
        .route(
            "/v1/collections/{name}/aliases/{alias}",
            get(aliases::show).put(aliases::set),
        )
        .route(
            "/v1/collections/{name}/aliases/{alias}/rollback",
            post(aliases::roll_back),
        )
        .route(
            "/v1/collections/{name}/shadow",
            get(shadow::show).put(shadow::set).delete(shadow::end),
        )
        .route("/v1/eval", post(eval::evaluate))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/rerank", post(rerank::rerank))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{id}", get(models::show))
        .route("/v1/limits", get(about::limits))
        .route("/v1/version", get(about::version))
        .route("/v2/rerank", post(cohere::rerank))
        .route("/", post(tei::root))
        .route("/embed", post(tei::embed))
        .route("/embed_all", post(tei::embed_all))
        .route("/similarity", post(tei::similarity))
        .route("/rerank", post(tei::rerank))
        .route("/predict", post(tei::predict))
        .route("/tokenize", post(tei::tokenize))
        .route("/decode", post(tei::decode))
        .route("/info", get(tei::info))
        .route("/health", get(tei::health))
        .route("/healthz", get(health::ready))
        .route("/ping", get(health::ready))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(health::document))
        .merge(docs)
        .merge(ui::routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(app.clone(), exchange))
        .with_state(app)
}

async fn no_route(State(app): State<App>, request: Request) -> ApiError {
    let text = format!("there is no route `{}`", request.uri().path());
    discard(request.into_body(), app.config.read_timeout);
    ApiError::new(ErrorCode::NotFound, text)
}

async fn no_method(State(app): State<App>, request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    let text = format!("`{path}` does not take {method}; the header `Allow` says what it takes");
    discard(request.into_body(), app.config.read_timeout);
    ApiError::new(ErrorCode::MethodNotAllowed, text)
}

/// The page may load and ask this server only.
async fn keep_to_ourselves(mut response: Response) -> Response {
    let policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:";
    let headers = response.headers_mut();
    headers.insert("content-security-policy", HeaderValue::from_static(policy));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Counts what the time was spent on, and says so in a header.
fn measured(app: &App, response: &mut Response, stages: &[(&'static str, Duration)]) {
    for &(stage, elapsed) in stages {
        app.metrics.stage(stage, elapsed);
    }
    timed(response, stages);
}

/// Says in a header what the time was spent on.
fn timed(response: &mut Response, stages: &[(&'static str, Duration)]) {
    let spent = stages.to_vec();
    let stages: Vec<String> = stages
        .iter()
        .map(|(stage, elapsed)| format!("{stage};dur={}", millis(*elapsed)))
        .collect();
    if let Ok(value) = HeaderValue::from_str(&stages.join(", ")) {
        response.headers_mut().insert(&SERVER_TIMING, value);
    }
    response.extensions_mut().insert(Stages(spent));
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// A 200 with the two headers that say what answered.
fn identified<T: serde::Serialize>(
    body: T,
    generation: Option<&str>,
    fingerprint: &str,
) -> Response {
    let mut response = axum::response::IntoResponse::into_response((StatusCode::OK, Json(body)));
    let headers = response.headers_mut();
    for (name, value) in [(&GENERATION, generation), (&FINGERPRINT, Some(fingerprint))] {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            headers.insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;
    use crate::ServerConfig;
    use crate::metrics::Metrics;
    use crate::state::Shared;

    #[tokio::test]
    async fn what_needs_models_waits_for_them() {
        let document: serde_json::Value = serde_json::from_str(&openapi_document()).unwrap();
        let metrics = Metrics::new().unwrap();
        let router = router(App::new(Shared::new(ServerConfig::default(), metrics)));
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let request = Request::builder()
                    .method(method.to_ascii_uppercase().as_str())
                    .uri(path.replace(['{', '}'], ""));
                let request = request.body(Body::empty()).unwrap();
                let response = router.clone().oneshot(request).await.unwrap();
                let documented = operation["responses"].get("503").is_some();
                assert_eq!(response.status() == 503, documented, "{method} {path}");
            }
        }
    }
}
