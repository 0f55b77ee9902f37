use axum::extract::{Path, State};
use axum::http::StatusCode;
use openapi::ShadowRequest;

use super::aliases::followed;
use super::errors::{Body, Named, Opened};
use crate::body::Json;
use crate::problem::ApiError;
use crate::shadow::Shadow;
use crate::state::App;
use crate::swap;

/// Show how a candidate compares with the generation that answers
#[utoipa::path(
    get, path = "/v1/collections/{name}/shadow", tag = "generations", operation_id = "show_shadow",
    params(("name" = String, Path, description = "Name of the collection", example = "docs")),
    responses((status = 200, description = "The comparison so far", body = openapi::Shadow), Named),
)]
pub(super) async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<axum::Json<openapi::Shadow>, ApiError> {
    let (slot, _) = followed(&app, &name)?;
    let shadow = slot.shadow().ok_or_else(|| none(&name))?;
    Ok(axum::Json(shadow.report()))
}

/// Let another generation answer a share of the searches, too
///
/// Its answers go nowhere but into figures, and nobody waits for them; they cost the machine what searches cost. A comparison that
/// was going on ends. This one ends with `DELETE`, when another generation becomes the one that answers, and with the server.
#[utoipa::path(
    put, path = "/v1/collections/{name}/shadow", tag = "generations", operation_id = "set_shadow",
    params(("name" = String, Path, description = "Name of the collection", example = "docs")),
    request_body = ShadowRequest,
    responses((status = 200, description = "It does", body = openapi::Shadow), Body, Opened),
)]
pub(super) async fn set(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(body): Json<ShadowRequest>,
) -> Result<axum::Json<openapi::Shadow>, ApiError> {
    let (slot, source) = followed(&app, &name)?;
    if !(body.share > 0.0 && body.share <= 1.0) {
        let text = format!("is {}, expected above 0 and up to 1", body.share);
        return Err(ApiError::field("/share", "out_of_range", text));
    }
    let collection = source.collection.clone();
    let candidate = swap::named(&app, &slot, source, body.generation).await?;
    let live = slot.current().retriever.generation().id.to_string();
    if candidate.retriever.generation().id.to_string() == live {
        let text = "is the generation that answers already";
        return Err(ApiError::field("/generation", "conflict", text));
    }
    let shadow = Shadow::start(&app, live, candidate, collection, body.share);
    let report = shadow.report();
    slot.set_shadow(Some(shadow));
    Ok(axum::Json(report))
}

/// End the comparison
#[utoipa::path(
    delete, path = "/v1/collections/{name}/shadow", tag = "generations", operation_id = "end_shadow",
    params(("name" = String, Path, description = "Name of the collection", example = "docs")),
    responses((status = 204, description = "It has ended"), Named),
)]
pub(super) async fn end(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let (slot, _) = followed(&app, &name)?;
    let ended = slot.set_shadow(None);
    ended
        .map(|_| StatusCode::NO_CONTENT)
        .ok_or_else(|| none(&name))
}

fn none(name: &str) -> ApiError {
    let text = format!("collection `{name}` is compared with no other generation");
    ApiError::new(openapi::ErrorCode::NotFound, text)
}
