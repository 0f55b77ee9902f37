//! A store and what was changed since it was written.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use corpus::{Passage, Schema, passage_id};
use tantivy::tokenizer::TextAnalyzer;

use crate::bm25::Changes;
use crate::facet::Counts;
use crate::highlight::Highlighter;
use crate::words::Words;
use crate::{
    Bitmap, DocumentPart, Facet, FieldValue, Filter, FilterError, LexicalHit, SelectError, Store,
    StoreError, WriteError, facet, predicate, values,
};

/// Passages that are copied when one more is added while somebody still reads them.
const CHUNK: usize = 64;

/// A store, less the passages that were deleted, and the ones that were added: what searches see at one moment.
///
/// Added passages have the ordinals behind those of the store, in the order they came, and are answered for as if they had
/// been written with it: filters, facets, and BM25 to the last bit, with statistics of exactly the passages that are there.
/// A clone is a snapshot and shares what does not change. Filters and words of added passages are looked up one by one: O(added).
#[derive(Clone)]
pub struct View {
    store: Arc<Store>,
    schema: Arc<Schema>,
    analyzer: TextAnalyzer,
    added: Vec<Arc<Chunk>>,
    n_added: u32,
    /// Ordinals that are no longer there, of the store and of what was added.
    deleted: Bitmap,
    /// The words of those of the store.
    removed: Vec<Arc<Words>>,
    /// The ordinals of the store that are there; none when all are.
    kept: Option<Arc<Bitmap>>,
    n_bytes: u64,
}

/// A passage that was added.
#[derive(Clone, Debug, PartialEq)]
pub struct Added {
    /// The passage.
    pub passage: Passage,
    /// Where it lies in its document, where documents are split.
    pub part: Option<AddedPart>,
}

/// Where a passage lies in the document that it was split from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedPart {
    /// Id of the document.
    pub document: String,
    /// Its place among the passages of the document, from 0.
    pub number: u32,
    /// Characters of the document's text.
    pub characters: Range<u32>,
}

#[derive(Clone, Default)]
struct Chunk {
    passages: Vec<Arc<Added>>,
    words: Words,
    /// Positions by the id of the document, or of the passage where nothing is split.
    documents: HashMap<String, Vec<u32>>,
}

impl Added {
    /// The id it is upserted and deleted by.
    fn document(&self) -> &str {
        let part = self.part.as_ref();
        part.map_or(&self.passage.id, |part| &part.document)
    }

    fn n_bytes(&self) -> u64 {
        let Passage {
            id, title, text, ..
        } = &self.passage;
        // Metadata, words and places in the tables are about as much again as the text.
        2 * (id.len() + title.len() + text.len()) as u64 + 512
    }
}

impl View {
    /// The store as it was written; `schema` has the fields that it was written with.
    #[must_use]
    pub fn new(store: Arc<Store>, schema: Arc<Schema>) -> Self {
        Self {
            analyzer: store.lexical().analyzer(),
            store,
            schema,
            added: Vec::new(),
            n_added: 0,
            deleted: Bitmap::new(),
            removed: Vec::new(),
            kept: None,
            n_bytes: 0,
        }
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The fields of the metadata.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Passages that are there.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end() - self.deleted.len()
    }

    /// Whether no passage is there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ordinals are below this.
    fn end(&self) -> u64 {
        u64::from(self.store.len()) + u64::from(self.n_added)
    }

    /// Passages that were added, whether or not they are still there.
    #[must_use]
    pub fn n_added(&self) -> u32 {
        self.n_added
    }

    /// Passages of the store that are there; none when all are.
    #[must_use]
    pub fn kept(&self) -> Option<&Arc<Bitmap>> {
        self.kept.as_ref()
    }

    /// Passages of the store that are no longer there.
    #[must_use]
    pub fn n_removed(&self) -> u64 {
        u64::from(self.store.len())
            - self
                .kept
                .as_ref()
                .map_or(self.store.len().into(), |kept| kept.len())
    }

    /// Memory of what was added and of the words of what was deleted, about.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Whether a passage is there.
    #[must_use]
    pub fn contains(&self, ordinal: u32) -> bool {
        u64::from(ordinal) < self.end() && !self.deleted.contains(ordinal)
    }

    /// The ordinals of the added passages that are there, ascending.
    pub fn added(&self) -> impl Iterator<Item = (u32, &Added)> {
        let passages = self.added.iter().flat_map(|chunk| &chunk.passages);
        (self.store.len()..)
            .zip(passages)
            .filter(|(ordinal, _)| !self.deleted.contains(*ordinal))
            .map(|(ordinal, added)| (ordinal, &**added))
    }

    /// Adds a passage; returns its ordinal.
    ///
    /// # Errors
    /// [`WriteError::Value`] where a field is not of its kind, [`WriteError::TooMany`] when no ordinal is left.
    pub fn add(&mut self, added: Added) -> Result<u32, WriteError> {
        self.check(&added.passage)?;
        let ordinal = u32::try_from(self.end()).map_err(|_| WriteError::TooMany)?;
        if self
            .added
            .last()
            .is_none_or(|chunk| chunk.passages.len() == CHUNK)
        {
            self.added.push(Arc::default());
        }
        let chunk = self.added.last_mut().expect("one was just made sure of");
        let chunk = Arc::make_mut(chunk);
        chunk.words.push(&added.passage, &self.analyzer);
        let position = chunk.passages.len() as u32;
        let of_document = chunk.documents.entry(added.document().to_owned());
        of_document.or_default().push(position);
        self.n_bytes += added.n_bytes();
        chunk.passages.push(Arc::new(added));
        self.n_added += 1;
        Ok(ordinal)
    }

    /// Refuses a passage with a value that is not of its field's kind.
    ///
    /// # Errors
    /// [`WriteError::Value`].
    pub fn check(&self, passage: &Passage) -> Result<(), WriteError> {
        let filterable = self
            .schema
            .fields
            .iter()
            .filter(|(_, field)| field.filterable);
        for (name, field) in filterable {
            match passage.metadata.get(name) {
                Some(value) if !field.kind.accepts(value) => {
                    return Err(WriteError::Value {
                        id: passage.id.clone(),
                        field: name.clone(),
                        kind: field.kind,
                        value: value.to_string(),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes the passages of a document, or the one passage with this id where documents are not split; returns how many
    /// there were.
    ///
    /// # Errors
    /// When the store cannot be read; then nothing was deleted.
    pub fn delete(&mut self, document: &str) -> Result<usize, StoreError> {
        let ordinals = self.passages_of(document)?;
        let n_base = self.store.len();
        let of_store: Vec<u32> = ordinals
            .iter()
            .copied()
            .filter(|ordinal| *ordinal < n_base)
            .collect();
        for passage in self.store.passages(&of_store)? {
            if self.removed.last().is_none_or(|words| words.len() == CHUNK) {
                self.removed.push(Arc::default());
            }
            let words = self.removed.last_mut().expect("one was just made sure of");
            Arc::make_mut(words).push(&passage, &self.analyzer);
            // Its words are about as much as its text.
            self.n_bytes += (passage.title.len() + passage.text.len()) as u64 + 256;
        }
        if !of_store.is_empty() {
            let kept = self.kept.get_or_insert_with(|| {
                let mut all = Bitmap::new();
                all.insert_range(0..n_base);
                Arc::new(all)
            });
            let kept = Arc::make_mut(kept);
            of_store.iter().for_each(|ordinal| {
                kept.remove(*ordinal);
            });
        }
        self.deleted.extend(&ordinals);
        Ok(ordinals.len())
    }

    /// The ordinals of the passages that a document has, ascending; of the one passage with this id where documents are not split.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn passages_of(&self, document: &str) -> Result<Vec<u32>, StoreError> {
        let mut first = self.store.len() + self.n_added;
        for chunk in self.added.iter().rev() {
            first -= chunk.passages.len() as u32;
            if let Some(positions) = chunk.documents.get(document) {
                let found: Vec<u32> = self.within(first, positions)?;
                if !found.is_empty() {
                    return Ok(found);
                }
            }
        }
        let of_store = match self.store.n_documents() {
            None => self
                .store
                .ordinal_of(document)?
                .map(|ordinal| ordinal..ordinal + 1),
            Some(_) => {
                let first = self.store.ordinal_of(&passage_id(document, 0))?;
                first.map(|first| self.store.siblings(first)).transpose()?
            }
        };
        let of_store = of_store.unwrap_or(0..0);
        Ok(of_store
            .filter(|ordinal| !self.deleted.contains(*ordinal))
            .collect())
    }

    /// A document's passages may lie in two chunks or more: those before have its first ones.
    fn within(&self, first: u32, positions: &[u32]) -> Result<Vec<u32>, StoreError> {
        let mut alive = positions.iter().map(|position| first + position);
        let Some(last) = alive.rfind(|ordinal| !self.deleted.contains(*ordinal)) else {
            return Ok(Vec::new());
        };
        let number = self.document_part(last)?.map_or(0, |part| part.number);
        Ok((last - number..=last).collect())
    }

    fn added_at(&self, ordinal: u32) -> Result<&Arc<Added>, StoreError> {
        let position = (ordinal - self.store.len()) as usize;
        let chunk = self.added.get(position / CHUNK);
        let added = chunk.and_then(|chunk| chunk.passages.get(position % CHUNK));
        added.ok_or(StoreError::Ordinal {
            ordinal,
            n_passages: self.store.len() + self.n_added,
        })
    }

    /// Returns the id of a passage.
    ///
    /// # Errors
    /// As [`Store::id`].
    pub fn id(&self, ordinal: u32) -> Result<&str, StoreError> {
        match ordinal < self.store.len() {
            true => self.store.id(ordinal),
            false => Ok(&self.added_at(ordinal)?.passage.id),
        }
    }

    /// Returns passages in the order of the ordinals.
    ///
    /// # Errors
    /// As [`Store::passages`].
    pub fn passages(&self, ordinals: &[u32]) -> Result<Vec<Passage>, StoreError> {
        let n_base = self.store.len();
        let of_store: Vec<u32> = ordinals
            .iter()
            .copied()
            .filter(|ordinal| *ordinal < n_base)
            .collect();
        let mut of_store = self.store.passages(&of_store)?.into_iter();
        let mut passages = Vec::with_capacity(ordinals.len());
        for &ordinal in ordinals {
            passages.push(match ordinal < n_base {
                true => of_store
                    .next()
                    .expect("every ordinal of the store was asked for"),
                false => self.added_at(ordinal)?.passage.clone(),
            });
        }
        Ok(passages)
    }

    /// Returns where a passage lies in its document; none when documents are not split.
    ///
    /// # Errors
    /// As [`Store::document_part`].
    pub fn document_part(&self, ordinal: u32) -> Result<Option<DocumentPart<'_>>, StoreError> {
        if ordinal < self.store.len() {
            return self.store.document_part(ordinal);
        }
        let part = self.added_at(ordinal)?.part.as_ref();
        Ok(part.map(|part| DocumentPart {
            document: &part.document,
            number: part.number,
            characters: part.characters.clone(),
        }))
    }

    /// Returns the ordinals of the passages that are there and pass a filter.
    ///
    /// # Errors
    /// As [`Store::select`].
    pub fn select(&self, filter: &Filter) -> Result<Bitmap, SelectError> {
        let mut selected = self.store.select(filter, &self.schema)?;
        if let Some(kept) = &self.kept {
            selected &= &**kept;
        }
        let predicate = predicate::resolve(filter, &self.schema, "")?;
        let passing = self
            .added()
            .filter(|(_, added)| predicate.holds(&added.passage.metadata, &self.schema));
        selected.extend(passing.map(|(ordinal, _)| ordinal));
        Ok(selected)
    }

    /// Returns the ids that passages are upserted and deleted by: those of their documents, or their own where documents are not
    /// split. In the order of the ordinals; a document is there once.
    ///
    /// # Errors
    /// As [`Store::document_part`].
    pub fn documents(&self, passages: &Bitmap) -> Result<Vec<String>, StoreError> {
        let mut documents: Vec<String> = Vec::new();
        for ordinal in passages {
            let document = match self.document_part(ordinal)? {
                Some(part) => part.document,
                None => self.id(ordinal)?,
            };
            // Passages of a document are next to each other.
            if documents.last().is_none_or(|last| last != document) {
                documents.push(document.to_owned());
            }
        }
        Ok(documents)
    }

    /// Counts the values of fields in the passages given, or in all that are there; see [`Store::facets`].
    ///
    /// # Errors
    /// As [`Store::facets`].
    pub fn facets(
        &self,
        fields: &[String],
        passages: Option<&Bitmap>,
        max_values: usize,
    ) -> Result<Vec<Facet>, SelectError> {
        let of_store = passages.or(self.kept.as_deref());
        let mut counts = self.store.lexical().count(fields, &self.schema, of_store)?;
        let resolved = facet::resolve(fields, &self.schema)?;
        for (ordinal, added) in self.added() {
            if passages.is_none_or(|passages| passages.contains(ordinal)) {
                for (field, counts) in resolved.iter().zip(&mut counts) {
                    counts.add_values(field, &added.passage.metadata);
                }
            }
        }
        let facets = resolved.iter().zip(counts);
        Ok(facets
            .map(|(field, counts): (_, Counts)| counts.into_facet(field, max_values))
            .collect())
    }

    /// Returns the values of a field in each of the passages, in the order of the ordinals; none where it has none.
    ///
    /// # Errors
    /// [`SelectError::Filter`] where no filter could name the field.
    pub fn values(
        &self,
        field: &str,
        ordinals: &[u32],
    ) -> Result<Vec<Vec<FieldValue>>, SelectError> {
        let field = predicate::filterable(field, &self.schema).map_err(|fault| FilterError {
            pointer: String::new(),
            fault,
        })?;
        let n_base = self.store.len();
        let mut found = self.store.lexical().values(&field, ordinals)?;
        for (&ordinal, found) in ordinals.iter().zip(&mut found) {
            if ordinal >= n_base {
                *found = values::of_record(&field, &self.added_at(ordinal)?.passage.metadata);
            }
        }
        Ok(found)
    }

    /// Returns what finds the words of a query in texts, as [`Self::search_lexical`] reads both.
    pub fn highlighter(&self, query: &str) -> Highlighter {
        Highlighter::new(self.analyzer.clone(), query)
    }

    /// Returns the `k` best passages that are there by BM25; see [`Store::search_lexical`].
    ///
    /// # Errors
    /// As there.
    pub fn search_lexical(
        &self,
        query: &str,
        k: usize,
        filter: Option<&Bitmap>,
    ) -> Result<Vec<LexicalHit>, StoreError> {
        let added: Vec<&Words> = self.added.iter().map(|chunk| &chunk.words).collect();
        let removed: Vec<&Words> = self.removed.iter().map(|words| &**words).collect();
        let changes = Changes {
            first_ordinal: self.store.len(),
            added: &added,
            chunk: CHUNK as u32,
            deleted: &self.deleted,
            removed: &removed,
        };
        self.store.lexical().search(query, k, filter, &changes)
    }
}
