use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::record::{Record, RecordReader};
use crate::seen::SeenIds;
use crate::{BadLine, CorpusError, CorpusFormat, Reason, Schema, parse_passage_id};

/// Bad lines that are kept to be shown.
const MAX_BAD_EXAMPLES: usize = 10;

/// What is searched: one record of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// Its id, unique in the corpus.
    pub id: String,
    /// Its title; may be empty.
    pub title: String,
    /// Its text; empty only if the title is not.
    pub text: String,
    /// Every further field; never `_id`, `title` or `text`.
    pub metadata: Map<String, Value>,
}

/// Which files hold a corpus, and how they are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusConfig {
    /// The files, in the order of the passages.
    pub paths: Vec<PathBuf>,
    /// Their format.
    #[serde(default)]
    pub format: CorpusFormat,
    /// Names of a table's columns; `-` leaves one out. Without them a CSV file has a header, and a TSV file has one, or
    /// `id text`, or `id title text`.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// Counts bad lines instead of ending at the first.
    #[serde(default)]
    pub skip_bad_lines: bool,
    /// Declared fields: a value of another kind makes its line bad. A table's cells are text unless declared.
    #[serde(default)]
    pub schema: Option<Schema>,
    /// The records are documents to be split into passages `id#0`, `id#1` and so on: of two documents `a` and `a#3` the
    /// second is a bad line, wherever it stands.
    #[serde(default)]
    pub split: bool,
}

/// Yields the passages of a corpus in order. After an error it yields nothing more.
pub struct CorpusReader {
    config: CorpusConfig,
    schema: Schema,
    file: Option<RecordReader>,
    /// Index of the file to open next.
    next_file: usize,
    /// Lines of the files before each opened one, so that one number names file and line.
    first_lines: Vec<u64>,
    n_valid_in_file: u64,
    seen: SeenIds,
    /// The `a` of every document `a#3`, when documents are split.
    seen_bases: SeenIds,
    n_bad: u64,
    bad_examples: Vec<BadLine>,
    n_bytes_read: Arc<AtomicU64>,
    n_bytes_total: u64,
    ended: bool,
}

impl CorpusReader {
    /// Opens a corpus: every file must exist, the first is opened.
    ///
    /// # Errors
    /// [`CorpusError::Open`] and what is wrong with named columns.
    pub fn open(config: &CorpusConfig) -> Result<Self, CorpusError> {
        let mut n_bytes_total = 0;
        for path in &config.paths {
            let metadata = std::fs::metadata(path).map_err(|source| CorpusError::Open {
                path: path.clone(),
                source,
            })?;
            n_bytes_total += metadata.len();
        }
        let mut reader = Self {
            schema: config.schema.clone().unwrap_or_default(),
            config: config.clone(),
            file: None,
            next_file: 0,
            first_lines: Vec::new(),
            n_valid_in_file: 0,
            seen: SeenIds::new(),
            seen_bases: SeenIds::new(),
            n_bad: 0,
            bad_examples: Vec::new(),
            n_bytes_read: Arc::default(),
            n_bytes_total,
            ended: false,
        };
        reader.open_next()?;
        Ok(reader)
    }

    /// Bad lines skipped so far.
    pub fn n_bad(&self) -> u64 {
        self.n_bad
    }

    /// The first ten bad lines skipped.
    pub fn bad_examples(&self) -> &[BadLine] {
        &self.bad_examples
    }

    /// Bytes taken from the files so far, before decompression.
    pub fn n_bytes_read(&self) -> u64 {
        self.n_bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes of all files.
    pub fn n_bytes_total(&self) -> u64 {
        self.n_bytes_total
    }

    /// File and line of the passage last yielded.
    pub(crate) fn position(&self) -> (PathBuf, u64) {
        self.file
            .as_ref()
            .map(|file| (file.path().to_owned(), file.line()))
            .unwrap_or_default()
    }

    fn open_next(&mut self) -> Result<(), CorpusError> {
        let n_lines_before = match (self.file.take(), self.first_lines.last()) {
            (Some(file), Some(first)) => first + file.line(),
            _ => 0,
        };
        let Some(path) = self.config.paths.get(self.next_file) else {
            return Ok(());
        };
        self.next_file += 1;
        self.first_lines.push(n_lines_before);
        self.n_valid_in_file = 0;
        let (format, columns) = (self.config.format, self.config.columns.as_deref());
        self.file = Some(RecordReader::open(
            path,
            format,
            columns,
            &self.schema,
            Arc::clone(&self.n_bytes_read),
        )?);
        Ok(())
    }

    fn next_passage(&mut self) -> Result<Option<Passage>, CorpusError> {
        while let Some(file) = &mut self.file {
            let Some(record) = file.next_record()? else {
                if self.n_valid_in_file == 0 {
                    return Err(CorpusError::NoValidLine {
                        path: file.path().to_owned(),
                    });
                }
                self.open_next()?;
                continue;
            };
            match record.and_then(|record| self.check(record)) {
                Ok(passage) => {
                    self.n_valid_in_file += 1;
                    return Ok(Some(passage));
                }
                Err(reason) => self.count_bad(reason)?,
            }
        }
        Ok(None)
    }

    fn check(&mut self, record: Record) -> Result<Passage, Reason> {
        let Record {
            id,
            title,
            text,
            metadata,
        } = record;
        if title.trim().is_empty() && text.trim().is_empty() {
            return Err(Reason::Blank);
        }
        let first = self.first_lines.last().copied().unwrap_or_default();
        let line = self.file.as_ref().map_or(0, RecordReader::line);
        if self.config.split {
            self.check_numbered(&id, first + line)?;
        }
        if let Some(seen) = self.seen.insert(&id, first + line) {
            let (path, line) = self.place_of(seen);
            return Err(Reason::DuplicateId { id, path, line });
        }
        Ok(Passage {
            id,
            title,
            text,
            metadata,
        })
    }

    /// Refuses `a#3` beside `a`: the one would have the name of a passage of the other.
    fn check_numbered(&mut self, id: &str, line: u64) -> Result<(), Reason> {
        let document = parse_passage_id(id).map(|(document, _)| document);
        let other = self.seen_bases.line_of(id);
        if let Some(other) = other.or(document.and_then(|document| self.seen.line_of(document))) {
            let (path, line) = self.place_of(other);
            let id = id.to_owned();
            return Err(Reason::PassageId { id, path, line });
        }
        if let Some(document) = document {
            self.seen_bases.insert(document, line);
        }
        Ok(())
    }

    /// File of a line that is counted through all files, and the line in that file.
    fn place_of(&self, line: u64) -> (PathBuf, u64) {
        // The last file that begins before the line holds it.
        let file = self.first_lines.partition_point(|&first| first < line) - 1;
        (
            self.config.paths[file].clone(),
            line - self.first_lines[file],
        )
    }

    fn count_bad(&mut self, reason: Reason) -> Result<(), CorpusError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let bad_line = file.bad_line(reason);
        if !self.config.skip_bad_lines {
            return Err(CorpusError::BadLine(bad_line));
        }
        self.n_bad += 1;
        if self.bad_examples.len() < MAX_BAD_EXAMPLES {
            self.bad_examples.push(bad_line);
        }
        Ok(())
    }
}

impl Iterator for CorpusReader {
    type Item = Result<Passage, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let passage = self.next_passage().transpose();
        self.ended = !matches!(passage, Some(Ok(_)));
        passage
    }
}
