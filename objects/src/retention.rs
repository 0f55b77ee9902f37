//! What is kept of a collection in object storage, and what goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use collection::{GenerationId, MAX_MANIFEST_BYTES, Manifest, Retention};

use crate::folder::Entry;
use crate::generation::manifest_key;
use crate::{Objects, ObjectsError};

/// The object of a build in parts that says as which generation it was completed: its manifest.
pub const DECISION: &str = "generation.json";

/// What nobody needs any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Generations, oldest first.
    pub generations: Vec<GenerationId>,
    /// Folders of builds that were not completed.
    pub unfinished: Vec<String>,
    /// Folders of what was sent and never became visible, and of what complete builds left.
    pub leftovers: Vec<String>,
    /// Bytes of all of it.
    pub bytes: u64,
}

/// The objects below a folder.
struct Folder {
    entries: Vec<Entry>,
}

impl Folder {
    fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// Whether nothing was written into it from a moment on.
    fn rests_since(&self, moment: SystemTime) -> bool {
        self.entries.iter().all(|entry| entry.modified < moment)
    }

    fn n_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.n_bytes).sum()
    }
}

impl Objects {
    /// What [`Self::gc`] would remove now.
    ///
    /// Kept are every generation that an alias names or named before, the newest ones that can be read, and everything to which an object
    /// was written from `since` on, by the clock of the storage: somebody may be at work on it. A generation of a newer format version is
    /// never garbage.
    ///
    /// # Errors
    /// [`ObjectsError::Aliases`] and [`ObjectsError::Access`]: nothing is garbage unless it is known what is named.
    pub fn garbage(
        &self,
        retention: &Retention,
        since: SystemTime,
    ) -> Result<Garbage, ObjectsError> {
        let mut kept = self.named()?;
        let generations = self.folders_below("generations")?;
        let builds = self.folders_below("building")?;
        let mut garbage = Garbage::default();
        let (mut n_newest, mut visible, mut invisible) = (0, BTreeSet::new(), Vec::new());
        for (name, folder) in generations.iter().rev() {
            let Ok(id) = GenerationId::parse(name) else {
                continue;
            };
            if !folder.has(&manifest_key(&id)) {
                invisible.push((id, folder));
                continue;
            }
            let is_kept = match self.manifest(&id) {
                Ok(_) if n_newest < retention.keep => {
                    n_newest += 1;
                    true
                }
                Err(error @ ObjectsError::Manifest { .. }) => !error.is_corrupt(),
                Ok(_) | Err(ObjectsError::TooLarge { .. } | ObjectsError::Unknown { .. }) => false,
                Err(error) => return Err(error),
            };
            if is_kept || !folder.rests_since(since) {
                kept.insert(id.clone());
            }
            if !kept.contains(&id) {
                garbage.generations.insert(0, id.clone());
                garbage.bytes += folder.n_bytes();
            }
            visible.insert(id);
        }
        let mut awaited = BTreeSet::new();
        for (name, folder) in &builds {
            let place = format!("building/{name}");
            let made = self.decision(&format!("{place}/{DECISION}"))?;
            let is_visible = made.as_ref().is_some_and(|id| visible.contains(id));
            match made {
                // It says which generation it is; `index commit` finds that by it.
                Some(id) if is_visible && kept.contains(&id) => {
                    for below in ["parts", "blobs"] {
                        let place = format!("{place}/{below}");
                        let entries = folder.entries.iter();
                        let entries: Vec<_> = entries
                            .filter(|entry| entry.key.starts_with(&format!("{place}/")))
                            .cloned()
                            .collect();
                        let rest = Folder { entries };
                        if !rest.entries.is_empty() && folder.rests_since(since) {
                            garbage.bytes += rest.n_bytes();
                            garbage.leftovers.push(place);
                        }
                    }
                }
                Some(_) if is_visible => {
                    garbage.bytes += folder.n_bytes();
                    garbage.leftovers.push(place);
                }
                made if retention.keep_unfinished || !folder.rests_since(since) => {
                    awaited.extend(made); // What it has sent becomes visible when it goes on.
                }
                _ => {
                    garbage.bytes += folder.n_bytes();
                    garbage.unfinished.push(place);
                }
            }
        }
        for (id, folder) in invisible.into_iter().rev() {
            // One that is named lost its manifest to somebody who was killed before it could be put back.
            let is_needed = awaited.contains(&id) || kept.contains(&id);
            if folder.rests_since(since) && !is_needed {
                garbage.bytes += folder.n_bytes();
                garbage.leftovers.push(format!("generations/{id}"));
            }
        }
        garbage.leftovers.sort();
        Ok(garbage)
    }

    /// Removes what is garbage, and returns it. Killed at any moment, it can be called again, and so by several at once.
    ///
    /// Of a generation the manifest goes first, so that no reader sees a part of it. One that an alias came to name meanwhile is kept.
    ///
    /// # Errors
    /// As [`Self::garbage`]; what comes after the object that could not be removed stays.
    pub fn gc(&self, retention: &Retention, since: SystemTime) -> Result<Garbage, ObjectsError> {
        let mut garbage = self.garbage(retention, since)?;
        let mut removed = Vec::new();
        for id in garbage.generations {
            if self.remove_generation(&id)? {
                removed.push(id);
            }
        }
        garbage.generations = removed;
        for folder in garbage.unfinished.iter().chain(&garbage.leftovers) {
            // Somebody may have come back to it.
            let entries = self.list(folder)?;
            let folder = Folder { entries };
            if folder.rests_since(since) {
                for entry in &folder.entries {
                    self.remove(&entry.key)?;
                }
            }
        }
        Ok(garbage)
    }

    fn remove_generation(&self, id: &GenerationId) -> Result<bool, ObjectsError> {
        let key = manifest_key(id);
        let manifest = self.read(&key, MAX_MANIFEST_BYTES)?;
        if self.named()?.contains(id) {
            return Ok(false);
        }
        self.remove(&key)?;
        // Whoever made an alias name it before this found the manifest there.
        if self.named()?.contains(id) {
            if let Some(manifest) = manifest {
                self.reveal(id, &manifest.bytes)?;
            }
            return Ok(false);
        }
        self.remove_folder(&format!("generations/{id}"))?;
        self.remove(&report_key(id))?;
        Ok(true)
    }

    /// The generations that an alias names, or named before.
    fn named(&self) -> Result<BTreeSet<GenerationId>, ObjectsError> {
        let table = self.aliases()?;
        let named = table.now.into_values().chain(table.before.into_values());
        Ok(named.collect())
    }

    /// The generation that a build in parts became, where that is decided.
    fn decision(&self, key: &str) -> Result<Option<GenerationId>, ObjectsError> {
        let found = self.read(key, MAX_MANIFEST_BYTES)?;
        let manifest = found.and_then(|found| Manifest::from_slice(&found.bytes).ok());
        Ok(manifest.map(|manifest| manifest.generation))
    }

    /// The folders in a folder, by name, with all that is below them.
    fn folders_below(&self, folder: &str) -> Result<BTreeMap<String, Folder>, ObjectsError> {
        let mut folders: BTreeMap<String, Folder> = BTreeMap::new();
        for entry in self.list(folder)? {
            let name = entry.key.split('/').nth(1).unwrap_or_default().to_owned();
            let folder = folders.entry(name).or_insert_with(|| Folder {
                entries: Vec::new(),
            });
            folder.entries.push(entry);
        }
        Ok(folders)
    }
}

/// Where the report of the gate is that a generation passed.
pub(crate) fn report_key(id: &GenerationId) -> String {
    format!("gate/{id}.json")
}
