use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::directory::{self, RunDirectory};
use super::error::TrainError;
use super::events::EventFile;

/// What a step, or the mean of several, was.
#[derive(Clone, Debug, PartialEq)]
pub struct StepLog {
    /// Steps taken.
    pub step: u64,
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// Mean loss of the batches.
    pub loss: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Mean norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Tokens that went through an encoder a second; evaluations and checkpoints do not count.
    pub tokens_per_s: f64,
    /// Tokens since the run began.
    pub n_tokens: u64,
    /// Floating-point operations of matrix products since the run began, as [`encoder::training::Engine::operations`] counts.
    pub n_operations: u64,
    /// Means of the objective's own measures.
    pub measures: BTreeMap<String, f64>,
}

/// Sums of what lies between two lines of the log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Interval {
    pub(super) loss: Mean,
    pub(super) gradient_norm: Mean,
    pub(super) measures: BTreeMap<String, Mean>,
    pub(super) n_tokens: u64,
    pub(super) seconds: f64,
}

/// A sum and how many it is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Mean {
    sum: f64,
    n: u64,
}

impl Mean {
    pub(super) fn add(&mut self, value: f64) {
        self.sum += value;
        self.n += 1;
    }

    pub(super) fn value(self) -> f64 {
        self.sum / self.n.max(1) as f64
    }
}

/// `metrics.jsonl` and TensorBoard's file beside it.
pub(super) struct MetricsLog {
    path: PathBuf,
    lines: File,
    events: EventFile,
}

impl MetricsLog {
    /// Opens the log of a run that has taken `step` steps; lines of what will be done again are dropped.
    pub(super) fn open(
        run: &RunDirectory,
        step: u64,
        is_evaluated: bool,
    ) -> Result<Self, TrainError> {
        let path = run.path().join("metrics.jsonl");
        let is_resumed = path.exists();
        if is_resumed {
            keep_up_to(&path, step, is_evaluated)?;
        }
        let lines = OpenOptions::new().create(true).append(true).open(&path);
        let events = EventFile::create(run.path(), is_resumed.then_some(step));
        Ok(Self {
            lines: lines.map_err(TrainError::file(&path))?,
            events: events.map_err(TrainError::file(run.path()))?,
            path,
        })
    }

    pub(super) fn step(&mut self, log: &StepLog) -> Result<(), TrainError> {
        let mut line = json!({
            "kind": "train",
            "step": log.step,
            "epoch": log.epoch,
            "loss": log.loss,
            "learning_rate": log.learning_rate,
            "gradient_norm": log.gradient_norm,
            "tokens_per_s": log.tokens_per_s,
            "n_tokens": log.n_tokens,
            "n_operations": log.n_operations,
        });
        extend(&mut line, &log.measures);
        let own = [
            ("loss", log.loss),
            ("learning_rate", log.learning_rate),
            ("gradient_norm", log.gradient_norm),
            ("tokens_per_s", log.tokens_per_s),
        ];
        let measures = log
            .measures
            .iter()
            .map(|(name, &value)| (name.as_str(), value));
        self.write("train", log.step, &line, own.into_iter().chain(measures))
    }

    pub(super) fn dev(
        &mut self,
        step: u64,
        figures: &BTreeMap<String, f64>,
    ) -> Result<(), TrainError> {
        let mut line = json!({ "kind": "dev", "step": step });
        extend(&mut line, figures);
        let figures = figures.iter().map(|(name, &value)| (name.as_str(), value));
        self.write("dev", step, &line, figures)
    }

    /// What was read of an epoch up to a step.
    pub(super) fn epoch(
        &mut self,
        step: u64,
        epoch: u64,
        counts: &BTreeMap<String, u64>,
    ) -> Result<(), TrainError> {
        let mut line = json!({ "kind": "epoch", "step": step, "epoch": epoch });
        extend(&mut line, counts);
        let counts = counts.iter().map(|(name, &n)| (name.as_str(), n as f64));
        self.write("epoch", step, &line, counts)
    }

    fn write<'a>(
        &mut self,
        kind: &str,
        step: u64,
        line: &Value,
        values: impl Iterator<Item = (&'a str, f64)>,
    ) -> Result<(), TrainError> {
        let tagged: Vec<(String, f64)> = values
            .map(|(name, value)| (format!("{kind}/{name}"), value))
            .collect();
        let scalars = tagged.iter().map(|(tag, value)| (tag.as_str(), *value));
        writeln!(self.lines, "{line}")
            .and_then(|()| self.events.scalars(step, scalars))
            .map_err(TrainError::file(&self.path))
    }
}

fn extend(line: &mut Value, values: &BTreeMap<String, impl Serialize>) {
    let values: Map<String, Value> = values
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    line.as_object_mut()
        .expect("the line is an object")
        .extend(values);
}

/// Drops lines of steps after `step`, dev figures of `step` that will be taken again, and a line that breaks off.
fn keep_up_to(path: &Path, step: u64, is_evaluated: bool) -> Result<(), TrainError> {
    let text = fs::read_to_string(path).map_err(TrainError::file(path))?;
    let is_kept = |line: &&str| {
        let line: Option<Value> = serde_json::from_str(line).ok();
        line.is_some_and(|line| {
            let found = line["step"].as_u64().unwrap_or(u64::MAX);
            found < step || found == step && (is_evaluated || line["kind"] != "dev")
        })
    };
    let kept: String = text
        .lines()
        .filter(is_kept)
        .flat_map(|line| [line, "\n"])
        .collect();
    directory::write(path, kept.as_bytes())
}
