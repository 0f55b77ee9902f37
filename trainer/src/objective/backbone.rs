//! A checkpoint to be trained.

use std::path::Path;
use std::sync::Arc;

use encoder::training::{Dropout, Encoder, Engine, TrainingError};
use encoder::{Architecture, Family, LoadError};
use serde_json::{Map, Value};

use super::{Step, passes};

/// A transformer with its `config.json`.
pub(super) struct Backbone {
    pub(super) encoder: Encoder,
    config: Map<String, Value>,
}

/// Probabilities to drop an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    hidden: f32,
    attention: f32,
    /// Before a classifier.
    pub(super) classifier: f32,
}

impl Rates {
    pub(super) fn all(p: f32) -> Self {
        Self {
            hidden: p,
            attention: p,
            classifier: p,
        }
    }

    /// The masks of one pass through an encoder: see [`passes::number`].
    pub(super) fn at(&self, step: &Step, stream: u64, part: usize) -> Dropout {
        Dropout {
            hidden: self.hidden,
            attention: self.attention,
            seed: step.seed,
            step: passes::number(step, stream, part),
        }
    }
}

impl Backbone {
    /// Reads a checkpoint; each parameter's name begins with `prefix`.
    pub(super) fn load(
        folder: &Path,
        prefix: &str,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        Ok(Self {
            encoder: Encoder::load_as(prefix, folder, engine)?,
            config: read_config(folder)?,
        })
    }

    /// The family of a folder's checkpoint.
    pub(super) fn family_of(folder: &Path) -> Result<Family, LoadError> {
        Ok(Architecture::read(&folder.join("config.json"))?.family)
    }

    fn family(&self) -> Family {
        self.encoder.architecture().family
    }

    /// The rates of `config.json`, by the names of the family.
    pub(super) fn rates(&self) -> Rates {
        let rate = |name: &str| {
            self.config
                .get(name)
                .and_then(Value::as_f64)
                .map(|p| p as f32)
        };
        match self.family() {
            Family::DistilBert => Rates {
                hidden: rate("dropout").unwrap_or(0.1),
                attention: rate("attention_dropout").unwrap_or(0.1),
                classifier: rate("seq_classif_dropout").unwrap_or(0.2),
            },
            family => {
                let hidden = rate("hidden_dropout_prob").unwrap_or(0.1);
                let classifier = match family {
                    Family::Mpnet => None, // its head has none of its own
                    _ => rate("classifier_dropout"),
                };
                Rates {
                    hidden,
                    attention: rate("attention_probs_dropout_prob").unwrap_or(0.1),
                    classifier: classifier.unwrap_or(hidden),
                }
            }
        }
    }
}

/// The entries of a folder's `config.json`.
fn read_config(folder: &Path) -> Result<Map<String, Value>, LoadError> {
    let path = folder.join("config.json");
    let bytes = std::fs::read(&path).map_err(|source| LoadError::Read {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| LoadError::Json { path, source })
}
