//! A build in parts, in object storage: for processes that share nothing but a bucket.
//!
//! Each object is created once, and each step may be taken again, by anybody:
//!
//! ```text
//! building/<spec digest>/spec.json                  all that decides the content; of the first process
//! building/<spec digest>/outline.json               what the assembly needs to know beside the chunks; of the first process
//! building/<spec digest>/blobs/<sha256>             chunks
//! building/<spec digest>/parts/00003-of-00008.json  the record of a part, which names its chunks
//! building/<spec digest>/generation.json            the manifest on which `commit` has decided
//! ```
//!
//! Two attempts at one part create one record; what the other one sent is named by nobody. Two commits send two generations and
//! create one `generation.json`, after all files of what it names are there; only then its manifest is created where readers look.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use collection::{
    AliasName, BuildMode, Collection, LIVE, MAX_MANIFEST_BYTES, Manifest, Start, canonical_json,
    sha256_hex, write_atomic,
};
use encoder::BiEncoder;
use objects::{Objects, ObjectsError};

use crate::chunk;
use crate::first_pass::Outline;
use crate::part_status::{BuildStatus, Seen};
use crate::parts::{Part, PartNumber, PartReport, Record, number_of_parts};
use crate::progress::Watch;
use crate::{BuildConfig, BuildError, BuildReport, NotReused, Phase, Progress, Reuse};

const MAX_RECORD_BYTES: u64 = 64 << 20;

/// Where a build in object storage is made, and what is not sent yet.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    /// The collection.
    pub objects: &'a Objects,
    /// A folder on this machine. What an earlier attempt left in it is not made again.
    pub work: &'a Path,
}

/// Encodes one part of the build that `config` describes, and sends it. Done again, it finds what is done.
///
/// `config.collection`, `config.base`, `config.mode` and `config.publish` mean nothing here.
///
/// # Errors
/// [`BuildError`], as [`crate::build`].
pub fn encode_part_remotely(
    remote: Remote<'_>,
    config: &BuildConfig,
    encoder: &BiEncoder,
    part: PartNumber,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<PartReport, BuildError> {
    let watch = Watch {
        progress,
        cancelled,
    };
    let opened = Part::read(config, encoder, part, watch)?;
    let spec = canonical_json(&opened.first.spec);
    let build = Build::new(remote.objects, sha256_hex(spec.as_bytes()));
    let mut report = opened.report(build.digest.clone());
    if let Some((manifest, _)) = build.decided()? {
        report.generation = Some(manifest.generation);
        return Ok(report);
    }
    build.begin(&spec, &opened.first.outline)?;
    if build.is_done(part)? {
        return Ok(report);
    }
    let work = remote.work.join(&build.digest);
    make_folder(&work)?;
    report.encoded_chunks = opened.encode(&work, &work, watch)?;
    let chunks = opened.chunks;
    let n_bytes = |number: usize| fs::metadata(chunk::path(&work, number)).map_or(0, |of| of.len());
    let (mut checksums, mut n_sent) = (Vec::new(), 0);
    let n_total = chunks.clone().map(n_bytes).sum();
    for number in chunks.clone() {
        watch.update(Phase::Upload, n_sent, n_total)?;
        let path = chunk::path(&work, number);
        let bytes = fs::read(&path).map_err(|source| BuildError::Io { path, source })?;
        n_sent += bytes.len() as u64;
        let checksum = sha256_hex(&bytes);
        let key = build.blob(&checksum);
        // A blob is named after its bytes: where other bytes are found, they are damaged.
        if remote.objects.create(&key, &bytes)?.is_some() {
            remote.objects.remove(&key)?;
            remote.objects.create(&key, &bytes)?;
        }
        checksums.push(checksum);
    }
    watch.update(Phase::Upload, n_sent, n_total)?;
    // Where another attempt was faster, its record stays.
    let record = Record::new(part, checksums).to_bytes();
    remote.objects.create(&build.record(part), &record)?;
    for number in chunks {
        let path = chunk::path(&work, number);
        fs::remove_file(&path).map_err(|source| BuildError::Io { path, source })?;
    }
    Ok(report)
}

/// Puts the parts of a build together. Without a name it is the only one that has parts and is not complete. Done again for a
/// build by its name, it finds the generation.
///
/// # Errors
/// [`BuildError::MissingParts`], [`BuildError::Builds`] when it is not clear which build is meant, and [`BuildError::Record`] or
/// [`BuildError::Chunk`] where a part is damaged: what is damaged is removed, so that the part can be encoded again.
pub fn commit_remotely(
    remote: Remote<'_>,
    build: Option<&str>,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<BuildReport, BuildError> {
    let watch = Watch {
        progress,
        cancelled,
    };
    let Remote { objects, work } = remote;
    let build = match build {
        Some(digest) => Build::new(objects, digest.to_owned()),
        None => only_build(objects)?,
    };
    let (decided, not_reused) = match build.decided()? {
        Some(decided) => (decided, NotReused::Finished),
        None => {
            let own = build.assemble(&work.join(&build.digest), watch)?;
            let on_bytes = |done, total| progress.update(Phase::Upload, done, total);
            let sending = objects::Watch {
                on_bytes: &on_bytes,
                cancelled,
            };
            objects.push_files(&own, sending)?;
            let path = own.path.join("manifest.json");
            let manifest = fs::read(&path).map_err(|source| BuildError::Io { path, source })?;
            match objects.create(&build.decision(), &manifest)? {
                None => ((own.manifest, manifest), NotReused::Full),
                Some(_) => {
                    // Another commit was faster. Nobody has seen what this one made.
                    objects.remove_folder(&format!("generations/{}", own.id))?;
                    let decided = build.decided()?;
                    (
                        decided.ok_or_else(|| build.damaged(&build.decision()))?,
                        NotReused::Full,
                    )
                }
            }
        }
    };
    let (manifest, bytes) = decided;
    let id = &manifest.generation;
    objects.reveal(id, &bytes)?;
    let live = AliasName::parse(LIVE).expect("it is a name");
    match objects.set_alias(&live, id, Some(None)) {
        Err(ObjectsError::Changed { .. }) => {} // It is not the first.
        set => set?,
    }
    build.clear()?;
    Ok(BuildReport {
        path: PathBuf::from(objects.url(&format!("generations/{id}"))),
        live: objects.aliases()?.now.get(&live) == Some(id),
        generation: manifest.generation,
        content_digest: manifest.content_digest,
        counts: manifest.counts,
        n_resumed: 0,
        reuse: Reuse::Nothing(not_reused),
        encode_time: Duration::ZERO,
        bad_examples: Vec::new(),
        schema: serde_json::from_value(manifest.schema).unwrap_or_default(),
    })
}

/// How far the builds in object storage are.
///
/// # Errors
/// When the storage does not answer, or what the parts share is damaged.
pub fn build_status(objects: &Objects) -> Result<Vec<BuildStatus>, BuildError> {
    let digests = objects.folders("building")?.into_iter();
    let builds = digests.filter_map(|digest| Build::new(objects, digest).status().transpose());
    builds.collect()
}

/// A build in object storage.
struct Build<'a> {
    objects: &'a Objects,
    digest: String,
}

impl<'a> Build<'a> {
    fn new(objects: &'a Objects, digest: String) -> Self {
        Self { objects, digest }
    }

    fn key(&self, name: &str) -> String {
        format!("building/{}/{name}", self.digest)
    }

    fn blob(&self, checksum: &str) -> String {
        self.key(&format!("blobs/{checksum}"))
    }

    fn record(&self, part: PartNumber) -> String {
        self.key(&format!("parts/{}", part.file_name()))
    }

    fn decision(&self) -> String {
        self.key(objects::DECISION)
    }

    fn damaged(&self, key: &str) -> BuildError {
        BuildError::Record {
            path: PathBuf::from(self.objects.url(key)),
        }
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, BuildError> {
        let found = self.objects.read(key, MAX_RECORD_BYTES)?;
        Ok(found.map(|found| found.bytes))
    }

    /// Creates what all parts share, unless another process has.
    fn begin(&self, spec: &str, outline: &Outline) -> Result<(), BuildError> {
        let key = self.key("spec.json");
        if self.objects.create(&key, spec.as_bytes())?.is_some() {
            return Err(self.damaged(&key));
        }
        let key = self.key("outline.json");
        match self.objects.create(&key, &outline.to_bytes())? {
            // Paths of corpus and model may differ.
            Some(found) if Outline::from_slice(&found.bytes).is_none() => Err(self.damaged(&key)),
            _ => Ok(()),
        }
    }

    /// Whether a part has its record, and its chunks are there. A record without its chunks is removed.
    fn is_done(&self, part: PartNumber) -> Result<bool, BuildError> {
        let key = self.record(part);
        let Some(bytes) = self.read(&key)? else {
            return Ok(false);
        };
        if let Some(record) = Record::from_slice(&bytes) {
            let mut there = true;
            for checksum in record.chunks() {
                there &= self.objects.length(&self.blob(checksum))?.is_some();
            }
            if there {
                return Ok(true);
            }
        }
        self.objects.remove(&key)?;
        Ok(false)
    }

    fn outline(&self) -> Result<Outline, BuildError> {
        let key = self.key("outline.json");
        let bytes = self.read(&key)?.ok_or_else(|| self.damaged(&key))?;
        Outline::from_slice(&bytes).ok_or_else(|| self.damaged(&key))
    }

    /// The parts that have records.
    fn parts(&self) -> Result<Vec<(PartNumber, SystemTime)>, BuildError> {
        let entries = self.objects.list(&self.key("parts"))?.into_iter();
        let part = |key: &str| PartNumber::of_file(key.rsplit('/').next()?);
        Ok(entries
            .filter_map(|entry| Some((part(&entry.key)?, entry.modified)))
            .collect())
    }

    /// The manifest on which a commit has decided, and its bytes.
    fn decided(&self) -> Result<Option<(Manifest, Vec<u8>)>, BuildError> {
        let key = self.decision();
        let Some(found) = self.objects.read(&key, MAX_MANIFEST_BYTES)? else {
            return Ok(None);
        };
        match Manifest::from_slice(&found.bytes) {
            Ok(manifest) => Ok(Some((manifest, found.bytes))),
            Err(_) => Err(self.damaged(&key)),
        }
    }

    /// Makes the generation on this machine.
    fn assemble(
        &self,
        folder: &Path,
        watch: Watch<'_>,
    ) -> Result<collection::Generation, BuildError> {
        let key = self.key("spec.json");
        let spec = self.read(&key)?.ok_or_else(|| self.no_build())?;
        if sha256_hex(&spec) != self.digest {
            return Err(self.damaged(&key));
        }
        let spec = serde_json::from_slice(&spec).map_err(|_| self.damaged(&key))?;
        let outline = self.outline()?;
        let parts: Vec<_> = self.parts()?.into_iter().map(|(part, _)| part).collect();
        let of = number_of_parts(&parts)?;
        make_folder(folder)?;
        let writer = Collection::create(&folder.join("collection"))?.writer("index commit")?;
        let building = match writer.begin(&spec, BuildMode::Resume)? {
            Start::Build(building) => building,
            Start::Done(generation) => return Ok(*generation),
        };
        let n_chunks = outline.plan.n_chunks() as u64;
        let mut n_done = 0;
        for number in 0..of {
            let part = PartNumber::new(number, of).expect("it is less");
            let (key, chunks) = (self.record(part), part.chunks(outline.plan));
            let bytes = self.read(&key)?;
            let record = bytes.as_deref().and_then(Record::from_slice);
            let record = record.filter(|record| record.chunks().len() == chunks.len());
            let Some(record) = record else {
                self.objects.remove(&key)?;
                return Err(self.damaged(&key));
            };
            for (chunk, checksum) in chunks.zip(record.chunks()) {
                watch.update(Phase::Download, n_done, n_chunks)?;
                n_done += 1;
                self.fetch(checksum, &chunk::path(&building.work(), chunk))?;
            }
        }
        watch.update(Phase::Download, n_done, n_chunks)?;
        let contents = outline.assemble(None, &building, watch)?;
        Ok(writer.promote(&building, contents)?)
    }

    /// Copies a chunk, unless it is there.
    fn fetch(&self, checksum: &str, path: &Path) -> Result<(), BuildError> {
        if fs::read(path).is_ok_and(|bytes| sha256_hex(&bytes) == *checksum) {
            return Ok(());
        }
        let key = self.blob(checksum);
        let damaged = |reason| BuildError::Chunk {
            path: PathBuf::from(self.objects.url(&key)),
            reason,
        };
        let found = self.objects.read(&key, u64::MAX)?;
        let bytes = found.ok_or_else(|| damaged("is missing"))?.bytes;
        if sha256_hex(&bytes) != *checksum {
            self.objects.remove(&key)?;
            return Err(damaged("is not the one that its part names"));
        }
        Ok(write_atomic(path, &bytes)?)
    }

    /// Removes what a complete build does not need: all but that it is complete.
    fn clear(&self) -> Result<(), BuildError> {
        for folder in ["parts", "blobs"] {
            self.objects.remove_folder(&self.key(folder))?;
        }
        Ok(())
    }

    /// None while what all parts share is not there.
    fn status(&self) -> Result<Option<BuildStatus>, BuildError> {
        if self.objects.length(&self.key("outline.json"))?.is_none() {
            return Ok(None);
        }
        let decided = self.decided()?;
        let began = self.objects.list(&self.key("spec.json"))?;
        let seen = Seen {
            plan: self.outline()?.plan,
            generation: decided.map(|(manifest, _)| manifest.generation),
            parts: self.parts()?,
            began: began.first().map(|entry| entry.modified),
        };
        seen.status(self.digest.clone()).map(Some)
    }

    fn no_build(&self) -> BuildError {
        no_single_build(self.objects, 0)
    }
}

/// The build that has parts and is not complete.
fn only_build(objects: &Objects) -> Result<Build<'_>, BuildError> {
    let mut builds = Vec::new();
    for digest in objects.folders("building")? {
        let build = Build::new(objects, digest);
        if build.decided()?.is_none() && !build.parts()?.is_empty() {
            builds.push(build);
        }
    }
    match (builds.pop(), builds.len()) {
        (Some(build), 0) => Ok(build),
        (None, _) => Err(no_single_build(objects, 0)),
        (Some(_), n_others) => Err(no_single_build(objects, n_others + 1)),
    }
}

fn no_single_build(objects: &Objects, n_builds: usize) -> BuildError {
    BuildError::Builds {
        collection: PathBuf::from(objects.url("")),
        n_builds,
    }
}

fn make_folder(path: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(path).map_err(|source| BuildError::Io {
        path: path.to_owned(),
        source,
    })
}
