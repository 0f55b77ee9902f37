use compute::accelerator::AcceleratorError;
use compute::accelerator::cuda::{self, CudaInfo};
use encoder::{Role, TextSpec};
use serde_json::{Value, json};

use crate::model::{self, DEFAULT_MODEL};
use crate::output::{self, Output};

/// Arguments of `trawl doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl doctor
  trawl doctor --json")]
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
    let cuda = cuda::info();
    let (model, problem) = default_model(cache.contains(DEFAULT_MODEL));
    let shown = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu_features": features.to_string(),
        "threads": threads,
        "memory_bytes": memory,
        "model_folder": cache.root(),
        "default_model": model,
        "python_pip": pip,
        "cuda": cuda_json(&cuda),
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
            .chain(cuda_rows(&cuda))
            .map(|(name, value)| vec![name.to_owned(), value])
            .collect();
        output::table(&["what", "found"], &[], rows)
    })
}

type Cuda = Result<CudaInfo, AcceleratorError>;

fn cuda_json(cuda: &Cuda) -> Value {
    match cuda {
        Err(error) => json!({"problem": error.to_string()}),
        Ok(cuda) => json!({
            "driver": cuda.driver,
            "missing": cuda.missing,
            "devices": cuda.devices.iter().map(|device| json!({
                "name": device.info.name,
                "model": device.info.model,
                "compute_capability": device.compute_capability,
                "total_bytes": device.info.total_bytes,
                "free_bytes": device.free_bytes,
            })).collect::<Vec<_>>(),
        }),
    }
}

fn cuda_rows(cuda: &Cuda) -> Vec<(&'static str, String)> {
    let cuda = match cuda {
        Ok(cuda) => cuda,
        Err(error) => return vec![("GPU", error.to_string())],
    };
    let gib = |bytes: u64| bytes as f64 / (1_u64 << 30) as f64;
    let mut rows = vec![("CUDA of the driver", cuda.driver.clone())];
    rows.extend(cuda.devices.iter().map(|device| {
        let (free, total) = (gib(device.free_bytes), gib(device.info.total_bytes));
        let (name, model) = (&device.info.name, &device.info.model);
        let capability = &device.compute_capability;
        let text =
            format!("{name}: {model}, capability {capability}, {free:.1} of {total:.1} GiB free");
        ("GPU", text)
    }));
    let missing = cuda.missing.iter();
    rows.extend(missing.map(|library| ("missing for GPUs", (*library).to_owned())));
    rows
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
    let tried = model::find(DEFAULT_MODEL.as_ref()).and_then(|directory| {
        let encoder = model::load_encoder(&directory, &Default::default(), &Default::default())?;
        encoder.encode_texts(Role::Query, &["word".into()])?;
        Ok(encoder)
    });
    match tried {
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
