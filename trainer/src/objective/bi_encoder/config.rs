use std::path::PathBuf;

use encoder::Pooling;
use encoder::training::TrainingError;
use serde::{Deserialize, Serialize};

#[cfg(doc)]
use crate::loss;
#[cfg(doc)]
use crate::loss::Mask;
use crate::loss::{Block, Width};
use crate::objective::distillation::DistillationConfig;
use crate::objective::guide::GuideConfig;
use crate::objective::passes::GradCacheConfig;
use crate::objective::settings::{above_0, at_least_0, check, dropout};
use crate::objective::tower::HeadConfig;

/// What a bi-encoder is trained to do. Every entry has a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BiEncoderConfig {
    /// Two encoders, one for queries and one for passages, that start equal.
    pub untied: bool,
    /// Where the passages' encoder starts, if not at the queries' one; only with `untied`.
    pub passage_model: Option<PathBuf>,
    /// How token vectors become one: `cls`, `mean`, or with T5 `decoder`, without which its encoder alone is trained.
    /// The model's own when absent; needed without modules.json and openmatch_config.json.
    pub pooling: Option<Pooling>,
    /// Whether vectors are brought to length 1. The model's own when absent; needed as `pooling` is.
    pub normalize: Option<bool>,
    /// A new linear layer after the pooling.
    pub head: Option<HeadConfig>,
    /// Most tokens of a query, special tokens and prompt included.
    pub query_tokens: usize,
    /// Most tokens of a passage, special tokens and prompt included.
    pub passage_tokens: usize,
    /// Put before each query and saved with the model. The model's own when absent; empty where the data carry prompts.
    pub query_prompt: Option<String>,
    /// Put before each passage and saved with the model, as `query_prompt`.
    pub passage_prompt: Option<String>,
    /// Probability of all dropout; that of config.json when absent.
    pub dropout: Option<f32>,
    /// τ: similarities are divided by it. When absent 0.05 with vectors of length 1 and 1 with others.
    pub temperature: Option<f64>,
    /// W: similarities are multiplied by `max(1, min(1, t/W)/τ)` in step t, so that the temperature falls from 1 to τ
    /// (SimLM's `t_warmup`). Dev losses have τ.
    pub temperature_warmup: u64,
    /// Which texts of a batch a query's positive is told apart from.
    pub negatives: Negatives,
    /// Which of them are left out.
    pub mask: MaskConfig,
    /// A second model that says which more are: GISTEmbed, with `negatives = "gist"`.
    pub guide: Option<GuideConfig>,
    /// What the contrastive loss counts beside distillation: SimLM 0.2, RetroMAE 1e-4, OpenMatch 0.
    pub contrastive_weight: f64,
    /// Learns from teacher scores of the passages too.
    pub distillation: Option<DistillationConfig>,
    /// Widths at which the loss is taken; the whole vector alone when empty.
    pub matryoshka: Vec<Width>,
    /// So many of these widths in each step, drawn by the seed and without replacement; all when absent.
    pub matryoshka_per_step: Option<usize>,
    /// Multiplies gradients but not the loss that is reported.
    pub grad_scale: f64,
    /// Takes the batch through the encoder in parts, for batches that do not fit into memory.
    pub grad_cache: Option<GradCacheConfig>,
}

impl Default for BiEncoderConfig {
    fn default() -> Self {
        Self {
            untied: false,
            passage_model: None,
            pooling: None,
            normalize: None,
            head: None,
            query_tokens: 32,
            passage_tokens: 128,
            query_prompt: None,
            passage_prompt: None,
            dropout: None,
            temperature: None,
            temperature_warmup: 0,
            negatives: Negatives::InBatch,
            mask: MaskConfig::default(),
            guide: None,
            contrastive_weight: 1.0,
            distillation: None,
            matryoshka: Vec::new(),
            matryoshka_per_step: None,
            grad_scale: 1.0,
            grad_cache: None,
        }
    }
}

/// What the positive stands against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negatives {
    /// All passages of the batch: [`loss::info_nce`].
    #[default]
    InBatch,
    /// All passages and all queries of the batch: [`loss::full_contrastive`], as SimLM trains.
    Full,
    /// All passages of the batch, and the other queries and positives, each beside its own kind: [`Block::GIST`], as
    /// GISTEmbed trains.
    Gist,
    /// The query's own hard negatives.
    Group,
}

impl Negatives {
    /// What stands beside the similarities of queries and pool.
    pub(super) fn blocks(self) -> &'static [Block] {
        match self {
            Self::InBatch | Self::Group => &[],
            Self::Full => &Block::FULL,
            Self::Gist => &Block::GIST,
        }
    }
}

/// Which passages of a batch are no negatives of a query.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskConfig {
    /// Leaves out what is known to be relevant, by id or content: [`Mask::known`].
    pub known: bool,
    /// δ: leaves out what the model itself scores that much above the positive, before the temperature.
    pub above: Option<f64>,
    /// Whether `above` applies to the query's own hard negatives too.
    pub above_own: bool,
    /// Leaves out the query's own hard negatives, which distillation learns from already (SimLM's `kd_mask_hn`).
    pub own: bool,
}

impl Default for MaskConfig {
    fn default() -> Self {
        Self {
            known: true,
            above: None,
            above_own: false,
            own: false,
        }
    }
}

impl BiEncoderConfig {
    pub(super) fn check(&self) -> Result<(), TrainingError> {
        above_0("temperature", self.temperature.unwrap_or(1.0))?;
        above_0("grad_scale", self.grad_scale)?;
        at_least_0("contrastive weight", self.contrastive_weight)?;
        let n = self.matryoshka_per_step.unwrap_or(1);
        above_0("number of matryoshka widths in a step", n as f64)?;
        dropout(self.dropout)?;
        let alone = [
            (
                self.passage_model.is_some() && !self.untied,
                "`passage_model` goes with `untied`",
            ),
            (
                self.matryoshka_per_step.is_some() && self.matryoshka.is_empty(),
                "`matryoshka_per_step` goes with `matryoshka`",
            ),
            (
                self.mask.above_own && self.mask.above.is_none(),
                "`mask.above_own` goes with `mask.above`",
            ),
            (
                self.mask.own && self.negatives == Negatives::Group,
                "`mask.own` does not go with `negatives = \"group\"`, which has none but the query's own",
            ),
        ];
        if let Some(&(_, reason)) = alone.iter().find(|(is_alone, _)| *is_alone) {
            return Err(TrainingError::Settings { reason });
        }
        if let Some(head) = &self.head {
            let rule = "it is at least 1 and at most 65536";
            let is_fine = (1..=65_536).contains(&head.width);
            check(is_fine, "head.width", head.width as f64, rule)?;
        }
        let above = self.mask.above.unwrap_or(0.0);
        check(above.is_finite(), "mask.above", above, "it is finite")?;
        if let Some(guide) = &self.guide {
            guide.check()?;
        }
        match &self.distillation {
            Some(distillation) => distillation.check(),
            None => check(
                self.contrastive_weight > 0.0,
                "contrastive weight",
                0.0,
                "without distillation it is above 0",
            ),
        }
    }

    /// Refuses Matryoshka widths that vectors of `width` values do not have.
    pub(super) fn check_widths(&self, width: usize) -> Result<(), TrainingError> {
        let rule = "it is at least 1 and at most that of the vectors";
        self.matryoshka.iter().try_for_each(|one| {
            let is_fine = (1..=width).contains(&one.width);
            check(is_fine, "matryoshka width", one.width as f64, rule)?;
            at_least_0("weight of a matryoshka width", one.weight)
        })
    }
}
