//! What `config.json` says about a transformer.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::backbone::Limits;
use crate::directory::read_json;
use crate::error::LoadError;
use crate::foreign::MODEL_TYPES;

/// The transformer families whose checkpoints can be read. They differ in names, positions and heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Devlin et al. 2018 (arXiv 1810.04805).
    Bert,
    /// Liu et al. 2019 (arXiv 1907.11692); also XLM-RoBERTa and CamemBERT.
    Roberta,
    /// Sanh et al. 2019 (arXiv 1910.01108).
    DistilBert,
    /// Song et al. 2020 (arXiv 2004.09297): relative positions added to the attention scores.
    Mpnet,
}

/// Function between the two layers of a feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x Φ(x)`
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + e⁻ˣ)`
    Silu,
}

impl Activation {
    /// Reads the entry that names it.
    pub(crate) fn read(
        config: &Entries<'_>,
        entry: &str,
        default: &str,
    ) -> Result<Self, LoadError> {
        match config.text(entry)?.unwrap_or(default) {
            "gelu" => Ok(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            "silu" | "swish" => Ok(Self::Silu),
            other => Err(config.refuse(format!("activation `{other}` is not supported"))),
        }
    }
}

/// The shape of a transformer, with the names of the BERT paper whatever the family calls them.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Whose names and positions.
    pub family: Family,
    /// Rows of the token table.
    pub n_vocabulary: usize,
    /// H
    pub width: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Attention heads of each layer.
    pub n_heads: usize,
    /// Width between the two feed-forward layers.
    pub n_intermediate: usize,
    /// Rows of the position table.
    pub n_positions: usize,
    /// Rows of the token type table, 0 without one.
    pub n_types: usize,
    /// Position of the first token: 0, or after the padding id in RoBERTa and MPNet.
    pub first_position: usize,
    /// Token id that RoBERTa and MPNet leave out when they count positions.
    pub padding_id: Option<u32>,
    /// Buckets of the relative positions (MPNet).
    pub n_buckets: usize,
    /// Added to the variance in every normalization.
    pub epsilon: f64,
    /// Between the two feed-forward layers.
    pub activation: Activation,
    /// What is said about a head for classification.
    pub labels: Labels,
}

/// What `config.json` says about a head for classification.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels {
    /// Outputs of the head, where the checkpoint has one.
    pub n: usize,
    /// Whether `architectures` names a model for sequence classification.
    pub has_classifier: bool,
    /// Their names: those of `id2label`, else `LABEL_0` and so on.
    pub names: Vec<String>,
    /// Activation that the cross-encoder's configuration names.
    pub activation: Option<String>,
}

impl Architecture {
    /// Reads the `config.json` of a transformer.
    ///
    /// # Errors
    /// [`LoadError::Config`] for a family, activation or kind of position that is not supported, or a missing entry.
    pub fn read(path: &Path) -> Result<Self, LoadError> {
        let map = read_json(path)?;
        Self::from_entries(&Entries { path, map: &map })
    }

    pub(crate) fn from_entries(config: &Entries<'_>) -> Result<Self, LoadError> {
        let model_type = config.text("model_type")?.unwrap_or("none");
        let family = match model_type {
            "bert" => Family::Bert,
            "roberta" | "xlm-roberta" | "camembert" => Family::Roberta,
            "distilbert" => Family::DistilBert,
            "mpnet" => Family::Mpnet,
            other => {
                let foreign = MODEL_TYPES.join(", ");
                return Err(config.refuse(format!(
                    "model_type is `{other}`; supported are bert, roberta, xlm-roberta, camembert, distilbert and mpnet, \
                     and for inference only {foreign}"
                )));
            }
        };
        if let Some(kind) = config
            .text("position_embedding_type")?
            .filter(|&kind| kind != "absolute")
        {
            return Err(config.refuse(format!(
                "position_embedding_type is `{kind}`; supported is absolute"
            )));
        }
        if config.get("is_decoder") == Some(&Value::Bool(true)) {
            return Err(config.refuse("is_decoder is true; supported are encoders".into()));
        }
        // DistilBERT has names of its own; everybody else has BERT's.
        let distil = family == Family::DistilBert;
        let name =
            |bert: &'static str, distilbert: &'static str| if distil { distilbert } else { bert };
        let padding_id = match family {
            Family::Roberta => Some(config.count("pad_token_id")?.unwrap_or(1) as u32),
            Family::Mpnet => Some(1), // transformers does not ask config.json
            Family::Bert | Family::DistilBert => None,
        };
        let architecture = Self {
            family,
            n_vocabulary: config.need("vocab_size")?,
            width: config.need(name("hidden_size", "dim"))?,
            n_layers: config.need(name("num_hidden_layers", "n_layers"))?,
            n_heads: config.need(name("num_attention_heads", "n_heads"))?,
            n_intermediate: config.need(name("intermediate_size", "hidden_dim"))?,
            n_positions: config.need("max_position_embeddings")?,
            n_types: match family {
                Family::Bert | Family::Roberta => config.count("type_vocab_size")?.unwrap_or(2),
                Family::DistilBert | Family::Mpnet => 0,
            },
            first_position: padding_id.map_or(0, |id| id as usize + 1),
            padding_id,
            n_buckets: match family {
                Family::Mpnet => config
                    .count("relative_attention_num_buckets")?
                    .unwrap_or(32),
                _ => 0,
            },
            epsilon: if distil {
                1e-12
            } else {
                config.number("layer_norm_eps")?.unwrap_or(1e-12)
            },
            activation: Activation::read(config, name("hidden_act", "activation"), "gelu")?,
            labels: Labels::read(config)?,
        };
        architecture.check(config)?;
        Ok(architecture)
    }

    /// Refuses sizes that no checkpoint has, before anything is computed with them.
    fn check(&self, config: &Entries<'_>) -> Result<(), LoadError> {
        let sizes = [
            ("vocab_size", self.n_vocabulary),
            ("hidden_size", self.width),
            ("num_hidden_layers", self.n_layers),
            ("num_attention_heads", self.n_heads),
            ("intermediate_size", self.n_intermediate),
            ("max_position_embeddings", self.n_positions),
        ];
        for (name, size) in sizes {
            config.check_size(name, size)?;
        }
        for (name, size) in [
            ("type_vocab_size", self.n_types),
            ("buckets", self.n_buckets),
        ] {
            if size > MOST {
                return Err(config.refuse(format!("{name} is {size}; supported are up to {MOST}")));
            }
        }
        if !self.width.is_multiple_of(self.n_heads) {
            return Err(config.refuse(format!(
                "hidden_size {} is no multiple of num_attention_heads {}",
                self.width, self.n_heads
            )));
        }
        if self.family == Family::Mpnet && self.n_buckets < 4 {
            return Err(config.refuse(format!(
                "relative_attention_num_buckets is {}",
                self.n_buckets
            )));
        }
        if self.max_tokens() == 0 {
            return Err(config.refuse(format!(
                "max_position_embeddings {} leaves no position after padding id {:?}",
                self.n_positions, self.padding_id
            )));
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(config.refuse(format!("layer_norm_eps is {}", self.epsilon)));
        }
        Ok(())
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            width: self.width,
            n_vocabulary: self.n_vocabulary,
            n_types: self.n_types,
            max_tokens: self.max_tokens(),
        }
    }

    /// Tokens that the position table has room for.
    pub fn max_tokens(&self) -> usize {
        self.n_positions.saturating_sub(self.first_position)
    }

    /// The position of each token, as the reference implementation counts them.
    pub fn positions(&self, ids: &[u32]) -> Vec<u32> {
        let Some(padding_id) = self.padding_id else {
            return (0..ids.len() as u32).collect();
        };
        // A literal padding token inside a text has the position of padding and is not counted.
        let mut position = padding_id;
        let next = |&id: &u32| {
            if id == padding_id {
                return padding_id;
            }
            position += 1;
            position
        };
        ids.iter().map(next).collect()
    }

    /// The entries that change the output, for the fingerprint.
    pub(crate) fn describe(&self) -> Value {
        json!({
            "family": format!("{:?}", self.family).to_lowercase(),
            "vocabulary": self.n_vocabulary,
            "width": self.width,
            "layers": self.n_layers,
            "heads": self.n_heads,
            "intermediate": self.n_intermediate,
            "positions": self.n_positions,
            "types": self.n_types,
            "first_position": self.first_position,
            "buckets": self.n_buckets,
            "epsilon": format!("{:e}", self.epsilon),
            "activation": format!("{:?}", self.activation).to_lowercase(),
        })
    }
}

impl Labels {
    pub(crate) fn read(config: &Entries<'_>) -> Result<Self, LoadError> {
        let names = config.get("architectures").and_then(Value::as_array);
        let mut names = names.into_iter().flatten().filter_map(Value::as_str);
        let stored = config.get("id2label").and_then(Value::as_object);
        let n = match stored {
            Some(labels) => labels.len(),
            None => config.count("num_labels")?.unwrap_or(2),
        };
        if n > MOST_LABELS {
            return Err(config.refuse(format!("{n} labels; supported are up to {MOST_LABELS}")));
        }
        let name = |id: usize| {
            let stored = stored.and_then(|labels| labels.get(&id.to_string()));
            let stored = stored.and_then(Value::as_str).map(str::to_owned);
            stored.unwrap_or_else(|| format!("LABEL_{id}"))
        };
        Ok(Self {
            n,
            names: (0..n).map(name).collect(),
            has_classifier: names.any(|name| name.ends_with("ForSequenceClassification")),
            activation: config
                .get("sentence_transformers")
                .and_then(|entry| entry.get("activation_fn"))
                .or_else(|| config.get("sbert_ce_default_activation_function"))
                .and_then(Value::as_str)
                .map(str::to_owned),
        })
    }
}

/// Largest size that is believed.
const MOST: usize = 1 << 24;

/// Most labels of a head for classification; each has a name.
const MOST_LABELS: usize = 1 << 16;

/// The entries of one configuration file, with its path for the errors.
pub(crate) struct Entries<'a> {
    pub(crate) path: &'a Path,
    pub(crate) map: &'a Map<String, Value>,
}

impl Entries<'_> {
    pub(crate) fn refuse(&self, reason: String) -> LoadError {
        LoadError::Config {
            path: self.path.to_path_buf(),
            reason,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn count(&self, name: &str) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Ok(Some(count as usize)),
            None => Err(self.refuse(format!("{name} is {value}, not a count"))),
        }
    }

    fn need(&self, name: &str) -> Result<usize, LoadError> {
        self.count(name)?
            .ok_or_else(|| self.refuse(format!("{name} is missing")))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .as_f64()
            .map(Some)
            .ok_or_else(|| self.refuse(format!("{name} is {value}, not a number")))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.refuse(format!("{name} is {value}, not a text")))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(false);
        };
        value
            .as_bool()
            .ok_or_else(|| self.refuse(format!("{name} is {value}, not true or false")))
    }

    /// Returns a size that a checkpoint can have.
    pub(crate) fn size(&self, name: &str) -> Result<usize, LoadError> {
        let size = self.need(name)?;
        self.check_size(name, size)?;
        Ok(size)
    }

    /// Returns `max_position_embeddings` where a table of angles is computed from it.
    pub(crate) fn positions(&self) -> Result<usize, LoadError> {
        const MOST_POSITIONS: usize = 1 << 20;
        let n_positions = self.size("max_position_embeddings")?;
        if n_positions > MOST_POSITIONS {
            return Err(self.refuse(format!(
                "max_position_embeddings is {n_positions}; supported are up to {MOST_POSITIONS}"
            )));
        }
        Ok(n_positions)
    }

    fn check_size(&self, name: &str, size: usize) -> Result<(), LoadError> {
        if size == 0 || size > MOST {
            return Err(self.refuse(format!("{name} is {size}; supported are 1 to {MOST}")));
        }
        Ok(())
    }

    /// Refuses any value but one, which is also what a missing entry means.
    pub(crate) fn expect_text(&self, name: &str, expected: &str) -> Result<(), LoadError> {
        match self.text(name)? {
            Some(found) if found != expected => {
                Err(self.refuse(format!("{name} is `{found}`; supported is {expected}")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses `true`.
    pub(crate) fn expect_false(&self, name: &str) -> Result<(), LoadError> {
        match self.flag(name)? {
            true => Err(self.refuse(format!("{name} is true, which is not supported"))),
            false => Ok(()),
        }
    }
}
