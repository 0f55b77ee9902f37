use std::time::Instant;

use axum::extract::{Extension, Query, State};
use axum::response::Response;
use encoder::Output;
use openapi::{
    EmbeddingInput, ErrorCode, TeiEmbedAllRequest, TeiEmbedRequest, TeiReading,
    TeiSimilarityRequest,
};
use retriever::{Deadline, Encoded};

use super::{Cost, Named, answer, check_cut, reading};
use crate::body::Json;
use crate::exchange::Context;
use crate::model::ServedEncoder;
use crate::problem::ApiError;
use crate::routes::embeddings::{Rows, kept_width};
use crate::routes::errors::{Body, Computing, NamedModel};
use crate::routes::headers::Waiting;
use crate::scheduler::{Class, Work};
use crate::state::{App, Shared};

/// Turn texts into vectors, as text-embeddings-inference does
///
/// Its errors and its headers (`x-compute-tokens`, `x-queue-time` and so on, times in milliseconds) come with every answer.
/// `POST /` does the same.
#[utoipa::path(
    post, path = "/embed", tag = "text-embeddings-inference", operation_id = "tei_embed",
    params(("model" = Option<String>, Query, description = "As `model` of the body"), Waiting),
    request_body = TeiEmbedRequest,
    responses(
        (status = 200, description = "One vector a text", body = Vec<Vec<f32>>, headers(
            ("x-compute-tokens" = u64, description = "Tokens read"),
            ("x-compute-characters" = u64, description = "Characters of the texts"),
            ("x-compute-time" = u64, description = "Milliseconds of tokenising and computing"),
            ("x-tokenization-time" = u64, description = "Milliseconds of tokenising"),
            ("x-queue-time" = u64, description = "Milliseconds of waiting for the model"),
            ("x-inference-time" = u64, description = "Milliseconds of computing"),
            ("x-total-time" = u64, description = "Milliseconds of it all"),
        ), example = json!([[0.013, -0.027]])),
        Body, NamedModel, Computing,
    ),
)]
pub(in crate::routes) async fn embed(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<TeiEmbedRequest>,
) -> Result<Response, ApiError> {
    let encoder = app.encoder(named.or(&body.reading.model))?;
    let n_kept = kept_width(&encoder, body.dimensions)?;
    let output = match body.normalize {
        true => Output::Vector,
        false => Output::Unnormalized,
    };
    let job = Job::new(&app, &context, &encoder, "/inputs")?;
    let (encoded, _, cost) = job.encode(body.inputs, &body.reading, output).await?;
    let vectors: Vec<Vec<f32>> = encoded
        .values
        .chunks_exact(encoded.width)
        .map(|row| {
            let mut row = row[..n_kept].to_vec();
            if body.normalize && (n_kept < encoded.width || !encoder.model.normalizes()) {
                index::normalize(&mut row);
            }
            row
        })
        .collect();
    Ok(answer(vectors, cost, job.start))
}

/// The vectors of all tokens of texts, as text-embeddings-inference gives them
///
/// They are those of the last layer, special tokens included, before pooling. Limit: `limits.embed_all_tokens`.
#[utoipa::path(
    post, path = "/embed_all", tag = "text-embeddings-inference", operation_id = "tei_embed_all",
    params(("model" = Option<String>, Query, description = "As `model` of the body"), Waiting),
    request_body = TeiEmbedAllRequest,
    responses(
        (status = 200, description = "For each text a vector a token", body = Vec<Vec<Vec<f32>>>, example = json!([[[0.21, -0.4], [0.1, 0.7]]])),
        Body, NamedModel, Computing,
    ),
)]
pub(in crate::routes) async fn embed_all(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<TeiEmbedAllRequest>,
) -> Result<Response, ApiError> {
    let encoder = app.encoder(named.or(&body.reading.model))?;
    if !encoder.model.has_token_vectors() {
        let text = format!("names `{}`, which has one vector a text", encoder.name);
        return Err(ApiError::field("/model", "unsupported", text));
    }
    let job = Job::new(&app, &context, &encoder, "/inputs")?;
    let (encoded, lengths, cost) = job
        .encode(body.inputs, &body.reading, Output::TokenVectors)
        .await?;
    let n_tokens: usize = lengths.iter().sum();
    let width = encoded.values.len() / n_tokens.max(1);
    let mut vectors = encoded.values.chunks_exact(width).map(<[f32]>::to_vec);
    let texts: Vec<Vec<Vec<f32>>> = lengths
        .iter()
        .map(|&n_tokens| vectors.by_ref().take(n_tokens).collect())
        .collect();
    Ok(answer(texts, cost, job.start))
}

/// Compare a text with others, as text-embeddings-inference does
#[utoipa::path(
    post, path = "/similarity", tag = "text-embeddings-inference", operation_id = "tei_similarity",
    params(("model" = Option<String>, Query, description = "As `model` of the body"), Waiting),
    request_body = TeiSimilarityRequest,
    responses(
        (status = 200, description = "The cosine of each of the others", body = Vec<f32>, example = json!([0.71, 0.12])),
        Body, NamedModel, Computing,
    ),
)]
pub(in crate::routes) async fn similarity(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<TeiSimilarityRequest>,
) -> Result<Response, ApiError> {
    let encoder = app.encoder(named.or(&body.model))?;
    let job = Job::new(&app, &context, &encoder, "/inputs/sentences")?;
    if body.inputs.sentences.is_empty() {
        return Err(ApiError::field(job.pointer, "too_small", "is empty"));
    }
    let mut texts = vec![body.inputs.source_sentence];
    texts.extend(body.inputs.sentences);
    let asked = body.parameters.unwrap_or_default();
    let (mut encoded, _, cost) = job
        .encode(EmbeddingInput::Texts(texts), &asked, Output::Vector)
        .await?;
    for row in encoded.values.chunks_exact_mut(encoded.width) {
        index::normalize(row);
    }
    let (source, others) = encoded.values.split_at(encoded.width);
    let cosine = |row: &[f32]| index::score(index::Metric::Cosine, row, source);
    let cosines: Vec<f32> = others.chunks_exact(encoded.width).map(cosine).collect();
    Ok(answer(cosines, cost, job.start))
}

/// A request for vectors.
struct Job<'a> {
    app: &'a Shared,
    encoder: &'a ServedEncoder,
    /// Where the texts are in the body.
    pointer: &'static str,
    deadline: Deadline,
    class: Class,
    start: Instant,
}

impl<'a> Job<'a> {
    fn new(
        app: &'a Shared,
        context: &Context,
        encoder: &'a ServedEncoder,
        pointer: &'static str,
    ) -> Result<Self, ApiError> {
        Ok(Self {
            app,
            encoder,
            pointer,
            deadline: context.deadline(None, app.config.max_timeout, app)?,
            class: context.class(Class::Interactive),
            start: Instant::now(),
        })
    }

    /// Values, tokens of each text, and the cost.
    async fn encode(
        &self,
        input: EmbeddingInput,
        asked: &TeiReading,
        output: Output,
    ) -> Result<(Encoded, Vec<usize>, Cost), ApiError> {
        let rows = Rows {
            app: self.app,
            encoder: self.encoder,
            pointer: self.pointer,
            deadline: self.deadline,
        };
        let n_characters = match &input {
            EmbeddingInput::Text(text) => text.chars().count(),
            EmbeddingInput::Texts(texts) => texts.iter().map(|text| text.chars().count()).sum(),
            EmbeddingInput::Ids(_) | EmbeddingInput::ManyIds(_) => 0,
        };
        let reading = reading(self.encoder, asked)?;
        let max_tokens = self.encoder.model.max_tokens(reading.role);
        let (tokens, tokenize) = rows.tokenize(input, reading).await?;
        check_cut(asked, &tokens, max_tokens)?;
        let lengths: Vec<usize> = tokens.iter().map(encoder::Tokens::len).collect();
        let n_tokens: usize = lengths.iter().sum();
        let limit = self.app.limits().embed_all_tokens;
        if output == Output::TokenVectors && n_tokens > limit {
            let (code, given) = (ErrorCode::BatchTooLarge, Some(n_tokens as u64));
            let (what, setting) = ("tokens of the request:", "limits.embed_all_tokens");
            return Err(ApiError::too_many(code, what, given, limit, setting));
        }
        let work = Work {
            rows: tokens,
            output,
        };
        let encoded = rows.encode(work, self.class, tokenize).await?;
        let cost = Cost {
            n_characters,
            n_tokens: encoded.n_tokens(),
            tokenize,
            queue: encoded.queue,
            compute: encoded.compute,
        };
        Ok((encoded, lengths, cost))
    }
}
