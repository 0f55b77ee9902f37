//! The crate `hnsw_rs` behind [`VectorIndex`], to be compared with: feature `hnsw-rs`.

use std::fmt;

use hnsw_rs::prelude::{DistL2, Hnsw};
use rayon::prelude::*;

use crate::metric::norm;
use crate::neighbor::TopK;
use crate::search::prepare_queries;
use crate::{
    Bitmap, Capabilities, Device, FlatShard, HnswConfig, Metric, Neighbor, SearchError,
    SearchParams, VectorIndex, score,
};

/// Layers at most; `hnsw_rs` saves no graph with another number.
const MAX_LAYER: usize = 16;
/// Candidates that a search keeps when nothing else is said.
const EF: usize = 40;

/// A graph of `hnsw_rs` over the rows of a shard, in memory, the rows copied.
///
/// It knows Euclidean distances only. On rows of length 1 they order as the cosine; for inner products rows get one
/// more coordinate, which makes them all as long as the longest, and queries a zero. What it finds gets the defined
/// score from the shard.
pub struct HnswRsIndex {
    shard: FlatShard,
    graph: Hnsw<'static, f32, DistL2>,
}

impl HnswRsIndex {
    /// Builds the graph; the seed and the number of threads are the crate's own choice unless that is 1.
    pub fn build(shard: FlatShard, config: &HnswConfig) -> Self {
        let n = shard.len();
        let graph = Hnsw::new(
            config.m,
            n.max(1),
            MAX_LAYER,
            config.ef_construction,
            DistL2 {},
        );
        let radius = (0..n).map(|i| norm(&shard.row(i))).fold(0.0, f64::max);
        let row = |i: usize| {
            let row = shard.row(i).into_owned();
            let lift = (radius * radius - norm(&row).powi(2)).max(0.0).sqrt();
            extended(row, shard.metric(), lift as f32)
        };
        if config.threads.is_some_and(|threads| threads.get() == 1) {
            (0..n).for_each(|i| graph.insert((&row(i), i)));
        } else {
            (0..n)
                .into_par_iter()
                .for_each(|i| graph.insert((&row(i), i)));
        }
        Self { shard, graph }
    }
}

fn extended(mut vector: Vec<f32>, metric: Metric, coordinate: f32) -> Vec<f32> {
    if metric == Metric::InnerProduct {
        vector.push(coordinate);
    }
    vector
}

impl VectorIndex for HnswRsIndex {
    fn len(&self) -> usize {
        self.shard.len()
    }

    fn width(&self) -> usize {
        self.shard.width()
    }

    fn metric(&self) -> Metric {
        self.shard.metric()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            filter: true,
            exact: false,
            device: Device::Cpu,
        }
    }

    fn search(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        if params.exact || k == 0 || self.is_empty() {
            return self.shard.search(queries, k, filter, params);
        }
        let (width, metric, first) = (self.width(), self.metric(), self.shard.first_ordinal());
        let ef = params.ef.unwrap_or(EF).max(k);
        let passes = |row: &usize| filter.is_none_or(|filter| filter.contains(first + *row as u32));
        let one = |query: &[f32]| {
            let vector = extended(query.to_vec(), metric, 0.0);
            let found = match filter {
                None => self.graph.search(&vector, k, ef),
                Some(_) => self.graph.search_filter(&vector, k, ef, Some(&passes)),
            };
            let mut best = TopK::new(k);
            for row in found.iter().map(|found| found.d_id) {
                best.offer(Neighbor {
                    ordinal: first + row as u32,
                    score: score(metric, &self.shard.row(row), query),
                });
            }
            best.into_ranking()
        };
        let queries = prepare_queries(queries, width, metric)?;
        Ok(match params.threads {
            Some(threads) if threads.get() == 1 => queries.chunks_exact(width).map(one).collect(),
            _ => queries.par_chunks_exact(width).map(one).collect(),
        })
    }
}

impl fmt::Debug for HnswRsIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HnswRsIndex")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}
