//! The first step of T5's decoder, whose vector candle-transformers keeps to itself.

use candle_core::{Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use candle_nn::{Embedding, Linear, Module, RmsNorm, VarBuilder, linear_no_bias, rms_norm};

use crate::t5::{DECODER_START, T5Architecture};

/// A decoder that reads the padding token alone, as OpenMatch does it.
pub(crate) struct FirstStep {
    /// The token's row, (1, H).
    start: Tensor,
    blocks: Vec<Block>,
    norm: RmsNorm,
    n_heads: usize,
}

struct Block {
    /// Attention to the one position there is: queries and keys decide nothing.
    own: (RmsNorm, Linear, Linear),
    norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    feed_forward: FeedForward,
}

struct FeedForward {
    norm: RmsNorm,
    activated: Linear,
    activation: candle_nn::Activation,
    linear: Option<Linear>,
    output: Linear,
}

impl FirstStep {
    pub(super) fn load(a: &T5Architecture, weights: &VarBuilder<'_>) -> Result<Self> {
        let table = weights.get((a.n_vocabulary, a.width), "shared.weight")?;
        let start = Tensor::new(&[DECODER_START], table.device())?;
        let blocks = weights.pp("decoder.block");
        Ok(Self {
            start: Embedding::new(table, a.width).forward(&start)?,
            blocks: (0..a.n_decoder_layers)
                .map(|index| Block::load(a, &blocks.pp(index).pp("layer")))
                .collect::<Result<_>>()?,
            norm: norm(a, &weights.pp("decoder.final_layer_norm"))?,
            n_heads: a.n_heads,
        })
    }

    /// Returns the token's vector, (1, H), after reading the encoder's token vectors of a text, (L, H).
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let mut stream = self.start.clone();
        for block in &self.blocks {
            let (norm, value, output) = &block.own;
            stream = (&stream + output.forward(&value.forward(&norm.forward(&stream)?)?)?)?;
            stream = (&stream + block.read(&stream, hidden, self.n_heads)?)?;
            stream = (&stream + block.feed_forward.forward(&stream)?)?;
        }
        self.norm.forward(&stream)
    }
}

impl Block {
    fn load(a: &T5Architecture, weights: &VarBuilder<'_>) -> Result<Self> {
        let inner = a.n_heads * a.head_width;
        let (own, reading) = (weights.pp("0"), weights.pp("1"));
        let own_part = own.pp("SelfAttention");
        let part = reading.pp("EncDecAttention");
        Ok(Self {
            own: (
                norm(a, &own.pp("layer_norm"))?,
                linear_no_bias(a.width, inner, own_part.pp("v"))?,
                linear_no_bias(inner, a.width, own_part.pp("o"))?,
            ),
            norm: norm(a, &reading.pp("layer_norm"))?,
            query: linear_no_bias(a.width, inner, part.pp("q"))?,
            key: linear_no_bias(a.width, inner, part.pp("k"))?,
            value: linear_no_bias(a.width, inner, part.pp("v"))?,
            output: linear_no_bias(inner, a.width, part.pp("o"))?,
            feed_forward: FeedForward::load(a, &weights.pp("2"))?,
        })
    }

    /// Attends to the encoder's token vectors: (1, H) and (L, H) → (1, H).
    fn read(&self, stream: &Tensor, hidden: &Tensor, n_heads: usize) -> Result<Tensor> {
        let heads = |x: Tensor| {
            let (n_rows, inner) = x.dims2()?;
            let x = x.reshape((n_rows, n_heads, inner / n_heads))?;
            x.transpose(0, 1)?.contiguous() // (A, rows, d)
        };
        let query = heads(self.query.forward(&self.norm.forward(stream)?)?)?;
        let key = heads(self.key.forward(hidden)?)?;
        let value = heads(self.value.forward(hidden)?)?;
        let weights = softmax_last_dim(&query.matmul(&key.t()?)?)?; // (A, 1, L)
        let context = weights.matmul(&value)?; // (A, 1, d)
        self.output.forward(&context.reshape((1, ()))?)
    }
}

impl FeedForward {
    fn load(a: &T5Architecture, weights: &VarBuilder<'_>) -> Result<Self> {
        let part = weights.pp("DenseReluDense");
        let rising = |name: &str| linear_no_bias(a.width, a.n_intermediate, part.pp(name));
        let (activated, linear) = match a.gated {
            true => (rising("wi_0")?, Some(rising("wi_1")?)),
            false => (rising("wi")?, None),
        };
        Ok(Self {
            norm: norm(a, &weights.pp("layer_norm"))?,
            activated,
            activation: super::candle_activation(a.activation),
            linear,
            output: linear_no_bias(a.n_intermediate, a.width, part.pp("wo"))?,
        })
    }

    fn forward(&self, stream: &Tensor) -> Result<Tensor> {
        let normalized = self.norm.forward(stream)?;
        let inner = self
            .activation
            .forward(&self.activated.forward(&normalized)?)?;
        self.output.forward(&match &self.linear {
            Some(linear) => (inner * linear.forward(&normalized)?)?,
            None => inner,
        })
    }
}

fn norm(a: &T5Architecture, weights: &VarBuilder<'_>) -> Result<RmsNorm> {
    rms_norm(a.width, a.epsilon, weights.clone())
}
