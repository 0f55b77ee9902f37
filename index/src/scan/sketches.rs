//! The first pass over sketches.

use std::ops::Range;

use compute::Simd;

use super::{Found, Pending, Queries, SPAN_ROWS, Scan, Search, offer};
use crate::Bitmap;
use crate::shard::FlatShard;
use crate::sketch::{Hit, Kernel, LANES, QuerySketch, Span};

/// Queries that pass a span together: their codes and their hits stay in a core's cache.
const GROUP_QUERIES: usize = 60;
/// Where fewer rows of a span pass the filter than this part of a sketch's bytes, they are read themselves.
const BYTES_PER_ROW_READ: usize = 2048;
/// Rows, beside some for each of the `k`, that may wait for their score before the best of them get it.
const PENDING: usize = 256;
/// Rows that wait at most, before all of them are scored.
const MAX_PENDING: usize = 1 << 14;
/// Rows that are fetched from memory ahead of their turn.
const FETCHED: usize = 4;

/// Kept to save allocations.
pub(super) struct Buffers {
    limits: Vec<f32>,
    hits: Vec<Vec<Hit>>,
    keep: Vec<u16>,
}

impl Buffers {
    pub fn new(search: &Search<'_>) -> Self {
        let n = if search.sketches.iter().any(Option::is_some) {
            search.queries.len().min(GROUP_QUERIES)
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
    let (sketches, _) = shard.sketches()?;
    let of_query = |query: &[f32]| QuerySketch::new(simd, sketches, queries.metric, query);
    Some(
        queries
            .values
            .chunks_exact(queries.width)
            .map(of_query)
            .collect(),
    )
}

impl Scan<'_> {
    /// Offers the rows of a span to every query; false when they are better read themselves.
    pub(super) fn offer_sketches(&mut self, shard: usize, rows: Range<usize>) -> bool {
        let search = self.search;
        let (Some(queries), shard) = (&search.sketches[shard], &search.spans.shards[shard]) else {
            return false;
        };
        let Some((sketches, blocks)) = shard.sketches() else {
            return false;
        };
        let Buffers { limits, hits, keep } = &mut self.sketches;
        let n_kept = keep_rows(keep, shard, rows.clone(), search.filter);
        let stride = sketches.layout.block_bytes();
        if n_kept * BYTES_PER_ROW_READ < keep.len() * stride {
            return false;
        }
        let first = rows.start / LANES * stride;
        let span = Span {
            layout: sketches.layout,
            blocks: &blocks[first..first + keep.len() * stride],
            keep,
            first_row: shard.first_ordinal() + rows.start as u32,
        };
        for start in (0..queries.len()).step_by(GROUP_QUERIES) {
            let group = start..queries.len().min(start + GROUP_QUERIES);
            limits.clear();
            limits.extend(
                group
                    .clone()
                    .map(|query| queries[query].limit(search.reached[query].get())),
            );
            let hits = &mut hits[..group.len()];
            Kernel::of(search.simd).scan(&span, &queries[group.clone()], limits, hits);
            for (query, hits) in group.zip(hits) {
                let found = &mut self.found[query];
                let pending = hits.drain(..).map(|hit| Pending {
                    bound: queries[query].score(hit.bound),
                    ordinal: hit.row,
                });
                found.pending.extend(pending);
                if found.pending.len() > found.n_settled_at {
                    found.settle_best(search, query);
                }
            }
        }
        true
    }
}

impl Found {
    /// Scores the pending rows with the `k` highest bounds, and drops those that are ruled out by what is then known.
    fn settle_best(&mut self, search: &Search<'_>, query: usize) {
        let k = search.k;
        if self.pending.len() > k {
            self.pending
                .select_nth_unstable_by(k - 1, |a, b| b.bound.total_cmp(&a.bound));
            for Pending { ordinal, .. } in self.pending.drain(..k) {
                offer(search, query, &mut self.best, ordinal, search.row(ordinal));
            }
            let reached = search.reached[query].get();
            self.pending
                .retain(|pending| reached.is_none_or(|reached| pending.bound >= reached));
            if self.pending.len() > MAX_PENDING {
                self.settle(search, query);
            }
        }
        self.n_settled_at = 2 * self.pending.len() + PENDING + 4 * k;
    }

    /// Scores every pending row that is not ruled out, those with the highest bounds first.
    pub(super) fn settle(&mut self, search: &Search<'_>, query: usize) {
        self.pending
            .sort_unstable_by(|a, b| b.bound.total_cmp(&a.bound));
        for (i, &Pending { bound, ordinal }) in self.pending.iter().enumerate() {
            if search.reached[query]
                .get()
                .is_some_and(|reached| bound < reached)
            {
                break;
            }
            if let Some(ahead) = self.pending.get(i + FETCHED) {
                fetch(search.row(ahead.ordinal));
            }
            offer(search, query, &mut self.best, ordinal, search.row(ordinal));
        }
        self.pending.clear();
    }
}

impl Search<'_> {
    /// The row of an ordinal that a shard has.
    fn row(&self, ordinal: u32) -> &[f32] {
        let shards = self.spans.shards;
        let i = shards.partition_point(|shard| shard.end_ordinal() <= ordinal.into());
        shards[i].row((ordinal - shards[i].first_ordinal()) as usize)
    }
}

/// Sets, for each block of 16 rows, the bits of those that pass the filter; returns how many do.
fn keep_rows(
    keep: &mut Vec<u16>,
    shard: &FlatShard,
    rows: Range<usize>,
    filter: Option<&Bitmap>,
) -> usize {
    debug_assert!(rows.start.is_multiple_of(SPAN_ROWS));
    keep.clear();
    let Some(filter) = filter else {
        keep.resize(rows.len() / LANES, u16::MAX);
        let rest = rows.len() % LANES;
        if rest > 0 {
            keep.push((1 << rest) - 1);
        }
        return rows.len();
    };
    keep.resize(rows.len().div_ceil(LANES), 0);
    let first = shard.first_ordinal() + rows.start as u32;
    let mut n = 0;
    for ordinal in filter.range(first..=first + (rows.len() - 1) as u32) {
        let i = (ordinal - first) as usize;
        keep[i / LANES] |= 1 << (i % LANES);
        n += 1;
    }
    n
}

/// Asks for a row's cache lines before they are needed.
fn fetch(row: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in row.chunks(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the architecture, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = row;
}
