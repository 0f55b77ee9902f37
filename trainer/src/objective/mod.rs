//! What is trained: one file an objective.

mod bi_encoder;
mod cross_encoder;
mod distillation;
mod guide;
mod head;
mod passes;
pub mod pretraining;
mod rates;
mod scores;
mod settings;
#[cfg(test)]
mod test_data;
mod tower;

use std::collections::BTreeMap;
use std::path::Path;

use encoder::training::{Parameters, TrainingError};

pub use bi_encoder::{BiEncoderConfig, BiEncoderObjective, MaskConfig, Negatives};
pub use cross_encoder::{CrossEncoderConfig, CrossEncoderObjective, RankingLoss};
pub use distillation::{DistillationConfig, DistillationLoss};
pub use guide::{GuideConfig, MarginKind};
pub use passes::GradCacheConfig;
pub use tower::HeadConfig;

/// Makes of a batch what can be worked out ahead of its step, on any thread.
pub type Preparation<B, I> = Box<dyn Fn(&B) -> Result<I, TrainingError> + Send + Sync>;

/// A model and its loss.
///
/// A new objective is one file that implements this; the loop knows nothing else of it.
pub trait Objective {
    /// What one step trains on.
    type Batch: Send;

    /// What of a batch is worked out ahead of its step, such as token ids.
    type Input: Send;

    /// Everything that is trained, under the names of the checkpoint.
    fn parameters(&self) -> &Parameters;

    /// Whether a parameter was drawn, since the checkpoint has none: adapters alone would leave it as it was drawn.
    fn is_drawn(&self, _name: &str) -> bool {
        false
    }

    /// Returns what makes the inputs of batches; the loop calls it on another thread while a step runs.
    fn preparation(&self) -> Preparation<Self::Batch, Self::Input>;

    /// Computes the loss of a batch and adds `step.weight` times its gradients to [`Self::parameters`].
    ///
    /// `input` is what [`Self::preparation`] makes of the batch.
    ///
    /// # Errors
    /// [`TrainingError`] when the loss is not finite or the batch does not fit the objective.
    fn step_prepared(
        &mut self,
        batch: &Self::Batch,
        input: Self::Input,
        step: &Step,
    ) -> Result<StepReport, TrainingError>;

    /// Prepares a batch and takes the step.
    ///
    /// # Errors
    /// As [`Self::step_prepared`]; [`TrainingError`] when texts do not fit the model.
    fn step(&mut self, batch: &Self::Batch, step: &Step) -> Result<StepReport, TrainingError> {
        let input = self.preparation()(batch)?;
        self.step_prepared(batch, input, step)
    }

    /// Computes the loss of a batch without dropout and without gradients.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn evaluate(&mut self, batch: &Self::Batch) -> Result<StepReport, TrainingError>;

    /// Writes the model into a folder, as other libraries read it.
    ///
    /// # Errors
    /// [`TrainingError::Write`].
    fn export(&self, folder: &Path) -> Result<(), TrainingError>;
}

/// Where in the run a batch stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Seed of everything random in this run.
    pub seed: u64,
    /// Number of the batch since the run began; accumulated batches of one optimizer step count singly.
    pub index: u64,
    /// Steps of the optimizer before this one.
    pub optimizer_step: u64,
    /// Share of this batch in the optimizer step: 1 / accumulated batches.
    pub weight: f64,
}

/// What a batch gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepReport {
    /// The loss, not weighted.
    pub loss: f64,
    /// Tokens that went through an encoder.
    pub n_tokens: usize,
    /// Queries, or whatever else one example is.
    pub n_examples: usize,
    /// Means over the batch by name, such as `accuracy` or `masked`.
    pub measures: BTreeMap<&'static str, f64>,
}
