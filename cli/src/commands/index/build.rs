use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use collection::{AliasName, BuildMode, LIVE};
use encoder::{Arithmetic, Role};
use indexer::{BuildConfig, BuildReport, LogPosition, NotReused, Phase, Reuse, build_from_vectors};
use serde_json::json;

use super::content::ContentArgs;
use super::gate::GateArgs;
use super::{open, publish};
use crate::interrupt;
use crate::output::{Output, counted};
use crate::progress::Progress;
use crate::storage;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index build --corpus corpus.jsonl --collection data/docs
  trawl index build --corpus part-*.jsonl.zst --model models/mine --collection data/docs --shards 4 --publish
  trawl index build --corpus docs.tsv --columns id,text,title --collection data/docs --resume
  trawl index build --corpus books.jsonl --collection data/books --passage-tokens 256 --stride 192

Vectors of passages whose text has not changed are taken over from the generation that is searched, if model, templates,
arithmetic and --rows are the same; docs/rebuilding.md says more. `--full` encodes everything.

The first generation of a collection is searched at once, later ones when they are published.")]
#[command(group = clap::ArgGroup::new("asked").args(["gate", "no_gate", "new_model"]).multiple(true).requires("publish"))]
pub struct BuildArgs {
    #[command(flatten)]
    content: ContentArgs,
    /// Folder of the collection; made when it is not there.
    #[arg(long, value_name = "PATH")]
    collection: PathBuf,
    /// Continue an interrupted build of the same content; a finished one is taken as it is.
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Drop an interrupted build of the same content.
    #[arg(long)]
    restart: bool,
    /// Encode every passage, also those whose vectors the generation before has.
    #[arg(long, conflicts_with = "base")]
    full: bool,
    /// Alias or generation whose vectors are taken over where a passage's text has not changed.
    #[arg(long, value_name = "NAME", default_value = LIVE, conflicts_with = "vectors")]
    base: String,
    /// How much of the write log the corpus holds already: a position, or `end` for all of it. Without, everything that is in the
    /// log is applied to the new generation, too, so that no document written since is lost.
    #[arg(long, value_name = "N|end", value_parser = log_position)]
    log_position: Option<LogPosition>,
    /// Search the new generation as soon as it is complete and has passed the gate.
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    gate: GateArgs,
}

impl BuildArgs {
    fn resolve(self, model: Option<PathBuf>) -> anyhow::Result<BuildConfig> {
        Ok(BuildConfig {
            base: (!self.full).then_some(self.base),
            mode: match (self.resume, self.restart) {
                (true, _) => BuildMode::Resume,
                (_, true) => BuildMode::Restart,
                _ => BuildMode::New,
            },
            log_position: self.log_position,
            ..self.content.resolve(self.collection, model)?
        })
    }
}

fn log_position(text: &str) -> Result<LogPosition, String> {
    match text {
        "end" => Ok(LogPosition::End),
        number => number
            .parse()
            .map(LogPosition::At)
            .map_err(|_| "expected a position of the write log, or `end`".to_owned()),
    }
}

impl indexer::Progress for Progress {
    fn update(&self, phase: Phase, done: u64, total: u64) {
        self.update(phase.as_str(), phase.unit(), done, total);
    }
}

pub fn run(args: BuildArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    let hint = "`trawl index push` sends what was built to object storage, `trawl index encode --to` builds there";
    storage::check_folder(&args.collection, hint)?;
    args.content.room.make(args.content.model.threads)?;
    let vectors = args.content.brought()?;
    let progress = Progress::new(output);
    let cancelled = interrupt::flag()?;
    let mut max_tokens = None;
    let (wanted, gate, model) = (args.publish, args.gate.clone(), args.content.model.clone());
    let (collection, built) = if let Some(vectors) = vectors {
        let config = args.resolve(None)?;
        let built = build_from_vectors(&config, &vectors, &progress, &cancelled);
        (config.collection, built)
    } else {
        let directory = args.content.model.directory()?.canonicalize()?;
        let encoder = args.content.model.load(&directory, Arithmetic::Auto)?;
        max_tokens = Some(encoder.max_tokens(Role::Passage));
        let config = args.resolve(Some(directory))?;
        let built = indexer::build(&config, &encoder, &progress, &cancelled);
        (config.collection, built)
    };
    progress.finish();
    let mut report =
        built.with_context(|| format!("cannot index into `{}`", collection.display()))?;
    for bad_line in &report.bad_examples {
        output.remark(format!("skipped {bad_line}"));
    }
    let mut gate_report = None;
    if wanted && !report.live {
        let writer = open(&collection)?.writer("trawl index build --publish")?;
        let live = AliasName::parse(LIVE)?;
        gate_report = publish::publish(
            &writer,
            &report.generation,
            &live,
            false,
            &gate,
            &model,
            output,
        )?;
        report.live = true;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut shown = shown(&report, seconds);
    shown["gate"] = json!(gate_report);
    output.result(&shown, |_| summary(&report, max_tokens, seconds))
}

/// A report as JSON.
pub fn shown(report: &BuildReport, seconds: f64) -> serde_json::Value {
    json!({
        "generation": report.generation,
        "path": report.path,
        "live": report.live,
        "content_digest": report.content_digest,
        "counts": report.counts,
        "resumed_passages": report.n_resumed,
        "reused": reused(&report.reuse),
        "encode_seconds": report.encode_time.as_secs_f64(),
        "schema": report.schema,
        "seconds": seconds,
    })
}

/// What was taken over, or why nothing was.
fn reused(reuse: &Reuse) -> serde_json::Value {
    match reuse {
        Reuse::From {
            generation,
            n_passages,
        } => json!({ "generation": generation, "passages": n_passages }),
        Reuse::Nothing(reason) => json!({ "passages": 0, "reason": reason.to_string() }),
        _ => serde_json::Value::Null,
    }
}

/// A report for people.
pub fn summary(report: &BuildReport, max_tokens: Option<usize>, seconds: f64) -> String {
    let BuildReport {
        generation, counts, ..
    } = report;
    let state = if report.live {
        "live"
    } else {
        "not live yet: `trawl index publish` makes it so"
    };
    let mut text = format!("generation {generation} ({state})\n");
    let documents = match counts.documents {
        0 => String::new(),
        n => format!(" of {}", counted(n, "document")),
    };
    text += &format!(
        "{}{documents}, {}, {seconds:.1} s\n",
        counted(counts.passages, "passage"),
        counted(counts.tokens, "token")
    );
    match &report.reuse {
        Reuse::From {
            generation,
            n_passages,
        } => {
            let n_new = counts.passages - n_passages;
            text += &format!(
                "{} taken over from {generation}, {} encoded\n",
                counted(*n_passages, "vector"),
                counted(n_new, "passage")
            );
        }
        Reuse::Nothing(
            NotReused::First | NotReused::Full | NotReused::Brought | NotReused::Finished,
        ) => {}
        Reuse::Nothing(reason) => text += &format!("all passages encoded: {reason}\n"),
        _ => {}
    }
    let remarks = [
        (
            report.n_resumed,
            "passages taken from an earlier run".to_owned(),
        ),
        (
            counts.truncated,
            match max_tokens {
                Some(max_tokens) => format!("passages cut at {max_tokens} tokens"),
                None => "passages cut".to_owned(),
            },
        ),
        (counts.missing_fields, "template fields missing".to_owned()),
        (counts.bad_lines, "bad lines skipped".to_owned()),
    ];
    for (n, what) in remarks.iter().filter(|(n, _)| *n > 0) {
        text += &format!("{n} {what}\n");
    }
    for (name, field) in &report.schema.fields {
        let kind = serde_json::to_value(field.kind).unwrap_or_default();
        let filterable = if field.filterable { ", filterable" } else { "" };
        text += &format!(
            "field {name}: {}{filterable}\n",
            kind.as_str().unwrap_or_default()
        );
    }
    text
}
