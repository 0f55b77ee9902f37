//! Products of bf16 by the tiles of AMX, over the same operands as the registers' products.
//!
//! A tile is a register of up to 16 rows of 64 bytes. One instruction multiplies a tile of A (16 rows of 16 words) with
//! one of B (16 words of 16 columns) and adds to one of C (16 · 16 floats). Rows and panels hold their words as tiles
//! read them, `a_stride` and `width` words apart, so that nothing is packed again.

use std::arch::asm;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::matrix::Block;
use super::operand::PANEL;

/// Most rows, words and columns of a tile.
const SIDE: usize = 16;
/// The tiles of the operands; those before hold sums: 2 of C's rows by 3 of its columns.
const A: usize = 6;
const B: usize = 7;

/// The tiles of this thread: configured when they are needed, given back when this is dropped.
#[derive(Default)]
pub(super) struct Tiles {
    /// Rows of A and C, and words of A and B, that the tiles now have.
    shape: Option<(usize, usize)>,
    /// Another thread has tiles of its own.
    _own: PhantomData<*const ()>,
}

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Tiles {
    /// Gives the tiles of A and C `rows` rows and those of A and B `words` words. All tiles become zero.
    ///
    /// # Safety
    /// The machine has AMX and lets this process use it.
    unsafe fn configure(&mut self, rows: usize, words: usize) {
        if self.shape == Some((rows, words)) {
            return;
        }
        assert!((1..=SIDE).contains(&rows) && (1..=SIDE).contains(&words));
        let mut configuration = Configuration {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        for tile in 0..=B {
            let (height, width) = match tile {
                A => (rows, words),
                B => (words, SIDE),
                _ => (rows, SIDE),
            };
            configuration.rows[tile] = height as u8;
            configuration.row_bytes[tile] = (4 * width) as u16;
        }
        // SAFETY: the instruction reads these 64 bytes, which are a valid configuration.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const configuration, options(nostack, preserves_flags, readonly));
        }
        self.shape = Some((rows, words));
    }
}

impl Drop for Tiles {
    /// Without a configuration the system has no tiles to keep between context switches.
    fn drop(&mut self) {
        if self.shape.is_some() {
            // SAFETY: the machine has AMX, since it was configured.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) }
        }
    }
}

// The compiler does not know of tiles, so that they keep their contents from one of these functions to the next: no
// other code of the program uses them, and the system saves them with the thread. Each `asm!` stays in its place, as
// none is `pure`.

/// Reads a tile whose rows are `stride` words apart.
///
/// # Safety
/// The tiles are configured, and `from` points to as many rows of as many words as the tile has.
#[inline(always)]
unsafe fn load<const TILE: usize>(from: *const u32, stride: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        asm!(
            "tileloadd tmm{tile}, [{from} + {stride}*1]",
            tile = const TILE, from = in(reg) from, stride = in(reg) 4 * stride,
            options(nostack, preserves_flags, readonly),
        );
    }
}

/// Writes a tile as [`load`] reads it.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
unsafe fn store<const TILE: usize>(to: *mut f32, stride: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        asm!(
            "tilestored [{to} + {stride}*1], tmm{tile}",
            tile = const TILE, to = in(reg) to, stride = in(reg) 4 * stride,
            options(nostack, preserves_flags),
        );
    }
}

/// Adds the product of the tiles of A and B to a tile of sums. Even and odd numbers are summed apart, in the order of k,
/// and both sums are added to what was there; denormal numbers count as zero.
///
/// # Safety
/// The tiles are configured.
#[inline(always)]
unsafe fn dot<const SUMS: usize>() {
    // SAFETY: the instruction touches tiles alone.
    unsafe {
        asm!(
            "tdpbf16ps tmm{sums}, tmm{a}, tmm{b}",
            sums = const SUMS, a = const A, b = const B,
            options(nostack, preserves_flags, nomem),
        );
    }
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
                    tiles.configure(left.min(SIDE), steps.words);
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
                dot::<0>();
                if WIDE > 1 {
                    load::<B>(b.add(SIDE), width);
                    dot::<1>();
                }
                if WIDE > 2 {
                    load::<B>(b.add(2 * SIDE), width);
                    dot::<2>();
                }
                if TALL > 1 {
                    // The other way round, since the last tile of B is still there.
                    load::<A>(a.add(SIDE * a_stride), a_stride);
                    if WIDE > 2 {
                        dot::<5>();
                        load::<B>(b.add(SIDE), width);
                    }
                    if WIDE > 1 {
                        dot::<4>();
                        load::<B>(b, width);
                    }
                    dot::<3>();
                }
                a = a.wrapping_add(words);
                b = b.wrapping_add(words * width);
            }
            each_sum!(store, target, stride);
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
    use super::super::matrix::multiply;
    use super::super::operand::{Format, Panels, Rows};
    use super::super::tile_emulation::{emulated_products, levels};

    /// Numbers that bf16 holds, in an order that no tile repeats.
    fn values(n: usize, step: usize) -> Vec<f32> {
        let value = |i: usize| ((i * step) % 251) as f32 / 64.0 - 1.9;
        let rounded = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
        (0..n).map(value).map(rounded).collect()
    }

    /// Compares with three loops in f64, and counts the tiles' products where they are emulated.
    fn check_tiles((m, k, n): (usize, usize, usize)) {
        let (a, weights, bias) = (values(m * k, 97), values(n * k, 89), values(n, 83));
        for simd in levels().into_iter().filter(|simd| simd.has_amx()) {
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
