use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use collection::{AliasName, CollectionError, GenerationId, NameError, Writer};
use indexer::{Entry, FingerprintRule, GateConfig, GateError, GateReport, LiveError, gate};
use openapi::{
    Alias, AliasRequest, ErrorCode, Gate, GateSettings, GenerationList, RollbackRequest,
};
use retriever::OpenError;

use super::errors::{Body, Gated, Matched, Named, Opened, Written};
use super::headers::Expected;
use crate::Limits;
use crate::body::{Json, Optional, pointer};
use crate::faults::Faults;
use crate::problem::ApiError;
use crate::shadow::Shadow;
use crate::state::{App, ServedCollection};
use crate::swap::{self, Slot, Source, SwapError, switch};

/// List the generations of a collection
#[utoipa::path(
    get, path = "/v1/collections/{name}/generations", tag = "generations", operation_id = "list_generations",
    params(("name" = String, Path, description = "Name of the collection", example = "docs")),
    responses(
        (status = 200, description = "All generations, oldest first", body = GenerationList),
        Named,
    ),
)]
pub(super) async fn generations(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<axum::Json<GenerationList>, ApiError> {
    let (slot, source) = followed(&app, &name)?;
    let served = slot.current().retriever.generation().id.clone();
    let listed = blocking(move || {
        let collection = &source.collection;
        let aliases = collection.aliases()?;
        let mut generations = Vec::new();
        for id in collection.generations()? {
            let manifest = collection.generation(&id).ok().map(|found| found.manifest);
            let manifest = manifest.as_ref();
            let names = aliases.iter().filter(|(_, named)| **named == id);
            generations.push(openapi::Generation {
                generation: id.to_string(),
                aliases: names.map(|(alias, _)| alias.to_string()).collect(),
                created: manifest.map(|manifest| manifest.created.clone()),
                passages: manifest.map(|manifest| manifest.counts.passages),
                bytes: manifest.map(|manifest| manifest.files.iter().map(|file| file.bytes).sum()),
                model_fingerprint: manifest.map(|manifest| manifest.fingerprint_digest.clone()),
                content_digest: manifest.map(|manifest| manifest.content_digest.clone()),
                gate: collection.gate_report(&id)?,
                served: id == served,
            });
        }
        Ok::<_, CollectionError>(generations)
    });
    let generations = listed.await?.map_err(of_collection)?;
    Ok(axum::Json(GenerationList { generations }))
}

/// Show what an alias names
#[utoipa::path(
    get, path = "/v1/collections/{name}/aliases/{alias}", tag = "generations", operation_id = "show_alias",
    params(
        ("name" = String, Path, description = "Name of the collection", example = "docs"),
        ("alias" = String, Path, description = "The alias", example = "live"),
    ),
    responses(
        (status = 200, description = "The generation", body = Alias, headers(("ETag" = String, description = "The generation in quotes"))),
        Named,
    ),
)]
pub(super) async fn show(
    State(app): State<App>,
    Path((name, alias)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (slot, source) = followed(&app, &name)?;
    let alias = AliasName::parse(&alias).map_err(of_name)?;
    describe(&name, &slot, source, alias).await
}

/// Make an alias name another generation
///
/// The generation is compared with the one it replaces, opened, and has answered a search before the alias changes. The answer
/// comes when this server answers from it, if the alias is the one that it serves. Other servers follow within a second. Where it is worse,
/// `gate` of the answer is the report of the comparison.
#[utoipa::path(
    put, path = "/v1/collections/{name}/aliases/{alias}", tag = "generations", operation_id = "set_alias",
    params(
        ("name" = String, Path, description = "Name of the collection", example = "docs"),
        ("alias" = String, Path, description = "The alias", example = "live"),
        Expected,
    ),
    request_body = AliasRequest,
    responses(
        (status = 200, description = "It does", body = Alias, headers(("ETag" = String, description = "The generation in quotes"))),
        Body, Written, Opened, Gated, Matched,
    ),
)]
pub(super) async fn set(
    State(app): State<App>,
    Path((name, alias)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<AliasRequest>,
) -> Result<Response, ApiError> {
    let id = GenerationId::parse(&body.generation)
        .map_err(|error| ApiError::field("/generation", "invalid", error.to_string()))?;
    let gate = match body.gate {
        Gate::Asked(false) => None,
        Gate::Asked(true) => Some(Box::default()),
        Gate::With(settings) => Some(Box::new(gate_config(&settings, &app.limits())?)),
    };
    let change = Change {
        to: To::Generation(id, gate),
        drop_live: body.drop_live,
    };
    apply_in_task(app, &name, &alias, &headers, change).await
}

/// Make an alias name what it named before
///
/// A second rollback takes the first one back. Nothing is compared: the generation has been served.
#[utoipa::path(
    post, path = "/v1/collections/{name}/aliases/{alias}/rollback", tag = "generations", operation_id = "roll_back_alias",
    params(
        ("name" = String, Path, description = "Name of the collection", example = "docs"),
        ("alias" = String, Path, description = "The alias", example = "live"),
        Expected,
    ),
    request_body = Option<RollbackRequest>,
    responses(
        (status = 200, description = "It does", body = Alias, headers(("ETag" = String, description = "The generation in quotes"))),
        Body, Written, Opened, Matched,
    ),
)]
pub(super) async fn roll_back(
    State(app): State<App>,
    Path((name, alias)): Path<(String, String)>,
    headers: HeaderMap,
    Optional(body): Optional<RollbackRequest>,
) -> Result<Response, ApiError> {
    let change = Change {
        to: To::Before,
        drop_live: body.drop_live,
    };
    apply_in_task(app, &name, &alias, &headers, change).await
}

/// What the settings of a request stand for.
fn gate_config(settings: &GateSettings, limits: &Limits) -> Result<GateConfig, ApiError> {
    let mut faults = Faults::default();
    for (pointer, given, most, setting) in [
        ("/gate/n_queries", settings.n_queries, usize::MAX, ""),
        ("/gate/k", settings.k, limits.top_k, "limits.top_k"),
    ] {
        faults.range(pointer, given.unwrap_or(1), 1, most, setting);
    }
    if !faults.0.is_empty() {
        return Err(ApiError::fields(faults.0));
    }
    // Both have the fields of `gate.toml`.
    let settings = serde_json::to_value(settings).map_err(ApiError::internal)?;
    serde_path_to_error::deserialize(settings).map_err(|error| {
        let pointer = format!("/gate{}", pointer(error.path()));
        ApiError::field(
            pointer,
            "wrong_type",
            format!("is wrong: {}", error.inner()),
        )
    })
}

struct Change {
    to: To,
    drop_live: bool,
}

enum To {
    /// Through the gate or not.
    Generation(GenerationId, Option<Box<GateConfig>>),
    /// What the alias named before.
    Before,
}

/// In a task of its own: a caller who goes away leaves nothing half done.
async fn apply_in_task(
    app: App,
    name: &str,
    alias: &str,
    headers: &HeaderMap,
    change: Change,
) -> Result<Response, ApiError> {
    writable(&app, name)?;
    let (name, alias) = (name.to_owned(), AliasName::parse(alias).map_err(of_name)?);
    let expected = headers.get(IF_MATCH).map(|value| {
        // What is no text is no generation's name.
        value.to_str().unwrap_or_default().to_owned()
    });
    let task = tokio::spawn(async move {
        let (slot, source) = followed(&app, &name)?;
        apply(&app, &slot, &source, &alias, expected.as_deref(), change).await?;
        describe(&name, &slot, source, alias).await
    });
    task.await.map_err(ApiError::internal)?
}

/// Whether a header `If-Match` holds (RFC 9110, section 13.1.1): tags in quotes, or `*` for anything.
fn holds(expected: &str, named: Option<&str>) -> bool {
    named.is_some_and(|named| {
        let tag = format!("\"{named}\"");
        expected
            .split(',')
            .map(str::trim)
            .any(|expected| expected == "*" || expected == tag)
    })
}

async fn apply(
    app: &App,
    slot: &Slot,
    source: &Source,
    alias: &AliasName,
    expected: Option<&str>,
    change: Change,
) -> Result<(), ApiError> {
    let collection = source.collection.clone();
    // Held until the alias is written, so that nothing changes between the comparison and that.
    let writer = blocking(move || collection.writer("serve: alias of a collection"));
    let writer = writer.await?.map_err(of_collection)?;
    let now = source
        .collection
        .aliases()
        .map_err(of_collection)?
        .remove(alias);
    let named = now.as_ref().map(ToString::to_string);
    if let Some(expected) = expected
        && !holds(expected, named.as_deref())
    {
        let named = named.as_deref().unwrap_or("nothing");
        let text = format!("alias `{alias}` names {named}, expected {expected}");
        return Err(ApiError::new(ErrorCode::PreconditionFailed, text));
    }
    let (id, gate) = match change.to {
        To::Generation(id, gate) => (id, gate),
        To::Before => {
            let before = source
                .collection
                .previous()
                .map_err(of_collection)?
                .remove(alias);
            let text = || format!("alias `{alias}` has named no other generation before");
            (
                before.ok_or_else(|| ApiError::new(ErrorCode::NotFound, text()))?,
                None,
            )
        }
    };
    let candidate = source.collection.generation(&id).map_err(of_collection)?;
    let report = match (gate, now.filter(|now| *now != id)) {
        (Some(config), Some(now)) => {
            Some(ask_gate(app, slot, source, *config, candidate.clone(), &now).await?)
        }
        _ => None,
    };
    if *alias != source.alias {
        // The one that this server answers from is opened by the switch.
        let opened = swap::named(app, slot, source.clone(), id.to_string()).await;
        match opened {
            // What the log has no more is left out of it by what is written next.
            Err(SwapError::Log(LiveError::Collection(CollectionError::LogGap { .. })))
                if change.drop_live => {}
            opened => {
                opened?;
            }
        }
    }
    let target = (alias.clone(), id);
    let write = async move {
        let written = blocking(move || write(&writer, &target, report.as_ref(), change.drop_live));
        written.await?.map_err(of_collection)
    };
    match *alias == source.alias {
        true => switch(app, slot, candidate, write).await,
        false => write.await,
    }
}

fn write(
    writer: &Writer,
    (alias, id): &(AliasName, GenerationId),
    report: Option<&GateReport>,
    drop_live: bool,
) -> Result<(), CollectionError> {
    if let Some(report) = report {
        let report = serde_json::to_value(report).expect("a report has string keys only");
        writer.keep_gate_report(id, &report)?;
    }
    match drop_live {
        false => writer.set_alias(alias, id),
        true => {
            let end = writer.collection().log_positions()?.end;
            writer.set_alias_without(alias, id, end - 1)
        }
    }
}

/// Compares a candidate with what the alias names, with the encoder that answers for the collection.
async fn ask_gate(
    app: &App,
    slot: &Slot,
    source: &Source,
    config: GateConfig,
    candidate: collection::Generation,
    live: &GenerationId,
) -> Result<GateReport, ApiError> {
    let live = source.collection.generation(live).map_err(of_collection)?;
    let encoder = slot.current().encoder.clone();
    if config.fingerprint == FingerprintRule::Any {
        let name = &slot.current().name;
        let fits = app.fit(name, &candidate.manifest, encoder.as_deref());
        fits.map_err(SwapError::Attach)?;
    }
    let asked = blocking(move || {
        let entry = |generation| Entry {
            generation,
            encoder: encoder.as_ref().map(|encoder| &*encoder.model),
        };
        gate(&config, entry(&candidate), Some(entry(&live)))
    });
    let report = asked.await?.map_err(of_gate)?;
    if report.passed {
        return Ok(report);
    }
    let wrong = report.measures.iter().filter_map(|measured| {
        let violation = measured.violation.as_ref()?;
        Some(format!(
            "{} is {:.4}, {violation}",
            measured.name, measured.candidate
        ))
    });
    let text = wrong.collect::<Vec<_>>().join("; ");
    let report = serde_json::to_value(&report).map_err(ApiError::internal)?;
    Err(ApiError::gate(text, report))
}

async fn describe(
    name: &str,
    slot: &Slot,
    source: Source,
    alias: AliasName,
) -> Result<Response, ApiError> {
    let served = slot.current().retriever.generation().id.clone();
    let of = alias.clone();
    let read = blocking(move || {
        let collection = &source.collection;
        Ok::<_, CollectionError>((
            collection.aliases()?.remove(&of),
            collection.previous()?.remove(&of),
        ))
    });
    let (now, previous) = read.await?.map_err(of_collection)?;
    let now = now.ok_or_else(|| {
        let text = format!("collection `{name}` has no alias `{alias}`");
        ApiError::new(ErrorCode::NotFound, text)
    })?;
    let body = Alias {
        collection: name.to_owned(),
        alias: alias.to_string(),
        generation: now.to_string(),
        previous: previous.map(String::from),
        served: now == served,
    };
    let tag = HeaderValue::from_str(&format!("\"{now}\"")).expect("names are plain");
    Ok(([(ETAG, tag)], axum::Json(body)).into_response())
}

/// What answers for `collection`, or the generation of it that `collection@alias` or `collection@generation` names.
pub(super) async fn named(app: &App, name: &str) -> Result<Arc<ServedCollection>, ApiError> {
    let Some((name, generation)) = name.split_once('@') else {
        return app.collection(name);
    };
    let (slot, source) = followed(app, name)?;
    Ok(swap::named(app, &slot, source, generation.to_owned()).await?)
}

/// What searches of a collection are compared with; none where another generation is named.
pub(super) fn shadow(app: &App, name: &str) -> Option<Arc<Shadow>> {
    app.slot(name).ok()?.shadow()
}

/// A collection whose generations this server knows.
pub(super) fn followed(app: &App, name: &str) -> Result<(Arc<Slot>, Source), ApiError> {
    let slot = app.slot(name)?;
    let source = slot.source.clone().ok_or_else(|| {
        let text = format!("collection `{name}` is served as one generation, without aliases");
        ApiError::new(ErrorCode::NotFound, text)
    })?;
    Ok((slot, source))
}

/// A collection that this server may change.
pub(super) fn writable(app: &App, name: &str) -> Result<(Arc<Slot>, Source), ApiError> {
    let (slot, source) = followed(app, name)?;
    match &slot.remote {
        None => Ok((slot, source)),
        Some(_) => {
            let text = format!(
                "collection `{name}` is a copy of one in object storage, and is changed there"
            );
            Err(ApiError::new(ErrorCode::Locked, text))
        }
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(ApiError::internal)
}

fn of_name(error: NameError) -> ApiError {
    ApiError::new(ErrorCode::NotFound, error.to_string())
}

pub(super) fn of_collection(error: CollectionError) -> ApiError {
    match error {
        CollectionError::Name(error) => of_name(error),
        CollectionError::Unknown { name, .. } => ApiError::new(
            ErrorCode::NotFound,
            format!("there is no generation `{name}`"),
        ),
        CollectionError::Locked { holder, .. } => ApiError::new(
            ErrorCode::Locked,
            format!("the collection is being written by {holder}"),
        ),
        error => ApiError::internal(error),
    }
}

fn of_gate(error: GateError) -> ApiError {
    match error {
        GateError::Fingerprint { .. } => {
            ApiError::new(ErrorCode::FingerprintMismatch, error.to_string())
        }
        GateError::Rows { .. } | GateError::NoQuestion { .. } => {
            ApiError::new(ErrorCode::GateFailed, error.to_string())
        }
        error => ApiError::internal(error),
    }
}

impl From<SwapError> for ApiError {
    fn from(error: SwapError) -> Self {
        let code = match error {
            SwapError::Collection(error) => return of_collection(error),
            SwapError::Memory { .. } | SwapError::DeviceMemory { .. } => {
                ErrorCode::InsufficientStorage
            }
            SwapError::Attach(_) => ErrorCode::FingerprintMismatch,
            SwapError::Open(OpenError::Milvus { .. }) => return Self::search_unavailable(error),
            error => return Self::internal(error),
        };
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self::new(code, format!("{error}{}", cause.unwrap_or_default()))
    }
}
