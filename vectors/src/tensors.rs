//! safetensors files: length of a JSON header, the header, the tensors.

use std::fs::File;
use std::os::unix::fs::FileExt;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::value::ValueType;
use crate::vector_file::{Layout, Malformed};

/// Longest header, the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Finds the tensor called `name`, else the only two-dimensional one.
pub(crate) fn layout(
    file: &File,
    file_bytes: u64,
    name: Option<&str>,
) -> Result<Layout, Malformed> {
    let mut length = [0; 8];
    file.read_exact_at(&mut length, 0)?;
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > MAX_HEADER_BYTES.min(file_bytes - 8) {
        return Err(format!("a header of {header_bytes} bytes in a file of {file_bytes}").into());
    }
    let mut header = vec![0; header_bytes as usize];
    file.read_exact_at(&mut header, 8)?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| format!("header: {error}"))?;
    let data_start = 8 + header_bytes;
    let expected = data_start.saturating_add(metadata.data_len() as u64);
    if expected != file_bytes {
        return Err(Malformed::Length {
            expected,
            found: file_bytes,
        });
    }
    let (name, info) = match name {
        None => the_only_matrix(&metadata)?,
        Some(name) => {
            let info = metadata.info(name);
            (
                name.to_owned(),
                info.ok_or_else(|| format!("it has no tensor `{name}`"))?,
            )
        }
    };
    let value_type = match info.dtype {
        Dtype::F16 => ValueType::F16,
        Dtype::BF16 => ValueType::Bf16,
        Dtype::F32 => ValueType::F32,
        Dtype::F64 => ValueType::F64,
        Dtype::I8 => ValueType::I8,
        Dtype::U8 => ValueType::U8,
        other => return Err(format!("tensor `{name}` has values of type {other:?}").into()),
    };
    let &[n_rows, width] = info.shape.as_slice() else {
        return Err(format!("tensor `{name}` has shape {:?}", info.shape).into());
    };
    // That the tensor is as long as its shape says was checked with the header.
    Ok(Layout {
        n_rows: n_rows as u64,
        width: u32::try_from(width).map_err(|_| format!("width {width}"))? as usize,
        value_type,
        offset: data_start + info.data_offsets.0 as u64,
        has_widths: false,
    })
}

/// The name and description of the two-dimensional tensor, when there is one and no other.
fn the_only_matrix(metadata: &Metadata) -> Result<(String, &TensorInfo), Malformed> {
    let mut matrices: Vec<_> = metadata
        .tensors()
        .into_iter()
        .filter(|(_, info)| info.shape.len() == 2)
        .collect();
    matrices.sort_by(|a, b| a.0.cmp(&b.0));
    match matrices.len() {
        0 => Err("it has no two-dimensional tensor".into()),
        1 => Ok(matrices.remove(0)),
        _ => {
            let names: Vec<_> = matrices.into_iter().map(|(name, _)| name).collect();
            Err(format!("one of its tensors has to be named: {}", names.join(", ")).into())
        }
    }
}
