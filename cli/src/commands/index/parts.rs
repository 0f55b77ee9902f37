//! A build in parts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use encoder::Arithmetic;
use indexer::{
    BuildConfig, BuildStatus, CommitConfig, PartNumber, Remote, build_status, build_status_here,
    commit_remotely, encode_part_remotely,
};
use indicatif::HumanDuration;
use objects::Location;
use serde_json::json;
use tempfile::TempDir;

use super::build;
use super::content::{ContentArgs, RoomArgs};
use crate::failure::Failure;
use crate::interrupt;
use crate::output::{self, Output, counted};
use crate::progress::Progress;
use crate::storage;

/// Arguments of `trawl index encode`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index encode --part 3/8 --corpus corpus.jsonl --collection data/docs
  seq 0 7 | xargs -P 4 -I{} trawl index encode --part {}/8 --corpus corpus.jsonl --collection data/docs --threads 1
  trawl index commit data/docs
  trawl index encode --part 3/8 --corpus corpus.jsonl --to s3://bucket/docs

Any scheduler may start the parts, again and twice: what is done is found, and nothing is written over. Exit codes: 0 done,
2 wrong arguments and 65 bad input (do not try again), anything else: try again. docs/parts.md names scripts for Ray, Slurm and
Kubernetes; docs/object-storage.md says how object storage is reached.")]
pub struct EncodeArgs {
    /// Which part, counted from 0, of how many.
    #[arg(long, value_name = "i/N")]
    part: PartNumber,
    #[command(flatten)]
    content: ContentArgs,
    /// Folder of the collection, shared by all that encode parts; made when it is not there.
    #[arg(
        long,
        value_name = "PATH",
        required_unless_present = "to",
        conflicts_with = "work"
    )]
    collection: Option<PathBuf>,
    /// Where the collection is kept in object storage, in place of a folder that all share.
    #[arg(long, value_name = "URL", conflicts_with = "collection")]
    to: Option<Location>,
    #[command(flatten)]
    work: WorkArgs,
}

/// Where a build in object storage keeps what is not sent yet.
#[derive(Debug, clap::Args)]
pub struct WorkArgs {
    /// Folder on this machine for what is not sent to object storage yet; the next attempt goes on with what is in it (default: a
    /// temporary one).
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

/// A folder that is removed in the end if it is a temporary one.
pub enum Work {
    Given(PathBuf),
    Temporary(TempDir),
}

impl WorkArgs {
    fn make(&self) -> anyhow::Result<Work> {
        Work::make(self.work.as_deref())
    }
}

impl Work {
    pub fn make(given: Option<&Path>) -> anyhow::Result<Self> {
        match given {
            Some(path) => Ok(Self::Given(path.to_owned())),
            None => Ok(Self::Temporary(
                tempfile::tempdir().context("cannot make a temporary folder")?,
            )),
        }
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// Arguments of `trawl index commit`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index commit data/docs
  trawl index commit data/docs --build 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  trawl index commit s3://bucket/docs

Needs neither corpus nor model. The first generation of a collection is searched at once, later ones when they are published.")]
pub struct CommitArgs {
    /// Folder of the collection, or where it is kept in object storage.
    #[arg(value_name = "COLLECTION|URL")]
    collection: PathBuf,
    /// The build, as `index encode` names it (default: the only one that has parts).
    #[arg(long, value_name = "DIGEST")]
    build: Option<String>,
    /// Threads (default: all that this process may use).
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    room: RoomArgs,
    #[command(flatten)]
    work: WorkArgs,
}

/// Arguments of `trawl index status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index status data/docs
  trawl index status s3://bucket/docs")]
pub struct StatusArgs {
    /// Folder of the collection, or where it is kept in object storage.
    #[arg(value_name = "COLLECTION|URL")]
    collection: PathBuf,
}

pub fn encode(args: EncodeArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    if let Some(folder) = &args.collection {
        storage::check_folder(folder, "`--to` takes the URL of object storage")?;
    }
    if args.content.brought()?.is_some() {
        let text = "vectors that exist are not encoded: `index build --vectors` takes them";
        return Err(Failure::usage(text).into());
    }
    args.content.room.make(args.content.model.threads)?;
    let directory = args.content.model.directory()?.canonicalize()?;
    let encoder = args.content.model.load(&directory, Arithmetic::Auto)?;
    let there = args.to.as_ref().map(storage::open).transpose()?;
    let place = args.to.map(|url| PathBuf::from(url.to_string()));
    let place = args.collection.or(place).unwrap_or_default(); // One of them is given.
    let config: BuildConfig = args.content.resolve(place, Some(directory))?;
    let (progress, cancelled) = (Progress::new(output), interrupt::flag()?);
    let encoded = match &there {
        None => indexer::encode_part(&config, &encoder, args.part, &progress, &cancelled),
        Some(objects) => {
            let work = args.work.make()?;
            let remote = Remote {
                objects,
                work: work.path(),
            };
            encode_part_remotely(remote, &config, &encoder, args.part, &progress, &cancelled)
        }
    };
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
            "part {}: {} in {}, {} encoded now, {seconds:.1} s\nbuild {}",
            args.part,
            counted(report.passages, "passage"),
            counted(report.chunks as u64, "chunk"),
            report.encoded_chunks,
            report.build
        ),
    })
}

pub fn commit(args: CommitArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    args.room.make(args.threads)?;
    let (progress, cancelled) = (Progress::new(output), interrupt::flag()?);
    let collection = args.collection;
    let committed = match storage::location(&collection)? {
        None if args.work.work.is_some() => {
            let text = "--work is for object storage: a folder is worked in itself";
            return Err(Failure::usage(text).into());
        }
        None => {
            let config = CommitConfig {
                collection: collection.clone(),
                build: args.build,
                publish: false,
            };
            indexer::commit(&config, &progress, &cancelled)
        }
        Some(location) => {
            let (objects, work) = (&storage::open(&location)?, args.work.make()?);
            let remote = Remote {
                objects,
                work: work.path(),
            };
            commit_remotely(remote, args.build.as_deref(), &progress, &cancelled)
        }
    };
    progress.finish();
    let report = committed.with_context(|| {
        let collection = collection.display();
        format!("cannot complete the build in `{collection}`")
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let shown = build::shown(&report, seconds);
    output.result(&shown, |_| build::summary(&report, None, seconds))
}

pub fn status(args: &StatusArgs, output: &Output) -> anyhow::Result<()> {
    let builds = match storage::location(&args.collection)? {
        Some(location) => build_status(&storage::open(&location)?),
        None => build_status_here(&super::open(&args.collection)?),
    };
    let builds = builds.with_context(|| {
        let collection = args.collection.display();
        format!("cannot tell how far the builds in `{collection}` are")
    })?;
    let shown = |build: &BuildStatus| {
        json!({
            "build": build.build,
            "generation": build.generation,
            "parts": build.parts,
            "missing": build.missing,
            "passages": build.passages,
            "total_passages": build.total_passages,
            "elapsed_seconds": build.elapsed.as_secs_f64(),
            "passages_per_second": build.rate(),
            "seconds_left": seconds_left(build),
        })
    };
    let shown: Vec<_> = builds.iter().map(shown).collect();
    output.result(&shown, |_| {
        if builds.is_empty() {
            return "no build was begun".to_owned();
        }
        let header = ["build", "parts", "passages", "of", "per second", "left"];
        let row = |build: &BuildStatus| {
            let parts = match (&build.generation, build.parts) {
                (Some(generation), _) => format!("complete: {generation}"),
                (None, Some(of)) => format!("{} of {of}", of - build.missing.len()),
                (None, None) => "none yet".to_owned(),
            };
            let left = seconds_left(build).map(Duration::from_secs_f64);
            let running = build.rate().filter(|_| build.generation.is_none());
            vec![
                build.build.clone(),
                parts,
                build.passages.to_string(),
                build.total_passages.to_string(),
                running.map_or_else(String::new, |rate| format!("{rate:.0}")),
                left.map_or_else(String::new, |left| HumanDuration(left).to_string()),
            ]
        };
        let rows = builds.iter().map(row).collect();
        output::table(&header, &["passages", "of", "per second"], rows)
    })
}

/// How long the rest takes at the rate so far.
fn seconds_left(build: &BuildStatus) -> Option<f64> {
    let left = build.total_passages - build.passages;
    let rate = build.rate().filter(|_| build.generation.is_none())?;
    Some(left as f64 / rate)
}
