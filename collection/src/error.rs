//! What can go wrong with a collection.

use std::io;
use std::path::{Path, PathBuf};

use crate::GenerationId;

/// Why a collection could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum CollectionError {
    /// The folder is missing, or is something else than a collection.
    #[error("`{}` is not a collection", path.display())]
    NotACollection { path: PathBuf },
    /// A new collection would be mixed with files that belong to something else.
    #[error("`{}` is neither a collection nor empty", path.display())]
    NotEmpty { path: PathBuf },
    /// Neither an alias nor a generation has this name.
    #[error("collection `{}` has no alias or generation `{name}`", path.display())]
    Unknown { path: PathBuf, name: String },
    /// A name has a shape that no alias and no generation has.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `aliases.json` is damaged.
    #[error("alias file `{}` is damaged: {reason}", path.display())]
    Aliases { path: PathBuf, reason: String },
    /// There is nothing to go back to.
    #[error("alias `{alias}` of collection `{}` has named no other generation before", path.display())]
    NoPrevious { path: PathBuf, alias: String },
    /// The report of a gate is damaged.
    #[error("gate report `{}` is damaged: {reason}", path.display())]
    Report { path: PathBuf, reason: String },
    /// A manifest cannot be used.
    #[error("manifest `{}` cannot be used", path.display())]
    Manifest {
        path: PathBuf,
        source: ManifestError,
    },
    /// Another process writes to the collection.
    #[error("collection `{}` is being written by {holder}", path.display())]
    Locked { path: PathBuf, holder: String },
    /// A build with the same spec was begun and not finished.
    #[error("an unfinished build of the same content is in `{}`", path.display())]
    InProgress { path: PathBuf },
    /// A building folder belongs to another spec than its name says.
    #[error("building folder `{}` does not hold the spec it is named after", path.display())]
    Spec { path: PathBuf },
    /// A generation is named once.
    #[error("`{}` is another generation of the same name", path.display())]
    Differs { path: PathBuf },
    /// A generation may hold plain files and folders with portable names only.
    #[error("`{}` cannot be part of a generation", path.display())]
    Unexpected { path: PathBuf },
    /// The write log is damaged, in a way that no crash leaves behind.
    #[error("write log `{}` is damaged at byte {offset}: {reason}", path.display())]
    Log {
        path: PathBuf,
        offset: u64,
        reason: &'static str,
    },
    /// The write log ends before positions that generations contain.
    #[error("write log `{}` ends at position {end}, generations of the collection know position {known}", path.display())]
    LogEnd { path: PathBuf, end: u64, known: u64 },
    /// Records that are to be replayed are no longer there.
    #[error("write log `{}` begins at position {first}, what comes after position {after} is needed", path.display())]
    LogGap {
        path: PathBuf,
        first: u64,
        after: u64,
    },
    /// Too much was to be written at once.
    #[error("records of {n_bytes} bytes at once, the write log takes {max_bytes}")]
    LogFrame { n_bytes: usize, max_bytes: usize },
    /// A failed write could not be taken back.
    #[error("write log `{}` takes no records after a write that failed; it has to be opened again", path.display())]
    LogBroken { path: PathBuf },
    /// No space is left.
    #[error("disk full while writing `{}`", path.display())]
    DiskFull { path: PathBuf, source: io::Error },
    /// The file system or its permissions do not allow writing.
    #[error("not allowed to write `{}`", path.display())]
    NotWritable { path: PathBuf, source: io::Error },
    /// Files that one of many processes creates need one or the other.
    #[error("the file system of `{}` has neither hard links nor renames that replace nothing", path.display())]
    NotExclusive { path: PathBuf, source: io::Error },
    /// Any other failure of the file system.
    #[error("cannot access `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl CollectionError {
    /// Whether what is on disk is damaged.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Manifest { source, .. } => !matches!(source, ManifestError::Version { .. }),
            Self::Aliases { .. }
            | Self::Spec { .. }
            | Self::Report { .. }
            | Self::Log { .. }
            | Self::LogEnd { .. }
            | Self::LogGap { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::DiskFull { path, source },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::NotWritable { path, source }
            }
            _ => Self::Io { path, source },
        }
    }

    /// Of a file that could be written under another name, and not be given its own.
    pub(crate) fn create(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::Unsupported
            | io::ErrorKind::InvalidInput => Self::NotExclusive {
                path: path.to_path_buf(),
                source,
            },
            _ => Self::write(path, source),
        }
    }

    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum ManifestError {
    /// The file is missing or unreadable.
    #[error("cannot be read")]
    Io(#[source] io::Error),
    /// The file is far larger than any manifest.
    #[error("has {bytes} bytes, the limit is {max_bytes}")]
    TooLarge { bytes: u64, max_bytes: u64 },
    /// The file is not JSON, or a field is missing or of another type.
    #[error("is not a manifest")]
    Json(#[from] serde_json::Error),
    /// Another version of this program wrote it.
    #[error("has format version {found}, this program reads {supported}")]
    Version { found: u64, supported: u64 },
    /// The bytes are not those that were written.
    #[error("does not match its own checksum")]
    Checksum,
    /// The manifest belongs to another folder.
    #[error("names generation `{found}`, its folder is `{expected}`")]
    Generation {
        found: GenerationId,
        expected: GenerationId,
    },
    /// A path would leave the generation, or is not portable.
    #[error("names the file `{path}`, which is no path inside a generation")]
    Path { path: String },
    /// The shards do not cover the ordinals 0 to n − 1 in order.
    #[error("shard {shard} does not begin where the one before it ends")]
    Shards { shard: usize },
}

/// Why a text is not a name.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[error("`{}` is not a name: 1 to {max_length} of A-Z a-z 0-9 . _ -, beginning with none of . and -", text.escape_default())]
pub struct NameError {
    /// The text, cut to the length of a name.
    pub text: String,
    /// Longest name in bytes.
    pub max_length: usize,
}
