//! Exact search on devices that hold all rows: GPUs.
//!
//! [`AcceleratedIndex`] copies the rows of shards into the memory of one device or several, contiguous ranges of ordinals each, and
//! answers as [`ShardedIndex`] does, bit for bit. On a device (`search.cu`):
//!
//! 1. A *scan* computes something for every row that is as good as its score but for a known error, and appends those rows to a list of
//!    candidates that are not surely below the `k`-th best score so far. For up to 16 queries it streams the heads of sketches where there
//!    are any ([`sketch`](crate::sketch) has the bound), else the rows in `f32`; more queries are multiplied with tiles of rows by matrix
//!    units, and the products, which never leave the cache, are filtered; of `int8` rows 16 queries after the other are streamed. No scores of all rows are kept, and none are sorted.
//! 2. *Rescoring* gives candidates their defined score, in `f64`, in the order that [`score`](crate::score) defines.
//! 3. The *best* `k` of them and of those before are kept, sorted by score and ordinal, and the `k`-th raises the limit of the next scan.
//!
//! Rows are read in few steps, the first of few rows, each later one of three times the rows before it; no step has more rows than
//! candidates have room, so no candidate is ever dropped, whatever the rows are, and nothing is asked of the host in between.
//! The lists of several devices are merged on the host. Candidates are found in any order, but what is kept has a total order: answers
//! do not depend on timing.
//!
//! Memory is planned before anything is copied ([`MemoryPlan`]); what does not fit is refused, and what is loaded already stays as it is.

mod device;
mod limit;
mod part;
mod plan;

use std::thread;

use compute::accelerator::{AcceleratorError, Module, SharedAccelerator};

pub(crate) use limit::LimitRule;
pub use plan::MemoryPlan;

use crate::search::prepare_queries;
use crate::shard::FlatShard;
use crate::{
    Bitmap, Capabilities, Device, Metric, Neighbor, RowType, SearchError, SearchParams,
    ShardedIndex, VectorIndex,
};
use device::{DeviceRows, Queries};

/// The kernels of search.
static SEARCH_KERNELS: Module = Module {
    name: "search",
    source: include_str!("search.cu"),
    kernels: &[
        "scan_f32_1",
        "scan_f32_4",
        "scan_f32_16",
        "scan_f32_1_l2",
        "scan_f32_4_l2",
        "scan_f32_16_l2",
        "scan_f16_1",
        "scan_f16_4",
        "scan_f16_16",
        "scan_f16_1_l2",
        "scan_f16_4_l2",
        "scan_f16_16_l2",
        "scan_bf16_1",
        "scan_bf16_4",
        "scan_bf16_16",
        "scan_bf16_1_l2",
        "scan_bf16_4_l2",
        "scan_bf16_16_l2",
        "scan_int8_1",
        "scan_int8_4",
        "scan_int8_16",
        "scan_int8_1_l2",
        "scan_int8_4_l2",
        "scan_int8_16_l2",
        "scan_heads_1",
        "scan_heads_4",
        "scan_heads_16",
        "filter_products",
        "rescore_f32",
        "rescore_f16",
        "rescore_bf16",
        "rescore_int8",
        "rescore_f32_l2",
        "rescore_f16_l2",
        "rescore_bf16_l2",
        "rescore_int8_l2",
        "keep_best",
    ],
};

/// Most neighbours that a device keeps for a query; longer lists are the host's work.
pub(crate) const MAX_K: usize = 1024;
/// Rows of a shard on one device: kernels count them in 32 bits, and a little beyond.
const MAX_PART_ROWS: usize = (1 << 32) - (1 << 20);
/// The widest row whose query fits the shared memory of a block.
const MAX_ACCELERATED_WIDTH: usize = 12_288;

/// How devices search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceleratedConfig {
    /// Queries that are searched together; more are searched in turns.
    pub max_queries: usize,
    /// Rows that are read before there is a limit.
    pub first_rows: usize,
    /// Bytes for candidates, 8 each.
    pub candidate_bytes: usize,
    /// Rows that are multiplied with queries at once: their products should stay in the device's cache.
    pub tile_rows: usize,
}

impl Default for AcceleratedConfig {
    /// 1,024 queries with products of 4,096 rows are 16 MiB, of 50 MB of cache in an H100.
    fn default() -> Self {
        Self {
            max_queries: 1024,
            first_rows: 4096,
            candidate_bytes: 1 << 30,
            tile_rows: 4096,
        }
    }
}

/// Why rows are not on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The device has no room, or failed.
    #[error(transparent)]
    Device(#[from] AcceleratorError),
    /// Rows are too wide for the kernels.
    #[error("rows of {width} values are too wide for devices, which take {max} at most")]
    TooWide {
        /// Values in a row.
        width: usize,
        /// The widest.
        max: usize,
    },
    /// A shard has more rows than a device counts.
    #[error("a device takes {max} rows of a shard at most, not {n_rows}")]
    TooManyRows {
        /// Rows of the shard on one device.
        n_rows: usize,
        /// The most.
        max: usize,
    },
    /// There is no device to load them to.
    #[error("no device was named")]
    NoDevices,
}

/// The shards of one index, searched by devices.
pub struct AcceleratedIndex {
    flat: ShardedIndex,
    devices: Vec<DeviceRows>,
}

impl AcceleratedIndex {
    /// Copies the rows of shards to devices, in the order of both; a device may be named several times.
    ///
    /// # Errors
    /// [`LoadError`]; [`AcceleratorError::OutOfMemory`] before anything is copied to the device that it names.
    ///
    /// # Panics
    /// When `config` has a number that is 0, or no room for a candidate of each query.
    pub fn load(
        flat: ShardedIndex,
        devices: &[SharedAccelerator],
        config: &AcceleratedConfig,
    ) -> Result<Self, LoadError> {
        assert!(
            config.first_rows > 0 && config.tile_rows > 0 && config.max_queries > 0,
            "nothing is searched by {config:?}"
        );
        assert!(
            config.candidate_bytes >= 8 * config.max_queries,
            "each query has a candidate: {config:?}"
        );
        let width = flat.width();
        if width > MAX_ACCELERATED_WIDTH {
            return Err(LoadError::TooWide {
                width,
                max: MAX_ACCELERATED_WIDTH,
            });
        }
        let stretches = stretches(&flat, devices.len())?;
        let n_rows = stretches.iter().flatten().map(|stretch| stretch.rows.len());
        if let Some(n_rows) = n_rows.max().filter(|&n| n > MAX_PART_ROWS) {
            return Err(LoadError::TooManyRows {
                n_rows,
                max: MAX_PART_ROWS,
            });
        }
        let devices = stretches
            .iter()
            .zip(devices)
            .map(|(stretches, device)| DeviceRows::load(device, flat.shards(), stretches, config))
            .collect::<Result<_, _>>()?;
        Ok(Self { flat, devices })
    }

    /// What the rows would take on each of so many devices.
    ///
    /// # Errors
    /// [`LoadError::NoDevices`].
    pub fn memory_plan(
        flat: &ShardedIndex,
        n_devices: usize,
        config: &AcceleratedConfig,
    ) -> Result<Vec<MemoryPlan>, LoadError> {
        let stretches = stretches(flat, n_devices)?;
        let plan = |stretches: &Vec<_>| device::memory_plan(flat.shards(), stretches, config);
        Ok(stretches.iter().map(plan).collect())
    }

    /// The same rows, on the host.
    #[must_use]
    pub fn flat(&self) -> &ShardedIndex {
        &self.flat
    }

    /// The `k` nearest rows of each query, as [`VectorIndex::search`] gives them for a `k` up to 1,024, and how many rows were
    /// rescored for that.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// When `k` is larger.
    pub fn search_counted(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<(Vec<Vec<Neighbor>>, u64), SearchError> {
        assert!(k <= MAX_K, "{k} neighbours of at most {MAX_K}");
        let (width, metric) = (self.width(), self.metric());
        let prepared = prepare_queries(queries, width, metric)?;
        if k == 0 || prepared.is_empty() {
            return Ok((vec![Vec::new(); prepared.len() / width], 0));
        }
        let queries = Queries {
            values: &prepared,
            width,
            metric,
        };
        let shards = self.flat.shards();
        let search = |device: &DeviceRows| device.search(shards, &queries, k, filter, params);
        let (first, rest) = self.devices.split_first().expect("`load` wants a device");
        let (mut lists, n_rescored) = thread::scope(|scope| {
            let spawned = rest
                .iter()
                .map(|device| scope.spawn(move || search(device)));
            let rest: Vec<_> = spawned.collect();
            let (mut lists, mut n_rescored) = search(first)?;
            for thread in rest {
                let found = thread.join();
                let (more, n) = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                for (list, more) in lists.iter_mut().zip(more) {
                    list.extend(more);
                }
                n_rescored += n;
            }
            Ok::<_, SearchError>((lists, n_rescored))
        })?;
        if !rest.is_empty() {
            for list in &mut lists {
                list.sort_unstable();
                list.truncate(k);
            }
        }
        Ok((lists, n_rescored))
    }
}

fn stretches(flat: &ShardedIndex, n_devices: usize) -> Result<Vec<Vec<plan::Stretch>>, LoadError> {
    if n_devices == 0 {
        return Err(LoadError::NoDevices);
    }
    let n_rows: Vec<usize> = flat.shards().iter().map(VectorIndex::len).collect();
    Ok(plan::divide(&n_rows, n_devices))
}

/// Values in a row of a shard with the padding it has on a device.
fn padded_width(shard: &FlatShard) -> usize {
    let row_type: RowType = shard.config().row_type;
    plan::row_bytes(row_type, shard.width()) / plan::value_bytes(row_type)
}

impl VectorIndex for AcceleratedIndex {
    fn len(&self) -> usize {
        self.flat.len()
    }

    fn width(&self) -> usize {
        self.flat.width()
    }

    fn metric(&self) -> Metric {
        self.flat.metric()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            filter: true,
            exact: true,
            device: Device::Cuda,
        }
    }

    /// The host itself searches for more than 1,024 neighbours.
    fn search(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        if k > MAX_K {
            return self.flat.search(queries, k, filter, params);
        }
        Ok(self.search_counted(queries, k, filter, params)?.0)
    }
}
