//! Many shards that answer as one.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::scan;
use crate::section::Verify;
use crate::shard::FlatShard;
use crate::{
    Bitmap, Capabilities, Device, Metric, Neighbor, OpenError, SearchError, SearchParams,
    VectorIndex, Work,
};

/// The shards of one index, in ordinal order.
///
/// The answer is the same, bit for bit, however the rows are divided into shards.
#[derive(Debug)]
pub struct ShardedIndex {
    shards: Vec<FlatShard>,
}

impl ShardedIndex {
    /// Opens the shards at `paths`, given in ordinal order.
    ///
    /// # Errors
    /// [`OpenError`] of a shard, or of [`Self::from_shards`].
    pub fn open(paths: &[PathBuf], verify: Verify) -> Result<Self, OpenError> {
        Self::from_shards(
            paths
                .iter()
                .map(|path| FlatShard::open(path, verify))
                .collect::<Result<_, _>>()?,
        )
    }

    /// Joins shards given in ordinal order.
    ///
    /// # Errors
    /// Each shard must have the width and metric of the first and begin at the ordinal after the last of the shard
    /// before: [`OpenError::Width`], [`OpenError::Metric`] and [`OpenError::FirstOrdinal`] name the first that does
    /// not; [`OpenError::NoShards`] when there is none.
    pub fn from_shards(shards: Vec<FlatShard>) -> Result<Self, OpenError> {
        if shards.is_empty() {
            return Err(OpenError::NoShards);
        }
        for (before, shard) in shards.iter().zip(&shards[1..]) {
            let path = || shard.path().to_owned();
            let (expected, found) = (before.width(), shard.width());
            if found != expected {
                return Err(OpenError::Width {
                    path: path(),
                    expected,
                    found,
                });
            }
            let (expected, found) = (before.metric(), shard.metric());
            if found != expected {
                return Err(OpenError::Metric {
                    path: path(),
                    expected,
                    found,
                });
            }
            let (expected, found) = (before.end_ordinal(), shard.first_ordinal().into());
            if found != expected {
                return Err(OpenError::FirstOrdinal {
                    path: path(),
                    expected,
                    found,
                });
            }
        }
        Ok(Self { shards })
    }

    /// The shards, in ordinal order.
    pub fn shards(&self) -> &[FlatShard] {
        &self.shards
    }

    /// The stored row of an ordinal, `None` when no shard has it.
    pub fn row(&self, ordinal: u32) -> Option<Cow<'_, [f32]>> {
        let (shard, i) = self.place(ordinal)?;
        Some(shard.row(i))
    }

    /// The bytes of that row, for [`crate::ShardWriter::push_stored`].
    pub fn stored(&self, ordinal: u32) -> Option<&[u8]> {
        let (shard, i) = self.place(ordinal)?;
        Some(shard.stored(i))
    }

    /// The shard of an ordinal, and the place in it.
    fn place(&self, ordinal: u32) -> Option<(&FlatShard, usize)> {
        let i = self
            .shards
            .partition_point(|shard| shard.end_ordinal() <= ordinal.into());
        let shard = self.shards.get(i)?;
        let i = ordinal.checked_sub(shard.first_ordinal())?;
        Some((shard, i as usize))
    }

    /// [`VectorIndex::search`], and what it read.
    ///
    /// # Errors
    /// As there.
    pub fn search_counted(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<(Vec<Vec<Neighbor>>, Work), SearchError> {
        scan::search(&self.shards, queries, k, filter, params)
    }
}

impl VectorIndex for ShardedIndex {
    fn len(&self) -> usize {
        self.shards.iter().map(VectorIndex::len).sum()
    }

    fn width(&self) -> usize {
        self.shards[0].width()
    }

    fn metric(&self) -> Metric {
        self.shards[0].metric()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            filter: true,
            exact: true,
            device: Device::Cpu,
        }
    }

    fn search(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        Ok(self.search_counted(queries, k, filter, params)?.0)
    }
}
