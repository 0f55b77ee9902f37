use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Query, State};
use encoder::{Arithmetic, Role};
use openapi::{Health, TeiInfo, TeiLabels, TeiModelType};

use super::Named;
use super::tokens::Either;
use crate::problem::ApiError;
use crate::routes::errors::{NamedModel, Readiness};
use crate::routes::health::ready;
use crate::state::App;

/// The model that answers, as text-embeddings-inference describes it
#[utoipa::path(
    get, path = "/info", tag = "text-embeddings-inference", operation_id = "tei_info",
    params(("model" = Option<String>, Query, description = "Name of a loaded model; may be left out when exactly one encoder is loaded")),
    responses(
        (status = 200, description = "The model and the limits", body = TeiInfo),
        NamedModel,
    ),
)]
pub(in crate::routes) async fn info(
    State(app): State<App>,
    Query(named): Query<Named>,
) -> Result<Json<TeiInfo>, ApiError> {
    let limits = &app.limits();
    let common = TeiInfo {
        model_id: String::new(),
        model_sha: None,
        model_dtype: String::new(),
        model_type: TeiModelType::Embedding {
            pooling: String::new(),
        },
        max_concurrent_requests: limits.requests,
        max_input_length: 0,
        max_batch_tokens: 0,
        max_batch_requests: None,
        max_client_batch_size: limits.embedding_inputs,
        auto_truncate: true,
        tokenization_workers: app.config.tokenizer_threads,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sha: None,
        docker_label: None,
    };
    Ok(Json(match Either::find(&app, named.model.as_deref())? {
        Either::Encoder(served) => TeiInfo {
            model_id: served.name.clone(),
            model_sha: Some(served.fingerprint.clone()),
            model_dtype: dtype(served.model.config().arithmetic),
            model_type: TeiModelType::Embedding {
                pooling: served.model.pooling()[0].as_str().to_owned(),
            },
            max_input_length: served.model.max_tokens(Role::Passage),
            max_batch_tokens: served.max_batch_tokens,
            ..common
        },
        Either::Reranker(served) => TeiInfo {
            model_id: served.name.clone(),
            model_dtype: dtype(served.model.config().arithmetic),
            model_type: match served.model.labels() {
                [_] => TeiModelType::Reranker(labels(served.model.labels())),
                several => TeiModelType::Classifier(labels(several)),
            },
            max_input_length: served.model.max_tokens(),
            max_batch_tokens: served.max_batch_tokens,
            max_client_batch_size: limits.rerank_documents,
            ..common
        },
    }))
}

/// As PyTorch calls it, where it knows such a type.
fn dtype(arithmetic: Arithmetic) -> String {
    match arithmetic {
        Arithmetic::F32 => "float32".to_owned(),
        Arithmetic::Bf16 => "bfloat16".to_owned(),
        Arithmetic::F16 => "float16".to_owned(),
        other => other.as_str().to_owned(),
    }
}

fn labels(names: &[String]) -> TeiLabels {
    let numbered = || names.iter().enumerate();
    TeiLabels {
        id2label: numbered()
            .map(|(id, name)| (id.to_string(), name.clone()))
            .collect::<BTreeMap<_, _>>(),
        label2id: numbered().map(|(id, name)| (name.clone(), id)).collect(),
    }
}

/// Whether the server is ready for requests, as text-embeddings-inference says it
///
/// The same as `/readyz` but for the form of its errors; `/healthz` and `/ping` are other names of it.
#[utoipa::path(
    get, path = "/health", tag = "text-embeddings-inference", operation_id = "tei_health",
    responses(
        (status = 200, description = "It is", body = Health),
        Readiness,
    ),
)]
pub(in crate::routes) async fn health(state: State<App>) -> Result<Json<Health>, ApiError> {
    ready(state).await
}
