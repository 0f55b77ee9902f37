//! The words of some passages, in memory, in the terms of the lexical index.

use std::collections::HashMap;

use corpus::Passage;
use tantivy::tokenizer::{MAX_TOKEN_LEN, TextAnalyzer};

/// How often each word stands in each of a few passages.
#[derive(Clone, Default)]
pub(crate) struct Words {
    /// By word: positions of the passages that have it, ascending, and how often.
    postings: HashMap<Box<str>, Vec<(u32, u32)>>,
    /// Words of each passage.
    lengths: Vec<u32>,
}

impl Words {
    /// Adds the next passage: title and text, as the lexical index takes them.
    pub fn push(&mut self, passage: &Passage, analyzer: &TextAnalyzer) {
        let (position, mut n_words) = (self.lengths.len() as u32, 0);
        let mut analyzer = analyzer.clone();
        for text in [&passage.title, &passage.text] {
            analyzer.token_stream(text).process(&mut |token| {
                if token.text.len() > MAX_TOKEN_LEN {
                    return;
                }
                n_words += 1;
                let postings = match self.postings.get_mut(token.text.as_str()) {
                    Some(postings) => postings,
                    None => self.postings.entry(token.text.as_str().into()).or_default(),
                };
                match postings.last_mut() {
                    Some((last, frequency)) if *last == position => *frequency += 1,
                    _ => postings.push((position, 1)),
                }
            });
        }
        self.lengths.push(n_words);
    }

    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Words of the passage at a position.
    pub fn length(&self, position: usize) -> u32 {
        self.lengths[position]
    }

    /// The passages that have a word, by position, and how often.
    pub fn postings(&self, word: &str) -> &[(u32, u32)] {
        self.postings.get(word).map_or(&[], Vec::as_slice)
    }
}
