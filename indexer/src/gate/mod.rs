//! The gate: a candidate beside what is live, before it is searched in its place.
//!
//! In this order, so that a refusal has the right reason: the fingerprints, a sample of the rows against the texts they are
//! said to be of, and then what searches find.

mod config;
mod contestant;
mod questions;

use std::collections::BTreeSet;
use std::time::Duration;

use collection::{Generation, GenerationId};
use corpus::{CorpusError, Qrels, Run, Scored};
use encoder::{BiEncoder, EncodeError, Fingerprint};
use evaluation::{EvaluationConfig, EvaluationError, Measure, MeasureKind, evaluate};
use serde::Serialize;
use store::StoreError;

pub use config::{Change, FingerprintRule, GateConfig, Limit, Requirements};

use crate::SampleError;
use crate::sample::{SampleReport, check_sample};
use contestant::{Contestant, Found};
use questions::Questions;

/// A generation and the encoder it was built with.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// The generation.
    pub generation: &'a Generation,
    /// Its encoder; none where vectors were brought.
    pub encoder: Option<&'a BiEncoder>,
}

/// What the gate found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GateReport {
    /// Whether the candidate may be searched.
    pub passed: bool,
    /// The candidate.
    pub candidate: GenerationId,
    /// What it was compared with.
    pub live: Option<GenerationId>,
    /// What was asked: `queries` of a file, `titles` of passages, or `vectors` of passages.
    pub questions: &'static str,
    /// How many were asked.
    pub n_queries: usize,
    /// Hits that were looked at.
    pub k: usize,
    /// Rows made anew; none where vectors were brought.
    pub rows: Option<SampleReport>,
    /// Each measure.
    pub measures: Vec<Measured>,
    /// The questions that changed most, when the candidate does not pass.
    pub worst: Vec<WorstQuestion>,
    /// What it had to reach.
    pub config: GateConfig,
}

/// A measure of the candidate, and of what is live.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Its name in [`Requirements`].
    pub name: &'static str,
    /// Of the candidate.
    pub candidate: f64,
    /// Of what is live, where it has one of its own.
    pub live: Option<f64>,
    /// What is wrong with it.
    pub violation: Option<String>,
}

/// A question side by side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorstQuestion {
    /// The query, or the id of the passage whose vector was asked for.
    pub query: String,
    /// Part of the hits that both have.
    pub overlap: f64,
    /// nDCG of the candidate and of what is live.
    pub ndcg: Option<(f64, f64)>,
    /// The first hits of the candidate.
    pub candidate: Vec<ShownHit>,
    /// The first hits of what is live.
    pub live: Vec<ShownHit>,
}

/// A hit of a question.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownHit {
    /// The passage.
    pub id: String,
    /// Its score.
    pub score: f32,
    /// The beginning of its title and text.
    pub text: String,
}

/// Why the gate could not judge, or why nothing but a refusal was left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum GateError {
    /// Another model, or other texts, and the gate was not told that they are meant to be.
    #[error(
        "generation `{candidate}` has another fingerprint than `{live}`, which is live: `{entry}` is {found}, expected {expected}"
    )]
    Fingerprint {
        candidate: GenerationId,
        live: GenerationId,
        entry: String,
        found: String,
        expected: String,
    },
    /// Rows are not those of their texts.
    #[error("{} of {} sampled rows of generation `{generation}` are not those of their passages, the first of `{}`: they are up to {:.4} of their length away, {:.4} is allowed", report.n_differing, report.n_rows, report.first.as_deref().unwrap_or_default(), report.largest_distance, report.tolerance)]
    Rows {
        generation: GenerationId,
        report: Box<SampleReport>,
    },
    /// The rows cannot be compared.
    #[error("cannot compare the rows with their texts")]
    Sample(#[from] SampleError),
    /// A fingerprint cannot be read.
    #[error("fingerprint of generation `{generation}` cannot be read")]
    Unreadable {
        generation: GenerationId,
        source: serde_json::Error,
    },
    /// The queries or their judgments cannot be read.
    #[error("cannot read the queries of the gate")]
    Queries(#[from] CorpusError),
    /// Queries cannot be asked of vectors.
    #[error(
        "queries of a file need an encoder, and the vectors of generation `{generation}` were brought"
    )]
    NoEncoder { generation: GenerationId },
    /// There is nothing to ask.
    #[error("the gate has no question: {reason}")]
    NoQuestion { reason: &'static str },
    /// A query cannot be encoded.
    #[error("cannot encode the queries")]
    Encode(#[from] EncodeError),
    /// A template of a manifest cannot be read.
    #[error("cannot use the template")]
    Template(#[from] corpus::TemplateError),
    /// A generation cannot be opened.
    #[error("cannot open the vectors of generation `{generation}`")]
    Open {
        generation: GenerationId,
        source: index::OpenError,
    },
    /// A generation cannot be searched.
    #[error("cannot search generation `{generation}`")]
    Search {
        generation: GenerationId,
        source: index::SearchError,
    },
    /// Passages cannot be read.
    #[error("cannot read the passages of generation `{generation}`")]
    Store {
        generation: GenerationId,
        source: StoreError,
    },
    /// What was found cannot be measured.
    #[error("cannot measure what was found")]
    Evaluation(#[from] EvaluationError),
}

/// Questions shown when a candidate does not pass.
const N_WORST: usize = 5;
/// Hits shown of each.
const N_SHOWN: usize = 3;

/// Compares a candidate with what is live. A candidate alone is judged by what does not need another.
///
/// # Errors
/// [`GateError::Fingerprint`] and [`GateError::Rows`] refuse before anything is searched. What searches find is in the report.
pub fn gate(
    config: &GateConfig,
    candidate: Entry<'_>,
    live: Option<Entry<'_>>,
) -> Result<GateReport, GateError> {
    if is_empty(&candidate) {
        let reason = "the candidate has no passages";
        return Err(GateError::NoQuestion { reason });
    }
    // What has no passages is no measure for others.
    let live = live.filter(|live| !is_empty(live));
    if let (Some(live), FingerprintRule::Same) = (live, config.fingerprint) {
        same_fingerprint(candidate.generation, live.generation)?;
    }
    let rows = match candidate.encoder {
        Some(encoder) => {
            let generation = candidate.generation;
            let report = check_sample(generation, encoder, config.sample_rows, config.seed)?;
            if report.n_differing > 0 {
                return Err(GateError::Rows {
                    generation: generation.id.clone(),
                    report: Box::new(report),
                });
            }
            Some(report)
        }
        None => None,
    };
    let candidate = Contestant::open(candidate)?;
    let live = live.map(Contestant::open).transpose()?;
    let questions = Questions::collect(config, &candidate, live.as_ref())?;
    let asked = ask(config, &questions, &candidate, live.as_ref())?;
    let measures = measure(config, &questions, &asked, &candidate, live.as_ref())?;
    let passed = measures.iter().all(|measured| measured.violation.is_none());
    let worst = match (&live, passed) {
        (Some(live), false) => worst(config, &questions, &asked, &candidate, live)?,
        _ => Vec::new(),
    };
    Ok(GateReport {
        passed,
        candidate: candidate.generation.id.clone(),
        live: live.as_ref().map(|live| live.generation.id.clone()),
        questions: questions.kind,
        n_queries: questions.len(),
        k: config.k,
        rows,
        measures,
        worst,
        config: config.clone(),
    })
}

fn is_empty(entry: &Entry<'_>) -> bool {
    entry.generation.manifest.counts.passages == 0
}

fn same_fingerprint(candidate: &Generation, live: &Generation) -> Result<(), GateError> {
    let read = |generation: &Generation| {
        let fingerprint = generation.manifest.fingerprint.clone();
        serde_json::from_value::<Fingerprint>(fingerprint).map_err(|source| GateError::Unreadable {
            generation: generation.id.clone(),
            source,
        })
    };
    match read(candidate)?.first_difference(&read(live)?) {
        None => Ok(()),
        Some(difference) => Err(GateError::Fingerprint {
            candidate: candidate.id.clone(),
            live: live.id.clone(),
            entry: difference.entry,
            found: difference.left,
            expected: difference.right,
        }),
    }
}

/// What was found for each question.
struct Asked {
    candidate: Vec<Found>,
    live: Vec<Found>,
    /// Part of the nearest rows of each question that the candidate's own search found.
    recall: Vec<f64>,
    /// Part of live's hits that the candidate has, too; none where it has no passage of them.
    overlap: Vec<Option<f64>>,
}

/// Asks both in turn, so that what slows the machine down slows both.
fn ask(
    config: &GateConfig,
    questions: &Questions,
    candidate: &Contestant<'_>,
    live: Option<&Contestant<'_>>,
) -> Result<Asked, GateError> {
    let of_candidate = questions.vectors_for(candidate)?;
    let of_live = live.map(|live| questions.vectors_for(live)).transpose()?;
    let mut asked = Asked {
        candidate: Vec::new(),
        live: Vec::new(),
        recall: Vec::new(),
        overlap: Vec::new(),
    };
    for i in 0..questions.len() {
        let query = of_candidate.row(i);
        let exact: BTreeSet<u32> = candidate
            .ordinals(query, config.k, true)?
            .into_iter()
            .collect();
        let found = candidate.search(query, config.k)?;
        let n_found = found
            .ordinals
            .iter()
            .filter(|ordinal| exact.contains(ordinal))
            .count();
        asked
            .recall
            .push(n_found as f64 / exact.len().max(1) as f64);
        if let (Some(live), Some(vectors)) = (live, &of_live) {
            let of_live = live.search(vectors.row(i), config.k)?;
            asked.overlap.push(overlap(candidate, &found, &of_live)?);
            asked.live.push(of_live);
        }
        asked.candidate.push(found);
    }
    Ok(asked)
}

fn overlap(
    candidate: &Contestant<'_>,
    found: &Found,
    live: &Found,
) -> Result<Option<f64>, GateError> {
    let ids: BTreeSet<&str> = found.hits.iter().map(|(id, _)| id.as_str()).collect();
    let (mut n_known, mut n_common) = (0, 0);
    for (id, _) in &live.hits {
        n_known += usize::from(candidate.has(id)?);
        n_common += usize::from(ids.contains(id.as_str()));
    }
    Ok((n_known > 0).then(|| n_common as f64 / n_known as f64))
}

fn measure(
    config: &GateConfig,
    questions: &Questions,
    asked: &Asked,
    candidate: &Contestant<'_>,
    live: Option<&Contestant<'_>>,
) -> Result<Vec<Measured>, GateError> {
    let require = &config.require;
    let mut measures = Vec::new();
    let mut add = |name, limit: &Limit, candidate: f64, live: Option<f64>| {
        measures.push(Measured {
            name,
            candidate,
            live,
            violation: limit.violation(candidate, live),
        });
    };
    add("recall", &require.recall, mean(&asked.recall), None);
    if let Some(qrels) = &questions.qrels {
        let of_candidate = judge(config.k, qrels, questions, &asked.candidate)?;
        let of_live = match live {
            Some(_) => Some(judge(config.k, qrels, questions, &asked.live)?),
            None => None,
        };
        for (i, (name, limit)) in [("ndcg", &require.ndcg), ("mrr", &require.mrr)]
            .into_iter()
            .enumerate()
        {
            add(
                name,
                limit,
                of_candidate.mean[i],
                of_live.as_ref().map(|live| live.mean[i]),
            );
        }
    }
    if live.is_some() {
        let overlaps: Vec<f64> = asked.overlap.iter().flatten().copied().collect();
        if !overlaps.is_empty() {
            add("overlap", &require.overlap, mean(&overlaps), None);
        }
        let drifts = drifts(&asked.candidate, &asked.live);
        if !drifts.is_empty() {
            add("score_drift", &require.score_drift, mean(&drifts), None);
        }
    }
    let of = |of: &dyn Fn(&Contestant<'_>) -> f64| (of(candidate), live.map(of));
    let millis = |found: &[Found]| p95(found).as_secs_f64() * 1e3;
    let latency = (millis(&asked.candidate), live.map(|_| millis(&asked.live)));
    let bytes = of(&|side| {
        side.generation
            .manifest
            .files
            .iter()
            .map(|file| file.bytes as f64)
            .sum()
    });
    let passages = of(&|side| side.generation.manifest.counts.passages as f64);
    for (name, limit, (candidate, live)) in [
        ("latency_p95_ms", &require.latency_p95_ms, latency),
        ("bytes", &require.bytes, bytes),
        ("passages", &require.passages, passages),
    ] {
        add(name, limit, candidate, live);
    }
    Ok(measures)
}

/// nDCG@k and MRR@k, and both of each question.
fn judge(
    k: usize,
    qrels: &Qrels,
    questions: &Questions,
    found: &[Found],
) -> Result<evaluation::Report, GateError> {
    let mut run = Run::new("gate");
    for (id, found) in questions.ids().zip(found) {
        let scored = |(id, score): &(String, f32)| Scored {
            id: id.clone(),
            score: f64::from(*score),
        };
        let hits = match questions.judge_documents() {
            true => &found.documents,
            false => &found.hits,
        };
        run.insert(id, hits.iter().map(scored).collect());
    }
    let config = EvaluationConfig {
        measures: [MeasureKind::Ndcg, MeasureKind::ReciprocalRank]
            .map(|kind| Measure::at(kind, k))
            .to_vec(),
        ..EvaluationConfig::default()
    };
    Ok(evaluate(qrels, &run, &config)?)
}

/// How far the scores of the hits that both have are apart.
fn drifts(candidate: &[Found], live: &[Found]) -> Vec<f64> {
    let pairs = candidate.iter().zip(live);
    pairs
        .flat_map(|(candidate, live)| {
            candidate.hits.iter().filter_map(|(id, score)| {
                let (_, of_live) = live.hits.iter().find(|(of_live, _)| of_live == id)?;
                Some(f64::from(score - of_live).abs())
            })
        })
        .collect()
}

/// The questions that lost most: nDCG where there are judgments, else overlap.
fn worst(
    config: &GateConfig,
    questions: &Questions,
    asked: &Asked,
    candidate: &Contestant<'_>,
    live: &Contestant<'_>,
) -> Result<Vec<WorstQuestion>, GateError> {
    let ndcg = match &questions.qrels {
        Some(qrels) => Some((
            judge(config.k, qrels, questions, &asked.candidate)?,
            judge(config.k, qrels, questions, &asked.live)?,
        )),
        None => None,
    };
    let ids: Vec<&str> = questions.ids().collect();
    let ndcg_of = |i: usize| {
        let (candidate, live) = ndcg.as_ref()?;
        // A sum of nothing is −0.
        let of =
            |report: &evaluation::Report| Some(report.per_query.get(ids[i])?.values.first()? + 0.0);
        Some((of(candidate)?, of(live)?))
    };
    let overlap_of = |i: usize| asked.overlap[i].unwrap_or(1.0);
    let lost =
        |i: usize| ndcg_of(i).map_or(0.0, |(candidate, live)| live - candidate) - overlap_of(i);
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by(|&a, &b| lost(b).total_cmp(&lost(a)));
    order
        .into_iter()
        .take(N_WORST)
        .map(|i| {
            Ok(WorstQuestion {
                query: questions.shown(i).to_owned(),
                overlap: overlap_of(i),
                ndcg: ndcg_of(i),
                candidate: candidate.show(&asked.candidate[i], N_SHOWN)?,
                live: live.show(&asked.live[i], N_SHOWN)?,
            })
        })
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn p95(found: &[Found]) -> Duration {
    let mut times: Vec<Duration> = found.iter().map(|found| found.time).collect();
    times.sort_unstable();
    let position = (times.len() * 95).div_ceil(100).saturating_sub(1);
    times.get(position).copied().unwrap_or_default()
}
