use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use collection::CollectionError;
use corpus::{Passage, parse_passage};
use indexer::{Batch, Committed, DocumentChange, Draft, LiveError, Recipe, Remembered, Upsert};
use openapi::{
    Document, DocumentError, DocumentPassage, DocumentsDelete, DocumentsDeleted, DocumentsWritten,
    ErrorCode, NewDocuments, Task, TaskList,
};
use retriever::{Condition, Deadline, Filter, Live, SelectError, StoreError};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::aliases::{blocking, writable};
use super::errors::{Body, Computing, Kept, Named, TooMany, Written};
use super::headers::{Repeated, Waiting};
use crate::Limits;
use crate::auth::{narrow, narrowed_error};
use crate::body::{Json, Lines};
use crate::exchange::Context;
use crate::filter::read_filter;
use crate::live::begin_compaction;
use crate::problem::{ApiError, filter_fault};
use crate::scheduler::Class;
use crate::state::{App, ServedCollection};
use crate::swap::{Slot, Source};

/// Longest header `Idempotency-Key`.
const MAX_KEY_BYTES: usize = 255;

/// Add documents to a collection
///
/// Each takes the place of the one with its id. The body is a JSON object, an array of them, or one on each line
/// (`application/x-ndjson`): `_id`, `title`, `text`, and metadata; `vector` where the collection's vectors were brought. Documents that
/// cannot be taken are named in `errors`, the others are written. Every search that begins after the answer sees them.
#[utoipa::path(
    post, path = "/v1/collections/{name}/documents", tag = "documents", operation_id = "add_documents",
    params(
        ("name" = String, Path, description = "Name of the collection", example = "docs"),
        Repeated,
        Waiting,
    ),
    request_body = NewDocuments,
    responses(
        (status = 200, description = "What was written", body = DocumentsWritten, headers(
            ("idempotent-replayed" = String, description = "`true` where this is the answer to an earlier request with the key"),
        )),
        Body, Written, Kept, Computing,
    ),
)]
pub(super) async fn add(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Lines {
        texts,
        digest,
        is_one,
    }: Lines,
) -> Result<Response, ApiError> {
    let (slot, source) = writable(&app, &name)?;
    let served = slot.current();
    let limits = app.limits();
    if texts.len() > limits.documents {
        return Err(too_many("documents:", texts.len(), limits.documents));
    }
    let key = idempotency_key(&headers, &name, &context)?;
    let deadline = context.deadline(None, app.config.max_timeout, &app)?;
    let class = context.class(Class::Bulk);
    // What was written is neither encoded again nor refused for the room that it takes.
    if let Some(before) = answered(&app, &name, key.clone()).await? {
        return respond(before, &digest, Value::Null);
    }
    let live = served.retriever.live();
    check_memory(&live, limits.live_bytes)?;
    let (upserts, errors) = encode(&served, texts, class, deadline).await?;
    if upserts.is_empty() && !errors.is_empty() {
        let faults = errors.iter().map(|error| openapi::FieldError {
            pointer: match is_one {
                true => String::new(),
                false => format!("/{}", error.line - 1),
            },
            code: "unsupported".to_owned(),
            message: error.message.clone(),
            ..openapi::FieldError::default()
        });
        return Err(ApiError::fields(faults.take(20).collect()));
    }
    let body = DocumentsWritten {
        collection: name.clone(),
        documents: upserts.len(),
        passages: upserts.iter().map(Upsert::n_passages).sum(),
        errors,
        log_position: live.position(),
        durability: durability(&app),
        generation: served.retriever.generation().id.to_string(),
    };
    let changes: Vec<_> = upserts.into_iter().map(DocumentChange::Upsert).collect();
    let answer = serde_json::to_value(&body).map_err(ApiError::internal)?;
    let answer = commit(&app, &name, changes, key, digest, answer).await?;
    fold_grown(&app, &name, &slot, source);
    Ok(answer)
}

/// Delete documents by their ids, or all that pass a filter
///
/// What a filter finds is deleted as a whole: the documents that are there when the deletion is written, and no others. A key that has a
/// filter of its own deletes only what passes that, too. Every search that begins after the answer sees none of them.
#[utoipa::path(
    post, path = "/v1/collections/{name}/documents/delete", tag = "documents", operation_id = "delete_documents",
    params(
        ("name" = String, Path, description = "Name of the collection", example = "docs"),
        Repeated,
    ),
    request_body = DocumentsDelete,
    responses(
        (status = 200, description = "They are gone", body = DocumentsDeleted, headers(
            ("idempotent-replayed" = String, description = "`true` where this is the answer to an earlier request with the key"),
        )),
        Body, Written, Kept, TooMany,
    ),
)]
pub(super) async fn delete(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(body): Json<DocumentsDelete>,
) -> Result<Response, ApiError> {
    let (slot, source) = writable(&app, &name)?;
    let limits = app.limits();
    let request = hex(&[&serde_json::to_vec(&body).map_err(ApiError::internal)?]);
    let (ids, filter) = deleted(body, &limits)?;
    if let Some(ids) = &ids
        && ids.len() > limits.documents
    {
        return Err(too_many("ids:", ids.len(), limits.documents));
    }
    let key = idempotency_key(&headers, &name, &context)?;
    if let Some(before) = answered(&app, &name, key.clone()).await? {
        return respond(before, &request, Value::Null);
    }
    let live = slot.current().retriever.live();
    check_memory(&live, limits.live_bytes)?;
    let mut answer = DocumentsDeleted {
        collection: name.clone(),
        documents: 0,
        log_position: live.position(),
        durability: durability(&app),
    };
    let own = context.filter();
    let (ids, filter) = match (ids, filter, own) {
        // Those that are not there are written, too: a generation to come may have them.
        (Some(ids), _, None) => {
            let counting = blocking(move || {
                for id in ids.iter().collect::<BTreeSet<_>>() {
                    let found = live.view().passages_of(id)?;
                    answer.documents += usize::from(!found.is_empty());
                }
                Ok::<_, StoreError>((ids, answer))
            });
            let (ids, answer) = counting.await?.map_err(ApiError::internal)?;
            let answer = serde_json::to_value(&answer).map_err(ApiError::internal)?;
            let changes = ids.into_iter().map(DocumentChange::Delete).collect();
            let answer = commit(&app, &name, changes, key, request, answer).await?;
            fold_grown(&app, &name, &slot, source);
            return Ok(answer);
        }
        (ids, filter, own) => (ids, narrow(filter, own).unwrap_or_default()),
    };
    let asked = ids.is_none();
    let find = Find {
        ids,
        filter,
        limit: limits.documents,
        key,
        request: request.clone(),
        answer: answer.clone(),
    };
    let (app_of_task, of) = (App::clone(&app), name.clone());
    let writing = in_task(async move {
        let (slot, source) = writable(&app_of_task, &of)?;
        let find = |live: &Live| find.batch(live);
        Ok(slot
            .commit_found(&source, app_of_task.config.log, find)
            .await)
    });
    match writing.await? {
        Ok(committed) => {
            fold_grown(&app, &name, &slot, source);
            if let Committed::Written { n_changes, .. } = committed {
                answer.documents = n_changes;
            }
            let answer = serde_json::to_value(&answer).map_err(ApiError::internal)?;
            respond(committed, &request, answer)
        }
        Err(error) => Err(match &*error {
            LiveError::TooMany { n_found, limit } => {
                too_many("documents that pass the filter:", *n_found, *limit)
            }
            LiveError::Select(select) => match (&**select, own) {
                (SelectError::Filter(error), Some(_)) => narrowed_error(error.clone(), asked),
                (SelectError::Filter(error), None) => {
                    ApiError::fields(vec![filter_fault("/filter", error.clone())])
                }
                (SelectError::Store(_), _) => of_live(&error),
            },
            error => of_live(error),
        }),
    }
}

/// What is to be deleted: ids, or what passes a filter.
fn deleted(
    body: DocumentsDelete,
    limits: &Limits,
) -> Result<(Option<Vec<String>>, Option<Filter>), ApiError> {
    let filter = match (body.ids, body.filter) {
        (Some(_), Some(_)) => {
            let text = "is given beside `ids`; one of them is enough";
            return Err(ApiError::field("/filter", "conflict", text));
        }
        (None, None) => {
            let text = "is missing, and so is `filter`";
            return Err(ApiError::field("/ids", "missing", text));
        }
        (Some(ids), None) => return Ok((Some(ids), None)),
        (None, Some(filter)) => read_filter(filter, "/filter").map_err(ApiError::fields)?,
    };
    if tests_nothing(&filter) {
        let text = "has no condition, so every document would pass it";
        return Err(ApiError::field("/filter", "missing", text));
    }
    match filter.check(&limits.filter()) {
        Ok(()) => Ok((None, Some(filter))),
        Err(error) => Err(ApiError::fields(vec![filter_fault("/filter", error)])),
    }
}

/// Whether there is no field that a filter tests, in groups within groups.
fn tests_nothing(filter: &Filter) -> bool {
    let conditions = [&filter.must, &filter.should, &filter.must_not];
    conditions
        .into_iter()
        .flatten()
        .all(|condition| matches!(condition, Condition::Filter(within) if tests_nothing(within)))
}

fn too_many(what: &str, given: usize, limit: usize) -> ApiError {
    let (code, given) = (ErrorCode::BatchTooLarge, Some(given as u64));
    ApiError::too_many(code, what, given, limit, "limits.documents")
}

/// Documents that are looked for when their deletion is written.
struct Find {
    /// Only these, where they are given.
    ids: Option<Vec<String>>,
    filter: Filter,
    limit: usize,
    key: Option<String>,
    request: String,
    answer: DocumentsDeleted,
}

impl Find {
    fn batch(self, live: &Live) -> Result<Batch, LiveError> {
        let view = live.view();
        let passing = view.select(&self.filter)?;
        let found = match self.ids {
            None => view.documents(&passing).map_err(SelectError::Store)?,
            Some(ids) => {
                let mut found = Vec::new();
                for id in ids.into_iter().collect::<BTreeSet<_>>() {
                    let passages = view.passages_of(&id).map_err(SelectError::Store)?;
                    if passages.iter().any(|passage| passing.contains(*passage)) {
                        found.push(id);
                    }
                }
                found
            }
        };
        let (n_found, limit) = (found.len(), self.limit);
        if n_found > limit {
            return Err(LiveError::TooMany { n_found, limit });
        }
        let answer = DocumentsDeleted {
            documents: n_found,
            ..self.answer
        };
        let remembered = |key| Remembered {
            key,
            request: self.request,
            answer: serde_json::to_value(answer).expect("an answer has string keys only"),
        };
        Ok(Batch {
            changes: found.into_iter().map(DocumentChange::Delete).collect(),
            answer: self.key.map(remembered),
        })
    }
}

/// Show a document
#[utoipa::path(
    get, path = "/v1/collections/{name}/documents/{id}", tag = "documents", operation_id = "show_document",
    params(
        ("name" = String, Path, description = "Name of the collection", example = "docs"),
        ("id" = String, Path, description = "Id of the document", example = "doc-17"),
    ),
    responses(
        (status = 200, description = "The document", body = Document),
        Named,
    ),
)]
pub(super) async fn show(
    State(app): State<App>,
    Path((name, id)): Path<(String, String)>,
) -> Result<axum::Json<Document>, ApiError> {
    let served = app.collection(&name)?;
    let live = served.retriever.live();
    let generation = served.retriever.generation().id.to_string();
    let reading = tokio::task::spawn_blocking(move || {
        let ordinals = live.view().passages_of(&id)?;
        Ok::<_, StoreError>((live.view().passages(&ordinals)?, live.position(), id))
    });
    let read = reading.await.map_err(ApiError::internal)?;
    let (passages, log_position, id) = read.map_err(ApiError::internal)?;
    let Some(first) = passages.first() else {
        let text = format!("collection `{name}` has no document `{id}`");
        return Err(ApiError::new(ErrorCode::NotFound, text));
    };
    let passage = |passage: &Passage| DocumentPassage {
        id: passage.id.clone(),
        text: passage.text.clone(),
    };
    Ok(axum::Json(Document {
        title: first.title.clone(),
        metadata: first.metadata.clone(),
        passages: passages.iter().map(passage).collect(),
        id,
        generation,
        log_position,
    }))
}

/// Fold the documents written since the last build into a new generation
///
/// The answer comes at once; the task goes on behind it, and the server answers from the new generation when it is done.
#[utoipa::path(
    post, path = "/v1/collections/{name}/compact", tag = "documents", operation_id = "compact",
    params(("name" = String, Path, description = "Name of the collection", example = "docs")),
    responses(
        (status = 202, description = "It has begun", body = Task),
        Written,
    ),
)]
pub(super) async fn compact(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let (slot, source) = writable(&app, &name)?;
    match begin_compaction(&app, &name, &slot, source) {
        Some(task) => Ok((StatusCode::ACCEPTED, axum::Json(task)).into_response()),
        None => Err(ApiError::new(
            ErrorCode::Locked,
            "the write log is being folded already",
        )),
    }
}

/// List the tasks
#[utoipa::path(
    get, path = "/v1/tasks", tag = "documents", operation_id = "list_tasks",
    responses(
        (status = 200, description = "The newest, oldest first", body = TaskList),
    ),
)]
pub(super) async fn tasks(
    State(app): State<App>,
    Extension(context): Extension<Context>,
) -> axum::Json<TaskList> {
    let mut tasks = app.tasks.list();
    tasks.retain(|task| context.may_use(&task.collection));
    axum::Json(TaskList { tasks })
}

/// Show a task
#[utoipa::path(
    get, path = "/v1/tasks/{task}", tag = "documents", operation_id = "show_task",
    params(("task" = String, Path, description = "Id of the task", example = "compact-1")),
    responses(
        (status = 200, description = "How far it is", body = Task),
        Named,
    ),
)]
pub(super) async fn task(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Path(id): Path<String>,
) -> Result<axum::Json<Task>, ApiError> {
    known(&app, &context, &id).map(axum::Json)
}

/// End a task
///
/// It ends at its next step, and changes nothing then; one that has ended stays as it is.
#[utoipa::path(
    post, path = "/v1/tasks/{task}/cancel", tag = "documents", operation_id = "cancel_task",
    params(("task" = String, Path, description = "Id of the task", example = "compact-1")),
    responses(
        (status = 200, description = "It is told to; how far it is", body = Task),
        Named,
    ),
)]
pub(super) async fn cancel(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Path(id): Path<String>,
) -> Result<axum::Json<Task>, ApiError> {
    known(&app, &context, &id)?;
    let task = app.tasks.cancel(&id).ok_or_else(|| no_task(&id))?;
    Ok(axum::Json(task))
}

/// A task of a collection that the caller may know of.
fn known(app: &App, context: &Context, id: &str) -> Result<Task, ApiError> {
    let tasks = app.tasks.list().into_iter();
    let mut found = tasks.filter(|task| task.task == id && context.may_use(&task.collection));
    found.next().ok_or_else(|| no_task(id))
}

fn no_task(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no task `{id}`"))
}

/// What was answered to a request with this key before.
async fn answered(
    app: &App,
    name: &str,
    key: Option<String>,
) -> Result<Option<Committed>, ApiError> {
    let Some(key) = key else {
        return Ok(None);
    };
    let (app, name) = (App::clone(app), name.to_owned());
    in_task(async move {
        let (slot, source) = writable(&app, &name)?;
        let answered = slot.answered(&source, app.config.log, &key).await;
        answered.map_err(|error| of_live(&error))
    })
    .await
}

/// Writes changes, and says to which position; to a request that was answered before, what was answered then.
async fn commit(
    app: &App,
    name: &str,
    changes: Vec<DocumentChange>,
    key: Option<String>,
    request: String,
    answer: Value,
) -> Result<Response, ApiError> {
    if changes.is_empty() && key.is_none() {
        return Ok(axum::Json(answer).into_response());
    }
    let remembered = key.map(|key| Remembered {
        key,
        request: request.clone(),
        answer: answer.clone(),
    });
    let batch = Batch {
        changes,
        answer: remembered,
    };
    let (app, name) = (App::clone(app), name.to_owned());
    let writing = in_task(async move {
        let (slot, source) = writable(&app, &name)?;
        let committed = slot.commit(&source, app.config.log, batch).await;
        committed.map_err(|error| of_live(&error))
    });
    respond(writing.await?, &request, answer)
}

/// Writes in a task of its own: a caller who goes away leaves nothing half done.
async fn in_task<T: Send + 'static>(
    writing: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(writing).await.map_err(ApiError::internal)?
}

/// Tells a caller what was written, or what was told before.
fn respond(committed: Committed, request: &str, mut answer: Value) -> Result<Response, ApiError> {
    match committed {
        Committed::Written { position, .. } => {
            answer["log_position"] = position.into();
            Ok(axum::Json(answer).into_response())
        }
        Committed::Before {
            position,
            remembered,
        } if remembered.request == request => {
            answer = remembered.answer;
            answer["log_position"] = position.into();
            Ok(([("idempotent-replayed", "true")], axum::Json(answer)).into_response())
        }
        Committed::Before { .. } => Err(ApiError::new(
            ErrorCode::Validation,
            "header `Idempotency-Key` has the key of another request",
        )),
    }
}

/// The documents of a body with their vectors, and what is wrong with the others.
async fn encode(
    served: &ServedCollection,
    texts: Vec<(usize, String)>,
    class: Class,
    deadline: Deadline,
) -> Result<(Vec<Upsert>, Vec<DocumentError>), ApiError> {
    let retriever = &served.retriever;
    let recipe =
        Recipe::of(retriever.manifest(), retriever.row_form()).map_err(ApiError::internal)?;
    let live = retriever.live();
    let mut errors = Vec::new();
    let drafts = {
        let (recipe, live) = (recipe.clone(), std::sync::Arc::clone(&live));
        let model = served.encoder.as_ref().map(|encoder| encoder.model.clone());
        let drafting = tokio::task::spawn_blocking(move || {
            let draft = |text: &String| {
                let document =
                    parse_passage(text, live.view().schema()).map_err(|e| e.to_string())?;
                match &model {
                    Some(model) if !recipe.is_external() => {
                        let draft = recipe.draft(model, document);
                        draft.map(Made::Draft).map_err(|error| described(&error))
                    }
                    _ => brought(&recipe, document).map(Made::Whole),
                }
            };
            let mut made = Vec::with_capacity(texts.len());
            for (line, text) in &texts {
                if deadline.expired() {
                    return Err(ApiError::deadline_exceeded());
                }
                made.push((*line, draft(text)));
            }
            Ok(made)
        });
        drafting.await.map_err(ApiError::internal)??
    };
    let mut upserts = Vec::with_capacity(drafts.len());
    let (mut waiting, mut n_tokens): (Vec<(usize, Draft)>, usize) = (Vec::new(), 0);
    let n_drafts = drafts.len();
    for (number, (line, made)) in (1..).zip(drafts) {
        match made {
            Ok(Made::Whole(upsert)) => upserts.push((line, upsert)),
            Ok(Made::Draft(draft)) => {
                n_tokens += draft.tokens.iter().map(encoder::Tokens::len).sum::<usize>();
                waiting.push((line, draft));
            }
            Err(message) => errors.push(DocumentError { line, message }),
        }
        let most = served
            .encoder
            .as_ref()
            .map_or(0, |encoder| encoder.max_batch_tokens);
        if !waiting.is_empty() && (n_tokens >= most || number == n_drafts) {
            upserts.extend(
                encode_drafts(
                    served,
                    &recipe,
                    std::mem::take(&mut waiting),
                    class,
                    deadline,
                )
                .await?,
            );
            n_tokens = 0;
        }
    }
    if !waiting.is_empty() {
        upserts.extend(encode_drafts(served, &recipe, waiting, class, deadline).await?);
    }
    let mut checked = Vec::with_capacity(upserts.len());
    for (line, upsert) in upserts {
        match recipe.check(live.view(), &upsert) {
            Ok(()) => checked.push(upsert),
            Err(error) => errors.push(DocumentError {
                line,
                message: described(&error),
            }),
        }
    }
    errors.sort_by_key(|error| error.line);
    Ok((checked, errors))
}

/// A document with its vector, or on its way to it.
enum Made {
    Draft(Draft),
    Whole(Upsert),
}

async fn encode_drafts(
    served: &ServedCollection,
    recipe: &Recipe,
    drafts: Vec<(usize, Draft)>,
    class: Class,
    deadline: Deadline,
) -> Result<Vec<(usize, Upsert)>, ApiError> {
    let encoder = served.encoder.as_deref();
    let encoder = encoder.expect("drafts are made by an encoder");
    // The passages of one document may be more than the queue holds.
    let mut parts: Vec<Vec<encoder::Tokens>> = Vec::new();
    let mut n_tokens = 0;
    for tokens in drafts.iter().flat_map(|(_, draft)| &draft.tokens) {
        n_tokens += tokens.len();
        match parts.last_mut() {
            Some(part) if n_tokens <= encoder.max_batch_tokens => part.push(tokens.clone()),
            _ => {
                n_tokens = tokens.len();
                parts.push(vec![tokens.clone()]);
            }
        }
    }
    let mut values = Vec::new();
    for rows in parts {
        let encoded = encoder.encode_tokens(rows.into(), class, deadline, Duration::ZERO);
        values.extend(encoded.await.map_err(ApiError::model)?.values);
    }
    let mut rows = values.as_slice();
    let finish = |(line, draft): (usize, Draft)| {
        let (own, rest) = rows.split_at(draft.tokens.len() * recipe.width());
        rows = rest;
        (line, draft.finish(own.to_vec()))
    };
    Ok(drafts.into_iter().map(finish).collect())
}

/// A document that brings its vector as a field.
fn brought(recipe: &Recipe, mut document: Passage) -> Result<Upsert, String> {
    if !recipe.is_external() {
        return Err("the collection has no encoder here".to_owned());
    }
    let vector = document.metadata.remove("vector");
    let vector = vector.ok_or("has no `vector`, which documents of this collection bring")?;
    let vector = serde_json::from_value(vector).map_err(|_| "`vector` is no list of numbers")?;
    recipe
        .brought(document, vector)
        .map_err(|error| described(&error))
}

/// Begins to fold a log that has grown to `documents.compact_after`.
fn fold_grown(app: &App, name: &str, slot: &Slot, source: Source) {
    let live = slot.current().retriever.live();
    // Deletions and remembered answers bring no passages, but make the log longer.
    let n_records = live.position() - live.start();
    let grown = n_records.max(live.view().n_added().into());
    let most = app.config.compact_after.map(u64::from);
    if most.is_some_and(|most| grown >= most) {
        begin_compaction(app, name, slot, source);
    }
}

/// Refuses more while what is in the log takes too much memory.
fn check_memory(live: &Live, limit: usize) -> Result<(), ApiError> {
    let held = live.n_bytes();
    if held < limit as u64 {
        return Ok(());
    }
    let text = format!(
        "documents written and deleted since the last build take {held} bytes of memory, limit is {limit} (`limits.live_bytes`); fold them"
    );
    Err(ApiError::new(ErrorCode::InsufficientStorage, text))
}

/// What the log remembers of a key: a digest of it, of the collection, and of who asks, whose filter may be another's.
fn idempotency_key(
    headers: &HeaderMap,
    collection: &str,
    context: &Context,
) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let n_bytes = value.as_bytes().len();
    if n_bytes == 0 || n_bytes > MAX_KEY_BYTES {
        let text =
            format!("header `Idempotency-Key` has {n_bytes} bytes, expected 1 to {MAX_KEY_BYTES}");
        return Err(ApiError::new(ErrorCode::BadRequest, text));
    }
    let caller = context.caller();
    let caller = caller.map_or_else(String::new, |caller| format!("\0{caller}"));
    let parts = [
        collection.as_bytes(),
        b"\0",
        value.as_bytes(),
        caller.as_bytes(),
    ];
    Ok(Some(hex(&parts)))
}

fn hex(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn durability(app: &App) -> String {
    match app.config.log.durability {
        collection::Durability::Fsync => "fsync".to_owned(),
        collection::Durability::Os => "os".to_owned(),
    }
}

/// An error and its causes: all of them are of what the caller sent.
fn described(error: &LiveError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn of_live(error: &LiveError) -> ApiError {
    match error {
        LiveError::Collection(CollectionError::Locked { holder, .. }) => ApiError::new(
            ErrorCode::Locked,
            format!("the write log is being written by {holder}"),
        ),
        LiveError::Collection(error @ CollectionError::DiskFull { .. }) => {
            tracing::error!(
                error = error as &dyn std::error::Error,
                "cannot write documents"
            );
            ApiError::new(
                ErrorCode::InsufficientStorage,
                "the disk of the write log is full",
            )
        }
        LiveError::Collection(CollectionError::LogFrame { n_bytes, max_bytes }) => ApiError::new(
            ErrorCode::BatchTooLarge,
            format!(
                "documents with their vectors have {n_bytes} bytes, the write log takes {max_bytes} at once"
            ),
        ),
        error => ApiError::internal(described(error)),
    }
}
