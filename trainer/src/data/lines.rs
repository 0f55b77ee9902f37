use std::path::PathBuf;

use corpus::{Lines, Reason};

use super::texts::CHUNK_BYTES;
use super::{DataError, OnBytes};

/// Lines of several files, in pieces that threads work on.
pub(crate) struct LineChunks<'a> {
    paths: std::slice::Iter<'a, PathBuf>,
    lines: Option<Lines>,
    /// Bytes of the files before this one.
    n_bytes_before: u64,
    n_bytes_total: u64,
}

/// Lines of one file, with their numbers.
pub(crate) struct LineChunk {
    path: PathBuf,
    /// Each, or what is wrong with it.
    lines: Vec<(u64, Result<String, Reason>)>,
}

impl<'a> LineChunks<'a> {
    pub(crate) fn open(paths: &'a [PathBuf]) -> Result<Self, DataError> {
        let mut n_bytes_total = 0;
        for path in paths {
            let metadata = std::fs::metadata(path).map_err(|source| DataError::Read {
                path: path.clone(),
                source,
            })?;
            n_bytes_total += metadata.len();
        }
        Ok(Self {
            paths: paths.iter(),
            lines: None,
            n_bytes_before: 0,
            n_bytes_total,
        })
    }

    fn n_bytes_read(&self) -> u64 {
        self.n_bytes_before + self.lines.as_ref().map_or(0, Lines::n_bytes_read)
    }

    /// Reads the next lines.
    pub(crate) fn next_chunk(
        &mut self,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<Option<LineChunk>, DataError> {
        on_bytes(self.n_bytes_read(), self.n_bytes_total);
        loop {
            let Some(file) = &mut self.lines else {
                let Some(path) = self.paths.next() else {
                    return Ok(None);
                };
                self.lines = Some(Lines::open(path)?);
                continue;
            };
            let mut chunk = LineChunk {
                path: file.path().to_owned(),
                lines: Vec::new(),
            };
            let (mut n_bytes, mut is_bad) = (0, false);
            // A bad line is the last of its piece, so that a file of nothing else is neither held nor read to its end.
            while n_bytes < CHUNK_BYTES && !is_bad {
                let Some((line, text)) = file.next_line_or_reason()? else {
                    break;
                };
                (n_bytes, is_bad) = match text {
                    Ok(text) => (n_bytes + text.len(), false),
                    Err(_) => (n_bytes, true),
                };
                chunk.lines.push((line, text.map(str::to_owned)));
            }
            if !chunk.lines.is_empty() {
                return Ok(Some(chunk));
            }
            self.n_bytes_before = self.n_bytes_read();
            self.lines = None;
        }
    }
}

impl LineChunk {
    /// Parses each line; returns the number of bad ones and the first, where they are skipped.
    pub(crate) fn parse<T>(
        self,
        skip_bad_lines: bool,
        parse: impl Fn(&str) -> Result<T, String>,
        mut each: impl FnMut(T),
    ) -> Result<(u64, Option<String>), DataError> {
        let (mut n_bad, mut first_bad) = (0, None);
        for (line, text) in &self.lines {
            let parsed = match text {
                Ok(text) => parse(text),
                Err(reason) => Err(reason.to_string()),
            };
            match parsed {
                Ok(parsed) => each(parsed),
                Err(reason) => {
                    let error = DataError::Line {
                        path: self.path.clone(),
                        line: *line,
                        reason,
                    };
                    if !skip_bad_lines {
                        return Err(error);
                    }
                    n_bad += 1;
                    first_bad.get_or_insert_with(|| error.to_string());
                }
            }
        }
        Ok((n_bad, first_bad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_bad_lines_is_read_one_by_one() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let contents = [&b"good\n"[..], &b"\xff\n".repeat(1000)].concat();
        std::fs::write(file.path(), contents).expect("it is written");
        let paths = [file.path().to_owned()];
        let mut chunks = LineChunks::open(&paths).expect("it opens");
        let mut lengths = Vec::new();
        while let Some(chunk) = chunks.next_chunk(&mut |_, _| ()).expect("it is read") {
            lengths.push(chunk.lines.len());
        }
        assert_eq!(lengths.len(), 1000);
        assert_eq!((lengths[0], lengths[1..].iter().max()), (2, Some(&1)));
    }
}
