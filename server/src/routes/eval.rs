use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use corpus::{Qrels, Run, Scored};
use evaluation::{EvaluationConfig, Measure, MeasureKind};
use openapi::{
    ErrorCode, EvalReport, EvalRequest, OnTimeout, RerankOptions, SearchRequest, Task, TaskProgress,
};
use retriever::{Deadline, QueryInput, SearchOptions, SearchResponse};

use super::aliases::{blocking, named};
use super::errors::{Body, Opened, TooMany};
use super::search::Asker;
use crate::body::{Json, escape};
use crate::exchange::Context;
use crate::faults::Faults;
use crate::live::Done;
use crate::problem::ApiError;
use crate::scheduler::Class;
use crate::state::{App, ServedCollection};

/// Queries that are searched together: few, since other callers wait as long as these take.
const STEP: usize = 16;
/// Passages of a search where a measure looks at all.
const FULL_DEPTH: usize = 100;
/// How long a full queue is left alone.
const PAUSE: Duration = Duration::from_millis(250);

/// Measure how well a collection answers queries with judgments
///
/// Searches go through the queues behind those of other callers, and neither into the query log nor into a comparison with a shadow.
/// Where documents were split into passages, documents are found, by their best passage. One evaluation goes on at a time.
/// `limits.eval_queries` is 0 unless the server is told otherwise, and refuses all of them.
#[utoipa::path(
    post, path = "/v1/eval", tag = "search", operation_id = "evaluate",
    request_body = EvalRequest,
    responses(
        (status = 202, description = "The task that does it; its `evaluation` has the measures in the end", body = Task),
        Body, Opened, TooMany,
    ),
)]
pub(super) async fn evaluate(
    State(app): State<App>,
    Extension(context): Extension<Context>,
    Json(body): Json<EvalRequest>,
) -> Result<Response, ApiError> {
    let name = body.collection.clone();
    if !context.may_use(&name) {
        let text = "the key may not be used on this collection";
        return Err(ApiError::new(ErrorCode::Forbidden, text));
    }
    let collection = named(&app, &name).await?;
    let asker = Asker {
        app: &app,
        collection: &collection,
        context: &context,
        class: Class::Bulk,
        shadow: None,
    };
    let work = Work::resolve(&asker, body)?;
    let begun = app.tasks.begin_alone("eval", &name);
    let (task, cancelled) = begun.map_err(|other| {
        let text = format!("evaluation `{other}` goes on");
        ApiError::overloaded(text, Duration::from_secs(1))
    })?;
    let id = task.task.clone();
    let (of, shared) = (id.clone(), App::clone(&app));
    let working =
        tokio::spawn(async move { work.run(&shared, &collection, &of, &cancelled).await });
    tokio::spawn(async move {
        let outcome = match working.await {
            Ok(outcome) => outcome,
            Err(error) => Err(ApiError::internal(error)),
        };
        let outcome = outcome.map_err(|error| told(&id, error));
        app.tasks.end(&id, outcome.map(Done::Evaluated));
    });
    Ok((StatusCode::ACCEPTED, axum::Json(task)).into_response())
}

/// What a task says of its error. No request waits for it, so what the server keeps to itself is in the log under the task.
fn told(task: &str, error: ApiError) -> String {
    let cause = error.causes();
    if !cause.is_empty() {
        tracing::error!(task, cause, "evaluation failed");
    }
    match error.code {
        ErrorCode::Internal => "the server's log has the cause under the id of the task".to_owned(),
        _ => error.detail,
    }
}

/// An evaluation in which nothing is wrong as far as can be told before anything is searched.
struct Work {
    /// Ids and texts of the queries with judgments.
    queries: Vec<(String, QueryInput)>,
    qrels: Qrels,
    measures: Vec<Measure>,
    options: SearchOptions,
}

impl Work {
    fn resolve(asker: &Asker<'_>, mut body: EvalRequest) -> Result<Self, ApiError> {
        body.qrels.retain(|_, grades| !grades.is_empty());
        let limits = asker.app.limits();
        let (n_queries, limit) = (body.qrels.len(), limits.eval_queries);
        if n_queries == 0 {
            return Err(ApiError::field("/qrels", "too_small", "has no judgments"));
        }
        if n_queries > limit {
            let (code, given) = (ErrorCode::BatchTooLarge, Some(n_queries as u64));
            let (what, setting) = ("queries with judgments:", "limits.eval_queries");
            return Err(ApiError::too_many(code, what, given, limit, setting));
        }
        let mut faults = Faults::default();
        let measures = measures(&body.measures, limits.top_k, &mut faults);
        let depths = measures.iter().map(|measure| measure.cutoff);
        let deepest = depths.clone().flatten().max().unwrap_or(0);
        let full_depth = FULL_DEPTH.min(limits.top_k);
        let unasked = depths.map(|depth| depth.unwrap_or(full_depth)).max();
        let top_k = body.top_k.or(unasked).unwrap_or(0);
        if top_k < deepest {
            let text = format!("is {top_k}, and a measure looks at {deepest}");
            faults.add("/top_k", "conflict", &text);
        }
        for id in body.qrels.keys() {
            if !body.queries.contains_key(id) {
                let pointer = format!("/qrels/{}", escape(id));
                faults.add(&pointer, "unknown_value", "names no query of `queries`");
            }
        }
        if !faults.0.is_empty() {
            return Err(ApiError::fields(faults.0));
        }
        // Judgments are of documents.
        let is_split = asker.collection.retriever.splits_documents();
        let mut texts = std::mem::take(&mut body.queries);
        let mut queries = Vec::with_capacity(n_queries);
        let mut options = None;
        for id in body.qrels.keys() {
            let request = SearchRequest {
                query: texts.remove(id),
                top_k,
                mode: body.mode,
                filter: body.filter.clone(),
                boosts: body.boosts.clone(),
                hybrid: body.hybrid,
                search: body.search,
                rerank: body.rerank.map(patient),
                group_by: is_split.then(|| "document".to_owned()),
                include: Vec::new(),
                ..SearchRequest::default()
            };
            let search = asker.resolve(request, Deadline::NONE);
            let of_query = format!("/queries/{}", escape(id));
            let search = search.map_err(|error| error.moved("/query", &of_query))?;
            queries.push((id.clone(), search.query));
            options = Some(search.options);
        }
        let mut qrels = Qrels::default();
        for (query, grades) in body.qrels {
            for (document, grade) in grades {
                qrels.insert(query.clone(), document, grade);
            }
        }
        Ok(Self {
            queries,
            qrels,
            measures,
            options: options.ok_or_else(|| ApiError::internal("an evaluation has no query"))?,
        })
    }

    async fn run(
        self,
        app: &App,
        collection: &Arc<ServedCollection>,
        task: &str,
        cancelled: &AtomicBool,
    ) -> Result<EvalReport, ApiError> {
        let mut run = Run::new("trawl");
        let mut n_degraded = 0;
        // Queries are reranked one by one anyway, and a full queue makes all of a step be done again.
        let n_step = self.options.rerank.map_or(STEP, |_| 1);
        for step in self.queries.chunks(n_step) {
            let progress = TaskProgress {
                done: run.len() as u64,
                of: self.queries.len() as u64,
            };
            app.tasks.advance(task, progress);
            let texts: Vec<QueryInput> = step.iter().map(|(_, text)| text.clone()).collect();
            let answers = self.ask(collection, texts, cancelled).await?;
            for ((id, _), answer) in step.iter().zip(answers) {
                n_degraded += u64::from(!answer.degraded.is_empty());
                run.insert(id.clone(), ranked(answer));
            }
        }
        let of = self.queries.len() as u64;
        app.tasks.advance(task, TaskProgress { done: of, of });
        let config = EvaluationConfig {
            measures: self.measures,
            ..EvaluationConfig::default()
        };
        let qrels = self.qrels;
        // Long lists take a while, in which other callers are answered.
        let measuring = blocking(move || evaluation::evaluate(&qrels, &run, &config));
        let report = measuring.await?.map_err(ApiError::internal)?;
        let manifest = collection.retriever.manifest();
        let names = report.config.measures.iter().map(Measure::to_string);
        Ok(EvalReport {
            generation: manifest.generation.to_string(),
            model_fingerprint: manifest.fingerprint_digest.clone(),
            queries: report.n_queries as u64,
            degraded: n_degraded,
            measures: names.zip(report.mean.iter().copied()).collect(),
        })
    }

    /// Searches when the queues have room.
    async fn ask(
        &self,
        collection: &ServedCollection,
        texts: Vec<QueryInput>,
        cancelled: &AtomicBool,
    ) -> Result<Vec<SearchResponse>, ApiError> {
        loop {
            if cancelled.load(Ordering::Acquire) {
                let text = "the evaluation was told to end";
                return Err(ApiError::new(ErrorCode::DeadlineExceeded, text));
            }
            let answers = collection.answer(texts.clone(), &self.options, Class::Bulk);
            match answers
                .await
                .map_err(|error| ApiError::search(error, false))
            {
                Err(error) if error.code == ErrorCode::Overloaded => {
                    tokio::time::sleep(PAUSE).await;
                }
                answers => return answers,
            }
        }
    }
}

/// Without a time of its own only a full queue leaves a reranking out, and an evaluation waits for that as for any other.
fn patient(rerank: RerankOptions) -> RerankOptions {
    match rerank.timeout_ms {
        Some(_) => rerank,
        None => RerankOptions {
            on_timeout: OnTimeout::Fail,
            ..rerank
        },
    }
}

/// None of them looks at more than `most` passages.
fn measures(names: &[String], most: usize, faults: &mut Faults) -> Vec<Measure> {
    let mut measures = Vec::new();
    if names.is_empty() {
        faults.add("/measures", "too_small", "is empty");
    }
    for (place, name) in names.iter().enumerate() {
        let pointer = format!("/measures/{place}");
        match name.parse::<Measure>() {
            Ok(measure) if measure.kind == MeasureKind::Answer => {
                let text = "needs the texts of answers, and there are judgments only";
                faults.add(&pointer, "unsupported", text);
            }
            Ok(measure) if measures.contains(&measure) => {
                faults.add(&pointer, "duplicate", "is there twice");
            }
            Ok(measure) => match measure.cutoff {
                Some(depth) if depth > most => {
                    let text = format!("looks at {depth}, limit is {most} (`limits.top_k`)");
                    faults.add(&pointer, "too_large", &text);
                }
                _ => measures.push(measure),
            },
            Err(error) => faults.add(&pointer, "unknown_value", &error.to_string()),
        }
    }
    measures
}

/// What was found, in the order of the answer, which need not be that of scores: reranked passages stand before the others.
fn ranked(answer: SearchResponse) -> Vec<Scored> {
    let passages = answer.hits.into_iter().map(|hit| hit.id);
    let documents = answer.groups.into_iter().map(|group| group.id);
    let found = passages.chain(documents).enumerate();
    found
        .map(|(place, id)| Scored {
            id,
            score: -(place as f64),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_is_waited_for_where_reranking_has_no_time_of_its_own() {
        let mut rerank = RerankOptions::default();
        assert_eq!(rerank.on_timeout, OnTimeout::Skip);
        assert_eq!(patient(rerank).on_timeout, OnTimeout::Fail);
        rerank.timeout_ms = Some(50);
        assert_eq!(patient(rerank), rerank);
    }

    #[test]
    fn a_task_says_where_the_cause_is_and_not_the_cause() {
        let said = told("eval-1", ApiError::internal("cannot read `/srv/docs`"));
        assert!(said.ends_with("under the id of the task"), "{said}");
        let said = told("eval-1", ApiError::search_unavailable("10.0.0.1: refused"));
        assert!(said.starts_with("the cluster"), "{said}");
    }
}
