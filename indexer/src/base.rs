//! The generation before: its vectors are taken over where the text they were made from has not changed.

use std::fs;

use collection::{Collection, CollectionError, Generation, GenerationId, sha256_hex};
use encoder::Fingerprint;
use index::{ShardedIndex, Verify};

use crate::BuildConfig;
use crate::inputs::{self, INPUTS, Input};
use crate::source::Source;

/// What a build took over from the generation before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reuse {
    /// The vectors of passages whose text had not changed.
    From {
        /// The generation before.
        generation: GenerationId,
        /// How many passages.
        n_passages: u64,
    },
    /// Nothing, so that every passage was encoded.
    Nothing(NotReused),
}

/// Why every passage was encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum NotReused {
    /// The caller wanted it so.
    #[error("a full build was asked for")]
    Full,
    /// There is no generation before.
    #[error("it is the first generation")]
    First,
    /// Nothing is encoded when vectors are brought.
    #[error("the vectors were brought")]
    Brought,
    /// A resumed build was finished already.
    #[error("it was finished already")]
    Finished,
    /// Another model, or other texts.
    #[error("`{entry}` differs from that of generation {generation}: {before} before, {now} now")]
    Fingerprint {
        generation: GenerationId,
        entry: String,
        before: String,
        now: String,
    },
    /// The same model computes or stores its vectors in another way.
    #[error("{what} of generation {generation} is {before}, not {now}")]
    Form {
        generation: GenerationId,
        what: &'static str,
        before: String,
        now: String,
    },
    /// An earlier version of this program built it.
    #[error("generation {generation} does not say which texts its vectors were made from")]
    NoInputs { generation: GenerationId },
    /// Files of it have changed: its vectors are not to be spread.
    #[error("generation {generation} is damaged: {reason}")]
    Damaged {
        generation: GenerationId,
        reason: String,
    },
}

/// A generation whose vectors may be taken over. Memory: 24 bytes a passage.
pub(crate) struct Base {
    pub generation: GenerationId,
    rows: ShardedIndex,
    inputs: Vec<Input>,
    /// Ordinals, ordered by the digests of their inputs.
    by_digest: Vec<u32>,
}

impl Base {
    /// Opens the generation that `config` names, if its vectors are those that `source` would make.
    ///
    /// Every byte that may be taken over is checked.
    pub fn open(
        collection: &Collection,
        config: &BuildConfig,
        source: Source<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<Result<Self, NotReused>, CollectionError> {
        let Some(name) = &config.base else {
            return Ok(Err(NotReused::Full));
        };
        if matches!(source, Source::Brought(_)) {
            return Ok(Err(NotReused::Brought));
        }
        let generation = match collection.resolve(name) {
            Ok(generation) => generation,
            Err(CollectionError::Unknown { .. }) if name == collection::LIVE => {
                return Ok(Err(NotReused::First));
            }
            Err(error) => return Err(error),
        };
        Ok(Self::of(generation, config, source, fingerprint))
    }

    fn of(
        Generation { id, path, manifest }: Generation,
        config: &BuildConfig,
        source: Source<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<Self, NotReused> {
        let damaged = |reason: String| NotReused::Damaged {
            generation: id.clone(),
            reason,
        };
        let before: Fingerprint = serde_json::from_value(manifest.fingerprint)
            .map_err(|error| damaged(error.to_string()))?;
        if let Some(difference) = before.first_difference(fingerprint) {
            return Err(NotReused::Fingerprint {
                generation: id,
                entry: difference.entry,
                before: difference.left,
                now: difference.right,
            });
        }
        let form = |what, before: &str, now: &str| match before == now {
            true => Ok(()),
            false => Err(NotReused::Form {
                generation: id.clone(),
                what,
                before: before.to_owned(),
                now: now.to_owned(),
            }),
        };
        for shard in &manifest.shards {
            form("arithmetic", &shard.arithmetic, source.arithmetic())?;
        }
        let Some(entry) = manifest.files.iter().find(|file| file.path == INPUTS) else {
            return Err(NotReused::NoInputs { generation: id });
        };
        let bytes = fs::read(path.join(INPUTS)).map_err(|error| damaged(error.to_string()))?;
        if sha256_hex(&bytes) != entry.sha256 {
            return Err(damaged(format!("`{INPUTS}` does not match its checksum")));
        }
        let shards: Vec<_> = manifest
            .shards
            .iter()
            .map(|shard| path.join(&shard.path))
            .collect();
        let rows = ShardedIndex::open(&shards, Verify::Checksums)
            .map_err(|error| damaged(error.to_string()))?;
        for shard in rows.shards() {
            let row_type = shard.config().row_type.as_str();
            form("the type of the rows", row_type, config.rows.as_str())?;
        }
        let inputs = inputs::decode(&bytes, manifest.counts.passages as usize)
            .ok_or_else(|| damaged(format!("`{INPUTS}` does not hold a record for each row")))?;
        let mut by_digest: Vec<u32> = (0..inputs.len() as u32).collect();
        by_digest.sort_unstable_by_key(|&ordinal| inputs[ordinal as usize].digest);
        Ok(Self {
            generation: id,
            rows,
            inputs,
            by_digest,
        })
    }

    /// A row that was made from the text with this digest: its ordinal and what was recorded of the text.
    pub fn find(&self, digest: [u8; 16]) -> Option<(u32, Input)> {
        let input = |&ordinal: &u32| self.inputs[ordinal as usize];
        let position = self
            .by_digest
            .binary_search_by_key(&digest, |ordinal| input(ordinal).digest)
            .ok()?;
        let ordinal = self.by_digest[position];
        Some((ordinal, input(&ordinal)))
    }

    /// The bytes of a row, as they are stored.
    pub fn stored(&self, ordinal: u32) -> Option<&[u8]> {
        self.rows.stored(ordinal)
    }
}
