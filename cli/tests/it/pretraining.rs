//! `trawl train` with the objectives of pre-training, on the sample corpus with the two-layer test encoder.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{fail, json, sample, succeed, text, tiny_model};

/// Six steps of 32 texts, two epochs of what is not held out.
pub fn config(folder: &Path, corpus: &str, objective: &str) -> PathBuf {
    let config = format!(
        r#"
[model]
path = "{}"

[data]
corpus = {{ {corpus}, note = "the sample corpus" }}
batch_size = 32

[objective]
{objective}

[optimizer]
learning_rate = 5e-3

[schedule]
max_steps = 6
warmup_ratio = 0

[run]
evaluate_every = 6
save_every = "never"
measure = "loss"

[engine]
precision = "f32"
threads = 1

[dev]
texts = 240
"#,
        tiny_model().display()
    );
    let path = folder.join("train.toml");
    fs::write(&path, config).unwrap();
    path
}

pub fn files(paths: &Path) -> String {
    format!("files = [\"{}\"]", paths.display())
}

fn names(weights: &Path) -> Vec<String> {
    let bytes = fs::read(weights).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + n_header]).unwrap();
    header.as_object().unwrap().keys().cloned().collect()
}

/// Trains, and goes on from the checkpoint of every step but the last; returns the terms of the loss in the log.
fn check(corpus: &str, objective: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), corpus, objective);
    let run = folder.path().join("run");
    let all = [
        "--json",
        "--quiet",
        "train",
        text(&config),
        "--set",
        "run.save_every=1",
        "--set",
        "run.keep=9",
        "--out",
        text(&run),
    ];
    let report = json(all);
    let dev = &report["summary"]["dev"];
    let loss = |step: &str| dev[step]["loss"].as_f64().unwrap();
    assert!(loss("6") < loss("0"), "{objective}: {dev}");

    let (export, checkpoints) = (run.join("export"), run.join("checkpoints"));
    let end = || {
        let last = contents(&checkpoints.join("step-6"));
        (contents(&export), last, log(&run))
    };
    let whole = end();
    for step in (1..6).rev() {
        // Without its later checkpoints the run stands where a machine had stopped.
        fs::remove_dir_all(&export).unwrap();
        for later in step + 1..=6 {
            fs::remove_dir_all(checkpoints.join(format!("step-{later}"))).unwrap();
        }
        let resumed = json(all.into_iter().chain(["--resume"]));
        for what in ["dev", "epochs"] {
            let (resumed, whole) = (&resumed["summary"][what], &report["summary"][what]);
            assert!(whole.is_object() && resumed == whole, "{objective}");
        }
        assert!(end() == whole, "{objective}, from step {step}");
    }

    let names = names(&export.join("model.safetensors"));
    for name in [
        "bert.encoder.layer.1.output.dense.weight",
        "cls.predictions.bias",
    ] {
        assert!(names.iter().any(|stored| stored == name), "{names:?}");
    }
    let is_stray = |name: &String| name.contains("head") || name.contains("pooler");
    assert!(!names.iter().any(is_stray), "{names:?}");
    let config = fs::read_to_string(export.join("config.json")).unwrap();
    assert!(config.contains("\"BertForMaskedLM\""), "{config}");
    let card = fs::read_to_string(export.join("README.md")).unwrap();
    assert!(
        card.contains("- the sample corpus") && card.contains("AutoModelForMaskedLM"),
        "{card}"
    );
    let decoders = export.join("decoders.safetensors");
    assert_eq!(
        decoders.exists(),
        objective.contains("keep_decoders = true")
    );

    let is_term = |name: &&String| name.ends_with("_loss");
    let keys = whole.2[1].as_object().unwrap().keys();
    keys.filter(is_term).cloned().collect()
}

#[test]
fn each_method_learns_and_goes_on_from_any_step() {
    let plain = files(&sample("corpus.jsonl"));
    let masks = "masks = { max_tokens = 48, encoder_ratio = 0.3 }";
    let short = "masks = { max_tokens = 48, ratio = 0.3 }";
    assert_eq!(
        check(&plain, &format!("name = \"mlm\"\n{short}")),
        ["encoder_loss"]
    );
    let condenser = "name = \"condenser\"\nskip_from = 1\nlate_mlm = true";
    assert_eq!(
        check(&plain, &format!("{condenser}\n{short}")),
        ["encoder_loss", "head_loss"]
    );
    let retro_mae = format!("name = \"retro_mae\"\nkeep_decoders = true\n{masks}");
    assert_eq!(check(&plain, &retro_mae), ["decoder_loss", "encoder_loss"]);
    let dup_mae = format!("name = \"dup_mae\"\n{masks}");
    assert_eq!(
        check(&plain, &dup_mae),
        ["bow_loss", "decoder_loss", "encoder_loss"]
    );
    let generator = tiny_model();
    let sim_lm = format!(
        "name = \"sim_lm\"\ngenerator = \"{}\"\n{masks}",
        generator.display()
    );
    assert_eq!(check(&plain, &sim_lm), ["decoder_loss", "encoder_loss"]);
    let master = "name = \"master\"\nkeep_decoders = true\nmasks = { max_tokens = 48 }";
    let corpus = format!("{plain}, format = \"texts\"");
    assert_eq!(check(&corpus, master).len(), 8);
}

/// Files of a folder by their names, without what a clock says: of a model card that is a line, and it stays out as a whole.
fn contents(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let mut bytes = fs::read(entry.path()).unwrap();
        if entry.file_name() == "state.json" {
            let mut state: Value = serde_json::from_slice(&bytes).unwrap();
            state["interval"]["seconds"] = Value::Null;
            bytes = state.to_string().into_bytes();
        }
        (entry.file_name(), bytes)
    };
    let mut files: BTreeMap<OsString, Vec<u8>> = fs::read_dir(folder).unwrap().map(file).collect();
    files.remove(OsStr::new("README.md"));
    files
}

/// The lines of a run's log, without what a clock says.
fn log(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("tokens_per_s");
        line
    };
    text.lines().map(line).collect()
}

#[test]
fn a_run_killed_behind_every_step_ends_as_one_that_was_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = format!("{}, format = \"texts\"", files(&sample("corpus.jsonl")));
    let objective = "name = \"master\"\nkeep_decoders = true\nmasks = { max_tokens = 48 }";
    let config = config(folder.path(), &corpus, objective);
    let run = |name: &str| folder.path().join(name);
    let (whole, killed) = (run("whole"), run("killed"));
    let all = [
        "--quiet",
        "train",
        text(&config),
        "--set",
        "run.save_every=1",
        "--out",
    ];
    succeed(all.into_iter().chain([text(&whole)]));

    let mut n_killed = 0;
    for step in 1..6 {
        let checkpoint = killed.join(format!("checkpoints/step-{step}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_trawl"));
        command.args(all).arg(&killed);
        if step > 1 {
            command.arg("--resume");
        }
        let mut child = command.spawn().unwrap();
        while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        n_killed += u8::from(child.wait().unwrap().code().is_none());
    }
    assert!(n_killed > 0, "every run was too fast");
    succeed(all.into_iter().chain([text(&killed), "--resume"]));

    assert_eq!(log(&killed), log(&whole));
    for part in ["export", "checkpoints/step-6"] {
        let (found, expected) = (contents(&killed.join(part)), contents(&whole.join(part)));
        assert!(found.keys().eq(expected.keys()), "{found:?}");
        for (name, bytes) in found {
            assert!(
                bytes == expected[&name],
                "{part}/{} differs",
                name.display()
            );
        }
    }
}

/// The terms of the first step on lines of MASTER's, and what was said of them.
fn master_terms(lines: &str) -> (BTreeMap<String, f64>, String) {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (folder.path().join("lines.jsonl"), folder.path().join("run"));
    fs::write(&corpus, lines).unwrap();
    let objective = "name = \"master\"\nmasks = { max_tokens = 48 }";
    let config = config(folder.path(), &files(&corpus), objective);
    let frequencies = testkit::golden("pretraining/frequency.json");
    let dictionary = format!("objective.dictionary={}", frequencies.display());
    let set = [
        "dev.texts=1",
        "data.batch_size=13",
        "schedule.max_steps=1",
        "run.evaluate_every=never",
        &dictionary,
    ];
    let (said, _) = train(&config, &out, &set.map(|one| ["--set", one]).concat());
    let log = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let mut steps = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let step: Value = steps.find(|line: &Value| line["kind"] == "train").unwrap();
    let terms = step.as_object().unwrap().iter();
    let terms = terms.filter(|(name, _)| name.ends_with("_loss"));
    (
        terms
            .map(|(name, value)| (name.clone(), value.as_f64().unwrap()))
            .collect(),
        said,
    )
}

#[test]
fn lines_as_published_give_all_terms() {
    let lines = fs::read_to_string(testkit::golden("pretraining/master.jsonl")).unwrap();
    let (terms, said) = master_terms(&lines);
    assert!(said.contains("texts have no queries"), "{said}");
    let names: Vec<&str> = terms.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "complement_loss",
            "continuation_loss",
            "encoder_loss",
            "half_encoder_loss",
            "half_loss",
            "keyword_loss",
            "query_loss",
            "seen_encoder_loss",
        ]
    );
    // About the logarithm of the 576 tokens.
    let is_about = |loss: &f64| (5.0..10.0).contains(loss);
    assert!(terms.values().all(is_about), "{terms:?}");

    // The other published shape has no queries at all: their term is 0.
    let without = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("queries");
        format!("{line}\n")
    };
    let lines: String = lines.lines().map(without).collect();
    let (mut found, said) = master_terms(&lines);
    assert!(
        said.contains("14 of all 14 texts have no queries"),
        "{said}"
    );
    assert_eq!(found.remove("query_loss"), Some(0.0));
    assert_eq!(found.len(), 7);
    assert!(found.values().all(is_about), "{found:?}");
}

#[test]
fn a_dictionary_may_be_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let (model, corpus) = (tiny_model(), sample("corpus.jsonl"));
    let texts = format!("{}, format = \"texts\"", files(&corpus));
    let objective = "name = \"master\"\nmasks = { max_tokens = 48 }";
    let config = config(folder.path(), &texts, objective);
    let loss = |name: &str| {
        let path = folder.path().join(name);
        let count = ["--quiet", "data", "frequency-dictionary", "--texts"];
        let rest = [text(&corpus), "--tokenizer", text(&model), "--out"];
        succeed([&count[..], &rest, &[text(&path)]].concat());
        let set = format!("objective.dictionary={}", path.display());
        let all = ["train", "--json", "--quiet", "--dry-run", text(&config)];
        let report = json(all.into_iter().chain(["--set", set.as_str()]));
        report["loss_of_the_first_batch"].as_f64().unwrap()
    };
    let plain = loss("words.json");
    assert_eq!(loss("words.json.gz"), plain);
    assert_eq!(loss("words.json.zst"), plain);
}

#[test]
fn keywords_may_be_drawn_by_tf_idf() {
    let folder = tempfile::tempdir().unwrap();
    let texts = format!("{}, format = \"texts\"", files(&sample("corpus.jsonl")));
    let objective = "name = \"master\"\nmasks = { max_tokens = 48 }";
    let config = config(folder.path(), &texts, objective);
    let all = ["train", "--json", "--quiet", "--dry-run", text(&config)];
    let with = |set| all.into_iter().chain(["--set", set]);
    let loss = |set| json(with(set))["loss_of_the_first_batch"].as_f64().unwrap();
    let counted = loss("objective.keyword_weights=inverse_count");
    assert_eq!(loss("objective.seed=0"), counted);
    let tf_idf = "objective.keyword_weights=tf_idf";
    assert_ne!(loss(tf_idf), counted);

    let errors = fail(2, with("objective.keyword_weights=bm25"));
    assert!(errors.contains("`tf_idf`"), "{errors}");
    let dictionary = ["--set", "objective.dictionary=words.json"];
    let errors = fail(2, with(tf_idf).chain(dictionary));
    assert!(
        errors.contains("`objective.dictionary` does not go with"),
        "{errors}"
    );

    // A run keeps the key, and goes on with it.
    let run = folder.path().join("run");
    let set = ["--set", tf_idf, "--set", "schedule.max_steps=1"];
    train(&config, &run, &set);
    let resolved = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(
        resolved.contains("keyword_weights = \"tf_idf\""),
        "{resolved}"
    );
    train(&config, &run, &[&set[..], &["--resume"]].concat());
}

/// Two epochs of four of MASTER's lines, and one that is none.
#[test]
fn what_texts_lack_and_what_is_cut_is_counted_each_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("master.jsonl");
    let long = |n: usize| json!(vec![30; n]);
    let mut bytes = Vec::new();
    for line in [
        json!({"text": long(47), "queries": [[31, 32]], "next": [[33]]}),
        json!({"text": long(46), "queries": [[]]}),
        json!({"text": [30, 31], "queries": [long(20), long(25)], "next": [long(47), []]}),
        json!({"text": [30], "next": [[], [31]]}),
    ] {
        bytes.extend(format!("{line}\n").bytes());
    }
    bytes.extend(b"{\"text\": [30], \"\xff\": 0}\n");
    fs::write(&lines, bytes).unwrap();
    let toml = format!(
        "[model]\npath = {:?}\n[data]\ncorpus = {{ {}, skip_bad_lines = true }}\nbatch_size = 3\n[objective]\nname = \"master\"\n\
         masks = {{ max_tokens = 48 }}\n[schedule]\nmax_steps = 4\n[engine]\nthreads = 1\n",
        text(&tiny_model()),
        files(&lines)
    );
    let (config, run) = (folder.path().join("train.toml"), folder.path().join("run"));
    fs::write(&config, &toml).unwrap();
    let output = crate::trawl(["train", text(&config), "--json", "--out", text(&run)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let bad = "1 bad lines, the first is ";
    assert!(
        errors.contains(bad) && errors.contains("master.jsonl:5: not UTF-8 at byte 17"),
        "{errors}"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({
        "texts": 4, "without_queries": 2, "without_continuation": 2,
        "cut_texts": 1, "cut_queries": 1, "cut_continuations": 1,
    });
    let epochs = &report["summary"]["epochs"];
    assert_eq!(*epochs, json!({"0": expected, "1": expected}));
    // Of two equal epochs people are told once.
    assert_eq!(
        errors.matches("without queries 2 of 4 texts").count(),
        1,
        "{errors}"
    );
    let card = fs::read_to_string(run.join("export/README.md")).unwrap();
    assert!(
        card.contains("- cut texts, epoch 0: 1 of 4 texts\n"),
        "{card}"
    );
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let log = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let of_epochs: Vec<Value> = log.filter(|line: &Value| line["kind"] == "epoch").collect();
    assert_eq!(of_epochs.len(), 2);
    for (epoch, line) in of_epochs.iter().enumerate() {
        let mut own = expected.clone();
        own["kind"] = json!("epoch");
        own["epoch"] = json!(epoch);
        own["step"] = json!(2 * epoch + 2);
        assert_eq!(*line, own);
    }

    fs::write(
        &config,
        toml.replace("skip_bad_lines = true", "skip_bad_lines = false"),
    )
    .unwrap();
    let errors = fail(65, ["train", text(&config), "--dry-run"]);
    assert!(
        errors.contains("master.jsonl:5: not UTF-8 at byte 17"),
        "{errors}"
    );
}

#[test]
fn decoders_go_on_where_they_were_kept() {
    let folder = tempfile::tempdir().unwrap();
    let objective = "name = \"retro_mae\"\nmasks = { max_tokens = 48 }";
    let config = config(folder.path(), &files(&sample("corpus.jsonl")), objective);
    let out = folder.path().join("run");
    let (said, _) = train(&config, &out, &["--keep-decoder"]);
    assert!(!said.contains("decoders"), "{said}");
    let resolved = fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(resolved.contains("keep_decoders = true"), "{resolved}");

    let export = out.join("export");
    let path = format!("model.path={}", export.display());
    let (said, _) = train(&config, &out, &["--dry-run", "--set", &path]);
    let kept = export.join("decoders.safetensors");
    let expected = format!("the decoders go on from `{}`", kept.display());
    assert!(said.contains(&expected), "{said}");

    let other = ["train", text(&config), "--dry-run", "--set", &path];
    let other = other.into_iter().chain(["--set", "objective.name=master"]);
    let errors = fail(1, other);
    let expected = format!("`{}`: the model has no `c_head.", kept.display());
    assert!(errors.contains(&expected), "{errors}");
    let mlm = ["--keep-decoder", "--set", "objective.name=mlm"];
    let mlm = ["train", text(&config), "--dry-run"].into_iter().chain(mlm);
    let errors = fail(2, mlm);
    assert!(
        errors.contains("is for methods that have decoders"),
        "{errors}"
    );
    let fine_tuning = crate::train::config(folder.path());
    let errors = fail(2, ["train", fine_tuning.as_str(), "--keep-decoder"]);
    assert!(
        errors.contains("is for objectives of pre-training"),
        "{errors}"
    );
}

#[test]
fn without_weights_a_model_begins_with_random_ones() {
    let folder = tempfile::tempdir().unwrap();
    let bare = folder.path().join("bare");
    fs::create_dir(&bare).unwrap();
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny_model().join(file), bare.join(file)).unwrap();
    }
    let objective = "name = \"mlm\"\nmasks = { max_tokens = 48, ratio = 0.3 }";
    let config = config(folder.path(), &files(&sample("corpus.jsonl")), objective);
    let path = format!("model.path={}", bare.display());
    let set = ["--set", path.as_str()];
    let report = json([&["train", text(&config), "--dry-run", "--json"], &set[..]].concat());
    let loss = report["loss_of_the_first_batch"].as_f64().unwrap();
    // ln V + H · 0.02² / 2, of what the tied table adds to the logits' spread.
    let expected = 576f64.ln() + 32.0 * 0.0002;
    assert!((loss - expected).abs() < 0.03, "{loss}, not {expected}");
    let said = |more: &[&str]| {
        let output = crate::trawl(
            ["train", text(&config), "--dry-run"]
                .iter()
                .chain(more)
                .copied(),
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&set).contains("bare` has no weights: they are drawn"));
    assert!(!said(&[]).contains("has no weights"));

    // Weights in a form that is not read are no reason to begin with others.
    for name in ["pytorch_model.bin.index.json", "tf_model.h5"] {
        fs::write(bare.join(name), "{}").unwrap();
        let all = ["train", text(&config), "--dry-run"].into_iter();
        let errors = fail(1, all.chain(set));
        assert!(errors.contains("model.safetensors"), "{errors}");
        fs::remove_file(bare.join(name)).unwrap();
    }
}

/// Runs `trawl train`, and returns what it wrote to standard error and the weights of the run in `out`.
fn train(config: &Path, out: &Path, more: &[&str]) -> (String, Vec<u8>) {
    let all = ["train", text(config), "--out", text(out)];
    let output = crate::trawl(all.iter().chain(more).copied());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    let weights = fs::read(out.join("export/model.safetensors"));
    (errors, weights.unwrap_or_default())
}

#[test]
fn texts_are_tokenised_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let corpus = path("corpus.jsonl");
    let lines = fs::read_to_string(sample("corpus.jsonl")).unwrap();
    fs::write(&corpus, &lines).unwrap();
    let objective = "name = \"mlm\"\nmasks = { max_tokens = 48, ratio = 0.3 }";
    let config = config(folder.path(), &files(&corpus), objective);

    // In the folder of the run, where resuming finds them; a dry run leaves nothing.
    let (said, _) = train(&config, &path("first"), &["--dry-run"]);
    assert!(said.contains("now tokenised"), "{said}");
    assert!(!path("first").exists());
    let (said, first) = train(&config, &path("first"), &[]);
    assert!(said.contains("now tokenised"), "{said}");
    assert_eq!(fs::read_dir(path("first/corpus")).unwrap().count(), 1);
    let (said, _) = train(&config, &path("first"), &["--resume"]);
    assert!(said.contains("tokenised before"), "{said}");
    let occupied = ["train", text(&config), "--out"];
    let said = fail(2, occupied.into_iter().chain([text(&path("first"))]));
    assert!(!said.contains("tokenised"), "{said}");

    // In a folder of caches, for all runs.
    let cache = format!("data.cache={}", path("cache").display());
    let cached = ["--set", cache.as_str()];
    let (said, second) = train(&config, &path("second"), &cached);
    assert!(said.contains("now tokenised"), "{said}");
    assert!(!path("second/corpus").exists());
    let (said, third) = train(&config, &path("third"), &cached);
    assert!(said.contains("tokenised before"), "{said}");
    assert!(first == second && first == third);

    // A part of each epoch.
    let shard = ["--set", "data.shard={ index = 1, count = 2 }"];
    let (said, part) = train(&config, &path("part"), &[cached, shard].concat());
    assert!(said.contains("in 2 parts"), "{said}");
    assert!(part != first);
    let said = fail(
        2,
        [
            "train",
            text(&config),
            "--dry-run",
            "--set",
            "data.shard={ index = 2, count = 2 }",
        ],
    );
    assert!(said.contains("the index is below the count"), "{said}");

    // Other texts under the old name.
    fs::write(&corpus, lines.replace(" the ", " a ")).unwrap();
    let (said, other) = train(&config, &path("fourth"), &cached);
    assert!(said.contains("corpus.jsonl` has changed"), "{said}");
    assert_eq!(fs::read_dir(path("cache")).unwrap().count(), 1);
    assert!(!other.is_empty());
    let said = fail(
        2,
        [
            "train",
            text(&config),
            "--out",
            text(&path("first")),
            "--resume",
        ],
    );
    assert!(said.contains("data"), "{said}");

    // Texts that cannot be read leave no run.
    fs::write(&corpus, "{\"id\":\n").unwrap();
    let said = fail(65, ["train", text(&config), "--out", text(&path("fifth"))]);
    assert!(said.contains("corpus.jsonl:1"), "{said}");
    assert!(!path("fifth").exists());
}

#[test]
fn spans_are_read_by_the_methods_that_compare_them() {
    let folder = tempfile::tempdir().unwrap();
    let spans = folder.path().join("spans.jsonl");
    let (model, corpus) = (tiny_model(), sample("corpus.jsonl"));
    let all = ["--quiet", "data", "span-pairs", text(&corpus)];
    let rest = ["--tokenizer", text(&model), "--max-tokens", "16"];
    succeed([&all, &rest[..], &["--out", text(&spans)]].concat());
    let spans = files(&spans);
    let cot_mae = "name = \"cot_mae\"\nmasks = { max_tokens = 32, pairs = \"nearby+overlap\" }";
    assert_eq!(check(&spans, cot_mae), ["decoder_loss", "encoder_loss"]);
    let condenser = "name = \"condenser\"\ncontrastive = true\nmasks = { max_tokens = 32 }";
    assert_eq!(check(&spans, condenser), ["contrastive_loss", "head_loss"]);
}

#[test]
fn a_document_that_stands_alone_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (spans, out) = (folder.path().join("spans.jsonl"), folder.path().join("run"));
    let span = "{\"anchor\":[30],\"random_sampled\":[30],\"nearby\":[30],\"overlap\":[30]}";
    let document = format!("{{\"spans\":[{span},{span}]}}\n");
    fs::write(&spans, document.repeat(9)).unwrap();
    let condenser = "name = \"condenser\"\ncontrastive = true\nmasks = { max_tokens = 32 }";
    let config = config(folder.path(), &files(&spans), condenser);
    let said = |sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        train(&config, &out, &[&sets[..], &["--dry-run"]].concat()).0
    };
    let (of_epoch, held_out) = (
        "the last batch of an epoch has one document",
        "one of the held-out documents stands alone",
    );
    let told = said(&["dev.texts=4", "data.batch_size=4"]);
    assert!(
        told.contains(of_epoch) && !told.contains(held_out),
        "{told}"
    );
    let told = said(&["dev.texts=1", "data.batch_size=4"]);
    assert!(
        !told.contains(of_epoch) && told.contains(held_out),
        "{told}"
    );
    let told = said(&["dev.texts=4", "data.batch_size=4", "data.drop_last=true"]);
    assert!(!told.contains(of_epoch), "{told}");

    let refused = |sets: [&'static str; 2], expected: &str| {
        let all = ["train", text(&config), "--dry-run"];
        let errors = fail(
            2,
            all.into_iter()
                .chain(sets.iter().flat_map(|set| ["--set", set])),
        );
        assert!(errors.contains(expected), "{errors}");
    };
    refused(
        ["dev.texts=0", "data.batch_size=1"],
        "`data.batch_size` is at least 2",
    );
    refused(
        ["dev.texts=8", "data.batch_size=4"],
        "there is one to train on",
    );
}

#[test]
fn what_cannot_be_read_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("lines.jsonl");
    let refused = |exit, content: &str, objective: &str, sets: &[&str], expected: &str| {
        fs::write(&lines, content).unwrap();
        let config = config(folder.path(), &files(&lines), objective);
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let all = ["train", text(&config), "--dry-run", "--set", "dev.texts=0"];
        let errors = fail(exit, all.into_iter().chain(sets));
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    };
    let masks = "masks = { max_tokens = 48 }";
    let master = format!("name = \"master\"\n{masks}");
    let good = "{\"text\": [30, 31]}\n";
    let over = format!("{good}{{\"text\": [70000]}}\n");
    refused(65, &over, &master, &[], "lines.jsonl:2: token 70000");
    let empty = format!("{good}{good}{{\"text\": []}}\n");
    refused(65, &empty, &master, &[], "lines.jsonl:3: `text` has no");
    let cot_mae = format!("name = \"cot_mae\"\n{masks}");
    let span = "{\"anchor\":[30],\"random_sampled\":[30],\"nearby\":[30],\"overlap\":[30]}";
    let one = format!("{{\"spans\":[{span}]}}\n");
    refused(65, &one, &cot_mae, &[], "lines.jsonl:1: a document has");
    for (other, expected) in [
        ("\"nearby\":[70000]", "lines.jsonl:2: token 70000"),
        ("\"nearby\":[]", "lines.jsonl:2: `nearby` has no token"),
    ] {
        let other = span.replace("\"nearby\":[30]", other);
        let documents = format!("{{\"spans\":[{span},{span}]}}\n{{\"spans\":[{span},{other}]}}\n");
        refused(65, &documents, &cot_mae, &[], expected);
    }
    let mlm = format!("name = \"mlm\"\n{masks}");
    let passage = "{\"id\":\"a\",\"text\":\"one two\"}\n";
    let broken = format!("{passage}{{\"id\":\n");
    refused(65, &broken, &mlm, &[], "lines.jsonl:2");
    let retro_mae = format!("name = \"retro_mae\"\nbow_projection = true\n{masks}");
    refused(2, passage, &retro_mae, &[], "goes with `bow_loss_weight`");
    let none = "name = \"retro_mae\"\nmasks = { max_tokens = 48, max_masks = 0 }";
    refused(2, passage, none, &[], "masks.max_masks is 0");
    let sim_lm = format!("name = \"sim_lm\"\ngenerator_weight = 0.2\n{masks}");
    refused(2, passage, &sim_lm, &[], "goes with `generator`");
    for (name, key, n) in [
        ("condenser", "n_head_layers", "1000000000000"),
        ("sim_lm", "n_decoder_layers", "1000000000000"),
        ("sim_lm", "n_decoder_layers", "3"), // the encoder has 2
        ("sim_lm", "n_decoder_layers", "0"),
        ("master", "n_head_layers", "0"),
    ] {
        let layers = format!("name = \"{name}\"\n{key} = {n}\n{masks}");
        let expected = format!("{key} is {n}; it is from 1 to 64");
        refused(2, passage, &layers, &[], &expected);
    }

    let refused = |set: &str, expected: &str| {
        refused(2, passage, &mlm, &[set], expected);
    };
    refused("objective.masks.max_tokens=2", "it is at least 3");
    refused("objective.masks.max_tokens=129", "the model reads 128");
    refused("objective.masks.ratio=1.5", "it is from 0 to 1");
    refused("objective.masks.ration=0.5", "`ratio`");
    refused("objective.bow_loss_weight=1", "bow_loss_weight");
    refused("dev.texts=1", "below the number of texts");
    refused("data.corpus.format=spans", "`texts` or `master`");
    refused("data.stream=true", "`data.stream` is for fine-tuning");
    refused("dev.dataset=x", "`dev.dataset` is for fine-tuning");
    refused("data.group_size=8", "`data.group_size` is for fine-tuning");
    refused("data.mixing=together", "`data.mixing` is for fine-tuning");
    refused("dev.depth=100", "`dev.depth` is for fine-tuning");
    refused("lora.rank=4", "`lora` is for fine-tuning");
}

#[test]
fn a_generator_has_the_tokens_of_the_encoder() {
    let folder = tempfile::tempdir().unwrap();
    let generator = folder.path().join("generator");
    fs::create_dir(&generator).unwrap();
    let objective = format!("name = \"sim_lm\"\ngenerator = \"{}\"", generator.display());
    let config = config(folder.path(), &files(&sample("corpus.jsonl")), &objective);
    let refused = |file: &str, from: &str, to: &str, expected: &str| {
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            fs::copy(tiny_model().join(file), generator.join(file)).unwrap();
        }
        let content = fs::read_to_string(generator.join(file)).unwrap();
        assert!(content.contains(from), "{content}");
        fs::write(generator.join(file), content.replacen(from, to, 1)).unwrap();
        let errors = fail(1, ["train", text(&config), "--dry-run"]);
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    };
    refused(
        "config.json",
        "\"vocab_size\": 576",
        "\"vocab_size\": 600",
        "vocab_size is 600, and the encoder's is 576",
    );
    refused(
        "tokenizer.json",
        "\"##e\"",
        "\"##é\"",
        "is `##é`, and the encoder's is `##e`",
    );
}

#[test]
fn an_electra_is_trained_from_nothing_and_generates() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("bare")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(tiny_model().join(file), path("bare").join(file)).unwrap();
    }
    let sizes = r#"{"model_type": "electra", "vocab_size": 576, "embedding_size": 16, "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 64,
        "type_vocab_size": 2}"#;
    fs::write(path("bare/config.json"), sizes).unwrap();
    let mlm = "name = \"mlm\"\nmasks = { max_tokens = 48, ratio = 0.3 }";
    let corpus = files(&sample("corpus.jsonl"));
    let generator = config(folder.path(), &corpus, mlm);
    let from = |name: &str| format!("model.path={}", path(name).display());
    let run = |name: &str, from: &str| {
        let all = [
            "--json",
            "--quiet",
            "train",
            text(&generator),
            "--set",
            from,
        ];
        let report = json([&all[..], &["--out", text(&path(name))]].concat());
        let dev = &report["summary"]["dev"];
        ["0", "6"].map(|step| dev[step]["loss"].as_f64().unwrap())
    };
    let [before, after] = run("first", &from("bare"));
    let expected = 576f64.ln();
    assert!((before - expected).abs() < 0.03, "{before}, not {expected}");
    assert!(after < before - 0.05, "{after}, after {before}");
    let weights = names(&path("first/export/model.safetensors"));
    for name in [
        "electra.embeddings_project.bias",
        "electra.encoder.layer.1.output.dense.weight",
        "generator_predictions.dense.weight",
        "generator_lm_head.bias",
    ] {
        assert!(weights.iter().any(|stored| stored == name), "{weights:?}");
    }
    let tensors = weights.iter().filter(|name| name.contains('.')).count();
    assert_eq!(tensors, 3 + 2 + 2 + 2 * 16 + 2 + 2 + 1);
    let said = fs::read_to_string(path("first/export/config.json")).unwrap();
    assert!(said.contains("ElectraForMaskedLM"), "{said}");

    // What goes on from it begins where it ended.
    let [before, _] = run("second", &from("first/export"));
    assert!((before - after).abs() < 1e-6, "{before}, not {after}");

    // It generates for SimLM, frozen or with a loss of its own.
    let generator = path("first/export");
    let sim_lm = format!(
        "name = \"sim_lm\"\ngenerator = \"{}\"\nmasks = {{ max_tokens = 48 }}",
        generator.display()
    );
    assert_eq!(check(&corpus, &sim_lm), ["decoder_loss", "encoder_loss"]);
    let trained = check(&corpus, &format!("{sim_lm}\ngenerator_weight = 0.2"));
    assert_eq!(trained, ["decoder_loss", "encoder_loss", "generator_loss"]);
    let long = config(folder.path(), &corpus, &sim_lm.replace("= 48", "= 65"));
    let said = fail(2, ["train", text(&long), "--dry-run"]);
    assert!(said.contains("is 65, and its generator reads 64"), "{said}");

    // The other methods are for BERT.
    let retro_mae = config(folder.path(), &corpus, "name = \"retro_mae\"");
    let said = fail(
        1,
        [
            "train",
            text(&retro_mae),
            "--dry-run",
            "--set",
            &from("bare"),
        ],
    );
    assert!(said.contains("model_type is `electra`"), "{said}");
}
