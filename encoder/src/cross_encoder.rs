use std::path::Path;
use std::sync::Arc;

use compute::Simd;
use compute::accelerator::DeviceInfo;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::accelerated;
use crate::architecture::{Family, Labels};
use crate::backbone::{Backbone, BackboneConfig, load_beside};
use crate::batch;
use crate::bi_encoder::{check_max_tokens, check_vocabulary, name_of};
use crate::checkpoint::Checkpoint;
use crate::directory::{OutputActivation, PairConfig, read_json};
use crate::error::{EncodeError, LoadError};
use crate::fingerprint::Fingerprint;
use crate::kernel::{self, Format, Rows};
use crate::network::{PackedLinear, Wanted};
use crate::options::{EncoderConfig, Pooling};
use crate::rank_prior::RankPrior;
use crate::threads::{TEXTS_AT_ONCE, Threads};
use crate::tokenizer::{Side, Text, TextTokenizer, Tokens};
use crate::weights::{Linear, Norm};

/// Scores of pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scores {
    /// Values of each pair.
    pub n_labels: usize,
    /// One row per pair in the order of the input, after the model's activation.
    pub values: Vec<f32>,
    /// The same before the activation.
    pub logits: Vec<f32>,
    /// Tokens that were read.
    pub n_tokens: usize,
    /// Pairs of which tokens were cut off.
    pub n_truncated: usize,
}

/// A model that reads a query and a passage together and scores the pair.
pub struct CrossEncoder {
    name: String,
    config: EncoderConfig,
    backbone_config: BackboneConfig,
    tokenizer: TextTokenizer,
    engine: Engine,
    activation: OutputActivation,
    rank_prior: RankPrior,
    max_tokens: usize,
    simd: Simd,
    weights: String,
    threads: Option<Arc<Threads>>,
}

/// Who computes logits.
enum Engine {
    Host { backbone: Backbone, head: Box<Head> },
    Accelerated(Box<accelerated::Networks>),
}

/// From token vectors to the labels: the first one or their mean, a layer with an activation, and the classifier.
pub(crate) struct HeadWeights {
    pooling: Pooling,
    pub(crate) hidden: Linear,
    pub(crate) hidden_activation: OutputActivation,
    /// Before the classifier, with the number added to the variance.
    norm: Option<(Norm, f32)>,
    pub(crate) classifier: Linear,
}

/// The same with packed weights.
struct Head {
    pooling: Pooling,
    hidden: PackedLinear,
    hidden_activation: OutputActivation,
    norm: Option<(Norm, f32)>,
    classifier: PackedLinear,
}

impl CrossEncoder {
    /// Loads a `…ForSequenceClassification` directory, plain or saved by sentence-transformers.
    ///
    /// `max_tokens` defaults to what the directory says.
    ///
    /// # Errors
    /// [`LoadError`], naming the file.
    pub fn load(
        path: &Path,
        max_tokens: Option<usize>,
        config: &EncoderConfig,
    ) -> Result<Self, LoadError> {
        if !path.is_dir() {
            return Err(LoadError::NoDirectory {
                path: path.to_path_buf(),
            });
        }
        let config_path = path.join("config.json");
        let backbone_config = BackboneConfig::read(&config_path)?;
        let (limits, labels) = (backbone_config.limits(), backbone_config.labels());
        let refuse = |reason: &str| LoadError::Config {
            path: config_path.clone(),
            reason: reason.into(),
        };
        if !labels.has_classifier {
            return Err(refuse(
                "architectures names no model for sequence classification, so this is no cross-encoder",
            ));
        }
        if labels.n == 0 {
            return Err(refuse("id2label is empty"));
        }
        let head_config = HeadConfig::new(&backbone_config).ok_or_else(|| {
            refuse("cross-encoders of this model_type are not supported, only bi-encoders")
        })?;
        let pairs = PairConfig::read(path)?;
        let (simd, config) = backbone_config.resolve(&config_path, config)?;
        let (tokenizer, loaded) = load_beside(
            || TextTokenizer::load(path, pairs.lower_case),
            || {
                let mut checkpoint = Checkpoint::open(path)?;
                let shape = (limits.width, labels.n);
                let head =
                    |checkpoint: &Checkpoint| HeadWeights::load(shape, &head_config, checkpoint);
                let engine = match &config.accelerator {
                    Some(accelerator) => Engine::Accelerated(backbone_config.load_accelerated(
                        &mut checkpoint,
                        (accelerator, config.arithmetic),
                        |checkpoint| head(checkpoint).map(Some),
                    )?),
                    None => Engine::Host {
                        backbone: backbone_config.load(&mut checkpoint, simd, config.arithmetic)?,
                        head: Box::new(Head::new(simd, head(&checkpoint)?)),
                    },
                };
                Ok((engine, checkpoint.digest()))
            },
        );
        let tokenizer = tokenizer?;
        check_vocabulary(&config_path, limits, &tokenizer)?;
        let stored = pairs
            .max_tokens
            .or(tokenizer.max_tokens)
            .unwrap_or(usize::MAX)
            .min(limits.max_tokens);
        let max_tokens =
            check_max_tokens("pair", max_tokens.unwrap_or(stored), limits, &tokenizer)?;
        let activation = read_activation(path, &config_path, labels)?;
        let is_raw = activation == OutputActivation::Identity;
        let rank_prior = RankPrior::read(&config_path, &read_json(&config_path)?, is_raw)?;
        let (engine, weights) = loaded?;
        Ok(Self {
            name: name_of(path),
            threads: match &engine {
                Engine::Host { backbone, .. } => backbone.threads(config.threads)?,
                Engine::Accelerated(_) => Threads::shared(config.threads, 2)?, // they tokenise
            },
            config,
            weights,
            backbone_config,
            tokenizer,
            engine,
            activation,
            rank_prior,
            max_tokens,
            simd,
        })
    }

    /// Whether a directory holds a `…ForSequenceClassification`, as its `config.json` says.
    ///
    /// # Errors
    /// [`LoadError`], naming the file.
    pub fn is_in(path: &Path) -> Result<bool, LoadError> {
        let config = BackboneConfig::read(&path.join("config.json"))?;
        Ok(config.labels().has_classifier)
    }

    /// Name of the model directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Most tokens of a pair, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// What the order of the first stage adds to the scores.
    pub fn rank_prior(&self) -> RankPrior {
        self.rank_prior
    }

    /// Values of each pair.
    pub fn n_labels(&self) -> usize {
        self.backbone_config.labels().n
    }

    /// How it is run.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The accelerators that compute, none where the CPU does.
    pub fn devices(&self) -> Vec<&DeviceInfo> {
        match &self.engine {
            Engine::Host { .. } => Vec::new(),
            Engine::Accelerated(networks) => networks.devices().collect(),
        }
    }

    /// Names of the values of each pair, as `id2label` has them.
    pub fn labels(&self) -> &[String] {
        &self.backbone_config.labels().names
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// Tokenises one text, or a pair that is cut in another way than [`Self::tokenize`] does: of its second text
    /// `max_second` tokens are kept, and what is still too long loses tokens at `side`.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`].
    pub fn tokenize_cut(
        &self,
        text: Text<'_>,
        max_second: Option<usize>,
        side: Option<Side>,
    ) -> Result<Tokens, EncodeError> {
        let tokens = match (text, max_second) {
            (Text::Pair(first, second), Some(most)) => {
                self.tokenizer
                    .encode_second_cut(first, second, most, self.max_tokens)
            }
            _ => self.tokenizer.encode_from("", text, self.max_tokens, side),
        };
        tokens.map_err(|error| EncodeError::Tokenize {
            row: 0,
            reason: error.to_string(),
        })
    }

    /// Tokenises (query, passage) pairs in parallel; too long a pair loses tokens of its longer text first.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`], naming the pair.
    pub fn tokenize(&self, pairs: &[(&str, &str)]) -> Result<Vec<Tokens>, EncodeError> {
        let encode = |(row, &(query, passage)): (usize, &(&str, &str))| {
            let tokens = self
                .tokenizer
                .encode("", Text::Pair(query, passage), self.max_tokens);
            tokens.map_err(|error| EncodeError::Tokenize {
                row,
                reason: error.to_string(),
            })
        };
        match &self.threads {
            Some(threads) if pairs.len() >= 2 * TEXTS_AT_ONCE => threads.pool.install(|| {
                pairs
                    .par_iter()
                    .enumerate()
                    .with_min_len(TEXTS_AT_ONCE)
                    .map(encode)
                    .collect()
            }),
            _ => pairs.iter().enumerate().map(encode).collect(),
        }
    }

    /// Scores tokenised pairs; rows are in the order of the input.
    ///
    /// # Errors
    /// [`EncodeError`], naming the row: no or too many tokens, ids outside the tables, a score that is not finite.
    pub fn score(&self, pairs: &[Tokens]) -> Result<Scores, EncodeError> {
        batch::check(self.backbone_config.limits(), pairs)?;
        let n_labels = self.n_labels();
        let logits = match &self.engine {
            Engine::Host { backbone, head } => backbone.for_groups(
                self.threads.as_deref(),
                pairs,
                (self.config.batch_tokens, |_| n_labels),
                match head.pooling {
                    Pooling::Cls => Wanted::FirstTokens,
                    _ => Wanted::AllTokens,
                },
                |group, hidden| head.apply(self.simd, group, hidden),
            )?,
            Engine::Accelerated(networks) => networks.encode(pairs, accelerated::Wanted::Logits)?,
        };
        batch::check_finite(&logits, std::iter::repeat(n_labels))?;
        let mut values = logits.clone();
        self.activation.apply(self.simd, &mut values);
        Ok(Scores {
            n_labels,
            values,
            logits,
            n_tokens: pairs.iter().map(Tokens::len).sum(),
            n_truncated: pairs.iter().filter(|pair| pair.truncated).count(),
        })
    }

    /// What the scores of this model depend on; its space is that of scores, not of vectors.
    pub fn fingerprint(&self) -> Fingerprint {
        let pair = json!({ "max_tokens": self.max_tokens });
        Fingerprint {
            version: Fingerprint::VERSION,
            space: json!({
                "architecture": self.backbone_config.describe(),
                "weights": self.weights,
                "tokenizer": self.tokenizer.digest,
                "labels": self.n_labels(),
                "activation": format!("{:?}", self.activation).to_lowercase(),
            }),
            passage: pair.clone(),
            query: pair,
        }
    }
}

/// Where the parts of a head are, and what is between them.
struct HeadConfig {
    pooling: Pooling,
    hidden: &'static str,
    hidden_has_bias: bool,
    hidden_activation: OutputActivation,
    /// A normalization without shift, and the number added to its variance.
    norm: Option<(&'static str, f64)>,
    classifier: &'static str,
}

impl HeadConfig {
    /// BERT pools before its dropout and classifier; the other families keep both layers in the head.
    fn new(config: &BackboneConfig) -> Option<Self> {
        let (hidden, hidden_activation, classifier) = match config {
            BackboneConfig::Engine(architecture) => match architecture.family {
                Family::Bert => ("bert.pooler.dense", OutputActivation::Tanh, "classifier"),
                Family::Roberta | Family::Mpnet => (
                    "classifier.dense",
                    OutputActivation::Tanh,
                    "classifier.out_proj",
                ),
                Family::DistilBert => ("pre_classifier", OutputActivation::Relu, "classifier"),
            },
            BackboneConfig::Foreign(config) => {
                return config.head().map(|head| Self {
                    pooling: head.pooling,
                    hidden: "head.dense",
                    hidden_has_bias: head.has_bias,
                    hidden_activation: OutputActivation::Gelu,
                    norm: Some(("head.norm", head.epsilon)),
                    classifier: "classifier",
                });
            }
        };
        Some(Self {
            pooling: Pooling::Cls,
            hidden,
            hidden_has_bias: true,
            hidden_activation,
            norm: None,
            classifier,
        })
    }
}

impl HeadWeights {
    fn load(
        (width, n_labels): (usize, usize),
        config: &HeadConfig,
        checkpoint: &Checkpoint,
    ) -> Result<Self, LoadError> {
        let layer = |name: &str, n_out: usize, has_bias: bool| -> Result<_, LoadError> {
            let bias = format!("{name}.bias");
            Ok(Linear {
                weight: checkpoint.head_tensor(&format!("{name}.weight"), &[n_out, width])?,
                bias: has_bias
                    .then(|| checkpoint.head_tensor(&bias, &[n_out]))
                    .transpose()?,
                n_in: width,
                n_out,
            })
        };
        let norm = |(name, epsilon): (&str, f64)| -> Result<_, LoadError> {
            let norm = Norm {
                weight: checkpoint.head_tensor(&format!("{name}.weight"), &[width])?,
                bias: vec![0.0; width],
            };
            Ok((norm, epsilon as f32))
        };
        Ok(Self {
            pooling: config.pooling,
            hidden: layer(config.hidden, width, config.hidden_has_bias)?,
            hidden_activation: config.hidden_activation,
            norm: config.norm.map(norm).transpose()?,
            classifier: layer(config.classifier, n_labels, true)?,
        })
    }
}

impl Head {
    fn new(simd: Simd, weights: HeadWeights) -> Self {
        let pack = |linear: &Linear| PackedLinear::new(simd, Format::F32, linear);
        Self {
            pooling: weights.pooling,
            hidden: pack(&weights.hidden),
            hidden_activation: weights.hidden_activation,
            norm: weights.norm,
            classifier: pack(&weights.classifier),
        }
    }

    /// Computes the logits of a group of pairs from the vectors of their first tokens, or all tokens' where those are pooled.
    fn apply(&self, simd: Simd, group: &[&Tokens], hidden: &[f32]) -> Vec<f32> {
        let (width, mut rows) = (self.hidden.n_out(), Rows::default());
        let mut pooled = vec![0.0; group.len() * width];
        if self.pooling == Pooling::Cls {
            pooled.copy_from_slice(hidden);
        } else {
            let mut start = 0;
            for (pair, pooled) in group.iter().zip(pooled.chunks_exact_mut(width)) {
                let tokens = &hidden[start * width..(start + pair.len()) * width];
                self.pooling.pool(simd, tokens, 0, pooled);
                start += pair.len();
            }
        }
        let mut inner = vec![0.0; pooled.len()];
        self.hidden
            .apply(simd, &pooled, (&mut rows, None), &mut inner); // (pairs, H)
        self.hidden_activation.apply(simd, &mut inner);
        if let Some((norm, epsilon)) = &self.norm {
            pooled.fill(0.0);
            kernel::add_layer_norm(
                simd,
                &mut inner,
                &pooled,
                &norm.weight,
                &norm.bias,
                *epsilon,
            );
        }
        let mut logits = vec![0.0; group.len() * self.classifier.n_out()];
        self.classifier
            .apply(simd, &inner, (&mut rows, None), &mut logits); // (pairs, labels)
        logits
    }
}

/// The activation that the directory names, else sigmoid for one label and none for more.
fn read_activation(
    path: &Path,
    config_path: &Path,
    labels: &Labels,
) -> Result<OutputActivation, LoadError> {
    let (path, class) = match &labels.activation {
        Some(class) => (config_path.to_path_buf(), Some(class.clone())),
        None => {
            let path = path.join("config_sentence_transformers.json");
            let config: Value = if path.exists() {
                read_json(&path)?
            } else {
                Value::Null
            };
            let class = config
                .get("activation_fn")
                .and_then(Value::as_str)
                .map(str::to_owned);
            (path, class)
        }
    };
    match class {
        Some(class) => OutputActivation::from_class(&class).ok_or_else(|| LoadError::Config {
            path,
            reason: format!("activation `{class}` is not supported"),
        }),
        None if labels.n == 1 => Ok(OutputActivation::Sigmoid),
        None => Ok(OutputActivation::Identity),
    }
}
