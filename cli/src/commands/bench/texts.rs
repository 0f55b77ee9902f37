//! The texts of a measurement: JSON lines or plain lines, gzip or zstd or neither, ids not needed.

use std::iter::Enumerate;
use std::path::{Path, PathBuf};

use corpus::{BadLine, CorpusError, Passage, Reason, Template};
use serde_json::{Map, Value};

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
    source: Source,
    /// Whether the lines are JSON objects, which the first one tells.
    json: Option<bool>,
}

enum Source {
    File(Box<corpus::Lines>),
    /// The lines of a text inside the binary, numbered.
    Sample(Enumerate<std::str::Lines<'static>>),
}

impl Lines {
    pub fn open(path: &Path) -> Result<Self, CorpusError> {
        Ok(Self {
            source: Source::File(Box::new(corpus::Lines::open(path)?)),
            json: None,
        })
    }

    /// The lines of a text inside the binary.
    pub fn of_sample(text: &'static str) -> Self {
        Self {
            source: Source::Sample(text.lines().enumerate()),
            json: None,
        }
    }

    fn next_line(&mut self) -> Result<Option<Line>, CorpusError> {
        let (path, next) = match &mut self.source {
            Source::File(lines) => (lines.path().to_owned(), lines.next_line()?),
            Source::Sample(lines) => {
                let mut lines = lines.map(|(place, line)| (place as u64 + 1, line));
                let next = lines.find(|(_, line)| !line.trim().is_empty());
                (PathBuf::from("sample"), next)
            }
        };
        let Some((number, line)) = next else {
            return Ok(None);
        };
        let line = line.trim();
        let json = *self.json.get_or_insert(line.starts_with('{'));
        let read = match json {
            true => line_of_object(line),
            false => Ok(Line {
                query: None,
                text: line.to_owned(),
            }),
        };
        let bad_line = |reason| {
            CorpusError::BadLine(BadLine {
                path,
                line: number,
                reason,
            })
        };
        read.map(Some).map_err(bad_line)
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
            "one\r\n\n  two \n{\n",
            &[(None, "one"), (None, "two"), (None, "{")],
        );
        check(
            "{\"text\": \"tides\", \"query\": \"why\"}\n\n{\"title\": \"Moon\", \"text\": \"pulls\", \"_id\": 3}\n",
            &[(Some("why"), "tides"), (None, "Moon pulls")],
        );
        check("", &[]);
    }

    #[test]
    fn files_are_unpacked_as_a_corpus_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts");
        // As pzstd writes it: frames of zstd, each behind one that holds its length and is skipped.
        let packed = zstd::encode_all(&b"\xef\xbb\xbfone\n\ntwo\n"[..], 1).unwrap();
        let length = (packed.len() as u32).to_le_bytes();
        let head = b"\x50\x2a\x4d\x18\x04\0\0\0";
        std::fs::write(&path, [&head[..], &length, &packed].concat()).unwrap();
        let lines: Result<Vec<Line>, CorpusError> = Lines::open(&path).unwrap().collect();
        let texts: Vec<String> = lines.unwrap().into_iter().map(|line| line.text).collect();
        assert_eq!(texts, ["one", "two"]);
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
