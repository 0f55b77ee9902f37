//! Codes: what the graph knows of a vector, a few cache lines that one instruction multiplies 64 values of at a time.

use std::ops::Range;

use compute::Simd;

use super::principal::Directions;
use crate::Metric;
use crate::kernel::first_pass;
use crate::rows::Rows;

/// A cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; LINE]);

pub(super) const LINE: usize = 64;

/// Bytes of a record before its codes: step, offset and lift (`f32`), and the sum of the codes (`i32`).
pub(super) const HEADER: usize = 16;

/// The records of many vectors.
///
/// A record is a whole number of lines: step `a`, offset `o`, lift `l`, `Σc`, and the codes `c + 128`, the unused ones
/// 128. The similarity of `x` and `y` is estimated as `aₓa_y⟨cₓ, c_y⟩ + lₓl_y − oₓ − o_y`.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    lines: &'a [Line],
    per_record: usize,
}

impl<'a> Codes<'a> {
    pub fn new(lines: &'a [Line], per_record: usize) -> Self {
        assert!(
            per_record > 0 && lines.len().is_multiple_of(per_record),
            "records are whole"
        );
        Self { lines, per_record }
    }

    pub fn len(&self) -> usize {
        self.lines.len() / self.per_record
    }

    pub fn per_record(&self) -> usize {
        self.per_record
    }

    #[inline(always)]
    pub fn record(&self, node: u32) -> &'a [Line] {
        &self.lines[node as usize * self.per_record..][..self.per_record]
    }

    /// Asks for the record's cache lines before they are needed.
    #[inline(always)]
    pub fn fetch(&self, node: u32) {
        for line in self.record(node) {
            fetch(line);
        }
    }
}

/// Asks for a cache line before it is needed.
#[inline(always)]
pub(super) fn fetch<T>(address: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the architecture, and a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(address).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The numbers at the start of a record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Header {
    pub step: f32,
    pub offset: f32,
    pub lift: f32,
    pub sum: i32,
}

impl Header {
    #[inline(always)]
    pub fn of(record: &[Line]) -> Self {
        let bytes = &record[0].0;
        let four = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        Self {
            step: f32::from_le_bytes(four(0)),
            offset: f32::from_le_bytes(four(4)),
            lift: f32::from_le_bytes(four(8)),
            sum: i32::from_le_bytes(four(12)),
        }
    }

    fn put(self, record: &mut [Line]) {
        let bytes = &mut record[0].0;
        bytes[..4].copy_from_slice(&self.step.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.lift.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.sum.to_le_bytes());
    }
}

/// A vector that others are compared with: a query, or a node in the place of one.
#[derive(Clone, Debug, Default)]
pub(super) struct Probe {
    /// As a record, but the codes are signed and the header is zero, which adds nothing to a product.
    pub lines: Vec<Line>,
    /// `−128 Σĉ`: what the sum of products with `c + 128` starts from.
    pub start: i32,
    pub header: Header,
}

impl Probe {
    /// Puts a record in the place of a query.
    #[inline]
    pub fn set(&mut self, record: &[Line]) {
        self.header = Header::of(record);
        self.start = self.header.sum.wrapping_mul(-128);
        self.lines.clear();
        self.lines.extend_from_slice(record);
        for line in &mut self.lines {
            line.0.iter_mut().for_each(|byte| *byte ^= 128);
        }
        self.lines[0].0[..HEADER].fill(0);
    }
}

/// What makes records of vectors.
pub(super) struct Encoder<'a> {
    directions: &'a Directions,
    /// `|center|²/2`
    half_center: f64,
    metric: Metric,
    /// Under inner products, the square of the longest row's length; see [`super`].
    squared_radius: f64,
    simd: Simd,
    values: Vec<f32>,
    centered: Vec<f32>,
    coordinates: Vec<f32>,
}

impl<'a> Encoder<'a> {
    pub fn new(
        simd: Simd,
        directions: &'a Directions,
        metric: Metric,
        squared_radius: f64,
    ) -> Self {
        Self {
            directions,
            half_center: product(&directions.center, &directions.center) / 2.0,
            metric,
            squared_radius,
            simd,
            values: Vec::new(),
            centered: Vec::new(),
            coordinates: Vec::new(),
        }
    }

    /// Writes the record of a query.
    pub fn encode_query(&mut self, query: &[f32], record: &mut [Line]) {
        self.values.clear();
        self.values.extend_from_slice(query);
        self.encode_values(record);
    }

    /// Writes the records of rows.
    pub fn encode(&mut self, rows: Rows<'_>, which: Range<usize>, records: &mut [Line]) {
        self.values.clear();
        for i in which {
            self.values.extend_from_slice(&rows.row(i));
        }
        self.encode_values(records);
    }

    fn encode_values(&mut self, records: &mut [Line]) {
        let Directions { center, basis } = self.directions;
        let width = center.len();
        let (n_rows, n_directions) = (self.values.len() / width, basis.len() / width);
        self.centered.clear();
        for row in self.values.chunks_exact(width) {
            self.centered
                .extend(row.iter().zip(center).map(|(x, c)| x - c));
        }
        self.coordinates.clear();
        self.coordinates.resize(n_rows * n_directions, 0.0);
        let (vectors, simd) = (&self.centered, self.simd);
        let slices = |values| <[f32]>::chunks_exact(values, width).collect::<Vec<_>>();
        // The first pass keeps four of its "rows" in registers: those are the more numerous.
        let by_direction = n_rows >= 4;
        if by_direction {
            let rows = slices(vectors);
            first_pass(
                simd,
                Metric::InnerProduct,
                &rows,
                basis,
                &mut self.coordinates,
            );
        } else {
            let rows = slices(basis);
            first_pass(
                simd,
                Metric::InnerProduct,
                &rows,
                vectors,
                &mut self.coordinates,
            );
        }
        let at = |row: usize, i: usize| match by_direction {
            true => self.coordinates[i * n_rows + row],
            false => self.coordinates[row * n_directions + i],
        };
        let per_record = records.len() / n_rows;
        for (i, record) in records.chunks_exact_mut(per_record).enumerate() {
            let row = &self.values[i * width..][..width];
            let offset = match self.metric {
                Metric::InnerProduct | Metric::Cosine => self.half_center - product(center, row),
                Metric::L2 => {
                    let centered = &self.centered[i * width..][..width];
                    product(centered, centered) / 2.0
                }
            };
            let lift = (self.squared_radius - product(row, row)).max(0.0).sqrt();
            let header = Header {
                offset: offset as f32,
                lift: lift as f32,
                ..Header::default()
            };
            write_record(record, n_directions, header, |j| at(i, j));
        }
    }
}

pub(super) fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| f64::from(a) * f64::from(b))
        .sum()
}

/// Rounds coordinates to 8 bits with a step of the vector's own. Where that is not possible all codes are zero.
fn write_record(
    record: &mut [Line],
    n_directions: usize,
    header: Header,
    coordinate: impl Fn(usize) -> f32,
) {
    let largest = (0..n_directions).fold(0.0_f32, |largest, i| largest.max(coordinate(i).abs()));
    let step = largest / 127.0;
    let step = if step.is_normal() { step } else { 0.0 };
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    let mut sum = 0;
    record.fill(Line([128; LINE]));
    for i in 0..n_directions {
        let code = (coordinate(i) * inverse).round_ties_even() as i8; // NaN becomes 0
        sum += i32::from(code);
        let at = HEADER + i;
        record[at / LINE].0[at % LINE] = (i32::from(code) + 128) as u8;
    }
    Header {
        step,
        sum,
        ..header
    }
    .put(record);
}

/// Lines of zeros.
pub(super) fn blank(n: usize) -> Vec<Line> {
    vec![Line([0; LINE]); n]
}

/// The bytes of lines.
pub(super) fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes and nothing else.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}
