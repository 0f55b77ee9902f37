//! Architectures that candle-transformers computes, until they earn a place in the engine.
//!
//! Each text is computed alone, without padding: several of these architectures take no padding mask, and a vector does
//! not depend on the texts beside it.

mod decoder;

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result as CandleResult, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Activation, Init, VarBuilder};
use candle_transformers::models::{modernbert, qwen3, t5};
use serde_json::{Value, json};

use self::decoder::FirstStep;
use crate::architecture::{self, Entries, Labels};
use crate::backbone::Limits;
use crate::checkpoint::{Checkpoint, first_line};
use crate::error::LoadError;
use crate::network::Wanted;
use crate::options::Pooling;
use crate::t5::T5Architecture;
use crate::tokenizer::Tokens;

/// The values of `model_type` that are supported.
pub(crate) const MODEL_TYPES: [&str; 4] = ["t5", "mt5", "modernbert", "qwen3"];

/// Most values in candle's tables of rotary positions: 1 GiB each.
const MOST_ROTARY_VALUES: usize = 1 << 28;

/// What `config.json` says about an architecture of candle-transformers.
#[derive(Debug)]
pub(crate) struct ForeignConfig {
    pub(crate) limits: Limits,
    pub(crate) labels: Labels,
    family: FamilyConfig,
}

#[derive(Debug)]
enum FamilyConfig {
    /// Raffel et al. 2020 (arXiv 1910.10683): the encoder alone, or one step of the decoder behind it.
    T5(T5Architecture, Half),
    /// Warner et al. 2024 (arXiv 2412.13663).
    ModernBert(modernbert::Config, ModernBertHead),
    /// Zhang et al. 2025 (arXiv 2506.05176): a decoder, of which the last token is read.
    Qwen3(qwen3::Config),
}

/// How much of T5 is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Encoder,
    Both,
}

/// How ModernBERT classifies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModernBertHead {
    /// CLS or mean.
    pub(crate) pooling: Pooling,
    pub(crate) has_bias: bool,
    /// Added to the variance in the normalization.
    pub(crate) epsilon: f64,
}

impl ForeignConfig {
    /// Reads a `config.json`, or returns `None` when its architecture is none of these.
    pub(crate) fn read(config: &Entries<'_>) -> Result<Option<Self>, LoadError> {
        let model_type = config.text("model_type")?.unwrap_or_default();
        let (limits, family) = match model_type {
            _ if T5Architecture::is_t5(config)? => {
                let architecture = T5Architecture::from_entries(config)?;
                (
                    architecture.limits(),
                    FamilyConfig::T5(architecture, Half::Encoder),
                )
            }
            "modernbert" => read_modernbert(config)?,
            "qwen3" => read_qwen3(config)?,
            _ => return Ok(None),
        };
        Ok(Some(Self {
            limits,
            labels: Labels::read(config)?,
            family,
        }))
    }

    /// How a model for sequence classification goes on; `None` where that is not supported.
    pub(crate) fn head(&self) -> Option<ModernBertHead> {
        match &self.family {
            FamilyConfig::ModernBert(_, head) => Some(*head),
            FamilyConfig::T5(..) | FamilyConfig::Qwen3(_) => None,
        }
    }

    /// Adds a step of the decoder; returns whether there is such a thing.
    pub(crate) fn decode(&mut self) -> bool {
        match &mut self.family {
            FamilyConfig::T5(_, half) => {
                *half = Half::Both;
                true
            }
            FamilyConfig::ModernBert(..) | FamilyConfig::Qwen3(_) => false,
        }
    }

    /// The entries that change the output, for the fingerprint.
    pub(crate) fn describe(&self) -> Value {
        match &self.family {
            FamilyConfig::T5(architecture, half) => {
                let mut described = architecture.describe();
                if *half == Half::Both {
                    described["decoder_layers"] = Value::from(architecture.n_decoder_layers);
                }
                described
            }
            FamilyConfig::ModernBert(config, head) => json!({
                "family": "modernbert",
                "classifier_pooling": self.labels.has_classifier.then_some(head.pooling),
                "vocabulary": config.vocab_size,
                "width": config.hidden_size,
                "layers": config.num_hidden_layers,
                "heads": config.num_attention_heads,
                "intermediate": config.intermediate_size,
                "epsilon": format!("{:e}", config.layer_norm_eps),
                "global_every": config.global_attn_every_n_layers,
                "global_theta": config.global_rope_theta,
                "local_theta": config.local_rope_theta,
                "local_tokens": config.local_attention,
            }),
            FamilyConfig::Qwen3(config) => json!({
                "family": "qwen3",
                "vocabulary": config.vocab_size,
                "width": config.hidden_size,
                "layers": config.num_hidden_layers,
                "heads": config.num_attention_heads,
                "key_heads": config.num_key_value_heads,
                "head_width": config.head_dim,
                "intermediate": config.intermediate_size,
                "epsilon": format!("{:e}", config.rms_norm_eps),
                "theta": config.rope_theta,
            }),
        }
    }
}

/// The same shape with candle's names.
fn t5_config(a: &T5Architecture) -> t5::Config {
    t5::Config {
        vocab_size: a.n_vocabulary,
        d_model: a.width,
        d_kv: a.head_width,
        d_ff: a.n_intermediate,
        num_layers: a.n_layers,
        num_heads: a.n_heads,
        relative_attention_num_buckets: a.n_buckets,
        relative_attention_max_distance: a.max_distance,
        layer_norm_epsilon: a.epsilon,
        feed_forward_proj: t5::ActivationWithOptionalGating {
            gated: a.gated,
            activation: candle_activation(a.activation),
        },
        use_cache: false,
        ..t5::Config::default()
    }
}

fn candle_activation(activation: architecture::Activation) -> Activation {
    match activation {
        architecture::Activation::Gelu => Activation::Gelu,
        architecture::Activation::GeluTanh => Activation::NewGelu,
        architecture::Activation::Relu => Activation::Relu,
        architecture::Activation::Silu => Activation::Silu,
    }
}

fn read_modernbert(config: &Entries<'_>) -> Result<(Limits, FamilyConfig), LoadError> {
    config.expect_text("hidden_activation", "gelu")?;
    config.expect_text("classifier_activation", "gelu")?;
    for name in ["attention_bias", "mlp_bias", "norm_bias"] {
        config.expect_false(name)?;
    }
    refuse_scaling(config)?;
    let epsilon = match config.number("norm_eps")? {
        Some(epsilon) => epsilon,
        None => config.number("layer_norm_eps")?.unwrap_or(1e-5),
    };
    let modernbert = modernbert::Config {
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        num_hidden_layers: config.size("num_hidden_layers")?,
        num_attention_heads: config.size("num_attention_heads")?,
        intermediate_size: config.size("intermediate_size")?,
        max_position_embeddings: config.positions()?,
        layer_norm_eps: epsilon,
        pad_token_id: 0, // not used by the encoder
        global_attn_every_n_layers: match config.count("global_attn_every_n_layers")? {
            Some(every) => every,
            None => every_of_layer_types(config)?,
        },
        global_rope_theta: rope_theta(
            config,
            "global_rope_theta",
            Some("full_attention"),
            160_000.0,
        )?,
        local_attention: config.count("local_attention")?.unwrap_or(128),
        local_rope_theta: rope_theta(
            config,
            "local_rope_theta",
            Some("sliding_attention"),
            10_000.0,
        )?,
        classifier_config: None,
    };
    let (width, n_heads) = (modernbert.hidden_size, modernbert.num_attention_heads);
    if !width.is_multiple_of(2 * n_heads) || modernbert.global_attn_every_n_layers == 0 {
        return Err(config.refuse(format!(
            "{n_heads} attention heads of a hidden_size of {width}, and every {}th layer is global",
            modernbert.global_attn_every_n_layers
        )));
    }
    check_rotary(config, modernbert.max_position_embeddings, width / n_heads)?;
    let head = ModernBertHead {
        pooling: match config.text("classifier_pooling")?.unwrap_or("cls") {
            "cls" => Pooling::Cls,
            "mean" => Pooling::Mean,
            other => {
                return Err(config.refuse(format!(
                    "classifier_pooling is `{other}`; supported are cls and mean"
                )));
            }
        },
        has_bias: config.flag("classifier_bias")?,
        epsilon,
    };
    let limits = Limits {
        width,
        n_vocabulary: modernbert.vocab_size,
        n_types: 0,
        max_tokens: modernbert.max_position_embeddings,
    };
    Ok((limits, FamilyConfig::ModernBert(modernbert, head)))
}

/// The period of ModernBERT's layers, which later versions of transformers list one by one.
fn every_of_layer_types(config: &Entries<'_>) -> Result<usize, LoadError> {
    let Some(types) = config.get("layer_types").and_then(Value::as_array) else {
        return Ok(3);
    };
    let is_global = |kind: &Value| kind.as_str() == Some("full_attention");
    let every = types.iter().skip(1).position(is_global);
    let every = every.map_or(types.len().max(1), |index| index + 1);
    let regular = (types.iter().enumerate()).all(|(i, kind)| is_global(kind) == (i % every == 0));
    match regular {
        true => Ok(every),
        false => Err(config.refuse("layer_types is not periodic".into())),
    }
}

/// The base of rotary positions: an entry of its own, or in `rope_parameters`, for one kind of layer or all.
fn rope_theta(
    config: &Entries<'_>,
    name: &str,
    layers: Option<&str>,
    default: f64,
) -> Result<f64, LoadError> {
    let entry = config.number(name)?;
    let Some(parameters) = config.get("rope_parameters") else {
        return Ok(entry.unwrap_or(default));
    };
    let parameters = match layers {
        Some(layers) => parameters.get(layers),
        None => Some(parameters),
    };
    let parameters = parameters.and_then(Value::as_object);
    let Some(parameters) = parameters else {
        let layers = layers.unwrap_or("this model");
        return Err(config.refuse(format!("rope_parameters says nothing of {layers}")));
    };
    match parameters.get("rope_type").and_then(Value::as_str) {
        None | Some("default") => {}
        Some(other) => {
            return Err(config.refuse(format!("rope_type is `{other}`; supported is default")));
        }
    }
    match (entry, parameters.get("rope_theta")) {
        (Some(theta), _) => Ok(theta),
        (None, None) => Ok(default),
        (None, Some(theta)) => theta
            .as_f64()
            .ok_or_else(|| config.refuse(format!("rope_theta is {theta}; a number is expected"))),
    }
}

/// Refuses tables of rotary positions that would not fit into memory: candle makes them before it reads a weight.
fn check_rotary(
    config: &Entries<'_>,
    positions: usize,
    head_width: usize,
) -> Result<(), LoadError> {
    match positions.checked_mul(head_width) {
        Some(n_values) if n_values <= MOST_ROTARY_VALUES => Ok(()),
        _ => Err(config.refuse(format!(
            "{positions} positions of attention heads {head_width} wide; supported are {MOST_ROTARY_VALUES} values"
        ))),
    }
}

fn refuse_scaling(config: &Entries<'_>) -> Result<(), LoadError> {
    match config.get("rope_scaling") {
        Some(_) => Err(config.refuse("rope_scaling is not supported".into())),
        None => Ok(()),
    }
}

fn read_qwen3(config: &Entries<'_>) -> Result<(Limits, FamilyConfig), LoadError> {
    config.expect_text("hidden_act", "silu")?;
    config.expect_false("use_sliding_window")?;
    refuse_scaling(config)?;
    let n_heads = config.size("num_attention_heads")?;
    let qwen3 = qwen3::Config {
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        intermediate_size: config.size("intermediate_size")?,
        num_hidden_layers: config.size("num_hidden_layers")?,
        num_attention_heads: n_heads,
        head_dim: config.count("head_dim")?.unwrap_or(128),
        attention_bias: config.flag("attention_bias")?,
        num_key_value_heads: config.count("num_key_value_heads")?.unwrap_or(n_heads),
        max_position_embeddings: config.positions()?,
        sliding_window: None,
        max_window_layers: 0,
        tie_word_embeddings: true,
        rope_theta: rope_theta(config, "rope_theta", None, 10_000.0)?,
        rms_norm_eps: config.number("rms_norm_eps")?.unwrap_or(1e-6),
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    let (n_key_heads, head_width) = (qwen3.num_key_value_heads, qwen3.head_dim);
    if n_key_heads == 0
        || !n_heads.is_multiple_of(n_key_heads)
        || head_width == 0
        || !head_width.is_multiple_of(2)
    {
        return Err(config.refuse(format!(
            "{n_heads} attention heads of {head_width} values with {n_key_heads} key heads"
        )));
    }
    check_rotary(config, qwen3.max_position_embeddings, head_width)?;
    let limits = Limits {
        width: qwen3.hidden_size,
        n_vocabulary: qwen3.vocab_size,
        n_types: 0,
        max_tokens: qwen3.max_position_embeddings,
    };
    Ok((limits, FamilyConfig::Qwen3(qwen3)))
}

/// A transformer of candle-transformers with its weights.
pub(crate) enum Foreign {
    T5(t5::T5EncoderModel, Option<FirstStep>),
    ModernBert(modernbert::ModernBert),
    Qwen3(qwen3::Model),
}

impl Foreign {
    /// Loads the weights, by the names that candle-transformers asks for.
    pub(crate) fn load(
        config: &ForeignConfig,
        checkpoint: &mut Checkpoint,
    ) -> Result<Self, LoadError> {
        // What candle puts before each name, the tensor that is asked for whether the checkpoint has that too, and a
        // tensor that may be missing.
        let (prefix, probe, optional) = match config.family {
            FamilyConfig::T5(..) => ("", "shared.weight", ""),
            FamilyConfig::ModernBert(..) => (
                "model.",
                "embeddings.tok_embeddings.weight",
                "layers.0.attn_norm.weight",
            ),
            FamilyConfig::Qwen3(_) => ("model.", "embed_tokens.weight", ""),
        };
        checkpoint.set_prefix(prefix, probe);
        let path = checkpoint.path().to_path_buf();
        let shared = Mutex::new(Tensors {
            checkpoint,
            prefix,
            optional,
            failure: None,
        });
        let tensors = VarBuilder::from_backend(Box::new(Shared(&shared)), DType::F32, Device::Cpu);
        let loaded = match &config.family {
            FamilyConfig::T5(architecture, half) => {
                let step = (*half == Half::Both)
                    .then(|| FirstStep::load(architecture, &tensors))
                    .transpose();
                let encoder = t5::T5EncoderModel::load(tensors, &t5_config(architecture));
                encoder.and_then(|encoder| Ok(Self::T5(encoder, step?)))
            }
            FamilyConfig::ModernBert(config, _) => {
                modernbert::ModernBert::load(tensors, config).map(Self::ModernBert)
            }
            FamilyConfig::Qwen3(config) => qwen3::Model::new(config, tensors).map(Self::Qwen3),
        };
        let tensors = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (tensors.failure, loaded) {
            (Some(failure), _) => Err(failure),
            (None, Ok(model)) => Ok(model),
            (None, Err(error)) => Err(LoadError::Weights {
                path,
                reason: first_line(&error),
            }),
        }
    }

    /// Computes the last layer's token vectors of one text, (L, H), or that of its first token alone; of a decoder's step
    /// there is one in any case.
    pub(crate) fn forward(&self, text: &Tokens, wanted: Wanted) -> CandleResult<Vec<f32>> {
        let ids = Tensor::from_slice(&text.ids, (1, text.len()), &Device::Cpu)?;
        // T5 and Qwen3 take themselves mutably for a cache of decoding; a clone shares the weights.
        let hidden = match self {
            Self::T5(model, step) => {
                let hidden = model.clone().forward(&ids)?;
                match step {
                    Some(step) => step.forward(&hidden.squeeze(0)?)?.unsqueeze(0)?,
                    None => hidden,
                }
            }
            Self::ModernBert(model) => model.forward(&ids, &ids.ones_like()?)?,
            Self::Qwen3(model) => model.clone().forward(&ids, 0)?,
        }; // (1, L, H)
        let hidden = match wanted {
            Wanted::AllTokens => hidden,
            Wanted::FirstTokens => hidden.narrow(1, 0, 1)?,
        };
        hidden.flatten_all()?.to_vec1()
    }
}

/// A checkpoint that hands out tensors by candle's names.
struct Tensors<'a> {
    checkpoint: &'a mut Checkpoint,
    prefix: &'static str,
    optional: &'static str,
    /// Why the last tensor that was asked for in vain could not be read.
    failure: Option<LoadError>,
}

struct Shared<'a, 'b>(&'a Mutex<Tensors<'b>>);

impl SimpleBackend for Shared<'_, '_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        _: DType,
        device: &Device,
    ) -> CandleResult<Tensor> {
        let mut tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.strip_prefix(tensors.prefix).unwrap_or(name);
        match tensors.checkpoint.tensor(name, shape.dims()) {
            Ok(values) => Tensor::from_vec(values, shape, device),
            Err(error) => {
                let message = error.to_string();
                let expected =
                    matches!(error, LoadError::MissingTensor { .. }) && name == tensors.optional;
                if !expected {
                    tensors.failure = Some(error);
                }
                Err(candle_core::Error::Msg(message))
            }
        }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> CandleResult<Tensor> {
        Err(candle_core::Error::Msg(format!(
            "tensor `{name}` is asked for without a shape"
        )))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let tensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.strip_prefix(tensors.prefix).unwrap_or(name);
        tensors.checkpoint.contains(name)
    }
}
