use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoder::{EncodeError, Role, Tokens};
use openapi::{
    Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage,
    EmbeddingValues, EncodingFormat, ErrorCode, InputType, OpenAiError,
};
use retriever::{Deadline, Encoded, ModelError};

use super::identified;
use crate::body::Json;
use crate::exchange::Context;
use crate::model::ServedEncoder;
use crate::problem::ApiError;
use crate::scheduler::Class;
use crate::state::{App, Shared};

/// Turn texts into vectors, as OpenAI's API does
///
/// Errors have OpenAI's form. Texts over the model's length are cut there.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "models", operation_id = "embed",
    params(
        ("x-timeout-ms" = Option<u64>, Header, description = "Time of the request in milliseconds"),
        ("x-priority" = Option<String>, Header, description = "`interactive` or `bulk`; default: interactive for queries, bulk for documents"),
        ("x-request-id" = Option<String>, Header, description = "Given back, and kept in the log"),
    ),
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "One vector a text", body = EmbeddingResponse, headers(
            ("x-model-fingerprint" = String, description = "Fingerprint of the model, with default templates"),
        )),
        (status = 400, description = "`bad_request`", body = OpenAiError),
        (status = 404, description = "`model_not_found`", body = OpenAiError),
        (status = 408, description = "`slow_client`", body = OpenAiError),
        (status = 413, description = "`body_too_large`, `batch_too_large`", body = OpenAiError),
        (status = 415, description = "`unsupported_media_type`", body = OpenAiError),
        (status = 422, description = "`validation`", body = OpenAiError),
        (status = 429, description = "`overloaded`, with `Retry-After`", body = OpenAiError),
        (status = 500, description = "`internal`", body = OpenAiError),
        (status = 503, description = "`not_ready`, `draining`", body = OpenAiError),
        (status = 504, description = "`deadline_exceeded`", body = OpenAiError),
    ),
)]
pub(super) async fn embed(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Json(body): Json<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let encoder = app.encoders.get(&body.model).cloned().ok_or_else(|| {
        let known: Vec<&str> = app.encoders.keys().map(String::as_str).collect();
        let text = format!(
            "there is no encoder `{}`; loaded: {}",
            body.model,
            known.join(", ")
        );
        ApiError::new(ErrorCode::ModelNotFound, text)
    })?;
    let width = encoder.model.width();
    if let Some(dimensions) = body.dimensions
        && dimensions != width
    {
        let text = format!("is {dimensions}; the model's vectors have {width} and are not cut");
        return Err(ApiError::field("/dimensions", "unsupported", text));
    }
    let (role, usual) = match body.input_type {
        InputType::Query => (Role::Query, Class::Interactive),
        InputType::Document => (Role::Passage, Class::Bulk),
    };
    let class = context.class(usual);
    let deadline = context.deadline(None, app.config.max_timeout, &app)?;
    let encoded = encode(&app, &encoder, body.input, role, class, deadline).await?;
    let values = |row: &[f32]| match body.encoding_format {
        EncodingFormat::Float => EmbeddingValues::Float(row.to_vec()),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            EmbeddingValues::Base64(STANDARD.encode(bytes))
        }
    };
    let entry = |(index, row)| Embedding {
        object: "embedding".to_owned(),
        index,
        embedding: values(row),
    };
    let response = EmbeddingResponse {
        object: "list".to_owned(),
        data: encoded
            .values
            .chunks_exact(width)
            .enumerate()
            .map(entry)
            .collect(),
        model: body.model,
        usage: EmbeddingUsage {
            prompt_tokens: encoded.n_tokens,
            total_tokens: encoded.n_tokens,
        },
    };
    Ok(identified(response, None, &encoder.fingerprint))
}

async fn encode(
    app: &Shared,
    encoder: &Arc<ServedEncoder>,
    input: EmbeddingInput,
    role: Role,
    class: Class,
    deadline: Deadline,
) -> Result<Encoded, ApiError> {
    let texts = match input {
        EmbeddingInput::Text(text) => vec![text],
        EmbeddingInput::Texts(texts) => texts,
        EmbeddingInput::Ids(ids) => {
            return encode_ids(app, encoder, vec![ids], role, class, deadline).await;
        }
        EmbeddingInput::ManyIds(lists) => {
            return encode_ids(app, encoder, lists, role, class, deadline).await;
        }
    };
    check_number(app, texts.len())?;
    let encoded = encoder
        .encode_texts(texts, role, None, class, deadline)
        .await;
    encoded.map_err(ApiError::model)
}

async fn encode_ids(
    app: &Shared,
    encoder: &Arc<ServedEncoder>,
    lists: Vec<Vec<u32>>,
    role: Role,
    class: Class,
    deadline: Deadline,
) -> Result<Encoded, ApiError> {
    check_number(app, lists.len())?;
    let limit = encoder.model.max_tokens(role);
    for (row, ids) in lists.iter().enumerate() {
        if ids.is_empty() || ids.len() > limit {
            let text = format!("has {} token ids, expected 1 to {limit}", ids.len());
            return Err(ApiError::field(
                format!("/input/{row}"),
                "wrong_length",
                text,
            ));
        }
    }
    let tokens = |ids: Vec<u32>| Tokens {
        type_ids: vec![0; ids.len()],
        ids,
        ..Tokens::default()
    };
    let rows = lists.into_iter().map(tokens).collect();
    let encoded = encoder
        .encode_tokens(rows, class, deadline, Duration::ZERO)
        .await;
    encoded.map_err(|error| match error {
        ModelError::Failed(error @ EncodeError::UnknownId { .. }) => ApiError::field(
            "/input",
            "unknown_token",
            format!("holds an unknown token: {error}"),
        ),
        error => ApiError::model(error),
    })
}

fn check_number(app: &Shared, n_inputs: usize) -> Result<(), ApiError> {
    let limit = app.config.limits.embedding_inputs;
    if n_inputs == 0 {
        return Err(ApiError::field("/input", "too_small", "is empty"));
    }
    if n_inputs > limit {
        let (code, given) = (ErrorCode::BatchTooLarge, Some(n_inputs as u64));
        return Err(ApiError::too_many(
            code,
            "inputs:",
            given,
            limit,
            "limits.embedding_inputs",
        ));
    }
    Ok(())
}
