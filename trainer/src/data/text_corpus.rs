use std::path::PathBuf;

use corpus::{CorpusConfig, Template};
use encoder::TextTokenizer;
use serde::{Deserialize, Serialize};

use super::{DataError, Ids, LineChunk, LineChunks, OnBytes, TextChunk, TextChunks};
use crate::parallel::map_in_order;

/// What was left out of the texts that pre-training reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextReport {
    /// Texts without a token.
    pub n_empty: u64,
    /// Bad lines, all skipped.
    pub n_bad: u64,
    /// The first bad line.
    pub first_bad: Option<String>,
}

/// Reads a corpus, tokenises what the template says on so many threads, and gives the token ids of each text, without special
/// tokens, to `each`, in the order of the files. Texts without a token are left out.
///
/// # Errors
/// Bad lines, unless the corpus is read without them; as `each`.
pub fn tokenise_texts(
    corpus: &CorpusConfig,
    template: &Template,
    tokenizer: &TextTokenizer,
    n_threads: usize,
    on_bytes: &mut OnBytes<'_>,
    mut each: impl FnMut(Ids) -> Result<(), DataError>,
) -> Result<TextReport, DataError> {
    let mut chunks = TextChunks::open(corpus, template)?;
    let mut report = TextReport::default();
    let ids = |chunk: TextChunk| -> Result<Vec<Vec<u32>>, DataError> {
        let ids = |(number, text)| chunk.ids(tokenizer, number, text);
        chunk.texts().map(ids).collect()
    };
    map_in_order(
        n_threads,
        || chunks.next_chunk(on_bytes),
        ids,
        |texts: Result<_, DataError>| {
            for ids in texts? {
                match ids.is_empty() {
                    true => report.n_empty += 1,
                    false => each(ids.into_boxed_slice())?,
                }
            }
            Ok(())
        },
    )?;
    (report.n_bad, report.first_bad) = chunks.n_bad();
    Ok(report)
}

/// Reads files of lines, gzip and zstd unpacked, parses them on so many threads, and gives what they say to `each`, in the order
/// of the files; blank lines are passed over.
///
/// # Errors
/// A line that `parse` refuses, with file and line, unless they are skipped; as `each`.
pub fn read_text_lines<T: Send>(
    paths: &[PathBuf],
    skip_bad_lines: bool,
    parse: impl Fn(&str) -> Result<T, String> + Sync,
    n_threads: usize,
    on_bytes: &mut OnBytes<'_>,
    mut each: impl FnMut(T) -> Result<(), DataError>,
) -> Result<TextReport, DataError> {
    let mut chunks = LineChunks::open(paths)?;
    let mut report = TextReport::default();
    type Part<T> = (Vec<T>, u64, Option<String>);
    let parse = |chunk: LineChunk| -> Result<Part<T>, DataError> {
        let mut texts = Vec::new();
        let (n_bad, first_bad) = chunk.parse(skip_bad_lines, &parse, |text| texts.push(text))?;
        Ok((texts, n_bad, first_bad))
    };
    map_in_order(
        n_threads,
        || chunks.next_chunk(on_bytes),
        parse,
        |part: Result<Part<T>, DataError>| {
            let (texts, n_bad, first_bad) = part?;
            report.n_bad += n_bad;
            report.first_bad = report.first_bad.take().or(first_bad);
            texts.into_iter().try_for_each(&mut each)
        },
    )?;
    Ok(report)
}
