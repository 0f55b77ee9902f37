use std::sync::Arc;
use std::time::{Duration, Instant};

use encoder::{BiEncoder, CrossEncoder, EncodeError, RankPrior, Role, Text, Tokens};
use futures::future::BoxFuture;

use crate::Deadline;

/// Query vectors and what making them took.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// (queries, width), row-major, in the order asked for.
    pub values: Vec<f32>,
    /// Values of one row.
    pub width: usize,
    /// How much was read of each query.
    pub lengths: Vec<QueryLength>,
    /// Time spent waiting for the model.
    pub queue: Duration,
    /// Time spent turning text into tokens.
    pub tokenize: Duration,
    /// Time spent in the model.
    pub compute: Duration,
}

impl Encoded {
    /// Tokens of all queries.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.lengths.iter().map(|length| length.n_tokens).sum()
    }
}

/// How much a model read of a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryLength {
    /// Tokens, special ones included.
    pub n_tokens: usize,
    /// Whether it was longer than the model's limit.
    pub truncated: bool,
}

impl From<&Tokens> for QueryLength {
    fn from(tokens: &Tokens) -> Self {
        Self {
            n_tokens: tokens.len(),
            truncated: tokens.truncated,
        }
    }
}

/// Scores of a query's passages and what making them took.
#[derive(Clone, Debug, Default)]
pub struct Reranked {
    /// One score a passage, in the order given; higher is better.
    pub scores: Vec<f32>,
    /// Tokens of all pairs, special tokens included.
    pub n_tokens: usize,
    /// Pairs that were longer than the model's limit.
    pub n_truncated: usize,
}

/// Why a model gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The queue before the model is full.
    #[error("{queue} queue holds {held} of {limit} tokens")]
    Overloaded {
        /// Which queue: `encode` or `rerank`.
        queue: &'static str,
        /// Tokens waiting.
        held: usize,
        /// The most it takes.
        limit: usize,
        /// When to try again.
        retry_after: Duration,
    },
    /// The request waited for as long as any may.
    #[error("request waited {} ms for the model, limit is {} ms", waited.as_millis(), limit.as_millis())]
    WaitedTooLong {
        /// How long it waited.
        waited: Duration,
        /// The longest it may.
        limit: Duration,
    },
    /// One request asks for more than the queue could ever hold.
    #[error("request holds {given} tokens, limit is {limit}")]
    TooLarge {
        /// Tokens of the request.
        given: usize,
        /// The most a request may have.
        limit: usize,
    },
    /// The deadline passed before the model was reached.
    #[error("deadline passed before the model answered")]
    DeadlineExceeded,
    /// The model is going away.
    #[error("model is shutting down")]
    ShuttingDown,
    /// The model ended without an answer.
    #[error("model stopped without an answer")]
    Stopped,
    /// The model refused its input or failed.
    #[error("model failed")]
    Failed(#[from] EncodeError),
}

/// Turns query texts into vectors.
pub trait QueryEncoder: Send + Sync {
    /// Returns one row a text. `prompt` replaces the model's query prompt when given.
    ///
    /// # Errors
    /// [`ModelError`] for the request as a whole; nothing is encoded in part.
    fn encode(
        &self,
        texts: Vec<String>,
        prompt: Option<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Encoded, ModelError>>;
}

/// Scores passages against a query.
pub trait Reranker: Send + Sync {
    /// What the order of the first stage adds to the scores.
    fn rank_prior(&self) -> RankPrior {
        RankPrior::default()
    }

    /// Returns one score a passage.
    ///
    /// # Errors
    /// [`ModelError`] for the request as a whole; nothing is scored in part.
    fn rerank(
        &self,
        query: String,
        passages: Vec<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Reranked, ModelError>>;
}

/// Calls the encoder at once, on the calling thread.
pub struct DirectEncoder(pub Arc<BiEncoder>);

impl QueryEncoder for DirectEncoder {
    fn encode(
        &self,
        texts: Vec<String>,
        prompt: Option<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Encoded, ModelError>> {
        Box::pin(async move {
            if deadline.expired() {
                return Err(ModelError::DeadlineExceeded);
            }
            let start = Instant::now();
            let prompt = prompt
                .as_deref()
                .unwrap_or_else(|| self.0.prompt(Role::Query));
            let texts: Vec<Text<'_>> = texts.iter().map(|text| Text::Single(text)).collect();
            let tokens = self.0.tokenize_with_prompt(prompt, Role::Query, &texts)?;
            let tokenized = Instant::now();
            let embeddings = self.0.encode(&tokens)?;
            Ok(Encoded {
                width: embeddings.width,
                lengths: tokens.iter().map(QueryLength::from).collect(),
                queue: Duration::ZERO,
                tokenize: tokenized - start,
                compute: tokenized.elapsed(),
                values: embeddings.values,
            })
        })
    }
}

/// Calls the cross-encoder at once, on the calling thread. Of a model with several labels the first one counts.
pub struct DirectReranker(pub Arc<CrossEncoder>);

impl Reranker for DirectReranker {
    fn rank_prior(&self) -> RankPrior {
        self.0.rank_prior()
    }

    fn rerank(
        &self,
        query: String,
        passages: Vec<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Reranked, ModelError>> {
        Box::pin(async move {
            if deadline.expired() {
                return Err(ModelError::DeadlineExceeded);
            }
            let pairs: Vec<(&str, &str)> = passages
                .iter()
                .map(|passage| (query.as_str(), passage.as_str()))
                .collect();
            let tokens = self.0.tokenize(&pairs)?;
            let scores = self.0.score(&tokens)?;
            let rows = scores.values.chunks_exact(scores.n_labels);
            Ok(Reranked {
                scores: rows.map(|row| row[0]).collect(),
                n_tokens: scores.n_tokens,
                n_truncated: scores.n_truncated,
            })
        })
    }
}
