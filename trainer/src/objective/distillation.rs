//! Teacher scores as a part of what an objective learns from.

use candle_core::Tensor;
use encoder::training::TrainingError;
use serde::{Deserialize, Serialize};

use super::settings::{above_0, at_least_0};
use crate::loss::{
    self, Reduction, group_similarities, in_batch_distillation, kl_divergence, margin_mse,
    similarities, soft_cross_entropy,
};

/// How teacher scores are learned from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillationConfig {
    /// Which loss.
    pub loss: DistillationLoss,
    /// What it counts.
    pub weight: f64,
    /// The student's similarities are divided by it; the objective's temperature when absent. Margins are not divided.
    pub student_temperature: Option<f64>,
    /// The teacher's scores are divided by it. Margins are not divided.
    pub teacher_temperature: f64,
    /// What the divergence is divided by.
    pub reduction: Reduction,
}

impl Default for DistillationConfig {
    /// Those of SimLM.
    fn default() -> Self {
        Self {
            loss: DistillationLoss::Kl,
            weight: 1.0,
            student_temperature: None,
            teacher_temperature: 1.0,
            reduction: Reduction::BatchMean,
        }
    }
}

/// A loss on teacher scores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistillationLoss {
    /// [`loss::kl_divergence`] over each group (SimLM, RetroMAE, Tevatron; OpenMatch's listwise).
    #[default]
    Kl,
    /// [`loss::soft_cross_entropy`] over each group (FlagEmbedding).
    SoftCrossEntropy,
    /// [`loss::margin_mse`] (OpenMatch's pairwise).
    MarginMse,
    /// [`loss::in_batch_distillation`] over the pool (FlagEmbedding's `m3_kd_loss`).
    InBatch,
}

impl DistillationConfig {
    pub(super) fn check(&self) -> Result<(), TrainingError> {
        at_least_0("distillation weight", self.weight)?;
        let student = self.student_temperature.unwrap_or(1.0);
        above_0("student temperature", student)?;
        above_0("teacher temperature", self.teacher_temperature)?;
        let refuse = |reason| Err(TrainingError::Settings { reason });
        let default = Self::default();
        if self.reduction != default.reduction && self.loss != DistillationLoss::Kl {
            return refuse("`distillation.reduction` goes with `loss = \"kl\"`");
        }
        let has_temperature = self.student_temperature.is_some()
            || self.teacher_temperature != default.teacher_temperature;
        if has_temperature && self.loss == DistillationLoss::MarginMse {
            return refuse(
                "the distillation loss `margin_mse` has no temperatures: margins are not divided",
            );
        }
        Ok(())
    }

    /// Whether the loss of a group of one passage is always 0.
    pub(super) fn needs_negatives(&self) -> bool {
        self.loss != DistillationLoss::InBatch
    }

    /// The loss of groups from vectors, (B, H) and (B·N, H), and raw teacher scores, (B, N).
    pub(super) fn loss(
        &self,
        queries: &Tensor,
        passages: &Tensor,
        teacher: &Tensor,
        temperature: f64,
    ) -> loss::Result<Tensor> {
        let temperature = self.student_temperature.unwrap_or(temperature);
        let group = || group_similarities(queries, passages); // (B, N)
        let softened = (teacher / self.teacher_temperature)?;
        match self.loss {
            DistillationLoss::Kl => {
                kl_divergence(&(group()? / temperature)?, &softened, self.reduction)
            }
            DistillationLoss::SoftCrossEntropy => {
                soft_cross_entropy(&(group()? / temperature)?, &softened)
            }
            DistillationLoss::MarginMse => margin_mse(&group()?, teacher),
            DistillationLoss::InBatch => {
                let scores = (similarities(queries, passages)? / temperature)?; // (B, B·N)
                in_batch_distillation(&scores, &softened)
            }
        }
    }
}
