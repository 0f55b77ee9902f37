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
    // Both say what margins do.
    fail(2, mine.into_iter().chain(["--keep-unanchored"]));
    fail(2, mine.into_iter().chain(["--positive-scores", &run]));
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
    // One file in place of two would leave the second of other lines beside it.
    let (data, model_name, folder_name) = (fixture(""), text(&model), text(&out));
    let one =
        format!("data build-train --data {data} --tokenizer {model_name} --save-to {folder_name}");
    let before = fs::read(&split).unwrap();
    let error = fail(2, one.split(' '));
    assert!(
        error.contains("split01.jsonl` is of other data: 1 files are to be written"),
        "{error}"
    );
    assert_eq!(fs::read(&split).unwrap(), before);
    fs::remove_file(out.join("split01.jsonl")).unwrap();
    succeed(one.split(' '));
    assert_eq!(lines(&split).len(), 3);
    assert_eq!(lines(&out.join("split01.hn.jsonl")).len(), 1);
    for name in ["--shard-size", "--truncate", "--truncate-query"] {
        let command = format!(
            "data build-train --data {data} --tokenizer {model_name} --save-to {folder_name} {name} 0"
        );
        let error = fail(2, command.split(' '));
        assert!(
            error.contains(&format!("`{name}` is at least 1")),
            "{error}"
        );
    }
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

#[test]
fn openmatch_files_are_lower_cased_where_the_model_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(tiny_model().join(name), model.join(name)).unwrap();
    }
    // The tokenizer keeps capitals, sentence-transformers does not let it see them.
    for name in ["tokenizer_config.json", "sentence_bert_config.json"] {
        let is_lower = name.starts_with("sentence");
        let config = json!({ "do_lower_case": is_lower });
        fs::write(model.join(name), config.to_string()).unwrap();
    }
    let build = |model: &Path, name: &str| {
        let (data, out) = (fixture(""), folder.path().join(name));
        succeed([
            "data",
            "build-train",
            "--data",
            &data,
            "--tokenizer",
            text(model),
            "--save-to",
            text(&out),
        ]);
        lines(&out.join("split00.jsonl"))
    };
    assert_eq!(build(&model, "found"), build(&tiny_model(), "expected"));
}

#[test]
fn openmatch_distillation_files_carry_a_teachers_scores() {
    let folder = tempfile::tempdir().unwrap();
    let (teacher, out) = (folder.path().join("teacher"), folder.path().join("train"));
    fs::write(
        &teacher,
        "q1 0 4.5\nq1 2 -2\nq1 5 -3.5\nq2 2 5\nq2 0 -1.5\nq3 6 1\n",
    )
    .unwrap();
    let build = |layout: &str, more: &[&str]| {
        let (run, data, model) = (fixture("run.trec"), fixture(""), tiny_model());
        let command = [
            "data",
            "build-train",
            "--json",
            "--run",
            &run,
            "--data",
            &data,
            "--tokenizer",
            text(&model),
            "--save-to",
            text(&out),
            "--layout",
            layout,
        ];
        json(command.into_iter().chain(more.iter().copied()))
    };
    let scores = ["--scores", text(&teacher)];

    // One line for each negative with a score; the query of whose positives none has a score is left out.
    let counts = build("pairwise", &scores);
    assert_eq!(
        (
            &counts["lines"],
            &counts["queries_without_scored_positives"]
        ),
        (&json!(3), &json!(1))
    );
    assert_eq!(counts["queries_without_tokens"], 0);
    let pairs = lines(&out.join("split00.jsonl"));
    let margins: Vec<f64> = pairs
        .iter()
        .map(|line| line["score"].as_f64().unwrap())
        .collect();
    assert!(
        margins == [6.5, 8.0, 6.5] || margins == [8.0, 6.5, 6.5],
        "{margins:?}"
    );
    assert_ne!(pairs[0]["positive"], pairs[0]["negative"]);

    let counts = build("listwise", &scores);
    assert_eq!(counts["lines"], 2);
    let lists = lines(&out.join("split00.jsonl"));
    let sorted = |line: &Value| {
        let scores = line["scores"].as_array().unwrap();
        assert_eq!(scores.len(), line["docs"].as_array().unwrap().len());
        let mut scores: Vec<f64> = scores.iter().map(|score| score.as_f64().unwrap()).collect();
        scores.sort_by(f64::total_cmp);
        scores
    };
    assert_eq!(sorted(&lists[0]), [-3.5, -2.0, 4.5]);
    assert_eq!(sorted(&lists[1]), [-1.5, 5.0]);
    build("listwise", &[scores[0], scores[1], "--n-sample", "2"]);
    assert_eq!(sorted(&lines(&out.join("split00.jsonl"))[0]).len(), 2);

    // A positive alone teaches nothing.
    let few = folder.path().join("few");
    fs::write(&few, "q1 0 4.5\nq2 2 5\nq2 0 -1.5\n").unwrap();
    for layout in ["pairwise", "listwise"] {
        let counts = build(layout, &["--scores", text(&few)]);
        let found = ["lines", "queries_without_negatives"].map(|name| counts[name].clone());
        assert_eq!(found, [1, 1], "{layout}");
    }

    // No line at all leaves the files of before, and makes no empty ones.
    let (none, new) = (folder.path().join("none"), folder.path().join("new"));
    fs::write(&none, "q1 0 4.5\n").unwrap();
    let before = fs::read(out.join("split00.jsonl")).unwrap();
    for save_to in [&out, &new] {
        let (data, run, model) = (fixture(""), fixture("run.trec"), tiny_model());
        let command = [
            "data",
            "build-train",
            "--data",
            &data,
            "--run",
            &run,
            "--tokenizer",
            text(&model),
            "--save-to",
            text(save_to),
            "--layout",
            "pairwise",
            "--scores",
            text(&none),
        ];
        let error = fail(65, command);
        assert!(
            error.contains("no query has both a positive and a negative"),
            "{error}"
        );
    }
    assert_eq!(fs::read(out.join("split00.jsonl")).unwrap(), before);
    assert!(!new.exists());

    // Both are read again, the lists with the best passage as the positive.
    build("listwise", &scores);
    let (split, native) = (
        out.join("split00.jsonl"),
        folder.path().join("native.jsonl"),
    );
    succeed([
        "data",
        "convert",
        "--from",
        "openmatch-listwise",
        text(&split),
        "--out",
        text(&native),
    ]);
    assert_eq!(lines(&native)[0]["positives"][0]["score"], 4.5);
    let (data, run) = (fixture(""), fixture("run.trec"));
    fail(
        2,
        [
            "data",
            "build-train",
            "--data",
            &data,
            "--run",
            &run,
            "--tokenizer",
            text(&tiny_model()),
            "--save-to",
            text(&out),
            "--layout",
            "pairwise",
        ],
    );
}

#[test]
fn mining_writes_the_lines_that_simlm_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (out, native) = (
        folder.path().join("train.jsonl"),
        folder.path().join("native.jsonl"),
    );
    let corpus = fixture("simlm/passages.jsonl.gz");
    let (run, queries, qrels) = (
        fixture("run.trec"),
        fixture("queries.jsonl"),
        fixture("qrels/train.tsv"),
    );
    let mine = |more: &str| {
        let command = format!(
            "mine --json --format simlm --run {run} --corpus {corpus} --queries {queries} --qrels {qrels} --out {} {more}",
            text(&out)
        );
        json(command.split_ascii_whitespace());
        lines(&out)
    };
    let expected = json!({
        "query_id": "q1", "query": "why are there tides",
        "positives": {"doc_id": ["0", "1"], "score": [18.0, 17.0]},
        "negatives": {"doc_id": ["2", "5", "6"], "score": [19.0, 16.0, 15.0]},
    });
    assert_eq!(mine("")[0], expected);
    let shuffled = mine("--n-random 2 --shuffle");
    let negatives = &shuffled[0]["negatives"];
    let ids: HashSet<&str> = negatives["doc_id"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    assert!(!ids.contains("0") && !ids.contains("1"), "{ids:?}");
    let unfound = negatives["score"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|score| **score == -1.0);
    assert_eq!((ids.len(), unfound.count()), (5, 2));
    succeed([
        "data",
        "convert",
        "--from",
        "simlm",
        text(&out),
        "--corpus",
        &corpus,
        "--out",
        text(&native),
    ]);
    let texts = &lines(&native)[0]["positives"][0];
    assert_eq!(texts["text"], "The moon pulls the sea twice a day.");
    // The run has a positive of every query but one that is searched for a single result.
    let one = folder.path().join("one.trec");
    fs::write(
        &one,
        "q1 Q0 2 1 19 bm25\nq2 Q0 0 1 19 bm25\nq2 Q0 2 2 18 bm25\n",
    )
    .unwrap();
    let command = format!(
        "mine --json --found-only --run {} --corpus {corpus} --queries {queries} --qrels {qrels} --out {}",
        text(&one),
        text(&out)
    );
    let counts = json(command.split(' '));
    assert_eq!(counts["mined"], 1);
    assert_eq!(counts["queries_left_out"]["no positive in the run"], 1);
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
