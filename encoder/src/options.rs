use std::fmt;
use std::sync::Arc;

use compute::accelerator::SharedAccelerator;
use compute::{Level, Simd};
use serde::{Deserialize, Serialize};

use crate::kernel::Format;

/// Which of the two sides of retrieval a text is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What is searched for.
    Query,
    /// What is found.
    Passage,
}

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// Their mean.
    Mean,
    /// The greatest value of each column.
    Max,
    /// The last token's.
    Last,
    /// Their mean, the i-th token counting i times.
    WeightedMean,
    /// Their sum over the square root of their number.
    MeanSqrtLength,
    /// That of the first token of T5's decoder, as OpenMatch takes it; no other vector of the text's own.
    Decoder,
}

impl Pooling {
    /// The name in flags and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Last => "last",
            Self::WeightedMean => "weighted_mean",
            Self::MeanSqrtLength => "mean_sqrt_length",
            Self::Decoder => "decoder",
        }
    }

    /// The pooling that sentence-transformers calls so.
    pub(crate) fn from_sentence_transformers(name: &str) -> Option<Self> {
        Some(match name {
            "cls" => Self::Cls,
            "mean" => Self::Mean,
            "max" => Self::Max,
            "lasttoken" => Self::Last,
            "weightedmean" => Self::WeightedMean,
            "mean_sqrt_len_tokens" => Self::MeanSqrtLength,
            _ => return None,
        })
    }
}

/// How vectors of the model are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Similarity {
    /// Higher is nearer.
    InnerProduct,
    /// Inner product of the normalized vectors.
    Cosine,
    /// Euclidean distance: lower is nearer.
    L2,
}

impl Similarity {
    /// The name in flags and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InnerProduct => "inner_product",
            Self::Cosine => "cosine",
            Self::L2 => "l2",
        }
    }
}

/// Settings of a research project whose released checkpoints do not carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// MASTER, Zhou et al. 2022 (arXiv 2212.07841).
    Master,
    /// RetroMAE, Xiao et al. 2022 (arXiv 2205.12035).
    Retromae,
    /// CoT-MAE, Wu et al. 2022 (arXiv 2208.07670).
    Cotmae,
    /// Models trained with OpenMatch.
    Openmatch,
    /// SimLM, Wang et al. 2022 (arXiv 2207.02578).
    Simlm,
}

impl Preset {
    /// The names that flags take.
    pub const NAMES: [&'static str; 5] = ["master", "retromae", "cotmae", "openmatch", "simlm"];

    /// The name in flags and manifests.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Template of a passage's text: SimLM reads title and text as a pair, so its template is the text alone.
    pub fn passage_template(self) -> &'static str {
        match self {
            Self::Simlm => "<text>",
            _ => "<title> <text>",
        }
    }

    /// Template of a query's text.
    pub fn query_template(self) -> &'static str {
        "<text>"
    }

    /// Whether passages are a pair of title and text, with token types.
    pub fn passage_pair(self) -> bool {
        self == Self::Simlm
    }

    /// All take the [CLS] vector; lengths are those of the projects' fine-tuning scripts.
    pub(crate) fn options(self) -> ModelOptions {
        let simlm = self == Self::Simlm;
        ModelOptions {
            preset: Some(self),
            pooling: Some(Pooling::Cls),
            normalize: Some(simlm),
            similarity: Some(if simlm {
                Similarity::Cosine
            } else {
                Similarity::InnerProduct
            }),
            query_tokens: Some(32),
            passage_tokens: Some(if simlm { 144 } else { 128 }),
            ..ModelOptions::default()
        }
    }
}

/// What the user says about a model. `None` leaves the decision to the model directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOptions {
    /// Settings of a project, for directories without modules.json.
    pub preset: Option<Preset>,
    /// How token vectors become one, for directories without modules.json.
    pub pooling: Option<Pooling>,
    /// Whether vectors are brought to length 1, for directories without modules.json.
    pub normalize: Option<bool>,
    /// How vectors are compared.
    pub similarity: Option<Similarity>,
    /// Most tokens of a query, special tokens included.
    pub query_tokens: Option<usize>,
    /// Most tokens of a passage, special tokens included.
    pub passage_tokens: Option<usize>,
    /// Put before each query.
    pub query_prompt: Option<String>,
    /// Put before each passage.
    pub passage_prompt: Option<String>,
}

impl ModelOptions {
    /// Fills what is not given from the preset.
    pub(crate) fn with_preset(&self) -> Self {
        let Some(preset) = self.preset else {
            return self.clone();
        };
        let base = preset.options();
        Self {
            preset: Some(preset),
            pooling: self.pooling.or(base.pooling),
            normalize: self.normalize.or(base.normalize),
            similarity: self.similarity.or(base.similarity),
            query_tokens: self.query_tokens.or(base.query_tokens),
            passage_tokens: self.passage_tokens.or(base.passage_tokens),
            query_prompt: self.query_prompt.clone(),
            passage_prompt: self.passage_prompt.clone(),
        }
    }
}

/// The numbers that the matrix products of a model compute with; everything between them is f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Arithmetic {
    /// [`Self::Bf16`] on accelerators and AMX, [`Self::Fixed16`] on AVX-512 VNNI, where it is 5 % slower than bf16 and far
    /// closer to f32, else [`Self::F32`]. Each keeps a cosine of 0.9999 to f32.
    Auto,
    /// 32-bit floats throughout: the reference.
    #[default]
    F32,
    /// 16-bit integers, scaled for each token and output, summed exactly. Cosine to f32 above 0.999999.
    Fixed16,
    /// Operands as sums of two bf16, of which the three greater products are summed in f32. Cosine to f32 above 0.999999; made for
    /// AMX, as three products of bf16 take longer than one of f32 elsewhere.
    Bf16x3,
    /// Operands rounded to bf16, sums in f32. Cosine to f32 at least 0.99998 (all-MiniLM-L6-v2).
    Bf16,
    /// 8-bit integers: lossy.
    Int8,
    /// Operands rounded to f16, sums in f32; on accelerators only.
    F16,
}

impl Arithmetic {
    /// The names that flags take.
    pub const NAMES: [&'static str; 7] =
        ["auto", "f32", "fixed16", "bf16x3", "bf16", "int8", "f16"];

    /// The name in flags and manifests.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// What `auto` is on the CPU of a machine; the others are what they are.
    pub fn resolve(self, simd: Simd) -> Self {
        match self {
            Self::Auto if simd.has_amx() => Self::Bf16,
            Self::Auto if simd.has_vnni() => Self::Fixed16,
            Self::Auto => Self::F32,
            chosen => chosen,
        }
    }

    /// How weights and activations are held.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Fixed16 => Format::Fixed16,
            Self::Bf16x3 => Format::Bf16x3,
            Self::Bf16 => Format::Bf16,
            Self::Int8 => Format::Int8,
            Self::F32 | Self::Auto | Self::F16 => Format::F32,
        }
    }
}

/// How a model is run. Nothing here changes a vector beyond the arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Threads that tokenise and encode.
    pub threads: usize,
    /// Tokens that one thread computes in one go: texts of about equal length, packed without padding.
    pub batch_tokens: usize,
    /// The numbers to compute with.
    pub arithmetic: Arithmetic,
    /// The vector instructions to use at most; by default all that the machine has.
    pub simd: Option<Level>,
    /// Where models of the BERT family are computed, if not by the CPU.
    pub accelerator: Option<AcceleratorConfig>,
}

/// Devices that compute a model.
#[derive(Clone)]
pub struct AcceleratorConfig {
    /// Each has all of its weights, and takes some of the texts. At least one.
    pub devices: Vec<SharedAccelerator>,
    /// Tokens that a device computes in one go, where it has room for them.
    pub batch_tokens: usize,
    /// Leaves models and arithmetics that they do not have to the CPU; [`crate::BiEncoder::devices`] says who does.
    pub optional: bool,
}

impl AcceleratorConfig {
    /// Takes 32,768 tokens at a time.
    ///
    /// # Panics
    /// Without a device.
    pub fn new(devices: Vec<SharedAccelerator>) -> Self {
        assert!(!devices.is_empty(), "a device computes");
        Self {
            devices,
            batch_tokens: 32_768,
            optional: false,
        }
    }

    /// The devices, as in `cuda:0,cuda:1`.
    pub fn names(&self) -> String {
        let names = self
            .devices
            .iter()
            .map(|device| device.info().name.as_str());
        names.collect::<Vec<_>>().join(",")
    }
}

impl PartialEq for AcceleratorConfig {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.devices.iter().zip(&other.devices);
        self.devices.len() == other.devices.len()
            && pairs.all(|(device, other)| Arc::ptr_eq(device, other))
            && (self.batch_tokens, self.optional) == (other.batch_tokens, other.optional)
    }
}

impl fmt::Debug for AcceleratorConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AcceleratorConfig")
            .field("devices", &self.names())
            .field("batch_tokens", &self.batch_tokens)
            .field("optional", &self.optional)
            .finish()
    }
}

impl EncoderConfig {
    /// The instructions to use, and the config with [`Arithmetic::Auto`] made concrete for them or the accelerator.
    pub(crate) fn resolve(&self) -> (Simd, Self) {
        let simd = Simd::detect();
        let simd = self.simd.map_or(simd, |level| simd.at_most(level));
        let arithmetic = match (&self.accelerator, self.arithmetic) {
            (Some(_), Arithmetic::Auto) => Arithmetic::Bf16,
            (_, arithmetic) => arithmetic.resolve(simd),
        };
        (
            simd,
            Self {
                arithmetic,
                ..self.clone()
            },
        )
    }
}

impl Default for EncoderConfig {
    fn default() -> Self {
        Self {
            threads: compute::thread_budget(None),
            batch_tokens: 384,
            arithmetic: Arithmetic::F32,
            simd: None,
            accelerator: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_fast_on_this_machine_and_near_f32() {
        for simd in testkit::simd_levels() {
            let without_tiles = match simd.has_vnni() {
                true => Arithmetic::Fixed16,
                false => Arithmetic::F32,
            };
            let expected = match simd.has_amx() {
                true => Arithmetic::Bf16,
                false => without_tiles,
            };
            for (limit, expected) in [
                (Level::Amx, expected),
                (Level::Avx512, without_tiles),
                (Level::Avx2, Arithmetic::F32),
            ] {
                let simd = simd.at_most(limit);
                assert_eq!(Arithmetic::Auto.resolve(simd), expected, "{simd}");
                assert_eq!(Arithmetic::Int8.resolve(simd), Arithmetic::Int8);
            }
        }
    }
}
