//! Training examples: what they are, the files they come from, and how groups are drawn of them.
//!
//! A [`DataSource`] is read into a [`Dataset`], which holds each passage once and draws a query's [`Group`] by a
//! [`Sampling`] rule. Bad data is an error with file and line, or counted in the [`DataReport`], before training starts.

mod arrow;
mod collection;
mod columns;
mod dataset;
mod error;
mod example;
mod judged;
mod line;
mod lines;
mod named;
mod native;
mod passage_text;
mod passages;
pub(crate) mod random;
mod sampling;
mod scores;
mod several_texts;
mod source;
mod text_corpus;
mod texts;
mod token_cache;

pub use collection::{CorpusSource, OnProgress, QuerySource};
pub(crate) use dataset::Others;
pub use dataset::{DataReport, Dataset};
pub use error::DataError;
pub use example::{Candidate, Content, Example, Group};
pub use judged::{JudgedSource, Judgments, NegativeSource};
pub use line::{ExampleReader, LineFormat};
pub(crate) use line::{from_json, is_plain_text, parse as parse_line};
pub(crate) use lines::{LineChunk, LineChunks};
pub use named::{NamedFormat, NamedSource};
pub use passage_text::PassageText;
pub(crate) use passages::Link;
pub use passages::Passages;
pub use sampling::{Draw, Sampling, SamplingRule};
pub use scores::Scores;
pub(crate) use several_texts::SeveralTexts;
pub use source::{DataSource, LineSource};
pub use text_corpus::{TextReport, read_text_lines, tokenise_texts};
pub use texts::OnBytes;
pub(crate) use texts::{TextChunk, TextChunks};
pub use token_cache::{
    CacheState, Cached, Fingerprint, Ids, OnWait, RecordReader, RecordWriter, TokenCache,
};
