//! Generations on their way to object storage and from there.

use std::collections::BTreeMap;
use std::fs;

use collection::{
    FileFault, Generation, GenerationId, MAX_MANIFEST_BYTES, Manifest, ManifestError, Writer,
};

use crate::folder::{Count, MAX_TRIES};
use crate::retention::report_key;
use crate::{Objects, ObjectsError, Watch};

/// What a push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Files that were sent; the others were there.
    pub n_files: usize,
    /// Their bytes.
    pub n_bytes: u64,
}

/// A manifest, and its bytes.
struct Stated {
    manifest: Manifest,
    bytes: Vec<u8>,
}

impl Objects {
    /// The ids of the generations that are there as a whole, oldest first.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn generations(&self) -> Result<Vec<GenerationId>, ObjectsError> {
        let mut ids = Vec::new();
        for name in self.folders("generations")? {
            if let Ok(id) = GenerationId::parse(&name)
                && self.length(&manifest_key(&id))?.is_some()
            {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    /// The manifest of a generation.
    ///
    /// # Errors
    /// [`ObjectsError::Unknown`], [`ObjectsError::Manifest`].
    pub fn manifest(&self, id: &GenerationId) -> Result<Manifest, ObjectsError> {
        match self.stated(id)? {
            Some(stated) => Ok(stated.manifest),
            None => Err(self.unknown(id.as_str())),
        }
    }

    /// The generation that an alias or an id names.
    ///
    /// # Errors
    /// [`ObjectsError::Unknown`], [`ObjectsError::Aliases`].
    pub fn resolve(&self, name: &str) -> Result<GenerationId, ObjectsError> {
        let aliases = self.aliases()?.now;
        let named = aliases.iter().find(|(alias, _)| alias.as_str() == name);
        if let Some((_, id)) = named {
            return Ok(id.clone());
        }
        let id = GenerationId::parse(name)?;
        match self.length(&manifest_key(&id))? {
            Some(_) => Ok(id),
            None => Err(self.unknown(name)),
        }
    }

    /// Sends a generation, its manifest last. Done again, it sends what is not there.
    ///
    /// # Errors
    /// [`ObjectsError::Record`] when a file of the generation is damaged, [`ObjectsError::Differs`] when another generation of its name
    /// is there, [`ObjectsError::Interrupted`]; readers then see no change.
    pub fn push(&self, generation: &Generation, watch: Watch<'_>) -> Result<Pushed, ObjectsError> {
        let mut pushed = self.push_files(generation, watch)?;
        // What was found there may have been taken for abandoned, and be gone by now.
        loop {
            let again = self.push_files(generation, watch)?;
            if again.n_files == 0 {
                break;
            }
            pushed.n_files += again.n_files;
            pushed.n_bytes += again.n_bytes;
        }
        let path = generation.path.join("manifest.json");
        let manifest = fs::read(&path).map_err(|source| ObjectsError::Io { path, source })?;
        self.reveal(&generation.id, &manifest)?;
        Ok(pushed)
    }

    /// Sends all of a generation but its manifest, without which no reader sees it.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_files(
        &self,
        generation: &Generation,
        watch: Watch<'_>,
    ) -> Result<Pushed, ObjectsError> {
        let (id, files) = (&generation.id, &generation.manifest.files);
        let mut pushed = Pushed::default();
        let mut count = Count::new(watch, files.iter().map(|file| file.bytes).sum());
        let there = self.lengths(id)?;
        for file in files {
            // Objects appear whole, after their checksum was found right: one of this length is this file.
            if there.get(&file.path) == Some(&file.bytes) {
                count.add(file.bytes)?;
                continue;
            }
            let (key, path) = (file_key(id, &file.path), generation.path.join(&file.path));
            self.send(&key, &path, &file.sha256, &mut count)?;
            pushed.n_files += 1;
            pushed.n_bytes += file.bytes;
        }
        Ok(pushed)
    }

    /// Makes a generation visible whose files are there.
    ///
    /// # Errors
    /// [`ObjectsError::Differs`] when another generation of its name is there.
    pub fn reveal(&self, id: &GenerationId, manifest: &[u8]) -> Result<(), ObjectsError> {
        let key = manifest_key(id);
        match self.create(&key, manifest)? {
            None => Ok(()),
            Some(_) => Err(ObjectsError::Differs {
                url: self.url(&key),
            }),
        }
    }

    /// Keeps the report of the gate that a generation passed, as the file of a collection has it.
    ///
    /// # Errors
    /// [`ObjectsError::Access`].
    pub fn keep_gate_report(&self, id: &GenerationId, report: &[u8]) -> Result<(), ObjectsError> {
        let key = report_key(id);
        for _ in 0..MAX_TRIES {
            let Some(found) = self.create(&key, report)? else {
                return Ok(());
            };
            if self.replace(&key, report, &found.version)? {
                return Ok(());
            }
        }
        Err(self.contended(&key))
    }

    /// Copies a generation into a collection. Every file is compared with its checksum before readers of the collection see any of
    /// them. Done again, it goes on with what was copied. The first generation of a collection becomes `live`.
    ///
    /// # Errors
    /// [`ObjectsError::Damaged`] names the first file that is not what the manifest says; what is damaged on this side is removed, so
    /// that it is copied again.
    pub fn pull(
        &self,
        id: &GenerationId,
        writer: &Writer,
        watch: Watch<'_>,
    ) -> Result<Generation, ObjectsError> {
        let Some(Stated { bytes, .. }) = self.stated(id)? else {
            return Err(self.unknown(id.as_str()));
        };
        let Some(arrival) = writer.receive(&bytes)? else {
            return Ok(writer.collection().generation(id)?);
        };
        let arriving = arrival.generation();
        let files = &arriving.manifest.files;
        let n_bytes: u64 = files.iter().map(|file| file.bytes).sum();
        self.check_lengths(id, &arriving.manifest)?;
        let mut count = Count::new(watch, n_bytes);
        for file in files {
            let path = arriving.path.join(&file.path);
            let folder = path.parent().expect("a file has a folder");
            fs::create_dir_all(folder).map_err(|source| ObjectsError::Io {
                path: folder.to_owned(),
                source,
            })?;
            self.fetch(&file_key(id, &file.path), &path, file.bytes, &mut count)?;
        }
        let faults = arriving.verify(|_| ());
        for fault in &faults {
            let path = arriving.path.join(fault.path());
            fs::remove_file(&path).map_err(|source| ObjectsError::Io { path, source })?;
        }
        self.no_faults(id, faults)?;
        Ok(writer.admit(arrival)?)
    }

    /// Compares the objects of a generation with its manifest before any of them is copied.
    fn check_lengths(&self, id: &GenerationId, manifest: &Manifest) -> Result<(), ObjectsError> {
        let there = self.lengths(id)?;
        let faults = manifest.files.iter().filter_map(|file| {
            let path = file.path.clone();
            match there.get(&file.path) {
                None => Some(FileFault::Missing { path }),
                Some(&found) if found != file.bytes => Some(FileFault::Length {
                    path,
                    expected: file.bytes,
                    found,
                }),
                Some(_) => None,
            }
        });
        self.no_faults(id, faults.collect())
    }

    fn no_faults(&self, id: &GenerationId, faults: Vec<FileFault>) -> Result<(), ObjectsError> {
        let n_files = faults.len();
        match faults.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(ObjectsError::Damaged {
                url: self.url(&format!("generations/{id}")),
                n_files,
                first,
            }),
        }
    }

    /// The lengths of the files of a generation.
    fn lengths(&self, id: &GenerationId) -> Result<BTreeMap<String, u64>, ObjectsError> {
        let folder = format!("generations/{id}");
        let entries = self.list(&folder)?.into_iter();
        let inside = |key: &str| Some(key.strip_prefix(&folder)?.strip_prefix('/')?.to_owned());
        Ok(entries
            .filter_map(|entry| Some((inside(&entry.key)?, entry.n_bytes)))
            .collect())
    }

    fn stated(&self, id: &GenerationId) -> Result<Option<Stated>, ObjectsError> {
        let key = manifest_key(id);
        let Some(found) = self.read(&key, MAX_MANIFEST_BYTES)? else {
            return Ok(None);
        };
        let unusable = |source| ObjectsError::Manifest {
            url: self.url(&key),
            source,
        };
        let manifest = Manifest::from_slice(&found.bytes).map_err(unusable)?;
        if manifest.generation != *id {
            return Err(unusable(ManifestError::Generation {
                found: manifest.generation,
                expected: id.clone(),
            }));
        }
        Ok(Some(Stated {
            manifest,
            bytes: found.bytes,
        }))
    }

    fn unknown(&self, name: &str) -> ObjectsError {
        ObjectsError::Unknown {
            url: self.url(""),
            name: name.to_owned(),
        }
    }
}

pub(crate) fn manifest_key(id: &GenerationId) -> String {
    file_key(id, "manifest.json")
}

fn file_key(id: &GenerationId, path: &str) -> String {
    format!("generations/{id}/{path}")
}
