//! Passage text, metadata and ids by ordinal, and the lexical index derived from them.
//!
//! A store is three entries of a folder, or four:
//!
//! ```text
//! ids        id bytes in ordinal order, and a lookup from id to ordinal
//! passages   title, text and metadata in checksummed zstd blocks, in ordinal order
//! documents  where documents that were split into passages begin, and the characters of each passage; else absent
//! lexical/   tantivy index: ordinal, id, title, text, typed metadata
//! ```
//!
//! `ids`, `passages` and `documents` are the only truth; `lexical/` is derived.
//! [`Store::select`] turns a [`Filter`] over the metadata into the ordinals that pass it, from the columns of `lexical/`.
//! A [`View`] is a store and what was changed since it was written, in memory.
//! Nothing changes after [`StoreWriter::finish`], and a reader writes nothing, not even a lock file.

mod bm25;
mod documents;
mod error;
mod facet;
mod file_list;
mod filter;
mod header;
mod highlight;
mod ids;
mod language;
mod lexical;
mod passages;
mod predicate;
mod read_only;
mod selection;
mod store;
mod values;
mod view;
mod words;
mod writer;

pub use bm25::LexicalHit;
pub use documents::DocumentPart;
pub use error::{StoreError, WriteError};
pub use facet::Facet;
pub use filter::{
    Bounds, Condition, FieldFault, Filter, FilterError, FilterLimits, SelectError, Test,
};
pub use highlight::{Highlighter, Piece};
pub use language::{Language, UnknownLanguage};
pub use lexical::SEGMENT_BYTES;
pub use store::{Store, Verify};
pub use values::{FieldValue, field_kind};
pub use view::{Added, AddedPart, View};
pub use writer::{StoreConfig, StoreSummary, StoreWriter};

/// A set of ordinals, as the vector index takes it.
pub type Bitmap = roaring::RoaringBitmap;
