use std::path::PathBuf;
use std::sync::Arc;

use collection::{Generation, Manifest};
use compute::accelerator::SharedAccelerator;
use futures::future::BoxFuture;
use index::{
    AcceleratedConfig, AcceleratedIndex, Bitmap, GraphIndex, Metric, Neighbor, NoRows, OpenError,
    Plan, SearchError, SearchParams, ShardedIndex, VectorIndex, Verify,
};
use store::Filter;

use crate::Deadline;

/// Why a backend gave no neighbors for a query.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The index refused the query.
    #[error(transparent)]
    Search(SearchError),
    /// The deadline passed before the search was done.
    #[error("deadline passed before the search was done")]
    DeadlineExceeded,
    /// The search ended without an answer.
    #[error("search stopped without an answer")]
    Stopped,
    /// The cluster that holds the vectors gave no answer.
    #[error(transparent)]
    Milvus(#[from] Arc<milvus::MilvusError>),
}

impl From<SearchError> for BackendError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::DeadlineExceeded => Self::DeadlineExceeded,
            error => Self::Search(error),
        }
    }
}

/// What is asked of a backend.
#[derive(Clone, Debug)]
pub struct BackendRequest {
    /// B rows of queries, row-major.
    pub queries: Vec<f32>,
    /// Passages to find for each.
    pub k: usize,
    /// Which passages may be found; all when there is none. It alone decides.
    pub passages: Option<Arc<Bitmap>>,
    /// The conditions that the passages fulfil, for engines that evaluate them sooner than they read a list of passages.
    pub filter: Option<Filter>,
    /// How to search.
    pub params: SearchParams,
    /// When the answer is of no use any more.
    pub deadline: Deadline,
}

/// Where query vectors meet passages: in this process, or in an engine on other machines.
pub trait SearchBackend: Send + Sync {
    /// Returns, for each of the B queries, its `k` nearest passages, best first, ties to the smaller ordinal.
    ///
    /// The list has B entries, each with its own outcome: one bad query does not cost the others their answer. It has `k`
    /// passages wherever so many may be found, or is an error.
    fn search(
        &self,
        request: BackendRequest,
    ) -> BoxFuture<'_, Vec<Result<Vec<Neighbor>, BackendError>>>;

    /// How [`Self::search`] answers these arguments.
    fn plan(&self, k: usize, filter: Option<&Bitmap>, params: &SearchParams) -> Plan;

    /// Values of one row.
    fn width(&self) -> usize;

    /// Whether the vectors are searched on other machines.
    fn is_remote(&self) -> bool {
        false
    }
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
    let graphs: Option<Vec<PathBuf>> = shards
        .iter()
        .map(|shard| Some(generation.path.join(shard.graph.as_ref()?)))
        .collect();
    let flat = open_rows(generation, verify)?;
    Ok(match graphs {
        Some(graphs) => Arc::new(GraphIndex::open(flat, &graphs, verify)?),
        None => Arc::new(flat),
    })
}

/// Opens the vectors of a generation that has some, without their graphs.
///
/// # Errors
/// As [`open_index`].
pub fn open_rows(generation: &Generation, verify: Verify) -> Result<ShardedIndex, OpenError> {
    let shards = generation.manifest.shards.iter();
    let paths: Vec<PathBuf> = shards
        .map(|shard| generation.path.join(&shard.path))
        .collect();
    ShardedIndex::open(&paths, verify)
}

/// Copies the vectors of a generation to devices, which search them exactly: graphs are left where they are.
///
/// # Errors
/// As [`open_index`]; [`OpenError::Load`] when the devices have no room.
pub(crate) fn open_accelerated(
    generation: &Generation,
    verify: Verify,
    devices: &[SharedAccelerator],
) -> Result<Arc<dyn VectorIndex>, OpenError> {
    if generation.manifest.shards.is_empty() {
        return open_index(generation, verify);
    }
    let flat = open_rows(generation, verify)?;
    let index = AcceleratedIndex::load(flat, devices, &AcceleratedConfig::default())?;
    Ok(Arc::new(index))
}

/// How a generation compares its rows.
fn metric(manifest: &Manifest) -> Result<Metric, OpenError> {
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
        request: BackendRequest,
    ) -> BoxFuture<'_, Vec<Result<Vec<Neighbor>, BackendError>>> {
        let BackendRequest {
            queries,
            k,
            passages: filter,
            params,
            deadline,
            ..
        } = request;
        let params = SearchParams {
            deadline: deadline.moment(),
            ..params
        };
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
                    Err(SearchError::NotFinite { .. } | SearchError::ZeroQuery { .. })
                        if n_queries > 1 =>
                    {
                        queries
                            .chunks_exact(width)
                            .enumerate()
                            .map(|(place, query)| {
                                let found = one(&*index, query, k, filter.as_deref(), &params);
                                found.map_err(|error| at_place(error, place))
                            })
                            .collect()
                    }
                    // The time, or the device: each query alone would only meet it again.
                    Err(error) => vec![Err(error.into()); n_queries.max(1)],
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

/// An error of a query that was asked for by itself, as it is in its batch.
fn at_place(error: BackendError, query: usize) -> BackendError {
    match error {
        BackendError::Search(SearchError::ZeroQuery { .. }) => {
            SearchError::ZeroQuery { query }.into()
        }
        BackendError::Search(SearchError::NotFinite { dimension, .. }) => {
            SearchError::NotFinite { query, dimension }.into()
        }
        error => error,
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use compute::accelerator::AcceleratorError;
    use index::{Capabilities, Device};

    use super::*;

    /// Counts the searches that its device fails at.
    #[derive(Default)]
    struct Failing(AtomicUsize);

    impl VectorIndex for Failing {
        fn len(&self) -> usize {
            1
        }

        fn width(&self) -> usize {
            2
        }

        fn metric(&self) -> Metric {
            Metric::InnerProduct
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities {
                filter: true,
                exact: true,
                device: Device::Cuda,
            }
        }

        fn search(
            &self,
            _: &[f32],
            _: usize,
            _: Option<&Bitmap>,
            _: &SearchParams,
        ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(SearchError::Device(AcceleratorError::NotAvailable {
                reason: "it is gone".to_owned(),
            }))
        }
    }

    #[test]
    fn a_device_that_fails_a_batch_is_not_asked_again_for_each_query() {
        let index = Arc::new(Failing::default());
        let backend = InProcess::new(Arc::clone(&index) as Arc<dyn VectorIndex>);
        let request = BackendRequest {
            queries: vec![1.0; 6],
            k: 1,
            passages: None,
            filter: None,
            params: SearchParams::default(),
            deadline: Deadline::NONE,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let lists = runtime.unwrap().block_on(backend.search(request));
        assert_eq!(lists.len(), 3);
        for list in lists {
            let error = list.unwrap_err();
            let device = matches!(error, BackendError::Search(SearchError::Device(_)));
            assert!(device, "{error:?}");
        }
        assert_eq!(index.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_search_that_ran_late_is_no_fault_of_its_query() {
        let error = BackendError::from(SearchError::DeadlineExceeded);
        assert!(matches!(error, BackendError::DeadlineExceeded), "{error:?}");
    }
}
