//! What a build would take, beside what it takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use index::{HnswConfig, RowType};
use indexer::{
    BuildConfig, BuildError, BuildReport, Figure, Forecast, ForecastConfig, NoProgress, Phase,
    build_from_vectors, forecast, forecast_from_vectors,
};

use crate::{Folder, StopAt, brought_vectors, config, encoder, run};

/// A corpus of sentences about the words of a vocabulary that is not used up soon.
fn write_varied(path: &Path, n_records: u64) {
    let mut state = 7_u64;
    let mut next = |n: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % n
    };
    let mut text = String::new();
    for i in 0..n_records {
        let n_words = 5 + next(40);
        let words: Vec<String> = (0..n_words)
            .map(|_| {
                let range = 10_u64.pow(1 + next(4) as u32);
                format!("word{}", next(range))
            })
            .collect();
        let record = serde_json::json!({
            "_id": format!("p{i}"), "title": words[0], "text": words.join(" ") + ".",
            "year": 1900 + i % 100, "tag": format!("t{}", next(50)),
        });
        text += &format!("{record}\n");
    }
    fs::write(path, text).unwrap();
}

/// Bytes of the parts of a generation, as a forecast names them; sketches with the vectors.
fn parts(report: &BuildReport) -> BTreeMap<&'static str, u64> {
    fn add(folder: &Path, part: &'static str, parts: &mut BTreeMap<&'static str, u64>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let part = match name {
                "lexical" => "lexical",
                "shards" | "vectors.trawl" => "vectors",
                "graph.trawl" => "graph",
                "manifest.json" => "manifest",
                _ => part,
            };
            match path.is_dir() {
                true => add(&path, part, parts),
                false => *parts.entry(part).or_default() += path.metadata().unwrap().len(),
            }
        }
    }
    let mut parts = BTreeMap::new();
    add(&report.path, "store", &mut parts);
    parts
}

fn forecast_parts(forecast: &Forecast) -> BTreeMap<&'static str, Figure> {
    let mut parts: BTreeMap<&'static str, Figure> = BTreeMap::new();
    for part in &forecast.disk {
        let name = match part.part {
            "sketches" => "vectors",
            name => name,
        };
        let known = parts.entry(name).or_default();
        known.expected += part.bytes.expected;
        known.low += part.bytes.low;
        known.high += part.bytes.high;
    }
    parts
}

fn how(folder: &Folder, max_records: usize) -> ForecastConfig {
    let temporary = folder.collection("temporary");
    fs::create_dir_all(&temporary).unwrap();
    ForecastConfig {
        max_records,
        max_encoded: 300,
        ..ForecastConfig::new(temporary)
    }
}

fn plan(config: &BuildConfig, how: &ForecastConfig) -> Result<Forecast, BuildError> {
    forecast(
        config,
        &encoder(),
        how,
        &NoProgress,
        &AtomicBool::new(false),
    )
}

/// Compares the sizes of all parts with those of a real build: the larger ones may be off by `tolerance`.
fn check(config: &BuildConfig, how: &ForecastConfig, tolerance: f64) -> Forecast {
    let forecast = plan(config, how).unwrap();
    assert!(!config.collection.exists());
    assert_eq!(fs::read_dir(&how.folder).unwrap().count(), 0);
    let report = run(config).unwrap();
    assert_eq!(forecast.passages, report.counts.passages);
    let (found, expected) = (parts(&report), forecast_parts(&forecast));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>()
    );
    for (part, &bytes) in &found {
        let figure = expected[part];
        let off = figure.expected.abs_diff(bytes) as f64;
        assert!(
            off <= (tolerance * bytes as f64).max(4096.0),
            "{part}: {bytes}, expected {figure:?}"
        );
    }
    let tokens = report.counts.tokens;
    let off = forecast.tokens.expected.abs_diff(tokens) as f64 / tokens as f64;
    assert!(off <= tolerance, "{tokens}: {:?}", forecast.tokens);
    forecast
}

#[test]
fn sizes_are_those_of_the_build() {
    let folder = Folder::new();
    let corpus = folder.collection("corpus.jsonl");
    write_varied(&corpus, 6000);
    let graph = Some(HnswConfig {
        ef_construction: 40,
        ..HnswConfig::default()
    });
    let flat = BuildConfig {
        chunk_passages: 512,
        ..config(&folder.collection("flat"), &corpus)
    };
    // Four shards of 1,500 rows have no sketches, one has them, and so has one of 2,000 that stands for it.
    for (name, n_shards, rows, graph, n) in [
        ("one", 1, RowType::F32, None, 4200),
        ("graph", 1, RowType::F16, graph, 4200),
        ("shards", 4, RowType::F32, None, 4200),
        ("less", 1, RowType::F32, None, 2000),
    ] {
        let config = BuildConfig {
            collection: folder.collection(name),
            n_shards,
            rows,
            graph,
            ..flat.clone()
        };
        let forecast = check(&config, &how(&folder, n), 0.1);
        assert_eq!(forecast.sample.records, n as u64);
        assert_eq!(forecast.sample.encoded, 300);
        assert!(forecast.disk_peak.expected > forecast.disk_total.expected);
        let phases: Vec<_> = forecast.time.iter().map(|phase| phase.phase).collect();
        let with_graph = ["survey", "encode", "assemble", "graph", "lexical", "digest"];
        let expected = with_graph
            .into_iter()
            .filter(|&phase| phase != "graph" || config.graph.is_some());
        assert!(expected.eq(phases.iter().copied()), "{phases:?}");
    }
}

#[test]
fn a_small_corpus_is_tried_whole() {
    let folder = Folder::new();
    let config = BuildConfig {
        n_shards: 3,
        ..config(&folder.collection("c"), &folder.corpus(1, 200))
    };
    let forecast = check(&config, &how(&folder, 500), 0.0);
    assert_eq!(forecast.sample.records, 200);
    assert_eq!(forecast.tokens.low, forecast.tokens.high);
}

#[test]
fn documents_are_counted_by_their_passages() {
    let folder = Folder::new();
    let corpus = folder.collection("corpus.jsonl");
    write_varied(&corpus, 1500);
    let config = BuildConfig {
        stride: Some(60),
        chunk_passages: 512,
        ..config(&folder.collection("c"), &corpus)
    };
    let forecast = check(&config, &how(&folder, 1000), 0.08);
    assert!(forecast.passages > forecast.records && forecast.records == 1500);
}

#[test]
fn vectors_made_elsewhere_are_planned_without_a_model() {
    let folder = Folder::new();
    let config = config(&folder.collection("c"), &folder.corpus(1, 400));
    let vectors = brought_vectors(&folder, 400);
    let never = AtomicBool::new(false);
    let how = how(&folder, 200);
    let forecast = forecast_from_vectors(&config, &vectors, &how, &NoProgress, &never).unwrap();
    assert_eq!((forecast.width, forecast.sample.encoded), (2, 0));
    let report = build_from_vectors(&config, &vectors, &NoProgress, &never).unwrap();
    let vectors = forecast_parts(&forecast)["vectors"].expected;
    assert!(vectors.abs_diff(parts(&report)["vectors"]) <= 64);
}

#[test]
fn what_a_build_refuses_is_refused() {
    let folder = Folder::new();
    let base = config(&folder.collection("c"), &folder.corpus(1, 5));
    let how = how(&folder, 100);
    let shards = BuildConfig {
        n_shards: 6,
        ..base.clone()
    };
    let error = plan(&shards, &how).unwrap_err();
    assert!(
        matches!(error, BuildError::Shards { n_shards: 6, .. }),
        "{error}"
    );
    let nowhere = ForecastConfig {
        folder: folder.collection("nowhere"),
        ..how.clone()
    };
    let error = plan(&base, &nowhere).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    let cancelled = AtomicBool::new(false);
    let stop = StopAt(Phase::Encode, 0, &cancelled);
    let error = forecast(&base, &encoder(), &how, &stop, &cancelled).unwrap_err();
    assert!(matches!(error, BuildError::Interrupted { .. }), "{error}");
    assert!(cancelled.load(Ordering::Relaxed));
    assert_eq!(fs::read_dir(&how.folder).unwrap().count(), 0);
}
