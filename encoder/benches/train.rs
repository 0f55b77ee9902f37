//! Seconds per training step of a model of all-MiniLM-L6-v2's size with random weights and random tokens.
//!
//! `cargo bench -p encoder --bench train [-- f32|bf16] [THREADS]` runs both workloads: a cross-encoder on 16 pairs of
//! 180 tokens, and a bi-encoder on 16 queries of 10 and 32 passages of 128 tokens; forward, loss, backward and AdamW
//! over all 22.7 million parameters, without dropout. The median of 7 steps counts; CPU seconds are their mean.

use std::error::Error;

use encoder::training::{Engine, EngineConfig, Precision, TrainingBench, Workload, minilm};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| arguments.iter().any(|argument| argument == name);
    let mut config = EngineConfig::default();
    if let Some(threads) = arguments.iter().find_map(|argument| argument.parse().ok()) {
        config.threads = threads;
    }
    for (name, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
        if !named(name) && (named("f32") || named("bf16")) {
            continue;
        }
        config.precision = precision;
        for workload in [Workload::CrossEncoder, Workload::BiEncoder] {
            let engine = Engine::new(&config)?;
            let mut bench = TrainingBench::new(workload, minilm(), &engine)?;
            for _ in 0..3 {
                bench.step()?; // buffers grow
            }
            let start = cpu_seconds();
            let mut steps = (0..7)
                .map(|_| bench.step())
                .collect::<Result<Vec<_>, _>>()?;
            let cpu = (cpu_seconds() - start) / steps.len() as f64;
            steps.sort_by_key(|step| step.total());
            let step = &steps[steps.len() / 2];
            println!(
                "{name} {workload:?}, {} threads: {:.3} s/step, {:.0} tokens/s, {cpu:.3} CPU s; forward {:.3}, backward {:.3}, AdamW {:.3} s; \
                 loss {:.4}",
                config.threads,
                step.total().as_secs_f64(),
                bench.n_tokens() as f64 / step.total().as_secs_f64(),
                step.forward.as_secs_f64(),
                step.backward.as_secs_f64(),
                step.optimizer.as_secs_f64(),
                step.loss,
            );
        }
    }
    Ok(())
}

/// User and system time of this process so far; 0 where `/proc` does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind_name.split_ascii_whitespace().skip(11).take(2); // utime and stime, in hundredths
    ticks
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
