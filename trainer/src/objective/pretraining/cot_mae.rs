use std::path::Path;
use std::sync::Arc;

use encoder::training::{Engine, Parameters, Stack, TrainingError};
use serde::{Deserialize, Serialize};

use super::model::{MaskedLm, decoder_seed, texts};
use super::{Masks, Method, StackStart, Terms};
use crate::masking::Corrupted;

/// CoT-MAE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CotMaeConfig {
    /// Layers of the decoder.
    pub n_head_layers: usize,
    /// What the decoder's loss counts beside the encoder's.
    pub head_mlm_coef: f64,
    /// Of weights that no checkpoint has.
    pub seed: u64,
}

impl Default for CotMaeConfig {
    /// Those of the code and its README.
    fn default() -> Self {
        Self {
            n_head_layers: 2,
            head_mlm_coef: 1.0,
            seed: 0,
        }
    }
}

/// Two spans of one document, each hidden in part for the encoder and, drawn anew, for the decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanPair {
    /// What the encoder reads of each.
    pub encoder: [Corrupted; 2],
    /// What the decoder reads of each.
    pub decoder: [Corrupted; 2],
}

/// CoT-MAE, Wu et al. 2022 (arXiv 2208.07670).
///
/// The vector of one span is what the decoder has to fill in the gaps of the other one: `L = CE(E(ã)) + CE(E(b̃)) +
/// λ (CE(D(cₐ, b̂)) + CE(D(c_b, â)))`, each pair of terms taken as one mean over its hidden tokens.
///
/// Deviations: mask and tokens are of one window, the published ones of two unless `masks.double_crop` says so too; the ratios of
/// [`super::CotMaeMasks`] are the README's. The decoder is always there, as in the README's run; the code has it off until two switches
/// are set. Of the same project's `cotmae-qc`, queries as contexts and a decoder that writes from left to right, there is nothing.
pub struct CotMae {
    model: MaskedLm,
    head: Stack,
    config: CotMaeConfig,
}

impl CotMae {
    /// Loads the model and draws the decoder.
    ///
    /// # Errors
    /// [`TrainingError::Load`], [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &CotMaeConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        crate::objective::settings::at_least_0("head_mlm_coef", config.head_mlm_coef)?;
        let model = MaskedLm::load(folder, config.seed, engine)?;
        let head = model.decoder(
            "c_head",
            ("n_head_layers", config.n_head_layers),
            StackStart::Normal,
            decoder_seed(config.seed, 1),
        )?;
        Ok(Self {
            model,
            head,
            config: config.clone(),
        })
    }
}

impl Method for CotMae {
    type Example = SpanPair;
    type Model = MaskedLm;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        self.head.parameters()
    }

    fn terms(&self, batch: &[SpanPair], masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let model = &self.model;
        let read = || batch.iter().flat_map(|pair| &pair.encoder);
        // Each vector meets the other span.
        let other = || batch.iter().flat_map(|pair| pair.decoder.iter().rev());
        let spans = model.read(&texts(read()), &masks.at(0))?;
        let mut terms = Terms::of(2 * batch.len(), spans.n_tokens());
        let labels = read().flat_map(|text| &text.labels);
        terms.add("encoder_loss", 1.0, model.loss(&spans.hidden, labels)?);

        let vectors = masks.bottleneck(spans.vectors()?)?;
        let said = model.decode(&self.head, &texts(other()), &vectors, &masks.at(8))?;
        let labels = other().flat_map(|text| &text.labels);
        let loss = model.loss(&said, labels)?;
        terms.add("decoder_loss", self.config.head_mlm_coef, loss);
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::super::CotMaeMasks;
    use super::super::tests::{documents, drawn, texts};
    use super::*;
    use crate::objective::test_data::tiny;

    /// The decoder's loss of a pair in which one span alone has labels for it.
    fn loss(method: &CotMae, pair: &SpanPair, labelled: usize) -> f64 {
        let mut pair = pair.clone();
        pair.decoder[1 - labelled].labels.fill(None);
        let terms = method.terms(&[pair], &Masks::NONE).unwrap();
        terms.values().unwrap()["decoder_loss"]
    }

    #[test]
    fn each_vector_meets_the_other_span() {
        let method = tiny(|folder, engine| CotMae::load(folder, &CotMaeConfig::default(), engine));
        let pair = drawn(&CotMaeMasks::default(), &documents(&texts(20))[..1]).remove(0);
        let mut turned = pair.clone();
        turned.encoder.reverse();
        turned.decoder.reverse();
        for labelled in 0..2 {
            let own = loss(&method, &pair, labelled);
            assert_eq!(own, loss(&method, &turned, 1 - labelled), "{labelled}");
            for read in 0..2 {
                let mut changed = pair.clone();
                changed.encoder[read].ids[2] += 1;
                let is_equal = own == loss(&method, &changed, labelled);
                assert_eq!(is_equal, read == labelled, "{labelled} behind {read}");
            }
        }
    }
}
