//! `trawl train` as several processes on this machine, as a launcher starts them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::train::config;
use crate::{json, pretraining, sample, succeed, text};

/// A port that nobody listens at: a new one each time, and below those that a system gives to whoever asks for any, so that nobody
/// gets it before rank 0 listens there.
fn port() -> u16 {
    static N_TRIED: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 100) as u16 * 100;
    loop {
        let port = 20_000 + (first + N_TRIED.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Starts the ranks of a run with the variables of torchrun.
fn start(world_size: usize, arguments: &[&str]) -> Vec<Child> {
    let port = port();
    let start = |rank: usize| {
        Command::new(env!("CARGO_BIN_EXE_trawl"))
            .args(arguments)
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", world_size.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    (0..world_size).map(start).collect()
}

fn wait(ranks: Vec<Child>) -> Vec<Output> {
    let wait = |rank: Child| rank.wait_with_output().unwrap();
    ranks.into_iter().map(wait).collect()
}

/// Trains with so many ranks, all of which must succeed, and returns what rank 0 printed.
fn train(world_size: usize, config: &str, out: &Path, more: &[&str]) -> Value {
    let all = ["--json", "--quiet", "train", config, "--out", text(out)];
    let outputs = wait(start(world_size, &[&all[..], more].concat()));
    for output in &outputs {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
    }
    assert!(outputs[1..].iter().all(|output| output.stdout.is_empty()));
    serde_json::from_slice(&outputs[0].stdout).unwrap()
}

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("export/model.safetensors")).unwrap()
}

/// The largest difference of two models' weights.
fn difference(one: &Path, other: &Path) -> f32 {
    let values = |run: &Path| {
        let file = weights(run);
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let (values, _) = file[8 + header..].as_chunks::<4>();
        let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
        values.collect::<Vec<f32>>()
    };
    let (one, other) = (values(one), values(other));
    assert_eq!(one.len(), other.len());
    let differences = one.iter().zip(&other).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// Losses and lengths of the gradients by step.
fn curve(run: &Path) -> Vec<f64> {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let steps = lines.filter(|line: &Value| line["kind"] == "train");
    let figures = |line: Value| ["loss", "gradient_norm"].map(|key| line[key].as_f64().unwrap());
    steps.flat_map(figures).collect()
}

#[test]
fn several_ranks_train_what_one_process_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let contrastive = config(folder.path());
    fs::create_dir(path("texts")).unwrap();
    let mlm = "name = \"mlm\"\nmasks = { max_tokens = 48, ratio = 0.3 }";
    let corpus = pretraining::files(&sample("corpus.jsonl"));
    let mlm = pretraining::config(&path("texts"), &corpus, mlm);
    for (name, config) in [("contrastive", &*contrastive), ("mlm", text(&mlm))] {
        // The bias of keys has a gradient of rounding alone: softmax takes no notice of it. With a smaller ε Adam makes of
        // that a step as large as any.
        let more = ["--set", "optimizer.epsilon=1e-4"];
        let one = path(&format!("{name}-1"));
        let all = ["--json", "--quiet", "train", config, "--out", text(&one)];
        let expected = json(all.into_iter().chain(more));
        for world_size in [2, 3] {
            let out = path(&format!("{name}-{world_size}"));
            let found = train(world_size, config, &out, &more);
            for key in ["steps", "examples", "tokens", "end"] {
                assert_eq!(found["summary"][key], expected["summary"][key], "{key}");
            }
            let (found, expected) = (curve(&out), curve(&one));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 1e-5 * expected,
                    "{name}: {found} {expected}"
                );
            }
            let difference = difference(&out, &one);
            assert!(
                difference < 1e-5,
                "{name}, {world_size} ranks: {difference}"
            );
        }
    }
}

#[test]
fn a_killed_rank_ends_the_run_and_all_go_on_from_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let path = |name: &str| folder.path().join(name);
    let more = [
        "--resume",
        "--set",
        "schedule.max_steps=400",
        "--set",
        "run.save_every=5",
        "--set",
        "run.evaluate_every=never",
    ];
    train(2, &config, &path("whole"), &more);

    let parts = path("parts");
    let all = ["--quiet", "train", config.as_str(), "--out", text(&parts)];
    let first = parts.join("checkpoints/step-5");
    let kill_one = || {
        let mut ranks = start(2, &[&all[..], &more].concat());
        let is_running = |rank: &mut Child| rank.try_wait().unwrap().is_none();
        while !first.exists() && ranks.iter_mut().all(is_running) {
            sleep(Duration::from_millis(2));
        }
        ranks[1].kill().unwrap();
        wait(ranks)
    };
    let mut outputs = kill_one();
    // Where this thread is held up, the run may end before it is killed.
    while outputs[0].status.success() {
        fs::remove_dir_all(&parts).unwrap();
        outputs = kill_one();
    }
    assert_eq!(outputs[0].status.code(), Some(1));
    let errors = String::from_utf8_lossy(&outputs[0].stderr);
    assert!(
        errors.contains("rank 1 is gone") && errors.contains("--resume"),
        "{errors}"
    );
    assert!(!parts.join("export").exists());

    train(2, &config, &parts, &more);
    assert_eq!(weights(&path("whole")), weights(&parts));
    assert_eq!(curve(&path("whole")), curve(&parts));
}

#[test]
fn a_launcher_begins_a_run_again_that_was_refused_before_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let (config, out) = (config(folder.path()), folder.path().join("run"));
    let all = ["train", config.as_str(), "--out", text(&out), "--resume"];
    let set = |key| [&all[..], &["--set", key]].concat();
    for output in wait(start(2, &set("optimizer.freeze=[\"bert\"]"))) {
        assert!(!output.status.success());
    }
    assert!(out.join("config.toml").exists() && !out.join("metrics.jsonl").exists());
    train(2, &config, &out, &["--resume"]);

    // Now there is one, and it goes on with its own configuration alone.
    let outputs = wait(start(2, &set("run.seed=7")));
    let errors = String::from_utf8_lossy(&outputs[0].stderr);
    assert!(errors.contains("seed = 42"), "{errors}");
}

#[test]
fn ranks_that_do_not_belong_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let out = folder.path().join("run");
    let all = ["train", config.as_str(), "--out", text(&out)];
    let rank = |rank: &str, port: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trawl"));
        command.args(all).args(more).env("RANK", rank);
        command
            .env("WORLD_SIZE", "2")
            .env("MASTER_ADDR", "127.0.0.1");
        let piped = command.env("MASTER_PORT", port).stderr(Stdio::piped());
        piped.stdout(Stdio::null()).spawn().unwrap()
    };
    let same = port().to_string();
    // Rank 0 waits for the right one to the end of this time, and the wrong one has to come within it.
    let brief = ["--rank-timeout", "30"];
    let ranks = [("0", &brief[..]), ("1", &["--set", "run.seed=7"])];
    let ranks = ranks.map(|(number, more)| rank(number, &same, more));
    for output in wait(ranks.into()) {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            errors.contains("rank 1 has another configuration"),
            "{errors}"
        );
        assert!(!output.status.success());
    }
    let alone = rank("0", &port().to_string(), &["--rank-timeout", "1"]);
    let output = wait(vec![alone]).remove(0);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("rank 1 has not joined within 1 s"),
        "{errors}"
    );
    assert_eq!(output.status.code(), Some(1));
    let broken = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(all)
        .env("RANK", "0")
        .output();
    let broken = broken.unwrap();
    let errors = String::from_utf8_lossy(&broken.stderr);
    assert!(
        errors.contains("`RANK` is set and `WORLD_SIZE` is not"),
        "{errors}"
    );
    assert_eq!(broken.status.code(), Some(2));
    assert!(!out.exists());

    // Alone, nothing of this matters.
    succeed(["--quiet", "train", config.as_str(), "--dry-run"]);
}
