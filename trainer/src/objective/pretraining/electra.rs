use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use encoder::training::{
    Dropout, Engine, Initial, Kind, LayerNorm, Linear, Parameter, Parameters, Stack, TrainingError,
    embedding,
};
use encoder::{Activation, Architecture, Checkpoint, Family, Labels, LoadError, Tokens};
use serde::Deserialize;

/// What `config.json` says of an ELECTRA.
#[derive(Deserialize)]
pub(super) struct ElectraConfig {
    #[serde(default)]
    pub(super) model_type: String,
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
    pub(super) parameters: Parameters,
    n_positions: usize,
}

impl Electra {
    pub(super) fn load(
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
    pub(super) fn hidden(
        &self,
        texts: &[Tokens],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
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

    pub(super) fn head(&self, rows: &Tensor) -> Result<Tensor, TrainingError> {
        let transformed = self.transform.forward(rows)?;
        let nothing = transformed.zeros_like()?;
        let normalized = self.transform_norm.forward(&transformed, &nothing)?;
        Ok(self.projection.forward(&normalized)?)
    }
}
