//! What is different between two generations.

use std::path::PathBuf;

use collection::{Generation, GenerationId, Manifest};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{Store, StoreError};

use crate::digest::record;

/// What one generation has and another has not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerationDiff {
    /// The generation that is compared with.
    pub from: GenerationId,
    /// The generation that is compared.
    pub to: GenerationId,
    /// Passages of `to` whose id `from` has not.
    pub added: Changes,
    /// Passages with another title, text, metadata or place in their document.
    pub changed: Changes,
    /// Passages of `from` whose id `to` has not.
    pub removed: Changes,
    /// Passages that are the same, wherever they are in the order.
    pub n_unchanged: u64,
    /// Every entry of the fingerprint that differs: `[entry, in from, in to]`.
    pub fingerprint: Vec<[String; 3]>,
    /// What else was decided differently, likewise.
    pub settings: Vec<[String; 3]>,
    /// Whether vectors and passages are equal bit for bit.
    pub same_content: bool,
}

/// Passages of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Changes {
    /// How many there are.
    pub n: u64,
    /// The ids of the first of them.
    pub ids: Vec<String>,
}

impl Changes {
    fn add(&mut self, id: &str, max_ids: usize) {
        self.n += 1;
        if self.ids.len() < max_ids {
            self.ids.push(id.to_owned());
        }
    }
}

/// Why generations could not be compared.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the passages in `{}`", path.display())]
pub struct DiffError {
    path: PathBuf,
    source: StoreError,
}

/// Passages read at a time.
const BATCH: u32 = 1024;

/// Compares the passages of two generations by id and content, and how the two were made. Lists at most `max_ids` ids of each kind.
///
/// Both stores are read once, in order. Memory: 17 bytes a passage of `from`. `on_passages` is told how many are read.
///
/// # Errors
/// [`DiffError`] when a store is damaged.
pub fn diff(
    from: &Generation,
    to: &Generation,
    max_ids: usize,
    mut on_passages: impl FnMut(u64),
) -> Result<GenerationDiff, DiffError> {
    let mut n_read = 0;
    let mut read = |n| {
        n_read += n;
        on_passages(n_read);
    };
    let failed = |generation: &Generation| {
        let path = generation.path.clone();
        move |source| DiffError { path, source }
    };

    let mut contents = Vec::new();
    let before = read_contents(from, &mut read, |_, _, content| {
        contents.push(content);
        Ok(())
    })
    .map_err(failed(from))?;
    let mut met = vec![false; contents.len()];
    let (mut added, mut changed, mut removed) = <(Changes, Changes, Changes)>::default();
    let mut n_unchanged = 0;
    read_contents(to, &mut read, |after, ordinal, content| {
        let id = after.id(ordinal)?;
        match before.ordinal_of(id)? {
            None => added.add(id, max_ids),
            Some(ordinal) => {
                met[ordinal as usize] = true;
                match contents[ordinal as usize] == content {
                    true => n_unchanged += 1,
                    false => changed.add(id, max_ids),
                }
            }
        }
        Ok(())
    })
    .map_err(failed(to))?;
    for ordinal in (0..before.len()).filter(|&ordinal| !met[ordinal as usize]) {
        removed.add(before.id(ordinal).map_err(failed(from))?, max_ids);
    }
    let (old, new) = (&from.manifest, &to.manifest);
    Ok(GenerationDiff {
        from: from.id.clone(),
        to: to.id.clone(),
        added,
        changed,
        removed,
        n_unchanged,
        fingerprint: differences(&old.fingerprint, &new.fingerprint),
        settings: differences(&settings(old), &settings(new)),
        same_content: old.content_digest == new.content_digest,
    })
}

/// Gives each passage of a generation to `each`: the store, the ordinal, and a digest of the record.
fn read_contents(
    generation: &Generation,
    read: &mut impl FnMut(u64),
    mut each: impl FnMut(&Store, u32, [u8; 16]) -> Result<(), StoreError>,
) -> Result<Store, StoreError> {
    let store = Store::open(&generation.path, store::Verify::Checksums)?;
    let mut ordinals = 0..store.len();
    loop {
        let batch: Vec<u32> = ordinals.by_ref().take(BATCH as usize).collect();
        if batch.is_empty() {
            return Ok(store);
        }
        for (&ordinal, passage) in batch.iter().zip(store.passages(&batch)?) {
            let hash: [u8; 32] = Sha256::digest(record(&store, ordinal, passage)?).into();
            let content = hash.first_chunk().expect("32 bytes begin with 16");
            each(&store, ordinal, *content)?;
        }
        read(batch.len() as u64);
    }
}

/// What else decides how a generation answers.
fn settings(manifest: &Manifest) -> Value {
    let shards = &manifest.shards;
    json!({
        "arithmetic": shards.first().map(|shard| &shard.arithmetic),
        "graph": manifest.build["graph"],
        "language": manifest.build["language"],
        "metric": manifest.metric,
        "rows": manifest.build["rows"],
        "schema": manifest.schema,
        "shards": shards.len(),
        "width": manifest.width,
    })
}

/// Every entry in which two values differ, in the order of sorted keys.
pub(crate) fn differences(left: &Value, right: &Value) -> Vec<[String; 3]> {
    let mut found = Vec::new();
    walk("", left, right, &mut found);
    found
}

fn walk(path: &str, left: &Value, right: &Value, found: &mut Vec<[String; 3]>) {
    if left == right {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (left, right) else {
        found.push([path.to_owned(), left.to_string(), right.to_string()]);
        return;
    };
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        let value =
            |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
        walk(&path, &value(old), &value(new), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_has_its_place() {
        let left =
            json!({"space": {"weights": "a", "width": 2}, "passage": {"prompt": ""}, "same": [1]});
        let right = json!({"space": {"weights": "b", "width": 2, "new": 1}, "passage": {"prompt": "p: "}, "same": [1]});
        let found = differences(&left, &right);
        let entries: Vec<_> = found.iter().map(|found| found.join(" ")).collect();
        assert_eq!(
            entries,
            [
                r#"passage.prompt "" "p: ""#,
                "space.new null 1",
                r#"space.weights "a" "b""#
            ]
        );
    }
}
