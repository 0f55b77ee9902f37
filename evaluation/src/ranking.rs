use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use corpus::Scored;

use crate::report::EvaluationError;
use crate::{EvaluationConfig, Measure, MeasureKind, ScorePrecision, Ties};

/// One query's retrieved passages in order, and its judgments.
pub(crate) struct Ranking<'a> {
    /// Ids, best first.
    pub(crate) passages: Vec<&'a str>,
    /// The grade at each rank, if judged.
    grades: Vec<Option<i32>>,
    judgments: &'a BTreeMap<String, i32>,
    /// Positive grades of all judged passages, descending.
    ideal: Vec<i32>,
}

impl<'a> Ranking<'a> {
    pub(crate) fn new(
        query: &str,
        scored: &'a [Scored],
        judgments: &'a BTreeMap<String, i32>,
        config: &EvaluationConfig,
    ) -> Result<Self, EvaluationError> {
        let mut passages = order(query, scored, config)?;
        let grade = |id: &str| judgments.get(id).copied();
        if config.judged_only {
            passages.retain(|id| grade(id).is_some_and(is_judged));
        }
        let grades = passages.iter().map(|id| grade(id)).collect();
        let mut ideal: Vec<i32> = judgments
            .values()
            .copied()
            .filter(|&grade| grade > 0)
            .collect();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self {
            passages,
            grades,
            judgments,
            ideal,
        })
    }

    /// Returns the value of a measure; `judged_anywhere` has the ids that are judged for some query.
    pub(crate) fn measure(
        &self,
        measure: Measure,
        level: i32,
        judged_anywhere: &HashSet<&str>,
    ) -> f64 {
        let level = measure.relevance_level.unwrap_or(level);
        let n_retrieved = self.grades.len();
        let cutoff = measure.cutoff.unwrap_or(usize::MAX);
        let depth = cutoff.min(n_retrieved);
        let is_relevant = |grade: &Option<i32>| grade.is_some_and(|grade| grade >= level);
        let n_relevant = self
            .judgments
            .values()
            .filter(|&&grade| grade >= level)
            .count(); // R
        let n_hits = |depth: usize| {
            self.grades[..depth]
                .iter()
                .filter(|grade| is_relevant(grade))
                .count()
        };
        match measure.kind {
            MeasureKind::Dcg => self.discounted_gain(depth, f64::from),
            MeasureKind::Ndcg => self.normalized_gain(depth, cutoff, f64::from),
            MeasureKind::NdcgExp => {
                // Both sums over 2^(highest grade), a power of two that changes no digit: 2^1024 is beyond f64.
                let highest = f64::from(self.ideal.first().copied().unwrap_or_default());
                self.normalized_gain(depth, cutoff, |grade| {
                    (f64::from(grade) - highest).exp2() - (-highest).exp2()
                })
            }
            MeasureKind::NdcgBin => {
                let ones = |n: usize| (1..=n).map(discount).sum();
                let gains = self.grades[..depth].iter().zip(1..);
                let gain = gains
                    .filter(|(grade, _)| is_relevant(grade))
                    .map(|(_, rank)| discount(rank))
                    .sum();
                ratio(gain, ones(n_relevant.min(cutoff)))
            }
            MeasureKind::ReciprocalRank => self.grades[..depth]
                .iter()
                .position(is_relevant)
                .map_or(0.0, |i| 1.0 / (i + 1) as f64),
            MeasureKind::AveragePrecision => {
                ratio(self.precision_sum(depth, level), n_relevant as f64)
            }
            MeasureKind::AveragePrecisionCapped => ratio(
                self.precision_sum(depth, level),
                n_relevant.min(cutoff) as f64,
            ),
            MeasureKind::Precision => ratio(n_hits(depth) as f64, cutoff as f64),
            MeasureKind::Recall => ratio(n_hits(depth) as f64, n_relevant as f64),
            MeasureKind::RecallCapped => ratio(n_hits(depth) as f64, n_relevant.min(cutoff) as f64),
            MeasureKind::RPrecision => ratio(
                n_hits(n_relevant.min(n_retrieved)) as f64,
                n_relevant as f64,
            ),
            MeasureKind::Success => f64::from(u8::from(n_hits(depth) > 0)),
            MeasureKind::Bpref => self.bpref(level, n_relevant),
            MeasureKind::Hole => {
                let n_holes = self.passages[..depth]
                    .iter()
                    .filter(|id| !judged_anywhere.contains(*id))
                    .count();
                ratio(n_holes as f64, cutoff as f64)
            }
            MeasureKind::Unjudged => ratio((depth - self.n_judged(depth)) as f64, cutoff as f64),
            MeasureKind::Judged => ratio(self.n_judged(depth) as f64, depth as f64),
            MeasureKind::NumRetrieved => n_retrieved as f64,
            MeasureKind::NumRelevant => n_relevant as f64,
            MeasureKind::NumRelevantRetrieved => n_hits(n_retrieved) as f64,
            MeasureKind::Answer => unreachable!("`evaluate` refuses measures of text"),
        }
    }

    fn n_judged(&self, depth: usize) -> usize {
        self.grades[..depth]
            .iter()
            .filter(|grade| grade.is_some_and(is_judged))
            .count()
    }

    /// `Σ_{i≤depth} gain(relᵢ) / log2(i + 1)` over positive grades.
    fn discounted_gain(&self, depth: usize, gain: impl Fn(i32) -> f64) -> f64 {
        let grades = self.grades[..depth].iter().zip(1..);
        grades
            .filter_map(|(grade, rank)| {
                grade
                    .filter(|&grade| grade > 0)
                    .map(|grade| gain(grade) * discount(rank))
            })
            .sum()
    }

    /// DCG over the DCG of the best order of all judged passages, which may be longer than the ranking.
    fn normalized_gain(
        &self,
        depth: usize,
        cutoff: usize,
        gain: impl Fn(i32) -> f64 + Copy,
    ) -> f64 {
        let ideal = self
            .ideal
            .iter()
            .take(cutoff)
            .zip(1..)
            .map(|(&grade, rank)| gain(grade) * discount(rank))
            .sum();
        ratio(self.discounted_gain(depth, gain), ideal)
    }

    /// `Σ_{i≤depth} [i is relevant]·P@i`
    fn precision_sum(&self, depth: usize, level: i32) -> f64 {
        let (mut n_hits, mut sum) = (0, 0.0);
        for (grade, rank) in self.grades[..depth].iter().zip(1..) {
            if grade.is_some_and(|grade| grade >= level) {
                n_hits += 1;
                sum += f64::from(n_hits) / f64::from(rank);
            }
        }
        sum
    }

    /// `1/R Σ_r 1 − min(n_r, R) / min(N, R)` over retrieved relevant passages r, with n_r judged non-relevant ones before
    /// r and N of them in all.
    fn bpref(&self, level: i32, n_relevant: usize) -> f64 {
        let n_nonrelevant = self
            .judgments
            .values()
            .filter(|&&grade| is_judged(grade) && grade < level)
            .count();
        let (mut n_before, mut sum) = (0, 0.0);
        for grade in self
            .grades
            .iter()
            .flatten()
            .filter(|&&grade| is_judged(grade))
        {
            if *grade < level {
                n_before += 1;
            } else {
                sum += 1.0
                    - ratio(
                        n_before.min(n_relevant) as f64,
                        n_nonrelevant.min(n_relevant) as f64,
                    );
            }
        }
        ratio(sum, n_relevant as f64)
    }
}

/// Returns the ids of a query's passages, best first.
pub(crate) fn order<'a>(
    query: &str,
    scored: &'a [Scored],
    config: &EvaluationConfig,
) -> Result<Vec<&'a str>, EvaluationError> {
    let mut ranked: Vec<(f64, &str)> = Vec::with_capacity(scored.len());
    for Scored { id, score } in scored {
        if score.is_nan() {
            return Err(EvaluationError::NotANumber {
                query: query.to_owned(),
                passage: id.clone(),
            });
        }
        let score = match config.score_precision {
            ScorePrecision::F32 => f64::from(*score as f32),
            ScorePrecision::F64 => *score,
        };
        if !(config.ignore_identical_ids && id == query) {
            ranked.push((score, id));
        }
    }
    // Without NaN, a partial order is a total one in which −0 equals 0.
    ranked.sort_by(|a, b| {
        let by_score = b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal);
        by_score.then_with(|| match config.ties {
            Ties::Trec => b.1.cmp(a.1),
            Ties::File => Ordering::Equal,
            Ties::DocidAsc => a.1.cmp(b.1),
        })
    });
    let mut seen = HashSet::with_capacity(ranked.len());
    match ranked.iter().find(|(_, id)| !seen.insert(*id)) {
        Some((_, id)) => Err(EvaluationError::RepeatedPassage {
            query: query.to_owned(),
            passage: (*id).to_owned(),
        }),
        None => Ok(ranked.into_iter().map(|(_, id)| id).collect()),
    }
}

/// A negative grade says that a passage was in the pool and not judged.
fn is_judged(grade: i32) -> bool {
    grade >= 0
}

/// `1 / log2(rank + 1)`
fn discount(rank: usize) -> f64 {
    1.0 / ((rank + 1) as f64).log2()
}

/// A quotient that is 0 where there is nothing to divide by.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 {
        numerator / denominator
    } else {
        0.0
    }
}
