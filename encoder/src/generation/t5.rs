use compute::Simd;

use super::stack::{Attention, Block, Buffers, FeedForward, Group, Norm, Relative, Stack};
use super::{linear, rows_of, scores};
use crate::architecture::Entries;
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::network::PackedLinear;
use crate::t5::{DECODER_START, T5Architecture};

pub(super) use crate::t5::MOST_TOKENS;

/// T5, Raffel et al. 2020 (arXiv 1910.10683), with its decoder and head; doc2query is one, Nogueira et al. 2019
/// (arXiv 1904.08375).
pub(super) struct T5 {
    width: usize,
    /// (V, H), of both stacks.
    tokens: Vec<f32>,
    encoder: Stack,
    decoder: Stack,
    head: PackedLinear,
    /// Before the head: version 1.0, whose head is the table of tokens, shrinks what goes in.
    scale: f32,
    /// The token that the decoder reads first.
    start: u32,
}

impl T5 {
    pub(super) fn load(
        config: &Entries<'_>,
        checkpoint: &Checkpoint,
        simd: Simd,
    ) -> Result<Self, LoadError> {
        let a = &T5Architecture::from_entries(config)?;
        if a.max_distance <= a.n_buckets / 2 || a.n_decoder_layers == 0 {
            return Err(config.refuse(format!(
                "{} decoder layers, relative_attention_num_buckets {} for distances up to {}",
                a.n_decoder_layers, a.n_buckets, a.max_distance
            )));
        }
        let start = match config.count("decoder_start_token_id")? {
            Some(start) => Some(start),
            None => config.count("pad_token_id")?,
        };
        let start = start.unwrap_or(DECODER_START as usize);
        if start >= a.n_vocabulary {
            return Err(config.refuse(format!("decoder_start_token_id is {start}")));
        }
        let shape = [a.n_vocabulary, a.width];
        let name = match checkpoint.contains("lm_head.weight") {
            true => "lm_head",
            false => "shared",
        };
        // Whether outputs shrink is an entry of its own since transformers 5.
        let shrinks = match config.get("scale_decoder_outputs") {
            Some(_) => config.flag("scale_decoder_outputs")?,
            None => {
                config.get("tie_word_embeddings").is_none() || config.flag("tie_word_embeddings")?
            }
        };
        let loader = Loader {
            a,
            checkpoint,
            simd,
        };
        Ok(Self {
            width: a.width,
            tokens: checkpoint.tensor("shared.weight", &shape)?,
            encoder: loader.stack("encoder", a.n_layers, false)?,
            decoder: loader.stack("decoder", a.n_decoder_layers, true)?,
            head: linear(
                checkpoint,
                simd,
                &[name.to_owned()],
                (a.n_vocabulary, a.width),
            )?,
            scale: if shrinks {
                (a.width as f32).powf(-0.5)
            } else {
                1.0
            },
            start: start as u32,
        })
    }

    pub(super) fn start(&self, prompts: &[Vec<u32>], buffers: &mut Buffers) -> Vec<Group> {
        let mut read: Vec<Group> = (0..prompts.len()).map(|text| Group::new(text, 0)).collect();
        let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
        let ids = prompts.iter().flatten().copied();
        let mut hidden = rows_of(&self.tokens, self.width, ids);
        self.encoder
            .forward(&mut hidden, &mut read, &lengths, buffers);
        self.encoder.norm.apply(self.encoder.simd, &mut hidden);
        let mut rest = &hidden[..];
        let prepare = |(text, length): (usize, &usize)| {
            let hidden = rest.split_off(..length * self.width);
            Group {
                read: self
                    .decoder
                    .prepare(hidden.expect("rows of each prompt"), buffers),
                ..Group::new(text, self.start)
            }
        };
        lengths.iter().enumerate().map(prepare).collect()
    }

    pub(super) fn step(&self, groups: &mut [Group], buffers: &mut Buffers) -> Vec<f32> {
        let next = groups.iter().flat_map(|group| &group.sequences);
        let mut stream = rows_of(&self.tokens, self.width, next.map(|sequence| sequence.next));
        self.decoder
            .forward(&mut stream, groups, &vec![1; groups.len()], buffers);
        scores(&self.decoder, &self.head, stream, self.scale, buffers)
    }
}

/// Reads tensors by the names of transformers.
struct Loader<'a> {
    a: &'a T5Architecture,
    checkpoint: &'a Checkpoint,
    simd: Simd,
}

impl Loader<'_> {
    fn linear(
        &self,
        names: &[String],
        n_out: usize,
        n_in: usize,
    ) -> Result<PackedLinear, LoadError> {
        linear(self.checkpoint, self.simd, names, (n_out, n_in))
    }

    fn norm(&self, name: &str) -> Result<Norm, LoadError> {
        Ok(Norm {
            weight: self
                .checkpoint
                .tensor(&format!("{name}.weight"), &[self.a.width])?,
            bias: None,
            epsilon: self.a.epsilon as f32,
        })
    }

    fn stack(&self, name: &str, n_blocks: usize, is_decoder: bool) -> Result<Stack, LoadError> {
        let a = self.a;
        let block = |index: usize| -> Result<Block, LoadError> {
            let layer = |place: usize| format!("{name}.block.{index}.layer.{place}");
            Ok(Block {
                attention: self.attention(&layer(0), "SelfAttention")?,
                reading: is_decoder
                    .then(|| self.attention(&layer(1), "EncDecAttention"))
                    .transpose()?,
                feed_forward: self.feed_forward(&layer(1 + usize::from(is_decoder)))?,
            })
        };
        let bias = format!("{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let bias = self.checkpoint.tensor(&bias, &[a.n_buckets, a.n_heads])?;
        Ok(Stack {
            simd: self.simd,
            n_heads: a.n_heads,
            head_width: a.head_width,
            blocks: (0..n_blocks).map(block).collect::<Result<_, _>>()?,
            norm: self.norm(&format!("{name}.final_layer_norm"))?,
            scale: 1.0,
            relative: Some(Relative::new(&bias, a.n_heads, a.max_distance, is_decoder)),
            is_causal: is_decoder,
            activation: a.activation,
        })
    }

    fn attention(&self, layer: &str, name: &str) -> Result<Attention, LoadError> {
        let (width, inner) = (self.a.width, self.a.n_heads * self.a.head_width);
        let name = |part: &str| format!("{layer}.{name}.{part}");
        Ok(Attention {
            norm: self.norm(&format!("{layer}.layer_norm"))?,
            queries: self.linear(&[name("q")], inner, width)?,
            memory: self.linear(&[name("k"), name("v")], inner, width)?,
            output: self.linear(&[name("o")], width, inner)?,
        })
    }

    fn feed_forward(&self, layer: &str) -> Result<FeedForward, LoadError> {
        let a = self.a;
        let name = |part: &str| format!("{layer}.DenseReluDense.{part}");
        let rising = |part: &str| self.linear(&[name(part)], a.n_intermediate, a.width);
        let (up, gate) = match a.gated {
            true => (rising("wi_0")?, Some(rising("wi_1")?)),
            false => (rising("wi")?, None),
        };
        Ok(FeedForward {
            norm: self.norm(&format!("{layer}.layer_norm"))?,
            up,
            gate,
            down: self.linear(&[name("wo")], a.width, a.n_intermediate)?,
        })
    }
}
