use std::path::Path;
use std::sync::Arc;

use encoder::Tokens;
use encoder::training::{Engine, Parameters, TrainingError};
use serde::{Deserialize, Serialize};

use super::electra::Electra;
use super::model::{MaskedLm, texts};
use super::{Masks, Method, Terms};
use crate::masking::Corrupted;

/// Masked language modelling alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MlmConfig {
    /// Of weights that the checkpoint does not have.
    pub seed: u64,
}

/// Masked language modelling, Devlin et al. 2019 (arXiv 1810.04805), §3.1: the baseline of all other methods.
///
/// `L = CE(Head(E(x̃)), x)` over the tokens that are hidden in x̃.
pub struct Mlm {
    model: MaskedLm,
    none: Parameters,
}

impl Mlm {
    /// Loads the model.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn load(
        folder: &Path,
        config: &MlmConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        Ok(Self {
            model: MaskedLm::load(folder, config.seed, engine)?,
            none: Parameters::new(),
        })
    }
}

impl Method for Mlm {
    type Example = Corrupted;
    type Model = MaskedLm;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        &self.none
    }

    fn row_count(&self) -> Option<fn(&Corrupted) -> usize> {
        Some(|text| text.ids.len())
    }

    fn terms(&self, batch: &[Corrupted], masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let read = self.model.read(&texts(batch), &masks.at(0))?;
        let mut terms = Terms::of(batch.len(), read.n_tokens());
        let labels = batch.iter().flat_map(|text| &text.labels);
        terms.add("encoder_loss", 1.0, self.model.loss(&read.hidden, labels)?);
        Ok(terms)
    }
}

/// [`Mlm`] of an ELECTRA, the generator that SimLM reads.
pub struct ElectraMlm {
    model: Electra,
    none: Parameters,
}

impl ElectraMlm {
    /// Loads the model. Without weights, or without the head's, they are drawn as ELECTRA draws them.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn load(
        folder: &Path,
        config: &MlmConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        Ok(Self {
            model: Electra::load(folder, "", Some(config.seed), engine)?,
            none: Parameters::new(),
        })
    }
}

impl Method for ElectraMlm {
    type Example = Corrupted;
    type Model = Electra;

    fn model(&self) -> &Electra {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        &self.none
    }

    fn row_count(&self) -> Option<fn(&Corrupted) -> usize> {
        Some(|text| text.ids.len())
    }

    fn terms(&self, batch: &[Corrupted], masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let texts = texts(batch);
        let mut terms = Terms::of(batch.len(), texts.iter().map(Tokens::len).sum());
        let labels = batch.iter().flat_map(|text| &text.labels);
        let loss = self.model.loss(&texts, labels, &masks.at(0))?;
        terms.add("encoder_loss", 1.0, loss);
        Ok(terms)
    }
}
