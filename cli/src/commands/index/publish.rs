use std::path::PathBuf;

use anyhow::Context;
use collection::{AliasName, Collection, GenerationId, LIVE};
use serde_json::json;

use super::open;
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// Arguments of `trawl index publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index publish data/docs
  trawl index publish data/docs 20261120T195500Z-3f9a1c")]
pub struct PublishArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// The generation (default: the newest).
    generation: Option<String>,
}

/// Arguments of `trawl index rollback`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  trawl index rollback data/docs")]
pub struct RollbackArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// The alias that goes back to the generation it named before.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    alias: String,
}

pub fn run(args: PublishArgs, output: &Output) -> anyhow::Result<()> {
    let collection = open(&args.collection)?;
    let id = generation(&collection, args.generation)?;
    collection
        .writer("trawl index publish")?
        .publish(&id)
        .with_context(|| format!("cannot publish `{id}`"))?;
    output.result(&json!({ "generation": id, "alias": LIVE }), |_| {
        format!("generation {id} is live")
    })
}

/// The generation named, else the newest.
fn generation(collection: &Collection, name: Option<String>) -> anyhow::Result<GenerationId> {
    match name {
        Some(name) => Ok(collection.resolve(&name)?.id),
        None => collection.generations()?.pop().ok_or_else(|| {
            let path = collection.root().display();
            Failure::new(
                Exit::Failed,
                format!("collection `{path}` has no generation"),
            )
            .into()
        }),
    }
}

pub fn roll_back(args: &RollbackArgs, output: &Output) -> anyhow::Result<()> {
    let collection = open(&args.collection)?;
    let alias = AliasName::parse(&args.alias)?;
    let before = collection.aliases()?.remove(&alias);
    let id = collection
        .writer("trawl index rollback")?
        .rollback(&alias)
        .with_context(|| format!("cannot roll back `{alias}`"))?;
    let shown = json!({ "generation": id, "alias": alias, "before": before });
    output.result(&shown, |_| {
        let before = before.map_or("nothing".to_owned(), String::from);
        format!("{alias} names generation {id} again; it named {before}")
    })
}
