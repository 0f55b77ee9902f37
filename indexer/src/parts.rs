//! A build in parts: by any number of processes, on any machines that share the folder, started by any scheduler.
//!
//! Part i of N holds the chunks from ⌊i·n/N⌋ on, of n. Each process reads the corpus as every build does and encodes the chunks of
//! its part that are not there, in `building/<spec digest>/work`, beside all others. Every file is created whole or not at
//! all, and never replaced: where two attempts at one part race, each chunk is that of the faster one. A part is done when its record
//! is there, which names its chunks:
//!
//! ```text
//! work/outline.json              what the assembly needs to know beside the chunks; of the first process
//! work/000000.chunk …            vectors and records
//! work/parts/00003-of-00008.json the record of a part: its chunks with their checksums
//! ```
//!
//! [`commit`] puts the chunks together as a build that was never interrupted does, and needs neither corpus nor model.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;

use collection::{
    BuildMode, Building, Collection, GenerationId, Manifest, Start, create_atomic, sha256_hex,
};
use encoder::BiEncoder;
use serde::{Deserialize, Serialize};

use crate::build::{Made, finish, log_position};
use crate::chunk;
use crate::encode::{Encoding, Plan, encode_chunks};
use crate::first_pass::{FirstPass, Outline};
use crate::progress::Watch;
use crate::source::Source;
use crate::{BuildConfig, BuildError, BuildReport, NotReused, Progress};

const OUTLINE: &str = "outline.json";

/// One of N parts, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartNumber {
    number: usize,
    of: usize,
}

impl PartNumber {
    /// Part `number` of `of`; none unless it is one of them.
    #[must_use]
    pub fn new(number: usize, of: usize) -> Option<Self> {
        (number < of).then_some(Self { number, of })
    }

    /// The chunks of the part.
    pub(crate) fn chunks(self, plan: Plan) -> Range<usize> {
        let first =
            |number: usize| (number as u128 * plan.n_chunks() as u128 / self.of as u128) as usize;
        first(self.number)..first(self.number + 1)
    }

    /// The file of its record.
    fn record(self, work: &Path) -> PathBuf {
        records(work).join(self.file_name())
    }

    /// The name of the file of its record.
    pub(crate) fn file_name(self) -> String {
        let Self { number, of } = self;
        format!("{number:05}-of-{of:05}.json")
    }

    /// The part that has a record of this name.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let (number, of) = name.strip_suffix(".json")?.split_once("-of-")?;
        Self::new(number.parse().ok()?, of.parse().ok()?)
    }
}

/// `i/N`.
impl FromStr for PartNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        let part = numbers.and_then(|(number, of)| Self::new(number, of));
        part.ok_or_else(|| "expected i/N with i from 0 to N - 1, such as 3/8".to_owned())
    }
}

impl fmt::Display for PartNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.number, self.of)
    }
}

/// What was done for a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartReport {
    /// sha256 of all that decides the content: names the build to [`commit`].
    pub build: String,
    /// The generation, when the build was completed already.
    pub generation: Option<GenerationId>,
    /// Passages of the part.
    pub passages: u64,
    /// Chunks of the part.
    pub chunks: usize,
    /// How many of them this process encoded.
    pub encoded_chunks: usize,
}

/// The record of a part.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    part: usize,
    of: usize,
    /// sha256 of the files of its chunks, in order.
    chunks: Vec<String>,
}

impl Record {
    pub fn new(part: PartNumber, chunks: Vec<String>) -> Self {
        let PartNumber { number, of } = part;
        Self {
            part: number,
            of,
            chunks,
        }
    }

    /// sha256 of the files of its chunks, in order.
    pub fn chunks(&self) -> &[String] {
        &self.chunks
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has string keys only")
    }

    /// The record with this content; none when it is damaged.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Into how many parts a build is divided of which these are done: all of them have to be.
pub(crate) fn number_of_parts(done: &[PartNumber]) -> Result<usize, BuildError> {
    let missing = |of: usize| -> Vec<PartNumber> {
        let parts = (0..of).map(|number| PartNumber { number, of });
        parts.filter(|part| !done.contains(part)).collect()
    };
    let counts: BTreeSet<usize> = done.iter().map(|part| part.of).collect();
    // Attempts with several N may be there; one of them has to be complete.
    let best = counts.into_iter().min_by_key(|&of| missing(of).len());
    let of = best.unwrap_or(1);
    let missing = missing(of);
    if missing.is_empty() {
        return Ok(of);
    }
    Err(BuildError::MissingParts {
        missing: missing.iter().map(|part| part.number).collect(),
        of,
    })
}

/// A part of a build, wherever the build is kept.
pub(crate) struct Part<'a> {
    pub(crate) first: FirstPass,
    source: Source<'a>,
    /// Its chunks.
    pub(crate) chunks: Range<usize>,
}

impl<'a> Part<'a> {
    /// Reads the corpus as every build does.
    pub(crate) fn read(
        config: &BuildConfig,
        encoder: &'a BiEncoder,
        number: PartNumber,
        watch: Watch<'_>,
    ) -> Result<Self, BuildError> {
        let source = Source::Encoder(encoder);
        let first = FirstPass::read(config, source, watch)?;
        let chunks = number.chunks(first.outline.plan);
        Ok(Self {
            first,
            source,
            chunks,
        })
    }

    fn passages(&self, chunk: usize) -> u64 {
        u64::from(self.first.outline.plan.place(chunk).n_rows)
    }

    /// What is to be said of it while nothing is encoded.
    pub(crate) fn report(&self, build: String) -> PartReport {
        PartReport {
            build,
            generation: None,
            passages: self.chunks.clone().map(|chunk| self.passages(chunk)).sum(),
            chunks: self.chunks.len(),
            encoded_chunks: 0,
        }
    }

    /// Encodes the chunks that `work` lacks, if the disk of `folder` has room for them; returns how many.
    pub(crate) fn encode(
        &self,
        work: &Path,
        folder: &Path,
        watch: Watch<'_>,
    ) -> Result<usize, BuildError> {
        let plan = self.first.outline.plan;
        let is_missing = |chunk: &usize| !plan.is_finished(work, *chunk, None);
        let to_do: Vec<usize> = self.chunks.clone().filter(is_missing).collect();
        let n_missing = to_do.iter().map(|&chunk| self.passages(chunk)).sum();
        self.first.check_room(folder, n_missing, true, false)?;
        let encoding = Encoding {
            config: &self.first.config,
            source: self.source,
            base: None,
            plan,
            stamp: &self.first.stamp,
            work,
        };
        encode_chunks(encoding, &to_do, watch)?;
        Ok(to_do.len())
    }
}

/// Encodes one part of the build that `config` describes. Done again, it finds what is done.
///
/// Vectors are not taken over from an earlier generation; `config.base`, `config.mode` and `config.publish` mean nothing here.
///
/// # Errors
/// [`BuildError`], as [`crate::build`].
pub fn encode_part(
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
    let mut report = opened.report(String::new());
    let building = match Collection::create(&config.collection)?.begin_shared(&opened.first.spec)? {
        Start::Build(building) => building,
        Start::Done(generation) => {
            report.build = generation.manifest.spec_digest;
            report.generation = Some(generation.id);
            return Ok(report);
        }
    };
    building.spec_digest().clone_into(&mut report.build);
    let work = building.work();
    share_outline(&work, &opened.first.outline)?;
    report.encoded_chunks = opened.encode(&work, &opened.first.config.collection, watch)?;
    let checksum = |number| -> Result<String, BuildError> {
        let path = chunk::path(&work, number);
        Ok(sha256_hex(&read(&path)?))
    };
    let record = Record::new(part, opened.chunks.map(checksum).collect::<Result<_, _>>()?);
    let path = part.record(&work);
    if read_record(&path).ok().as_ref() != Some(&record) {
        remove_if_there(&path)?;
        create_atomic(&path, &record.to_bytes())?;
    }
    Ok(report)
}

/// Which build to complete, and whether to publish it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitConfig {
    /// Folder of the collection.
    pub collection: PathBuf,
    /// [`PartReport::build`]; none for the only one that has parts.
    pub build: Option<String>,
    /// Whether the generation becomes `live`; the first one of a collection always does.
    pub publish: bool,
}

/// Puts the parts of a build together. Done again for a build by its name, it finds the generation.
///
/// # Errors
/// [`BuildError::MissingParts`], [`BuildError::Builds`] when it is not clear which build is meant, and [`BuildError::Record`] or
/// [`BuildError::Chunk`] where a part is damaged: that part can be encoded again.
pub fn commit(
    config: &CommitConfig,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<BuildReport, BuildError> {
    let watch = Watch {
        progress,
        cancelled,
    };
    let collection = Collection::open(&config.collection)?;
    let writer = collection.writer("index commit")?;
    let build = match &config.build {
        Some(build) => build.clone(),
        None => only_build(&collection)?,
    };
    if let Some(generation) = collection.built_from(&build)? {
        let made = Made {
            n_resumed: generation.manifest.counts.passages,
            not_reused: Some(NotReused::Finished),
            ..Made::default()
        };
        return finish(&writer, generation, config.publish, made);
    }
    let spec = collection.spec(&build)?;
    let building = match writer.begin(&spec, BuildMode::Resume)? {
        Start::Build(building) => building,
        Start::Done(generation) => {
            return finish(&writer, *generation, config.publish, Made::default());
        }
    };
    if !has_parts(building.path()) {
        return Err(BuildError::Builds {
            collection: config.collection.clone(),
            n_builds: 0,
        });
    }
    let outline = outline_of(&building.work())?;
    check_parts(&building, outline.plan)?;
    let contents = Manifest {
        log_position: log_position(&collection, None)?,
        ..outline.assemble(None, &building, watch)?
    };
    let made = Made {
        not_reused: Some(NotReused::Full),
        schema: outline.schema().clone(),
        ..Made::default()
    };
    let generation = writer.promote(&building, contents)?;
    finish(&writer, generation, config.publish, made)
}

/// The build that has parts.
fn only_build(collection: &Collection) -> Result<String, BuildError> {
    let builds = collection.unfinished()?.into_iter();
    let builds: Vec<_> = builds.filter(|path| has_parts(path)).collect();
    let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
    match builds.as_slice() {
        [path] => name(path),
        _ => None,
    }
    .ok_or_else(|| BuildError::Builds {
        collection: collection.root().to_owned(),
        n_builds: builds.len(),
    })
}

/// Checks that all N parts have their records, for some N, and that the chunks are those that they name.
fn check_parts(building: &Building, plan: Plan) -> Result<(), BuildError> {
    let work = building.work();
    let folder = records(&work);
    let failed = |source| BuildError::Io {
        path: folder.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(PartNumber::of_file));
    }
    let of = number_of_parts(&found)?;
    for number in 0..of {
        let part = PartNumber { number, of };
        let record = read_record(&part.record(&work))?;
        let chunks = part.chunks(plan);
        let damaged = |path, reason| BuildError::Chunk { path, reason };
        if (record.part, record.of) != (number, of) || record.chunks.len() != chunks.len() {
            return Err(BuildError::Record {
                path: part.record(&work),
            });
        }
        for (chunk, checksum) in chunks.zip(&record.chunks) {
            let path = chunk::path(&work, chunk);
            match read(&path) {
                Ok(bytes) if sha256_hex(&bytes) == *checksum => {}
                Ok(_) => return Err(damaged(path, "is not the one that its part names")),
                Err(_) => return Err(damaged(path, "is missing")),
            }
        }
    }
    Ok(())
}

/// Writes what all parts share, unless another process has.
fn share_outline(work: &Path, outline: &Outline) -> Result<(), BuildError> {
    let path = work.join(OUTLINE);
    let folder = records(work);
    fs::create_dir_all(&folder).map_err(|source| BuildError::Io {
        path: folder,
        source,
    })?;
    if path.exists() && Outline::from_slice(&read(&path)?).is_none() {
        remove_if_there(&path)?; // Damaged.
    }
    if !path.exists() {
        create_atomic(&path, &outline.to_bytes())?;
    }
    Ok(())
}

/// Whether a build is made in parts: whether what they share is there, which comes before any of them.
pub(crate) fn has_parts(build: &Path) -> bool {
    build.join("work").join(OUTLINE).exists()
}

/// What the parts share.
pub(crate) fn outline_of(work: &Path) -> Result<Outline, BuildError> {
    let path = work.join(OUTLINE);
    Outline::from_slice(&read(&path)?).ok_or(BuildError::Record { path })
}

pub(crate) fn records(work: &Path) -> PathBuf {
    work.join("parts")
}

fn read_record(path: &Path) -> Result<Record, BuildError> {
    Record::from_slice(&read(path)?).ok_or_else(|| BuildError::Record {
        path: path.to_owned(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    fs::read(path).map_err(|source| BuildError::Io {
        path: path.to_owned(),
        source,
    })
}

fn remove_if_there(path: &Path) -> Result<(), BuildError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BuildError::Io {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
