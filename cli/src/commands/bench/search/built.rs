//! An index that was built to be measured.

use std::path::Path;

use index::{
    FlatShard, Metric, Neighbor, RowType, SearchError, SearchParams, ShardConfig, ShardWriter,
    SketchPolicy, VectorIndex, Verify, Work,
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
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::FlatRows => "flat-rows",
        }
    }
}

/// An index of any kind.
pub enum Index {
    Flat(FlatShard),
}

/// What a search found and, of an exact one, what it read.
pub type Found = (Vec<Vec<Neighbor>>, Option<Work>);

impl Index {
    /// The same index as others see it.
    pub fn as_dyn(&self) -> &dyn VectorIndex {
        match self {
            Self::Flat(index) => index,
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

pub fn build(kind: Kind, base: &VectorFile, metric: Metric) -> anyhow::Result<Built> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vectors.trawl");
    let mut made = None;
    let time = pass(&[()], 1, |_| {
        made = Some(match kind {
            Kind::Flat => flat(base, metric, &path, SketchPolicy::default())?,
            Kind::FlatRows => flat(base, metric, &path, SketchPolicy::Never)?,
        });
        Ok(())
    })?;
    Ok(Built {
        index: made.expect("one call of one item"),
        time,
        n_bytes: std::fs::metadata(&path)?.len(),
        _folder: folder,
    })
}

fn flat(
    base: &VectorFile,
    metric: Metric,
    path: &Path,
    sketches: SketchPolicy,
) -> anyhow::Result<Index> {
    let width = base.width();
    let config = ShardConfig {
        width,
        metric,
        row_type: RowType::F32,
        first_ordinal: 0,
        sketches,
    };
    let mut writer = ShardWriter::create(path, config)?;
    let mut refused = None;
    base.for_each_block(zero_rows(metric), |values| {
        let mut rows = values.chunks_exact(width);
        if refused.is_none() {
            refused = rows.find_map(|row| writer.push(row).err());
        }
    })?;
    if let Some(error) = refused {
        return Err(error.into());
    }
    writer.finish()?;
    Ok(Index::Flat(FlatShard::open(path, Verify::Header)?))
}
