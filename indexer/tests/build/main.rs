//! Builds with the small test encoder: what comes out, and what is left when they are stopped, killed or damaged.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;
mod forecast;
mod incremental;
mod kill;
mod live;
mod long_documents;
mod parts;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use collection::{BuildMode, Collection, CollectionError, LogConfig, NewRecord};
use corpus::{CorpusConfig, CorpusError, Template};
use encoder::{BiEncoder, EncoderConfig, ModelOptions, Role, Text};
use index::{GraphIndex, HnswConfig, Metric, RowType, SearchParams, ShardedIndex, VectorIndex};
use indexer::{
    BroughtVectors, BuildConfig, BuildError, BuildReport, LogPosition, NoProgress, Phase, Progress,
    VectorsError, build, build_from_vectors,
};
use store::Store;
use vectors::VectorFile;

pub(crate) fn encoder() -> BiEncoder {
    let config = EncoderConfig {
        threads: 2,
        ..EncoderConfig::default()
    };
    BiEncoder::load(&model(), &ModelOptions::default(), &config).unwrap()
}

fn model() -> PathBuf {
    testkit::fixture("models/tiny-bert")
}

/// Writes a corpus of generated passages: a title, a few words, a year.
pub(crate) fn write_corpus(path: &Path, seed: u64, n_passages: usize) {
    const WORDS: [&str; 12] = [
        "tide", "moon", "salt", "wind", "stone", "river", "glass", "iron", "bread", "winter",
        "lamp", "bird",
    ];
    let mut state = seed;
    let mut text = String::new();
    for i in 0..n_passages {
        let words: Vec<_> = (0..8)
            .map(|_| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                WORDS[(state >> 33) as usize % WORDS.len()]
            })
            .collect();
        let record = serde_json::json!({
            "_id": format!("p{i}"), "title": words[0], "text": words[1..].join(" "), "year": 1900 + i % 100,
        });
        text += &format!("{record}\n");
    }
    fs::write(path, text).unwrap();
}

pub(crate) fn config(root: &Path, corpus: &Path) -> BuildConfig {
    let corpus = CorpusConfig {
        paths: vec![corpus.to_owned()],
        ..CorpusConfig::default()
    };
    BuildConfig {
        chunk_passages: 16,
        ..BuildConfig::new(root.to_owned(), corpus, model())
    }
}

pub(crate) fn run(config: &BuildConfig) -> Result<BuildReport, BuildError> {
    build(config, &encoder(), &NoProgress, &AtomicBool::new(false))
}

/// Cancels the build when a phase has come so far.
struct StopAt<'a>(Phase, u64, &'a AtomicBool);

impl Progress for StopAt<'_> {
    fn update(&self, phase: Phase, done: u64, _: u64) {
        if phase == self.0 && done >= self.1 {
            self.2.store(true, Ordering::Relaxed);
        }
    }
}

fn run_until(config: &BuildConfig, phase: Phase, done: u64) -> BuildError {
    let cancelled = AtomicBool::new(false);
    build(
        config,
        &encoder(),
        &StopAt(phase, done, &cancelled),
        &cancelled,
    )
    .unwrap_err()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn corpus(&self, seed: u64, n_passages: usize) -> PathBuf {
        let path = self
            .0
            .path()
            .join(format!("corpus-{seed}-{n_passages}.jsonl"));
        write_corpus(&path, seed, n_passages);
        path
    }

    fn lines(&self, lines: &[&str]) -> PathBuf {
        let path = self.0.path().join("lines.jsonl");
        fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn collection(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

#[test]
fn a_generation_holds_the_corpus_in_order() {
    let folder = Folder::new();
    let config = BuildConfig {
        n_shards: 3,
        ..config(&folder.collection("c"), &folder.corpus(1, 100))
    };
    let report = run(&config).unwrap();
    assert!(report.live);
    assert_eq!(report.counts.passages, 100);

    let generation = Collection::open(&config.collection)
        .unwrap()
        .resolve("live")
        .unwrap();
    assert_eq!(generation.id, report.generation);
    assert_eq!(generation.verify(|_| ()).len(), 0);
    let manifest = &generation.manifest;
    assert_eq!(manifest.templates.passage, "<title> <text>");
    assert!(manifest.batch_invariant);
    assert_eq!(
        manifest
            .shards
            .iter()
            .map(|shard| shard.n_rows)
            .collect::<Vec<_>>(),
        [33, 33, 34]
    );

    let store = Store::open(&generation.path, store::Verify::Checksums).unwrap();
    let shards: Vec<_> = manifest
        .shards
        .iter()
        .map(|shard| generation.path.join(&shard.path))
        .collect();
    let index = ShardedIndex::open(&shards, index::Verify::Checksums).unwrap();
    assert_eq!((store.len(), index.len()), (100, 100));
    let encoder = encoder();
    for ordinal in [0, 33, 99] {
        let passage = store.passage(ordinal).unwrap();
        assert_eq!(passage.id, format!("p{ordinal}"));
        assert_eq!(passage.metadata["year"], 1900 + ordinal);
        let text = config.passage_template.render(&passage).text;
        let query = encoder
            .encode(
                &encoder
                    .tokenize(Role::Passage, &[Text::Single(&text)])
                    .unwrap(),
            )
            .unwrap();
        let found = index
            .search(&query.values, 1, None, &SearchParams::default())
            .unwrap();
        assert_eq!(
            store.passage(found[0][0].ordinal).unwrap().text,
            passage.text
        );
    }
}

#[test]
fn content_does_not_depend_on_shards() {
    let folder = Folder::new();
    let corpus = folder.corpus(1, 50);
    let one = run(&config(&folder.collection("one"), &corpus)).unwrap();
    let five = run(&BuildConfig {
        n_shards: 5,
        ..config(&folder.collection("five"), &corpus)
    })
    .unwrap();
    assert_eq!(one.content_digest, five.content_digest);
    let other = run(&config(&folder.collection("other"), &folder.corpus(2, 50))).unwrap();
    assert_ne!(one.content_digest, other.content_digest);
}

fn check_resumes_after(phase: Phase, done: u64, n_resumed: u64) {
    let folder = Folder::new();
    let corpus = folder.corpus(1, 100);
    let whole = run(&config(&folder.collection("whole"), &corpus)).unwrap();

    let config = config(&folder.collection("stopped"), &corpus);
    let error = run_until(&config, phase, done);
    assert!(matches!(error, BuildError::Interrupted { .. }), "{error}");
    if phase == Phase::Survey {
        assert!(!config.collection.exists());
    } else {
        let collection = Collection::open(&config.collection).unwrap();
        assert!(collection.generations().unwrap().is_empty());
        let error = run(&config).unwrap_err();
        assert!(
            matches!(
                error,
                BuildError::Collection(CollectionError::InProgress { .. })
            ),
            "{error}"
        );
    }
    let resumed = run(&BuildConfig {
        mode: BuildMode::Resume,
        ..config
    })
    .unwrap();
    assert_eq!(resumed.n_resumed, n_resumed);
    assert_eq!(resumed.content_digest, whole.content_digest);
    assert_eq!(resumed.counts, whole.counts);
}

#[test]
fn a_stopped_build_resumes_where_it_was() {
    check_resumes_after(Phase::Survey, 0, 0);
    check_resumes_after(Phase::Encode, 0, 0);
    check_resumes_after(Phase::Encode, 48, 48);
    check_resumes_after(Phase::Assemble, 32, 100);
    check_resumes_after(Phase::Lexical, 100, 100);
    check_resumes_after(Phase::Digest, 100, 100);
}

#[test]
fn a_resumed_build_contains_of_the_log_what_was_there_when_it_began() {
    let folder = Folder::new();
    let config = BuildConfig {
        log_position: Some(LogPosition::End),
        ..config(&folder.collection("c"), &folder.corpus(1, 100))
    };
    let collection = Collection::create(&config.collection).unwrap();
    let write = |n_records: usize| {
        let record = NewRecord {
            kind: 0,
            payload: Vec::new(),
        };
        let mut log = collection.log_writer("test", LogConfig::default()).unwrap();
        log.append(&vec![record; n_records]).unwrap();
    };
    write(3);
    run_until(&config, Phase::Encode, 48);
    write(2);
    let resumed = BuildConfig {
        mode: BuildMode::Resume,
        ..config
    };
    run_until(&resumed, Phase::Assemble, 0);
    let log_position = |config: &BuildConfig| {
        let built = run(config).unwrap();
        let generation = collection.generation(&built.generation).unwrap();
        generation.manifest.log_position
    };
    assert_eq!(log_position(&resumed), 3);
    let anew = BuildConfig {
        mode: BuildMode::Restart,
        ..resumed
    };
    assert_eq!(log_position(&anew), 5);
}

#[test]
fn damaged_chunks_are_encoded_again() {
    let folder = Folder::new();
    let corpus = folder.corpus(1, 100);
    let whole = run(&config(&folder.collection("whole"), &corpus)).unwrap();
    let config = config(&folder.collection("damaged"), &corpus);
    run_until(&config, Phase::Assemble, 0);
    let building = fs::read_dir(config.collection.join("building"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let chunk = building.join("work/000003.chunk");
    let mut bytes = fs::read(&chunk).unwrap();
    bytes[100] ^= 4;
    fs::write(&chunk, bytes).unwrap();
    let resumed = run(&BuildConfig {
        mode: BuildMode::Resume,
        ..config
    })
    .unwrap();
    assert_eq!(resumed.n_resumed, 48);
    assert_eq!(resumed.content_digest, whole.content_digest);
}

#[test]
fn a_finished_build_is_not_built_again_on_resume() {
    let folder = Folder::new();
    let config = config(&folder.collection("c"), &folder.corpus(1, 20));
    let first = run(&config).unwrap();
    let again = run(&BuildConfig {
        mode: BuildMode::Resume,
        ..config.clone()
    })
    .unwrap();
    assert_eq!(again.generation, first.generation);
    let second = run(&config).unwrap();
    assert_ne!(second.generation, first.generation);
    assert!(!second.live);
    let third = run(&BuildConfig {
        publish: true,
        ..config
    })
    .unwrap();
    assert!(third.live);
}

#[test]
fn what_was_lost_is_counted() {
    let folder = Folder::new();
    let long = format!(r#"{{"_id": "b", "text": "{}"}}"#, "stone ".repeat(2000));
    let corpus = folder.lines(&[
        r#"{"_id": "a", "text": "salt", "place": "sea"}"#,
        &long,
        "not json",
        r#"{"_id": "a", "text": "twice"}"#,
    ]);
    let mut config = config(&folder.collection("c"), &corpus);
    config.passage_template = Template::parse("<place>: <text>").unwrap();

    let error = run(&config).unwrap_err();
    assert!(
        matches!(error, BuildError::Corpus(CorpusError::BadLine(_))),
        "{error}"
    );
    config.corpus.skip_bad_lines = true;
    let report = run(&config).unwrap();
    let counts = report.counts;
    assert_eq!(
        (
            counts.passages,
            counts.bad_lines,
            counts.missing_fields,
            counts.truncated
        ),
        (2, 2, 1, 1)
    );
    assert!(counts.tokens > 0);
    assert_eq!(report.bad_examples.len(), 2);
}

#[test]
fn impossible_requests_have_names() {
    let folder = Folder::new();
    let base = config(&folder.collection("c"), &folder.corpus(1, 3));
    let check = |config: BuildConfig, expected: &str| {
        let error = run(&config).unwrap_err();
        let cause = error.source().map(ToString::to_string);
        assert!(
            format!("{error}: {cause:?}").contains(expected),
            "{error}: {cause:?}"
        );
    };
    check(
        BuildConfig {
            n_shards: 4,
            ..base.clone()
        },
        "4 shards cannot share 3 passages",
    );
    check(
        BuildConfig {
            n_shards: 0,
            ..base.clone()
        },
        "0 shards",
    );
    check(
        BuildConfig {
            chunk_passages: 0,
            ..base.clone()
        },
        "at least one passage",
    );
    let passage_template = Template::parse("<author>").unwrap();
    check(
        BuildConfig {
            passage_template,
            ..base.clone()
        },
        "`author`",
    );
    let query_template = Template::parse("<text> <title>").unwrap();
    check(
        BuildConfig {
            query_template,
            ..base.clone()
        },
        "`title` is not one of text",
    );
    check(
        BuildConfig {
            collection: folder.0.path().to_owned(),
            ..base.clone()
        },
        "neither a collection nor empty",
    );
    let writer = Collection::create(&base.collection)
        .unwrap()
        .writer("test")
        .unwrap();
    check(base.clone(), "is being written by process");
    // Before a corpus is read, which may take long.
    let mut unreadable = base;
    unreadable.corpus.paths = vec![folder.0.path().join("gone.jsonl")];
    check(unreadable, "is being written by process");
    drop(writer);
}

/// Writes vectors and ids of `n` passages, in descending order of the passages.
fn brought_vectors(folder: &Folder, n: usize) -> BroughtVectors {
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, 2), }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dictionary.len() as u16).to_le_bytes());
    bytes.extend(dictionary.bytes());
    let mut ids = String::new();
    for i in (0..n).rev() {
        bytes.extend([i as f32, 1.0].iter().flat_map(|value| value.to_le_bytes()));
        ids += &format!("p{i}\n");
    }
    let (vectors, names) = (folder.collection("v.npy"), folder.collection("v.ids"));
    fs::write(&vectors, bytes).unwrap();
    fs::write(&names, ids).unwrap();
    let file = VectorFile::open(&vectors, None).unwrap();
    BroughtVectors::open(file, &names, Metric::InnerProduct).unwrap()
}

#[test]
fn vectors_made_elsewhere_meet_their_passages() {
    let folder = Folder::new();
    let config = config(&folder.collection("c"), &folder.corpus(1, 40));
    let run = |config: &BuildConfig, n: usize| {
        build_from_vectors(
            config,
            &brought_vectors(&folder, n),
            &NoProgress,
            &AtomicBool::new(false),
        )
    };
    let missing = run(&config, 39).unwrap_err();
    assert!(
        matches!(missing, BuildError::Vectors(VectorsError::Missing { ref id }) if id == "p39"),
        "{missing}"
    );
    let unused = run(&config, 41).unwrap_err();
    assert!(
        matches!(unused, BuildError::Vectors(VectorsError::Unused { .. })),
        "{unused}"
    );

    let report = run(&config, 40).unwrap();
    let generation = Collection::open(&config.collection)
        .unwrap()
        .resolve("live")
        .unwrap();
    assert_eq!(generation.manifest.fingerprint["space"], "external");
    let index = ShardedIndex::open(
        &[report.path.join("shards/000/vectors.trawl")],
        index::Verify::Checksums,
    )
    .unwrap();
    let found = index
        .search(&[1.0, 0.0], 2, None, &SearchParams::default())
        .unwrap();
    assert_eq!((found[0][0].ordinal, found[0][0].score), (39, 39.0));
    assert_eq!(found[0][1].ordinal, 38);
}

#[test]
fn graphs_that_cannot_be_are_refused_before_anything_is_encoded() {
    let folder = Folder::new();
    let graph = HnswConfig {
        m: 1,
        ..HnswConfig::default()
    };
    let config = BuildConfig {
        graph: Some(graph),
        ..config(&folder.collection("c"), &folder.corpus(1, 40))
    };
    let error = run(&config).unwrap_err();
    let is_refused = matches!(
        error,
        BuildError::Graph(index::WriteError::Links { m: 1, .. })
    );
    assert!(is_refused, "{error}");
    assert!(!config.collection.exists());
}

#[test]
fn each_shard_has_its_graph_when_asked_for() {
    let folder = Folder::new();
    let config = BuildConfig {
        n_shards: 2,
        graph: Some(HnswConfig::default()),
        rows: RowType::F16,
        ..config(&folder.collection("c"), &folder.corpus(1, 40))
    };
    let report = build_from_vectors(
        &config,
        &brought_vectors(&folder, 40),
        &NoProgress,
        &AtomicBool::new(false),
    )
    .unwrap();
    let collection = Collection::open(&config.collection).unwrap();
    let shards = collection.resolve("live").unwrap().manifest.shards;
    let inside = |path: &String| report.path.join(path);
    let vectors: Vec<PathBuf> = shards.iter().map(|shard| inside(&shard.path)).collect();
    let graphs: Option<Vec<PathBuf>> = shards
        .iter()
        .map(|shard| shard.graph.as_ref().map(inside))
        .collect();
    let verify = index::Verify::Checksums;
    let flat = ShardedIndex::open(&vectors, verify).unwrap();
    let index = GraphIndex::open(flat, &graphs.unwrap(), verify).unwrap();
    let params = SearchParams::default();
    let walked = index.search_by(index::Plan::Graph, &[1.0, 0.0], 5, None, &params);
    let ordinals = walked.unwrap()[0]
        .iter()
        .map(|found| found.ordinal)
        .collect::<Vec<_>>();
    assert_eq!(ordinals, [39, 38, 37, 36, 35]);
}
