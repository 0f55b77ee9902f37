//! A build of a sample, measured.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use corpus::Passage;
use index::SketchPolicy;

use super::Figure;
use super::law::{Law, Scale};
use super::sample::hash;
use crate::build::build_from;
use crate::inputs::Input;
use crate::progress::Watch;
use crate::source::{Source, Work};
use crate::splitter::Part;
use crate::{BuildConfig, BuildError, Phase, Progress};

/// Passages encoded ahead of the clock: the first ones wait for threads and memory.
const N_WARM: usize = 32;
/// How far a mixed row is from the encoded one that it begins with, in differences of two others.
const MIXED: f32 = 0.3;

/// The parts of a generation, in the order of a reader's interest.
pub(super) const PARTS: [&str; 6] = [
    "vectors", "sketches", "graph", "store", "lexical", "manifest",
];

/// Phases of a trial and the laws of their times.
pub(super) const PHASES: [(Phase, Law); 5] = [
    (Phase::Encode, Law::Bytes),
    (Phase::Assemble, Law::Bytes),
    (Phase::Graph, Law::Graph),
    (Phase::Lexical, Law::Bytes),
    (Phase::Digest, Law::Bytes),
];

/// Files that grow alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FileKind {
    Rows,
    Sketches,
    Graph,
    Store,
    /// Of the lexical index, by extension.
    Lexical(String),
    Manifest,
}

impl FileKind {
    fn of(name: &str) -> Self {
        let (folder, file) = name.split_once('/').unwrap_or(("", name));
        match (folder, file) {
            ("shards", file) if file.ends_with("graph.trawl") => Self::Graph,
            ("shards", _) => Self::Sketches, // beside the rows, which are told apart
            ("lexical", file) => {
                let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
                Self::Lexical(extension.to_owned())
            }
            (_, "manifest.json") => Self::Manifest,
            _ => Self::Store,
        }
    }

    /// Position in [`PARTS`], and the law.
    pub fn part(&self) -> (usize, Law) {
        match self {
            Self::Rows => (0, Law::Rows),
            Self::Sketches => (1, Law::Shards),
            Self::Graph => (2, Law::Shards),
            Self::Store => (3, Law::Bytes),
            Self::Lexical(extension) => match extension.as_str() {
                "term" | "idx" => (4, Law::Vocabulary),
                _ => (4, Law::Passages),
            },
            Self::Manifest => (5, Law::Passages),
        }
    }
}

/// What a build of a sample took.
#[derive(Debug)]
pub(super) struct Trial {
    pub passages: u64,
    /// Bytes of the records.
    pub bytes: u64,
    pub n_shards: usize,
    pub files: BTreeMap<FileKind, u64>,
    /// Chunks before they were assembled.
    pub work_bytes: u64,
    pub times: BTreeMap<Phase, Duration>,
    /// Memory of the process at most, mapped files not counted.
    pub anonymous_bytes: u64,
}

impl Trial {
    /// Builds the collection that `config` describes, of rows that are there.
    pub fn run(
        config: &BuildConfig,
        origin: &Source<'_>,
        rows: &Rows<'_>,
        bytes: u64,
        watch: Watch<'_>,
    ) -> Result<Self, BuildError> {
        let observer = Observer::new(&config.collection);
        let source = Source::Sample(origin, rows);
        let report = build_from(config, source, &observer, watch.cancelled)?;
        let observed = observer.end();
        let mut files = BTreeMap::new();
        for (name, n) in files_below(&report.path) {
            *files.entry(FileKind::of(&name)).or_default() += n;
        }
        let row_bytes = config.rows.row_bytes(origin.width()) as u64 * report.counts.passages;
        if let Some(of_shards) = files.get_mut(&FileKind::Sketches) {
            *of_shards -= row_bytes;
            files.insert(FileKind::Rows, row_bytes);
        }
        Ok(Self {
            passages: report.counts.passages,
            bytes,
            n_shards: config.n_shards,
            files,
            work_bytes: observed.work_bytes,
            times: observed.times,
            anonymous_bytes: observed.anonymous_bytes,
        })
    }

    pub fn scale(&self) -> Scale {
        Scale {
            passages: self.passages as f64,
            bytes: self.bytes as f64,
        }
    }

    pub fn time_of(&self, phase: Phase) -> Duration {
        self.times.get(&phase).copied().unwrap_or_default()
    }
}

/// Notes when a build is where.
struct Observer<'a> {
    collection: &'a Path,
    seen: Mutex<Observed>,
}

#[derive(Default)]
struct Observed {
    current: Option<(Phase, Instant)>,
    times: BTreeMap<Phase, Duration>,
    work_bytes: u64,
    anonymous_bytes: u64,
}

impl<'a> Observer<'a> {
    fn new(collection: &'a Path) -> Self {
        Self {
            collection,
            seen: Mutex::default(),
        }
    }

    /// What comes after the digest, hashing the files and making them durable, is counted with it.
    fn end(self) -> Observed {
        let mut seen = self
            .seen
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        seen.end_phase();
        seen
    }
}

impl Observed {
    fn end_phase(&mut self) {
        if let Some((phase, start)) = self.current.take() {
            *self.times.entry(phase).or_default() += start.elapsed();
        }
    }
}

impl Progress for Observer<'_> {
    fn update(&self, phase: Phase, _: u64, _: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.current.is_none_or(|(current, _)| current != phase) {
            seen.end_phase();
            if phase == Phase::Assemble && seen.work_bytes == 0 {
                seen.work_bytes = files_below(self.collection).iter().map(|(_, n)| n).sum();
            }
            seen.current = Some((phase, Instant::now()));
        }
        let anonymous = compute::anonymous_bytes().unwrap_or_default();
        seen.anonymous_bytes = seen.anonymous_bytes.max(anonymous);
    }
}

/// Names, relative to the folder, and lengths of all files below it that can be read.
fn files_below(folder: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                let below = files_below(&entry.path()).into_iter();
                files.extend(below.map(|(below, n)| (format!("{name}/{below}"), n)));
            }
            Ok(metadata) => files.push((name, metadata.len())),
            Err(_) => {}
        }
    }
    files
}

/// The rows of a sample's passages.
pub(crate) struct Rows<'a> {
    width: usize,
    pub sketches: SketchPolicy,
    values: Vec<f32>,
    /// What each row would be made from; none for rows that were brought.
    inputs: Vec<Input>,
    /// Where each passage's row is.
    positions: HashMap<&'a str, usize>,
    pub n_encoded: usize,
    pub encoded_tokens: u64,
    pub encode_time: Duration,
    /// Tokens of each passage, and how many were cut.
    token_counts: Vec<usize>,
    n_truncated: usize,
}

impl<'a> Rows<'a> {
    /// Encodes up to `max_encoded` of the passages, evenly spread, and mixes rows for the rest; or reads the rows of all.
    pub fn make(
        source: Source<'_>,
        parts: &'a [Part],
        config: &BuildConfig,
        max_encoded: usize,
        watch: Watch<'_>,
    ) -> Result<Self, BuildError> {
        let ids = parts.iter().map(|part| part.passage.id.as_str());
        let mut rows = Self {
            width: source.width(),
            sketches: SketchPolicy::default(),
            values: Vec::new(),
            inputs: Vec::new(),
            positions: ids.zip(0..).collect(),
            n_encoded: 0,
            encoded_tokens: 0,
            encode_time: Duration::ZERO,
            token_counts: Vec::new(),
            n_truncated: 0,
        };
        let (encoder, tokens, inputs) = match source.prepare(parts, config, None)? {
            Work::Tokens {
                encoder,
                tokens,
                inputs,
                ..
            } => (encoder, tokens, inputs),
            Work::Rows(values, _) => {
                rows.values = values;
                return Ok(rows);
            }
        };
        rows.inputs = inputs.into_iter().map(|(input, _)| input).collect();
        rows.token_counts = tokens.iter().map(|tokens| tokens.len()).collect();
        rows.n_truncated = tokens.iter().filter(|tokens| tokens.truncated).count();
        let n_encoded = max_encoded.clamp(1, parts.len());
        let chosen: Vec<_> = (0..n_encoded)
            .map(|i| tokens[i * parts.len() / n_encoded].clone())
            .collect();
        encoder.encode(&chosen[..N_WARM.min(n_encoded)])?;
        let mut encoded = Vec::with_capacity(n_encoded * rows.width);
        for batch in chosen.chunks(config.chunk_passages.max(1)) {
            let n_done = (encoded.len() / rows.width) as u64;
            watch.update(Phase::Encode, n_done, n_encoded as u64)?;
            let start = Instant::now();
            let embeddings = encoder.encode(batch)?;
            rows.encode_time += start.elapsed();
            rows.encoded_tokens += embeddings.n_tokens as u64;
            encoded.extend(embeddings.values);
        }
        watch.update(Phase::Encode, n_encoded as u64, n_encoded as u64)?;
        rows.n_encoded = n_encoded;
        rows.values = mixed(&encoded, rows.width, parts.len());
        Ok(rows)
    }

    /// The rows of passages, row-major, and what they were made from.
    pub fn work_of<'p>(
        &self,
        passages: impl Iterator<Item = &'p Passage>,
    ) -> Result<Work<'static>, BuildError> {
        let (mut values, mut inputs) = (Vec::new(), Vec::new());
        for passage in passages {
            let position = self.positions.get(passage.id.as_str());
            let position = position.ok_or(BuildError::CorpusChanged)?;
            let start = position * self.width;
            values.extend_from_slice(&self.values[start..start + self.width]);
            inputs.extend(self.inputs.get(*position).map(|&input| (input, None)));
        }
        Ok(Work::Rows(values, inputs))
    }

    /// Tokens of all passages: the mean of the sample, with two standard errors.
    pub fn tokens(&self, n_passages: u64) -> Figure {
        let counts = self.token_counts.iter().map(|&n| n as f64);
        total(counts.collect(), n_passages)
    }

    /// Passages that would be cut.
    pub fn truncated(&self, n_passages: u64) -> Figure {
        let n = self.token_counts.len();
        let cut = (0..n).map(|i| f64::from(i < self.n_truncated));
        total(cut.collect(), n_passages)
    }
}

/// The sum over `n_all` things of which some were drawn.
fn total(values: Vec<f64>, n_all: u64) -> Figure {
    let (n, n_all) = (values.len() as f64, n_all as f64);
    if n == 0.0 {
        return Figure::default();
    }
    let mean = values.iter().sum::<f64>() / n;
    let variance = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / n;
    let error = (variance / n * (1.0 - n / n_all).max(0.0)).sqrt();
    let [expected, low, high] =
        [mean, mean - 2.0 * error, mean + 2.0 * error].map(|mean| mean * n_all);
    Figure::between(expected, low, high)
}

/// `n` rows: those given, evenly spread, and between them such as lie a part of the way from two of them to each other beside a
/// third, and are as long as that. Their principal components are those of the rows given.
fn mixed(rows: &[f32], width: usize, n: usize) -> Vec<f32> {
    let given: Vec<&[f32]> = rows.chunks_exact(width).collect();
    let n_given = given.len();
    let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let mut values = Vec::with_capacity(n * width);
    for i in 0..n {
        let last = ((i + 1) * n_given).div_ceil(n) - 1; // the last row given whose place is not after this one
        let row = given[last];
        if last * n / n_given == i {
            values.extend_from_slice(row);
            continue;
        }
        let [from, to] = [0, 1].map(|seed| given[hash(seed, i as u64) as usize % n_given]);
        let start = values.len();
        let differences = from.iter().zip(to).map(|(from, to)| to - from);
        values.extend(row.iter().zip(differences).map(|(x, d)| x + MIXED * d));
        let mixed = &mut values[start..];
        let factor = norm(row) / norm(mixed);
        if factor.is_finite() {
            mixed.iter_mut().for_each(|x| *x *= factor);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_given_or_mixed_and_as_long() {
        let given = [1.0, 0.0, 0.0, 2.0, -3.0, 0.0];
        assert_eq!(mixed(&given, 2, 3), given);
        let rows = mixed(&given, 2, 8);
        let rows: Vec<&[f32]> = rows.chunks_exact(2).collect();
        assert_eq!(rows.len(), 8);
        for row in given.chunks_exact(2) {
            assert!(rows.contains(&row), "{row:?}");
        }
        for row in rows {
            let length = (row[0] * row[0] + row[1] * row[1]).sqrt();
            assert!([1.0, 2.0, 3.0].iter().any(|l| (l - length).abs() < 1e-5));
        }
    }

    #[test]
    fn a_total_is_exact_when_all_were_drawn() {
        assert_eq!(total(vec![1.0, 2.0, 6.0], 3), Figure::exactly(9));
        let some = total(vec![1.0, 3.0], 100);
        assert!(some.expected == 200 && some.low < 200 && some.high > 200);
        assert_eq!(total(Vec::new(), 3), Figure::default());
    }
}
