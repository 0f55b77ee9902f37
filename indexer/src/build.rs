//! From a corpus to a generation.

use std::cell::RefCell;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use collection::{
    AliasName, Collection, Counts, Generation, GenerationId, LIVE, Manifest, Reused, Start,
    Templates,
};
use corpus::{BadLine, CorpusError, Passage, Schema, Survey, TemplateError};
use encoder::{BiEncoder, Fingerprint};
use index::Metric;
use serde_json::{Value, json};
use store::StoreConfig;

use crate::assemble::{Assembled, Layout, assemble};
use crate::base::Base;
use crate::digest::content_digest;
use crate::encode::{Plan, encode_chunks};
use crate::progress::Watch;
use crate::source::Source;
use crate::splitter::Splitter;
use crate::{
    BroughtVectors, BuildConfig, BuildError, LogPosition, NotReused, Phase, Progress, Reuse,
};

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
    let config = &config.split_if_asked();
    check_query_template(config)?;
    let stamp = CorpusStamp::take(config)?;
    let splitter = source.splitter(config)?;
    let (survey, n_passages) = survey(config, splitter, watch, &mut |_| ())?;
    config.passage_template.check_fields(&survey.schema)?;
    let plan = plan(config, source, n_passages)?;
    let metric = source.metric();
    let fingerprint = source.fingerprint(config);
    let spec = spec(config, &survey, source, &fingerprint, metric);
    // Only now, so that a corpus that cannot be read leaves no empty collection.
    let collection = Collection::create(&config.collection)?;
    let writer = collection.writer("index build")?;
    let log_position = log_position(&collection, config)?;
    let mut encode_time = Duration::ZERO;
    let (generation, n_resumed, not_reused) = match writer.begin(&spec, config.mode)? {
        Start::Done(generation) => (*generation, n_passages, Some(NotReused::Finished)),
        Start::Build(building) => {
            let work = building.work();
            let (base, not_reused) = match Base::open(&collection, config, source, &fingerprint)? {
                Ok(base) => (Some(base), None),
                Err(reason) => (None, Some(reason)),
            };
            let base = base.as_ref();
            let n_finished = plan.n_finished(&work, base.map(|base| &base.generation));
            let start = Instant::now();
            encode_chunks(config, source, base, plan, &work, n_finished, watch)?;
            encode_time = start.elapsed();
            if CorpusStamp::take(config)? != stamp {
                building.discard()?; // Some chunks may hold what the digest does not stand for.
                return Err(BuildError::CorpusChanged);
            }
            let store = StoreConfig {
                language: config.language,
                schema: survey.schema.clone(),
                ..StoreConfig::default()
            };
            let layout = Layout {
                n_shards: config.n_shards,
                metric,
                rows: config.rows,
                sketches: source.sketches(),
                graph: config.graph.clone(),
                store,
                arithmetic: source.arithmetic(),
                keep_inputs: source.keeps_inputs(),
            };
            let Assembled {
                shards,
                counts,
                n_reused,
            } = assemble(plan, &layout, base, &work, building.path(), watch)?;
            let contents = Manifest {
                fingerprint_digest: fingerprint.digest(),
                fingerprint: to_value(&fingerprint),
                corpus_digest: survey.digest.clone(),
                content_digest: content_digest(building.path(), &shards, watch)?,
                counts: Counts {
                    bad_lines: survey.n_bad,
                    ..counts
                },
                width: plan.width,
                metric: metric.as_str().to_owned(),
                shards,
                batch_invariant: source.batch_invariant(),
                templates: Templates {
                    passage: config.passage_template.as_str().to_owned(),
                    query: config.query_template.as_str().to_owned(),
                },
                schema: to_value(&survey.schema),
                build: to_value(config),
                log_position,
                reused: base.map(|base| Reused {
                    generation: base.generation.clone(),
                    passages: n_reused,
                }),
                ..Manifest::default()
            };
            let n_resumed = (n_finished as u64 * u64::from(plan.chunk_passages)).min(n_passages);
            (writer.promote(&building, contents)?, n_resumed, not_reused)
        }
    };
    if config.publish {
        writer.publish(&generation.id)?;
    }
    let live = collection
        .aliases()?
        .get(&AliasName::parse(LIVE).expect("it is a name"))
        == Some(&generation.id);
    tracing::info!(generation = %generation.id, n_passages = generation.manifest.counts.passages, live, "generation built");
    let Generation { id, path, manifest } = generation;
    let reuse = match (not_reused, manifest.reused) {
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
        n_resumed,
        reuse,
        encode_time,
        bad_examples: survey.bad_examples,
        schema: survey.schema,
    })
}

/// The position of the write log that the corpus holds already: what comes after it is replayed on the generation.
fn log_position(collection: &Collection, config: &BuildConfig) -> Result<u64, BuildError> {
    let positions = collection.log_positions()?;
    let (first, last) = (positions.start - 1, positions.end - 1);
    match config.log_position {
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

/// A query brings nothing but its text.
pub(crate) fn check_query_template(config: &BuildConfig) -> Result<(), TemplateError> {
    let fields = config.query_template.fields();
    match fields.iter().find(|field| *field != "text") {
        None => Ok(()),
        Some(field) => Err(TemplateError::UnknownField {
            field: field.clone(),
            known: vec!["text".to_owned()],
        }),
    }
}

/// The first pass, which shows every record to `see`. Returns what it finds and the number of passages that the records are
/// split into.
pub(crate) fn survey(
    config: &BuildConfig,
    splitter: Option<Splitter<'_>>,
    watch: Watch<'_>,
    see: &mut dyn FnMut(&Passage),
) -> Result<(Survey, u64), BuildError> {
    let failed = RefCell::new(None);
    let note = |error: BuildError| {
        *failed.borrow_mut() = Some(error);
        ControlFlow::Break(())
    };
    let mut n_passages = 0;
    let surveyed = corpus::survey_each(
        &config.corpus,
        &mut |document| {
            see(document);
            let n_parts = splitter.map_or(Ok(1), |splitter| splitter.n_parts(document));
            match n_parts {
                Ok(n_parts) => n_passages += n_parts as u64,
                Err(error) => return note(error.into()),
            }
            ControlFlow::Continue(())
        },
        &mut |found| {
            let (done, total) = (found.n_bytes_read, found.n_bytes_total);
            match watch.update(Phase::Survey, done, total) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => note(error),
            }
        },
    );
    match failed.take() {
        Some(error) => Err(error),
        None => Ok((surveyed?, n_passages)),
    }
}

pub(crate) fn plan(
    config: &BuildConfig,
    source: Source<'_>,
    n_passages: u64,
) -> Result<Plan, BuildError> {
    let (n_shards, max) = (config.n_shards, u64::from(u32::MAX));
    if n_passages > max {
        return Err(BuildError::TooManyPassages { n_passages, max });
    }
    if n_shards == 0 || n_shards as u64 > n_passages {
        return Err(BuildError::Shards {
            n_shards,
            n_passages,
        });
    }
    if let Source::Brought(vectors) = source {
        vectors.check_count(n_passages)?;
    }
    if config.chunk_passages == 0 {
        return Err(BuildError::EmptyChunks);
    }
    let chunk_passages = config.chunk_passages.min(n_passages as usize) as u32;
    Ok(Plan {
        n_passages: n_passages as u32,
        chunk_passages,
        width: source.width(),
    })
}

/// Everything that decides the content of a generation, and nothing else: equal specs give equal content.
fn spec(
    config: &BuildConfig,
    survey: &Survey,
    source: Source<'_>,
    fingerprint: &Fingerprint,
    metric: Metric,
) -> Value {
    json!({
        "spec_version": 1,
        "corpus_digest": survey.digest,
        "fingerprint": fingerprint.digest(),
        "vectors_digest": source.digest(),
        "passage_template": config.passage_template.as_str(),
        "passage_pair": config.passage_pair,
        "query_template": config.query_template.as_str(),
        "chunk_passages": config.chunk_passages,
        "n_shards": config.n_shards,
        "metric": metric.as_str(),
        "rows": config.rows.as_str(),
        "graph": config.graph,
        "schema": to_value(&survey.schema),
        "language": config.language.as_str(),
        "arithmetic": source.arithmetic(),
    })
}

pub(crate) fn to_value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("configs, schemas and fingerprints have string keys only")
}

/// Length and time of change of every file of the corpus: a cheap proof that both passes read the same bytes.
#[derive(PartialEq)]
struct CorpusStamp(Vec<(u64, Option<SystemTime>)>);

impl CorpusStamp {
    fn take(config: &BuildConfig) -> Result<Self, BuildError> {
        let stamp = |path: &PathBuf| match fs::metadata(path) {
            Ok(metadata) => Ok((metadata.len(), metadata.modified().ok())),
            Err(source) => Err(CorpusError::Open {
                path: path.clone(),
                source,
            }
            .into()),
        };
        config
            .corpus
            .paths
            .iter()
            .map(stamp)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}
