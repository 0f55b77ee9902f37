use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{D, Device, Tensor};

use super::adamw::{AdamW, AdamWConfig};
use super::dropout::Dropout;
use super::encoder::{Encoder, normal};
use super::engine::Engine;
use super::error::TrainingError;
use super::layer::{Linear, cross_entropy};
use crate::architecture::{Activation, Architecture, Family, Labels};
use crate::tokenizer::Tokens;

/// What a training step is measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// 16 pairs of 180 tokens, one logit from \[CLS\], binary cross-entropy.
    CrossEncoder,
    /// 16 queries of 10 tokens and 32 passages of 128, mean pooling, InfoNCE over all passages.
    BiEncoder,
}

/// Training steps to be timed: a model with random weights, on random tokens.
pub struct TrainingBench {
    workload: Workload,
    encoder: Encoder,
    head: Linear,
    optimizer: AdamW,
    n_queries: usize,
    /// The queries, then the passages: one tower encodes all in one pass.
    texts: Vec<Tokens>,
}

/// Where the time of one step went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTimes {
    /// Packing of the weights, forward and loss.
    pub forward: Duration,
    /// All gradients.
    pub backward: Duration,
    /// AdamW over all parameters.
    pub optimizer: Duration,
    /// The loss, as a check that steps learn.
    pub loss: f32,
}

impl StepTimes {
    /// The whole step.
    pub fn total(&self) -> Duration {
        self.forward + self.backward + self.optimizer
    }
}

impl TrainingBench {
    /// Makes the model and the texts.
    ///
    /// # Errors
    /// As [`Encoder::random`].
    pub fn new(
        workload: Workload,
        architecture: Architecture,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let encoder = Encoder::random(architecture.clone(), 1, engine)?;
        let (width, n_vocabulary) = (architecture.width, architecture.n_vocabulary);
        let mut parameters = encoder.parameters().clone();
        let head = Linear::new(
            &mut parameters,
            "classifier",
            (normal(2, 0, width, 0.02), vec![0.0]),
            engine,
        )?;
        let optimizer = AdamW::new(&parameters, AdamWConfig::default(), engine)?;
        let (n_queries, n_passages, lengths) = match workload {
            Workload::CrossEncoder => (0, 16, (0, 180)),
            Workload::BiEncoder => (16, 32, (10, 128)),
        };
        Ok(Self {
            workload,
            n_queries,
            texts: [
                texts(n_queries, lengths.0, n_vocabulary, 3),
                texts(n_passages, lengths.1, n_vocabulary, 4),
            ]
            .concat(),
            encoder,
            head,
            optimizer,
        })
    }

    /// Tokens of one step.
    pub fn n_tokens(&self) -> usize {
        self.texts.iter().map(Tokens::len).sum()
    }

    /// Texts of one step.
    pub fn n_texts(&self) -> usize {
        self.texts.len()
    }

    /// Takes one step: forward, loss, backward, AdamW over all parameters.
    ///
    /// # Errors
    /// [`TrainingError::Tensor`] and [`TrainingError::NotFinite`].
    pub fn step(&mut self) -> Result<StepTimes, TrainingError> {
        let start = Instant::now();
        let loss = match self.workload {
            Workload::CrossEncoder => self.binary_cross_entropy()?,
            Workload::BiEncoder => self.info_nce()?,
        };
        let value = loss.to_scalar::<f32>()?;
        let forward = start.elapsed();
        loss.backward()?;
        drop(loss); // gives the tape back
        self.encoder.engine().wait()?;
        let backward = start.elapsed() - forward;
        self.optimizer.step(1e-5, Some(1.0))?;
        self.encoder.engine().wait()?;
        Ok(StepTimes {
            forward,
            backward,
            optimizer: start.elapsed() - forward - backward,
            loss: value,
        })
    }

    /// `−mean ln σ(±s)`, every second pair relevant.
    fn binary_cross_entropy(&self) -> Result<Tensor, TrainingError> {
        let first = self.encoder.forward_first(&self.texts, &Dropout::NONE)?;
        let scores = self.head.forward(&first)?.flatten_all()?; // (B)
        let signs: Vec<f32> = (0..self.texts.len())
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        let margins = (scores * Tensor::new(signs, &Device::Cpu)?)?;
        Ok((margins.neg()?.exp()? + 1.0)?.log()?.mean_all()?)
    }

    /// `−mean ln softmax(q · p / τ)` at each query's own passage, τ = 0.05.
    fn info_nce(&self) -> Result<Tensor, TrainingError> {
        let pooled = self.encoder.forward_mean(&self.texts, &Dropout::NONE)?;
        let unit = pooled.broadcast_div(&pooled.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?;
        let queries = unit.narrow(0, 0, self.n_queries)?;
        let passages = unit.narrow(0, self.n_queries, self.texts.len() - self.n_queries)?;
        let scores = (queries.matmul(&passages.t()?)? / 0.05)?; // (B, 2 B)
        let positives: Vec<i64> = (0..self.n_queries as i64).map(|i| 2 * i).collect();
        Ok(cross_entropy(&scores, &positives)?)
    }
}

/// The shape of all-MiniLM-L6-v2.
pub fn minilm() -> Architecture {
    Architecture {
        family: Family::Bert,
        n_vocabulary: 30_522,
        width: 384,
        n_layers: 6,
        n_heads: 12,
        n_intermediate: 1536,
        n_positions: 512,
        n_types: 2,
        first_position: 0,
        padding_id: None,
        n_buckets: 0,
        epsilon: 1e-12,
        activation: Activation::Gelu,
        labels: Labels {
            n: 1,
            names: Vec::new(),
            has_classifier: false,
            activation: None,
        },
    }
}

/// Texts of equal length with ids all over the vocabulary.
fn texts(n: usize, length: usize, n_vocabulary: usize, seed: u64) -> Vec<Tokens> {
    let stream = Dropout {
        seed,
        ..Dropout::NONE
    }
    .at(0.0, 0);
    let id = |place: usize| (stream.number(place as u64) % n_vocabulary as u64) as u32;
    (0..n)
        .map(|text| Tokens {
            ids: (0..length).map(|i| id(text * length + i)).collect(),
            type_ids: vec![0; length],
            ..Tokens::default()
        })
        .collect()
}
