use axum::Json;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use openapi::{ErrorCode, Health, HealthStatus, Problem};

use super::openapi_document;
use crate::problem::ApiError;
use crate::state::{App, Phase};

/// Whether the process answers
#[utoipa::path(
    get, path = "/livez", tag = "operation", operation_id = "livez",
    responses((status = 200, description = "It does", body = Health)),
)]
pub(super) async fn live() -> Json<Health> {
    Json(Health {
        status: HealthStatus::Live,
    })
}

/// Whether the server is ready for requests
///
/// It is once every model and every collection gave a known answer, and until the shutdown begins.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", operation_id = "readyz",
    responses(
        (status = 200, description = "It is", body = Health),
        (status = 503, description = "`not_ready`, `draining`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    match app.phase() {
        Phase::Ready => Ok(Json(Health {
            status: HealthStatus::Ready,
        })),
        Phase::Starting => {
            let text = "models and collections are being checked";
            Err(ApiError::new(ErrorCode::NotReady, text))
        }
        Phase::Draining => Err(ApiError::new(
            ErrorCode::Draining,
            "the server is about to stop",
        )),
    }
}

/// Figures in Prometheus' text format
#[utoipa::path(
    get, path = "/metrics", tag = "operation", operation_id = "metrics",
    responses((status = 200, description = "The figures", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(app): State<App>) -> ([(HeaderName, &'static str); 1], String) {
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        app.metrics.render(),
    )
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation", operation_id = "openapi",
    responses((status = 200, description = "The OpenAPI document of all routes", body = Object)),
)]
pub(super) async fn document() -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "application/json")], openapi_document())
}
