use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// How the rankings of two sources become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fusion {
    /// What a passage gains from its place in a source.
    pub method: FusionMethod,
    /// How much each source counts.
    pub weights: Weights,
}

/// What a passage gains from its place in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FusionMethod {
    /// Its rank counts, its score does not: Cormack, Clarke and Büttcher 2009 (SIGIR), weighted.
    ///
    /// `score(d) = Σ over sources of w / (k + rank(d))`, ranks from 1.
    ReciprocalRank {
        /// The constant of the fusion; 60 in the paper.
        k: u32,
    },
    /// Its score counts, between the worst and the best of the candidates that the source brought.
    ///
    /// `score(d) = Σ over sources of w · (s(d) − min) / (max − min) / Σ w`, between 0 and 1. Where all candidates of a source
    /// have one score, a single candidate included, each of them has the full 1 there.
    Weighted,
}

impl Default for FusionMethod {
    fn default() -> Self {
        Self::ReciprocalRank { k: 60 }
    }
}

/// How much each source counts. Only the ratio matters to the order.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// The ranking by vectors.
    pub dense: f32,
    /// The ranking by words.
    pub bm25: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            dense: 1.0,
            bm25: 1.0,
        }
    }
}

impl Weights {
    /// Whether both are finite and not below zero, and one is above.
    #[must_use]
    pub fn are_valid(self) -> bool {
        let both = [self.dense, self.bm25];
        both.iter().all(|w| w.is_finite() && *w >= 0.0) && both.iter().any(|w| *w > 0.0)
    }
}

/// One passage of a fused list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fused {
    /// The passage.
    pub ordinal: u32,
    /// Its fused score.
    pub score: f32,
}

impl Fusion {
    /// Fuses two rankings, given as ordinals and scores, best first.
    ///
    /// A source that lacks a passage adds nothing to it. A source of weight 0 adds nothing either, but its passages are in the
    /// list, for a reranker to read.
    ///
    /// Equal scores are ordered by the rank by vectors (passages without one come last), then by words, then by ordinal.
    #[must_use]
    pub fn fuse(&self, dense: &[(u32, f32)], bm25: &[(u32, f32)]) -> Vec<Fused> {
        const ABSENT: usize = usize::MAX;
        let weights = [self.weights.dense, self.weights.bm25].map(f64::from);
        let mut passages: HashMap<u32, ([usize; 2], f64)> = HashMap::new();
        for (source, list) in [dense, bm25].into_iter().enumerate() {
            let gain = self.gain(list, weights);
            for (position, &(ordinal, score)) in list.iter().enumerate() {
                let (ranks, sum) = passages.entry(ordinal).or_insert(([ABSENT; 2], 0.0));
                if ranks[source] == ABSENT {
                    ranks[source] = position + 1;
                    *sum += weights[source] * gain(position + 1, score);
                }
            }
        }
        let mut fused: Vec<(f64, [usize; 2], u32)> = passages
            .into_iter()
            .map(|(ordinal, (ranks, score))| (score, ranks, ordinal))
            .collect();
        fused.sort_by(|a, b| {
            b.0.total_cmp(&a.0)
                .then_with(|| a.1.cmp(&b.1))
                .then(a.2.cmp(&b.2))
        });
        fused
            .into_iter()
            .map(|(score, _, ordinal)| Fused {
                ordinal,
                score: score as f32,
            })
            .collect()
    }

    /// What a rank and a score of this list are worth, before its weight.
    fn gain(&self, list: &[(u32, f32)], weights: [f64; 2]) -> impl Fn(usize, f32) -> f64 + use<> {
        let scores = list.iter().map(|&(_, score)| f64::from(score));
        let min = scores.clone().fold(f64::INFINITY, f64::min);
        let max = scores.fold(f64::NEG_INFINITY, f64::max);
        let (method, sum) = (self.method, weights[0] + weights[1]);
        move |rank, score| match method {
            FusionMethod::ReciprocalRank { k } => 1.0 / (f64::from(k) + rank as f64),
            FusionMethod::Weighted if max > min => (f64::from(score) - min) / (max - min) / sum,
            FusionMethod::Weighted => 1.0 / sum,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANKS: FusionMethod = FusionMethod::ReciprocalRank { k: 60 };

    fn check(
        method: FusionMethod,
        weights: (f32, f32),
        dense: &[(u32, f32)],
        bm25: &[(u32, f32)],
        expected: &[(u32, f64)],
    ) {
        let (dense_weight, bm25_weight) = weights;
        let weights = Weights {
            dense: dense_weight,
            bm25: bm25_weight,
        };
        let fused = Fusion { method, weights }.fuse(dense, bm25);
        let expected: Vec<Fused> = expected
            .iter()
            .map(|&(ordinal, score)| Fused {
                ordinal,
                score: score as f32,
            })
            .collect();
        assert_eq!(fused, expected);
    }

    /// A list whose scores do not matter.
    fn ranked(ordinals: &[u32]) -> Vec<(u32, f32)> {
        ordinals.iter().map(|&ordinal| (ordinal, 0.5)).collect()
    }

    fn check_ranks(dense: &[u32], bm25: &[u32], expected: &[(u32, f64)]) {
        check(RANKS, (1.0, 1.0), &ranked(dense), &ranked(bm25), expected);
    }

    #[test]
    fn a_passage_of_both_lists_beats_the_tops_of_one() {
        let expected = [
            (2, 2.0 / 62.0),
            (1, 1.0 / 61.0),
            (4, 1.0 / 61.0),
            (3, 1.0 / 63.0),
        ];
        check_ranks(&[1, 2, 3], &[4, 2], &expected);
    }

    #[test]
    fn ties_go_to_the_first_list_then_to_the_smaller_ordinal() {
        check_ranks(&[9], &[3], &[(9, 1.0 / 61.0), (3, 1.0 / 61.0)]);
        let both = 1.0 / 61.0 + 1.0 / 62.0;
        check_ranks(&[5, 1], &[1, 5], &[(5, both), (1, both)]);
        check_ranks(&[], &[], &[]);
        check_ranks(&[], &[7], &[(7, 1.0 / 61.0)]);
    }

    #[test]
    fn a_weight_scales_what_a_source_adds() {
        let (dense, bm25) = (ranked(&[1, 2]), ranked(&[2, 3]));
        let expected = [
            (2, 0.5 / 62.0 + 2.0 / 61.0),
            (3, 2.0 / 62.0),
            (1, 0.5 / 61.0),
        ];
        check(RANKS, (0.5, 2.0), &dense, &bm25, &expected);
        let expected = [(1, 1.0 / 61.0), (2, 1.0 / 62.0), (3, 0.0)];
        check(RANKS, (1.0, 0.0), &dense, &bm25, &expected);
    }

    #[test]
    fn scores_count_between_the_worst_and_the_best_of_their_source() {
        let dense = [(1, 0.9), (2, 0.8), (3, 0.5)];
        let bm25 = [(3, 12.0), (4, 7.0), (2, 2.0)];
        let middle = f64::from(0.8f32) - 0.5;
        let expected = [
            (1, 0.75),
            (2, 0.75 * middle / (f64::from(0.9f32) - 0.5)),
            (3, 0.25),
            (4, 0.125),
        ];
        check(FusionMethod::Weighted, (3.0, 1.0), &dense, &bm25, &expected);
    }

    #[test]
    fn candidates_of_one_score_have_all_of_it() {
        let method = FusionMethod::Weighted;
        let expected = [(5, 0.75), (6, 0.25)];
        check(method, (3.0, 1.0), &[(5, -2.0)], &[(6, 9.0)], &expected);
        let tied = [(8, 0.5), (2, 0.5)];
        check(method, (1.0, 1.0), &tied, &[], &[(8, 0.5), (2, 0.5)]);
        check(
            method,
            (1.0, 1.0),
            &tied,
            &[(2, 1.0)],
            &[(2, 1.0), (8, 0.5)],
        );
    }

    #[test]
    fn weights_are_finite_and_not_below_zero() {
        let valid = |dense, bm25| Weights { dense, bm25 }.are_valid();
        assert!(valid(1.0, 0.0) && valid(0.0, 0.1) && valid(7.0, 7.0));
        for (dense, bm25) in [
            (0.0, 0.0),
            (-1.0, 2.0),
            (f32::NAN, 1.0),
            (1.0, f32::INFINITY),
        ] {
            assert!(!valid(dense, bm25));
        }
    }
}
