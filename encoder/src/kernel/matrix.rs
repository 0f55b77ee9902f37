//! Matrix product with one operand packed beforehand.

use compute::{Level, Simd};

/// Columns of a full panel: three AVX-512 registers.
const PANEL: usize = 48;
/// Panels are padded with zero columns to a multiple of this.
const LANES: usize = 16;
/// Rows of a panel that are used in one go. 192 · 48 floats fill three quarters of a 48 KiB L1 cache.
const DEPTH: usize = 192;

/// A (k, n) matrix, cut into panels of up to 48 columns, each stored row by row.
///
/// The innermost loop reads a panel from first to last byte, whatever the shape of the matrix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panels {
    k: usize,
    n: usize,
    values: Vec<f32>,
}

impl Panels {
    /// Packs the transpose of a row-major (n, k) matrix: the layout in which checkpoints hold linear layers.
    pub(crate) fn from_transposed(rows: &[f32], n: usize, k: usize) -> Self {
        let mut panels = Self::default();
        panels.fill_transposed(rows, k, n, k);
        panels
    }

    /// Repacks `self` with the transpose of `n` rows of `k` values that start every `stride` values.
    pub(crate) fn fill_transposed(&mut self, rows: &[f32], stride: usize, n: usize, k: usize) {
        self.resize(k, n);
        for (first, width, panel) in panels_mut(&mut self.values, k, n) {
            for column in 0..width.min(n - first) {
                let row = &rows[(first + column) * stride..][..k];
                for (value, target) in row.iter().zip(panel[column..].iter_mut().step_by(width)) {
                    *target = *value;
                }
            }
        }
    }

    /// Repacks `self` with `k` rows of `n` values that start every `stride` values.
    pub(crate) fn fill(&mut self, rows: &[f32], stride: usize, k: usize, n: usize) {
        self.resize(k, n);
        for (first, width, panel) in panels_mut(&mut self.values, k, n) {
            let kept = width.min(n - first);
            for (row, target) in rows.chunks(stride).zip(panel.chunks_exact_mut(width)) {
                target[..kept].copy_from_slice(&row[first..first + kept]);
            }
        }
    }

    /// Counts the padding as columns of zeros, so that no tile of a product is ragged.
    pub(crate) fn widen(&mut self) {
        self.n = Self::padded(self.n);
    }

    /// Columns that [`Self::widen`] makes of `n`.
    pub(crate) fn padded(n: usize) -> usize {
        n.next_multiple_of(LANES)
    }

    /// Number of columns.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    fn resize(&mut self, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        self.values.clear();
        self.values.resize(k * n.next_multiple_of(LANES), 0.0);
    }
}

/// Yields (first column, width with padding, values) of each panel.
fn panels_mut(
    values: &mut [f32],
    k: usize,
    n: usize,
) -> impl Iterator<Item = (usize, usize, &mut [f32])> {
    values
        .chunks_mut((k * PANEL).max(1))
        .enumerate()
        .map(move |(index, panel)| {
            let first = index * PANEL;
            (first, (n - first).next_multiple_of(LANES).min(PANEL), panel)
        })
}

/// Computes `C = A · B + bias`, where row `i` of A starts at `a[i · a_stride]` and row `i` of C at `c[i · c_stride]`.
///
/// Every value of C is the bias plus the products in the order of k, one fused addition each: it depends on its own
/// row and column only, not on how many rows there are. The result is bit-equal at all levels that fuse.
pub(crate) fn multiply(
    simd: Simd,
    (a, a_stride): (&[f32], usize),
    b: &Panels,
    bias: Option<&[f32]>,
    (c, c_stride): (&mut [f32], usize),
    n_rows: usize,
) {
    if n_rows == 0 || b.n == 0 {
        return;
    }
    assert!(
        (n_rows - 1) * a_stride + b.k <= a.len(),
        "A has {n_rows} rows of {} values",
        b.k
    );
    assert!(
        (n_rows - 1) * c_stride + b.n <= c.len(),
        "C has {n_rows} rows of {} values",
        b.n
    );
    assert!(c_stride >= b.n, "rows of C do not overlap");
    assert!(
        bias.is_none_or(|bias| bias.len() == b.n),
        "one bias per column"
    );
    let mut panel_start = 0;
    for first in (0..b.n).step_by(PANEL) {
        let kept = PANEL.min(b.n - first);
        let width = kept.next_multiple_of(LANES);
        let panel = &b.values[panel_start..panel_start + b.k * width];
        panel_start += panel.len();
        let mut start = [0.0; PANEL];
        if let Some(bias) = bias {
            start[..kept].copy_from_slice(&bias[first..first + kept]);
        }
        let block = Block {
            a,
            a_stride,
            c: &mut c[first..],
            c_stride,
            n_rows,
            k: b.k,
            panel,
            width,
            kept,
            start,
        };
        match simd.level() {
            // SAFETY: a `Simd` of this level exists only where the machine has these instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { multiply_avx512(block) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { multiply_avx2(block) },
            _ => multiply_portable(block),
        }
    }
}

/// The product of all rows of A with one panel.
struct Block<'a> {
    a: &'a [f32],
    a_stride: usize,
    c: &'a mut [f32],
    c_stride: usize,
    n_rows: usize,
    k: usize,
    panel: &'a [f32],
    width: usize,
    /// Columns of the panel that are no padding.
    kept: usize,
    /// Bias of the panel's columns.
    start: [f32; PANEL],
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn multiply_avx512(block: Block<'_>) {
    block.run::<std::arch::x86_64::__m512, 8>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(block: Block<'_>) {
    block.run::<std::arch::x86_64::__m256, 4>();
}

fn multiply_portable(block: Block<'_>) {
    block.run::<[f32; 4], 4>();
}

impl Block<'_> {
    /// Cuts the block into tiles of up to `ROWS` rows and three registers of columns.
    #[inline(always)]
    fn run<R: Register, const ROWS: usize>(mut self) {
        for depth in (0..self.k.max(1)).step_by(DEPTH) {
            let n_steps = DEPTH.min(self.k - depth);
            let mut row = 0;
            while row < self.n_rows {
                let mut column = 0;
                while column < self.kept {
                    let registers = ((self.width - column) / R::LANES).min(3);
                    match registers {
                        3 => self.rows::<R, ROWS, 3>(row, column, depth, n_steps),
                        2 => self.rows::<R, ROWS, 2>(row, column, depth, n_steps),
                        _ => self.rows::<R, ROWS, 1>(row, column, depth, n_steps),
                    }
                    column += registers * R::LANES;
                }
                row += ROWS;
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
        n_steps: usize,
    ) {
        let end = self.n_rows.min(row + ROWS);
        while row < end {
            let left = end - row;
            row += if ROWS >= 8 && left >= 8 {
                self.tile::<R, 8, WIDE>(row, column, depth, n_steps)
            } else if left >= 4 {
                self.tile::<R, 4, WIDE>(row, column, depth, n_steps)
            } else if left >= 2 {
                self.tile::<R, 2, WIDE>(row, column, depth, n_steps)
            } else {
                self.tile::<R, 1, WIDE>(row, column, depth, n_steps)
            };
        }
    }

    /// Adds `n_steps` products to a tile of C and returns its height.
    ///
    /// The first pass starts from the bias, later ones from what the pass before has stored.
    #[inline(always)]
    fn tile<R: Register, const TALL: usize, const WIDE: usize>(
        &mut self,
        row: usize,
        column: usize,
        depth: usize,
        n_steps: usize,
    ) -> usize {
        let kept = (self.kept - column).min(WIDE * R::LANES);
        let ragged = kept < WIDE * R::LANES;
        // A tile at the ragged right edge is computed in a buffer, so that nothing outside C is touched.
        let mut buffer = [0.0; 8 * PANEL];
        let (target, stride) = if ragged {
            if depth > 0 {
                for i in 0..TALL {
                    let stored = &self.c[(row + i) * self.c_stride + column..][..kept];
                    buffer[i * PANEL..][..kept].copy_from_slice(stored);
                }
            }
            (buffer.as_mut_ptr(), PANEL)
        } else {
            (
                self.c[row * self.c_stride + column..].as_mut_ptr(),
                self.c_stride,
            )
        };
        let a = &self.a[row * self.a_stride + depth..];
        let b = &self.panel[depth * self.width + column..];
        debug_assert!((TALL - 1) * self.a_stride + n_steps <= a.len());
        debug_assert!(n_steps == 0 || (n_steps - 1) * self.width + WIDE * R::LANES <= b.len());
        // SAFETY: `multiply` has checked that A has `n_rows` rows of k values and C as many of n values, and the panel
        // has k rows of `width`; row + TALL ≤ n_rows, depth + n_steps ≤ k, column + WIDE registers ≤ width. `target` is
        // C where all columns are C's own, else a buffer of 8 rows of `PANEL`, and TALL ≤ 8.
        unsafe {
            let mut sums = [[R::splat(0.0); WIDE]; TALL];
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let from = if depth == 0 {
                        self.start.as_ptr().add(column)
                    } else {
                        target.add(i * stride)
                    };
                    *sum = R::load(from.add(j * R::LANES));
                }
            }
            let (mut a, mut b) = (a.as_ptr(), b.as_ptr());
            for _ in 0..n_steps {
                let mut right = [R::splat(0.0); WIDE];
                for (j, right) in right.iter_mut().enumerate() {
                    *right = R::load(b.add(j * R::LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let left = R::splat(*a.add(i * self.a_stride));
                    for (sum, &right) in sums.iter_mut().zip(&right) {
                        *sum = left.mul_add(right, *sum);
                    }
                }
                a = a.add(1);
                b = b.add(self.width);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    sum.store(target.add(i * stride + j * R::LANES));
                }
            }
        }
        if ragged {
            for i in 0..TALL {
                let target = &mut self.c[(row + i) * self.c_stride + column..][..kept];
                target.copy_from_slice(&buffer[i * PANEL..][..kept]);
            }
        }
        TALL
    }
}

/// One vector register. Its functions are called only where its instructions exist.
trait Register: Copy {
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self · b + c`
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_register {
    ($register:ident, $lanes:literal, $splat:ident, $load:ident, $store:ident, $mul_add:ident) => {
        impl Register for std::arch::x86_64::$register {
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the caller runs on a machine with this instruction.
                unsafe { std::arch::x86_64::$splat(value) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above, and `from` points to as many floats as there are lanes.
                unsafe { std::arch::x86_64::$load(from) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above, and `to` points to as many floats as there are lanes.
                unsafe { std::arch::x86_64::$store(to, self) }
            }
            #[inline(always)]
            unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                // SAFETY: the caller runs on a machine with this instruction.
                unsafe { std::arch::x86_64::$mul_add(self, b, c) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
x86_register!(
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
x86_register!(
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_fmadd_ps
);

impl Register for [f32; 4] {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: `from` points to four floats; an array of floats has the alignment of one.
        unsafe { from.cast::<Self>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: `to` points to four floats.
        unsafe { to.cast::<Self>().write(self) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        std::array::from_fn(|i| {
            compute::mul_add::<{ cfg!(target_arch = "aarch64") }>(self[i], b[i], c[i])
        })
    }
}

#[cfg(test)]
mod tests {
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

    /// Compares with three loops in f64, at every level, with rows apart and columns after the last.
    fn check_multiply(m: usize, k: usize, n: usize) {
        let (a_stride, c_stride) = (k + 3, n + 5);
        let (a, weights, bias) = (noise(m * a_stride, 1), noise(n * k, 2), noise(n, 3));
        let panels = Panels::from_transposed(&weights, n, k);
        let mut fused: Option<Vec<f32>> = None;
        for simd in Simd::available() {
            let mut c = vec![f32::NAN; m * c_stride];
            multiply(
                simd,
                (&a, a_stride),
                &panels,
                Some(&bias),
                (&mut c, c_stride),
                m,
            );
            for i in 0..m {
                for j in 0..n {
                    let exact = f64::from(bias[j])
                        + (0..k)
                            .map(|p| f64::from(a[i * a_stride + p]) * f64::from(weights[j * k + p]))
                            .sum::<f64>();
                    let error = (f64::from(c[i * c_stride + j]) - exact).abs();
                    assert!(
                        error < 1e-6 * (k + 1) as f64,
                        "{m}x{k}x{n} {simd:?} [{i}, {j}]: {error}"
                    );
                }
                assert!(
                    c[i * c_stride + n..(i + 1) * c_stride]
                        .iter()
                        .all(|value| value.is_nan()),
                    "outside C"
                );
            }
            let rows: Vec<f32> = c
                .chunks(c_stride)
                .flat_map(|row| row[..n].to_vec())
                .collect();
            if simd.level() != Level::Portable {
                assert_eq!(
                    *fused.get_or_insert_with(|| rows.clone()),
                    rows,
                    "levels differ"
                );
            }
            for i in 0..m {
                let mut alone = vec![0.0; n];
                multiply(
                    simd,
                    (&a[i * a_stride..], a_stride),
                    &panels,
                    Some(&bias),
                    (&mut alone, n),
                    1,
                );
                assert_eq!(
                    alone,
                    rows[i * n..(i + 1) * n],
                    "row {i} depends on its neighbours"
                );
            }
        }
    }

    #[test]
    fn products_equal_three_loops() {
        for (m, k, n) in [
            (1, 1, 1),
            (3, 5, 7),
            (8, 192, 48),
            (9, 193, 49),
            (17, 400, 100),
            (5, 32, 64),
            (2, 7, 96),
        ] {
            check_multiply(m, k, n);
        }
    }

    #[test]
    fn rows_and_transposed_rows_pack_alike() {
        let (k, n) = (5, 70);
        let rows = noise(k * n, 4);
        let transposed: Vec<f32> = (0..n)
            .flat_map(|j| (0..k).map(move |p| (p, j)))
            .map(|(p, j)| rows[p * n + j])
            .collect();
        let mut packed = Panels::default();
        packed.fill(&rows, n, k, n);
        assert_eq!(
            packed.values,
            Panels::from_transposed(&transposed, n, k).values
        );
    }

    #[test]
    fn an_empty_sum_is_the_bias() {
        let panels = Panels::from_transposed(&[], 2, 0);
        let mut c = [0.0; 2];
        multiply(
            Simd::detect(),
            (&[], 0),
            &panels,
            Some(&[3.0, 4.0]),
            (&mut c, 2),
            1,
        );
        assert_eq!(c, [3.0, 4.0]);
    }
}
