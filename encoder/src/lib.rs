//! Text to vectors and scores: model directories, tokenisation, batching, layers, pooling.
//!
//! [`BiEncoder`] and [`CrossEncoder`] read a Hugging Face or sentence-transformers directory, take tokenised texts
//! and return rows with truncation counts. Vectors equal those of the reference implementation: [`Golden`] proves it.
//!
//! Invariant: this crate knows no corpus and no index; prompts and lengths come from the model, templates do not.

mod accelerated;
mod architecture;
mod backbone;
mod batch;
mod bi_encoder;
mod checkpoint;
mod conversion;
mod crew;
mod cross_encoder;
mod directory;
mod error;
mod fingerprint;
mod foreign;
mod generation;
mod golden;
mod kernel;
mod network;
mod options;
mod pooling;
mod rank_prior;
mod t5;
mod threads;
mod tokenizer;
pub mod training;
mod transformer;
mod weights;

pub use architecture::{Activation, Architecture, Family, Labels};
pub use bi_encoder::{BiEncoder, Embeddings, Output};
pub use checkpoint::Checkpoint;
pub use conversion::{ConvertError, Converted, WeightType, average, convert};
pub use cross_encoder::{CrossEncoder, Scores};
pub use directory::{DenseConfig, Directory, OutputActivation, Step};
pub use error::{EncodeError, LoadError};
pub use fingerprint::{Difference, Fingerprint, TextSpec};
pub use generation::{LanguageModel, Sampling, Writing};
pub use golden::{Golden, GoldenError, GoldenReport};
pub use kernel::{KernelPath, kernel_paths};
pub use options::{
    AcceleratorConfig, Arithmetic, EncoderConfig, ModelOptions, Pooling, Preset, Role, Similarity,
};
pub use rank_prior::RankPrior;
pub use t5::{ScaledT5, T5Architecture, scale_t5};
pub use tokenizer::{
    LearnedWordPieces, Piece, Side, Text, TextTokenizer, Tokens, Truncation, WordCounts,
    WordPieceConfig, longest_first,
};
pub use transformer::{Batch, Transformer};
