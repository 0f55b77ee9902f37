//! Why a file of vectors cannot be used.

use std::io;
use std::path::PathBuf;

/// Why a file of vectors cannot be used. Rows and dimensions are counted from 0.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum VectorFileError {
    /// The operating system refused.
    #[error("cannot read `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Neither content nor name tells what the file is.
    #[error("`{}` is no file of vectors: its name ends in none of .npy, .fvecs, .bvecs, .safetensors", path.display())]
    Unknown { path: PathBuf },
    /// The file does not begin as its kind does, or holds something else than rows.
    #[error("`{}` is not a {kind} file of rows of numbers: {reason}", path.display())]
    Header {
        path: PathBuf,
        kind: &'static str,
        reason: String,
    },
    /// The file was truncated, or something was added to it.
    #[error("`{}` has {found} bytes instead of {expected}", path.display())]
    Length {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
    /// The file has no row.
    #[error("`{}` has no row", path.display())]
    Empty { path: PathBuf },
    /// A row is not as wide as the first.
    #[error("row {row} of `{}` has width {found}, the rows before it {expected}", path.display())]
    RowWidth {
        path: PathBuf,
        row: u64,
        expected: usize,
        found: i64,
    },
    /// A row holds NaN or infinity, or a value that is too large for `f32`.
    #[error("row {row} of `{}` is not finite at dimension {dimension}", path.display())]
    NotFinite {
        path: PathBuf,
        row: u64,
        dimension: usize,
    },
    /// A row is zero, which has no direction and so no cosine.
    #[error("row {row} of `{}` is zero, which has no cosine", path.display())]
    ZeroRow { path: PathBuf, row: u64 },
}

impl VectorFileError {
    /// Whether the file, not the machine, is at fault.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::UnexpectedEof,
            _ => true,
        }
    }
}
