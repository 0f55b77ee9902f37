use std::path::PathBuf;

use serde_json::json;

use super::{chain, open};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::progress::Progress;

/// Arguments of `trawl index verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index verify data/docs
  trawl index verify data/docs --generation live")]
pub struct VerifyArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// Alias or generation to verify (default: all).
    #[arg(long, value_name = "NAME")]
    generation: Option<String>,
}

pub fn run(args: VerifyArgs, output: &Output) -> anyhow::Result<()> {
    let collection = open(&args.collection)?;
    let names = match args.generation {
        Some(name) => vec![name],
        None => collection
            .generations()?
            .into_iter()
            .map(String::from)
            .collect(),
    };
    let (mut generations, mut faults) = (Vec::new(), Vec::new());
    for name in &names {
        match collection.resolve(name) {
            Ok(generation) => generations.push(generation),
            Err(error) if error.is_corrupt() => faults.push((name.clone(), chain(&error))),
            Err(error) => return Err(error.into()),
        }
    }
    let progress = Progress::new(output);
    let counts = generations
        .iter()
        .map(|generation| generation.manifest.counts);
    let n_passages: u64 = counts.clone().map(|counts| counts.passages).sum();
    let n_documents: u64 = counts.map(|counts| counts.documents).sum();
    let files = generations
        .iter()
        .flat_map(|generation| &generation.manifest.files);
    let n_total = files.map(|file| file.bytes).sum();
    let mut n_bytes = 0;
    for generation in &generations {
        let found = generation.verify(|bytes| {
            n_bytes += bytes;
            progress.update("verify", "bytes", n_bytes, n_total);
        });
        faults.extend(
            found
                .iter()
                .map(|fault| (generation.id.to_string(), chain(fault))),
        );
    }
    progress.finish();
    let shown = json!({
        "generations": names.len(),
        "passages": n_passages,
        "documents": Some(n_documents).filter(|&n| n > 0),
        "bytes": n_bytes,
        "faults": faults.iter().map(|(name, fault)| json!({ "generation": name, "fault": fault })).collect::<Vec<_>>(),
    });
    output.result(&shown, |_| match faults.as_slice() {
        [] => {
            let documents = match n_documents {
                0 => String::new(),
                n => format!(" of {n} documents"),
            };
            format!(
                "{} generations, {n_passages} passages{documents}, {n_bytes} bytes: intact",
                names.len()
            )
        }
        faults => faults
            .iter()
            .map(|(name, fault)| format!("{name}: {fault}\n"))
            .collect(),
    })?;
    if faults.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} damaged files in `{}`",
        faults.len(),
        collection.root().display()
    );
    Err(Failure::new(Exit::Corrupt, text).into())
}
