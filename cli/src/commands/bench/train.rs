use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use compute::Simd;
use encoder::training::{Engine, EngineConfig, Precision, TrainingBench, Workload, minilm};
use encoder::{Architecture, Arithmetic};
use serde::Serialize;

use super::clock::{calls, cpu, median, pass, percentile_ms, wall};
use crate::failure::{Exit, Failure};
use crate::model::{self, ModelArgs};
use crate::output::{self, Output};
use crate::progress::Progress;

/// What was measured. Times of the repeats are medians.
#[derive(Debug, Serialize)]
struct Report {
    workload: &'static str,
    /// Whose shape the random weights have.
    model: String,
    /// What computes layers.
    device: String,
    precision: &'static str,
    /// Vector instructions used.
    simd: String,
    threads: usize,
    n_texts: usize,
    n_tokens: usize,
    repeats: usize,
    /// Of a step.
    wall_s: f64,
    cpu_s: f64,
    tokens_per_s: f64,
    passages_per_s: f64,
    /// Of the steps.
    p50_ms: f64,
    p99_ms: f64,
    forward_s: f64,
    backward_s: f64,
    optimizer_s: f64,
}

/// Measures training steps: forward, loss, backward, AdamW over all parameters.
pub fn run(
    workload: Workload,
    model: &ModelArgs,
    repeats: usize,
    stopped: &AtomicBool,
    output: &Output,
) -> anyhow::Result<()> {
    let (shape, name_of_model) = match &model.model {
        Some(model) => {
            let folder = model::find_transformer(model)?;
            let shape = Architecture::read(&folder.join("config.json"))?;
            (shape, model.display().to_string())
        }
        None => (minilm(), "all-MiniLM-L6-v2".to_owned()),
    };
    let asked = model.encoder_config(Arithmetic::Auto)?;
    let device = asked
        .accelerator
        .map_or(Vec::new(), |on| on.devices)
        .into_iter()
        .next();
    let simd = asked
        .simd
        .map_or(Simd::detect(), |level| Simd::detect().at_most(level));
    let (precision, name) = match asked.arithmetic {
        Arithmetic::F32 => (Precision::F32, "f32"),
        Arithmetic::Auto if device.is_none() && !simd.has_bf16() => (Precision::F32, "f32"),
        Arithmetic::Auto | Arithmetic::Bf16 => (Precision::Bf16, "bf16"),
        other => {
            let text = format!("training has no `{}`", other.as_str());
            return Err(Failure::usage(text).hint("use auto, f32 or bf16").into());
        }
    };
    compute::keep_freed_memory();
    let mut config = EngineConfig::default();
    (config.threads, config.precision, config.simd) = (asked.threads, precision, simd);
    let place = device
        .as_ref()
        .map_or("cpu", |device| &device.info().name)
        .to_owned();
    let engine = match device {
        Some(device) => Engine::on_device(&config, device)?,
        None => Engine::new(&config)?,
    };
    let mut bench = TrainingBench::new(workload, shape, &engine)?;
    let progress = Progress::new(output);
    progress.update("warm up", "steps", 0, 1);
    bench.step()?;
    let (mut passes, mut steps) = (Vec::new(), Vec::new());
    for repeat in 0..repeats {
        if stopped.load(Ordering::SeqCst) {
            return Err(Failure::new(Exit::Interrupted, "stopped before the last repeat").into());
        }
        progress.update("measure", "steps", repeat as u64, repeats as u64);
        passes.push(pass(&[()], 1, |_| {
            steps.push(bench.step()?);
            Ok(())
        })?);
    }
    progress.finish();
    let (wall_s, calls) = (wall(&passes), calls(&passes));
    let of = |part: fn(&encoder::training::StepTimes) -> Duration| median(steps.iter().map(part));
    let report = Report {
        workload: match workload {
            Workload::CrossEncoder => "train-cross",
            Workload::BiEncoder => "train-bi",
        },
        model: format!("random weights, shape of {name_of_model}"),
        device: place,
        precision: name,
        simd: simd.to_string(),
        threads: config.threads,
        n_texts: bench.n_texts(),
        n_tokens: bench.n_tokens(),
        repeats,
        wall_s,
        cpu_s: cpu(&passes),
        tokens_per_s: bench.n_tokens() as f64 / wall_s,
        passages_per_s: bench.n_texts() as f64 / wall_s,
        p50_ms: percentile_ms(&calls, 50),
        p99_ms: percentile_ms(&calls, 99),
        forward_s: of(|step| step.forward),
        backward_s: of(|step| step.backward),
        optimizer_s: of(|step| step.optimizer),
    };
    output.result(&report, table)
}

fn table(report: &Report) -> String {
    let seconds = |value: f64| format!("{value:.4}");
    let rows = [
        ("workload", report.workload.to_owned()),
        ("model", report.model.to_owned()),
        ("device", report.device.clone()),
        ("precision", report.precision.to_owned()),
        ("instructions", report.simd.clone()),
        ("threads", report.threads.to_string()),
        ("texts", report.n_texts.to_string()),
        ("tokens", report.n_tokens.to_string()),
        ("repeats", report.repeats.to_string()),
        ("wall of a step, s", seconds(report.wall_s)),
        ("user CPU, s", seconds(report.cpu_s)),
        ("forward, s", seconds(report.forward_s)),
        ("backward, s", seconds(report.backward_s)),
        ("optimizer, s", seconds(report.optimizer_s)),
        ("tokens/s", format!("{:.0}", report.tokens_per_s)),
    ];
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    output::table(&["what", "value"], &["value"], rows)
}
