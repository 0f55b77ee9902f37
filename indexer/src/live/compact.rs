//! A generation and what the write log has beyond it, made a new generation.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use collection::{
    AliasName, BuildMode, Collection, CollectionError, Counts, Generation, GenerationId, Manifest,
    Reused, Shard, Start, Writer, sha256_hex,
};
use encoder::BiEncoder;
use index::{HnswConfig, RowType, ShardedIndex, SketchPolicy, Verify};
use retriever::{Bitmap, OpenConfig, Retriever, View};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::{Language, StoreConfig, StoreWriter};

use super::record::Upsert;
use super::{DocumentChange, LiveError, Recipe};
use crate::assemble::{self, RowsForm, VectorsWriter, build_graphs};
use crate::digest::content_digest;
use crate::inputs::{self, INPUTS, Input, InputsWriter};
use crate::progress::Watch;
use crate::{BuildError, Phase, Progress};

/// Passages read at a time.
const BATCH: usize = 1024;

/// What is folded.
#[derive(Clone, Debug)]
pub struct CompactConfig {
    /// The alias whose generation is folded with the log.
    pub alias: AliasName,
    /// Whether the alias names the new generation then.
    pub publish: bool,
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum CompactReport {
    /// The generation contains all of the log.
    Nothing {
        /// The generation.
        generation: GenerationId,
    },
    /// There is a new generation.
    Folded {
        /// The one that was folded with the log.
        base: GenerationId,
        /// The new one.
        generation: Box<Generation>,
        /// Passages taken over as they were.
        n_kept: u64,
        /// Passages that the log brought.
        n_added: u64,
    },
}

/// Folds the generation that an alias names with what the write log has beyond it.
///
/// The passages of the generation keep their order, less those that were deleted or replaced; behind them come the documents
/// that the log brought, in the order in which each was last upserted. Rows, texts and digest are those of a full build of a corpus
/// in that order. Rows are taken over as they are stored, after every byte of them was checked; nothing is encoded, unless the
/// log has vectors of another fingerprint. Changes may be written meanwhile: they are replayed on the new generation.
///
/// Memory: the documents that the log brought.
///
/// # Errors
/// [`BuildError`]; the alias and what it names are then as they were.
pub fn compact(
    collection: &Collection,
    config: &CompactConfig,
    encoder: Option<&BiEncoder>,
    progress: &dyn Progress,
    cancelled: &AtomicBool,
) -> Result<CompactReport, BuildError> {
    let watch = Watch {
        progress,
        cancelled,
    };
    let writer = collection.writer("index compact")?;
    let base = collection.resolve(config.alias.as_str())?;
    let start = collection.replayed_after(&base)?;
    if collection.log_positions()?.end <= start + 1 {
        return Ok(CompactReport::Nothing {
            generation: base.id,
        });
    }
    let open = OpenConfig::default();
    let retriever = Retriever::open(base.clone(), open)?;
    let recipe = Recipe::of(&base.manifest, retriever.row_form())?;
    let live = retriever.live();
    let changes = Changes::read(collection, start, live.view(), &recipe, encoder)?;
    let spec = json!({
        "spec_version": 1,
        "compacted": base.id,
        "content_digest": base.manifest.content_digest,
        "after": start,
        "position": changes.position,
    });
    discard_unfinished(&writer)?;
    let Start::Build(building) = writer.begin(&spec, BuildMode::Restart)? else {
        unreachable!("a restarted build is never done");
    };
    let folding = Folding {
        base: &base,
        view: live.view(),
        recipe: &recipe,
        changes: &changes,
    };
    let folded = folding.write(building.path(), watch);
    let folded = folded.and_then(|contents| Ok(writer.promote(&building, contents)?));
    let generation = match folded {
        Ok(generation) => generation,
        Err(error) => {
            let _ = building.discard(); // Best effort: the next one removes what stays.
            return Err(error);
        }
    };
    if config.publish {
        writer.set_alias(&config.alias, &generation.id)?;
    }
    tracing::info!(generation = %generation.id, base = %base.id, position = changes.position, "write log folded");
    Ok(CompactReport::Folded {
        base: base.id,
        generation: Box::new(generation),
        n_kept: u64::from(live.view().store().len()) - changes.removed.len(),
        n_added: changes.n_passages() as u64,
    })
}

/// Removes what was left by folds that were killed: none goes on with it, and each has another name.
fn discard_unfinished(writer: &Writer) -> Result<(), CollectionError> {
    let collection = writer.collection();
    for path in collection.unfinished()? {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let Ok(spec) = collection.spec(name) else {
            continue;
        };
        if spec.get("compacted").is_some()
            && let Start::Build(building) = writer.begin(&spec, BuildMode::Restart)?
        {
            building.discard()?;
        }
    }
    Ok(())
}

/// What the log makes of a generation.
#[derive(Default)]
struct Changes {
    /// Ordinals of the generation that go.
    removed: Bitmap,
    /// What comes, by the position of its last upsert.
    documents: BTreeMap<u64, Upsert>,
    positions: HashMap<String, u64>,
    position: u64,
}

impl Changes {
    fn read(
        collection: &Collection,
        after: u64,
        view: &View,
        recipe: &Recipe,
        encoder: Option<&BiEncoder>,
    ) -> Result<Self, LiveError> {
        let mut changes = Self::default();
        let mut failed = Ok(());
        let end = collection.read_log(after, &mut |record| {
            if failed.is_ok() {
                failed = DocumentChange::of_record(record).and_then(|change| match change {
                    Some(change) => changes.add(record.position, change, view),
                    None => Ok(()),
                });
            }
        })?;
        failed?;
        for upsert in changes.documents.values_mut() {
            *upsert = recipe.fit(upsert.clone(), encoder)?;
            recipe.check(view, upsert)?;
        }
        changes.position = end;
        Ok(changes)
    }

    fn add(&mut self, position: u64, change: DocumentChange, view: &View) -> Result<(), LiveError> {
        let id = change.document().to_owned();
        let before = view.passages_of(&id).map_err(|source| LiveError::Change {
            id: id.clone(),
            source: Box::new(source.into()),
        })?;
        self.removed.extend(before);
        if let Some(before) = self.positions.remove(&id) {
            self.documents.remove(&before);
        }
        if let DocumentChange::Upsert(upsert) = change {
            self.documents.insert(position, upsert);
            self.positions.insert(id, position);
        }
        Ok(())
    }

    fn n_passages(&self) -> usize {
        self.documents.values().map(Upsert::n_passages).sum()
    }
}

struct Folding<'a> {
    base: &'a Generation,
    view: &'a View,
    recipe: &'a Recipe,
    changes: &'a Changes,
}

impl Folding<'_> {
    /// Writes the files of the new generation and returns what its manifest says of them.
    fn write(&self, output: &Path, watch: Watch<'_>) -> Result<Manifest, BuildError> {
        let Self {
            base,
            view,
            recipe,
            changes,
        } = *self;
        let manifest = &base.manifest;
        let store = view.store();
        let kept: Vec<u32> = (0..store.len())
            .filter(|ordinal| !changes.removed.contains(*ordinal))
            .collect();
        let n_total = kept.len() as u64 + changes.n_passages() as u64;
        let n_passages = u32::try_from(n_total).map_err(|_| BuildError::TooManyPassages {
            n_passages: n_total,
            max: u32::MAX.into(),
        })?;
        let n_shards = match manifest.shards.len() {
            0 => built::<usize>(manifest, "n_shards").unwrap_or(1),
            n_shards => n_shards,
        };
        let first = changes.documents.values().next();
        let arithmetic = match manifest.shards.first() {
            Some(shard) => shard.arithmetic.clone(),
            None => first.map_or_else(String::new, |upsert| upsert.head.arithmetic.clone()),
        };
        let graph = built::<Option<HnswConfig>>(manifest, "graph").flatten();
        let n_shards = n_shards.min(n_passages as usize);
        let shards = assemble::shards(n_passages, n_shards, &arithmetic, graph.is_some());
        let mut inputs = self.inputs(output, n_passages)?;
        let store_config = StoreConfig {
            language: built::<Language>(manifest, "language").unwrap_or_default(),
            schema: view.schema().clone(),
            ..StoreConfig::default()
        };
        let mut passages = StoreWriter::create(output, &store_config)?;
        let form = RowsForm {
            width: recipe.width(),
            metric: serde_json::from_value(manifest.metric.as_str().into())
                .map_err(|error| damaged(base, &error))?,
            rows: built::<RowType>(manifest, "rows").unwrap_or_default(),
            sketches: SketchPolicy::default(),
        };
        let mut vectors = VectorsWriter::new(output, form, &shards);
        let mut counts = Counts {
            missing_fields: manifest.counts.missing_fields,
            bad_lines: manifest.counts.bad_lines,
            ..Counts::default()
        };
        let paths: Vec<_> = manifest
            .shards
            .iter()
            .map(|shard| base.path.join(&shard.path))
            .collect();
        let rows = match paths.is_empty() {
            true => None,
            false => Some(ShardedIndex::open(&paths, Verify::Header)?),
        };
        for batch in kept.chunks(BATCH) {
            watch.update(Phase::Assemble, counts.passages, n_total)?;
            for (&ordinal, passage) in batch.iter().zip(store.passages(batch)?) {
                let row = rows.as_ref().and_then(|rows| rows.stored(ordinal));
                vectors.push_stored(row.expect("shards and store have as many passages"))?;
                let part = store.document_part(ordinal)?;
                match &part {
                    Some(part) => passages.push_part(&passage, &part.characters)?,
                    None => passages.push(&passage)?,
                }
                counts.documents += u64::from(part.is_some_and(|part| part.number == 0));
                counts.passages += 1;
                inputs.take(ordinal, &mut counts)?;
            }
        }
        for upsert in changes.documents.values() {
            watch.update(Phase::Assemble, counts.passages, n_total)?;
            for (i, (added, row)) in upsert.passages().enumerate() {
                vectors.push(row)?;
                match &added.part {
                    Some(part) => passages.push_part(&added.passage, &part.characters)?,
                    None => passages.push(&added.passage)?,
                }
                counts.passages += 1;
                inputs.push(upsert.head.inputs.get(i), &mut counts)?;
            }
            counts.documents += u64::from(upsert.head.characters.is_some());
            counts.missing_fields += upsert.head.n_missing;
        }
        vectors.finish()?;
        inputs.finish()?;
        if let Some(config) = &graph {
            build_graphs(config, &shards, output, watch, n_total)?;
        }
        watch.update(Phase::Lexical, 0, n_total)?;
        passages.finish()?;
        watch.update(Phase::Lexical, n_total, n_total)?;
        let content_digest = content_digest(output, &shards, watch)?;
        Ok(self.manifest(shards, counts, content_digest, kept.len() as u64))
    }

    fn manifest(
        &self,
        shards: Vec<Shard>,
        counts: Counts,
        content_digest: String,
        n_kept: u64,
    ) -> Manifest {
        let before = &self.base.manifest;
        let corpus = format!("{}:{}", before.corpus_digest, self.changes.position);
        Manifest {
            fingerprint: before.fingerprint.clone(),
            fingerprint_digest: before.fingerprint_digest.clone(),
            corpus_digest: sha256_hex(corpus.as_bytes()),
            content_digest,
            counts,
            width: before.width,
            metric: before.metric.clone(),
            shards,
            batch_invariant: before.batch_invariant,
            templates: before.templates.clone(),
            schema: before.schema.clone(),
            build: before.build.clone(),
            log_position: self.changes.position,
            reused: Some(Reused {
                generation: self.base.id.clone(),
                passages: n_kept,
            }),
            ..Manifest::default()
        }
    }

    /// What rows were made from, where the generation says it or has no rows.
    fn inputs(&self, output: &Path, n_passages: u32) -> Result<Inputs, BuildError> {
        let manifest = &self.base.manifest;
        let n_before = manifest.counts.passages as usize;
        let entry = manifest.files.iter().find(|file| file.path == INPUTS);
        let before = match entry {
            _ if self.recipe.is_external() => None,
            None if n_before > 0 => None,
            None => Some(Vec::new()),
            Some(entry) => {
                let path = self.base.path.join(INPUTS);
                let bytes = fs::read(&path).map_err(|source| BuildError::Io { path, source })?;
                let read = inputs::decode(&bytes, n_before);
                match read.filter(|_| sha256_hex(&bytes) == entry.sha256) {
                    Some(read) => Some(read),
                    None => {
                        let reason = format!("`{INPUTS}` does not match its checksum");
                        return Err(damaged(self.base, &reason));
                    }
                }
            }
        };
        let writer = match before {
            Some(_) => Some(InputsWriter::create(output, n_passages)?),
            None => None,
        };
        Ok(Inputs {
            before: before.unwrap_or_default(),
            writer,
        })
    }
}

struct Inputs {
    before: Vec<Input>,
    writer: Option<InputsWriter>,
}

impl Inputs {
    fn take(&mut self, ordinal: u32, counts: &mut Counts) -> Result<(), BuildError> {
        match self.before.get(ordinal as usize) {
            Some(&input) => self.write(input, counts),
            None => Ok(()),
        }
    }

    fn push(
        &mut self,
        input: Option<&[u8; Input::BYTES]>,
        counts: &mut Counts,
    ) -> Result<(), BuildError> {
        match input {
            Some(input) => self.write(Input::from_bytes(input), counts),
            None => Ok(()),
        }
    }

    fn write(&mut self, input: Input, counts: &mut Counts) -> Result<(), BuildError> {
        counts.tokens += u64::from(input.n_tokens);
        counts.truncated += u64::from(input.truncated);
        match &mut self.writer {
            Some(writer) => writer.push(input),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<(), BuildError> {
        self.writer.map_or(Ok(()), InputsWriter::finish)
    }
}

/// A setting of the build, as the manifest has it.
fn built<T: DeserializeOwned>(manifest: &Manifest, name: &str) -> Option<T> {
    T::deserialize(manifest.build.get(name).unwrap_or(&Value::Null)).ok()
}

fn damaged(generation: &Generation, reason: &dyn std::fmt::Display) -> BuildError {
    BuildError::Live(LiveError::Manifest {
        generation: generation.id.to_string(),
        reason: reason.to_string(),
    })
}
