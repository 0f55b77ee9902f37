//! The kernel on tiles of AMX: heads of 16 rows against 16 queries in one instruction.
//!
//! A block's codes lie as the tile of B is read, a word of four coordinates of each of its 16 rows to a line. Codes of queries
//! are packed as tiles of A; two tiles of them meet two blocks, so that four products take four loads:
//!
//! ```text
//!                                  B: 16 words of 16 rows
//!                                  ┌──────┬──────┐
//!                                  │ tmm6 │ tmm7 │
//!                        ┌──────┐  ├──────┼──────┤
//! A: 16 queries          │ tmm4 │  │ tmm0 │ tmm1 │
//! of 64 coordinates      ├──────┤  ├──────┼──────┤
//!                        │ tmm5 │  │ tmm2 │ tmm3 │
//!                        └──────┘  └──────┴──────┘
//! ```
//!
//! Where the coordinates do not divide by 64, the last step goes back as far as it must to be a whole one, over codes of the
//! block that were summed before; A has zeros for them. So nothing outside a block is read, and tiles keep their shape.
//!
//! No machine with AMX was at hand: tests emulate its instructions, the speed is not measured.

use std::arch::x86_64::{_mm512_add_epi32, _mm512_loadu_si512, _mm512_set1_epi32};

use compute::tile::{SIDE, Shape, Tiles, dot_i8_u8, load, store, zero};

use super::avx::{Numbers, vnni};
use super::{Hit, LANES, Layout, QuerySketch, Span};

/// Fewer queries are left to VNNI: a product of tiles takes as long for them as for 16.
const MIN_QUERIES: usize = 8;

/// A row of a tile.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([i8; 4 * SIDE]);

/// Sums of 16 queries with a block.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[i32; LANES]; SIDE]);

/// How a head is cut along its coordinates.
#[derive(Clone, Copy)]
struct Steps {
    n: usize,
    /// Words of a step, all that there are or [`SIDE`].
    words: usize,
    n_groups: usize,
}

impl Steps {
    fn of(layout: Layout) -> Self {
        let n_groups = layout.n_groups();
        Self {
            n: n_groups.div_ceil(SIDE),
            words: n_groups.min(SIDE),
            n_groups,
        }
    }

    /// The word that a step begins with.
    fn first_word(self, step: usize) -> usize {
        (step * SIDE).min(self.n_groups - self.words)
    }

    fn shapes(self) -> [Shape; 8] {
        let words = self.words;
        std::array::from_fn(|tile| match tile {
            0..4 => Shape {
                rows: SIDE,
                words: LANES,
            },
            4..6 => Shape { rows: SIDE, words },
            _ => Shape {
                rows: words,
                words: LANES,
            },
        })
    }

    /// The codes of queries as tiles of A: by 16 queries, by step.
    fn pack(self, queries: &[QuerySketch]) -> Vec<Line> {
        let n_tiles = queries.len().div_ceil(SIDE);
        let mut lines = vec![Line([0; 4 * SIDE]); n_tiles * self.n * SIDE];
        for (tiles, queries) in lines
            .chunks_exact_mut(self.n * SIDE)
            .zip(queries.chunks(SIDE))
        {
            for (step, tile) in tiles.chunks_exact_mut(SIDE).enumerate() {
                let (new, end) = (step * SIDE, self.n_groups.min((step + 1) * SIDE));
                let skipped = new - self.first_word(step);
                for (line, query) in tile.iter_mut().zip(queries) {
                    let codes = &query.codes[4 * new..4 * end];
                    line.0[4 * skipped..][..codes.len()].copy_from_slice(codes);
                }
            }
        }
        lines
    }
}

/// As [`Kernel::scan`](super::Kernel::scan).
///
/// # Safety
/// The machine has AVX-512 VNNI and tiles of 8-bit integers, which this process may use; blocks and queries have the shape of
/// the layout, each query has a limit and hits.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn scan(
    span: &Span<'_>,
    queries: &[QuerySketch],
    limits: &[f32],
    hits: &mut [Vec<Hit>],
) {
    let rest = queries.len() % SIDE;
    let n_tiled = queries.len() - if rest < MIN_QUERIES { rest } else { 0 };
    let (tiled_hits, other_hits) = hits.split_at_mut(n_tiled);
    if n_tiled > 0 {
        let (queries, limits) = (&queries[..n_tiled], &limits[..n_tiled]);
        // SAFETY: as the caller promises.
        unsafe {
            match span.layout.has_squares {
                true => tiled::<true>(span, queries, limits, tiled_hits),
                false => tiled::<false>(span, queries, limits, tiled_hits),
            }
        }
    }
    vnni(span, &queries[n_tiled..], &limits[n_tiled..], other_hits);
}

/// All blocks for all queries, two blocks at a time: their codes and those of the queries stay in the first cache.
///
/// # Safety
/// As [`scan`].
#[inline(always)]
unsafe fn tiled<const SQUARES: bool>(
    span: &Span<'_>,
    queries: &[QuerySketch],
    limits: &[f32],
    hits: &mut [Vec<Hit>],
) {
    let steps = Steps::of(span.layout);
    let lines = steps.pack(queries);
    let mut sums = [Sums([[0; LANES]; SIDE]); 4];
    let mut tiles = Tiles::default();
    // SAFETY: the caller's machine has tiles.
    unsafe { tiles.configure(steps.shapes()) };
    for first in (0..span.keep.len()).step_by(2) {
        let blocks = first..span.keep.len().min(first + 2);
        if span.keep[blocks.clone()].iter().all(|&keep| keep == 0) {
            continue;
        }
        for (pair, lines) in lines.chunks(2 * steps.n * SIDE).enumerate() {
            let n_tiles = lines.len() / (steps.n * SIDE);
            // SAFETY: the tiles are configured for the steps; there are as many tiles of A, and blocks, as is said.
            unsafe {
                match (n_tiles, blocks.len()) {
                    (2, 2) => sum::<2, 2>(span, first, steps, lines, &mut sums),
                    (2, _) => sum::<2, 1>(span, first, steps, lines, &mut sums),
                    (_, 2) => sum::<1, 2>(span, first, steps, lines, &mut sums),
                    _ => sum::<1, 1>(span, first, steps, lines, &mut sums),
                }
            }
            for block in blocks.clone() {
                // SAFETY: as the caller promises, and the block is there.
                let numbers = unsafe { Numbers::of(span, block) };
                let in_pair = 2 * SIDE * pair..queries.len().min(2 * SIDE * (pair + 1));
                for (i, q) in in_pair.enumerate() {
                    let sums = &sums[i / SIDE * 2 + block - first].0[i % SIDE];
                    // SAFETY: as the caller promises; 16 sums are a register.
                    unsafe {
                        let sums = _mm512_loadu_si512(sums.as_ptr().cast());
                        let sums = _mm512_add_epi32(sums, _mm512_set1_epi32(queries[q].start));
                        numbers.offer::<SQUARES>(sums, &queries[q], limits[q], &mut hits[q]);
                    }
                }
            }
        }
    }
}

/// The sums of `TALL` tiles of A with `WIDE` blocks from `first` on, by tile of A, two each.
///
/// # Safety
/// The tiles are configured for the steps, and the blocks are in the span.
#[inline(always)]
unsafe fn sum<const TALL: usize, const WIDE: usize>(
    span: &Span<'_>,
    first: usize,
    steps: Steps,
    lines: &[Line],
    sums: &mut [Sums; 4],
) {
    let stride = span.layout.block_bytes();
    assert!(lines.len() == TALL * steps.n * SIDE && first + WIDE <= span.keep.len());
    // SAFETY: as the caller promises. A step's words lie within its block's codes, each tile of A has all steps, and sums
    // are stored where 16 rows of 16 are.
    unsafe {
        let a = lines.as_ptr().cast::<u32>();
        let codes = span.heads.as_ptr();
        let codes = codes.add(first * stride + span.layout.codes_at());
        zero::<0>();
        zero::<1>();
        zero::<2>();
        zero::<3>();
        for step in 0..steps.n {
            let b = codes.add(4 * LANES * steps.first_word(step)).cast::<u32>();
            let a = a.add(step * SIDE * SIDE);
            load::<6>(b, LANES);
            load::<4>(a, SIDE);
            dot_i8_u8::<0, 4, 6>();
            if WIDE > 1 {
                load::<7>(b.byte_add(stride), LANES);
                dot_i8_u8::<1, 4, 7>();
            }
            if TALL > 1 {
                load::<5>(a.add(steps.n * SIDE * SIDE), SIDE);
                dot_i8_u8::<2, 5, 6>();
                if WIDE > 1 {
                    dot_i8_u8::<3, 5, 7>();
                }
            }
        }
        let [s0, s1, s2, s3] = sums
            .each_mut()
            .map(|sums| sums.0.as_mut_ptr().cast::<u32>());
        store::<0>(s0, LANES);
        if WIDE > 1 {
            store::<1>(s1, LANES);
        }
        if TALL > 1 {
            store::<2>(s2, LANES);
            if WIDE > 1 {
                store::<3>(s3, LANES);
            }
        }
    }
}
