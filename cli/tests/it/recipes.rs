//! The recipes: their configurations are read, and the toy runs end in their own checks.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;

use crate::{text, tiny_model};

fn recipes() -> PathBuf {
    testkit::fixture("../../recipes")
}

/// The configurations below a folder.
fn configurations(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            configurations(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            found.push(path);
        }
    }
}

/// Each is read whole, and fits a model of 128 positions once its texts are cut; only the data that it names are not there.
#[test]
fn every_configuration_is_read() {
    let (mut found, empty) = (Vec::new(), tempfile::tempdir().unwrap());
    configurations(&recipes(), &mut found);
    let mut n_read = 0;
    for path in &found {
        let config = fs::read_to_string(path).unwrap();
        let has_data = config.contains("[[data.train]]") || config.contains("corpus");
        if !config.contains("[model]") || !has_data {
            continue; // a part that a script completes
        }
        n_read += 1;
        let is_pretraining = config.contains("masks = {");
        let length = if is_pretraining {
            "objective.masks.max_tokens=128"
        } else if config.contains("name = \"cross_encoder\"") {
            "objective.max_tokens=128"
        } else {
            "objective.passage_tokens=128"
        };
        let mut set = vec![
            length.to_owned(),
            format!("model.path={}", text(&tiny_model())),
        ];
        if config.contains("\ngenerator = ") {
            set.push(format!("objective.generator={}", text(&tiny_model())));
        }
        let output = Command::new(env!("CARGO_BIN_EXE_trawl"))
            .current_dir(empty.path())
            .args(["train", text(path), "--dry-run"])
            .args(set.iter().flat_map(|set| ["--set", set]))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{path:?}: {errors}");
        let is_missing = errors.contains("cannot open") || errors.contains("cannot read");
        let is_file = errors.contains("No such file or directory");
        assert!(is_missing && is_file, "{path:?}: {errors}");
    }
    assert!(n_read >= 20, "{found:?}");
}

/// Runs the toy run of a recipe.
fn run_toy(recipe: &str) {
    run_script(&format!("{recipe}/toy.sh"), &[]);
}

/// Runs a recipe of pre-training on the sample corpus, as small as it gets.
fn run_pretraining(recipe: &str) {
    run_script(&format!("{recipe}/run.sh"), &[]);
}

/// Runs a script at toy size; returns the folder that it wrote to.
fn run_script(script: &str, variables: &[(&str, &str)]) -> TempDir {
    let (work, sample) = (tempfile::tempdir().unwrap(), testkit::fixture("sample"));
    let variables = [&[("SIZE", "toy")], variables].concat();
    printed(run_on(&sample, work.path(), script, &variables));
    work
}

/// Runs a script that reads one folder and writes to another.
fn run_on(data: &Path, work: &Path, script: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new("bash");
    command.arg(recipes().join(script)).env("WORK", work);
    command.env("TRAWL", env!("CARGO_BIN_EXE_trawl"));
    command.env("DATA", data).envs(variables.iter().copied());
    command.output().unwrap()
}

/// What a script that ended well printed.
fn printed(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{errors}");
    printed
}

#[test]
fn openmatchs_workflow_runs() {
    run_toy("openmatch");
}

#[test]
fn simlms_stages_run() {
    run_toy("simlm");
}

#[test]
fn simlms_pretraining_runs() {
    run_pretraining("simlm");
}

#[test]
fn retromaes_workflow_runs() {
    run_pretraining("retromae");
}

#[test]
fn dupmaes_workflow_runs() {
    let work = run_script("retromae/run.sh", &[("METHOD", "dup_mae")]);
    let metrics = fs::read_to_string(work.path().join("pretrained/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"bow_loss\""), "{metrics}");
}

#[test]
fn cotmaes_workflow_runs() {
    run_pretraining("cotmae");
}

#[test]
fn masters_workflow_runs() {
    let work = run_script("master/run.sh", &[]);
    let table = fs::read_to_string(work.path().join("table.txt")).unwrap();
    // No teacher wrote anything for these passages.
    assert!(table.contains(" texts without queries, "), "{table}");
}

/// The comparison with MASTER, which reads plain texts in it: the sample corpus as each of the four sets, two steps.
#[test]
fn the_comparison_of_pre_trainings_runs() {
    let (data, sample) = (tempfile::tempdir().unwrap(), testkit::fixture("sample"));
    let read = |name: &str| fs::read_to_string(sample.join(name)).unwrap();
    for set in ["openstax-text", "squad", "medquad", "squadshifts-amazon"] {
        let folder = data.path().join(set);
        fs::create_dir_all(folder.join("qrels")).unwrap();
        // Passages of all sets are read together.
        let own_id = format!("{{\"_id\": \"{set}-");
        let corpus = read("corpus.jsonl").replace("{\"_id\": \"", &own_id);
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(corpus.as_bytes()).unwrap();
        fs::write(folder.join("corpus.jsonl.gz"), packed.finish().unwrap()).unwrap();
        fs::write(folder.join("queries.jsonl"), read("queries.jsonl")).unwrap();
        let mut qrels = String::from("query-id\tcorpus-id\tscore\n");
        for line in read("qrels/test.tsv").lines().skip(1) {
            let (query, rest) = line.split_once('\t').unwrap();
            qrels += &format!("{query}\t{set}-{rest}\n");
        }
        for split in ["train", "dev", "test"] {
            fs::write(folder.join(format!("qrels/{split}.tsv")), &qrels).unwrap();
        }
    }
    let work = tempfile::tempdir().unwrap();
    let run = |steps| {
        let settings = [("METHODS", "master"), ("STEPS", steps), ("PIECES", "600")];
        run_on(data.path(), work.path(), "pre-training/run.sh", &settings)
    };
    let table = printed(run("2"));
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .collect();
    let of = |run: &str| rows.iter().filter(|row| row.starts_with(run)).count();
    assert_eq!((of("| none-42 "), of("| master-42 ")), (2, 2), "{table}");
    assert_eq!(
        of("| master-42 (64 of 64 texts without queries, 64 without continuation) |"),
        2,
        "{table}"
    );
    assert!(!table.contains("Missing"), "{table}");
    let settings = [("METHODS", "master mlm"), ("POOLINGS", "cls")];
    let table = printed(run_on(
        data.path(),
        work.path(),
        "pre-training/table.sh",
        &settings,
    ));
    assert!(table.ends_with("\nMissing: mlm-42 (cls).\n"), "{table}");

    let metrics = work.path().join("master-42/pre-training/metrics.jsonl");
    let metrics = fs::read_to_string(metrics).unwrap();
    assert!(metrics.trim_end().ends_with("\"step\":2}"), "{metrics}");

    // Another beginning is no part of the same comparison.
    let output = run("3");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("STEPS=2"), "{error}");
}
