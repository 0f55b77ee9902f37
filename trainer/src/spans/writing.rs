use std::io::{self, Write};

use corpus::{CorpusConfig, Template};
use encoder::TextTokenizer;
use serde::Serialize;

use super::{BlockConfig, SpanConfig, SpanDocument, blocks, pack, pairs, sentences};
use crate::data::random::{Purpose, random};
use crate::data::{DataError, OnBytes, TextChunk, TextChunks};
use crate::parallel::map_in_order;

/// Documents to cut.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentSource {
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

/// What documents had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockReport {
    /// Documents that were read.
    pub n_documents: u64,
    /// Documents without a token, which give no block.
    pub n_empty: u64,
    /// Blocks that were written.
    pub n_blocks: u64,
    /// Tokens of these blocks.
    pub n_tokens: u64,
    /// Blocks that do not fit between `[CLS]` and `[SEP]`.
    pub n_long: u64,
    /// Tokens of these that do not.
    pub n_beyond: u64,
    /// Bad lines, all skipped.
    pub n_bad: u64,
    /// The first bad line.
    pub first_bad: Option<String>,
}

/// Why documents were not cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// The documents cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The lines cannot be written.
    #[error("cannot write what documents were cut into")]
    Write(#[source] io::Error),
}

/// Writes the spans of each document as a [`SpanDocument`] a line, in the order of the documents.
///
/// The draws of a document depend on the seed and its number alone. Memory grows with the corpus by the 28 bytes a passage of its reader.
///
/// # Errors
/// A setting that cannot be; bad lines, unless the corpus is read without them; [`DataError::Empty`] when no document has
/// two spans.
pub fn write_span_pairs(
    source: &DocumentSource,
    config: &SpanConfig,
    tokenizer: &TextTokenizer,
    writer: &mut dyn Write,
    on_bytes: &mut OnBytes<'_>,
) -> Result<SpanReport, CutError> {
    config.check()?;
    let mut total = SpanReport::default();
    let cut = |chunk: &TextChunk| span_lines(chunk, config, tokenizer);
    let add = |report: SpanReport| {
        total.n_documents += report.n_documents;
        total.n_short += report.n_short;
        total.n_spans += report.n_spans;
        total.n_tokens += report.n_tokens;
    };
    let (n_bad, first_bad) = write_cut(source, 1, cut, add, writer, on_bytes)?;
    check_any(total.n_spans, source)?;
    Ok(SpanReport {
        n_bad,
        first_bad,
        ..total
    })
}

/// Writes each block of whole sentences as a line `{"text": [token ids]}`, in the order of the documents: what methods of
/// texts read.
///
/// The draws of a document depend on the seed and its number alone. Memory grows with the corpus by the 28 bytes a passage of its reader.
///
/// # Errors
/// A setting that cannot be; bad lines, unless the corpus is read without them; [`DataError::Empty`] when there is no token.
pub fn write_blocks(
    source: &DocumentSource,
    config: &BlockConfig,
    tokenizer: &TextTokenizer,
    writer: &mut dyn Write,
    on_bytes: &mut OnBytes<'_>,
) -> Result<BlockReport, CutError> {
    config.check()?;
    let mut total = BlockReport::default();
    let cut = |chunk: &TextChunk| block_lines(chunk, config, tokenizer);
    let add = |report: BlockReport| {
        total.n_documents += report.n_documents;
        total.n_empty += report.n_empty;
        total.n_blocks += report.n_blocks;
        total.n_tokens += report.n_tokens;
        total.n_long += report.n_long;
        total.n_beyond += report.n_beyond;
    };
    let (n_bad, first_bad) = write_cut(source, config.joined, cut, add, writer, on_bytes)?;
    check_any(total.n_blocks, source)?;
    Ok(BlockReport {
        n_bad,
        first_bad,
        ..total
    })
}

/// Writes the lines that `cut` makes of chunks of a multiple of `multiple` documents, gives their reports to `add`, and
/// returns the number of bad lines and the first.
fn write_cut<R: Send>(
    source: &DocumentSource,
    multiple: usize,
    cut: impl Fn(&TextChunk) -> Result<(Vec<u8>, R), DataError> + Sync,
    mut add: impl FnMut(R),
    writer: &mut dyn Write,
    on_bytes: &mut OnBytes<'_>,
) -> Result<(u64, Option<String>), CutError> {
    let mut chunks = TextChunks::open(&source.corpus, &source.template)?.of_multiples(multiple);
    map_in_order(
        source.n_threads,
        || Ok(chunks.next_chunk(on_bytes)?),
        |chunk| cut(&chunk),
        |result: Result<_, DataError>| {
            let (lines, report) = result?;
            add(report);
            writer.write_all(&lines).map_err(CutError::Write)
        },
    )?;
    Ok(chunks.n_bad())
}

fn check_any(n: u64, source: &DocumentSource) -> Result<(), DataError> {
    let path = || source.corpus.paths.first().cloned().unwrap_or_default();
    match n {
        0 => Err(DataError::Empty { path: path() }),
        _ => Ok(()),
    }
}

/// The token ids of the sentences of text `number` of a chunk.
fn sentence_ids(
    chunk: &TextChunk,
    number: u64,
    text: &str,
    tokenizer: &TextTokenizer,
) -> Result<Vec<Vec<u32>>, DataError> {
    let ids = |sentence| chunk.ids(tokenizer, number, sentence);
    sentences(text).into_iter().map(ids).collect()
}

fn write_line(lines: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *lines, line).expect("numbers are written to memory");
    lines.push(b'\n');
}

fn span_lines(
    chunk: &TextChunk,
    config: &SpanConfig,
    tokenizer: &TextTokenizer,
) -> Result<(Vec<u8>, SpanReport), DataError> {
    let mut lines = Vec::new();
    let mut report = SpanReport::default();
    for (number, text) in chunk.texts() {
        let sentences = sentence_ids(chunk, number, text, tokenizer)?;
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
        write_line(&mut lines, &SpanDocument { spans });
    }
    Ok((lines, report))
}

/// A block, as MASTER's lines have their text.
#[derive(Serialize)]
struct BlockLine {
    text: Vec<u32>,
}

fn block_lines(
    chunk: &TextChunk,
    config: &BlockConfig,
    tokenizer: &TextTokenizer,
) -> Result<(Vec<u8>, BlockReport), DataError> {
    let mut lines = Vec::new();
    let mut report = BlockReport::default();
    let documents: Vec<(u64, &str)> = chunk.texts().collect();
    for joined in documents.chunks(config.joined) {
        let mut sentences = Vec::new();
        for &(number, text) in joined {
            sentences.extend(sentence_ids(chunk, number, text, tokenizer)?);
        }
        report.n_documents += 1;
        report.n_empty += u64::from(sentences.iter().all(Vec::is_empty));
        let mut random = random(config.seed, 0, joined[0].0, Purpose::Blocks);
        for text in blocks(sentences, config, &mut random) {
            let n_beyond = text.len().saturating_sub(config.room());
            report.n_blocks += 1;
            report.n_tokens += text.len() as u64;
            report.n_long += u64::from(n_beyond > 0);
            report.n_beyond += n_beyond as u64;
            write_line(&mut lines, &BlockLine { text });
        }
    }
    Ok((lines, report))
}
