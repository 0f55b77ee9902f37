//! A second model that says which passages are as relevant as the positive.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use encoder::training::{Engine, TrainingError};
use encoder::{AcceleratorConfig, Arithmetic, BiEncoder, EncoderConfig, ModelOptions, Role};
use serde::{Deserialize, Serialize};

use super::settings::at_least_0;
use crate::data::{Content, Group};
use crate::loss::{Better, Block, Mask, block_similarities, normalize};
use crate::text::texts;

/// Leaves out what a guide finds as relevant as the positive: GISTEmbed, Solatorio 2024 (arXiv 2402.16829).
///
/// Every similarity of a row of the loss, of whatever block, is left out when the guide's cosine of the same two texts is
/// above its cosine of the query and its positive, less a margin. The positive itself never is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuideConfig {
    /// Model directory; its own prompts and lengths apply.
    pub model: PathBuf,
    /// m
    #[serde(default)]
    pub margin: f64,
    /// What the margin is.
    #[serde(default)]
    pub kind: MarginKind,
    /// Keeps the query's own hard negatives, whatever the guide says; the paper does not.
    #[serde(default)]
    pub spare_own: bool,
}

/// How a margin is taken off the guide's cosine s₊ of the positive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarginKind {
    /// s > s₊ − m
    #[default]
    Absolute,
    /// s > s₊ − m |s₊|
    Relative,
}

/// The guide, on the serving engine.
pub(super) struct Guide {
    encoder: BiEncoder,
    rule: Better,
    spare_own: bool,
}

impl GuideConfig {
    pub(super) fn check(&self) -> Result<(), TrainingError> {
        at_least_0("margin of the guide", self.margin)
    }
}

impl Guide {
    pub(super) fn load(config: &GuideConfig, engine: &Engine) -> Result<Self, TrainingError> {
        let serving = EncoderConfig {
            threads: engine.threads(),
            arithmetic: Arithmetic::Auto,
            accelerator: engine.accelerator().map(|device| AcceleratorConfig {
                optional: true,
                ..AcceleratorConfig::new(vec![device.clone()])
            }),
            ..EncoderConfig::default()
        };
        Ok(Self {
            encoder: BiEncoder::load(&config.model, &ModelOptions::default(), &serving)?,
            rule: match config.kind {
                MarginKind::Absolute => Better::Absolute(-config.margin),
                MarginKind::Relative => Better::Relative(-config.margin),
            },
            spare_own: config.spare_own,
        })
    }

    /// The guide's cosines of a batch in the layout of [`block_similarities`].
    pub(super) fn similarities(
        &self,
        batch: &[Group],
        blocks: &[Block],
    ) -> Result<Tensor, TrainingError> {
        let queries = batch.iter().map(|group| &group.query);
        let passages = batch.iter().flat_map(|group| &group.passages);
        let queries = self.embed(Role::Query, queries)?; // (B, H)
        let passages = self.embed(Role::Passage, passages.map(|one| &one.content))?; // (B·N, H)
        Ok(block_similarities(&queries, &passages, blocks)?)
    }

    /// Leaves out what these cosines say.
    pub(super) fn mask(&self, similarities: &Tensor, mask: &mut Mask) -> crate::loss::Result<()> {
        mask.mask_better(similarities, self.rule, self.spare_own)
    }

    /// Vectors of length 1.
    fn embed<'a>(
        &self,
        role: Role,
        contents: impl Iterator<Item = &'a Content>,
    ) -> Result<Tensor, TrainingError> {
        let vectors = self.encoder.encode_texts(role, &texts(contents)?)?;
        let shape = (vectors.len(), vectors.width);
        Ok(normalize(&Tensor::from_vec(
            vectors.values,
            shape,
            &Device::Cpu,
        )?)?)
    }
}
