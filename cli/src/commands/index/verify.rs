use std::path::PathBuf;

use collection::Generation;
use indexer::{DEFAULT_SAMPLE, SampleReport, check_sample};
use serde_json::json;

use super::{chain, open};
use crate::failure::{Exit, Failure};
use crate::model::{ModelArgs, encoder_of};
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
    /// Encode so many passages of each generation again and compare the vectors with the stored ones; 0 for none.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SAMPLE)]
    sample: usize,
    /// Decides which passages are drawn.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: VerifyArgs, output: &Output) -> anyhow::Result<()> {
    let collection = open(&args.collection)?;
    let names = match &args.generation {
        Some(name) => vec![name.clone()],
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
            Err(error) if error.is_corrupt() => faults.push((Some(name.clone()), chain(&error))),
            Err(error) => return Err(error.into()),
        }
    }
    for generation in &generations {
        let report = collection.gate_report(&generation.id).map(|_| ());
        for checked in [report, collection.check_log(generation)] {
            match checked {
                Ok(()) => {}
                Err(error) if error.is_corrupt() => {
                    faults.push((Some(generation.id.to_string()), chain(&error)));
                }
                Err(error) => return Err(error.into()),
            }
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
                .map(|fault| (Some(generation.id.to_string()), chain(fault))),
        );
    }
    let mut n_rows = 0;
    // What is damaged is not compared.
    let compared = if args.sample > 0 && faults.is_empty() {
        generations.as_slice()
    } else {
        &[]
    };
    for generation in compared {
        if let Some(report) = sample(generation, &args, output)? {
            n_rows += report.n_rows;
            if report.n_differing > 0 {
                let first = report.first.unwrap_or_default();
                let text = format!(
                    "{} of {} sampled rows are not those of their passages, the first of `{first}`",
                    report.n_differing, report.n_rows
                );
                faults.push((Some(generation.id.to_string()), text));
            }
        }
    }
    progress.finish();
    // It belongs to the collection, whichever generation was named. Reading it compares all that it has with its checksums.
    let n_records = match collection.check_log_positions() {
        Ok(positions) => positions.end - positions.start,
        Err(error) if error.is_corrupt() => {
            faults.push((None, chain(&error)));
            0
        }
        Err(error) => return Err(error.into()),
    };
    let shown = json!({
        "generations": names.len(),
        "passages": n_passages,
        "documents": Some(n_documents).filter(|&n| n > 0),
        "bytes": n_bytes,
        "rows_compared": n_rows,
        "log_records": n_records,
        "faults": faults.iter().map(|(name, fault)| json!({ "generation": name, "fault": fault })).collect::<Vec<_>>(),
    });
    output.result(&shown, |_| match faults.as_slice() {
        [] => {
            let documents = match n_documents {
                0 => String::new(),
                n => format!(" of {n} documents"),
            };
            format!(
                "{} generations, {n_passages} passages{documents}, {n_bytes} bytes, {n_rows} rows against their texts: intact\n\
                 write log: {n_records} records: intact",
                names.len()
            )
        }
        faults => faults
            .iter()
            .map(|(name, fault)| match name {
                Some(name) => format!("{name}: {fault}\n"),
                None => format!("{fault}\n"),
            })
            .collect(),
    })?;
    if faults.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{} faults in `{}`",
        faults.len(),
        collection.root().display()
    );
    Err(Failure::new(Exit::Corrupt, text).into())
}

/// Compares rows with their texts. Without `--model`, a model that is gone or another by now is no fault of the generation.
fn sample(
    generation: &Generation,
    args: &VerifyArgs,
    output: &Output,
) -> anyhow::Result<Option<SampleReport>> {
    if generation.manifest.fingerprint["space"] == "external" {
        return Ok(None);
    }
    match encoder_of(&generation.manifest, &args.model) {
        Ok(encoder) => Ok(Some(check_sample(
            generation,
            &encoder,
            args.sample,
            args.seed,
        )?)),
        Err(error) if args.model.model.is_none() => {
            let id = &generation.id;
            output.remark(format!(
                "{id}: no rows were compared with their texts: {error:#}"
            ));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
