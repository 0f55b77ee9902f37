use std::path::PathBuf;
use std::sync::Arc;

use collection::{Generation, Manifest};
use futures::future::BoxFuture;
use index::{
    Bitmap, GraphIndex, Metric, Neighbor, NoRows, OpenError, Plan, SearchParams, ShardedIndex,
    VectorIndex, Verify,
};

use crate::Deadline;

/// Why a backend gave no neighbors for a query.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The index refused the query.
    #[error(transparent)]
    Search(#[from] index::SearchError),
    /// The deadline passed before the search was started.
    #[error("deadline passed before the index was searched")]
    DeadlineExceeded,
    /// The search ended without an answer.
    #[error("search stopped without an answer")]
    Stopped,
}

/// Where query vectors meet passages: in this process, or in an engine on other machines.
pub trait SearchBackend: Send + Sync {
    /// Returns, for each of the B queries, its `k` nearest passages, best first, ties to the smaller ordinal.
    ///
    /// `queries` holds B rows, row-major. The list has B entries, each with its own outcome: one bad query does not
    /// cost the others their answer.
    fn search(
        &self,
        queries: Vec<f32>,
        k: usize,
        filter: Option<Arc<Bitmap>>,
        params: SearchParams,
        deadline: Deadline,
    ) -> BoxFuture<'_, Vec<Result<Vec<Neighbor>, BackendError>>>;

    /// How [`Self::search`] answers these arguments.
    fn plan(&self, k: usize, filter: Option<&Bitmap>, params: &SearchParams) -> Plan;

    /// Values of one row.
    fn width(&self) -> usize;
}

/// Opens the vectors of a generation, with their graphs where every shard has one.
///
/// # Errors
/// [`OpenError`] names what is missing or damaged, as far as `verify` looks.
pub fn open_index(
    generation: &Generation,
    verify: Verify,
) -> Result<Arc<dyn VectorIndex>, OpenError> {
    let shards = &generation.manifest.shards;
    if shards.is_empty() {
        return Ok(Arc::new(NoRows {
            width: generation.manifest.width,
            metric: metric(&generation.manifest)?,
        }));
    }
    let inside = |path: &String| generation.path.join(path);
    let vectors: Vec<PathBuf> = shards.iter().map(|shard| inside(&shard.path)).collect();
    let graphs: Option<Vec<PathBuf>> = shards
        .iter()
        .map(|shard| shard.graph.as_ref().map(inside))
        .collect();
    let flat = ShardedIndex::open(&vectors, verify)?;
    Ok(match graphs {
        Some(graphs) => Arc::new(GraphIndex::open(flat, &graphs, verify)?),
        None => Arc::new(flat),
    })
}

/// How a generation compares its rows.
pub(crate) fn metric(manifest: &Manifest) -> Result<Metric, OpenError> {
    serde_json::from_value(manifest.metric.as_str().into()).map_err(|_| OpenError::NoShards)
}

/// The index of a generation, searched on tokio's blocking threads.
pub struct InProcess {
    index: Arc<dyn VectorIndex>,
}

impl InProcess {
    /// Wraps an open index.
    #[must_use]
    pub fn new(index: Arc<dyn VectorIndex>) -> Self {
        Self { index }
    }
}

impl SearchBackend for InProcess {
    fn search(
        &self,
        queries: Vec<f32>,
        k: usize,
        filter: Option<Arc<Bitmap>>,
        params: SearchParams,
        deadline: Deadline,
    ) -> BoxFuture<'_, Vec<Result<Vec<Neighbor>, BackendError>>> {
        let index = Arc::clone(&self.index);
        let width = index.width();
        let n_queries = queries.len() / width;
        Box::pin(async move {
            let task = tokio::task::spawn_blocking(move || {
                if deadline.expired() {
                    return (0..n_queries)
                        .map(|_| Err(BackendError::DeadlineExceeded))
                        .collect();
                }
                match index.search(&queries, k, filter.as_deref(), &params) {
                    Ok(lists) => lists.into_iter().map(Ok).collect(),
                    // One query of the batch is at fault: asked one by one, only that one fails.
                    Err(_) if n_queries > 1 => queries
                        .chunks_exact(width)
                        .map(|query| one(&*index, query, k, filter.as_deref(), &params))
                        .collect(),
                    Err(error) => vec![Err(error.into())],
                }
            });
            task.await
                .unwrap_or_else(|_| (0..n_queries).map(|_| Err(BackendError::Stopped)).collect())
        })
    }

    fn plan(&self, k: usize, filter: Option<&Bitmap>, params: &SearchParams) -> Plan {
        self.index.plan(k, filter, params)
    }

    fn width(&self) -> usize {
        self.index.width()
    }
}

fn one(
    index: &dyn VectorIndex,
    query: &[f32],
    k: usize,
    filter: Option<&Bitmap>,
    params: &SearchParams,
) -> Result<Vec<Neighbor>, BackendError> {
    let mut lists = index.search(query, k, filter, params)?;
    lists.pop().ok_or(BackendError::Stopped)
}
