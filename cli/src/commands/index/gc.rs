use std::path::PathBuf;

use collection::Retention;
use serde_json::json;

use super::open;
use crate::output::Output;

/// Arguments of `trawl index gc`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index gc data/docs --dry-run
  trawl index gc data/docs --keep 7

Kept are, whatever their number: every generation that an alias names, and the one it named before.")]
pub struct GcArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// Keep so many of the newest generations.
    #[arg(long, value_name = "N", default_value_t = Retention::default().keep)]
    keep: usize,
    /// Keep what unfinished builds have made, so that they can be resumed.
    #[arg(long)]
    keep_unfinished: bool,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &GcArgs, output: &Output) -> anyhow::Result<()> {
    let collection = open(&args.collection)?;
    let retention = Retention {
        keep: args.keep,
        keep_unfinished: args.keep_unfinished,
    };
    let garbage = match args.dry_run {
        true => collection.garbage(&retention)?,
        false => collection.writer("trawl index gc")?.gc(&retention)?,
    };
    let shown = json!({
        "dry_run": args.dry_run,
        "generations": garbage.generations,
        "unfinished": garbage.unfinished,
        "leftovers": garbage.leftovers,
        "bytes": garbage.bytes,
    });
    output.result(&shown, |_| {
        let verb = if args.dry_run {
            "would remove"
        } else {
            "removed"
        };
        let generations = garbage
            .generations
            .iter()
            .map(|id| format!("generation {id}"));
        let unfinished = garbage.unfinished.iter();
        let unfinished = unfinished.map(|path| format!("unfinished build {}", path.display()));
        let leftovers = garbage
            .leftovers
            .iter()
            .map(|path| path.display().to_string());
        let mut text: String = generations
            .chain(unfinished)
            .chain(leftovers)
            .map(|what| format!("{verb} {what}\n"))
            .collect();
        text += &format!("{verb} {} bytes\n", garbage.bytes);
        text
    })
}
