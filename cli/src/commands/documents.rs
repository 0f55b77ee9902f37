//! `trawl documents`: single documents of a collection, between two builds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use collection::{Collection, CollectionError, Durability, LIVE, LogConfig, LogWriter, NewRecord};
use corpus::{CorpusConfig, CorpusError, CorpusReader, Lines, Passage};
use encoder::BiEncoder;
use indexer::{DocumentChange, LiveError, Recipe, Upsert};
use retriever::{Filter, OpenConfig, Retriever};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::filter;
use crate::model::{self, ModelArgs, named};
use crate::output::{Output, counted};
use crate::progress::Progress;

/// Documents that are encoded together at most.
const BATCH: usize = 256;
/// Bytes of title and text after which no more documents are encoded together, and of records that are written together, unless
/// one has more: far below what the log takes at once.
const BATCH_BYTES: usize = 8 << 20;

/// Arguments of `trawl documents`.
#[derive(Debug, clap::Args)]
pub struct DocumentsArgs {
    #[command(subcommand)]
    command: DocumentsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DocumentsCommand {
    /// Add documents, each in the place of the one with its id.
    Add(Box<AddArgs>),
    /// Delete documents by their ids, or all that pass a filter.
    Delete(DeleteArgs),
    /// Print a document.
    Get(GetArgs),
}

/// Arguments of `trawl documents add`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl documents add data/docs new.jsonl
  trawl documents add data/docs new.jsonl.zst --skip-bad-lines --durability os

The documents are found by the next search. They are in the write log of the collection until `trawl index compact` makes them
part of a generation.")]
struct AddArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// Files of documents: JSON lines, TSV or CSV; gzip and zstd are recognised. Where the collection's vectors were brought,
    /// each document has its own as `vector`.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Leave bad lines out and count them, in place of stopping at the first.
    #[arg(long)]
    skip_bad_lines: bool,
    #[command(flatten)]
    of: OfArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// Arguments of `trawl documents delete`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["documents", "ids", "filter"]).required(true).multiple(true))]
#[command(after_help = "Examples:
  trawl documents delete data/docs doc-17 doc-18
  trawl documents delete data/docs --ids gone.txt
  trawl documents delete data/docs --filter 'lang=en year<2020'

A filter deletes what passes it now, documents included that were written since the last build; how many those are is printed.")]
#[command(
    override_usage = "trawl documents delete [OPTIONS] <COLLECTION> <DOCUMENTS>...
       trawl documents delete [OPTIONS] <COLLECTION> --ids <FILE>
       trawl documents delete [OPTIONS] <COLLECTION> --filter <EXPR>"
)]
struct DeleteArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// Ids of the documents.
    documents: Vec<String>,
    /// Text file of ids, one a line.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// All documents that pass: terms such as `lang=en year<2020`, or the JSON of the HTTP API; all of several hold.
    #[arg(long, value_name = "EXPR", conflicts_with_all = ["documents", "ids"])]
    filter: Vec<String>,
    #[command(flatten)]
    of: OfArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// Arguments of `trawl documents get`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  trawl documents get data/docs doc-17")]
struct GetArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// Id of the document.
    document: String,
    /// Alias or generation.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    generation: String,
    #[command(flatten)]
    model: ModelArgs,
}

/// Which generation documents are made for, and how they are written.
#[derive(Debug, clap::Args)]
struct OfArgs {
    /// Alias or generation whose model, templates and fields the documents are made for.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    generation: String,
    /// When a document counts as written: fsync (it survives a machine that stops), or os (it survives a process that is killed).
    #[arg(long, value_name = "LEVEL", default_value = "fsync", value_parser = named::<Durability>)]
    durability: Durability,
}

pub fn run(args: DocumentsArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        DocumentsCommand::Add(args) => add(&args, output),
        DocumentsCommand::Delete(args) => delete(&args, output),
        DocumentsCommand::Get(args) => get(&args, output),
    }
}

/// Brings an open generation up to the end of the write log; the encoder is loaded where vectors have to be made anew.
pub fn replay(
    collection: &Collection,
    retriever: &Retriever,
    model: &ModelArgs,
) -> anyhow::Result<u64> {
    match indexer::replay(collection, retriever, None) {
        Err(LiveError::Fingerprint { .. }) => {
            let encoder = model::encoder_of(retriever.manifest(), model)?;
            Ok(indexer::replay(collection, retriever, Some(&encoder))?)
        }
        replayed => Ok(replayed?),
    }
}

fn open(path: &Path, generation: &str) -> anyhow::Result<(Collection, Retriever)> {
    let context = || format!("cannot open collection `{}`", path.display());
    let collection = Collection::open(path).with_context(context)?;
    let generation = collection.resolve(generation).with_context(context)?;
    let retriever = Retriever::open(generation, OpenConfig::default()).with_context(context)?;
    Ok((collection, retriever))
}

fn writer(collection: &Collection, of: &OfArgs, command: &str) -> anyhow::Result<LogWriter> {
    let config = LogConfig {
        durability: of.durability,
        ..LogConfig::default()
    };
    collection
        .log_writer(command, config)
        .with_context(|| format!("cannot write to `{}`", collection.root().display()))
}

fn add(args: &AddArgs, output: &Output) -> anyhow::Result<()> {
    let (collection, retriever) = open(&args.collection, &args.of.generation)?;
    let manifest = retriever.manifest();
    let recipe = Recipe::of(manifest, retriever.row_form())?;
    let encoder = match recipe.is_external() {
        true => None,
        false => Some(model::encoder_of(manifest, &args.model)?),
    };
    let mut log = writer(&collection, &args.of, "trawl documents add")?;
    let mut reader = CorpusReader::open(&CorpusConfig {
        paths: args.files.clone(),
        schema: Some(retriever.schema().clone()),
        skip_bad_lines: args.skip_bad_lines,
        ..CorpusConfig::default()
    })?;
    let live = retriever.live();
    let progress = Progress::new(output);
    progress.update("add", "bytes", 0, reader.n_bytes_total());
    let (mut n_documents, mut n_passages) = (0, 0);
    loop {
        let documents = next_batch(&mut reader)?;
        if documents.is_empty() {
            break;
        }
        let upserts = encode(&recipe, encoder.as_ref(), documents)?;
        let mut records = Vec::with_capacity(upserts.len());
        for upsert in upserts {
            recipe.check(live.view(), &upsert)?;
            n_passages += upsert.n_passages();
            records.push(DocumentChange::Upsert(upsert).to_record());
        }
        n_documents += records.len();
        append(&mut log, &records)?;
        let (done, total) = (reader.n_bytes_read(), reader.n_bytes_total());
        progress.update("add", "bytes", done, total);
    }
    progress.finish();
    for bad_line in reader.bad_examples() {
        output.remark(format!("skipped {bad_line}"));
    }
    let (position, n_bad) = (log.position(), reader.n_bad());
    let shown = json!({
        "documents": n_documents, "passages": n_passages, "bad_lines": n_bad, "log_position": position,
    });
    output.result(&shown, |_| {
        let bad = match n_bad {
            0 => String::new(),
            n => format!("{} skipped\n", counted(n, "bad line")),
        };
        let documents = counted(n_documents as u64, "document");
        let passages = counted(n_passages as u64, "passage");
        format!("{documents}, {passages}, write log at {position}\n{bad}")
    })
}

/// The next documents that are encoded together; none at the end.
fn next_batch(
    documents: &mut impl Iterator<Item = Result<Passage, CorpusError>>,
) -> Result<Vec<Passage>, CorpusError> {
    let (mut batch, mut n_bytes) = (Vec::new(), 0);
    while batch.len() < BATCH && n_bytes < BATCH_BYTES {
        let Some(document) = documents.next().transpose()? else {
            break;
        };
        n_bytes += document.title.len() + document.text.len();
        batch.push(document);
    }
    Ok(batch)
}

/// Writes records in as many steps as their size asks for: metadata and vectors may be larger than the texts.
fn append(log: &mut LogWriter, mut records: &[NewRecord]) -> Result<(), CollectionError> {
    while let Some((_, more)) = records.split_first() {
        let mut n_bytes = 0;
        let fits = |record: &&NewRecord| {
            n_bytes += record.payload.len();
            n_bytes < BATCH_BYTES
        };
        let n_more = more.iter().take_while(fits).count();
        let (now, later) = records.split_at(1 + n_more);
        log.append(now)?;
        records = later;
    }
    Ok(())
}

/// The documents with their vectors, encoded together.
fn encode(
    recipe: &Recipe,
    encoder: Option<&Arc<BiEncoder>>,
    documents: Vec<Passage>,
) -> anyhow::Result<Vec<Upsert>> {
    let Some(encoder) = encoder else {
        let brought = documents.into_iter().map(|mut document| {
            let vector = document.metadata.remove("vector").unwrap_or(Value::Null);
            let vector = serde_json::from_value(vector).unwrap_or_default();
            Ok(recipe.brought(document, vector)?)
        });
        return brought.collect();
    };
    let drafts = documents
        .into_iter()
        .map(|document| recipe.draft(encoder, document));
    let drafts: Vec<_> = drafts.collect::<Result<_, _>>()?;
    let tokens: Vec<_> = drafts
        .iter()
        .flat_map(|draft| draft.tokens.clone())
        .collect();
    let rows = encoder.encode(&tokens)?.values;
    let mut rows = rows.as_slice();
    let finished = drafts.into_iter().map(|draft| {
        let (own, rest) = rows.split_at(draft.tokens.len() * recipe.width());
        rows = rest;
        draft.finish(own.to_vec())
    });
    Ok(finished.collect())
}

fn delete(args: &DeleteArgs, output: &Output) -> anyhow::Result<()> {
    let (collection, retriever) = open(&args.collection, &args.of.generation)?;
    let filter = filter::resolve(&args.filter, &retriever)?;
    let mut ids = args.documents.clone();
    if let Some(path) = &args.ids {
        let mut lines = Lines::open(path)?;
        while let Some((_, id)) = lines.next_line()? {
            ids.push(id.to_owned());
        }
    }
    let mut log = writer(&collection, &args.of, "trawl documents delete")?;
    if let Some(filter) = &filter {
        if *filter == Filter::default() {
            let text = "--filter: has no condition, so every document would pass it";
            return Err(Failure::usage(text).into());
        }
        // Nobody else writes from here on.
        replay(&collection, &retriever, &args.model)?;
        let live = retriever.live();
        ids = live.view().documents(&live.view().select(filter)?)?;
    }
    let n_documents = ids.len();
    let records = ids
        .into_iter()
        .map(|id| DocumentChange::Delete(id).to_record());
    let records: Vec<NewRecord> = records.collect();
    for batch in records.chunks(10_000) {
        log.append(batch)?;
    }
    let position = log.position();
    output.result(
        &json!({ "documents": n_documents, "log_position": position }),
        |_| {
            let there = match filter {
                Some(_) => "",
                None => " where they were there",
            };
            let documents = counted(n_documents as u64, "document");
            format!("{documents} deleted{there}, write log at {position}")
        },
    )
}

fn get(args: &GetArgs, output: &Output) -> anyhow::Result<()> {
    let (collection, retriever) = open(&args.collection, &args.generation)?;
    let position = replay(&collection, &retriever, &args.model)?;
    let live = retriever.live();
    let ordinals = live.view().passages_of(&args.document)?;
    if ordinals.is_empty() {
        let text = format!("there is no document `{}`", args.document);
        return Err(Failure::new(Exit::Failed, text).into());
    }
    let passages = live.view().passages(&ordinals)?;
    let shown = json!({
        "id": args.document, "passages": passages, "log_position": position,
        "generation": retriever.generation().id,
    });
    output.result(&shown, |_| {
        let text = |passage: &Passage| {
            let metadata = Value::from(passage.metadata.clone());
            format!(
                "{}\n{}\n{}\n{metadata}\n",
                passage.id, passage.title, passage.text
            )
        };
        passages.iter().map(text).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of documents in each batch, where each document has so many bytes.
    fn batches(n_documents: usize, n_bytes: usize) -> Vec<usize> {
        let passage = Passage {
            title: "t".repeat(n_bytes / 2),
            text: "t".repeat(n_bytes - n_bytes / 2),
            ..Passage::default()
        };
        let mut documents = std::iter::repeat_n(passage, n_documents).map(Ok);
        let mut sizes = Vec::new();
        loop {
            let batch = next_batch(&mut documents).expect("no document is bad");
            if batch.is_empty() {
                return sizes;
            }
            sizes.push(batch.len());
        }
    }

    #[test]
    fn a_batch_ends_by_its_documents_or_their_bytes() {
        assert_eq!(batches(0, 10), [0; 0]);
        assert_eq!(batches(300, 10), [256, 44]);
        assert_eq!(batches(5, BATCH_BYTES), [1; 5]);
        assert_eq!(batches(5, BATCH_BYTES / 2), [2, 2, 1]);
        assert_eq!(batches(5, BATCH_BYTES / 2 - 1), [3, 2]);
    }

    #[test]
    fn large_records_are_written_in_several_steps() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let collection = Collection::create(&folder.path().join("docs")).expect("created");
        // Each step begins a segment.
        let config = LogConfig {
            durability: Durability::Os,
            segment_bytes: 64,
        };
        let mut log = collection
            .log_writer("test", config)
            .expect("nobody else writes");
        let record = NewRecord {
            kind: 1,
            payload: vec![1; BATCH_BYTES / 2],
        };
        append(&mut log, &vec![record; 5]).expect("each is small enough");
        let live = collection.root().join("live");
        let names = std::fs::read_dir(live).expect("a folder");
        let names = names.map(|entry| entry.expect("an entry").file_name());
        let is_segment = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".log");
        assert_eq!(names.filter(is_segment).count(), 3);
        assert_eq!(log.position(), 5);
        append(&mut log, &[]).expect("nothing to write");
        assert_eq!(log.position(), 5);
    }
}
