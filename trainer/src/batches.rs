mod groups;
mod stream;
mod texts;

pub use groups::{GroupBatches, GroupsConfig, Mixing};
pub use stream::{ShuffleBuffer, StreamBatches, StreamConfig};
pub use texts::{Draw, Shard, TextBatches, TextBatchesConfig, TextSource, Texts};

use std::collections::BTreeMap;

use crate::data::DataError;

/// Numbers by their names.
pub type Counts = BTreeMap<&'static str, u64>;

/// The batches of a run, each a function of epoch and index alone.
///
/// Asked twice, in any order and from any thread, for the same batch, an implementation gives the same one: that is what
/// makes a resumed run equal one that was never stopped.
pub trait Batches: Send + Sync {
    /// What one step trains on.
    type Batch: Send;

    /// Batches of an epoch.
    fn len(&self, epoch: u64) -> usize;

    /// Whether an epoch has none.
    fn is_empty(&self, epoch: u64) -> bool {
        self.len(epoch) == 0
    }

    /// Batch `index` of an epoch.
    ///
    /// # Errors
    /// [`DataError`] with the place of what cannot be used.
    fn batch(&self, epoch: u64, index: usize) -> Result<Self::Batch, DataError>;

    /// What batch `index` of an epoch holds, by names: its texts, and those that lack something or are cut. Nothing where nobody
    /// counts.
    ///
    /// # Errors
    /// As [`Self::batch`].
    fn counts(&self, _epoch: u64, _index: usize) -> Result<Counts, DataError> {
        Ok(Counts::new())
    }

    /// A number that other data would not give, by which a run that is resumed knows its own.
    fn digest(&self) -> u64;
}
