use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::{Dropout, Engine, Parameters, TrainingError};
use encoder::{LoadError, TextTokenizer, Tokens};
use rand::{Rng, RngExt};

use super::Pretrained;
use super::electra::{Electra, ElectraConfig};
use super::model::{MaskedLm, Mean, labelled};
use crate::json::read_json;
use crate::masking::Corrupted;

/// A masked language model that puts likely tokens in the place of hidden ones.
///
/// ELECTRA's generators, `ElectraForMaskedLM`, whose tables may be narrower than their layers, or any `BertForMaskedLM`.
pub enum Generator {
    /// ELECTRA's.
    Electra(Box<Electra>),
    /// BERT.
    Bert(Box<MaskedLm>),
}

impl Generator {
    /// Reads the model directory of a generator for an encoder.
    ///
    /// # Errors
    /// [`TrainingError::Load`], also where their tokens are not the same: by number, and by their texts where both folders have
    /// a tokenizer.
    pub fn load_for(
        encoder: &MaskedLm,
        folder: &Path,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let path = folder.join("config.json");
        let config: ElectraConfig = read_json(&path)?;
        let (own, n_vocabulary) = (
            config.vocab_size,
            encoder.encoder().architecture().n_vocabulary,
        );
        if own != n_vocabulary {
            let reason = format!("vocab_size is {own}, and the encoder's is {n_vocabulary}");
            return Err(LoadError::Config { path, reason }.into());
        }
        if let (Some(own), Some(of_encoder)) = (pieces(folder)?, pieces(encoder.folder())?) {
            let mut pairs = (0..).zip(own.iter().zip(&of_encoder));
            let other = pairs.find(|(_, (own, of_encoder))| own != of_encoder);
            let reason = match other {
                Some((id, (own, of_encoder))) => {
                    format!("token {id} is `{own}`, and the encoder's is `{of_encoder}`")
                }
                None if own.len() != of_encoder.len() => {
                    let (own, of_encoder) = (own.len(), of_encoder.len());
                    format!("it has {own} tokens, and the encoder's has {of_encoder}")
                }
                None => return Self::load(folder, engine),
            };
            let path = folder.to_owned();
            return Err(LoadError::Tokenizer { path, reason }.into());
        }
        Self::load(folder, engine)
    }

    /// Reads a model directory.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn load(folder: &Path, engine: &Arc<Engine>) -> Result<Self, TrainingError> {
        Ok(match Electra::is_in(folder)? {
            true => Self::Electra(Box::new(Electra::load(folder, "generator.", None, engine)?)),
            false => Self::Bert(Box::new(MaskedLm::load(folder, 0, engine)?)),
        })
    }

    /// Its parameters, behind `generator.` where they are ELECTRA's.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Self::Electra(model) => model.parameters(),
            Self::Bert(model) => model.parameters(),
        }
    }

    /// Tokens of a text at most.
    pub(super) fn max_tokens(&self) -> usize {
        match self {
            Self::Electra(model) => model.architecture().max_tokens(),
            Self::Bert(model) => model.architecture().max_tokens(),
        }
    }

    /// Logits of all tokens, (T, V), of which the head's products are those of `rows` alone: (rows, V).
    fn logits(
        &self,
        texts: &[Tokens],
        rows: &[u32],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let rows = Tensor::new(rows, &Device::Cpu)?;
        match self {
            Self::Electra(model) => {
                let hidden = model.hidden(texts, dropout)?;
                model.head(&hidden.index_select(&rows, 0)?)
            }
            Self::Bert(model) => {
                let hidden = model.encoder().forward(texts, dropout)?;
                model.logits(&hidden.index_select(&rows, 0)?)
            }
        }
    }

    /// The mean cross-entropy of hidden tokens; 0 without any.
    pub(super) fn loss(
        &self,
        texts: &[Tokens],
        hidden: &[&Corrupted],
        dropout: &Dropout,
    ) -> Result<Mean, TrainingError> {
        let labels = hidden.iter().flat_map(|text| &text.labels);
        match self {
            Self::Electra(model) => model.loss(texts, labels, dropout),
            Self::Bert(model) => model.loss(&model.encoder().forward(texts, dropout)?, labels),
        }
    }

    /// Returns the ids of texts with a token drawn by the model's chances, at temperature 1, in each hidden place. It may be the
    /// one that was there.
    pub(super) fn replace(
        &self,
        texts: &[Tokens],
        hidden: &[&Corrupted],
        dropout: &Dropout,
        random: &mut impl Rng,
    ) -> Result<Vec<Vec<u32>>, TrainingError> {
        let mut ids: Vec<Vec<u32>> = texts.iter().map(|text| text.ids.clone()).collect();
        let (rows, _) = labelled(hidden.iter().flat_map(|text| &text.labels));
        if rows.is_empty() {
            return Ok(ids);
        }
        let logits = self.logits(texts, &rows, dropout)?.detach();
        let drawn = logits.to_vec2::<f32>()?;
        let mut drawn = drawn.into_iter().map(|row| draw(&row, random.random()));
        for (ids, text) in ids.iter_mut().zip(hidden) {
            for (id, label) in ids.iter_mut().zip(&text.labels) {
                if label.is_some() {
                    *id = drawn.next().expect("a row for each hidden token");
                }
            }
        }
        Ok(ids)
    }
}

/// The texts of the tokens of a model directory that has a tokenizer.
fn pieces(folder: &Path) -> Result<Option<Vec<String>>, LoadError> {
    let has_one = ["tokenizer.json", "vocab.txt"].map(|name| folder.join(name).exists());
    let tokenizer = has_one
        .contains(&true)
        .then(|| TextTokenizer::load(folder, false));
    Ok(tokenizer.transpose()?.map(|tokenizer| tokenizer.pieces()))
}

/// The column whose share of `Σ eˢ` holds the point that `at`, from 0 to 1, is of the whole.
fn draw(logits: &[f32], at: f64) -> u32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let power = |&logit: &f32| f64::from(logit - most).exp();
    let mut left = at * logits.iter().map(power).sum::<f64>();
    for (column, logit) in (0u32..).zip(logits) {
        left -= power(logit);
        if left < 0.0 {
            return column;
        }
    }
    // Rounding alone leads here.
    logits.len() as u32 - 1
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use encoder::training::EngineConfig;
    use serde_json::Value;
    use tempfile::TempDir;

    use super::*;
    use crate::masking::example_random;

    struct Golden {
        generator: Generator,
        case: Value,
        tensors: HashMap<String, Tensor>,
        texts: Vec<Tokens>,
        hidden: Vec<Corrupted>,
    }

    fn read_golden() -> (Value, HashMap<String, Tensor>) {
        let folder = testkit::golden("pretraining").join("simlm-generator");
        let case: Value =
            serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        let tensors = folder.join("tensors.safetensors");
        let tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
        (case, tensors)
    }

    /// The published generator's weights, written as a model directory.
    pub(in super::super) fn write_model() -> TempDir {
        let (case, tensors) = read_golden();
        let model = tempfile::tempdir().unwrap();
        let config = case["inputs"]["generator_config"].to_string();
        std::fs::write(model.path().join("config.json"), config).unwrap();
        let own = tensors.iter().filter_map(|(name, tensor)| {
            Some((
                name.strip_prefix("weights.generator.")?.to_owned(),
                tensor.clone(),
            ))
        });
        let own: HashMap<String, Tensor> = own.collect();
        candle_core::safetensors::save(&own, model.path().join("model.safetensors")).unwrap();
        model
    }

    /// The published generator and the batch.
    fn golden() -> Golden {
        let ((case, tensors), model) = (read_golden(), write_model());
        let engine = Engine::new(&EngineConfig::default()).unwrap();
        let input = |name: &str| case["inputs"][name].clone();
        let ids: Vec<Vec<u32>> = serde_json::from_value(input("generator_ids")).unwrap();
        let types: Vec<Vec<u32>> = serde_json::from_value(input("encoder_types")).unwrap();
        let labels: Vec<Vec<i64>> = serde_json::from_value(input("generator_labels")).unwrap();
        let hidden = ids.iter().zip(labels).map(|(ids, labels)| Corrupted {
            ids: ids.clone(),
            labels: labels
                .iter()
                .map(|&label| u32::try_from(label).ok())
                .collect(),
        });
        let texts = ids.iter().zip(types).map(|(ids, type_ids)| Tokens {
            ids: ids.clone(),
            type_ids,
            ..Tokens::default()
        });
        Golden {
            generator: Generator::load(model.path(), &engine).unwrap(),
            texts: texts.collect(),
            hidden: hidden.collect(),
            case,
            tensors,
        }
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn its_logits_loss_and_gradients_equal_those_of_electra() {
        let Golden {
            generator,
            case,
            tensors,
            texts,
            hidden,
        } = golden();
        let n_tokens = texts.iter().map(Tokens::len).sum::<usize>() as u32;
        let all: Vec<u32> = (0..n_tokens).collect();
        let found = values(&generator.logits(&texts, &all, &Dropout::NONE).unwrap());
        let expected = values(&tensors["logits.generator"]);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4, "{found}, not {expected}");
        }
        let hidden: Vec<&Corrupted> = hidden.iter().collect();
        let loss = generator.loss(&texts, &hidden, &Dropout::NONE).unwrap();
        let found = f64::from(loss.value.to_scalar::<f32>().unwrap());
        let expected = case["losses"]["generator"].as_f64().unwrap();
        assert!(
            (found - expected).abs() < 1e-5 * expected,
            "{found}, not {expected}"
        );

        // The published total counts it a fifth.
        (loss.value * 0.2).unwrap().backward().unwrap();
        let mut n_compared = 0;
        for parameter in generator.parameters().iter() {
            let name = parameter.name();
            if name.ends_with("key.bias") {
                continue;
            }
            let expected = values(&tensors[&format!("gradient.{name}")]);
            let found = parameter.gradient().unwrap().unwrap();
            let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
            let error = length(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
            let size = length(&mut expected.iter().copied());
            assert!(error <= 1e-4 * size, "{name}: {error} of {size}");
            n_compared += 1;
        }
        assert_eq!(n_compared, 42); // of 44, without two key biases
    }

    #[test]
    fn hidden_tokens_alone_are_replaced_by_the_models_chances() {
        let Golden {
            generator,
            texts,
            hidden,
            ..
        } = golden();
        let hidden: Vec<&Corrupted> = hidden.iter().collect();
        let replaced = |example| {
            generator
                .replace(
                    &texts,
                    &hidden,
                    &Dropout::NONE,
                    &mut example_random(1, 0, example),
                )
                .unwrap()
        };
        assert_eq!(replaced(0), replaced(0));
        assert_ne!(replaced(0), replaced(1));
        for (text, (before, hidden)) in replaced(0).iter().zip(texts.iter().zip(&hidden)) {
            for ((after, before), label) in text.iter().zip(&before.ids).zip(&hidden.labels) {
                assert!(label.is_some() || after == before);
            }
        }
        // Shares of 1 : 3 : 4 by hand.
        let logits = [0.0f32, 3f32.ln(), 4f32.ln()];
        for (at, expected) in [
            (0.0, 0),
            (0.124, 0),
            (0.126, 1),
            (0.49, 1),
            (0.51, 2),
            (0.9999, 2),
        ] {
            assert_eq!(draw(&logits, at), expected, "{at}");
        }
    }

    /// Ids in hidden places, of `n` batches drawn, from a head whose logits are these biases.
    fn drawn(bias: impl Fn(usize) -> f32, n: u64) -> Vec<u32> {
        let Golden {
            generator,
            texts,
            hidden,
            ..
        } = golden();
        let set = |name: &str, value: &dyn Fn(usize) -> f32| {
            let parameter = generator
                .parameters()
                .get(&format!("generator.{name}"))
                .unwrap();
            let n_values = parameter.shape().iter().product();
            let values: Vec<f32> = (0..n_values).map(value).collect();
            parameter.set_values(&values).unwrap();
        };
        set("electra.embeddings.word_embeddings.weight", &|_| 0.0);
        set("generator_lm_head.bias", &bias);
        let hidden: Vec<&Corrupted> = hidden.iter().collect();
        let labels: Vec<_> = hidden.iter().flat_map(|text| &text.labels).collect();
        let draw = |example| {
            let mut random = example_random(1, 0, example);
            let ids = generator
                .replace(&texts, &hidden, &Dropout::NONE, &mut random)
                .unwrap();
            let pairs = ids.into_iter().flatten().zip(&labels);
            let own = pairs.filter(|(_, label)| label.is_some());
            own.map(|(id, _)| id).collect::<Vec<_>>()
        };
        (0..n).flat_map(draw).collect()
    }

    #[test]
    fn a_sure_generator_says_one_token_and_an_even_one_each() {
        assert!(
            drawn(|id| if id == 77 { 100.0 } else { 0.0 }, 10)
                .iter()
                .all(|&id| id == 77)
        );
        let ids = drawn(|_| 0.0, 1000);
        let n = ids.len() as f64;
        assert!(n > 10_000.0, "{n}");
        // Each 36 of the 576 tokens: a sixteenth, within four standard deviations.
        for part in 0..16 {
            let found = ids.iter().filter(|&&id| id / 36 == part).count() as f64;
            let bound = 4.0 * (n / 16.0 * (15.0 / 16.0)).sqrt();
            assert!((found - n / 16.0).abs() < bound, "{part}: {found} of {n}");
        }
    }
}
