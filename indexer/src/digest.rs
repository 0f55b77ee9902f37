//! The content digest: what "the same result" means.

use std::path::Path;

use collection::{Shard, canonical_json};
use corpus::Passage;
use index::FlatShard;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{Store, StoreError};

use crate::progress::Watch;
use crate::{BuildError, Phase};

/// Passages read at a time.
const BATCH: u32 = 1024;

/// Returns sha256 over the stored passages in ordinal order: the row (`f32`, little-endian), then the record as canonical JSON,
/// preceded by its length (`u64`, little-endian).
///
/// It is taken of the files as they are, so it depends neither on shards nor on how the files lay out their content.
pub(crate) fn content_digest(
    folder: &Path,
    shards: &[Shard],
    watch: Watch<'_>,
) -> Result<String, BuildError> {
    let store = Store::open(folder, store::Verify::Header)?;
    let n_total = store.len() as u64;
    let mut hasher = Sha256::new();
    for shard in shards {
        let rows = FlatShard::open(&folder.join(&shard.path), index::Verify::Header)?;
        let mut ordinals = shard.first_ordinal..shard.first_ordinal + shard.n_rows;
        loop {
            let batch: Vec<u32> = ordinals.by_ref().take(BATCH as usize).collect();
            let Some(&first) = batch.first() else { break };
            watch.update(Phase::Digest, u64::from(first), n_total)?;
            for (ordinal, passage) in batch.iter().zip(store.passages(&batch)?) {
                let row = rows.row((ordinal - shard.first_ordinal) as usize);
                row.iter()
                    .for_each(|value| hasher.update(value.to_le_bytes()));
                let record = record(&store, *ordinal, passage)?;
                hasher.update((record.len() as u64).to_le_bytes());
                hasher.update(record);
            }
        }
    }
    watch.update(Phase::Digest, n_total, n_total)?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// A stored passage and its place in its document as canonical JSON.
pub(crate) fn record(store: &Store, ordinal: u32, passage: Passage) -> Result<String, StoreError> {
    let mut record = json!({
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "metadata": Value::Object(passage.metadata),
    });
    if let Some(part) = store.document_part(ordinal)? {
        record["characters"] = json!([part.characters.start, part.characters.end]);
    }
    Ok(canonical_json(&record))
}
