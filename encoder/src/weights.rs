//! The tensors of a transformer, by the names of its family.

use crate::architecture::{Architecture, Family};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;

/// A linear layer: `x Wᵀ + b`.
pub(crate) struct Linear {
    /// (out, in), row-major.
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) n_in: usize,
    pub(crate) n_out: usize,
}

/// Scale and shift of a layer normalization.
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// All tensors of the bare model, which ends at the last layer's token vectors.
pub(crate) struct Weights {
    pub(crate) tokens: Vec<f32>,
    pub(crate) positions: Vec<f32>,
    pub(crate) types: Vec<f32>,
    pub(crate) embedding_norm: Norm,
    /// (buckets, heads), MPNet only.
    pub(crate) relative_bias: Vec<f32>,
    pub(crate) layers: Vec<LayerWeights>,
}

pub(crate) struct LayerWeights {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) attention_norm: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) output_norm: Norm,
}

impl LayerWeights {
    /// Queries, keys and values of all heads side by side.
    pub(crate) fn projections(&self) -> Linear {
        let parts = [&self.query, &self.key, &self.value];
        let biases = parts.iter().filter_map(|part| part.bias.as_deref());
        Linear {
            weight: parts.map(|part| part.weight.as_slice()).concat(),
            bias: Some(biases.flatten().copied().collect()),
            n_in: self.query.n_in,
            n_out: 3 * self.query.n_out,
        }
    }
}

/// Names of the tensors of one layer, without `.weight` and `.bias`.
pub(crate) struct LayerNames {
    pub(crate) query: String,
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) output: String,
    pub(crate) attention_norm: String,
    pub(crate) up: String,
    pub(crate) down: String,
    pub(crate) output_norm: String,
}

impl LayerNames {
    /// Of a layer of the encoder itself.
    pub(crate) fn new(family: Family, layer: usize) -> Self {
        Self::under(Self::stem(family), family, layer)
    }

    /// What the names of the encoder's layers begin with.
    pub(crate) fn stem(family: Family) -> &'static str {
        match family {
            Family::DistilBert => "transformer.layer",
            _ => "encoder.layer",
        }
    }

    /// Of a layer of another stack, whose names begin with `stem`.
    pub(crate) fn under(stem: &str, family: Family, layer: usize) -> Self {
        let [
            query,
            key,
            value,
            output,
            attention_norm,
            up,
            down,
            output_norm,
        ] = match family {
            Family::Bert | Family::Roberta => [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "attention.output.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            ],
            Family::Mpnet => [
                "attention.attn.q",
                "attention.attn.k",
                "attention.attn.v",
                "attention.attn.o",
                "attention.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            ],
            Family::DistilBert => [
                "attention.q_lin",
                "attention.k_lin",
                "attention.v_lin",
                "attention.out_lin",
                "sa_layer_norm",
                "ffn.lin1",
                "ffn.lin2",
                "output_layer_norm",
            ],
        };
        let name = |part: &str| format!("{stem}.{layer}.{part}");
        Self {
            query: name(query),
            key: name(key),
            value: name(value),
            output: name(output),
            attention_norm: name(attention_norm),
            up: name(up),
            down: name(down),
            output_norm: name(output_norm),
        }
    }
}

/// Names outside the layers, equal in all families.
pub(crate) const TOKENS: &str = "embeddings.word_embeddings.weight";
pub(crate) const POSITIONS: &str = "embeddings.position_embeddings.weight";
pub(crate) const TYPES: &str = "embeddings.token_type_embeddings.weight";
pub(crate) const EMBEDDING_NORM: &str = "embeddings.LayerNorm";
pub(crate) const RELATIVE_BIAS: &str = "encoder.relative_attention_bias.weight";

impl Family {
    /// What stands before the names of the bare model where a head is saved with it.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
            Self::DistilBert => "distilbert.",
            Self::Mpnet => "mpnet.",
        }
    }
}

impl Weights {
    pub(crate) fn load(
        architecture: &Architecture,
        checkpoint: &mut Checkpoint,
    ) -> Result<Self, LoadError> {
        checkpoint.set_prefix(architecture.family.prefix(), TOKENS);
        let (checkpoint, a) = (&*checkpoint, architecture);
        let linear = |name: &str, n_out, n_in| linear(checkpoint, name, n_out, n_in);
        let norm = |name: &str| -> Result<Norm, LoadError> {
            Ok(Norm {
                weight: checkpoint.tensor(&format!("{name}.weight"), &[a.width])?,
                bias: checkpoint.tensor(&format!("{name}.bias"), &[a.width])?,
            })
        };
        let optional = |present: bool, name: &str, shape: &[usize]| {
            if present {
                checkpoint.tensor(name, shape)
            } else {
                Ok(Vec::new())
            }
        };
        Ok(Self {
            tokens: checkpoint.tensor(TOKENS, &[a.n_vocabulary, a.width])?,
            positions: checkpoint.tensor(POSITIONS, &[a.n_positions, a.width])?,
            types: optional(a.n_types > 0, TYPES, &[a.n_types, a.width])?,
            embedding_norm: norm(EMBEDDING_NORM)?,
            relative_bias: optional(a.n_buckets > 0, RELATIVE_BIAS, &[a.n_buckets, a.n_heads])?,
            layers: (0..a.n_layers)
                .map(|layer| {
                    let names = LayerNames::new(a.family, layer);
                    Ok(LayerWeights {
                        query: linear(&names.query, a.width, a.width)?,
                        key: linear(&names.key, a.width, a.width)?,
                        value: linear(&names.value, a.width, a.width)?,
                        output: linear(&names.output, a.width, a.width)?,
                        attention_norm: norm(&names.attention_norm)?,
                        up: linear(&names.up, a.n_intermediate, a.width)?,
                        down: linear(&names.down, a.width, a.n_intermediate)?,
                        output_norm: norm(&names.output_norm)?,
                    })
                })
                .collect::<Result<_, LoadError>>()?,
        })
    }
}

fn linear(
    checkpoint: &Checkpoint,
    name: &str,
    n_out: usize,
    n_in: usize,
) -> Result<Linear, LoadError> {
    Ok(Linear {
        weight: checkpoint.tensor(&format!("{name}.weight"), &[n_out, n_in])?,
        bias: Some(checkpoint.tensor(&format!("{name}.bias"), &[n_out])?),
        n_in,
        n_out,
    })
}
