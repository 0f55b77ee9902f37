use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::MAX_LINE_BYTES;

/// Why a file of passages, queries, judgments or results could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorpusError {
    /// The file cannot be opened.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Reading stopped before the end of the file.
    #[error("cannot read `{}` after line {line}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Lines read before.
        line: u64,
        /// The cause.
        source: io::Error,
    },
    /// The gzip or zstd stream is truncated or damaged.
    #[error("`{}` is truncated or damaged after line {line}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Lines read before.
        line: u64,
        /// What the decoder found.
        source: io::Error,
    },
    /// The zstd stream looks back further than is allowed, so that a file cannot fill the memory.
    #[error(
        "`{}` takes more than 128 MiB to unpack, as files of `zstd --long=28` and above do; pack it again with less",
        path.display()
    )]
    Window {
        /// The file.
        path: PathBuf,
    },
    /// A line does not hold what it should.
    #[error("{0}")]
    BadLine(BadLine),
    /// A file has no valid line.
    #[error("`{}` has no valid line", path.display())]
    NoValidLine {
        /// The file.
        path: PathBuf,
    },
    /// The columns of a table are not known.
    #[error("the {n_fields} columns of `{}` have no names; name them", path.display())]
    UnnamedColumns {
        /// The file.
        path: PathBuf,
        /// Fields of its first line.
        n_fields: usize,
    },
    /// The named columns of a table have no id, or neither title nor text.
    #[error("the columns of `{}` lack {missing}: {}", path.display(), columns.join(", "))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
        /// The columns that it has.
        columns: Vec<String>,
    },
    /// The passages have more different metadata fields than a schema may hold.
    #[error("more than {limit} metadata fields at `{}` line {line}", path.display())]
    TooManyFields {
        /// The file.
        path: PathBuf,
        /// The line with the field over the limit.
        line: u64,
        /// The limit.
        limit: usize,
    },
    /// A schema file is not one.
    #[error("cannot read schema `{}`", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<toml::de::Error>,
    },
    /// A schema declares a name that every passage has anyway.
    #[error("schema `{}` declares the reserved field `{field}`", path.display())]
    ReservedField {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
    },
    /// The layout of a run cannot be told from its contents.
    #[error("the third column of run `{}` may be a rank or a score; name the format", path.display())]
    AmbiguousRun {
        /// The file.
        path: PathBuf,
    },
    /// A data set folder lacks a file.
    #[error("data set `{}` has no `{file}`", path.display())]
    MissingFile {
        /// The folder.
        path: PathBuf,
        /// The file, as the layout names it.
        file: String,
    },
    /// Judgments name a query that the data set does not have.
    #[error("`{}` judges query `{id}`, which `{}` does not have", qrels.display(), queries.display())]
    UnknownQuery {
        /// The judgments.
        qrels: PathBuf,
        /// The queries.
        queries: PathBuf,
        /// The query.
        id: String,
    },
    /// An id that the TREC format cannot hold.
    #[error("id `{id}` is empty or has white space, which a TREC run cannot hold")]
    UnwritableId {
        /// The id.
        id: String,
    },
    /// A score that is not a number.
    #[error("score of passage `{id}` for query `{query}` is not a number")]
    UnwritableScore {
        /// The query.
        query: String,
        /// The passage.
        id: String,
    },
    /// The file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl CorpusError {
    /// Returns whether the contents of the input are to blame, rather than the machine or the caller.
    pub fn is_bad_input(&self) -> bool {
        !matches!(
            self,
            Self::Open { .. } | Self::Read { .. } | Self::Write { .. } | Self::Stopped
        )
    }
}

/// A line that does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: Reason,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.reason)
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Longer than [`MAX_LINE_BYTES`].
    #[error("longer than {} MiB", MAX_LINE_BYTES >> 20)]
    TooLong,
    /// Neither a record nor the beginning of what the name of the file promises.
    #[error("not a record, and the file is neither gzip nor zstd, in spite of its name")]
    NotCompressed,
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    NotUtf8(usize),
    /// Not a JSON object.
    #[error("not a JSON object: {0}")]
    NotJson(String),
    /// Not a CSV record.
    #[error("not a CSV record: {0}")]
    NotCsv(String),
    /// A table row with more or fewer fields than there are columns.
    #[error("{found} fields where {expected} are expected")]
    FieldCount {
        /// Expected, as prose, for some formats allow several.
        expected: &'static str,
        /// Found.
        found: usize,
    },
    /// A table row with more or fewer fields than there are columns.
    #[error("{found} fields for {expected} columns")]
    ColumnCount {
        /// Columns of the table.
        expected: usize,
        /// Fields of the row.
        found: usize,
    },
    /// No id under any of the names it may have.
    #[error("no id (`_id`, `id`, `docid` or `text_id`)")]
    NoId,
    /// An id that is neither text nor an integer.
    #[error("`{0}` is neither text nor an integer")]
    IdType(String),
    /// An id of zero bytes.
    #[error("empty id")]
    EmptyId,
    /// An id that is too long.
    #[error("id of {0} bytes, more than {max}", max = crate::record::MAX_ID_BYTES)]
    LongId(usize),
    /// A title or text that is not text.
    #[error("`{0}` is not text")]
    NotText(&'static str),
    /// Nothing to search.
    #[error("title and text are both blank")]
    Blank,
    /// A query without text.
    #[error("text is blank")]
    BlankQuery,
    /// BEIR's `metadata` object repeats a field of the record.
    #[error("`metadata` has a field `{0}`, and so has the record")]
    MetadataClash(String),
    /// A value that is not of the declared kind.
    #[error("field `{field}` is not {}", kind.described())]
    FieldType {
        /// The field.
        field: String,
        /// Its declared kind.
        kind: crate::FieldKind,
    },
    /// An id seen before.
    #[error("id `{id}` repeats {}:{line}", path.display())]
    DuplicateId {
        /// The id.
        id: String,
        /// File of its first line.
        path: PathBuf,
        /// Its first line.
        line: u64,
    },
    /// Split into passages, one of two documents has the name of a passage of the other: `a` and `a#3`.
    #[error("split into passages, `{id}` shares ids with {}:{line}", path.display())]
    PassageId {
        /// Id of the document read second.
        id: String,
        /// File of the one read first.
        path: PathBuf,
        /// Its line.
        line: u64,
    },
    /// A pair of query and passage seen before.
    #[error("query `{query}` and passage `{passage}` repeat line {line}")]
    DuplicatePair {
        /// The query.
        query: String,
        /// The passage.
        passage: String,
        /// Its first line.
        line: u64,
    },
    /// An id that the TREC format cannot hold, where results are written in it.
    #[error("id `{0}` is empty or has white space, which a TREC run cannot hold")]
    UnwritableId(String),
    /// A relevance that is not an integer.
    #[error("relevance `{0}` is not an integer")]
    NotGrade(String),
    /// A rank that is not a positive integer.
    #[error("rank `{0}` is not a positive integer")]
    NotRank(String),
    /// A score that is not a number.
    #[error("score `{0}` is not a number")]
    NotScore(String),
}
