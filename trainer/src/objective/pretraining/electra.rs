use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::{
    Dropout, Engine, Initial, Kind, LayerNorm, Linear, Parameter, Parameters, Stack, TrainingError,
    embedding, normal,
};
use encoder::{Activation, Architecture, Checkpoint, Family, Labels, LoadError, Tokens};
use serde::Deserialize;

use super::model::{Mean, checkpoint, labelled};
use super::{Drawn, Pretrained};
use crate::json::read_json;

/// What `config.json` says of an ELECTRA.
#[derive(Deserialize)]
pub(super) struct ElectraConfig {
    #[serde(default)]
    model_type: String,
    #[serde(default)]
    pub(super) vocab_size: usize,
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
    pub(super) fn is_electra(&self) -> bool {
        self.model_type == "electra"
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
                names: Vec::new(),
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
    architecture: Architecture,
    engine: Arc<Engine>,
    folder: PathBuf,
    drawn: Drawn,
}

impl Electra {
    /// Whether a model directory is of an ELECTRA.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn is_in(folder: &Path) -> Result<bool, LoadError> {
        let config: ElectraConfig = read_json(&folder.join("config.json"))?;
        Ok(config.is_electra())
    }

    /// Reads a model directory, with parameters named as in `ElectraForMaskedLM` behind a prefix. With a seed, weights that the
    /// directory does not have, all or the head's, are drawn as transformers draws them; without one it must have them.
    pub(super) fn load(
        folder: &Path,
        prefix: &str,
        seed: Option<u64>,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let config: ElectraConfig = read_json(&folder.join("config.json"))?;
        let a = config.architecture(folder)?;
        let checkpoint = match seed {
            Some(_) => checkpoint(folder)?,
            None => Some(Checkpoint::open(folder)?),
        };
        let (narrow, width) = (config.embedding_size, a.width);
        let mut parameters = Parameters::new();
        let stored = |name: &str, shape: &[usize]| match (&checkpoint, seed) {
            (Some(checkpoint), Some(_)) if is_head(name) && !checkpoint.contains(name) => Ok(None),
            (Some(checkpoint), _) => checkpoint.head_tensor(name, shape).map(Some),
            (None, _) => Ok(None),
        };
        let mut stream = u64::MAX;
        let mut drawn = |name: &str, shape: &[usize]| {
            let n_values = shape.iter().product();
            match shape {
                [_] if name.ends_with(".bias") => vec![0.0; n_values],
                [_] => vec![1.0; n_values],
                _ => {
                    stream -= 1; // those of the layers begin at 0
                    normal(seed.unwrap_or_default(), stream, n_values, 0.02)
                }
            }
        };
        let mut insert = |name: &str, shape: &[usize], kind| -> Result<_, TrainingError> {
            let values = stored(name, shape)?.unwrap_or_else(|| drawn(name, shape));
            Ok(parameters.insert(&format!("{prefix}{name}"), shape, values, kind)?)
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

        let name = format!("{prefix}electra.encoder.layer");
        let initial = Initial::Normal {
            seed: seed.unwrap_or_default(),
        };
        let layers = Stack::new(&name, a.n_layers, &a, initial, engine)?;
        for parameter in layers.parameters().iter() {
            let own = &parameter.name()[prefix.len()..];
            if let Some(values) = stored(own, parameter.shape())? {
                parameter.set_values(&values)?;
            }
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
            architecture: a,
            engine: Arc::clone(engine),
            folder: folder.to_path_buf(),
            drawn: Drawn::of(checkpoint.as_ref(), "generator_predictions.dense.weight"),
        })
    }

    /// The mean cross-entropy of the tokens that have a label; 0 where none has. Only their rows go through the head.
    pub(super) fn loss<'a>(
        &self,
        texts: &[Tokens],
        labels: impl IntoIterator<Item = &'a Option<u32>>,
        dropout: &Dropout,
    ) -> Result<Mean, TrainingError> {
        let (rows, targets) = labelled(labels);
        Mean::of_labels(&targets, || {
            let rows = Tensor::new(rows, &Device::Cpu)?;
            let hidden = self.hidden(texts, dropout)?.index_select(&rows, 0)?;
            let rows = self.transformed(&hidden)?;
            Ok(self.projection.cross_entropy(&rows, &targets)?)
        })
    }

    /// The last layer's token vectors, (T, H).
    pub(super) fn hidden(
        &self,
        texts: &[Tokens],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        if let Some(&most) = lengths.iter().find(|&&n| n > self.architecture.n_positions) {
            return Err(TrainingError::Setting {
                name: "tokens of a text",
                value: most as f64,
                rule: "they are at most ELECTRA's positions",
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
        let embedded = encoder::training::dropout(&embedded, dropout, 0, &self.engine)?;
        let embedded = match &self.project {
            Some(project) => project.forward(&embedded)?,
            None => embedded,
        };
        self.layers.forward(&embedded, &lengths, dropout)
    }

    pub(super) fn head(&self, rows: &Tensor) -> Result<Tensor, TrainingError> {
        Ok(self.projection.forward(&self.transformed(rows)?)?)
    }

    /// What the head's projection reads.
    fn transformed(&self, rows: &Tensor) -> Result<Tensor, TrainingError> {
        let transformed = self.transform.forward(rows)?;
        let nothing = transformed.zeros_like()?;
        Ok(self.transform_norm.forward(&transformed, &nothing)?)
    }
}

impl Pretrained for Electra {
    fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn drawn(&self) -> Drawn {
        self.drawn
    }
}

/// Whether a tensor is of the head, which a bare `ElectraModel` does not have.
fn is_head(name: &str) -> bool {
    !name.starts_with("electra.")
}
