use std::sync::Arc;

use rand::seq::SliceRandom;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Draw;
use super::random::{Purpose, random};

/// What goes into an encoder, before special tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// One text, its template filled; objectives put the prompts of their configuration before it.
    Text(String),
    /// Two texts with token types 0 and 1, such as title and body.
    Pair(String, String),
    /// Token ids without special tokens.
    Tokens(Vec<u32>),
}

impl Content {
    /// A 64-bit hash: equal contents have equal ones.
    pub fn digest(&self) -> u64 {
        let mut hash = Xxh3::new();
        match self {
            Self::Text(text) => hash.update(text.as_bytes()),
            // No text holds the byte 255, so no text is a pair.
            Self::Pair(first, second) => {
                hash.update(first.as_bytes());
                hash.update(&[255]);
                hash.update(second.as_bytes());
            }
            Self::Tokens(ids) => {
                hash.update(&[255]);
                ids.iter().for_each(|id| hash.update(&id.to_le_bytes()));
            }
        }
        hash.digest()
    }

    /// The first token id, where it holds such, that a vocabulary of `n` does not have.
    pub fn unknown_token(&self, n: usize) -> Option<u32> {
        match self {
            Self::Tokens(ids) => ids.iter().copied().find(|&id| id as usize >= n),
            Self::Text(_) | Self::Pair(..) => None,
        }
    }

    /// Whether there is nothing to encode.
    pub fn is_blank(&self) -> bool {
        match self {
            Self::Text(text) => text.trim().is_empty(),
            Self::Pair(first, second) => first.trim().is_empty() && second.trim().is_empty(),
            Self::Tokens(ids) => ids.is_empty(),
        }
    }
}

/// A passage that may stand in a query's group.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its id; what has none in its file gets one from its content.
    pub id: String,
    /// The passage.
    pub content: Content,
    /// What a teacher gave the pair, raw.
    pub score: Option<f32>,
}

/// A query with all that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its id; what has none in its file gets one from its content, so equal queries have equal ids.
    pub query_id: String,
    /// The query.
    pub query: Content,
    /// Relevant passages, in file order; never empty.
    pub positives: Vec<Candidate>,
    /// Passages that are taken for not relevant, in file order.
    pub negatives: Vec<Candidate>,
}

/// A query and the N passages drawn for one step: the positive first, then N − 1 hard negatives.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The query's id.
    pub query_id: String,
    /// The query.
    pub query: Content,
    /// The passages, the positive first.
    pub passages: Vec<Candidate>,
    /// Ids of all passages known to be relevant, so that they are never taken for negatives of this query.
    pub positives: Arc<[String]>,
}

impl Example {
    /// Leaves out negatives whose id or content is that of a positive, and returns how many there were.
    pub fn drop_false_negatives(&mut self) -> usize {
        let (positives, n_before) = (&self.positives, self.negatives.len());
        self.negatives.retain(|negative| {
            let is_other =
                |one: &Candidate| one.id != negative.id && one.content != negative.content;
            positives.iter().all(is_other)
        });
        n_before - self.negatives.len()
    }

    /// Shuffles the negatives by the seed and the query's id, and keeps the first `n`.
    pub fn sample_negatives(&mut self, n: usize, seed: u64) {
        let key = xxh3_64(self.query_id.as_bytes());
        self.negatives
            .shuffle(&mut random(seed, key, 0, Purpose::Shuffle));
        self.negatives.truncate(n);
    }

    /// The group that a draw makes, without random passages.
    pub fn group(&self, draw: &Draw) -> Group {
        let negatives = draw.negatives.iter().map(|&number| &self.negatives[number]);
        Group {
            query_id: self.query_id.clone(),
            query: self.query.clone(),
            passages: std::iter::once(&self.positives[draw.positive])
                .chain(negatives)
                .cloned()
                .collect(),
            positives: self.positives.iter().map(|one| one.id.clone()).collect(),
        }
    }
}
