use std::path::Path;
use std::sync::Arc;

use encoder::Tokens;
use encoder::training::{Engine, Parameters, Stack, TrainingError, first};
use serde::{Deserialize, Serialize};

use super::model::{MaskedLm, tokens};
use super::{Masks, Method, StackStart, Terms};

/// SimLM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimLmConfig {
    /// Layers of the decoder, which begin as the encoder's last.
    pub n_decoder_layers: usize,
    /// Of weights that no checkpoint has.
    pub seed: u64,
}

impl Default for SimLmConfig {
    /// The published script's.
    fn default() -> Self {
        Self {
            n_decoder_layers: 2,
            seed: 0,
        }
    }
}

/// A text some of whose tokens a generator has replaced, anew for encoder and decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedText {
    /// What the encoder reads.
    pub encoder: Vec<u32>,
    /// Its token types: 0 up to the end of a title, 1 behind it; the decoder has none.
    pub types: Vec<u32>,
    /// What the decoder reads.
    pub decoder: Vec<u32>,
    /// The tokens that were there; none in the place of special ones.
    pub labels: Vec<Option<u32>>,
}

/// Replaced language modelling, SimLM, Wang et al. 2022 (arXiv 2207.02578).
///
/// A generator puts likely tokens in the place of hidden ones, for the encoder and, where more are hidden, for the decoder.
/// Both are to say what stood there, at replaced and at all other ordinary tokens: `L = CE(E(x_e), x) + CE(D(c, x_d), x)`.
/// The generator is not trained here.
pub struct SimLm {
    model: MaskedLm,
    decoder: Stack,
}

impl SimLm {
    /// Loads the model and copies the decoder's layers.
    ///
    /// # Errors
    /// [`TrainingError::Load`], [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &SimLmConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let model = MaskedLm::load(folder, config.seed, engine)?;
        let decoder = model.decoder("decoder", config.n_decoder_layers, StackStart::Last, 0)?;
        Ok(Self { model, decoder })
    }
}

impl Method for SimLm {
    type Batch = Vec<ReplacedText>;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        self.decoder.parameters()
    }

    fn terms(&self, batch: &Vec<ReplacedText>, masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let model = &self.model;
        let read = |text: &ReplacedText| Tokens {
            ids: text.encoder.clone(),
            type_ids: text.types.clone(),
            ..Tokens::default()
        };
        let texts: Vec<Tokens> = batch.iter().map(read).collect();
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        let mut terms = Terms::of(texts.len(), lengths.iter().sum());
        let labels = || batch.iter().flat_map(|text| &text.labels);

        let hidden = model.encoder().forward(&texts, &masks.at(0))?;
        terms.add("encoder_loss", 1.0, model.loss(&hidden, labels())?);

        let vectors = first(&hidden, &lengths)?;
        let texts: Vec<Tokens> = batch.iter().map(|text| tokens(&text.decoder)).collect();
        let hidden = model.behind_vectors(&texts, &vectors, &masks.at(8))?;
        let hidden = self.decoder.forward(&hidden, &lengths, &masks.at(8))?;
        terms.add("decoder_loss", 1.0, model.loss(&hidden, labels())?);
        Ok(terms)
    }
}
