use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use openapi::{ErrorCode, Feedback, FeedbackRequest, FeedbackResponse};
use retriever::{Bitmap, Filter, SelectError, View};

use super::aliases::{blocking, named};
use super::errors::{Body, Opened, TooMany};
use crate::Limits;
use crate::auth::narrowed_error;
use crate::body::Json;
use crate::exchange::{Context, is_harmless};
use crate::faults::Faults;
use crate::problem::ApiError;
use crate::query_log::{LoggedEvent, LoggedFeedback, now_ms};
use crate::state::App;

/// The highest grade of a judgment.
const MAX_GRADE: usize = 10;

/// Say what of the found was clicked, or how relevant it is
///
/// Needs a query log (`query_log.path`), into which it is written; `trawl data from-feedback` makes queries and judgments of it. Either
/// all of it is taken or none.
#[utoipa::path(
    post, path = "/v1/collections/{name}/feedback", tag = "search", operation_id = "feedback",
    params(("name" = String, Path, description = "Name of the collection", example = "docs")),
    request_body = FeedbackRequest,
    responses(
        (status = 202, description = "It will be written", body = FeedbackResponse),
        Body, TooMany, Opened,
    ),
)]
pub(super) async fn feedback(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Path(name): Path<String>,
    Json(body): Json<FeedbackRequest>,
) -> Result<Response, ApiError> {
    let collection = named(&app, &name).await?;
    let Some(log) = &app.query_log else {
        let text = "feedback is not kept: `query_log.path` is not set";
        return Err(ApiError::new(ErrorCode::NotFound, text));
    };
    let (n_given, limit) = (body.feedback.len(), app.limits().feedback);
    if n_given == 0 {
        return Err(ApiError::field("/feedback", "too_small", "is empty"));
    }
    if n_given > limit {
        let (code, given) = (ErrorCode::BatchTooLarge, Some(n_given as u64));
        let setting = "limits.feedback";
        return Err(ApiError::too_many(code, "feedback:", given, limit, setting));
    }
    let (live, filter) = (collection.retriever.live(), context.filter().cloned());
    let ids: Vec<String> = body.feedback.iter().map(|given| given.id.clone()).collect();
    let reading = blocking(move || documents(live.view(), filter.as_ref(), &ids));
    let documents = reading.await??;
    let mut faults = Faults::default();
    let mut events = Vec::with_capacity(n_given);
    for ((position, given), document) in body.feedback.into_iter().enumerate().zip(documents) {
        let pointer = format!("/feedback/{position}");
        check(&given, &pointer, log.has_text, &app.limits(), &mut faults);
        if document.is_none() {
            let text = "names no document";
            faults.add(&format!("{pointer}/id"), "unknown_value", text);
        }
        events.push(LoggedEvent::Feedback(LoggedFeedback {
            time_ms: now_ms(),
            key: context.caller(),
            collection: collection.name.clone(),
            request_id: given.request_id,
            place: given.place,
            query: given.query,
            id: document.unwrap_or_default(),
            grade: given.grade.map(|grade| grade as i32),
            rank: given.rank,
        }));
    }
    if !faults.0.is_empty() {
        return Err(ApiError::fields(faults.0));
    }
    log.record(events).map_err(|_| {
        let text = "too much waits to be written to the query log";
        ApiError::overloaded(text, Duration::from_secs(1))
    })?;
    let body = FeedbackResponse {
        accepted: n_given,
        request_id: context.request_id,
    };
    Ok((StatusCode::ACCEPTED, axum::Json(body)).into_response())
}

fn check(given: &Feedback, pointer: &str, has_text: bool, limits: &Limits, faults: &mut Faults) {
    match &given.request_id {
        Some(id) if !is_harmless(id) => {
            let text = "is no id of a request";
            faults.add(&format!("{pointer}/request_id"), "unknown_value", text);
        }
        None if given.query.is_none() => {
            let text = "is missing, and so is `query`";
            faults.add(&format!("{pointer}/request_id"), "missing", text);
        }
        _ => {}
    }
    if let Some(query) = &given.query {
        let pointer = format!("{pointer}/query");
        let (n_bytes, limit) = (query.len(), limits.query_bytes);
        faults.range(&pointer, n_bytes, 0, limit, "limits.query_bytes");
        if query.trim().is_empty() {
            faults.add(&pointer, "blank", "is blank");
        }
        if !has_text {
            let text = "is not taken: texts of queries are not kept (`query_log.text`)";
            faults.add(&pointer, "unsupported", text);
        }
    }
    if let Some(grade) = given.grade {
        faults.range(&format!("{pointer}/grade"), grade, 0, MAX_GRADE, "");
    }
    if let Some(rank) = given.rank {
        faults.range(&format!("{pointer}/rank"), rank, 1, usize::MAX, "");
    }
}

/// The document of each id, where a caller may know of what passes the filter.
fn documents(
    view: &View,
    filter: Option<&Filter>,
    ids: &[String],
) -> Result<Vec<Option<String>>, ApiError> {
    let passing = filter.map(|filter| view.select(filter)).transpose();
    let passing = passing.map_err(|error| match error {
        SelectError::Filter(error) => narrowed_error(error, false),
        SelectError::Store(error) => ApiError::internal(error),
    })?;
    let document = |id: &String| document(view, passing.as_ref(), id);
    ids.iter().map(document).collect()
}

/// The document of an id, which may be that of one of its passages, where the caller may know of it.
fn document(view: &View, passing: Option<&Bitmap>, id: &str) -> Result<Option<String>, ApiError> {
    let of_passage = corpus::parse_passage_id(id).map(|(document, _)| document);
    for document in [Some(id), of_passage].into_iter().flatten() {
        let ordinals = view.passages_of(document).map_err(ApiError::internal)?;
        let mut known = ordinals
            .into_iter()
            .filter(|&ordinal| passing.is_none_or(|passing| passing.contains(ordinal)));
        let is_known = match document == id {
            true => known.next().is_some(),
            // The document is there; the passage has to be, too.
            false => known.any(|ordinal| view.id(ordinal).is_ok_and(|known| known == id)),
        };
        if is_known {
            return Ok(Some(document.to_owned()));
        }
    }
    Ok(None)
}
