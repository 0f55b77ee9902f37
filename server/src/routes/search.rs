use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use openapi::{
    HighlightField, HighlightPiece, HitDocument, HitScores, HybridOptions, IncludeField,
    SearchHighlight, SearchHit, SearchMode, SearchResponse, SearchTiming, SearchTotal, SearchUsage,
    TotalRelation,
};
use retriever::{
    Deadline, Fragment, Fusion, FusionMethod, Highlight, Include, Mode, OnTimeout, Piece,
    QueryInput, Relation, RerankRequest, SearchError, SearchOptions, SearchRequest, TextField,
    Timing, Weights,
};
use tokio::time::timeout_at;

use super::aliases::{named, shadow};
use super::errors::{Body, Computing, Opened};
use super::headers::Waiting;
use super::{identified, millis, timed};
use crate::Limits;
use crate::auth::{narrow, narrowed_error};
use crate::body::Json;
use crate::boost::{resolve_boosts, resolve_pins, resolve_sort, write_explanation};
use crate::exchange::Context;
use crate::faults::Faults;
use crate::filter::{read_filter, write_facets};
use crate::group::{resolve_grouping, write_group};
use crate::problem::{ApiError, filter_fault};
use crate::query_log::{LoggedEvent, LoggedResult, LoggedSearch, MAX_RESULTS, QueryLog, now_ms};
use crate::scheduler::Class;
use crate::shadow::Shadow;
use crate::state::{App, ServedCollection, Shared};

/// Every stage watches the deadline itself. This is how much later an answer is given up that none of them gave up,
/// so that one whose reranking was cut short at the deadline still has time to be written.
const SLACK: Duration = Duration::from_millis(200);

/// The constant of reciprocal rank fusion where nobody names one.
const DEFAULT_K: u32 = 60;

/// Passages that boosts and an order see where nobody says how many.
const DEFAULT_RANK_WINDOW: usize = 1000;

/// Search a collection by text or by vector
///
/// Answers come from one generation of the collection, named in the body and in the header `x-index-generation`.
#[utoipa::path(
    post, path = "/v1/collections/{name}/search", tag = "search", operation_id = "search",
    params(
        ("name" = String, Path, description = "Name of the collection; `name@alias` or `name@generation` is another generation of it", example = "docs"),
        Waiting,
    ),
    request_body = openapi::SearchRequest,
    responses(
        (status = 200, description = "The passages, best first", body = SearchResponse, headers(
            ("x-index-generation" = String, description = "The generation that answered"),
            ("x-model-fingerprint" = String, description = "Fingerprint of the generation's model and texts"),
            ("Server-Timing" = String, description = "Time of each stage"),
        )),
        Body, Opened, Computing,
    ),
)]
pub(super) async fn search(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Path(name): Path<String>,
    Json(body): Json<openapi::SearchRequest>,
) -> Result<Response, ApiError> {
    let collection = named(&app, &name).await?;
    let deadline = context.deadline(body.timeout_ms, app.config.default_timeout, &app)?;
    let asker = Asker {
        app: &app,
        collection: &collection,
        context: &context,
        class: context.class(Class::Interactive),
        shadow: shadow(&app, &name),
    };
    let search = asker.resolve(body, deadline)?;
    let answers = asker.answer(vec![search.query], &search.options, &[0]);
    let answers = answers.await?;
    let answer = answers.into_iter().next();
    let answer = answer.ok_or_else(|| ApiError::internal("a search has no answer"))?;
    let spent = stages(&answer.timing);
    let body = write(&collection, answer, &search.options, &context.request_id);
    let generation = body.generation.clone();
    let fingerprint = body.model_fingerprint.clone();
    let mut response = identified(body, Some(&generation), &fingerprint);
    timed(&mut response, &spent);
    Ok(response)
}

/// A collection on behalf of one request.
pub(super) struct Asker<'a> {
    pub(super) app: &'a Shared,
    pub(super) collection: &'a ServedCollection,
    pub(super) context: &'a Context,
    pub(super) class: Class,
    /// Where the generation that answers by itself is asked, what is compared with it.
    pub(super) shadow: Option<Arc<Shadow>>,
}

impl Asker<'_> {
    /// Checks a search, and narrows it to what the caller may find.
    pub(super) fn resolve(
        &self,
        body: openapi::SearchRequest,
        deadline: Deadline,
    ) -> Result<SearchRequest, ApiError> {
        let mut search = resolve(body, &self.app.limits(), self.collection, deadline)?;
        search.options.filter = narrow(search.options.filter.take(), self.context.filter());
        Ok(search)
    }

    /// Answers searches with equal options, which have these places in their batch.
    pub(super) async fn answer(
        &self,
        queries: Vec<QueryInput>,
        options: &SearchOptions,
        places: &[usize],
    ) -> Result<Vec<retriever::SearchResponse>, ApiError> {
        let by_vector = matches!(queries.first(), Some(QueryInput::Vector(_)));
        let shadow = self.shadow.as_deref();
        let sampled = shadow.map(|shadow| shadow.sample(&queries));

        let texts = self.app.query_log.as_ref().map(|log| texts(log, &queries));
        let answers = self.collection.answer(queries, options, self.class);
        let answers = match options.deadline.moment() {
            Some(moment) => timeout_at((moment + SLACK).into(), answers)
                .await
                .map_err(|_| ApiError::deadline_exceeded())?,
            None => answers.await,
        };
        let answers = answers.map_err(|error| match error {
            SearchError::Filter(error) if self.context.filter().is_some() => {
                narrowed_error(error, options.filter.as_ref() != self.context.filter())
            }
            error => ApiError::search(error, by_vector),
        })?;
        if let Some(answer) = answers.first() {
            for (stage, elapsed) in stages(&answer.timing) {
                self.app.metrics.stage(stage, elapsed);
            }
        }
        if let Some((log, texts)) = self.app.query_log.as_ref().zip(texts) {
            let of_places = places.iter().zip(texts).zip(&answers);
            let events = of_places.map(|((&place, text), answer)| self.event(place, text, answer));
            // A search is answered whether or not it is logged; what is lost is counted.
            let _ = log.record(events.collect());
        }
        if let Some((shadow, sampled)) = shadow.zip(sampled) {
            shadow.offer(sampled, options, &answers);
        }
        Ok(answers)
    }

    /// What the query log says of a search.
    fn event(
        &self,
        place: usize,
        query: Option<String>,
        answer: &retriever::SearchResponse,
    ) -> LoggedEvent {
        let result = |hit: &retriever::Hit, rank| LoggedResult {
            id: hit
                .document
                .as_ref()
                .map_or(&hit.id, |part| &part.id)
                .clone(),
            rank,
        };
        let of_groups = answer.groups.iter().flat_map(|group| {
            let hits = group.hits.iter();
            hits.map(move |hit| result(hit, group.rank))
        });
        let hits = answer.hits.iter().map(|hit| result(hit, hit.rank));
        LoggedEvent::Search(LoggedSearch {
            time_ms: now_ms(),
            request_id: self.context.request_id.clone(),
            place,
            key: self.context.caller(),
            collection: self.collection.name.clone(),
            generation: self.collection.retriever.generation().id.to_string(),
            query,
            results: hits.chain(of_groups).take(MAX_RESULTS).collect(),
        })
    }
}

/// The texts of queries that a log keeps.
fn texts(log: &QueryLog, queries: &[QueryInput]) -> Vec<Option<String>> {
    let text = |query: &QueryInput| match query {
        QueryInput::Text(text) if log.has_text => Some(text.clone()),
        _ => None,
    };
    queries.iter().map(text).collect()
}

/// Checks everything that can be checked before anything is computed.
fn resolve(
    body: openapi::SearchRequest,
    limits: &Limits,
    collection: &ServedCollection,
    deadline: Deadline,
) -> Result<SearchRequest, ApiError> {
    let mut faults = Faults::default();
    faults.range("/top_k", body.top_k, 1, limits.top_k, "limits.top_k");
    if let Some(ef) = body.search.ef {
        faults.range("/search/ef", ef, 1, limits.ef, "limits.ef");
    }
    let end = body.offset.saturating_add(body.top_k);
    if end > limits.window && body.top_k <= limits.top_k {
        // The number is that of `offset + top_k`, which the setting limits.
        faults.range("/offset", end, 0, limits.window, "limits.window");
    }
    if body.hybrid.is_some() && body.mode != SearchMode::Hybrid {
        faults.add(
            "/hybrid",
            "conflict",
            "has an effect with `\"mode\": \"hybrid\"` only",
        );
    }
    let fusion = resolve_fusion(
        body.hybrid.unwrap_or_default(),
        collection.fusion,
        &mut faults,
    );
    let group = resolve_grouping(&body, limits, &mut faults);
    let filter = match body.filter.map(|filter| read_filter(filter, "/filter")) {
        Some(Ok(filter)) => {
            if let Err(error) = filter.check(&limits.filter()) {
                faults.0.push(filter_fault("/filter", error));
            }
            Some(filter)
        }
        Some(Err(of_filter)) => {
            faults.0.extend(of_filter);
            None
        }
        None => None,
    };
    let (is_reranked, is_ordered) = (
        body.rerank.is_some(),
        !body.boosts.is_empty() || body.sort.is_some(),
    );
    let boosts = resolve_boosts(body.boosts, is_reranked, limits, &mut faults);
    let pins = resolve_pins(body.pins, limits, &mut faults);
    if let Some(window) = body.rank_window {
        faults.range("/rank_window", window, 1, limits.window, "limits.window");
        if !is_ordered {
            let text = "has an effect with `boosts` or `sort` only";
            faults.add("/rank_window", "conflict", text);
        }
    }
    let n_facets = body.facets.len();
    faults.range("/facets", n_facets, 0, limits.facets, "limits.facets");
    for (position, field) in body.facets.iter().take(limits.facets).enumerate() {
        if body.facets[..position].contains(field) {
            faults.add(
                &format!("/facets/{position}"),
                "duplicate",
                "is there twice",
            );
        }
    }
    if body.timeout_ms == Some(0) {
        faults.range("/timeout_ms", 0, 1, usize::MAX, "");
    }
    if let Some(rerank) = &body.rerank {
        let (setting, limit) = ("limits.rerank_candidates", limits.rerank_candidates);
        faults.range("/rerank/candidates", rerank.candidates, 1, limit, setting);
        if rerank.timeout_ms == Some(0) {
            faults.range("/rerank/timeout_ms", 0, 1, usize::MAX, "");
        }
        if collection.reranker.is_none() {
            faults.add(
                "/rerank",
                "unsupported",
                "asks for a reranker, the collection has none (`collections.NAME.reranker`)",
            );
        }
    }
    if let Some(highlight) = &body.highlight {
        let (setting, limit) = ("limits.highlight_chars", limits.highlight_chars);
        faults.range(
            "/highlight/max_chars",
            highlight.max_chars,
            1,
            limit,
            setting,
        );
        for (position, field) in highlight.fields.iter().enumerate() {
            if highlight.fields[..position].contains(field) {
                let pointer = format!("/highlight/fields/{position}");
                faults.add(&pointer, "duplicate", "is there twice");
                break;
            }
        }
        if body.vector.is_some() {
            faults.add(
                "/highlight",
                "conflict",
                "needs a `query`, a `vector` is given",
            );
        }
    }
    let query = match (body.query, body.vector) {
        (Some(_), Some(_)) => {
            faults.add(
                "/vector",
                "conflict",
                "is given beside `query`; one of them is enough",
            );
            None
        }
        (None, None) => {
            faults.add("/query", "missing", "is missing, and so is `vector`");
            None
        }
        (Some(text), None) => {
            if text.trim().is_empty() {
                faults.add("/query", "blank", "is blank");
            }
            faults.range(
                "/query",
                text.len(),
                0,
                limits.query_bytes,
                "limits.query_bytes",
            );
            if collection.encoder.is_none() && body.mode != SearchMode::Lexical {
                let text = "is text, but the collection's vectors were made elsewhere and it has no encoder";
                faults.add("/query", "unsupported", text);
            }
            Some(QueryInput::Text(text))
        }
        (None, Some(vector)) => {
            if body.mode != SearchMode::Dense {
                faults.add("/mode", "conflict", "needs a `query`, a `vector` is given");
            }
            if body.rerank.is_some() {
                faults.add(
                    "/rerank",
                    "conflict",
                    "needs a `query`, a `vector` is given",
                );
            }
            Some(QueryInput::Vector(vector))
        }
    };
    let query = match query {
        Some(query) if faults.0.is_empty() => query,
        _ => return Err(ApiError::fields(faults.0)),
    };
    let options = SearchOptions {
        mode: match body.mode {
            SearchMode::Dense => Mode::Dense,
            SearchMode::Lexical => Mode::Lexical,
            SearchMode::Hybrid => Mode::Hybrid(fusion),
        },
        filter,
        facets: body.facets,
        score_threshold: body.score_threshold,
        boosts,
        sort: body.sort.map(resolve_sort),
        rank_window: body.rank_window.unwrap_or(DEFAULT_RANK_WINDOW),
        pins,
        explain: body.explain,
        group,
        top_k: body.top_k,
        offset: body.offset,
        rerank: body.rerank.map(|rerank| RerankRequest {
            candidates: rerank.candidates,
            timeout: rerank.timeout_ms.map(Duration::from_millis),
            on_timeout: match rerank.on_timeout {
                openapi::OnTimeout::Skip => OnTimeout::Skip,
                openapi::OnTimeout::Fail => OnTimeout::Fail,
            },
        }),
        highlight: body.highlight.map(|highlight| Highlight {
            fields: highlight.fields.into_iter().map(text_field).collect(),
            max_chars: highlight.max_chars,
        }),
        exact: body.search.exact,
        ef: body.search.ef,
        include: Include {
            text: body.include.contains(&IncludeField::Text),
            metadata: body.include.contains(&IncludeField::Metadata),
        },
        deadline,
        ..SearchOptions::default()
    };
    Ok(SearchRequest { query, options })
}

/// The fusion that a request asks for; what it does not say is as the collection has it.
fn resolve_fusion(asked: HybridOptions, default: Fusion, faults: &mut Faults) -> Fusion {
    let default_k = match default.method {
        FusionMethod::ReciprocalRank { k } => k,
        FusionMethod::Weighted => DEFAULT_K,
    };
    let method = match (asked.fusion, default.method) {
        (Some(openapi::FusionMethod::Weighted), _) | (None, FusionMethod::Weighted) => {
            if asked.k.is_some() {
                faults.add(
                    "/hybrid/k",
                    "conflict",
                    "has an effect with `\"fusion\": \"rrf\"` only",
                );
            }
            FusionMethod::Weighted
        }
        _ => {
            let k = asked.k.unwrap_or(default_k);
            faults.range("/hybrid/k", k as usize, 1, u32::MAX as usize, "");
            FusionMethod::ReciprocalRank { k }
        }
    };
    let given = asked.weights.unwrap_or_default();
    let weights = Weights {
        dense: given.dense.unwrap_or(default.weights.dense),
        bm25: given.bm25.unwrap_or(default.weights.bm25),
    };
    if !weights.are_valid() {
        let (dense, bm25) = (weights.dense, weights.bm25);
        let text = format!("are {dense} and {bm25}, expected numbers from 0 on, one of them above");
        faults.add("/hybrid/weights", "unsupported", &text);
    }
    Fusion { method, weights }
}

fn stages(timing: &Timing) -> [(&'static str, Duration); 8] {
    [
        ("queue", timing.queue),
        ("tokenize", timing.tokenize),
        ("encode", timing.encode),
        ("filter", timing.filter),
        ("search", timing.search),
        ("rerank", timing.rerank),
        ("fetch", timing.fetch),
        ("total", timing.total),
    ]
}

/// An answer as the caller reads it.
pub(super) fn write(
    collection: &ServedCollection,
    answer: retriever::SearchResponse,
    options: &SearchOptions,
    request_id: &str,
) -> SearchResponse {
    let manifest = collection.retriever.manifest();
    let groups = answer.groups.into_iter();
    let timing = &answer.timing;
    let is_grouped = options.group.is_some();
    let mut warnings = collection.warnings.clone();
    for facet in &answer.facets {
        let (field, n_values, n_counted) = (&facet.field, facet.n_values, facet.counts.len());
        if n_counted < n_values {
            warnings.push(format!(
                "facet `{field}` has {n_values} values, the {n_counted} most frequent are counted"
            ));
        }
    }
    SearchResponse {
        degraded: answer
            .degraded
            .iter()
            .map(|part| (*part).to_owned())
            .collect(),
        warnings,
        facets: write_facets(answer.facets),
        total: SearchTotal {
            value: answer.total.value,
            relation: match answer.total.relation {
                Relation::Eq => TotalRelation::Eq,
                Relation::Gte => TotalRelation::Gte,
            },
        },
        plan: answer.plan.map(|plan| plan.as_str().to_owned()),
        exact: answer.exact,
        usage: SearchUsage {
            query_tokens: answer.usage.query_tokens,
            rerank_tokens: answer.usage.rerank_tokens,
            truncated: answer.usage.truncated,
        },
        timing_ms: SearchTiming {
            queue: millis(timing.queue),
            tokenize: millis(timing.tokenize),
            encode: millis(timing.encode),
            filter: millis(timing.filter),
            search: millis(timing.search),
            rerank: millis(timing.rerank),
            fetch: millis(timing.fetch),
            total: millis(timing.total),
        },
        results: answer.hits.into_iter().map(hit).collect(),
        groups: is_grouped.then(|| groups.map(|group| write_group(group, hit)).collect()),
        collection: collection.name.clone(),
        generation: manifest.generation.to_string(),
        log_position: answer.log_position,
        model_fingerprint: manifest.fingerprint_digest.clone(),
        request_id: request_id.to_owned(),
    }
}

fn hit(hit: retriever::Hit) -> SearchHit {
    SearchHit {
        id: hit.id,
        score: hit.score,
        rank: hit.rank,
        scores: HitScores {
            dense: hit.scores.dense,
            bm25: hit.scores.bm25,
            fused: hit.scores.fused,
            rerank: hit.scores.rerank,
        },
        explanation: hit.explanation.map(write_explanation),
        pinned: hit.pinned,
        document: hit.document.map(|document| HitDocument {
            id: document.id,
            passage: document.passage,
            start: document.start,
            end: document.end,
        }),
        title: hit.title,
        text: hit.text,
        metadata: hit.metadata,
        highlights: hit.highlights.into_iter().map(highlight).collect(),
    }
}

fn text_field(field: HighlightField) -> TextField {
    match field {
        HighlightField::Title => TextField::Title,
        HighlightField::Text => TextField::Text,
    }
}

fn highlight(fragment: Fragment) -> SearchHighlight {
    let piece = |piece: Piece| HighlightPiece {
        text: piece.text,
        is_match: piece.is_match,
    };
    SearchHighlight {
        field: match fragment.field {
            TextField::Title => HighlightField::Title,
            TextField::Text => HighlightField::Text,
        },
        pieces: fragment.pieces.into_iter().map(piece).collect(),
    }
}
