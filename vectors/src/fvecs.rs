//! Rows that are each preceded by their width, a 32-bit integer.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::MAX_WIDTH;
use crate::value::ValueType;
use crate::vector_file::{Layout, Malformed};

/// Takes the width of the first row for that of all; reading the others compares it.
pub(crate) fn layout(
    file: &File,
    file_bytes: u64,
    value_type: ValueType,
) -> Result<Layout, Malformed> {
    let mut width = [0; 4];
    if file_bytes > 0 {
        file.read_exact_at(&mut width, 0)?;
    }
    let width = i32::from_le_bytes(width);
    let mut layout = Layout {
        n_rows: 0,
        width: 1,
        value_type,
        offset: 0,
        has_widths: true,
    };
    if file_bytes == 0 {
        return Ok(layout);
    }
    layout.width = usize::try_from(width)
        .ok()
        .filter(|width| (1..=MAX_WIDTH).contains(width))
        .ok_or_else(|| format!("the first row has width {width}"))?;
    layout.n_rows = file_bytes.div_ceil(layout.stride() as u64);
    match layout.end() {
        Some(expected) if expected != file_bytes => Err(Malformed::Length {
            expected,
            found: file_bytes,
        }),
        _ => Ok(layout),
    }
}
