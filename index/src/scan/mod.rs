//! Exact flat search: a fast first pass rules rows out, the defined score decides among the rest.
//!
//! The defined [`score`](crate::score) accumulates in `f64`. That is too slow for every row, so a row is *skipped*
//! when something cheaper proves that it cannot be among the `k` best: its sketch, a fraction of its bytes
//! ([`sketch`](crate::sketch) has the proof), or, in a shard without sketches, its score in `f32` ([`rows`] has the
//! proof). Both look at all queries at once.
//!
//! What the head of a sketch cannot rule out is pending until there is more to know: now and then the rows that promise most get
//! their defined scores, and the `k`-th best of those rules out others. At the end tails are read, and the rows that
//! they cannot rule out either, those with the highest bounds first. Memory is O(k) per query and thread, whatever the rows
//! are: when too many rows tie, they are scored.

mod rows;
mod sketches;

use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use compute::Simd;
use rayon::prelude::*;

pub(crate) use rows::{gamma, upper_norm};

use crate::metric::score_with;
use crate::neighbor::{Neighbor, TopK};
use crate::search::{Bitmap, SearchError, SearchParams, Work, prepare_queries};
use crate::shard::{BLOCK_ROWS, FlatShard};
use crate::sketch::{Kernel, QuerySketch};
use crate::{Metric, VectorIndex};

/// Rows that a thread takes at once: their sketches stay in a core's cache while all queries pass.
const SPAN_ROWS: usize = 4 * BLOCK_ROWS;
/// Where few rows pass a filter, a thread takes more at once, so that about so many of them pass, but not more than
/// [`MAX_SPANS`] times as many.
const SPAN_PASSING: usize = 64;
const MAX_SPANS: usize = 64;

/// Searches the shards as one. They agree on width and metric; there is at least one.
pub(crate) fn search(
    shards: &[FlatShard],
    queries: &[f32],
    k: usize,
    filter: Option<&Bitmap>,
    params: &SearchParams,
) -> Result<(Vec<Vec<Neighbor>>, Work), SearchError> {
    let (width, metric) = (shards[0].width(), shards[0].metric());
    let queries = Queries::new(prepare_queries(queries, width, metric)?, width, metric);
    if k == 0 || queries.len() == 0 {
        return Ok((vec![Vec::new(); queries.len()], Work::default()));
    }
    let simd = params.simd.unwrap_or_else(Simd::detect);
    let search = Search {
        spans: Spans::new(shards, filter),
        sketches: shards
            .iter()
            .map(|shard| sketches::of(simd, shard, &queries))
            .collect(),
        best: queries.norms.iter().map(|_| Best::new(k)).collect(),
        simd,
        kernel: Kernel::of(simd),
        queries,
        filter,
        k,
    };
    let n_threads = params
        .threads
        .map_or_else(rayon::current_num_threads, |threads| threads.get());
    let n_threads = n_threads.clamp(1, search.spans.len().max(1));

    // Threads take the next span when they are done with one; which thread sees which span does not matter,
    // because the k best of all rows do not depend on the order in which they are offered.
    let next = AtomicUsize::new(0);
    let is_late = AtomicBool::new(false);
    let scan = |_thread: usize| {
        let mut scan = Scan::new(&search);
        while let Some((shard, rows)) = search.spans.get(next.fetch_add(1, Ordering::Relaxed)) {
            if params.is_late() {
                is_late.store(true, Ordering::Relaxed);
                break;
            }
            scan.offer(shard, rows);
        }
        scan.finish()
    };
    let work = if n_threads == 1 {
        scan(0)
    } else {
        (0..n_threads)
            .into_par_iter()
            .with_max_len(1)
            .map(scan)
            .reduce(Work::default, |mut work, more| {
                work += more;
                work
            })
    };
    if is_late.into_inner() {
        return Err(SearchError::DeadlineExceeded);
    }
    Ok((
        search.best.into_iter().map(Best::into_ranking).collect(),
        work,
    ))
}

/// What all threads of a search share.
struct Search<'a> {
    spans: Spans<'a>,
    queries: Queries,
    /// For each shard that has sketches, the queries as they meet them.
    sketches: Vec<Option<Vec<QuerySketch>>>,
    /// By query.
    best: Vec<Best>,
    simd: Simd,
    /// What compares sketches.
    kernel: Kernel,
    filter: Option<&'a Bitmap>,
    k: usize,
}

/// The spans of all shards, numbered through.
struct Spans<'a> {
    shards: &'a [FlatShard],
    n_rows: usize,
    /// For each shard, the number of spans up to its end.
    ends: Vec<usize>,
}

impl<'a> Spans<'a> {
    fn new(shards: &'a [FlatShard], filter: Option<&Bitmap>) -> Self {
        let n_all: usize = shards.iter().map(FlatShard::len).sum();
        let passing = filter.map_or(n_all as u64, Bitmap::len).max(1) as usize;
        let n_spans = SPAN_PASSING * n_all / passing / SPAN_ROWS;
        let n_rows = SPAN_ROWS * n_spans.clamp(1, MAX_SPANS);
        let ends = shards.iter().scan(0, |end, shard| {
            *end += shard.len().div_ceil(n_rows);
            Some(*end)
        });
        Self {
            shards,
            n_rows,
            ends: ends.collect(),
        }
    }

    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The number of the shard and the rows of a span, `None` past the last one.
    fn get(&self, span: usize) -> Option<(usize, Range<usize>)> {
        let i = self.ends.partition_point(|&end| end <= span);
        let shard = self.shards.get(i)?;
        let first = if i == 0 { 0 } else { self.ends[i - 1] };
        let start = (span - first) * self.n_rows;
        Some((i, start..shard.len().min(start + self.n_rows)))
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

/// The `k` best rows that any thread has given their scores.
struct Best {
    kept: Mutex<TopK>,
    /// The score to reach, read without waiting; it only rises.
    reached: AtomicI32,
}

impl Best {
    fn new(k: usize) -> Self {
        Self {
            kept: Mutex::new(TopK::new(k)),
            reached: AtomicI32::new(i32::MIN), // a NaN, which is no score
        }
    }

    /// The score of the `k`-th best, once there are `k`.
    fn reached(&self) -> Option<f32> {
        match self.reached.load(Ordering::Relaxed) {
            i32::MIN => None,
            key => Some(f32::from_bits(ordered(key).cast_unsigned())),
        }
    }

    /// Keeps the neighbor if it is among the `k` best; true when it is.
    fn offer(&self, neighbor: Neighbor) -> bool {
        if self
            .reached()
            .is_some_and(|reached| neighbor.score < reached)
        {
            return false;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_best = kept.offer(neighbor);
        if is_best && let Some(reached) = kept.threshold() {
            let key = ordered(reached.to_bits().cast_signed());
            self.reached.store(key, Ordering::Relaxed);
        }
        is_best
    }

    fn into_ranking(self) -> Vec<Neighbor> {
        let kept = self.kept.into_inner();
        kept.unwrap_or_else(PoisonError::into_inner).into_ranking()
    }
}

/// The bits of an `f32` as an integer of the same order, and back.
fn ordered(bits: i32) -> i32 {
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

/// The work of one thread.
struct Scan<'a> {
    search: &'a Search<'a>,
    /// By query.
    found: Vec<Found>,
    /// Of a span, kept to save allocations.
    passing: Vec<u32>,
    rows: rows::Buffers,
    sketches: sketches::Buffers,
}

impl<'a> Scan<'a> {
    fn new(search: &'a Search<'a>) -> Self {
        Self {
            search,
            found: vec![Found::default(); search.queries.len()],
            passing: Vec::new(),
            rows: rows::Buffers::default(),
            sketches: sketches::Buffers::new(search),
        }
    }

    /// Offers the rows of a span to every query.
    fn offer(&mut self, shard: usize, rows: Range<usize>) {
        let first = self.search.spans.shards[shard].first_ordinal();
        let all = first + rows.start as u32..=first + (rows.end - 1) as u32; // a shard ends within u32
        let mut buffer = mem::take(&mut self.passing);
        let passing = self.search.filter.map(|filter| {
            buffer.resize(self.search.spans.n_rows, 0);
            &*filter.range(all.clone()).next_many(&mut buffer)
        });
        if passing != Some(&[]) && !self.offer_sketches(shard, rows, passing) {
            match passing {
                Some(passing) => self.offer_rows(shard, passing),
                None => self.offer_rows(shard, &all.collect::<Vec<u32>>()),
            }
        }
        self.passing = buffer;
    }

    fn finish(mut self) -> Work {
        let mut work = Work::default();
        for (query, found) in self.found.iter_mut().enumerate() {
            found.settle(self.search, query);
            work += found.work;
        }
        work
    }
}

/// What one thread has found for one query.
#[derive(Clone, Debug, Default)]
struct Found {
    /// Rows that their heads have not ruled out.
    pending: Vec<Pending>,
    /// When more rows are pending, some of them are settled.
    n_settled_at: usize,
    /// A row of a type that is not read where it is.
    decoded: Vec<f32>,
    work: Work,
}

/// A row that its head has not ruled out.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// No lower than its score.
    bound: f32,
    /// What the head says of it, without the tail: as a score, and as in [`Hit`](crate::sketch::Hit).
    estimate: f32,
    product: f32,
    ordinal: u32,
}

impl Found {
    /// Gives a row its defined score and keeps it if it is among the best; true when it is.
    fn offer(&mut self, search: &Search<'_>, query: usize, ordinal: u32, row: &[f32]) -> bool {
        let queries = &search.queries;
        let values = queries.values(query..query + 1);
        let score = score_with(search.simd, queries.metric, row, values);
        self.work.scored += 1;
        search.best[query].offer(Neighbor { ordinal, score })
    }
}

/// Asks for the cache lines of values before they are needed.
fn fetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the architecture, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
