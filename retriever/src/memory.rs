//! Models that are asked the same thing several times and answer once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use encoder::RankPrior;
use futures::future::BoxFuture;

use crate::{Deadline, Encoded, ModelError, QueryEncoder, Reranked, Reranker};

/// An encoder of one batch of queries.
pub(crate) struct RememberedEncoder<'a> {
    encoder: &'a dyn QueryEncoder,
    encoded: Mutex<Option<Encoded>>,
}

impl<'a> RememberedEncoder<'a> {
    pub fn new(encoder: &'a dyn QueryEncoder) -> Self {
        Self {
            encoder,
            encoded: Mutex::default(),
        }
    }
}

impl QueryEncoder for RememberedEncoder<'_> {
    fn encode(
        &self,
        texts: Vec<String>,
        prompt: Option<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Encoded, ModelError>> {
        Box::pin(async move {
            if let Some(encoded) = locked(&self.encoded).clone() {
                return Ok(encoded);
            }
            let encoded = self.encoder.encode(texts, prompt, deadline).await?;
            *locked(&self.encoded) = Some(encoded.clone());
            Ok(encoded)
        })
    }
}

/// A reranker that reads each list of passages once.
pub(crate) struct RememberedReranker<'a> {
    reranker: &'a dyn Reranker,
    reranked: Mutex<HashMap<(String, Vec<String>), Reranked>>,
}

impl<'a> RememberedReranker<'a> {
    pub fn new(reranker: &'a dyn Reranker) -> Self {
        Self {
            reranker,
            reranked: Mutex::default(),
        }
    }
}

impl Reranker for RememberedReranker<'_> {
    fn rank_prior(&self) -> RankPrior {
        self.reranker.rank_prior()
    }

    fn rerank(
        &self,
        query: String,
        passages: Vec<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Reranked, ModelError>> {
        Box::pin(async move {
            let key = (query, passages);
            if let Some(reranked) = locked(&self.reranked).get(&key).cloned() {
                return Ok(reranked);
            }
            let (query, passages) = key.clone();
            let reranked = self.reranker.rerank(query, passages, deadline).await?;
            locked(&self.reranked).insert(key, reranked.clone());
            Ok(reranked)
        })
    }
}

/// What a panic left there is whole: values are put in at once.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
