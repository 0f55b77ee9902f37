use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::Dropout;
use encoder::training::{
    Engine, Initial, Kind, LayerNorm, Linear, Parameter, Parameters, Stack, TrainingError,
    cross_entropy, embedding,
};
use encoder::{Activation, Architecture, Checkpoint, Family, Labels, LoadError, Tokens};
use rand::{Rng, RngExt};
use serde::Deserialize;

use super::model::{MaskedLm, labelled};
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
    /// Reads a model directory.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn load(folder: &Path, engine: &Arc<Engine>) -> Result<Self, TrainingError> {
        let config = ElectraConfig::read(folder)?;
        Ok(match config.model_type.as_str() {
            "electra" => Self::Electra(Box::new(Electra::load(folder, &config, engine)?)),
            _ => Self::Bert(Box::new(MaskedLm::load(folder, 0, engine)?)),
        })
    }

    /// Its parameters, behind `generator.` where they are ELECTRA's.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Self::Electra(model) => &model.parameters,
            Self::Bert(model) => model.parameters(),
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
    ) -> Result<Tensor, TrainingError> {
        let (rows, targets) = labelled(hidden.iter().flat_map(|text| &text.labels));
        if rows.is_empty() {
            return Ok(Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?);
        }
        Ok(cross_entropy(
            &self.logits(texts, &rows, dropout)?,
            &targets,
        )?)
    }

    /// Returns the ids of texts with a token drawn by the model's chances, at temperature 1 and without dropout, in each
    /// hidden place. It may be the one that was there.
    pub(super) fn replace(
        &self,
        texts: &[Tokens],
        hidden: &[&Corrupted],
        random: &mut impl Rng,
    ) -> Result<Vec<Vec<u32>>, TrainingError> {
        let mut ids: Vec<Vec<u32>> = texts.iter().map(|text| text.ids.clone()).collect();
        let (rows, _) = labelled(hidden.iter().flat_map(|text| &text.labels));
        if rows.is_empty() {
            return Ok(ids);
        }
        let logits = self.logits(texts, &rows, &Dropout::NONE)?.detach();
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

/// What `config.json` says of an ELECTRA.
#[derive(Deserialize)]
struct ElectraConfig {
    #[serde(default)]
    model_type: String,
    #[serde(default)]
    vocab_size: usize,
    #[serde(default)]
    embedding_size: usize,
    #[serde(default)]
    hidden_size: usize,
    #[serde(default)]
    num_hidden_layers: usize,
    #[serde(default)]
    num_attention_heads: usize,
    #[serde(default)]
    intermediate_size: usize,
    #[serde(default)]
    max_position_embeddings: usize,
    #[serde(default)]
    type_vocab_size: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "activation")]
    hidden_act: String,
}

fn epsilon() -> f64 {
    1e-12
}

fn activation() -> String {
    "gelu".to_owned()
}

impl ElectraConfig {
    fn read(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("config.json");
        let bytes = std::fs::read(&path).map_err(|source| LoadError::Read {
            path: path.clone(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| LoadError::Json { path, source })
    }

    /// The sizes of the layers as those of a BERT.
    fn architecture(&self, folder: &Path) -> Result<Architecture, LoadError> {
        let refuse = |reason: String| LoadError::Config {
            path: folder.join("config.json"),
            reason,
        };
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("embedding_size", self.embedding_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(refuse(format!("{name} is missing or 0")));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(refuse(
                "hidden_size is no multiple of num_attention_heads".into(),
            ));
        }
        if self.hidden_act != "gelu" {
            return Err(refuse(format!(
                "hidden_act `{}` is not supported",
                self.hidden_act
            )));
        }
        Ok(Architecture {
            family: Family::Bert,
            n_vocabulary: self.vocab_size,
            width: self.hidden_size,
            n_layers: self.num_hidden_layers,
            n_heads: self.num_attention_heads,
            n_intermediate: self.intermediate_size,
            n_positions: self.max_position_embeddings,
            n_types: self.type_vocab_size,
            first_position: 0,
            padding_id: None,
            n_buckets: 0,
            epsilon: self.layer_norm_eps,
            activation: Activation::Gelu,
            labels: Labels {
                n: 2,
                has_classifier: false,
                activation: None,
            },
        })
    }
}

/// ELECTRA's generator, Clark et al. 2020 (arXiv 2003.10555): BERT with tables of another width, a projection behind them,
/// and a head that goes back to that width.
pub struct Electra {
    /// Tokens, positions and types, (…, E).
    tables: [Arc<Parameter>; 3],
    norm: LayerNorm,
    /// E → H, where they differ.
    project: Option<Linear>,
    layers: Stack,
    transform: Linear,
    transform_norm: LayerNorm,
    projection: Linear,
    parameters: Parameters,
    n_positions: usize,
}

impl Electra {
    fn load(
        folder: &Path,
        config: &ElectraConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let a = config.architecture(folder)?;
        let checkpoint = Checkpoint::open(folder)?;
        let (narrow, width) = (config.embedding_size, a.width);
        let mut parameters = Parameters::new();
        let stored = |name: &str, shape: &[usize]| checkpoint.head_tensor(name, shape);
        let mut insert = |name: &str, shape: &[usize], kind| -> Result<_, TrainingError> {
            let values = stored(name, shape)?;
            Ok(parameters.insert(&format!("generator.{name}"), shape, values, kind)?)
        };
        let table = |name: &str| format!("electra.embeddings.{name}_embeddings.weight");
        let tables = [
            insert(&table("word"), &[a.n_vocabulary, narrow], Kind::Table)?,
            insert(&table("position"), &[a.n_positions, narrow], Kind::Table)?,
            insert(&table("token_type"), &[a.n_types, narrow], Kind::Table)?,
        ];
        let mut pair = |name: &str, shape: &[usize]| -> Result<_, TrainingError> {
            let kind = if shape.len() == 2 {
                Kind::Matrix
            } else {
                Kind::Plain
            };
            let weight = insert(&format!("{name}.weight"), shape, kind)?;
            Ok((
                weight,
                insert(&format!("{name}.bias"), &shape[..1], Kind::Plain)?,
            ))
        };
        let mut norm = |name: &str| -> Result<_, TrainingError> {
            let (weight, bias) = pair(name, &[narrow])?;
            Ok(LayerNorm::tied(&weight, &bias, a.epsilon, engine))
        };
        let (embedding_norm, transform_norm) = (
            norm("electra.embeddings.LayerNorm")?,
            norm("generator_predictions.LayerNorm")?,
        );
        let project = match narrow == width {
            true => None,
            false => {
                let (weight, bias) = pair("electra.embeddings_project", &[width, narrow])?;
                Some(Linear::tied(&weight, &bias, engine)?)
            }
        };
        let (weight, bias) = pair("generator_predictions.dense", &[narrow, width])?;
        let transform = Linear::tied(&weight, &bias, engine)?.with_activation(Activation::Gelu);
        let bias = insert("generator_lm_head.bias", &[a.n_vocabulary], Kind::Plain)?;
        let projection = Linear::tied(&tables[0], &bias, engine)?;

        let name = "generator.electra.encoder.layer";
        let initial = Initial::Normal { seed: 0 };
        let layers = Stack::new(name, a.n_layers, &a, initial, engine)?;
        for parameter in layers.parameters().iter() {
            let own = parameter.name().trim_start_matches("generator.");
            parameter.set_values(&stored(own, parameter.shape())?)?;
        }
        parameters.extend(layers.parameters());
        Ok(Self {
            tables,
            norm: embedding_norm,
            project,
            layers,
            transform,
            transform_norm,
            projection,
            parameters,
            n_positions: a.n_positions,
        })
    }

    /// The last layer's token vectors, (T, H).
    fn hidden(&self, texts: &[Tokens], dropout: &Dropout) -> Result<Tensor, TrainingError> {
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        if let Some(&most) = lengths.iter().find(|&&n| n > self.n_positions) {
            return Err(TrainingError::Setting {
                name: "tokens of a text",
                value: most as f64,
                rule: "they are at most the generator's positions",
            });
        }
        let ids: Vec<u32> = texts.iter().flat_map(|text| &text.ids).copied().collect();
        let types: Vec<u32> = texts
            .iter()
            .flat_map(|text| &text.type_ids)
            .copied()
            .collect();
        let places: Vec<u32> = lengths.iter().flat_map(|&n| 0..n as u32).collect();
        let [tokens, positions, kinds] = &self.tables;
        let others = (embedding(positions, &places)? + embedding(kinds, &types)?)?;
        let embedded = self.norm.forward(&embedding(tokens, &ids)?, &others)?;
        let embedded = match &self.project {
            Some(project) => project.forward(&embedded)?,
            None => embedded,
        };
        self.layers.forward(&embedded, &lengths, dropout)
    }

    fn head(&self, rows: &Tensor) -> Result<Tensor, TrainingError> {
        let transformed = self.transform.forward(rows)?;
        let nothing = transformed.zeros_like()?;
        let normalized = self.transform_norm.forward(&transformed, &nothing)?;
        Ok(self.projection.forward(&normalized)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use encoder::training::EngineConfig;
    use serde_json::Value;

    use super::*;
    use crate::masking::example_random;

    struct Golden {
        generator: Generator,
        case: Value,
        tensors: HashMap<String, Tensor>,
        texts: Vec<Tokens>,
        hidden: Vec<Corrupted>,
    }

    /// The published generator's weights, written as a model directory, and the batch.
    fn golden() -> Golden {
        let folder = testkit::golden("pretraining").join("simlm-generator");
        let case: Value =
            serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        let tensors = folder.join("tensors.safetensors");
        let tensors = candle_core::safetensors::load(tensors, &Device::Cpu).unwrap();
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
        let found = f64::from(loss.to_scalar::<f32>().unwrap());
        let expected = case["losses"]["generator"].as_f64().unwrap();
        assert!(
            (found - expected).abs() < 1e-5 * expected,
            "{found}, not {expected}"
        );

        // The published total counts it a fifth.
        (loss * 0.2).unwrap().backward().unwrap();
        let mut n_compared = 0;
        for parameter in generator.parameters().iter() {
            let name = parameter.name();
            if name.ends_with("key.bias") {
                continue;
            }
            let expected = values(&tensors[&format!("gradient.{name}")]);
            let found = parameter.gradient().unwrap();
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
                .replace(&texts, &hidden, &mut example_random(1, 0, example))
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
}
