use axum::Json as Answer;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use openapi::{
    ErrorCode, RerankDocument, RerankDocumentText, RerankRequest, RerankResponse, RerankResult,
    RerankUsage,
};

use super::errors::{Body, Computing, NamedModel};
use super::headers::Waiting;
use super::measured;
use crate::Limits;
use crate::body::Json;
use crate::exchange::Context;
use crate::model::{Input, PairCut};
use crate::problem::ApiError;
use crate::scheduler::Class;
use crate::state::App;

/// Order documents by how well they answer a query
///
/// Request and answer are Jina's, which Cohere's clients understand as well. A pair over the model's length is cut there.
#[utoipa::path(
    post, path = "/v1/rerank", tag = "models", operation_id = "rerank",
    params(
        Waiting,
    ),
    request_body = RerankRequest,
    responses(
        (status = 200, description = "The documents, best first", body = RerankResponse, headers(
            ("Server-Timing" = String, description = "Time of each stage"),
        )),
        Body, NamedModel, Computing,
    ),
)]
pub(super) async fn rerank(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Json(body): Json<RerankRequest>,
) -> Result<Response, ApiError> {
    let model = app.reranker(body.model.as_deref())?;
    let limits = &app.limits();
    check_documents(limits, body.documents.len(), "/documents")?;
    check_query(limits, &body.query)?;
    if body.top_n == Some(0) {
        return Err(ApiError::field("/top_n", "too_small", "is 0, limit is 1"));
    }
    let deadline = context.deadline(None, app.config.max_timeout, &app)?;
    let class = context.class(Class::Interactive);
    let texts: Vec<String> = body
        .documents
        .into_iter()
        .map(RerankDocument::into_text)
        .collect();
    let kept = if body.return_documents {
        texts.clone()
    } else {
        Vec::new()
    };
    let (inputs, cut) = (Input::pairs(&body.query, texts), PairCut::default());
    let scored = model.score(inputs, cut, class, deadline).await;
    let scored = scored.map_err(ApiError::model)?;

    let scores = scored.first_scores();
    let mut order = best_first(&scores);
    order.truncate(body.top_n.unwrap_or(usize::MAX));
    let result = |index: usize| RerankResult {
        index,
        relevance_score: scores[index],
        document: kept
            .get(index)
            .map(|text| RerankDocumentText { text: text.clone() }),
    };
    let answer = RerankResponse {
        id: context.request_id,
        model: model.name.clone(),
        results: order.into_iter().map(result).collect(),
        usage: RerankUsage {
            total_tokens: scored.n_tokens,
        },
    };
    let mut response = Answer(answer).into_response();
    measured(&app, &mut response, &scored.stages());
    Ok(response)
}

pub(super) fn check_documents(
    limits: &Limits,
    n_documents: usize,
    pointer: &str,
) -> Result<(), ApiError> {
    let limit = limits.rerank_documents;
    if n_documents > limit {
        let (code, given) = (ErrorCode::BatchTooLarge, Some(n_documents as u64));
        let setting = "limits.rerank_documents";
        return Err(ApiError::too_many(
            code,
            "documents:",
            given,
            limit,
            setting,
        ));
    }
    if n_documents == 0 {
        return Err(ApiError::field(pointer, "too_small", "is empty"));
    }
    Ok(())
}

pub(super) fn check_query(limits: &Limits, query: &str) -> Result<(), ApiError> {
    if query.trim().is_empty() {
        return Err(ApiError::field("/query", "blank", "is blank"));
    }
    let (given, limit) = (query.len(), limits.query_bytes);
    if given > limit {
        let text = format!("has {given} bytes, limit is {limit} (`limits.query_bytes`)");
        return Err(ApiError::field("/query", "too_large", text));
    }
    Ok(())
}

/// Positions by score, best first; equal scores keep the order given.
pub(super) fn best_first(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// The logistic function: a logit as a value between 0 and 1.
pub(super) fn probability(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}
