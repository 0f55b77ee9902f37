//! Contents to tokens.

use std::borrow::Cow;
use std::path::Path;

use encoder::training::TrainingError;
use encoder::{EncodeError, LoadError, Text, TextTokenizer, Tokens, Truncation};

use crate::data::Content;

/// Tokenises what batches hold, as the model is to read it.
pub(crate) struct Tokenization {
    tokenizer: TextTokenizer,
    /// Positions of the model.
    most: usize,
}

/// What goes before each text of a side, and where it is cut.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Side {
    pub(crate) prompt: String,
    /// Special tokens and prompt included.
    pub(crate) max_tokens: usize,
}

impl Tokenization {
    pub(crate) fn load(folder: &Path, lower_case: bool, most: usize) -> Result<Self, LoadError> {
        Ok(Self {
            tokenizer: TextTokenizer::load(folder, lower_case)?,
            most,
        })
    }

    /// Whether the tokenizer of another model has the same pieces and lower-cases as this one does.
    pub(crate) fn agrees_with(&self, folder: &Path, lower_case: bool) -> Result<bool, LoadError> {
        let other = TextTokenizer::load(folder, lower_case)?;
        let probe = |tokenizer: &TextTokenizer| tokenizer.ids("Is THE Ápex aN end").ok();
        Ok(self.tokenizer.pieces() == other.pieces() && probe(&self.tokenizer) == probe(&other))
    }

    /// Refuses lengths that leave no room for a token, or that the model has no positions for.
    pub(crate) fn check_length(
        &self,
        what: &'static str,
        requested: usize,
    ) -> Result<(), LoadError> {
        let least = self.tokenizer.n_special(true) + 1;
        if requested < least || requested > self.most {
            return Err(LoadError::MaxTokens {
                what,
                requested,
                least,
                most: self.most,
            });
        }
        Ok(())
    }

    /// Tokenises contents of one side.
    pub(crate) fn texts<'a>(
        &self,
        side: &Side,
        contents: impl Iterator<Item = &'a Content>,
    ) -> Result<Vec<Tokens>, TrainingError> {
        let Side { prompt, max_tokens } = side;
        let encode = |content: &Content| match content {
            Content::Text(text) => self
                .tokenizer
                .encode(prompt, Text::Single(text), *max_tokens),
            Content::Pair(first, second) => {
                self.tokenizer
                    .encode(prompt, Text::Pair(first, second), *max_tokens)
            }
            Content::Tokens(ids) => {
                let mut prompted = self.tokenizer.ids(prompt)?;
                prompted.extend(ids);
                self.tokenizer
                    .assemble(&prompted, None, *max_tokens, Truncation::LongestFirst)
            }
        };
        let numbered = contents.enumerate();
        Ok(numbered
            .map(|(row, content)| name_row(row, encode(content)))
            .collect::<Result<_, _>>()?)
    }

    /// Tokenises queries with passages, as two segments.
    ///
    /// A passage of title and body becomes `title: body`, as SimLM's reranker reads it.
    pub(crate) fn pairs<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a Content, &'a Content)>,
        max_tokens: usize,
        truncation: Truncation,
    ) -> Result<Vec<Tokens>, TrainingError> {
        let encode = |query: &Content, passage: &Content| match (query, passage, truncation) {
            (Content::Text(query), Content::Text(passage), Truncation::LongestFirst) => self
                .tokenizer
                .encode("", Text::Pair(query, passage), max_tokens),
            _ => {
                let (query, passage) = (self.ids(query)?, self.ids(passage)?);
                self.tokenizer
                    .assemble(&query, Some(&passage), max_tokens, truncation)
            }
        };
        let numbered = pairs.enumerate();
        Ok(numbered
            .map(|(row, (query, passage))| name_row(row, encode(query, passage)))
            .collect::<Result<_, _>>()?)
    }

    /// The content as one segment, without special tokens.
    fn ids(&self, content: &Content) -> Result<Vec<u32>, TokenizeError> {
        match content {
            Content::Tokens(ids) => Ok(ids.clone()),
            content => self.tokenizer.ids(&joined(content)?),
        }
    }
}

/// What another model than the trained one is to read.
pub(crate) fn texts<'a>(
    contents: impl Iterator<Item = &'a Content>,
) -> Result<Vec<Text<'a>>, EncodeError> {
    let text = |(row, content): (usize, &'a Content)| match content {
        Content::Text(text) => Ok(Text::Single(text)),
        Content::Pair(first, second) => Ok(Text::Pair(first, second)),
        Content::Tokens(_) => name_row(row, Err(NO_TEXT.into())),
    };
    contents.enumerate().map(text).collect()
}

/// The content as one text: of title and body `title: body`.
pub(crate) fn joined(content: &Content) -> Result<Cow<'_, str>, TokenizeError> {
    match content {
        Content::Text(text) => Ok(text.into()),
        Content::Pair(title, body) if title.is_empty() => Ok(body.into()),
        Content::Pair(title, body) => Ok(format!("{title}: {body}").into()),
        Content::Tokens(_) => Err(NO_TEXT.into()),
    }
}

const NO_TEXT: &str = "token ids are no text that another model could read";

type TokenizeError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn name_row<T>(row: usize, result: Result<T, TokenizeError>) -> Result<T, EncodeError> {
    result.map_err(|error| EncodeError::Tokenize {
        row,
        reason: error.to_string(),
    })
}
