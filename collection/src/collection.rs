//! A collection as its readers see it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::durable::sync_folder;
use crate::{
    AliasName, Aliases, CollectionError, GenerationId, LIVE, Manifest, ManifestError, Writer,
    alias, canonical_json, sha256_hex, write_atomic,
};

/// A folder of generations and the aliases that name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collection {
    root: PathBuf,
}

/// One finished build. It never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Name of the generation.
    pub id: GenerationId,
    /// Its folder.
    pub path: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
}

/// The file that keeps the report of a gate.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportFile {
    /// sha256 of the canonical JSON of the report.
    checksum: String,
    report: Value,
}

fn report_checksum(report: &Value) -> String {
    sha256_hex(canonical_json(report).as_bytes())
}

impl Collection {
    /// Opens a collection.
    ///
    /// # Errors
    /// [`CollectionError::NotACollection`] when the folder has no `generations`.
    pub fn open(root: &Path) -> Result<Self, CollectionError> {
        if root.join("generations").is_dir() {
            return Ok(Self {
                root: root.to_path_buf(),
            });
        }
        Err(CollectionError::NotACollection {
            path: root.to_path_buf(),
        })
    }

    /// Opens a collection, making an empty one where there is none.
    ///
    /// # Errors
    /// [`CollectionError::NotEmpty`] when the folder holds other things, so that a mistyped path is never filled.
    pub fn create(root: &Path) -> Result<Self, CollectionError> {
        if let Ok(collection) = Self::open(root) {
            return Ok(collection);
        }
        let failed = |source| CollectionError::write(root, source);
        fs::create_dir_all(root).map_err(failed)?;
        if fs::read_dir(root).map_err(failed)?.next().is_some() {
            // Another process may have made it meanwhile.
            return Self::open(root).map_err(|_| CollectionError::NotEmpty {
                path: root.to_path_buf(),
            });
        }
        fs::create_dir_all(root.join("generations")).map_err(failed)?;
        sync_folder(root).map_err(failed)?;
        if let Some(parent) = root.parent() {
            sync_folder(parent).map_err(failed)?;
        }
        Self::open(root)
    }

    /// The collection's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The ids of all generations, oldest first. Folders whose name is no id are not generations.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn generations(&self) -> Result<Vec<GenerationId>, CollectionError> {
        let folder = self.generations_folder();
        let failed = |source| CollectionError::read(&folder, source);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(
                name.to_str()
                    .and_then(|name| GenerationId::parse(name).ok()),
            );
        }
        ids.sort();
        Ok(ids)
    }

    /// The folders of builds that were begun and not finished.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn unfinished(&self) -> Result<Vec<PathBuf>, CollectionError> {
        let folder = self.root.join("building");
        let failed = |source| CollectionError::read(&folder, source);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&folder).map_err(failed)?;
        let mut paths: Vec<_> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        paths.sort();
        Ok(paths)
    }

    /// Opens a generation by its id.
    ///
    /// # Errors
    /// [`CollectionError::Unknown`] when there is none, [`CollectionError::Manifest`] when its manifest is damaged.
    pub fn generation(&self, id: &GenerationId) -> Result<Generation, CollectionError> {
        let path = self.generations_folder().join(id);
        if !path.is_dir() {
            return Err(CollectionError::Unknown {
                path: self.root.clone(),
                name: id.to_string(),
            });
        }
        let file = path.join("manifest.json");
        let unusable = |source| CollectionError::Manifest {
            path: file.clone(),
            source,
        };
        let manifest = Manifest::read(&file).map_err(unusable)?;
        if manifest.generation != *id {
            return Err(unusable(ManifestError::Generation {
                found: manifest.generation,
                expected: id.clone(),
            }));
        }
        Ok(Generation {
            id: id.clone(),
            path,
            manifest,
        })
    }

    /// Opens the generation that `name` stands for: an alias, else an id.
    ///
    /// # Errors
    /// [`CollectionError::Unknown`] when neither exists, and whatever [`Self::generation`] says.
    pub fn resolve(&self, name: &str) -> Result<Generation, CollectionError> {
        match self.aliases()?.remove(&AliasName::parse(name)?) {
            Some(id) => self.generation(&id),
            None => self.generation(&GenerationId::parse(name)?),
        }
    }

    /// Which generation each alias names.
    ///
    /// # Errors
    /// [`CollectionError::Aliases`] when the file is damaged.
    pub fn aliases(&self) -> Result<Aliases, CollectionError> {
        Ok(alias::read(&self.alias_file())?.now)
    }

    /// Which generation each alias named before its last change: what [`Writer::rollback`] goes back to.
    ///
    /// # Errors
    /// [`CollectionError::Aliases`] when the file is damaged.
    pub fn previous(&self) -> Result<Aliases, CollectionError> {
        Ok(alias::read(&self.alias_file())?.before)
    }

    /// The last position of the write log that is left out of each generation of which some is.
    pub(crate) fn dropped(&self) -> Result<BTreeMap<GenerationId, u64>, CollectionError> {
        Ok(alias::read(&self.alias_file())?.dropped)
    }

    /// The position of the write log after which its records are to be applied to a generation: it contains the others, or
    /// they were left out when it was published.
    ///
    /// # Errors
    /// [`CollectionError::Aliases`] when the file is damaged.
    pub fn replayed_after(&self, generation: &Generation) -> Result<u64, CollectionError> {
        let dropped = self.dropped()?.remove(&generation.id).unwrap_or(0);
        Ok(generation.manifest.log_position.max(dropped))
    }

    /// Checks that the write log still has every record that is to be applied to a generation.
    ///
    /// # Errors
    /// [`CollectionError::LogGap`]; [`CollectionError::Aliases`] when the file is damaged.
    pub fn check_log(&self, generation: &Generation) -> Result<(), CollectionError> {
        self.check_log_after(self.replayed_after(generation)?)
    }

    /// The report of the gate that a generation passed, as JSON; none when no gate was asked.
    ///
    /// # Errors
    /// [`CollectionError::Io`] when it cannot be read, [`CollectionError::Report`] when it is not what was written.
    pub fn gate_report(&self, id: &GenerationId) -> Result<Option<Value>, CollectionError> {
        let path = self.gate_report_file(id);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CollectionError::read(&path, error)),
        };
        let damaged = |reason| CollectionError::Report { path, reason };
        let file: ReportFile = match serde_json::from_slice(&bytes) {
            Ok(file) => file,
            Err(error) => return Err(damaged(error.to_string())),
        };
        if file.checksum != report_checksum(&file.report) {
            return Err(damaged("does not match its own checksum".to_owned()));
        }
        Ok(Some(file.report))
    }

    /// The newest readable generation that was built from the spec with this digest.
    ///
    /// # Errors
    /// When the folder of generations cannot be read.
    pub fn built_from(&self, spec_digest: &str) -> Result<Option<Generation>, CollectionError> {
        let mut ids = self.generations()?.into_iter().rev();
        Ok(ids.find_map(|id| {
            self.generation(&id)
                .ok()
                .filter(|found| found.manifest.spec_digest == spec_digest)
        }))
    }

    pub(crate) fn generations_folder(&self) -> PathBuf {
        self.root.join("generations")
    }

    /// Where the report of the gate is that a generation passed: beside the generations, because these never change.
    #[must_use]
    pub fn gate_report_file(&self, id: &GenerationId) -> PathBuf {
        self.root.join("gate").join(format!("{id}.json"))
    }

    fn alias_file(&self) -> PathBuf {
        self.root.join("aliases.json")
    }
}

impl Writer {
    /// Makes `id` the generation that readers open. The change is atomic and durable.
    ///
    /// # Errors
    /// As [`Self::set_alias`].
    pub fn publish(&self, id: &GenerationId) -> Result<(), CollectionError> {
        self.set_alias(&AliasName::parse(LIVE)?, id)
    }

    /// Makes `alias` name the generation `id`. The change is atomic and durable; what the alias named before is what
    /// [`Self::rollback`] goes back to.
    ///
    /// # Errors
    /// When there is no such generation or its manifest is damaged, when the write log lacks records that the generation lacks
    /// ([`CollectionError::LogGap`]), and when the file cannot be written; the alias is then as before.
    pub fn set_alias(&self, alias: &AliasName, id: &GenerationId) -> Result<(), CollectionError> {
        self.change(alias, id, None)
    }

    /// As [`Self::set_alias`], and leaves the records of the write log up to `position` out of the generation, now and
    /// whenever it is opened.
    ///
    /// # Errors
    /// As [`Self::set_alias`].
    pub fn set_alias_without(
        &self,
        alias: &AliasName,
        id: &GenerationId,
        position: u64,
    ) -> Result<(), CollectionError> {
        self.change(alias, id, Some(position))
    }

    fn change(
        &self,
        alias: &AliasName,
        id: &GenerationId,
        dropped: Option<u64>,
    ) -> Result<(), CollectionError> {
        let Generation { id, manifest, .. } = self.collection.generation(id)?;
        let path = self.collection.alias_file();
        let mut table = alias::read(&path)?;
        if let Some(position) = dropped {
            self.collection.sync_log()?;
            table.dropped.insert(id.clone(), position);
        } else if table.now.get(alias) == Some(&id) {
            return Ok(());
        }
        let left_out = table.dropped.get(&id).copied().unwrap_or(0);
        self.collection
            .check_log_after(manifest.log_position.max(left_out))?;
        table.set(alias, &id);
        let there = self.collection.generations()?;
        table.dropped.retain(|id, _| there.contains(id));
        alias::write(&path, &table)
    }

    /// Makes `alias` name what it named before its last change, and returns that generation. A second rollback takes
    /// the first one back.
    ///
    /// # Errors
    /// [`CollectionError::NoPrevious`] when the alias was never changed; else as [`Self::set_alias`].
    pub fn rollback(&self, alias: &AliasName) -> Result<GenerationId, CollectionError> {
        self.go_back(alias, None)
    }

    /// As [`Self::rollback`], and leaves the records of the write log up to `position` out of that generation, as
    /// [`Self::set_alias_without`] does.
    ///
    /// # Errors
    /// As [`Self::rollback`].
    pub fn rollback_without(
        &self,
        alias: &AliasName,
        position: u64,
    ) -> Result<GenerationId, CollectionError> {
        self.go_back(alias, Some(position))
    }

    fn go_back(
        &self,
        alias: &AliasName,
        dropped: Option<u64>,
    ) -> Result<GenerationId, CollectionError> {
        let mut before = self.collection.previous()?;
        let id = before
            .remove(alias)
            .ok_or_else(|| CollectionError::NoPrevious {
                path: self.collection.root().to_path_buf(),
                alias: alias.to_string(),
            })?;
        self.change(alias, &id, dropped)?;
        Ok(id)
    }

    /// Keeps the report of a gate that the generation passed.
    ///
    /// # Errors
    /// When it cannot be written; an earlier report is then as it was.
    pub fn keep_gate_report(
        &self,
        id: &GenerationId,
        report: &Value,
    ) -> Result<(), CollectionError> {
        let path = self.collection.gate_report_file(id);
        let folder = path.parent().expect("reports have a folder");
        fs::create_dir_all(folder).map_err(|source| CollectionError::write(folder, source))?;
        let file = ReportFile {
            checksum: report_checksum(report),
            report: report.clone(),
        };
        let text = serde_json::to_string_pretty(&file).expect("a value has string keys only");
        write_atomic(&path, (text + "\n").as_bytes())
    }
}
