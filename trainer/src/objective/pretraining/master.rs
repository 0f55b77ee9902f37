use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use encoder::training::{Engine, Parameters, Stack, TrainingError};
use serde::{Deserialize, Serialize};

use super::model::{MaskedLm, decoder_seed, texts};
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

/// What a decoder fills in, the name of its loss, and its place in [`HEADS`].
type Decoded = (Stream, &'static str, usize);

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
///
/// Deviations from the paper, as in the published code: the neighbouring passage is the second half of the text; keywords are drawn by
/// 1 / count in the corpus, without the number of texts that have a word and without a logarithm, unless they are drawn by tf-idf
/// ([`crate::masking::KeywordWeights`]). From the code: a step without a label in a stream adds 0, where the mean of none
/// was no number; keywords are drawn one by one, not in rounds of ten, with the same chances.
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
            let seed = decoder_seed(config.seed, number);
            let n_layers = ("n_head_layers", config.n_head_layers);
            heads.push(model.decoder(name, n_layers, config.decoder_init, seed)?);
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
        let read = self
            .model
            .read(&texts(batch.iter().map(stream)), &masks.at(pass))?;
        terms.n_tokens += read.n_tokens();
        let labels = batch.iter().flat_map(|one| &stream(one).labels);
        terms.add(name, 1.0, self.model.loss(&read.hidden, labels)?);
        masks.bottleneck(read.vectors()?)
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
        let (texts, dropout) = (texts(batch.iter().map(stream)), masks.at(8 + head as u64));
        let hidden = self
            .model
            .decode(&self.heads[head], &texts, vectors, &dropout)?;
        let labels = batch.iter().flat_map(|one| &stream(one).labels);
        terms.add(name, 1.0, self.model.loss(&hidden, labels)?);
        Ok(())
    }
}

impl Method for Master {
    type Example = MasterStreams;
    type Model = MaskedLm;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        &self.parameters
    }

    fn terms(&self, batch: &[MasterStreams], masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let mut terms = Terms::of(batch.len(), 0);
        // What the encoder reads, and what is filled in behind its vectors.
        let passes: [(Stream, &'static str, &[Decoded]); 3] = [
            (
                |s| &s.text,
                "encoder_loss",
                &[
                    (|s| &s.keywords, "keyword_loss", 0),
                    (|s| &s.queries, "query_loss", 1),
                    (|s| &s.continuation, "continuation_loss", 2),
                ],
            ),
            (
                |s| &s.first_half,
                "half_encoder_loss",
                &[(|s| &s.second_half, "half_loss", 3)],
            ),
            (
                |s| &s.seen,
                "seen_encoder_loss",
                &[(|s| &s.unseen, "complement_loss", 4)],
            ),
        ];
        for ((stream, name, decoded), pass) in passes.into_iter().zip(0..) {
            let vectors = self.encode(batch, stream, (name, pass), masks, &mut terms)?;
            for &(stream, name, head) in decoded {
                self.decode(batch, stream, (name, head), &vectors, (masks, &mut terms))?;
            }
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MasterDraw;
    use super::super::tests::{drawn, master_lines, texts};
    use super::*;
    use crate::masking::{FrequencyDictionary, MasterMasks};
    use crate::objective::test_data::tiny;

    type Changed = fn(&mut MasterStreams) -> &mut Corrupted;

    #[test]
    fn a_stream_without_labels_takes_its_term_from_the_sum_and_no_other() {
        let method = tiny(|folder, engine| Master::load(folder, &MasterConfig::default(), engine));
        let draw = MasterDraw {
            masks: MasterMasks::default(),
            dictionary: FrequencyDictionary::default(),
        };
        let batch = drawn(&draw, &master_lines(&texts(3)));
        let terms = |batch: &[MasterStreams]| {
            let terms = method.terms(batch, &Masks::NONE).unwrap();
            let sum = f64::from(terms.sum().unwrap().to_scalar::<f32>().unwrap());
            (sum, terms.values().unwrap())
        };
        let (sum, mut whole) = terms(&batch);
        assert_eq!(whole.len(), 8);
        let streams: [(&str, Changed); 8] = [
            ("encoder_loss", |streams| &mut streams.text),
            ("half_encoder_loss", |streams| &mut streams.first_half),
            ("seen_encoder_loss", |streams| &mut streams.seen),
            ("keyword_loss", |streams| &mut streams.keywords),
            ("query_loss", |streams| &mut streams.queries),
            ("continuation_loss", |streams| &mut streams.continuation),
            ("half_loss", |streams| &mut streams.second_half),
            ("complement_loss", |streams| &mut streams.unseen),
        ];
        for (name, stream) in streams {
            let mut batch = batch.clone();
            for streams in &mut batch {
                stream(streams).labels.fill(None);
            }
            let (left, terms) = terms(&batch);
            let own = whole.insert(name, 0.0).expect("a term");
            assert_eq!(terms, whole, "{name}");
            assert!(
                (sum - own - left).abs() < 1e-5 * sum,
                "{name}: {sum} - {own}, not {left}"
            );
            whole.insert(name, own);
        }
    }
}
