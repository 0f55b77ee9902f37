//! Chunks to shards, store and lexical index.

use std::fs;
use std::path::Path;

use collection::{Counts, Shard};
use index::{
    FlatShard, HnswConfig, Metric, RowType, ShardConfig, ShardWriter, SketchPolicy, Verify,
};
use store::{StoreConfig, StoreWriter};

use crate::chunk::{self, Chunk};
use crate::encode::Plan;
use crate::progress::Watch;
use crate::{BuildError, Phase};

/// How a generation is laid out.
pub(crate) struct Layout {
    pub n_shards: usize,
    pub metric: Metric,
    pub rows: RowType,
    pub graph: Option<HnswConfig>,
    pub store: StoreConfig,
    /// Arithmetic of the vectors.
    pub arithmetic: &'static str,
}

/// Writes the files of a generation into `output` and returns its shards and what the chunks counted.
///
/// Shard i of S holds the ordinals from ⌊i·n/S⌋ on: contiguous ranges whose lengths differ by one at most.
pub(crate) fn assemble(
    plan: Plan,
    layout: &Layout,
    work: &Path,
    output: &Path,
    watch: Watch<'_>,
) -> Result<(Vec<Shard>, Counts), BuildError> {
    let &Layout {
        n_shards,
        metric,
        rows,
        ref graph,
        ref store,
        arithmetic,
    } = layout;
    let n_total = u64::from(plan.n_passages);
    let first_ordinal = |shard: usize| (shard as u64 * n_total / n_shards as u64) as u32;
    let shards: Vec<Shard> = (0..n_shards)
        .map(|i| Shard {
            path: format!("shards/{i:03}/vectors.trawl"),
            first_ordinal: first_ordinal(i),
            n_rows: first_ordinal(i + 1) - first_ordinal(i),
            arithmetic: arithmetic.to_owned(),
            graph: graph.as_ref().map(|_| format!("shards/{i:03}/graph.trawl")),
        })
        .collect();
    let mut passages = StoreWriter::create(output, store)?;
    let mut vectors = VectorsWriter {
        output,
        plan,
        metric,
        rows,
        shards: &shards,
        open: None,
    };
    let mut counts = Counts::default();
    for number in 0..plan.n_chunks() {
        watch.update(Phase::Assemble, counts.passages, n_total)?;
        let chunk = Chunk::read(&chunk::path(work, number), plan.place(number))?;
        for row in chunk.rows.chunks_exact(plan.width) {
            vectors.push(row)?;
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
    if let Some(config) = graph {
        build_graphs(config, &shards, output, watch, n_total)?;
    }
    watch.update(Phase::Lexical, 0, n_total)?;
    passages.finish()?;
    watch.update(Phase::Lexical, n_total, n_total)?;
    Ok((shards, counts))
}

/// Builds the graphs of the shards, one after the other, each with all threads.
fn build_graphs(
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
        index::build_graph(&output.join(path), &vectors, config, &|n_linked| {
            watch
                .progress
                .update(Phase::Graph, first + n_linked as u64, n_total);
        })?;
    }
    watch.update(Phase::Graph, n_total, n_total)
}

/// Writes rows into one shard after the other.
struct VectorsWriter<'a> {
    output: &'a Path,
    plan: Plan,
    metric: Metric,
    rows: RowType,
    /// Those still to be begun.
    shards: &'a [Shard],
    /// The open shard and the rows it still takes.
    open: Option<(ShardWriter, u32)>,
}

impl VectorsWriter<'_> {
    fn push(&mut self, row: &[f32]) -> Result<(), BuildError> {
        let (writer, n_left) = match &mut self.open {
            Some((writer, n_left)) if *n_left > 0 => (writer, n_left),
            _ => self.begin_next()?,
        };
        writer.push(row)?;
        *n_left -= 1;
        Ok(())
    }

    fn begin_next(&mut self) -> Result<(&mut ShardWriter, &mut u32), BuildError> {
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
            width: self.plan.width,
            metric: self.metric,
            row_type: self.rows,
            first_ordinal: shard.first_ordinal,
            sketches: SketchPolicy::default(),
        };
        let (writer, n_left) = self
            .open
            .insert((ShardWriter::create(&path, config)?, shard.n_rows));
        Ok((writer, n_left))
    }

    fn finish_open(&mut self) -> Result<(), BuildError> {
        if let Some((writer, _)) = self.open.take() {
            writer.finish()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), BuildError> {
        self.finish_open()
    }
}
