//! Matrix products of training, with operands in f32 or rounded to bf16, and sums in f32.
//!
//! Both precisions share one layout: operands are rows of 32-bit **words** along the summed dimension k. A word is one
//! f32, or two neighboring bf16 (low half first), which is what `vdpbf16ps` multiplies. One kernel serves the forward,
//! the gradient of inputs and the gradient of weights: only the way an operand was packed differs.

use std::cell::Cell;

use compute::{Level, Simd};

#[cfg(target_arch = "x86_64")]
use super::register::{Avx2, Avx2Widened, Avx512, Avx512Pairs, Avx512Widened};
use super::register::{Portable, PortablePairs, Register};
use super::words::{pack_rows, pack_steps, repack_steps, unpack_rows};

/// Columns of a full panel: three AVX-512 registers.
pub(super) const PANEL: usize = 48;
/// Panels are padded with zero columns to a multiple of this.
pub(super) const LANES: usize = 16;
/// Steps of a panel that are used in one go: 192 · 48 words fill three quarters of a 48 KiB L1 cache.
const DEPTH: usize = 192;

thread_local! {
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Floating-point operations of the products that this thread has done so far: 2 m n k for (m, k) · (k, n).
pub(super) fn operations() -> u64 {
    OPERATIONS.get()
}

/// How the operands of matrix products are held. Sums, weights, gradients and all other arithmetic are f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16, to nearest, ties to even: relative error 2⁻⁹ per operand. Gradients of the small test models
    /// with their wide weights lie within 5 % of those in f32, by length.
    Bf16,
}

/// The instructions and the precision of all products of one engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    pub(super) simd: Simd,
    pub(super) precision: Precision,
    /// Whether the processor multiplies bf16 pairs itself; elsewhere they are widened to f32 first.
    pub(super) has_pairs: bool,
}

impl Kernel {
    pub(super) fn new(simd: Simd, precision: Precision) -> Self {
        #[cfg(target_arch = "x86_64")]
        let has_pairs = std::arch::is_x86_feature_detected!("avx512bf16");
        #[cfg(not(target_arch = "x86_64"))]
        let has_pairs = false;
        Self {
            simd,
            precision,
            has_pairs: has_pairs && simd.level() == Level::Avx512,
        }
    }

    /// Words that hold `n` values.
    pub(super) fn words(self, n: usize) -> usize {
        n.div_ceil(self.values())
    }

    /// Values of a word.
    fn values(self) -> usize {
        match self.precision {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
        }
    }

    pub(super) fn rounds(self) -> bool {
        self.precision == Precision::Bf16
    }

    /// Packs rows of `n` values along k, for the left side of a product.
    pub(super) fn pack(self, rows: &[f32], n: usize, words: &mut Vec<u32>) {
        words.resize(rows.len() / n * self.words(n), 0);
        pack_rows(self, (rows, n), n, (words, self.words(n)));
    }

    /// Packs rows of `n` values that start every `stride` values, to rows that start every `words.1` words.
    pub(super) fn pack_into(self, rows: (&[f32], usize), n: usize, words: (&mut [u32], usize)) {
        pack_rows(self, rows, n, words);
    }

    /// Reverses [`Self::pack_into`], but for the rounding.
    pub(super) fn unpack(self, words: (&[u32], usize), n: usize, rows: (&mut [f32], usize)) {
        unpack_rows(self.simd, self.rounds(), words, n, rows);
    }

    /// Packs the columns of `k` rows that start every `stride` values, for the left side of a product that sums over
    /// rows: word `(s, j)` holds rows 2s and 2s + 1 (bf16) or row s (f32) of column j.
    pub(super) fn pack_columns(self, rows: &[f32], stride: usize, n: usize, words: &mut Vec<u32>) {
        let k = rows.len() / stride;
        words.resize(self.words(k) * n, 0);
        pack_steps(self, (rows, stride), k, n, (words, n));
    }
}

/// A (k, n) matrix for the right side of a product, cut into panels of up to 48 columns, stored step by step.
///
/// Its transpose can stand on the left side: see [`Panels::columns`].
#[derive(Clone, Debug, Default)]
pub(super) struct Panels {
    n_steps: usize,
    n: usize,
    k: usize,
    words: Vec<u32>,
}

/// One panel.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    words: &'a [u32],
    n_steps: usize,
    /// Columns with padding.
    width: usize,
    /// First column of the matrix that this panel holds.
    pub(super) first: usize,
    /// Columns without padding.
    pub(super) kept: usize,
}

impl Panels {
    pub(super) fn n_panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Sets the shape; what the panels hold is to be filled in afterwards.
    pub(super) fn reshape(&mut self, kernel: Kernel, k: usize, n: usize) {
        (self.k, self.n, self.n_steps) = (k, n, kernel.words(k));
        self.words
            .resize(self.n_steps * n.next_multiple_of(LANES), 0);
    }

    /// The places of panel `index`: (first column, columns, columns with padding, words).
    fn panel_mut(&mut self, index: usize) -> (usize, usize, usize, &mut [u32]) {
        let first = index * PANEL;
        let kept = PANEL.min(self.n - first);
        let width = kept.next_multiple_of(LANES);
        let words = &mut self.words[first * self.n_steps..][..width * self.n_steps];
        (first, kept, width, words)
    }

    pub(super) fn panel(&self, index: usize) -> Panel<'_> {
        let first = index * PANEL;
        let kept = PANEL.min(self.n - first);
        let width = kept.next_multiple_of(LANES);
        Panel {
            words: &self.words[first * self.n_steps..][..width * self.n_steps],
            n_steps: self.n_steps,
            width,
            first,
            kept,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Panel<'_>> {
        (0..self.n_panels()).map(|index| self.panel(index))
    }

    /// Packs `k` rows of `n` values that start every `stride` values.
    pub(super) fn fill(&mut self, kernel: Kernel, rows: &[f32], stride: usize, k: usize, n: usize) {
        self.reshape(kernel, k, n);
        for index in 0..self.n_panels() {
            let first = index * PANEL;
            self.fill_panel(kernel, index, &rows[first.min(rows.len())..], stride);
        }
    }

    /// Packs one panel from rows that start every `stride` values; the shape was set before.
    pub(super) fn fill_panel(&mut self, kernel: Kernel, index: usize, rows: &[f32], stride: usize) {
        let k = self.k;
        let (_, kept, width, words) = self.panel_mut(index);
        pack_steps(kernel, (rows, stride), k, kept, (words, width));
    }

    /// Packs `k` rows of `n` values each, packed along n, that start every `stride` words.
    pub(super) fn fill_packed(
        &mut self,
        kernel: Kernel,
        rows: &[u32],
        stride: usize,
        k: usize,
        n: usize,
    ) {
        self.reshape(kernel, k, n);
        for index in 0..self.n_panels() {
            let (first, kept, width, words) = self.panel_mut(index);
            let rows = &rows[kernel.words(first)..]; // panels start at even columns
            repack_steps(
                kernel.simd,
                kernel.rounds(),
                (rows, stride),
                k,
                kept,
                (words, width),
            );
        }
    }

    /// Packs the transpose of `n` rows of `k` values each, packed along k, that start every `stride` words.
    pub(super) fn fill_transposed(
        &mut self,
        kernel: Kernel,
        rows: &[u32],
        stride: usize,
        n: usize,
        k: usize,
    ) {
        self.reshape(kernel, k, n);
        let n_steps = self.n_steps;
        for index in 0..self.n_panels() {
            let (first, kept, width, words) = self.panel_mut(index);
            transpose(&rows[first * stride..], stride, kept, n_steps, words, width);
        }
    }
}

/// Writes `n` rows of `n_steps` words as columns, in squares that keep both sides in the cache.
fn transpose(
    rows: &[u32],
    stride: usize,
    n: usize,
    n_steps: usize,
    words: &mut [u32],
    width: usize,
) {
    const SIDE: usize = 16;
    for column in (0..width).step_by(SIDE) {
        for step in (0..n_steps).step_by(SIDE) {
            let n_rows = n.saturating_sub(column).min(SIDE);
            let n_words = SIDE.min(n_steps - step);
            let mut square = [[0; SIDE]; SIDE];
            for (i, square) in square[..n_rows].iter_mut().enumerate() {
                let start = (column + i) * stride + step;
                square[..n_words].copy_from_slice(&rows[start..start + n_words]);
            }
            for j in 0..n_words {
                let target = &mut words[(step + j) * width + column..][..SIDE];
                for (target, square) in target.iter_mut().zip(&square) {
                    *target = square[j];
                }
            }
        }
    }
}

/// The left side of a product: word (row i, step s) lies at `i · row + s · step`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) words: &'a [u32],
    pub(super) row: usize,
    pub(super) step: usize,
}

impl<'a> Left<'a> {
    /// Rows packed along k.
    pub(super) fn rows(words: &'a [u32], stride: usize) -> Self {
        Self {
            words,
            row: stride,
            step: 1,
        }
    }

    /// Columns of what [`Kernel::pack_columns`] packed.
    pub(super) fn columns(words: &'a [u32], n: usize) -> Self {
        Self {
            words,
            row: 1,
            step: n,
        }
    }
}

impl<'a> Panel<'a> {
    /// The panel's transpose as a left side: its columns become rows.
    pub(super) fn columns(self) -> Left<'a> {
        Left::columns(self.words, self.width)
    }
}

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// Nothing.
    Zero,
    /// One value per column, padded to the width of the panel.
    Bias(&'a [f32]),
    /// What C holds.
    Sum,
}

/// Computes `C = start + A · B` for `n_rows` rows of A and one panel of B.
///
/// Row i of C starts at `c[i · c_stride]` and receives the panel's columns without padding. Every value depends on its
/// own row of A only, and is summed in the order of k.
pub(super) fn multiply(
    kernel: Kernel,
    a: Left<'_>,
    panel: Panel<'_>,
    start: Start<'_>,
    (c, c_stride): (&mut [f32], usize),
    n_rows: usize,
) {
    let n_steps = panel.n_steps;
    if n_rows == 0 || panel.kept == 0 {
        return;
    }
    let last = (n_rows - 1) * a.row + n_steps.saturating_sub(1) * a.step;
    assert!(
        n_steps == 0 || last < a.words.len(),
        "A has {n_rows} rows of {n_steps} words"
    );
    assert!(
        (n_rows - 1) * c_stride + panel.kept <= c.len(),
        "C has {n_rows} rows of {} values",
        panel.kept
    );
    assert!(
        n_rows == 1 || c_stride >= panel.kept,
        "rows of C do not overlap"
    );
    assert!(
        panel.words.len() >= n_steps * panel.width && panel.width <= PANEL,
        "the panel is whole"
    );
    if let Start::Bias(bias) = start {
        assert!(
            bias.len() >= panel.width,
            "one bias per column of the panel"
        );
    }
    let values = n_steps * kernel.values();
    OPERATIONS.set(operations() + (2 * n_rows * panel.kept * values) as u64);
    let block = Block {
        a,
        panel,
        start,
        c,
        c_stride,
        n_rows,
    };
    let rounds = kernel.rounds();
    match kernel.simd.level() {
        // SAFETY: a `Simd` of this level exists only where the machine has these instructions, and `has_pairs` says
        // that it has those for bf16.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe {
            match (rounds, kernel.has_pairs) {
                (false, _) => multiply_avx512(block),
                (true, true) => multiply_avx512_pairs(block),
                (true, false) => multiply_avx512_widened(block),
            }
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe {
            if rounds {
                multiply_avx2_widened(block)
            } else {
                multiply_avx2(block)
            }
        },
        _ if rounds => block.run::<PortablePairs, 4>(),
        _ => block.run::<Portable, 4>(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn multiply_avx512(block: Block<'_>) {
    block.run::<Avx512, 8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
fn multiply_avx512_pairs(block: Block<'_>) {
    block.run::<Avx512Pairs, 8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn multiply_avx512_widened(block: Block<'_>) {
    block.run::<Avx512Widened, 8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(block: Block<'_>) {
    block.run::<Avx2, 4>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2_widened(block: Block<'_>) {
    block.run::<Avx2Widened, 4>();
}

/// The product of some rows of A with one panel.
struct Block<'a> {
    a: Left<'a>,
    panel: Panel<'a>,
    start: Start<'a>,
    c: &'a mut [f32],
    c_stride: usize,
    n_rows: usize,
}

impl Block<'_> {
    /// Cuts the block into tiles of up to `ROWS` rows and three registers of columns.
    #[inline(always)]
    fn run<R: Register, const ROWS: usize>(mut self) {
        for depth in (0..self.panel.n_steps.max(1)).step_by(DEPTH) {
            for row in (0..self.n_rows).step_by(ROWS) {
                let mut column = 0;
                while column < self.panel.kept {
                    let registers = ((self.panel.width - column) / R::LANES).min(3);
                    match registers {
                        3 => self.rows::<R, ROWS, 3>(row, column, depth),
                        2 => self.rows::<R, ROWS, 2>(row, column, depth),
                        _ => self.rows::<R, ROWS, 1>(row, column, depth),
                    }
                    column += registers * R::LANES;
                }
            }
        }
    }

    /// Computes `ROWS` rows from `row` on, or those that are left, in tiles of 8, 4, 2 and 1.
    #[inline(always)]
    fn rows<R: Register, const ROWS: usize, const WIDE: usize>(
        &mut self,
        mut row: usize,
        column: usize,
        depth: usize,
    ) {
        let end = self.n_rows.min(row + ROWS);
        while row < end {
            let left = end - row;
            row += if ROWS >= 8 && left >= 8 {
                self.tile::<R, 8, WIDE>(row, column, depth)
            } else if left >= 4 {
                self.tile::<R, 4, WIDE>(row, column, depth)
            } else if left >= 2 {
                self.tile::<R, 2, WIDE>(row, column, depth)
            } else {
                self.tile::<R, 1, WIDE>(row, column, depth)
            };
        }
    }

    /// Adds up to `DEPTH` steps to a tile of C and returns its height.
    #[inline(always)]
    fn tile<R: Register, const TALL: usize, const WIDE: usize>(
        &mut self,
        row: usize,
        column: usize,
        depth: usize,
    ) -> usize {
        let kept = (self.panel.kept - column).min(WIDE * R::LANES);
        if kept == WIDE * R::LANES {
            let target = self.c[row * self.c_stride + column..].as_mut_ptr();
            // SAFETY: `multiply` has checked that C has `n_rows` rows of the panel's `kept` columns, row + TALL ≤ n_rows,
            // and all columns of the tile are among them.
            unsafe { self.add_steps::<R, TALL, WIDE>(row, column, depth, target, self.c_stride) };
            return TALL;
        }
        // A tile at the ragged right edge is computed in a buffer, so that nothing outside C is touched.
        let mut buffer = [0.0; 8 * PANEL];
        let place = |i: usize| (row + i) * self.c_stride + column;
        for i in 0..TALL {
            buffer[i * PANEL..][..kept].copy_from_slice(&self.c[place(i)..][..kept]);
        }
        // SAFETY: the buffer has 8 rows of `PANEL` values, TALL ≤ 8 and WIDE registers are at most a panel.
        unsafe { self.add_steps::<R, TALL, WIDE>(row, column, depth, buffer.as_mut_ptr(), PANEL) };
        for i in 0..TALL {
            self.c[place(i)..][..kept].copy_from_slice(&buffer[i * PANEL..][..kept]);
        }
        TALL
    }

    /// Adds up to `DEPTH` steps to TALL rows of WIDE registers at `target`.
    ///
    /// # Safety
    /// The tile lies inside A and the panel, `target` has room for its rows every `stride` values, and the caller was
    /// compiled for the instructions of `R`.
    #[inline(always)]
    unsafe fn add_steps<R: Register, const TALL: usize, const WIDE: usize>(
        &self,
        row: usize,
        column: usize,
        depth: usize,
        target: *mut f32,
        stride: usize,
    ) {
        let n_steps = DEPTH.min(self.panel.n_steps - depth);
        let goes_on = depth > 0 || matches!(self.start, Start::Sum);
        // SAFETY: `multiply` has checked that A has `n_rows` rows of `n_steps` words, the panel `n_steps` steps of
        // `width` words and a bias `width` values; row + TALL ≤ n_rows, depth + n_steps ≤ all steps, column + WIDE
        // registers ≤ width. The rest is the caller's promise.
        unsafe {
            let mut sums = [[R::zero(); WIDE]; TALL];
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    match self.start {
                        _ if goes_on => *sum = R::load(target.add(i * stride + j * R::LANES)),
                        Start::Bias(bias) => {
                            *sum = R::load(bias.as_ptr().add(column + j * R::LANES))
                        }
                        _ => {}
                    }
                }
            }
            let mut a = self
                .a
                .words
                .as_ptr()
                .add(row * self.a.row + depth * self.a.step);
            let mut b = self
                .panel
                .words
                .as_ptr()
                .add(depth * self.panel.width + column);
            for _ in 0..n_steps {
                let mut right = [R::splat_word(0); WIDE];
                for (j, right) in right.iter_mut().enumerate() {
                    *right = R::load_words(b.add(j * R::LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = R::splat_word(*a.add(i * self.a.row));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = sum.add_product(left, right);
                    }
                }
                a = a.wrapping_add(self.a.step);
                b = b.wrapping_add(self.panel.width);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    sum.store(target.add(i * stride + j * R::LANES));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

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

    /// Compares every way to pack both sides with three loops in f64 over rounded operands, at every level.
    fn check_multiply(m: usize, k: usize, n: usize) {
        let (a, b, bias) = (
            noise(m * k, 1),
            noise(k * n, 2),
            noise(n.next_multiple_of(PANEL), 3),
        ); // (m, k), (k, n)
        let turn = |values: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..columns)
                .flat_map(|j| (0..rows).map(move |i| values[i * columns + j]))
                .collect()
        };
        let (a_columns, b_columns) = (turn(&a, m, k), turn(&b, k, n));
        for (precision, simd) in
            [Precision::F32, Precision::Bf16]
                .into_iter()
                .flat_map(|precision| {
                    Simd::available()
                        .into_iter()
                        .map(move |simd| (precision, simd))
                })
        {
            let kernel = Kernel::new(simd, precision);
            let rounded = |x: f32| {
                f64::from(if kernel.rounds() {
                    bf16::from_f32(x).to_f32()
                } else {
                    x
                })
            };
            let expected = |i: usize, j: usize| -> f64 {
                (0..k)
                    .map(|s| rounded(a[i * k + s]) * rounded(b[s * n + j]))
                    .sum()
            };
            let (mut a_words, mut a_column_words, mut b_words) =
                (Vec::new(), Vec::new(), Vec::new());
            kernel.pack(&a, k, &mut a_words);
            kernel.pack_columns(&a_columns, m, m, &mut a_column_words);
            kernel.pack(&b_columns, k, &mut b_words);
            let mut panels: [Panels; 3] = Default::default();
            panels[0].fill(kernel, &b, n, k, n);
            panels[1].fill_transposed(kernel, &b_words, kernel.words(k), n, k);
            let mut row_words = Vec::new();
            kernel.pack(&b, n, &mut row_words);
            panels[2].fill_packed(kernel, &row_words, kernel.words(n), k, n);
            let mut a_panels = Panels::default();
            a_panels.fill(kernel, &a_columns, m, k, m);
            let stride = n + 5;
            let check = |c: &[f32], start: &dyn Fn(usize) -> f64, first: usize, rows: usize| {
                for i in 0..rows {
                    for j in 0..n {
                        let (found, expected) = (
                            f64::from(c[i * stride + j]),
                            start(j) + expected(first + i, j),
                        );
                        assert!(
                            (found - expected).abs() < 1e-4,
                            "{kernel:?} {m} x {k} x {n}: {found} {expected}"
                        );
                    }
                    assert!(
                        c[i * stride + n..][..5].iter().all(|x| x.is_nan()),
                        "columns behind C"
                    );
                }
            };
            for panels in &panels {
                for left in [
                    Left::rows(&a_words, kernel.words(k)),
                    Left::columns(&a_column_words, m),
                ] {
                    let mut c = vec![f32::NAN; m * stride];
                    for (repeat, start) in [(1.0, Start::Zero), (2.0, Start::Sum)] {
                        for panel in panels.iter() {
                            multiply(
                                kernel,
                                left,
                                panel,
                                start,
                                (&mut c[panel.first..], stride),
                                m,
                            );
                        }
                        for value in c.iter_mut().filter(|x| !x.is_nan()) {
                            *value /= repeat; // a product twice, halved
                        }
                        check(&c, &|_| 0.0, 0, m);
                    }
                    for panel in panels.iter() {
                        let start = Start::Bias(&bias[panel.first..]);
                        multiply(
                            kernel,
                            left,
                            panel,
                            start,
                            (&mut c[panel.first..], stride),
                            m,
                        );
                    }
                    check(&c, &|j| f64::from(bias[j]), 0, m);
                }
                for strip in a_panels.iter() {
                    let mut c = vec![f32::NAN; strip.kept * stride];
                    for panel in panels.iter() {
                        let target = (&mut c[panel.first..], stride);
                        multiply(
                            kernel,
                            strip.columns(),
                            panel,
                            Start::Zero,
                            target,
                            strip.kept,
                        );
                    }
                    check(&c, &|_| 0.0, strip.first, strip.kept);
                }
            }
        }
    }

    #[test]
    fn products_equal_three_loops() {
        for (m, k, n) in [
            (1, 1, 1),
            (2, 3, 5),
            (9, 32, 16),
            (15, 33, 47),
            (50, 64, 49),
            (23, 401, 100),
            (8, 800, 32),
        ] {
            check_multiply(m, k, n);
        }
    }
}
