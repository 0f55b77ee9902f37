use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Extension, Query, State};
use encoder::{EncodeError, Piece, TextTokenizer};
use openapi::{ErrorCode, TeiDecodeRequest, TeiIds, TeiTexts, TeiToken, TeiTokenizeRequest};

use super::{Named, prompt};
use crate::body::Json;
use crate::exchange::Context;
use crate::model::{ServedEncoder, ServedReranker};
use crate::problem::ApiError;
use crate::routes::embeddings::check_number;
use crate::routes::errors::{Body, Computing, NamedModel};
use crate::routes::headers::Waiting;
use crate::state::{App, Shared};

/// Turn texts into tokens, as text-embeddings-inference does
#[utoipa::path(
    post, path = "/tokenize", tag = "text-embeddings-inference", operation_id = "tei_tokenize",
    params(("model" = Option<String>, Query, description = "As `model` of the body"), Waiting),
    request_body = TeiTokenizeRequest,
    responses(
        (status = 200, description = "The tokens of each text, uncut", body = Vec<Vec<TeiToken>>),
        Body, NamedModel, Computing,
    ),
)]
pub(in crate::routes) async fn tokenize(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<TeiTokenizeRequest>,
) -> Result<Answer<Vec<Vec<TeiToken>>>, ApiError> {
    let model = Either::find(&app, named.or(&body.model))?;
    let prompt = match (&model, body.prompt_name.as_deref()) {
        (Either::Encoder(encoder), Some(name)) => prompt(encoder, Some(name))?,
        (Either::Reranker(reranker), Some(_)) => {
            let text = format!("is given, but `{}` has no prompts", reranker.name);
            return Err(ApiError::field("/prompt_name", "unsupported", text));
        }
        (_, None) => String::new(),
    };
    let texts = match body.inputs {
        TeiTexts::One(text) => vec![text],
        TeiTexts::Many(texts) => texts,
    };
    check_number(&app, texts.len(), "/inputs")?;
    let deadline = context.deadline(None, app.config.max_timeout, &app)?;
    let add_special = body.add_special_tokens;
    let n_bytes = texts.iter().map(String::len).sum();
    check_bytes(&app, n_bytes)?;
    let tokens = app
        .tokenizers
        .run(texts, n_bytes, deadline, move |text: &String| {
            let text = format!("{prompt}{text}");
            let pieces = model.tokenizer().pieces_of(&text, add_special);
            let pieces = pieces.map_err(failed)?;
            Ok(pieces
                .into_iter()
                .map(|piece| token(&text, piece))
                .collect())
        });
    tokens.await.map(Answer).map_err(ApiError::model)
}

fn token(text: &str, piece: Piece) -> TeiToken {
    let Piece {
        id,
        token,
        special,
        bytes,
    } = piece;
    if special {
        return TeiToken {
            id,
            text: token,
            special,
            start: None,
            stop: None,
        };
    }
    // Of a character that is cut apart, the tokens of its bytes have no text of their own.
    let text = text.as_bytes().get(bytes.clone()).unwrap_or_default();
    TeiToken {
        id,
        text: String::from_utf8_lossy(text).into_owned(),
        special,
        start: Some(bytes.start),
        stop: Some(bytes.end),
    }
}

/// Turn token ids into text, as text-embeddings-inference does
#[utoipa::path(
    post, path = "/decode", tag = "text-embeddings-inference", operation_id = "tei_decode",
    params(("model" = Option<String>, Query, description = "As `model` of the body"), Waiting),
    request_body = TeiDecodeRequest,
    responses(
        (status = 200, description = "A text for each list of ids; ids that no token has are skipped", body = Vec<String>, example = json!(["the tide"])),
        Body, NamedModel, Computing,
    ),
)]
pub(in crate::routes) async fn decode(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<TeiDecodeRequest>,
) -> Result<Answer<Vec<String>>, ApiError> {
    let model = Either::find(&app, named.or(&body.model))?;
    let lists = match body.ids {
        TeiIds::One(ids) => vec![ids],
        TeiIds::Many(lists) => lists,
    };
    check_number(&app, lists.len(), "/ids")?;
    let deadline = context.deadline(None, app.config.max_timeout, &app)?;
    let skip_special = body.skip_special_tokens;
    let n_bytes = lists.iter().map(|ids| size_of_val(ids.as_slice())).sum();
    check_bytes(&app, n_bytes)?;
    let texts = app
        .tokenizers
        .run(lists, n_bytes, deadline, move |ids: &Vec<u32>| {
            let text = match skip_special {
                true => model.tokenizer().text(ids),
                false => model.tokenizer().text_with_special(ids),
            };
            text.map_err(failed)
        });
    texts.await.map(Answer).map_err(ApiError::model)
}

/// An answer is up to 20 times as large as what it is made of.
fn check_bytes(app: &Shared, n_bytes: usize) -> Result<(), ApiError> {
    let limit = app.limits().tokenize_bytes;
    if n_bytes <= limit {
        return Ok(());
    }
    let (code, given) = (ErrorCode::BatchTooLarge, Some(n_bytes as u64));
    Err(ApiError::too_many(
        code,
        "bytes of the inputs:",
        given,
        limit,
        "limits.tokenize_bytes",
    ))
}

fn failed(error: impl std::fmt::Display) -> EncodeError {
    let reason = error.to_string();
    EncodeError::Tokenize { row: 0, reason }
}

/// A model of either kind: both have tokenizers.
pub(super) enum Either {
    Encoder(Arc<ServedEncoder>),
    Reranker(Arc<ServedReranker>),
}

impl Either {
    /// The model of a name; without one the only encoder, else the only reranker.
    pub(super) fn find(app: &Shared, name: Option<&str>) -> Result<Self, ApiError> {
        match app.encoder(name) {
            Ok(encoder) => Ok(Self::Encoder(encoder)),
            Err(error) => match app.reranker(name) {
                Ok(reranker) if name.is_some() || app.encoders.is_empty() => {
                    Ok(Self::Reranker(reranker))
                }
                _ => Err(error),
            },
        }
    }

    fn tokenizer(&self) -> &TextTokenizer {
        match self {
            Self::Encoder(encoder) => encoder.model.tokenizer(),
            Self::Reranker(reranker) => reranker.model.tokenizer(),
        }
    }
}
