use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use compute::Simd;
use rayon::ThreadPool;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::architecture::{Architecture, Family};
use crate::batch;
use crate::bi_encoder::{check_max_tokens, check_vocabulary, name_of};
use crate::checkpoint::Checkpoint;
use crate::directory::{OutputActivation, read_json};
use crate::error::{EncodeError, LoadError};
use crate::fingerprint::Fingerprint;
use crate::kernel::{Format, Rows};
use crate::network::{Network, PackedLinear, Wanted, Workspace};
use crate::options::EncoderConfig;
use crate::tokenizer::{Text, TextTokenizer, Tokens};
use crate::weights::{Linear, Weights};

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
    architecture: Architecture,
    tokenizer: TextTokenizer,
    network: Network,
    head: Head,
    activation: OutputActivation,
    max_tokens: usize,
    simd: Simd,
    weights: String,
    pool: Option<ThreadPool>,
    /// Calls that are being computed.
    n_running: AtomicUsize,
}

/// From the first token's vector to the labels: a layer with an activation, and the classifier.
struct Head {
    hidden: PackedLinear,
    hidden_activation: OutputActivation,
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
        let architecture = Architecture::read(&config_path)?;
        if !architecture.has_classifier {
            let reason = "architectures names no model for sequence classification, so this is no cross-encoder";
            return Err(LoadError::Config {
                path: config_path,
                reason: reason.into(),
            });
        }
        if architecture.n_labels == 0 {
            return Err(LoadError::Config {
                path: config_path,
                reason: "id2label is empty".into(),
            });
        }
        let tokenizer = TextTokenizer::load(path, false)?;
        check_vocabulary(&config_path, &architecture, &tokenizer)?;
        let stored = tokenizer
            .max_tokens
            .unwrap_or(usize::MAX)
            .min(architecture.max_tokens());
        let max_tokens = check_max_tokens(
            "pair",
            max_tokens.unwrap_or(stored),
            &architecture,
            &tokenizer,
        )?;
        let activation = read_activation(path, config_path, &architecture)?;

        let mut checkpoint = Checkpoint::open(path)?;
        let weights = Weights::load(&architecture, &mut checkpoint)?;
        let (simd, config) = config.resolve();
        let head = Head::load(simd, &architecture, &checkpoint)?;
        Ok(Self {
            name: name_of(path),
            pool: batch::start_threads(config.threads)?,
            n_running: AtomicUsize::new(0),
            network: Network::new(simd, config.arithmetic.format(), &architecture, weights),
            config,
            weights: checkpoint.digest(),
            architecture,
            tokenizer,
            head,
            activation,
            max_tokens,
            simd,
        })
    }

    /// Name of the model directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Most tokens of a pair, special tokens included.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Values of each pair.
    pub fn n_labels(&self) -> usize {
        self.architecture.n_labels
    }

    /// How it is run.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The shape of its transformer.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
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
        match &self.pool {
            Some(pool) if pairs.len() > 1 => pool.install(|| {
                pairs
                    .par_iter()
                    .enumerate()
                    .with_min_len(8)
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
        batch::check(&self.architecture, pairs)?;
        let n_labels = self.architecture.n_labels;
        let compute =
            |group: &[&Tokens], workspace: &mut Workspace| self.score_group(group, workspace);
        let logits = batch::for_groups(
            (self.pool.as_ref(), &self.n_running),
            pairs,
            self.config.batch_tokens,
            n_labels,
            compute,
        );
        batch::check_finite(&logits, n_labels)?;
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

    fn score_group(&self, group: &[&Tokens], workspace: &mut Workspace) -> Vec<f32> {
        let first_tokens = self.network.forward(group, Wanted::FirstTokens, workspace); // (pairs, H)
        let mut inner = vec![0.0; group.len() * self.head.hidden.n_out()];
        self.head.hidden.apply(
            self.simd,
            first_tokens,
            (&mut Rows::default(), None),
            &mut inner,
        ); // (pairs, H)
        self.head.hidden_activation.apply(self.simd, &mut inner);
        let mut logits = vec![0.0; group.len() * self.head.classifier.n_out()];
        self.head
            .classifier
            .apply(self.simd, &inner, (&mut Rows::default(), None), &mut logits); // (pairs, labels)
        logits
    }

    /// What the scores of this model depend on; its space is that of scores, not of vectors.
    pub fn fingerprint(&self) -> Fingerprint {
        let pair = json!({ "max_tokens": self.max_tokens });
        Fingerprint {
            version: Fingerprint::VERSION,
            space: json!({
                "architecture": self.architecture.describe(),
                "weights": self.weights,
                "tokenizer": self.tokenizer.digest,
                "labels": self.architecture.n_labels,
                "activation": format!("{:?}", self.activation).to_lowercase(),
            }),
            passage: pair.clone(),
            query: pair,
        }
    }
}

impl Head {
    /// BERT pools before its dropout and classifier; the other families keep both layers in the head.
    fn load(
        simd: Simd,
        architecture: &Architecture,
        checkpoint: &Checkpoint,
    ) -> Result<Self, LoadError> {
        let (width, n_labels) = (architecture.width, architecture.n_labels);
        let head = |name: &str, n_out: usize| {
            let weight = checkpoint.head_tensor(&format!("{name}.weight"), &[n_out, width])?;
            let bias = Some(checkpoint.head_tensor(&format!("{name}.bias"), &[n_out])?);
            Ok(PackedLinear::new(
                simd,
                Format::F32,
                &Linear {
                    weight,
                    bias,
                    n_in: width,
                    n_out,
                },
            ))
        };
        let (hidden, hidden_activation, classifier) = match architecture.family {
            Family::Bert => ("bert.pooler.dense", OutputActivation::Tanh, "classifier"),
            Family::Roberta | Family::Mpnet => (
                "classifier.dense",
                OutputActivation::Tanh,
                "classifier.out_proj",
            ),
            Family::DistilBert => ("pre_classifier", OutputActivation::Relu, "classifier"),
        };
        Ok(Self {
            hidden: head(hidden, width)?,
            hidden_activation,
            classifier: head(classifier, n_labels)?,
        })
    }
}

/// The activation that the directory names, else sigmoid for one label and none for more.
fn read_activation(
    path: &Path,
    config_path: PathBuf,
    architecture: &Architecture,
) -> Result<OutputActivation, LoadError> {
    let (path, class) = match &architecture.score_activation {
        Some(class) => (config_path, Some(class.clone())),
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
        None if architecture.n_labels == 1 => Ok(OutputActivation::Sigmoid),
        None => Ok(OutputActivation::Identity),
    }
}
