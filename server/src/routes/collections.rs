use axum::extract::{Extension, Path, State};
use axum::response::Response;
use openapi::{
    Collection, CollectionCounts, CollectionDetail, CollectionList, CollectionShard,
    CollectionTemplates, Problem,
};

use super::aliases::named;
use super::identified;
use crate::exchange::Context;
use crate::problem::ApiError;
use crate::state::{App, ServedCollection};
use crate::swap::Slot;

/// List the collections
#[utoipa::path(
    get, path = "/v1/collections", tag = "search", operation_id = "list_collections",
    responses(
        (status = 200, description = "All collections, by name", body = CollectionList),
        (status = 503, description = "`not_ready`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(
    State(app): State<App>,
    Extension(context): Extension<Context>,
) -> axum::Json<CollectionList> {
    let collections = app
        .collections
        .values()
        .map(Slot::current)
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
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`fingerprint_mismatch`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not_ready`", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "`insufficient_storage`", body = Problem, content_type = "application/problem+json"),
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
