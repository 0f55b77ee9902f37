//! Documents cut into sentences, and what is packed of them: pairs of spans, from which CoT-MAE and coCondenser learn, and
//! blocks, which the methods of texts read.
//!
//! Each span gets others of its document beside it. Wu et al. 2022 (arXiv 2208.07670), §3;
//! `caskcsg/ir:cotmae/make_cotmae_data.py`. Blocks: `staoxiao/RetroMAE:examples/pretrain/preprocess.py`,
//! `luyug/Condenser:helper/create_train.py`.

mod blocks;
mod document;
mod pairs;
mod sentences;
#[cfg(test)]
mod test_data;
mod writing;

pub use blocks::{BlockConfig, ClosingRule, blocks};
pub use document::{PairKinds, SpanDocument, SpanPairs};
pub use pairs::{SpanConfig, pack, pairs};
pub use sentences::sentences;
pub use writing::{
    BlockReport, CutError, DocumentSource, SpanReport, write_blocks, write_span_pairs,
};
