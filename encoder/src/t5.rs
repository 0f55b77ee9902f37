//! The shape of T5, Raffel et al. 2020 (arXiv 1910.10683), of its version 1.1 and of mT5.

mod scaling;

use std::path::Path;

pub use self::scaling::{ScaledT5, scale_t5};
use serde_json::{Value, json};

use crate::architecture::{Activation, Entries};
use crate::backbone::Limits;
use crate::directory::read_json;
use crate::error::LoadError;

/// There is no table of positions that would end. The attention of a text so long takes 64 MiB for each head.
pub(crate) const MOST_TOKENS: usize = 4096;

/// What the decoder's only step reads: T5's padding, with which it is taught to begin.
pub(crate) const DECODER_START: u32 = 0;

/// The shape of a T5, as its `config.json` has it.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Architecture {
    /// Rows of the token table, which encoder and decoder share.
    pub n_vocabulary: usize,
    /// H
    pub width: usize,
    /// Blocks of the encoder.
    pub n_layers: usize,
    /// Blocks of the decoder, where the checkpoint has one.
    pub n_decoder_layers: usize,
    /// Attention heads of each block.
    pub n_heads: usize,
    /// Width of a head; all of them together need not be as wide as the token vectors.
    pub head_width: usize,
    /// Width between the feed-forward layers.
    pub n_intermediate: usize,
    /// Buckets of the relative positions.
    pub n_buckets: usize,
    /// From this distance on there is one bucket.
    pub max_distance: usize,
    /// Added to the mean square in every normalization.
    pub epsilon: f64,
    /// Between the feed-forward layers.
    pub activation: Activation,
    /// Whether a second layer, without activation, multiplies what the activation gives (version 1.1).
    pub gated: bool,
}

impl T5Architecture {
    /// Reads the `config.json` of a transformer.
    ///
    /// # Errors
    /// [`LoadError::Config`] for a shape that is not supported or another family.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let map = read_json(path)?;
        let config = Entries { path, map: &map };
        match Self::is_t5(&config)? {
            true => Self::from_entries(&config),
            false => Err(config.refuse("model_type is neither `t5` nor `mt5`".into())),
        }
    }

    pub(crate) fn is_t5(config: &Entries<'_>) -> Result<bool, LoadError> {
        Ok(matches!(config.text("model_type")?, Some("t5" | "mt5")))
    }

    pub(crate) fn from_entries(config: &Entries<'_>) -> Result<Self, LoadError> {
        let (gated, activation) = match config.text("feed_forward_proj")?.unwrap_or("relu") {
            "relu" => (false, Activation::Relu),
            "gated-gelu" => (true, Activation::GeluTanh),
            "gated-silu" => (true, Activation::Silu),
            other => {
                return Err(config.refuse(format!(
                    "feed_forward_proj is `{other}`; supported are relu, gated-gelu and gated-silu"
                )));
            }
        };
        let n_layers = config.size("num_layers")?;
        let architecture = Self {
            n_vocabulary: config.size("vocab_size")?,
            width: config.size("d_model")?,
            n_layers,
            n_decoder_layers: config.count("num_decoder_layers")?.unwrap_or(n_layers),
            n_heads: config.size("num_heads")?,
            head_width: config.size("d_kv")?,
            n_intermediate: config.size("d_ff")?,
            n_buckets: config
                .count("relative_attention_num_buckets")?
                .unwrap_or(32),
            max_distance: config
                .count("relative_attention_max_distance")?
                .unwrap_or(128),
            epsilon: config.number("layer_norm_epsilon")?.unwrap_or(1e-6),
            activation,
            gated,
        };
        let (n_buckets, distance) = (architecture.n_buckets, architecture.max_distance);
        if n_buckets < 4 || distance <= n_buckets / 4 {
            return Err(config.refuse(format!(
                "relative_attention_num_buckets is {n_buckets} for distances up to {distance}"
            )));
        }
        Ok(architecture)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            width: self.width,
            n_vocabulary: self.n_vocabulary,
            n_types: 0,
            max_tokens: MOST_TOKENS,
        }
    }

    /// The entries that change the output of the encoder, for the fingerprint.
    pub(crate) fn describe(&self) -> Value {
        json!({
            "family": "t5",
            "vocabulary": self.n_vocabulary,
            "width": self.width,
            "layers": self.n_layers,
            "heads": self.n_heads,
            "head_width": self.head_width,
            "intermediate": self.n_intermediate,
            "buckets": self.n_buckets,
            "max_distance": self.max_distance,
            "epsilon": format!("{:e}", self.epsilon),
            "gated": self.gated,
            "activation": match self.activation {
                Activation::GeluTanh => "newgelu".to_owned(),
                other => format!("{other:?}").to_lowercase(),
            },
        })
    }
}
