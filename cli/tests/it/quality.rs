//! The real model on real data: what a user's figures rest on.

use std::path::Path;
use std::process::Command;

use crate::{json, sample, succeed, text};

/// Two of the reference rows of `docs/measurements.md`, made by `docs/reference/reference_rows.py`.
const REFERENCE: [(&str, &str, f64, f64); 2] = [
    ("cranfield", "test", 0.49948, 0.79095),
    ("squadshifts-amazon", "dev", 0.29960, 0.71034),
];

#[test]
fn retrieval_quality_equals_the_python_reference() {
    let Some(data) = testkit::data_folder() else {
        println!("did not run: TRAWL_DATA is not set");
        return;
    };
    let model = testkit::default_model();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (set, split, ndcg, recall) in REFERENCE {
        let (source, collection) = (data.join(set), folder.path().join(set));
        let (run, qrels) = (
            folder.path().join("run.trec"),
            source.join(format!("qrels/{split}.tsv")),
        );
        succeed([
            "index",
            "build",
            "--quiet",
            "--corpus",
            text(&source.join("corpus.jsonl.gz")),
            "--model",
            text(&model),
            "--collection",
            text(&collection),
        ]);
        succeed([
            "search",
            text(&collection),
            "--quiet",
            "--queries",
            text(&source.join("queries.jsonl")),
            "--qrels",
            text(&qrels),
            "-k",
            "100",
            "--run-out",
            text(&run),
        ]);
        let report = json([
            "--json",
            "eval",
            "--qrels",
            text(&qrels),
            "--run",
            text(&run),
            "--measures",
            "ndcg@10,recall@100",
        ]);
        for (measure, expected) in [("ndcg@10", ndcg), ("recall@100", recall)] {
            let found = report["metrics"][measure].as_f64().expect("a number");
            assert!(
                (found - expected).abs() <= 0.002,
                "{set} {measure}: {found}, reference {expected}"
            );
        }
    }
}

#[test]
fn dense_search_beats_bm25_on_the_sample_corpus_and_the_reranker_mends_bm25() {
    let model = testkit::default_model();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collection = folder.path().join("sample");
    succeed([
        "index",
        "build",
        "--quiet",
        "--corpus",
        text(&sample("corpus.jsonl")),
        "--model",
        text(&model),
        "--collection",
        text(&collection),
    ]);
    let (run, queries, qrels) = (
        folder.path().join("run.trec"),
        sample("queries.jsonl"),
        sample("qrels/test.tsv"),
    );
    let search = |how: &[&str]| {
        let mut arguments = vec![
            "search",
            text(&collection),
            "--quiet",
            "--queries",
            text(&queries),
            "-k",
            "100",
            "--run-out",
            text(&run),
        ];
        arguments.extend(how);
        succeed(arguments);
    };
    let measure = |run: &Path| {
        let report = json([
            "--json",
            "eval",
            "--qrels",
            text(&qrels),
            "--run",
            text(run),
            "--measures",
            "ndcg@10",
        ]);
        report["metrics"]["ndcg@10"].as_f64().expect("a number")
    };
    search(&[]);
    let dense = measure(&run);
    search(&["--lexical"]);
    let lexical = measure(&run);
    println!("nDCG@10 on the sample corpus: dense {dense:.4}, BM25 {lexical:.4}");
    assert!(dense > lexical + 0.1, "dense {dense}, BM25 {lexical}");

    // The reranker that the binary brings along, over the same list.
    let reranked = folder.path().join("reranked.trec");
    succeed([
        "rerank",
        "--quiet",
        "--run",
        text(&run),
        "--queries",
        text(&queries),
        "--corpus",
        text(&sample("corpus.jsonl")),
        "--depth",
        "20",
        "--run-out",
        text(&reranked),
    ]);
    let reranked = measure(&reranked);
    println!("BM25's first 20 reranked: {reranked:.4}");
    assert!(reranked > lexical + 0.03, "{reranked}, BM25 {lexical}");
}

#[test]
fn quickstart_answers_three_queries() {
    let model = testkit::default_model();
    let models = model.parent().expect("the model folder");
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A first run builds, a second one finds the collection.
    for more in [&[][..], &["--json"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_trawl"))
            .args([
                "quickstart",
                "--no-serve",
                "--dir",
                text(&folder.path().join("quick")),
            ])
            .args(more)
            .env("TRAWL_MODELS", models)
            .output()
            .expect("starts");
        let (shown, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{errors}");
        let ids = ["kitchen-01", "soil-05", "bread-03"];
        for id in ids {
            assert!(shown.contains(id), "{shown}");
        }
        if more.is_empty() {
            assert!(shown.contains("curl"), "{shown}");
            continue;
        }
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("one JSON document");
        for (answer, id) in shown["answers"].as_array().expect("a list").iter().zip(ids) {
            assert!(answer["results"].to_string().contains(id), "{answer}");
        }
    }
}

#[test]
fn the_default_model_reproduces_its_golden_file() {
    let golden = testkit::golden("encoder/minilm").join("golden.json");
    let model = testkit::default_model();
    let report = json([
        "--json",
        "model",
        "check",
        "--model",
        text(&model),
        "--against",
        text(&golden),
    ]);
    assert_eq!(report["passed"], true, "{report}");
}
