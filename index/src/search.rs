//! What every index offers, whatever is behind it.

use std::num::NonZeroUsize;
use std::time::Instant;

use compute::Simd;
use compute::accelerator::AcceleratorError;

use crate::{Metric, Neighbor, Plan, metric};

/// A set of ordinals: the rows a filtered search may return.
pub type Bitmap = roaring::RoaringBitmap;

/// An index of vectors: flat today, graphs and other devices behind the same interface.
pub trait VectorIndex: Send + Sync {
    /// Number of rows.
    fn len(&self) -> usize;

    /// True when there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values in a row and in a query.
    fn width(&self) -> usize;

    /// What a score is here.
    fn metric(&self) -> Metric;

    /// What the index can do, for callers that plan.
    fn capabilities(&self) -> Capabilities;

    /// How [`Self::search`] answers these arguments.
    fn plan(&self, k: usize, filter: Option<&Bitmap>, params: &SearchParams) -> Plan {
        let _ = (k, params);
        match filter {
            None => Plan::Scan,
            Some(_) => Plan::FilteredScan,
        }
    }

    /// Returns the `k` nearest rows of each query, best first; ties go to the smaller ordinal.
    ///
    /// `queries` holds B rows of [`Self::width`] values, row-major, as the encoder gave them: under
    /// [`Metric::Cosine`] they are normalized here. Only rows in `filter` are considered when there is one; ordinals
    /// in it that the index lacks are ignored. Scores are [`score`](crate::score)s: higher is nearer. The answer has B
    /// lists of `min(k, rows considered)` neighbors when the search is exact.
    ///
    /// # Errors
    /// [`SearchError`] names the query that cannot be compared. One such query refuses the whole batch.
    fn search(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError>;
}

/// What an index can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// A filter is applied while searching, so that `k` passing rows are found when there are `k`.
    pub filter: bool,
    /// Answers are exact even when [`SearchParams::exact`] does not ask for it.
    pub exact: bool,
    /// Where the search runs.
    pub device: Device,
}

/// Where a search runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The host's processors.
    Cpu,
    /// GPUs, through CUDA.
    Cuda,
}

/// How to search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchParams {
    /// Demands an exact answer of an index that could also approximate.
    pub exact: bool,
    /// How many candidates a walk through a graph keeps, the paper's ef: more find more and take longer. `None`: a recall
    /// of about .95 of the 10 nearest. Exact search has no use for it.
    pub ef: Option<usize>,
    /// How many threads work on this search. They come from the rayon pool the call is made in; with one, the
    /// calling thread does all the work itself. `None`: all of the pool.
    pub threads: Option<NonZeroUsize>,
    /// Vector instructions at most; the answer does not depend on them. `None`: all that the machine has.
    pub simd: Option<Simd>,
    /// When the answer is of no more use: a search that is not done by then ends with an error. It is looked at before
    /// each span of rows of a scan, each shard of a walk, and each batch of queries on a device.
    pub deadline: Option<Instant>,
}

impl SearchParams {
    /// Whether the deadline has passed.
    pub(crate) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|end| end <= Instant::now())
    }
}

/// What an exact search read, over all of its queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Rows whose head was compared; see the sketches of a shard.
    pub heads: u64,
    /// Rows whose tail was, too.
    pub tails: u64,
    /// Rows that got their defined score.
    pub scored: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.heads += other.heads;
        self.tails += other.tails;
        self.scored += other.scored;
    }
}

/// Why a search was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "each message says what its fields are")]
#[non_exhaustive]
pub enum SearchError {
    /// The query values do not divide into whole queries.
    #[error("{n_values} query values do not divide into queries of width {width}")]
    Width { n_values: usize, width: usize },
    /// A query holds NaN or infinity.
    #[error("query {query} is not finite at dimension {dimension}")]
    NotFinite { query: usize, dimension: usize },
    /// A query is zero, which has no direction and so no cosine.
    #[error("query {query} is zero, which has no cosine")]
    ZeroQuery { query: usize },
    /// [`SearchParams::deadline`] passed before the search was done.
    #[error("deadline passed before the search was done")]
    DeadlineExceeded,
    /// The device that holds the rows did not answer.
    #[error(transparent)]
    Device(#[from] AcceleratorError),
}

/// Returns the queries, row-major, as the metric compares them.
///
/// # Errors
/// [`SearchError`] names the first that cannot be compared.
pub fn prepare_queries(
    queries: &[f32],
    width: usize,
    metric: Metric,
) -> Result<Vec<f32>, SearchError> {
    if !queries.len().is_multiple_of(width) {
        return Err(SearchError::Width {
            n_values: queries.len(),
            width,
        });
    }
    let mut prepared = queries.to_vec();
    for (query, values) in prepared.chunks_exact_mut(width).enumerate() {
        if let Some(dimension) = values.iter().position(|value| !value.is_finite()) {
            return Err(SearchError::NotFinite { query, dimension });
        }
        if metric == Metric::Cosine && metric::normalize(values) == 0.0 {
            return Err(SearchError::ZeroQuery { query });
        }
    }
    Ok(prepared)
}
