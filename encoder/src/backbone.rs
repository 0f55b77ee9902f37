//! The transformer of a model directory, whoever computes it: the engine or candle-transformers.

use std::path::Path;
use std::sync::Arc;

use compute::Simd;
use serde_json::Value;

use crate::accelerated;
use crate::architecture::{Architecture, Entries, Labels};
use crate::batch;
use crate::checkpoint::{Checkpoint, first_line};
use crate::cross_encoder::HeadWeights;
use crate::directory::read_json;
use crate::error::{EncodeError, LoadError};
use crate::foreign::{Foreign, ForeignConfig};
use crate::network::{Network, Wanted};
use crate::options::{AcceleratorConfig, Arithmetic, EncoderConfig};
use crate::threads::Threads;
use crate::tokenizer::Tokens;
use crate::weights::Weights;

/// What a transformer takes and gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Values of a token's vector, H.
    pub(crate) width: usize,
    /// Rows of the token table.
    pub(crate) n_vocabulary: usize,
    /// Rows of the token type table, 0 without one.
    pub(crate) n_types: usize,
    /// Most tokens of a text.
    pub(crate) max_tokens: usize,
}

/// What `config.json` says about a transformer.
#[derive(Debug)]
pub(crate) enum BackboneConfig {
    Engine(Architecture),
    Foreign(ForeignConfig),
}

impl BackboneConfig {
    /// Reads the `config.json` of a transformer.
    ///
    /// # Errors
    /// [`LoadError::Config`] for what is not supported, naming it and what is.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let map = read_json(path)?;
        let config = Entries { path, map: &map };
        Ok(match ForeignConfig::read(&config)? {
            Some(foreign) => Self::Foreign(foreign),
            None => Self::Engine(Architecture::from_entries(&config)?),
        })
    }

    /// Adds a step of the decoder, whose vector stands for the text.
    pub(crate) fn decode(&mut self, path: &Path) -> Result<(), LoadError> {
        let decodes = match self {
            Self::Foreign(config) => config.decode(),
            Self::Engine(_) => false,
        };
        match decodes {
            true => Ok(()),
            false => Err(LoadError::Config {
                path: path.to_path_buf(),
                reason: "pooling is decoder; of the supported models T5 alone has one".into(),
            }),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        match self {
            Self::Engine(architecture) => architecture.limits(),
            Self::Foreign(config) => config.limits,
        }
    }

    /// What it says about a head for classification.
    pub(crate) fn labels(&self) -> &Labels {
        match self {
            Self::Engine(architecture) => &architecture.labels,
            Self::Foreign(config) => &config.labels,
        }
    }

    /// The entries that change the output, for the fingerprint.
    pub(crate) fn describe(&self) -> Value {
        match self {
            Self::Engine(architecture) => architecture.describe(),
            Self::Foreign(config) => config.describe(),
        }
    }

    /// The instructions to use, and `config` with an arithmetic that the transformer has.
    pub(crate) fn resolve(
        &self,
        path: &Path,
        config: &EncoderConfig,
    ) -> Result<(Simd, EncoderConfig), LoadError> {
        if let Some(accelerator) = &config.accelerator
            && accelerator.optional
            && (self.check_accelerated(path, accelerator).is_err()
                || config.arithmetic != Arithmetic::Auto
                    && accelerated::matrix_type(config.arithmetic).is_none())
        {
            let on_cpu = EncoderConfig {
                accelerator: None,
                ..config.clone()
            };
            return self.resolve(path, &on_cpu);
        }
        let requested = config.arithmetic;
        let (simd, mut config) = config.resolve();
        let refuse = |supported, place| LoadError::Arithmetic {
            path: path.to_path_buf(),
            requested: config.arithmetic.as_str(),
            supported,
            place,
        };
        match (self, &config.accelerator) {
            (_, Some(_)) if accelerated::matrix_type(config.arithmetic).is_none() => {
                return Err(refuse("f32, f16 and bf16", "on an accelerator"));
            }
            (_, Some(accelerator)) => self.check_accelerated(path, accelerator)?,
            (Self::Engine(_), None) if config.arithmetic == Arithmetic::F16 => {
                return Err(refuse("f32, fixed16, bf16x3, bf16 and int8", "on the CPU"));
            }
            (Self::Engine(_), None) => {}
            (Self::Foreign(_), None) => {
                if ![Arithmetic::Auto, Arithmetic::F32].contains(&requested) {
                    return Err(refuse("f32", "on the CPU"));
                }
                config.arithmetic = Arithmetic::F32;
            }
        }
        Ok((simd, config))
    }

    fn check_accelerated(
        &self,
        path: &Path,
        accelerator: &AcceleratorConfig,
    ) -> Result<(), LoadError> {
        let reason = match self {
            Self::Engine(architecture) => accelerated::unsupported(architecture),
            Self::Foreign(_) => Some(
                "accelerators run the models that are of model_type bert, roberta, xlm-roberta, camembert, distilbert or mpnet"
                    .to_owned(),
            ),
        };
        match reason {
            Some(reason) => Err(LoadError::NotAccelerated {
                path: path.to_path_buf(),
                device: accelerator.names(),
                reason,
            }),
            None => Ok(()),
        }
    }

    /// Loads the weights, which `checkpoint` then names relative to the bare model.
    pub(crate) fn load(
        &self,
        checkpoint: &mut Checkpoint,
        simd: Simd,
        arithmetic: Arithmetic,
    ) -> Result<Backbone, LoadError> {
        Ok(match self {
            Self::Engine(architecture) => {
                let weights = Weights::load(architecture, checkpoint)?;
                let network = Network::new(simd, arithmetic.format(), architecture, weights);
                Backbone::Engine(Box::new(network))
            }
            Self::Foreign(config) => {
                Backbone::Foreign(Box::new(Foreign::load(config, checkpoint)?))
            }
        })
    }
}

impl BackboneConfig {
    /// Loads the weights, and what `head` reads, to the accelerator of a config that [`Self::resolve`] returned.
    pub(crate) fn load_accelerated(
        &self,
        checkpoint: &mut Checkpoint,
        (accelerator, arithmetic): (&AcceleratorConfig, Arithmetic),
        head: impl FnOnce(&Checkpoint) -> Result<Option<HeadWeights>, LoadError>,
    ) -> Result<Box<accelerated::Networks>, LoadError> {
        let (Self::Engine(architecture), Some(of)) = (self, accelerated::matrix_type(arithmetic))
        else {
            unreachable!("other models and arithmetics are refused");
        };
        let weights = Weights::load(architecture, checkpoint)?;
        let head = head(checkpoint)?;
        let networks =
            accelerated::Networks::new(architecture, &weights, head.as_ref(), of, accelerator);
        networks.map(Box::new).map_err(LoadError::Accelerator)
    }
}

/// Calls both at once. A tokenizer takes about as long to read as half of a small model's weights.
pub(crate) fn load_beside<A: Send, B>(
    beside: impl FnOnce() -> A + Send,
    load: impl FnOnce() -> B,
) -> (A, B) {
    std::thread::scope(|scope| {
        let beside = scope.spawn(beside);
        let loaded = load();
        let beside = beside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (beside, loaded)
    })
}

/// A transformer with its weights.
pub(crate) enum Backbone {
    Engine(Box<Network>),
    Foreign(Box<Foreign>),
}

impl Backbone {
    /// The threads that compute; with one, the engine works on the caller's.
    pub(crate) fn threads(&self, n_threads: usize) -> Result<Option<Arc<Threads>>, LoadError> {
        // candle takes the threads of the pool it finds itself in, so it always needs one.
        let least = match self {
            Self::Engine(_) => 2,
            Self::Foreign(_) => 1,
        };
        Threads::shared(n_threads, least)
    }

    /// Hands the last layer's token vectors of each group of texts, one text after the other, to `finish`, which makes a
    /// row of `n_out(text)` values of each text: (tokens, H), or (texts, H) where only those of first tokens are `wanted`.
    /// Rows are returned in the order of `texts`.
    pub(crate) fn for_groups(
        &self,
        threads: Option<&Threads>,
        texts: &[Tokens],
        (batch_tokens, n_out): (usize, impl Fn(&Tokens) -> usize),
        wanted: Wanted,
        finish: impl Fn(&[&Tokens], &[f32]) -> Vec<f32> + Sync,
    ) -> Result<Vec<f32>, EncodeError> {
        match self {
            Self::Engine(network) => Ok(batch::for_groups(
                threads,
                texts,
                batch_tokens,
                n_out,
                |group, workspace| finish(group, network.forward(group, wanted, workspace)),
            )),
            Self::Foreign(model) => batch::for_texts(threads, texts, |row, text| {
                let hidden = model.forward(text, wanted);
                let hidden = hidden.map_err(|error| EncodeError::Model {
                    row,
                    reason: first_line(&error),
                })?;
                Ok(finish(&[text], &hidden))
            }),
        }
    }
}
