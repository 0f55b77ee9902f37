//! Shards with graphs that answer as one.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use compute::Simd;
use rayon::prelude::*;

use super::file::GraphFile;
use super::plan::{self, Plan};
use super::search::{self, Passing, Query, Reach};
use super::walk::Walker;
use crate::neighbor::TopK;
use crate::search::prepare_queries;
use crate::{
    Bitmap, Capabilities, Device, Metric, Neighbor, OpenError, RepairError, SearchError,
    SearchParams, ShardedIndex, VectorIndex, Verify,
};

/// The shards of one index, each with a graph: approximate search, and exact search on request.
#[derive(Debug)]
pub struct GraphIndex {
    flat: ShardedIndex,
    /// By shard.
    graphs: Vec<GraphFile>,
    /// Ordinals that are not found.
    deleted: Bitmap,
    /// Those among them that links lead to.
    unrepaired: Bitmap,
    /// Walkers that wait for work.
    walkers: Mutex<Vec<Walker>>,
}

impl GraphIndex {
    /// Opens the graphs at `paths`, one for each shard, in their order.
    ///
    /// # Errors
    /// [`OpenError`] of a graph; [`OpenError::GraphShard`] when it was built over other rows than the shard's;
    /// [`OpenError::Graphs`] when there are not as many as shards.
    pub fn open(flat: ShardedIndex, paths: &[PathBuf], verify: Verify) -> Result<Self, OpenError> {
        let (shards, graphs) = (flat.shards().len(), paths.len());
        if shards != graphs {
            return Err(OpenError::Graphs { shards, graphs });
        }
        let graphs = paths
            .iter()
            .zip(flat.shards())
            .map(|(path, shard)| GraphFile::open(path, shard, verify))
            .collect::<Result<Vec<_>, _>>()?;
        let mut deleted = Bitmap::new();
        for (shard, graph) in flat.shards().iter().zip(&graphs) {
            deleted.extend(graph.deleted.iter().map(|row| shard.first_ordinal() + row));
        }
        Ok(Self {
            flat,
            graphs,
            deleted,
            unrepaired: Bitmap::new(),
            walkers: Mutex::default(),
        })
    }

    /// The exact index of all rows, those deleted here among them.
    pub fn flat(&self) -> &ShardedIndex {
        &self.flat
    }

    /// Bytes of the graphs' files, which are memory-mapped.
    pub fn graph_bytes(&self) -> usize {
        self.graphs.iter().map(GraphFile::n_bytes).sum()
    }

    /// Searches by a plan; a plan without a filter heeds it all the same when there is one.
    ///
    /// # Errors
    /// As [`VectorIndex::search`].
    pub fn search_by(
        &self,
        plan: Plan,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        match plan {
            Plan::Scan | Plan::FilteredScan if self.deleted.is_empty() => {
                self.flat.search(queries, k, filter, params)
            }
            Plan::Scan | Plan::FilteredScan => {
                let passing = filter.cloned().unwrap_or_else(|| self.ordinals()) - &self.deleted;
                self.flat.search(queries, k, Some(&passing), params)
            }
            Plan::Graph | Plan::FilteredGraph => {
                let prepared = prepare_queries(queries, self.width(), self.metric())?;
                if k == 0 {
                    return Ok(vec![Vec::new(); prepared.len() / self.width()]);
                }
                let mut answers = self.walk(&prepared, k, filter, params)?;
                self.complete(&mut answers, queries, k, filter, params)?;
                Ok(answers)
            }
        }
    }

    /// Answers the queries by a scan whose walks found fewer than `k` rows where there are more.
    ///
    /// A walk stays near its query. Where the rows that pass, or were not deleted, are elsewhere, it meets few of them or none.
    fn complete(
        &self,
        answers: &mut [Vec<Neighbor>],
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<(), SearchError> {
        if answers.iter().all(|found| found.len() >= k) {
            return Ok(());
        }
        let mut passing = self.ordinals() - &self.deleted;
        if let Some(filter) = filter {
            passing &= filter;
        }
        let n_expected = passing.len().min(k as u64);
        let is_short = |&i: &usize| (answers[i].len() as u64) < n_expected;
        let short: Vec<usize> = (0..answers.len()).filter(is_short).collect();
        if short.is_empty() {
            return Ok(());
        }
        let width = self.width();
        let values = |&i: &usize| queries[i * width..][..width].iter().copied();
        let values: Vec<f32> = short.iter().flat_map(values).collect();
        let found = self.flat.search(&values, k, Some(&passing), params)?;
        for (i, found) in short.into_iter().zip(found) {
            answers[i] = found;
        }
        Ok(())
    }

    /// Deletes a row: it is not found any more, though walks go on through it until [`Self::repair`].
    ///
    /// False when there is no such row, or it was deleted before. The deletion is in memory; what is repaired is on disk.
    pub fn delete(&mut self, ordinal: u32) -> bool {
        let is_new = self.flat.row(ordinal).is_some() && self.deleted.insert(ordinal);
        if is_new {
            self.unrepaired.insert(ordinal);
        }
        is_new
    }

    /// Ordinals of deleted rows.
    pub fn deleted(&self) -> &Bitmap {
        &self.deleted
    }

    /// Links the neighbors of deleted rows with each other, and rewrites the graphs that changed.
    ///
    /// # Errors
    /// [`RepairError`]; the graph that was there before is then still there, and so are the deletions, in memory.
    pub fn repair(&mut self) -> Result<(), RepairError> {
        for (shard, graph) in self.flat.shards().iter().zip(&mut self.graphs) {
            let first = shard.first_ordinal();
            let ordinals = u64::from(first)..shard.end_ordinal();
            let of_shard = |ordinal: &u32| ordinals.contains(&u64::from(*ordinal));
            if !self.unrepaired.iter().any(|ordinal| of_shard(&ordinal)) {
                continue;
            }
            let rows = self.deleted.iter().filter(of_shard);
            let rows: Bitmap = rows.map(|ordinal| ordinal - first).collect();
            graph.repair(shard, &rows)?;
            let rest = self.unrepaired.iter().filter(|ordinal| !of_shard(ordinal));
            self.unrepaired = rest.collect();
        }
        Ok(())
    }

    /// All ordinals, deleted or not.
    fn ordinals(&self) -> Bitmap {
        let mut all = Bitmap::new();
        for shard in self.flat.shards().iter().filter(|shard| !shard.is_empty()) {
            let first = shard.first_ordinal();
            all.insert_range(first..=first + (shard.len() - 1) as u32);
        }
        all
    }

    /// Answers by walks. The queries are as the metric compares them, and `k` is not 0.
    fn walk(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        let simd = params.simd.unwrap_or_else(Simd::detect);
        let all_pass = filter.is_none() && self.unrepaired.is_empty();
        let reach = |shard| {
            let n_rows = VectorIndex::len(shard);
            let ef = plan::ef(n_rows, k, filter.is_some(), params);
            let passing = (!all_pass).then(|| {
                let n_passing = filter.map_or(n_rows, |filter| plan::passing_in(shard, filter));
                Passing {
                    filter,
                    deleted: &self.unrepaired,
                    walked: plan::walked(ef, n_rows, n_passing),
                }
            });
            Reach { ef, passing }
        };
        let reaches: Vec<Reach<'_>> = self.flat.shards().iter().map(reach).collect();
        let answer = |walker: &mut Walker, values: &[f32]| {
            let query = Query { simd, values, k };
            let mut best = TopK::new(k);
            let shards = self.flat.shards().iter().zip(&self.graphs);
            for ((shard, graph), reach) in shards.zip(&reaches) {
                if params.is_late() {
                    return Err(SearchError::DeadlineExceeded);
                }
                search::search(graph, shard, &query, reach, walker, &mut best);
            }
            Ok(best.into_ranking())
        };
        let answer_all = |queries: &[f32]| {
            let mut walker = self.walkers().pop().unwrap_or_default();
            let queries = queries.chunks_exact(self.width());
            let answers: Result<Vec<_>, _> =
                queries.map(|query| answer(&mut walker, query)).collect();
            self.walkers().push(walker);
            answers
        };
        let n_queries = queries.len() / self.width();
        let n_threads = params
            .threads
            .map_or_else(rayon::current_num_threads, |threads| threads.get());
        if n_threads == 1 || n_queries < 2 {
            return answer_all(queries);
        }
        let per_thread = n_queries.div_ceil(n_threads) * self.width();
        let answers: Result<Vec<_>, _> = queries.par_chunks(per_thread).map(answer_all).collect();
        Ok(answers?.into_iter().flatten().collect())
    }

    fn walkers(&self) -> std::sync::MutexGuard<'_, Vec<Walker>> {
        self.walkers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VectorIndex for GraphIndex {
    fn len(&self) -> usize {
        self.flat.len() - self.deleted.len() as usize
    }

    fn width(&self) -> usize {
        self.flat.width()
    }

    fn metric(&self) -> Metric {
        self.flat.metric()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            filter: true,
            exact: false,
            device: Device::Cpu,
        }
    }

    /// The plan that is expected to cost least.
    fn plan(&self, k: usize, filter: Option<&Bitmap>, params: &SearchParams) -> Plan {
        plan::choose(self.flat.shards(), k, filter, params)
    }

    fn search(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        let plan = self.plan(k, filter, params);
        self.search_by(plan, queries, k, filter, params)
    }
}
