//! The gate before a generation is published, and what it prints.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use collection::{Collection, Generation};
use encoder::BiEncoder;
use indexer::{Entry, FingerprintRule, GateConfig, GateReport, WorstQuestion, gate};
use server::nearest;

use crate::failure::{Exit, Failure};
use crate::model::{ModelArgs, encoder_of};
use crate::output::{self, Output};
use crate::progress::Progress;

/// What a generation has to pass before it is published.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Gate")]
pub struct GateArgs {
    /// What the generation has to reach beside the one it replaces, as TOML (docs/rebuilding.md; default: a gate that
    /// needs no judged queries).
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    /// Publish without comparing anything.
    #[arg(long, conflicts_with_all = ["gate", "new_model"])]
    no_gate: bool,
    /// Let the generation have another fingerprint than the one it replaces: the model is meant to change.
    #[arg(long)]
    new_model: bool,
}

impl GateArgs {
    /// Whether nothing is to be compared.
    pub fn no_gate(&self) -> bool {
        self.no_gate
    }

    fn config(&self) -> anyhow::Result<GateConfig> {
        let mut config = match &self.gate {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read `{}`", path.display()))?;
                let mut config: GateConfig = toml::from_str(&text).map_err(|error| {
                    let failure = Failure::usage(format!("`{}`: {error}", path.display()));
                    match nearest(error.message()) {
                        Some(known) => failure.hint(format!("did you mean `{known}`?")),
                        None => failure,
                    }
                })?;
                for (name, given) in [("n_queries", config.n_queries), ("k", config.k)] {
                    if given == 0 {
                        let path = path.display();
                        let fault = format!("`{path}`: `{name}` is 0, expected 1 or more");
                        return Err(Failure::usage(fault).into());
                    }
                }
                // Files are named as seen from the gate's own folder.
                let folder = path.parent().unwrap_or(std::path::Path::new(""));
                for file in [&mut config.queries, &mut config.qrels]
                    .into_iter()
                    .flatten()
                {
                    *file = folder.join(&*file);
                }
                config
            }
            None => GateConfig::default(),
        };
        if self.new_model {
            config.fingerprint = FingerprintRule::Any;
        }
        Ok(config)
    }
}

/// Compares a generation with the one it is to replace. None when nothing was asked.
///
/// Every file of the candidate is read first: what is damaged is not compared.
pub fn pass(
    collection: &Collection,
    candidate: &Generation,
    replaced: Option<Generation>,
    args: &GateArgs,
    model: &ModelArgs,
    output: &Output,
) -> anyhow::Result<Option<GateReport>> {
    if args.no_gate {
        return Ok(None);
    }
    let config = args.config()?;
    verify_files(collection, candidate, output)?;
    let of_candidate = encoder(candidate, model)?;
    let of_replaced = match &replaced {
        Some(replaced) => match replaced.manifest.fingerprint == candidate.manifest.fingerprint {
            true => of_candidate.clone(),
            false if config.fingerprint == FingerprintRule::Same => None, // The gate will say so.
            false => encoder(replaced, &ModelArgs::default())?,
        },
        None => None,
    };
    let entry = |generation, encoder| Entry {
        generation,
        encoder,
    };
    let live = replaced
        .as_ref()
        .map(|replaced| entry(replaced, of_replaced.as_deref()));
    let report = gate(&config, entry(candidate, of_candidate.as_deref()), live)
        .with_context(|| format!("generation `{}` is not published", candidate.id))?;
    Ok(Some(report))
}

fn encoder(generation: &Generation, args: &ModelArgs) -> anyhow::Result<Option<Arc<BiEncoder>>> {
    match generation.manifest.fingerprint["space"] == "external" {
        true => Ok(None),
        false => encoder_of(&generation.manifest, args).map(Some),
    }
}

fn verify_files(
    collection: &Collection,
    candidate: &Generation,
    output: &Output,
) -> anyhow::Result<()> {
    let progress = Progress::new(output);
    let n_total = candidate.manifest.files.iter().map(|file| file.bytes).sum();
    let mut n_bytes = 0;
    let faults = candidate.verify(|bytes| {
        n_bytes += bytes;
        progress.update("verify", "bytes", n_bytes, n_total);
    });
    progress.finish();
    let Some(fault) = faults.first() else {
        return Ok(());
    };
    let text = format!(
        "generation `{}` of `{}` is damaged: {}",
        candidate.id,
        collection.root().display(),
        super::chain(fault)
    );
    Err(Failure::new(Exit::Corrupt, text).into())
}

/// What the gate found, for a reader.
pub fn show(report: &GateReport) -> String {
    let header = ["measure", "candidate", "live", ""];
    let number = |value: f64| match value.fract() == 0.0 && value.abs() >= 2.0 {
        true => format!("{value}"),
        false => format!("{value:.4}"),
    };
    let rows = report.measures.iter().map(|measured| {
        vec![
            measured.name.to_owned(),
            number(measured.candidate),
            measured.live.map(number).unwrap_or_default(),
            measured.violation.clone().unwrap_or_default(),
        ]
    });
    let mut text = format!(
        "{} questions ({}), {} hits each",
        report.n_queries, report.questions, report.k
    );
    if let Some(rows) = &report.rows {
        text += &format!("; {} rows are those of their passages", rows.n_rows);
    }
    text += "\n";
    text += &output::table(&header, &["candidate", "live"], rows.collect());
    for worst in report.worst.iter().filter(|worst| has_lost(worst)) {
        text += &side_by_side(worst);
    }
    text
}

/// Of a candidate that is refused for its size, say, no question need have lost anything.
fn has_lost(question: &WorstQuestion) -> bool {
    question.overlap < 1.0
        || question
            .ndcg
            .is_some_and(|(candidate, live)| candidate < live)
}

fn side_by_side(worst: &WorstQuestion) -> String {
    let mut text = format!("\n{}\n  overlap {:.2}", worst.query, worst.overlap);
    if let Some((candidate, live)) = worst.ndcg {
        text += &format!(", nDCG {candidate:.4} (live {live:.4})");
    }
    text += "\n";
    let n_rows = worst.candidate.len().max(worst.live.len());
    let cell = |hits: &[indexer::ShownHit], i: usize| match hits.get(i) {
        Some(hit) => format!("{} {:.4} {}", hit.id, hit.score, hit.text),
        None => String::new(),
    };
    let rows = (0..n_rows).map(|i| vec![cell(&worst.candidate, i), cell(&worst.live, i)]);
    text += &output::table(&["candidate", "live"], &[], rows.collect());
    text
}

/// The failure of a candidate that does not pass.
pub fn refusal(report: &GateReport) -> anyhow::Error {
    let wrong = report.measures.iter().filter_map(|measured| {
        let violation = measured.violation.as_ref()?;
        Some(format!(
            "{} is {:.4}, {violation}",
            measured.name, measured.candidate
        ))
    });
    let text = format!(
        "generation `{}` is not published: {}",
        report.candidate,
        wrong.collect::<Vec<_>>().join("; ")
    );
    Failure::new(Exit::Gate, text)
        .hint("`--gate FILE` sets other limits, `--no-gate` none; what was live still is")
        .into()
}
