use std::io::{self, Write};

use corpus::{CorpusConfig, Template};
use encoder::TextTokenizer;

use super::{SpanConfig, SpanDocument, pack, pairs, sentences};
use crate::data::random::{Purpose, random};
use crate::data::{DataError, OnBytes, TextChunk, TextChunks};
use crate::parallel::map_in_order;

/// Documents to cut into spans.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanSource {
    /// Where they are.
    pub corpus: CorpusConfig,
    /// What is read of each.
    pub template: Template,
    /// Threads that cut and tokenise; the lines are the same for any number.
    pub n_threads: usize,
}

/// What documents had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanReport {
    /// Documents that were read.
    pub n_documents: u64,
    /// Documents of fewer than two spans, which are left out.
    pub n_short: u64,
    /// Spans that were written.
    pub n_spans: u64,
    /// Tokens of these spans.
    pub n_tokens: u64,
    /// Bad lines, all skipped.
    pub n_bad: u64,
    /// The first bad line.
    pub first_bad: Option<String>,
}

/// Why pairs of spans were not written.
#[derive(Debug, thiserror::Error)]
pub enum SpanError {
    /// The documents cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The lines cannot be written.
    #[error("cannot write pairs of spans")]
    Write(#[source] io::Error),
}

/// Writes the spans of each document as a [`SpanDocument`] a line, in the order of the documents.
///
/// The draws of a document depend on the seed and its number alone. Memory does not grow with the corpus.
///
/// # Errors
/// A setting that cannot be; bad lines, unless the corpus is read without them; [`DataError::Empty`] when no document has
/// two spans.
pub fn write_span_pairs(
    source: &SpanSource,
    config: &SpanConfig,
    tokenizer: &TextTokenizer,
    writer: &mut dyn Write,
    on_bytes: &mut OnBytes<'_>,
) -> Result<SpanReport, SpanError> {
    config.check()?;
    let mut chunks = TextChunks::open(&source.corpus, &source.template)?;
    let mut total = SpanReport::default();
    map_in_order(
        source.n_threads,
        || Ok(chunks.next_chunk(on_bytes)?),
        |chunk| lines_of(&chunk, config, tokenizer),
        |result: Result<(Vec<u8>, SpanReport), DataError>| {
            let (lines, report) = result?;
            total.n_documents += report.n_documents;
            total.n_short += report.n_short;
            total.n_spans += report.n_spans;
            total.n_tokens += report.n_tokens;
            writer.write_all(&lines).map_err(SpanError::Write)
        },
    )?;
    (total.n_bad, total.first_bad) = chunks.n_bad();
    if total.n_spans == 0 {
        let path = source.corpus.paths.first().cloned().unwrap_or_default();
        return Err(DataError::Empty { path }.into());
    }
    Ok(total)
}

fn lines_of(
    chunk: &TextChunk,
    config: &SpanConfig,
    tokenizer: &TextTokenizer,
) -> Result<(Vec<u8>, SpanReport), DataError> {
    let mut lines = Vec::new();
    let mut report = SpanReport::default();
    for (number, text) in chunk.texts() {
        let tokens = |sentence| chunk.ids(tokenizer, number, sentence);
        let sentences = sentences(text).into_iter().map(tokens);
        let sentences = sentences.collect::<Result<Vec<_>, _>>()?;
        let mut random = random(config.seed, 0, number, Purpose::Spans);
        let spans = pack(sentences, config, &mut random);
        let spans = pairs(&spans, config, &mut random);
        report.n_documents += 1;
        if spans.is_empty() {
            report.n_short += 1;
            continue;
        }
        report.n_spans += spans.len() as u64;
        let n_tokens: usize = spans.iter().map(|span| span.anchor.len()).sum();
        report.n_tokens += n_tokens as u64;
        let document = SpanDocument { spans };
        serde_json::to_writer(&mut lines, &document).expect("numbers are written to memory");
        lines.push(b'\n');
    }
    Ok((lines, report))
}
