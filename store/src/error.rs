use std::io;
use std::path::{Path, PathBuf};

/// Why a store could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file cannot be opened, measured or mapped.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file begins with other bytes than its kind does; an unfinished file begins with zeros.
    #[error("`{}` is not a finished `{kind}` file", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// `ids`, `passages` or `documents`.
        kind: &'static str,
    },
    /// The file has a format version that this build does not read.
    #[error("`{}` has format version {found}, this build reads {supported}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version the file names.
        found: u32,
        /// The version this build reads.
        supported: u32,
    },
    /// The file is shorter or longer than its header says.
    #[error("`{}` has {found} bytes, expected {expected}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes its header asks for.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
    /// A part of the file does not match its checksum.
    #[error("checksum mismatch in the {part} of `{}`", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// `header`, `directory`, `block 7`, …
        part: String,
    },
    /// A part of the file matches its checksum, or was not checked, and makes no sense.
    #[error("malformed {part} in `{}`", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// `directory`, `block 7`, `id of ordinal 3`, …
        part: String,
    },
    /// Two parts of the store disagree on the number of passages.
    #[error("`{}` holds {found} passages, `ids` holds {expected}", path.display())]
    Count {
        /// The part that differs from `ids`.
        path: PathBuf,
        /// Passages in `ids`.
        expected: u64,
        /// Passages in the part.
        found: u64,
    },
    /// No passage has the ordinal.
    #[error("ordinal {ordinal} is out of range, the store holds {n_passages} passages")]
    Ordinal {
        /// The ordinal asked for.
        ordinal: u32,
        /// Passages in the store.
        n_passages: u32,
    },
    /// tantivy cannot read the derived lexical index.
    #[error("cannot read lexical index `{}`", path.display())]
    Lexical {
        /// The folder.
        path: PathBuf,
        /// What tantivy said.
        source: tantivy::TantivyError,
    },
}

/// Why a store could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A file or folder cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lexical index cannot be written.
    #[error("cannot write lexical index `{}`", path.display())]
    Lexical {
        /// The folder.
        path: PathBuf,
        /// What tantivy said.
        source: tantivy::TantivyError,
    },
    /// A passage does not fit the format: 2 GiB of title, text and metadata together.
    #[error("passage `{id}` is too large: {n_bytes} bytes, at most {max_bytes}")]
    TooLarge {
        /// Its id.
        id: String,
        /// Bytes of its record.
        n_bytes: usize,
        /// Bytes a record may have.
        max_bytes: usize,
    },
    /// Ordinals are 32 bits wide.
    #[error("a store holds at most {} passages", u32::MAX)]
    TooMany,
    /// Some passages are parts of documents and some are not.
    #[error(
        "passage `{id}`: either all passages are parts of documents, numbered from 0, or none is"
    )]
    Part {
        /// Id of the passage that differs from those before it.
        id: String,
    },
    /// A metadata value does not have the type its field was declared with.
    #[error("passage `{id}`: field `{field}` takes no such value as {value} ({kind:?})")]
    Value {
        /// Id of the passage.
        id: String,
        /// The field.
        field: String,
        /// The declared kind.
        kind: corpus::FieldKind,
        /// The value as JSON.
        value: String,
    },
}

/// What makes a [`WriteError`] of a failed write to a path.
pub(crate) fn write_error(path: &Path) -> impl Fn(io::Error) -> WriteError {
    move |source| WriteError::Write {
        path: path.to_owned(),
        source,
    }
}
