//! The texts of a measurement: JSON lines or plain lines, gzip or zstd or neither, ids not needed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use corpus::{BadLine, CorpusError, MAX_LINE_BYTES, Passage, Reason, Template};
use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

const GZIP: [u8; 3] = [0x1f, 0x8b, 0x08];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// One text of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What a cross-encoder reads before the text, where the file says it.
    pub query: Option<String>,
    /// Title and text.
    pub text: String,
}

/// Yields the texts of a file in order, blank lines left out. After an error there is nothing to be read.
pub struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    compressed: bool,
    n_lines: u64,
    /// Whether the lines are JSON objects, which the first one tells.
    json: Option<bool>,
}

impl Lines {
    pub fn open(path: &Path) -> Result<Self, CorpusError> {
        let failed = |source| CorpusError::Open {
            path: path.to_owned(),
            source,
        };
        let mut raw = BufReader::new(File::open(path).map_err(failed)?);
        let head = raw.fill_buf().map_err(failed)?;
        let (is_gzip, is_zstd) = (head.starts_with(&GZIP), head.starts_with(&ZSTD));
        let reader: Box<dyn BufRead> = if is_gzip {
            Box::new(BufReader::new(MultiGzDecoder::new(raw)))
        } else if is_zstd {
            let decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?;
            Box::new(BufReader::new(decoder))
        } else {
            Box::new(raw)
        };
        Ok(Self::new(path, reader, is_gzip || is_zstd))
    }

    /// The lines of a text inside the binary.
    pub fn of_sample(text: &'static str) -> Self {
        Self::new(Path::new("sample"), Box::new(text.as_bytes()), false)
    }

    fn new(path: &Path, reader: Box<dyn BufRead>, compressed: bool) -> Self {
        Self {
            path: path.to_owned(),
            reader,
            compressed,
            n_lines: 0,
            json: None,
        }
    }

    fn next_line(&mut self) -> Result<Option<Line>, CorpusError> {
        loop {
            let mut bytes = Vec::new();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let n_read = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut bytes)
                .map_err(|source| self.read_error(source))?;
            if n_read == 0 {
                return Ok(None);
            }
            self.n_lines += 1;
            if n_read as u64 == limit && bytes.last() != Some(&b'\n') {
                return Err(self.bad_line(Reason::TooLong));
            }
            let line = String::from_utf8(bytes).map_err(|error| {
                self.bad_line(Reason::NotUtf8(error.utf8_error().valid_up_to() + 1))
            })?;
            let line = match self.n_lines {
                1 => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line),
                _ => &line,
            };
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let json = *self.json.get_or_insert(line.starts_with('{'));
            let line = match json {
                true => line_of_object(line).map_err(|reason| self.bad_line(reason))?,
                false => Line {
                    query: None,
                    text: line.to_owned(),
                },
            };
            return Ok(Some(line));
        }
    }

    fn bad_line(&self, reason: Reason) -> CorpusError {
        CorpusError::BadLine(BadLine {
            path: self.path.clone(),
            line: self.n_lines,
            reason,
        })
    }

    /// The decoders' own errors have no number of the operating system.
    fn read_error(&self, source: io::Error) -> CorpusError {
        let (path, line) = (self.path.clone(), self.n_lines);
        if self.compressed && source.raw_os_error().is_none() {
            CorpusError::Corrupt { path, line, source }
        } else {
            CorpusError::Read { path, line, source }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Line, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().transpose()
    }
}

fn line_of_object(line: &str) -> Result<Line, Reason> {
    // The parser sees one line, so only its column, which counts bytes, says anything.
    let mut fields: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
        Reason::NotJson(error.to_string().replace(" at line 1 column ", " at byte "))
    })?;
    let mut take = |key: &'static str| match fields.remove(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Reason::NotText(key)),
    };
    let query = Some(take("query")?).filter(|query| !query.trim().is_empty());
    let passage = Passage {
        title: take("title")?,
        text: take("text")?,
        ..Passage::default()
    };
    let text = Template::default().render(&passage).text;
    if text.is_empty() {
        return Err(Reason::Blank);
    }
    Ok(Line { query, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Result<Vec<Line>, String> {
        let lines: Result<Vec<Line>, CorpusError> = Lines::of_sample(text).collect();
        lines.map_err(|error| error.to_string())
    }

    fn check(text: &'static str, expected: &[(Option<&str>, &str)]) {
        let expected: Vec<Line> = expected
            .iter()
            .map(|&(query, text)| Line {
                query: query.map(str::to_owned),
                text: text.to_owned(),
            })
            .collect();
        assert_eq!(read(text), Ok(expected));
    }

    #[test]
    fn the_first_line_tells_objects_from_plain_text() {
        check(
            "\u{feff}one\r\n\n  two \n{\n",
            &[(None, "one"), (None, "two"), (None, "{")],
        );
        check(
            "{\"text\": \"tides\", \"query\": \"why\"}\n\n{\"title\": \"Moon\", \"text\": \"pulls\", \"_id\": 3}\n",
            &[(Some("why"), "tides"), (None, "Moon pulls")],
        );
        check("", &[]);
    }

    fn check_refused(text: &'static str, expected: &str) {
        let error = read(text).expect_err("the text is bad");
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn bad_objects_are_named_with_their_line() {
        check_refused("{\"text\": \"one\"}\ntwo\n", "sample:2: not a JSON object");
        check_refused("{\"text\": 1}", "sample:1: `text` is not text");
        check_refused("{\"text\": \"a\", \"query\": []}", "`query` is not text");
        check_refused("{\"_id\": \"a\"}", "title and text are both blank");
    }
}
