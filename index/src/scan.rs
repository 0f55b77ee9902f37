//! Exact flat search: a fast first pass rules rows out, the defined score decides among the rest.
//!
//! The defined [`score`](crate::score) accumulates in `f64`. That is too slow for every row, so blocks of rows are
//! first scored in `f32` ([`kernel::first_pass`]), all queries at once, and a row is *skipped* only when that proves
//! that it cannot be among the `k` best. The other rows get their defined score at once, while they are in the cache.
//! So there is no candidate list: memory is O(k) per query and thread whatever the rows are, and when every row ties,
//! every row is rescored.
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

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::kernel::{self, Arithmetic};
use crate::metric::{norm, score_with};
use crate::neighbor::{Neighbor, TopK};
use crate::search::{Bitmap, SearchError, SearchParams, prepare_queries};
use crate::shard::{BLOCK_ROWS, FlatShard};
use crate::{Metric, VectorIndex};

/// Queries scored together, few enough for their values and their first-pass scores of a block to stay in a core's cache.
const GROUP_QUERIES: usize = 64;

/// Searches the shards as one. They agree on width and metric; there is at least one.
pub(crate) fn search(
    shards: &[FlatShard],
    queries: &[f32],
    k: usize,
    filter: Option<&Bitmap>,
    params: &SearchParams,
) -> Result<Vec<Vec<Neighbor>>, SearchError> {
    let (width, metric) = (shards[0].width(), shards[0].metric());
    let queries = Queries::new(prepare_queries(queries, width, metric)?, width, metric);
    if k == 0 || queries.len() == 0 {
        return Ok(vec![Vec::new(); queries.len()]);
    }
    let blocks = Blocks::new(shards);
    let n_threads = params
        .threads
        .map_or_else(rayon::current_num_threads, |threads| threads.get());
    let n_threads = n_threads.clamp(1, blocks.len().max(1));

    // Threads take the next block when they are done with one; which thread sees which block does not matter,
    // because the k best of all rows are the k best of the threads' k best.
    let next = AtomicUsize::new(0);
    let scan = |_thread: usize| {
        let mut scan = Scan::new(&queries, k);
        while let Some((shard, rows)) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            scan.block(shard, rows, filter);
        }
        scan.best
    };
    let merge = |left: Vec<TopK>, right: Vec<TopK>| {
        left.into_iter()
            .zip(right)
            .map(|(a, b)| a.merge(b))
            .collect()
    };
    let best = if n_threads == 1 {
        scan(0)
    } else {
        (0..n_threads)
            .into_par_iter()
            .with_max_len(1)
            .map(scan)
            .reduce_with(merge)
            .expect("there is a thread")
    };
    Ok(best.into_iter().map(TopK::into_ranking).collect())
}

/// The blocks of all shards, numbered through.
struct Blocks<'a> {
    shards: &'a [FlatShard],
    /// For each shard, the number of blocks up to its end.
    ends: Vec<usize>,
}

impl<'a> Blocks<'a> {
    fn new(shards: &'a [FlatShard]) -> Self {
        let ends = shards.iter().scan(0, |end, shard| {
            *end += shard.len().div_ceil(BLOCK_ROWS);
            Some(*end)
        });
        Self {
            shards,
            ends: ends.collect(),
        }
    }

    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The shard and the rows of a block, `None` past the last one.
    fn get(&self, block: usize) -> Option<(&'a FlatShard, Range<usize>)> {
        let i = self.ends.partition_point(|&end| end <= block);
        let shard = self.shards.get(i)?;
        let first = if i == 0 { 0 } else { self.ends[i - 1] };
        let start = (block - first) * BLOCK_ROWS;
        Some((shard, start..shard.len().min(start + BLOCK_ROWS)))
    }
}

/// The queries as the metric compares them.
struct Queries {
    metric: Metric,
    width: usize,
    values: Vec<f32>,
    /// Lengths, not below the true ones.
    norms: Vec<f64>,
}

impl Queries {
    fn new(values: Vec<f32>, width: usize, metric: Metric) -> Self {
        let norms = values.chunks_exact(width).map(upper_norm).collect();
        Self {
            metric,
            width,
            values,
            norms,
        }
    }

    fn len(&self) -> usize {
        self.norms.len()
    }

    /// The values of consecutive queries.
    fn values(&self, queries: Range<usize>) -> &[f32] {
        &self.values[queries.start * self.width..queries.end * self.width]
    }
}

/// A bound on the length of a vector: the relative error of a sum of up to 2¹⁶ squares in `f64` is far below 2⁻²⁰.
pub(crate) fn upper_norm(vector: &[f32]) -> f64 {
    norm(vector) * (1.0 + 1.0 / f64::from(1 << 20))
}

/// The work of one thread.
struct Scan<'a> {
    queries: &'a Queries,
    arithmetic: Arithmetic,
    /// By query.
    best: Vec<TopK>,
    /// First-pass scores of a block for a group of queries; kept to save allocations.
    scores: Vec<f32>,
}

impl<'a> Scan<'a> {
    fn new(queries: &'a Queries, k: usize) -> Self {
        let best = vec![TopK::new(k); queries.len()];
        Self {
            queries,
            arithmetic: Arithmetic::detect(),
            best,
            scores: Vec::new(),
        }
    }

    /// Offers the rows of one block that pass the filter to every query.
    fn block(&mut self, shard: &FlatShard, rows: Range<usize>, filter: Option<&Bitmap>) {
        let max_norm = shard.block_norm(rows.start / BLOCK_ROWS).into();
        let first = shard.first_ordinal();
        let ordinals = first + rows.start as u32..=first + (rows.end - 1) as u32; // a shard ends within u32
        let ordinals: Vec<u32> = match filter {
            None => ordinals.collect(),
            Some(filter) => filter.range(ordinals).collect(),
        };
        if ordinals.is_empty() {
            return;
        }
        let rows: Vec<&[f32]> = ordinals
            .iter()
            .map(|ordinal| shard.row((ordinal - first) as usize))
            .collect();
        let n_queries = self.queries.len();
        for start in (0..n_queries).step_by(GROUP_QUERIES) {
            let group = start..n_queries.min(start + GROUP_QUERIES);
            self.scores.resize(rows.len() * group.len(), 0.0);
            let values = self.queries.values(group.clone());
            kernel::first_pass(
                self.arithmetic,
                self.queries.metric,
                &rows,
                values,
                &mut self.scores,
            );
            for (i, query) in group.enumerate() {
                self.rescore(query, i * rows.len(), &ordinals, &rows, max_norm);
            }
        }
    }

    /// Gives every row its defined score for one query and keeps the best, but for the rows whose first-pass score,
    /// found from `self.scores[at]` on, proves that they are not among them.
    fn rescore(
        &mut self,
        query: usize,
        at: usize,
        ordinals: &[u32],
        rows: &[&[f32]],
        max_norm: f64,
    ) {
        let &Queries { metric, width, .. } = self.queries;
        let values = self.queries.values(query..query + 1);
        let norms = max_norm * self.queries.norms[query];
        let best = &mut self.best[query];
        let limit = |best: &TopK| {
            best.threshold()
                .map(|threshold| skip_below(metric, width, norms, threshold))
        };
        let mut skip_below = limit(best);
        for ((&ordinal, &row), &first_score) in ordinals.iter().zip(rows).zip(&self.scores[at..]) {
            // Neither −∞ nor NaN proves anything: both can come from overflow.
            if skip_below
                .is_some_and(|limit| f32::NEG_INFINITY < first_score && first_score < limit)
            {
                continue;
            }
            if best.offer(Neighbor {
                ordinal,
                score: score_with(self.arithmetic, metric, row, values),
            }) {
                skip_below = limit(best);
            }
        }
    }
}

/// The first-pass score below which no row reaches `threshold`.
///
/// `norms` is at least `|x||q|` for every row in question. See the module's documentation for the proof.
fn skip_below(metric: Metric, width: usize, norms: f64, threshold: f32) -> f32 {
    let n = width as f64;
    let threshold = f64::from(threshold.min(f32::MAX));
    let margin = match metric {
        Metric::InnerProduct | Metric::Cosine => gamma(n + 4.0) * norms,
        Metric::L2 => gamma(n + 6.0) * threshold.abs(),
    };
    let underflow = (n + 2.0) * f64::from(f32::from_bits(1));
    ((threshold - margin - underflow) as f32).next_down() // rounded down, so that the limit is not above the proven one
}

/// `γₘ`, the relative error bound of `m` roundings in `f32`.
fn gamma(m: f64) -> f64 {
    let u = f64::from(f32::EPSILON) / 2.0;
    m * u / (1.0 - m * u)
}

#[cfg(test)]
mod tests {
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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        /// The claim of the module's documentation: the skipped score is below the threshold, whatever the threshold.
        #[test]
        fn a_skipped_row_is_below_the_threshold(
            (row, query) in (1usize..80).prop_flat_map(|width| (values(width), values(width))),
            metric in prop::sample::select(vec![Metric::InnerProduct, Metric::L2]),
        ) {
            let score = crate::score(metric, &row, &query);
            let norms = f64::from(upper_norm(&row) as f32) * upper_norm(&query);
            for arithmetic in Arithmetic::available() {
                let mut first_score = [0.0];
                kernel::first_pass(arithmetic, metric, &[&row], &query, &mut first_score);
                // The row's own score is the hardest threshold it reaches.
                let limit = skip_below(metric, row.len(), norms, score);
                let skipped = f32::NEG_INFINITY < first_score[0] && first_score[0] < limit;
                prop_assert!(!skipped, "{:?}: first pass {}, limit {}, score {}", arithmetic, first_score[0], limit, score);
            }
        }
    }

    #[test]
    fn the_limit_is_close_to_the_threshold_and_never_above() {
        for metric in [Metric::InnerProduct, Metric::L2] {
            let limit = skip_below(metric, 384, 1.0, -0.5);
            assert!(limit < -0.5 && limit > -0.5 - 3e-5, "{metric:?}: {limit}");
        }
    }

    #[test]
    fn nothing_is_skipped_where_the_bound_overflows() {
        assert_eq!(
            skip_below(Metric::InnerProduct, 8, f64::INFINITY, 1.0),
            f32::NEG_INFINITY
        );
        assert!(skip_below(Metric::InnerProduct, 8, f64::NAN, 1.0).is_nan()); // an infinite norm times a zero query
        assert_eq!(
            skip_below(Metric::L2, 8, 1.0, f32::NEG_INFINITY),
            f32::NEG_INFINITY
        );
        assert!(skip_below(Metric::InnerProduct, 8, 1.0, f32::INFINITY) < f32::MAX);
    }
}
