use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::CorpusError;
use crate::source::{Line, Source};

/// The lines of a file, decompressed when its first bytes say so: what formats of other crates are read from.
pub struct Lines {
    source: Source,
    path: PathBuf,
    text: String,
    n_bytes_read: Arc<AtomicU64>,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// [`CorpusError::Open`].
    pub fn open(path: &Path) -> Result<Self, CorpusError> {
        let n_bytes_read = Arc::new(AtomicU64::new(0));
        Ok(Self {
            source: Source::open(path, Arc::clone(&n_bytes_read))?,
            path: path.to_owned(),
            text: String::new(),
            n_bytes_read,
        })
    }

    /// Reads the next line that is not blank: its number, from 1, and its text without the line end.
    ///
    /// # Errors
    /// A line that is too long or not UTF-8, a file that cannot be read further.
    pub fn next_line(&mut self) -> Result<Option<(u64, &str)>, CorpusError> {
        loop {
            match self.source.next_line(&mut self.text)? {
                Line::End => return Ok(None),
                Line::Bad(reason) => return Err(self.source.bad_line(reason)),
                Line::Text if self.text.trim().is_empty() => {}
                Line::Text => return Ok(Some((self.source.line(), &self.text))),
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes taken from the file so far, before decompression.
    pub fn n_bytes_read(&self) -> u64 {
        self.n_bytes_read.load(Ordering::Relaxed)
    }
}
