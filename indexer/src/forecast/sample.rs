//! Records drawn from a corpus as it is read.

use std::collections::BTreeMap;

use corpus::Passage;

use super::ForecastConfig;
use crate::BuildError;
use crate::splitter::{Part, Splitter};

/// The records whose numbers have the smallest hashes: as many as may be, every record as likely as any other.
pub(super) struct Sample {
    seed: u64,
    max_records: usize,
    max_bytes: usize,
    /// By hash, and by number where those are equal.
    kept: BTreeMap<(u64, u64), Passage>,
    n_bytes_kept: usize,
    /// Hashes from here on are not kept.
    end: u64,
    n_seen: u64,
    n_bytes_seen: u64,
}

impl Sample {
    pub fn new(how: &ForecastConfig) -> Self {
        Self {
            seed: how.seed,
            max_records: how.max_records.max(1),
            max_bytes: how.max_bytes,
            kept: BTreeMap::new(),
            n_bytes_kept: 0,
            end: u64::MAX,
            n_seen: 0,
            n_bytes_seen: 0,
        }
    }

    /// Takes notice of the next record.
    pub fn see(&mut self, record: &Passage) {
        let (number, bytes) = (self.n_seen, record_bytes(record));
        self.n_seen += 1;
        self.n_bytes_seen += bytes as u64;
        let hash = hash(self.seed, number);
        if hash >= self.end {
            return;
        }
        self.kept.insert((hash, number), record.clone());
        self.n_bytes_kept += bytes;
        while self.kept.len() > self.max_records
            || self.n_bytes_kept > self.max_bytes && self.kept.len() > 1
        {
            let Some(((hash, _), record)) = self.kept.pop_last() else {
                break;
            };
            self.end = hash;
            self.n_bytes_kept -= record_bytes(&record);
        }
    }

    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Bytes of all records seen.
    pub fn n_bytes_seen(&self) -> u64 {
        self.n_bytes_seen
    }

    /// The sample in the order of the corpus.
    pub fn records(&self) -> Vec<&Passage> {
        self.first(self.len())
    }

    /// A random half of it.
    pub fn half(&self) -> Vec<&Passage> {
        self.first(self.len() / 2)
    }

    fn first(&self, n: usize) -> Vec<&Passage> {
        let mut records: Vec<(u64, &Passage)> = self
            .kept
            .iter()
            .take(n)
            .map(|(&(_, number), record)| (number, record))
            .collect();
        records.sort_unstable_by_key(|&(number, _)| number);
        records.into_iter().map(|(_, record)| record).collect()
    }

    /// The passages of the sample, as a build has them.
    pub fn parts(&self, splitter: Option<Splitter<'_>>) -> Result<Vec<Part>, BuildError> {
        let mut parts = Vec::new();
        for record in self.records() {
            match splitter {
                Some(splitter) => parts.extend(splitter.split(record)?),
                None => parts.push(Part {
                    passage: record.clone(),
                    characters: None,
                }),
            }
        }
        Ok(parts)
    }
}

/// Bytes of records.
pub(super) fn n_bytes(records: &[&Passage]) -> u64 {
    records
        .iter()
        .map(|record| record_bytes(record) as u64)
        .sum()
}

/// Bytes of a record's values.
fn record_bytes(record: &Passage) -> usize {
    let metadata = record.metadata.iter();
    let metadata = metadata.map(|(name, value)| name.len() + value.to_string().len());
    record.id.len() + record.title.len() + record.text.len() + metadata.sum::<usize>()
}

/// SplitMix64.
pub(super) fn hash(seed: u64, number: u64) -> u64 {
    let mut z = seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: u64, n_records: usize, max_records: usize, max_bytes: usize) -> Sample {
        let how = ForecastConfig {
            max_records,
            max_bytes,
            seed,
            ..ForecastConfig::new(std::path::PathBuf::new())
        };
        let mut sample = Sample::new(&how);
        for i in 0..n_records {
            sample.see(&Passage {
                id: format!("{i:04}"),
                text: "six by".to_owned(),
                ..Passage::default()
            });
        }
        sample
    }

    fn ids(records: &[&Passage]) -> Vec<usize> {
        let ids = records.iter().map(|record| record.id.parse());
        ids.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_sample_is_as_large_as_it_may_be_and_drawn_from_all() {
        let drawn = sample(1, 5000, 500, 1 << 20);
        assert_eq!((drawn.len(), drawn.n_bytes_seen()), (500, 50_000));
        let numbers = ids(&drawn.records());
        assert!(numbers.is_sorted());
        let mean = numbers.iter().sum::<usize>() / 500;
        assert!((2200..2800).contains(&mean), "{mean}"); // 4 standard errors are 258
        assert_eq!(ids(&sample(1, 5000, 500, 1 << 20).records()), numbers);
        assert_ne!(ids(&sample(2, 5000, 500, 1 << 20).records()), numbers);
        let half = ids(&drawn.half());
        assert!(half.len() == 250 && half.iter().all(|number| numbers.contains(number)));
        assert_eq!(sample(1, 5000, 500, 1000).len(), 100); // of 10 bytes each
        assert_eq!(sample(1, 5000, 500, 1).len(), 1);
        assert_eq!(ids(&sample(1, 7, 500, 1 << 20).records()).len(), 7);
    }
}
