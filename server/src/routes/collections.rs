use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use corpus::{CorpusConfig, Schema, Template};
use index::{HnswConfig, Metric};
use indexer::{BuildConfig, BuildError, VectorSource};
use openapi::{
    Collection, CollectionCounts, CollectionDetail, CollectionList, CollectionRequest,
    CollectionShard, CollectionTemplates, ErrorCode,
};

use super::aliases::{blocking, followed, named, of_collection};
use super::errors::{Body, NamedModel, New, Opened, Written};
use super::identified;
use crate::body::Json;
use crate::created::{self, Created, CreatedError};
use crate::exchange::Context;
use crate::problem::ApiError;
use crate::state::{App, AttachError, ServedCollection};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// List the collections
#[utoipa::path(
    get, path = "/v1/collections", tag = "search", operation_id = "list_collections",
    responses(
        (status = 200, description = "All collections, by name", body = CollectionList),
    ),
)]
pub(super) async fn list(
    State(app): State<App>,
    Extension(context): Extension<Context>,
) -> axum::Json<CollectionList> {
    let collections = app
        .slots()
        .iter()
        .map(|(_, slot)| slot.current())
        .filter(|served| context.may_use(&served.name))
        .map(|served| short(&served))
        .collect();
    axum::Json(CollectionList { collections })
}

/// Show a collection
#[utoipa::path(
    get, path = "/v1/collections/{name}", tag = "search", operation_id = "show_collection",
    params(("name" = String, Path, description = "Name of the collection; `name@alias` or `name@generation` is another generation of it", example = "docs")),
    responses(
        (status = 200, description = "What the collection holds and how it was made", body = CollectionDetail, headers(
            ("x-index-generation" = String, description = "The generation that answers"),
            ("x-model-fingerprint" = String, description = "Fingerprint of the generation's model and texts"),
        )),
        Opened,
    ),
)]
pub(super) async fn show(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let served = named(&app, &name).await?;
    let manifest = served.retriever.manifest();
    let counts = manifest.counts;
    let shard = |shard: &collection::Shard| CollectionShard {
        first_ordinal: shard.first_ordinal,
        passages: shard.n_rows,
        arithmetic: shard.arithmetic.clone(),
    };
    let body = CollectionDetail {
        collection: short(&served),
        created: manifest.created.clone(),
        counts: CollectionCounts {
            passages: counts.passages,
            bad_lines: counts.bad_lines,
            truncated: counts.truncated,
            missing_fields: counts.missing_fields,
            tokens: counts.tokens,
        },
        shards: manifest.shards.iter().map(shard).collect(),
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        templates: CollectionTemplates {
            passage: manifest.templates.passage.clone(),
            query: manifest.templates.query.clone(),
        },
        schema: manifest.schema.clone(),
        fingerprint: manifest.fingerprint.clone(),
        corpus_digest: manifest.corpus_digest.clone(),
        content_digest: manifest.content_digest.clone(),
        batch_invariant: manifest.batch_invariant,
    };
    let generation = body.collection.generation.clone();
    Ok(identified(
        body,
        Some(&generation),
        &manifest.fingerprint_digest,
    ))
}

/// Make a collection
///
/// It has no documents yet; they are sent to `…/documents`. The server needs a folder for it (`server.data`) and answers for it
/// from here on, also when it is started again.
#[utoipa::path(
    put, path = "/v1/collections/{name}", tag = "documents", operation_id = "create_collection",
    params(("name" = String, Path, description = "Name of the collection: letters, digits, `.`, `_`, `-`", example = "notes")),
    request_body = CollectionRequest,
    responses(
        (status = 201, description = "It is there", body = Collection),
        Body, NamedModel, New,
    ),
)]
pub(super) async fn create(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(body): Json<CollectionRequest>,
) -> Result<Response, ApiError> {
    let Some(data) = app.config.data.clone() else {
        let text = "this server makes no collections: `server.data` names no folder";
        return Err(ApiError::new(ErrorCode::Forbidden, text));
    };
    app.check_name(&name).map_err(of_name)?;
    let encoder = match (&body.encoder, body.width) {
        (None, Some(_)) => None,
        (name, None) => Some(app.encoder(name.as_deref())?),
        (Some(_), Some(_)) => {
            let text = "is given beside `encoder`, which has a width of its own";
            return Err(ApiError::field("/width", "conflict", text));
        }
    };
    if let Some(reranker) = &body.reranker {
        app.reranker(Some(reranker))?;
    }
    let created = Created {
        name: name.clone(),
        encoder: encoder.as_ref().map(|encoder| encoder.name.clone()),
        reranker: body.reranker.clone(),
    };
    let (config, schema, metric) = resolve(body.clone())?;
    let making = Arc::clone(&app);
    let made = blocking(move || {
        let _one = making.creating();
        making.check_name(&created.name)?;
        let vectors = match (&encoder, body.width) {
            (Some(encoder), _) => VectorSource::Encoder(&encoder.model),
            (None, width) => VectorSource::Brought {
                width: width.unwrap_or(0),
                metric,
            },
        };
        let path = created::make(&data, &created, config, &schema, vectors)?;
        created::serve(&making, &created, &path).inspect_err(|_| {
            let _ = created::delete(&data, &path); // else its name would be taken, and nothing there
        })
    });
    made.await?.map_err(of_creation)?;
    let shown = short(&*app.collection(&name)?);
    Ok((StatusCode::CREATED, axum::Json(shown)).into_response())
}

/// Delete a collection
///
/// All its generations and documents are removed from the disk. Only collections that were made over HTTP can be deleted so.
/// Searches that have begun are answered.
#[utoipa::path(
    delete, path = "/v1/collections/{name}", tag = "documents", operation_id = "delete_collection",
    params(("name" = String, Path, description = "Name of the collection", example = "notes")),
    responses(
        (status = 204, description = "It is gone"),
        Written,
    ),
)]
pub(super) async fn delete(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let (slot, source) = followed(&app, &name)?;
    let root = source.collection.root().to_path_buf();
    let data = app.config.data.clone();
    let Some(data) = data.filter(|data| created::is_created(data, &root)) else {
        let text = format!("collection `{name}` was not made over HTTP");
        return Err(ApiError::new(ErrorCode::Forbidden, text));
    };
    // A caller who goes away leaves nothing half done.
    let task = tokio::spawn(async move {
        if !slot.close_log().await {
            let text = "the write log is being folded";
            return Err(ApiError::new(ErrorCode::Locked, text));
        }
        let deleting = blocking(move || {
            let _one = app.creating();
            let _writer = source.collection.writer("trawl serve: delete")?;
            app.remove_collection(&name);
            created::delete(&data, &root)
        });
        deleting.await?.map_err(of_creation)
    });
    task.await.map_err(ApiError::internal)??;
    Ok(StatusCode::NO_CONTENT)
}

/// What a request says of a build, fields, and how vectors that are brought are compared.
fn resolve(body: CollectionRequest) -> Result<(BuildConfig, Schema, Metric), ApiError> {
    fn read<T: DeserializeOwned>(field: &str, value: Value) -> Result<T, ApiError> {
        let wrong = |error: serde_json::Error| {
            ApiError::field(
                format!("/{field}"),
                "unsupported",
                format!("is wrong: {error}"),
            )
        };
        T::deserialize(value).map_err(wrong)
    }
    let template = |field: &str, text: Option<String>, usual: Template| match text {
        None => Ok(usual),
        Some(text) => Template::parse(&text).map_err(|error| {
            ApiError::field(format!("/{field}"), "unsupported", error.to_string())
        }),
    };
    let schema: Schema = match body.schema {
        Some(schema) => read("schema", schema)?,
        None => Schema::default(),
    };
    let config = BuildConfig {
        passage_template: template(
            "passage_template",
            body.passage_template,
            Template::default(),
        )?,
        query_template: template(
            "query_template",
            body.query_template,
            Template::query_default(),
        )?,
        stride: body.stride,
        rows: read("rows", body.rows.unwrap_or("f32".to_owned()).into())?,
        language: read(
            "language",
            body.language.unwrap_or("english".to_owned()).into(),
        )?,
        graph: body.graph.then(HnswConfig::default),
        ..BuildConfig::new(PathBuf::new(), CorpusConfig::default(), None)
    };
    let metric = read("metric", body.metric.unwrap_or("cosine".to_owned()).into())?;
    Ok((config, schema, metric))
}

fn of_name(error: AttachError) -> ApiError {
    match error {
        AttachError::Duplicate { .. } => ApiError::new(ErrorCode::AlreadyExists, error.to_string()),
        error => ApiError::field("", "unsupported", error.to_string()),
    }
}

fn of_creation(error: CreatedError) -> ApiError {
    match error {
        CreatedError::Attach(error) => of_name(error),
        CreatedError::Collection(error) => of_collection(error),
        CreatedError::Build(
            error @ (BuildError::Template(_)
            | BuildError::Stride { .. }
            | BuildError::NothingToSplit
            | BuildError::SplitVectors
            | BuildError::WriteVectors(_)
            | BuildError::Graph(_)
            | BuildError::Corpus(_)),
        ) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            ApiError::field(
                "",
                "unsupported",
                format!("cannot be: {error}{}", cause.unwrap_or_default()),
            )
        }
        error => ApiError::internal(error),
    }
}

fn short(served: &ServedCollection) -> Collection {
    let manifest = served.retriever.manifest();
    Collection {
        name: served.name.clone(),
        generation: manifest.generation.to_string(),
        passages: manifest.counts.passages,
        width: manifest.width,
        metric: manifest.metric.clone(),
        encoder: served.encoder.as_ref().map(|encoder| encoder.name.clone()),
        reranker: served
            .reranker
            .as_ref()
            .map(|reranker| reranker.name.clone()),
        model_fingerprint: manifest.fingerprint_digest.clone(),
    }
}
