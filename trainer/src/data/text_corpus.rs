use std::path::PathBuf;

use corpus::{CorpusConfig, Template};
use encoder::TextTokenizer;

use super::{DataError, LineChunk, LineChunks, OnBytes, TextChunk, TextChunks};
use crate::parallel::map_in_order;

/// The texts that pre-training reads, in memory and in the order of the files.
#[derive(Clone, Debug)]
pub struct TextCorpus<T> {
    /// The texts: token ids without special tokens, or whatever a line says.
    pub texts: Vec<T>,
    /// Texts without a token, which are left out.
    pub n_empty: u64,
    /// Bad lines, all skipped.
    pub n_bad: u64,
    /// The first bad line.
    pub first_bad: Option<String>,
}

impl<T> Default for TextCorpus<T> {
    fn default() -> Self {
        Self {
            texts: Vec::new(),
            n_empty: 0,
            n_bad: 0,
            first_bad: None,
        }
    }
}

impl TextCorpus<Box<[u32]>> {
    /// Reads a corpus and tokenises what the template says, on so many threads.
    ///
    /// # Errors
    /// Bad lines, unless the corpus is read without them; [`DataError::Empty`] when no text has a token.
    pub fn tokenise(
        corpus: &CorpusConfig,
        template: &Template,
        tokenizer: &TextTokenizer,
        n_threads: usize,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<Self, DataError> {
        let mut chunks = TextChunks::open(corpus, template)?;
        let mut all = Self::default();
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
                        true => all.n_empty += 1,
                        false => all.texts.push(ids.into_boxed_slice()),
                    }
                }
                Ok(())
            },
        )?;
        (all.n_bad, all.first_bad) = chunks.n_bad();
        all.not_empty(&corpus.paths)
    }
}

impl<T: Send> TextCorpus<T> {
    /// Reads files of lines, gzip and zstd unpacked, and parses them on so many threads; blank lines are passed over.
    ///
    /// # Errors
    /// A line that `parse` refuses, with file and line, unless they are skipped; [`DataError::Empty`] when no line is left.
    pub fn lines(
        paths: &[PathBuf],
        skip_bad_lines: bool,
        parse: impl Fn(&str) -> Result<T, String> + Sync,
        n_threads: usize,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<Self, DataError> {
        let mut chunks = LineChunks::open(paths)?;
        let mut all = Self::default();
        let parse = |chunk: LineChunk| -> Result<Self, DataError> {
            let mut part = Self::default();
            let texts = &mut part.texts;
            let bad = chunk.parse(skip_bad_lines, &parse, |text| texts.push(text))?;
            (part.n_bad, part.first_bad) = bad;
            Ok(part)
        };
        map_in_order(
            n_threads,
            || chunks.next_chunk(on_bytes),
            parse,
            |part: Result<Self, DataError>| {
                let part = part?;
                all.texts.extend(part.texts);
                all.n_bad += part.n_bad;
                all.first_bad = all.first_bad.take().or(part.first_bad);
                Ok(())
            },
        )?;
        all.not_empty(paths)
    }

    /// The same texts as something else.
    pub fn map<U>(self, make: impl FnMut(T) -> U) -> TextCorpus<U> {
        TextCorpus {
            texts: self.texts.into_iter().map(make).collect(),
            n_empty: self.n_empty,
            n_bad: self.n_bad,
            first_bad: self.first_bad,
        }
    }

    fn not_empty(self, paths: &[PathBuf]) -> Result<Self, DataError> {
        match self.texts.is_empty() {
            true => {
                let path = paths.first().cloned().unwrap_or_default();
                Err(DataError::Empty { path })
            }
            false => Ok(self),
        }
    }
}
