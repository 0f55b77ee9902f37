//! The kernels on registers of AVX2, and of AVX-512 with VNNI.

use std::arch::x86_64::*;
use std::array;

use super::kernel::{dot_portable, finish, push};
use super::{Hit, LANES, QuerySketch, Span};

/// Sums of products of 8 bits as of 16: two rows' worth of a register at a time, since `vpmaddubsw` would saturate.
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2(
    span: &Span<'_>,
    queries: &[QuerySketch],
    limits: &[f32],
    hits: &mut [Vec<Hit>],
) {
    let layout = span.layout;
    let blocks = span.heads.chunks_exact(layout.block_bytes()).zip(span.keep);
    for ((block, &keep), first_row) in blocks.zip((span.first_row..).step_by(LANES)) {
        if keep == 0 {
            continue;
        }
        let (codes, _) = block[layout.codes_at()..].as_chunks::<{ 4 * LANES }>();
        for ((query, &limit), hits) in queries.iter().zip(limits).zip(&mut *hits) {
            let zero = _mm256_setzero_si256();
            // By half of the block; then rows 0, 1, 4, 5 of the half, and rows 2, 3, 6, 7, each in two parts.
            let mut parts = [[zero; 2]; 2];
            for (codes, query) in codes.iter().zip(query.codes.as_chunks::<4>().0) {
                let query = _mm256_cvtepi8_epi16(_mm_set1_epi32(i32::from_le_bytes(
                    query.map(i8::cast_unsigned),
                )));
                for (parts, codes) in parts.iter_mut().zip(codes.as_chunks::<32>().0) {
                    // SAFETY: 32 bytes are there; the load needs no alignment.
                    let codes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
                    let (low, high) = (
                        _mm256_unpacklo_epi8(codes, zero),
                        _mm256_unpackhi_epi8(codes, zero),
                    );
                    parts[0] = _mm256_add_epi32(parts[0], _mm256_madd_epi16(low, query));
                    parts[1] = _mm256_add_epi32(parts[1], _mm256_madd_epi16(high, query));
                }
            }
            let start = _mm256_set1_epi32(query.start);
            let halves =
                parts.map(|[low, high]| _mm256_add_epi32(_mm256_hadd_epi32(low, high), start));
            // SAFETY: 64 bytes of integers are 64 bytes of integers.
            let sums: [i32; LANES] = unsafe { std::mem::transmute(halves) };
            let (mask, bounds, products) = finish(layout, block, &sums, query, limit);
            push(hits, mask & keep, &bounds, &products, first_row);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn dot_vnni(codes: &[u8], query: &[i8], start: i32) -> i32 {
    let mut sums = _mm512_setzero_si512();
    for at in (0..query.len()).step_by(64) {
        let mask = u64::MAX >> 64_usize.saturating_sub(query.len() - at);
        // SAFETY: the lanes of the mask are there, `codes` being no shorter than `query`.
        unsafe {
            let c = _mm512_maskz_loadu_epi8(mask, codes.as_ptr().add(at).cast());
            let q = _mm512_maskz_loadu_epi8(mask, query.as_ptr().add(at));
            sums = _mm512_dpbusd_epi32(sums, c, q);
        }
    }
    start.wrapping_add(_mm512_reduce_add_epi32(sums))
}

/// The compiler makes of the loop what AVX2 has.
#[target_feature(enable = "avx2,fma")]
pub(super) fn dot_avx2(codes: &[u8], query: &[i8], start: i32) -> i32 {
    dot_portable(codes, query, start)
}

/// Queries whose sums stay in registers together; with four blocks, 24 of the 32.
const QUERIES: usize = 6;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn vnni(
    span: &Span<'_>,
    queries: &[QuerySketch],
    limits: &[f32],
    hits: &mut [Vec<Hit>],
) {
    let mut at = 0;
    while at < queries.len() {
        let n = QUERIES.min(queries.len() - at);
        let group = (
            &queries[at..at + n],
            &limits[at..at + n],
            &mut hits[at..at + n],
        );
        // SAFETY: this function has the instructions, and the caller checked the lengths.
        unsafe {
            match (n, span.layout.has_squares) {
                (1, false) => blocks::<1, 8, false>(span, group),
                (2, false) => blocks::<2, 8, false>(span, group),
                (3, false) => blocks::<3, 4, false>(span, group),
                (4, false) => blocks::<4, 4, false>(span, group),
                (5, false) => blocks::<5, 4, false>(span, group),
                (_, false) => blocks::<6, 4, false>(span, group),
                (1, true) => blocks::<1, 8, true>(span, group),
                (2, true) => blocks::<2, 8, true>(span, group),
                (3, true) => blocks::<3, 4, true>(span, group),
                (4, true) => blocks::<4, 4, true>(span, group),
                (5, true) => blocks::<5, 4, true>(span, group),
                (_, true) => blocks::<6, 4, true>(span, group),
            }
        }
        at += n;
    }
}

/// Repeats a block for every number below a constant, so that arrays of registers are indexed by constants alone: a loop that
/// the compiler left rolled would keep them in memory.
macro_rules! unrolled {
    ($i:ident < $n:expr, $block:block) => {
        unrolled!($i < $n, $block, 0, 1, 2, 3, 4, 5, 6, 7)
    };
    ($i:ident < $n:expr, $block:block, $($number:literal),*) => {
        $(if $number < $n {
            const $i: usize = $number;
            $block
        })*
    };
}

type Group<'a> = (&'a [QuerySketch], &'a [f32], &'a mut [Vec<Hit>]);

/// All blocks that have a row to find, for `Q` queries, `B` at a time.
///
/// # Safety
/// The machine has AVX-512 VNNI; blocks and queries have the shape of the layout.
#[inline(always)]
unsafe fn blocks<const Q: usize, const B: usize, const SQUARES: bool>(
    span: &Span<'_>,
    group: Group<'_>,
) {
    let (queries, limits, hits) = group;
    let (mut chosen, mut n) = ([0; B], 0);
    // SAFETY: as the caller promises; what is chosen are blocks of the span.
    unsafe {
        for (block, &keep) in span.keep.iter().enumerate() {
            chosen[n] = block;
            n += usize::from(keep != 0);
            if n == B {
                tile::<Q, B, SQUARES>(span, chosen, queries, limits, hits);
                n = 0;
            }
        }
        for &block in &chosen[..n] {
            tile::<Q, 1, SQUARES>(span, [block], queries, limits, hits);
        }
    }
}

/// # Safety
/// As [`blocks`]; the blocks are in the span, and there are `Q` queries.
#[inline(always)]
unsafe fn tile<const Q: usize, const B: usize, const SQUARES: bool>(
    span: &Span<'_>,
    blocks: [usize; B],
    queries: &[QuerySketch],
    limits: &[f32],
    hits: &mut [Vec<Hit>],
) {
    let (stride, codes_at) = (span.layout.block_bytes(), span.layout.codes_at());
    let queries: [&QuerySketch; Q] = array::from_fn(|q| &queries[q]);
    let query_codes: [*const i8; Q] = array::from_fn(|q| queries[q].codes.as_ptr());
    // SAFETY: as the caller promises.
    unsafe {
        let starts = blocks.map(|block| span.heads.as_ptr().add(block * stride + codes_at));
        let mut sums = [[_mm512_setzero_si512(); B]; Q];
        for q in 0..Q {
            sums[q] = [_mm512_set1_epi32(queries[q].start); B];
        }
        for group in 0..span.layout.n_groups() {
            let mut codes = [_mm512_setzero_si512(); B];
            for (codes, start) in codes.iter_mut().zip(starts) {
                *codes = _mm512_loadu_si512(start.add(group * 64).cast());
            }
            for q in 0..Q {
                let query =
                    _mm512_set1_epi32(query_codes[q].add(4 * group).cast::<i32>().read_unaligned());
                for b in 0..B {
                    sums[q][b] = _mm512_dpbusd_epi32(sums[q][b], codes[b], query);
                }
            }
        }
        unrolled!(BLOCK < B, {
            let numbers = Numbers::of(span, blocks[BLOCK]);
            unrolled!(QUERY < Q, {
                let sums = sums[QUERY][BLOCK];
                numbers.offer::<SQUARES>(sums, queries[QUERY], limits[QUERY], &mut hits[QUERY]);
            });
        });
    }
}

/// What makes bounds of the sums of a block, and which of them count.
pub(super) struct Numbers {
    /// `a` and `|z|`; under L2 `|x|²/2`.
    step: __m512,
    rest: __m512,
    squares: __m512,
    keep: u16,
    first_row: u32,
}

impl Numbers {
    /// # Safety
    /// The machine has AVX-512, and the block is in the span.
    #[inline(always)]
    pub unsafe fn of(span: &Span<'_>, block: usize) -> Self {
        // SAFETY: as the caller promises; the numbers of a block lie before its codes.
        unsafe {
            let at = block * span.layout.block_bytes();
            let numbers = span.heads.as_ptr().add(at).cast::<f32>();
            let squares = match span.layout.has_squares {
                true => _mm512_loadu_ps(numbers.add(2 * LANES)),
                false => _mm512_setzero_ps(),
            };
            Self {
                step: _mm512_loadu_ps(numbers),
                rest: _mm512_loadu_ps(numbers.add(LANES)),
                squares,
                keep: span.keep[block],
                first_row: span.first_row + (block * LANES) as u32,
            }
        }
    }

    /// Appends the rows whose bound reaches the limit. `SQUARES` says whether the layout has them.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    pub unsafe fn offer<const SQUARES: bool>(
        &self,
        sums: __m512i,
        query: &QuerySketch,
        limit: f32,
        hits: &mut Vec<Hit>,
    ) {
        // SAFETY: as the caller promises; both stores fill an array.
        unsafe {
            let mut product = _mm512_mul_ps(self.step, _mm512_cvtepi32_ps(sums));
            if SQUARES {
                product = _mm512_fnmadd_ps(self.squares, _mm512_set1_ps(query.inverse), product);
            }
            let bound = _mm512_fmadd_ps(self.rest, _mm512_set1_ps(query.rest), product);
            let reached = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(bound, _mm512_set1_ps(limit));
            let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
            let overflowed = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(bound, lowest);
            if _kortestz_mask16_u8(reached, overflowed) == 0 {
                self.push((reached | overflowed) & self.keep, bound, product, hits);
            }
        }
    }

    /// Kept out of the loop, where it would take registers from the sums.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    unsafe fn push(&self, mask: u16, bound: __m512, product: __m512, hits: &mut Vec<Hit>) {
        let (mut bounds, mut products) = ([0.0; LANES], [0.0; LANES]);
        // SAFETY: as the caller promises; both stores fill an array.
        unsafe {
            _mm512_storeu_ps(bounds.as_mut_ptr(), bound);
            _mm512_storeu_ps(products.as_mut_ptr(), product);
        }
        push(hits, mask, &bounds, &products, self.first_row);
    }
}
