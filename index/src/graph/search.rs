//! The nearest rows of a query in one shard, by its graph.

use compute::Simd;

use super::codes::{LINE, fetch};
use super::file::GraphFile;
use super::pool::Pool;
use super::walk::Walker;
use crate::metric::score_with;
use crate::neighbor::TopK;
use crate::{Bitmap, FlatShard, Metric, Neighbor, VectorIndex};

/// Nodes that get their score in any case, or so many as the `k`; at most so many times as many.
const LEAST_RESCORED: usize = 8;
const MOST_RESCORED: usize = 5;
/// Standard deviations that a score may be above its estimate.
const DEVIATIONS: f64 = 3.0;
/// Rows that are fetched from memory ahead of their turn.
const FETCHED: usize = 4;

/// A query that walks graphs.
pub(super) struct Query<'a> {
    pub simd: Simd,
    /// As the metric compares it.
    pub values: &'a [f32],
    pub k: usize,
}

/// What of a shard a walk looks for.
pub(super) struct Reach<'a> {
    /// Nodes that it keeps of those that may be found, at least `k`.
    pub ef: usize,
    /// `None`: all rows may be found.
    pub passing: Option<Passing<'a>>,
}

/// Which rows of a shard may be found.
#[derive(Clone, Copy)]
pub(super) struct Passing<'a> {
    /// Ordinals; `None`: all.
    pub filter: Option<&'a Bitmap>,
    /// Ordinals that may not, although links lead to them.
    pub deleted: &'a Bitmap,
    /// Nodes that a walk keeps, passing or not; 0 when no row of the shard passes.
    pub walked: usize,
}

impl Passing<'_> {
    fn contains(&self, ordinal: u32) -> bool {
        self.filter.is_none_or(|filter| filter.contains(ordinal)) && !self.deleted.contains(ordinal)
    }
}

/// Offers the best rows that a walk finds.
pub(super) fn search(
    graph: &GraphFile,
    shard: &FlatShard,
    query: &Query<'_>,
    reach: &Reach<'_>,
    walker: &mut Walker,
    best: &mut TopK,
) {
    if graph.deleted.len() == graph.n_nodes() as u64 {
        return; // there is nothing that links lead to
    }
    if reach.passing.is_some_and(|passing| passing.walked == 0) {
        return; // none of its rows may be found
    }
    let space = graph.space(query.simd);
    walker.code(&graph.queries, space.kernel, query.values);

    let mut from = graph.entry;
    for layer in (1..=graph.top(from)).rev() {
        from = walker.descend(space, &graph.layer(layer), from);
    }
    let (base, first) = (graph.layer(0), shard.first_ordinal());
    let found = match reach.passing {
        None => {
            walker.walk(space, &base, from, reach.ef);
            &walker.pool
        }
        Some(passing) => {
            let passes = |node| passing.contains(first + node);
            walker.walk_passing(space, &base, from, passing.walked, reach.ef, passes);
            &walker.passing
        }
    };
    rescore(shard, query, found, best);
}

/// Offers the nodes that a walk found, with their defined scores, until no more are to be expected among the best.
///
/// That is when the estimate, with what scores differ from it for the nodes before, is below the `k`-th best score.
fn rescore(shard: &FlatShard, query: &Query<'_>, found: &Pool, best: &mut TopK) {
    let (rows, first, metric) = (shard.rows(), shard.first_ordinal(), shard.metric());
    // What a similarity is beside a score; that of a query lacks its offset, which is the same in all differences.
    let per_similarity = match metric {
        Metric::InnerProduct | Metric::Cosine => 1.0,
        Metric::L2 => 2.0,
    };
    let n_least = query.k.max(LEAST_RESCORED);
    let nodes: Vec<(u32, f32)> = found
        .ranking()
        .take(n_least.saturating_mul(MOST_RESCORED))
        .collect();
    let fetch_row = |i: usize| {
        if let Some(&(node, _)) = nodes.get(i) {
            let lines = rows.stored(node as usize).chunks(LINE);
            lines.for_each(|line| fetch(&line[0]));
        }
    };
    (0..FETCHED).for_each(fetch_row);
    let mut buffer = Vec::new();
    let (mut sum, mut squares) = (0.0, 0.0);
    for (i, &(node, similarity)) in nodes.iter().enumerate() {
        let estimate = f64::from(similarity) * per_similarity;
        if i >= n_least
            && let Some(threshold) = best.threshold()
        {
            let mean = sum / i as f64;
            let deviation = (squares / i as f64 - mean * mean).max(0.0).sqrt();
            if estimate + mean + DEVIATIONS * deviation < f64::from(threshold) {
                break;
            }
        }
        fetch_row(i + FETCHED);
        let row = rows.read(node as usize, &mut buffer);
        let score = score_with(query.simd, metric, row.unwrap_or(&buffer), query.values);
        let difference = f64::from(score) - estimate;
        sum += difference;
        squares += difference * difference;
        best.offer(Neighbor {
            ordinal: first + node,
            score,
        });
    }
}
