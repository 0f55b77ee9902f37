//! The vectors of recent queries: what many people ask for is encoded once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use retriever::QueryLength;

/// A bounded memory of vectors, by model, prompt and text. Of those that no longer fit, the one asked for longest
/// ago goes first.
pub(crate) struct QueryCache {
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// Entries by when they were last asked for. Those of an entry asked for again since are stale.
    order: std::collections::VecDeque<(u64, Key)>,
    clock: u64,
    n_bytes: usize,
}

/// What decides a vector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Its name: models of one fingerprint may differ in their arithmetic.
    pub(crate) model: Arc<str>,
    pub(crate) prompt: Option<Arc<str>>,
    pub(crate) text: Arc<str>,
}

/// A remembered vector.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    pub(crate) values: Arc<[f32]>,
    pub(crate) length: QueryLength,
}

struct Entry {
    known: Known,
    used: u64,
}

/// What an entry costs beside its text, prompt and values: keys and places in two tables.
const OVERHEAD: usize = 200;

impl QueryCache {
    /// With 0 bytes nothing is remembered.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            state: Mutex::default(),
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Known> {
        let mut state = self.lock();
        state.clock += 1;
        let now = state.clock;
        let entry = state.entries.get_mut(key)?;
        entry.used = now;
        let known = entry.known.clone();
        state.order.push_back((now, key.clone()));
        state.forget_stale();
        Some(known)
    }

    /// Remembers a vector; one that is larger than everything that may be remembered is not.
    pub(crate) fn put(&self, key: Key, known: Known) {
        let n_bytes = cost(&key, &known);
        if n_bytes > self.max_bytes {
            return;
        }
        let mut state = self.lock();
        state.clock += 1;
        let used = state.clock;
        if let Some(before) = state.entries.insert(key.clone(), Entry { known, used }) {
            state.n_bytes -= cost(&key, &before.known);
        }
        state.n_bytes += n_bytes;
        state.order.push_back((used, key));
        while state.n_bytes > self.max_bytes {
            state.forget_oldest();
        }
        state.forget_stale();
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.lock().n_bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_oldest(&mut self) {
        while let Some((used, key)) = self.order.pop_front() {
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| entry.used == used)
            {
                if let Some(entry) = self.entries.remove(&key) {
                    self.n_bytes -= cost(&key, &entry.known);
                }
                return;
            }
        }
    }

    /// Keeps the order from growing with hits: beyond twice as many places as entries, the stale ones go.
    fn forget_stale(&mut self) {
        if self.order.len() > 2 * self.entries.len() + 16 {
            let Self { entries, order, .. } = self;
            order.retain(|(used, key)| entries.get(key).is_some_and(|entry| entry.used == *used));
        }
    }
}

fn cost(key: &Key, known: &Known) -> usize {
    let prompt = key.prompt.as_ref().map_or(0, |prompt| prompt.len());
    key.text.len() + prompt + size_of_val(&*known.values) + OVERHEAD
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn key(text: &str) -> Key {
        Key {
            model: "f".into(),
            prompt: None,
            text: text.into(),
        }
    }

    fn known(value: f32) -> Known {
        Known {
            values: vec![value; 4].into(),
            length: QueryLength {
                n_tokens: 3,
                truncated: false,
            },
        }
    }

    #[test]
    fn the_one_asked_for_longest_ago_goes_first() {
        let cache = QueryCache::new(3 * (OVERHEAD + 16 + 1));
        for (value, text) in ["a", "b", "c"].into_iter().enumerate() {
            cache.put(key(text), known(value as f32));
        }
        assert_eq!(cache.get(&key("a")), Some(known(0.0)));
        cache.put(key("d"), known(3.0));
        assert_eq!(cache.get(&key("b")), None);
        for text in ["a", "c", "d"] {
            assert!(cache.get(&key(text)).is_some(), "{text}");
        }
        cache.put(key(&"x".repeat(10_000)), known(0.0));
        assert!(cache.get(&key("a")).is_some());
        let other = Key {
            model: "g".into(),
            ..key("a")
        };
        assert_eq!(cache.get(&other), None);
        let prompted = Key {
            prompt: Some("query: ".into()),
            ..key("a")
        };
        assert_eq!(cache.get(&prompted), None);
    }

    #[test]
    fn nothing_is_remembered_without_room() {
        let cache = QueryCache::new(0);
        cache.put(key("a"), known(1.0));
        assert_eq!((cache.get(&key("a")), cache.n_bytes()), (None, 0));
    }

    #[test]
    fn memory_is_bounded_and_counted_whatever_happens() {
        let mut random = StdRng::seed_from_u64(3);
        let cache = QueryCache::new(20_000);
        for _ in 0..50_000 {
            let number = random.random_range(0..200u32);
            let text = format!("query {number}");
            match cache.get(&key(&text)) {
                Some(found) => assert_eq!(found, known(number as f32)),
                None => cache.put(key(&text), known(number as f32)),
            }
        }
        let state = cache.lock();
        let counted: usize = state
            .entries
            .iter()
            .map(|(key, entry)| cost(key, &entry.known))
            .sum();
        assert_eq!(counted, state.n_bytes);
        assert!(counted <= 20_000 && counted > 15_000, "{counted}");
        assert!(state.order.len() <= 2 * state.entries.len() + 17);
    }
}
