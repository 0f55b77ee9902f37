//! How much a model drops.

use std::path::Path;

use encoder::LoadError;
use encoder::training::{Dropout, First};
use serde_json::{Map, Value};

use super::{Step, passes};
use crate::json::read_json;

/// Probabilities to drop an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    hidden: f32,
    attention: f32,
    /// Before a classifier.
    pub(super) classifier: f32,
}

impl Rates {
    pub(super) const NONE: Self = Self {
        hidden: 0.0,
        attention: 0.0,
        classifier: 0.0,
    };

    pub(super) fn all(p: f32) -> Self {
        Self {
            hidden: p,
            attention: p,
            classifier: p,
        }
    }

    /// The rates of a folder's `config.json`, by the names of its family.
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let config: Map<String, Value> = read_json(&folder.join("config.json"))?;
        let rate = |name: &str| config.get(name).and_then(Value::as_f64).map(|p| p as f32);
        Ok(match config.get("model_type").and_then(Value::as_str) {
            Some("distilbert") => Self {
                hidden: rate("dropout").unwrap_or(0.1),
                attention: rate("attention_dropout").unwrap_or(0.1),
                classifier: rate("seq_classif_dropout").unwrap_or(0.2),
            },
            Some("t5" | "mt5") => Self::all(rate("dropout_rate").unwrap_or(0.1)),
            family => {
                let hidden = rate("hidden_dropout_prob").unwrap_or(0.1);
                let classifier = match family {
                    Some("mpnet") => None, // its head has none of its own
                    _ => rate("classifier_dropout"),
                };
                Self {
                    hidden,
                    attention: rate("attention_probs_dropout_prob").unwrap_or(0.1),
                    classifier: classifier.unwrap_or(hidden),
                }
            }
        })
    }

    /// The masks of one pass through an encoder, for texts behind others of their batch: see [`passes::number`].
    pub(super) fn at(&self, step: &Step, stream: u64, first: First) -> Dropout {
        Dropout {
            hidden: self.hidden,
            attention: self.attention,
            seed: step.seed,
            step: passes::number(step, stream),
            first,
        }
    }
}
