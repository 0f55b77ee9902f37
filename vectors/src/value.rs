//! Numbers as files store them.

use half::{bf16, f16};

/// How a value is stored, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueType {
    F16,
    Bf16,
    F32,
    F64,
    I8,
    U8,
}

impl ValueType {
    pub fn n_bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Appends the values of a row; those of `f64` are rounded.
    pub fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F16 => {
                values.extend(numbers(bytes).map(|value| f16::from_le_bytes(value).to_f32()))
            }
            Self::Bf16 => {
                values.extend(numbers(bytes).map(|value| bf16::from_le_bytes(value).to_f32()))
            }
            Self::F32 => values.extend(numbers(bytes).map(f32::from_le_bytes)),
            Self::F64 => {
                values.extend(numbers(bytes).map(|value| f64::from_le_bytes(value) as f32))
            }
            Self::I8 => values.extend(bytes.iter().map(|&value| f32::from(value.cast_signed()))),
            Self::U8 => values.extend(bytes.iter().map(|&value| f32::from(value))),
        }
    }
}

fn numbers<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks().0.iter().copied()
}
