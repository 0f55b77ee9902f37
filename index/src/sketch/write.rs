//! Sketches of rows, into a shard's file.

use std::ops::Range;

use compute::Simd;
use rayon::prelude::*;

use super::projection::{Coordinates, Projected, Projection, ROUNDING};
use super::query::{LOWERED, down, up};
use super::{Bounds, LANES, Layout};
use crate::rows::Rows;
use crate::section::{Need, SectionWriter};
use crate::{Metric, WriteError};

/// A shard of fewer rows has no sketches: reading all of them takes less than a millisecond.
pub(crate) const MIN_SKETCHED_ROWS: u64 = 2048;

/// Rows sketched in one go, by all threads.
const CHUNK_ROWS: usize = 1 << 14;

/// Writes the sections of the sketches of rows, which are those of a finished section of the file.
///
/// Nothing is written when the rows cannot be projected.
pub(crate) fn write(
    sections: &mut SectionWriter,
    rows: Rows<'_>,
    metric: Metric,
) -> Result<(), WriteError> {
    let width = rows.width;
    let Some(projection) = Projection::learn(rows, metric) else {
        return Ok(());
    };
    let layout = Layout::new(width, projection.n_head, metric);
    sections.begin(
        super::PROJECTION.name,
        super::PROJECTION.version,
        Need::Optional,
    )?;
    for value in projection.center.iter().chain(&projection.directions) {
        sections.write(&value.to_le_bytes())?;
    }
    // Heads and tails are sections of their own, so each takes its pass over the rows.
    let mut bounds = [Bounds::NONE; 2];
    for (part, section) in [(Part::Head, super::HEADS), (Part::Tail, super::TAILS)] {
        sections.begin(section.name, section.version, Need::Optional)?;
        for start in (0..rows.len()).step_by(CHUNK_ROWS) {
            let end = rows.len().min(start + CHUNK_ROWS);
            let blocks: Vec<(Vec<u8>, Bounds)> = (start..end)
                .into_par_iter()
                .step_by(LANES)
                .map_init(
                    || Encoder::new(&projection, layout),
                    |encoder, first| encoder.block(part, rows, first..end.min(first + LANES)),
                )
                .collect();
            for (bytes, of_block) in blocks {
                sections.write(&bytes)?;
                bounds[part as usize] = bounds[part as usize].max(of_block);
            }
        }
    }
    sections.begin(super::SKETCH.name, super::SKETCH.version, Need::Optional)?;
    sections.write(&(layout.n_head as u64).to_le_bytes())?;
    for number in bounds
        .iter()
        .flat_map(|bounds| [bounds.code_norm, bounds.code_error])
        .chain([projection.slack])
    {
        sections.write(&number.to_le_bytes())?;
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Part {
    Head,
    Tail,
}

/// What sketches rows, with its buffers.
struct Encoder<'a> {
    projection: &'a Projection,
    layout: Layout,
    simd: Simd,
    rows: Vec<f32>,
    coordinates: Coordinates,
}

impl<'a> Encoder<'a> {
    fn new(projection: &'a Projection, layout: Layout) -> Self {
        Self {
            projection,
            layout,
            simd: Simd::detect(),
            rows: Vec::new(),
            coordinates: Coordinates::default(),
        }
    }

    /// A part of the sketches of up to 16 rows, and what bounds it.
    fn block(&mut self, part: Part, rows: Rows<'_>, block: Range<usize>) -> (Vec<u8>, Bounds) {
        self.rows.clear();
        for i in block {
            self.rows.extend_from_slice(&rows.row(i));
        }
        let projected = self
            .projection
            .project(self.simd, &self.rows, &mut self.coordinates);
        match part {
            Part::Head => heads(self.projection, self.layout, projected),
            Part::Tail => tails(self.layout, projected),
        }
    }
}

/// A block of heads. Rows that are not there have `a = |z| = 0`.
fn heads<'a>(
    projection: &Projection,
    layout: Layout,
    rows: impl Iterator<Item = Projected<'a>>,
) -> (Vec<u8>, Bounds) {
    let codes_at = layout.codes_at();
    let mut bytes = vec![0; layout.block_bytes()];
    bytes[codes_at..].fill(ZERO);
    let mut bounds = Bounds::NONE;
    for (lane, row) in rows.enumerate() {
        let (step, of_row) = quantize(row.is_sound(), row.head, |i, code| {
            bytes[codes_at + (i / 4 * LANES + lane) * 4 + i % 4] = code;
        });
        bounds = bounds.max(of_row);
        let is_whole = row.is_sound() && (step > 0.0 || row.head.iter().all(|&y| y == 0.0));
        let rest = if is_whole {
            projection.rest(row)
        } else {
            f64::INFINITY
        };
        let numbers = [
            step,
            up(rest),
            down(row.squared_norm / 2.0 * LOWERED).max(0.0),
        ];
        for (i, number) in numbers.iter().take(codes_at / (LANES * 4)).enumerate() {
            bytes[(i * LANES + lane) * 4..][..4].copy_from_slice(&number.to_le_bytes());
        }
    }
    (bytes, bounds)
}

/// The tails of some rows, one after the other.
fn tails<'a>(
    layout: Layout,
    rows: impl ExactSizeIterator<Item = Projected<'a>>,
) -> (Vec<u8>, Bounds) {
    let mut bytes = vec![ZERO; rows.len() * layout.tail_bytes()];
    let mut bounds = Bounds::NONE;
    for (row, bytes) in rows.zip(bytes.chunks_exact_mut(layout.tail_bytes().max(1))) {
        let (step, of_row) = quantize(row.is_sound(), row.tail, |i, code| bytes[i] = code);
        bounds = bounds.max(of_row);
        let is_whole = row.is_sound() && (step > 0.0 || row.tail.iter().all(|&y| y == 0.0));
        let step = if is_whole { step } else { f32::NAN };
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&step.to_le_bytes());
    }
    (bytes, bounds)
}

/// The code of 0.
const ZERO: u8 = 128;

/// Gives each coordinate its code, and returns the step and what it means for the bounds; a step of 0, and no code, when there is
/// nothing to express or 8 bits cannot express it.
fn quantize(is_sound: bool, coordinates: &[f32], mut put: impl FnMut(usize, u8)) -> (f32, Bounds) {
    let largest = coordinates
        .iter()
        .fold(0.0_f32, |largest, y| largest.max(y.abs()));
    let step = (largest / 127.0).next_up();
    if !is_sound || largest == 0.0 || !step.is_normal() {
        return (0.0, Bounds::NONE);
    }
    let (mut norm, mut error) = (0.0, 0.0);
    for (i, &y) in coordinates.iter().enumerate() {
        let scaled = f64::from(y) / f64::from(step);
        let code = scaled.round();
        norm += code * code;
        error += (scaled - code).powi(2);
        put(i, (f64::from(ZERO) + code) as u8);
    }
    let grown = 1.0 + ROUNDING;
    let bounds = Bounds {
        code_norm: norm.sqrt() * grown,
        code_error: error.sqrt() * grown,
    };
    (step, bounds)
}
