use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::lora::LoraConfig;
use crate::batches::Batches;

/// Times that the examples are gone through at most; steps have no limit.
const MOST_EPOCHS: u64 = 1_000_000;

/// How a run trains, whatever it trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// How weights follow gradients.
    pub optimizer: OptimizerConfig,
    /// How long, and with which learning rate at each step.
    pub schedule: ScheduleConfig,
    /// What is measured, kept and stopped when.
    pub run: RunConfig,
    /// Low-rank adapters in place of whole matrices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

/// AdamW with the defaults of the Hugging Face trainer. Biases and normalizations have no weight decay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Learning rate at its highest.
    pub learning_rate: f64,
    /// Share of the first moment that a step keeps.
    pub beta1: f64,
    /// Share of the second moment that a step keeps.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a weight that a step takes away, times the learning rate.
    pub weight_decay: f64,
    /// Global norm down to which gradients are scaled; 0 leaves them.
    pub max_norm: f64,
    /// Batches of one step. More of them do not enlarge the pool of in-batch negatives: each batch has its own loss.
    pub accumulate: usize,
    /// Share of itself that the running average of the weights keeps at each step. Dev figures and export are the
    /// average's then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Parameters that stay as they are, by the beginning of their names, such as `embeddings.` or `encoder.layer.0.`.
    pub freeze: Vec<String>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            learning_rate: 5e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_norm: 1.0,
            accumulate: 1,
            ema: None,
            freeze: Vec::new(),
        }
    }
}

/// The learning rate from the first step to the last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// What follows the warm-up.
    pub kind: ScheduleKind,
    /// How the rate rises from 0.
    #[serde(skip_serializing_if = "Warmup::is_linear")]
    pub warmup: Warmup,
    /// Share of all steps in which the rate rises from 0.
    pub warmup_ratio: f64,
    /// Steps in which it rises, in place of the ratio.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// Times that the examples are gone through.
    pub epochs: u64,
    /// Steps of the optimizer, in place of the epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Linear,
            warmup: Warmup::Linear,
            warmup_ratio: 0.1,
            warmup_steps: None,
            epochs: 3,
            max_steps: None,
        }
    }
}

/// How the learning rate rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// In a straight line, as transformers' does.
    #[default]
    Linear,
    /// As ln(t + 1) / ln W after t of W steps: DeepSpeed's `WarmupDecayLR`, with which SimLM was pre-trained.
    Logarithmic,
}

impl Warmup {
    /// Unsaid, so that runs recorded before there was another one go on.
    fn is_linear(&self) -> bool {
        *self == Self::Linear
    }
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Falls to 0 in a straight line.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
    /// Stays.
    Constant,
}

/// What a run measures and keeps, and when it stops early.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of everything random: data order, sampling, dropout, new weights.
    pub seed: u64,
    /// Steps between two lines of `metrics.jsonl`; a line holds means over them.
    pub log_every: u64,
    /// When dev figures are taken; besides, they are at the end.
    pub evaluate_every: Every,
    /// Whether they are taken before the first step too.
    pub evaluate_first: bool,
    /// When checkpoints are written; besides, they are at the end, on Ctrl-C and with every best dev figure.
    pub save_every: Every,
    /// Checkpoints that are kept, the best one not counted.
    pub keep: usize,
    /// The dev figure that says which checkpoint is best, such as `ndcg@10`; the best one is exported. A name with
    /// `loss` in it is better when it is lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measure: Option<String>,
    /// Dev figures in a row without a new best after which the run stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// What a figure must be better by to count as a new best.
    pub min_gain: f64,
    /// The run stops when the mean loss of 100 steps is this many times that of the first 100; 0 never does.
    pub divergence: f64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            log_every: 1,
            evaluate_every: Every::Epoch,
            evaluate_first: true,
            save_every: Every::Epoch,
            keep: 2,
            measure: None,
            patience: None,
            min_gain: 0.0,
            divergence: 10.0,
        }
    }
}

impl TrainConfig {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`TrainError::Setting`], naming the key.
    pub fn check(&self) -> Result<(), TrainError> {
        let (o, s, r) = (&self.optimizer, &self.schedule, &self.run);
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let below_1 = |value: f64| (0.0..1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value >= 0.0;
        let rules = [
            (
                positive(o.learning_rate),
                "optimizer.learning_rate",
                "at least 0",
            ),
            (
                below_1(o.beta1),
                "optimizer.beta1",
                "at least 0 and below 1",
            ),
            (
                below_1(o.beta2),
                "optimizer.beta2",
                "at least 0 and below 1",
            ),
            // As f32, which the optimizer computes with.
            (
                o.epsilon as f32 > 0.0 && (o.epsilon as f32).is_finite(),
                "optimizer.epsilon",
                "above 0 and finite",
            ),
            (
                positive(o.weight_decay),
                "optimizer.weight_decay",
                "finite and at least 0",
            ),
            // A step that takes a whole weight away and more: rows that no batch sees add up ln(1 − η λ).
            (
                o.learning_rate * o.weight_decay < 1.0,
                "optimizer.weight_decay",
                "below 1 when multiplied with optimizer.learning_rate",
            ),
            (positive(o.max_norm), "optimizer.max_norm", "at least 0"),
            (o.accumulate > 0, "optimizer.accumulate", "at least 1"),
            (
                o.ema.is_none_or(below_1),
                "optimizer.ema",
                "at least 0 and below 1",
            ),
            (
                share(s.warmup_ratio),
                "schedule.warmup_ratio",
                "from 0 to 1",
            ),
            (
                s.epochs > 0 || s.max_steps.is_some(),
                "schedule.epochs",
                "at least 1",
            ),
            // Each epoch is asked for its length.
            (
                s.epochs <= MOST_EPOCHS,
                "schedule.epochs",
                "at most 1000000",
            ),
            (s.max_steps != Some(0), "schedule.max_steps", "at least 1"),
            (r.log_every > 0, "run.log_every", "at least 1"),
            (r.keep > 0, "run.keep", "at least 1"),
            (r.patience != Some(0), "run.patience", "at least 1"),
            (
                r.patience.is_none() || r.measure.is_some(),
                "run.patience",
                "given with run.measure",
            ),
            (positive(r.min_gain), "run.min_gain", "at least 0"),
            (
                r.min_gain == 0.0 || r.measure.is_some(),
                "run.min_gain",
                "given with run.measure",
            ),
            (positive(r.divergence), "run.divergence", "at least 0"),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, rule)) => Err(TrainError::Setting { key, rule }),
            None => self.lora.as_ref().map_or(Ok(()), LoraConfig::check),
        }
    }

    /// Steps of a whole run: those asked for, else those of all epochs, of which the last may have fewer batches.
    ///
    /// # Errors
    /// [`TrainError::Nothing`] when there is no batch.
    pub fn n_steps<B: Batches>(&self, batches: &B) -> Result<u64, TrainError> {
        let epochs = 0..self.schedule.epochs.max(1);
        if epochs.clone().all(|epoch| batches.is_empty(epoch)) {
            return Err(TrainError::Nothing {
                hint: ": no epoch has a batch",
            });
        }
        let of_epoch = |epoch| batches.len(epoch).div_ceil(self.optimizer.accumulate) as u64;
        Ok(self
            .schedule
            .max_steps
            .unwrap_or_else(|| epochs.map(of_epoch).sum()))
    }

    /// Batches of a whole run; with a number of steps, about.
    pub(super) fn n_batches<B: Batches>(&self, batches: &B) -> u64 {
        match self.schedule.max_steps {
            Some(n_steps) => n_steps.saturating_mul(self.optimizer.accumulate as u64),
            None => (0..self.schedule.epochs)
                .map(|epoch| batches.len(epoch) as u64)
                .sum(),
        }
    }
}

/// How often something is done: a number of steps, `"epoch"` or `"never"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// After so many steps of the optimizer.
    Steps(u64),
    /// At the end of each epoch.
    Epoch,
    /// Not on the way.
    Never,
}

impl Every {
    /// Whether it is due after this step.
    pub(super) fn is_due(self, step: u64, ends_epoch: bool) -> bool {
        match self {
            Self::Steps(n) => step.is_multiple_of(n),
            Self::Epoch => ends_epoch,
            Self::Never => false,
        }
    }
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Steps(n) => serializer.serialize_u64(*n),
            Self::Epoch => serializer.serialize_str("epoch"),
            Self::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EveryVisitor)
    }
}

struct EveryVisitor;

impl Visitor<'_> for EveryVisitor {
    type Value = Every;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a number of steps, \"epoch\" or \"never\"")
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Every, E> {
        match n {
            0 => Err(E::invalid_value(de::Unexpected::Unsigned(0), &self)),
            n => Ok(Every::Steps(n)),
        }
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Every, E> {
        let steps =
            u64::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
        self.visit_u64(steps)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Every, E> {
        match text {
            "epoch" => Ok(Every::Epoch),
            "never" => Ok(Every::Never),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}
