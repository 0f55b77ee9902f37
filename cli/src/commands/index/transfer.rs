//! Generations on their way to object storage and from there.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use collection::{AliasName, Collection, LIVE};
use objects::{Location, ObjectsError, Watch};
use serde_json::json;

use super::open;
use crate::interrupt;
use crate::output::Output;
use crate::progress::Progress;
use crate::storage::{self, ENVIRONMENT};

/// Arguments of `trawl index push`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:
  trawl index push data/docs s3://bucket/docs
  trawl index push data/docs s3://bucket/docs --generation 20261120T195500Z-3f9a1c --publish

The gate is asked before, by `trawl index publish data/docs`. Interrupted, the same command goes on.
{ENVIRONMENT}"))]
pub struct PushArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// Where it is kept in object storage.
    #[arg(value_name = "URL")]
    to: Location,
    /// Alias or generation to send.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    generation: String,
    /// Make the alias there name it; the first generation is named without.
    #[arg(long)]
    publish: bool,
    /// The alias there.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    alias: String,
}

/// Arguments of `trawl index pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Examples:
  trawl index pull s3://bucket/docs data/docs
  trawl index pull s3://bucket/docs data/docs --generation 20261120T195500Z-3f9a1c

Every file is compared with its checksum before the generation is there. The first one of a collection is searched
at once, later ones when they are published. Interrupted, the same command goes on.
{ENVIRONMENT}"))]
pub struct PullArgs {
    /// Where the collection is kept in object storage.
    #[arg(value_name = "URL")]
    from: Location,
    /// Folder of the collection; made when it is not there.
    collection: PathBuf,
    /// Alias or generation to copy.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    generation: String,
}

pub fn push(args: &PushArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    let collection = open(&args.collection)?;
    let alias = AliasName::parse(&args.alias)?;
    let generation = collection.resolve(&args.generation)?;
    let written = collection.log_positions()?.end - 1;
    if written > collection.replayed_after(&generation)? {
        output.remark("documents written since the generation was built are not sent: `trawl index compact` makes one with them");
    }
    let there = storage::open(&args.to)?;
    // Read before the files are sent, so that what somebody else publishes meanwhile is not undone.
    let named = there.aliases()?.now.remove(&alias);
    let pushed = watched("upload", output, |watch| there.push(&generation, watch));
    let pushed =
        pushed.with_context(|| format!("cannot send `{}` to `{}`", generation.id, args.to))?;
    let id = &generation.id;
    if args.publish || named.is_none() {
        let set = there.set_alias(&alias, id, Some(named.as_ref()));
        match set {
            // It is not the first any more.
            Err(ObjectsError::Changed { .. }) if !args.publish => {}
            set => set.with_context(|| format!("cannot publish `{id}`"))?,
        }
    }
    let named = there.aliases()?.now.get(&alias) == Some(id);
    let seconds = start.elapsed().as_secs_f64();
    let shown = json!({
        "generation": id,
        "url": args.to.to_string(),
        "files": pushed.n_files,
        "bytes": pushed.n_bytes,
        "alias": alias,
        "named": named,
        "seconds": seconds,
    });
    output.result(&shown, |_| {
        let is = if named { "is" } else { "is not yet" };
        format!(
            "generation {id} {is} {alias} of {}: {} files of {} bytes sent, {seconds:.1} s",
            args.to, pushed.n_files, pushed.n_bytes
        )
    })
}

pub fn pull(args: &PullArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    let hint = "`trawl index push` sends a collection to object storage";
    storage::check_folder(&args.collection, hint)?;
    let there = storage::open(&args.from)?;
    let failed = || format!("cannot copy `{}` of `{}`", args.generation, args.from);
    let id = there.resolve(&args.generation).with_context(failed)?;
    let collection = Collection::create(&args.collection)?;
    let writer = collection.writer("trawl index pull")?;
    let pulled = watched("download", output, |watch| there.pull(&id, &writer, watch));
    let generation = pulled.with_context(failed)?;
    let live = collection.aliases()?.get(&AliasName::parse(LIVE)?) == Some(&id);
    let n_bytes: u64 = generation
        .manifest
        .files
        .iter()
        .map(|file| file.bytes)
        .sum();
    let seconds = start.elapsed().as_secs_f64();
    let shown = json!({
        "generation": id,
        "path": generation.path,
        "live": live,
        "content_digest": generation.manifest.content_digest,
        "bytes": n_bytes,
        "seconds": seconds,
    });
    output.result(&shown, |_| {
        let state = match live {
            true => "live",
            false => "not live yet: `trawl index publish` makes it so",
        };
        format!("generation {id} ({state})\n{n_bytes} bytes, {seconds:.1} s")
    })
}

/// Runs a transfer that shows how far it is and ends when it is interrupted.
pub fn watched<T>(
    phase: &str,
    output: &Output,
    transfer: impl FnOnce(Watch<'_>) -> Result<T, ObjectsError>,
) -> anyhow::Result<T> {
    let (progress, cancelled) = (Progress::new(output), interrupt::flag()?);
    let cancelled: &AtomicBool = &cancelled;
    let done = transfer(Watch {
        on_bytes: &|done, total| progress.update(phase, "bytes", done, total),
        cancelled,
    });
    progress.finish();
    Ok(done?)
}
