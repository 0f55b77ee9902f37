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

use crate::ranks::{Alone, Collective, CollectiveError, gather_numbers};

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

    /// Why a batch cannot be shared out among several ranks; none where it can.
    fn unshareable(&self) -> Option<&'static str> {
        Some("the objective is for one process")
    }

    /// Computes the loss of a batch and adds `step.weight` times its gradients to [`Self::parameters`].
    ///
    /// `input` is what [`Self::preparation`] makes of the batch. All ranks have the same batch, and each takes its share
    /// through the model: the sum of their gradients is that of the batch, up to rounding, and the report is of all of it.
    ///
    /// # Errors
    /// [`TrainingError`] when the loss is not finite or the batch does not fit the objective; [`TrainingError::Peers`] when
    /// a rank is missing.
    fn step_prepared(
        &mut self,
        batch: &Self::Batch,
        input: Self::Input,
        step: &Step,
        ranks: &dyn Collective,
    ) -> Result<StepReport, TrainingError>;

    /// Prepares a batch and takes the step, alone.
    ///
    /// # Errors
    /// As [`Self::step_prepared`]; [`TrainingError`] when texts do not fit the model.
    fn step(&mut self, batch: &Self::Batch, step: &Step) -> Result<StepReport, TrainingError> {
        let input = self.preparation()(batch)?;
        self.step_prepared(batch, input, step, &Alone)
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

impl StepReport {
    /// The report of a batch from those of the ranks' shares, whose figures are means over their examples.
    fn join(self, ranks: &dyn Collective) -> Result<Self, CollectiveError> {
        if ranks.is_alone() {
            return Ok(self);
        }
        let mut numbers = vec![self.n_tokens as u64, self.n_examples as u64];
        let figures = std::iter::once(&self.loss).chain(self.measures.values());
        numbers.extend(figures.map(|figure| figure.to_bits()));
        let all = gather_numbers(&numbers, ranks)?;
        let sum = |place: usize| all.iter().map(|numbers| numbers[place] as usize).sum();
        let (n_tokens, n_examples) = (sum(0), sum(1));
        // A rank without a share has no measures.
        let mean = |place: usize| {
            let own = all.iter().filter(|numbers| numbers[1] > 0);
            let own = own.map(|numbers| numbers[1] as f64 * f64::from_bits(numbers[place]));
            own.sum::<f64>() / n_examples as f64
        };
        let names = self.measures.into_keys().zip(3..);
        Ok(Self {
            loss: mean(2),
            n_tokens,
            n_examples,
            measures: names.map(|(name, place)| (name, mean(place))).collect(),
        })
    }
}
