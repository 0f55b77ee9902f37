//! A session with the test encoder: build, search, evaluate, break things.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{fail, json, sample, succeed, text, tiny_model, trawl};

pub struct Built {
    pub folder: tempfile::TempDir,
    pub collection: PathBuf,
}

/// The sample corpus, indexed by the test encoder in three shards.
pub fn build() -> Built {
    build_with(&tiny_model())
}

/// The sample corpus, indexed by an encoder in three shards.
pub fn build_with(model: &Path) -> Built {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collection = folder.path().join("sample");
    let report = json([
        "--json",
        "index",
        "build",
        "--corpus",
        text(&sample("corpus.jsonl")),
        "--model",
        text(model),
        "--collection",
        text(&collection),
        "--shards",
        "3",
    ]);
    let n_lines = fs::read_to_string(sample("corpus.jsonl"))
        .expect("the corpus")
        .lines()
        .count();
    assert_eq!(report["counts"]["passages"], n_lines);
    Built { folder, collection }
}

#[test]
fn a_plan_tells_what_a_build_takes() {
    let built = build();
    let corpus = sample("corpus.jsonl");
    let (model, nowhere) = (tiny_model(), built.folder.path().join("not/there"));
    let args = ["index", "plan", "--corpus", text(&corpus), "--model"];
    let args = [&args[..], &[text(&model), "--shards", "3"]].concat();
    let more = ["--json", "--sample", "50", "--collection", text(&nowhere)];
    let plan = json([&args[..], &more].concat());
    assert!(!nowhere.parent().expect("a folder").exists());
    let list = json(["index", "list", text(&built.collection), "--json"]);
    assert_eq!(plan["passages"], list[0]["passages"]);
    // The sample corpus is smaller than a sample, so all of it was tried; a manifest has paths of other lengths.
    let parts = plan["disk"].as_array().expect("parts").iter();
    let files = parts.filter(|part| part["part"] != "manifest");
    let expected: u64 = files
        .filter_map(|part| part["bytes"]["expected"].as_u64())
        .sum();
    let found = list[0]["bytes"].as_u64().expect("a number");
    assert!(
        found.abs_diff(expected) < 2048,
        "{found}, expected {expected}"
    );
    assert_eq!(plan["sample"]["encoded"], 50);
    assert_eq!(plan["vram"], 0);
    let shown = succeed(args.iter().copied());
    for line in [
        "rows of width 32",
        "disk while building",
        "time: encode",
        "cards: none",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn a_build_refuses_what_would_have_no_effect() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collection = folder.path().join("sample");
    let (corpus, model) = (sample("corpus.jsonl"), tiny_model());
    for (arguments, expected) in [
        (["--gate", "gate.toml"], "--publish"),
        (["--new-model", "--full"], "--publish"),
        (["--no-gate", "--full"], "--publish"),
        (["--hnsw-m", "8"], "--hnsw-m has an effect"),
        (
            ["--hnsw-ef-construction", "50"],
            "--hnsw-ef-construction has an effect",
        ),
    ] {
        let build = ["index", "build", "--corpus", text(&corpus), "--model"];
        let rest = [text(&model), "--collection", text(&collection)];
        let errors = fail(2, [&build[..], &rest, &arguments].concat());
        assert!(errors.contains(expected), "{errors}");
        assert!(!collection.exists());
    }
}

#[test]
fn a_collection_in_a_folder_needs_no_other_folder_to_work_in() {
    let encode = ["index", "encode", "--part", "0/2", "--corpus", "c.jsonl"];
    let encode = [&encode[..], &["--collection", "data/docs"]].concat();
    for arguments in [
        &["index", "publish", "data/docs"][..],
        &["index", "commit", "data/docs"][..],
        &encode[..],
    ] {
        let errors = fail(2, [arguments, &["--work", "other"]].concat());
        assert!(errors.contains("--work"), "{errors}");
    }
}

#[test]
fn the_manifest_names_the_arithmetic_of_the_vectors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (corpus, collection) = (sample("corpus.jsonl"), folder.path().join("sample"));
    let (model, collection_text) = (tiny_model(), text(&collection).to_owned());
    let build = |precision: &str| {
        let mut args = vec!["--json", "index", "build", "--corpus", text(&corpus)];
        args.extend(["--model", text(&model), "--collection", &collection_text]);
        args.extend(["--precision", precision]);
        let report = json(args);
        let generation = collection
            .join("generations")
            .join(string(&report["generation"]));
        let manifest = fs::read(generation.join("manifest.json")).expect("a manifest");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        manifest["shards"][0]["arithmetic"].clone()
    };
    for precision in ["fixed16", "f32", "int8"] {
        assert_eq!(build(precision), precision);
    }
}

fn first_passage() -> serde_json::Value {
    let corpus = fs::read_to_string(sample("corpus.jsonl")).expect("the corpus");
    serde_json::from_str(corpus.lines().next().expect("a line")).expect("JSON")
}

/// The model is not looked for before that.
#[test]
fn judged_passages_that_no_run_can_hold_are_refused_before_any_is_scored() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("written");
        path
    };
    let corpus = file(
        "corpus.jsonl",
        "{\"_id\": \"a\", \"text\": \"x\"}\n{\"_id\": \"b c\", \"text\": \"y\"}\n",
    );
    let queries = file("queries.jsonl", "{\"_id\": \"q\", \"text\": \"z\"}\n");
    let run = file("run.trec", "q Q0 a 1 1 x\n");
    let qrels = file("qrels.tsv", "query-id\tcorpus-id\tscore\nq\tb c\t1\n");
    let out = folder.path().join("out.trec");
    let mut arguments = vec!["rerank", "--model", "no-such-model", "--run", text(&run)];
    arguments.extend(["--queries", text(&queries), "--corpus", text(&corpus)]);
    arguments.extend(["--qrels", text(&qrels), "--run-out", text(&out)]);
    let errors = fail(65, arguments);
    assert!(
        errors.contains("id `b c` is empty or has white space"),
        "{errors}"
    );
}

/// The run's own order decides where a model leaves everything to it.
#[test]
fn a_reranked_run_has_the_rank_prior_unless_it_is_raw() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (fixture, model) = (testkit::fixture("models/tiny-cross-bert"), path("model"));
    fs::create_dir(&model).expect("a folder");
    for file in fs::read_dir(fixture).expect("the model") {
        let file = file.expect("an entry").path();
        fs::copy(&file, model.join(file.file_name().expect("a name"))).expect("copied");
    }
    let config = fs::read_to_string(model.join("config.json")).expect("a file");
    let mut config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    let identity = "torch.nn.modules.linear.Identity";
    config["sentence_transformers"] = serde_json::json!({ "activation_fn": identity });
    config["trawl"] = serde_json::json!({ "rank_prior": { "weight": 1e4, "offset": 0.0 } });
    fs::write(model.join("config.json"), config.to_string()).expect("written");
    let corpus = fs::read_to_string(sample("corpus.jsonl")).expect("the corpus");
    let ids = corpus.lines().take(6).map(|line| {
        let passage: serde_json::Value = serde_json::from_str(line).expect("JSON");
        string(&passage["_id"]).to_owned()
    });
    let ids: Vec<String> = ids.collect();
    let run = ids.iter().enumerate();
    let run = run.map(|(place, id)| format!("q Q0 {id} {} {} x\n", place + 1, 9 - place));
    fs::write(path("run.trec"), run.collect::<String>()).expect("written");
    fs::write(
        path("queries.jsonl"),
        "{\"_id\": \"q\", \"text\": \"how bread rises\"}\n",
    )
    .expect("written");
    let rerank = |more: &[&str]| -> Vec<(String, f64)> {
        let (run, queries, corpus) = (
            path("run.trec"),
            path("queries.jsonl"),
            sample("corpus.jsonl"),
        );
        let out = path("out.trec");
        let mut arguments = vec![
            "--quiet",
            "rerank",
            "--model",
            text(&model),
            "--run",
            text(&run),
        ];
        arguments.extend(["--queries", text(&queries), "--corpus", text(&corpus)]);
        arguments.extend(["--run-out", text(&out)]);
        arguments.extend(more);
        succeed(arguments);
        let lines = fs::read_to_string(&out).expect("a run");
        let hit = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2].to_owned(), fields[4].parse().expect("a score"))
        };
        lines.lines().map(hit).collect()
    };
    let (with, raw) = (rerank(&[]), rerank(&["--raw"]));
    let order = |hits: &[(String, f64)]| hits.iter().map(|hit| hit.0.clone()).collect::<Vec<_>>();
    assert_eq!(order(&with), ids);
    assert_ne!(order(&raw), ids);
    for (place, (id, score)) in with.iter().enumerate() {
        let own = raw
            .iter()
            .find(|hit| hit.0 == *id)
            .expect("the same passages")
            .1;
        let expected = own + 1e4 / (place + 1) as f64;
        assert!((score - expected).abs() < 1e-2, "{score}, not {expected}");
    }
    fail(
        2,
        [
            "rerank",
            "--depth",
            "0",
            "--run",
            "a",
            "--queries",
            "b",
            "--corpus",
            "c",
            "--run-out",
            "d",
        ],
    );
}

fn string(value: &serde_json::Value) -> &str {
    value.as_str().expect("a string")
}

#[test]
fn a_passage_finds_itself_by_vector_by_words_and_by_both() {
    let built = build();
    let passage = first_passage();
    let query = format!("{} {}", string(&passage["title"]), string(&passage["text"]));
    for how in [
        &[][..],
        &["--lexical"],
        &["--hybrid"],
        &["--exact"],
        &["--no-verify"],
    ] {
        let mut arguments = vec![
            "--json",
            "search",
            text(&built.collection),
            &query,
            "-k",
            "3",
        ];
        arguments.extend(how);
        let answer = json(arguments);
        assert_eq!(answer["results"][0]["id"], passage["_id"], "{how:?}");
        assert_eq!(answer["results"][0]["rank"], 1);
        assert_eq!(
            answer["results"][0]["metadata"]["subject"],
            passage["subject"]
        );
        assert_eq!(answer["results"].as_array().map(Vec::len), Some(3));
    }
    let table = succeed(["search", text(&built.collection), &query]);
    assert!(table.contains(string(&passage["_id"])), "{table}");
}

#[test]
fn a_run_of_passages_as_queries_scores_one_and_reranking_keeps_its_passages() {
    let built = build();
    let corpus = fs::read_to_string(sample("corpus.jsonl")).expect("the corpus");
    let (mut queries, mut qrels) = (String::new(), "query-id\tcorpus-id\tscore\n".to_owned());
    for line in corpus.lines().take(40) {
        let passage: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let whole = format!("{} {}", string(&passage["title"]), string(&passage["text"]));
        let id = format!("q-{}", string(&passage["_id"]));
        queries += &format!("{}\n", serde_json::json!({ "_id": id, "text": whole }));
        qrels += &format!("{id}\t{}\t1\n", string(&passage["_id"]));
    }
    let path = |name: &str| built.folder.path().join(name);
    fs::write(path("queries.jsonl"), queries).expect("written");
    fs::write(path("qrels.tsv"), qrels).expect("written");
    succeed([
        "search",
        text(&built.collection),
        "--queries",
        text(&path("queries.jsonl")),
        "--qrels",
        text(&path("qrels.tsv")),
        "-k",
        "20",
        "--run-out",
        text(&path("run.trec")),
    ]);
    let report = json([
        "--json",
        "eval",
        "--qrels",
        text(&path("qrels.tsv")),
        "--run",
        text(&path("run.trec")),
        "--measures",
        "mrr@10,recall@20",
    ]);
    assert_eq!(report["metrics"]["mrr@10"], 1.0, "{report}");

    let reranker = testkit::fixture("models/tiny-cross-bert");
    succeed([
        "rerank",
        "--model",
        text(&reranker),
        "--run",
        text(&path("run.trec")),
        "--queries",
        text(&path("queries.jsonl")),
        "--corpus",
        text(&sample("corpus.jsonl")),
        "--depth",
        "20",
        "--run-out",
        text(&path("reranked.trec")),
    ]);
    let ids = |name: &str| {
        let run = fs::read_to_string(path(name)).expect("a run");
        let mut ids: Vec<String> = run
            .lines()
            .map(|line| line.split(' ').step_by(2).take(2).collect())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids("run.trec"), ids("reranked.trec"));
    let order = |name: &str| fs::read_to_string(path(name)).expect("a run");
    assert_ne!(order("run.trec"), order("reranked.trec"));

    // Of a short head, the rest stays in its order below, and what is relevant is scored wherever it is.
    let rerank = |more: &[&str]| {
        let reranker = text(&reranker).to_owned();
        let (run, queries, out) = (path("run.trec"), path("queries.jsonl"), path("short.trec"));
        let (corpus, mut args) = (sample("corpus.jsonl"), vec!["rerank", "--depth", "4"]);
        args.extend([
            "--model",
            &reranker,
            "--run",
            text(&run),
            "--queries",
            text(&queries),
        ]);
        args.extend(["--corpus", text(&corpus), "--run-out", text(&out)]);
        succeed(args.into_iter().chain(more.iter().copied()));
        let ids = |name: &str| -> Vec<String> {
            let run = fs::read_to_string(path(name)).expect("a run");
            let lines = run
                .lines()
                .map(|line| line.split(' ').nth(2).expect("an id").to_owned());
            lines.collect()
        };
        (ids("run.trec"), ids("short.trec"))
    };
    let (before, after) = rerank(&[]);
    assert_eq!((before.len(), after.len()), (40 * 20, 40 * 4));
    let (before, after) = rerank(&["--keep-rest"]);
    for (before, after) in before.chunks(20).zip(after.chunks(20)) {
        assert_eq!(before[4..], after[4..]);
        assert!(before[..4].iter().all(|id| after[..4].contains(id)));
    }
    let query = before[10].clone(); // the 11th passage of the first query
    fs::write(
        path("other.tsv"),
        format!("query-id\tcorpus-id\tscore\nq-kitchen-01\t{query}\t1\n"),
    )
    .expect("written");
    let other = path("other.tsv");
    let (_, after) = rerank(&["--qrels", text(&other)]);
    assert!(after.len() == 40 * 4 + 1 && after[..5].contains(&query));
    let (_, after) = rerank(&["--qrels", text(&other), "--keep-rest"]);
    assert!(after.len() == 40 * 20 && after[..5].contains(&query));
}

#[test]
fn a_passage_that_is_its_own_query_is_not_its_own_result() {
    let built = build();
    let (run, corpus) = (built.folder.path().join("run.trec"), sample("corpus.jsonl"));
    let n_identical = |more: &[&str]| {
        let args = [
            "search",
            text(&built.collection),
            "--queries",
            text(&corpus),
            "-k",
            "3",
            "--run-out",
            text(&run),
        ];
        succeed(args.into_iter().chain(more.iter().copied()));
        let run = fs::read_to_string(&run).expect("a run");
        let identical = run
            .lines()
            .filter(|line| line.split(' ').next() == line.split(' ').nth(2));
        (identical.count(), run.lines().count())
    };
    let (n_before, n_lines) = n_identical(&[]);
    assert!(n_before > 0 && n_lines == 336 * 3);
    assert_eq!(
        n_identical(&["--ignore-identical-ids"]),
        (0, n_lines - n_before)
    );
}

#[test]
fn another_encoder_is_refused_with_the_entry_that_differs() {
    let built = build();
    let other = testkit::fixture("models/tiny-bert-last");
    let arguments = [
        "search",
        text(&built.collection),
        "tides",
        "--model",
        text(&other),
    ];
    let errors = fail(4, arguments);
    assert!(errors.contains("differ in `space."), "{errors}");
}

#[test]
fn a_bad_line_is_named_and_leaves_no_collection() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let corpus = folder.path().join("corpus.jsonl");
    fs::write(
        &corpus,
        "{\"_id\": 1, \"text\": \"one\"}\n{\"_id\": 1, \"text\": \"two\"}\n",
    )
    .expect("written");
    let collection = folder.path().join("docs");
    let build = |more: &[&'static str]| {
        let mut arguments = vec![
            "index".to_owned(),
            "build".to_owned(),
            "--corpus".to_owned(),
            text(&corpus).to_owned(),
            "--model".to_owned(),
            text(&tiny_model()).to_owned(),
            "--collection".to_owned(),
            text(&collection).to_owned(),
        ];
        arguments.extend(more.iter().map(|more| (*more).to_owned()));
        arguments
    };
    let errors = fail(65, build(&[]).iter().map(String::as_str));
    assert!(errors.contains("corpus.jsonl:2"), "{errors}");
    assert!(!collection.exists());
    succeed(build(&["--skip-bad-lines"]).iter().map(String::as_str));
    let found = json(["--json", "search", text(&collection), "one", "-k", "5"]);
    assert_eq!(found["results"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_flipped_byte_is_found_by_verify_and_named() {
    let built = build();
    succeed(["index", "verify", text(&built.collection)]);
    let mut files = Vec::new();
    list_files(&built.collection.join("generations"), &mut files);
    let vectors = files
        .iter()
        .find(|path| path.ends_with("001/vectors.trawl"))
        .expect("a shard");
    let mut bytes = fs::read(vectors).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(vectors, bytes).expect("written");
    let output = trawl(["index", "verify", text(&built.collection)]);
    assert_eq!(output.status.code(), Some(5));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains("shards/001/vectors.trawl"), "{shown}");
    fail(5, ["search", text(&built.collection), "tides"]);
}

/// Adds every file below a folder.
pub fn list_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list_files(&path, files)
        } else {
            files.push(path)
        }
    }
}

#[test]
fn unknown_arguments_and_models_are_usage_errors() {
    assert_eq!(trawl(["search"]).status.code(), Some(2));
    assert_eq!(trawl(["dredge"]).status.code(), Some(2));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let collection = folder.path().join("docs");
    let corpus = sample("corpus.jsonl");
    let errors = fail(
        2,
        [
            "index",
            "build",
            "--corpus",
            text(&corpus),
            "--model",
            "no-such-model",
            "--collection",
            text(&collection),
        ],
    );
    assert!(
        errors.contains("trawl model pull no-such-model"),
        "{errors}"
    );
    let errors = fail(2, ["model", "info", "no/such/model"]);
    assert!(
        errors.contains("`no/such/model` is neither") && !errors.contains("model pull"),
        "{errors}"
    );
    let plain = testkit::fixture("models/tiny-bert-plain");
    let errors = fail(
        2,
        [
            "index",
            "build",
            "--corpus",
            text(&corpus),
            "--model",
            text(&plain),
            "--collection",
            text(&collection),
        ],
    );
    assert!(
        errors.contains("--pooling") && errors.contains("--preset"),
        "{errors}"
    );
    let model = text(&plain);
    let errors = fail(1, ["model", "convert", model, model, "--dtype", "f16"]);
    let expected = format!("cannot convert `{model}`");
    assert!(errors.contains(&expected), "{errors}");
}

#[test]
fn object_storage_is_not_taken_for_a_folder() {
    let (corpus, model, url) = (sample("corpus.jsonl"), tiny_model(), "s3://bucket/docs");
    let content = ["--corpus", text(&corpus), "--model", text(&model)];
    let check = |exit, command: &[&str], hint: &str| {
        let errors = fail(exit, command.iter().copied());
        assert!(
            errors.contains(&format!("hint: `{hint}")),
            "{command:?}: {errors}"
        );
    };
    let into = ["--collection", url];
    let build = [&["index", "build"][..], &content, &into].concat();
    check(2, &build, "trawl index push");
    let encode = [&["index", "encode", "--part", "0/2"][..], &content, &into].concat();
    check(2, &encode, "--to");
    check(2, &["index", "pull", url, url], "trawl index push");
    check(1, &["search", url, "x"], "trawl index pull");
}

#[test]
fn what_is_not_there_is_named_with_the_way_out() {
    let built = build();
    let (model, nowhere) = (tiny_model(), built.folder.path().join("nowhere"));
    let errors = fail(1, ["search", text(&nowhere), "x"]);
    assert!(
        errors.contains("nowhere` is not a collection")
            && errors.contains("hint: a collection is the folder that `trawl index build"),
        "{errors}"
    );
    let search = ["search", text(&built.collection), "--model", text(&model)];
    let errors = fail(1, [&search[..], &["x", "--generation", "next"]].concat());
    assert!(
        errors.contains("no alias or generation `next`")
            && errors.contains("hint: `trawl index list"),
        "{errors}"
    );
    let errors = fail(2, [&search[..], &[" "]].concat());
    assert!(errors.contains("the query is blank"), "{errors}");

    let table = built.folder.path().join("table.csv");
    fs::write(&table, "1,first,some words\n").expect("written");
    let index = ["index", "build", "--corpus", text(&table), "--model"];
    let rest = [text(&model), "--collection", text(&nowhere)];
    let errors = fail(65, [&index[..], &rest].concat());
    assert!(
        errors.contains("table.csv` lack an id") && errors.contains("hint: `--columns"),
        "{errors}"
    );
    succeed([&index[..], &rest, &["--columns", "id,title,text"]].concat());
}

#[test]
fn pairs_of_title_and_text_are_encoded_as_such() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (corpus, model) = (sample("corpus.jsonl"), tiny_model());
    let build = |name: &str, more: &[&str]| {
        let collection = folder.path().join(name);
        let args = [
            "--json",
            "index",
            "build",
            "--corpus",
            text(&corpus),
            "--model",
            text(&model),
        ];
        let args = args.into_iter().chain(["--collection", text(&collection)]);
        json(args.chain(more.iter().copied()));
        let answer = json(["--json", "search", text(&collection), "onions", "-k", "1"]);
        answer["results"][0]["score"].as_f64().expect("a score")
    };
    let (joined, pair) = (build("joined", &[]), build("pair", &["--pair"]));
    // The second text has another token type, and a separator stands before it.
    assert_ne!(joined, pair);
    assert_eq!(
        pair,
        build("as a template", &["--pair", "--template", "<text>"])
    );
}

/// A `.fvecs` file of rows.
fn fvecs(rows: &[[f32; 2]]) -> Vec<u8> {
    rows.iter()
        .flat_map(|row| {
            let values = row.iter().flat_map(|value| value.to_le_bytes());
            2i32.to_le_bytes()
                .into_iter()
                .chain(values)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn vectors_made_elsewhere_are_indexed_and_searched_without_a_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        text(&path).to_owned()
    };
    let corpus = write(
        "corpus.jsonl",
        br#"{"_id": "a", "text": "north"}
{"_id": "b", "text": "east"}
{"_id": "c", "text": "north-east"}
"#,
    );
    let collection = text(&folder.path().join("c")).to_owned();
    let ids = write("ids", b"c\nb\na\n");
    let build = |vectors: &str| {
        let args = ["index", "build", "--corpus", &corpus, "--ids", &ids];
        let more = ["--collection", &collection, "--metric", "cosine"];
        [&args[..], &more, &["--vectors", vectors]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let zero = write("zero.fvecs", &fvecs(&[[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]));
    let errors = fail(65, build(&zero).iter().map(String::as_str));
    assert!(errors.contains("row 1 of `"), "{errors}");
    assert!(errors.contains("zero.fvecs` is zero"), "{errors}");
    let rows = write("rows.fvecs", &fvecs(&[[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]));
    succeed(build(&rows).iter().map(String::as_str));

    let run = text(&folder.path().join("run.trec")).to_owned();
    let search = |vectors: &str, ids: &str| {
        let (vectors, ids) = (vectors.to_owned(), ids.to_owned());
        ["search", &collection, "--vectors", &vectors, "--ids", &ids]
            .into_iter()
            .chain(["-k", "2", "--run-out", &run])
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let queries = write("queries.fvecs", &fvecs(&[[0.1, 2.0], [2.0, -0.1]]));
    let names = write("queries.ids", b"\xef\xbb\xbfup\r\nright\n");
    succeed(search(&queries, &names).iter().map(String::as_str));
    let found = fs::read_to_string(&run).expect("a run");
    let found: Vec<Vec<&str>> = found
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(
        found,
        [
            ["up", "Q0", "a"],
            ["up", "Q0", "c"],
            ["right", "Q0", "b"],
            ["right", "Q0", "c"]
        ]
    );

    let errors = fail(65, search(&queries, &ids).iter().map(String::as_str));
    assert!(errors.contains("has 3 ids for 2 vectors"), "{errors}");
    let twice = write("twice.ids", b"up\nup\n");
    let errors = fail(65, search(&queries, &twice).iter().map(String::as_str));
    assert!(
        errors.contains("twice.ids:2: two vectors have the id `up`"),
        "{errors}"
    );
    let blank = write("blank.ids", b"up\nto the right\n");
    let errors = fail(65, search(&queries, &blank).iter().map(String::as_str));
    assert!(
        errors.contains("blank.ids:2: id `to the right` is empty or has white space"),
        "{errors}"
    );
    let wide = write("wide.bvecs", &[3, 0, 0, 0, 1, 2, 3]);
    let errors = fail(65, search(&wide, &ids).iter().map(String::as_str));
    assert!(errors.contains("has width 3, the index 2"), "{errors}");
    let text_too = [
        "search",
        &collection,
        "text",
        "--vectors",
        &queries,
        "--ids",
        &names,
    ];
    fail(2, text_too.into_iter().chain(["--run-out", &run]));
    let errors = fail(2, ["search", &collection, "text"]);
    assert!(
        errors.contains("made elsewhere") && errors.contains("`--vectors`"),
        "{errors}"
    );
}

#[test]
fn cross_encoders_are_described_as_what_they_are() {
    for (name, n_labels) in [
        ("tiny-cross-bert-3", 3),     // as sentence-transformers saves it
        ("tiny-cross-distilbert", 1), // a checkpoint alone
    ] {
        let model = testkit::fixture("models").join(name);
        let shown = json(["--json", "model", "info", text(&model)]);
        assert_eq!(shown["kind"], "cross-encoder");
        assert_eq!(shown["labels"].as_array().unwrap().len(), n_labels);
        let printed = json(["--json", "model", "fingerprint", text(&model)]);
        assert_eq!(printed["digest"], shown["fingerprint"]);
        let arguments = ["model", "info", text(&model), "--pooling", "cls"];
        let errors = fail(2, arguments);
        assert!(errors.contains("is a cross-encoder"), "{errors}");
    }
    let model = testkit::fixture("models/tiny-bert-plain");
    let errors = fail(2, ["model", "info", text(&model)]);
    assert!(errors.contains("--preset"), "{errors}");
}

#[test]
fn a_cross_encoder_in_place_of_an_encoder_is_told_what_it_is_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let collection = folder.path().join("collection");
    let corpus = sample("corpus.jsonl");
    let mut build = vec!["index", "build", "--corpus", text(&corpus)];
    build.extend(["--collection", text(&collection)]);
    for name in ["tiny-cross-bert-3", "tiny-cross-distilbert"] {
        let model = testkit::fixture("models").join(name);
        for command in [vec!["embed"], build.clone()] {
            let errors = fail(2, [command, vec!["--model", text(&model)]].concat());
            assert!(errors.contains("is a cross-encoder"), "{errors}");
            assert!(errors.contains("`search --rerank`"), "{errors}");
            assert!(!errors.contains("--preset"), "{errors}");
        }
    }
}

#[test]
fn a_pull_says_where_the_model_came_from_or_that_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let pull = ["model", "pull", "trawl-reranker-small", "--to"];
    for expected in [" (this binary)\n", " (already there)\n"] {
        let shown = succeed([&pull[..], &[text(folder.path())]].concat());
        assert!(shown.ends_with(expected), "{shown}");
    }
}

#[test]
fn doctor_tells_of_a_default_model_whose_vectors_are_no_numbers() {
    let models = tempfile::tempdir().unwrap();
    let model = models.path().join("all-MiniLM-L6-v2");
    let mut files = Vec::new();
    list_files(&tiny_model(), &mut files);
    for file in files {
        let to = model.join(file.strip_prefix(tiny_model()).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    let problem = || {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_trawl"))
            .args(["doctor", "--json"])
            .env("TRAWL_MODELS", models.path())
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        shown["default_model_problem"].clone()
    };
    assert_eq!(problem(), serde_json::Value::Null);
    // Embeddings that are numbers, and whose sum is none.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..data]).unwrap();
    for name in ["word", "position", "token_type"] {
        let place = &header[format!("embeddings.{name}_embeddings.weight")]["data_offsets"];
        let [start, end] = [0_usize, 1].map(|i| data + place[i].as_u64().unwrap() as usize);
        for value in bytes[start..end].chunks_exact_mut(4) {
            value.copy_from_slice(&f32::MAX.to_le_bytes());
        }
    }
    fs::write(&weights, bytes).unwrap();
    let found = problem();
    assert!(found.as_str().unwrap().contains("damaged: "), "{found}");
}
