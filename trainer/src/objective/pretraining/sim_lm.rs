use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::Tokens;
use encoder::training::{Dropout, Engine, Parameters, Stack, TrainingError};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::generator::Generator;
use super::model::{MaskedLm, Mean, tokens};
use super::{Masks, Method, Pretrained, StackStart, Terms};
use crate::masking::Corrupted;

/// SimLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimLmConfig {
    /// Directory of the generator: an ELECTRA or a BERT for masked language modelling with the same vocabulary.
    pub generator: Option<PathBuf>,
    /// What the generator's own loss counts, where it is trained too: 0.2 in the published code.
    pub generator_weight: Option<f64>,
    /// Whether the generator draws with dropout, as it does in the published trainer, which turns that on for all modules.
    pub generator_dropout: bool,
    /// Layers of the decoder, which begin as the encoder's last.
    pub n_decoder_layers: usize,
    /// Of weights that no checkpoint has.
    pub seed: u64,
}

impl Default for SimLmConfig {
    /// The published script's.
    fn default() -> Self {
        Self {
            generator: None,
            generator_weight: None,
            generator_dropout: true,
            n_decoder_layers: 2,
            seed: 0,
        }
    }
}

/// A text, hidden in part for the encoder and more for the decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimLmText {
    /// Its token types: 0 up to the end of a title, 1 behind it; the decoder has none.
    pub types: Vec<u32>,
    /// What is hidden from the encoder.
    pub encoder: Corrupted,
    /// What is hidden from the decoder.
    pub decoder: Corrupted,
    /// What both are to say at each place; none in the place of special tokens.
    pub labels: Vec<Option<u32>>,
}

/// Replaced language modelling, SimLM, Wang et al. 2022 (arXiv 2207.02578).
///
/// A generator puts likely tokens in the place of hidden ones, for the encoder and, where more are hidden, for the decoder.
/// Both are to say what stood there, at replaced and at all other ordinary tokens: `L = CE(E(x_e), x) + CE(D(c, x_d), x)`.
/// The generator is frozen, unless it has a loss of its own: `+ w CE(G(x̂), x)` over what is hidden from the encoder. Without
/// one the hidden tokens are read as they are.
///
/// With a generator `replace_ratio` is told too: the share of the encoder's tokens that another one stands in for.
///
/// Deviations: the warm-up is linear, as of a plain launch, unless `schedule.warmup = "logarithmic"`; the generator's dropout has the
/// rates of the encoder; whether a text has a title is its own matter, not that of the first text of a batch. Those of the
/// masks stand at [`super::SimLmMasks`].
pub struct SimLm {
    model: MaskedLm,
    decoder: Stack,
    generator: Option<Generator>,
    generator_weight: Option<f64>,
    generator_dropout: bool,
    parameters: Parameters,
}

impl SimLm {
    /// Loads the model and copies the decoder's layers.
    ///
    /// # Errors
    /// [`TrainingError::Load`], [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &SimLmConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        crate::objective::settings::at_least_0(
            "generator_weight",
            config.generator_weight.unwrap_or(0.0),
        )?;
        if config.generator_weight.is_some() && config.generator.is_none() {
            let reason = "`generator_weight` goes with `generator`";
            return Err(TrainingError::Settings { reason });
        }
        let model = MaskedLm::load(folder, config.seed, engine)?;
        let n_layers = ("n_decoder_layers", config.n_decoder_layers);
        let decoder = model.decoder("decoder", n_layers, StackStart::Last, 0)?;
        let generator = config.generator.as_deref();
        let generator = generator
            .map(|path| Generator::load_for(&model, path, engine))
            .transpose()?;
        let mut parameters = decoder.parameters().clone();
        match (&generator, config.generator_weight) {
            (Some(Generator::Bert(_)), Some(_)) => {
                let reason =
                    "a BERT that generates is not trained: its parameters have the encoder's names";
                return Err(TrainingError::Settings { reason });
            }
            (Some(generator), Some(_)) => parameters.extend(generator.parameters()),
            _ => {}
        }
        Ok(Self {
            model,
            decoder,
            generator,
            generator_weight: config.generator_weight,
            generator_dropout: config.generator_dropout,
            parameters,
        })
    }

    /// The ids that are read in place of hidden tokens.
    fn read(
        &self,
        batch: &[SimLmText],
        side: fn(&SimLmText) -> &Corrupted,
        dropout: Dropout,
        random: &mut ChaCha8Rng,
    ) -> Result<Vec<Vec<u32>>, TrainingError> {
        let hidden: Vec<&Corrupted> = batch.iter().map(side).collect();
        let ids = hidden_ids(&hidden);
        match &self.generator {
            Some(generator) => {
                let dropout = match self.generator_dropout {
                    true => dropout,
                    false => Dropout::NONE,
                };
                generator.replace(&typed(batch, ids), &hidden, &dropout, random)
            }
            None => Ok(ids),
        }
    }
}

/// Texts with the token types of the batch.
fn typed(batch: &[SimLmText], ids: Vec<Vec<u32>>) -> Vec<Tokens> {
    let pairs = batch.iter().zip(ids);
    let text = |(text, ids): (&SimLmText, Vec<u32>)| Tokens {
        ids,
        type_ids: text.types.clone(),
        ..Tokens::default()
    };
    pairs.map(text).collect()
}

/// How many of the tokens that are read stand in for others.
fn n_replaced(batch: &[SimLmText], read: &[Vec<u32>]) -> usize {
    let texts = batch.iter().zip(read);
    let pairs = texts.flat_map(|(text, ids)| text.encoder.labels.iter().zip(ids));
    pairs
        .filter(|(label, id)| label.is_some_and(|label| label != **id))
        .count()
}

fn hidden_ids(hidden: &[&Corrupted]) -> Vec<Vec<u32>> {
    hidden.iter().map(|text| text.ids.clone()).collect()
}

impl Method for SimLm {
    type Example = SimLmText;
    type Model = MaskedLm;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        &self.parameters
    }

    /// Without the generator's, which `generator` names anew.
    fn kept(&self) -> &Parameters {
        self.decoder.parameters()
    }

    fn max_tokens(&self) -> usize {
        let own = self.model.architecture().max_tokens();
        let generator = self.generator.as_ref();
        generator.map_or(own, |generator| own.min(generator.max_tokens()))
    }

    fn terms(&self, batch: &[SimLmText], masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let model = &self.model;
        let mut random = masks.random();
        let ids = self.read(batch, |text| &text.encoder, masks.at(1), &mut random)?;
        let replaced = n_replaced(batch, &ids);
        let read = model.read(&typed(batch, ids), &masks.at(0))?;
        let mut terms = Terms::of(batch.len(), read.n_tokens());
        let labels = || batch.iter().flat_map(|text| &text.labels);
        terms.add("encoder_loss", 1.0, model.loss(&read.hidden, labels())?);

        let ids = self.read(batch, |text| &text.decoder, masks.at(2), &mut random)?;
        let texts: Vec<Tokens> = ids.iter().map(|ids| tokens(ids)).collect();
        let vectors = masks.bottleneck(read.vectors()?)?;
        let said = model.decode(&self.decoder, &texts, &vectors, &masks.at(8))?;
        terms.add("decoder_loss", 1.0, model.loss(&said, labels())?);

        if self.generator.is_some() {
            let n = read.n_tokens();
            let value = Tensor::new(replaced as f32 / n as f32, &Device::Cpu)?;
            terms.add("replace_ratio", 0.0, Mean { value, n });
        }
        if let (Some(generator), Some(weight)) = (&self.generator, self.generator_weight) {
            let hidden: Vec<&Corrupted> = batch.iter().map(|text| &text.encoder).collect();
            let loss = generator.loss(&typed(batch, hidden_ids(&hidden)), &hidden, &masks.at(3))?;
            terms.add("generator_loss", weight, loss);
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use encoder::training::{AdamW, AdamWConfig, EngineConfig};

    use super::super::SimLmMasks;
    use super::super::generator::tests::write_model;
    use super::super::tests::{drawn, texts};
    use super::*;
    use crate::masking::example_random;
    use crate::objective::Step;
    use crate::objective::rates::Rates;

    /// A parameter's values by its name.
    type Values = Vec<(String, Vec<f32>)>;

    fn values(parameters: &Parameters) -> Values {
        let parameters = parameters.iter();
        parameters
            .map(|one| (one.name().to_owned(), one.values().unwrap()))
            .collect()
    }

    fn load(generator_weight: Option<f64>) -> SimLm {
        let generator = write_model();
        let config = SimLmConfig {
            generator: Some(generator.path().to_owned()),
            generator_weight,
            ..SimLmConfig::default()
        };
        let engine = Engine::new(&EngineConfig::default()).unwrap();
        SimLm::load(&testkit::fixture("models/tiny-bert"), &config, &engine).unwrap()
    }

    /// The terms' sum, and the generator's own; then a step of the optimizer over `parameters`.
    fn step(method: &SimLm, parameters: &Parameters) -> (f64, Option<f64>) {
        let plain: Vec<Box<[u32]>> = texts(3).iter().map(|text| text[..].into()).collect();
        let batch = drawn(&SimLmMasks::default(), &plain);
        let terms = method.terms(&batch, &Masks::NONE).unwrap();
        let sum = terms.sum().unwrap();
        sum.backward().unwrap();
        let engine = Engine::new(&EngineConfig::default()).unwrap();
        let mut optimizer = AdamW::new(parameters, AdamWConfig::default(), &engine).unwrap();
        optimizer.step(1e-3, None).unwrap();
        let own = terms.values().unwrap().get("generator_loss").copied();
        (f64::from(sum.to_scalar::<f32>().unwrap()), own)
    }

    #[test]
    fn a_generator_without_a_loss_stays_as_it_is() {
        let run = |weight| {
            let method = load(weight);
            let own = method.generator.as_ref().unwrap().parameters();
            let mut parameters = method.model.parameters().clone();
            parameters.extend(method.decoders());
            let before = values(own);
            let (sum, loss) = step(&method, &parameters);
            (sum, loss, before == values(own))
        };
        let (frozen, no_loss, is_unchanged) = run(None);
        assert!(no_loss.is_none() && is_unchanged);
        let (sum, loss, is_unchanged) = run(Some(0.2));
        let loss = loss.expect("the generator's loss");
        assert!(
            (sum - frozen - 0.2 * loss).abs() < 1e-5 * sum,
            "{sum}, {frozen}, {loss}"
        );
        assert!(!is_unchanged);
    }

    #[test]
    fn the_decoder_begins_as_the_encoders_last_layers_and_goes_its_own_way() {
        let method = load(None);
        let (encoder, decoder) = (method.model.parameters(), method.decoders());
        let copied = |name: &str| format!("bert.encoder.layer.{}", &name["decoder.".len()..]);
        let same = |(name, values): &(String, Vec<f32>)| {
            encoder
                .get(&copied(name))
                .expect("of that layer")
                .values()
                .unwrap()
                == *values
        };
        assert!(values(decoder).iter().all(same));
        let before = values(encoder);
        step(&method, decoder);
        assert!(values(encoder) == before);
        // Of key biases softmax leaves rounding alone.
        let mut moved = values(decoder);
        moved.retain(|(name, _)| !name.ends_with("key.bias"));
        assert!(!moved.iter().any(same));
    }

    fn method(generator_dropout: bool) -> SimLm {
        let folder = testkit::fixture("models/tiny-bert");
        let config = SimLmConfig {
            generator: Some(folder.clone()),
            generator_dropout,
            ..SimLmConfig::default()
        };
        let engine = Engine::new(&EngineConfig::default()).unwrap();
        SimLm::load(&folder, &config, &engine).unwrap()
    }

    /// Texts of 40 tokens, of which every second is hidden, from the decoder each.
    fn hidden_texts() -> Vec<SimLmText> {
        let hide = |ids: &[u32], every: usize| {
            let is_hidden = |place: &usize| place % every == 1;
            let hidden = (0..ids.len()).map(|place| is_hidden(&place).then_some(ids[place]));
            let labels: Vec<Option<u32>> = hidden.collect();
            let shown = ids.iter().zip(&labels);
            let ids = shown.map(|(&id, label)| if label.is_some() { 4 } else { id });
            Corrupted {
                ids: ids.collect(),
                labels,
            }
        };
        let text = |first: u32| {
            let ids: Vec<u32> = (first..first + 40).collect();
            SimLmText {
                types: vec![0; 40],
                encoder: hide(&ids, 4),
                decoder: hide(&ids, 2),
                labels: ids.into_iter().map(Some).collect(),
            }
        };
        [100, 200, 300].map(text).to_vec()
    }

    const STEP: Step = Step {
        seed: 5,
        index: 0,
        optimizer_step: 0,
        weight: 1.0,
    };

    fn masks(rate: f32) -> Masks<'static> {
        Masks {
            rates: Rates::all(rate),
            step: Some(&STEP),
            ..Masks::NONE
        }
    }

    #[test]
    fn the_generator_draws_with_dropout_unless_it_is_told_not_to() {
        let read = |method: &SimLm, rate| {
            let mut random = example_random(1, 0, 0);
            let dropout = masks(rate).at(1);
            let side: fn(&SimLmText) -> &Corrupted = |text| &text.decoder;
            method
                .read(&hidden_texts(), side, dropout, &mut random)
                .unwrap()
        };
        let (with, without) = (method(true), method(false));
        assert_ne!(read(&with, 0.5), read(&with, 0.0));
        assert_eq!(read(&without, 0.5), read(&without, 0.0));
        assert_eq!(read(&with, 0.0), read(&without, 0.0));
    }

    #[test]
    fn the_share_of_replaced_tokens_is_told_and_counts_nothing() {
        let (method, batch) = (method(false), hidden_texts());
        let terms = method.terms(&batch, &masks(0.0)).unwrap();
        let values = terms.values().unwrap();
        let sum = f64::from(terms.sum().unwrap().to_scalar::<f32>().unwrap());
        assert!((sum - values["encoder_loss"] - values["decoder_loss"]).abs() < 1e-5);
        // The encoder's tokens are drawn first.
        let mut random = masks(0.0).random();
        let side: fn(&SimLmText) -> &Corrupted = |text| &text.encoder;
        let read = method.read(&batch, side, Dropout::NONE, &mut random);
        let own = batch.iter().flat_map(|text| &text.labels);
        let read = read.unwrap().concat();
        let n_replaced = read.iter().zip(own).filter(|(id, own)| own != &&Some(**id));
        let expected = n_replaced.count() as f64 / 120.0;
        assert!((values["replace_ratio"] - expected).abs() < 1e-6);
        assert!(expected > 0.1 && expected <= 0.25, "{expected}");
    }
}
