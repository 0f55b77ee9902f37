//! A share of live searches that another generation answers, too, where nobody waits for it.
//!
//! Passages of both answers are compared by id, never kept; of queries nothing is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use collection::Collection;
use retriever::{Deadline, Hit, QueryInput, SearchOptions, SearchResponse};
use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::live::catch_up;
use crate::metrics::Metrics;
use crate::scheduler::Class;
use crate::state::{App, ServedCollection};

/// Searches that wait for the candidate; more are skipped.
const MOST_WAITING: usize = 64;
/// Latencies that percentiles are taken of.
const MOST_LATENCIES: usize = 10_000;

/// A candidate beside the generation that answers. Dropping it ends the comparison.
pub(crate) struct Shadow {
    pub(crate) candidate: Arc<ServedCollection>,
    pub(crate) live: String,
    pub(crate) share: f64,
    n_seen: AtomicU64,
    searches: Sender<Search>,
    figures: Arc<Mutex<Figures>>,
    metrics: Arc<Metrics>,
}

/// A search that was answered.
struct Search {
    query: QueryInput,
    options: SearchOptions,
    answer: Answer,
}

/// What is compared of an answer.
struct Answer {
    /// Ids and scores, best first.
    hits: Vec<(String, f32)>,
    elapsed: Duration,
}

impl From<&SearchResponse> for Answer {
    fn from(answer: &SearchResponse) -> Self {
        let grouped = answer.groups.iter().flat_map(|group| &group.hits);
        let pair = |hit: &Hit| (hit.id.clone(), hit.score);
        Self {
            hits: answer.hits.iter().chain(grouped).map(pair).collect(),
            elapsed: answer.timing.total,
        }
    }
}

/// How two answers differ.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Difference {
    /// Passages in both, over those of the longer answer; 1 where both are empty.
    overlap: f64,
    /// The same passages in the same order.
    is_identical: bool,
    /// Whether the first passages are one.
    has_same_first: bool,
    /// Mean absolute difference of the scores of passages in both.
    score_drift: Option<f64>,
}

impl Difference {
    fn of(live: &Answer, candidate: &Answer) -> Self {
        let scores: BTreeMap<&str, f32> = live
            .hits
            .iter()
            .map(|(id, score)| (id.as_str(), *score))
            .collect();
        let both: Vec<f64> = candidate
            .hits
            .iter()
            .filter_map(|(id, score)| Some(f64::from((scores.get(id.as_str())? - score).abs())))
            .collect();
        let longer = live.hits.len().max(candidate.hits.len());
        let id = |hit: &(String, f32)| hit.0.clone();
        Self {
            overlap: match longer {
                0 => 1.0,
                longer => both.len() as f64 / longer as f64,
            },
            is_identical: live.hits.iter().map(id).eq(candidate.hits.iter().map(id)),
            has_same_first: live.hits.first().map(id) == candidate.hits.first().map(id),
            score_drift: (!both.is_empty()).then(|| both.iter().sum::<f64>() / both.len() as f64),
        }
    }
}

#[derive(Default)]
struct Figures {
    n_compared: u64,
    n_failed: u64,
    n_skipped: u64,
    n_identical: u64,
    n_same_first: u64,
    overlap: f64,
    n_drifts: u64,
    score_drift: f64,
    /// Of the live answer and the candidate's, the latest last.
    latencies: VecDeque<(Duration, Duration)>,
}

impl Figures {
    fn add(&mut self, difference: Difference, live: Duration, candidate: Duration) {
        self.n_compared += 1;
        self.n_identical += u64::from(difference.is_identical);
        self.n_same_first += u64::from(difference.has_same_first);
        self.overlap += difference.overlap;
        if let Some(drift) = difference.score_drift {
            self.n_drifts += 1;
            self.score_drift += drift;
        }
        if self.latencies.len() == MOST_LATENCIES {
            self.latencies.pop_front();
        }
        self.latencies.push_back((live, candidate));
    }
}

impl Shadow {
    /// Begins a comparison. `collection` is where the write log is, which the candidate follows, too.
    pub(crate) fn start(
        app: &App,
        live: String,
        candidate: Arc<ServedCollection>,
        collection: Collection,
        share: f64,
    ) -> Self {
        let (searches, waiting) = mpsc::channel(MOST_WAITING);
        let figures = Arc::default();
        let comparing = Comparing {
            app: App::clone(app),
            candidate: Arc::clone(&candidate),
            collection,
            figures: Arc::clone(&figures),
        };
        tokio::spawn(comparing.run(waiting));
        Self {
            candidate,
            live,
            share,
            n_seen: AtomicU64::new(0),
            searches,
            figures,
            metrics: Arc::clone(&app.metrics),
        }
    }

    /// Those of the queries, by place, whose turn it is: of any `n` in a row `share · n`, give or take one.
    pub(crate) fn sample(&self, queries: &[QueryInput]) -> Vec<(usize, QueryInput)> {
        let n = queries.len() as u64;
        let first = self.n_seen.fetch_add(n, Ordering::Relaxed);
        let turn = |number: u64| (number as f64 * self.share) as u64;
        let is_due = |place: &usize| {
            let number = first + *place as u64;
            turn(number + 1) > turn(number)
        };
        let due = (0..queries.len()).filter(is_due);
        due.map(|place| (place, queries[place].clone())).collect()
    }

    /// Hands over what was sampled and answered. Never waits.
    pub(crate) fn offer(
        &self,
        sampled: Vec<(usize, QueryInput)>,
        options: &SearchOptions,
        answers: &[SearchResponse],
    ) {
        for (place, query) in sampled {
            let Some(answer) = answers.get(place) else {
                continue;
            };
            let search = Search {
                query,
                options: options.clone(),
                answer: answer.into(),
            };
            if self.searches.try_send(search).is_err() {
                lock(&self.figures).n_skipped += 1;
                self.metrics
                    .count_shadow(&self.candidate.name, "skipped", 1);
            }
        }
    }

    pub(crate) fn report(&self) -> openapi::Shadow {
        let figures = lock(&self.figures);
        let mean = |sum: f64, n: u64| (n > 0).then(|| sum / n as f64);
        let n = figures.n_compared;
        openapi::Shadow {
            collection: self.candidate.name.clone(),
            live: self.live.clone(),
            candidate: self.candidate.retriever.generation().id.to_string(),
            share: self.share,
            compared: n,
            failed: figures.n_failed,
            skipped: figures.n_skipped,
            overlap: mean(figures.overlap, n),
            identical: mean(figures.n_identical as f64, n),
            same_first: mean(figures.n_same_first as f64, n),
            score_drift: mean(figures.score_drift, figures.n_drifts),
            live_ms: latency(figures.latencies.iter().map(|(live, _)| *live)),
            candidate_ms: latency(figures.latencies.iter().map(|(_, candidate)| *candidate)),
        }
    }
}

fn latency(times: impl Iterator<Item = Duration>) -> Option<openapi::ShadowLatency> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let last = times.len().checked_sub(1)?;
    let percentile = |percent: usize| times[last * percent / 100].as_secs_f64() * 1e3;
    Some(openapi::ShadowLatency {
        p50: percentile(50),
        p95: percentile(95),
        p99: percentile(99),
    })
}

/// The task that asks the candidate.
struct Comparing {
    app: App,
    candidate: Arc<ServedCollection>,
    collection: Collection,
    figures: Arc<Mutex<Figures>>,
}

impl Comparing {
    async fn run(self, mut waiting: Receiver<Search>) {
        while let Some(search) = waiting.recv().await {
            let name = &self.candidate.name;
            match self.ask(&search).await {
                Ok(answer) => {
                    let difference = Difference::of(&search.answer, &answer);
                    let (live, candidate) = (search.answer.elapsed, answer.elapsed);
                    // Before the report has it: who reads both finds no less here.
                    let metrics = &self.app.metrics;
                    metrics.shadow(name, difference.overlap, live, candidate);
                    lock(&self.figures).add(difference, live, candidate);
                }
                Err(error) => {
                    self.app.metrics.count_shadow(name, "failed", 1);
                    lock(&self.figures).n_failed += 1;
                    tracing::warn!(collection = %name, error, "the candidate gave no answer");
                }
            }
        }
    }

    async fn ask(&self, search: &Search) -> Result<Answer, String> {
        let (collection, candidate) = (self.collection.clone(), Arc::clone(&self.candidate));
        let catching_up = tokio::task::spawn_blocking(move || catch_up(&collection, &candidate));
        let caught_up = catching_up.await.map_err(|error| error.to_string())?;
        caught_up.map_err(|error| error.to_string())?;
        let mut options = search.options.clone();
        options.deadline = std::time::Instant::now()
            .checked_add(self.app.config.max_timeout)
            .map_or(Deadline::NONE, Deadline::at);
        let answers = self
            .candidate
            .answer(vec![search.query.clone()], &options, Class::Bulk)
            .await
            .map_err(|error| error.to_string())?;
        answers
            .first()
            .map(Answer::from)
            .ok_or_else(|| "it is empty".to_owned())
    }
}

fn lock(figures: &Mutex<Figures>) -> MutexGuard<'_, Figures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(hits: &[(&str, f32)]) -> Answer {
        Answer {
            hits: hits
                .iter()
                .map(|(id, score)| ((*id).to_owned(), *score))
                .collect(),
            elapsed: Duration::from_millis(1),
        }
    }

    #[test]
    fn answers_are_compared_by_their_passages() {
        let live = answer(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
        let cases = [
            (
                &[("a", 3.0), ("b", 2.0), ("c", 1.0)][..],
                (1.0, true, true, Some(0.0)),
            ),
            (
                &[("a", 3.5), ("c", 2.0), ("b", 2.0)],
                (1.0, false, true, Some(0.5)),
            ),
            (
                &[("b", 2.0), ("d", 1.0), ("e", 1.0), ("f", 1.0)],
                (0.25, false, false, Some(0.0)),
            ),
            (&[], (0.0, false, false, None)),
        ];
        for (candidate, expected) in cases {
            let found = Difference::of(&live, &answer(candidate));
            let found = (
                found.overlap,
                found.is_identical,
                found.has_same_first,
                found.score_drift,
            );
            assert_eq!(found, expected, "{candidate:?}");
        }
        let both_empty = Difference::of(&answer(&[]), &answer(&[]));
        assert!(both_empty.overlap == 1.0 && both_empty.is_identical);
    }
}
