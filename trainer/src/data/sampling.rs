use rand::RngExt;
use rand::seq::SliceRandom;
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use super::DataError;
use super::random::{Purpose, random};

/// Passages of a group at most: far more than any encoder takes at once, and few enough to be held.
const MOST_PASSAGES: usize = 65_536;

/// How the group of a query is drawn from its passages: one positive and N − 1 negatives.
///
/// A draw depends on the seed, the epoch and the number of the example in its data set alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Whose rule it is.
    #[serde(default)]
    pub rule: SamplingRule,
    /// N, passages of a group.
    pub n_passages: usize,
    /// Seed of the draws.
    #[serde(default)]
    pub seed: u64,
    /// Always takes the first positive.
    #[serde(default)]
    pub first_positive: bool,
    /// Always takes the first negatives.
    #[serde(default)]
    pub first_negatives: bool,
    /// Only so many of the first negatives are drawn from; none: all. RetroMAE's `sample_neg_from_topk`.
    #[serde(default)]
    pub pool: Option<usize>,
}

/// Rules of the toolkits. An epoch is e, the seed σ, the number of the example i, and k = N − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingRule {
    /// OpenMatch and Tevatron: positive `(i + σ + e) mod len`; the negatives, permuted once by a seed of `i + σ`, are a
    /// ring from which epoch e takes k from `e·k` on. Of fewer than k, k draws with replacement.
    #[default]
    Openmatch,
    /// SimLM: positive `(e + σ) mod len`; k negatives in file order from `(e + σ)·k` on, as a ring.
    Simlm,
    /// RetroMAE: both uniformly, negatives without replacement; what is missing are random passages of the data set.
    Retromae,
    /// FlagEmbedding: both uniformly, negatives without replacement from their list, repeated until it has k.
    FlagEmbedding,
    /// The first positive and the first k negatives, as a ring: the same in each epoch, for evaluation.
    First,
}

/// Which passages of an example make a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Number of the positive.
    pub positive: usize,
    /// Numbers of the negatives. Fewer than N − 1 when the example has none, or too few under RetroMAE's rule: random
    /// passages of the data set, none of them a positive, make up for the rest.
    pub negatives: Vec<usize>,
}

impl Sampling {
    /// Draws groups of `n_passages` by OpenMatch's rule.
    pub fn new(n_passages: usize) -> Self {
        Self {
            rule: SamplingRule::default(),
            n_passages,
            seed: 0,
            first_positive: false,
            first_negatives: false,
            pool: None,
        }
    }

    /// Negatives of a group.
    pub fn n_negatives(&self) -> usize {
        self.n_passages.saturating_sub(1)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`DataError::Setting`].
    pub fn check(&self) -> Result<(), DataError> {
        // By the names that configurations give them.
        let wrong = |name, value: usize, expected| DataError::Setting {
            name,
            value: value.to_string(),
            expected,
        };
        match (self.n_passages, self.pool) {
            (n, _) if !(1..=MOST_PASSAGES).contains(&n) => {
                let expected = "it is at least 1 and at most 65536";
                Err(wrong("group_size", n, expected))
            }
            (_, Some(0)) => Err(wrong("negative_pool", 0, "it is at least 1")),
            _ => Ok(()),
        }
    }

    /// Draws the group of example `index` in an epoch, from so many positives (at least one) and negatives.
    pub fn draw(&self, n_positives: usize, n_negatives: usize, epoch: u64, index: u64) -> Draw {
        let pool = n_negatives.min(self.pool.unwrap_or(usize::MAX));
        let positive = match self.first_positive {
            true => 0,
            false => self.positive(n_positives, epoch, index),
        };
        let negatives = match self.first_negatives && pool >= self.n_negatives() {
            true => (0..self.n_negatives()).collect(),
            false => self.negatives(pool, epoch, index),
        };
        Draw {
            positive,
            negatives,
        }
    }

    fn positive(&self, len: usize, epoch: u64, index: u64) -> usize {
        let ring = |number: u64| (number % len as u64) as usize;
        let h = self.seed.wrapping_add(index);
        match self.rule {
            SamplingRule::Openmatch => ring(h.wrapping_add(epoch)),
            SamplingRule::Simlm => ring(self.seed.wrapping_add(epoch)),
            SamplingRule::Retromae | SamplingRule::FlagEmbedding => {
                random(self.seed, epoch, index, Purpose::Positive).random_range(0..len)
            }
            SamplingRule::First => 0,
        }
    }

    fn negatives(&self, len: usize, epoch: u64, index: u64) -> Vec<usize> {
        let k = self.n_negatives();
        if len == 0 {
            return Vec::new();
        }
        // k entries of the ring, beginning with number `turn` · k.
        let ring = |turn: u64| {
            let start = (turn % len as u64) as usize * (k % len);
            (0..k).map(move |offset| (start + offset) % len)
        };
        let mut numbers = random(self.seed, epoch, index, Purpose::Negatives);
        match self.rule {
            SamplingRule::Openmatch if len < k => {
                (0..k).map(|_| numbers.random_range(0..len)).collect()
            }
            SamplingRule::Openmatch => {
                let mut permutation: Vec<usize> = (0..len).collect();
                let h = self.seed.wrapping_add(index);
                permutation.shuffle(&mut random(h, 0, 0, Purpose::Permutation));
                ring(epoch).map(|number| permutation[number]).collect()
            }
            SamplingRule::Simlm => ring(self.seed.wrapping_add(epoch)).collect(),
            SamplingRule::Retromae if len < k => (0..len).collect(),
            SamplingRule::Retromae => sample(&mut numbers, len, k).into_vec(),
            SamplingRule::FlagEmbedding => {
                let n_copies = k.div_ceil(len).max(1);
                let drawn = sample(&mut numbers, len * n_copies, k);
                drawn.into_iter().map(|number| number % len).collect()
            }
            SamplingRule::First => ring(0).collect(),
        }
    }
}
