//! The routes of text-embeddings-inference, for clients that were written for it.

mod embed;
mod info;
mod pairs;
mod tokens;

use std::time::{Duration, Instant};

use axum::Json as Answer;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
pub(super) use embed::{
    __path_embed, __path_embed_all, __path_similarity, embed, embed_all, similarity,
};
use encoder::{Role, Side, Tokens};
pub(super) use info::{__path_health, __path_info, health, info};
use openapi::{ErrorCode, TeiReading, TeiSide};
pub(super) use pairs::{__path_predict, __path_rerank, predict, rerank};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
pub(super) use tokens::{__path_decode, __path_tokenize, decode, tokenize};

use crate::Scope;
use crate::body::Json;
use crate::exchange::Context;
use crate::model::{Reading, ServedEncoder};
use crate::problem::ApiError;
use crate::state::App;

/// `?model=NAME`: clients that know one address, and no field for a model, say it there.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub(super) struct Named {
    model: Option<String>,
}

impl Named {
    /// What the body says, else the address.
    fn or<'a>(&'a self, body: &'a Option<String>) -> Option<&'a str> {
        body.as_deref().or(self.model.as_deref())
    }
}

/// What an answer cost, for the headers.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    n_characters: usize,
    n_tokens: usize,
    tokenize: Duration,
    queue: Duration,
    compute: Duration,
}

/// A 200 with the headers that say what it cost.
fn answer(body: impl Serialize, cost: Cost, start: Instant) -> Response {
    let mut response = Answer(body).into_response();
    let millis = |time: Duration| time.as_millis() as u64;
    for (name, value) in [
        ("x-compute-characters", cost.n_characters as u64),
        ("x-compute-tokens", cost.n_tokens as u64),
        ("x-compute-time", millis(cost.tokenize + cost.compute)),
        ("x-tokenization-time", millis(cost.tokenize)),
        ("x-queue-time", millis(cost.queue)),
        ("x-inference-time", millis(cost.compute)),
        ("x-total-time", millis(start.elapsed())),
    ] {
        let name = HeaderName::from_static(name);
        response
            .headers_mut()
            .insert(name, HeaderValue::from(value));
    }
    response
}

/// How an encoder reads the texts of a request.
fn reading(encoder: &ServedEncoder, asked: &TeiReading) -> Result<Reading, ApiError> {
    Ok(Reading {
        role: Role::Passage,
        prompt: Some(prompt(encoder, asked.prompt_name.as_deref())?),
        side: side(asked),
    })
}

fn prompt(encoder: &ServedEncoder, name: Option<&str>) -> Result<String, ApiError> {
    let Some(name) = name else {
        return Ok(encoder.model.default_prompt().to_owned());
    };
    let prompts = encoder.model.prompts();
    prompts.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = prompts.keys().map(String::as_str).collect();
        let text = format!(
            "is `{name}`; the prompts of `{}` are: {}",
            encoder.name,
            known.join(", ")
        );
        ApiError::field("/prompt_name", "unknown_value", text)
    })
}

fn side(asked: &TeiReading) -> Option<Side> {
    asked.truncation_direction.map(|side| match side {
        TeiSide::Left => Side::Left,
        TeiSide::Right => Side::Right,
    })
}

/// Refuses texts that were cut where the caller does not want that.
fn check_cut(asked: &TeiReading, tokens: &[Tokens], max_tokens: usize) -> Result<(), ApiError> {
    match tokens.iter().position(|row| row.truncated) {
        Some(row) if asked.truncate == Some(false) => Err(ApiError::new(
            ErrorCode::BatchTooLarge,
            format!("input {row} has more than {max_tokens} tokens, and `truncate` is false"),
        )),
        _ => Ok(()),
    }
}

/// Whatever the one model of a server of text-embeddings-inference does: the body says what that is.
///
/// `inputs` with a `source_sentence` are compared, a `query` with `texts` reranked, other `inputs` embedded where an encoder is
/// loaded, else classified.
pub(super) async fn root(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<Map<String, Value>>,
) -> Result<Response, ApiError> {
    let (state, query) = (State(App::clone(&app)), Query(named));
    if body.contains_key("texts") {
        context.require(Scope::Rerank)?;
        rerank(state, Extension(context), query, Json(read(body)?)).await
    } else if body.get("inputs").is_some_and(Value::is_object) {
        context.require(Scope::Embed)?;
        similarity(state, Extension(context), query, Json(read(body)?)).await
    } else if app.encoders.is_empty() {
        context.require(Scope::Rerank)?;
        predict(state, Extension(context), query, Json(read(body)?)).await
    } else {
        context.require(Scope::Embed)?;
        embed(state, Extension(context), query, Json(read(body)?)).await
    }
}

fn read<T: DeserializeOwned>(body: Map<String, Value>) -> Result<T, ApiError> {
    serde_json::from_value(Value::Object(body))
        .map_err(|error| ApiError::field("", "wrong_type", format!("is wrong: {error}")))
}
