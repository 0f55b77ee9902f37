//! `trawl bench encode` with the test models: what it counts, what it prints, what it refuses.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{fail, json, sample, succeed, text, tiny_model, trawl};

/// Runs `trawl bench encode` with two repeats on one thread and returns its JSON.
fn bench(model: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["--json", "bench", "encode", "--model", text(model)];
    arguments.extend(["--threads", "1", "--repeats", "2"]);
    arguments.extend(more);
    json(arguments)
}

fn refused(exit: i32, more: &[&str], expected: &str) {
    let mut arguments = vec!["bench", "encode"];
    arguments.extend(more);
    let errors = fail(exit, arguments);
    assert!(errors.contains(expected), "{errors}");
}

fn written(folder: &Path, name: &str, contents: impl AsRef<[u8]>) -> String {
    let path = folder.join(name);
    fs::write(&path, contents).expect("written");
    text(&path).to_owned()
}

fn gzip(contents: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(contents.as_bytes()).expect("in memory");
    encoder.finish().expect("in memory")
}

/// Checks what holds for every report that has nothing to compare with.
fn check_sane(report: &Value) {
    let number = |name: &str| report[name].as_f64().expect(name);
    for name in [
        "wall_s",
        "tokens_per_s",
        "passages_per_s",
        "p50_ms",
        "end_to_end_tokens_per_s",
        "tokenize_tokens_per_s",
    ] {
        assert!(number(name) > 0.0, "{name}: {report}");
    }
    assert!(number("cpu_s") >= 0.0, "{report}");
    assert!(number("p99_ms") >= number("p50_ms"), "{report}");
    let ratio = number("tokens_per_s") * number("wall_s") / number("n_tokens");
    assert!((ratio - 1.0).abs() < 1e-9, "{report}");
    let ratio = number("passages_per_s") * number("wall_s") / number("n_texts");
    assert!((ratio - 1.0).abs() < 1e-9, "{report}");
    for (name, expected) in [("threads", 1), ("repeats", 2)] {
        assert_eq!(report[name], expected, "{report}");
    }
    for name in ["cosine_min", "cosine_mean", "logit_rmse"] {
        let value = report.get(name).expect(name);
        assert!(value.is_null(), "{name} compares f32 with itself: {report}");
    }
    assert!(report["simd"].is_string(), "{report}");
}

#[test]
fn passages_of_the_sample_have_the_tokens_that_an_index_counts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (corpus, collection) = (sample("corpus.jsonl"), folder.path().join("sample"));
    let mut build = vec!["--json", "index", "build", "--corpus", text(&corpus)];
    let (model, collection) = (tiny_model(), text(&collection));
    build.extend(["--model", text(&model), "--collection", collection]);
    let counts = &json(build)["counts"];

    let report = bench(&model, &["--precision", "f32"]);
    check_sane(&report);
    assert_eq!(report["workload"], "passages");
    assert_eq!(report["model"], "tiny-bert");
    assert_eq!(report["precision"], "f32");
    assert_eq!(report["n_texts"], 336);
    assert_eq!(report["n_tokens"], counts["tokens"]);
    assert_eq!(report["n_truncated"], counts["truncated"]);

    let of_file = bench(&model, &["--precision", "f32", "--texts", text(&corpus)]);
    assert_eq!(of_file["n_tokens"], report["n_tokens"]);
    let limits = ["--max-tokens", "8", "--max-texts", "10"];
    let short = bench(&model, &[&limits[..], &["--batch-tokens", "64"]].concat());
    assert_eq!(short["n_texts"], 10);
    assert_eq!(short["n_tokens"], 80);
    assert_eq!(short["n_truncated"], 10);
    assert_eq!(short["batch_tokens"], 64);
}

#[test]
fn faster_arithmetic_is_compared_with_f32() {
    for (precision, least) in [
        ("fixed16", 0.999_999),
        ("bf16x3", 0.999_999),
        ("bf16", 0.999),
        ("int8", 0.95),
    ] {
        for simd in ["portable", "avx512", "amx"] {
            let report = bench(&tiny_model(), &["--precision", precision, "--simd", simd]);
            assert_eq!(report["precision"], precision);
            assert_eq!(report["simd"] == "portable", simd == "portable", "{report}");
            let [min, mean] = ["cosine_min", "cosine_mean"].map(|name| report[name].as_f64());
            assert!(min >= Some(least) && mean >= min, "{report}");
        }
    }
    let report = bench(&tiny_model(), &["--precision", "auto", "--simd", "avx2"]);
    assert_eq!(
        report["precision"], "f32",
        "nothing else is both fast and near there"
    );
    let model = testkit::fixture("models/tiny-cross-bert");
    let pairs = ["--workload", "pairs", "--precision", "fixed16"];
    let rmse = bench(&model, &pairs)["logit_rmse"]
        .as_f64()
        .expect("an error");
    assert!(rmse < 0.01, "{rmse}");
}

#[test]
fn training_steps_are_measured() {
    let report = json(vec![
        "--json",
        "bench",
        "encode",
        "--workload",
        "train-bi",
        "--repeats",
        "1",
    ]);
    assert_eq!(
        (&report["n_texts"], &report["n_tokens"]),
        (&48.into(), &4256.into())
    );
    let part = |name: &str| report[name].as_f64().expect(name);
    let parts: f64 = ["forward_s", "backward_s", "optimizer_s"]
        .map(part)
        .iter()
        .sum();
    assert!(parts > 0.0 && parts <= part("wall_s"), "{report}");
    let common = ["--workload", "train-bi"];
    refused(2, &[&common[..], &["--precision", "int8"]].concat(), "int8");
    refused(
        2,
        &[&common[..], &["--max-texts", "3"]].concat(),
        "--max-texts",
    );
    refused(
        2,
        &[&common[..], &["--passage-tokens", "64"]].concat(),
        "no option for pooling, prompts or lengths",
    );
}

#[test]
fn queries_are_the_texts_of_six_to_twenty_tokens() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lines = format!(
        "tide\nwhy is the sky blue\n\n{}\nwhy is the sky blue\nwhy is the sky blue\n",
        "why is the sky blue ".repeat(20)
    );
    let queries = gzip(&lines);
    let queries = written(folder.path(), "queries.txt.gz", queries);
    let common = ["--precision", "f32", "--workload", "queries"];
    let run = |more: &[&str]| bench(&tiny_model(), &[&common[..], more].concat());
    let report = run(&["--texts", &queries]);
    check_sane(&report);
    assert_eq!(report["workload"], "queries");
    assert_eq!(report["n_texts"], 3);
    let n_tokens = report["n_tokens"].as_u64().expect("a count");
    assert!(
        n_tokens % 3 == 0 && (18..=60).contains(&n_tokens),
        "{report}"
    );
    let two = run(&["--texts", &queries, "--max-texts", "2"]);
    assert_eq!(two["n_tokens"], n_tokens / 3 * 2);

    let of_sample = run(&[]);
    let n_texts = of_sample["n_texts"].as_u64().expect("a count");
    assert!((1..=84).contains(&n_texts), "{of_sample}");
}

#[test]
fn pairs_are_scored_by_a_cross_encoder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let model = testkit::fixture("models/tiny-cross-bert");
    let logits = folder.path().join("logits.npy");
    let common = ["--precision", "f32", "--workload", "pairs"];
    let run = |more: &[&str]| bench(&model, &[&common[..], more].concat());
    let report = run(&["--max-texts", "7", "--vectors-out", text(&logits)]);
    check_sane(&report);
    assert_eq!(report["workload"], "pairs");
    assert_eq!(report["n_texts"], 7);
    let bytes = fs::read(&logits).expect("written");
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (7, 1)"));
    let short = run(&["--max-texts", "7", "--max-tokens", "16"]);
    assert_eq!(short["n_tokens"], 7 * 16);

    // The query of a line counts, and stands before the text; without one the text's first words do.
    let n_tokens = |line: &str| {
        let texts = written(folder.path(), "pairs", line);
        run(&["--texts", &texts])["n_tokens"]
            .as_u64()
            .expect("a count")
    };
    let words = "one two three four five six seven eight nine ten";
    let with_query = n_tokens(&format!(
        r#"{{"query": "{words}", "text": "{words} eleven"}}"#
    ));
    assert_eq!(n_tokens(&format!("{words} eleven")), with_query);
    assert!(n_tokens(r#"{"query": "one", "text": "one eleven"}"#) < with_query);
}

#[test]
fn vectors_written_are_those_of_embed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let texts = "why onions make you weep\nthe tide comes in twice a day\n";
    let (ours, theirs) = (
        folder.path().join("ours.npy"),
        folder.path().join("theirs.npy"),
    );
    let file = written(folder.path(), "texts", texts);
    let more = ["--precision", "f32", "--texts", &file];
    bench(
        &tiny_model(),
        &[&more[..], &["--vectors-out", text(&ours)]].concat(),
    );
    let mut embed = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args([
            "embed",
            "--model",
            text(&tiny_model()),
            "--output",
            text(&theirs),
        ])
        .stdin(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdin = embed.stdin.take().expect("piped");
    stdin.write_all(texts.as_bytes()).expect("written");
    drop(stdin);
    assert!(embed.wait().expect("ends").success());
    let read = |path: &Path| fs::read(path).expect("written");
    assert_eq!(read(&ours), read(&theirs));
}

#[test]
fn without_json_it_prints_a_table_and_progress_goes_to_standard_error() {
    let model = tiny_model();
    let arguments = [
        "bench",
        "encode",
        "--model",
        text(&model),
        "--max-texts",
        "3",
    ];
    let output = trawl(arguments.iter().copied().chain(["--workload", "queries"]));
    let shown = String::from_utf8_lossy(&output.stdout);
    for row in ["tiny-bert", "tokens/s", "user CPU, s", "p99 of a query, ms"] {
        assert!(shown.contains(row), "{shown}");
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("measure: 5 repeats"), "{errors}");
    let quiet = trawl(arguments.iter().copied().chain(["--quiet"]));
    assert!(quiet.stderr.is_empty());
    assert!(succeed(["bench", "encode", "--help"]).contains("--workload pairs --model"));
}

#[test]
fn bad_texts_are_refused_by_file_and_line() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |name: &str, contents: &[u8], more: &[&str], expected: &str| {
        let (model, file) = (tiny_model(), written(folder.path(), name, contents));
        let common = ["--model", text(&model), "--texts", &file];
        refused(65, &[&common[..], more].concat(), expected);
    };
    check(
        "a.jsonl",
        b"{\"text\": \"one\"}\n{\"text\": 2}\n",
        &[],
        "a.jsonl:2: `text` is not text",
    );
    check(
        "b.jsonl",
        b"{\"text\": \"one\"}\ntwo\n",
        &[],
        "b.jsonl:2: not a JSON object",
    );
    check(
        "c.jsonl",
        b"{\"title\": \" \"}\n",
        &[],
        "c.jsonl:1: title and text are both blank",
    );
    check(
        "d.txt",
        b"one\ntw\xff\n",
        &[],
        "d.txt:2: not UTF-8 at byte 3",
    );
    check("e.txt", b"\n \n", &[], "e.txt` has no text");
    check(
        "f.txt",
        b"tide\n",
        &["--workload", "queries"],
        "f.txt` has no text of 6 to 20 tokens",
    );
    let whole = gzip(&"why is the sky blue\n".repeat(100));
    check(
        "g.gz",
        &whole[..whole.len() - 9],
        &[],
        "g.gz` is truncated or damaged",
    );
    let missing = folder.path().join("missing");
    let model = tiny_model();
    let arguments = ["--model", text(&model), "--texts", text(&missing)];
    refused(1, &arguments, "missing`");
}

#[test]
fn wrong_arguments_are_usage_errors_that_name_what_helps() {
    let (bi, cross) = (tiny_model(), testkit::fixture("models/tiny-cross-bert"));
    let (bi, cross) = (text(&bi), text(&cross));
    refused(
        2,
        &["--workload", "train"],
        "[possible values: passages, queries, pairs, train-bi, train-cross]",
    );
    refused(2, &["--precision", "f12"], "--precision");
    refused(
        2,
        &["--simd", "sse"],
        "expected portable, avx2, avx512 or amx",
    );
    refused(2, &["--repeats", "0"], "--repeats");
    refused(2, &["--max-texts", "0"], "--max-texts");
    refused(2, &["--batch-tokens", "0"], "--batch-tokens");
    refused(
        2,
        &["--max-tokens", "9", "--passage-tokens", "9"],
        "cannot be used with",
    );
    refused(
        2,
        &["--model", "no-such-model"],
        "trawl model pull no-such-model",
    );
    refused(2, &["--workload", "pairs"], "name it with `--model`");
    let pairs = ["--workload", "pairs", "--model", cross];
    refused(
        2,
        &[&pairs[..], &["--pooling", "cls"]].concat(),
        "`--max-tokens` cuts its pairs",
    );
    refused(
        2,
        &[&pairs[..], &["--max-tokens", "9999"]].concat(),
        "9999 tokens for the pair",
    );
    refused(
        2,
        &["--model", bi, "--max-tokens", "9999"],
        "9999 tokens for the",
    );
    refused(
        1,
        &["--workload", "pairs", "--model", bi],
        "this is no cross-encoder",
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nowhere = folder.path().join("no/vectors.npy");
    refused(
        1,
        &["--model", bi, "--vectors-out", text(&nowhere)],
        "cannot write into",
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_it_without_a_file() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let vectors = folder.path().join("vectors.npy");
    let mut child = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args([
            "bench",
            "encode",
            "--model",
            text(&tiny_model()),
            "--repeats",
            "1000000",
        ])
        .args(["--vectors-out", text(&vectors)])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.next().expect("a line").expect("UTF-8");
    assert!(first.starts_with("warm up: "), "{first}");
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.expect("kill runs").success());
    let rest: Vec<String> = lines.map(|line| line.expect("UTF-8")).collect();
    assert!(
        rest.iter()
            .any(|line| line.contains("stopped before the last repeat")),
        "{rest:?}"
    );
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
