//! From passages to MASTER: what language models write, the lines of it, and a few steps of training.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{fail, json, text, tiny_model};

const PASSAGES: [&str; 6] = [
    "The river flows through the valley to the sea.",
    "Copper conducts electricity well, and silver better.",
    "Bees tell each other by a dance where flowers are.",
    "A long passage about rivers and valleys and the sea and more rivers than anybody has counted in a long time.",
    "Iron rusts in wet air.",
    "The moon moves the tides twice a day.",
];

fn corpus(folder: &Path) -> PathBuf {
    let line = |(number, text): (usize, &&str)| {
        format!("{}\n", json!({"_id": format!("p{number}"), "text": text}))
    };
    let path = folder.join("corpus.jsonl");
    fs::write(
        &path,
        PASSAGES.iter().enumerate().map(line).collect::<String>(),
    )
    .unwrap();
    path
}

fn lines(path: &Path) -> Vec<Value> {
    let lines = fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The arguments of both commands that generate.
fn generate<'a>(
    command: &'a str,
    corpus: &'a Path,
    model: &'a Path,
    out: &'a Path,
) -> Vec<&'a str> {
    let all = [
        "--json",
        "--quiet",
        "data",
        command,
        text(corpus),
        "--model",
        text(model),
    ];
    [&all[..], &["--max-tokens", "12", "--out", text(out)]].concat()
}

#[test]
fn passages_become_lines_that_master_learns() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, t5) = (
        corpus(folder.path()),
        testkit::fixture("models/tiny-doc2query"),
    );
    let queries = folder.path().join("queries.jsonl");
    let all = generate("generate-queries", &corpus, &t5, &queries);
    let report = json(
        [
            &all[..],
            &["--queries", "3", "--threads", "3", "--batch-size", "1"],
        ]
        .concat(),
    );
    assert_eq!(
        (&report["passages"], &report["texts"]),
        (&json!(6), &json!(18))
    );
    let written = lines(&queries);
    assert_eq!(written.len(), 6);
    assert!(
        written
            .iter()
            .enumerate()
            .all(|(n, line)| line["id"] == format!("p{n}"))
    );
    assert!(
        written
            .iter()
            .all(|line| line["queries"].as_array().unwrap().len() == 3)
    );
    let bytes = fs::read(&queries).unwrap();
    json(
        [
            &all[..],
            &["--queries", "3", "--threads", "1", "--batch-size", "4"],
        ]
        .concat(),
    );
    assert_eq!(fs::read(&queries).unwrap(), bytes);
    json([&all[..], &["--queries", "3", "--seed", "7"]].concat());
    assert_ne!(fs::read(&queries).unwrap(), bytes);
    // More of them begin as fewer do.
    json([&all[..], &["--queries", "5"]].concat());
    for (more, fewer) in lines(&queries).iter().zip(&written) {
        assert_eq!(
            more["queries"].as_array().unwrap()[..3],
            fewer["queries"].as_array().unwrap()[..]
        );
    }

    let gpt2 = testkit::fixture("models/tiny-gpt2");
    let continuations = folder.path().join("continuations.jsonl.zst");
    let all = generate("generate-continuations", &corpus, &gpt2, &continuations);
    let report = json([&all[..], &["--top-k", "5", "--temperature", "0.8"]].concat());
    assert_eq!(
        (&report["texts"], &report["empty_passages"]),
        (&json!(6), &json!(0))
    );

    let bert = tiny_model();
    let master = folder.path().join("master.jsonl.gz");
    let all = [
        "--json",
        "--quiet",
        "data",
        "master-lines",
        text(&corpus),
        "--tokenizer",
        text(&bert),
    ];
    let files = [
        "--generated-queries",
        text(&queries),
        "--continuations",
        text(&continuations),
    ];
    let report = json([&all, &files[..], &["--out", text(&master)]].concat());
    assert_eq!(
        (&report["texts"], &report["bad_lines"]),
        (&json!(6), &json!(0))
    );
    assert!(report["queries"].as_u64().unwrap() > 20, "{report}");

    let config = folder.path().join("train.toml");
    let toml = format!(
        "[model]\npath = \"{}\"\n[data]\ncorpus = {{ files = [\"{}\"], format = \"master\" }}\nbatch_size = 3\n\
         [objective]\nname = \"master\"\nmasks = {{ max_tokens = 48 }}\n[schedule]\nmax_steps = 3\n\
         [run]\nmeasure = \"loss\"\n[engine]\nprecision = \"f32\"\nthreads = 1\n[dev]\ntexts = 1\n",
        bert.display(),
        master.display()
    );
    fs::write(&config, toml).unwrap();
    let run = folder.path().join("run");
    let report = json([
        "--json",
        "--quiet",
        "train",
        text(&config),
        "--out",
        text(&run),
    ]);
    assert!(
        report["summary"]["dev"]["3"]["loss"].as_f64().unwrap() > 0.0,
        "{report}"
    );
    assert!(run.join("export/model.safetensors").exists());
}

#[test]
fn unfinished_work_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, t5) = (
        corpus(folder.path()),
        testkit::fixture("models/tiny-doc2query"),
    );
    let whole = folder.path().join("whole.jsonl");
    let options = ["--queries", "2", "--batch-size", "2"];
    json(
        [
            &generate("generate-queries", &corpus, &t5, &whole)[..],
            &options,
        ]
        .concat(),
    );
    let expected = fs::read_to_string(&whole).unwrap();

    // A bad line behind four passages ends it before the first is written.
    let good = fs::read_to_string(&corpus).unwrap();
    let broken: Vec<&str> = good
        .lines()
        .take(4)
        .chain(["{"])
        .chain(good.lines().skip(4))
        .collect();
    let out = folder.path().join("out.jsonl");
    let all = [
        &generate("generate-queries", &corpus, &t5, &out)[..],
        &options,
    ]
    .concat();
    let kept = folder.path().join("out.jsonl.unfinished");
    json(all.clone());
    assert!(!kept.exists());
    fs::remove_file(&out).unwrap();
    fs::write(&corpus, broken.join("\n")).unwrap();
    let errors = fail(65, all.clone());
    assert!(errors.contains("corpus.jsonl:5: "), "{errors}");
    assert!(!out.exists() && !kept.exists());

    // As a kill leaves it: two lines and a half.
    let report = json([&all[..], &["--skip-bad-lines"]].concat());
    assert_eq!(
        (&report["bad_lines"], &report["passages_before"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), expected);
    fs::write(&corpus, &good).unwrap();
    fs::remove_file(&out).unwrap();
    let settings = begun(&all, &corpus, &kept, &out);
    let two: String = expected.split_inclusive('\n').take(2).collect();
    fs::write(&kept, format!("{settings}{two}{{\"id\":\"p2\",\"que")).unwrap();
    let errors = fail(2, [&all[..], &["--seed", "7"]].concat());
    assert!(
        errors.contains("out.jsonl.unfinished` was begun with seed 42, now it is 7"),
        "{errors}"
    );
    // Passages of the same ids with another text.
    fs::write(&corpus, good.replace("Iron rusts", "Iron melts")).unwrap();
    let errors = fail(2, all.clone());
    assert!(
        errors.contains("out.jsonl.unfinished` was begun with digest_of_passages "),
        "{errors}"
    );
    fs::write(&corpus, &good).unwrap();
    let report = json(all.clone());
    assert_eq!(report["passages_before"], 2);
    assert_eq!(fs::read_to_string(&out).unwrap(), expected);
    assert!(!kept.exists());
    fs::write(
        &kept,
        format!(
            "{settings}{}",
            expected.split_inclusive('\n').nth(1).unwrap()
        ),
    )
    .unwrap();
    let errors = fail(2, all);
    assert!(
        errors.contains("has passage `p1` where the corpus has `p0`"),
        "{errors}"
    );
}

/// The settings with which an unfinished file begins, of a run whose place for the result is taken by a folder.
fn begun(all: &[&str], corpus: &Path, kept: &Path, out: &Path) -> String {
    assert!(corpus.exists());
    fs::create_dir(out).unwrap();
    fail(1, all.to_vec());
    fs::remove_dir(out).unwrap();
    let content = fs::read_to_string(kept).unwrap();
    content.split_inclusive('\n').next().unwrap().to_owned()
}

#[test]
fn judged_queries_stand_in() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, bert) = (corpus(folder.path()), tiny_model());
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("queries.tsv"),
        "q1\twhat flows to the sea\nq2\twhich metal conducts best\nq3\twho dances\n",
    )
    .unwrap();
    fs::write(
        path("qrels.tsv"),
        "q1 0 p0 1\nq1 0 p3 1\nq2 0 p1 2\nq3 0 p2 0\nq3 0 gone 1\n",
    )
    .unwrap();
    // One passage has a generated query too, the others none.
    fs::write(
        path("generated.jsonl"),
        "{\"id\": \"p3\", \"queries\": [\"river\", \"\"]}\n",
    )
    .unwrap();
    let (queries, qrels) = (path("queries.tsv"), path("qrels.tsv"));
    let (generated, out) = (path("generated.jsonl"), path("master.jsonl"));
    let write = [
        "--json",
        "data",
        "master-lines",
        text(&corpus),
        "--tokenizer",
        text(&bert),
        "--out",
        text(&out),
    ];
    let judged = ["--queries", text(&queries), "--qrels", text(&qrels)];
    let generated = ["--generated-queries", text(&generated)];
    let report = json([&write[..], &judged, &generated].concat());
    assert_eq!(report["queries"], 4);
    assert_eq!(
        (&report["without_queries"], &report["without_continuation"]),
        (&json!(3), &json!(6))
    );
    assert_eq!(report["judged_passages_missing"], 1);
    let counts: Vec<usize> = lines(&out)
        .iter()
        .map(|line| line["queries"].as_array().unwrap().len())
        .collect();
    assert_eq!(counts, [1, 1, 0, 2, 0, 0]);
    assert_eq!(lines(&out)[0]["queries"][0], lines(&out)[3]["queries"][0]);
    assert_eq!(lines(&out)[0]["next"], json!([]));

    // Generated text that is another corpus's, or not in its order, or of another kind.
    fs::write(
        path("generated.jsonl"),
        "{\"id\": \"p3\", \"queries\": []}\n{\"id\": \"p1\", \"queries\": []}\n",
    )
    .unwrap();
    let errors = fail(65, [&write[..], &generated].concat());
    assert!(
        errors
            .contains("generated.jsonl:2: passage `p1` is not in the corpus, or not in this order"),
        "{errors}"
    );
    fs::write(
        path("generated.jsonl"),
        "{\"id\": \"p3\", \"continuations\": []}\n",
    )
    .unwrap();
    let errors = fail(65, [&write[..], &generated].concat());
    assert!(
        errors.contains("generated.jsonl:1: the line has no `queries`"),
        "{errors}"
    );
    let report = json([&write[..], &generated, &["--skip-bad-lines"]].concat());
    assert_eq!(report["bad_lines"], 1);
    fs::write(&qrels, "q1 0 elsewhere 1\n").unwrap();
    let errors = fail(65, [&write[..], &judged].concat());
    assert!(
        errors.contains("no passage of the corpus is judged"),
        "{errors}"
    );
}

#[test]
fn what_cannot_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (corpus(folder.path()), folder.path().join("out.jsonl"));
    let (t5, gpt2) = ("models/tiny-doc2query", "models/tiny-gpt2");
    let check = |command: &str, model: &str, options: &[&str], exit: i32, expected: &str| {
        let model = testkit::fixture(model);
        let errors = fail(
            exit,
            [&generate(command, &corpus, &model, &out)[..], options].concat(),
        );
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    };
    check(
        "generate-queries",
        gpt2,
        &[],
        2,
        "an encoder with a decoder, a T5",
    );
    check(
        "generate-continuations",
        t5,
        &[],
        2,
        "a decoder alone, a GPT-2",
    );
    check(
        "generate-continuations",
        "models/tiny-bert",
        &[],
        1,
        "model_type is `bert`",
    );
    check(
        "generate-continuations",
        gpt2,
        &["--temperature", "0"],
        2,
        "temperature is 0",
    );
    check(
        "generate-continuations",
        gpt2,
        &["--max-passage-tokens", "120"],
        2,
        "tokens of a passage is 120",
    );
    check(
        "generate-queries",
        t5,
        &["--queries", "0"],
        2,
        "texts per passage is 0",
    );
    let many = "1000000000000000000";
    for (name, expected) in [
        ("--queries", "texts per passage is 1000000000000000000"),
        ("--batch-size", "batch size is 1000000000000000000"),
    ] {
        check("generate-queries", t5, &[name, many], 2, expected);
    }
}
