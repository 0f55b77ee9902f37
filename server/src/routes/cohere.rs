use axum::Json as Answer;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use openapi::{
    CohereMeta, CohereRerankRequest, CohereRerankResponse, CohereTokens, CohereUnits,
    CohereVersion, RerankDocument, RerankResult,
};

use super::errors::{Body, Computing, NamedModel};
use super::headers::Waiting;
use super::measured;
use super::rerank::{best_first, check_documents, check_query, probability};
use crate::body::Json;
use crate::exchange::Context;
use crate::model::{Input, PairCut};
use crate::problem::ApiError;
use crate::scheduler::Class;
use crate::state::App;

/// Order documents by how well they answer a query, as Cohere's second API does
///
/// Scores are between 0 and 1. Each document is cut to `max_tokens_per_doc` before query and document become a pair; a pair
/// over the model's length is cut further. Errors have Cohere's form.
#[utoipa::path(
    post, path = "/v2/rerank", tag = "models", operation_id = "cohere_rerank",
    params(
        Waiting,
    ),
    request_body = CohereRerankRequest,
    responses(
        (status = 200, description = "The documents, best first", body = CohereRerankResponse, headers(
            ("Server-Timing" = String, description = "Time of each stage"),
        )),
        Body, NamedModel, Computing,
    ),
)]
pub(super) async fn rerank(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Json(body): Json<CohereRerankRequest>,
) -> Result<Response, ApiError> {
    let model = app.reranker(Some(&body.model))?;
    let limits = &app.limits();
    let n_documents = body.documents.len();
    check_documents(limits, n_documents, "/documents")?;
    check_query(limits, &body.query)?;
    for (pointer, given) in [
        ("/top_n", body.top_n),
        ("/max_tokens_per_doc", body.max_tokens_per_doc),
    ] {
        if given == Some(0) {
            return Err(ApiError::field(pointer, "too_small", "is 0, limit is 1"));
        }
    }
    let deadline = context.deadline(None, app.config.max_timeout, &app)?;
    let class = context.class(Class::Interactive);
    let texts = body.documents.into_iter().map(RerankDocument::into_text);
    let inputs = Input::pairs(&body.query, texts.collect());
    let cut = PairCut {
        max_second: body.max_tokens_per_doc,
        side: None,
    };
    let scored = model.score(inputs, cut, class, deadline).await;
    let scored = scored.map_err(ApiError::model)?;

    let logits = scored.first_logits();
    let mut order = best_first(&logits);
    order.truncate(body.top_n.unwrap_or(usize::MAX));
    let result = |index: usize| RerankResult {
        index,
        relevance_score: probability(logits[index]),
        document: None,
    };
    let mut warnings = Vec::new();
    if scored.n_truncated > 0 {
        let n_cut = scored.n_truncated;
        warnings.push(format!("{n_cut} of {n_documents} documents were cut"));
    }
    let answer = CohereRerankResponse {
        id: context.request_id,
        results: order.into_iter().map(result).collect(),
        meta: CohereMeta {
            api_version: CohereVersion {
                version: "2".to_owned(),
            },
            billed_units: CohereUnits { search_units: 1 },
            tokens: CohereTokens {
                input_tokens: scored.n_tokens,
            },
            warnings,
        },
    };
    let mut response = Answer(answer).into_response();
    measured(&app, &mut response, &scored.stages());
    Ok(response)
}
