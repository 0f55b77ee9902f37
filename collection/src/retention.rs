//! What is kept of a collection, and what goes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::building::remove_build;
use crate::durable::sync_folder;
use crate::{Collection, CollectionError, GenerationId, Writer};

/// What [`Writer::gc`] leaves alone, beside every generation that an alias names and the one it named before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest generations that can be opened.
    pub keep: usize,
    /// Builds that were begun and not finished, so that they can be resumed.
    pub keep_unfinished: bool,
}

impl Default for Retention {
    /// The three newest generations, no unfinished builds.
    fn default() -> Self {
        Self {
            keep: 3,
            keep_unfinished: false,
        }
    }
}

/// What nobody needs any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Generations, oldest first.
    pub generations: Vec<GenerationId>,
    /// Folders of unfinished builds.
    pub unfinished: Vec<PathBuf>,
    /// What writers left that were killed.
    pub leftovers: Vec<PathBuf>,
    /// Bytes of all of it.
    pub bytes: u64,
}

/// A generation on its way out. No id begins with a dot, so readers do not see it.
const REMOVED: &str = ".removed-";

impl Collection {
    /// What [`Writer::gc`] would remove now.
    ///
    /// A generation whose manifest is damaged is not kept for its age; one of a newer format version always is.
    ///
    /// # Errors
    /// When aliases or folders cannot be read: nothing is garbage unless it is known what is named.
    pub fn garbage(&self, retention: &Retention) -> Result<Garbage, CollectionError> {
        let (now, before) = (self.aliases()?, self.previous()?);
        let mut kept: BTreeSet<GenerationId> =
            now.into_values().chain(before.into_values()).collect();
        let all = self.generations()?;
        let mut n_newest = 0;
        for id in all.iter().rev() {
            match self.generation(id) {
                Ok(_) if n_newest < retention.keep => {
                    n_newest += 1;
                    kept.insert(id.clone());
                }
                Err(error) if !error.is_corrupt() => {
                    kept.insert(id.clone());
                }
                _ => {}
            }
        }
        let mut garbage = Garbage {
            generations: all
                .iter()
                .filter(|id| !kept.contains(*id))
                .cloned()
                .collect(),
            unfinished: match retention.keep_unfinished {
                true => Vec::new(),
                false => self.unfinished()?,
            },
            leftovers: self.leftovers(&all)?,
            bytes: 0,
        };
        let folders = garbage.generations.iter();
        let folders = folders.map(|id| self.generations_folder().join(id));
        let paths = folders
            .chain(garbage.unfinished.iter().cloned())
            .chain(garbage.leftovers.iter().cloned());
        for path in paths {
            garbage.bytes +=
                n_bytes(&path).map_err(|source| CollectionError::read(&path, source))?;
        }
        Ok(garbage)
    }

    /// Temporary files, generations that were not removed to the end, and reports of generations that were.
    fn leftovers(&self, generations: &[GenerationId]) -> Result<Vec<PathBuf>, CollectionError> {
        let is_leftover = |name: &str| name.starts_with(REMOVED) || name.ends_with(".tmp");
        let gate = self.root().join("gate");
        let is_report_of_none = |name: &str| {
            let id = name.strip_suffix(".json").map(GenerationId::parse);
            id.is_some_and(|id| id.is_ok_and(|id| !generations.contains(&id)))
        };
        let mut paths = Vec::new();
        for folder in [
            self.root().to_path_buf(),
            gate.clone(),
            self.generations_folder(),
        ] {
            let failed = |source| CollectionError::read(&folder, source);
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed)?,
            };
            for entry in entries {
                let entry = entry.map_err(failed)?;
                let is_garbage =
                    |name: &str| is_leftover(name) || folder == gate && is_report_of_none(name);
                if entry.file_name().to_str().is_some_and(is_garbage) {
                    paths.push(entry.path());
                }
            }
        }
        paths.sort();
        Ok(paths)
    }
}

impl Writer {
    /// Removes what `retention` does not keep, and returns it. Killed at any moment, it can be called again.
    ///
    /// Readers that have a removed generation open keep it until they close it.
    ///
    /// # Errors
    /// As [`Collection::garbage`], and when something cannot be removed; what comes after it stays.
    pub fn gc(&self, retention: &Retention) -> Result<Garbage, CollectionError> {
        let garbage = self.collection.garbage(retention)?;
        let folder = self.collection.generations_folder();
        // Leftovers first: one may have the name that a generation is about to get.
        for path in &garbage.leftovers {
            remove(path).map_err(|source| CollectionError::write(path, source))?;
        }
        for id in &garbage.generations {
            let (from, to) = (folder.join(id), folder.join(format!("{REMOVED}{id}")));
            let removed = fs::rename(&from, &to)
                .and_then(|()| sync_folder(&folder))
                .and_then(|()| remove(&to))
                .and_then(|()| remove(&self.collection.gate_report_file(id)));
            removed.map_err(|source| CollectionError::write(&from, source))?;
        }
        for path in &garbage.unfinished {
            remove_build(path).map_err(|source| CollectionError::write(path, source))?;
        }
        sync_folder(&folder).map_err(|source| CollectionError::write(&folder, source))?;
        Ok(garbage)
    }
}

/// Removes a file or a folder; what is not there is removed already.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn n_bytes(path: &Path) -> io::Result<u64> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        sum += n_bytes(&entry?.path())?;
    }
    Ok(sum)
}
