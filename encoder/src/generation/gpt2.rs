use compute::Simd;

use super::stack::{self, Attention, Block, Buffers, FeedForward, Group, Norm, Stack};
use super::{rows_of, scores};
use crate::architecture::{Activation, Entries};
use crate::checkpoint::Checkpoint;
use crate::error::LoadError;
use crate::network::PackedLinear;
use crate::weights::Linear;

/// GPT-2, Radford et al. 2019: learned positions, normalizations with a bias, a head that is the table of tokens.
pub(super) struct Gpt2 {
    width: usize,
    tokens: Vec<f32>,
    /// (P, H)
    positions: Vec<f32>,
    stack: Stack,
    head: PackedLinear,
}

impl Gpt2 {
    pub(super) fn load(
        config: &Entries<'_>,
        checkpoint: &mut Checkpoint,
        simd: Simd,
    ) -> Result<Self, LoadError> {
        config.expect_false("scale_attn_by_inverse_layer_idx")?;
        config.expect_false("add_cross_attention")?;
        let (width, n_heads) = (config.size("n_embd")?, config.size("n_head")?);
        if !width.is_multiple_of(n_heads) {
            return Err(config.refuse(format!("{n_heads} heads of an n_embd of {width}")));
        }
        let scales =
            config.get("scale_attn_weights").is_none() || config.flag("scale_attn_weights")?;
        let activation = Activation::read(config, "activation_function", "gelu_new")?;
        let epsilon = config.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32;
        checkpoint.set_prefix("transformer.", "wte.weight");
        let n_vocabulary = config.size("vocab_size")?;
        let tokens = checkpoint.tensor("wte.weight", &[n_vocabulary, width])?;
        let head = match checkpoint.contains("lm_head.weight") {
            true => checkpoint.head_tensor("lm_head.weight", &[n_vocabulary, width])?,
            false => tokens.clone(),
        };
        let loader = Loader {
            checkpoint,
            simd,
            width,
            n_inner: config.count("n_inner")?.unwrap_or(4 * width),
            epsilon,
        };
        let blocks = 0..config.size("n_layer")?;
        Ok(Self {
            width,
            positions: checkpoint.tensor("wpe.weight", &[config.size("n_positions")?, width])?,
            stack: Stack {
                simd,
                n_heads,
                head_width: width / n_heads,
                blocks: blocks
                    .map(|index| loader.block(index))
                    .collect::<Result<_, _>>()?,
                norm: loader.norm("ln_f")?,
                scale: if scales {
                    ((width / n_heads) as f32).powf(-0.5)
                } else {
                    1.0
                },
                relative: None,
                is_causal: true,
                activation,
            },
            head: stack::pack(
                simd,
                &Linear {
                    weight: head,
                    bias: None,
                    n_in: width,
                    n_out: n_vocabulary,
                },
            ),
            tokens,
        })
    }

    pub(super) fn n_positions(&self) -> usize {
        self.positions.len() / self.width
    }

    /// Reads all of the prompts but their last tokens.
    pub(super) fn start(&self, prompts: &[Vec<u32>], buffers: &mut Buffers) -> Vec<Group> {
        let parts = prompts
            .iter()
            .map(|prompt| prompt.split_last().expect("a prompt has tokens"));
        let (last, rest): (Vec<&u32>, Vec<&[u32]>) = parts.unzip();
        let groups = last
            .iter()
            .enumerate()
            .map(|(text, last)| Group::new(text, **last));
        let mut groups: Vec<Group> = groups.collect();
        let lengths: Vec<usize> = rest.iter().map(|rest| rest.len()).collect();
        let places = lengths.iter().flat_map(|&length| 0..length);
        let mut stream = self.embed(rest.concat().into_iter(), places);
        if !stream.is_empty() {
            self.stack
                .forward(&mut stream, &mut groups, &lengths, buffers);
        }
        groups
    }

    pub(super) fn step(&self, groups: &mut [Group], buffers: &mut Buffers) -> Vec<f32> {
        let sequences = || groups.iter().flat_map(|group| &group.sequences);
        let next = sequences().map(|sequence| sequence.next);
        let mut stream = self.embed(next, sequences().map(|sequence| sequence.n_read));
        self.stack
            .forward(&mut stream, groups, &vec![1; groups.len()], buffers);
        scores(&self.stack, &self.head, stream, 1.0, buffers)
    }

    /// The sum of the tokens' and the places' vectors.
    fn embed(
        &self,
        ids: impl Iterator<Item = u32>,
        places: impl Iterator<Item = usize>,
    ) -> Vec<f32> {
        let mut stream = rows_of(&self.tokens, self.width, ids);
        for (row, place) in stream.chunks_exact_mut(self.width).zip(places) {
            for (x, position) in row.iter_mut().zip(&self.positions[place * self.width..]) {
                *x += position;
            }
        }
        stream
    }
}

/// Reads tensors by the names of transformers.
struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    simd: Simd,
    width: usize,
    n_inner: usize,
    epsilon: f32,
}

impl Loader<'_> {
    fn norm(&self, name: &str) -> Result<Norm, LoadError> {
        let part = |part: &str| {
            self.checkpoint
                .tensor(&format!("{name}.{part}"), &[self.width])
        };
        Ok(Norm {
            weight: part("weight")?,
            bias: Some(part("bias")?),
            epsilon: self.epsilon,
        })
    }

    fn block(&self, index: usize) -> Result<Block, LoadError> {
        let (width, n_inner) = (self.width, self.n_inner);
        let name = |part: &str| format!("h.{index}.{part}");
        let [queries, memory] = self.linear(&name("attn.c_attn"), width, [width, 2 * width])?;
        let [output] = self.linear(&name("attn.c_proj"), width, [width])?;
        let [up] = self.linear(&name("mlp.c_fc"), width, [n_inner])?;
        let [down] = self.linear(&name("mlp.c_proj"), n_inner, [width])?;
        Ok(Block {
            attention: Attention {
                norm: self.norm(&name("ln_1"))?,
                queries,
                memory,
                output,
            },
            reading: None,
            feed_forward: FeedForward {
                norm: self.norm(&name("ln_2"))?,
                up,
                gate: None,
                down,
            },
        })
    }

    /// Reads a layer that is stored as (in, out), cut into layers of so many columns.
    fn linear<const N: usize>(
        &self,
        name: &str,
        n_in: usize,
        widths: [usize; N],
    ) -> Result<[PackedLinear; N], LoadError> {
        let n_all = widths.iter().sum();
        let weight = self
            .checkpoint
            .tensor(&format!("{name}.weight"), &[n_in, n_all])?;
        let bias = self.checkpoint.tensor(&format!("{name}.bias"), &[n_all])?;
        let mut first = 0;
        Ok(widths.map(|n_out| {
            let columns = first..first + n_out;
            first += n_out;
            let column = |column: usize| weight[column..].iter().step_by(n_all).copied();
            stack::pack(
                self.simd,
                &Linear {
                    weight: columns.clone().flat_map(column).collect(),
                    bias: Some(bias[columns].to_vec()),
                    n_in,
                    n_out,
                },
            )
        }))
    }
}
