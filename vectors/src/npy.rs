//! NumPy files: magic, version, length of a Python dictionary, the dictionary, the array.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::value::ValueType;
use crate::vector_file::{Layout, Malformed};

pub(crate) const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// Longest header that is read; real ones have some hundred bytes.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// Reads the header of formats 1 to 3.
pub(crate) fn layout(file: &File, file_bytes: u64) -> Result<Layout, Malformed> {
    let mut start = [0; 8];
    file.read_exact_at(&mut start, 0)?;
    if start[..6] != MAGIC || !(1..=3).contains(&start[6]) {
        return Err("unknown magic or version".into());
    }
    let mut length = [0; 4];
    let n_length_bytes = if start[6] == 1 { 2 } else { 4 };
    file.read_exact_at(&mut length[..n_length_bytes], start.len() as u64)?;
    let n_bytes = u32::from_le_bytes(length) as usize;
    if n_bytes > MAX_HEADER_BYTES {
        return Err(format!("header of {n_bytes} bytes").into());
    }
    let mut text = vec![0; n_bytes];
    let offset = start.len() + n_length_bytes;
    file.read_exact_at(&mut text, offset as u64)?;
    let layout = parse(&String::from_utf8_lossy(&text), (offset + n_bytes) as u64)?;
    match layout.end().ok_or("impossible shape")? {
        expected if expected != file_bytes => Err(Malformed::Length {
            expected,
            found: file_bytes,
        }),
        _ => Ok(layout),
    }
}

/// Reads the dictionary.
fn parse(text: &str, offset: u64) -> Result<Layout, String> {
    let value = |name: &str| {
        let (_, after) = text
            .split_once(&format!("'{name}':"))
            .ok_or(format!("no `{name}`"))?;
        Ok::<_, String>(after.trim_start())
    };
    let type_name = value("descr")?.split(',').next().unwrap_or_default();
    let value_type = match type_name.trim_end() {
        "'<f2'" => ValueType::F16,
        "'<f4'" => ValueType::F32,
        "'<f8'" => ValueType::F64,
        "'|i1'" => ValueType::I8,
        "'|u1'" => ValueType::U8,
        other => return Err(format!("values of type {other}")),
    };
    if !value("fortran_order")?.starts_with("False") {
        return Err("column-major order".to_owned());
    }
    let shape = value("shape")?
        .strip_prefix('(')
        .and_then(|shape| shape.split_once(')'))
        .ok_or("no `shape`")?
        .0;
    let sizes: Vec<u64> = shape
        .split(',')
        .map(str::trim)
        .filter(|size| !size.is_empty())
        .map(|size| size.parse().map_err(|_| format!("shape ({shape})")))
        .collect::<Result<_, _>>()?;
    let &[n_rows, width] = sizes.as_slice() else {
        return Err(format!("shape ({shape})"));
    };
    Ok(Layout {
        n_rows,
        width: u32::try_from(width).map_err(|_| format!("shape ({shape})"))? as usize,
        value_type,
        offset,
        has_widths: false,
    })
}
