//! A tokenizer learned from a corpus.

use corpus::{CorpusConfig, Template};
use encoder::{LearnedWordPieces, WordCounts, WordPieceConfig};

use crate::data::{DataError, OnBytes, TextChunk, TextChunks};
use crate::parallel::map_in_order;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WordPieceReport {
    /// Texts.
    pub n_texts: u64,
    /// Bad lines left out, and the first of them.
    pub n_bad: u64,
    /// As `file:line: reason`.
    pub first_bad: Option<String>,
}

/// Learns word pieces from the texts of a corpus, which are streamed: memory grows with the number of different words. Equal
/// texts in any order, read by any number of threads, give equal pieces.
///
/// # Errors
/// A line that is not what the format asks for, with file and line, and a corpus without a text or a word.
pub fn learn_word_pieces(
    corpus: &CorpusConfig,
    template: &Template,
    config: &WordPieceConfig,
    n_threads: usize,
    on_bytes: &mut OnBytes<'_>,
) -> Result<(LearnedWordPieces, WordPieceReport), DataError> {
    let mut chunks = TextChunks::open(corpus, template)?;
    let failed = |reason: String| DataError::Folder {
        path: corpus.paths.first().cloned().unwrap_or_default(),
        reason,
    };
    let (mut words, mut report) = (WordCounts::default(), WordPieceReport::default());
    map_in_order(
        n_threads,
        || chunks.next_chunk(on_bytes),
        |chunk: TextChunk| {
            let (mut words, mut n_texts) = (WordCounts::default(), 0);
            for (_, text) in chunk.texts() {
                words.add(text, config.lower_case)?;
                n_texts += 1;
            }
            Ok::<_, String>((words, n_texts))
        },
        |counted| {
            let (counted, n_texts) = counted.map_err(failed)?;
            words.merge(counted);
            report.n_texts += n_texts;
            Ok(())
        },
    )?;
    (report.n_bad, report.first_bad) = chunks.n_bad();
    if report.n_texts == 0 {
        let path = corpus.paths.first().cloned().unwrap_or_default();
        return Err(DataError::Empty { path });
    }
    if words.is_empty() {
        return Err(failed("no text has a word to learn pieces of".to_owned()));
    }
    let learned = LearnedWordPieces::learn(config, &words).map_err(failed)?;
    Ok((learned, report))
}
