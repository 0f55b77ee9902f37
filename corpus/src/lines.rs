use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::source::{Line, Source};
use crate::{CorpusError, Reason};

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
        match self.advance()? {
            Line::End => Ok(None),
            Line::Bad(reason) => Err(self.source.bad_line(reason)),
            Line::Text => Ok(Some((self.source.line(), &self.text))),
        }
    }

    /// As [`Self::next_line`]; in place of a line that is too long or not UTF-8 it gives the reason, and the next call the line
    /// behind it.
    ///
    /// # Errors
    /// A file that cannot be read further.
    #[expect(clippy::type_complexity, reason = "an iterator's item, that may fail")]
    pub fn next_line_or_reason(
        &mut self,
    ) -> Result<Option<(u64, Result<&str, Reason>)>, CorpusError> {
        let line = match self.advance()? {
            Line::End => return Ok(None),
            Line::Bad(reason) => Err(reason),
            Line::Text => Ok(self.text.as_str()),
        };
        Ok(Some((self.source.line(), line)))
    }

    /// Reads on to the next line that is not blank.
    fn advance(&mut self) -> Result<Line, CorpusError> {
        loop {
            match self.source.next_line(&mut self.text)? {
                Line::Text if self.text.trim().is_empty() => {}
                line => return Ok(line),
            }
        }
    }

    /// The rest of the file, for a reader of what does not stand in lines.
    pub fn into_reader(self) -> Box<dyn BufRead + Send> {
        self.source.into_reader().0
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
