use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use encoder::Role;
use openapi::{ErrorCode, Model, ModelList, ModelRole};

use super::errors::NamedModel;
use crate::model::{ServedEncoder, ServedReranker};
use crate::problem::ApiError;
use crate::state::{App, Shared};

/// List the models, as OpenAI's API does
#[utoipa::path(
    get, path = "/v1/models", tag = "models", operation_id = "list_models",
    responses(
        (status = 200, description = "The loaded models", body = ModelList),
    ),
)]
pub(super) async fn list(State(app): State<App>) -> Json<ModelList> {
    Json(ModelList {
        object: "list".to_owned(),
        data: models(&app).collect(),
    })
}

/// Show a model, as OpenAI's API does
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "models", operation_id = "show_model",
    params(("id" = String, Path, description = "Name of the model", example = "all-MiniLM-L6-v2")),
    responses(
        (status = 200, description = "The model", body = Model),
        NamedModel,
    ),
)]
pub(super) async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<Model>, ApiError> {
    models(&app)
        .find(|model| model.id == id)
        .map(Json)
        .ok_or_else(|| {
            let text = format!("there is no model `{id}`; `GET /v1/models` lists them");
            ApiError::new(ErrorCode::ModelNotFound, text)
        })
}

fn models(app: &Shared) -> impl Iterator<Item = Model> {
    let encoders = app.encoders.values().map(|served| encoder(served));
    encoders.chain(app.rerankers.values().map(|served| reranker(served)))
}

fn encoder(served: &ServedEncoder) -> Model {
    let model = &served.model;
    Model {
        fingerprint: Some(served.fingerprint.clone()),
        width: Some(model.width()),
        dimensions: served.dimensions.clone(),
        max_tokens: model
            .max_tokens(Role::Query)
            .max(model.max_tokens(Role::Passage)),
        ..entry(&served.name, served.loaded, ModelRole::Encoder)
    }
}

fn reranker(served: &ServedReranker) -> Model {
    Model {
        max_tokens: served.model.max_tokens(),
        ..entry(&served.name, served.loaded, ModelRole::Reranker)
    }
}

fn entry(name: &str, loaded: SystemTime, role: ModelRole) -> Model {
    Model {
        id: name.to_owned(),
        object: "model".to_owned(),
        created: loaded
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        owned_by: "trawl".to_owned(),
        role,
        fingerprint: None,
        width: None,
        dimensions: Vec::new(),
        max_tokens: 0,
    }
}
