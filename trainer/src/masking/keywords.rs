use rand::{Rng, RngExt};

use super::whole_words::hide;
use super::{Words, budget};

/// Draws MASTER's keyword mask: rare words are hidden, frequent ones almost never.
///
/// `words` are grouped with [`super::Skipped::Special`], and `weights` holds one weight a word, the inverse of its
/// frequency or its tf-idf ([`super::FrequencyDictionary::weights`]). Words are drawn without replacement, the next one being word i
/// with chance `wᵢ / Σ w` over what is left, until at least [`budget`]`(n_pieces, ratio)` tokens are hidden; the last
/// word may go beyond that. `SimXNS:MASTER/pretrain/data.py`.
///
/// Deviation: the published code draws rounds of ten words with replacement and passes over those it has. Here word i gets
/// the key `eᵢ / wᵢ` with `eᵢ` from Exp(1), and words are taken by increasing key, which has the same distribution.
///
/// # Panics
/// When there is not one weight a word.
pub fn mask_keywords(
    words: &Words,
    weights: &[f64],
    ratio: f64,
    random: &mut impl Rng,
) -> Vec<bool> {
    assert_eq!(words.len(), weights.len(), "each word has a weight");
    let mut key = |(word, weight): (usize, &f64)| {
        let exponential = -f64::ln_1p(-random.random::<f64>());
        (exponential / weight, word)
    };
    let mut order: Vec<(f64, usize)> = weights.iter().enumerate().map(&mut key).collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));

    let mut mask = vec![false; words.n_tokens()];
    let (mut n_hidden, least) = (0, budget(words.n_pieces(), ratio));
    for (_, word) in order {
        if n_hidden >= least {
            break;
        }
        let word = words.word(word);
        hide(&mut mask, word);
        n_hidden += word.len();
    }
    mask
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::test_data::{check_chances, ids, vocabulary};
    use super::super::{FrequencyDictionary, Skipped, example_random};
    use super::*;

    #[test]
    fn rare_words_are_hidden() {
        let vocabulary = vocabulary("the cat ##fish zzz");
        let text = ids(&vocabulary, "the cat ##fish the zzz");
        let words = Words::group(&vocabulary, &text, Skipped::Special);
        let counts = [("the", 100), ("cat##fish", 2)];
        let dictionary: FrequencyDictionary = counts
            .map(|(word, n)| (word.to_owned(), n))
            .into_iter()
            .collect();
        let weights = dictionary.weights(&vocabulary, &text, &words);
        assert_eq!(weights, [0.01, 0.5, 0.01, 1.0]);
        // Two of five tokens, by hand: the order of the draws, and what they hide.
        let (the, fish, zzz, all) = (0.01, 0.5, 1.0, 1.52);
        let fish_first = fish / all;
        let both = zzz / all * fish / (all - zzz); // zzz first: one token more than needed
        let zzz_and_the = zzz / all * the / (all - zzz) + the / all * zzz / (all - the);
        let the_and_fish = the / all * fish / (all - the);
        let two_the = the / all * the / (all - the) * 2.0;
        let expected = [
            ("01100", fish_first),
            ("01101", both),
            ("10001", zzz_and_the),
            ("00011", zzz_and_the),
            ("11100", the_and_fish),
            ("01110", the_and_fish),
            ("10010", two_the),
        ];
        let total: f64 = expected.iter().map(|(_, p)| p).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        check_chances(&expected, |example| {
            mask_keywords(&words, &weights, 0.5, &mut example_random(4, 0, example))
        });
    }

    proptest! {
        #[test]
        fn words_are_hidden_whole_up_to_the_last_that_is_needed(
            ids in prop::collection::vec(0u32..12, 0..80),
            ratio in 0.0..1.0,
            seed: u64,
        ) {
            let vocabulary = vocabulary("a b c ##d ##e ##f ##g");
            let words = Words::group(&vocabulary, &ids, Skipped::Special);
            let weights: Vec<f64> = (0..words.len()).map(|word| 1.0 / (1 + word % 5) as f64).collect();
            let mask = mask_keywords(&words, &weights, ratio, &mut example_random(seed, 0, 0));
            let least = budget(words.n_pieces(), ratio);
            let n_hidden = mask.iter().filter(|hidden| **hidden).count();
            prop_assert!(n_hidden >= least.min(words.n_pieces()));
            let lengths = (0..words.len()).map(|word| words.word(word).len());
            let longest = lengths.max().unwrap_or_default();
            prop_assert!(n_hidden < least + longest.max(1));
            for word in (0..words.len()).map(|word| words.word(word)) {
                let hidden = word.iter().filter(|&&position| mask[position]).count();
                prop_assert!(hidden == 0 || hidden == word.len());
            }
        }
    }
}
