use rand::{Rng, RngExt};

use super::Vocabulary;

/// What stands in the place of a hidden token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// BERT's: `[MASK]` with chance 0.8, any of the V ids with 0.1, special ones among them, itself with 0.1.
    #[default]
    Mixed,
    /// Always `[MASK]`: SimLM's `all_use_mask_token`.
    Mask,
}

/// Token ids with hidden tokens replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupted {
    /// What is read.
    pub ids: Vec<u32>,
    /// What is to be predicted: the token that was there, none where nothing was hidden.
    pub labels: Vec<Option<u32>>,
}

impl Corruption {
    /// Replaces hidden tokens. Special ones stay, and are never a label, whatever the mask says of them.
    ///
    /// # Panics
    /// When mask and ids differ in length, or an id is not in the vocabulary.
    pub fn apply(
        self,
        vocabulary: &Vocabulary,
        ids: &[u32],
        mask: &[bool],
        random: &mut impl Rng,
    ) -> Corrupted {
        assert_eq!(ids.len(), mask.len(), "a mask has a value for each token");
        let mut corrupted = Corrupted {
            ids: ids.to_vec(),
            labels: vec![None; ids.len()],
        };
        for (position, &id) in ids.iter().enumerate() {
            if mask[position] && !vocabulary.is_special(id) {
                corrupted.labels[position] = Some(id);
                corrupted.ids[position] = self.replacement(vocabulary, id, random);
            }
        }
        corrupted
    }

    fn replacement(self, vocabulary: &Vocabulary, id: u32, random: &mut impl Rng) -> u32 {
        let chance = match self {
            Self::Mixed => random.random::<f64>(),
            Self::Mask => 0.0,
        };
        match chance {
            ..0.8 => vocabulary.special().mask,
            0.8..0.9 => random.random_range(0..vocabulary.len() as u32),
            _ => id,
        }
    }
}

impl Corrupted {
    /// Positions and ids of what is to be predicted.
    pub fn targets(&self) -> impl Iterator<Item = (usize, u32)> {
        let labels = self.labels.iter().enumerate();
        labels.filter_map(|(position, label)| Some((position, (*label)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::example_random;
    use super::super::test_data::vocabulary;
    use super::*;

    const N: usize = 100_000;

    /// `n` with chance p of N, within four standard deviations.
    fn check_share(n: usize, p: f64) {
        let (n, mean) = (n as f64, N as f64 * p);
        let bound = 4.0 * (mean * (1.0 - p)).sqrt();
        assert!((n - mean).abs() < bound, "{n}, expected {mean} ± {bound}");
    }

    #[test]
    fn hidden_tokens_become_mask_any_or_themselves() {
        let vocabulary = vocabulary("a b c d e");
        let n_ids = vocabulary.len();
        let mut random = example_random(9, 0, 0);
        let ids = vec![7; N];
        let corrupted = Corruption::Mixed.apply(&vocabulary, &ids, &vec![true; N], &mut random);
        assert!(corrupted.labels.iter().all(|label| *label == Some(7)));
        for id in 0..n_ids as u32 {
            let n = corrupted.ids.iter().filter(|&&found| found == id).count();
            let by_chance = 0.1 / n_ids as f64;
            check_share(
                n,
                by_chance
                    + match id {
                        4 => 0.8, // [MASK]
                        7 => 0.1,
                        _ => 0.0,
                    },
            );
        }
        let corrupted = Corruption::Mask.apply(&vocabulary, &ids, &vec![true; N], &mut random);
        assert!(corrupted.ids.iter().all(|&id| id == 4));
    }

    #[test]
    fn special_tokens_and_what_is_seen_stay() {
        let vocabulary = vocabulary("a b");
        let ids = [2, 5, 1, 6, 4, 5, 3, 0];
        let mask = [true, true, true, false, true, true, true, true];
        let mut random = example_random(9, 0, 1);
        let corrupted = Corruption::Mask.apply(&vocabulary, &ids, &mask, &mut random);
        assert_eq!(corrupted.ids, [2, 4, 1, 6, 4, 4, 3, 0]);
        let targets: Vec<_> = corrupted.targets().collect();
        assert_eq!(targets, [(1, 5), (5, 5)]);
        let nothing = Corruption::Mixed.apply(&vocabulary, &ids, &[false; 8], &mut random);
        assert_eq!(nothing.ids, ids);
        assert_eq!(nothing.targets().count(), 0);
    }
}
