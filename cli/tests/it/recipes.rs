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
    assert!(found.len() >= 6, "{found:?}");
    for path in found {
        let config = fs::read_to_string(&path).unwrap();
        let length = if config.contains("name = \"cross_encoder\"") {
            "objective.max_tokens=128"
        } else {
            "objective.passage_tokens=128"
        };
        let output = Command::new(env!("CARGO_BIN_EXE_trawl"))
            .current_dir(empty.path())
            .args(["train", text(&path), "--dry-run", "--set", length])
            .args(["--set", &format!("model.path={}", text(&tiny_model()))])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{path:?}: {errors}");
        assert!(errors.contains("cannot open"), "{path:?}: {errors}");
    }
}

/// Runs the toy run of a recipe.
fn run_toy(recipe: &str) {
    let work = tempfile::tempdir().unwrap();
    let output = Command::new("bash")
        .arg(recipes().join(recipe).join("toy.sh"))
        .env("TRAWL", env!("CARGO_BIN_EXE_trawl"))
        .env("WORK", work.path())
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
