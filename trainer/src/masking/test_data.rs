//! A vocabulary for tests, and the chances of masks.

use std::collections::BTreeMap;

use super::Vocabulary;

/// The special tokens as ids 0 to 4 (`[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`), then the given pieces.
pub(super) fn vocabulary(pieces: &str) -> Vocabulary {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let all = special.into_iter().chain(pieces.split_whitespace());
    Vocabulary::new(all.map(str::to_owned).collect()).expect("the special tokens are there")
}

/// Ids of pieces separated by spaces.
pub(super) fn ids(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
    let find = |piece: &str| (0..vocabulary.len() as u32).find(|&id| vocabulary.piece(id) == piece);
    text.split_whitespace()
        .map(|piece| find(piece).expect("the piece is in the vocabulary"))
        .collect()
}

/// Checks the chance of each mask, written as 0s and 1s, over 10,000 draws, within four standard deviations.
pub(super) fn check_chances(expected: &[(&str, f64)], draw: impl Fn(u64) -> Vec<bool>) {
    const N: f64 = 10_000.0;
    let mut counts = BTreeMap::<String, f64>::new();
    for example in 0..N as u64 {
        let bit = |hidden: bool| if hidden { '1' } else { '0' };
        let mask = draw(example).into_iter().map(bit).collect();
        *counts.entry(mask).or_default() += 1.0;
    }
    for (mask, p) in expected {
        let n = counts.remove(*mask).unwrap_or_default();
        let bound = 4.0 * (N * p * (1.0 - p)).sqrt();
        assert!((n - N * p).abs() <= bound, "{mask}: {n} of {N}, p = {p}");
    }
    assert!(counts.is_empty(), "{counts:?}");
}
