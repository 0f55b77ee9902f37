//! Blocks that normalize first and add what they make of it: T5's encoder and decoder, and GPT-2.

use compute::Simd;

use crate::architecture::Activation;
use crate::kernel::{self, Format, Panels, Rows};
use crate::network::{PackedLinear, distance_bucket, relative_bucket};
use crate::weights::Linear;

/// A stack of blocks over a stream of token vectors, (T, H).
pub(super) struct Stack {
    pub(super) simd: Simd,
    pub(super) n_heads: usize,
    /// d
    pub(super) head_width: usize,
    pub(super) blocks: Vec<Block>,
    /// Behind the last block.
    pub(super) norm: Norm,
    /// Factor of the products of queries and keys.
    pub(super) scale: f32,
    pub(super) relative: Option<Relative>,
    /// Whether tokens see those before them alone.
    pub(super) is_causal: bool,
    pub(super) activation: Activation,
}

pub(super) struct Block {
    pub(super) attention: Attention,
    /// A decoder's, to what the encoder has made of the prompt.
    pub(super) reading: Option<Attention>,
    pub(super) feed_forward: FeedForward,
}

pub(super) struct Attention {
    pub(super) norm: Norm,
    /// (A · d, H)
    pub(super) queries: PackedLinear,
    /// Keys and values side by side, (2 A · d, H).
    pub(super) memory: PackedLinear,
    pub(super) output: PackedLinear,
}

/// `down (f(up x))`, or `down (f(up x) · gate x)`.
pub(super) struct FeedForward {
    pub(super) norm: Norm,
    pub(super) up: PackedLinear,
    pub(super) gate: Option<PackedLinear>,
    pub(super) down: PackedLinear,
}

/// With a bias the normalization of Ba et al. 2016 (arXiv 1607.06450), without one `x / √(mean(x²) + ε) · w`, Zhang &
/// Sennrich 2019 (arXiv 1910.07467).
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Option<Vec<f32>>,
    pub(super) epsilon: f32,
}

/// T5's bias of scores, by head and distance.
pub(super) struct Relative {
    /// From this distance on it stays the same.
    max_distance: i64,
    /// (A, 2 · `max_distance` + 1), from keys before the query to keys behind it.
    values: Vec<f32>,
}

/// Sequences of one prompt, which follow each other in the stream.
pub(super) struct Group {
    /// Place of the prompt.
    pub(super) text: usize,
    pub(super) sequences: Vec<Sequence>,
    /// What the decoder reads of the prompt, by block; empty without an encoder.
    pub(super) read: Vec<Vec<Head>>,
}

/// A text that is being read or written.
#[derive(Clone, Default)]
pub(super) struct Sequence {
    /// Which of the prompt's texts it is.
    pub(super) number: usize,
    /// The token to read next.
    pub(super) next: u32,
    /// Tokens that were read.
    pub(super) n_read: usize,
    /// Their keys and values, by block, (tokens, 2 A · d).
    pub(super) memory: Vec<Vec<f32>>,
}

/// Keys and values of one head.
#[derive(Default)]
pub(super) struct Head {
    keys: Panels,
    values: Panels,
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Buffers {
    rows: Rows,
    head: Head,
    scores: Vec<f32>,
}

pub(super) fn pack(simd: Simd, linear: &Linear) -> PackedLinear {
    PackedLinear::new(simd, Format::F32, linear)
}

impl Group {
    /// One sequence that has read nothing yet.
    pub(super) fn new(text: usize, next: u32) -> Self {
        let sequence = Sequence {
            next,
            ..Sequence::default()
        };
        Self {
            text,
            sequences: vec![sequence],
            read: Vec::new(),
        }
    }
}

impl Norm {
    pub(super) fn apply(&self, simd: Simd, rows: &mut [f32]) {
        let width = self.weight.len();
        if let Some(bias) = &self.bias {
            let zeros = vec![0.0; rows.len()];
            kernel::add_layer_norm(simd, rows, &zeros, &self.weight, bias, self.epsilon);
            return;
        }
        for row in rows.chunks_exact_mut(width) {
            let mean = kernel::squared_norm(simd, row) / width as f32;
            let scale = 1.0 / (mean + self.epsilon).sqrt();
            for (x, weight) in row.iter_mut().zip(&self.weight) {
                *x *= scale * weight;
            }
        }
    }

    fn of(&self, simd: Simd, rows: &[f32]) -> Vec<f32> {
        let mut rows = rows.to_vec();
        self.apply(simd, &mut rows);
        rows
    }
}

impl Relative {
    /// Spreads a table of (buckets, A): half of the buckets for each direction, or all of them for keys before the query.
    pub(super) fn new(table: &[f32], n_heads: usize, max_distance: usize, is_causal: bool) -> Self {
        let n_buckets = table.len() / n_heads;
        let most = max_distance as i64;
        let bucket = |offset: i64| match is_causal {
            true => distance_bucket((-offset).max(0) as usize, n_buckets, max_distance),
            false => relative_bucket(offset, n_buckets, max_distance),
        };
        let of_head =
            |head| (-most..=most).map(move |offset| table[bucket(offset) * n_heads + head]);
        Self {
            max_distance: most,
            values: (0..n_heads).flat_map(of_head).collect(),
        }
    }

    /// Adds the bias to the scores of a query at a position, from key 0 on.
    fn add(&self, head: usize, position: usize, scores: &mut [f32]) {
        let most = self.max_distance;
        let values = &self.values[head * (2 * most as usize + 1)..][..2 * most as usize + 1];
        for (key, score) in scores.iter_mut().enumerate() {
            let offset = (key as i64 - position as i64).clamp(-most, most);
            *score += values[(offset + most) as usize];
        }
    }
}

impl Head {
    /// Packs one head of rows of keys and values side by side.
    fn pack(
        &mut self,
        simd: Simd,
        memory: &[f32],
        head: usize,
        (n_heads, d): (usize, usize),
        rows: &mut Rows,
    ) {
        let (inner, stride) = (n_heads * d, 2 * n_heads * d);
        let length = memory.len() / stride;
        let keys = (&memory[head * d..], stride);
        self.keys
            .fill_transposed(simd, Format::F32, keys, length, d, rows);
        self.keys.widen();
        let values = (&memory[inner + head * d..], stride);
        self.values.fill(simd, Format::F32, values, length, d);
    }
}

impl Buffers {
    pub(super) fn product(&mut self, simd: Simd, linear: &PackedLinear, input: &[f32]) -> Vec<f32> {
        let n_in = linear.n_in();
        let mut out = vec![0.0; input.len() / n_in * linear.n_out()];
        linear.apply(simd, input, (&mut self.rows, None), &mut out);
        out
    }
}

impl Stack {
    /// Takes the next `n_new` tokens of each sequence through the blocks, and remembers them.
    pub(super) fn forward(
        &self,
        stream: &mut [f32],
        groups: &mut [Group],
        n_new: &[usize],
        buffers: &mut Buffers,
    ) {
        let simd = self.simd;
        for (index, block) in self.blocks.iter().enumerate() {
            let attention = &block.attention;
            let normalized = attention.norm.of(simd, stream);
            let queries = buffers.product(simd, &attention.queries, &normalized);
            let memory = buffers.product(simd, &attention.memory, &normalized);
            let context = self.attend(index, &queries, &memory, groups, n_new, buffers);
            self.add(&attention.output, &context, stream, buffers);
            if let Some(reading) = &block.reading {
                let normalized = reading.norm.of(simd, stream);
                let queries = buffers.product(simd, &reading.queries, &normalized);
                let context = self.read(index, &queries, groups, buffers);
                self.add(&reading.output, &context, stream, buffers);
            }
            let feed_forward = &block.feed_forward;
            let normalized = feed_forward.norm.of(simd, stream);
            let mut inner = buffers.product(simd, &feed_forward.up, &normalized);
            match self.activation {
                Activation::Gelu => kernel::gelu(simd, &mut inner),
                Activation::GeluTanh => kernel::gelu_tanh(simd, &mut inner),
                Activation::Relu => kernel::relu(simd, &mut inner),
                Activation::Silu => kernel::silu(simd, &mut inner),
            }
            if let Some(gate) = &feed_forward.gate {
                let linear = buffers.product(simd, gate, &normalized);
                for (x, linear) in inner.iter_mut().zip(linear) {
                    *x *= linear;
                }
            }
            self.add(&feed_forward.down, &inner, stream, buffers);
        }
        for (group, n_new) in groups.iter_mut().zip(n_new) {
            for sequence in &mut group.sequences {
                sequence.n_read += n_new;
            }
        }
    }

    fn add(&self, linear: &PackedLinear, input: &[f32], stream: &mut [f32], buffers: &mut Buffers) {
        let added = buffers.product(self.simd, linear, input);
        kernel::add_scaled(self.simd, stream, 1.0, &added);
    }

    /// The attention of each new token to its own sequence, (T, A · d).
    fn attend(
        &self,
        block: usize,
        queries: &[f32],
        memory: &[f32],
        groups: &mut [Group],
        n_new: &[usize],
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        let inner = self.n_heads * self.head_width;
        let mut context = vec![0.0; queries.len()];
        let mut rows = 0..0;
        for (group, n_new) in groups.iter_mut().zip(n_new) {
            for sequence in &mut group.sequences {
                rows = rows.end..rows.end + n_new;
                sequence.memory.resize_with(self.blocks.len(), Vec::new);
                let past = &mut sequence.memory[block];
                past.extend_from_slice(&memory[rows.start * 2 * inner..rows.end * 2 * inner]);
                if rows.is_empty() {
                    continue;
                }
                let place = rows.start * inner..rows.end * inner;
                let mut packed = std::mem::take(&mut buffers.head);
                for head in 0..self.n_heads {
                    let heads = (self.n_heads, self.head_width);
                    packed.pack(self.simd, past, head, heads, &mut buffers.rows);
                    let (queries, context) = (&queries[place.clone()], &mut context[place.clone()]);
                    let first = Some(sequence.n_read);
                    self.attend_head(head, first, queries, &packed, context, buffers);
                }
                buffers.head = packed;
            }
        }
        context
    }

    /// The attention of one new token of each sequence to the group's prompt.
    fn read(
        &self,
        block: usize,
        queries: &[f32],
        groups: &[Group],
        buffers: &mut Buffers,
    ) -> Vec<f32> {
        let inner = self.n_heads * self.head_width;
        let mut context = vec![0.0; queries.len()];
        let mut place = 0..0;
        for group in groups {
            place = place.end..place.end + group.sequences.len() * inner;
            for (head, packed) in group.read[block].iter().enumerate() {
                let (queries, context) = (&queries[place.clone()], &mut context[place.clone()]);
                self.attend_head(head, None, queries, packed, context, buffers);
            }
        }
        context
    }

    /// `softmax(Q Kᵀ · scale + B) V` of one head; the first query has a position where that matters.
    fn attend_head(
        &self,
        head: usize,
        first: Option<usize>,
        queries: &[f32],
        Head { keys, values }: &Head,
        context: &mut [f32],
        buffers: &mut Buffers,
    ) {
        let (simd, d, inner) = (self.simd, self.head_width, self.n_heads * self.head_width);
        let (n_queries, length, padded) = (queries.len() / inner, values.k(), keys.n());
        let Buffers { rows, scores, .. } = buffers;
        scores.resize(n_queries * padded, 0.0);
        rows.fill(simd, keys, (&queries[head * d..], inner), n_queries);
        kernel::multiply(simd, rows, keys, None, (scores, padded));
        if let Some(first) = first {
            for (position, scores) in (first..).zip(scores.chunks_exact_mut(padded)) {
                if let Some(relative) = &self.relative {
                    relative.add(head, position, &mut scores[..length]);
                }
                if self.is_causal {
                    scores[(position + 1).min(length)..].fill(f32::NEG_INFINITY);
                }
            }
        }
        rows.fill_softmax(simd, values, (scores, padded), self.scale);
        kernel::multiply(simd, rows, values, None, (&mut context[head * d..], inner));
    }

    /// What this decoder's blocks read of a prompt's token vectors.
    pub(super) fn prepare(&self, hidden: &[f32], buffers: &mut Buffers) -> Vec<Vec<Head>> {
        let readings = self
            .blocks
            .iter()
            .filter_map(|block| block.reading.as_ref());
        let prepare = |reading: &Attention| {
            let memory = buffers.product(self.simd, &reading.memory, hidden);
            let pack = |head| {
                let mut packed = Head::default();
                let heads = (self.n_heads, self.head_width);
                packed.pack(self.simd, &memory, head, heads, &mut buffers.rows);
                packed
            };
            (0..self.n_heads).map(pack).collect()
        };
        readings.map(prepare).collect()
    }
}
