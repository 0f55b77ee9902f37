use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use corpus::{Qrels, Run};
use serde_json::{Map, Value, json};

use crate::ranking::Ranking;
use crate::{Averaging, EvaluationConfig, Measure, MeasureKind};

/// The measures of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What was measured and how.
    pub config: EvaluationConfig,
    /// Every query of the mean, by id.
    pub per_query: BTreeMap<String, QueryReport>,
    /// The mean of each measure of `config`, in its order; the sum where a measure counts.
    pub mean: Vec<f64>,
    /// Judged queries, or those with answers.
    pub n_queries: usize,
    /// Those of them that the run does not have.
    pub n_missing: usize,
    /// Queries of the run without judgments, which nothing here is about.
    pub n_ignored: usize,
}

/// The measures of one query.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryReport {
    /// Whether the run does not have the query; its values are those of an empty ranking then.
    pub is_missing: bool,
    /// One value for each measure of the report.
    pub values: Vec<f64>,
}

/// Why a run could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// A score has no place in an order.
    #[error("score of passage `{passage}` for query `{query}` is not a number")]
    NotANumber {
        /// The query.
        query: String,
        /// The passage.
        passage: String,
    },
    /// A passage is ranked twice.
    #[error("passage `{passage}` repeats in the ranking of query `{query}`")]
    RepeatedPassage {
        /// The query.
        query: String,
        /// The passage.
        passage: String,
    },
    /// A measure that needs the texts of passages, and only those of judgments are here, or the reverse.
    #[error("measure `{measure}` is not computed from {what}")]
    WrongMeasure {
        /// The measure.
        measure: Measure,
        /// What there is.
        what: &'static str,
    },
    /// An answer that has no text.
    #[error("answer `{found}` to query `{query}` is neither text nor a number")]
    NotAnAnswer {
        /// The query.
        query: String,
        /// The answer, as JSON.
        found: String,
    },
    /// A ranked passage has no text to look for answers in.
    #[error("passage `{passage}` of query `{query}` has no text")]
    UnknownPassage {
        /// The query.
        query: String,
        /// The passage.
        passage: String,
    },
}

/// Measures a run against judgments.
///
/// # Errors
/// [`EvaluationError::NotANumber`] and [`EvaluationError::RepeatedPassage`], which no run that was read has;
/// [`EvaluationError::WrongMeasure`] for `answer`.
pub fn evaluate(
    qrels: &Qrels,
    run: &Run,
    config: &EvaluationConfig,
) -> Result<Report, EvaluationError> {
    if let Some(&measure) = config
        .measures
        .iter()
        .find(|measure| measure.kind == MeasureKind::Answer)
    {
        return Err(EvaluationError::WrongMeasure {
            measure,
            what: "judgments",
        });
    }
    let mut judged_anywhere: HashSet<&str> = HashSet::new();
    if config
        .measures
        .iter()
        .any(|measure| measure.kind == MeasureKind::Hole)
    {
        judged_anywhere.extend(
            qrels
                .queries()
                .flat_map(|(_, passages)| passages.keys().map(String::as_str)),
        );
    }
    let mut per_query = BTreeMap::new();
    for (query, judgments) in qrels.queries() {
        let scored = run.get(query);
        let ranking = Ranking::new(query, scored.unwrap_or_default(), judgments, config)?;
        let measure = |&measure| ranking.measure(measure, config.relevance_level, &judged_anywhere);
        let measured = QueryReport {
            is_missing: scored.is_none(),
            values: config.measures.iter().map(measure).collect(),
        };
        per_query.insert(query.to_owned(), measured);
    }
    let n_ignored = run
        .queries()
        .filter(|(query, _)| qrels.get(query).is_none())
        .count();
    Ok(Report::new(config.clone(), per_query, n_ignored))
}

impl Report {
    /// Averages the values of queries, which are all that the run should have.
    pub(crate) fn new(
        config: EvaluationConfig,
        mut per_query: BTreeMap<String, QueryReport>,
        n_ignored: usize,
    ) -> Self {
        let n_queries = per_query.len();
        let is_missing = |query: &&QueryReport| query.is_missing;
        let n_missing = per_query.values().filter(is_missing).count();
        if config.averaging == Averaging::Intersection {
            per_query.retain(|_, query| !query.is_missing);
        }
        let mean = |(position, &measure): (usize, &Measure)| {
            let is_complete = config.averaging.is_complete_for(measure);
            let averaged = per_query
                .values()
                .filter(|query: &&QueryReport| is_complete || !query.is_missing);
            let (n, sum) = averaged.fold((0, 0.0), |(n, sum), query| {
                (n + 1, sum + query.values[position])
            });
            if measure.is_count() || n == 0 {
                sum
            } else {
                sum / f64::from(n)
            }
        };
        let mean = config.measures.iter().enumerate().map(mean).collect();
        Self {
            mean,
            per_query,
            n_queries,
            n_missing,
            n_ignored,
            config,
        }
    }

    /// The mean of a measure, if it was measured.
    pub fn mean_of(&self, measure: Measure) -> Option<f64> {
        self.position_of(measure)
            .map(|position| self.mean[position])
    }

    pub(crate) fn position_of(&self, measure: Measure) -> Option<usize> {
        self.config
            .measures
            .iter()
            .position(|&known| known == measure)
    }

    /// The report as JSON: counts and conventions, `metrics`, and `per_query` if asked for.
    pub fn to_json(&self, with_queries: bool) -> Value {
        let named = |values: &[f64]| -> Map<String, Value> {
            self.config
                .measures
                .iter()
                .zip(values)
                .map(|(measure, &value)| (measure.to_string(), json!(value)))
                .collect()
        };
        let mut report = json!({
            "num_q": self.n_queries,
            "num_q_missing": self.n_missing,
            "num_q_ignored": self.n_ignored,
            "relevance_level": self.config.relevance_level,
            "tie": self.config.ties,
            "score_precision": self.config.score_precision,
            "averaging": self.config.averaging,
            "ignore_identical_ids": self.config.ignore_identical_ids,
            "judged_only": self.config.judged_only,
            "metrics": named(&self.mean),
        });
        if with_queries {
            let queries = self
                .per_query
                .iter()
                .map(|(id, query)| (id.clone(), Value::Object(named(&query.values))));
            report["per_query"] = Value::Object(queries.collect());
        }
        report
    }

    /// The report as `trec_eval` prints it: measure, query or `all`, value, separated by tabs, one value a line.
    pub fn to_text(&self, with_queries: bool) -> String {
        let mut text = String::new();
        let mut push = |name: &str, query: &str, value: String| {
            writeln!(text, "{name:<22}\t{query}\t{value}")
                .expect("writing to memory does not fail");
        };
        let shown = |measure: &Measure, value: f64| {
            if measure.is_count() {
                format!("{value}")
            } else {
                format!("{value:.4}")
            }
        };
        if with_queries {
            for (id, query) in &self.per_query {
                for (measure, &value) in self.config.measures.iter().zip(&query.values) {
                    push(&measure.to_string(), id, shown(measure, value));
                }
            }
        }
        push("num_q", "all", self.n_queries.to_string());
        push("num_q_missing", "all", self.n_missing.to_string());
        for (measure, &value) in self.config.measures.iter().zip(&self.mean) {
            push(&measure.to_string(), "all", shown(measure, value));
        }
        text
    }
}
