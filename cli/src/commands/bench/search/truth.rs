//! Exact answers by brute force, accumulated in `f64`, to compare with.

use std::collections::{BinaryHeap, HashSet};

use index::{Metric, Neighbor};
use rayon::prelude::*;
use vectors::VectorFile;

use super::{How, zero_rows};

/// The exact answers to some of the queries.
pub struct Truth {
    metric: Metric,
    queries: Vec<Exact>,
}

/// The exact answer to a query.
struct Exact {
    /// Which query it is.
    position: usize,
    /// As the metric compares it.
    query: Vec<f32>,
    /// At most `k`, the worst on top.
    nearest: BinaryHeap<Neighbor>,
}

impl Truth {
    /// Compares `n` evenly spread queries, or all if there are fewer, with every row that passes the filter.
    pub fn compute(
        base: &VectorFile,
        metric: Metric,
        queries: &[f32],
        how: &How,
        n: usize,
    ) -> anyhow::Result<Self> {
        let width = base.width();
        let n_queries = queries.len() / width;
        let n = n.min(n_queries);
        let exact = |i: usize| {
            let position = i * n_queries / n;
            let mut query = queries[position * width..][..width].to_vec();
            prepare(metric, &mut query);
            Exact {
                position,
                query,
                nearest: BinaryHeap::new(),
            }
        };
        let mut queries: Vec<_> = (0..n).map(exact).collect();
        let (mut first, filter) = (0, how.filter.as_ref());
        let mut rows = Vec::new();
        base.for_each_block(zero_rows(metric), |values| {
            rows.clear();
            rows.extend_from_slice(values);
            rows.chunks_exact_mut(width)
                .for_each(|row| prepare(metric, row));
            let offer = |exact: &mut Exact| {
                for (ordinal, row) in (first..).zip(rows.chunks_exact(width)) {
                    if filter.is_none_or(|filter| filter.contains(ordinal)) {
                        let score = index::score(metric, row, &exact.query);
                        offer(&mut exact.nearest, Neighbor { ordinal, score }, how.k);
                    }
                }
            };
            queries.par_iter_mut().for_each(offer);
            first += (values.len() / width) as u32;
        })?;
        Ok(Self { metric, queries })
    }

    /// Queries whose answers are known.
    pub fn n_queries(&self) -> usize {
        self.queries.len()
    }

    /// The share of the exact answers that was found: rows count that score at least as high as the last exact one,
    /// so that which of several equal rows is returned does not matter. Scores are computed anew.
    pub fn recall(&self, base: &VectorFile, answers: &[Vec<Neighbor>]) -> anyhow::Result<f64> {
        let (mut n_found, mut n_wanted) = (0, 0);
        let mut row = Vec::new();
        for exact in &self.queries {
            let Some(last) = exact.nearest.peek() else {
                continue; // The filter lets nothing pass.
            };
            n_wanted += exact.nearest.len();
            let answer = &answers[exact.position];
            let ordinals: HashSet<u32> = answer.iter().map(|found| found.ordinal).collect();
            for ordinal in ordinals {
                row.clear();
                base.read(ordinal.into(), 1, &mut row)?;
                prepare(self.metric, &mut row);
                let score = index::score(self.metric, &row, &exact.query);
                n_found += usize::from(score >= last.score);
            }
        }
        Ok(n_found.min(n_wanted) as f64 / n_wanted.max(1) as f64)
    }
}

/// Scales a vector as the index does.
fn prepare(metric: Metric, vector: &mut [f32]) {
    if metric == Metric::Cosine {
        index::normalize(vector);
    }
}

fn offer(nearest: &mut BinaryHeap<Neighbor>, neighbor: Neighbor, k: usize) {
    if nearest.len() < k {
        nearest.push(neighbor);
    } else if let Some(mut worst) = nearest.peek_mut()
        && neighbor < *worst
    {
        *worst = neighbor;
    }
}
