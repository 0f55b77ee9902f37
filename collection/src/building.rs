//! From a spec to a generation.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::digest::sha256_of_file;
use crate::durable::{create_atomic, sync_folder, write_atomic};
use crate::manifest::is_inside;
use crate::retention::remove;
use crate::{
    AliasName, Collection, CollectionError, FORMAT_VERSION, FileEntry, Generation, GenerationId,
    LIVE, Manifest, Writer, canonical_json, sha256_hex,
};

/// What to do about an earlier build from the same spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BuildMode {
    /// Refuse to touch an unfinished one.
    #[default]
    New,
    /// Continue an unfinished one; take a finished one as it is.
    Resume,
    /// Drop an unfinished one.
    Restart,
}

/// What [`Writer::begin`] found.
#[derive(Debug)]
pub enum Start {
    /// There is something to build.
    Build(Building),
    /// A resumed build was finished already.
    Done(Box<Generation>),
}

impl Start {
    fn done(generation: Generation) -> Self {
        Self::Done(Box::new(generation))
    }
}

/// A build in progress.
#[derive(Debug)]
pub struct Building {
    path: PathBuf,
    spec_digest: String,
}

impl Building {
    /// The folder of the future generation. A resumed build finds it empty but for `spec.json` and `work`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the builder keeps what it needs to resume; not part of the generation.
    pub fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    /// Removes the build and what was made for resuming it.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn discard(&self) -> Result<(), CollectionError> {
        remove_build(&self.path).map_err(|source| CollectionError::write(&self.path, source))
    }

    /// sha256 of the spec's canonical JSON.
    pub fn spec_digest(&self) -> &str {
        &self.spec_digest
    }
}

impl Collection {
    /// The folder in which several processes make the build that `spec` describes, without the lock: each creates files that no
    /// other has created ([`crate::create_atomic`]). A [`Writer`] that resumes the build completes it.
    ///
    /// # Errors
    /// When the folder cannot be made, or belongs to another spec.
    pub fn begin_shared(&self, spec: &Value) -> Result<Start, CollectionError> {
        let spec = canonical_json(spec);
        let building = self.building(sha256_hex(spec.as_bytes()));
        if !building.path.is_dir()
            && let Some(generation) = self.built_from(&building.spec_digest)?
        {
            return Ok(Start::done(generation));
        }
        building.create(self, &spec)?;
        Ok(Start::Build(building))
    }

    /// The spec of a build that was begun.
    ///
    /// # Errors
    /// [`CollectionError::Io`] when there is none, [`CollectionError::Spec`] when it is damaged.
    pub fn spec(&self, digest: &str) -> Result<Value, CollectionError> {
        let path = self.building(digest.to_owned()).path;
        let file = path.join("spec.json");
        let bytes = fs::read(&file).map_err(|source| CollectionError::read(&file, source))?;
        if sha256_hex(&bytes) != digest {
            return Err(CollectionError::Spec { path });
        }
        serde_json::from_slice(&bytes).map_err(|_| CollectionError::Spec { path })
    }

    fn building(&self, spec_digest: String) -> Building {
        Building {
            path: self.root().join("building").join(&spec_digest),
            spec_digest,
        }
    }
}

impl Writer {
    /// Begins or resumes the build that `spec` describes: everything that decides the content, and nothing else.
    ///
    /// # Errors
    /// [`CollectionError::InProgress`] when [`BuildMode::New`] meets an unfinished build from the same spec.
    pub fn begin(&self, spec: &Value, mode: BuildMode) -> Result<Start, CollectionError> {
        let spec = canonical_json(spec);
        let building = self.collection.building(sha256_hex(spec.as_bytes()));
        let exists = building.path.is_dir();
        match mode {
            BuildMode::New if exists => {
                return Err(CollectionError::InProgress {
                    path: building.path,
                });
            }
            BuildMode::Resume if exists => {
                if let Ok(manifest) = Manifest::read(&building.path.join("manifest.json")) {
                    return self.finish(&building, manifest).map(Start::done);
                }
                building
                    .remove_output()
                    .map_err(|source| CollectionError::write(&building.path, source))?;
            }
            BuildMode::Resume => {
                if let Some(generation) = self.collection.built_from(&building.spec_digest)? {
                    self.publish_first(&generation.id)?;
                    return Ok(Start::done(generation));
                }
            }
            BuildMode::Restart if exists => {
                building.discard()?;
            }
            BuildMode::New | BuildMode::Restart => {}
        }
        building.create(&self.collection, &spec)?;
        Ok(Start::Build(building))
    }

    /// Turns a complete building folder into a generation; the first one of a collection becomes `live`.
    ///
    /// Every file is hashed and made durable, the manifest is written last, and one rename makes the generation visible.
    ///
    /// # Errors
    /// Whatever the file system says. The building folder can then be resumed and readers see no change.
    pub fn promote(
        &self,
        building: &Building,
        contents: Manifest,
    ) -> Result<Generation, CollectionError> {
        let mut files = Vec::new();
        seal(&building.path, "", &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let now = OffsetDateTime::now_utc();
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            generation: GenerationId::new(now, &self.collection.generations()?),
            created: now
                .truncate_to_second()
                .format(&Rfc3339)
                .expect("the present has a year of four digits"),
            spec_digest: building.spec_digest.clone(),
            files,
            ..contents
        };
        self.collection.sync_log()?;
        let path = building.path.join("manifest.json");
        write_atomic(&path, &manifest.to_bytes())?;
        self.finish(building, manifest)
    }

    /// The steps after the manifest; each can be repeated.
    fn finish(
        &self,
        building: &Building,
        manifest: Manifest,
    ) -> Result<Generation, CollectionError> {
        let parent = self.collection.generations_folder();
        let path = parent.join(&manifest.generation);
        let moved = remove(&building.work())
            .and_then(|()| fs::rename(&building.path, &path))
            .and_then(|()| sync_folder(&parent))
            .and_then(|()| {
                sync_folder(
                    building
                        .path
                        .parent()
                        .expect("a building folder has a parent"),
                )
            });
        moved.map_err(|source| CollectionError::write(&path, source))?;
        self.publish_first(&manifest.generation)?;
        self.collection.generation(&manifest.generation)
    }

    fn publish_first(&self, id: &GenerationId) -> Result<(), CollectionError> {
        if self
            .collection
            .aliases()?
            .contains_key(&AliasName::parse(LIVE)?)
        {
            return Ok(());
        }
        self.publish(id)
    }
}

/// A generation that was made elsewhere, on its way into a collection: its files are copied into a folder where no reader looks.
#[derive(Debug)]
pub struct Arrival {
    generation: Generation,
    manifest: Vec<u8>,
}

impl Arrival {
    /// The generation, whose folder the files are to be copied into. What an earlier attempt copied is there.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }
}

impl Writer {
    /// Begins, or goes on with, the arrival of the generation with this manifest; none when it is there already.
    ///
    /// # Errors
    /// [`CollectionError::Differs`] when another generation has its name, [`CollectionError::LogEnd`] when it knows more of a write
    /// log than this collection's has.
    pub fn receive(&self, manifest: &[u8]) -> Result<Option<Arrival>, CollectionError> {
        let collection = &self.collection;
        let parsed =
            Manifest::from_slice(manifest).map_err(|source| CollectionError::Manifest {
                path: PathBuf::from("manifest.json"),
                source,
            })?;
        let id = parsed.generation.clone();
        let there = collection.generations_folder().join(&id);
        if there.is_dir() {
            let path = there.join("manifest.json");
            return match fs::read(&path) {
                Ok(found) if found == manifest => Ok(None),
                Ok(_) => Err(CollectionError::Differs { path: there }),
                Err(source) => Err(CollectionError::read(&path, source)),
            };
        }
        let last = collection.log_positions()?.end - 1;
        if collection.log_stamp().is_some() && last < parsed.log_position {
            return Err(CollectionError::LogEnd {
                path: collection.root().join("live"),
                end: last,
                known: parsed.log_position,
            });
        }
        let path = collection
            .root()
            .join("building")
            .join(format!("arriving-{id}"));
        fs::create_dir_all(&path).map_err(|source| CollectionError::write(&path, source))?;
        Ok(Some(Arrival {
            generation: Generation {
                id,
                path,
                manifest: parsed,
            },
            manifest: manifest.to_vec(),
        }))
    }

    /// Makes a generation visible whose files have arrived and were verified; the first one of a collection becomes `live`.
    ///
    /// # Errors
    /// Whatever the file system says; readers then see no change.
    pub fn admit(&self, arrival: Arrival) -> Result<Generation, CollectionError> {
        let Generation { path, manifest, .. } = arrival.generation;
        let folders = manifest.files.iter().map(|file| path.join(&file.path));
        let folders: BTreeSet<PathBuf> = folders
            .flat_map(|file| {
                file.ancestors()
                    .skip(1)
                    .map(Path::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter(|folder| folder.starts_with(&path))
            .collect();
        for file in &manifest.files {
            let file = path.join(&file.path);
            let synced = File::open(&file).and_then(|file| file.sync_all());
            synced.map_err(|source| CollectionError::write(&file, source))?;
        }
        for folder in folders {
            sync_folder(&folder).map_err(|source| CollectionError::write(&folder, source))?;
        }
        write_atomic(&path.join("manifest.json"), &arrival.manifest)?;
        let building = Building {
            path,
            spec_digest: manifest.spec_digest.clone(),
        };
        self.finish(&building, manifest)
    }
}

impl Building {
    /// Makes the folder, with its spec, unless it is there.
    fn create(&self, collection: &Collection, spec: &str) -> Result<(), CollectionError> {
        let parent = self.path.parent().expect("a building folder has a parent");
        let created = fs::create_dir_all(self.work())
            .and_then(|()| sync_folder(collection.root()))
            .and_then(|()| sync_folder(parent));
        created.map_err(|source| CollectionError::write(&self.path, source))?;
        let path = self.path.join("spec.json");
        if !path.exists() {
            create_atomic(&path, spec.as_bytes())?;
        }
        match fs::read(&path) {
            Ok(found) if found == spec.as_bytes() => Ok(()),
            Ok(_) => Err(CollectionError::Spec {
                path: self.path.clone(),
            }),
            Err(source) => Err(CollectionError::read(&path, source)),
        }
    }

    /// Removes what an interrupted assembly left behind.
    fn remove_output(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() == "work" || entry.file_name() == "spec.json" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Makes every file below `folder` durable, then the folder, and lists the files. `work` at the top is left out.
fn seal(folder: &Path, prefix: &str, files: &mut Vec<FileEntry>) -> Result<(), CollectionError> {
    let failed = |source| CollectionError::write(folder, source);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed)?;
        let unexpected = || CollectionError::Unexpected { path: path.clone() };
        let name = format!(
            "{prefix}{}",
            entry.file_name().to_str().ok_or_else(unexpected)?
        );
        if name == "work" {
            continue;
        }
        if !is_inside(&name) || !(kind.is_dir() || kind.is_file()) {
            return Err(unexpected());
        }
        if kind.is_dir() {
            seal(&path, &format!("{name}/"), files)?;
            continue;
        }
        let failed = |source| CollectionError::write(&path, source);
        let mut file = File::open(&path).map_err(failed)?;
        let (bytes, sha256) = sha256_of_file(&mut file).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        files.push(FileEntry {
            path: name,
            bytes,
            sha256,
        });
    }
    sync_folder(folder).map_err(failed)
}

/// Removes the folder of a build, its manifest first: without it, what is left when the process is killed is no complete build.
pub(crate) fn remove_build(folder: &Path) -> io::Result<()> {
    if fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
        remove(&folder.join("manifest.json"))?;
        sync_folder(folder)?;
    }
    remove(folder)
}
