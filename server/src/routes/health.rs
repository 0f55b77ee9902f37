use axum::Json;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use openapi::{ErrorCode, Health, HealthStatus};

use super::errors::Readiness;
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
/// It is once every model and every collection gave a known answer, as long as they do when asked again every
/// `server.check_interval`, and until the shutdown begins.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", operation_id = "readyz",
    responses(
        (status = 200, description = "It is", body = Health),
        Readiness,
    ),
)]
pub(super) async fn ready(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    match app.phase() {
        Phase::Ready if !app.is_healthy() => {
            let text = "a model or a collection does not give its known answer";
            Err(ApiError::new(ErrorCode::NotReady, text))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerConfig;
    use crate::metrics::Metrics;
    use crate::state::Shared;

    #[tokio::test]
    async fn a_server_without_its_known_answers_is_not_ready() {
        let metrics = Metrics::new().expect("histograms have buckets");
        let app = App::new(Shared::new(ServerConfig::default(), metrics));
        let code = async || {
            ready(State(App::clone(&app)))
                .await
                .err()
                .map(|error| error.code)
        };
        assert_eq!(code().await, Some(ErrorCode::NotReady));
        app.enter(Phase::Ready);
        assert_eq!(code().await, None);
        assert!(app.set_healthy(false) && !app.set_healthy(false));
        assert_eq!(code().await, Some(ErrorCode::NotReady));
        app.set_healthy(true);
        assert_eq!(code().await, None);
        app.enter(Phase::Draining);
        assert_eq!(code().await, Some(ErrorCode::Draining));
    }
}
