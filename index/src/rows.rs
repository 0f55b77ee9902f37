//! How the values of rows are stored.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// How the values of a row are stored.
///
/// What is stored is what is searched: a row is rounded once, when it is written, and its score is that of the rounded row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RowType {
    /// 32-bit floats, as encoders give them.
    #[default]
    F32,
    /// 16-bit floats of IEEE 754: 11 bits of precision, up to 65,504. Cosines change by less than 0.0005.
    F16,
    /// The upper half of a 32-bit float: 8 bits of precision, any size. Cosines change by less than 0.004.
    Bf16,
    /// Integers of 8 bits and a step of the row's own, a 127th of its largest value. How well such rows stand for theirs
    /// depends on the encoder: measure it.
    Int8,
}

impl RowType {
    /// The name in flags, manifests and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes of a row.
    pub fn row_bytes(self, width: usize) -> usize {
        match self {
            Self::F32 => 4 * width,
            Self::F16 | Self::Bf16 => 2 * width,
            Self::Int8 => width + STEP_BYTES,
        }
    }

    /// The number in a shard's file.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 3,
        }
    }

    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16, Self::Int8]
            .into_iter()
            .find(|row_type| row_type.code() == code)
    }

    /// Appends a row as it is stored.
    pub(crate) fn encode(self, row: &[f32], bytes: &mut Vec<u8>) {
        match self {
            Self::F32 => bytes.extend(row.iter().flat_map(|value| value.to_le_bytes())),
            Self::F16 => bytes.extend(
                row.iter()
                    .flat_map(|&value| f16::from_f32(value).to_le_bytes()),
            ),
            Self::Bf16 => bytes.extend(
                row.iter()
                    .flat_map(|&value| bf16::from_f32(value).to_le_bytes()),
            ),
            Self::Int8 => {
                let largest = row
                    .iter()
                    .fold(0.0_f32, |largest, value| largest.max(value.abs()));
                let step = largest / 127.0;
                let code = |&value: &f32| (value / step).round() as i8; // 0 where the step is
                bytes.extend(row.iter().map(|value| code(value).cast_unsigned()));
                bytes.extend(step.to_le_bytes());
            }
        }
    }
}

/// The step comes after the integers of a row.
const STEP_BYTES: usize = 4;

/// Rows of one width as they are stored, row-major.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub row_type: RowType,
    pub width: usize,
    /// Whole rows. Those of a file are aligned to a value; what an allocator gives for bytes need not be.
    pub bytes: &'a [u8],
}

impl<'a> Rows<'a> {
    pub fn len(self) -> usize {
        self.bytes.len() / self.row_type.row_bytes(self.width)
    }

    /// The bytes of a row.
    pub fn stored(self, i: usize) -> &'a [u8] {
        let n = self.row_type.row_bytes(self.width);
        &self.bytes[i * n..][..n]
    }

    /// The values of a row.
    pub fn row(self, i: usize) -> Cow<'a, [f32]> {
        let mut buffer = Vec::new();
        match self.read(i, &mut buffer) {
            Some(row) => Cow::Borrowed(row),
            None => Cow::Owned(buffer),
        }
    }

    /// The values of a row where they are, or else in the buffer.
    pub fn read(self, i: usize, buffer: &mut Vec<f32>) -> Option<&'a [f32]> {
        let stored = self.stored(i);
        match self.row_type {
            RowType::F32 => match aligned(stored) {
                Some(row) => return Some(row),
                None => decode(stored, f32::from_le_bytes, buffer),
            },
            RowType::F16 => match aligned::<f16>(stored) {
                Some(row) => {
                    buffer.resize(self.width, 0.0);
                    row.convert_to_f32_slice(buffer);
                }
                None => decode(stored, |x| f16::from_le_bytes(x).to_f32(), buffer),
            },
            RowType::Bf16 => match aligned::<bf16>(stored) {
                Some(row) => {
                    buffer.resize(self.width, 0.0);
                    row.convert_to_f32_slice(buffer);
                }
                None => decode(stored, |x| bf16::from_le_bytes(x).to_f32(), buffer),
            },
            RowType::Int8 => {
                let (codes, step) = stored.split_at(self.width);
                let step = f32::from_le_bytes(step.try_into().expect("a step has four bytes"));
                buffer.clear();
                buffer.extend(
                    codes
                        .iter()
                        .map(|code| f32::from(code.cast_signed()) * step),
                );
            }
        }
        None
    }
}

/// A number that every pattern of its bytes is.
pub(crate) trait Plain {}
impl Plain for f32 {}
impl Plain for f16 {}
impl Plain for bf16 {}

/// The numbers in a section of them.
pub(crate) fn values<T: Plain>(section: &[u8]) -> &[T] {
    aligned(section).expect("sections of numbers are aligned and whole")
}

/// The numbers in bytes, where they lie as such numbers have to.
fn aligned<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: every pattern of bytes is some number of the type.
    let (before, values, after) = unsafe { bytes.align_to() };
    (before.is_empty() && after.is_empty()).then_some(values)
}

/// The numbers in bytes wherever they lie.
fn decode<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32, buffer: &mut Vec<f32>) {
    buffer.clear();
    buffer.extend(bytes.as_chunks::<N>().0.iter().map(|&x| value(x)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_wherever_their_bytes_lie() {
        let row = [1.0, -0.5, 0.25, 3.0, -2.0];
        for row_type in [RowType::F32, RowType::F16, RowType::Bf16, RowType::Int8] {
            let mut encoded = Vec::new();
            row_type.encode(&row, &mut encoded);
            let read = |offset: usize| {
                let bytes = [vec![0; offset], encoded.repeat(2)].concat();
                let rows = Rows {
                    row_type,
                    width: row.len(),
                    bytes: &bytes[offset..],
                };
                [0, 1].map(|i| rows.row(i).into_owned())
            };
            let expected = read(0);
            assert!((expected[0][3] - 3.0).abs() < 0.02, "{row_type:?}");
            for offset in 1..4 {
                assert_eq!(read(offset), expected, "{row_type:?} {offset}");
            }
        }
    }
}
