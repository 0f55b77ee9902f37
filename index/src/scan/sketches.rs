//! The first pass over sketches.

use std::mem;
use std::ops::Range;

use compute::Simd;

use super::{Best, Found, Pending, Queries, Scan, Search, fetch};
use crate::VectorIndex;
use crate::shard::FlatShard;
use crate::sketch::{Coordinates, Hit, LANES, QuerySketch, Span, dot};

/// Blocks of sketches that are looked at before there is any limit.
const FIRST_BLOCKS: usize = 8;
/// Rows, beside some for each of the `k`, that may be pending before the best of them get their score.
const PENDING: usize = 16;
/// Rows that are pending at most, before all of them are settled.
const MAX_PENDING: usize = 1 << 15;
/// Rows and tails that are fetched from memory ahead of their turn.
const FETCHED_ROWS: usize = 4;
const FETCHED_TAILS: usize = 16;

/// Kept to save allocations.
pub(super) struct Buffers {
    limits: Vec<f32>,
    hits: Vec<Vec<Hit>>,
    keep: Vec<u16>,
}

impl Buffers {
    pub fn new(search: &Search<'_>) -> Self {
        let n = if search.sketches.iter().any(Option::is_some) {
            search.queries.len().min(search.kernel.n_together())
        } else {
            0
        };
        Self {
            limits: Vec::new(),
            hits: vec![Vec::new(); n],
            keep: Vec::new(),
        }
    }
}

/// The queries as they meet the sketches of a shard, `None` when it has none.
pub(super) fn of(simd: Simd, shard: &FlatShard, queries: &Queries) -> Option<Vec<QuerySketch>> {
    let sketches = shard.sketches()?;
    let mut coordinates = Coordinates::default();
    let projected = sketches
        .projection
        .project(simd, &queries.values, &mut coordinates);
    let of_query = |query| QuerySketch::new(simd, sketches, queries.metric, query);
    Some(projected.map(of_query).collect())
}

impl Scan<'_> {
    /// Offers the rows of a span to every query; false when they are better read themselves. With a filter, `passing` has those
    /// that pass.
    pub(super) fn offer_sketches(
        &mut self,
        shard: usize,
        rows: Range<usize>,
        passing: Option<&[u32]>,
    ) -> bool {
        let search = self.search;
        let (Some(queries), shard) = (&search.sketches[shard], &search.spans.shards[shard]) else {
            return false;
        };
        let Some(sketches) = shard.sketches() else {
            return false;
        };
        let Buffers { limits, hits, keep } = &mut self.sketches;
        keep.clear();
        if let Some(passing) = passing {
            keep.resize(rows.len().div_ceil(LANES), 0);
            for ordinal in passing {
                let i = (ordinal - shard.first_ordinal()) as usize - rows.start;
                keep[i / LANES] |= 1 << (i % LANES);
            }
        } else {
            let rest = rows.len() % LANES;
            keep.resize(rows.len() / LANES, u16::MAX);
            keep.extend((rest > 0).then(|| (1 << rest) - 1));
        }
        let heads = shard.heads(sketches, rows.clone());
        let n_blocks = keep.iter().filter(|&&keep| keep != 0).count();
        if let Some(passing) = passing
            && n_blocks < keep.len()
        {
            let block_bytes = sketches.layout.block_bytes();
            let row_bytes = shard.config().row_type.row_bytes(shard.width());
            if passing.len() * row_bytes < n_blocks * block_bytes {
                return false;
            }
            // No processor guesses which blocks are next.
            let blocks = heads.chunks(block_bytes).zip(&*keep);
            let blocks = blocks.filter(|&(_, &keep)| keep != 0);
            blocks.for_each(|(block, _)| fetch(block));
        }
        let first = shard.first_ordinal() + rows.start as u32;
        let n_together = search.kernel.n_together();
        for start in (0..queries.len()).step_by(n_together) {
            let group = start..queries.len().min(start + n_together);
            // The first rows of all are few, so that there is a limit for the next.
            let (mut from, mut n_blocks) = (0, FIRST_BLOCKS);
            while from < keep.len() {
                limits.clear();
                let reached = search.best[group.clone()].iter().map(Best::reached);
                let sketches_of_group = &queries[group.clone()];
                limits.extend(
                    sketches_of_group
                        .iter()
                        .zip(reached)
                        .map(|(query, reached)| query.limit(reached)),
                );
                if limits.iter().all(|&limit| limit > f32::NEG_INFINITY) {
                    n_blocks = keep.len();
                }
                let to = keep.len().min(from + n_blocks);
                let stride = sketches.layout.block_bytes();
                let span = Span {
                    layout: sketches.layout,
                    heads: &heads[from * stride..to * stride],
                    keep: &keep[from..to],
                    first_row: first + (from * LANES) as u32,
                };
                let hits = &mut hits[..group.len()];
                search.kernel.scan(&span, sketches_of_group, limits, hits);
                for (query, hits) in group.clone().zip(hits) {
                    let found = &mut self.found[query];
                    found.work.heads += ((to - from) * LANES) as u64;
                    let pending = hits.drain(..).map(|hit| Pending {
                        bound: queries[query].score(hit.bound),
                        estimate: queries[query].score(hit.product),
                        product: hit.product,
                        ordinal: hit.row,
                    });
                    found.pending.extend(pending);
                    if found.pending.len() > found.n_settled_at {
                        found.settle_best(search, query);
                    }
                }
                (from, n_blocks) = (to, 2 * n_blocks);
            }
        }
        true
    }
}

impl Found {
    /// Gives their scores to the `k` pending rows that promise most, and drops those that are ruled out by what is then
    /// known.
    fn settle_best(&mut self, search: &Search<'_>, query: usize) {
        let k = search.k;
        if self.pending.len() > k {
            self.pending
                .select_nth_unstable_by(k - 1, |a, b| b.estimate.total_cmp(&a.estimate));
            // Those whose tail would have to lift them wait for it.
            let reached = search.best[query].reached();
            let promises = |row: &Pending| reached.is_none_or(|reached| row.estimate >= reached);
            let best: Vec<u32> = self
                .pending
                .extract_if(..k, |row| promises(row))
                .map(|row| row.ordinal)
                .collect();
            best.iter().for_each(|&ordinal| search.fetch_row(ordinal));
            for ordinal in best {
                self.offer_stored(search, query, ordinal);
            }
            let reached = search.best[query].reached();
            self.pending
                .retain(|row| reached.is_none_or(|reached| row.bound >= reached));
            if self.pending.len() > MAX_PENDING {
                self.settle(search, query);
            }
        }
        self.n_settled_at = (2 * self.pending.len() + PENDING).saturating_add(k.saturating_mul(4));
    }

    /// Gives its score to every row that is not ruled out, those with the highest bounds first.
    pub(super) fn settle(&mut self, search: &Search<'_>, query: usize) {
        let mut refined = self.refine(search, query);
        refined.sort_unstable_by(|a, b| b.bound.total_cmp(&a.bound));
        for (i, &Refined { bound, ordinal }) in refined.iter().enumerate() {
            if search.best[query]
                .reached()
                .is_some_and(|reached| bound < reached)
            {
                break;
            }
            if let Some(ahead) = refined.get(i + FETCHED_ROWS) {
                search.fetch_row(ahead.ordinal);
            }
            self.offer_stored(search, query, ordinal);
        }
    }

    fn offer_stored(&mut self, search: &Search<'_>, query: usize, ordinal: u32) {
        let (_, shard) = search.shard(ordinal);
        let i = (ordinal - shard.first_ordinal()) as usize;
        let mut decoded = mem::take(&mut self.decoded);
        let row = shard.rows().read(i, &mut decoded);
        self.offer(search, query, ordinal, row.unwrap_or(&decoded));
        self.decoded = decoded;
    }

    /// Reads the tails of the pending rows, and returns those that are not ruled out.
    fn refine(&mut self, search: &Search<'_>, query: usize) -> Vec<Refined> {
        let mut refined = Vec::new();
        let reached = search.best[query].reached();
        let is_in = |bound: f32| reached.is_none_or(|reached| bound >= reached);
        self.pending.retain(|row| is_in(row.bound));
        self.work.tails += self.pending.len() as u64;
        let tail = |row: &Pending| {
            let (i, shard) = search.shard(row.ordinal);
            let sketches = shard.sketches().expect("the row is pending for its sketch");
            (
                i,
                shard.tail(sketches, (row.ordinal - shard.first_ordinal()) as usize),
            )
        };
        for (i, row) in self.pending.iter().enumerate() {
            if let Some(ahead) = self.pending.get(i + FETCHED_TAILS) {
                fetch(tail(ahead).1);
            }
            let &Pending {
                mut bound,
                product,
                ordinal,
                ..
            } = row;
            if let (shard, Some((codes, step))) = (tail(row).0, tail(row).1.split_last_chunk())
                && bound < f32::INFINITY
            {
                let sketches = search.sketches[shard].as_ref();
                let query = &sketches.expect("the row is pending for its sketch")[query];
                let sum = dot(search.simd, codes, &query.tail.codes, query.tail.start);
                bound = query.score(query.refine(product, f32::from_le_bytes(*step), sum));
            }
            if is_in(bound) {
                refined.push(Refined { bound, ordinal });
            }
        }
        self.pending.clear();
        refined
    }
}

/// A row that its tail has not ruled out.
struct Refined {
    /// No lower than its score.
    bound: f32,
    ordinal: u32,
}

impl Search<'_> {
    /// The shard that an ordinal is in, and its number.
    fn shard(&self, ordinal: u32) -> (usize, &FlatShard) {
        let shards = self.spans.shards;
        let i = shards.partition_point(|shard| shard.end_ordinal() <= ordinal.into());
        (i, &shards[i])
    }

    /// Asks for a row before it is needed.
    fn fetch_row(&self, ordinal: u32) {
        let (_, shard) = self.shard(ordinal);
        fetch(
            shard
                .rows()
                .stored((ordinal - shard.first_ordinal()) as usize),
        );
    }
}
