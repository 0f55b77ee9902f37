use rand::{Rng, RngExt};

use super::Words;

/// What each position of RetroMAE's decoder may see of the sentence: a matrix of bits, (n, n) for n tokens.
///
/// Of `min(n, max_masks)` whole-word masks each row takes one with equal chance, and hides itself besides: a token is
/// predicted without being seen, though other pieces of its word may be. `[CLS]`, which is the sentence's vector there,
/// and `[SEP]` are seen by every row but their own. Xiao et al. 2022 (arXiv 2205.12035), §3.3;
/// `RetroMAE:src/pretrain/data.py` has `max_masks` 256, FlagEmbedding's variant 128.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visibility {
    n_tokens: usize,
    /// Numbers that hold a row.
    width: usize,
    /// Bit `column % 64` of number `row · width + column / 64`: whether the row sees the column.
    bits: Vec<u64>,
}

impl Visibility {
    /// Draws the matrix of a sentence from `[CLS]` to `[SEP]`, whose words are grouped with [`super::Skipped::Bounds`].
    pub fn draw(words: &Words, ratio: f64, max_masks: usize, random: &mut impl Rng) -> Self {
        let n_tokens = words.n_tokens();
        let width = n_tokens.div_ceil(64);
        let seen_by = |random: &mut _| {
            let mut row = vec![0u64; width];
            for (column, hidden) in words.mask(ratio, random).into_iter().enumerate() {
                row[column / 64] |= u64::from(!hidden) << (column % 64);
            }
            row
        };
        let masks: Vec<Vec<u64>> = (0..n_tokens.min(max_masks.max(1)))
            .map(|_| seen_by(random))
            .collect();
        let mut bits = Vec::with_capacity(n_tokens * width);
        for row in 0..n_tokens {
            bits.extend(&masks[random.random_range(0..masks.len())]);
            bits[row * width + row / 64] &= !(1 << (row % 64));
        }
        Self {
            n_tokens,
            width,
            bits,
        }
    }

    /// The matrix of these rows, as many as each has columns, true where a row sees a column.
    ///
    /// # Panics
    /// When the rows are no square.
    pub fn new(rows: &[Vec<bool>]) -> Self {
        let (n_tokens, width) = (rows.len(), rows.len().div_ceil(64));
        let mut bits = vec![0; n_tokens * width];
        for (row, sees) in rows.iter().enumerate() {
            assert_eq!(sees.len(), n_tokens, "the rows of a square");
            for (column, &sees) in sees.iter().enumerate() {
                bits[row * width + column / 64] |= u64::from(sees) << (column % 64);
            }
        }
        Self {
            n_tokens,
            width,
            bits,
        }
    }

    /// n, tokens of the sentence.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Whether a row sees a column; padding neither sees nor is seen.
    pub fn sees(&self, row: usize, column: usize) -> bool {
        let is_inside = row < self.n_tokens && column < self.n_tokens;
        is_inside && self.bits[row * self.width + column / 64] >> (column % 64) & 1 == 1
    }

    /// What [`encoder::training::Attend::seen`] reads: ⌈n / 64⌉ numbers a row, bit `column % 64` of number `column / 64`.
    pub fn numbers(&self) -> &[u64] {
        &self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_data::{check_chances, ids, vocabulary};
    use super::super::{Skipped, example_random};
    use super::*;

    fn words(text: &str) -> Words {
        let vocabulary = vocabulary("a ##b x");
        Words::group(&vocabulary, &ids(&vocabulary, text), Skipped::Bounds)
    }

    #[test]
    fn a_row_hides_one_of_the_masks_and_itself() {
        let words = words("[CLS] a ##b x [SEP]");
        let row = |row: usize| {
            let words = &words;
            move |example| {
                let mut random = example_random(6, 0, example);
                let seen = Visibility::draw(words, 0.5, 256, &mut random);
                (0..5).map(|column| !seen.sees(row, column)).collect()
            }
        };
        // The masks are 01100 and 00010, with equal chance.
        check_chances(&[("11100", 0.5), ("10010", 0.5)], row(0));
        check_chances(&[("01100", 0.5), ("01010", 0.5)], row(1));
        check_chances(&[("01110", 0.5), ("00010", 0.5)], row(3));
        check_chances(&[("01101", 0.5), ("00011", 0.5)], row(4));
    }

    #[test]
    fn long_sentences_have_no_more_masks_than_allowed() {
        let text = format!("[CLS] {} [SEP]", "a ##b x ".repeat(100));
        let words = words(&text);
        let n = words.n_tokens();
        for max_masks in [1, 7, 256] {
            let mut random = example_random(6, 1, 0);
            let seen = Visibility::draw(&words, 0.5, max_masks, &mut random);
            let mut masks = std::collections::BTreeSet::new();
            for row in 0..n {
                assert!(!seen.sees(row, row));
                assert!(row == 0 || seen.sees(row, 0));
                assert!(row == n - 1 || seen.sees(row, n - 1));
                // The row's own bit says nothing of its mask: that of the word's other piece does, if it has one.
                let partner = match row % 3 {
                    1 if row + 1 < n => row + 1,
                    2 => row - 1,
                    _ => continue,
                };
                let mut mask: Vec<bool> = (0..n).map(|column| seen.sees(row, column)).collect();
                mask[row] = mask[partner];
                masks.insert(mask);
            }
            let n_rows = 200; // those of the pairs
            assert!(masks.len() <= max_masks.min(n_rows), "{}", masks.len());
            assert!(max_masks < 100 || masks.len() > 100, "{}", masks.len());
        }
    }

    #[test]
    fn there_is_nothing_beyond_the_sentence() {
        let words = words("[CLS] x [SEP]");
        let seen = Visibility::draw(&words, 0.5, 256, &mut example_random(6, 2, 0));
        // K = round(1.5) = 2, so `x` is always hidden.
        assert_eq!(seen.numbers(), [0b100, 0b101, 0b001]);
        let is_seen = |row, column| seen.sees(row, column);
        assert!(is_seen(1, 2) && !is_seen(2, 1) && !is_seen(3, 0) && !is_seen(0, 64));
    }
}
