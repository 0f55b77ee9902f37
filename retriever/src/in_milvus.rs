use std::sync::Arc;

use collection::Generation;
use corpus::Schema;
use futures::future::BoxFuture;
use index::{
    Bitmap, Metric, Neighbor, Plan, SearchParams, ShardedIndex, VectorIndex, Verify,
    prepare_queries, score,
};
use milvus::{Cluster, Distance, MilvusError, Search};
use serde::Deserialize;

use crate::backend::open_rows;
use crate::expression::{has_milvus_metadata, narrowing};
use crate::{BackendError, BackendRequest, InProcess, Published, PublishedError, SearchBackend};

/// Rows that Milvus gives for one query at most.
const MAX_K: usize = 16_384;
/// Candidates of the graph unless a search says otherwise, and as many times the rows that it asks for.
const EF: usize = 128;
const EF_OF_K: usize = 2;
/// So many passages are looked at here sooner than they are described to a cluster, whose graph may miss them.
const FEW: u64 = 1000;
/// What a filter leaves over of the rows found is made up for by asking for so many times as many.
const MORE: usize = 4;

/// Where the generations of a collection are in Milvus.
#[derive(Clone)]
pub struct Milvus {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// What the names of its collections begin with.
    pub name: String,
}

/// A generation whose vectors a Milvus cluster searches.
///
/// The cluster says which rows its graph finds. They are read from the generation's own files and get their [`score`] here, so a
/// passage has the score that it has in this process. Exact searches, and those that may find few passages or more than the cluster
/// gives, are answered from those files alone.
pub struct InMilvus {
    inner: Arc<Inner>,
    index: InProcess,
    /// The cluster is asked where more passages than these may be found.
    few: u64,
}

struct Inner {
    cluster: Arc<Cluster>,
    collection: String,
    rows: ShardedIndex,
    /// None where rows have no metadata.
    schema: Option<Schema>,
}

impl InMilvus {
    /// Makes sure that the cluster holds a generation.
    ///
    /// # Errors
    /// [`PublishedError`] names what is missing or differs.
    pub fn open(
        milvus: &Milvus,
        generation: &Generation,
        index: Arc<dyn VectorIndex>,
    ) -> Result<Self, PublishedError> {
        let manifest = &generation.manifest;
        let collection = Published::collection(&milvus.name, &generation.id);
        Published::check(&milvus.cluster, &collection, manifest)?;
        let rows = open_rows(generation, Verify::Header)?;
        let schema = Schema::deserialize(&manifest.schema).ok();
        Ok(Self {
            inner: Arc::new(Inner {
                cluster: Arc::clone(&milvus.cluster),
                collection,
                rows,
                schema: schema.filter(has_milvus_metadata),
            }),
            index: InProcess::new(index),
            few: FEW,
        })
    }

    /// Asks the cluster however few passages may be found, to learn what its graph finds.
    #[must_use]
    pub fn for_any_number(self) -> Self {
        Self { few: 0, ..self }
    }

    /// Whether the graph of the cluster is asked.
    fn is_for_cluster(&self, k: usize, passages: Option<&Bitmap>, params: &SearchParams) -> bool {
        let n_passages = passages.map_or(self.inner.rows.len() as u64, Bitmap::len);
        !params.exact && (1..=MAX_K).contains(&k) && n_passages > self.few
    }
}

impl SearchBackend for InMilvus {
    fn search(
        &self,
        request: BackendRequest,
    ) -> BoxFuture<'_, Vec<Result<Vec<Neighbor>, BackendError>>> {
        if !self.is_for_cluster(request.k, request.passages.as_deref(), &request.params) {
            return self.index.search(request);
        }
        Box::pin(async move {
            let (width, metric) = (self.inner.rows.width(), self.inner.rows.metric());
            let queries = request.queries.chunks_exact(width);
            let prepared = queries.map(|query| prepare_queries(query, width, metric));
            let prepared: Vec<_> = prepared.collect();
            let sound = prepared.iter().flatten().flatten().copied();
            let sound = Arc::new(sound.collect::<Vec<f32>>());
            let mut found = match search(&self.inner, &sound, &request).await {
                Ok(Some(lists)) => lists.into_iter().map(Ok).collect::<Vec<_>>(),
                // Fewer pass than the graph can be asked for.
                Ok(None) => return self.index.search(request).await,
                Err(error) => {
                    let failed = prepared.iter().filter(|query| query.is_ok());
                    failed.map(|_| Err(error.clone())).collect()
                }
            }
            .into_iter();
            let answers = prepared.into_iter().map(|query| match query {
                Ok(_) => found.next().unwrap_or(Err(BackendError::Stopped)),
                Err(error) => Err(error.into()),
            });
            answers.collect()
        })
    }

    fn plan(&self, k: usize, filter: Option<&Bitmap>, params: &SearchParams) -> Plan {
        match filter {
            _ if !self.is_for_cluster(k, filter, params) => self.index.plan(k, filter, params),
            None => Plan::Graph,
            Some(_) => Plan::FilteredGraph,
        }
    }

    fn width(&self) -> usize {
        self.inner.rows.width()
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// How Milvus compares the rows of a metric. Under cosine they are stored, and queries sent, with length 1.
pub fn milvus_distance(metric: Metric) -> Distance {
    match metric {
        Metric::L2 => Distance::L2,
        Metric::InnerProduct | Metric::Cosine => Distance::InnerProduct,
    }
}

/// The nearest passages of each query; None when the cluster does not find enough of those that pass.
async fn search(
    inner: &Arc<Inner>,
    queries: &Arc<Vec<f32>>,
    request: &BackendRequest,
) -> Result<Option<Vec<Vec<Neighbor>>>, BackendError> {
    if queries.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let passages = request.passages.as_deref();
    let expression = match (&inner.schema, &request.filter) {
        (Some(schema), Some(filter)) => narrowing(filter, schema),
        _ => String::new(),
    };
    let n_passages = passages.map_or(inner.rows.len() as u64, Bitmap::len);
    let wanted = usize::try_from(n_passages).map_or(request.k, |n| n.min(request.k));
    let mut k = request.k;
    loop {
        let search = Search {
            collection: inner.collection.clone(),
            queries: queries.to_vec(),
            width: inner.rows.width(),
            k,
            distance: milvus_distance(inner.rows.metric()),
            ef: request.params.ef.unwrap_or(EF.max(EF_OF_K * k)),
            expression: expression.clone(),
        };
        let found = inner.cluster.search(search, request.deadline.moment());
        let found = found.await.map_err(Arc::new)?;
        let shortest = found.iter().map(Vec::len).min().unwrap_or(0);
        let lists = scored(inner, queries, found, request).await?;
        if lists.iter().all(|list| list.len() >= wanted) {
            return Ok(Some(lists));
        }
        if passages.is_none() {
            return Err(Arc::new(MilvusError::Answer {
                call: "Search",
                what: format!("{shortest} rows of {wanted}"),
            })
            .into());
        }
        if shortest < k || k == MAX_K {
            return Ok(None);
        }
        k = (k * MORE).min(MAX_K);
    }
}

/// The best of the rows found that may be found, best first.
async fn scored(
    inner: &Arc<Inner>,
    queries: &Arc<Vec<f32>>,
    found: Vec<Vec<u32>>,
    request: &BackendRequest,
) -> Result<Vec<Vec<Neighbor>>, BackendError> {
    let (inner, queries) = (Arc::clone(inner), Arc::clone(queries));
    let (passages, k) = (request.passages.clone(), request.k);
    // Reading a row may wait for the disk.
    let task = tokio::task::spawn_blocking(move || {
        let queries = queries.chunks_exact(inner.rows.width());
        let lists = found.into_iter().zip(queries).map(|(mut found, query)| {
            found.retain(|&ordinal| {
                passages
                    .as_ref()
                    .is_none_or(|passages| passages.contains(ordinal))
            });
            inner.scored(query, found, k)
        });
        lists.collect::<Result<_, MilvusError>>()
    });
    let lists = task.await.map_err(|_| BackendError::Stopped)?;
    lists.map_err(|error| Arc::new(error).into())
}

impl Inner {
    fn scored(
        &self,
        query: &[f32],
        found: Vec<u32>,
        k: usize,
    ) -> Result<Vec<Neighbor>, MilvusError> {
        let list = found.into_iter().map(|ordinal| {
            let row = self.rows.row(ordinal).ok_or_else(|| MilvusError::Answer {
                call: "Search",
                what: format!("ordinal {ordinal} of {} rows", self.rows.len()),
            })?;
            let score = score(self.rows.metric(), &row, query);
            Ok(Neighbor { ordinal, score })
        });
        let mut list = list.collect::<Result<Vec<_>, _>>()?;
        list.sort_unstable();
        list.dedup();
        list.truncate(k);
        Ok(list)
    }
}
