use std::collections::HashMap;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::{Candidate, Content, DataError};

/// Passages by ordinal, each held once however many examples name it.
#[derive(Debug, Default)]
pub struct Passages {
    ids: Vec<Arc<str>>,
    contents: Vec<Content>,
}

impl Passages {
    /// Number of passages.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Id of a passage.
    pub fn id(&self, ordinal: u32) -> &str {
        &self.ids[ordinal as usize]
    }

    /// What a passage holds.
    pub fn content(&self, ordinal: u32) -> &Content {
        &self.contents[ordinal as usize]
    }

    pub(super) fn candidate(&self, link: Link) -> Candidate {
        Candidate {
            id: self.id(link.passage).to_owned(),
            content: self.content(link.passage).clone(),
            score: link.score(),
        }
    }
}

/// A passage in an example's list: its ordinal, and the teacher's score, NaN if there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) passage: u32,
    score: f32,
}

impl Link {
    pub(crate) fn new(passage: u32, score: Option<f32>) -> Self {
        Self {
            passage,
            score: score.unwrap_or(f32::NAN),
        }
    }

    pub(crate) fn score(self) -> Option<f32> {
        Some(self.score).filter(|score| !score.is_nan())
    }
}

/// Gives ordinals to passages as they are met.
#[derive(Default)]
pub(super) struct PassageTable {
    ordinals: HashMap<u128, u32>,
    ids: Vec<Arc<str>>,
    contents: Vec<Option<Content>>,
}

impl PassageTable {
    /// The ordinal of a passage whose content comes with it. The same id with another content is another passage.
    pub(super) fn insert(&mut self, candidate: Candidate) -> Result<u32, DataError> {
        let mut key = candidate.id.clone().into_bytes();
        key.extend(candidate.content.digest().to_le_bytes());
        let ordinal = self.ordinal(xxh3_128(&key), &candidate.id)?;
        self.contents[ordinal as usize].get_or_insert(candidate.content);
        Ok(ordinal)
    }

    /// The ordinal of a passage whose content is still to be read.
    pub(super) fn name(&mut self, id: &str) -> Result<u32, DataError> {
        self.ordinal(xxh3_128(id.as_bytes()), id)
    }

    /// The ordinal of a passage that was named.
    pub(super) fn find(&self, id: &str) -> Option<u32> {
        self.ordinals.get(&xxh3_128(id.as_bytes())).copied()
    }

    /// Sets the content of a passage that was named.
    pub(super) fn fill(&mut self, ordinal: u32, content: Content) {
        self.contents[ordinal as usize] = Some(content);
    }

    pub(super) fn has_content(&self, ordinal: u32) -> bool {
        self.contents[ordinal as usize].is_some()
    }

    pub(super) fn id(&self, ordinal: u32) -> &str {
        &self.ids[ordinal as usize]
    }

    /// The passages that have contents to encode, and the new ordinal of each old one.
    pub(super) fn finish(self) -> (Passages, Vec<Option<u32>>) {
        let mut passages = Passages::default();
        let mut renumbered = Vec::with_capacity(self.ids.len());
        for (id, content) in self.ids.into_iter().zip(self.contents) {
            let content = content.filter(|content| !content.is_blank());
            renumbered.push(content.map(|content| {
                passages.ids.push(id);
                passages.contents.push(content);
                passages.len() as u32 - 1
            }));
        }
        (passages, renumbered)
    }

    fn ordinal(&mut self, key: u128, id: &str) -> Result<u32, DataError> {
        if let Some(&ordinal) = self.ordinals.get(&key) {
            return Ok(ordinal);
        }
        let ordinal = u32::try_from(self.ids.len()).map_err(|_| DataError::TooManyPassages)?;
        self.ordinals.insert(key, ordinal);
        self.ids.push(id.into());
        self.contents.push(None);
        Ok(ordinal)
    }
}
