//! The operands of a product: numbers in 32-bit words, and weights cut into panels.

use compute::Simd;

use super::function::{exp_of_scaled, quick_exp_of_scaled};
use super::quantize::{self, as_words};

/// Columns of a full panel: three AVX-512 registers.
pub(super) const PANEL: usize = 48;
/// Panels are padded with zero columns to a multiple of this.
pub(super) const LANES: usize = 16;
/// Most words of a slab: 192 · 48 fill three quarters of a 48 KiB L1 cache.
pub(super) const DEPTH: usize = 192;
/// Most 8-bit integers that share a scale.
const INT8_DEPTH: usize = 160;

/// How the numbers of both operands are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// 32-bit floats.
    #[default]
    F32,
    /// Floats with 8 bits of precision; sums are f32.
    Bf16,
    /// Sums of two bf16, about 16 bits of precision: those of a slab's rounded numbers, then those of what rounding took.
    Bf16x3,
    /// 16-bit integers; sums are exact.
    Fixed16,
    /// 8-bit integers; sums are exact.
    Int8,
}

impl Format {
    /// Numbers in a 32-bit word.
    fn per_word(self) -> usize {
        match self {
            Self::F32 | Self::Bf16x3 => 1,
            Self::Bf16 | Self::Fixed16 => 2,
            Self::Int8 => 4,
        }
    }

    /// Words that hold so many numbers.
    fn n_words(self, len: usize) -> usize {
        match self {
            Self::Bf16x3 => 2 * Self::Bf16.n_words(len),
            format => len.div_ceil(format.per_word()),
        }
    }

    fn has_scales(self) -> bool {
        matches!(self, Self::Fixed16 | Self::Int8)
    }
}

/// A part of k that is held in one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slab {
    pub(super) format: Format,
    /// First number and how many.
    first: usize,
    len: usize,
    pub(super) first_word: usize,
    pub(super) n_words: usize,
}

/// Appends slabs of about equal length for `len` numbers in a format.
fn push_slabs(slabs: &mut Vec<Slab>, format: Format, mut len: usize) {
    let most = match format {
        Format::Int8 => INT8_DEPTH,
        format => DEPTH * format.per_word(),
    };
    let n_slabs = len.div_ceil(most);
    let each = if format.has_scales() {
        len.div_ceil(n_slabs.max(1)).next_multiple_of(16)
    } else {
        most
    };
    while len > 0 {
        let last = slabs.last();
        let slab = Slab {
            format,
            first: last.map_or(0, |slab| slab.first + slab.len),
            len: each.min(len),
            first_word: last.map_or(0, |slab| slab.first_word + slab.n_words),
            n_words: format.n_words(each.min(len)),
        };
        slabs.push(slab);
        len -= slab.len;
    }
}

/// A (k, n) matrix, cut into panels of up to 48 columns, each stored row by row.
///
/// The innermost loop reads a panel from first to last byte, whatever the shape of the matrix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Panels {
    /// Numbers of a column.
    k: usize,
    pub(super) n: usize,
    pub(super) slabs: Vec<Slab>,
    /// Words of a column.
    pub(super) n_words: usize,
    pub(super) words: Vec<u32>,
    /// Scales of the columns, (slabs, padded n); empty when all slabs are floats.
    pub(super) scales: Vec<f32>,
    /// What sums of 8-bit integers start from, (slabs, padded n): the left operand holds x + 128 without sign, so
    /// 128 times the sum of the column is taken off again.
    pub(super) starts: Vec<u32>,
}

impl Panels {
    /// Packs the transpose of a row-major (n, k) matrix in a format: checkpoints hold linear layers so.
    pub(crate) fn from_transposed(
        simd: Simd,
        format: Format,
        rows: &[f32],
        n: usize,
        k: usize,
    ) -> Self {
        let mut panels = Self::default();
        panels.fill_transposed(simd, format, (rows, k), n, k, &mut Rows::default());
        panels
    }

    /// Repacks `self` with the transpose of `n` rows of `k` floats that start every `stride` floats; `columns` is a
    /// buffer.
    pub(crate) fn fill_transposed(
        &mut self,
        simd: Simd,
        format: Format,
        (rows, stride): (&[f32], usize),
        n: usize,
        k: usize,
        columns: &mut Rows,
    ) {
        self.cut(format, k, n);
        self.place(simd, (rows, stride), columns);
    }

    /// Repacks `self` with `k` rows of `n` floats that start every `stride` floats, in a format that attention has:
    /// [`Format::F32`], [`Format::Bf16`] or [`Format::Fixed16`].
    pub(crate) fn fill(
        &mut self,
        simd: Simd,
        format: Format,
        (rows, stride): (&[f32], usize),
        k: usize,
        n: usize,
    ) {
        self.cut(format, k, n);
        let (n_words, padded, slabs) = (self.n_words, Self::padded(n), &self.slabs);
        for (first, width, panel) in panels_mut(&mut self.words, n_words, n) {
            let kept = width.min(n - first);
            for (index, slab) in slabs.iter().enumerate() {
                let rows = &rows[slab.first * stride + first..];
                let words = &mut panel[slab.first_word * width..][..slab.n_words * width];
                match format {
                    Format::F32 => {
                        for (row, words) in rows.chunks(stride).zip(words.chunks_exact_mut(width)) {
                            words[..kept].copy_from_slice(&as_words(row)[..kept]);
                        }
                    }
                    Format::Bf16 => {
                        quantize::columns_bf16(simd, rows, stride, slab.len, words, width, kept);
                    }
                    Format::Fixed16 => {
                        let scales = &mut self.scales[index * padded + first..][..kept];
                        quantize::columns_fixed16(
                            simd, rows, stride, slab.len, words, width, scales,
                        );
                    }
                    Format::Bf16x3 | Format::Int8 => unreachable!("attention is in other formats"),
                }
            }
        }
    }

    /// Makes room for a (k, n) matrix in one format.
    fn cut(&mut self, format: Format, k: usize, n: usize) {
        self.slabs.clear();
        push_slabs(&mut self.slabs, format, k);
        self.resize(k, n);
    }

    fn resize(&mut self, k: usize, n: usize) {
        (self.k, self.n) = (k, n);
        self.n_words = self.slabs.iter().map(|slab| slab.n_words).sum();
        let padded = Self::padded(n);
        self.words.resize(self.n_words * padded, 0);
        if n < padded {
            // The padding is in the last panel, which may hold something older.
            let first = n / PANEL * PANEL;
            self.words[self.n_words * first..].fill(0);
        }
        let of = |has: bool| if has { self.slabs.len() * padded } else { 0 };
        self.scales.clear();
        let scaled = self.slabs.iter().any(|slab| slab.format.has_scales());
        self.scales.resize(of(scaled), 0.0);
        self.starts.clear();
        let signed = self.slabs.iter().any(|slab| slab.format == Format::Int8);
        self.starts.resize(of(signed), 0);
    }

    /// Converts the columns, which start every `stride` floats, and writes them into the panels.
    fn place(&mut self, simd: Simd, (rows, stride): (&[f32], usize), columns: &mut Rows) {
        let (n, n_words, padded) = (self.n, self.n_words, Self::padded(self.n));
        columns.convert(simd, self, (rows, stride), n, 0);
        for (first, width, panel) in panels_mut(&mut self.words, n_words, n) {
            for column in 0..width.min(n - first) {
                let words = &columns.words[(first + column) * n_words..][..n_words];
                for (word, target) in words.iter().zip(panel[column..].iter_mut().step_by(width)) {
                    *target = *word;
                }
            }
        }
        if self.scales.is_empty() {
            return;
        }
        for (index, slab) in self.slabs.iter().enumerate() {
            for column in 0..n {
                let place = index * padded + column;
                self.scales[place] = columns.scales[column * self.slabs.len() + index];
                if slab.format == Format::Int8 {
                    let words =
                        &columns.words[column * n_words + slab.first_word..][..slab.n_words];
                    self.starts[place] = (-128 * quantize::sum_of_bytes(words)).cast_unsigned();
                }
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

    /// The format of all slabs; F32 where there are none.
    pub(crate) fn format(&self) -> Format {
        self.slabs.first().map_or(Format::F32, |slab| slab.format)
    }

    /// Number of columns.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Numbers of a column.
    pub(crate) fn k(&self) -> usize {
        self.k
    }
}

/// Yields (first column, width with padding, words) of each panel.
fn panels_mut(
    words: &mut [u32],
    n_words: usize,
    n: usize,
) -> impl Iterator<Item = (usize, usize, &mut [u32])> {
    words
        .chunks_mut((n_words * PANEL).max(1))
        .enumerate()
        .map(move |(index, panel)| {
            let first = index * PANEL;
            (first, (n - first).next_multiple_of(LANES).min(PANEL), panel)
        })
}

/// Rows of a left operand, in the formats of the panels that they are multiplied with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(super) n_rows: usize,
    pub(super) n_words: usize,
    pub(super) words: Vec<u32>,
    /// (rows, slabs); empty when all slabs are floats.
    pub(super) scales: Vec<f32>,
}

impl Rows {
    /// Takes `n_rows` rows, which start every `stride` floats, for a product with `panels`.
    pub(crate) fn fill(
        &mut self,
        simd: Simd,
        panels: &Panels,
        (rows, stride): (&[f32], usize),
        n_rows: usize,
    ) {
        self.convert(simd, panels, (rows, stride), n_rows, 128);
    }

    /// Takes rows of scores for a product with `panels`, each as `softmax(scale · scores)` of its first k values, which
    /// are padded to a multiple of 16. The scores are overwritten.
    pub(crate) fn fill_softmax(
        &mut self,
        simd: Simd,
        panels: &Panels,
        (scores, stride): (&mut [f32], usize),
        scale: f32,
    ) {
        let format = panels.format();
        self.resize(panels, scores.len() / stride);
        let rows = scores
            .chunks_exact_mut(stride)
            .zip(self.words.chunks_exact_mut(self.n_words));
        for (index, (scores, words)) in rows.enumerate() {
            scores[panels.k..].fill(f32::NEG_INFINITY);
            if !panels.k.is_multiple_of(format.per_word()) {
                words[self.n_words - 1] = 0;
            }
            match format {
                Format::F32 => {
                    let [sum, _] = exp_of_scaled(simd, scores, scale);
                    let scores = &mut scores[..panels.k];
                    super::scale(simd, scores, 1.0 / sum);
                    words.copy_from_slice(as_words(scores));
                }
                Format::Bf16 => {
                    let [sum, _] = quick_exp_of_scaled(simd, scores, scale);
                    let scores = &mut scores[..panels.k];
                    super::scale(simd, scores, 1.0 / sum);
                    quantize::bf16(simd, scores, words);
                }
                Format::Bf16x3 | Format::Int8 => unreachable!("attention is in other formats"),
                Format::Fixed16 => {
                    // The squares of all slabs are in its sum, so that every slab keeps the limit.
                    let [sum, squares] = quick_exp_of_scaled(simd, scores, scale);
                    let scale = quantize::fixed16_scale(squares, 1.0);
                    quantize::multiples_of(simd, &scores[..panels.k], scale, words);
                    let n_slabs = panels.slabs.len();
                    self.scales[index * n_slabs..][..n_slabs].fill(scale / sum);
                }
            }
        }
    }

    fn resize(&mut self, panels: &Panels, n_rows: usize) {
        (self.n_rows, self.n_words) = (n_rows, panels.n_words);
        self.words.resize(n_rows * panels.n_words, 0);
        let n_scales = if panels.scales.is_empty() {
            0
        } else {
            panels.slabs.len()
        };
        self.scales.resize(n_rows * n_scales, 0.0);
    }

    /// Converts rows slab by slab; `offset` is added to 8-bit integers.
    fn convert(
        &mut self,
        simd: Simd,
        panels: &Panels,
        (rows, stride): (&[f32], usize),
        n_rows: usize,
        offset: i32,
    ) {
        self.resize(panels, n_rows);
        let (k, n_slabs) = (panels.k, panels.slabs.len());
        for row in 0..n_rows {
            let values = &rows[row * stride..][..k];
            for (index, slab) in panels.slabs.iter().enumerate() {
                let values = &values[slab.first..][..slab.len];
                let first = row * self.n_words + slab.first_word;
                let words = &mut self.words[first..first + slab.n_words];
                if !slab.len.is_multiple_of(slab.format.per_word()) {
                    words[slab.n_words - 1] = 0;
                }
                match slab.format {
                    Format::F32 => words.copy_from_slice(as_words(values)),
                    Format::Bf16 => quantize::bf16(simd, values, words),
                    Format::Bf16x3 => quantize::bf16x3(simd, values, words),
                    Format::Fixed16 => {
                        self.scales[row * n_slabs + index] = quantize::fixed16(simd, values, words);
                    }
                    Format::Int8 => {
                        self.scales[row * n_slabs + index] =
                            quantize::int8(simd, values, words, offset);
                    }
                }
            }
        }
    }
}
