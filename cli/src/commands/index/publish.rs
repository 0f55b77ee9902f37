use std::path::PathBuf;

use anyhow::Context;
use collection::{AliasName, Collection, CollectionError, Generation, GenerationId, LIVE, Writer};
use indexer::GateReport;
use milvus::Address;
use objects::{Location, ObjectsError};
use serde_json::json;

use super::gate::{self, GateArgs};
use super::open;
use super::parts::Work;
use super::to_milvus::{self, Filled, ToMilvusArgs};
use super::transfer::watched;
use crate::failure::{Exit, Failure};
use crate::model::ModelArgs;
use crate::output::Output;
use crate::storage;

/// Arguments of `trawl index publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index publish data/docs
  trawl index publish data/docs 20261120T195500Z-3f9a1c
  trawl index publish data/docs --gate gate.toml
  trawl index publish data/docs --new-model
  trawl index publish s3://bucket/docs
  trawl index publish s3://bucket/docs 20261120T195500Z-3f9a1c --no-gate
  trawl index publish data/docs --to 'milvus://proxy-1:19530,proxy-2:19530/docs?bucket=s3://milvus/imports' --replicas 2

The generation is compared with the one it replaces, and refused (exit code 3) when it is worse. Of a collection in object storage
both are copied to this machine for that, and the alias is changed only if it still names the one that was compared.")]
pub struct PublishArgs {
    /// Folder of the collection, or where it is kept in object storage.
    #[arg(value_name = "COLLECTION|URL")]
    collection: PathBuf,
    /// The generation (default: the newest).
    generation: Option<String>,
    /// The alias that is to name it.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    alias: String,
    /// Leave the documents out that were written since the generation was built; without, they are applied to it.
    #[arg(long)]
    drop_live: bool,
    #[command(flatten)]
    work: CopyArgs,
    #[command(flatten)]
    gate: GateArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    milvus: ToMilvusArgs,
}

/// Where what is compared is copied to from object storage.
#[derive(Debug, clap::Args)]
struct CopyArgs {
    /// Folder on this machine for the generations of object storage that are compared; what is in it is not copied again (default: a
    /// temporary one).
    #[arg(long = "work", value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Arguments of `trawl index rollback`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index rollback data/docs
  trawl index rollback s3://bucket/docs
  trawl index rollback data/docs --to milvus://proxy-1:19530,proxy-2:19530/docs")]
pub struct RollbackArgs {
    /// Folder of the collection, or where it is kept in object storage.
    #[arg(value_name = "COLLECTION|URL")]
    collection: PathBuf,
    /// The alias that goes back to the generation it named before.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    alias: String,
    /// Leave the documents out that were written since the generation was built; without, they are applied to it.
    #[arg(long)]
    drop_live: bool,
    /// The Milvus cluster that searches the vectors; its alias goes back, too.
    #[arg(long, value_name = "milvus://HOST:PORT[,..]/NAME")]
    to: Option<Address>,
}

pub fn run(args: PublishArgs, output: &Output) -> anyhow::Result<()> {
    if let Some(location) = storage::location(&args.collection)? {
        if args.milvus.is_given() {
            return Err(to_milvus::refuse_elsewhere(&args.collection));
        }
        return publish_there(&location, &args, output);
    }
    if args.work.folder.is_some() {
        let text = "--work is for object storage: the generations of a folder are there already";
        return Err(Failure::usage(text).into());
    }
    let collection = open(&args.collection)?;
    let alias = AliasName::parse(&args.alias)?;
    // Held from here on, so that what is compared is what is replaced.
    let writer = collection.writer("trawl index publish")?;
    let id = generation(&collection, args.generation)?;
    let mut filled = args.milvus.fill(&collection.generation(&id)?, output)?;
    let report = publish(
        &writer,
        &id,
        &alias,
        args.drop_live,
        &args.gate,
        &args.model,
        output,
    )?;
    if let Some(filled) = &mut filled {
        filled.switch()?;
    }
    let mut shown = json!({ "generation": id, "alias": alias, "gate": report });
    if let Some(filled) = &filled {
        shown["milvus"] = filled.json();
    }
    output.result(&shown, |_| {
        let mut text = report.as_ref().map(gate::show).unwrap_or_default();
        text += &filled.as_ref().map(Filled::show).unwrap_or_default();
        text += &format!("generation {id} is {alias}");
        text
    })
}

/// Makes an alias in object storage name a generation there that passes the gate.
///
/// What is compared is copied first. The alias is changed only if it still names what the generation was compared with.
fn publish_there(location: &Location, args: &PublishArgs, output: &Output) -> anyhow::Result<()> {
    if args.drop_live {
        let text = "a collection in object storage has no documents written since";
        return Err(Failure::usage(text).into());
    }
    let objects = storage::open(location)?;
    let alias = AliasName::parse(&args.alias)?;
    let failed = || format!("cannot publish in `{location}`");
    let named = objects.aliases().with_context(failed)?.now.remove(&alias);
    let newest = || objects.generations().map(|mut ids| ids.pop());
    let id = match &args.generation {
        Some(name) => Some(objects.resolve(name).with_context(failed)?),
        None => newest().with_context(failed)?,
    };
    let id =
        id.ok_or_else(|| Failure::new(Exit::Failed, format!("`{location}` has no generation")))?;
    let mut report = None;
    if !args.gate.no_gate() && named.as_ref() != Some(&id) {
        let work = Work::make(args.work.folder.as_deref())?;
        let writer = Collection::create(work.path())?.writer("trawl index publish")?;
        let copy = |id: &GenerationId| {
            watched("download", output, |watch| objects.pull(id, &writer, watch))
        };
        let replaced = match &named {
            None => None,
            Some(named) => match copy(named) {
                Ok(generation) => Some(generation),
                Err(error) if is_corrupt(&error) => {
                    damaged(named, &id, &alias, output);
                    None
                }
                Err(error) => return Err(error.context(failed())),
            },
        };
        let candidate = copy(&id).with_context(failed)?;
        report = judge(
            &writer,
            &candidate,
            replaced,
            &alias,
            &args.gate,
            &args.model,
            output,
        )?;
        if report.is_some() {
            let kept = writer.collection().gate_report_file(&id);
            let bytes = std::fs::read(&kept)
                .with_context(|| format!("cannot read `{}`", kept.display()))?;
            objects.keep_gate_report(&id, &bytes).with_context(failed)?;
        }
    }
    let expected = match args.gate.no_gate() {
        true => None,
        false => Some(named.as_ref()),
    };
    objects
        .set_alias(&alias, &id, expected)
        .with_context(failed)?;
    let shown = json!({ "generation": id, "alias": alias, "gate": report });
    output.result(&shown, |_| {
        let text = report.as_ref().map(gate::show).unwrap_or_default();
        format!("{text}generation {id} is {alias}")
    })
}

/// Makes `alias` name a generation that passes the gate; the report is kept beside it.
pub fn publish(
    writer: &Writer,
    id: &GenerationId,
    alias: &AliasName,
    drop_live: bool,
    gate: &GateArgs,
    model: &ModelArgs,
    output: &Output,
) -> anyhow::Result<Option<GateReport>> {
    let collection = writer.collection();
    let replaced = match collection.aliases()?.remove(alias) {
        Some(named) if named == *id && !drop_live => return Ok(None),
        Some(named) => match collection.generation(&named) {
            Ok(generation) => Some(generation),
            Err(error) if error.is_corrupt() => {
                damaged(&named, id, alias, output);
                None
            }
            Err(error) => return Err(error.into()),
        },
        None => None,
    };
    let candidate = collection.generation(id)?;
    let report = judge(writer, &candidate, replaced, alias, gate, model, output)?;
    set(writer, alias, id, drop_live).with_context(|| format!("cannot publish `{id}`"))?;
    Ok(report)
}

fn is_corrupt(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(ObjectsError::is_corrupt)
}

fn damaged(named: &GenerationId, id: &GenerationId, alias: &AliasName, output: &Output) {
    output.remark(format!(
        "`{named}`, which is {alias}, is damaged: `{id}` is judged alone"
    ));
}

/// Asks the gate, and keeps the report of what passes. What does not is printed side by side, and an error.
fn judge(
    writer: &Writer,
    candidate: &Generation,
    replaced: Option<Generation>,
    alias: &AliasName,
    gate: &GateArgs,
    model: &ModelArgs,
    output: &Output,
) -> anyhow::Result<Option<GateReport>> {
    let (collection, id) = (writer.collection(), &candidate.id);
    let report = gate::pass(collection, candidate, replaced, gate, model, output)?;
    if let Some(report) = &report {
        if !report.passed {
            output.result(
                &json!({ "generation": id, "alias": alias, "gate": report }),
                |_| gate::show(report),
            )?;
            return Err(gate::refusal(report));
        }
        writer.keep_gate_report(id, &serde_json::to_value(report)?)?;
    }
    Ok(report)
}

/// Writes the alias, and how much of the log is left out.
fn set(
    writer: &Writer,
    alias: &AliasName,
    id: &GenerationId,
    drop_live: bool,
) -> Result<(), CollectionError> {
    if !drop_live {
        return writer.set_alias(alias, id);
    }
    let end = writer.collection().log_positions()?.end;
    writer.set_alias_without(alias, id, end - 1)
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
    let alias = AliasName::parse(&args.alias)?;
    let failed = || format!("cannot roll back `{alias}`");
    let (before, id) = match storage::location(&args.collection)? {
        Some(_) if args.drop_live => {
            let text = "a collection in object storage has no documents written since";
            return Err(Failure::usage(text).into());
        }
        Some(_) if args.to.is_some() => {
            return Err(to_milvus::refuse_elsewhere(&args.collection));
        }
        Some(location) => {
            let objects = storage::open(&location)?;
            let before = objects.aliases().with_context(failed)?.now.remove(&alias);
            (before, objects.rollback(&alias).with_context(failed)?)
        }
        None => {
            let collection = open(&args.collection)?;
            let before = collection.aliases()?.remove(&alias);
            let writer = collection.writer("trawl index rollback")?;
            let holder = match (&args.to, collection.previous()?.get(&alias)) {
                (Some(address), Some(id)) => {
                    let generation = collection.generation(id)?;
                    Some((to_milvus::holder(address, &generation)?, generation))
                }
                _ => None,
            };
            let gone_back = match args.drop_live {
                false => writer.rollback(&alias),
                true => {
                    let end = collection.log_positions().with_context(failed)?.end;
                    writer.rollback_without(&alias, end - 1)
                }
            };
            let id = gone_back.with_context(failed)?;
            if let Some((milvus, generation)) = holder {
                to_milvus::switch(&milvus, &generation)?;
            }
            (before, id)
        }
    };
    let shown = json!({ "generation": id, "alias": alias, "before": before });
    output.result(&shown, |_| {
        let before = before.map_or("nothing".to_owned(), String::from);
        format!("{alias} names generation {id} again; it named {before}")
    })
}
