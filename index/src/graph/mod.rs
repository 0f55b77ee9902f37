//! A navigable graph: approximate search that looks at a few hundred vectors of millions.
//!
//! Hierarchical navigable small worlds (Malkov & Yashunin 2018, arXiv 1603.09320): every node has up to 2M links to
//! nodes near it, a part of the nodes also up to M links in each of a few sparser layers above. A search descends
//! through the layers and then walks in the lowest, always on from the most similar node, until the `ef` best are known
//! ([`walk`], Algorithm 2). A new node is linked to what such a walk finds near it ([`build`], Algorithm 1), by links
//! that lead in all directions ([`select`], Algorithm 4).
//!
//! # Similarity
//!
//! A walk does not read rows but codes of a fraction of their bytes: 8 bits for each of the leading principal
//! components that keep most of the variance ([`principal`]), in whole cache lines with all that is needed to compare
//! them ([`codes`]). With `x' = x − center`, the similarity of two vectors is
//!
//! - L2: `⟨x', y'⟩ − |x'|²/2 − |y'|²/2`, which is `−|x − y|²/2`;
//! - inner product and cosine: `⟨x', y'⟩ − oₓ − o_y` with `oₓ = |center|²/2 − ⟨x, center⟩`, which is `⟨x, y⟩`.
//!
//! By the inner product a row need not be the most similar to itself, and links would lead to long rows only. So rows
//! get one coordinate more, the lift `l = (R² − |x|²)^½` with `R` the length of the longest row: lifted rows are all of
//! one length, so that near is similar, and a query, whose lift is 0, has the same products with them as before
//! (Bachrach et al. 2014, *Speeding up the Xbox recommender system*).
//!
//! So all metrics are one product of codes, with an offset of each side and a product of lifts. The best nodes of a walk get their defined
//! [`score`](crate::score) from the rows, as many as the estimates leave open ([`search`]), and the answer is ordered by it.
//!
//! # Deviations from the paper
//!
//! A walk's candidates and results are one sorted array ([`pool`]). Links are chosen from what the walk found, without
//! its neighbors' neighbors. After the build, nodes that no way leads to are given a place on one.
//!
//! # On disk
//!
//! A file of its own beside the shard's, so that a graph can be built later or anew; sections of version 1, all required.
//!
//! | name                | content                                                                                   |
//! |---------------------|-------------------------------------------------------------------------------------------|
//! | `graph`             | `u32` metric, width, first ordinal, number of directions, M, entry; `u64` number of rows, checksum of the shard's header, ef_construction, seed |
//! | `graph_directions`  | `f32`: the center, then the directions, row-major                                         |
//! | `graph_codes`       | for each node whole cache lines: `f32` step, offset and lift, `i32` sum of the codes, the codes + 128 |
//! | `graph_links`       | for each node 2M `u32`: the nodes it links to in layer 0, then `u32::MAX`                  |
//! | `graph_offsets`     | for each node, and one more, `u32`: layers above 0 that the nodes before it reach          |
//! | `graph_upper_links` | for each of those M `u32`, as above                                                       |
//! | `graph_deleted`     | `u32`, ascending: rows that no link leads to                                              |

mod build;
mod codes;
mod encoder;
mod file;
mod index;
mod kernel;
mod layer;
mod plan;
mod pool;
mod principal;
mod repair;
mod search;
mod select;
mod visited;
mod walk;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use index::GraphIndex;
pub use plan::Plan;

use crate::{FlatShard, WriteError};

/// Graph parameters, named as in Malkov & Yashunin 2018 (arXiv 1603.09320), §4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HnswConfig {
    /// Links of a node above layer 0, 2 to 256; layer 0 has twice as many.
    pub m: usize,
    /// Candidates kept while a node is inserted. Higher: better recall, slower build.
    pub ef_construction: usize,
    /// Seed of the layer draw.
    pub seed: u64,
    /// How many threads build. They come from the rayon pool of the call; with one, equal rows give an equal graph.
    /// `None`: all of the pool.
    pub threads: Option<NonZeroUsize>,
}

impl Default for HnswConfig {
    fn default() -> Self {
        Self {
            m: 16,
            ef_construction: 200,
            seed: 0,
            threads: None,
        }
    }
}

impl HnswConfig {
    /// Checks, before there are any rows, that [`build_graph`] takes these parameters and rows of so many values.
    ///
    /// # Errors
    /// [`WriteError::Width`] of rows too wide for a graph; [`WriteError::Links`].
    pub fn check(&self, width: usize) -> Result<(), WriteError> {
        file::check(width, self)
    }
}

/// What was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphSummary {
    /// Number of nodes that can be found.
    pub n_nodes: u64,
    /// Length of the file.
    pub n_bytes: u64,
}

/// Told how many nodes are linked; says whether to go on.
pub type Progress<'a> = dyn Fn(usize) -> ControlFlow<()> + Sync + 'a;

/// Builds the graph of a shard and writes it to `path`, a file of its own.
///
/// `progress` is told the number of nodes that are linked, now and then and from any thread, and may break off; nothing is written
/// then. Memory: codes and links, about 450 bytes a row of 384 values with the default parameters.
///
/// # Errors
/// [`WriteError::Write`]; [`WriteError::Width`] of rows too wide for a graph; [`WriteError::GraphRows`];
/// [`WriteError::Links`]; [`WriteError::Interrupted`].
pub fn build_graph(
    path: &Path,
    shard: &FlatShard,
    config: &HnswConfig,
    progress: &Progress<'_>,
) -> Result<GraphSummary, WriteError> {
    file::write(path, shard, config, progress)
}
