use axum::extract::{Extension, Path, State};
use axum::http::Uri;
use axum::response::Response;
use futures::future::join_all;
use openapi::{
    BatchSearchRequest, BatchSearchResponse, BatchSearchResult, ErrorCode, SearchResponse,
};
use retriever::{QueryInput, SearchOptions};

use super::aliases::{named, shadow};
use super::errors::{Body, Opened, TooMany};
use super::headers::Waiting;
use super::identified;
use super::search::{Asker, write};
use crate::body::Json;
use crate::exchange::Context;
use crate::problem::ApiError;
use crate::scheduler::Class;
use crate::state::App;

/// Search a collection for many queries at once
///
/// Searches with equal options are encoded and searched together. Each has its own answer or its own error: the status is 200 where
/// the request as a whole can be read. All answers come from one generation.
#[utoipa::path(
    post, path = "/v1/collections/{name}/search/batch", tag = "search", operation_id = "search_batch",
    params(
        ("name" = String, Path, description = "Name of the collection; `name@alias` or `name@generation` is another generation of it", example = "docs"),
        Waiting,
    ),
    request_body = BatchSearchRequest,
    responses(
        (status = 200, description = "An answer or an error for each search, in their order", body = BatchSearchResponse, headers(
            ("x-index-generation" = String, description = "The generation that answered"),
            ("x-model-fingerprint" = String, description = "Fingerprint of the generation's model and texts"),
        )),
        Body, Opened, TooMany,
    ),
)]
pub(super) async fn search_batch(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Path(name): Path<String>,
    uri: Uri,
    Json(body): Json<BatchSearchRequest>,
) -> Result<Response, ApiError> {
    let collection = named(&app, &name).await?;
    let (n_searches, limit) = (body.searches.len(), app.limits().batch_queries);
    if n_searches == 0 {
        return Err(ApiError::field("/searches", "too_small", "is empty"));
    }
    if n_searches > limit {
        let (code, given) = (ErrorCode::BatchTooLarge, Some(n_searches as u64));
        let setting = "limits.batch_queries";
        return Err(ApiError::too_many(code, "searches:", given, limit, setting));
    }
    // What the header asks for is wrong of all of them.
    context.deadline(None, app.config.max_timeout, &app)?;
    let batch = Batch {
        asker: Asker {
            app: &app,
            collection: &collection,
            context: &context,
            class: context.class(Class::Interactive),
            shadow: shadow(&app, &name),
        },
        path: uri.path(),
    };
    let mut results: Vec<Option<BatchSearchResult>> = Vec::new();
    results.resize_with(n_searches, || None);
    let mut parts: Vec<Part> = Vec::new();
    for (place, search) in body.searches.into_iter().enumerate() {
        let deadline = context.deadline(search.timeout_ms, app.config.max_timeout, &app);
        match deadline.and_then(|deadline| batch.asker.resolve(search, deadline)) {
            Ok(search) => add(&mut parts, place, search.query, search.options),
            Err(error) => results[place] = Some(batch.failed(error)),
        }
    }
    let answered = join_all(parts.into_iter().map(|part| batch.answer(part))).await;
    for (place, result) in answered.into_iter().flatten() {
        results[place] = Some(result);
    }
    let manifest = collection.retriever.manifest();
    let body = BatchSearchResponse {
        results: results.into_iter().flatten().collect(),
        collection: collection.name.clone(),
        generation: manifest.generation.to_string(),
        model_fingerprint: manifest.fingerprint_digest.clone(),
        request_id: context.request_id.clone(),
    };
    let generation = body.generation.clone();
    let fingerprint = &manifest.fingerprint_digest;
    Ok(identified(body, Some(&generation), fingerprint))
}

/// Searches of a batch that differ in their queries only.
struct Part {
    /// Where they stand in the batch.
    places: Vec<usize>,
    queries: Vec<QueryInput>,
    options: SearchOptions,
}

fn add(parts: &mut Vec<Part>, place: usize, query: QueryInput, options: SearchOptions) {
    let is_vector = |query: &QueryInput| matches!(query, QueryInput::Vector(_));
    let part = parts.iter_mut().find(|part| {
        part.options == options && part.queries.first().map(is_vector) == Some(is_vector(&query))
    });
    match part {
        Some(part) => {
            part.places.push(place);
            part.queries.push(query);
        }
        None => parts.push(Part {
            places: vec![place],
            queries: vec![query],
            options,
        }),
    }
}

struct Batch<'a> {
    asker: Asker<'a>,
    path: &'a str,
}

impl Batch<'_> {
    async fn answer(&self, part: Part) -> Vec<(usize, BatchSearchResult)> {
        let Part {
            places,
            queries,
            options,
        } = part;
        // What is wrong with one vector is not the fault of the others: then each is asked for by itself.
        let spare = match queries.first() {
            Some(QueryInput::Vector(_)) if queries.len() > 1 => queries.clone(),
            _ => Vec::new(),
        };
        let results = match self.asker.answer(queries, &options, &places).await {
            Ok(answers) => self.found(answers, &options),
            Err(error) if error.code == ErrorCode::Validation && !spare.is_empty() => {
                let mut results = Vec::with_capacity(spare.len());
                for (query, &place) in spare.into_iter().zip(&places) {
                    match self.asker.answer(vec![query], &options, &[place]).await {
                        Ok(answers) => results.extend(self.found(answers, &options)),
                        Err(error) => results.push(self.failed(error)),
                    }
                }
                results
            }
            Err(error) => vec![self.failed(error); places.len()],
        };
        places.into_iter().zip(results).collect()
    }

    fn found(
        &self,
        answers: Vec<retriever::SearchResponse>,
        options: &SearchOptions,
    ) -> Vec<BatchSearchResult> {
        let Asker {
            collection,
            context,
            ..
        } = &self.asker;
        let found =
            |answer| -> SearchResponse { write(collection, answer, options, &context.request_id) };
        answers
            .into_iter()
            .map(|answer| BatchSearchResult::Found(Box::new(found(answer))))
            .collect()
    }

    fn failed(&self, error: ApiError) -> BatchSearchResult {
        let request_id = &self.asker.context.request_id;
        if error.code == ErrorCode::Internal {
            let cause = error.causes();
            tracing::error!(request_id, path = self.path, cause, "search failed");
        }
        BatchSearchResult::Failed {
            error: error.problem(self.path, request_id),
        }
    }
}
