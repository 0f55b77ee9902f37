//! A build in parts.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use encoder::Arithmetic;
use indexer::{BuildConfig, CommitConfig, PartNumber};
use serde_json::json;

use super::build;
use super::content::{ContentArgs, RoomArgs};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::Output;
use crate::progress::Progress;

/// Arguments of `trawl index encode`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index encode --part 3/8 --corpus corpus.jsonl --collection data/docs
  seq 0 7 | xargs -P 4 -I{} trawl index encode --part {}/8 --corpus corpus.jsonl --collection data/docs --threads 1
  trawl index commit data/docs

Any scheduler may start the parts, again and twice: what is done is found, and nothing is written over. Exit codes: 0 done,
65 bad input (do not try again), anything else: try again. docs/parts.md has scripts for Slurm and Kubernetes.")]
pub struct EncodeArgs {
    /// Which part, counted from 0, of how many.
    #[arg(long, value_name = "i/N")]
    part: PartNumber,
    #[command(flatten)]
    content: ContentArgs,
    /// Folder of the collection, shared by all that encode parts; made when it is not there.
    #[arg(long, value_name = "PATH")]
    collection: PathBuf,
}

/// Arguments of `trawl index commit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index commit data/docs
  trawl index commit data/docs --build 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

Needs neither corpus nor model. The first generation of a collection is searched at once, later ones when they are published.")]
pub struct CommitArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// The build, as `index encode` names it (default: the only one that has parts).
    #[arg(long, value_name = "DIGEST")]
    build: Option<String>,
    /// Threads (default: all that this process may use).
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    room: RoomArgs,
}

pub fn encode(args: EncodeArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    if args.content.brought()?.is_some() {
        let text = "vectors that exist are not encoded: `index build --vectors` takes them";
        return Err(Failure::usage(text).into());
    }
    args.content.room.make(args.content.model.threads)?;
    let directory = args.content.model.directory()?.canonicalize()?;
    let encoder = args.content.model.load(&directory, Arithmetic::Auto)?;
    let config: BuildConfig = args.content.resolve(args.collection, Some(directory))?;
    let (progress, cancelled) = (Progress::new(output), interrupt::flag()?);
    let encoded = indexer::encode_part(&config, &encoder, args.part, &progress, &cancelled);
    progress.finish();
    let report = encoded.with_context(|| {
        let collection = config.collection.display();
        format!("cannot encode part {} of `{collection}`", args.part)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let shown = json!({ "part": args.part.to_string(), "report": report, "seconds": seconds });
    output.result(&shown, |_| match &report.generation {
        Some(generation) => format!("the build is complete: generation {generation}"),
        None => format!(
            "part {}: {} passages in {} chunks, {} of them encoded now, {seconds:.1} s\nbuild {}",
            args.part, report.passages, report.chunks, report.encoded_chunks, report.build
        ),
    })
}

pub fn commit(args: CommitArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    args.room.make(args.threads)?;
    let config = CommitConfig {
        collection: args.collection,
        build: args.build,
        publish: false,
    };
    let (progress, cancelled) = (Progress::new(output), interrupt::flag()?);
    let committed = indexer::commit(&config, &progress, &cancelled);
    progress.finish();
    let report = committed.with_context(|| {
        let collection = config.collection.display();
        format!("cannot complete the build in `{collection}`")
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let shown = build::shown(&report, seconds);
    output.result(&shown, |_| build::summary(&report, None, seconds))
}
