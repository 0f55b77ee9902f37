//! A generation that is searched by the gate.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use collection::Generation;
use corpus::Template;
use encoder::BiEncoder;
use index::{SearchParams, ShardedIndex, VectorIndex, Verify};
use store::{Store, StoreError};

use super::{Entry, GateError, ShownHit};

/// A generation, open, and its encoder.
pub(super) struct Contestant<'a> {
    pub generation: &'a Generation,
    pub encoder: Option<&'a BiEncoder>,
    pub index: Arc<dyn VectorIndex>,
    /// The stored rows, which not every index gives.
    rows: ShardedIndex,
    pub store: Store,
    pub query_template: Template,
}

/// The answer to one question.
pub(super) struct Found {
    pub ordinals: Vec<u32>,
    /// Id and score, best first.
    pub hits: Vec<(String, f32)>,
    /// The same of their documents, each with its best hit; those of the hits where nothing was split.
    pub documents: Vec<(String, f32)>,
    /// How long the index took.
    pub time: Duration,
}

impl<'a> Contestant<'a> {
    pub fn open(
        Entry {
            generation,
            encoder,
        }: Entry<'a>,
    ) -> Result<Self, GateError> {
        let failed = |source| GateError::Open {
            generation: generation.id.clone(),
            source,
        };
        let index = retriever::open_index(generation, Verify::Header).map_err(failed)?;
        let shards = generation.manifest.shards.iter();
        let shards: Vec<_> = shards
            .map(|shard| generation.path.join(&shard.path))
            .collect();
        let rows = ShardedIndex::open(&shards, Verify::Header).map_err(failed)?;
        let store = Store::open(&generation.path, store::Verify::Header);
        Ok(Self {
            generation,
            encoder,
            index,
            rows,
            store: store.map_err(|source| GateError::Store {
                generation: generation.id.clone(),
                source,
            })?,
            query_template: Template::parse(&generation.manifest.templates.query)?,
        })
    }

    /// The stored row of a passage; none behind the last.
    pub fn row(&self, ordinal: u32) -> Vec<f32> {
        self.rows.row(ordinal).unwrap_or_default().into_owned()
    }

    /// The nearest rows of a query.
    pub fn ordinals(&self, query: &[f32], k: usize, exact: bool) -> Result<Vec<u32>, GateError> {
        let found = self.neighbors(query, k, exact)?;
        Ok(found.into_iter().map(|(ordinal, _)| ordinal).collect())
    }

    /// The hits of a query, as a search finds them that demands nothing.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Found, GateError> {
        let start = Instant::now();
        let neighbors = self.neighbors(query, k, false)?;
        let time = start.elapsed();
        let mut hits = Vec::with_capacity(neighbors.len());
        let (mut documents, mut seen) = (Vec::new(), HashSet::new());
        for &(ordinal, score) in &neighbors {
            let id = self
                .store
                .id(ordinal)
                .map_err(|source| self.of_store(source))?;
            hits.push((id.to_owned(), score));
            let part = self
                .store
                .document_part(ordinal)
                .map_err(|source| self.of_store(source))?;
            let document = part.map_or(id, |part| part.document);
            if seen.insert(document) {
                documents.push((document.to_owned(), score));
            }
        }
        Ok(Found {
            ordinals: neighbors.into_iter().map(|(ordinal, _)| ordinal).collect(),
            hits,
            documents,
            time,
        })
    }

    fn neighbors(
        &self,
        query: &[f32],
        k: usize,
        exact: bool,
    ) -> Result<Vec<(u32, f32)>, GateError> {
        let params = SearchParams {
            exact,
            ..SearchParams::default()
        };
        let found = self.index.search(query, k, None, &params);
        let mut lists = found.map_err(|source| GateError::Search {
            generation: self.generation.id.clone(),
            source,
        })?;
        let list = lists.pop().unwrap_or_default();
        Ok(list
            .into_iter()
            .map(|found| (found.ordinal, found.score))
            .collect())
    }

    /// Whether there is a passage with this id.
    pub fn has(&self, id: &str) -> Result<bool, GateError> {
        let ordinal = self.store.ordinal_of(id);
        Ok(ordinal.map_err(|source| self.of_store(source))?.is_some())
    }

    /// The first hits for a reader.
    pub fn show(&self, found: &Found, n: usize) -> Result<Vec<ShownHit>, GateError> {
        let n = n.min(found.ordinals.len());
        let passages = self.store.passages(&found.ordinals[..n]);
        let passages = passages.map_err(|source| self.of_store(source))?;
        let shown = passages.into_iter().zip(&found.hits);
        Ok(shown
            .map(|(passage, (id, score))| ShownHit {
                id: id.clone(),
                score: *score,
                text: format!("{} {}", passage.title, passage.text)
                    .trim()
                    .chars()
                    .take(60)
                    .collect(),
            })
            .collect())
    }

    pub fn of_store(&self, source: StoreError) -> GateError {
        let generation = self.generation.id.clone();
        GateError::Store { generation, source }
    }
}
