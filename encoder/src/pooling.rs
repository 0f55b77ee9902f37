//! From token vectors to one vector.

use compute::Simd;

use crate::kernel::{add_scaled, scale, squared_norm};
use crate::options::Pooling;

impl Pooling {
    /// Pools the vectors of one text, (L, H), into `out`, (H), leaving out the first `skip`.
    ///
    /// As sentence-transformers does it; with nothing left the first token stands for `cls`, and means are 0.
    pub(crate) fn pool(self, simd: Simd, tokens: &[f32], skip: usize, out: &mut [f32]) {
        let width = out.len();
        let n_tokens = tokens.len() / width;
        let kept = || tokens.chunks_exact(width).skip(skip);
        match self {
            Self::Cls | Self::Decoder => {
                let first = if skip < n_tokens { skip } else { 0 };
                out.copy_from_slice(&tokens[first * width..][..width]);
            }
            Self::Last => out.copy_from_slice(&tokens[(n_tokens - 1) * width..]),
            Self::Max => {
                out.fill(f32::NEG_INFINITY);
                for token in kept() {
                    for (out, &x) in out.iter_mut().zip(token) {
                        *out = if x > *out || x.is_nan() { x } else { *out };
                    }
                }
            }
            Self::Mean | Self::MeanSqrtLength | Self::WeightedMean => {
                out.fill(0.0);
                let mut total = 0.0;
                for (i, token) in tokens.chunks_exact(width).enumerate().skip(skip) {
                    let weight = if self == Self::WeightedMean {
                        (i + 1) as f32
                    } else {
                        1.0
                    };
                    add_scaled(simd, out, weight, token);
                    total += weight;
                }
                let divisor = if self == Self::MeanSqrtLength {
                    total.sqrt()
                } else {
                    total
                };
                scale(simd, out, 1.0 / divisor.max(1e-9));
            }
        }
    }
}

/// Brings a vector to length 1; shorter than 1e-12 it is divided by that, so that zeros stay zeros.
pub(crate) fn normalize(simd: Simd, vector: &mut [f32]) {
    let length = squared_norm(simd, vector).sqrt();
    scale(simd, vector, 1.0 / length.max(1e-12));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pooling: Pooling, skip: usize, expected: [f32; 2]) {
        let tokens = [1.0, -8.0, 3.0, 4.0, 5.0, 1.0, 7.0, 2.0]; // four tokens of width 2
        let mut out = [f32::NAN; 2];
        pooling.pool(Simd::detect(), &tokens, skip, &mut out);
        for (value, expected) in out.iter().zip(expected) {
            assert!(
                (value - expected).abs() < 1e-6,
                "{pooling:?} skip {skip}: {out:?}"
            );
        }
    }

    #[test]
    fn poolings_follow_their_definitions() {
        check(Pooling::Cls, 0, [1.0, -8.0]);
        check(Pooling::Last, 0, [7.0, 2.0]);
        check(Pooling::Max, 0, [7.0, 4.0]);
        check(Pooling::Mean, 0, [4.0, -0.25]);
        check(Pooling::MeanSqrtLength, 0, [8.0, -0.5]);
        check(Pooling::WeightedMean, 0, [5.0, 1.1]); // (1 + 6 + 15 + 28, −8 + 8 + 3 + 8) / 10
    }

    #[test]
    fn prompt_tokens_are_left_out() {
        check(Pooling::Cls, 1, [3.0, 4.0]);
        check(Pooling::Max, 2, [7.0, 2.0]);
        check(Pooling::Mean, 2, [6.0, 1.5]);
        check(Pooling::WeightedMean, 2, [43.0 / 7.0, 11.0 / 7.0]); // positions still count from the first token
        check(Pooling::Mean, 4, [0.0, 0.0]);
        check(Pooling::Cls, 4, [1.0, -8.0]);
    }

    #[test]
    fn normalized_vectors_have_length_one() {
        let mut vector = [3.0, 4.0];
        normalize(Simd::detect(), &mut vector);
        assert!((vector[0] - 0.6).abs() < 1e-7 && (vector[1] - 0.8).abs() < 1e-7);
        let mut zeros = [0.0; 3];
        normalize(Simd::detect(), &mut zeros);
        assert_eq!(zeros, [0.0; 3]);
    }
}
