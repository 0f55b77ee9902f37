//! Codes: what the graph knows of a vector, a few cache lines that one instruction multiplies 64 values of at a time.

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

/// Writes a record: coordinates rounded to 8 bits with a step of the vector's own. Where that is not possible the step is
/// zero, and so is every product.
pub(super) fn write(record: &mut [Line], header: Header, coordinates: &[f32]) {
    // As integers, which the compiler takes many at a time; what is not finite is the largest.
    let largest = coordinates
        .iter()
        .fold(0, |largest, y| largest.max(y.abs().to_bits()));
    let step = f32::from_bits(largest) / 127.0;
    let step = if step.is_normal() { step } else { 0.0 };
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    record.fill(Line([128; LINE]));
    let codes = &mut bytes_mut(record)[HEADER..][..coordinates.len()];
    for (code, y) in codes.iter_mut().zip(coordinates) {
        *code = (y * inverse + ROUNDER).to_bits() as u8 ^ 128;
    }
    let sum = codes.iter().map(|&code| i32::from(code) - 128).sum();
    Header {
        step,
        sum,
        ..header
    }
    .put(record);
}

/// 1.5 · 2²³: added to a small number it leaves the nearest integer in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;

/// Lines of zeros.
pub(super) fn blank(n: usize) -> Vec<Line> {
    vec![Line([0; LINE]); n]
}

/// The bytes of lines.
pub(super) fn bytes(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes and nothing else.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), size_of_val(lines)) }
}

fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
    // SAFETY: a line is 64 bytes and nothing else.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), size_of_val(lines)) }
}
