//! T5, Raffel et al. 2020 (arXiv 1910.10683), composed of single operations on packed texts.

mod norm;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use self::norm::RmsNorm;
use super::attend::{Attend, Keys, Relative};
use super::dropout::Dropout;
use super::encoder::{lengths, misfit};
use super::engine::Engine;
use super::error::TrainingError;
use super::layer::{Linear, dropout, embedding};
use super::matrix::Precision;
use super::parameter::{Kind, Parameter, Parameters};
use crate::batch;
use crate::checkpoint::Checkpoint;
use crate::t5::{DECODER_START, T5Architecture};
use crate::tokenizer::Tokens;

/// A T5 to be trained on packed texts, with the checkpoint's names: its encoder alone or with the decoder.
///
/// Token vectors are (T, H): the texts of a batch one after the other, without padding. Each block adds to the residual
/// stream what it makes of the normalized stream; queries and keys are compared without a factor; encoder and decoder
/// each share a bias for the distance of query and key from their first block on.
///
/// Of the decoder one step is computed, on the padding token. Its self-attention then has one position to attend to, and
/// the weight of that is 1 whatever queries, keys and bias are: the decoder's `SelfAttention.q`, `SelfAttention.k` and
/// relative bias have a gradient of 0 in every value, as in PyTorch, and training leaves them but for weight decay.
///
/// Dropout has transformers' places: on the token vectors that go in and out of either stack, on the attention weights,
/// on the activation, and on what each block adds.
pub struct T5 {
    engine: Arc<Engine>,
    architecture: T5Architecture,
    parameters: Parameters,
    tokens: Arc<Parameter>,
    encoder: Stack,
    decoder: Option<Stack>,
}

struct Stack {
    blocks: Vec<Block>,
    /// (buckets, A)
    relative_bias: Arc<Parameter>,
    norm: RmsNorm,
}

struct Block {
    attention: AttentionLayer,
    /// The decoder's, to the encoder's token vectors.
    cross_attention: Option<AttentionLayer>,
    feed_forward: FeedForward,
}

struct AttentionLayer {
    norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

/// `wo (f(wi x))`, or `wo (f(wi_0 x) · wi_1 x)`.
struct FeedForward {
    norm: RmsNorm,
    activated: Linear,
    linear: Option<Linear>,
    output: Linear,
}

/// One forward pass: what it drops, place by place in the order of computation.
struct Pass<'a> {
    dropout: &'a Dropout,
    engine: &'a Arc<Engine>,
    n_places: Cell<u32>,
}

impl Pass<'_> {
    fn place(&self) -> u32 {
        self.n_places.replace(self.n_places.get() + 1)
    }

    fn drop_out(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        dropout(x, self.dropout, self.place(), self.engine)
    }
}

impl T5 {
    /// Reads `config.json` and the weights of a model directory; `prefix` goes before the name of each parameter.
    /// Without `with_decoder` the encoder alone is read, and only that has to be there.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn load_as(
        prefix: &str,
        folder: &Path,
        with_decoder: bool,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let architecture = T5Architecture::read(&folder.join("config.json"))?;
        if let Some(device) = &engine.device {
            return Err(TrainingError::Unsupported {
                device: device.name(),
                reason: "it is a T5".to_owned(),
            });
        }
        if engine.precision() == Precision::Bf16 && !architecture.head_width.is_multiple_of(2) {
            return Err(TrainingError::Setting {
                name: "head width",
                value: architecture.head_width as f64,
                rule: "in bf16 it is even",
            });
        }
        let mut loader = Loader {
            checkpoint: Checkpoint::open(folder)?,
            parameters: Parameters::new(),
            prefix,
            architecture: &architecture,
            engine,
        };
        let shape = [architecture.n_vocabulary, architecture.width];
        let tokens = loader.parameter("shared", &shape, Kind::Table)?;
        let encoder = loader.stack("encoder", architecture.n_layers, false)?;
        let decoder = with_decoder
            .then(|| loader.stack("decoder", architecture.n_decoder_layers, true))
            .transpose()?;
        Ok(Self {
            parameters: loader.parameters,
            engine: engine.clone(),
            architecture,
            tokens,
            encoder,
            decoder,
        })
    }

    /// The shape of the model.
    pub fn architecture(&self) -> &T5Architecture {
        &self.architecture
    }

    /// All parameters, with the checkpoint's names.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the encoder's token vectors, (T, H).
    ///
    /// # Errors
    /// [`TrainingError::Encode`] for a text that does not fit the table, [`TrainingError::Tensor`].
    pub fn forward(&self, texts: &[Tokens], dropout: &Dropout) -> Result<Tensor, TrainingError> {
        self.encode(texts, &self.pass(dropout)?)
    }

    /// Returns the vector of the decoder's first token for each text, (B, H), as OpenMatch takes it.
    ///
    /// # Errors
    /// As [`Self::forward`], and when the decoder was not read.
    pub fn forward_decoder(
        &self,
        texts: &[Tokens],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let decoder = self.decoder.as_ref();
        let decoder = decoder.ok_or_else(|| misfit("the decoder was not read".into()))?;
        let pass = self.pass(dropout)?;
        let hidden = self.encode(texts, &pass)?;
        let ids = vec![DECODER_START; texts.len()];
        let read = Some((&hidden, &lengths(texts)[..]));
        let pass = Pass {
            dropout: &dropout.by_text(),
            ..pass
        };
        self.through(decoder, &ids, &vec![1; texts.len()], read, &pass)
    }

    fn pass<'a>(&'a self, dropout: &'a Dropout) -> Result<Pass<'a>, TrainingError> {
        dropout.check()?;
        Ok(Pass {
            dropout,
            engine: &self.engine,
            n_places: Cell::new(0),
        })
    }

    fn encode(&self, texts: &[Tokens], pass: &Pass<'_>) -> Result<Tensor, TrainingError> {
        batch::check(self.architecture.limits(), texts)?;
        let ids: Vec<u32> = texts.iter().flat_map(|text| &text.ids).copied().collect();
        self.through(&self.encoder, &ids, &lengths(texts), None, pass)
    }

    /// Takes texts of these lengths through a stack and its last normalization; a decoder reads the encoder's token
    /// vectors of each text, given with their numbers.
    fn through(
        &self,
        stack: &Stack,
        ids: &[u32],
        lengths: &[usize],
        read: Option<(&Tensor, &[usize])>,
        pass: &Pass<'_>,
    ) -> Result<Tensor, TrainingError> {
        let stream = self.stream(stack, ids, lengths, read, pass)?;
        Ok(pass.drop_out(&stack.norm.forward(&stream)?)?)
    }

    /// Returns the residual stream behind the last block, (T, H).
    fn stream(
        &self,
        stack: &Stack,
        ids: &[u32],
        lengths: &[usize],
        read: Option<(&Tensor, &[usize])>,
        pass: &Pass<'_>,
    ) -> Result<Tensor, TrainingError> {
        let most = lengths.iter().copied().max().unwrap_or(0);
        if most == 0 {
            return Ok(embedding(&self.tokens, ids)?);
        }
        let relative = Arc::new(Relative::new(
            &stack.relative_bias,
            self.architecture.max_distance,
            most,
        ));
        let attend = |layer: &AttentionLayer,
                      stream: &Tensor,
                      (keys, key_lengths): (Option<&Tensor>, &[usize]),
                      relative|
         -> candle_core::Result<Tensor> {
            let normalized = layer.norm.forward(stream)?;
            let keys = keys.unwrap_or(&normalized);
            let parts = [
                &layer.query.forward(&normalized)?,
                &layer.key.forward(keys)?,
                &layer.value.forward(keys)?,
            ];
            let attend = Attend {
                n_heads: self.architecture.n_heads,
                scale: 1.0,
                dropout: pass.dropout,
                place: pass.place(),
                engine: &self.engine,
            };
            let context = attend.texts(parts, (lengths, key_lengths), relative)?;
            stream + pass.drop_out(&layer.output.forward(&context)?)?
        };
        let mut stream = pass.drop_out(&embedding(&self.tokens, ids)?)?;
        for block in &stack.blocks {
            let own = (None, lengths);
            stream = attend(
                &block.attention,
                &stream,
                own,
                Keys::Relative(relative.clone()),
            )?;
            if let (Some(layer), Some((hidden, lengths))) = (&block.cross_attention, read) {
                stream = attend(layer, &stream, (Some(hidden), lengths), Keys::All)?;
            }
            stream = block.feed_forward.forward(&stream, pass)?;
        }
        Ok(stream)
    }

    /// The encoder's residual stream behind the last block, which scaled weights shrink.
    #[cfg(test)]
    pub(crate) fn residual_stream(&self, texts: &[Tokens]) -> Result<Tensor, TrainingError> {
        let ids: Vec<u32> = texts.iter().flat_map(|text| &text.ids).copied().collect();
        let pass = self.pass(&Dropout::NONE)?;
        self.stream(&self.encoder, &ids, &lengths(texts), None, &pass)
    }
}

impl FeedForward {
    fn forward(&self, stream: &Tensor, pass: &Pass<'_>) -> candle_core::Result<Tensor> {
        let normalized = self.norm.forward(stream)?;
        let mut inner = self.activated.forward(&normalized)?;
        if let Some(linear) = &self.linear {
            inner = (inner * linear.forward(&normalized)?)?;
        }
        let output = self.output.forward(&pass.drop_out(&inner)?)?;
        stream + pass.drop_out(&output)?
    }
}

/// Reads parameters by the names of transformers.
struct Loader<'a> {
    checkpoint: Checkpoint,
    parameters: Parameters,
    prefix: &'a str,
    architecture: &'a T5Architecture,
    engine: &'a Arc<Engine>,
}

impl Loader<'_> {
    fn parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        kind: Kind,
    ) -> Result<Arc<Parameter>, TrainingError> {
        let name = format!("{name}.weight");
        let values = self.checkpoint.tensor(&name, shape)?;
        let name = format!("{}{name}", self.prefix);
        Ok(self.parameters.insert(&name, shape, values, kind)?)
    }

    fn linear(&mut self, name: &str, n_out: usize, n_in: usize) -> Result<Linear, TrainingError> {
        let weight = self.parameter(name, &[n_out, n_in], Kind::Matrix)?;
        Ok(Linear::without_bias(&weight, self.engine))
    }

    fn norm(&mut self, name: &str) -> Result<RmsNorm, TrainingError> {
        let weight = self.parameter(name, &[self.architecture.width], Kind::Plain)?;
        let epsilon = self.architecture.epsilon as f32;
        Ok(RmsNorm::new(weight, epsilon, self.engine))
    }

    fn stack(&mut self, name: &str, n_blocks: usize, reads: bool) -> Result<Stack, TrainingError> {
        let a = self.architecture;
        let block = |index: usize| format!("{name}.block.{index}.layer");
        // transformers decays no parameter with "bias" in its name.
        let relative_bias = self.parameter(
            &format!("{}.0.SelfAttention.relative_attention_bias", block(0)),
            &[a.n_buckets, a.n_heads],
            Kind::Plain,
        )?;
        let blocks = (0..n_blocks)
            .map(|index| {
                let layer = |place: usize| format!("{}.{place}", block(index));
                Ok(Block {
                    attention: self.attention(&layer(0), "SelfAttention")?,
                    cross_attention: reads
                        .then(|| self.attention(&layer(1), "EncDecAttention"))
                        .transpose()?,
                    feed_forward: self.feed_forward(&layer(1 + usize::from(reads)))?,
                })
            })
            .collect::<Result<_, TrainingError>>()?;
        Ok(Stack {
            blocks,
            relative_bias,
            norm: self.norm(&format!("{name}.final_layer_norm"))?,
        })
    }

    fn attention(&mut self, layer: &str, name: &str) -> Result<AttentionLayer, TrainingError> {
        let (width, inner) = (
            self.architecture.width,
            self.architecture.n_heads * self.architecture.head_width,
        );
        let name = |part: &str| format!("{layer}.{name}.{part}");
        Ok(AttentionLayer {
            norm: self.norm(&format!("{layer}.layer_norm"))?,
            query: self.linear(&name("q"), inner, width)?,
            key: self.linear(&name("k"), inner, width)?,
            value: self.linear(&name("v"), inner, width)?,
            output: self.linear(&name("o"), width, inner)?,
        })
    }

    fn feed_forward(&mut self, layer: &str) -> Result<FeedForward, TrainingError> {
        let a = self.architecture;
        let name = |part: &str| format!("{layer}.DenseReluDense.{part}");
        let mut rising = |part: &str| self.linear(&name(part), a.n_intermediate, a.width);
        let (activated, linear) = match a.gated {
            true => (rising("wi_0")?, Some(rising("wi_1")?)),
            false => (rising("wi")?, None),
        };
        Ok(FeedForward {
            norm: self.norm(&format!("{layer}.layer_norm"))?,
            activated: activated.with_activation(a.activation),
            linear,
            output: self.linear(&name("wo"), a.width, a.n_intermediate)?,
        })
    }
}
