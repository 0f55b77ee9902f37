//! What pre-training hides from its encoders and decoders: windows, whole-word masks, keyword masks, corruption.
//!
//! Plain functions of token ids, without tensors. A mask is a list of booleans beside the ids, true where a token is
//! hidden. All draws of an example come from [`example_random`], so that they depend on nothing but seed, epoch and
//! example, and a run that is resumed hides the same tokens.

mod corruption;
mod derived;
mod frequency;
mod keywords;
mod master;
#[cfg(test)]
mod test_data;
mod visibility;
mod vocabulary;
mod whole_words;
mod window;

pub use corruption::{Corrupted, Corruption};
pub use derived::{complement, extra_ratio, union};
pub use frequency::{
    DictionaryConfig, DictionaryReport, FrequencyDictionary, KeywordWeights, WordSource,
};
pub use keywords::mask_keywords;
pub use master::{MasterMasks, MasterStreams, MasterText};
pub use visibility::Visibility;
pub use vocabulary::{SpecialIds, Vocabulary};
pub use whole_words::{Skipped, Words, budget};
pub use window::{crop, wrap, wrap_mask};

use rand_chacha::ChaCha8Rng;

use crate::data::random::{Purpose, random};

/// Returns the random numbers of one example in one epoch. Draw from them in a fixed order.
pub fn example_random(seed: u64, epoch: u64, example: u64) -> ChaCha8Rng {
    random(seed, epoch, example, Purpose::Masking)
}
