use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use encoder::Tokens;
use encoder::training::{Engine, Parameters, Stack, TrainingError, first};
use serde::{Deserialize, Serialize};

use super::model::{MaskedLm, tokens};
use super::{Masks, Method, StackStart, Terms};
use crate::masking::{Corrupted, MasterStreams};

/// MASTER.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MasterConfig {
    /// Layers of each decoder.
    pub n_head_layers: usize,
    /// With which weights the decoders begin.
    pub decoder_init: StackStart,
    /// Of weights that no checkpoint has.
    pub seed: u64,
}

impl Default for MasterConfig {
    /// The published code's, whose decoders keep what PyTorch's layers begin with.
    fn default() -> Self {
        Self {
            n_head_layers: 2,
            decoder_init: StackStart::Uniform,
            seed: 0,
        }
    }
}

/// A stream of every text.
type Stream = fn(&MasterStreams) -> &Corrupted;

/// MASTER, Zhou et al. 2022 (arXiv 2212.07841): one vector, five shallow decoders, each with a task of its own.
///
/// | encoder reads | decoder | fills in |
/// |---|---|---|
/// | the text | `c_head` | its keywords |
/// | the text | `query_head` | queries that a model asked of it |
/// | the text | `gpt_head` | a continuation by a model |
/// | its first half | `next_head` | keywords of the second half |
/// | the text, half hidden | `overlap_head` | the other half |
///
/// The loss is the sum of three encoder terms and five decoder terms, each a mean over hidden tokens, 0 without any.
pub struct Master {
    model: MaskedLm,
    heads: [Stack; 5],
    parameters: Parameters,
}

/// Names of the decoders as published checkpoints have them.
const HEADS: [&str; 5] = [
    "c_head",
    "query_head",
    "gpt_head",
    "next_head",
    "overlap_head",
];

impl Master {
    /// Loads the model and draws the decoders.
    ///
    /// # Errors
    /// [`TrainingError::Load`], [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &MasterConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let model = MaskedLm::load(folder, config.seed, engine)?;
        let mut heads = Vec::new();
        for (name, number) in HEADS.iter().zip(1..) {
            let seed = config.seed.wrapping_add(number);
            heads.push(model.decoder(name, config.n_head_layers, config.decoder_init, seed)?);
        }
        let mut parameters = Parameters::new();
        heads
            .iter()
            .for_each(|head| parameters.extend(head.parameters()));
        let heads = heads.try_into().map_err(|_| ()).expect("five names");
        Ok(Self {
            model,
            heads,
            parameters,
        })
    }

    /// Reads a stream with the encoder and adds its loss; the texts' vectors, (B, H).
    fn encode(
        &self,
        batch: &[MasterStreams],
        stream: Stream,
        (name, pass): (&'static str, u64),
        masks: &Masks<'_>,
        terms: &mut Terms,
    ) -> Result<Tensor, TrainingError> {
        let texts: Vec<Tokens> = batch.iter().map(|one| tokens(&stream(one).ids)).collect();
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        terms.n_tokens += lengths.iter().sum::<usize>();
        let hidden = self.model.encoder().forward(&texts, &masks.at(pass))?;
        let labels = batch.iter().flat_map(|one| &stream(one).labels);
        terms.add(name, 1.0, self.model.loss(&hidden, labels)?);
        Ok(first(&hidden, &lengths)?)
    }

    /// Fills in a stream behind the vectors and adds the loss.
    fn decode(
        &self,
        batch: &[MasterStreams],
        stream: Stream,
        (name, head): (&'static str, usize),
        vectors: &Tensor,
        (masks, terms): (&Masks<'_>, &mut Terms),
    ) -> Result<(), TrainingError> {
        let texts: Vec<Tokens> = batch.iter().map(|one| tokens(&stream(one).ids)).collect();
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        let dropout = masks.at(8 + head as u64);
        let hidden = self.model.behind_vectors(&texts, vectors, &dropout)?;
        let hidden = self.heads[head].forward(&hidden, &lengths, &dropout)?;
        let labels = batch.iter().flat_map(|one| &stream(one).labels);
        terms.add(name, 1.0, self.model.loss(&hidden, labels)?);
        Ok(())
    }
}

impl Method for Master {
    type Batch = Vec<MasterStreams>;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        &self.parameters
    }

    fn terms(&self, batch: &Vec<MasterStreams>, masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let mut terms = Terms::of(batch.len(), 0);
        let t = &mut terms;
        let text = self.encode(batch, |s| &s.text, ("encoder_loss", 0), masks, t)?;
        self.decode(
            batch,
            |s| &s.keywords,
            ("keyword_loss", 0),
            &text,
            (masks, t),
        )?;
        self.decode(batch, |s| &s.queries, ("query_loss", 1), &text, (masks, t))?;
        self.decode(
            batch,
            |s| &s.continuation,
            ("continuation_loss", 2),
            &text,
            (masks, t),
        )?;
        let half = self.encode(batch, |s| &s.first_half, ("half_encoder_loss", 1), masks, t)?;
        self.decode(
            batch,
            |s| &s.second_half,
            ("half_loss", 3),
            &half,
            (masks, t),
        )?;
        let seen = self.encode(batch, |s| &s.seen, ("seen_encoder_loss", 2), masks, t)?;
        self.decode(
            batch,
            |s| &s.unseen,
            ("complement_loss", 4),
            &seen,
            (masks, t),
        )?;
        Ok(terms)
    }
}
