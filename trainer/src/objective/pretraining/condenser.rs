use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::Tokens;
use encoder::training::{Engine, Parameters, Stack, TrainingError, cross_entropy, first};
use serde::{Deserialize, Serialize};

use super::model::{MaskedLm, Mean, decoder_seed, texts, with_first};
use super::{Masks, Method, StackStart, Terms};
use crate::masking::Corrupted;

/// Condenser, and coCondenser with `contrastive`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CondenserConfig {
    /// Layers of the head.
    pub n_head_layers: usize,
    /// After which layer of the encoder the head reads all tokens but the first; 0 are the embeddings.
    pub skip_from: usize,
    /// Whether the encoder has a loss of its own too.
    pub late_mlm: bool,
    /// Whether texts 2i and 2i + 1, spans of one document, are told from all others (coCondenser).
    pub contrastive: bool,
    /// Of weights that no checkpoint has.
    pub seed: u64,
}

impl Default for CondenserConfig {
    /// Those of the code; its README has `skip_from = 6` and `late_mlm`.
    fn default() -> Self {
        Self {
            n_head_layers: 2,
            skip_from: 2,
            late_mlm: false,
            contrastive: false,
            seed: 0,
        }
    }
}

/// Condenser, Gao & Callan 2021 (arXiv 2104.08253), and coCondenser (arXiv 2108.05540).
///
/// A head of layers reads the last layer's vector of `[CLS]` and an early layer's vectors of all other tokens, and says
/// what is hidden, so that what the late layers know has to go through the first vector. coCondenser adds a contrastive
/// loss over the raw vectors c of the batch, `CE(c cᵀ, partner)` without the diagonal, temperature or normalization.
///
/// Deviations: mask and tokens are of one window, the published ones of two unless `masks.double_crop` says so too; RoBERTa, which
/// the published code takes as well, is refused; the vectors of a batch are not gathered from several processes, nor made in
/// parts with cached gradients, where the published code counts the losses of hidden tokens twice.
pub struct Condenser {
    model: MaskedLm,
    head: Stack,
    config: CondenserConfig,
}

impl Condenser {
    /// Loads the model and draws the head.
    ///
    /// # Errors
    /// [`TrainingError::Load`], [`TrainingError::Setting`].
    pub fn load(
        folder: &Path,
        config: &CondenserConfig,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let model = MaskedLm::load(folder, config.seed, engine)?;
        if config.skip_from > model.encoder().architecture().n_layers {
            return Err(TrainingError::Setting {
                name: "skip_from",
                value: config.skip_from as f64,
                rule: "it is at most the number of layers",
            });
        }
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

impl Method for Condenser {
    type Example = Corrupted;
    type Model = MaskedLm;

    fn model(&self) -> &MaskedLm {
        &self.model
    }

    fn decoders(&self) -> &Parameters {
        self.head.parameters()
    }

    fn row_count(&self) -> Option<fn(&Corrupted) -> usize> {
        (!self.config.contrastive).then_some(|text| text.ids.len())
    }

    fn terms(&self, batch: &[Corrupted], masks: &Masks<'_>) -> Result<Terms, TrainingError> {
        let (model, encoder) = (&self.model, self.model.encoder());
        let texts = texts(batch);
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        let mut terms = Terms::of(texts.len(), lengths.iter().sum());
        let labels = || batch.iter().flat_map(|text| &text.labels);

        let dropout = masks.at(0);
        let (skip, n_layers) = (self.config.skip_from, encoder.architecture().n_layers);
        let early = encoder.embed(&texts, &dropout)?;
        let early = encoder.layers(0..skip, &early, &lengths, &dropout)?;
        let late = encoder.layers(skip..n_layers, &early, &lengths, &dropout)?;
        let vectors = first(&late, &lengths)?;

        let read = with_first(&early, &masks.bottleneck(vectors.clone())?, &texts)?;
        let said = self.head.forward(&read, &lengths, &masks.at(8))?;
        terms.add("head_loss", 1.0, model.loss(&said, labels())?);
        if self.config.late_mlm {
            terms.add("encoder_loss", 1.0, model.loss(&late, labels())?);
        }
        if self.config.contrastive {
            let (value, n) = (contrast(&vectors)?, texts.len());
            terms.add("contrastive_loss", 1.0, Mean { value, n });
        }
        Ok(terms)
    }
}

/// Cross-entropy of each vector's partner among all others, (B, H) with partners 2i and 2i + 1.
fn contrast(vectors: &Tensor) -> Result<Tensor, TrainingError> {
    let n = vectors.dims2()?.0;
    if n < 2 || n % 2 == 1 {
        return Err(TrainingError::Setting {
            name: "spans of a batch",
            value: n as f64,
            rule: "they are two of each document",
        });
    }
    let own = Tensor::eye(n, candle_core::DType::F32, &Device::Cpu)?;
    // Finite, so that its gradient is 0 and not NaN.
    let scores = (vectors.matmul(&vectors.t()?)? + (own * -1e9)?)?;
    let partners: Vec<i64> = (0..n as i64).map(|row| row ^ 1).collect();
    Ok(cross_entropy(&scores, &partners)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_contrast(rows: &[[f32; 2]], expected: f32) {
        let vectors =
            Tensor::from_slice(rows.as_flattened(), (rows.len(), 2), &Device::Cpu).unwrap();
        let found = contrast(&vectors).unwrap().to_scalar::<f32>().unwrap();
        let bound = 1e-5 * expected.max(1.0);
        assert!(
            (found - expected).abs() < bound,
            "{rows:?}: {found}, not {expected}"
        );
    }

    #[test]
    fn a_span_is_told_from_all_others_but_itself() {
        let (one, other) = ([10.0, 0.0], [0.0, 10.0]);
        check_contrast(&[one, one, other, other], 0.0);
        check_contrast(&[one, other, one, other], 100.0);
        check_contrast(&[one, one], 0.0);
        // No scores but equal ones: ln(2B - 1) for B documents.
        check_contrast(&[[0.0; 2]; 6], 5f32.ln());
        check_contrast(&[one; 4], 3f32.ln());
    }
}
