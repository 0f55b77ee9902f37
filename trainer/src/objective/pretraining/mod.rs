//! Pre-training for retrieval: one file a method, on the blocks of [`model`].
//!
//! A method gives the loss of a batch as terms; [`Pretraining`] makes an objective of it. Masks and corruption are drawn
//! with the batch ([`crate::masking`]), dropout with the step.

mod condenser;
mod cot_mae;
mod describe;
mod draws;
mod electra;
mod generator;
mod master;
mod mlm;
mod model;
mod retro_mae;
mod sim_lm;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use encoder::Architecture;
use encoder::training::{Dropout, Parameters, TrainingError};
use serde::{Deserialize, Serialize};

pub use condenser::{Condenser, CondenserConfig};
pub use cot_mae::{CotMae, CotMaeConfig, SpanPair};
pub use draws::{CotMaeMasks, MasterDraw, RetroMaeMasks, SimLmMasks, TextMasks};
pub use electra::Electra;
pub use generator::Generator;
pub use master::{Master, MasterConfig};
pub use mlm::{ElectraMlm, Mlm, MlmConfig};
pub use model::MaskedLm;
pub use retro_mae::{QueryStream, RetroMae, RetroMaeConfig, RetroMaeText};
pub use sim_lm::{SimLm, SimLmConfig, SimLmText};

use rand_chacha::ChaCha8Rng;

use super::rates::Rates;
use super::{Objective, Preparation, Step, StepReport};
use crate::data::random::{Purpose, random};
use crate::export::{MaskedLmExport, Tensors};

/// With which weights the layers of a decoder begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StackStart {
    /// As BERT's: normal with a deviation of 0.02.
    #[default]
    Normal,
    /// As PyTorch's linear layers: even within ±1/√(values that come in).
    Uniform,
    /// As the encoder's last layers.
    Last,
}

/// A masked language model that is pre-trained.
pub trait Pretrained {
    /// Its sizes.
    fn architecture(&self) -> &Architecture;

    /// Parameters of encoder and head, by the names of the published classes.
    fn parameters(&self) -> &Parameters;

    /// The folder that it was read from.
    fn folder(&self) -> &Path;
}

/// A method: what it learns from a batch.
pub trait Method {
    /// What one step trains on.
    type Batch: Send;
    /// What is pre-trained.
    type Model: Pretrained;

    /// The model that is pre-trained.
    fn model(&self) -> &Self::Model;

    /// The parameters of its decoders.
    fn decoders(&self) -> &Parameters;

    /// Returns the terms of the loss of a batch.
    ///
    /// # Errors
    /// [`TrainingError::Encode`] for a text that does not fit the model.
    fn terms(&self, batch: &Self::Batch, masks: &Masks<'_>) -> Result<Terms, TrainingError>;
}

/// The terms of a loss.
#[derive(Default)]
pub struct Terms {
    terms: Vec<(&'static str, f64, Tensor)>,
    n_tokens: usize,
    n_texts: usize,
}

impl Terms {
    /// None yet, of texts with so many tokens that the encoder reads.
    fn of(n_texts: usize, n_tokens: usize) -> Self {
        Self {
            terms: Vec::new(),
            n_tokens,
            n_texts,
        }
    }

    fn add(&mut self, name: &'static str, weight: f64, term: Tensor) {
        self.terms.push((name, weight, term));
    }

    /// The weighted sum.
    ///
    /// # Errors
    /// [`TrainingError::Tensor`].
    pub fn sum(&self) -> Result<Tensor, TrainingError> {
        let mut sum = Tensor::zeros((), candle_core::DType::F32, &candle_core::Device::Cpu)?;
        for (_, weight, term) in &self.terms {
            sum = (sum + (term * *weight)?)?;
        }
        Ok(sum)
    }

    /// Each term, without its weight.
    ///
    /// # Errors
    /// [`TrainingError::Tensor`].
    pub fn values(&self) -> Result<BTreeMap<&'static str, f64>, TrainingError> {
        let value = |(name, _, term): &(&'static str, f64, Tensor)| {
            Ok((*name, f64::from(term.to_scalar::<f32>()?)))
        };
        self.terms.iter().map(value).collect()
    }
}

/// Where the masks of dropout come from; each pass through layers has its own.
pub struct Masks<'a> {
    rates: Rates,
    step: Option<&'a Step>,
}

impl Masks<'_> {
    /// None at all.
    pub const NONE: Masks<'static> = Masks {
        rates: Rates::NONE,
        step: None,
    };

    /// Random numbers of the step; without one always the same.
    fn random(&self) -> ChaCha8Rng {
        let (seed, step) = self.step.map_or((0, 0), |step| (step.seed, step.index));
        random(seed, step, 0, Purpose::Replacing)
    }

    fn at(&self, pass: u64) -> Dropout {
        match self.step {
            Some(step) => self.rates.at(step, pass, 0),
            None => Dropout::NONE,
        }
    }
}

/// A method as an objective of the loop.
pub struct Pretraining<M> {
    method: M,
    parameters: Parameters,
    rates: Rates,
    keeps_decoders: bool,
}

impl<M: Method> Pretraining<M> {
    /// `dropout` replaces the probabilities of config.json; with `keeps_decoders` the export has the decoders in a file
    /// beside the weights.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn new(
        method: M,
        dropout: Option<f32>,
        keeps_decoders: bool,
    ) -> Result<Self, TrainingError> {
        super::settings::dropout(dropout)?;
        let mut parameters = method.model().parameters().clone();
        parameters.extend(method.decoders());
        let own = Rates::read(method.model().folder())?;
        Ok(Self {
            rates: dropout.map_or(own, Rates::all),
            method,
            parameters,
            keeps_decoders,
        })
    }

    /// The method.
    pub fn method(&self) -> &M {
        &self.method
    }
}

impl<M: Method> Objective for Pretraining<M> {
    type Batch = M::Batch;
    type Input = ();

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn preparation(&self) -> Preparation<M::Batch, ()> {
        Box::new(|_| Ok(()))
    }

    fn step_prepared(
        &mut self,
        batch: &M::Batch,
        (): (),
        step: &Step,
    ) -> Result<StepReport, TrainingError> {
        let masks = Masks {
            rates: self.rates,
            step: Some(step),
        };
        let terms = self.method.terms(batch, &masks)?;
        let sum = terms.sum()?;
        let loss = super::passes::finite(&sum)?;
        (sum * step.weight)?.backward()?;
        report(&terms, loss)
    }

    fn evaluate(&mut self, batch: &M::Batch) -> Result<StepReport, TrainingError> {
        let terms = self.method.terms(batch, &Masks::NONE)?;
        let loss = super::passes::finite(&terms.sum()?)?;
        report(&terms, loss)
    }

    fn export(&self, folder: &Path) -> Result<(), TrainingError> {
        let model = self.method.model();
        let mut weights = Tensors::new();
        weights.extend(model.parameters(), |name| Some(name.to_owned()))?;
        let source = model.folder();
        MaskedLmExport { source, weights }.write(folder)?;
        match self.keeps_decoders {
            true => {
                let path = folder.join("decoders.safetensors");
                self.method.decoders().save(&path)
            }
            false => Ok(()),
        }
    }
}

fn report(terms: &Terms, loss: f64) -> Result<StepReport, TrainingError> {
    Ok(StepReport {
        loss,
        n_tokens: terms.n_tokens,
        n_examples: terms.n_texts,
        measures: terms.values()?,
    })
}
