//! Sketches of rows, into a shard's file.

use compute::Simd;
use rayon::prelude::*;

use super::projection::{Projection, ROUNDING};
use super::query::{LOWERED, down, up};
use super::{Bounds, LANES, Layout};
use crate::section::{Need, SectionWriter};
use crate::{Metric, WriteError};

/// A shard of fewer rows has no sketches: reading all of them takes less than a millisecond.
pub(crate) const MIN_SKETCHED_ROWS: u64 = 2048;

/// Rows sketched in one go, by all threads.
const CHUNK_ROWS: usize = 1 << 14;

/// Writes the sections of the sketches of `rows`, row-major; they are those of a finished section of the file.
///
/// Nothing is written when the rows cannot be projected.
pub(crate) fn write(
    sections: &mut SectionWriter,
    rows: &[f32],
    width: usize,
    metric: Metric,
) -> Result<(), WriteError> {
    let n_rows = rows.len() / width;
    let Some(projection) = Projection::learn(|i| &rows[i * width..][..width], n_rows, metric)
    else {
        return Ok(());
    };
    let layout = Layout {
        n_directions: projection.n_directions(),
        has_squares: metric == Metric::L2,
    };
    sections.begin(
        super::PROJECTION.name,
        super::PROJECTION.version,
        Need::Optional,
    )?;
    for value in projection.center.iter().chain(&projection.directions) {
        sections.write(&value.to_le_bytes())?;
    }
    sections.begin(super::BLOCKS.name, super::BLOCKS.version, Need::Optional)?;
    let mut bounds = Bounds {
        code_norm: 0.0,
        code_error: 0.0,
    };
    for chunk in rows.chunks(CHUNK_ROWS * width) {
        let blocks: Vec<(Vec<u8>, Bounds)> = chunk
            .par_chunks(LANES * width)
            .map_init(
                || Encoder::new(&projection, layout),
                |encoder, rows| encoder.block(rows, width),
            )
            .collect();
        for (bytes, of_block) in blocks {
            sections.write(&bytes)?;
            bounds = bounds.max(of_block);
        }
    }
    sections.begin(super::SKETCH.name, super::SKETCH.version, Need::Optional)?;
    sections.write(&(layout.n_directions as u64).to_le_bytes())?;
    for number in [bounds.code_norm, bounds.code_error, projection.slack] {
        sections.write(&number.to_le_bytes())?;
    }
    Ok(())
}

/// What sketches a row, with its buffers.
struct Encoder<'a> {
    projection: &'a Projection,
    layout: Layout,
    simd: Simd,
    centered: Vec<f32>,
    coordinates: Vec<f64>,
}

impl<'a> Encoder<'a> {
    fn new(projection: &'a Projection, layout: Layout) -> Self {
        Self {
            projection,
            layout,
            simd: Simd::detect(),
            centered: Vec::new(),
            coordinates: Vec::new(),
        }
    }

    /// The block of up to 16 rows, and what bounds their sketches. Rows that are not there have `a = |z| = 0`.
    fn block(&mut self, rows: &[f32], width: usize) -> (Vec<u8>, Bounds) {
        let codes_at = self.layout.codes_at();
        let mut bytes = vec![0; self.layout.block_bytes()];
        bytes[codes_at..].fill(128);
        let mut bounds = Bounds {
            code_norm: 0.0,
            code_error: 0.0,
        };
        for (lane, row) in rows.chunks_exact(width).enumerate() {
            let squared_norm =
                self.projection
                    .project(self.simd, row, &mut self.centered, &mut self.coordinates);
            if !squared_norm.is_finite() {
                self.coordinates.fill(f64::INFINITY); // `x − center` overflowed
            }
            let (step, of_row) = quantize(&self.coordinates, |i, code| {
                bytes[codes_at + (i / 4 * LANES + lane) * 4 + i % 4] =
                    (128 + i32::from(code)) as u8;
            });
            bounds = bounds.max(of_row);
            let rest = match step {
                0.0 if self.coordinates.iter().any(|&y| y != 0.0) => f64::INFINITY,
                _ => self.projection.rest(squared_norm, &self.coordinates),
            };
            let numbers = [step, up(rest), down(squared_norm / 2.0 * LOWERED).max(0.0)];
            for (i, number) in numbers.iter().take(codes_at / (LANES * 4)).enumerate() {
                bytes[(i * LANES + lane) * 4..][..4].copy_from_slice(&number.to_le_bytes());
            }
        }
        (bytes, bounds)
    }
}

/// Gives each coordinate its code, and returns the step and what it means for the bounds; a step of 0 when 8 bits cannot express
/// them, and then no code.
fn quantize(coordinates: &[f64], mut put: impl FnMut(usize, i8)) -> (f32, Bounds) {
    let largest = coordinates
        .iter()
        .fold(0.0_f64, |largest, y| largest.max(y.abs()));
    let step = up(largest / 127.0);
    if largest == 0.0 || !step.is_normal() {
        return (
            0.0,
            Bounds {
                code_norm: 0.0,
                code_error: 0.0,
            },
        );
    }
    let (mut norm, mut error) = (0.0, 0.0);
    for (i, y) in coordinates.iter().enumerate() {
        let scaled = y / f64::from(step);
        let code = scaled.round();
        norm += code * code;
        error += (scaled - code).powi(2);
        put(i, code as i8);
    }
    let grown = 1.0 + ROUNDING;
    (
        step,
        Bounds {
            code_norm: norm.sqrt() * grown,
            code_error: error.sqrt() * grown,
        },
    )
}
