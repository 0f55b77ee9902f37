//! The passages of a corpus, in order.

use std::vec::IntoIter;

use corpus::{CorpusConfig, CorpusReader};

use crate::BuildError;
use crate::splitter::{Part, Splitter};

/// Yields the records of a corpus, or the passages that they are split into.
pub(crate) struct Passages<'a> {
    documents: CorpusReader,
    splitter: Option<Splitter<'a>>,
    /// Those of the last document that are still to be yielded.
    rest: IntoIter<Part>,
}

impl<'a> Passages<'a> {
    pub fn open(corpus: &CorpusConfig, splitter: Option<Splitter<'a>>) -> Result<Self, BuildError> {
        Ok(Self {
            documents: CorpusReader::open(corpus)?,
            splitter,
            rest: Vec::new().into_iter(),
        })
    }
}

impl Iterator for Passages<'_> {
    type Item = Result<Part, BuildError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(part) = self.rest.next() {
            return Some(Ok(part));
        }
        let passage = match self.documents.next()? {
            Ok(passage) => passage,
            Err(error) => return Some(Err(error.into())),
        };
        let Some(splitter) = self.splitter else {
            return Some(Ok(Part {
                passage,
                characters: None,
            }));
        };
        match splitter.split(&passage) {
            Ok(parts) => self.rest = parts.into_iter(),
            Err(error) => return Some(Err(error.into())),
        }
        self.rest.next().map(Ok)
    }
}
