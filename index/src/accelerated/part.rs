//! Rows of one shard in the memory of a device.

use compute::accelerator::{AcceleratorError, Buffer, SharedAccelerator};

use super::plan::{Stretch, row_bytes, value_bytes};
use crate::metric::norm;
use crate::shard::{BLOCK_ROWS, FlatShard};
use crate::{Metric, RowType, VectorIndex};

/// Bytes that are brought into the device's layout at once.
const STAGED_BYTES: usize = 16 << 20;

pub(crate) struct Part {
    /// The shard's number.
    pub shard: usize,
    pub row_type: RowType,
    /// The ordinal of the first row.
    pub first_ordinal: u32,
    pub n_rows: usize,
    /// Of a row in `rows`.
    pub row_bytes: usize,
    /// No row is longer.
    pub max_norm: f64,
    pub rows: Buffer,
    /// Of `int8` rows.
    pub steps: Option<Buffer>,
    /// Heads of sketches, where the shard has them.
    pub heads: Option<Buffer>,
    /// `|x|²/2` of every row, under L2.
    pub half_squares: Option<Buffer>,
}

impl Part {
    /// Copies the rows from the shard's file.
    pub fn load(
        device: &SharedAccelerator,
        shard: &FlatShard,
        stretch: &Stretch,
    ) -> Result<Self, AcceleratorError> {
        let Stretch {
            shard: number,
            rows,
        } = stretch.clone();
        let (row_type, width) = (shard.config().row_type, shard.width());
        let row_bytes = row_bytes(row_type, width);
        let stored_bytes = value_bytes(row_type) * width;
        let has_steps = row_type == RowType::Int8;
        let has_squares = shard.metric() == Metric::L2;
        let on_device = Buffer::new(device, rows.len() * row_bytes)?;
        let number_a_row = |is_there: bool| {
            let buffer = is_there.then(|| Buffer::new(device, rows.len() * 4));
            buffer.transpose()
        };
        let (steps, half_squares) = (number_a_row(has_steps)?, number_a_row(has_squares)?);
        let at_once = (STAGED_BYTES / row_bytes).max(1);
        let (mut staged, mut staged_steps, mut staged_squares) =
            (Vec::new(), Vec::new(), Vec::new());
        for start in rows.clone().step_by(at_once) {
            let some = start..rows.end.min(start + at_once);
            let done = start - rows.start;
            if stored_bytes == row_bytes && !has_steps && !has_squares {
                let bytes = &shard.rows().bytes[some.start * row_bytes..some.end * row_bytes];
                on_device.write(done * row_bytes, bytes)?;
                continue;
            }
            staged.clear();
            staged_steps.clear();
            staged_squares.clear();
            for row in some {
                let (values, step) = shard.stored(row).split_at(stored_bytes);
                staged.extend_from_slice(values);
                staged.resize(staged.len().next_multiple_of(row_bytes), 0);
                staged_steps.extend_from_slice(step);
                if has_squares {
                    let half_square = norm(&shard.row(row)).powi(2) / 2.0;
                    staged_squares.extend_from_slice(&(half_square as f32).to_le_bytes());
                }
            }
            on_device.write(done * row_bytes, &staged)?;
            if let Some(steps) = &steps {
                steps.write(done * 4, &staged_steps)?;
            }
            if let Some(half_squares) = &half_squares {
                half_squares.write(done * 4, &staged_squares)?;
            }
        }
        let heads = shard
            .sketches()
            .map(|sketches| Buffer::of(device, shard.heads(sketches, rows.clone())));
        let blocks = rows.start / BLOCK_ROWS..rows.end.div_ceil(BLOCK_ROWS);
        let norms = blocks.map(|block| shard.block_norm(block));
        Ok(Self {
            shard: number,
            row_type,
            first_ordinal: shard.first_ordinal() + rows.start as u32,
            n_rows: rows.len(),
            row_bytes,
            max_norm: norms.fold(0.0, f32::max).into(),
            rows: on_device,
            steps,
            heads: heads.transpose()?,
            half_squares,
        })
    }

    /// Values in a row with its padding.
    pub fn padded_width(&self) -> usize {
        self.row_bytes / value_bytes(self.row_type)
    }
}
