//! Products of bf16 by the tiles of AMX, over the same operands as the registers' products.
//!
//! One instruction multiplies a tile of A (16 rows of 16 words) with one of B (16 words of 16 columns) and adds to one of C
//! (16 · 16 floats). Rows and panels hold their words as tiles read them, `a_stride` and `width` words apart, so that
//! nothing is packed again.

use std::mem::MaybeUninit;

use compute::tile::{SIDE, Shape, Tiles, dot_bf16, load, store};

use super::matrix::Block;
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

/// Words of k that are computed in tiles of one shape: `n_steps` steps of `words`, from word `first` of the slab on.
#[derive(Clone, Copy)]
struct Steps {
    first: usize,
    words: usize,
    n_steps: usize,
}

impl Block<'_> {
    /// As `run`, by tiles: first all whole steps of k, then what is left of it. A sum's steps depend on k alone.
    ///
    /// # Safety
    /// The machine has AMX and lets this process use it.
    pub(super) unsafe fn run_tiles(mut self, tiles: &mut Tiles) {
        let (n_steps, rest) = (self.n_words / SIDE, self.n_words % SIDE);
        let whole = Steps {
            first: 0,
            words: SIDE,
            n_steps,
        };
        let last = Steps {
            first: n_steps * SIDE,
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
                        (true, 3) => self.add::<2, 3>(row, 2 * SIDE, steps),
                        (true, 2) => self.add::<2, 2>(row, 2 * SIDE, steps),
                        (true, _) => self.add::<2, 1>(row, 2 * SIDE, steps),
                        (false, 3) => self.add::<1, 3>(row, left.min(SIDE), steps),
                        (false, 2) => self.add::<1, 2>(row, left.min(SIDE), steps),
                        (false, _) => self.add::<1, 1>(row, left.min(SIDE), steps),
                    }
                };
            }
            self.start = None;
        }
    }

    /// Adds the products of some steps to `n_rows` rows of C from `row` on, `TALL` · `WIDE` tiles, and returns `n_rows`.
    ///
    /// # Safety
    /// The tiles are configured for `n_rows / TALL` rows and the steps' words.
    #[inline(always)]
    unsafe fn add<const TALL: usize, const WIDE: usize>(
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
        // Sums at the ragged right edge are computed in a buffer, so that nothing outside C is touched.
        let mut edge = MaybeUninit::<[f32; 2 * SIDE * PANEL]>::uninit();
        let ragged = self.kept < width;
        let (target, stride) = if ragged {
            (edge.write([0.0; 2 * SIDE * PANEL]).as_mut_ptr(), PANEL)
        } else {
            (c, self.c_stride)
        };
        if ragged && self.start.is_none() {
            // SAFETY: C and the buffer have these rows, and the buffer's are longer than `kept`.
            unsafe { copy_rows((c, self.c_stride), (target, stride), n_rows, self.kept) };
        }
        // SAFETY: the assertions above: A has `n_rows` rows of all steps' words, the lower tile's from row 16 on; B has a
        // row of `width` words for each; `target` has `n_rows` rows of `width` floats in C or in the buffer. The bias has
        // `PANEL` floats, which a stride of zero repeats for each row.
        unsafe {
            let (from, from_stride) = match self.start {
                Some(start) => (start.as_ptr(), 0),
                None => (target.cast_const(), stride),
            };
            let from = from.cast::<u32>();
            each_sum!(load, from, from_stride);
            let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
            for _ in 0..n_steps {
                load::<A>(a, a_stride);
                load::<B>(b, width);
                dot_bf16::<0, A, B>();
                if WIDE > 1 {
                    load::<B>(b.add(SIDE), width);
                    dot_bf16::<1, A, B>();
                }
                if WIDE > 2 {
                    load::<B>(b.add(2 * SIDE), width);
                    dot_bf16::<2, A, B>();
                }
                if TALL > 1 {
                    // The other way round, since the last tile of B is still there.
                    load::<A>(a.add(SIDE * a_stride), a_stride);
                    if WIDE > 2 {
                        dot_bf16::<5, A, B>();
                        load::<B>(b.add(SIDE), width);
                    }
                    if WIDE > 1 {
                        dot_bf16::<4, A, B>();
                        load::<B>(b, width);
                    }
                    dot_bf16::<3, A, B>();
                }
                a = a.wrapping_add(words);
                b = b.wrapping_add(words * width);
            }
            each_sum!(store, target.cast::<u32>(), stride);
            if ragged {
                copy_rows((target, stride), (c, self.c_stride), n_rows, self.kept);
            }
        }
        n_rows
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
    use testkit::{emulated_products, simd_levels};

    use super::super::matrix::multiply;
    use super::super::operand::{Format, Panels, Rows};

    /// Numbers that bf16 holds, in an order that no tile repeats.
    fn values(n: usize, step: usize) -> Vec<f32> {
        let value = |i: usize| ((i * step) % 251) as f32 / 64.0 - 1.9;
        let rounded = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        (0..n).map(value).map(rounded).collect()
    }

    /// Compares with three loops in f64, and counts the tiles' products where they are emulated.
    fn check_tiles((m, k, n): (usize, usize, usize)) {
        let (a, weights, bias) = (values(m * k, 97), values(n * k, 89), values(n, 83));
        for simd in simd_levels().into_iter().filter(|simd| simd.has_amx()) {
            let panels = Panels::from_transposed(simd, Format::Bf16, &weights, n, k);
            let (mut rows, mut c) = (Rows::default(), vec![f32::NAN; m * n]);
            rows.fill(simd, &panels, (&a, k), m);
            let before = emulated_products();
            multiply(simd, &rows, &panels, Some(&bias), (&mut c, n));
            if let (Some(before), Some(after)) = (before, emulated_products()) {
                let steps = panels.slabs.iter().map(|slab| slab.n_words.div_ceil(16));
                let expected = m.div_ceil(16) * n.div_ceil(16) * steps.sum::<usize>();
                assert_eq!(after - before, expected, "{m}x{k}x{n} runs by tiles");
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
                    let limit = (k + 1) as f64 * f64::from(f32::EPSILON) / 2.0 * size;
                    let error = (f64::from(*value) - exact).abs();
                    assert!(error <= limit, "{m}x{k}x{n}: {error} > {limit}");
                }
            }
        }
    }

    #[test]
    fn tiles_sum_rounded_numbers_in_f32() {
        for m in [1, 15, 16, 17, 31, 32, 33, 50] {
            for n in [16, 32, 48, 96, 5, 130] {
                check_tiles((m, 65, n));
            }
        }
        for k in [1, 2, 31, 32, 33, 64, 384, 385, 800] {
            check_tiles((35, k, 50));
        }
    }
}
