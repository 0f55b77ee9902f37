//! Training examples: what they are, the files they come from, and how groups are drawn of them.

mod dataset;
mod error;
mod example;
mod passages;
pub(crate) mod random;
mod sampling;

pub use dataset::{DataReport, Dataset};
pub use error::DataError;
pub use example::{Candidate, Content, Example, Group};
pub use passages::Passages;
pub use sampling::{Draw, Sampling, SamplingRule};
