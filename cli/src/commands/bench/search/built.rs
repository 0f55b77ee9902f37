//! An index that was built to be measured.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use compute::accelerator::SharedAccelerator;
use index::{
    AcceleratedConfig, AcceleratedIndex, FlatShard, GraphIndex, HnswConfig, Metric, Neighbor, Plan,
    RowType, SearchError, SearchParams, ShardConfig, ShardWriter, ShardedIndex, SketchPolicy,
    VectorIndex, Verify, Work, build_graph,
};
use vectors::VectorFile;

use super::super::clock::{Pass, pass};
use super::{How, zero_rows};

/// What is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Exact, by sketches of the rows where there are rows enough.
    #[default]
    Flat,
    /// Exact, by the rows alone.
    FlatRows,
    /// Approximate, by a graph, where that is expected to be faster than an exact search.
    Hnsw,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::FlatRows => "flat-rows",
            Self::Hnsw => "hnsw",
        }
    }
}

/// How it is built.
pub struct BuildConfig {
    pub kind: Kind,
    pub metric: Metric,
    pub row_type: RowType,
    /// Of a graph.
    pub m: usize,
    pub ef_construction: usize,
    pub threads: NonZeroUsize,
    /// What holds the rows of an exact index and searches them; the host when empty.
    pub devices: Vec<SharedAccelerator>,
}

/// An index of any kind.
pub enum Index {
    Flat(ShardedIndex),
    Accelerated(AcceleratedIndex),
    Graph(GraphIndex),
}

/// What a search found, and what an exact one read.
pub type Found = (Vec<Vec<Neighbor>>, Option<Work>);

impl Index {
    /// The same index as others see it.
    pub fn as_dyn(&self) -> &dyn VectorIndex {
        match self {
            Self::Flat(index) => index,
            Self::Accelerated(index) => index,
            Self::Graph(index) => index,
        }
    }

    /// How a search is carried out.
    pub fn plan(&self, how: &How, params: &SearchParams) -> Plan {
        match self {
            Self::Flat(_) | Self::Accelerated(_) if how.filter.is_some() => Plan::FilteredScan,
            Self::Flat(_) | Self::Accelerated(_) => Plan::Scan,
            Self::Graph(index) => index.plan(how.k, how.filter.as_ref(), params),
        }
    }

    pub fn search(
        &self,
        queries: &[f32],
        how: &How,
        params: &SearchParams,
    ) -> Result<Found, SearchError> {
        let filter = how.filter.as_ref();
        match self {
            Self::Flat(index) => {
                let (found, work) = index.search_counted(queries, how.k, filter, params)?;
                Ok((found, Some(work)))
            }
            Self::Accelerated(index) => Ok((index.search(queries, how.k, filter, params)?, None)),
            Self::Graph(index) => Ok((index.search(queries, how.k, filter, params)?, None)),
        }
    }
}

/// An index in a folder that goes when it goes.
pub struct Built {
    pub index: Index,
    /// From the file of vectors to an index that can be searched.
    pub time: Pass,
    /// Of all files of the index.
    pub n_bytes: u64,
    _folder: tempfile::TempDir,
}

pub fn build(base: &VectorFile, config: &BuildConfig) -> anyhow::Result<Built> {
    let folder = tempfile::tempdir()?;
    let rows = folder.path().join("vectors.trawl");
    let graph = folder.path().join("graph.trawl");
    let mut made = None;
    let time = pass(&[()], 1, |_| {
        let shard = shard(base, config, &rows)?;
        made = Some(match config.kind {
            Kind::Flat | Kind::FlatRows => {
                let flat = ShardedIndex::from_shards(vec![shard])?;
                match &config.devices[..] {
                    [] => Index::Flat(flat),
                    devices => {
                        let config = AcceleratedConfig::default();
                        Index::Accelerated(AcceleratedIndex::load(flat, devices, &config)?)
                    }
                }
            }
            Kind::Hnsw => {
                let config = HnswConfig {
                    m: config.m,
                    ef_construction: config.ef_construction,
                    threads: Some(config.threads),
                    ..HnswConfig::default()
                };
                build_graph(&graph, &shard, &config, &|_| ControlFlow::Continue(()))?;
                let flat = ShardedIndex::from_shards(vec![shard])?;
                let graphs = std::slice::from_ref(&graph);
                Index::Graph(GraphIndex::open(flat, graphs, Verify::Header)?)
            }
        });
        Ok(())
    })?;
    let mut n_bytes = 0;
    for entry in folder.path().read_dir()? {
        n_bytes += entry?.metadata()?.len();
    }
    Ok(Built {
        index: made.expect("one call of one item"),
        time,
        n_bytes,
        _folder: folder,
    })
}

fn shard(base: &VectorFile, config: &BuildConfig, path: &Path) -> anyhow::Result<FlatShard> {
    let width = base.width();
    let shard_config = ShardConfig {
        width,
        metric: config.metric,
        row_type: config.row_type,
        first_ordinal: 0,
        sketches: match config.kind {
            Kind::FlatRows => SketchPolicy::Never,
            Kind::Flat | Kind::Hnsw => SketchPolicy::default(),
        },
    };
    let mut writer = ShardWriter::create(path, shard_config)?;
    let mut refused = None;
    base.for_each_block(zero_rows(config.metric), |values| {
        let mut rows = values.chunks_exact(width);
        if refused.is_none() {
            refused = rows.find_map(|row| writer.push(row).err());
        }
    })?;
    if let Some(error) = refused {
        return Err(error.into());
    }
    writer.finish()?;
    Ok(FlatShard::open(path, Verify::Header)?)
}
