use corpus::{BadLine, CorpusConfig, CorpusReader, Template};
use encoder::TextTokenizer;

use super::DataError;

/// Bytes of text that a thread works on at a time.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// Told the bytes read so far, and those of all files.
pub type OnBytes<'a> = dyn FnMut(u64, u64) + 'a;

/// The texts of a corpus, in chunks that threads work on.
pub(crate) struct TextChunks<'a> {
    reader: CorpusReader,
    template: &'a Template,
    n_texts: u64,
    /// What the texts of each chunk but the last are a multiple of.
    multiple: usize,
}

/// Texts that follow each other.
pub(crate) struct TextChunk {
    /// Texts before these.
    pub(crate) start: u64,
    /// Each with the id of its passage.
    texts: Vec<(String, String)>,
}

impl<'a> TextChunks<'a> {
    pub(crate) fn open(corpus: &CorpusConfig, template: &'a Template) -> Result<Self, DataError> {
        Ok(Self {
            reader: CorpusReader::open(corpus)?,
            template,
            n_texts: 0,
            multiple: 1,
        })
    }

    /// Keeps so many texts that follow each other in one chunk, counted from the first.
    pub(crate) fn of_multiples(self, multiple: usize) -> Self {
        Self { multiple, ..self }
    }

    /// Reads the next texts.
    pub(crate) fn next_chunk(
        &mut self,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<Option<TextChunk>, DataError> {
        let mut chunk = TextChunk {
            start: self.n_texts,
            texts: Vec::new(),
        };
        let mut n_bytes = 0;
        while n_bytes < CHUNK_BYTES || !chunk.texts.len().is_multiple_of(self.multiple) {
            let Some(passage) = self.reader.next().transpose()? else {
                break;
            };
            let text = self.template.render(&passage).text;
            n_bytes += text.len();
            chunk.texts.push((passage.id, text));
        }
        self.n_texts += chunk.texts.len() as u64;
        on_bytes(self.reader.n_bytes_read(), self.reader.n_bytes_total());
        Ok((!chunk.texts.is_empty()).then_some(chunk))
    }

    /// Bad lines skipped, and the first of them.
    pub(crate) fn n_bad(&self) -> (u64, Option<String>) {
        let first = self.reader.bad_examples().first();
        (self.reader.n_bad(), first.map(BadLine::to_string))
    }
}

impl TextChunk {
    /// The number and the text of each.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (u64, &str)> {
        let texts = (self.start..).zip(&self.texts);
        texts.map(|(number, (_, text))| (number, text.as_str()))
    }

    /// The token ids of a part of text `number`.
    pub(crate) fn ids(
        &self,
        tokenizer: &TextTokenizer,
        number: u64,
        part: &str,
    ) -> Result<Vec<u32>, DataError> {
        tokenizer.ids(part).map_err(|error| DataError::Tokenize {
            passage: self.texts[(number - self.start) as usize].0.clone(),
            reason: error.to_string(),
        })
    }
}
