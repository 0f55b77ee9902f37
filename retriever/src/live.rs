//! What was changed in a collection since its generation was built.

use std::sync::Arc;

use index::{MemoryRows, Metric, Neighbor, RowType};
use store::{Added, Bitmap, StoreError, View, WriteError};

use crate::Deadline;

/// A generation with the changes of the write log up to a position, as searches see it at one moment.
///
/// A clone is a snapshot, and cheap: whoever changes it changes nothing that others see.
#[derive(Clone)]
pub struct Live {
    view: View,
    rows: MemoryRows,
    start: u64,
    position: u64,
}

/// Why a document cannot be taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// Its vector cannot be compared.
    #[error("the vector cannot be used")]
    Row(#[from] index::WriteError),
    /// Its metadata does not fit the fields.
    #[error("the passage cannot be taken in")]
    Passage(#[from] WriteError),
    /// The texts of the generation cannot be read.
    #[error("cannot read the passages")]
    Store(#[from] StoreError),
}

/// How vectors of a generation are stored and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowForm {
    /// Values in a row.
    pub width: usize,
    /// How rows are compared.
    pub metric: Metric,
    /// How values are stored.
    pub row_type: RowType,
}

impl Live {
    /// A generation as it was built; changes of the log up to `start` are in it, or left out of it.
    pub(crate) fn new(view: View, form: RowForm, start: u64) -> Self {
        let first_ordinal = view.store().len();
        let RowForm {
            width,
            metric,
            row_type,
        } = form;
        Self {
            view,
            rows: MemoryRows::new(width, metric, row_type, first_ordinal),
            start,
            position: start,
        }
    }

    /// Its passages.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The position of the write log after which its changes were applied.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The last position of the write log that is in it.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Says that the log is in it up to a position.
    pub fn advance(&mut self, position: u64) {
        self.position = position;
    }

    /// Memory of what was changed, about.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        self.view.n_bytes() + self.rows.n_bytes()
    }

    /// Puts passages, each with its vector, in the place of what there is of their document.
    ///
    /// # Errors
    /// [`ChangeError`]; what was there may be gone then, so a caller changes a clone.
    pub fn upsert<'a>(
        &mut self,
        document: &str,
        passages: impl IntoIterator<Item = (Added, &'a [f32])>,
    ) -> Result<(), ChangeError> {
        self.view.delete(document)?;
        for (added, row) in passages {
            self.view.check(&added.passage)?;
            self.rows.push(row)?;
            self.view.add(added)?;
        }
        Ok(())
    }

    /// Deletes what there is of a document; whether there was any.
    ///
    /// # Errors
    /// [`ChangeError::Store`].
    pub fn delete(&mut self, document: &str) -> Result<bool, ChangeError> {
        Ok(self.view.delete(document)? > 0)
    }

    /// Whether every passage is the generation's.
    pub(crate) fn has_no_rows(&self) -> bool {
        self.rows.is_empty()
    }

    /// The passages of the generation among `passages`, or those that are left of it: what its index may find.
    pub(crate) fn of_generation(&self, passages: Option<&Arc<Bitmap>>) -> Option<Arc<Bitmap>> {
        let Some(passages) = passages else {
            return self.view.kept().cloned();
        };
        let n_base = self.view.store().len();
        if passages.max().is_none_or(|last| last < n_base) {
            return Some(Arc::clone(passages));
        }
        let mut of_generation = Bitmap::clone(passages);
        of_generation.remove_range(n_base..);
        Some(Arc::new(of_generation))
    }

    /// The nearest among the passages that are not the generation's.
    pub(crate) fn search(
        &self,
        queries: &[f32],
        k: usize,
        passages: Option<&Bitmap>,
        deadline: Deadline,
    ) -> Result<Vec<Vec<Neighbor>>, index::SearchError> {
        let passes = |ordinal| match passages {
            Some(passages) => passages.contains(ordinal),
            None => self.view.contains(ordinal),
        };
        self.rows.search(queries, k, &passes, deadline.moment())
    }
}
