//! The first pass over rows: scores in `f32` ([`kernel::first_pass`]) of a block of rows, all queries at once.
//!
//! Rows that it cannot skip get their defined score at once, while they are in the cache.
//!
//! # When a row may be skipped
//!
//! Let `a` be a row's first-pass score, `s` its defined score, `T` the `k`-th best defined score so far; `n` the
//! width, `u = 2⁻²⁴` the unit roundoff of `f32`, `η = 2⁻¹⁴⁹` its smallest positive number and `γₘ = mu / (1 − mu)`.
//! A row with `s < T` is not among the `k` best; with `s = T` it may be, if its ordinal is smaller.
//!
//! *Inner product.* Let `p` be the true value. Whatever the order of a sum of `n` products, fused or not,
//! `|a − p| ≤ γₙ Σ|xᵢqᵢ| + nη` (Higham 2002, *Accuracy and Stability of Numerical Algorithms*, §3.1 and §4.2; the
//! last part is underflow). The `f64` sum is within `u Σ|xᵢqᵢ|` of `p` for any width allowed here, and rounding it
//! to `f32` moves it by at most `u` of itself plus `η`. With `Σ|xᵢqᵢ| ≤ |x||q|` (Cauchy–Schwarz)
//!
//! `|a − s| ≤ γₙ₊₄ |x||q| + (n + 2)η =: ε`, one `u` being left for computing ε itself, so `a < T − ε` proves `s < T`.
//!
//! `|x|` is bounded by the largest norm of the row's block, which the shard stores.
//!
//! *L2.* All terms have one sign, so the error is relative and needs no norms: for the true squared distance `d`,
//! `−a ≤ (1 + γₙ₊₂) d + nη`, where the two more roundings are those of the difference, squared. So
//! `−a > |T| + ε` with `ε = γₙ₊₆ |T| + (n + 2)η` proves `d > (1 + γ₄)|T| + η`, hence `s < T`.
//!
//! *Overflow.* An `f32` sum that overflowed somewhere ends as ±∞ or NaN, and such a row is never skipped. Nor is any
//! when ε is infinite. An infinite `T` is treated as the largest finite number: what is surely below that does not
//! round to infinity.

use super::{Found, Queries, Scan, Search, fetch};
use crate::metric::norm;
use crate::rows::{RowType, values};
use crate::shard::{BLOCK_ROWS, FlatShard};
use crate::{Metric, kernel};

/// Queries scored together, few enough for their values and their first-pass scores of a block to stay in a core's cache.
const GROUP_QUERIES: usize = 64;

/// A bound on the length of a vector: the relative error of a sum of up to 2¹⁶ squares in `f64` is far below 2⁻²⁰.
pub(crate) fn upper_norm(vector: &[f32]) -> f64 {
    norm(vector) * (1.0 + 1.0 / f64::from(1 << 20))
}

/// Rows of a shard that pass the filter.
struct Candidates<'a> {
    ordinals: &'a [u32],
    rows: Vec<&'a [f32]>,
    /// No row is longer.
    max_norm: f64,
}

impl<'a> Candidates<'a> {
    /// At least one row, in order; they are read where they are, or into the buffer.
    fn new(shard: &'a FlatShard, ordinals: &'a [u32], buffer: &'a mut Vec<f32>) -> Self {
        let stored = shard.rows();
        let numbers = ordinals
            .iter()
            .map(|ordinal| (ordinal - shard.first_ordinal()) as usize);
        let is_scattered = ordinals[ordinals.len() - 1] - ordinals[0] >= ordinals.len() as u32;
        if is_scattered {
            numbers.clone().for_each(|i| fetch(stored.stored(i)));
        }
        let norms = numbers.clone().map(|i| shard.block_norm(i / BLOCK_ROWS));
        let max_norm = norms.fold(0.0, f32::max).into();
        let rows = if stored.row_type == RowType::F32 {
            numbers.map(|i| values(stored.stored(i))).collect()
        } else {
            buffer.clear();
            numbers.for_each(|i| buffer.extend_from_slice(&stored.row(i)));
            buffer.chunks_exact(stored.width).collect()
        };
        Self {
            rows,
            ordinals,
            max_norm,
        }
    }
}

/// Kept to save allocations.
#[derive(Default)]
pub(super) struct Buffers {
    /// First-pass scores of some rows for a group of queries.
    scores: Vec<f32>,
    /// Rows of a type that is not read where it is.
    decoded: Vec<f32>,
}

impl Scan<'_> {
    /// Offers rows of a shard, in order, to every query.
    pub(super) fn offer_rows(&mut self, shard: usize, ordinals: &[u32]) {
        let shard = &self.search.spans.shards[shard];
        for ordinals in ordinals.chunks(BLOCK_ROWS) {
            self.offer_some(shard, ordinals);
        }
    }

    fn offer_some(&mut self, shard: &FlatShard, ordinals: &[u32]) {
        let search = self.search;
        let Buffers { scores, decoded } = &mut self.rows;
        let candidates = Candidates::new(shard, ordinals, decoded);
        let (n_rows, n_queries) = (ordinals.len(), search.queries.len());
        for start in (0..n_queries).step_by(GROUP_QUERIES) {
            let group = start..n_queries.min(start + GROUP_QUERIES);
            let values = search.queries.values(group.clone());
            scores.resize(n_rows * group.len(), 0.0);
            kernel::first_pass(
                search.simd,
                search.queries.metric,
                &candidates.rows,
                values,
                scores,
            );
            for (query, first_scores) in group.zip(scores.chunks_exact(n_rows)) {
                offer_to_one(
                    search,
                    query,
                    &candidates,
                    first_scores,
                    &mut self.found[query],
                );
            }
        }
    }
}

/// Gives the rows their defined score for one query and keeps the best, but for the rows whose first-pass score
/// proves that they are not among them.
fn offer_to_one(
    search: &Search<'_>,
    query: usize,
    candidates: &Candidates<'_>,
    first_scores: &[f32],
    found: &mut Found,
) {
    let &Queries { metric, width, .. } = &search.queries;
    let norms = candidates.max_norm * search.queries.norms[query];
    let limit_now = || match search.best[query].reached() {
        Some(threshold) => skip_limit(metric, width, norms, threshold),
        None => f32::NEG_INFINITY, // there are not k yet
    };
    let mut limit = limit_now();
    let rows = candidates.ordinals.iter().zip(&candidates.rows);
    for ((&ordinal, row), &first_score) in rows.zip(first_scores) {
        if !may_skip(first_score, limit) && found.offer(search, query, ordinal, row) {
            limit = limit_now();
        }
    }
}

/// True when a first-pass score proves that the row does not reach the threshold that `limit` was made for.
///
/// Neither −∞ nor NaN proves anything: both can come from overflow.
fn may_skip(first_score: f32, limit: f32) -> bool {
    f32::NEG_INFINITY < first_score && first_score < limit
}

/// The first-pass score below which no row reaches `threshold`: `T − ε`, rounded down.
///
/// `norms` is at least `|x||q|` for every row in question. See the module's documentation for the proof.
fn skip_limit(metric: Metric, width: usize, norms: f64, threshold: f32) -> f32 {
    let n = width as f64;
    let threshold = f64::from(threshold.min(f32::MAX));
    let error = match metric {
        Metric::InnerProduct | Metric::Cosine => gamma(n + 4.0) * norms,
        Metric::L2 => gamma(n + 6.0) * threshold.abs(),
    };
    let underflow = (n + 2.0) * f64::from(f32::from_bits(1));
    ((threshold - error - underflow) as f32).next_down()
}

/// `γₘ`, the relative error bound of `m` roundings in `f32`.
pub(crate) fn gamma(m: f64) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    m * u / (1.0 - m * u)
}

#[cfg(test)]
mod tests {
    use compute::Simd;
    use proptest::prelude::*;

    use super::*;

    /// `f32` of every sign and exponent, with mantissas that round badly.
    fn values(width: usize) -> impl Strategy<Value = Vec<f32>> {
        let value = (any::<u32>(), -126i32..128).prop_map(|(bits, exponent)| {
            let value = f32::from_bits(bits & 0x807f_ffff | 0x3f80_0000) * 2.0_f32.powi(exponent);
            if value.is_finite() { value } else { 1.0 }
        });
        let near_one =
            any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x807f_ffff | 0x3f80_0000));
        prop_oneof![
            prop::collection::vec(value, width),
            prop::collection::vec(near_one.boxed(), width),
            prop::collection::vec(
                prop::sample::select(vec![0.0, 1e-23, -3e-23, 2e-45, 1e19, -1e19]),
                width
            ),
        ]
    }

    /// A row's own score is the hardest threshold it reaches: there it must not be skipped.
    fn check_kept(metric: Metric, row: &[f32], query: &[f32]) {
        let score = crate::score(metric, row, query);
        let limit = skip_limit(
            metric,
            row.len(),
            upper_norm(row) * upper_norm(query),
            score,
        );
        for simd in Simd::available() {
            let mut first_score = [0.0];
            kernel::first_pass(simd, metric, &[row], query, &mut first_score);
            assert!(
                !may_skip(first_score[0], limit),
                "{metric:?}, {simd:?}: {first_score:?} of {score}, limit {limit}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The claim of the module's documentation.
        #[test]
        fn no_row_is_skipped_at_its_own_score(
            (row, query) in (1usize..80).prop_flat_map(|width| (values(width), values(width))),
            metric in prop::sample::select(vec![Metric::InnerProduct, Metric::L2]),
        ) {
            check_kept(metric, &row, &query);
        }
    }

    #[test]
    fn no_row_is_skipped_for_products_that_vanish() {
        let root = 2.0_f32.powi(-75); // its square is half of the smallest positive number
        check_kept(Metric::InnerProduct, &[root * 0.99; 64], &[root; 64]); // each product rounds to 0
        check_kept(Metric::InnerProduct, &[-root * 1.01; 64], &[root; 64]); // each is nearly doubled
        check_kept(Metric::L2, &[root * 1.01; 64], &[0.0; 64]);
    }

    #[test]
    fn no_row_is_skipped_for_sums_that_overflow() {
        // −∞ in the first lane takes the sum with it; the true sum is 8e38.
        let mut row = [0.0; 16];
        (row[0], row[1], row[2], row[4], row[8]) = (-2e19, 1.5e19, 1.5e19, 1.5e19, 1.5e19);
        assert_eq!(
            crate::score(Metric::InnerProduct, &row, &[2e19; 16]),
            f32::INFINITY
        );
        check_kept(Metric::InnerProduct, &row, &[2e19; 16]);
        check_kept(Metric::L2, &[3e38; 5], &[-3e38; 5]);
    }

    #[test]
    fn the_limit_is_close_to_the_threshold_and_never_above() {
        for metric in [Metric::InnerProduct, Metric::L2] {
            let limit = skip_limit(metric, 384, 1.0, -0.5);
            assert!(limit < -0.5 && limit > -0.5 - 3e-5, "{metric:?}: {limit}");
        }
    }

    #[test]
    fn nothing_is_skipped_where_the_bound_overflows() {
        assert_eq!(
            skip_limit(Metric::InnerProduct, 8, f64::INFINITY, 1.0),
            f32::NEG_INFINITY
        );
        assert!(skip_limit(Metric::InnerProduct, 8, f64::NAN, 1.0).is_nan()); // an infinite norm times a zero query
        assert_eq!(
            skip_limit(Metric::L2, 8, 1.0, f32::NEG_INFINITY),
            f32::NEG_INFINITY
        );
        assert!(skip_limit(Metric::InnerProduct, 8, 1.0, f32::INFINITY) < f32::MAX);
    }
}
