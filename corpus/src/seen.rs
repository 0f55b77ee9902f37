use xxhash_rust::xxh3::xxh3_128;

const N_SHARDS: usize = 64;
const LINE_BITS: u32 = 40;
const LINE_MASK: u128 = (1 << LINE_BITS) - 1;

/// The ids seen so far and the line of each, in at most 28 bytes an id whatever its length.
///
/// An entry is 16 bytes: 88 bits of the id's hash and 40 of its line. Two of 4 billion ids share these 88 bits with a
/// probability of 3 in 10⁸. The tables are open-addressed, at least 57 % full after growing by a half, and there are 64,
/// so that the one which grows adds little.
pub(crate) struct SeenIds {
    shards: Vec<Shard>,
}

#[derive(Clone, Default)]
struct Shard {
    /// 0 is an empty slot.
    slots: Vec<u128>,
    n_used: usize,
}

impl SeenIds {
    pub(crate) fn new() -> Self {
        Self {
            shards: vec![Shard::default(); N_SHARDS],
        }
    }

    /// Notes `id` at `line` (from 1), or returns the line where it was noted before.
    pub(crate) fn insert(&mut self, id: &str, line: u64) -> Option<u64> {
        let hash = xxh3_128(id.as_bytes());
        // The lowest bits choose the shard; the line takes their place.
        let entry = hash & !LINE_MASK | u128::from(line) & LINE_MASK;
        self.shards[hash as usize % N_SHARDS].insert(entry)
    }

    /// Returns the line where `id` was noted.
    pub(crate) fn line_of(&self, id: &str) -> Option<u64> {
        let hash = xxh3_128(id.as_bytes());
        let shard = &self.shards[hash as usize % N_SHARDS];
        if shard.slots.is_empty() {
            return None;
        }
        let slot = shard.slots[shard.find(hash)];
        (slot != 0).then_some((slot & LINE_MASK) as u64)
    }
}

impl Shard {
    fn insert(&mut self, entry: u128) -> Option<u64> {
        if self.n_used * 20 >= self.slots.len() * 17 {
            let n_slots = (self.slots.len() * 3 / 2).max(16);
            let entries = std::mem::replace(&mut self.slots, vec![0; n_slots]);
            for entry in entries.into_iter().filter(|&entry| entry != 0) {
                let slot = self.find(entry);
                self.slots[slot] = entry;
            }
        }
        let slot = self.find(entry);
        if self.slots[slot] != 0 {
            return Some((self.slots[slot] & LINE_MASK) as u64);
        }
        self.slots[slot] = entry;
        self.n_used += 1;
        None
    }

    /// The slot that holds the same hash, else the empty one where it belongs.
    fn find(&self, entry: u128) -> usize {
        let n_slots = self.slots.len();
        let mut slot = (((entry >> 64) * n_slots as u128) >> 64) as usize;
        while self.slots[slot] != 0 && self.slots[slot] >> LINE_BITS != entry >> LINE_BITS {
            slot = (slot + 1) % n_slots;
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_id_again_at_its_first_line() {
        let mut seen = SeenIds::new();
        let n_ids = 50_000;
        for line in 1..=n_ids {
            assert_eq!(seen.insert(&format!("p{line}"), line), None);
        }
        for line in 1..=n_ids {
            assert_eq!(seen.line_of(&format!("p{line}")), Some(line));
            assert_eq!(seen.insert(&format!("p{line}"), n_ids + line), Some(line));
        }
        assert_eq!(seen.line_of("p0"), None);
        assert_eq!(SeenIds::new().line_of("p1"), None);
        let n_bytes: usize = seen
            .shards
            .iter()
            .map(|shard| shard.slots.capacity() * 16)
            .sum();
        assert!(
            n_bytes as u64 <= 29 * n_ids,
            "{n_bytes} bytes for {n_ids} ids"
        );
    }
}
