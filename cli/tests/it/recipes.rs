//! The recipes: their configurations are read, and the toy runs end in their own checks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    run_script(&format!("{recipe}/toy.sh"));
}

/// Runs a recipe of pre-training on the sample corpus, as small as it gets.
fn run_pretraining(recipe: &str) {
    run_script(&format!("{recipe}/run.sh"));
}

fn run_script(script: &str) {
    let work = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .arg(recipes().join(script))
        .env("TRAWL", env!("CARGO_BIN_EXE_trawl"))
        .env("WORK", work.path())
        .env("DATA", testkit::fixture("sample"))
        .env("SIZE", "toy")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{errors}");
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
fn cotmaes_workflow_runs() {
    run_pretraining("cotmae");
}

#[test]
fn masters_workflow_runs() {
    run_pretraining("master");
}
