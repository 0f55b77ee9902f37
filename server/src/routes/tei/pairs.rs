use std::time::Instant;

use axum::extract::{Extension, Query, State};
use axum::response::Response;
use openapi::{
    TeiPredictInput, TeiPredictRequest, TeiPrediction, TeiPredictions, TeiRank, TeiReading,
    TeiRerankRequest,
};

use super::{Cost, Named, answer, check_cut, side};
use crate::body::Json;
use crate::exchange::Context;
use crate::model::{Input, PairCut, Scored, ServedReranker};
use crate::problem::ApiError;
use crate::routes::errors::{Body, Computing, NamedModel};
use crate::routes::headers::Waiting;
use crate::routes::rerank::{best_first, check_documents, check_query, probability};
use crate::scheduler::Class;
use crate::state::{App, Shared};

/// Order texts by how well they answer a query, as text-embeddings-inference does
#[utoipa::path(
    post, path = "/rerank", tag = "text-embeddings-inference", operation_id = "tei_rerank",
    params(("model" = Option<String>, Query, description = "As `model` of the body"), Waiting),
    request_body = TeiRerankRequest,
    responses(
        (status = 200, description = "The texts, best first", body = Vec<TeiRank>),
        Body, NamedModel, Computing,
    ),
)]
pub(in crate::routes) async fn rerank(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<TeiRerankRequest>,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let model = app.reranker(named.or(&body.reading.model))?;
    let limits = &app.limits();
    check_documents(limits, body.texts.len(), "/texts")?;
    check_query(limits, &body.query)?;
    let mut kept = match body.return_text {
        true => body.texts.clone(),
        false => Vec::new(),
    };
    let inputs = Input::pairs(&body.query, body.texts);
    let (scored, cost) = score(&app, &context, &model, inputs, &body.reading).await?;
    let logits = scored.first_logits();
    let rank = |index: usize| TeiRank {
        index,
        score: match body.raw_scores {
            true => logits[index],
            false => probability(logits[index]),
        },
        text: kept.get_mut(index).map(std::mem::take),
    };
    let ranks: Vec<TeiRank> = best_first(&logits).into_iter().map(rank).collect();
    Ok(answer(ranks, cost, start))
}

/// Classify texts or pairs of texts, as text-embeddings-inference does
///
/// A model of one label gives its logistic probability, one of several the softmax over them.
#[utoipa::path(
    post, path = "/predict", tag = "text-embeddings-inference", operation_id = "tei_predict",
    params(("model" = Option<String>, Query, description = "As `model` of the body"), Waiting),
    request_body = TeiPredictRequest,
    responses(
        (status = 200, description = "The labels, surest first; a list of such lists for many inputs", body = TeiPredictions),
        Body, NamedModel, Computing,
    ),
)]
pub(in crate::routes) async fn predict(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Query(named): Query<Named>,
    Json(body): Json<TeiPredictRequest>,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let model = app.reranker(named.or(&body.reading.model))?;
    let (inputs, many) = match body.inputs {
        TeiPredictInput::Text(text) => (vec![vec![text]], false),
        TeiPredictInput::One(texts) => (vec![texts], false),
        TeiPredictInput::Many(inputs) => (inputs, true),
    };
    check_documents(&app.limits(), inputs.len(), "/inputs")?;
    let input = |(row, texts): (usize, Vec<String>)| match <[String; 1]>::try_from(texts) {
        Ok([text]) => Ok(Input::One(text)),
        Err(texts) => match <[String; 2]>::try_from(texts) {
            Ok([first, second]) => Ok(Input::Pair(first.into(), second)),
            Err(texts) => {
                let text = format!("has {} texts, expected 1 or 2", texts.len());
                let pointer = match many {
                    true => format!("/inputs/{row}"),
                    false => "/inputs".to_owned(),
                };
                Err(ApiError::field(pointer, "wrong_length", text))
            }
        },
    };
    let inputs: Result<Vec<Input>, ApiError> = inputs.into_iter().enumerate().map(input).collect();
    let (scored, cost) = score(&app, &context, &model, inputs?, &body.reading).await?;
    let mut predictions: Vec<Vec<TeiPrediction>> = scored
        .logits
        .chunks_exact(scored.n_labels)
        .map(|logits| labelled(model.model.labels(), logits, body.raw_scores))
        .collect();
    let body = match many {
        true => TeiPredictions::Many(predictions),
        false => TeiPredictions::One(predictions.swap_remove(0)),
    };
    Ok(answer(body, cost, start))
}

/// The labels of one input, surest first.
fn labelled(labels: &[String], logits: &[f32], raw: bool) -> Vec<TeiPrediction> {
    let scores: Vec<f32> = match logits {
        logits if raw => logits.to_vec(),
        &[logit] => vec![probability(logit)],
        logits => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
            let sum: f32 = powers.iter().sum();
            powers.iter().map(|power| power / sum).collect()
        }
    };
    let prediction = |label: usize| TeiPrediction {
        score: scores[label],
        label: labels[label].clone(),
    };
    best_first(&scores).into_iter().map(prediction).collect()
}

async fn score(
    app: &Shared,
    context: &Context,
    model: &ServedReranker,
    inputs: Vec<Input>,
    asked: &TeiReading,
) -> Result<(Scored, Cost), ApiError> {
    if asked.prompt_name.is_some() {
        let text = format!("is given, but `{}` has no prompts", model.name);
        return Err(ApiError::field("/prompt_name", "unsupported", text));
    }
    let n_characters = inputs.iter().map(Input::n_characters).sum();
    let deadline = context.deadline(None, app.config.max_timeout, app)?;
    let cut = PairCut {
        max_second: None,
        side: side(asked),
    };
    let start = Instant::now();
    let tokens = model.tokenize(inputs, cut, deadline).await;
    let tokens = tokens.map_err(ApiError::model)?;
    check_cut(asked, &tokens, model.model.max_tokens())?;
    let class = context.class(Class::Interactive);
    let scored = model.score_tokens(tokens, class, deadline, start.elapsed());
    let scored = scored.await.map_err(ApiError::model)?;
    let cost = Cost {
        n_characters,
        n_tokens: scored.n_tokens,
        tokenize: scored.tokenize,
        queue: scored.queue,
        compute: scored.compute,
    };
    Ok((scored, cost))
}
