//! The inner loop: many blocks of sketches against many queries.

use compute::{Level, Simd};

use super::{LANES, Layout, QuerySketch};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx};

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
    /// Tiles for many queries, VNNI for few.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Kernel {
    pub fn of(simd: Simd) -> Self {
        match simd.level() {
            #[cfg(target_arch = "x86_64")]
            _ if simd.has_amx_int8() => Self::Amx,
            #[cfg(target_arch = "x86_64")]
            _ if simd.has_vnni() => Self::Vnni,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx2 => Self::Avx2,
            _ => Self::Portable,
        }
    }

    /// Queries that pass a span together: as many as keep their codes and their hits in a core's cache, by what the kernel takes
    /// at once.
    pub fn n_together(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => 64,
            _ => 60,
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
            Self::Avx2 => unsafe { avx::avx2(span, queries, limits, hits) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => unsafe { avx::vnni(span, queries, limits, hits) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Amx => unsafe { amx::scan(span, queries, limits, hits) },
        }
    }
}

/// `start + Σ codes[i]·query[i]`, wrapping, over as many as the query has.
pub(crate) fn dot(simd: Simd, codes: &[u8], query: &[i8], start: i32) -> i32 {
    assert!(codes.len() >= query.len(), "each coordinate has a code");
    match Kernel::of(simd) {
        // SAFETY: as in `Kernel::scan`.
        #[cfg(target_arch = "x86_64")]
        Kernel::Vnni | Kernel::Amx => unsafe { avx::dot_vnni(codes, query, start) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kernel::Avx2 => unsafe { avx::dot_avx2(codes, query, start) },
        Kernel::Portable => dot_portable(codes, query, start),
    }
}

#[inline(always)]
pub(super) fn dot_portable(codes: &[u8], query: &[i8], start: i32) -> i32 {
    let products = codes
        .iter()
        .zip(query)
        .map(|(&c, &q)| i32::from(c) * i32::from(q));
    products.fold(start, i32::wrapping_add)
}

/// Appends the rows of a block that a mask names.
#[inline]
pub(super) fn push(
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
pub(super) fn finish(
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

#[cfg(test)]
mod tests {
    use testkit::simd_levels;

    use super::*;

    /// Numbers without a pattern.
    fn noise(seed: u32) -> impl FnMut() -> u32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        }
    }

    /// Compares every kernel with the portable one. All sums and numbers are small integers, so that no kernel may differ in any bit.
    fn check_kernels(n_head: usize, n_blocks: usize, n_queries: usize, has_squares: bool) {
        let layout = Layout {
            n_head,
            n_tail: 0,
            has_squares,
        };
        let mut next = noise((n_head * 1000 + n_blocks * 100 + n_queries) as u32);
        let mut heads = Vec::new();
        for _ in 0..n_blocks {
            let numbers = (0..layout.codes_at() / 4).map(|_| (next() % 2 + 1) as f32);
            heads.extend(numbers.flat_map(f32::to_le_bytes));
            heads.extend((0..layout.n_groups() * 4 * LANES).map(|_| next() as u8));
        }
        let mut queries = Vec::new();
        for _ in 0..n_queries {
            let codes = (0..layout.n_groups() * 4).map(|_| next() as i8).collect();
            queries.push(QuerySketch::of_codes(codes, (next() % 1000) as i32));
        }
        let keep: Vec<u16> = (0..n_blocks)
            .map(|i| (next() * (i as u32 % 3)) as u16)
            .collect();
        let limits: Vec<f32> = (0..n_queries)
            .map(|i| [f32::NEG_INFINITY, 0.0][i % 2])
            .collect();
        let span = Span {
            layout,
            heads: &heads,
            keep: &keep,
            first_row: 32,
        };
        let scan = |kernel: Kernel| {
            let mut hits = vec![Vec::new(); n_queries];
            kernel.scan(&span, &queries, &limits, &mut hits);
            hits
        };
        let expected = scan(Kernel::Portable);
        let n_kept: u32 = keep.iter().map(|keep| keep.count_ones()).sum();
        assert!(
            expected
                .iter()
                .step_by(2)
                .all(|hits| hits.len() == n_kept as usize)
        );
        for simd in simd_levels() {
            let kernel = Kernel::of(simd);
            let what =
                format!("{kernel:?}: {n_head} coordinates, {n_blocks} blocks, {n_queries} queries");
            assert!(scan(kernel) == expected, "{what}");
        }
    }

    #[test]
    fn every_kernel_finds_the_same() {
        for n_head in [1, 4, 7, 32, 60, 64, 66, 96, 128, 352] {
            for n_queries in [1, 5, 7, 8, 16, 20, 30, 33, 60, 64] {
                for n_blocks in [1, 2, 5] {
                    check_kernels(n_head, n_blocks, n_queries, n_queries % 2 == 0);
                }
            }
        }
    }

    /// Where tiles are emulated, their products are counted.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn many_queries_run_by_tiles() {
        let check = |n_queries: usize, n_tiles: usize| {
            let before = testkit::emulated_products();
            check_kernels(96, 5, n_queries, false);
            let with_tiles = simd_levels().into_iter().filter(|simd| simd.has_amx_int8());
            let n_scans = with_tiles.count();
            if let (Some(before), Some(after)) = (before, testkit::emulated_products()) {
                // Two steps; the first and the fourth block keep no row, beside others in pairs 0 and 2, 3.
                assert_eq!(
                    after - before,
                    n_scans * n_tiles * 2 * 5,
                    "{n_queries} queries"
                );
            }
        };
        check(7, 0);
        check(8, 1);
        check(16, 1);
        check(23, 1);
        check(24, 2);
        check(60, 4);
    }
}
