//! Chunks to shards, store and lexical index.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use collection::{Counts, Shard};
use corpus::Schema;
use index::{
    FlatShard, HnswConfig, Metric, RowType, ShardConfig, ShardWriter, SketchPolicy, Verify,
    WriteError,
};
use serde::{Deserialize, Serialize};
use store::{Language, StoreConfig, StoreWriter};

use crate::base::Base;
use crate::chunk::{self, Chunk};
use crate::encode::Plan;
use crate::inputs::InputsWriter;
use crate::progress::Watch;
use crate::{BuildError, Phase};

/// How a generation is laid out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub n_shards: usize,
    pub metric: Metric,
    pub rows: RowType,
    pub sketches: SketchPolicy,
    pub graph: Option<HnswConfig>,
    pub language: Language,
    pub schema: Schema,
    /// Arithmetic of the vectors.
    pub arithmetic: String,
    /// Whether the generation says what its rows were made from.
    pub keep_inputs: bool,
}

/// What was assembled.
pub(crate) struct Assembled {
    pub shards: Vec<Shard>,
    pub counts: Counts,
    /// Rows taken from the base.
    pub n_reused: u64,
}

/// The shards of so many passages. Shard i of S holds the ordinals from ⌊i·n/S⌋ on: contiguous ranges whose lengths differ by
/// one at most.
pub(crate) fn shards(
    n_passages: u32,
    n_shards: usize,
    arithmetic: &str,
    with_graphs: bool,
) -> Vec<Shard> {
    let n_total = u64::from(n_passages);
    let first_ordinal = |shard: usize| (shard as u64 * n_total / n_shards as u64) as u32;
    let shard = |i: usize| Shard {
        path: format!("shards/{i:03}/vectors.trawl"),
        first_ordinal: first_ordinal(i),
        n_rows: first_ordinal(i + 1) - first_ordinal(i),
        arithmetic: arithmetic.to_owned(),
        graph: with_graphs.then(|| format!("shards/{i:03}/graph.trawl")),
    };
    (0..n_shards).map(shard).collect()
}

/// Writes the files of a generation into `output`.
pub(crate) fn assemble(
    plan: Plan,
    layout: &Layout,
    base: Option<&Base>,
    work: &Path,
    output: &Path,
    watch: Watch<'_>,
) -> Result<Assembled, BuildError> {
    let &Layout {
        n_shards,
        metric,
        rows,
        sketches,
        ref graph,
        ref arithmetic,
        keep_inputs,
        ..
    } = layout;
    let n_total = u64::from(plan.n_passages);
    let shards = shards(plan.n_passages, n_shards, arithmetic, graph.is_some());
    let store = StoreConfig {
        language: layout.language,
        schema: layout.schema.clone(),
        ..StoreConfig::default()
    };
    let mut passages = StoreWriter::create(output, &store)?;
    let form = RowsForm {
        width: plan.width,
        metric,
        rows,
        sketches,
    };
    let mut vectors = VectorsWriter::new(output, form, &shards);
    let mut inputs = match keep_inputs {
        true => Some(InputsWriter::create(output, plan.n_passages)?),
        false => None,
    };
    let (mut counts, mut n_reused) = (Counts::default(), 0);
    for number in 0..plan.n_chunks() {
        watch.update(Phase::Assemble, counts.passages, n_total)?;
        let (path, of_base) = (chunk::path(work, number), base.map(|base| &base.generation));
        let chunk = Chunk::read(&path, plan.place(number), of_base)?;
        let mut made = chunk.rows.chunks_exact(plan.width);
        for &(input, taken) in &chunk.inputs {
            let damaged = |reason| BuildError::Chunk {
                path: path.clone(),
                reason,
            };
            if let Some(ordinal) = taken {
                let stored = base.and_then(|base| base.stored(ordinal));
                vectors
                    .push_stored(stored.ok_or_else(|| damaged("takes a row that is not there"))?)?;
                n_reused += 1;
            } else {
                vectors.push(made.next().ok_or_else(|| damaged("has too few rows"))?)?;
            }
            if let Some(inputs) = &mut inputs {
                inputs.push(input)?;
            }
        }
        for part in &chunk.parts {
            match &part.characters {
                Some(characters) => passages.push_part(&part.passage, characters)?,
                None => passages.push(&part.passage)?,
            }
        }
        chunk.add_to(&mut counts);
    }
    watch.update(Phase::Assemble, n_total, n_total)?;
    vectors.finish()?;
    if let Some(inputs) = inputs {
        inputs.finish()?;
    }
    if let Some(config) = graph {
        build_graphs(config, &shards, output, watch, n_total)?;
    }
    watch.update(Phase::Lexical, 0, n_total)?;
    passages.finish()?;
    watch.update(Phase::Lexical, n_total, n_total)?;
    Ok(Assembled {
        shards,
        counts,
        n_reused,
    })
}

/// Builds the graphs of the shards, one after the other, each with all threads.
pub(crate) fn build_graphs(
    config: &HnswConfig,
    shards: &[Shard],
    output: &Path,
    watch: Watch<'_>,
    n_total: u64,
) -> Result<(), BuildError> {
    for shard in shards {
        let first = u64::from(shard.first_ordinal);
        watch.update(Phase::Graph, first, n_total)?;
        let Some(path) = &shard.graph else { continue };
        let vectors = FlatShard::open(&output.join(&shard.path), Verify::Header)?;
        let progress = |n_linked| match watch.update(Phase::Graph, first + n_linked as u64, n_total)
        {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        match index::build_graph(&output.join(path), &vectors, config, &progress) {
            Err(WriteError::Interrupted { n_linked, .. }) => {
                return Err(BuildError::Interrupted {
                    phase: Phase::Graph,
                    done: first + n_linked as u64,
                    total: n_total,
                });
            }
            built => built?,
        };
    }
    watch.update(Phase::Graph, n_total, n_total)
}

/// How rows are written.
#[derive(Clone, Copy)]
pub(crate) struct RowsForm {
    pub width: usize,
    pub metric: Metric,
    pub rows: RowType,
    pub sketches: SketchPolicy,
}

/// Writes rows into one shard after the other.
pub(crate) struct VectorsWriter<'a> {
    output: &'a Path,
    form: RowsForm,
    /// Those still to be begun.
    shards: &'a [Shard],
    /// The open shard and the rows it still takes.
    open: Option<(ShardWriter, u32)>,
}

impl<'a> VectorsWriter<'a> {
    pub fn new(output: &'a Path, form: RowsForm, shards: &'a [Shard]) -> Self {
        Self {
            output,
            form,
            shards,
            open: None,
        }
    }

    pub fn push(&mut self, row: &[f32]) -> Result<(), BuildError> {
        Ok(self.next_row()?.push(row)?)
    }

    pub fn push_stored(&mut self, row: &[u8]) -> Result<(), BuildError> {
        Ok(self.next_row()?.push_stored(row)?)
    }

    /// The writer of the shard that takes the next row.
    fn next_row(&mut self) -> Result<&mut ShardWriter, BuildError> {
        if !matches!(self.open, Some((_, n_left)) if n_left > 0) {
            self.begin_next()?;
        }
        let (writer, n_left) = self.open.as_mut().expect("a shard was begun");
        *n_left -= 1;
        Ok(writer)
    }

    fn begin_next(&mut self) -> Result<(), BuildError> {
        self.finish_open()?;
        let (shard, rest) = self
            .shards
            .split_first()
            .expect("the shards have room for every row");
        self.shards = rest;
        let path = self.output.join(&shard.path);
        let folder = path.parent().expect("the file of a shard has a folder");
        fs::create_dir_all(folder).map_err(|source| BuildError::Io {
            path: folder.to_owned(),
            source,
        })?;
        let config = ShardConfig {
            width: self.form.width,
            metric: self.form.metric,
            row_type: self.form.rows,
            first_ordinal: shard.first_ordinal,
            sketches: self.form.sketches,
        };
        self.open = Some((ShardWriter::create(&path, config)?, shard.n_rows));
        Ok(())
    }

    fn finish_open(&mut self) -> Result<(), BuildError> {
        if let Some((writer, _)) = self.open.take() {
            writer.finish()?;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<(), BuildError> {
        self.finish_open()
    }
}
