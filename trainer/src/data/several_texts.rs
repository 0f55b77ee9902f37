use std::collections::HashMap;
use std::collections::hash_map::Entry;

use xxhash_rust::xxh3::xxh3_64;

use super::Content;

/// Counts the ids that come with several contents.
pub(crate) struct SeveralTexts {
    /// By the hash of an id: the digest of its first content, and whether the id is counted.
    contents: HashMap<u64, (u64, bool)>,
    most_ids: usize,
    n: usize,
    first: Option<String>,
}

impl SeveralTexts {
    /// Looks at the first `most_ids` ids only.
    pub(crate) fn new(most_ids: usize) -> Self {
        Self {
            contents: HashMap::new(),
            most_ids,
            n: 0,
            first: None,
        }
    }

    pub(crate) fn add(&mut self, id: &str, content: &Content) {
        let (digest, is_full) = (content.digest(), self.contents.len() >= self.most_ids);
        match self.contents.entry(xxh3_64(id.as_bytes())) {
            Entry::Vacant(entry) if !is_full => {
                entry.insert((digest, false));
            }
            Entry::Vacant(_) => {}
            Entry::Occupied(mut entry) => {
                let (known, is_counted) = entry.get_mut();
                if *known != digest && !*is_counted {
                    *is_counted = true;
                    self.n += 1;
                    self.first.get_or_insert_with(|| id.to_owned());
                }
            }
        }
    }

    /// How many there are, and the first of them.
    pub(crate) fn found(self) -> Option<(usize, String)> {
        Some((self.n, self.first?))
    }
}
