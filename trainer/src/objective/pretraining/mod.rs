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
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use encoder::training::{Dropout, First, Parameters, TrainingError};
use encoder::{Architecture, Checkpoint, LoadError};
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

use self::model::Mean;
use super::rates::Rates;
use super::{Objective, Preparation, Step, StepReport};
use crate::data::random::{Purpose, random};
use crate::export::{MaskedLmExport, Tensors};
use crate::ranks::{Collective, gather_numbers};

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

    /// What the folder has no weights of.
    fn drawn(&self) -> Drawn;
}

/// Which weights of a masked language model were drawn, since its folder has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// Encoder and head.
    All,
    /// The head alone.
    Head,
    /// None: all were read.
    Nothing,
}

impl Drawn {
    /// By a tensor that each head has.
    fn of(checkpoint: Option<&Checkpoint>, head: &str) -> Self {
        match checkpoint {
            None => Self::All,
            Some(checkpoint) if checkpoint.contains(head) => Self::Nothing,
            Some(_) => Self::Head,
        }
    }
}

/// A method: what it learns from a batch.
pub trait Method {
    /// One of the texts of a batch.
    type Example: Send;
    /// What is pre-trained.
    type Model: Pretrained;

    /// The model that is pre-trained.
    fn model(&self) -> &Self::Model;

    /// What is trained beside the model: the parameters of its decoders, and of a generator.
    fn decoders(&self) -> &Parameters;

    /// Those that an export may keep for a run that goes on from it.
    fn kept(&self) -> &Parameters {
        self.decoders()
    }

    /// Tokens of a text at most: as many as the model has positions for, and whatever else reads texts.
    fn max_tokens(&self) -> usize {
        self.model().architecture().max_tokens()
    }

    /// What tells the tokens of an example, the same in all passes, where every term is a mean over what each example gives
    /// by itself: then several ranks can share out a batch.
    fn row_count(&self) -> Option<fn(&Self::Example) -> usize> {
        None
    }

    /// Returns the terms of the loss of a batch.
    ///
    /// # Errors
    /// [`TrainingError::Encode`] for a text that does not fit the model.
    fn terms(&self, batch: &[Self::Example], masks: &Masks<'_>) -> Result<Terms, TrainingError>;
}

/// The terms of a loss.
#[derive(Default)]
pub struct Terms {
    terms: Vec<Term>,
    n_tokens: usize,
    n_texts: usize,
}

struct Term {
    name: &'static str,
    weight: f64,
    mean: Mean,
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

    fn add(&mut self, name: &'static str, weight: f64, mean: Mean) {
        self.terms.push(Term { name, weight, mean });
    }

    /// The weighted sum.
    ///
    /// # Errors
    /// [`TrainingError::Tensor`].
    pub fn sum(&self) -> Result<Tensor, TrainingError> {
        self.sum_of(|_| 1.0)
    }

    /// The weighted sum of shares of the terms.
    fn sum_of(&self, share: impl Fn(usize) -> f64) -> Result<Tensor, TrainingError> {
        let mut sum = Tensor::zeros((), candle_core::DType::F32, &candle_core::Device::Cpu)?;
        for (place, Term { weight, mean, .. }) in self.terms.iter().enumerate() {
            sum = (sum + (&mean.value * (weight * share(place)))?)?;
        }
        Ok(sum)
    }

    /// Returns what this rank adds to the loss of a batch, and the report of the batch.
    fn join(&self, ranks: &dyn Collective) -> Result<(Tensor, StepReport), TrainingError> {
        if ranks.is_alone() {
            let sum = self.sum()?;
            let loss = super::passes::finite(&sum)?;
            return Ok((sum, report(self, loss)?));
        }
        let values = self.values()?;
        let mut numbers = vec![self.n_tokens as u64, self.n_texts as u64];
        for Term { name, mean, .. } in &self.terms {
            numbers.extend([mean.n as u64, values[name].to_bits()]);
        }
        let all = gather_numbers(&numbers, ranks)?;
        // A rank without a share has no terms.
        let n = |numbers: &[u64], place: usize| numbers.get(2 + 2 * place).copied().unwrap_or(0);
        let n_all = |place| {
            all.iter()
                .map(|numbers| n(numbers, place))
                .sum::<u64>()
                .max(1) as f64
        };
        let value = |place: usize| {
            let own = all.iter().filter(|numbers| n(numbers, place) > 0);
            let own = own.map(|one| n(one, place) as f64 * f64::from_bits(one[3 + 2 * place]));
            own.sum::<f64>() / n_all(place)
        };
        let terms = self.terms.iter().enumerate();
        let loss = terms.map(|(place, term)| term.weight * value(place)).sum();
        if !f64::is_finite(loss) {
            return Err(TrainingError::Loss { value: loss });
        }
        let names = self.terms.iter().map(|term| term.name).enumerate();
        let sum = |place: usize| all.iter().map(|numbers| numbers[place] as usize).sum();
        let report = StepReport {
            loss,
            n_tokens: sum(0),
            n_examples: sum(1),
            measures: names.map(|(place, name)| (name, value(place))).collect(),
        };
        let own = self.sum_of(|place| self.terms[place].mean.n as f64 / n_all(place))?;
        Ok((own, report))
    }

    /// Each term, without its weight.
    ///
    /// # Errors
    /// [`TrainingError::Tensor`].
    pub fn values(&self) -> Result<BTreeMap<&'static str, f64>, TrainingError> {
        let value =
            |Term { name, mean, .. }: &Term| Ok((*name, f64::from(mean.value.to_scalar::<f32>()?)));
        self.terms.iter().map(value).collect()
    }
}

/// Where the masks of dropout come from; each pass through layers has its own.
pub struct Masks<'a> {
    rates: Rates,
    step: Option<&'a Step>,
    /// Of the first text among those of the batch.
    first: First,
    /// What tests make of the vectors that decoders read.
    #[cfg(test)]
    bottleneck: tests::Bottleneck,
}

impl Masks<'_> {
    /// None at all.
    pub const NONE: Masks<'static> = Masks {
        rates: Rates::NONE,
        step: None,
        first: Dropout::NONE.first,
        #[cfg(test)]
        bottleneck: tests::Bottleneck::Open,
    };

    /// Returns the texts' vectors, (B, H), as decoders read them.
    fn bottleneck(&self, vectors: Tensor) -> Result<Tensor, TrainingError> {
        #[cfg(test)]
        let vectors = self.bottleneck.pass(vectors)?;
        Ok(vectors)
    }

    /// Random numbers of the step; without one always the same.
    fn random(&self) -> ChaCha8Rng {
        let (seed, step) = self.step.map_or((0, 0), |step| (step.seed, step.index));
        random(seed, step, 0, Purpose::Replacing)
    }

    fn at(&self, pass: u64) -> Dropout {
        match self.step {
            Some(step) => self.rates.at(step, pass, self.first),
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
    read_from: Option<PathBuf>,
}

/// The decoders' file in an export.
const DECODERS: &str = "decoders.safetensors";

impl<M: Method> Pretraining<M> {
    /// `dropout` replaces the probabilities of config.json; with `keeps_decoders` the export has the decoders in a file
    /// beside the weights. Where the model's folder has such a file the method's decoders go on from it.
    ///
    /// # Errors
    /// [`TrainingError::Load`], also for the decoders of another method or of other sizes; [`TrainingError::Settings`] where there
    /// are no decoders to keep.
    pub fn new(
        method: M,
        dropout: Option<f32>,
        keeps_decoders: bool,
    ) -> Result<Self, TrainingError> {
        super::settings::dropout(dropout)?;
        if keeps_decoders && method.kept().iter().next().is_none() {
            let reason = "`keep_decoders` is for methods that have decoders";
            return Err(TrainingError::Settings { reason });
        }
        let mut parameters = method.model().parameters().clone();
        parameters.extend(method.decoders());
        let folder = method.model().folder();
        let own = Rates::read(folder)?;
        Ok(Self {
            rates: dropout.map_or(own, Rates::all),
            read_from: read_decoders(method.kept(), &folder.join(DECODERS))?,
            method,
            parameters,
            keeps_decoders,
        })
    }

    /// The file from which the decoders go on; they begin anew without one.
    pub fn read_from(&self) -> Option<&Path> {
        self.read_from.as_deref()
    }

    /// The method.
    pub fn method(&self) -> &M {
        &self.method
    }
}

impl<M: Method> Objective for Pretraining<M> {
    type Batch = Vec<M::Example>;
    type Input = ();

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn unshareable(&self) -> Option<&'static str> {
        let refused = "its method looks at a batch as a whole, or at texts of several lengths";
        self.method.row_count().is_none().then_some(refused)
    }

    fn preparation(&self) -> Preparation<Vec<M::Example>, ()> {
        Box::new(|_| Ok(()))
    }

    fn step_prepared(
        &mut self,
        batch: &Vec<M::Example>,
        (): (),
        step: &Step,
        ranks: &dyn Collective,
    ) -> Result<StepReport, TrainingError> {
        let share = ranks.share(batch.len());
        let before = &batch[..share.start];
        let n_rows = self.method.row_count();
        let masks = Masks {
            rates: self.rates,
            step: Some(step),
            first: First {
                text: before.len() as u64,
                row: n_rows.map_or(0, |n| before.iter().map(n).sum::<usize>()) as u64,
            },
            #[cfg(test)]
            bottleneck: tests::Bottleneck::Open,
        };
        let terms = match &batch[share] {
            [] => Terms::of(0, 0),
            own => self.method.terms(own, &masks)?,
        };
        let (sum, report) = terms.join(ranks)?;
        (sum * step.weight)?.backward()?;
        Ok(report)
    }

    fn evaluate(&mut self, batch: &Vec<M::Example>) -> Result<StepReport, TrainingError> {
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
            true => self.method.kept().save(&folder.join(DECODERS)),
            false => Ok(()),
        }
    }
}

/// Reads the decoders of an export that kept them, where there are any to read, and returns the file.
fn read_decoders(decoders: &Parameters, path: &Path) -> Result<Option<PathBuf>, TrainingError> {
    if decoders.iter().next().is_none() || !path.exists() {
        return Ok(None);
    }
    match decoders.load(path) {
        Ok(()) => Ok(Some(path.to_owned())),
        Err(TrainingError::State { path, reason }) => {
            let reason = format!("{reason}; without this file decoders begin anew");
            Err(LoadError::Config { path, reason }.into())
        }
        Err(error) => Err(error),
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
