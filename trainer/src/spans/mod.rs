//! Pairs of spans of one document, from which CoT-MAE and coCondenser learn.
//!
//! Documents are cut into sentences, sentences packed into spans, and each span gets others of its document beside it.
//! Wu et al. 2022 (arXiv 2208.07670), §3; `caskcsg/ir:cotmae/make_cotmae_data.py`.

mod document;
mod pairs;
mod sentences;
mod writing;

pub use document::{PairKinds, SpanDocument, SpanPairs};
pub use pairs::{SpanConfig, pack, pairs};
pub use sentences::sentences;
pub use writing::{SpanError, SpanReport, SpanSource, write_span_pairs};
