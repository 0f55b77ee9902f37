use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::value::ValueType;
use crate::{VectorFileError, fvecs, npy, tensors};

/// The widest row that is read, far above any encoder.
pub const MAX_WIDTH: usize = 1 << 16;

/// Bytes that are read at a time where all rows are.
const BLOCK_BYTES: usize = 1 << 20;

/// A file of vectors, open for reading.
#[derive(Debug)]
pub struct VectorFile {
    path: PathBuf,
    file: File,
    layout: Layout,
}

/// Where the rows of a file are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Layout {
    pub n_rows: u64,
    pub width: usize,
    pub value_type: ValueType,
    /// Where the first row begins.
    pub offset: u64,
    /// Whether each row is preceded by its width.
    pub has_widths: bool,
}

impl Layout {
    /// Bytes from one row to the next.
    pub fn stride(&self) -> usize {
        self.prefix() + self.width * self.value_type.n_bytes()
    }

    fn prefix(&self) -> usize {
        if self.has_widths { 4 } else { 0 }
    }

    /// Where the last row ends; `None` when that is beyond any file.
    pub fn end(&self) -> Option<u64> {
        let n_bytes = self.n_rows.checked_mul(self.stride() as u64)?;
        n_bytes.checked_add(self.offset)
    }
}

/// What is wrong with the beginning of a file.
#[derive(Debug)]
pub(crate) enum Malformed {
    Io(std::io::Error),
    Header(String),
    Length { expected: u64, found: u64 },
}

impl From<std::io::Error> for Malformed {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<&str> for Malformed {
    fn from(reason: &str) -> Self {
        Self::Header(reason.to_owned())
    }
}

impl From<String> for Malformed {
    fn from(reason: String) -> Self {
        Self::Header(reason)
    }
}

/// Whether a row of zeros can be used. Under cosine it cannot: it has no direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroRows {
    /// It is a row like any other.
    Allowed,
    /// It is an error.
    Refused,
}

impl VectorFile {
    /// Opens a file of vectors; `name` is the tensor of a file that has several.
    ///
    /// # Errors
    /// [`VectorFileError`] when the file is none, is truncated, has no row, or has rows wider than [`MAX_WIDTH`].
    pub fn open(path: &Path, name: Option<&str>) -> Result<Self, VectorFileError> {
        let failed = |source| VectorFileError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        let kind = Kind::of(path, &file).map_err(failed)?;
        let kind = kind.ok_or_else(|| VectorFileError::Unknown {
            path: path.to_owned(),
        })?;
        let read = match (kind, name) {
            (Kind::Safetensors, name) => tensors::layout(&file, file_bytes, name),
            (_, Some(name)) => Err(format!("it has no names, and so no `{name}`").into()),
            (Kind::Npy, None) => npy::layout(&file, file_bytes),
            (Kind::Fvecs, None) => fvecs::layout(&file, file_bytes, ValueType::F32),
            (Kind::Bvecs, None) => fvecs::layout(&file, file_bytes, ValueType::U8),
        };
        let layout = read
            .and_then(checked)
            .map_err(|malformed| match malformed {
                Malformed::Io(source) => failed(source),
                Malformed::Header(reason) => VectorFileError::Header {
                    path: path.to_owned(),
                    kind: kind.as_str(),
                    reason,
                },
                Malformed::Length { expected, found } => VectorFileError::Length {
                    path: path.to_owned(),
                    expected,
                    found,
                },
            })?;
        let path = path.to_owned();
        match layout.n_rows {
            0 => Err(VectorFileError::Empty { path }),
            _ => Ok(Self { path, file, layout }),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows, at least 1.
    pub fn n_rows(&self) -> u64 {
        self.layout.n_rows
    }

    /// Values in a row, 1 to [`MAX_WIDTH`].
    pub fn width(&self) -> usize {
        self.layout.width
    }

    /// Appends the values of `n_rows` rows from `first` on, row-major.
    ///
    /// # Errors
    /// [`VectorFileError`] when they cannot be read, are not finite, or say another width than the first row.
    ///
    /// # Panics
    /// When the file has no such rows.
    pub fn read(
        &self,
        first: u64,
        n_rows: usize,
        values: &mut Vec<f32>,
    ) -> Result<(), VectorFileError> {
        let Layout {
            width, value_type, ..
        } = self.layout;
        let end = first.checked_add(n_rows as u64);
        assert!(
            end.is_some_and(|end| end <= self.layout.n_rows),
            "rows {first} to {first} + {n_rows} are in the file"
        );
        let stride = self.layout.stride();
        let mut bytes = vec![0; n_rows * stride];
        let offset = self.layout.offset + first * stride as u64;
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| VectorFileError::Io {
                path: self.path.clone(),
                source,
            })?;
        values.reserve(n_rows * width);
        for (row, bytes) in (first..).zip(bytes.chunks_exact(stride)) {
            let (prefix, bytes) = bytes.split_at(self.layout.prefix());
            let said = prefix.first_chunk().map(|&said| i32::from_le_bytes(said));
            if let Some(found) = said.filter(|&said| usize::try_from(said) != Ok(width)) {
                return Err(VectorFileError::RowWidth {
                    path: self.path.clone(),
                    row,
                    expected: width,
                    found: found.into(),
                });
            }
            let start = values.len();
            value_type.decode(bytes, values);
            let not_finite = |value: &f32| !value.is_finite();
            if let Some(dimension) = values[start..].iter().position(not_finite) {
                return Err(VectorFileError::NotFinite {
                    path: self.path.clone(),
                    row,
                    dimension,
                });
            }
        }
        Ok(())
    }

    /// Reads every row, in blocks of about 1 MiB that `each` gets in order.
    ///
    /// # Errors
    /// As [`Self::read`]; [`VectorFileError::ZeroRow`] when such rows are refused.
    pub fn for_each_block(
        &self,
        zero_rows: ZeroRows,
        mut each: impl FnMut(&[f32]),
    ) -> Result<(), VectorFileError> {
        let block_rows = (BLOCK_BYTES / self.layout.stride()).max(1);
        let mut values = Vec::new();
        let mut first = 0;
        while first < self.layout.n_rows {
            let n_rows = block_rows.min((self.layout.n_rows - first) as usize);
            values.clear();
            self.read(first, n_rows, &mut values)?;
            let mut rows = (first..).zip(values.chunks_exact(self.layout.width));
            let zero = rows.find(|(_, row)| row.iter().all(|&value| value == 0.0));
            if let (ZeroRows::Refused, Some((row, _))) = (zero_rows, zero) {
                return Err(VectorFileError::ZeroRow {
                    path: self.path.clone(),
                    row,
                });
            }
            each(&values);
            first += n_rows as u64;
        }
        Ok(())
    }

    /// Returns every row, row-major.
    ///
    /// # Errors
    /// As [`Self::for_each_block`].
    pub fn read_all(&self, zero_rows: ZeroRows) -> Result<Vec<f32>, VectorFileError> {
        let mut all = Vec::new();
        self.for_each_block(zero_rows, |values| all.extend_from_slice(values))?;
        Ok(all)
    }
}

fn checked(layout: Layout) -> Result<Layout, Malformed> {
    match layout.width {
        1..=MAX_WIDTH => Ok(layout),
        width => Err(format!("width {width} is not between 1 and {MAX_WIDTH}").into()),
    }
}

/// The kinds of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Npy,
    Fvecs,
    Bvecs,
    Safetensors,
}

impl Kind {
    /// Tells the kind by the first bytes where they are distinctive, else by the name.
    fn of(path: &Path, mut file: &File) -> std::io::Result<Option<Self>> {
        let mut start = [0; npy::MAGIC.len()];
        match file.read_exact(&mut start) {
            Ok(()) if start == npy::MAGIC => return Ok(Some(Self::Npy)),
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        Ok(match extension {
            Some("npy") => Some(Self::Npy),
            Some("fvecs") => Some(Self::Fvecs),
            Some("bvecs") => Some(Self::Bvecs),
            Some("safetensors") => Some(Self::Safetensors),
            _ => None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Npy => "NumPy",
            Self::Fvecs => "fvecs",
            Self::Bvecs => "bvecs",
            Self::Safetensors => "safetensors",
        }
    }
}
