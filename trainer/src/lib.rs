//! One loop, many objectives: fine-tuning, distillation, cross-encoders, hard-negative mining.
//!
//! An [`Objective`] turns a batch into a loss and gradients; [`Batches`] give the batch of an epoch and an index, so that
//! a run can be resumed anywhere; [`run::train`] is the loop. [`data`] reads what other toolkits write, and draws each
//! query's group of passages; [`loss`] holds the equations, [`masking`] what pre-training hides, [`spans`] the pairs of spans that
//! it reads, [`teacher`] what language models write about passages. [`ranks`] is what several processes that train one model say
//! to each other.

mod batches;
pub mod data;
pub mod export;
mod json;
pub mod loss;
pub mod masking;
mod mining;
pub mod objective;
mod parallel;
pub mod ranks;
pub mod run;
pub mod spans;
pub mod teacher;
mod text;
mod word_pieces;

pub use batches::{
    Batches, Counts, Draw, GroupBatches, GroupsConfig, Mixing, Shard, ShuffleBuffer, StreamBatches,
    StreamConfig, TextBatches, TextBatchesConfig, TextSource, Texts,
};
pub use mining::{MiningConfig, MiningCounts, Selection, mine};
pub use objective::{Objective, Preparation, Step, StepReport};
pub use word_pieces::{WordPieceReport, learn_word_pieces};
