//! A model with a scheduler in front of it, as the retriever and the routes call it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use encoder::{BiEncoder, CrossEncoder, EncodeError, RankPrior, Role, Text, TextSpec, Tokens};
use futures::future::BoxFuture;
use retriever::{Deadline, Encoded, ModelError, QueryEncoder, Reranked, Reranker};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::QueueConfig;
use crate::metrics::Metrics;
use crate::scheduler::{Class, Scheduler};

/// Turns texts into tokens on blocking threads, a bounded number at a time, so that the compute threads only compute.
pub(crate) struct Tokenizers(Semaphore);

impl Tokenizers {
    pub(crate) fn new(n_threads: usize) -> Self {
        Self(Semaphore::new(n_threads.max(1)))
    }

    /// `tokenize` is called once a text: given many, the models would spread them over their compute threads.
    async fn run<T, F>(
        &self,
        texts: Vec<T>,
        deadline: Deadline,
        tokenize: F,
    ) -> Result<Vec<Tokens>, ModelError>
    where
        T: Send + 'static,
        F: Fn(&T) -> Result<Vec<Tokens>, EncodeError> + Send + 'static,
    {
        let permit = match deadline.moment() {
            Some(moment) => timeout_at(moment.into(), self.0.acquire())
                .await
                .map_err(|_| ModelError::DeadlineExceeded)?,
            None => self.0.acquire().await,
        };
        let _permit = permit.map_err(|_| ModelError::ShuttingDown)?;
        let all = tokio::task::spawn_blocking(move || {
            let mut all = Vec::with_capacity(texts.len());
            for text in &texts {
                if deadline.expired() {
                    return Err(ModelError::DeadlineExceeded);
                }
                all.extend(tokenize(text)?);
            }
            Ok(all)
        });
        all.await.map_err(|_| ModelError::Stopped)?
    }
}

/// A bi-encoder that many requests share.
pub(crate) struct ServedEncoder {
    pub(crate) name: String,
    pub(crate) model: Arc<BiEncoder>,
    /// Digest of the model's fingerprint with default templates.
    pub(crate) fingerprint: String,
    scheduler: Scheduler,
    tokenizers: Arc<Tokenizers>,
}

impl ServedEncoder {
    pub(crate) fn start(
        name: &str,
        model: Arc<BiEncoder>,
        mut config: QueueConfig,
        tokenizers: Arc<Tokenizers>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let longest = model
            .max_tokens(Role::Query)
            .max(model.max_tokens(Role::Passage));
        config.max_batch_tokens = config.max_batch_tokens.max(longest);
        config.max_tokens = config.max_tokens.max(longest);
        let scheduler = Scheduler::start("encode", name, Arc::clone(&model), config, metrics)?;
        let fingerprint = model.fingerprint(&TextSpec::default()).digest();
        Ok(Self {
            name: name.to_owned(),
            model,
            fingerprint,
            scheduler,
            tokenizers,
        })
    }

    /// Encodes texts with the role's own prompt, or with another one.
    pub(crate) async fn encode_texts(
        &self,
        texts: Vec<String>,
        role: Role,
        prompt: Option<String>,
        class: Class,
        deadline: Deadline,
    ) -> Result<Encoded, ModelError> {
        let start = Instant::now();
        let model = Arc::clone(&self.model);
        let tokenize = move |text: &String| {
            let prompt = prompt.as_deref().unwrap_or_else(|| model.prompt(role));
            model.tokenize_with_prompt(prompt, role, &[Text::Single(text)])
        };
        let tokens = self.tokenizers.run(texts, deadline, tokenize).await?;
        self.encode_tokens(tokens, class, deadline, start.elapsed())
            .await
    }

    /// Encodes texts that are tokens already.
    pub(crate) async fn encode_tokens(
        &self,
        tokens: Vec<Tokens>,
        class: Class,
        deadline: Deadline,
        tokenize: Duration,
    ) -> Result<Encoded, ModelError> {
        let n_tokens = tokens.iter().map(Tokens::len).sum();
        let n_truncated = tokens.iter().filter(|tokens| tokens.truncated).count();
        let answer = self.scheduler.submit(tokens, class, deadline).await?;
        Ok(Encoded {
            values: answer.values,
            width: self.model.width(),
            n_tokens,
            n_truncated,
            queue: answer.queue,
            tokenize,
            compute: answer.compute,
        })
    }
}

/// A cross-encoder that many requests share.
pub(crate) struct ServedReranker {
    pub(crate) name: String,
    model: Arc<CrossEncoder>,
    scheduler: Scheduler,
    tokenizers: Arc<Tokenizers>,
}

impl ServedReranker {
    pub(crate) fn start(
        name: &str,
        model: Arc<CrossEncoder>,
        mut config: QueueConfig,
        tokenizers: Arc<Tokenizers>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        config.max_batch_tokens = config.max_batch_tokens.max(model.max_tokens());
        config.max_tokens = config.max_tokens.max(model.max_tokens());
        let scheduler = Scheduler::start("rerank", name, Arc::clone(&model), config, metrics)?;
        Ok(Self {
            name: name.to_owned(),
            model,
            scheduler,
            tokenizers,
        })
    }

    /// Scores passages against a query.
    pub(crate) async fn score(
        &self,
        query: String,
        passages: Vec<String>,
        class: Class,
        deadline: Deadline,
    ) -> Result<Reranked, ModelError> {
        let model = Arc::clone(&self.model);
        let tokenize = move |passage: &String| model.tokenize(&[(&query, passage)]);
        let tokens = self.tokenizers.run(passages, deadline, tokenize).await?;
        let n_tokens = tokens.iter().map(Tokens::len).sum();
        let n_truncated = tokens.iter().filter(|tokens| tokens.truncated).count();
        let answer = self.scheduler.submit(tokens, class, deadline).await?;
        Ok(Reranked {
            scores: answer.values,
            n_tokens,
            n_truncated,
        })
    }
}

/// A served model on behalf of one request, whose class decides who goes first.
pub(crate) struct OnBehalf<'a, M> {
    pub(crate) model: &'a M,
    pub(crate) class: Class,
}

impl QueryEncoder for OnBehalf<'_, ServedEncoder> {
    fn encode(
        &self,
        texts: Vec<String>,
        prompt: Option<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Encoded, ModelError>> {
        Box::pin(
            self.model
                .encode_texts(texts, Role::Query, prompt, self.class, deadline),
        )
    }
}

impl Reranker for OnBehalf<'_, ServedReranker> {
    fn rank_prior(&self) -> RankPrior {
        self.model.model.rank_prior()
    }

    fn rerank(
        &self,
        query: String,
        passages: Vec<String>,
        deadline: Deadline,
    ) -> BoxFuture<'_, Result<Reranked, ModelError>> {
        Box::pin(self.model.score(query, passages, self.class, deadline))
    }
}

/// Stands where a collection has no encoder; requests that would need one are refused before they get here.
pub(crate) struct NoEncoder;

impl QueryEncoder for NoEncoder {
    fn encode(
        &self,
        _texts: Vec<String>,
        _prompt: Option<String>,
        _deadline: Deadline,
    ) -> BoxFuture<'_, Result<Encoded, ModelError>> {
        Box::pin(async { Err(ModelError::Stopped) })
    }
}
