//! From a corpus to a generation.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use collection::{
    AliasName, Collection, CollectionError, Counts, Generation, GenerationId, LIVE, Manifest,
    Start, Writer, create_atomic, sha256_hex,
};
use corpus::{BadLine, Schema};
use encoder::BiEncoder;

use crate::base::Base;
use crate::encode::{Encoding, encode_chunks};
use crate::first_pass::FirstPass;
use crate::progress::Watch;
use crate::source::Source;
use crate::{BroughtVectors, BuildConfig, BuildError, LogPosition, NotReused, Progress, Reuse};

/// Beside the chunks: where the write log ended when the build began.
const LOG_END: &str = "log_end";

/// What a build made.
#[derive(Clone, Debug)]
pub struct BuildReport {
    /// The generation.
    pub generation: GenerationId,
    /// Its folder.
    pub path: PathBuf,
    /// sha256 over its content.
    pub content_digest: String,
    /// Whether it is `live` now.
    pub live: bool,
    /// What was read and written.
    pub counts: Counts,
    /// Passages whose vectors an earlier, interrupted run had made.
    pub n_resumed: u64,
    /// What was taken over from the generation before.
    pub reuse: Reuse,
    /// How long this run read, tokenised and encoded passages.
    pub encode_time: Duration,
    /// Some of the lines that were skipped as bad.
    pub bad_examples: Vec<BadLine>,
    /// The metadata fields, declared or inferred.
    pub schema: Schema,
}

/// Builds a generation and publishes it if asked to, or if it is the collection's first.
///
/// Vectors of passages that the generation [`BuildConfig::base`] names has already are taken over from it, when it has
/// the same fingerprint.
///
/// When `cancelled` becomes true it stops after the chunk it is encoding.
///
/// # Errors
/// [`BuildError`]; readers of the collection then see no change. [`BuildError::Interrupted`] when cancelled.
pub fn build(
    config: &BuildConfig,
    encoder: &BiEncoder,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<BuildReport, BuildError> {
    build_from(config, Source::Encoder(encoder), progress, cancelled)
}

/// Builds a generation, as [`build`] does, of vectors that were made elsewhere; templates and model are not used.
///
/// # Errors
/// As [`build`]; [`BuildError::Vectors`] when passages and vectors do not correspond one to one.
pub fn build_from_vectors(
    config: &BuildConfig,
    vectors: &BroughtVectors,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<BuildReport, BuildError> {
    build_from(config, Source::Brought(vectors), progress, cancelled)
}

pub(crate) fn build_from(
    config: &BuildConfig,
    source: Source<'_>,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<BuildReport, BuildError> {
    let watch = Watch {
        progress,
        cancelled,
    };
    // Locked before the corpus is read, which may take long: who may not write is told at once, and nobody shortens the log.
    let locked = match Collection::open(&config.collection) {
        Ok(collection) => Some(collection.writer("index build")?),
        Err(CollectionError::NotACollection { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    // The corpus does not have what is written from here on.
    let log_end = match &locked {
        Some(writer) => writer.collection().log_positions()?.end - 1,
        None => 0,
    };
    let first = FirstPass::read(config, source, watch)?;
    let (config, plan) = (&first.config, first.outline.plan);
    let writer = match locked {
        Some(writer) => writer,
        // Only now, so that a corpus that cannot be read leaves no empty collection.
        None => Collection::create(&config.collection)?.writer("index build")?,
    };
    let collection = writer.collection();
    let contained = log_position(collection, config.log_position)?;
    let mut encode_time = Duration::ZERO;
    let n_passages = u64::from(plan.n_passages);
    let (generation, n_resumed, not_reused) = match writer.begin(&first.spec, config.mode)? {
        Start::Done(generation) => (*generation, n_passages, Some(NotReused::Finished)),
        Start::Build(building) => {
            let work = building.work();
            keep_log_end(&work, log_end)?;
            let contained = match config.log_position {
                Some(LogPosition::End) => {
                    log_position(collection, Some(LogPosition::At(kept_log_end(&work)?)))?
                }
                _ => contained,
            };
            let fingerprint = &first.fingerprint;
            let (base, not_reused) = match Base::open(collection, config, source, fingerprint)? {
                Ok(base) => (Some(base), None),
                Err(reason) => (None, Some(reason)),
            };
            let base = base.as_ref();
            let n_finished = plan.n_finished(&work, base.map(|base| &base.generation));
            let to_do: Vec<usize> = (n_finished..plan.n_chunks()).collect();
            let n_resumed = (n_finished as u64 * u64::from(plan.chunk_passages)).min(n_passages);
            let root = collection.root();
            let (n_left, encoded) = (n_passages - n_resumed, base.is_none());
            first.check_room(root, n_left, encoded, true)?;
            let encoding = Encoding {
                config,
                source,
                base,
                plan,
                stamp: &first.stamp,
                work: &work,
            };
            let start = Instant::now();
            let encoded = encode_chunks(encoding, &to_do, watch);
            if let Err(error) = encoded.and_then(|()| first.stamp.check(config)) {
                if matches!(error, BuildError::CorpusChanged) {
                    building.discard()?; // It is of a corpus that is no more.
                }
                return Err(error);
            }
            encode_time = start.elapsed();
            let contents = Manifest {
                log_position: contained,
                ..first.outline.assemble(base, &building, watch)?
            };
            (writer.promote(&building, contents)?, n_resumed, not_reused)
        }
    };
    let made = Made {
        n_resumed,
        encode_time,
        not_reused,
        bad_examples: first.survey.bad_examples,
        schema: first.survey.schema,
    };
    finish(&writer, generation, config.publish, made)
}

/// What a process knows of its build beside the generation.
#[derive(Default)]
pub(crate) struct Made {
    pub n_resumed: u64,
    pub encode_time: Duration,
    pub not_reused: Option<NotReused>,
    pub bad_examples: Vec<BadLine>,
    pub schema: Schema,
}

/// Publishes a generation if asked to, and reports it.
pub(crate) fn finish(
    writer: &Writer,
    generation: Generation,
    publish: bool,
    made: Made,
) -> Result<BuildReport, BuildError> {
    if publish {
        writer.publish(&generation.id)?;
    }
    let aliases = writer.collection().aliases()?;
    let live = aliases.get(&AliasName::parse(LIVE).expect("it is a name")) == Some(&generation.id);
    tracing::info!(generation = %generation.id, n_passages = generation.manifest.counts.passages, live, "generation built");
    let Generation { id, path, manifest } = generation;
    let reuse = match (made.not_reused, manifest.reused) {
        (None, Some(reused)) => Reuse::From {
            generation: reused.generation,
            n_passages: reused.passages,
        },
        (reason, _) => Reuse::Nothing(reason.unwrap_or(NotReused::Full)),
    };
    Ok(BuildReport {
        generation: id,
        path,
        content_digest: manifest.content_digest,
        live,
        counts: manifest.counts,
        n_resumed: made.n_resumed,
        reuse,
        encode_time: made.encode_time,
        bad_examples: made.bad_examples,
        schema: made.schema,
    })
}

/// Keeps where the log ended when a build began, unless that is kept already.
fn keep_log_end(work: &Path, log_end: u64) -> Result<(), BuildError> {
    create_atomic(&work.join(LOG_END), log_end_line(log_end).as_bytes())?;
    Ok(())
}

/// Where the log ended when a build began.
fn kept_log_end(work: &Path) -> Result<u64, BuildError> {
    let path = work.join(LOG_END);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(BuildError::Io { path, source }),
    };
    let number = text
        .split(' ')
        .next()
        .and_then(|text| text.parse::<u64>().ok());
    number
        .filter(|&log_end| log_end_line(log_end) == text)
        .ok_or(BuildError::Record { path })
}

/// With a checksum: another position would lose documents.
fn log_end_line(log_end: u64) -> String {
    let number = log_end.to_string();
    format!("{number} {}\n", sha256_hex(number.as_bytes()))
}

/// The position of the write log that the corpus holds already: what comes after it is replayed on the generation.
pub(crate) fn log_position(
    collection: &Collection,
    asked: Option<LogPosition>,
) -> Result<u64, BuildError> {
    let positions = collection.log_positions()?;
    let (first, last) = (positions.start - 1, positions.end - 1);
    match asked {
        None => Ok(first),
        Some(LogPosition::End) => Ok(last),
        Some(LogPosition::At(position)) if (first..=last).contains(&position) => Ok(position),
        Some(LogPosition::At(position)) => Err(BuildError::LogPosition {
            position,
            first,
            last,
        }),
    }
}
