use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::{BadLine, CorpusError, Reason};

/// Longest line that a reader accepts, so that a file without line ends cannot fill the memory: 64 MiB.
pub const MAX_LINE_BYTES: usize = 64 << 20;

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What zstd says of a window of more than 128 MiB, its default limit; the decoder gives nothing but the text.
const WINDOW_TOO_LARGE: &str = "Frame requires too much memory for decoding";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file, decompressed when its first bytes say so, read by lines.
pub(crate) struct Source {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    compressed: bool,
    /// Whether the name promises gzip or zstd, and the first bytes are neither's.
    misnamed: bool,
    line: u64,
}

/// What [`Source::next_line`] found.
pub(crate) enum Line {
    Text,
    Bad(Reason),
    End,
}

impl Source {
    /// Opens a file; `n_read` grows by the bytes taken from it, before decompression.
    pub(crate) fn open(path: &Path, n_read: Arc<AtomicU64>) -> Result<Self, CorpusError> {
        let failed = |source| CorpusError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mut raw = BufReader::with_capacity(1 << 16, Counted { file, n_read });
        let head = raw.fill_buf().map_err(failed)?;
        let (is_gzip, is_zstd) = (head.starts_with(&GZIP), is_zstd(head));
        let reader: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(raw)))
        } else if is_zstd {
            let decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?;
            Box::new(BufReader::with_capacity(1 << 16, decoder))
        } else {
            Box::new(raw)
        };
        let compressed = is_gzip || is_zstd;
        let end = path.extension().and_then(|end| end.to_str());
        Ok(Self {
            path: path.to_owned(),
            reader,
            compressed,
            misnamed: !compressed && matches!(end, Some("gz" | "zst")),
            line: 0,
        })
    }

    /// Lines read so far, so the number of the line last read.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Returns whether the first byte that is neither a byte order mark nor white space is `byte`.
    pub(crate) fn starts_with(&mut self, byte: u8) -> Result<bool, CorpusError> {
        let (path, line, compressed) = (&self.path, self.line, self.compressed);
        let head = self
            .reader
            .fill_buf()
            .map_err(|source| read_error(path, line, compressed, source))?;
        let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
        Ok(head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&byte))
    }

    /// Reads the next line into `text`, without its end and without a byte order mark.
    ///
    /// A line that is too long is consumed to its end, so the next call reads the next line.
    pub(crate) fn next_line(&mut self, text: &mut String) -> Result<Line, CorpusError> {
        let mut bytes = std::mem::take(text).into_bytes();
        bytes.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let n_read = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| self.error(source))?;
        if n_read == 0 {
            return Ok(Line::End);
        }
        self.line += 1;
        if n_read as u64 == limit && bytes.last() != Some(&b'\n') {
            self.reader
                .skip_until(b'\n')
                .map_err(|source| read_error(&self.path, self.line, self.compressed, source))?;
            return Ok(Line::Bad(Reason::TooLong));
        }
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        if self.line == 1 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        match String::from_utf8(bytes) {
            Ok(valid) => {
                *text = valid;
                Ok(Line::Text)
            }
            Err(error) => Ok(Line::Bad(Reason::NotUtf8(
                error.utf8_error().valid_up_to() + 1,
            ))),
        }
    }

    /// Reads lines that must all be good, skipping blank ones, and gives each to `each` with its number.
    pub(crate) fn for_each_line(
        &mut self,
        mut each: impl FnMut(&str, u64) -> Result<(), Reason>,
    ) -> Result<(), CorpusError> {
        let mut text = String::new();
        loop {
            let result = match self.next_line(&mut text)? {
                Line::End => return Ok(()),
                Line::Bad(reason) => Err(reason),
                Line::Text if text.trim().is_empty() => Ok(()),
                Line::Text => each(&text, self.line),
            };
            result.map_err(|reason| self.bad_line(reason))?;
        }
    }

    /// Returns the rest of the file as a stream for a reader of records that span lines.
    pub(crate) fn into_reader(self) -> (Box<dyn BufRead + Send>, bool) {
        (self.reader, self.compressed)
    }

    pub(crate) fn bad_line(&self, reason: Reason) -> CorpusError {
        CorpusError::BadLine(BadLine {
            path: self.path.clone(),
            line: self.line,
            reason: self.explained(reason),
        })
    }

    /// What is wrong with the line last read: that the name of the file misleads, where its first line cannot be read.
    pub(crate) fn explained(&self, reason: Reason) -> Reason {
        match reason {
            Reason::NotJson(_) | Reason::NotUtf8(_) if self.misnamed && self.line == 1 => {
                Reason::NotCompressed
            }
            reason => reason,
        }
    }

    fn error(&self, source: io::Error) -> CorpusError {
        read_error(&self.path, self.line, self.compressed, source)
    }
}

/// Tells a damaged stream from a failing disk: the decoders' own errors have no number of the operating system.
pub(crate) fn read_error(
    path: &Path,
    line: u64,
    compressed: bool,
    source: io::Error,
) -> CorpusError {
    let path = path.to_owned();
    if compressed && source.to_string() == WINDOW_TOO_LARGE {
        CorpusError::Window { path }
    } else if compressed && source.raw_os_error().is_none() {
        CorpusError::Corrupt { path, line, source }
    } else {
        CorpusError::Read { path, line, source }
    }
}

/// Whether the first frame is zstd's, or one to be skipped (RFC 8878, §3.1.2), which pzstd puts before each.
fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&ZSTD) || matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

struct Counted {
    file: File,
    n_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.n_read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}
