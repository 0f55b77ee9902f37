//! Matrix product with one operand packed beforehand.
//!
//! Numbers are held in 32-bit words: one f32, two bf16, two 16-bit or four 8-bit integers. A step of the innermost
//! loop multiplies one word of a row with one word of each column, so that one loop serves all four. Along k both
//! operands are cut into slabs, each of one format; integers have a scale for each row (or column) and slab.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use compute::Simd;
#[cfg(target_arch = "x86_64")]
use compute::tile::Tiles;

use crate::crew::Crew;

use super::count::Path;
use super::operand::{Format, LANES, PANEL, Panels, Rows};
use super::register::Register;

/// Words that a column of the first panel is fetched ahead of its use: 12 KiB of a full panel.
const AHEAD: usize = 64;

/// Computes `C = A · B + bias` for rows that were converted for B; row `i` of C starts at `c[i · c_stride]`.
///
/// A value depends on its own row and column only. Floats are added in the order of k, from the bias on; F32 with one fused
/// addition each, so that it is bit-equal at all levels that fuse; Bf16x3 in that order three times over each slab. Integers are summed exactly over a slab.
pub(crate) fn multiply(
    simd: Simd,
    a: &Rows,
    b: &Panels,
    bias: Option<&[f32]>,
    (c, c_stride): (&mut [f32], usize),
) {
    let product = Product::new(simd, a, b, bias, (c, c_stride));
    // SAFETY: one call computes all panels.
    unsafe { product.compute(0..product.n_panels()) };
}

/// As [`multiply`], with the columns of C divided among the threads of a crew, each of which applies `then`, a function of single
/// values, to what it computed. The values are the same.
pub(crate) fn multiply_shared(
    simd: Simd,
    crew: &Crew,
    a: &Rows,
    b: &Panels,
    bias: Option<&[f32]>,
    (c, c_stride): (&mut [f32], usize),
    then: fn(Simd, &mut [f32]),
) {
    let product = Product::new(simd, a, b, bias, (c, c_stride));
    let starts = starts_of_parts(product.n_panels(), crew.n_threads());
    crew.share(starts.len() - 1, &|part| {
        let panels = starts[part]..starts[part + 1];
        // SAFETY: the parts have no panel in common, and each is computed once and then lent to `then`.
        unsafe {
            product.compute(panels.clone());
            product.rows_of(panels).for_each(|row| then(simd, row));
        }
    });
}

/// Where the parts of a shared product start, and the last one ends: large ones first, in which memory is fetched ahead, and down to
/// one panel, so that all threads end at about the same time.
fn starts_of_parts(n_panels: usize, n_threads: usize) -> Vec<usize> {
    let mut starts = vec![0];
    let mut start = 0;
    while start < n_panels {
        start += ((n_panels - start) / (n_threads + 1)).max(1);
        starts.push(start);
    }
    starts
}

/// A product whose operands were found to fit together, of which several threads compute different panels.
struct Product<'a> {
    simd: Simd,
    a: &'a Rows,
    b: &'a Panels,
    bias: Option<&'a [f32]>,
    c: *mut f32,
    c_stride: usize,
    /// C is borrowed for as long.
    _c: PhantomData<&'a mut [f32]>,
}

// SAFETY: `compute` and `rows_of` are called for different panels only, and touch no other columns of C.
unsafe impl Sync for Product<'_> {}

impl<'a> Product<'a> {
    fn new(
        simd: Simd,
        a: &'a Rows,
        b: &'a Panels,
        bias: Option<&'a [f32]>,
        (c, c_stride): (&'a mut [f32], usize),
    ) -> Self {
        let n_scales = if b.scales.is_empty() {
            0
        } else {
            b.slabs.len()
        };
        assert_eq!(a.n_words, b.n_words, "operands of one length");
        assert_eq!(
            a.words.len(),
            a.n_rows * b.n_words,
            "A has {} rows",
            a.n_rows
        );
        assert_eq!(
            a.scales.len(),
            a.n_rows * n_scales,
            "one scale per row and slab"
        );
        assert!(
            a.n_rows == 0 || (a.n_rows - 1) * c_stride + b.n <= c.len(),
            "C has {} rows of {} values",
            a.n_rows,
            b.n
        );
        assert!(c_stride >= b.n, "rows of C do not overlap");
        assert!(
            bias.is_none_or(|bias| bias.len() == b.n),
            "one bias per column"
        );
        Self {
            simd,
            a,
            b,
            bias,
            c: c.as_mut_ptr(),
            c_stride,
            _c: PhantomData,
        }
    }

    /// Without rows there is nothing to compute.
    fn n_panels(&self) -> usize {
        match self.a.n_rows {
            0 => 0,
            _ => self.b.n.div_ceil(PANEL),
        }
    }

    /// The columns of a range of panels in each row of C.
    ///
    /// # Safety
    /// As for [`Self::compute`], while the rows are held.
    unsafe fn rows_of(&self, panels: Range<usize>) -> impl Iterator<Item = &mut [f32]> {
        let columns = panels.start * PANEL..(panels.end * PANEL).min(self.b.n);
        (0..self.a.n_rows).map(move |row| {
            // SAFETY: `new` has checked that C has these columns, which nobody else uses.
            unsafe {
                let first = self.c.add(row * self.c_stride + columns.start);
                std::slice::from_raw_parts_mut(first, columns.len())
            }
        })
    }

    /// Computes the columns of a range of panels.
    ///
    /// # Safety
    /// The range is within `n_panels`, and no other call computes one of these panels at the same time.
    unsafe fn compute(&self, panels: Range<usize>) {
        let Self { a, b, .. } = *self;
        let n_slabs = b.slabs.len();
        let n_scales = if b.scales.is_empty() { 0 } else { n_slabs };
        let padded = Panels::padded(b.n);
        #[cfg(target_arch = "x86_64")]
        let mut tiles = Tiles::default();
        let cold = panels.start * PANEL;
        for first in panels.map(|panel| panel * PANEL) {
            let kept = PANEL.min(b.n - first);
            let width = kept.next_multiple_of(LANES);
            let panel = &b.words[first * b.n_words..][..b.n_words * width];
            let mut start = [0.0; PANEL];
            if let Some(bias) = self.bias {
                start[..kept].copy_from_slice(&bias[first..first + kept]);
            }
            // SAFETY: `new` has checked that C has these columns; there are rows when there are panels.
            let c = unsafe { self.c.add(first) };
            if n_slabs == 0 {
                for row in 0..a.n_rows {
                    // SAFETY: as above, `kept` columns of each row.
                    unsafe { c.add(row * self.c_stride).copy_from(start.as_ptr(), kept) };
                }
            }
            for (index, slab) in b.slabs.iter().enumerate() {
                // The product of some words of A's slab with some of B's, as many and in the order of k.
                let block = |a_word: usize, b_word: usize, n_words: usize, is_first: bool| Block {
                    a: &a.words[slab.first_word + a_word..],
                    a_stride: a.n_words,
                    a_scales: a.scales.get(index..).unwrap_or_default(),
                    a_scales_stride: n_scales,
                    b: &panel[(slab.first_word + b_word) * width..][..n_words * width],
                    width,
                    b_scales: b.scales.get(index * padded + first..).unwrap_or_default(),
                    b_starts: b.starts.get(index * padded + first..).unwrap_or_default(),
                    c,
                    c_stride: self.c_stride,
                    n_rows: a.n_rows,
                    n_words,
                    kept,
                    start: (index == 0 && is_first).then_some(&start),
                    is_cold: first == cold && index == 0 && is_first,
                    ahead: (0, 0),
                };
                let path = Path::of(self.simd, slab.format);
                let mut add = |block: Block| match slab.format {
                    // SAFETY: a `Simd` has AMX only where this process may use it.
                    #[cfg(target_arch = "x86_64")]
                    Format::Bf16 | Format::Bf16x3 if path == Path::Amx => unsafe {
                        block.run_tiles::<Bf16>(&mut tiles);
                    },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Format::Int8 if path == Path::Amx => unsafe {
                        block.run_tiles::<Int8>(&mut tiles);
                    },
                    Format::F32 => block.dispatch::<F32>(path),
                    Format::Bf16 | Format::Bf16x3 => block.dispatch::<Bf16>(path),
                    Format::Fixed16 => block.dispatch::<Fixed16>(path),
                    Format::Int8 => block.dispatch::<Int8>(path),
                };
                if slab.format == Format::Bf16x3 {
                    // Rounded by rounded, missing by rounded, rounded by missing; missing by missing, 2⁻¹⁶ of a product or less, is left out.
                    let half = slab.n_words / 2;
                    add(block(0, 0, half, true));
                    add(block(half, 0, half, false));
                    add(block(0, half, half, false));
                } else {
                    add(block(0, 0, slab.n_words, true));
                }
            }
        }
    }
}

/// What differs between the formats in a tile.
pub(super) trait Arithmetic {
    /// Whether sums are floats, which go on from what stands in C, or integers, which are added to it with scales.
    const FLOATS: bool;
    /// Whether sums start from [`Panels::starts`].
    const STARTS: bool;
    /// Adds the products of two words' numbers to a sum. The registers' instructions exist on this machine.
    unsafe fn dot<R: Register>(a: R, b: R, sum: R) -> R;
}

macro_rules! arithmetic {
    ($name:ident, $floats:literal, $starts:literal, $dot:ident) => {
        pub(super) struct $name;
        impl Arithmetic for $name {
            const FLOATS: bool = $floats;
            const STARTS: bool = $starts;
            #[inline(always)]
            unsafe fn dot<R: Register>(a: R, b: R, sum: R) -> R {
                // SAFETY: passed on to the caller.
                unsafe { a.$dot(b, sum) }
            }
        }
    };
}
arithmetic!(F32, true, false, mul_add);
arithmetic!(Bf16, true, false, dot_bf16);
arithmetic!(Fixed16, false, false, dot_i16);
arithmetic!(Int8, false, true, dot_u8_i8);

/// The product of all rows of A with one panel, over one slab.
pub(super) struct Block<'a> {
    pub(super) a: &'a [u32],
    pub(super) a_stride: usize,
    /// One scale for each row, `a_scales_stride` apart.
    pub(super) a_scales: &'a [f32],
    pub(super) a_scales_stride: usize,
    pub(super) b: &'a [u32],
    /// Columns of the panel.
    pub(super) width: usize,
    pub(super) b_scales: &'a [f32],
    /// What sums start from; zero where there are none.
    pub(super) b_starts: &'a [u32],
    /// The panel's first column of C, which has `n_rows` rows of `kept` columns from here on that nobody else uses.
    pub(super) c: *mut f32,
    pub(super) c_stride: usize,
    pub(super) n_rows: usize,
    pub(super) n_words: usize,
    /// Columns of the panel that are no padding.
    pub(super) kept: usize,
    /// The panel's bias in the first slab; later ones add to what stands in C.
    pub(super) start: Option<&'a [f32; PANEL]>,
    /// Whether this is the first slab that the call computes, so that no earlier tile has fetched it into the L2 cache.
    is_cold: bool,
    /// Where the tile at hand fetches words for later, from its own first word of B on, and how many a step.
    ahead: (usize, usize),
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma")]
fn run_avx512_bf16<A: Arithmetic>(block: Block<'_>) {
    block.run::<super::register::Zmm<true, true>, A, 8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn run_avx512_vnni<A: Arithmetic>(block: Block<'_>) {
    block.run::<super::register::Zmm<true, false>, A, 8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn run_avx512<A: Arithmetic>(block: Block<'_>) {
    block.run::<super::register::Zmm<false, false>, A, 8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<A: Arithmetic>(block: Block<'_>) {
    block.run::<super::register::Ymm, A, 4>();
}

impl Block<'_> {
    fn dispatch<A: Arithmetic>(self, path: Path) {
        match path {
            // SAFETY: `Path::of` a `Simd`, which exists only where the machine has these instructions.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Bf16 => unsafe { run_avx512_bf16::<A>(self) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512Vnni => unsafe { run_avx512_vnni::<A>(self) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => unsafe { run_avx512::<A>(self) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { run_avx2::<A>(self) },
            _ => self.run::<[u32; 4], A, 4>(),
        }
    }

    /// Cuts the block into tiles of up to `ROWS` rows and three registers of columns.
    #[inline(always)]
    fn run<R: Register, A: Arithmetic, const ROWS: usize>(mut self) {
        let (mut row, mut index) = (0, 0);
        let n_tiles = self.n_rows.div_ceil(ROWS);
        while row < self.n_rows {
            self.ahead = self.ahead_of(index, n_tiles);
            // About equally tall ones: where few sums run side by side, each addition waits for the one before.
            let left = self.n_rows - row;
            let tall = left.div_ceil(left.div_ceil(ROWS));
            let mut column = 0;
            while column < self.kept {
                let registers = ((self.width - column) / R::LANES).min(3);
                match registers {
                    3 => self.tall::<R, A, ROWS, 3>(tall, row, column),
                    2 => self.tall::<R, A, ROWS, 2>(tall, row, column),
                    _ => self.tall::<R, A, ROWS, 1>(tall, row, column),
                }
                column += registers * R::LANES;
            }
            row += tall;
            index += 1;
        }
    }

    /// Divides the next slab, which is the next memory, among the tiles above each other: weights come from the L3 cache
    /// or from memory while products are computed. The first tile of a slab that nobody has fetched does so for itself.
    #[inline(always)]
    fn ahead_of(&self, index: usize, n_tiles: usize) -> (usize, usize) {
        let (index, n_tiles) = match (self.is_cold, index) {
            (true, 0) => return (AHEAD * self.width, self.width),
            (true, _) => (index - 1, n_tiles - 1),
            (false, _) => (index, n_tiles),
        };
        let n_words = self.n_words * self.width;
        (
            n_words + index * n_words / n_tiles,
            self.width.div_ceil(n_tiles),
        )
    }

    /// Computes a tile of `tall` rows, up to `ROWS`.
    #[inline(always)]
    fn tall<R: Register, A: Arithmetic, const ROWS: usize, const WIDE: usize>(
        &mut self,
        tall: usize,
        row: usize,
        column: usize,
    ) {
        match tall {
            8.. if ROWS >= 8 => self.tile::<R, A, 8, WIDE>(row, column),
            7 if ROWS >= 8 => self.tile::<R, A, 7, WIDE>(row, column),
            6 if ROWS >= 8 => self.tile::<R, A, 6, WIDE>(row, column),
            5 if ROWS >= 8 => self.tile::<R, A, 5, WIDE>(row, column),
            4.. => self.tile::<R, A, 4, WIDE>(row, column),
            3 => self.tile::<R, A, 3, WIDE>(row, column),
            2 => self.tile::<R, A, 2, WIDE>(row, column),
            _ => self.tile::<R, A, 1, WIDE>(row, column),
        }
    }

    /// Adds the products to a tile of C.
    #[inline(always)]
    fn tile<R: Register, A: Arithmetic, const TALL: usize, const WIDE: usize>(
        &mut self,
        row: usize,
        column: usize,
    ) {
        let wide = WIDE * R::LANES;
        let kept = (self.kept - column).min(wide);
        // A tile at the ragged right edge is computed in a buffer, so that nothing outside C is touched.
        let mut buffer = MaybeUninit::<[f32; 8 * PANEL]>::uninit();
        assert!(row + TALL <= self.n_rows && column + kept <= self.kept);
        // SAFETY: rows and columns of C that are the block's own.
        let c_tile = unsafe { self.c.add(row * self.c_stride + column) };
        let (target, stride) = if kept < wide {
            let buffer = buffer.write([0.0; 8 * PANEL]);
            if self.start.is_none() {
                for i in 0..TALL {
                    // SAFETY: as above, and the buffer's rows are longer than `kept`.
                    unsafe {
                        let stored = c_tile.add(i * self.c_stride);
                        stored.copy_to(buffer.as_mut_ptr().add(i * PANEL), kept);
                    }
                }
            }
            (buffer.as_mut_ptr(), PANEL)
        } else {
            (c_tile, self.c_stride)
        };
        let (a, b) = (&self.a[row * self.a_stride..], &self.b[column..]);
        assert!((TALL - 1) * self.a_stride + self.n_words <= a.len());
        assert!((self.n_words - 1) * self.width + wide <= b.len());
        let (mut scales, mut starts) = (&[][..], &[][..]);
        if !A::FLOATS {
            scales = &self.b_scales[column..][..wide];
            if A::STARTS {
                starts = &self.b_starts[column..][..wide];
            }
        }
        // SAFETY: the assertions above: A has TALL rows of `n_words` words from `a` on, and B as many rows of `width` words
        // with WIDE registers each from `b` on; `target` has TALL rows of WIDE registers in C, or is a buffer of 8 rows of
        // `PANEL`, and TALL ≤ 8, WIDE registers ≤ `PANEL`; scales and starts have WIDE registers where they are read. The
        // registers' instructions exist where this function runs.
        unsafe {
            let previous = |i: usize, j: usize| {
                let from = match self.start {
                    Some(start) => start.as_ptr().add(column),
                    None => target.add(i * stride).cast_const(),
                };
                R::load(from.add(j * R::LANES).cast())
            };
            let mut sums = [[R::splat(0); WIDE]; TALL];
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    if A::FLOATS {
                        *sum = previous(i, j);
                    } else if A::STARTS {
                        *sum = R::load(starts.as_ptr().add(j * R::LANES));
                    }
                }
            }
            let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
            let mut ahead = b.wrapping_add(self.ahead.0);
            for _ in 0..self.n_words {
                let mut right = [R::splat(0); WIDE];
                for (j, right) in right.iter_mut().enumerate() {
                    *right = R::load(b.add(j * R::LANES));
                    R::prefetch(ahead.wrapping_add(j * R::LANES));
                }
                ahead = ahead.wrapping_add(self.ahead.1);
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = R::splat(*a.add(i * self.a_stride));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = A::dot(left, right, *sum);
                    }
                }
                a = a.add(1);
                b = b.wrapping_add(self.width);
            }
            // By value: a sum whose address is taken would be written to memory at every step.
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    let value = if A::FLOATS {
                        sum
                    } else {
                        let scale = self.a_scales[(row + i) * self.a_scales_stride];
                        let column_scale = R::load(scales.as_ptr().add(j * R::LANES).cast());
                        let product = sum.to_f32().mul(R::splat(scale.to_bits()));
                        product.mul_add(column_scale, previous(i, j))
                    };
                    value.store(target.add(i * stride + j * R::LANES).cast());
                }
            }
        }
        if kept < wide {
            for i in 0..TALL {
                // SAFETY: as where the buffer was filled.
                unsafe {
                    let computed = target.add(i * PANEL);
                    computed.copy_to(c_tile.add(i * self.c_stride), kept);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use testkit::simd_levels;

    use super::*;

    /// Values without a pattern, between −1 and 1.
    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Compares with three loops in f64, at every level, with rows apart and columns after the last. `tolerance` is
    /// relative to the lengths of row and column.
    fn check_multiply(
        pack: impl Fn(Simd, &[f32], usize, usize) -> Panels,
        (m, k, n): (usize, usize, usize),
        tolerance: f64,
    ) {
        let (a_stride, c_stride) = (k + 3, n + 5);
        let (a, weights, bias) = (noise(m * a_stride, 1), noise(n * k, 2), noise(n, 3));
        let length = |values: &[f32]| values.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        let pool = pool.expect("two threads start");
        for simd in simd_levels() {
            let panels = pack(simd, &weights, n, k);
            let mut rows = Rows::default();
            rows.fill(simd, &panels, (&a, a_stride), m);
            let mut c = vec![f32::NAN; m * c_stride];
            multiply(simd, &rows, &panels, Some(&bias), (&mut c, c_stride));
            for i in 0..m {
                let row = &a[i * a_stride..][..k];
                for j in 0..n {
                    let column = &weights[j * k..][..k];
                    let products = row
                        .iter()
                        .zip(column)
                        .map(|(&x, &y)| f64::from(x) * f64::from(y));
                    let exact = f64::from(bias[j]) + products.sum::<f64>();
                    let error = (f64::from(c[i * c_stride + j]) - exact).abs();
                    let limit = tolerance * length(row) * length(column) + 1e-6;
                    assert!(
                        error < limit,
                        "{m}x{k}x{n} {simd} [{i}, {j}]: {error} > {limit}"
                    );
                }
                assert!(
                    c[i * c_stride + n..(i + 1) * c_stride]
                        .iter()
                        .all(|value| value.is_nan()),
                    "outside C"
                );
                let mut shared = vec![f32::NAN; n];
                rows.fill(simd, &panels, (&a[i * a_stride..], a_stride), 1);
                Crew::gather(&pool, |crew| {
                    let c = (&mut shared[..], n);
                    multiply_shared(simd, crew, &rows, &panels, Some(&bias), c, |_, values| {
                        for value in values {
                            *value = -*value;
                        }
                    });
                });
                let negative: Vec<f32> =
                    c[i * c_stride..][..n].iter().map(|value| -value).collect();
                assert_eq!(shared, negative, "row {i} depends on the threads");
                let mut alone = vec![0.0; n];
                rows.fill(simd, &panels, (&a[i * a_stride..], a_stride), 1);
                multiply(simd, &rows, &panels, Some(&bias), (&mut alone, n));
                assert_eq!(
                    alone,
                    c[i * c_stride..][..n],
                    "row {i} depends on its neighbours"
                );
            }
        }
    }

    const SHAPES: [(usize, usize, usize); 8] = [
        (1, 1, 1),
        (3, 5, 7),
        (8, 192, 48),
        (9, 193, 49),
        (17, 400, 100),
        (5, 32, 64),
        (2, 7, 96),
        (4, 1000, 33),
    ];

    #[test]
    fn parts_of_a_shared_product_become_small() {
        assert_eq!(starts_of_parts(0, 2), [0]);
        assert_eq!(starts_of_parts(8, 2), [0, 2, 4, 5, 6, 7, 8]);
        assert_eq!(
            starts_of_parts(24, 2),
            [0, 8, 13, 16, 18, 20, 21, 22, 23, 24]
        );
        assert_eq!(starts_of_parts(8, 16), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn products_equal_three_loops_in_every_format() {
        for (format, tolerance) in [
            (Format::F32, 1e-6),
            (Format::Bf16, 3e-3),
            (Format::Bf16x3, 1e-5),
            (Format::Fixed16, 6e-5),
            (Format::Int8, 1e-2),
        ] {
            let pack = |simd, rows: &[f32], n, k| Panels::from_transposed(simd, format, rows, n, k);
            for shape in SHAPES {
                check_multiply(pack, shape, tolerance);
            }
        }
    }

    #[test]
    fn every_level_sums_the_same_integers() {
        let (m, k, n) = (5, 700, 50);
        let (a, weights) = (noise(m * k, 4), noise(n * k, 5));
        for format in [Format::F32, Format::Fixed16, Format::Int8] {
            let mut first: Option<Vec<f32>> = None;
            for simd in simd_levels().into_iter().skip(1) {
                let panels = Panels::from_transposed(simd, format, &weights, n, k);
                let mut rows = Rows::default();
                rows.fill(simd, &panels, (&a, k), m);
                let mut c = vec![0.0; m * n];
                multiply(simd, &rows, &panels, None, (&mut c, n));
                assert_eq!(
                    *first.get_or_insert_with(|| c.clone()),
                    c,
                    "{format:?} {simd}"
                );
            }
        }
    }

    #[test]
    fn sixteen_bit_sums_stay_within_their_limit() {
        // Row and column alike: the sum is their squared length, the most that there can be.
        for k in [1, 2, 384, 500, 3072] {
            for values in [
                vec![1.0; k],
                vec![1e-18; k],
                (0..k).map(|i| 1.0 / (i + 1) as f32).collect::<Vec<_>>(),
            ] {
                let exact: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                for simd in simd_levels() {
                    let panels = Panels::from_transposed(simd, Format::Fixed16, &values, 1, k);
                    let mut rows = Rows::default();
                    rows.fill(simd, &panels, (&values, k), 1);
                    let mut c = [0.0];
                    multiply(simd, &rows, &panels, None, (&mut c, 1));
                    assert!(
                        (f64::from(c[0]) / exact - 1.0).abs() < 1e-3,
                        "{k} {simd}: {c:?} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let formats = [
            Format::F32,
            Format::Bf16,
            Format::Bf16x3,
            Format::Fixed16,
            Format::Int8,
        ];
        for format in formats {
            for bad in [f32::NAN, f32::INFINITY] {
                for simd in simd_levels() {
                    let panels = Panels::from_transposed(simd, format, &[0.5; 40], 1, 40);
                    let mut a = [1.0; 40];
                    a[17] = bad;
                    let (mut rows, mut c) = (Rows::default(), [0.0]);
                    rows.fill(simd, &panels, (&a, 40), 1);
                    multiply(simd, &rows, &panels, None, (&mut c, 1));
                    assert!(!c[0].is_finite(), "{format:?} {simd}: {c:?}");
                }
            }
        }
    }

    #[test]
    fn a_greatest_score_of_any_size_weighs_most() {
        let k = 40;
        for format in [Format::F32, Format::Bf16, Format::Fixed16] {
            for simd in simd_levels() {
                let mut values = Panels::default(); // the last key's weight
                let last: Vec<f32> = (0..k).map(|p| if p + 1 == k { 1.0 } else { 0.0 }).collect();
                values.fill(simd, format, (&last, 1), k, 1);
                for step in -400..400 {
                    let greatest = step as f32 * 12.345;
                    let mut scores = vec![greatest - 200.0; 48];
                    scores[k - 1] = greatest;
                    let (mut rows, mut c) = (Rows::default(), [0.0]);
                    rows.fill_softmax(simd, &values, (&mut scores, 48), 0.17);
                    multiply(simd, &rows, &values, None, (&mut c, 1));
                    assert!(
                        (c[0] - 1.0).abs() < 1e-3,
                        "{format:?} {simd} {greatest}: {c:?}"
                    );
                }
                for bad in [f32::NAN, f32::INFINITY] {
                    let mut scores = vec![0.0; 48];
                    scores[3] = bad;
                    let (mut rows, mut c) = (Rows::default(), [0.0]);
                    rows.fill_softmax(simd, &values, (&mut scores, 48), 0.17);
                    multiply(simd, &rows, &values, None, (&mut c, 1));
                    assert!(c[0].is_nan(), "{format:?} {simd} {bad}: {c:?}");
                }
            }
        }
    }

    #[test]
    fn rows_pack_as_their_transpose_does() {
        let (k, n) = (403, 70);
        let rows = noise(k * n, 4);
        let at = |j: usize| (0..k).map(move |p| (p, j));
        let transposed: Vec<f32> = (0..n).flat_map(at).map(|(p, j)| rows[p * n + j]).collect();
        for format in [Format::F32, Format::Bf16, Format::Fixed16] {
            for simd in simd_levels() {
                let mut packed = Panels::from_transposed(simd, format, &[1.0; 900], 30, 30); // something older
                packed.fill(simd, format, (&rows, n), k, n);
                let expected = Panels::from_transposed(simd, format, &transposed, n, k);
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs();
                assert!(
                    packed.scales.iter().zip(&expected.scales).all(near),
                    "{format:?} {simd}"
                );
                let half = |word: u32, shift: u32| i32::from((word >> shift) as i16);
                for (&a, &b) in packed.words.iter().zip(&expected.words) {
                    let close = [0, 16]
                        .iter()
                        .all(|&shift| (half(a, shift) - half(b, shift)).abs() <= 1);
                    assert!(
                        a == b || format == Format::Fixed16 && close,
                        "{format:?} {simd}"
                    );
                }
            }
        }
    }

    #[test]
    fn softmax_is_that_of_f64() {
        let (n_rows, k, stride) = (3, 405, 416);
        let scores: Vec<f32> = noise(n_rows * stride, 6).iter().map(|x| x * 9.0).collect();
        for (format, tolerance) in [
            (Format::F32, 1e-6),
            (Format::Bf16, 5e-3),
            (Format::Fixed16, 2e-4),
        ] {
            for simd in simd_levels() {
                let mut identity = Panels::default(); // a column of ones: the products are sums of weights up to p
                let ones: Vec<f32> = (0..k).map(|p| if p < 200 { 1.0 } else { 0.0 }).collect();
                identity.fill(simd, format, (&ones, 1), k, 1);
                let (mut rows, mut c) = (Rows::default(), [0.0; 3]);
                rows.fill_softmax(simd, &identity, (&mut scores.clone(), stride), 0.5);
                multiply(simd, &rows, &identity, None, (&mut c, 1));
                for (row, value) in scores.chunks(stride).zip(c) {
                    let weight = |&x: &f32| (f64::from(x) * 0.5).exp();
                    let part: f64 = row[..200].iter().map(weight).sum();
                    let exact = part / row[..k].iter().map(weight).sum::<f64>();
                    assert!(
                        (f64::from(value) - exact).abs() < tolerance,
                        "{format:?} {simd}: {value} {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_empty_sum_is_the_bias() {
        let panels = Panels::from_transposed(Simd::detect(), Format::F32, &[], 2, 0);
        let (mut rows, mut c) = (Rows::default(), [0.0; 2]);
        rows.fill(Simd::detect(), &panels, (&[], 0), 1);
        multiply(
            Simd::detect(),
            &rows,
            &panels,
            Some(&[3.0, 4.0]),
            (&mut c, 2),
        );
        assert_eq!(c, [3.0, 4.0]);
    }
}
