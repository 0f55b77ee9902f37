use rand::{Rng, RngExt};

use super::Vocabulary;

/// Tokens of a mask at most, whatever the ratio.
const MAX_MASKED: f64 = 512.0;

/// Tokens that are never part of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// All special tokens: Condenser and MASTER, whose lists have neither `[CLS]` nor `[SEP]` around them.
    Special,
    /// `[CLS]` and `[SEP]` alone: CoT-MAE, and RetroMAE, DupMAE and SimLM, whose lists have both around them. An `[UNK]`
    /// is a word then, and takes part of the budget, though [`super::Corruption`] leaves it as it is.
    Bounds,
}

/// The words of a list of token ids: the positions of the pieces of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// Length of the list, skipped tokens included.
    n_tokens: usize,
    /// Positions of all words, one word after another.
    positions: Vec<usize>,
    /// Where each word ends in `positions`.
    ends: Vec<usize>,
}

/// Returns the number of tokens to hide of so many: `min(512, max(1, round(n·p)))`, where halves go to the even number.
pub fn budget(n_tokens: usize, ratio: f64) -> usize {
    let rounded = (n_tokens as f64 * ratio).round_ties_even();
    rounded.clamp(1.0, MAX_MASKED) as usize
}

impl Words {
    /// Groups ids into words. A `##` piece belongs to the word before it, also when skipped tokens stand between them;
    /// at the beginning of the list it is a word of its own.
    ///
    /// # Panics
    /// When an id is not in the vocabulary ([`Vocabulary::unknown`]).
    pub fn group(vocabulary: &Vocabulary, ids: &[u32], skipped: Skipped) -> Self {
        let special = vocabulary.special();
        let mut words = Self {
            n_tokens: ids.len(),
            positions: Vec::with_capacity(ids.len()),
            ends: Vec::with_capacity(ids.len()),
        };
        for (position, &id) in ids.iter().enumerate() {
            let is_skipped = match skipped {
                Skipped::Special => vocabulary.is_special(id),
                Skipped::Bounds => id == special.cls || id == special.sep,
            };
            if is_skipped {
                continue;
            }
            words.positions.push(position);
            let end = words.positions.len();
            match words.ends.last_mut() {
                Some(last) if vocabulary.continues_word(id) => *last = end,
                _ => words.ends.push(end),
            }
        }
        words
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no word.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Length of the list, skipped tokens included.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Number of tokens that are part of a word.
    pub fn n_pieces(&self) -> usize {
        self.positions.len()
    }

    /// The positions of a word's pieces.
    pub fn word(&self, word: usize) -> &[usize] {
        let start = word.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.positions[start..self.ends[word]]
    }

    /// Draws a whole-word mask with a budget of [`budget`]`(n_tokens, ratio)` tokens.
    ///
    /// Words come in random order; one that is longer than what is left of the budget is passed over. So the mask never
    /// has more tokens than the budget, and fewer only when no word that is left fits.
    pub fn mask(&self, ratio: f64, random: &mut impl Rng) -> Vec<bool> {
        let mut mask = vec![false; self.n_tokens];
        let mut n_left = budget(self.n_tokens, ratio);
        let mut order: Vec<usize> = (0..self.len()).collect();
        for turn in 0..order.len() {
            if n_left == 0 {
                break;
            }
            // A shuffle, no further than it is needed.
            let drawn = random.random_range(turn..order.len());
            order.swap(turn, drawn);
            let word = self.word(order[turn]);
            if let Some(rest) = n_left.checked_sub(word.len()) {
                n_left = rest;
                hide(&mut mask, word);
            }
        }
        mask
    }
}

/// Hides the positions of a word.
pub(super) fn hide(mask: &mut [bool], word: &[usize]) {
    for &position in word {
        mask[position] = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::example_random;
    use super::super::test_data::{check_chances, ids, vocabulary};
    use super::*;

    fn check_words(text: &str, skipped: Skipped, expected: &[&[usize]]) {
        let vocabulary = vocabulary("a b ##b ##c x");
        let words = Words::group(&vocabulary, &ids(&vocabulary, text), skipped);
        let found: Vec<&[usize]> = (0..words.len()).map(|word| words.word(word)).collect();
        assert_eq!(found, expected, "{text}");
        assert_eq!(words.n_pieces(), expected.concat().len());
        assert_eq!(words.n_tokens(), text.split_whitespace().count());
    }

    #[test]
    fn pieces_join_the_word_before_them() {
        use Skipped::{Bounds, Special};
        check_words("a ##b ##c x", Special, &[&[0, 1, 2], &[3]]);
        check_words("##b ##c x", Special, &[&[0, 1], &[2]]); // a cut word
        check_words("a [UNK] ##b", Special, &[&[0, 2]]);
        check_words("a [UNK] ##b", Bounds, &[&[0], &[1, 2]]);
        check_words("[CLS] a [SEP] ##b [MASK] [SEP]", Bounds, &[&[1, 3], &[4]]);
        check_words("[CLS] a [SEP] ##b [MASK] [SEP]", Special, &[&[1, 3]]);
        check_words("[SEP]", Special, &[]);
    }

    #[test]
    fn budgets_round_halves_to_even() {
        for (n_tokens, ratio, expected) in [
            (5, 0.5, 2),
            (3, 0.5, 2),
            (1, 0.5, 1), // 0.5 rounds to 0, and one token is hidden at least
            (0, 0.3, 1),
            (7, 0.5, 4), // 3.5
            (126, 0.3, 38),
            (4000, 0.5, 512),
        ] {
            assert_eq!(budget(n_tokens, ratio), expected, "{n_tokens} {ratio}");
        }
    }

    #[test]
    fn words_that_do_not_fit_are_passed_over() {
        let vocabulary = vocabulary("a b ##b x");
        let text = ids(&vocabulary, "[CLS] a ##b x [SEP]");
        let words = Words::group(&vocabulary, &text, Skipped::Bounds);
        // Two of five: the pair, or `x`, which leaves no room for the pair.
        let draw = |example| words.mask(0.5, &mut example_random(3, 0, example));
        check_chances(&[("01100", 0.5), ("00010", 0.5)], draw);
        // One of five: the pair never fits.
        let draw = |example| words.mask(0.2, &mut example_random(3, 0, example));
        check_chances(&[("00010", 1.0)], draw);
    }

    #[test]
    fn long_windows_hide_their_share_and_no_place_is_favoured() {
        const N: u32 = 10_000;
        let vocabulary = vocabulary("a ##b x");
        let window: Vec<u32> = [5, 6, 7].into_iter().cycle().take(126).collect();
        let words = Words::group(&vocabulary, &window, Skipped::Special);
        let mut counts = [0u32; 126];
        for example in 0..N {
            let mask = words.mask(0.3, &mut example_random(6, 0, example.into()));
            // There is always a word of one piece for the last token.
            assert_eq!(mask.iter().filter(|hidden| **hidden).count(), 38);
            for (count, hidden) in counts.iter_mut().zip(mask) {
                *count += u32::from(hidden);
            }
        }
        // Words of two pieces do not fit at last, so each length has its own rate.
        for kind in 0..3 {
            let places = || counts.iter().skip(kind).step_by(3).map(|&n| f64::from(n));
            let mean = places().sum::<f64>() / 42.0;
            let bound = 4.5 * (mean * (1.0 - mean / f64::from(N))).sqrt();
            assert!(
                places().all(|n| (n - mean).abs() < bound),
                "{mean} ± {bound}: {counts:?}"
            );
        }
    }

    #[test]
    fn masks_differ_between_epochs_and_examples_alone() {
        let vocabulary = vocabulary("a");
        let words = Words::group(&vocabulary, &[5; 100], Skipped::Special);
        let draw = |epoch, example| words.mask(0.3, &mut example_random(42, epoch, example));
        assert_eq!(draw(0, 7), draw(0, 7));
        assert_ne!(draw(0, 7), draw(1, 7));
        assert_ne!(draw(0, 7), draw(0, 8));
    }

    proptest! {
        #[test]
        fn words_are_hidden_whole_and_within_the_budget(
            ids in prop::collection::vec(0u32..12, 0..80),
            ratio in 0.0..1.0,
            seed: u64,
            all in any::<bool>(),
        ) {
            let vocabulary = vocabulary("a b c ##d ##e ##f ##g");
            let skipped = if all { Skipped::Special } else { Skipped::Bounds };
            let words = Words::group(&vocabulary, &ids, skipped);
            let mask = words.mask(ratio, &mut example_random(seed, 0, 0));
            let n_hidden = mask.iter().filter(|hidden| **hidden).count();
            let most = budget(ids.len(), ratio);
            prop_assert!(n_hidden <= most);
            let mut in_words = 0;
            for word in (0..words.len()).map(|word| words.word(word)) {
                let hidden = word.iter().filter(|&&position| mask[position]).count();
                prop_assert!(hidden == 0 || hidden == word.len());
                // What is left out did not fit.
                prop_assert!(hidden > 0 || n_hidden + word.len() > most);
                in_words += hidden;
            }
            prop_assert_eq!(in_words, n_hidden); // nothing that is skipped
        }
    }
}
