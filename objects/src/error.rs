//! What can go wrong with object storage.

use std::io;
use std::path::PathBuf;

use collection::{CollectionError, FileFault, GenerationId, ManifestError};

/// Why object storage could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum ObjectsError {
    /// The text names no place that objects can be kept in.
    #[error("`{text}` is not `s3://bucket/prefix` or `file:///folder`")]
    Url { text: String },
    /// A setting of the storage cannot be used.
    #[error("cannot use the settings of object storage")]
    Setting(#[source] object_store::Error),
    /// A file of certificates cannot be used.
    #[error("no certificates can be read from `{}`", path.display())]
    Certificates { path: PathBuf },
    /// No threads for requests can be started.
    #[error("cannot start the threads of object storage")]
    Threads(#[source] io::Error),
    /// The storage does not answer, or refuses.
    #[error("cannot access `{url}`")]
    Access {
        url: String,
        source: object_store::Error,
    },
    /// An object is far longer than its like.
    #[error("`{url}` has {n_bytes} bytes, the limit is {max_bytes}")]
    TooLarge {
        url: String,
        n_bytes: u64,
        max_bytes: u64,
    },
    /// There is no such object.
    #[error("there is no `{url}`")]
    Missing { url: String },
    /// Neither an alias nor a generation has this name.
    #[error("`{url}` has no alias or generation `{name}`")]
    Unknown { url: String, name: String },
    /// There is nothing to go back to.
    #[error("alias `{alias}` of `{url}` has named no other generation before")]
    NoPrevious { url: String, alias: String },
    /// A name has a shape that no alias and no generation has.
    #[error(transparent)]
    Name(#[from] collection::NameError),
    /// A manifest cannot be used.
    #[error("manifest `{url}` cannot be used")]
    Manifest { url: String, source: ManifestError },
    /// The aliases are damaged.
    #[error("alias file `{url}` is damaged: {reason}")]
    Aliases { url: String, reason: String },
    /// Files did not arrive, or were not sent, as they were made.
    #[error("{n_files} files of `{url}` are not those of its manifest")]
    Damaged {
        url: String,
        n_files: usize,
        #[source]
        first: FileFault,
    },
    /// A small object is not what was written.
    #[error("`{url}` is damaged: {reason}")]
    Record { url: String, reason: &'static str },
    /// A generation is named once.
    #[error("`{url}` is another generation of the same name")]
    Differs { url: String },
    /// Somebody else changed an alias meanwhile.
    #[error(
        "alias `{alias}` of `{url}` names {}, expected {}",
        named(found),
        named(expected)
    )]
    Changed {
        url: String,
        alias: String,
        expected: Option<GenerationId>,
        found: Option<GenerationId>,
    },
    /// Others changed an object each time it was to be changed.
    #[error("`{url}` was changed by others {n_tries} times while it was to be changed")]
    Contended { url: String, n_tries: usize },
    /// The collection on this side cannot be used.
    #[error("cannot use the collection")]
    Collection(#[from] CollectionError),
    /// A file on this side cannot be read or written.
    #[error("cannot access `{}`", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The caller asked to stop.
    #[error("interrupted at {done} of {total} bytes")]
    Interrupted { done: u64, total: u64 },
}

fn named(id: &Option<GenerationId>) -> String {
    id.as_ref()
        .map_or("nothing".to_owned(), |id| format!("`{id}`"))
}

impl ObjectsError {
    /// Whether bytes are not those that were written.
    pub fn is_corrupt(&self) -> bool {
        match self {
            Self::Manifest { source, .. } => !matches!(source, ManifestError::Version { .. }),
            Self::Aliases { .. }
            | Self::Damaged { .. }
            | Self::Record { .. }
            | Self::TooLarge { .. } => true,
            Self::Collection(error) => error.is_corrupt(),
            _ => false,
        }
    }

    /// Whether the caller named a place or a setting that cannot be used.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Url { .. } | Self::Setting(_) | Self::Certificates { .. } | Self::Name(_)
        )
    }

    /// Whether the storage asks for other credentials.
    pub fn is_refused(&self) -> bool {
        matches!(
            self,
            Self::Access {
                source: object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. },
                ..
            }
        )
    }
}
