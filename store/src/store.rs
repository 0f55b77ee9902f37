use std::ops::Range;
use std::path::Path;

use corpus::{Passage, Schema};

use crate::bm25::{Changes, LexicalHit};
use crate::documents::{DocumentPart, Documents};
use crate::ids::Ids;
use crate::lexical::Lexical;
use crate::passages::Passages;
use crate::{Bitmap, Facet, Filter, SelectError, StoreError, facet};

pub(crate) const IDS: &str = "ids";
pub(crate) const PASSAGES: &str = "passages";
pub(crate) const DOCUMENTS: &str = "documents";
pub(crate) const LEXICAL: &str = "lexical";

/// How much of a store is checked when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Every byte against its checksum.
    Checksums,
    /// Headers, lengths and the directory of blocks. Blocks are checked whenever they are read, ids and the lexical index
    /// are not.
    Header,
}

/// A store, opened for reading: memory-mapped, shared by any number of threads. It writes nothing.
pub struct Store {
    ids: Ids,
    passages: Passages,
    /// None when no document was split.
    documents: Option<Documents>,
    lexical: Lexical,
}

impl Store {
    /// Opens the store in a folder.
    ///
    /// # Errors
    /// A named error for every missing, truncated or changed file, as far as `verify` looks.
    pub fn open(folder: &Path, verify: Verify) -> Result<Self, StoreError> {
        let [ids_path, passages_path, documents_path, lexical_path] =
            [IDS, PASSAGES, DOCUMENTS, LEXICAL].map(|name| folder.join(name));
        let ids = Ids::open(&ids_path)?;
        let passages = Passages::open(&passages_path)?;
        let documents = Documents::open(&documents_path)?;
        let lexical = Lexical::open(&lexical_path, verify)?;
        let expected = u64::from(ids.len());
        let n_parts = documents.as_ref().map_or(ids.len(), Documents::n_passages);
        for (path, found) in [
            (passages_path, u64::from(passages.len())),
            (documents_path, u64::from(n_parts)),
            (lexical_path, lexical.len()),
        ] {
            if found != expected {
                return Err(StoreError::Count {
                    path,
                    expected,
                    found,
                });
            }
        }
        let store = Self {
            ids,
            passages,
            documents,
            lexical,
        };
        if verify == Verify::Checksums {
            store.verify_truth()?;
        }
        Ok(store)
    }

    /// Returns the number of passages; ordinals are `0..len`.
    pub fn len(&self) -> u32 {
        self.ids.len()
    }

    /// Returns whether there is no passage.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the id of a passage.
    ///
    /// # Errors
    /// [`StoreError::Ordinal`], and [`StoreError::Malformed`] where the bytes of the id are no text.
    pub fn id(&self, ordinal: u32) -> Result<&str, StoreError> {
        self.ids.id(ordinal)
    }

    /// Returns the ordinal of an id, if a passage has it.
    ///
    /// # Errors
    /// [`StoreError::Ordinal`] and [`StoreError::Malformed`] when the lookup is damaged.
    pub fn ordinal_of(&self, id: &str) -> Result<Option<u32>, StoreError> {
        self.ids.ordinal_of(id)
    }

    /// Returns one passage.
    ///
    /// # Errors
    /// As [`Self::passages`].
    pub fn passage(&self, ordinal: u32) -> Result<Passage, StoreError> {
        Ok(self.passages(&[ordinal])?.remove(0))
    }

    /// Returns passages in the order of the ordinals; each block they lie in is read once.
    ///
    /// # Errors
    /// [`StoreError::Ordinal`], [`StoreError::Checksum`], [`StoreError::Malformed`].
    pub fn passages(&self, ordinals: &[u32]) -> Result<Vec<Passage>, StoreError> {
        let records = self.passages.records(ordinals)?.into_iter().zip(ordinals);
        records
            .map(|(record, &ordinal)| Ok(record.into_passage(self.id(ordinal)?.to_owned())))
            .collect()
    }

    /// Returns the `k` best passages by BM25 over title and text, best first; ties go to the smaller ordinal.
    ///
    /// `query` is plain text without any syntax: a passage matches when it has one of its words, after stop words and
    /// stemming. Only the first 1,024 different words count. `filter` keeps only the ordinals it holds; it does not change scores.
    ///
    /// # Errors
    /// [`StoreError::Lexical`].
    pub fn search_lexical(
        &self,
        query: &str,
        k: usize,
        filter: Option<&Bitmap>,
    ) -> Result<Vec<LexicalHit>, StoreError> {
        let unchanged = Changes {
            first_ordinal: self.len(),
            added: &[],
            chunk: 1,
            deleted: &Bitmap::new(),
            removed: &[],
        };
        self.lexical.search(query, k, filter, &unchanged)
    }

    /// Returns the ordinals of the passages that pass a filter; `schema` has the fields that the store was written with.
    ///
    /// Costs one pass over a column for each condition, O(passages) and no access to their records. What the columns hold
    /// decides: keywords of more than 65,530 bytes are not in them.
    ///
    /// # Errors
    /// [`SelectError::Filter`] where the filter asks what the fields cannot be asked, with its place; else
    /// [`StoreError::Lexical`].
    pub fn select(&self, filter: &Filter, schema: &Schema) -> Result<Bitmap, SelectError> {
        self.lexical.select(filter, schema)
    }

    /// Counts the values of keyword, integer and boolean fields in the passages given, or in all; at most `max_values` of a
    /// field are returned, in the order of [`Facet::counts`].
    ///
    /// # Errors
    /// As [`Self::select`]; the place is the position of the field in the list, such as `/0`.
    pub fn facets(
        &self,
        fields: &[String],
        schema: &Schema,
        passages: Option<&Bitmap>,
        max_values: usize,
    ) -> Result<Vec<Facet>, SelectError> {
        let counts = self.lexical.count(fields, schema, passages)?;
        let fields = facet::resolve(fields, schema)?;
        let facets = fields.iter().zip(counts);
        Ok(facets
            .map(|(field, counts)| counts.into_facet(field, max_values))
            .collect())
    }

    pub(crate) fn lexical(&self) -> &Lexical {
        &self.lexical
    }

    /// Returns the number of documents that were split into the passages; none when passages are what the corpus held.
    pub fn n_documents(&self) -> Option<u32> {
        self.documents.as_ref().map(Documents::len)
    }

    /// Returns where a passage lies in its document; none when no document was split.
    ///
    /// # Errors
    /// [`StoreError::Ordinal`], and [`StoreError::Malformed`] where ids and documents disagree.
    pub fn document_part(&self, ordinal: u32) -> Result<Option<DocumentPart<'_>>, StoreError> {
        let part = |documents: &Documents| documents.part(ordinal, &self.ids);
        self.documents.as_ref().map(part).transpose()
    }

    /// Returns the ordinals of the passages of the document that a passage belongs to; of the passage alone when no
    /// document was split.
    ///
    /// # Errors
    /// [`StoreError::Ordinal`] and [`StoreError::Malformed`].
    pub fn siblings(&self, ordinal: u32) -> Result<Range<u32>, StoreError> {
        match &self.documents {
            Some(documents) => Ok(documents.passages(documents.document_of(ordinal)?)),
            None => {
                self.id(ordinal)?;
                Ok(ordinal..ordinal + 1)
            }
        }
    }

    /// Reads every file against its checksums.
    ///
    /// # Errors
    /// [`StoreError::Checksum`] and [`StoreError::Malformed`], naming file and part.
    pub fn verify(&self) -> Result<(), StoreError> {
        self.verify_truth()?;
        self.lexical.verify()
    }

    fn verify_truth(&self) -> Result<(), StoreError> {
        self.ids.verify()?;
        self.passages.verify()?;
        match &self.documents {
            Some(documents) => documents.verify(&self.ids),
            None => Ok(()),
        }
    }
}
