//! What a score is.

use compute::Simd;
use serde::{Deserialize, Serialize};

use crate::kernel;

/// How a query is compared with a row. Whatever the metric, a higher score is nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// `Σ xᵢqᵢ`.
    InnerProduct,
    /// `Σ xᵢqᵢ` of the row and the query scaled to length 1: rows when they are stored, queries when they arrive.
    Cosine,
    /// `−Σ (xᵢ − qᵢ)²`, the negated squared Euclidean distance.
    L2,
}

impl Metric {
    /// The name used in manifests and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InnerProduct => "inner_product",
            Self::Cosine => "cosine",
            Self::L2 => "l2",
        }
    }
}

/// Returns the score of a stored row for a query, accumulated in `f64` and rounded once to `f32`.
///
/// This is the definition: every search path rescores its final candidates by this function, so two paths that
/// agree on the candidates agree on every bit. Under [`Metric::Cosine`] both sides must already be normalized.
///
/// The order of accumulation is part of the definition: eight running sums, of which sum `j` takes the elements
/// `j, j + 8, j + 16, …`, then added pairwise. The product of two `f32` is exact in `f64`, so no machine can round
/// differently. The result is never NaN for finite input and never `−0.0`; it is infinite when it leaves the range of `f32`.
///
/// # Panics
/// When `row` and `query` differ in length.
pub fn score(metric: Metric, row: &[f32], query: &[f32]) -> f32 {
    score_with(Simd::detect(), metric, row, query)
}

/// [`score`] for callers that have detected the machine's instructions already.
pub(crate) fn score_with(simd: Simd, metric: Metric, row: &[f32], query: &[f32]) -> f32 {
    assert_eq!(row.len(), query.len(), "a row and a query have one width");
    let score = match metric {
        Metric::InnerProduct | Metric::Cosine => kernel::inner_product_f64(simd, row, query),
        Metric::L2 => -kernel::squared_distance_f64(simd, row, query),
    };
    score as f32 + 0.0 // −0.0 + 0.0 is 0.0: two spellings of zero would break ties by sign
}

/// Scales a vector to length 1 (the length taken in `f64`, each value rounded once) and returns the length it had.
///
/// A zero vector has no direction: it is left as it is and 0 is returned.
pub fn normalize(vector: &mut [f32]) -> f64 {
    let norm = norm(vector);
    if norm > 0.0 {
        for value in vector {
            *value = (f64::from(*value) / norm) as f32;
        }
    }
    norm
}

/// The Euclidean length. Neither overflows nor vanishes: the square of any `f32` but zero is a normal `f64`.
pub(crate) fn norm(vector: &[f32]) -> f64 {
    vector
        .iter()
        .map(|&value| f64::from(value) * f64::from(value))
        .sum::<f64>()
        .sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_score(metric: Metric, row: &[f32], query: &[f32], expected: f32) {
        let found = score(metric, row, query);
        assert_eq!(
            found.to_bits(),
            expected.to_bits(),
            "{metric:?} of {row:?} and {query:?} is {found}"
        );
    }

    #[test]
    fn inner_product_survives_cancellation_that_f32_does_not() {
        check_score(
            Metric::InnerProduct,
            &[1e8, 1.0, -1e8],
            &[1e8, 1.0, 1e8],
            1.0,
        ); // f32 loses the 1 beside 1e16
    }

    #[test]
    fn distance_is_negated_and_squared() {
        check_score(Metric::L2, &[1.0, 2.0], &[4.0, 6.0], -25.0);
    }

    #[test]
    fn zero_has_one_spelling() {
        check_score(Metric::L2, &[1.0, 2.0], &[1.0, 2.0], 0.0);
        check_score(Metric::InnerProduct, &[1e-30], &[-1e-30], 0.0); // −1e-60 rounds to −0.0
    }

    #[test]
    fn scores_outside_the_range_of_f32_are_infinite() {
        check_score(
            Metric::InnerProduct,
            &[3e38, 3e38],
            &[3e38, 3e38],
            f32::INFINITY,
        );
        check_score(Metric::L2, &[3e38], &[-3e38], f32::NEG_INFINITY);
    }

    #[test]
    fn normalize_reaches_length_one_from_any_length() {
        for scale in [f32::from_bits(1), 1e-30, 1.0, 1e30, f32::MAX] {
            let mut vector = [scale, -scale, 0.0, scale];
            assert!(normalize(&mut vector) > 0.0);
            assert!((norm(&vector) - 1.0).abs() < 1e-7, "{scale}: {vector:?}");
        }
        assert_eq!(normalize(&mut [0.0; 3]), 0.0);
    }

    #[test]
    fn metric_names_are_the_serialized_ones() {
        for metric in [Metric::InnerProduct, Metric::Cosine, Metric::L2] {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.as_str());
        }
    }
}
