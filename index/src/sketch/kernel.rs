//! The inner loop: many blocks of sketches against many queries.

use compute::{Level, Simd};

use super::{LANES, Layout, QuerySketch};

/// A row that a query's limit does not rule out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hit {
    /// The bound; infinite where it proves nothing.
    pub bound: f32,
    /// The bound without `|z|·b`.
    pub product: f32,
    /// The row, counted as the caller counts.
    pub row: u32,
}

/// Consecutive blocks of one shard.
#[derive(Clone, Copy)]
pub(crate) struct Span<'a> {
    pub layout: Layout,
    pub heads: &'a [u8],
    /// For each block the rows that may be found, one bit each.
    pub keep: &'a [u16],
    /// Number of the first row.
    pub first_row: u32,
}

/// The instructions that sum the products. All give the same integers; the two products in `f32` may differ in the last bit, which
/// the bound allows for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Kernel {
    pub fn of(simd: Simd) -> Self {
        match simd.level() {
            #[cfg(target_arch = "x86_64")]
            _ if simd.has_vnni() => Self::Vnni,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx2 => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// Appends to `hits[q]` every kept row whose bound for `queries[q]` is not below `limits[q]`.
    pub fn scan(
        self,
        span: &Span<'_>,
        queries: &[QuerySketch],
        limits: &[f32],
        hits: &mut [Vec<Hit>],
    ) {
        let Span {
            layout,
            heads,
            keep,
            ..
        } = *span;
        assert_eq!(
            heads.len(),
            keep.len() * layout.block_bytes(),
            "each block has its bits"
        );
        assert_eq!(
            (queries.len(), queries.len()),
            (limits.len(), hits.len()),
            "each query has a limit and hits"
        );
        assert!(
            queries
                .iter()
                .all(|query| query.codes.len() == layout.n_groups() * 4),
            "queries have the shape of the blocks"
        );
        match self {
            Self::Portable => portable(span, queries, limits, hits),
            // SAFETY: `of` chose the kernel for a machine that has its instructions; the lengths were checked.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86_64::avx2(span, queries, limits, hits) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => unsafe { x86_64::vnni(span, queries, limits, hits) },
        }
    }
}

/// `start + Σ codes[i]·query[i]`, wrapping, over as many as the query has.
pub(crate) fn dot(simd: Simd, codes: &[u8], query: &[i8], start: i32) -> i32 {
    assert!(codes.len() >= query.len(), "each coordinate has a code");
    match Kernel::of(simd) {
        // SAFETY: as in `Kernel::scan`.
        #[cfg(target_arch = "x86_64")]
        Kernel::Vnni => unsafe { x86_64::dot_vnni(codes, query, start) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 => unsafe { x86_64::dot_avx2(codes, query, start) },
        Kernel::Portable => dot_portable(codes, query, start),
    }
}

#[inline(always)]
fn dot_portable(codes: &[u8], query: &[i8], start: i32) -> i32 {
    let products = codes
        .iter()
        .zip(query)
        .map(|(&c, &q)| i32::from(c) * i32::from(q));
    products.fold(start, i32::wrapping_add)
}

/// Appends the rows of a block that a mask names.
#[inline]
fn push(
    hits: &mut Vec<Hit>,
    mut mask: u16,
    bounds: &[f32; LANES],
    products: &[f32; LANES],
    first_row: u32,
) {
    while mask != 0 {
        let lane = mask.trailing_zeros();
        let (bound, product) = (bounds[lane as usize], products[lane as usize]);
        let bound = if proves(bound) { bound } else { f32::INFINITY };
        hits.push(Hit {
            bound,
            product,
            row: first_row + lane,
        });
        mask &= mask - 1;
    }
}

/// Neither −∞ nor NaN proves anything: both can come from overflow.
#[inline(always)]
fn proves(bound: f32) -> bool {
    bound > f32::NEG_INFINITY
}

/// The bounds of a block from its sums, and the rows that reach the limit.
#[inline(always)]
fn finish(
    layout: Layout,
    block: &[u8],
    sums: &[i32; LANES],
    query: &QuerySketch,
    limit: f32,
) -> (u16, [f32; LANES], [f32; LANES]) {
    let number = |at: usize, lane: usize| {
        let at = (at * LANES + lane) * 4;
        f32::from_le_bytes(block[at..at + 4].try_into().expect("four bytes"))
    };
    let mut mask = 0;
    let (mut bounds, mut products) = ([0.0; LANES], [0.0; LANES]);
    for lane in 0..LANES {
        let mut product = number(0, lane) * sums[lane] as f32;
        if layout.has_squares {
            product -= number(2, lane) * query.inverse;
        }
        let bound = product + number(1, lane) * query.rest;
        (bounds[lane], products[lane]) = (bound, product);
        mask |= u16::from(bound >= limit || !proves(bound)) << lane;
    }
    (mask, bounds, products)
}

fn portable(span: &Span<'_>, queries: &[QuerySketch], limits: &[f32], hits: &mut [Vec<Hit>]) {
    let layout = span.layout;
    let blocks = span.heads.chunks_exact(layout.block_bytes()).zip(span.keep);
    for ((block, &keep), first_row) in blocks.zip((span.first_row..).step_by(LANES)) {
        if keep == 0 {
            continue;
        }
        let (codes, _) = block[layout.codes_at()..].as_chunks::<{ 4 * LANES }>();
        for ((query, &limit), hits) in queries.iter().zip(limits).zip(&mut *hits) {
            let mut sums = [query.start; LANES];
            for (codes, query) in codes.iter().zip(query.codes.as_chunks::<4>().0) {
                for (sum, codes) in sums.iter_mut().zip(codes.as_chunks::<4>().0) {
                    for (&c, &q) in codes.iter().zip(query) {
                        *sum = sum.wrapping_add(i32::from(c) * i32::from(q));
                    }
                }
            }
            let (mask, bounds, products) = finish(layout, block, &sums, query, limit);
            push(hits, mask & keep, &bounds, &products, first_row);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;
    use std::array;

    use super::{Hit, LANES, QuerySketch, Span, dot_portable, finish, push};

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

    type Group<'a> = (&'a [QuerySketch], &'a [f32], &'a mut [Vec<Hit>]);

    /// All blocks for `Q` queries, `B` at a time.
    ///
    /// # Safety
    /// The machine has AVX-512 VNNI; blocks and queries have the shape of the layout.
    #[inline(always)]
    unsafe fn blocks<const Q: usize, const B: usize, const SQUARES: bool>(
        span: &Span<'_>,
        group: Group<'_>,
    ) {
        let (queries, limits, hits) = group;
        let n_blocks = span.keep.len();
        let mut block = 0;
        // SAFETY: as the caller promises; each tile lies within the blocks.
        unsafe {
            while block + B <= n_blocks {
                tile::<Q, B, SQUARES>(span, block, queries, limits, hits);
                block += B;
            }
            while block < n_blocks {
                tile::<Q, 1, SQUARES>(span, block, queries, limits, hits);
                block += 1;
            }
        }
    }

    /// # Safety
    /// As [`blocks`]; `B` blocks from `first` are there, and `Q` queries.
    #[inline(always)]
    unsafe fn tile<const Q: usize, const B: usize, const SQUARES: bool>(
        span: &Span<'_>,
        first: usize,
        queries: &[QuerySketch],
        limits: &[f32],
        hits: &mut [Vec<Hit>],
    ) {
        let keep: [u16; B] = array::from_fn(|b| span.keep[first + b]);
        if keep.iter().all(|&keep| keep == 0) {
            return;
        }
        let (stride, codes_at) = (span.layout.block_bytes(), span.layout.codes_at());
        let queries: [&QuerySketch; Q] = array::from_fn(|q| &queries[q]);
        let query_codes: [*const i8; Q] = array::from_fn(|q| queries[q].codes.as_ptr());
        // SAFETY: as the caller promises.
        unsafe {
            let start = span.heads.as_ptr().add(first * stride);
            let mut sums = [[_mm512_setzero_si512(); B]; Q];
            for q in 0..Q {
                sums[q] = [_mm512_set1_epi32(queries[q].start); B];
            }
            for group in 0..span.layout.n_groups() {
                let mut codes = [_mm512_setzero_si512(); B];
                for (b, codes) in codes.iter_mut().enumerate() {
                    let at = b * stride + codes_at + group * 64;
                    *codes = _mm512_loadu_si512(start.add(at).cast());
                }
                for q in 0..Q {
                    let query = _mm512_set1_epi32(
                        query_codes[q].add(4 * group).cast::<i32>().read_unaligned(),
                    );
                    for b in 0..B {
                        sums[q][b] = _mm512_dpbusd_epi32(sums[q][b], codes[b], query);
                    }
                }
            }
            for b in 0..B {
                let numbers = start.add(b * stride).cast::<f32>();
                let (a, z) = (
                    _mm512_loadu_ps(numbers),
                    _mm512_loadu_ps(numbers.add(LANES)),
                );
                for q in 0..Q {
                    let mut product = _mm512_mul_ps(a, _mm512_cvtepi32_ps(sums[q][b]));
                    if SQUARES {
                        let squares = _mm512_loadu_ps(numbers.add(2 * LANES));
                        product =
                            _mm512_fnmadd_ps(squares, _mm512_set1_ps(queries[q].inverse), product);
                    }
                    let bound = _mm512_fmadd_ps(z, _mm512_set1_ps(queries[q].rest), product);
                    let reached =
                        _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(bound, _mm512_set1_ps(limits[q]));
                    let lowest = _mm512_set1_ps(f32::NEG_INFINITY);
                    let overflowed = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(bound, lowest);
                    let mask = (reached | overflowed) & keep[b];
                    if mask != 0 {
                        let (mut bounds, mut products) = ([0.0; LANES], [0.0; LANES]);
                        _mm512_storeu_ps(bounds.as_mut_ptr(), bound);
                        _mm512_storeu_ps(products.as_mut_ptr(), product);
                        push(
                            &mut hits[q],
                            mask,
                            &bounds,
                            &products,
                            span.first_row + ((first + b) * LANES) as u32,
                        );
                    }
                }
            }
        }
    }
}
