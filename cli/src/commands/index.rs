//! `trawl index`: generations from their build to their end, one file a command.

mod build;
mod compact;
mod content;
mod diff;
mod gate;
mod gc;
mod list;
mod parts;
mod plan;
mod publish;
mod to_milvus;
mod transfer;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context;
use collection::Collection;

use crate::output::Output;

/// Arguments of `trawl index`.
#[derive(Debug, clap::Args)]
pub struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, clap::Subcommand)]
enum IndexCommand {
    /// Build a generation from a corpus.
    Build(Box<build::BuildArgs>),
    /// Encode one part of a build, beside other processes that encode others.
    Encode(Box<parts::EncodeArgs>),
    /// Put the encoded parts of a build together.
    Commit(parts::CommitArgs),
    /// Tell how far the builds in parts are, from anywhere.
    Status(parts::StatusArgs),
    /// Tell what a build would take, before anything is built: rows, tokens, disk, memory, time.
    Plan(Box<plan::PlanArgs>),
    /// List the generations of a collection, oldest first.
    #[command(after_help = "Examples:
  trawl index list data/docs
  trawl index list s3://bucket/docs")]
    List {
        /// Folder of the collection, or where it is kept in object storage.
        #[arg(value_name = "COLLECTION|URL")]
        collection: PathBuf,
    },
    /// Read every file and compare it with its manifest, some rows with their texts, and the write log with its checksums.
    Verify(Box<verify::VerifyArgs>),
    /// Compare two generations: passages added, changed and removed, and what was decided differently.
    Diff(diff::DiffArgs),
    /// Make a generation the one that is searched.
    Publish(Box<publish::PublishArgs>),
    /// Search what was searched before the last change; again, and it is taken back.
    Rollback(publish::RollbackArgs),
    /// Make a new generation of the one that is searched and the documents written since.
    Compact(Box<compact::CompactArgs>),
    /// Send a generation to object storage.
    Push(transfer::PushArgs),
    /// Copy a generation from object storage.
    Pull(transfer::PullArgs),
    /// Remove generations that nothing names and that are not among the newest.
    Gc(gc::GcArgs),
}

pub fn run(args: IndexArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        IndexCommand::Build(args) => build::run(*args, output),
        IndexCommand::Encode(args) => parts::encode(*args, output),
        IndexCommand::Commit(args) => parts::commit(args, output),
        IndexCommand::Status(args) => parts::status(&args, output),
        IndexCommand::Plan(args) => plan::run(*args, output),
        IndexCommand::List { collection } => list::run(&collection, output),
        IndexCommand::Verify(args) => verify::run(*args, output),
        IndexCommand::Diff(args) => diff::run(&args, output),
        IndexCommand::Publish(args) => publish::run(*args, output),
        IndexCommand::Rollback(args) => publish::roll_back(&args, output),
        IndexCommand::Compact(args) => compact::run(&args, output),
        IndexCommand::Push(args) => transfer::push(&args, output),
        IndexCommand::Pull(args) => transfer::pull(&args, output),
        IndexCommand::Gc(args) => gc::run(&args, output),
    }
}

fn open(path: &Path) -> anyhow::Result<Collection> {
    Collection::open(path).with_context(|| format!("cannot open collection `{}`", path.display()))
}

/// An error and its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
