use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::dropout::Dropout;
use super::encoder::{Encoder, lengths, misfit};
use super::engine::Engine;
use super::error::TrainingError;
use super::layer::{first, mean};
use super::parameter::Parameters;
use super::t5::T5;
use crate::architecture::Entries;
use crate::directory::read_json;
use crate::error::LoadError;
use crate::options::Pooling;
use crate::t5::T5Architecture;
use crate::tokenizer::Tokens;

/// A transformer to be trained, of whatever family: texts to one vector each.
pub enum Backbone {
    /// The BERT family.
    Encoder(Box<Encoder>),
    /// T5's encoder, or both halves.
    T5(Box<T5>),
}

impl Backbone {
    /// Reads `config.json` and the weights of a model directory that `pooling` needs: T5's decoder for
    /// [`Pooling::Decoder`] alone. `prefix` goes before the name of each parameter.
    ///
    /// # Errors
    /// [`TrainingError::Load`], also for a pooling that is not trained.
    pub fn load_as(
        prefix: &str,
        folder: &Path,
        pooling: Pooling,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let path = folder.join("config.json");
        let map = read_json(&path)?;
        let config = Entries {
            path: &path,
            map: &map,
        };
        let is_t5 = T5Architecture::is_t5(&config)?;
        match (pooling, is_t5) {
            (Pooling::Cls | Pooling::Mean, _) | (Pooling::Decoder, true) => {}
            _ => {
                let trained = if is_t5 {
                    "cls, mean and decoder"
                } else {
                    "cls and mean"
                };
                let reason = format!("pooling is {}; trained are {trained}", pooling.as_str());
                return Err(LoadError::Config { path, reason }.into());
            }
        }
        Ok(match is_t5 {
            true => {
                let with_decoder = pooling == Pooling::Decoder;
                Self::T5(Box::new(T5::load_as(prefix, folder, with_decoder, engine)?))
            }
            false => Self::Encoder(Box::new(Encoder::load_as(prefix, folder, engine)?)),
        })
    }

    /// All parameters, with the checkpoint's names behind the prefix.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Self::Encoder(encoder) => encoder.parameters(),
            Self::T5(model) => model.parameters(),
        }
    }

    /// Values of a vector, H.
    pub fn width(&self) -> usize {
        match self {
            Self::Encoder(encoder) => encoder.architecture().width,
            Self::T5(model) => model.architecture().width,
        }
    }

    /// Rows of the token table.
    pub fn n_vocabulary(&self) -> usize {
        match self {
            Self::Encoder(encoder) => encoder.architecture().n_vocabulary,
            Self::T5(model) => model.architecture().n_vocabulary,
        }
    }

    /// Most tokens of a text.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Encoder(encoder) => encoder.architecture().max_tokens(),
            Self::T5(model) => model.architecture().limits().max_tokens,
        }
    }

    /// Returns one vector for each text, (B, H).
    ///
    /// # Errors
    /// [`TrainingError::Encode`] for a text that does not fit, [`TrainingError::Tensor`], also for a pooling that is not
    /// trained.
    pub fn pool(
        &self,
        texts: &[Tokens],
        pooling: Pooling,
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let lengths = lengths(texts);
        Ok(match (self, pooling) {
            (Self::Encoder(encoder), Pooling::Cls) => encoder.forward_first(texts, dropout)?,
            (Self::Encoder(encoder), Pooling::Mean) => encoder.forward_mean(texts, dropout)?,
            (Self::T5(model), Pooling::Cls) => first(&model.forward(texts, dropout)?, &lengths)?,
            (Self::T5(model), Pooling::Mean) => mean(&model.forward(texts, dropout)?, &lengths)?,
            (Self::T5(model), Pooling::Decoder) => model.forward_decoder(texts, dropout)?,
            _ => {
                return Err(misfit(format!(
                    "pooling {} is not trained",
                    pooling.as_str()
                )));
            }
        })
    }
}
