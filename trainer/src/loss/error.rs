/// Why a loss cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LossError {
    /// The passages are not the same number for each query.
    #[error("{n_passages} passages for {n_queries} queries are no groups of equal size")]
    UnevenGroups {
        /// B
        n_queries: usize,
        /// Rows that should be B·N.
        n_passages: usize,
    },
    /// A tensor has another shape than the loss asks for.
    #[error("{what} are {found:?}, expected {expected:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// What fits the others.
        expected: Vec<usize>,
        /// What came.
        found: Vec<usize>,
    },
    /// Groups have no negative to compare the positive with.
    #[error("groups of {n_passages} have no negatives")]
    NoNegatives {
        /// N
        n_passages: usize,
    },
    /// A passage has no score to learn from.
    #[error("passage `{passage}` of query `{query}` has no teacher score")]
    NoScore {
        /// The query's id.
        query: String,
        /// The passage's id.
        passage: String,
    },
    /// A number makes no sense.
    #[error("{name} is {value}; {rule}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: f64,
        /// What is accepted.
        rule: &'static str,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl From<LossError> for encoder::training::TrainingError {
    fn from(error: LossError) -> Self {
        match error {
            LossError::Tensor(error) => Self::Tensor(error),
            LossError::Setting { name, value, rule } => Self::Setting { name, value, rule },
            other => Self::Tensor(candle_core::Error::Wrapped(Box::new(other))), // `wrap` would add a backtrace
        }
    }
}
