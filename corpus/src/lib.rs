//! Passages, queries, judgments and runs: the types and their file formats.
//!
//! Readers stream: memory does not grow with the file, except for 28 bytes a passage that find duplicate ids.
//! Files may be gzip or zstd, which is told by their first bytes and not by their names. A bad line is an error that
//! names the file, the line and the reason; a corpus may be read with [`CorpusConfig::skip_bad_lines`], which counts them.

mod dataset;
mod error;
mod lines;
mod passage_id;
mod qrels;
mod query;
mod reader;
mod record;
mod rows;
mod run;
mod schema;
mod seen;
mod source;
mod survey;
mod template;

pub use dataset::Dataset;
pub use error::{BadLine, CorpusError, Reason};
pub use lines::Lines;
pub use passage_id::{parse_passage_id, passage_id};
pub use qrels::{Qrels, QrelsFormat};
pub use query::{Query, read_queries};
pub use reader::{CorpusConfig, CorpusReader, Passage};
pub use record::{CorpusFormat, parse_passage};
pub use rows::Rows;
pub use run::{Run, RunFormat, Scored, check_query_id, check_run_id, ranked};
pub use schema::{Field, FieldKind, Schema, parse_date};
pub use source::MAX_LINE_BYTES;
pub use survey::{Survey, SurveyProgress, survey, survey_each};
pub use template::{Rendered, Template, TemplateError};
