use compute::Simd;
use compute::accelerator::Argument;

use super::function;

/// Dropout whose masks are computed, not stored: the same numbers give the same mask, forward, backward and again.
///
/// Whether an element is kept depends on the seed, the step, the place in the network and the element alone. A text
/// batch that is encoded in chunks, or twice as GradCache does (Gao et al. 2021, arXiv 2101.06983), names each chunk by
/// a step of its own and repeats it in the second pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// Probability to drop an element of the embeddings and of what a block adds to the residual stream.
    pub hidden: f32,
    /// Probability to drop an attention weight.
    pub attention: f32,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the forward pass.
    pub step: u64,
    /// Where the texts of this pass begin among those that share a number.
    pub first: First,
}

/// The place of the first text of a pass, when texts that share a number go through the network in several passes, or
/// on several machines: each then has the masks that it has in one pass over all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct First {
    /// Texts before it.
    pub text: u64,
    /// Tokens of these.
    pub row: u64,
}

impl First {
    /// The place so many texts and tokens further on.
    pub fn then(self, further: Self) -> Self {
        Self {
            text: self.text + further.text,
            row: self.row + further.row,
        }
    }
}

impl Dropout {
    /// Drops nothing.
    pub const NONE: Self = Self {
        hidden: 0.0,
        attention: 0.0,
        seed: 0,
        step: 0,
        first: First { text: 0, row: 0 },
    };

    /// The masks of operations on one row for each text rather than for each token.
    pub fn by_text(&self) -> Self {
        let First { text, .. } = self.first;
        Self {
            first: First { text, row: text },
            ..*self
        }
    }

    pub(super) fn check(&self) -> candle_core::Result<()> {
        for p in [self.hidden, self.attention] {
            if !(0.0..1.0).contains(&p) {
                candle_core::bail!("dropout probability is {p}; it is at least 0 and below 1");
            }
        }
        Ok(())
    }

    /// The masks of one place of the network, such as the output of the third layer.
    pub(super) fn at(&self, probability: f32, place: u64) -> Mask {
        let stream = scramble(scramble(scramble(self.seed) ^ self.step) ^ place);
        Mask {
            stream,
            probability,
            first_row: self.first.row,
        }
    }
}

/// The masks of all rows of one matrix.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    stream: u64,
    probability: f32,
    /// What the number of a pass's first row is.
    pub(super) first_row: u64,
}

impl Mask {
    /// Drops nothing.
    pub(super) const NONE: Self = Self {
        stream: 0,
        probability: 0.0,
        first_row: 0,
    };

    /// Whether nothing is dropped.
    pub(super) fn is_none(self) -> bool {
        self.probability == 0.0
    }

    /// A random number of this stream.
    pub(super) fn number(self, index: u64) -> u64 {
        scramble(self.stream ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Drops elements of the row with this number; those left are scaled by `1 / (1 − p)`.
    pub(super) fn apply(self, simd: Simd, row: u64, values: &mut [f32]) {
        if self.is_none() {
            return;
        }
        let key = self.number(row);
        let key = (key as u32, (key >> 32) as u32);
        function::drop_out(simd, values, key, self.threshold(), self.scale());
    }

    /// What random numbers of elements that are dropped are below.
    fn threshold(self) -> u32 {
        (f64::from(self.probability) * 4_294_967_296.0) as u32
    }

    /// By what elements that are kept are multiplied.
    fn scale(self) -> f32 {
        1.0 / (1.0 - self.probability)
    }

    /// As kernels take it: the stream, the first row, the threshold and the scale.
    pub(super) fn arguments(self) -> [Argument; 4] {
        [
            self.stream.into(),
            self.first_row.into(),
            self.threshold().into(),
            self.scale().into(),
        ]
    }

    /// Drops elements of all rows of a pass, of `width` values each.
    pub(super) fn apply_rows(self, simd: Simd, rows: &mut [f32], width: usize) {
        if self.is_none() {
            return;
        }
        for (number, row) in (self.first_row..).zip(rows.chunks_exact_mut(width)) {
            self.apply(simd, number, row);
        }
    }
}

/// SplitMix64's output function: Steele et al. 2014, "Fast splittable pseudorandom number generators".
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(dropout: Dropout, place: u64, row: u64) -> Vec<f32> {
        let mut values = vec![1.0; 4096];
        dropout
            .at(dropout.hidden, place)
            .apply(Simd::detect(), row, &mut values);
        values
    }

    #[test]
    fn every_number_of_a_mask_matters_and_equal_ones_repeat_it() {
        let dropout = Dropout {
            hidden: 0.5,
            seed: 1,
            step: 2,
            ..Dropout::NONE
        };
        let first = mask(dropout, 3, 4);
        assert_eq!(first, mask(dropout, 3, 4));
        for other in [
            mask(Dropout { seed: 2, ..dropout }, 3, 4),
            mask(Dropout { step: 3, ..dropout }, 3, 4),
            mask(dropout, 4, 4),
            mask(dropout, 3, 5),
        ] {
            let n_equal = first.iter().zip(&other).filter(|(a, b)| a == b).count();
            assert!((1800..2300).contains(&n_equal), "{n_equal} of 4096 equal"); // 2048 ± 8 deviations of 32
        }
        for simd in Simd::available() {
            let mut values = vec![1.0; 4096];
            dropout.at(0.5, 3).apply(simd, 4, &mut values);
            assert_eq!(values, first, "{simd:?}");
        }
    }

    #[test]
    fn shares_of_kept_elements_follow_the_probability() {
        for p in [0.01f32, 0.1, 0.5, 0.9] {
            let dropout = Dropout {
                hidden: p,
                seed: 7,
                ..Dropout::NONE
            };
            let (mut n_kept, mut columns) = (0, vec![0u32; 4096]);
            for row in 0..256 {
                for (column, value) in mask(dropout, 0, row).into_iter().enumerate() {
                    assert!(value == 0.0 || value == 1.0 / (1.0 - p));
                    n_kept += u32::from(value != 0.0);
                    columns[column] += u32::from(value != 0.0);
                }
            }
            let (n, q) = (4096.0 * 256.0, f64::from(1.0 - p));
            let deviation = (n * q * (1.0 - q)).sqrt();
            assert!(
                (f64::from(n_kept) - n * q).abs() < 5.0 * deviation,
                "{p}: {n_kept} of {n}"
            );
            // χ² of the columns: mean 4096, deviation √8192 ≈ 91.
            let expected = 256.0 * q;
            let chi: f64 = columns
                .iter()
                .map(|&count| (f64::from(count) - expected).powi(2) / (expected * (1.0 - q)))
                .sum();
            assert!((chi - 4096.0).abs() < 6.0 * 91.0, "{p}: {chi}");
        }
    }
}
