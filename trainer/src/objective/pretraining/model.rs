use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::{
    Dropout, Encoder, Engine, Initial, LayerNorm, Linear, Parameter, Parameters, Stack,
    TrainingError, first, normal,
};
use encoder::{Architecture, Checkpoint, Family, LoadError, Tokens};

use super::{Drawn, Pretrained, StackStart};
use crate::masking::Corrupted;

/// Seed of a new decoder, by its number from 1. A random number is known by its seed and its place, and a drawn encoder has those of
/// `seed` itself.
pub(super) fn decoder_seed(seed: u64, number: u64) -> u64 {
    seed.wrapping_add(number)
}

/// BERT with the head of masked language modelling: what all methods pre-train, and all that they leave.
///
/// Parameters have the names of `BertForMaskedLM`; the projection to the vocabulary is the token table.
pub struct MaskedLm {
    encoder: Encoder,
    transform: Linear,
    norm: LayerNorm,
    projection: Linear,
    parameters: Parameters,
    folder: PathBuf,
    drawn: Drawn,
}

/// Layers of a decoder at most, more than any encoder has.
const MOST_DECODER_LAYERS: usize = 64;

const TRANSFORM: &str = "cls.predictions.transform.dense";
const NORM: &str = "cls.predictions.transform.LayerNorm";
const BIAS: &str = "cls.predictions.bias";

impl MaskedLm {
    /// Reads a model directory. Without weights, or without the head's, they are drawn as BERT draws them.
    ///
    /// # Errors
    /// [`TrainingError::Load`], also for another family than BERT.
    pub fn load(folder: &Path, seed: u64, engine: &Arc<Engine>) -> Result<Self, TrainingError> {
        let path = folder.join("config.json");
        let architecture = Architecture::read(&path)?;
        if architecture.family != Family::Bert {
            let reason =
                "pre-training is for model_type `bert`, and `mlm` for `electra` too".to_owned();
            return Err(LoadError::Config { path, reason }.into());
        }
        let (width, n_vocabulary) = (architecture.width, architecture.n_vocabulary);
        let epsilon = architecture.epsilon;
        let checkpoint = checkpoint(folder)?;
        let encoder = match &checkpoint {
            Some(_) => Encoder::load_as("bert.", folder, engine)?,
            None => Encoder::random_as("bert.", architecture, seed, engine)?,
        };
        let mut parameters = encoder.parameters().clone();
        let stored = |name: &str, shape: &[usize]| match &checkpoint {
            Some(checkpoint) if checkpoint.contains(name) => {
                checkpoint.head_tensor(name, shape).map(Some)
            }
            _ => Ok(None),
        };
        let [weight, bias] = ["weight", "bias"].map(|end| format!("{TRANSFORM}.{end}"));
        let drawn = Drawn::of(checkpoint.as_ref(), &weight);
        let weight = stored(&weight, &[width, width])?
            .unwrap_or_else(|| normal(seed, u64::MAX, width * width, 0.02));
        let bias = stored(&bias, &[width])?.unwrap_or_else(|| vec![0.0; width]);
        let transform = Linear::new(&mut parameters, TRANSFORM, (weight, bias), engine)?
            .with_activation(encoder.architecture().activation);
        let norm = LayerNorm::new(&mut parameters, NORM, width, epsilon, engine)?;
        for end in ["weight", "bias"] {
            let name = format!("{NORM}.{end}");
            if let Some(values) = stored(&name, &[width])? {
                parameters
                    .get(&name)
                    .expect("just made")
                    .set_values(&values)?;
            }
        }
        let bias = stored(BIAS, &[n_vocabulary])?.unwrap_or_else(|| vec![0.0; n_vocabulary]);
        let bias =
            parameters.insert(BIAS, &[n_vocabulary], bias, encoder::training::Kind::Plain)?;
        let tokens = table(&encoder, "word_embeddings");
        Ok(Self {
            projection: Linear::tied(tokens, &bias, engine)?,
            encoder,
            transform,
            norm,
            parameters,
            folder: folder.to_path_buf(),
            drawn,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// Makes a stack of decoder layers named `{name}.{layer}`, as many as the setting `key` says.
    pub(super) fn decoder(
        &self,
        name: &str,
        (key, n_layers): (&'static str, usize),
        start: StackStart,
        seed: u64,
    ) -> Result<Stack, TrainingError> {
        let most = match start {
            StackStart::Last => self.encoder.architecture().n_layers,
            StackStart::Normal | StackStart::Uniform => MOST_DECODER_LAYERS,
        };
        if !(1..=most.min(MOST_DECODER_LAYERS)).contains(&n_layers) {
            return Err(TrainingError::Setting {
                name: key,
                value: n_layers as f64,
                rule: "it is from 1 to 64, and at most the encoder's where its layers are copied",
            });
        }
        let initial = match start {
            StackStart::Normal => Initial::Normal { seed },
            StackStart::Uniform => Initial::Uniform { seed },
            StackStart::Last => Initial::Last(&self.encoder),
        };
        let architecture = self.encoder.architecture();
        Stack::new(name, n_layers, architecture, initial, self.encoder.engine())
    }

    /// Returns the rows of the position table for texts of these lengths, one text after the other, (T, H).
    pub(super) fn positions(&self, lengths: &[usize]) -> Result<Tensor, TrainingError> {
        let ids: Vec<u32> = lengths.iter().flat_map(|&n| 0..n as u32).collect();
        let positions = table(&self.encoder, "position_embeddings");
        Ok(encoder::training::embedding(positions, &ids)?)
    }

    /// Returns what the embeddings make of vectors in place of words: `Dropout(LN(x + P + T₀))`, (T, H).
    pub(super) fn embed_vectors(
        &self,
        vectors: &Tensor,
        lengths: &[usize],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let types = vec![0; vectors.dims2()?.0];
        let types = match self.encoder.architecture().n_types {
            0 => None,
            _ => Some(encoder::training::embedding(
                table(&self.encoder, "token_type_embeddings"),
                &types,
            )?),
        };
        let mut others = self.positions(lengths)?;
        if let Some(types) = types {
            others = (others + types)?;
        }
        let norm = |end: &str| {
            let name = format!("bert.embeddings.LayerNorm.{end}");
            self.parameters.get(&name).expect("BERT has this")
        };
        let (a, engine) = (self.encoder.architecture(), self.encoder.engine());
        let norm = LayerNorm::tied(norm("weight"), norm("bias"), a.epsilon, engine);
        let normalized = norm.forward(vectors, &others)?;
        Ok(encoder::training::dropout(&normalized, dropout, 0, engine)?)
    }

    /// Reads texts with the encoder.
    pub(super) fn read(&self, texts: &[Tokens], dropout: &Dropout) -> Result<Read, TrainingError> {
        Ok(Read {
            hidden: self.encoder.forward(texts, dropout)?,
            lengths: texts.iter().map(Tokens::len).collect(),
        })
    }

    /// Returns the embeddings of a decoder's tokens, (T, H), in which each text's first row is its vector (B, H) as it is.
    pub(super) fn behind_vectors(
        &self,
        texts: &[Tokens],
        vectors: &Tensor,
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let hidden = self.encoder.embed(texts, dropout)?;
        with_first(&hidden, vectors, texts)
    }

    /// Takes a decoder's tokens behind vectors (B, H) through its layers: (T, H).
    pub(super) fn decode(
        &self,
        decoder: &Stack,
        texts: &[Tokens],
        vectors: &Tensor,
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
        let hidden = self.behind_vectors(texts, vectors, dropout)?;
        decoder.forward(&hidden, &lengths, dropout)
    }

    /// Returns the head's logits of token vectors, (N, H) → (N, V).
    pub(super) fn logits(&self, rows: &Tensor) -> Result<Tensor, TrainingError> {
        Ok(self.projection.forward(&self.transformed(rows)?)?)
    }

    /// Returns the greatest of the head's logits for each word over the token vectors of each text, (N, H) → (B, V).
    pub(super) fn largest_logits(
        &self,
        rows: &Tensor,
        lengths: &[usize],
    ) -> Result<Tensor, TrainingError> {
        Ok(self.projection.largest(&self.transformed(rows)?, lengths)?)
    }

    /// What the head's projection reads, (N, H).
    fn transformed(&self, rows: &Tensor) -> Result<Tensor, TrainingError> {
        let transformed = self.transform.forward(rows)?;
        let nothing = transformed.zeros_like()?;
        Ok(self.norm.forward(&transformed, &nothing)?)
    }

    /// Returns the mean cross-entropy of the tokens that have a label; 0 where none has. Only their rows go through the
    /// head. `hidden` is (T, H), the labels are those of its rows.
    pub(super) fn loss<'a>(
        &self,
        hidden: &Tensor,
        labels: impl IntoIterator<Item = &'a Option<u32>>,
    ) -> Result<Mean, TrainingError> {
        let (rows, targets) = labelled(labels);
        Mean::of_labels(&targets, || {
            let rows = hidden.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
            let rows = self.transformed(&rows)?;
            Ok(self.projection.cross_entropy(&rows, &targets)?)
        })
    }
}

impl Pretrained for MaskedLm {
    fn architecture(&self) -> &Architecture {
        self.encoder.architecture()
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn drawn(&self) -> Drawn {
        self.drawn
    }
}

/// The weights of a model directory that has some; those that cannot be read are refused, not drawn anew.
pub(super) fn checkpoint(folder: &Path) -> Result<Option<Checkpoint>, LoadError> {
    let names = [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack",
    ];
    let has_weights = names.iter().any(|name| folder.join(name).exists());
    has_weights.then(|| Checkpoint::open(folder)).transpose()
}

/// A mean over labels, texts or whatever else a term counts.
pub(super) struct Mean {
    pub(super) value: Tensor,
    /// Over how many.
    pub(super) n: usize,
}

impl Mean {
    /// The mean over targets that `loss` returns; 0 of none.
    pub(super) fn of_labels(
        targets: &[i64],
        loss: impl FnOnce() -> Result<Tensor, TrainingError>,
    ) -> Result<Self, TrainingError> {
        let value = match targets {
            [] => Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?,
            _ => loss()?,
        };
        let n = targets.len();
        Ok(Self { value, n })
    }
}

/// What the encoder makes of texts.
pub(super) struct Read {
    /// Token vectors, one text after the other, (T, H).
    pub(super) hidden: Tensor,
    /// Tokens of each text.
    pub(super) lengths: Vec<usize>,
}

impl Read {
    /// The first vector of each text, (B, H).
    pub(super) fn vectors(&self) -> Result<Tensor, TrainingError> {
        Ok(first(&self.hidden, &self.lengths)?)
    }

    /// T
    pub(super) fn n_tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// One of the encoder's tables.
fn table<'a>(encoder: &'a Encoder, name: &str) -> &'a Arc<Parameter> {
    let name = format!("bert.embeddings.{name}.weight");
    encoder
        .parameters()
        .get(&name)
        .expect("BERT has this table")
}

/// Puts vectors (B, H) in the place of the first rows of texts (T, H).
pub(super) fn with_first(
    hidden: &Tensor,
    vectors: &Tensor,
    texts: &[Tokens],
) -> Result<Tensor, TrainingError> {
    let n_rows = hidden.dims2()?.0 as u32;
    let (mut rows, mut start): (Vec<u32>, _) = ((0..n_rows).collect(), 0);
    for (vector, text) in (n_rows..).zip(texts) {
        rows[start] = vector;
        start += text.len();
    }
    let both = Tensor::cat(&[hidden, vectors], 0)?;
    Ok(both.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
}

/// The places that have a label, and the labels.
pub(super) fn labelled<'a>(
    labels: impl IntoIterator<Item = &'a Option<u32>>,
) -> (Vec<u32>, Vec<i64>) {
    let places = (0u32..).zip(labels);
    places
        .filter_map(|(place, label)| Some((place, i64::from((*label)?))))
        .unzip()
}

/// Texts as all methods but SimLM's encoder read them, without types.
pub(super) fn texts<'a>(corrupted: impl IntoIterator<Item = &'a Corrupted>) -> Vec<Tokens> {
    let texts = corrupted.into_iter();
    texts.map(|text| tokens(&text.ids)).collect()
}

/// Tokens without types.
pub(super) fn tokens(ids: &[u32]) -> Tokens {
    Tokens {
        type_ids: vec![0; ids.len()],
        ids: ids.to_vec(),
        ..Tokens::default()
    }
}
