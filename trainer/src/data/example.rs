use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

/// What goes into an encoder, before special tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// One text, its template filled and its prompt in front.
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
    /// Its id; what has none in its file gets its number in the file.
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
