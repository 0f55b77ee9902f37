use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use collection::{GenerationId, Retention};
use objects::Location;
use serde_json::json;

use super::open;
use crate::failure::Failure;
use crate::output::Output;
use crate::storage;

/// A push of one large file may take hours.
const GRACE_HOURS: u32 = 24;

/// Arguments of `trawl index gc`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index gc data/docs --dry-run
  trawl index gc data/docs --keep 7
  trawl index gc s3://bucket/docs --grace 48

Kept are, whatever their number: every generation that an alias names, and the one it named before; in object storage also what
somebody wrote to within the grace period: a push or a build that goes on. Every push and part has to write an object that often.")]
pub struct GcArgs {
    /// Folder of the collection, or where it is kept in object storage.
    #[arg(value_name = "COLLECTION|URL")]
    collection: PathBuf,
    /// Keep so many of the newest generations.
    #[arg(long, value_name = "N", default_value_t = Retention::default().keep)]
    keep: usize,
    /// Keep what unfinished builds have made, so that they can be resumed.
    #[arg(long)]
    keep_unfinished: bool,
    /// In object storage: hours without a new object after which what is not complete is taken for abandoned (default: 24).
    #[arg(long, value_name = "HOURS")]
    grace: Option<u32>,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What is removed, by name.
struct Shown {
    generations: Vec<GenerationId>,
    unfinished: Vec<String>,
    leftovers: Vec<String>,
    bytes: u64,
}

pub fn run(args: &GcArgs, output: &Output) -> anyhow::Result<()> {
    let retention = Retention {
        keep: args.keep,
        keep_unfinished: args.keep_unfinished,
    };
    let garbage = match (storage::location(&args.collection)?, args.grace) {
        (Some(location), grace) => in_objects(&location, args.dry_run, &retention, grace)?,
        (None, None) => in_folder(&args.collection, args.dry_run, &retention)?,
        (None, Some(_)) => {
            let text =
                "--grace is for object storage: the lock of a folder says who is at work on it";
            return Err(Failure::usage(text).into());
        }
    };
    let shown = json!({
        "dry_run": args.dry_run,
        "generations": garbage.generations,
        "unfinished": garbage.unfinished,
        "leftovers": garbage.leftovers,
        "bytes": garbage.bytes,
    });
    output.result(&shown, |_| {
        let verb = match args.dry_run {
            true => "would remove",
            false => "removed",
        };
        let generations = garbage.generations.iter();
        let generations = generations.map(|id| format!("generation {id}"));
        let unfinished = garbage.unfinished.iter();
        let unfinished = unfinished.map(|place| format!("unfinished build {place}"));
        let leftovers = garbage.leftovers.iter().cloned();
        let mut text: String = generations
            .chain(unfinished)
            .chain(leftovers)
            .map(|what| format!("{verb} {what}\n"))
            .collect();
        text += &format!("{verb} {} bytes\n", garbage.bytes);
        text
    })
}

fn in_folder(path: &Path, dry_run: bool, retention: &Retention) -> anyhow::Result<Shown> {
    let collection = open(path)?;
    let garbage = match dry_run {
        true => collection.garbage(retention)?,
        false => collection.writer("trawl index gc")?.gc(retention)?,
    };
    let names = |paths: Vec<PathBuf>| -> Vec<String> {
        let names = paths.iter().map(|path| path.display().to_string());
        names.collect()
    };
    Ok(Shown {
        generations: garbage.generations,
        unfinished: names(garbage.unfinished),
        leftovers: names(garbage.leftovers),
        bytes: garbage.bytes,
    })
}

fn in_objects(
    location: &Location,
    dry_run: bool,
    retention: &Retention,
    grace: Option<u32>,
) -> anyhow::Result<Shown> {
    let objects = storage::open(location)?;
    let grace = Duration::from_secs(3600 * u64::from(grace.unwrap_or(GRACE_HOURS)));
    let since = SystemTime::now()
        .checked_sub(grace)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let garbage = match dry_run {
        true => objects.garbage(retention, since),
        false => objects.gc(retention, since),
    };
    let garbage =
        garbage.with_context(|| format!("cannot remove what `{location}` does not need"))?;
    let urls = |places: Vec<String>| -> Vec<String> {
        let urls = places.iter().map(|place| objects.url(place));
        urls.collect()
    };
    Ok(Shown {
        generations: garbage.generations,
        unfinished: urls(garbage.unfinished),
        leftovers: urls(garbage.leftovers),
        bytes: garbage.bytes,
    })
}
