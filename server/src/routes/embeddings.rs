use std::time::{Duration, Instant};

use axum::extract::{Extension, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoder::{EncodeError, Role, Tokens};
use openapi::{
    Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage,
    EmbeddingValues, EncodingFormat, ErrorCode, InputType,
};
use retriever::{Deadline, Encoded, ModelError};

use super::errors::{Body, Computing, NamedModel};
use super::headers::Waiting;
use super::{identified, measured};
use crate::body::Json;
use crate::exchange::Context;
use crate::model::{Reading, ServedEncoder};
use crate::problem::ApiError;
use crate::scheduler::{Class, Work};
use crate::state::{App, Shared};

/// Turn texts into vectors, as OpenAI's API does
///
/// Errors have OpenAI's form. Texts over the model's length are cut there.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "models", operation_id = "embed",
    params(
        Waiting,
    ),
    request_body = EmbeddingRequest,
    responses(
        (status = 200, description = "One vector a text", body = EmbeddingResponse, headers(
            ("x-model-fingerprint" = String, description = "Fingerprint of the model, with default templates"),
            ("Server-Timing" = String, description = "Time of each stage"),
        )),
        Body, NamedModel, Computing,
    ),
)]
pub(super) async fn embed(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Json(body): Json<EmbeddingRequest>,
) -> Result<Response, ApiError> {
    let encoder = app.encoder(Some(&body.model))?;
    let n_kept = kept_width(&encoder, body.dimensions)?;
    let (role, usual) = match body.input_type {
        InputType::Query => (Role::Query, Class::Interactive),
        InputType::Document => (Role::Passage, Class::Bulk),
    };
    let class = context.class(usual);
    let deadline = context.deadline(None, app.config.max_timeout, &app)?;
    let rows = Rows {
        app: &app,
        encoder: &encoder,
        pointer: "/input",
        deadline,
    };
    let (tokens, tokenize) = rows.tokenize(body.input, role.into()).await?;
    let encoded = rows.encode(tokens.into(), class, tokenize).await?;
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
        embedding: values(&cut(row, n_kept)),
    };
    let response = EmbeddingResponse {
        object: "list".to_owned(),
        data: encoded
            .values
            .chunks_exact(encoder.model.width())
            .enumerate()
            .map(entry)
            .collect(),
        model: body.model,
        usage: EmbeddingUsage {
            prompt_tokens: encoded.n_tokens(),
            total_tokens: encoded.n_tokens(),
        },
    };
    let stages = [
        ("queue", encoded.queue),
        ("tokenize", encoded.tokenize),
        ("encode", encoded.compute),
    ];
    let mut response = identified(response, None, &encoder.fingerprint);
    measured(&app, &mut response, &stages);
    Ok(response)
}

/// Values that are left of each vector.
pub(super) fn kept_width(
    encoder: &ServedEncoder,
    dimensions: Option<usize>,
) -> Result<usize, ApiError> {
    let width = encoder.model.width();
    let kept = dimensions.unwrap_or(width);
    if kept == width || encoder.dimensions.contains(&kept) {
        return Ok(kept);
    }
    let name = &encoder.name;
    let text = format!(
        "is {kept}; the vectors of `{name}` have {width} and are cut to what `models.{name}.dimensions` lists: {:?}",
        encoder.dimensions
    );
    Err(ApiError::field("/dimensions", "unsupported", text))
}

/// The beginning of a vector, brought to length 1 where something was cut off.
pub(super) fn cut(row: &[f32], n_kept: usize) -> Vec<f32> {
    let mut kept = row[..n_kept].to_vec();
    if n_kept < row.len() {
        index::normalize(&mut kept);
    }
    kept
}

/// Texts of one request on their way to vectors.
pub(super) struct Rows<'a> {
    pub(super) app: &'a Shared,
    pub(super) encoder: &'a ServedEncoder,
    /// Where they are in the body.
    pub(super) pointer: &'a str,
    pub(super) deadline: Deadline,
}

impl Rows<'_> {
    /// Tokens of each text, and the time that it took.
    pub(super) async fn tokenize(
        &self,
        input: EmbeddingInput,
        reading: Reading,
    ) -> Result<(Vec<Tokens>, Duration), ApiError> {
        let texts = match input {
            EmbeddingInput::Text(text) => vec![text],
            EmbeddingInput::Texts(texts) => texts,
            EmbeddingInput::Ids(ids) => return self.given(vec![ids], reading.role),
            EmbeddingInput::ManyIds(lists) => return self.given(lists, reading.role),
        };
        check_number(self.app, texts.len(), self.pointer)?;
        let start = Instant::now();
        let tokens = self.encoder.tokenize(texts, reading, self.deadline).await;
        Ok((tokens.map_err(ApiError::model)?, start.elapsed()))
    }

    pub(super) async fn encode(
        &self,
        work: Work,
        class: Class,
        tokenize: Duration,
    ) -> Result<Encoded, ApiError> {
        let encoded = self
            .encoder
            .encode_tokens(work, class, self.deadline, tokenize)
            .await;
        encoded.map_err(|error| match error {
            ModelError::Failed(error @ EncodeError::UnknownId { .. }) => ApiError::field(
                self.pointer,
                "unknown_token",
                format!("holds an unknown token: {error}"),
            ),
            error => ApiError::model(error),
        })
    }

    /// Token ids that the caller brought.
    fn given(&self, lists: Vec<Vec<u32>>, role: Role) -> Result<(Vec<Tokens>, Duration), ApiError> {
        check_number(self.app, lists.len(), self.pointer)?;
        let limit = self.encoder.model.max_tokens(role);
        for (row, ids) in lists.iter().enumerate() {
            if ids.is_empty() || ids.len() > limit {
                let text = format!("has {} token ids, expected 1 to {limit}", ids.len());
                let pointer = format!("{}/{row}", self.pointer);
                return Err(ApiError::field(pointer, "wrong_length", text));
            }
        }
        let tokens = |ids: Vec<u32>| Tokens {
            type_ids: vec![0; ids.len()],
            ids,
            ..Tokens::default()
        };
        Ok((lists.into_iter().map(tokens).collect(), Duration::ZERO))
    }
}

pub(super) fn check_number(app: &Shared, n_inputs: usize, pointer: &str) -> Result<(), ApiError> {
    let limit = app.limits().embedding_inputs;
    if n_inputs == 0 {
        return Err(ApiError::field(pointer, "too_small", "is empty"));
    }
    if n_inputs > limit {
        let (code, given) = (ErrorCode::BatchTooLarge, Some(n_inputs as u64));
        let setting = "limits.embedding_inputs";
        return Err(ApiError::too_many(code, "inputs:", given, limit, setting));
    }
    Ok(())
}
