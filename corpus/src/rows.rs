use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::source::{Line, Source, read_error};
use crate::{BadLine, CorpusError, MAX_LINE_BYTES, Reason};

/// What a CSV file is continued by: a row of its own, unless a quote is still open and takes it in.
const END: &[u8] = b"\n\0end of the file\0";

/// The rows of a table, decompressed when the file's first bytes say so; a header is a row like any other.
pub struct Rows {
    path: PathBuf,
    input: Input,
    line: u64,
}

enum Input {
    Tabs {
        source: Source,
        text: String,
    },
    Csv {
        reader: Box<csv::Reader<Limited>>,
        record: csv::ByteRecord,
        left: Arc<AtomicU64>,
        compressed: bool,
    },
}

impl Rows {
    /// Opens a file of comma-separated values with quoting.
    ///
    /// # Errors
    /// [`CorpusError::Open`].
    pub fn open_csv(path: &Path) -> Result<Self, CorpusError> {
        Ok(Self::of_csv(path, Source::open(path, Arc::default())?))
    }

    /// Opens a file of fields separated by tabs, without quoting.
    ///
    /// # Errors
    /// [`CorpusError::Open`].
    pub fn open_tsv(path: &Path) -> Result<Self, CorpusError> {
        Ok(Self::of_tabs(path, Source::open(path, Arc::default())?))
    }

    pub(crate) fn of_tabs(path: &Path, source: Source) -> Self {
        let text = String::new();
        Self {
            path: path.to_owned(),
            input: Input::Tabs { source, text },
            line: 0,
        }
    }

    pub(crate) fn of_csv(path: &Path, source: Source) -> Self {
        let (reader, compressed) = source.into_reader();
        let left = Arc::new(AtomicU64::new(0));
        let limited = Limited {
            reader: reader.chain(END),
            left: Arc::clone(&left),
        };
        let reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(limited);
        Self {
            path: path.to_owned(),
            input: Input::Csv {
                reader: Box::new(reader),
                record: csv::ByteRecord::new(),
                left,
                compressed,
            },
            line: 0,
        }
    }

    /// First line of the row last read.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the cells of the next row that is not blank, or what is wrong with it; none at the end of the file.
    ///
    /// # Errors
    /// A file that cannot be read further, a quote that is never closed.
    pub fn next_row(&mut self) -> Result<Option<Result<Vec<String>, Reason>>, CorpusError> {
        loop {
            match &mut self.input {
                Input::Tabs { source, text } => {
                    let line = source.next_line(text)?;
                    self.line = source.line();
                    match line {
                        Line::End => return Ok(None),
                        Line::Bad(reason) => return Ok(Some(Err(reason))),
                        Line::Text if text.trim().is_empty() => {}
                        Line::Text => {
                            return Ok(Some(Ok(text.split('\t').map(str::to_owned).collect())));
                        }
                    }
                }
                Input::Csv {
                    reader,
                    record,
                    left,
                    compressed,
                } => {
                    left.store(MAX_LINE_BYTES as u64, Ordering::Relaxed);
                    self.line = reader.position().line();
                    let more = reader.read_byte_record(record).map_err(|error| {
                        csv_error(&self.path, self.line, *compressed, left, error)
                    })?;
                    if !more {
                        return Ok(None);
                    }
                    self.line = record.position().map_or(self.line, csv::Position::line);
                    let last = record.iter().next_back().unwrap_or_default();
                    if record.len() == 1 && *last == END[1..] {
                        return Ok(None);
                    }
                    if last.ends_with(END) {
                        let reason = "a quote is never closed".to_owned();
                        return Ok(Some(Err(Reason::NotCsv(reason))));
                    }
                    let cell = |cell: &[u8]| match std::str::from_utf8(cell) {
                        Ok(cell) => Ok(cell.to_owned()),
                        Err(error) => Err(Reason::NotUtf8(error.valid_up_to() + 1)),
                    };
                    let cells: Result<Vec<String>, Reason> = record.iter().map(cell).collect();
                    if !matches!(&cells, Ok(cells) if cells.len() == 1 && cells[0].trim().is_empty())
                    {
                        return Ok(Some(cells));
                    }
                }
            }
        }
    }
}

/// Bounds what one record of a quoted format may take, which an unclosed quote would otherwise leave open.
struct Limited {
    reader: io::Chain<Box<dyn BufRead + Send>, &'static [u8]>,
    left: Arc<AtomicU64>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other("record too long"));
        }
        let n = self.reader.read(buffer)?;
        self.left
            .store(left.saturating_sub(n as u64), Ordering::Relaxed);
        Ok(n)
    }
}

fn csv_error(
    path: &Path,
    line: u64,
    compressed: bool,
    left: &AtomicU64,
    error: csv::Error,
) -> CorpusError {
    let bad = |reason| {
        CorpusError::BadLine(BadLine {
            path: path.to_owned(),
            line,
            reason,
        })
    };
    if left.load(Ordering::Relaxed) == 0 {
        return bad(Reason::TooLong);
    }
    match error.into_kind() {
        csv::ErrorKind::Io(source) => read_error(path, line.saturating_sub(1), compressed, source),
        kind => bad(Reason::NotCsv(format!("{kind:?}"))),
    }
}
