use std::io;
use std::path::PathBuf;

use encoder::EncodeError;

use crate::data::DataError;

/// Why teacher text was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeacherError {
    /// The passages, or what was written about them, cannot be read, or a setting cannot be.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model fails.
    #[error("the model fails on the batch that begins with passage `{passage}`")]
    Model {
        /// The first passage's id.
        passage: String,
        /// Why.
        source: EncodeError,
    },
    /// Lines cannot be written.
    #[error("cannot write lines")]
    Write(#[from] io::Error),
    /// The unfinished file is not one.
    #[error("`{}` is not an unfinished file: {reason}", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An unfinished file was begun with another model or other settings.
    #[error("`{}` was begun with {entry} {found}, now it is {expected}", path.display())]
    OtherSetting {
        /// The file.
        path: PathBuf,
        /// The setting.
        entry: String,
        /// What the file says.
        found: String,
        /// What it is now.
        expected: String,
    },
    /// An unfinished file is of other passages.
    #[error("`{}` has passage `{found}` where the corpus has {expected}", path.display())]
    OtherPassage {
        /// The file.
        path: PathBuf,
        /// The passage in the file.
        found: String,
        /// The corpus's.
        expected: String,
    },
    /// Another process writes the same file.
    #[error("`{}` is being written by another process", path.display())]
    Locked {
        /// The unfinished file.
        path: PathBuf,
    },
    /// The work was stopped; what is done is kept.
    #[error("stopped after {n_passages} passages, which `{}` keeps", path.display())]
    Interrupted {
        /// Passages that are done.
        n_passages: u64,
        /// The unfinished file.
        path: PathBuf,
    },
}
