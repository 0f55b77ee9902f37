//! Training examples: what they are, and the files they come from.

mod error;
mod example;

pub use error::DataError;
pub use example::{Candidate, Content, Example, Group};
