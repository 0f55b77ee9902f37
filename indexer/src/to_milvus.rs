//! Generations on their way into a Milvus cluster.
//!
//! A generation gets a collection of its own: rows are imported from files in the object storage that the cluster uses itself, the
//! graph is built, the collection loaded, and the cluster's answers compared with the exact ones of the generation's files. A
//! collection that is not whole is never added to: it is dropped and made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use collection::Generation;
use index::{SearchParams, ShardedIndex, VectorIndex, Verify};
use milvus::{Hnsw, Import, METADATA, MilvusError, NewCollection, ORDINAL, VECTOR};
use objects::{Objects, ObjectsError};
use retriever::{
    BackendError, BackendRequest, Deadline, InMilvus, Milvus, Published, PublishedError,
    SearchBackend, has_milvus_metadata, milvus_distance, milvus_metadata, open_index, open_rows,
};
use serde::{Deserialize, Serialize};
use store::{SelectError, Store, View};

/// How a generation is put into a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct MilvusConfig {
    /// Groups of query nodes that each hold all rows.
    pub n_replicas: usize,
    /// Shards of the collection.
    pub n_shards: usize,
    /// The graph.
    pub hnsw: Hnsw,
    /// Passages that are searched for to compare the cluster with the exact answers; 0 compares nothing.
    pub n_queries: usize,
    /// The least part of the true neighbors, over all queries, that the cluster finds.
    pub min_recall: f64,
    /// Bytes of vectors and metadata in one import at most, unless one row has more.
    pub max_import_bytes: usize,
}

impl Default for MilvusConfig {
    fn default() -> Self {
        Self {
            n_replicas: 1,
            n_shards: 2,
            hnsw: Hnsw {
                m: 16,
                ef_construction: 200,
            },
            n_queries: 200,
            min_recall: 0.98,
            max_import_bytes: 128 << 20,
        }
    }
}

/// What was put into a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MilvusReport {
    /// The collection there.
    pub collection: String,
    /// Its rows.
    pub n_rows: u64,
    /// Whether they were there already.
    pub was_there: bool,
    /// The part of the true neighbors that the cluster found; none where nothing was compared.
    pub recall: Option<f64>,
}

/// What is told of the work, and how it is stopped.
#[derive(Clone, Copy)]
pub struct MilvusWatch<'a> {
    /// Is told the step, and how many of how many of its rows are done.
    pub on_rows: &'a (dyn Fn(&'static str, u64, u64) + Sync),
    /// Ends the work when it becomes true.
    pub cancelled: &'a AtomicBool,
}

/// Why a generation is not in a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MilvusPublishError {
    /// The cluster refuses, or does not answer.
    #[error("cannot use the cluster")]
    Milvus(#[from] MilvusError),
    /// Another program's collection, or one that is in use, has the name.
    #[error("collection `{collection}` of Milvus is not replaced")]
    Occupied {
        /// The collection.
        collection: String,
        /// What it is.
        source: PublishedError,
    },
    /// What is in the cluster is not what was sent.
    #[error("the cluster does not hold the generation")]
    Published(#[from] PublishedError),
    /// The vectors of the generation cannot be read.
    #[error("cannot read the vectors")]
    Index(#[from] index::OpenError),
    /// Its texts cannot be read.
    #[error("cannot read the passages")]
    Store(#[from] store::StoreError),
    /// Its metadata cannot be read.
    #[error("cannot read the metadata")]
    Metadata(#[from] SelectError),
    /// Its fields cannot be read.
    #[error("cannot read the metadata fields")]
    Schema(#[source] serde_json::Error),
    /// The object storage does not take the files.
    #[error("cannot write to the object storage of the cluster")]
    Objects(#[from] ObjectsError),
    /// There is no row to import.
    #[error("generation `{generation}` has no passage")]
    Empty {
        /// The generation.
        generation: String,
    },
    /// The cluster took too long for a step.
    #[error("Milvus did not end {step} of `{collection}` within {} s", waited.as_secs())]
    Waited {
        /// The collection.
        collection: String,
        /// The step.
        step: &'static str,
        /// The time.
        waited: Duration,
    },
    /// A search failed.
    #[error("cannot compare the answers of the cluster")]
    Search(#[from] BackendError),
    /// The cluster finds too little.
    #[error("Milvus finds {recall:.4} of the true neighbors, expected {expected} or more")]
    Recall {
        /// What it finds.
        recall: f64,
        /// What it should.
        expected: f64,
    },
    /// The work was stopped.
    #[error("interrupted before Milvus held the generation")]
    Interrupted,
    /// No thread can be started.
    #[error("cannot start a thread")]
    Threads(#[source] std::io::Error),
}

/// Neighbors that are compared.
const K: usize = 10;
/// Between two looks at the cluster's progress.
const LOOK: Duration = Duration::from_millis(500);
/// A step of the cluster that makes no progress for so long has failed.
const PATIENCE: Duration = Duration::from_secs(900);

/// Puts a generation into a cluster, ready to be searched, and compares its answers. What is there as a whole is only compared.
///
/// `bucket` is a place in the object storage that the cluster imports from.
///
/// # Errors
/// [`MilvusPublishError`]; the same call then begins anew.
pub fn publish_to_milvus(
    generation: &Generation,
    milvus: &Milvus,
    bucket: &Objects,
    config: &MilvusConfig,
    watch: MilvusWatch<'_>,
) -> Result<MilvusReport, MilvusPublishError> {
    if generation.manifest.counts.passages == 0 {
        return Err(MilvusPublishError::Empty {
            generation: generation.id.to_string(),
        });
    }
    let publishing = Publishing {
        generation,
        rows: open_rows(generation, Verify::Checksums)?,
        milvus,
        bucket,
        config,
        watch,
        collection: Published::collection(&milvus.name, &generation.id),
    };
    let was_there = publishing.is_there()?;
    if !was_there {
        publishing.fill()?;
    }
    publishing.make_ready()?;
    Published::check(
        &milvus.cluster,
        &publishing.collection,
        &generation.manifest,
    )?;
    let recall = publishing.compare()?;
    Ok(MilvusReport {
        collection: publishing.collection,
        n_rows: generation.manifest.counts.passages,
        was_there,
        recall,
    })
}

/// Makes the alias in the cluster name a generation's collection, and drops the collections of generations that neither it nor the
/// alias until now named. Returns the names of those.
///
/// # Errors
/// [`PublishedError`] when the cluster does not hold the generation.
pub fn switch_in_milvus(
    generation: &Generation,
    milvus: &Milvus,
) -> Result<Vec<String>, PublishedError> {
    let Milvus { cluster, name } = milvus;
    let collection = Published::collection(name, &generation.id);
    Published::check(cluster, &collection, &generation.manifest)?;
    let before = cluster.describe(name)?.map(|described| described.name);
    if before.as_deref() == Some(&collection) {
        return Ok(Vec::new());
    }
    cluster.set_alias(name, &collection)?;
    let prefix = format!("{name}_");
    let mut dropped = Vec::new();
    for other in cluster.collections()? {
        if !other.starts_with(&prefix) || other == collection || Some(&other) == before.as_ref() {
            continue;
        }
        let Some(described) = cluster.describe(&other)? else {
            continue;
        };
        let published: Option<Published> = serde_json::from_str(&described.text).ok();
        let is_ours =
            published.is_some_and(|of| Published::collection(name, &of.generation) == other);
        if is_ours && described.aliases.is_empty() {
            cluster.drop_collection(&other)?;
            dropped.push(other);
        }
    }
    Ok(dropped)
}

struct Publishing<'a> {
    generation: &'a Generation,
    rows: ShardedIndex,
    milvus: &'a Milvus,
    bucket: &'a Objects,
    config: &'a MilvusConfig,
    watch: MilvusWatch<'a>,
    collection: String,
}

impl Publishing<'_> {
    fn tell(&self, step: &'static str, n_rows: u64) -> Result<(), MilvusPublishError> {
        self.tell_of(step, n_rows, self.generation.manifest.counts.passages)
    }

    fn tell_of(&self, step: &'static str, n_done: u64, n: u64) -> Result<(), MilvusPublishError> {
        (self.watch.on_rows)(step, n_done, n);
        match self.watch.cancelled.load(Ordering::Relaxed) {
            true => Err(MilvusPublishError::Interrupted),
            false => Ok(()),
        }
    }

    /// Whether the collection holds all rows; one that does not is dropped.
    fn is_there(&self) -> Result<bool, MilvusPublishError> {
        let (cluster, name) = (&self.milvus.cluster, &self.collection);
        let Some(described) = cluster.describe(name)? else {
            return Ok(false);
        };
        let source = match Published::check(cluster, name, &self.generation.manifest) {
            Ok(()) => return Ok(true),
            Err(PublishedError::Milvus(error)) => return Err(error.into()),
            Err(source) => source,
        };
        let is_foreign = matches!(source, PublishedError::Unreadable { .. });
        if is_foreign || !described.aliases.is_empty() {
            return Err(MilvusPublishError::Occupied {
                collection: name.clone(),
                source,
            });
        }
        cluster.drop_collection(name)?;
        Ok(false)
    }

    /// Makes the collection and imports all rows.
    fn fill(&self) -> Result<(), MilvusPublishError> {
        let manifest = &self.generation.manifest;
        let schema = match &manifest.schema {
            serde_json::Value::Null => corpus::Schema::default(),
            schema => corpus::Schema::deserialize(schema).map_err(MilvusPublishError::Schema)?,
        };
        let store = Store::open(&self.generation.path, store::Verify::Header)?;
        let has_metadata = has_milvus_metadata(&schema);
        let view = View::new(Arc::new(store), Arc::new(schema));
        let description = serde_json::to_string(&Published::of(manifest));
        self.milvus.cluster.create(&NewCollection {
            name: self.collection.clone(),
            description: description.expect("a description has string keys only"),
            width: self.rows.width(),
            has_metadata,
            n_shards: self.config.n_shards,
        })?;
        let n_rows = self.rows.len() as u64;
        let n_at_once = self.config.max_import_bytes / (4 * self.rows.width());
        let n_at_once = n_at_once.clamp(1, u32::MAX as usize) as u64;
        let mut first = 0;
        while first < n_rows {
            let last = (first + n_at_once).min(n_rows);
            let ordinals: Vec<u32> = (first as u32..last as u32).collect();
            let texts = match has_metadata {
                true => texts(milvus_metadata(&view, &ordinals)?),
                false => vec![Vec::new(); ordinals.len()],
            };
            let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
            let (mut ordinals, mut texts) = (&ordinals[..], &texts[..]);
            for n in imports(&lengths, self.rows.width(), self.config.max_import_bytes) {
                let (part, of_part);
                (part, ordinals) = ordinals.split_at(n);
                (of_part, texts) = texts.split_at(n);
                self.import_rows(part, has_metadata.then_some(of_part))?;
            }
            first = last;
        }
        self.tell("import", n_rows)
    }

    fn import_rows(
        &self,
        ordinals: &[u32],
        texts: Option<&[Vec<char>]>,
    ) -> Result<(), MilvusPublishError> {
        let n_before = u64::from(ordinals[0]);
        self.tell("import", n_before)?;
        let folder = format!("{}/{n_before}", self.collection);
        let mut files = vec![
            (ORDINAL, npy_ordinals(ordinals)),
            (VECTOR, npy_rows(&self.rows, ordinals)),
        ];
        files.extend(texts.map(|texts| (METADATA, npy_texts(texts))));
        let imported = self.import(&folder, files, n_before);
        // What is left there is of no use, whatever became of it.
        if let Err(error) = self.bucket.remove_folder(&folder) {
            let folder = self.bucket.url(&folder);
            tracing::warn!(%folder, %error, "imported files are left");
        }
        imported
    }

    fn import(
        &self,
        folder: &str,
        files: Vec<(&str, Vec<u8>)>,
        n_before: u64,
    ) -> Result<(), MilvusPublishError> {
        self.bucket.remove_folder(folder)?;
        let mut keys = Vec::new();
        for (field, bytes) in files {
            let key = format!("{folder}/{field}.npy");
            self.bucket.create(&key, &bytes)?;
            keys.push(within_bucket(&self.bucket.url(&key)));
        }
        let task = self.milvus.cluster.import(&self.collection, keys)?;
        self.wait("import", || {
            Ok(match self.milvus.cluster.import_state(task)? {
                Import::Done => None,
                Import::Running(n_rows) => Some(n_before + n_rows),
            })
        })
    }

    /// Builds the graph and loads the collection; what is done already is left as it is.
    fn make_ready(&self) -> Result<(), MilvusPublishError> {
        let (cluster, name) = (&self.milvus.cluster, &self.collection);
        let n_rows = self.generation.manifest.counts.passages;
        // The count follows an import after a moment.
        self.wait("count", || {
            let counted = cluster.n_rows(name)?;
            Ok((counted < n_rows).then_some(counted))
        })?;
        let distance = milvus_distance(self.rows.metric());
        cluster.create_index(name, self.config.hnsw, distance)?;
        // Its state may be that of a graph over fewer rows.
        self.wait("index", || {
            let indexed = cluster.indexed_rows(name)?;
            Ok((indexed < n_rows).then_some(indexed))
        })?;
        cluster.load(name, self.config.n_replicas)?;
        self.wait("load", || {
            let percent = cluster.load_progress(name)?;
            Ok((percent < 100).then_some(n_rows * percent / 100))
        })
    }

    /// Waits until a step has no rows that are done so far, but all.
    fn wait(
        &self,
        step: &'static str,
        mut n_done: impl FnMut() -> Result<Option<u64>, MilvusError>,
    ) -> Result<(), MilvusPublishError> {
        let (mut since, mut before) = (Instant::now(), None);
        while let Some(n_rows) = n_done()? {
            self.tell(step, n_rows)?;
            if before != Some(n_rows) {
                (since, before) = (Instant::now(), Some(n_rows));
            }
            if since.elapsed() > PATIENCE {
                return Err(MilvusPublishError::Waited {
                    collection: self.collection.clone(),
                    step,
                    waited: PATIENCE,
                });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The part of the nearest others of evenly spread passages that the cluster finds.
    fn compare(&self) -> Result<Option<f64>, MilvusPublishError> {
        let n_rows = self.generation.manifest.counts.passages;
        let n_queries = (self.config.n_queries as u64).min(n_rows);
        if n_queries == 0 {
            return Ok(None);
        }
        let index = open_index(self.generation, Verify::Header)?;
        let backend = InMilvus::open(self.milvus, self.generation, index)?.for_any_number();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(MilvusPublishError::Threads)?;
        let (mut n_true, mut n_found) = (0, 0);
        for i in 0..n_queries {
            self.tell_of("compare", i, n_queries)?;
            let ordinal = (i * n_rows / n_queries) as u32;
            let query = self.rows.row(ordinal).map(|row| row.into_owned());
            let search = |exact| {
                let request = BackendRequest {
                    queries: query.clone().unwrap_or_default(),
                    k: K + 1,
                    passages: None,
                    filter: None,
                    params: SearchParams {
                        exact,
                        ..SearchParams::default()
                    },
                    deadline: Deadline::NONE,
                };
                let mut lists = runtime.block_on(backend.search(request));
                let list = lists.pop().unwrap_or(Err(BackendError::Stopped))?;
                // That a passage finds itself says little.
                let others = list.into_iter().filter(|found| found.ordinal != ordinal);
                Ok::<_, BackendError>(others.take(K).collect::<Vec<_>>())
            };
            let (exact, found) = (search(true)?, search(false)?);
            let Some(last) = exact.last() else {
                continue;
            };
            // Of passages that tie with the last one, any will do.
            let is_true = |score: f32| score >= last.score;
            n_true += exact.len();
            n_found += found.iter().filter(|found| is_true(found.score)).count();
        }
        // One passage has no others.
        if n_true == 0 {
            return Ok(None);
        }
        let recall = n_found as f64 / n_true as f64;
        match recall < self.config.min_recall {
            true => Err(MilvusPublishError::Recall {
                recall,
                expected: self.config.min_recall,
            }),
            false => Ok(Some(recall)),
        }
    }
}

/// A key as seen from its bucket.
fn within_bucket(url: &str) -> String {
    let path = url.split_once("://").map_or(url, |(_, path)| path);
    path.split_once('/').map_or(path, |(_, key)| key).to_owned()
}

fn npy_ordinals(ordinals: &[u32]) -> Vec<u8> {
    let mut file = npy_header("<i8", &format!("({},)", ordinals.len()));
    file.extend(
        ordinals
            .iter()
            .flat_map(|&ordinal| i64::from(ordinal).to_le_bytes()),
    );
    file
}

fn npy_rows(rows: &ShardedIndex, ordinals: &[u32]) -> Vec<u8> {
    let shape = format!("({}, {})", ordinals.len(), rows.width());
    let mut file = npy_header("<f4", &shape);
    file.reserve(ordinals.len() * rows.width() * 4);
    for &ordinal in ordinals {
        let row = rows.row(ordinal).expect("ordinals are below the row count");
        file.extend(row.iter().flat_map(|value| value.to_le_bytes()));
    }
    file
}

fn texts(rows: Vec<serde_json::Map<String, serde_json::Value>>) -> Vec<Vec<char>> {
    let texts = rows.into_iter().map(|row| {
        let text = serde_json::to_string(&row).expect("metadata has string keys only");
        text.chars().collect()
    });
    texts.collect()
}

/// How many rows each import has, so that vectors and padded texts are within a number of bytes.
fn imports(lengths: &[usize], width: usize, max_bytes: usize) -> Vec<usize> {
    let (mut imports, mut n, mut longest) = (Vec::new(), 0, 0);
    for &length in lengths {
        if n > 0 && (n + 1) * (width + length.max(longest)) * 4 > max_bytes {
            imports.push(n);
            (n, longest) = (0, 0);
        }
        (n, longest) = (n + 1, length.max(longest));
    }
    imports.extend((n > 0).then_some(n));
    imports
}

/// Texts of one length, in UTF-32 and padded with zeros.
fn npy_texts(texts: &[Vec<char>]) -> Vec<u8> {
    let length = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let mut file = npy_header(&format!("<U{length}"), &format!("({},)", texts.len()));
    file.reserve(texts.len() * length * 4);
    for text in texts {
        let padding = std::iter::repeat_n('\0', length - text.len());
        let letters = text.iter().copied().chain(padding);
        file.extend(letters.flat_map(|letter| u32::from(letter).to_le_bytes()));
    }
    file
}

/// Version 1.0, padded to 128 bytes.
fn npy_header(kind: &str, shape: &str) -> Vec<u8> {
    const LENGTH: usize = 128;
    let text = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(((LENGTH - 10) as u16).to_le_bytes());
    header.extend(text.bytes());
    header.resize(LENGTH - 1, b' ');
    header.push(b'\n');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_seen_from_their_bucket() {
        assert_eq!(within_bucket("s3://bucket/a/b.npy"), "a/b.npy");
        assert_eq!(within_bucket("s3://bucket/b.npy"), "b.npy");
    }

    #[test]
    fn a_long_text_makes_imports_shorter() {
        for (lengths, expected) in [
            (&[][..], &[][..]),
            (&[0, 0, 0, 0, 0], &[4, 1]),
            (&[2, 2, 2, 2], &[2, 2]),
            (&[0, 0, 6, 0, 0], &[2, 1, 2]),
            (&[0, 2, 0, 0], &[2, 2]),
            (&[100, 100, 0], &[1, 1, 1]),
        ] {
            assert_eq!(imports(lengths, 2, 4 * 8), expected, "{lengths:?}");
        }
    }

    #[test]
    fn arrays_are_those_that_numpy_writes() {
        let file = npy_ordinals(&[3, 4]);
        assert_eq!(file.len(), 128 + 16);
        assert_eq!(file[126..130], [b' ', b'\n', 3, 0]);
        let text = String::from_utf8_lossy(&file[10..128]).into_owned();
        assert!(text.starts_with("{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }"));
        let row = |text: &str| serde_json::from_str(text).unwrap();
        let file = npy_texts(&texts(vec![row("{}"), row(r#"{"é":1}"#)]));
        assert!(String::from_utf8_lossy(&file[10..128]).contains("'<U7'"));
        assert_eq!(file.len(), 128 + 2 * 7 * 4);
        assert_eq!(file[128..136], [b'{', 0, 0, 0, b'}', 0, 0, 0]);
        assert_eq!(file[128 + 28 + 8..][..4], [0xe9, 0, 0, 0]);
    }
}
