//! `trawl data` and `trawl mine` from their arguments to their files and exit codes.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{fail, json, sample, succeed, text, tiny_model};

fn fixture(name: &str) -> String {
    text(&testkit::fixture("training").join(name)).to_owned()
}

fn lines(path: &Path) -> Vec<Value> {
    let lines = fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Ids of the passages of a list.
fn ids(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap();
    list.iter().map(|one| one["id"].as_str().unwrap()).collect()
}

#[test]
fn other_formats_become_ours() {
    let folder = tempfile::tempdir().unwrap();
    let convert = |out: &str, arguments: &str| {
        let out = folder.path().join(out);
        let mut all = vec!["data", "convert", "--json", "--out", text(&out), "--from"];
        all.extend(arguments.split(' '));
        (json(all), out)
    };
    let texts = fixture("tevatron.jsonl");
    let (counts, out) = convert("a.jsonl", &format!("tevatron {texts}"));
    assert_eq!(
        (&counts["examples"], &counts["negatives"]),
        (&json!(3), &json!(8))
    );
    let expected = lines(&out);
    assert_eq!(ids(&expected[0]["positives"]), ["0", "1"]);
    assert_eq!(expected[0]["query"], "why are there tides");

    // Compressed and back, the lines are the same.
    let (_, packed) = convert("a.jsonl.gz", &format!("native {}", text(&out)));
    assert_eq!(fs::read(&packed).unwrap()[..2], [0x1f, 0x8b]);
    let (_, packed) = convert("a.jsonl.zst", &format!("native {}", text(&packed)));
    let (_, unpacked) = convert("b.jsonl", &format!("native {}", text(&packed)));
    assert_eq!(lines(&unpacked), expected);

    let (corpus, queries, qrels) = (
        fixture("corpus.jsonl"),
        fixture("queries.jsonl"),
        fixture("qrels/train.tsv"),
    );
    let negatives = fixture("train.negatives.tsv");
    let data = fixture("");
    let run = fixture("run.trec");
    for source in [
        format!("beir --data {data} --run {run}"),
        format!(
            "beir --corpus {corpus} --queries {queries} --qrels {qrels} --negatives {negatives}"
        ),
        format!(
            "beir --corpus {} --titles {} --queries {queries} --qrels {qrels} --negatives {negatives}",
            fixture("rocketqa/para.txt"),
            fixture("rocketqa/para.title.txt")
        ),
        format!(
            "tevatron-ids {} --corpus {corpus}",
            fixture("tevatron-ids.jsonl")
        ),
    ] {
        let (_, out) = convert("c.jsonl", &source);
        assert_eq!(lines(&out), expected, "{source}");
    }
    let simlm = format!(
        "simlm {} --corpus {}",
        fixture("simlm/train.jsonl"),
        fixture("simlm/passages.jsonl.gz")
    );
    let (_, out) = convert("d.jsonl", &simlm);
    assert_eq!(
        lines(&out)[0]["positives"][0],
        json!({"id": "0", "title": "Tides", "text": "The moon pulls the sea twice a day.", "score": 4.5})
    );
    let retromae = format!(
        "retromae --corpus {} --queries {} --qrels {} --negatives {} --scores {}",
        fixture("retromae/corpus"),
        fixture("retromae/train_query"),
        fixture("retromae/train_qrels.txt"),
        fixture("retromae/hard_negs.txt"),
        fixture("retromae/teacher.txt"),
    );
    let (counts, out) = convert("e.jsonl", &retromae);
    assert_eq!(counts["examples"], 4);
    assert_eq!(lines(&out)[1]["positives"][0]["score"], 3.25);
}

#[test]
fn bad_training_data_has_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.jsonl");
    fs::write(&bad, "{\"query\": \"a\", \"positives\": []}\n").unwrap();
    let out = folder.path().join("out.jsonl");
    let convert = |exit: i32, arguments: &str| {
        let mut all = vec!["data", "convert", "--out", text(&out), "--from"];
        all.extend(arguments.split(' '));
        fail(exit, all)
    };
    let error = convert(65, &format!("native {}", text(&bad)));
    assert!(error.contains("bad.jsonl:1: no positive"), "{error}");
    convert(65, &format!("native {} --skip-bad-lines", text(&bad)));
    convert(1, &format!("native {}/nowhere", folder.path().display()));
    let (data, run) = (fixture(""), fixture("run.trec"));
    let error = convert(
        2,
        &format!("beir --data {data} --run {run} --passage-template <abstract>"),
    );
    assert!(error.contains("names `abstract`"), "{error}");
    convert(2, &format!("beir --data {data} --passage-template text"));
    convert(2, "beir --corpus x");
    convert(2, "tevatron");
    convert(2, &format!("beir {}", text(&bad)));
    assert!(!out.exists(), "a conversion that fails leaves no file");

    let mine = ["mine", "--run", &run, "--data", &data, "--out", text(&out)];
    fail(2, mine.into_iter().chain(["--skip", "200"]));
    fail(2, mine.into_iter().chain(["--teacher-margin", "1"]));
    let error = fail(65, mine.into_iter().chain(["--max-score", "-1"]));
    assert!(error.contains("cannot mine"), "{error}");
}

#[test]
fn openmatch_files_hold_token_ids() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (tiny_model(), folder.path().join("train"));
    let build = |more: &str| {
        let (run, data) = (fixture("run.trec"), fixture(""));
        let command = format!(
            "data build-train --json --run {run} --data {data} --shard-size 2 --truncate 9"
        );
        let arguments: Vec<&str> = command.split(' ').chain(more.split(' ')).collect();
        json(
            arguments
                .into_iter()
                .chain(["--tokenizer", text(&model), "--save-to", text(&out)]),
        )
    };
    let counts = build("--n-sample 2");
    assert_eq!((&counts["lines"], &counts["files"]), (&json!(3), &json!(2)));
    let first = lines(&out.join("split00.jsonl"));
    assert_eq!(
        (first.len(), lines(&out.join("split01.jsonl")).len()),
        (2, 1)
    );
    for line in &first {
        assert_eq!(line["negatives"].as_array().unwrap().len(), 2);
        for passage in line["positives"].as_array().unwrap() {
            assert!((1..=9).contains(&passage.as_array().unwrap().len()));
        }
    }
    // The lines are read again as they are, and the seed decides which negatives they have.
    let native = folder.path().join("native.jsonl");
    let split = out.join("split00.jsonl");
    succeed([
        "data",
        "convert",
        "--from",
        "openmatch",
        text(&split),
        "--out",
        text(&native),
    ]);
    assert_eq!(lines(&native)[0]["query"], first[0]["query"]);
    build("--n-sample 2 --suffix hn");
    assert_eq!(lines(&out.join("split00.hn.jsonl")), first);
    build("--n-sample 1 --seed 1 --passage-template <text>");
    assert_ne!(lines(&out.join("split00.jsonl")), first);
    fail(
        2,
        [
            "data",
            "build-train",
            "--data",
            &fixture(""),
            "--pair",
            "--tokenizer",
            text(&model),
            "--save-to",
            text(&out),
        ],
    );
}

/// From a collection to a run, from the run to negatives.
#[test]
fn negatives_are_mined_from_a_search() {
    let folder = tempfile::tempdir().unwrap();
    let (collection, run, out) = (
        folder.path().join("docs"),
        folder.path().join("run.trec"),
        folder.path().join("train.jsonl"),
    );
    let (corpus, queries, qrels) = (
        sample("corpus.jsonl"),
        sample("queries.jsonl"),
        sample("qrels/test.tsv"),
    );
    let model = tiny_model();
    let files = [
        "--corpus",
        text(&corpus),
        "--queries",
        text(&queries),
        "--qrels",
        text(&qrels),
    ];
    succeed([
        "index",
        "build",
        "--corpus",
        text(&corpus),
        "--model",
        text(&model),
        "--collection",
        text(&collection),
    ]);
    succeed([
        "search",
        text(&collection),
        "--queries",
        text(&queries),
        "-k",
        "200",
        "--run-out",
        text(&run),
    ]);
    let mine = |more: &[&str]| {
        let arguments = ["mine", "--json", "--run", text(&run), "--out", text(&out)];
        json(
            arguments
                .into_iter()
                .chain(files)
                .chain(more.iter().copied()),
        )
    };
    let counts = mine(&["--depth", "50", "--n", "7"]);
    let dropped: u64 = counts["dropped"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(counts["candidates"], 84 * 200);
    assert_eq!(
        counts["candidates"].as_u64().unwrap(),
        counts["kept"].as_u64().unwrap() + dropped
    );
    assert_eq!(
        (&counts["mined"], &counts["kept"]),
        (&json!(84), &json!(84 * 7))
    );
    let judged: HashSet<(String, String)> = fs::read_to_string(&qrels)
        .unwrap()
        .lines()
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            (fields.next().unwrap(), fields.next().unwrap())
        })
        .collect();
    let examples = lines(&out);
    for example in &examples {
        let query = example["query_id"].as_str().unwrap();
        for id in ids(&example["negatives"]) {
            assert!(
                !judged.contains(&(query.to_owned(), id.to_owned())),
                "{id} of {query} is relevant"
            );
        }
    }
    mine(&["--depth", "50", "--n", "7"]);
    assert_eq!(lines(&out), examples, "a seed decides");
    mine(&["--depth", "50", "--n", "7", "--seed", "1"]);
    assert_ne!(lines(&out), examples);

    // Lists of ids lead to the same examples.
    let lists = folder.path().join("negatives.tsv");
    let arguments = [
        "mine",
        "--run",
        text(&run),
        "--depth",
        "50",
        "--n",
        "7",
        "--format",
        "tsv",
        "--out",
        text(&lists),
    ];
    succeed(arguments.into_iter().chain(files));
    let arguments = [
        "data",
        "convert",
        "--from",
        "beir",
        "--negatives",
        text(&lists),
        "--out",
        text(&out),
    ];
    succeed(arguments.into_iter().chain(files));
    assert_eq!(lines(&out), examples);
}
