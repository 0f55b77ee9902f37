//! `trawl train` on the sample corpus with the two-layer test encoder.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{fail, json, sample, succeed, text, tiny_model};

/// A configuration of eight steps of eight queries.
pub fn config(folder: &Path) -> String {
    let sample = sample("corpus.jsonl");
    let data = sample.parent().expect("a folder").display();
    let config = format!(
        r#"
[model]
path = "{}"
license = "apache-2.0"

[data]
batch_size = 8
group_size = 1

[[data.train]]
dataset = "{data}"
split = "test"
note = "the sample corpus"

[objective]
name = "bi_encoder"
query_tokens = 16
passage_tokens = 48

[optimizer]
learning_rate = 1e-3

[schedule]
max_steps = 8

[run]
evaluate_every = 4
measure = "ndcg@10"

[engine]
precision = "f32"
threads = 1

[dev]
dataset = "{data}"
split = "test"
max_queries = 20
distractors = 50
"#,
        tiny_model().display()
    );
    let path = folder.join("train.toml");
    fs::write(&path, config).expect("written");
    text(&path).to_owned()
}

#[test]
fn a_run_ends_in_a_model_that_can_be_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, out) = (config(folder.path()), folder.path().join("run"));
    let arguments = ["train", config.as_str(), "--out", text(&out)];
    let report = json(["--json", "--quiet"].into_iter().chain(arguments));
    assert_eq!(report["summary"]["end"], "finished");
    assert_eq!(report["summary"]["steps"], 8);
    assert_eq!(report["summary"]["examples"], 64);
    let dev = report["summary"]["dev"].as_object().expect("dev figures");
    assert_eq!(dev.keys().collect::<Vec<_>>(), ["0", "4", "8"]);
    let best = report["summary"]["best"]["value"]
        .as_f64()
        .expect("a best figure");
    assert!(
        dev.values()
            .all(|figures| figures["ndcg@10"].as_f64().expect("measured") <= best)
    );

    let export = out.join("export");
    let model: Value = json(["--json", "model", "info", text(&export)]);
    assert!(model.is_object());
    let card = fs::read_to_string(export.join("README.md")).expect("a card");
    assert!(
        card.contains("- the sample corpus") && card.contains("license: apache-2.0"),
        "{card}"
    );
    let lines = fs::read_to_string(out.join("metrics.jsonl")).expect("a log");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(
        lines.iter().filter(|line| line["kind"] == "train").count(),
        8
    );
    assert!(
        lines
            .iter()
            .filter(|line| line["kind"] == "train")
            .all(|line| line["accuracy"].is_number()),
        "{lines:?}"
    );

    // The same again, in another folder: equal figures, equal weights.
    let again = folder.path().join("again");
    succeed(["--quiet", "train", config.as_str(), "--out", text(&again)]);
    let weights = |run: &Path| fs::read(run.join("export/model.safetensors")).expect("weights");
    assert_eq!(weights(&out), weights(&again));

    let errors = fail(2, arguments);
    assert!(
        errors.contains("holds something already") && errors.contains("--resume"),
        "{errors}"
    );
    succeed([
        "--quiet",
        "train",
        config.as_str(),
        "--out",
        text(&out),
        "--resume",
    ]);
    let other = [
        "train",
        config.as_str(),
        "--out",
        text(&out),
        "--resume",
        "--set",
        "run.seed=7",
    ];
    let errors = fail(2, other);
    assert!(errors.contains("`seed = 42`, not `seed = 7`"), "{errors}");
    let none = folder.path().join("none");
    let none = ["train", config.as_str(), "--out", text(&none), "--resume"];
    let errors = fail(2, none);
    assert!(
        errors.contains("none` holds no run") && errors.contains("without `--resume`"),
        "{errors}"
    );
}

/// A data set in BEIR's layout: eight queries, each with a passage that answers it and three that do not, and a run in
/// which the answer comes last.
fn reranking_set(folder: &Path) {
    let words = [
        "tide", "honey", "bridge", "rainbow", "winter", "market", "horse", "letter",
    ];
    let (mut corpus, mut queries) = (String::new(), String::new());
    let (mut qrels, mut run) = ("query-id\tcorpus-id\tscore\n".to_owned(), String::new());
    for (row, word) in words.iter().enumerate() {
        queries += &format!("{{\"_id\": \"q{row}\", \"text\": \"what is a {word}\"}}\n");
        qrels += &format!("q{row}\tp{row}-3\t1\n");
        for place in 0..4 {
            let other = words[(row + place + 1) % 8];
            let text = match place {
                3 => format!("a {word} is this"),
                _ => format!("the {other} of number {place}"),
            };
            corpus += &format!(
                "{{\"_id\": \"p{row}-{place}\", \"title\": \"{other}\", \"text\": \"{text}\"}}\n"
            );
            run += &format!(
                "q{row} Q0 p{row}-{place} {} {} bm25\n",
                place + 1,
                9 - place
            );
        }
    }
    fs::create_dir(folder.join("qrels")).expect("a folder");
    let files = [
        ("corpus.jsonl", corpus),
        ("queries.jsonl", queries),
        ("qrels/train.tsv", qrels.clone()),
        ("qrels/dev.tsv", qrels),
        ("run.trec", run),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("written");
    }
}

#[test]
fn a_cross_encoder_learns_to_reorder_a_run() {
    let folder = tempfile::tempdir().expect("a folder");
    reranking_set(folder.path());
    let (data, out) = (folder.path().display(), folder.path().join("run"));
    let config = format!(
        r#"
[model]
path = "{}"

[data]
group_size = 4

[[data.train]]
dataset = "{data}"
negatives = "{data}/run.trec"
pair = true

[objective]
name = "cross_encoder"
max_tokens = 48
loss = "lambda"

[optimizer]
learning_rate = 3e-3

[schedule]
max_steps = 60

[run]
evaluate_every = 30
measure = "mrr@10"

[engine]
precision = "f32"
threads = 1

[dev]
dataset = "{data}"
run = "{data}/run.trec"
pair = true
measures = ["mrr@10"]
"#,
        testkit::fixture("models/tiny-cross-bert").display()
    );
    let path = folder.path().join("train.toml");
    fs::write(&path, config).expect("written");
    let report = json([
        "--json",
        "--quiet",
        "train",
        text(&path),
        "--out",
        text(&out),
    ]);
    let dev = &report["summary"]["dev"];
    let before = dev["0"]["mrr@10"].as_f64().expect("a figure");
    assert!(before < 0.8, "{before}");
    assert_eq!(report["summary"]["best"]["value"], 1.0, "{dev}");

    let [run, queries, corpus, reranked] =
        ["run.trec", "queries.jsonl", "corpus.jsonl", "reranked.trec"]
            .map(|name| folder.path().join(name));
    let export = out.join("export");
    succeed([
        "--quiet",
        "rerank",
        "--model",
        text(&export),
        "--run",
        text(&run),
        "--queries",
        text(&queries),
        "--corpus",
        text(&corpus),
        "--template",
        "<title>: <text>",
        "--run-out",
        text(&reranked),
    ]);
    let reranked = fs::read_to_string(reranked).expect("a run");
    let fields = reranked
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let firsts = fields
        .filter(|line| line[3] == "1")
        .map(|line| line[2].to_owned());
    let firsts: Vec<String> = firsts.collect();
    assert_eq!(
        firsts,
        [
            "p0-3", "p1-3", "p2-3", "p3-3", "p4-3", "p5-3", "p6-3", "p7-3"
        ]
    );

    let config = text(&path);
    let errors = fail(2, ["train", config, "--set", "dev.passage_template=<text>"]);
    assert!(
        errors.contains("`pair` and `passage_template` exclude each other"),
        "{errors}"
    );
}

/// Held-out loss, files read in each epoch, a teacher's scores, a stop in the middle and what goes on from there.
#[test]
fn a_streamed_distillation_goes_on_after_a_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    reranking_set(folder.path());
    let [run, queries, corpus, qrels, teacher, lines] = [
        "run.trec",
        "queries.jsonl",
        "corpus.jsonl",
        "qrels/train.tsv",
        "teacher.trec",
        "train.jsonl",
    ]
    .map(|name| folder.path().join(name));
    let model = testkit::fixture("models/tiny-cross-bert");
    let common = [
        "--run",
        text(&run),
        "--queries",
        text(&queries),
        "--corpus",
        text(&corpus),
    ];
    let with = |command: &[&'static str], more: &[&str]| -> Vec<String> {
        let all = command.iter().chain(&common).chain(more);
        all.map(|argument| (*argument).to_owned()).collect()
    };
    let score = with(
        &["--quiet", "rerank"],
        &["--model", text(&model), "--run-out", text(&teacher)],
    );
    succeed(score.iter().map(String::as_str));
    let mine = with(
        &["--quiet", "mine"],
        &[
            "--qrels",
            text(&qrels),
            "--teacher",
            text(&teacher),
            "--teacher-margin",
            "-100",
            "--select",
            "top",
            "--out",
            text(&lines),
        ],
    );
    succeed(mine.iter().map(String::as_str));

    let config = format!(
        r#"
[model]
path = "{}"

[data]
batch_size = 4
group_size = 3
stream = true
shuffle_buffer = 3

[[data.train]]
files = ["{lines}"]

[objective]
name = "bi_encoder"
distillation = {{ loss = "margin_mse" }}

[optimizer]
learning_rate = 1e-3

[schedule]
max_steps = 9

[run]
evaluate_every = 3
measure = "loss"
save_every = "never"

[engine]
precision = "f32"
threads = 1

[dev]
examples = [{{ files = ["{lines}"] }}]
"#,
        tiny_model().display(),
        lines = lines.display()
    );
    let path = folder.path().join("train.toml");
    fs::write(&path, config).expect("written");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let train = |out: &Path, more: &[&'static str]| {
        let arguments = [
            "--json",
            "--quiet",
            "train",
            text(&path),
            "--out",
            text(out),
        ];
        let arguments = arguments.iter().chain(more);
        json(arguments.copied())
    };
    let report = train(&whole, &[]);
    let dev = &report["summary"]["dev"];
    assert_eq!(report["summary"]["examples"], 36);
    let loss = |step: &str| dev[step]["loss"].as_f64().expect("a loss");
    assert!(loss("9") < loss("0"), "{dev}");

    // Without its later checkpoints and the log behind them the run stands where a machine had stopped.
    succeed([
        "--quiet",
        "train",
        text(&path),
        "--out",
        text(&parts),
        "--set",
        "run.save_every=4",
    ]);
    let config = fs::read_to_string(parts.join("config.toml")).expect("a file");
    fs::write(
        parts.join("config.toml"),
        config.replace("save_every = 4", "save_every = \"never\""),
    )
    .expect("written");
    fs::remove_dir_all(parts.join("export")).expect("an export");
    for step in fs::read_dir(parts.join("checkpoints")).expect("checkpoints") {
        let step = step.expect("an entry").path();
        if !step.ends_with("step-4") {
            fs::remove_dir_all(step).expect("a checkpoint");
        }
    }
    let resumed = train(&parts, &["--resume", "--set", "engine.threads=2"]);
    assert_eq!(resumed["summary"]["dev"], *dev);
    let weights = |run: &Path| fs::read(run.join("export/model.safetensors")).expect("weights");
    assert_eq!(weights(&whole), weights(&parts));

    let refused = |set: &'static str, expected: &str| {
        let errors = fail(2, ["train", text(&path), "--dry-run", "--set", set]);
        assert!(errors.contains(expected), "{errors}");
    };
    refused("data.no_duplicates=true", "goes with neither");
    refused("data.shuffle_buffer=0", "`data.shuffle_buffer` is 0");
    refused(
        "data.train=[{ dataset = \"x\" }]",
        "`data.stream` reads `files`",
    );
    let table = "data.train=[{ files = [\"x.csv\"], format = \"sentence_transformers\" }]";
    refused(table, "`data.stream` reads lines, not tables");
    refused(table, "trawl data convert");
}

#[test]
fn ids_of_several_texts_are_told_where_lines_are_streamed_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = folder.path().join("lines.jsonl");
    let line = |word: &str| {
        let query = format!("\"query_id\": \"{word}\", \"query\": \"{word}\"");
        let positive = format!("{{\"id\": \"0\", \"text\": \"{word} one\"}}");
        let negative = format!("{{\"id\": \"1\", \"text\": \"{word} two\"}}");
        format!("{{{query}, \"positives\": [{positive}], \"negatives\": [{negative}]}}\n")
    };
    fs::write(&lines, line("red") + &line("blue")).expect("written");
    let config = config(folder.path());
    let train = format!("data.train=[{{ files = [\"{}\"] }}]", lines.display());
    for stream in ["data.stream=false", "data.stream=true"] {
        let mut arguments = vec!["train", config.as_str(), "--dry-run"];
        arguments.extend(["--set", train.as_str(), "--set", stream]);
        arguments.extend(["--set", "data.batch_size=2", "--set", "data.group_size=2"]);
        let output = crate::trawl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let expected = "lines.jsonl: 2 ids of passages stand for several texts, the first is `0`";
        assert!(errors.contains(expected), "{stream}: {errors}");
    }
}

/// A data set in BEIR's layout: 32 queries of one word, each answered by a passage with another word.
fn pairs(folder: &Path) {
    let word = |n: usize| {
        let letter = |n: usize| char::from(b"aeioubdgklmnprst"[n % 16]);
        String::from_iter([
            letter(5 + n),
            letter(n / 4),
            letter(n * 7 + 3),
            letter(n / 8),
        ])
    };
    let (mut corpus, mut queries) = (String::new(), String::new());
    let mut qrels = "query-id\tcorpus-id\tscore\n".to_owned();
    for n in 0..32 {
        let (asked, said) = (word(n), word(40 + (n * 11) % 32));
        queries += &format!("{{\"_id\": \"q{n}\", \"text\": \"{asked}\"}}\n");
        corpus += &format!("{{\"_id\": \"p{n}\", \"text\": \"{said}\"}}\n");
        qrels += &format!("q{n}\tp{n}\t1\n");
    }
    fs::create_dir(folder.join("qrels")).expect("a folder");
    let files = [
        ("corpus.jsonl", &corpus),
        ("queries.jsonl", &queries),
        ("qrels/train.tsv", &qrels),
        ("qrels/dev.tsv", &qrels),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("written");
    }
}

/// Trains a T5 on the pairs, indexes them with the export and returns how many queries find their passage first.
fn found_by_t5(model: &str, pooling: &str) -> usize {
    let folder = tempfile::tempdir().expect("a folder");
    pairs(folder.path());
    let (data, out) = (folder.path().display(), folder.path().join("run"));
    let config = format!(
        r#"
[model]
path = "{}"

[data]
batch_size = 32
group_size = 1

[[data.train]]
dataset = "{data}"

[objective]
name = "bi_encoder"
pooling = "{pooling}"
normalize = true
dropout = 0.0

[optimizer]
learning_rate = 1e-2

[schedule]
max_steps = 150

[engine]
precision = "f32"
threads = 1

[dev]
dataset = "{data}"
measures = ["recall@1"]

[run]
measure = "recall@1"
evaluate_every = 50
"#,
        testkit::fixture("models").join(model).display()
    );
    let path = folder.path().join("train.toml");
    fs::write(&path, config).expect("written");
    let train = [
        "--json",
        "--quiet",
        "train",
        text(&path),
        "--out",
        text(&out),
    ];
    let dev = &json(train)["summary"]["dev"];
    assert!(
        dev["0"]["recall@1"].as_f64().expect("a figure") < 0.3,
        "{dev}"
    );

    let [corpus, queries, index, found] = ["corpus.jsonl", "queries.jsonl", "index", "found.trec"]
        .map(|name| folder.path().join(name));
    let export = out.join("export");
    let build = [
        "--quiet",
        "index",
        "build",
        "--corpus",
        text(&corpus),
        "--model",
        text(&export),
        "--collection",
        text(&index),
        "--publish",
    ];
    succeed(build);
    let search = [
        "--quiet",
        "search",
        text(&index),
        "--queries",
        text(&queries),
        "-k",
        "1",
        "--run-out",
        text(&found),
    ];
    succeed(search);
    let found = fs::read_to_string(found).expect("a run");
    let right = found.lines().filter(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields[0][1..] == fields[2][1..]
    });
    right.count()
}

#[test]
fn a_t5_is_trained_indexed_and_searched() {
    assert_eq!(found_by_t5("tiny-t5-relu", "decoder"), 32);
    assert_eq!(found_by_t5("tiny-t5-gated", "mean"), 32);
}

#[test]
fn the_transformer_of_a_model_may_have_a_folder_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let [old, masked] = ["old", "masked"].map(|name| folder.path().join(name));
    for place in ["old/0_Transformer", "old/1_Pooling", "masked"] {
        fs::create_dir_all(folder.path().join(place)).expect("a folder");
    }
    let files = [
        "config.json",
        "model.safetensors",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    for file in files {
        let to = old.join("0_Transformer").join(file);
        fs::copy(tiny_model().join(file), to).expect("copied");
    }
    for file in ["1_Pooling/config.json", "config_sentence_transformers.json"] {
        fs::copy(tiny_model().join(file), old.join(file)).expect("copied");
    }
    let modules = fs::read_to_string(tiny_model().join("modules.json")).expect("a file");
    let mut modules: Value = serde_json::from_str(&modules).expect("JSON");
    modules[0]["path"] = "0_Transformer".into();
    fs::write(old.join("modules.json"), modules.to_string()).expect("written");

    let path = format!("model.path={}", old.display());
    let corpus = crate::pretraining::files(&sample("corpus.jsonl"));
    let objective = "name = \"mlm\"\nmasks = { max_tokens = 48, ratio = 0.3 }";
    let masked = crate::pretraining::config(&masked, &corpus, objective);
    let none: &[&str] = &[];
    let set: &[&str] = &["--set", path.as_str()];
    for config in [config(folder.path()), text(&masked).to_owned()] {
        let all = ["--json", "--quiet", "train", config.as_str(), "--dry-run"];
        let [plain, old] = [none, set].map(|more| {
            let report = json([&all[..], more].concat());
            report["loss_of_the_first_batch"].as_f64().expect("a loss")
        });
        assert_eq!(plain, old, "{config}");
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, out) = (config(folder.path()), folder.path().join("run"));
    let report = json([
        "--json",
        "--quiet",
        "train",
        config.as_str(),
        "--out",
        text(&out),
        "--dry-run",
    ]);
    assert_eq!(report["steps"], 8);
    assert!(report["loss_of_the_first_batch"].as_f64().expect("a loss") > 0.0);
    assert!(
        report["config"]
            .as_str()
            .expect("a text")
            .contains("weight_decay = 0.0")
    );
    assert!(!out.exists());
}

#[test]
fn what_a_configuration_cannot_say_is_refused_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let refused = |set: &str, expected: &[&str]| {
        let out = folder.path().join("refused");
        let errors = fail(
            2,
            ["train", config.as_str(), "--out", text(&out), "--set", set],
        );
        for expected in expected {
            assert!(errors.contains(expected), "{expected} is not in {errors}");
        }
    };
    refused(
        "optimizer.learning_rat=1",
        &[
            "--set optimizer.learning_rat=1",
            "did you mean `learning_rate`?",
        ],
    );
    refused(
        "objective.temperatur=1",
        &[
            "--set objective.temperatur=1",
            "did you mean `temperature`?",
        ],
    );
    refused("run.evaluate_every=sometimes", &["a number of steps"]);
    refused("optimizer.accumulate=0", &["optimizer.accumulate"]);
    refused("objective.name=nothing", &["nothing"]);
    refused("optimizer.beta2=1.0", &["optimizer.beta2"]);
    refused("run.measure=mrr@99", &["mrr@99"]);
    for (set, expected) in [
        (
            "data.group_size=1000000000000000000",
            "group_size is 1000000000000000000; it is at least 1 and at most 65536",
        ),
        (
            "schedule.epochs=1000000000000000000",
            "`schedule.epochs` is not at most 1000000",
        ),
        (
            "lora={ rank = 1000000000000000000 }",
            "`lora.rank` is not at least 1 and at most 65536",
        ),
        (
            "objective.head={ width = 1000000000000000000 }",
            "head.width",
        ),
    ] {
        refused(set, &[expected]);
    }
    let train = ["train", config.as_str(), "--dry-run"];
    for name in ["--rank-timeout", "--rank-patience"] {
        let most = [name, "18446744073709551615"]; // no clock reads so far
        let errors = fail(2, train.into_iter().chain(most));
        assert!(errors.contains(name), "{errors}");
    }
    refused("optimizer.freeze=[\"bert\"]", &["`bert`"]);
    for (key, value) in [
        ("max_queries", "5"),
        ("distractors", "5"),
        ("pair", "true"),
        ("split", "'test'"),
        ("depth", "50"),
        ("measures", "['mrr@10']"),
        ("query_template", "'query: <text>'"),
    ] {
        refused(
            &format!("dev={{ {key} = {value} }}"),
            &[&format!("`dev.{key}` goes with `dev.dataset`")],
        );
    }
    refused(
        "dev={ split = 'dev' }",
        &["`[dev]` has neither `dataset` nor `examples`"],
    );
    refused(
        "objective={ name = \"bi_encoder\", untied = true, passage_model = \"nosuch\" }",
        &["model `nosuch` is neither a directory nor in"],
    );
    refused("dev.run=run.trec", &["`dev.run` is for cross-encoders"]);
    for (set, expected) in [
        ("run.measure=mrr@99", "mrr@99"),
        ("optimizer.freeze=[\"bert\"]", "`bert`"),
    ] {
        let errors = fail(2, ["train", config.as_str(), "--dry-run", "--set", set]);
        assert!(errors.contains(expected), "{errors}");
    }
    // Nothing of it keeps a run from starting there.
    succeed([
        "--quiet",
        "train",
        config.as_str(),
        "--out",
        text(&folder.path().join("refused")),
        "--set",
        "schedule.max_steps=1",
    ]);
    refused("engine.device=gpu", &["`gpu` is none of"]);
    refused(
        "engine.device=cuda:0,cuda:1",
        &["a process trains on one device", "torchrun"],
    );
    let text = fs::read_to_string(&config)
        .expect("a file")
        .replace("batch_size", "batchsize");
    fs::write(&config, text).expect("written");
    let errors = fail(2, ["train", config.as_str()]);
    assert!(
        errors.contains("train.toml:7: unknown field `batchsize`"),
        "{errors}"
    );
    assert!(errors.contains("did you mean `batch_size`?"), "{errors}");
}

#[test]
fn a_query_without_any_negative_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    reranking_set(folder.path());
    let config = format!(
        r#"
[model]
path = "{}"

[data]
batch_size = 7
group_size = 2

[[data.train]]
dataset = "{data}"
negatives = "{data}/run.trec"

[objective]
name = "bi_encoder"
mask = {{ own = true }}

[engine]
precision = "f32"
threads = 1
"#,
        tiny_model().display(),
        data = folder.path().display()
    );
    let path = folder.path().join("train.toml");
    fs::write(&path, config).expect("written");
    let said = |set: &'static str| {
        let output = crate::trawl(["train", text(&path), "--dry-run", "--set", set]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), errors)
    };
    let alone = "the last batch of an epoch has one query";
    let (code, errors) = said("data.batch_size=7");
    assert!(code == Some(0) && errors.contains(alone), "{errors}");
    for set in ["data.batch_size=6", "data.drop_last=true"] {
        let (code, errors) = said(set);
        assert!(code == Some(0) && !errors.contains(alone), "{errors}");
    }
    let (code, errors) = said("data.batch_size=1");
    let expected = "with `data.batch_size` 1 none is left";
    assert!(code == Some(2) && errors.contains(expected), "{errors}");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, out) = (config(folder.path()), folder.path().join("run"));
    let train = ["train", config.as_str(), "--out", text(&out), "--dry-run"];
    if !cfg!(feature = "cuda") {
        let errors = fail(1, [&train[..], &["--device", "cuda:0"][..]].concat());
        assert!(
            errors.contains("built without the feature `cuda`") && errors.contains("--device cpu"),
            "{errors}"
        );
    }
    // The processors compute where there is none.
    let report = json(
        [
            &["--json", "--quiet"][..],
            &train[..],
            &["--device", "auto"][..],
        ]
        .concat(),
    );
    let kept = report["config"].as_str().expect("a text");
    assert!(
        !kept.contains("device"),
        "a run may go on elsewhere: {kept}"
    );
}

#[test]
fn the_example_is_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("example.toml");
    let example = succeed(["train", "--example"]);
    fs::write(
        &path,
        example.replace("all-MiniLM-L6-v2", text(&tiny_model())),
    )
    .expect("written");
    // It is read whole; only the data that it names are not there.
    let errors = fail(1, ["train", text(&path), "--dry-run"]);
    assert!(errors.contains("train.jsonl"), "{errors}");
}
