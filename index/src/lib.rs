//! Vectors to neighbours: exact flat search over typed, memory-mapped rows.
//!
//! This crate knows nothing of text or models. It maps rows of `f32` to *ordinals*, the numbers of passages in
//! corpus order, and answers "which `k` ordinals score highest against this query". Read it in this order:
//!
//! 1. [`score`] says what a score is: the one definition that every search path, this crate's and later ones, ends with.
//! 2. [`Neighbor`] says what order the answer has.
//! 3. [`SectionFile`] is the container on disk; [`ShardWriter`] and [`FlatShard`] put rows into it and read them back.
//! 4. `sketch` says in a fraction of the bytes what a row's score can be at most, with the proof.
//! 5. `scan` finds the neighbours: a fast pass over sketches, or over rows in `f32`, then [`score`] for what it cannot rule out.
//! 6. [`ShardedIndex`] makes many shards answer as one.
//! 7. [`MemoryRows`] holds rows that are in no shard yet.
//! 8. `accelerated` does the same on devices that hold all rows.
//! 9. `graph` is for more rows than one wants to look at: [`build_graph`] beside a shard, [`GraphIndex`] over both.

mod accelerated;
#[cfg(feature = "hnsw-rs")]
mod baseline;
mod components;
mod error;
mod graph;
mod kernel;
mod memory;
mod metric;
mod neighbor;
mod rows;
mod scan;
mod search;
mod section;
mod shard;
mod sharded;
mod sketch;

pub use accelerated::{AcceleratedConfig, AcceleratedIndex, LoadError, MemoryPlan};
#[cfg(feature = "hnsw-rs")]
pub use baseline::HnswRsIndex;
pub use error::{OpenError, RepairError, WriteError};
pub use graph::{GraphIndex, GraphSummary, HnswConfig, Plan, Progress, build_graph};
pub use memory::{MemoryRows, NoRows};
pub use metric::{Metric, normalize, score};
pub use neighbor::Neighbor;
pub use rows::RowType;
pub use search::{
    Bitmap, Capabilities, Device, SearchError, SearchParams, VectorIndex, Work, prepare_queries,
};
pub use section::{KnownSection, Need, SectionFile, SectionWriter, Verify};
pub use shard::{FlatShard, MAX_WIDTH, ShardConfig, ShardSummary, ShardWriter, SketchPolicy};
pub use sharded::ShardedIndex;

#[cfg(target_endian = "big")]
compile_error!("vector files are little-endian and are mapped into memory as they are");
