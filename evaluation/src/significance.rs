use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Measure, Report};

/// Most queries with a difference for which every assignment of signs is tried instead of drawn.
const MAX_EXACT: usize = 16;

/// How two runs are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparisonConfig {
    /// Assignments of signs drawn for the randomisation test.
    pub n_permutations: usize,
    /// Samples drawn for the bootstrap interval.
    pub n_resamples: usize,
    /// Share of the samples inside the interval.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for ComparisonConfig {
    fn default() -> Self {
        Self {
            n_permutations: 100_000,
            n_resamples: 10_000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

/// The difference of two runs in one measure, second less first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Significance {
    /// The measure.
    pub measure: Measure,
    /// Queries that the means are over: those of both reports, less those that a run lacks where the reports leave them out.
    pub n_queries: usize,
    /// Mean of the first run over these queries.
    pub first: f64,
    /// Mean of the second run over these queries.
    pub second: f64,
    /// `second − first`
    pub difference: f64,
    /// Bootstrap interval of the difference.
    pub interval: (f64, f64),
    /// Two-sided probability of a difference this large if the runs were interchangeable on every query.
    pub p_value: f64,
    /// Whether `p_value` is over all assignments of signs, not over drawn ones.
    pub is_exact: bool,
    /// Queries where the second run is better.
    pub n_better: usize,
    /// Queries where it is worse.
    pub n_worse: usize,
    /// `second − first` of each query, by id.
    pub differences: Vec<(String, f64)>,
}

/// Why two reports cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// One of the reports lacks the measure.
    #[error("measure `{measure}` is not in both reports")]
    UnknownMeasure {
        /// The measure.
        measure: Measure,
    },
    /// The reports have no query in common.
    #[error("the runs have no judged query in common")]
    NoQueries,
    /// The share of the interval is not between 0 and 1.
    #[error("confidence is not between 0 and 1")]
    BadConfidence,
}

/// Compares two reports query by query, over the queries that their means of the measure are over ([`crate::Averaging`]).
///
/// The p-value is that of the paired randomisation test (Smucker, Allan & Carterette 2007, §3.3) on the mean difference:
/// of all assignments of signs if at most 16 queries differ, else `(1 + hits) / (1 + draws)`. The interval is the
/// percentile bootstrap (Efron & Tibshirani 1993, §13.3) of the mean difference. Equal seeds give equal results.
///
/// # Errors
/// [`CompareError`].
pub fn compare(
    first: &Report,
    second: &Report,
    measure: Measure,
    config: &ComparisonConfig,
) -> Result<Significance, CompareError> {
    if !(config.confidence > 0.0 && config.confidence < 1.0) {
        return Err(CompareError::BadConfidence);
    }
    let positions = first.position_of(measure).zip(second.position_of(measure));
    let (first_position, second_position) =
        positions.ok_or(CompareError::UnknownMeasure { measure })?;
    let is_complete = first.config.averaging.is_complete_for(measure);
    let mut differences = Vec::new();
    let (mut first_sum, mut second_sum) = (0.0, 0.0);
    for (id, query) in &first.per_query {
        let Some(other) = second.per_query.get(id) else {
            continue;
        };
        if !is_complete && (query.is_missing || other.is_missing) {
            continue;
        }
        let (a, b) = (query.values[first_position], other.values[second_position]);
        first_sum += a;
        second_sum += b;
        differences.push((id.clone(), b - a));
    }
    let n_queries = differences.len();
    if n_queries == 0 {
        return Err(CompareError::NoQueries);
    }
    let values: Vec<f64> = differences
        .iter()
        .map(|(_, difference)| *difference)
        .collect();
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    let (p_value, is_exact) = randomisation_test(&values, config.n_permutations, &mut rng);
    Ok(Significance {
        measure,
        n_queries,
        first: first_sum / n_queries as f64,
        second: second_sum / n_queries as f64,
        difference: values.iter().sum::<f64>() / n_queries as f64,
        interval: bootstrap_interval(&values, config, &mut rng),
        p_value,
        is_exact,
        n_better: values.iter().filter(|&&value| value > 0.0).count(),
        n_worse: values.iter().filter(|&&value| value < 0.0).count(),
        differences,
    })
}

/// The share of sign assignments under which the sum is at least as far from 0, and whether all were tried.
fn randomisation_test(
    differences: &[f64],
    n_permutations: usize,
    rng: &mut ChaCha8Rng,
) -> (f64, bool) {
    let values: Vec<f64> = differences
        .iter()
        .copied()
        .filter(|&value| value != 0.0)
        .collect();
    let total: f64 = values.iter().sum();
    // Sums of the same values in another order differ in their last bits and are still as far.
    let threshold = total.abs() - 1e-12 * values.iter().map(|value| value.abs()).sum::<f64>();
    // Turning the signs of a subset takes twice its sum from the total.
    let is_as_far = |words: &[u64]| {
        let turned: f64 = words
            .iter()
            .zip(values.chunks(64))
            .map(|(&word, chunk)| subset_sum(word, chunk))
            .sum();
        (total - 2.0 * turned).abs() >= threshold
    };
    if values.len() <= MAX_EXACT {
        let n_assignments = 1u64 << values.len();
        let n_as_far = (0..n_assignments)
            .filter(|&word| is_as_far(&[word]))
            .count();
        return (n_as_far as f64 / n_assignments as f64, true);
    }
    let mut words = vec![0; values.len().div_ceil(64)];
    let n_as_far = (0..n_permutations)
        .filter(|_| {
            words.iter_mut().for_each(|word| *word = rng.next_u64());
            is_as_far(&words)
        })
        .count();
    ((n_as_far + 1) as f64 / (n_permutations + 1) as f64, false)
}

/// Sum of the values whose bit is set; bits past the values do not count.
fn subset_sum(mut word: u64, values: &[f64]) -> f64 {
    if values.len() < 64 {
        word &= (1 << values.len()) - 1;
    }
    let mut sum = 0.0;
    while word != 0 {
        sum += values[word.trailing_zeros() as usize];
        word &= word - 1;
    }
    sum
}

/// The middle share of the means of samples drawn with replacement.
fn bootstrap_interval(
    differences: &[f64],
    config: &ComparisonConfig,
    rng: &mut ChaCha8Rng,
) -> (f64, f64) {
    let n = differences.len();
    let mut means: Vec<f64> = (0..config.n_resamples.max(1))
        .map(|_| {
            (0..n)
                .map(|_| differences[rng.random_range(0..n)])
                .sum::<f64>()
                / n as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let quantile = |share: f64| means[(share * (means.len() - 1) as f64).round() as usize];
    let tail = (1.0 - config.confidence) / 2.0;
    (quantile(tail), quantile(1.0 - tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Averaging, EvaluationConfig, evaluate};
    use corpus::{Qrels, Run, Scored};

    fn test(differences: &[f64], n_permutations: usize) -> (f64, bool) {
        randomisation_test(
            differences,
            n_permutations,
            &mut ChaCha8Rng::seed_from_u64(7),
        )
    }

    #[test]
    fn few_queries_are_tested_exactly() {
        // Of 2³ assignments only + + + and − − − are as far as 0.6.
        assert_eq!(test(&[0.1, 0.2, 0.3], 10), (0.25, true));
        // 0.1 + 0.2 − 0.3: every assignment is at least as far as 0.
        assert_eq!(test(&[0.1, 0.2, -0.3, 0.0], 10), (1.0, true));
        assert_eq!(test(&[0.0; 100], 10), (1.0, true));
        // All 16 the same way: 2 of 2¹⁶.
        assert_eq!(test(&[1.0; 16], 10), (2.0 / 65536.0, true));
    }

    #[test]
    fn drawn_assignments_agree_with_all_of_them() {
        // 17 ones with 4 turned: at least 13 of 17 fair coins alike, 2·Σ_{i≤4} C(17, i) / 2¹⁷ = 0.049042.
        let mut differences = vec![1.0; 17];
        differences[..4].fill(-1.0);
        let (p_value, is_exact) = test(&differences, 100_000);
        assert!(
            !is_exact && (p_value - 0.049_042).abs() < 0.003,
            "{p_value}"
        );
        // The same over several words of signs: a sum of 300 signs has standard deviation √300, so 60 is 3.46 of them.
        let mut differences = vec![0.5; 300];
        differences[..120].fill(-0.5);
        let (p_value, _) = test(&differences, 100_000);
        assert!((p_value - 0.000_63).abs() < 0.000_4, "{p_value}");
        assert_eq!(test(&differences, 1000), test(&differences, 1000));
    }

    #[test]
    fn the_interval_is_that_of_the_normal_distribution_for_many_queries() {
        // Half 0, half 1 over 400 queries: the mean's standard deviation is 0.5 / 20.
        let differences: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let interval = bootstrap_interval(
            &differences,
            &ComparisonConfig::default(),
            &mut ChaCha8Rng::seed_from_u64(7),
        );
        assert!(
            (interval.0 - (0.5 - 1.96 * 0.025)).abs() < 0.004,
            "{interval:?}"
        );
        assert!(
            (interval.1 - (0.5 + 1.96 * 0.025)).abs() < 0.004,
            "{interval:?}"
        );
    }

    #[test]
    fn runs_are_compared_query_by_query() {
        let (mut qrels, mut first, mut second) = (Qrels::default(), Run::new("a"), Run::new("b"));
        let scored = |id: &str, score| Scored {
            id: id.into(),
            score,
        };
        for query in ["q1", "q2", "q3"] {
            qrels.insert(query, "d", 1);
            first.insert(query, vec![scored("x", 2.0), scored("d", 1.0)]);
        }
        second.insert("q1", vec![scored("d", 1.0)]);
        second.insert("q2", vec![scored("x", 1.0)]);
        let config = EvaluationConfig {
            measures: Measure::parse_list("mrr@10").unwrap(),
            ..Default::default()
        };
        let (first, second) = (
            evaluate(&qrels, &first, &config).unwrap(),
            evaluate(&qrels, &second, &config).unwrap(),
        );
        let measure = config.measures[0];
        let found = compare(&first, &second, measure, &ComparisonConfig::default()).unwrap();
        let expected = [("q1", 0.5), ("q2", -0.5), ("q3", -0.5)]
            .map(|(id, difference)| (id.to_owned(), difference));
        assert_eq!(found.differences, expected);
        assert_eq!(
            (found.n_queries, found.n_better, found.n_worse, found.first),
            (3, 1, 2, 0.5)
        );
        assert!(
            (found.second - 1.0 / 3.0).abs() < 1e-15
                && (found.difference + 1.0 / 6.0).abs() < 1e-15
        );
        assert_eq!(found.p_value, 1.0);
        assert!(found.interval.0 <= found.difference && found.difference <= found.interval.1);
        assert_eq!(
            compare(&first, &second, measure, &ComparisonConfig::default()).unwrap(),
            found
        );
        let other = "ndcg@10".parse().unwrap();
        assert_eq!(
            compare(&first, &second, other, &ComparisonConfig::default()),
            Err(CompareError::UnknownMeasure { measure: other })
        );
        let no_queries = evaluate(&Qrels::default(), &Run::new("c"), &config).unwrap();
        assert_eq!(
            compare(&first, &no_queries, measure, &ComparisonConfig::default()),
            Err(CompareError::NoQueries)
        );
    }

    #[test]
    fn a_run_beside_itself_has_the_means_of_its_report() {
        let (mut qrels, mut run, mut other) =
            (Qrels::default(), Run::new("half"), Run::new("other half"));
        for query in ["q1", "q2", "q3", "q4"] {
            qrels.insert(query, "d", 1);
            let hit = |score| Scored {
                id: "d".into(),
                score,
            };
            match query {
                "q1" | "q2" => run.insert(query, vec![hit(1.0)]),
                _ => other.insert(query, vec![hit(1.0)]),
            };
        }
        for (averaging, expected) in [
            (Averaging::Complete, [0.5, 0.5]),
            (Averaging::Intersection, [1.0, 1.0]),
            (Averaging::Mixed, [1.0, 0.5]),
        ] {
            let config = EvaluationConfig {
                measures: vec!["ndcg@10".parse().unwrap(), "mrr@10".parse().unwrap()],
                averaging,
                ..Default::default()
            };
            let report = evaluate(&qrels, &run, &config).unwrap();
            let against = evaluate(&qrels, &other, &config).unwrap();
            assert_eq!(report.mean, expected);
            for (position, &measure) in config.measures.iter().enumerate() {
                let settings = ComparisonConfig::default();
                let found = compare(&report, &report, measure, &settings).unwrap();
                assert_eq!(found.first, expected[position], "{averaging:?} {measure}");
                assert_eq!(found.n_queries as f64, 2.0 / expected[position]);
                let apart = compare(&report, &against, measure, &settings);
                match expected[position] == 1.0 {
                    true => assert_eq!(apart, Err(CompareError::NoQueries)),
                    false => assert_eq!(apart.unwrap().n_queries, 4),
                }
            }
        }
    }
}
