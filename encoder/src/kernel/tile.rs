//! Products of bf16 and of 8-bit integers by the tiles of AMX, over the same operands as the registers' products.
//!
//! One instruction multiplies a tile of A (16 rows of 16 words) with one of B (16 words of 16 columns) and adds to one of C
//! (16 · 16 floats or 32-bit integers). Rows and panels hold their words as tiles read them, `a_stride` and `width` words apart, so that
//! nothing is packed again.

use std::mem::MaybeUninit;
use std::slice;

use compute::tile::{SIDE, Shape, Tiles, dot_bf16, dot_u8_i8, load, store};

use super::matrix::{Arithmetic, Bf16, Block, Int8};
use super::operand::PANEL;

/// The tiles of the operands; those before hold sums: 2 of C's rows by 3 of its columns.
const A: usize = 6;
const B: usize = 7;

/// `rows` rows in tiles of A and of sums, and `words` words in those of A and B.
fn shapes(rows: usize, words: usize) -> [Shape; 8] {
    std::array::from_fn(|tile| match tile {
        A => Shape { rows, words },
        B => Shape {
            rows: words,
            words: SIDE,
        },
        _ => Shape { rows, words: SIDE },
    })
}

/// Calls [`load`] or [`store`] for each of `TALL` · `WIDE` tiles of sums.
macro_rules! each_sum {
    ($act:ident, $first:expr, $stride:expr) => {{
        let (first, stride) = ($first, $stride);
        $act::<0>(first, stride);
        if WIDE > 1 {
            $act::<1>(first.add(SIDE), stride);
        }
        if WIDE > 2 {
            $act::<2>(first.add(2 * SIDE), stride);
        }
        if TALL > 1 {
            let lower = first.add(SIDE * stride);
            $act::<3>(lower, stride);
            if WIDE > 1 {
                $act::<4>(lower.add(SIDE), stride);
            }
            if WIDE > 2 {
                $act::<5>(lower.add(2 * SIDE), stride);
            }
        }
    }};
}

/// What tiles multiply.
pub(super) trait TileArithmetic: Arithmetic {
    /// Adds the product of two tiles to a third.
    ///
    /// # Safety
    /// The tiles are configured with shapes that fit together, and the machine has such products.
    unsafe fn dot_tiles<const SUMS: usize, const A: usize, const B: usize>();
}

impl TileArithmetic for Bf16 {
    #[inline(always)]
    unsafe fn dot_tiles<const SUMS: usize, const A: usize, const B: usize>() {
        // SAFETY: passed on to the caller.
        unsafe { dot_bf16::<SUMS, A, B>() }
    }
}

impl TileArithmetic for Int8 {
    #[inline(always)]
    unsafe fn dot_tiles<const SUMS: usize, const A: usize, const B: usize>() {
        // SAFETY: passed on to the caller.
        unsafe { dot_u8_i8::<SUMS, A, B>() }
    }
}

/// Words of k that are computed in tiles of one shape: `n_steps` steps of `words`, from word `first` of the slab on.
#[derive(Clone, Copy)]
struct Steps {
    first: usize,
    words: usize,
    n_steps: usize,
}

impl Block<'_> {
    /// As `run`, by tiles. A sum's steps depend on k alone: those of floats are whole steps first, then what is left of k; those
    /// of integers, which cannot wait in C for another shape, are equally long, as few as fit.
    ///
    /// # Safety
    /// The machine has AMX with such products and lets this process use it.
    pub(super) unsafe fn run_tiles<P: TileArithmetic>(mut self, tiles: &mut Tiles) {
        let n_words = self.n_words;
        let (words, n_steps) = if P::FLOATS {
            (SIDE, n_words / SIDE)
        } else {
            let fits = |n_steps: &usize| n_words.is_multiple_of(*n_steps);
            let n_steps = (n_words.div_ceil(SIDE)..=n_words).find(fits).unwrap_or(0);
            (n_words / n_steps.max(1), n_steps)
        };
        let whole = Steps {
            first: 0,
            words,
            n_steps,
        };
        let rest = n_words - words * n_steps;
        let last = Steps {
            first: words * n_steps,
            words: rest,
            n_steps: usize::from(rest > 0),
        };
        for steps in [whole, last] {
            if steps.n_steps == 0 {
                continue;
            }
            let mut row = 0;
            while row < self.n_rows {
                let left = self.n_rows - row;
                // SAFETY: AMX is the caller's word. Two tiles are stacked only where both are full.
                row += unsafe {
                    tiles.configure(shapes(left.min(SIDE), steps.words));
                    match (left >= 2 * SIDE, self.width / SIDE) {
                        (true, 3) => self.add::<P, 2, 3>(row, 2 * SIDE, steps),
                        (true, 2) => self.add::<P, 2, 2>(row, 2 * SIDE, steps),
                        (true, _) => self.add::<P, 2, 1>(row, 2 * SIDE, steps),
                        (false, 3) => self.add::<P, 1, 3>(row, left.min(SIDE), steps),
                        (false, 2) => self.add::<P, 1, 2>(row, left.min(SIDE), steps),
                        (false, _) => self.add::<P, 1, 1>(row, left.min(SIDE), steps),
                    }
                };
            }
            self.start = None;
        }
    }

    /// Adds the products of some steps to `n_rows` rows of C from `row` on, `TALL` · `WIDE` tiles, and returns `n_rows`.
    ///
    /// # Safety
    /// The tiles are configured for `n_rows / TALL` rows and the steps' words, and the machine has such products.
    #[inline(always)]
    unsafe fn add<P: TileArithmetic, const TALL: usize, const WIDE: usize>(
        &mut self,
        row: usize,
        n_rows: usize,
        steps: Steps,
    ) -> usize {
        let Steps {
            first,
            words,
            n_steps,
        } = steps;
        let (a_stride, width) = (self.a_stride, self.width);
        let a = &self.a[row * a_stride + first..];
        let b = &self.b[first * width..][..n_steps * words * width];
        assert!((n_rows - 1) * a_stride + n_steps * words <= a.len());
        assert!(row + n_rows <= self.n_rows && n_rows <= TALL * SIDE);
        assert!(WIDE * SIDE == width && self.kept <= width);
        // SAFETY: the block's own rows of C.
        let c = unsafe { self.c.add(row * self.c_stride) };
        // Integers, and sums at the ragged right edge, are stored into a buffer; of those nothing outside C is touched.
        let mut buffer = MaybeUninit::<[f32; 2 * SIDE * PANEL]>::uninit();
        let ragged = self.kept < width;
        let (target, stride) = if ragged || !P::FLOATS {
            (buffer.write([0.0; 2 * SIDE * PANEL]).as_mut_ptr(), PANEL)
        } else {
            (c, self.c_stride)
        };
        if P::FLOATS && ragged && self.start.is_none() {
            // SAFETY: C and the buffer have these rows, and the buffer's are longer than `kept`.
            unsafe { copy_rows((c, self.c_stride), (target, stride), n_rows, self.kept) };
        }
        // SAFETY: the assertions above: A has `n_rows` rows of all steps' words, the lower tile's from row 16 on; B has a
        // row of `width` words for each; `target` has `n_rows` rows of `width` floats in C or in the buffer. The bias has
        // `PANEL` floats and the starts have `width`, which a stride of zero repeats for each row. Integers
        // are read from the buffer into which the tiles were just stored, and there is AVX-512 wherever there is AMX.
        unsafe {
            let (from, from_stride) = match self.start {
                _ if P::STARTS => (self.b_starts[..width].as_ptr(), 0),
                Some(start) => (start.as_ptr().cast(), 0),
                None => (target.cast_const().cast(), stride),
            };
            each_sum!(load, from, from_stride);
            let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
            for _ in 0..n_steps {
                load::<A>(a, a_stride);
                load::<B>(b, width);
                P::dot_tiles::<0, A, B>();
                if WIDE > 1 {
                    load::<B>(b.add(SIDE), width);
                    P::dot_tiles::<1, A, B>();
                }
                if WIDE > 2 {
                    load::<B>(b.add(2 * SIDE), width);
                    P::dot_tiles::<2, A, B>();
                }
                if TALL > 1 {
                    // The other way round, since the last tile of B is still there.
                    load::<A>(a.add(SIDE * a_stride), a_stride);
                    if WIDE > 2 {
                        P::dot_tiles::<5, A, B>();
                        load::<B>(b.add(SIDE), width);
                    }
                    if WIDE > 1 {
                        P::dot_tiles::<4, A, B>();
                        load::<B>(b, width);
                    }
                    P::dot_tiles::<3, A, B>();
                }
                a = a.wrapping_add(words);
                b = b.wrapping_add(words * width);
            }
            each_sum!(store, target.cast::<u32>(), stride);
            if !P::FLOATS {
                self.add_scaled(row, n_rows, target.cast_const().cast(), stride);
            } else if ragged {
                copy_rows((target, stride), (c, self.c_stride), n_rows, self.kept);
            }
        }
        n_rows
    }

    /// Adds integers to `n_rows` rows of C from `row` on, times the scales of their rows and columns, with the registers' roundings.
    ///
    /// # Safety
    /// There are so many rows of `width` integers at `sums`, `stride` apart, and AVX-512, as wherever there is AMX.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn add_scaled(&self, row: usize, n_rows: usize, sums: *const i32, stride: usize) {
        let column_scales = &self.b_scales[..self.kept];
        for i in 0..n_rows {
            let scale = self.a_scales[(row + i) * self.a_scales_stride];
            // SAFETY: the row's sums by the caller's word, and the block's own columns of a row of C.
            let (sums, c) = unsafe {
                let c = self.c.add((row + i) * self.c_stride);
                (
                    slice::from_raw_parts(sums.add(i * stride), self.kept),
                    slice::from_raw_parts_mut(c, self.kept),
                )
            };
            if let Some(start) = self.start {
                c.copy_from_slice(&start[..self.kept]);
            }
            for ((c, &sum), &column_scale) in c.iter_mut().zip(sums).zip(column_scales) {
                *c = (sum as f32 * scale).mul_add(column_scale, *c);
            }
        }
    }
}

/// Copies `len` floats of each of `n_rows` rows; pointers come with the distance of their rows.
///
/// # Safety
/// Both have these rows, and they do not overlap.
unsafe fn copy_rows(from: (*mut f32, usize), to: (*mut f32, usize), n_rows: usize, len: usize) {
    for row in 0..n_rows {
        // SAFETY: passed on to the caller.
        unsafe {
            from.0
                .add(row * from.1)
                .copy_to_nonoverlapping(to.0.add(row * to.1), len);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use compute::{Level, Simd};
    use testkit::{emulated_products, simd_levels};

    use super::super::matrix::multiply;
    use super::super::operand::{Format, Panels, Rows};

    /// Numbers between −1.9 and 2.1 in an order that no tile repeats.
    fn values(n: usize, step: usize) -> Vec<f32> {
        let value = |i: usize| ((i * step) % 251) as f32 / 63.0 - 1.9;
        (0..n).map(value).collect()
    }

    fn rounded(values: Vec<f32>) -> Vec<f32> {
        let round = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        values.into_iter().map(round).collect()
    }

    /// Compares with three loops in f64, and counts the tiles' products where they are emulated.
    fn check_tiles(format: Format, (m, k, n): (usize, usize, usize)) {
        let (mut a, mut weights, bias) = (values(m * k, 97), values(n * k, 89), values(n, 83));
        if format == Format::Bf16 {
            (a, weights) = (rounded(a), rounded(weights));
        }
        let has_tiles = |simd: &Simd| match format {
            Format::Int8 => simd.has_amx_int8(),
            _ => simd.has_amx(),
        };
        for simd in simd_levels().into_iter().filter(has_tiles) {
            let panels = Panels::from_transposed(simd, format, &weights, n, k);
            let (mut rows, mut c) = (Rows::default(), vec![f32::NAN; m * n]);
            rows.fill(simd, &panels, (&a, k), m);
            let before = emulated_products();
            multiply(simd, &rows, &panels, Some(&bias), (&mut c, n));
            if let (Some(before), Some(after)) = (before, emulated_products()) {
                let steps = panels.slabs.iter().map(|slab| match format {
                    Format::Bf16x3 => 3 * (slab.n_words / 2).div_ceil(16),
                    // 40 words are four steps of 10, 17 as many of one.
                    Format::Int8 if slab.n_words > 16 => {
                        let fits =
                            |n: &usize| slab.n_words.is_multiple_of(*n) && slab.n_words / n <= 16;
                        (1..).find(fits).expect("one word a step fits")
                    }
                    _ => slab.n_words.div_ceil(16),
                });
                let expected = m.div_ceil(16) * n.div_ceil(16) * steps.sum::<usize>();
                assert_eq!(
                    after - before,
                    expected,
                    "{format:?} {m}x{k}x{n} runs by tiles"
                );
            }
            if format == Format::Int8 {
                let registers = simd.at_most(Level::Avx512);
                let mut by_registers = vec![f32::NAN; m * n];
                multiply(
                    registers,
                    &rows,
                    &panels,
                    Some(&bias),
                    (&mut by_registers, n),
                );
                assert_eq!(c, by_registers, "{m}x{k}x{n}");
            }
            for (row, c) in a.chunks(k).zip(c.chunks(n)) {
                for ((column, bias), value) in weights.chunks(k).zip(&bias).zip(c) {
                    let (mut exact, mut size) = (f64::from(*bias), f64::from(bias.abs()));
                    for (x, y) in row.iter().zip(column) {
                        let product = f64::from(*x) * f64::from(*y);
                        exact += product;
                        size += product.abs();
                    }
                    // Each addition rounds a part of the sum.
                    let sums = (k + 1) as f64 * f64::from(f32::EPSILON) / 2.0 * size;
                    let limit = match format {
                        // What the second bf16 of either operand is rounded by, and the product of both.
                        Format::Bf16x3 => 3.0 * sums + size / f64::from(1 << 15),
                        // Half a step of either operand.
                        Format::Int8 => 2.1 * 2.1 / 127.0 * k as f64 + sums,
                        _ => sums,
                    };
                    let error = (f64::from(*value) - exact).abs();
                    assert!(error <= limit, "{format:?} {m}x{k}x{n}: {error} > {limit}");
                }
            }
        }
    }

    #[test]
    fn tiles_sum_rounded_numbers() {
        for format in [Format::Bf16, Format::Bf16x3, Format::Int8] {
            for m in [1, 15, 16, 17, 31, 32, 33, 50] {
                for n in [16, 32, 48, 96, 5, 130] {
                    check_tiles(format, (m, 65, n));
                }
            }
            for k in [1, 2, 31, 32, 33, 64, 160, 384, 385, 800] {
                check_tiles(format, (35, k, 50));
            }
        }
    }
}
