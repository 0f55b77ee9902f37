//! A model with a scheduler in front of it, as the retriever and the routes call it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use encoder::{
    BiEncoder, CrossEncoder, EncodeError, RankPrior, Role, Side, Text, TextSpec, Tokens,
};
use futures::future::BoxFuture;
use retriever::{Deadline, Encoded, ModelError, QueryEncoder, QueryLength, Reranked, Reranker};
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::QueueConfig;
use crate::cache::{Key, Known, QueryCache};
use crate::metrics::Metrics;
use crate::scheduler::{Class, Scheduler, Work};

/// Bytes of texts that are turned into tokens where the request is handled: sooner done than handed to another thread.
const FEW_BYTES: usize = 1024;

/// Turns texts into tokens on blocking threads, a bounded number at a time, so that the compute threads only compute.
pub(crate) struct Tokenizers(Arc<Semaphore>);

impl Tokenizers {
    pub(crate) fn new(n_threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(n_threads.max(1))))
    }

    /// `tokenize` is called once a text: given many, the models would spread them over their compute threads. The texts have
    /// about `n_bytes`. A caller does not wait beyond its deadline; a text that is begun then is finished for nobody.
    pub(crate) async fn run<T, U, F>(
        &self,
        texts: Vec<T>,
        n_bytes: usize,
        deadline: Deadline,
        tokenize: F,
    ) -> Result<Vec<U>, ModelError>
    where
        T: Send + 'static,
        U: Send + 'static,
        F: Fn(&T) -> Result<U, EncodeError> + Send + 'static,
    {
        if n_bytes <= FEW_BYTES {
            return Ok(texts.iter().map(tokenize).collect::<Result<_, _>>()?);
        }
        let permit = until(deadline, Arc::clone(&self.0).acquire_owned()).await?;
        let permit = permit.map_err(|_| ModelError::ShuttingDown)?;
        let all = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut all = Vec::with_capacity(texts.len());
            for text in &texts {
                if deadline.expired() {
                    return Err(ModelError::DeadlineExceeded);
                }
                all.push(tokenize(text)?);
            }
            Ok(all)
        });
        until(deadline, all)
            .await?
            .map_err(|_| ModelError::Stopped)?
    }
}

/// What a future gives, if it does so in time.
async fn until<F: Future>(deadline: Deadline, future: F) -> Result<F::Output, ModelError> {
    match deadline.moment() {
        Some(moment) => timeout_at(moment.into(), future)
            .await
            .map_err(|_| ModelError::DeadlineExceeded),
        None => Ok(future.await),
    }
}

/// How texts are read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) role: Role,
    /// In place of the role's own prompt.
    pub(crate) prompt: Option<String>,
    /// Where texts that are too long lose tokens, if not where the model's configuration says.
    pub(crate) side: Option<Side>,
}

impl From<Role> for Reading {
    fn from(role: Role) -> Self {
        Self {
            role,
            prompt: None,
            side: None,
        }
    }
}

/// A bi-encoder that many requests share.
pub(crate) struct ServedEncoder {
    pub(crate) name: String,
    pub(crate) model: Arc<BiEncoder>,
    /// Digest of the model's fingerprint with default templates.
    pub(crate) fingerprint: String,
    /// Widths beside its own to which its vectors may be cut, because it was trained for them.
    pub(crate) dimensions: Vec<usize>,
    pub(crate) loaded: SystemTime,
    pub(crate) max_batch_tokens: usize,
    scheduler: Scheduler,
    tokenizers: Arc<Tokenizers>,
    queries: Arc<QueryCache>,
    metrics: Arc<Metrics>,
}

impl ServedEncoder {
    pub(crate) fn start(
        name: &str,
        model: Arc<BiEncoder>,
        mut config: QueueConfig,
        tokenizers: Arc<Tokenizers>,
        queries: Arc<QueryCache>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let longest = model
            .max_tokens(Role::Query)
            .max(model.max_tokens(Role::Passage));
        config.max_batch_tokens = config.max_batch_tokens.max(longest);
        config.max_tokens = config.max_tokens.max(longest);
        let max_batch_tokens = config.max_batch_tokens;
        let scheduler = Scheduler::start(
            "encode",
            name,
            Arc::clone(&model),
            config,
            Arc::clone(&metrics),
        )?;
        let fingerprint = model.fingerprint(&TextSpec::default()).digest();
        Ok(Self {
            name: name.to_owned(),
            model,
            fingerprint,
            dimensions: Vec::new(),
            loaded: SystemTime::now(),
            max_batch_tokens,
            scheduler,
            tokenizers,
            queries,
            metrics,
        })
    }

    /// Encodes query texts, those that were encoded lately from memory.
    async fn encode_queries(
        &self,
        texts: Vec<String>,
        prompt: Option<String>,
        class: Class,
        deadline: Deadline,
    ) -> Result<Encoded, ModelError> {
        let (model, prompt_key) = (self.name.as_str().into(), prompt.as_deref());
        let key = |text: &String| Key {
            model: Arc::clone(&model),
            prompt: prompt_key.map(Arc::from),
            text: text.as_str().into(),
        };
        let keys: Vec<Key> = texts.iter().map(key).collect();
        let mut known: Vec<Option<Known>> = keys.iter().map(|key| self.queries.get(key)).collect();
        let unknown = |(text, known): (String, &Option<Known>)| known.is_none().then_some(text);
        let missing: Vec<String> = texts.into_iter().zip(&known).filter_map(unknown).collect();
        let n_missing = missing.len();
        self.metrics
            .query_cache(keys.len() - n_missing, n_missing, self.queries.n_bytes());
        let mut encoded = Encoded {
            width: self.model.width(),
            ..Encoded::default()
        };
        if n_missing > 0 {
            let start = Instant::now();
            let reading = Reading {
                prompt,
                ..Role::Query.into()
            };
            let tokens = self.tokenize(missing, reading, deadline).await?;
            encoded = self
                .encode_tokens(tokens.into(), class, deadline, start.elapsed())
                .await?;
            let rows = encoded.values.chunks_exact(encoded.width);
            let mut rows = rows.zip(&encoded.lengths);
            for (key, known) in keys.into_iter().zip(&mut known) {
                if known.is_none()
                    && let Some((values, &length)) = rows.next()
                {
                    let values = values.into();
                    let made = Known { values, length };
                    self.queries.put(key, made.clone());
                    *known = Some(made);
                }
            }
        }
        let known: Vec<Known> = known.into_iter().flatten().collect();
        Ok(Encoded {
            values: known
                .iter()
                .flat_map(|row| row.values.iter().copied())
                .collect(),
            lengths: known.iter().map(|row| row.length).collect(),
            ..encoded
        })
    }

    /// Turns texts into tokens.
    pub(crate) async fn tokenize(
        &self,
        texts: Vec<String>,
        reading: Reading,
        deadline: Deadline,
    ) -> Result<Vec<Tokens>, ModelError> {
        let model = Arc::clone(&self.model);
        let tokenize = move |text: &String| {
            let Reading { role, prompt, side } = &reading;
            let prompt = prompt.as_deref().unwrap_or_else(|| model.prompt(*role));
            model.tokenize_cut(prompt, *role, text, *side)
        };
        let n_bytes = texts.iter().map(String::len).sum();
        self.tokenizers
            .run(texts, n_bytes, deadline, tokenize)
            .await
    }

    /// Encodes texts that are tokens already.
    pub(crate) async fn encode_tokens(
        &self,
        work: Work,
        class: Class,
        deadline: Deadline,
        tokenize: Duration,
    ) -> Result<Encoded, ModelError> {
        let lengths = work.rows.iter().map(QueryLength::from).collect();
        let answer = self.scheduler.submit(work, class, deadline).await?;
        Ok(Encoded {
            values: answer.values,
            width: self.model.width(),
            lengths,
            queue: answer.queue,
            tokenize,
            compute: answer.compute,
        })
    }
}

/// One or two texts that a cross-encoder reads.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    One(String),
    Pair(Arc<str>, String),
}

impl Input {
    fn as_text(&self) -> Text<'_> {
        match self {
            Self::One(text) => Text::Single(text),
            Self::Pair(first, second) => Text::Pair(first, second),
        }
    }

    fn n_bytes(&self) -> usize {
        match self {
            Self::One(text) => text.len(),
            Self::Pair(first, second) => first.len() + second.len(),
        }
    }

    pub(crate) fn n_characters(&self) -> usize {
        match self {
            Self::One(text) => text.chars().count(),
            Self::Pair(first, second) => first.chars().count() + second.chars().count(),
        }
    }

    /// Pairs of a query with each of many texts.
    pub(crate) fn pairs(query: &str, texts: Vec<String>) -> Vec<Self> {
        let query: Arc<str> = query.into();
        let pair = |text| Self::Pair(Arc::clone(&query), text);
        texts.into_iter().map(pair).collect()
    }
}

/// How pairs are cut.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PairCut {
    /// Tokens that are read of the second text.
    pub(crate) max_second: Option<usize>,
    pub(crate) side: Option<Side>,
}

/// What a cross-encoder makes of its inputs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scored {
    pub(crate) n_labels: usize,
    /// (inputs, labels): after the model's activation.
    pub(crate) scores: Vec<f32>,
    /// The same before it.
    pub(crate) logits: Vec<f32>,
    pub(crate) n_tokens: usize,
    pub(crate) n_truncated: usize,
    pub(crate) queue: Duration,
    pub(crate) tokenize: Duration,
    pub(crate) compute: Duration,
}

impl Scored {
    /// Of each input the score of its first label, by which inputs are ordered.
    pub(crate) fn first_scores(&self) -> Vec<f32> {
        let scores = self.scores.iter().step_by(self.n_labels.max(1));
        scores.copied().collect()
    }

    /// What the time was spent on.
    pub(crate) fn stages(&self) -> [(&'static str, Duration); 3] {
        [
            ("queue", self.queue),
            ("tokenize", self.tokenize),
            ("rerank", self.compute),
        ]
    }

    /// The same before the activation.
    pub(crate) fn first_logits(&self) -> Vec<f32> {
        let logits = self.logits.iter().step_by(self.n_labels.max(1));
        logits.copied().collect()
    }
}

/// A cross-encoder that many requests share.
pub(crate) struct ServedReranker {
    pub(crate) name: String,
    pub(crate) model: Arc<CrossEncoder>,
    pub(crate) loaded: SystemTime,
    pub(crate) max_batch_tokens: usize,
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
        let max_batch_tokens = config.max_batch_tokens;
        let scheduler = Scheduler::start("rerank", name, Arc::clone(&model), config, metrics)?;
        Ok(Self {
            name: name.to_owned(),
            model,
            loaded: SystemTime::now(),
            max_batch_tokens,
            scheduler,
            tokenizers,
        })
    }

    pub(crate) async fn score(
        &self,
        inputs: Vec<Input>,
        cut: PairCut,
        class: Class,
        deadline: Deadline,
    ) -> Result<Scored, ModelError> {
        let start = Instant::now();
        let tokens = self.tokenize(inputs, cut, deadline).await?;
        self.score_tokens(tokens, class, deadline, start.elapsed())
            .await
    }

    pub(crate) async fn tokenize(
        &self,
        inputs: Vec<Input>,
        cut: PairCut,
        deadline: Deadline,
    ) -> Result<Vec<Tokens>, ModelError> {
        let model = Arc::clone(&self.model);
        let PairCut { max_second, side } = cut;
        let tokenize = move |input: &Input| model.tokenize_cut(input.as_text(), max_second, side);
        let n_bytes = inputs.iter().map(Input::n_bytes).sum();
        self.tokenizers
            .run(inputs, n_bytes, deadline, tokenize)
            .await
    }

    /// Scores inputs that are tokens already.
    pub(crate) async fn score_tokens(
        &self,
        tokens: Vec<Tokens>,
        class: Class,
        deadline: Deadline,
        tokenize: Duration,
    ) -> Result<Scored, ModelError> {
        let n_tokens = tokens.iter().map(Tokens::len).sum();
        let n_truncated = tokens.iter().filter(|tokens| tokens.truncated).count();
        let answer = self.scheduler.submit(tokens, class, deadline).await?;
        let n_labels = self.model.n_labels();
        let (mut scores, mut logits) = (Vec::new(), Vec::new());
        for row in answer.values.chunks_exact(2 * n_labels) {
            scores.extend_from_slice(&row[..n_labels]);
            logits.extend_from_slice(&row[n_labels..]);
        }
        Ok(Scored {
            n_labels,
            scores,
            logits,
            n_tokens,
            n_truncated,
            queue: answer.queue,
            tokenize,
            compute: answer.compute,
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
                .encode_queries(texts, prompt, self.class, deadline),
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
        Box::pin(async move {
            let (inputs, cut) = (Input::pairs(&query, passages), PairCut::default());
            let scored = self.model.score(inputs, cut, self.class, deadline).await?;
            Ok(Reranked {
                scores: scored.first_scores(),
                n_tokens: scored.n_tokens,
                n_truncated: scored.n_truncated,
            })
        })
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
