//! What a build would take, told before it.
//!
//! The corpus is read and counted as a build does it. A sample of it is then built, by the code of every build, into a collection in
//! a temporary folder, and once more from half of the sample; files, times and memory are measured. Each is carried on by its own
//! law ([`law`]): rows and links grow with the passages, records with their bytes, dictionaries more slowly. So there
//! is no second description of the formats that could fall behind the first.
//!
//! Encoding is most of a build's time. A part of the sample is encoded and timed; the vectors of the rest are mixed from it,
//! since they cost time and bytes as any others do.

mod figure;
mod law;
mod sample;
mod trial;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use corpus::{CorpusConfig, CorpusFormat};
use encoder::BiEncoder;
use index::SketchPolicy;
use serde::Serialize;

pub use figure::Figure;

use self::law::{Law, Scale};
use self::sample::Sample;
pub(crate) use self::trial::Rows;
use self::trial::Trial;
use crate::first_pass::{check_graph, check_query_template, plan, survey};
use crate::progress::Watch;
use crate::source::Source;
use crate::{BroughtVectors, BuildConfig, BuildError, Phase, Progress};

/// Parts of what is added to a figure of time for what else the machine may do.
const TIME_MARGIN: f64 = 0.25;
/// Of memory: allocators round up and keep what was freed.
const MEMORY_MARGIN: f64 = 0.2;
/// Bytes of memory for each record, in the survey's search for ids that occur twice.
const RECORD_BYTES: u64 = 28;
/// Bytes of memory for each passage, of the store's lookup of ids.
const PASSAGE_BYTES: u64 = 16;

/// How a forecast is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForecastConfig {
    /// Records in the sample at most.
    pub max_records: usize,
    /// Bytes of the records in the sample at most; one is always taken.
    pub max_bytes: usize,
    /// Passages that are encoded at most.
    pub max_encoded: usize,
    /// Seed of the sample.
    pub seed: u64,
    /// The folder in which a temporary one is made.
    pub folder: PathBuf,
}

impl ForecastConfig {
    /// 8,192 records of 16 MiB, and 1,024 passages that are encoded.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            max_records: 8192,
            max_bytes: 16 << 20,
            max_encoded: 1024,
            seed: 0,
            folder,
        }
    }
}

/// What a build would take. Bytes and milliseconds, on this machine as busy as it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Records of the corpus, counted.
    pub records: u64,
    /// Passages, and so rows, counted.
    pub passages: u64,
    /// Lines that a build would leave out.
    pub bad_lines: u64,
    /// Values of a row.
    pub width: usize,
    /// What was tried.
    pub sample: SampleSize,
    /// Tokens that would be encoded.
    pub tokens: Figure,
    /// Passages that would be cut.
    pub truncated: Figure,
    /// The finished generation by part.
    pub disk: Vec<DiskPart>,
    /// All parts.
    pub disk_total: Figure,
    /// The most that is on disk at once during the build.
    pub disk_peak: Figure,
    /// Memory of the build, mapped files not counted.
    pub build_memory: Figure,
    /// Memory of a process that has the model loaded and serves, mapped files not counted.
    pub serve_memory: Figure,
    /// Files that a server maps; what of them is not in memory is read from disk when it is needed.
    pub serve_mapped: Figure,
    /// Memory of a graphics card.
    pub vram: u64,
    /// The phases of the build in their order.
    pub time: Vec<PhaseTime>,
    /// All phases.
    pub time_total: Figure,
    /// What the forecast itself took, in milliseconds.
    pub forecast_time: u64,
}

/// What of a corpus a forecast tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SampleSize {
    /// Records.
    pub records: u64,
    /// Passages of them.
    pub passages: u64,
    /// Passages that were encoded.
    pub encoded: u64,
    /// Tokens of those.
    pub encoded_tokens: u64,
    /// How long that took, in milliseconds.
    pub encode_time: u64,
}

/// A part of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DiskPart {
    /// `vectors`, `sketches`, `graph`, `store`, `lexical` or `manifest`.
    pub part: &'static str,
    /// Its files.
    pub bytes: Figure,
}

/// What a phase would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseTime {
    /// The phase.
    pub phase: &'static str,
    /// Milliseconds.
    pub time: Figure,
    /// Where the figure comes from.
    pub basis: Basis,
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The work itself was done.
    Measured,
    /// A sample was, and its figure carried on.
    Extrapolated,
}

/// Tells what [`crate::build`] would take.
///
/// `config.collection` is not touched. Takes the first pass over the corpus, the encoding of the sample and a few seconds;
/// memory as a build.
///
/// # Errors
/// [`BuildError`] where the build would fail in its first pass, or on the sample.
pub fn forecast(
    config: &BuildConfig,
    encoder: &BiEncoder,
    how: &ForecastConfig,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Forecast, BuildError> {
    let watch = Watch {
        progress,
        cancelled,
    };
    forecast_from(config, Source::Encoder(encoder), how, watch)
}

/// Tells what [`crate::build_from_vectors`] would take.
///
/// # Errors
/// As [`forecast`].
pub fn forecast_from_vectors(
    config: &BuildConfig,
    vectors: &BroughtVectors,
    how: &ForecastConfig,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<Forecast, BuildError> {
    let watch = Watch {
        progress,
        cancelled,
    };
    forecast_from(config, Source::Brought(vectors), how, watch)
}

fn forecast_from(
    config: &BuildConfig,
    source: Source<'_>,
    how: &ForecastConfig,
    watch: Watch<'_>,
) -> Result<Forecast, BuildError> {
    let start = Instant::now();
    let config = &config.split_if_asked();
    check_query_template(config)?;
    check_graph(config, source.width())?;
    let serve_memory = compute::anonymous_bytes().unwrap_or_default();
    let splitter = source.splitter(config)?;
    let mut sample = Sample::new(how);
    let (survey, n_passages) = survey(config, splitter, watch, &mut |record| sample.see(record))?;
    config.passage_template.check_fields(&survey.schema)?;
    let survey_time = start.elapsed();
    let chunks = plan(config, source, n_passages)?;
    let whole = Scale {
        passages: n_passages as f64,
        bytes: sample.n_bytes_seen() as f64,
    };

    let folder = tempfile::Builder::new()
        .prefix(".trawl-plan-")
        .tempdir_in(&how.folder)
        .map_err(|source| BuildError::Io {
            path: how.folder.clone(),
            source,
        })?;
    let parts = sample.parts(splitter)?;
    let mut rows = Rows::make(source, &parts, config, how.max_encoded, watch)?;
    let rows_memory = compute::anonymous_bytes().unwrap_or_default();
    let is_whole = sample.len() as u64 == survey.n_passages;
    if !is_whole {
        let per_shard = n_passages / config.n_shards as u64;
        rows.sketches = match SketchPolicy::default().applies(per_shard) {
            true => SketchPolicy::Always,
            false => SketchPolicy::Never,
        };
    }
    let trial = |name: &str, records: Vec<&corpus::Passage>| {
        let path = folder.path().join(format!("{name}.jsonl"));
        write_records(&path, &records)?;
        let config = BuildConfig {
            collection: folder.path().join(name),
            corpus: CorpusConfig {
                paths: vec![path],
                format: CorpusFormat::Jsonl,
                schema: Some(survey.schema.clone()),
                split: config.corpus.split,
                ..CorpusConfig::default()
            },
            n_shards: if is_whole { config.n_shards } else { 1 },
            base: None,
            mode: collection::BuildMode::New,
            publish: false,
            ..config.clone()
        };
        Trial::run(&config, &source, &rows, sample::n_bytes(&records), watch)
    };
    let full = trial("sample", sample.records())?;
    let half = match is_whole || sample.len() < 2 {
        true => None,
        false => Some(trial("half", sample.half())?),
    };
    let laws = Laws {
        whole,
        n_shards: config.n_shards,
        full: &full,
        half: half.as_ref(),
    };

    let tokens = rows.tokens(n_passages);
    let disk = laws.disk();
    let disk_total: Figure = disk.iter().map(|part| part.bytes).sum();
    let mut disk_peak = disk_total + laws.work_bytes();
    if sample.n_bytes_seen() > store::SEGMENT_BYTES as u64 {
        let lexical = disk.iter().find(|part| part.part == "lexical");
        disk_peak.high += lexical.map_or(0, |part| part.bytes.high); // segments, while they are merged
    }
    let graph = disk.iter().find(|part| part.part == "graph");
    let graph = graph.map_or(Figure::default(), |part| {
        part.bytes.times(1.0 / config.n_shards as f64)
    });
    let queue = |n_bytes: u64| 2 * n_bytes.min(store::SEGMENT_BYTES as u64);
    let in_memory = rows_memory.max(full.anonymous_bytes)
        + RECORD_BYTES * survey.n_passages
        + PASSAGE_BYTES * n_passages
        + queue(sample.n_bytes_seen()).saturating_sub(queue(full.bytes));
    let build_memory = Figure::about(in_memory as f64, MEMORY_MARGIN)
        + graph.times(1.0 - full.passages as f64 / n_passages as f64);
    let mut time = vec![PhaseTime {
        phase: Phase::Survey.as_str(),
        time: Figure::exactly(survey_time.as_millis() as u64),
        basis: Basis::Measured,
    }];
    time.extend(laws.time(&rows, tokens));
    let time_total = time.iter().map(|phase| phase.time).sum();
    Ok(Forecast {
        records: survey.n_passages,
        passages: n_passages,
        bad_lines: survey.n_bad,
        width: chunks.width,
        sample: SampleSize {
            records: sample.len() as u64,
            passages: parts.len() as u64,
            encoded: rows.n_encoded as u64,
            encoded_tokens: rows.encoded_tokens,
            encode_time: rows.encode_time.as_millis() as u64,
        },
        tokens,
        truncated: rows.truncated(n_passages),
        disk_total,
        disk_peak,
        build_memory,
        serve_memory: Figure::about(serve_memory as f64, MEMORY_MARGIN),
        serve_mapped: disk_total,
        disk,
        vram: 0,
        time,
        time_total,
        forecast_time: start.elapsed().as_millis() as u64,
    })
}

fn write_records(path: &Path, records: &[&corpus::Passage]) -> Result<(), BuildError> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record).expect("a record has string keys only");
        lines.push(b'\n');
    }
    fs::write(path, lines).map_err(|source| BuildError::Io {
        path: path.to_owned(),
        source,
    })
}

/// What two trials say about the whole.
struct Laws<'a> {
    whole: Scale,
    n_shards: usize,
    full: &'a Trial,
    half: Option<&'a Trial>,
}

impl Laws<'_> {
    /// Carries a number of both trials on.
    fn carry(&self, law: Law, number: impl Fn(&Trial) -> f64) -> Figure {
        // Shards are alike, and one after the other.
        let parts = |n_shards: usize| {
            if law.is_of_shards() {
                n_shards as f64
            } else {
                1.0
            }
        };
        let of = |trial: &Trial| {
            let n = parts(trial.n_shards);
            (trial.scale().times(1.0 / n), number(trial) / n)
        };
        let n = parts(self.n_shards);
        let whole = self.whole.times(1.0 / n);
        law.carry(self.half.map(of), of(self.full), whole).times(n)
    }

    fn disk(&self) -> Vec<DiskPart> {
        let mut parts: BTreeMap<usize, Figure> = BTreeMap::new();
        for kind in self.full.files.keys() {
            let (position, law) = kind.part();
            *parts.entry(position).or_default() += self.carry(law, |trial| {
                trial.files.get(kind).copied().unwrap_or_default() as f64
            });
        }
        let part = |(position, bytes)| DiskPart {
            part: trial::PARTS[position],
            bytes,
        };
        parts.into_iter().map(part).collect()
    }

    /// Chunks, which are there until the generation is complete.
    fn work_bytes(&self) -> Figure {
        self.carry(Law::Bytes, |trial| trial.work_bytes as f64)
    }

    fn time(&self, rows: &Rows<'_>, tokens: Figure) -> Vec<PhaseTime> {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let seen = trial::PHASES.into_iter();
        let seen = seen.filter(|(phase, _)| self.full.times.contains_key(phase));
        seen.map(|(phase, law)| {
            let time = self.carry(law, |trial| ms(trial.time_of(phase)));
            let mut time = time.or_about(TIME_MARGIN);
            if phase == Phase::Encode && rows.encoded_tokens > 0 {
                let ms_per_token = ms(rows.encode_time) / rows.encoded_tokens as f64;
                time += tokens.times(ms_per_token).or_about(TIME_MARGIN);
            }
            PhaseTime {
                phase: phase.as_str(),
                time,
                basis: Basis::Extrapolated,
            }
        })
        .collect()
    }
}
