use encoder::TextSpec;
use serde_json::{Value, json};

use crate::model::{self, DEFAULT_MODEL};
use crate::output::{self, Output};

/// Arguments of `trawl doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {}

pub fn run(_: DoctorArgs, output: &Output) -> anyhow::Result<()> {
    let features = compute::CpuFeatures::detect();
    let threads = compute::thread_budget(None);
    let memory = compute::memory_limit_bytes();
    let cache = model::cache()?;
    let python = std::process::Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output();
    let pip = python.is_ok_and(|run| run.status.success());
    let (model, problem) = default_model(cache.contains(DEFAULT_MODEL));
    let shown = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu_features": features.to_string(),
        "threads": threads,
        "memory_bytes": memory,
        "model_folder": cache.root(),
        "default_model": model,
        "python_pip": pip,
        "default_model_problem": problem,
    });
    output.result(&shown, |_| {
        let memory = memory.map_or("no limit found".to_owned(), |bytes| {
            format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
        });
        let rows = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("CPU features", features.to_string()),
            ("threads", threads.to_string()),
            ("memory", memory),
            ("model folder", cache.root().display().to_string()),
            (
                "default model",
                problem.clone().unwrap_or_else(|| text_of(&model)),
            ),
            (
                "python3 -m pip",
                if pip {
                    "found"
                } else {
                    "not found (only needed to get the default model)"
                }
                .to_owned(),
            ),
        ];
        let rows = rows
            .into_iter()
            .map(|(name, value)| vec![name.to_owned(), value])
            .collect();
        output::table(&["what", "found"], &[], rows)
    })
}

/// Loads the default model and encodes a word: the shortest proof that it works.
fn default_model(present: bool) -> (Value, Option<String>) {
    if !present {
        return (
            Value::Null,
            Some(format!(
                "missing: `trawl model pull {DEFAULT_MODEL}` gets it"
            )),
        );
    }
    let loaded = model::find(DEFAULT_MODEL.as_ref()).and_then(|directory| {
        model::load_encoder(&directory, &Default::default(), &Default::default())
    });
    match loaded {
        Ok(encoder) => (
            json!(encoder.fingerprint(&TextSpec::default()).digest()),
            None,
        ),
        Err(error) => (Value::Null, Some(format!("damaged: {error:#}"))),
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().map(str::to_owned).unwrap_or_default()
}
