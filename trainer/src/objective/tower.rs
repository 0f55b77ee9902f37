//! Text to one vector: transformer, pooling and what follows, as a sentence-transformers directory says.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use encoder::training::{
    Backbone, Dropout, Engine, Kind, Parameter, Parameters, TrainingError, normal,
};
use encoder::{
    Checkpoint, DenseConfig, Directory, LoadError, ModelOptions, OutputActivation, Pooling,
    Similarity, Step, Tokens,
};
use serde::{Deserialize, Serialize};

use crate::export::{BiEncoderExport, DenseExport, Tensors};
use crate::loss::normalize;

/// A new linear layer after the pooling, in place of those that the model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// Values of the vectors.
    pub width: usize,
    /// Whether it adds a bias: RetroMAE's pooler does, OpenMatch's head does not.
    #[serde(default)]
    pub bias: bool,
    /// Seed of its weights: normal, with a deviation of 1/√(3 H) as PyTorch's linear layers have.
    #[serde(default)]
    pub seed: u64,
}

/// How names of the parameters of a linear layer begin.
const DENSE: &str = "linear.";

/// What the user may say about how vectors are made; the rest is the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct VectorOptions {
    pub(super) pooling: Option<Pooling>,
    pub(super) normalize: Option<bool>,
    pub(super) head: Option<HeadConfig>,
}

/// One tower of a bi-encoder.
pub(super) struct Tower {
    pub(super) backbone: Backbone,
    pub(super) directory: Directory,
    pub(super) pooling: Pooling,
    /// Whether vectors have length 1.
    pub(super) normalizes: bool,
    dense: Option<Dense>,
    /// Whether `dense` is a new layer.
    is_dense_drawn: bool,
    parameters: Parameters,
    prefix: String,
}

/// `f(x Wᵀ + b)`, between pooling and normalization.
struct Dense {
    weight: Arc<Parameter>,
    bias: Option<Arc<Parameter>>,
    activation: OutputActivation,
}

impl Tower {
    /// Loads a model directory; the name of each parameter begins with `prefix`.
    pub(super) fn load(
        folder: &Path,
        prefix: &str,
        options: &VectorOptions,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let (directory, pooling) = read_directory(folder, options)?;
        let backbone = Backbone::load_as(prefix, &directory.transformer, pooling, engine)?;
        let mut parameters = backbone.parameters().clone();
        let width = backbone.width();
        let stored = directory.steps.iter().find_map(|step| match step {
            Step::Dense(dense) => Some(dense),
            Step::Normalize => None,
        });
        let dense = match (options.head, stored) {
            (Some(head), _) => Some(Dense::random(&head, width, prefix, &mut parameters)?),
            (None, Some(stored)) => Some(Dense::load(stored, width, prefix, &mut parameters)?),
            (None, None) => None,
        };
        Ok(Self {
            backbone,
            pooling,
            normalizes: directory.steps.last() == Some(&Step::Normalize),
            directory,
            dense,
            is_dense_drawn: options.head.is_some(),
            parameters,
            prefix: prefix.to_owned(),
        })
    }

    pub(super) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Whether a parameter belongs to a new layer.
    pub(super) fn is_drawn(&self, name: &str) -> bool {
        let own = name.strip_prefix(self.prefix.as_str());
        self.is_dense_drawn && own.is_some_and(|own| own.starts_with(DENSE))
    }

    /// Values of the vectors.
    pub(super) fn width(&self) -> usize {
        let dense = self.dense.as_ref().map(|dense| dense.weight.shape()[0]);
        dense.unwrap_or(self.backbone.width())
    }

    /// Returns the vectors of texts, (texts, H).
    pub(super) fn embed(
        &self,
        texts: &[Tokens],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let mut vectors = self.backbone.pool(texts, self.pooling, dropout)?;
        if let Some(dense) = &self.dense {
            vectors = dense.forward(&vectors)?;
        }
        if self.normalizes {
            vectors = normalize(&vectors)?;
        }
        Ok(vectors)
    }

    /// Writes a directory that our own loader reads, and sentence-transformers where it has such models.
    pub(super) fn export(
        &self,
        folder: &Path,
        max_tokens: usize,
        (query_prompt, passage_prompt): (&str, &str),
    ) -> Result<(), TrainingError> {
        let mut weights = Tensors::new();
        let own = |name: &str| name.strip_prefix(&self.prefix).map(str::to_owned);
        weights.extend(self.backbone.parameters(), own)?;
        let export = BiEncoderExport {
            source: &self.directory.transformer,
            weights,
            lower_case: self.directory.lower_case,
            max_tokens,
            pooling: self.pooling,
            pools_prompt: true,
            dense: self.dense.as_ref().map(Dense::export).transpose()?,
            normalize: self.normalizes,
            similarity: match self.normalizes {
                true => Similarity::Cosine,
                false => Similarity::InnerProduct,
            },
            query_prompt,
            passage_prompt,
        };
        export.write(folder)
    }
}

impl Dense {
    fn load(
        stored: &DenseConfig,
        width: usize,
        prefix: &str,
        parameters: &mut Parameters,
    ) -> Result<Self, TrainingError> {
        let checkpoint = Checkpoint::open(&stored.folder)?;
        let weight = checkpoint.tensor("linear.weight", &[stored.n_out, width])?;
        let bias = || checkpoint.tensor("linear.bias", &[stored.n_out]);
        let bias = stored.has_bias.then(bias).transpose()?;
        Self::new((weight, bias), stored.activation, width, prefix, parameters)
    }

    fn random(
        head: &HeadConfig,
        width: usize,
        prefix: &str,
        parameters: &mut Parameters,
    ) -> Result<Self, TrainingError> {
        let deviation = 1.0 / (3.0 * width as f64).sqrt();
        let weight = normal(head.seed, 0, head.width * width, deviation);
        let bias = head.bias.then(|| vec![0.0; head.width]);
        let activation = OutputActivation::Identity;
        Self::new((weight, bias), activation, width, prefix, parameters)
    }

    fn new(
        (weight, bias): (Vec<f32>, Option<Vec<f32>>),
        activation: OutputActivation,
        width: usize,
        prefix: &str,
        parameters: &mut Parameters,
    ) -> Result<Self, TrainingError> {
        let shape = [weight.len() / width, width];
        let mut insert = |name: &str, shape: &[usize], values, kind| {
            parameters.insert(&format!("{prefix}{DENSE}{name}"), shape, values, kind)
        };
        let weight = insert("weight", &shape, weight, Kind::Matrix)?;
        let bias = bias
            .map(|bias| insert("bias", &shape[..1], bias, Kind::Plain))
            .transpose()?;
        Ok(Self {
            weight,
            bias,
            activation,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let product = x.matmul(&self.weight.tensor()?.t()?)?;
        let sum = match &self.bias {
            Some(bias) => product.broadcast_add(&bias.tensor()?)?,
            None => product,
        };
        match self.activation {
            OutputActivation::Identity => Ok(sum),
            OutputActivation::Sigmoid => (sum.neg()?.exp()? + 1.0)?.recip(),
            OutputActivation::Tanh => sum.tanh(),
            OutputActivation::Relu => sum.relu(),
            OutputActivation::Gelu => sum.gelu_erf(),
        }
    }

    fn export(&self) -> candle_core::Result<DenseExport> {
        let shape = self.weight.shape();
        Ok(DenseExport {
            n_in: shape[1],
            n_out: shape[0],
            weight: self.weight.values()?,
            bias: self.bias.as_ref().map(|bias| bias.values()).transpose()?,
            activation: self.activation,
        })
    }
}

/// What the directory says, changed by the options, and its pooling. Refuses what cannot be trained.
fn read_directory(
    folder: &Path,
    options: &VectorOptions,
) -> Result<(Directory, Pooling), LoadError> {
    let refuse = |file: &str, reason: String| LoadError::Config {
        path: folder.join(file),
        reason,
    };
    let mut directory = if Directory::is_described(folder) {
        Directory::read(folder, &ModelOptions::default())?
    } else {
        let (Some(_), Some(normalize)) = (options.pooling, options.normalize) else {
            let reason = "without modules.json or openmatch_config.json `pooling` and `normalize` have to be given";
            return Err(refuse("config.json", reason.into()));
        };
        let similarity = match normalize {
            true => Similarity::Cosine,
            false => Similarity::InnerProduct,
        };
        let model_options = ModelOptions {
            pooling: options.pooling,
            normalize: options.normalize,
            similarity: Some(similarity),
            query_tokens: Some(1), // the trainer's own lengths apply
            passage_tokens: Some(1),
            ..ModelOptions::default()
        };
        Directory::read(folder, &model_options)?
    };
    if let Some(pooling) = options.pooling {
        directory.pooling = vec![pooling];
    }
    let [pooling] = directory.pooling[..] else {
        let reason = "trained is one pooling, not several beside each other";
        return Err(refuse("modules.json", reason.into()));
    };
    if pooling == Pooling::Decoder && (options.head.is_some() || !is_bare(&directory.steps)) {
        let reason = "behind a decoder no linear layer is trained: the export has no place for it";
        return Err(refuse("config.json", reason.into()));
    }
    if !directory.pools_prompt {
        let reason = "include_prompt is false, which is not trained";
        return Err(refuse("1_Pooling/config.json", reason.into()));
    }
    if directory.similarity == Similarity::L2 {
        let reason = "similarity is euclidean; trained are cosine and dot";
        return Err(refuse("config_sentence_transformers.json", reason.into()));
    }
    if options.head.is_some() {
        directory.steps.retain(|step| *step == Step::Normalize);
    } else if !is_bare(directory.steps.get(1..).unwrap_or_default()) {
        let reason = "trained is at most one Dense module, right behind the pooling";
        return Err(refuse("modules.json", reason.into()));
    }
    // Cosine of vectors is the inner product of normalized ones, which is what losses and indexes compute.
    let normalize = options
        .normalize
        .unwrap_or(directory.similarity == Similarity::Cosine);
    if !normalize {
        directory.steps.retain(|step| *step != Step::Normalize);
    } else if directory.steps.last() != Some(&Step::Normalize) {
        directory.steps.push(Step::Normalize);
    }
    Ok((directory, pooling))
}

/// Whether no linear layer is among the steps.
fn is_bare(steps: &[Step]) -> bool {
    steps.iter().all(|step| *step == Step::Normalize)
}
