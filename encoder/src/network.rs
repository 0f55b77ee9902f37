//! The inference forward: packed texts of any length, no padding, on one thread, or one that a crew helps.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use compute::Simd;

use crate::architecture::{Activation, Architecture};
use crate::crew::Crew;
use crate::kernel::{self, Format, Panels, Rows};
use crate::tokenizer::Tokens;
use crate::weights::{LayerWeights, Linear, Norm, Weights};

/// Query rows whose attention scores are held at once: 64 · 512 floats stay in the L2 cache.
const ATTENTION_ROWS: usize = 64;
/// Rows that go through both feed-forward products at once: 64 · 1,536 floats stay in the L2 cache.
const FEED_FORWARD_ROWS: usize = 64;

/// A transformer with its weights packed for [`kernel::multiply`].
///
/// Every value depends on the tokens of its own text only, and is computed in the same order whatever texts stand
/// beside it: results are bit-equal for every grouping.
pub(crate) struct Network {
    simd: Simd,
    /// Format of queries, keys, attention weights and values.
    attention: Format,
    /// Whether GELU may have an error of 2e-6, which no product with smaller numbers notices.
    quick: bool,
    architecture: Architecture,
    tokens: Vec<f32>,
    positions: Vec<f32>,
    types: Vec<f32>,
    embedding_norm: Norm,
    /// Bias by head and offset of key to query, (heads, 2 P − 1); empty without relative positions.
    relative_bias: Vec<f32>,
    layers: Vec<Layer>,
}

struct Layer {
    /// Queries, keys and values of all heads side by side.
    projections: PackedLinear,
    output: PackedLinear,
    attention_norm: Norm,
    up: PackedLinear,
    down: PackedLinear,
    output_norm: Norm,
}

/// Which vectors of the last layer are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    AllTokens,
    /// Those of each text's first token: most of the last layer is left out.
    FirstTokens,
}

/// A linear layer with packed weights.
pub(crate) struct PackedLinear {
    panels: Panels,
    bias: Option<Vec<f32>>,
}

impl PackedLinear {
    pub(crate) fn new(simd: Simd, format: Format, linear: &Linear) -> Self {
        let Linear {
            weight,
            n_in,
            n_out,
            ..
        } = linear;
        Self {
            panels: Panels::from_transposed(simd, format, weight, *n_out, *n_in),
            bias: linear.bias.clone(),
        }
    }

    pub(crate) fn n_in(&self) -> usize {
        self.panels.k()
    }

    pub(crate) fn n_out(&self) -> usize {
        self.panels.n()
    }

    /// Computes `out = input · Wᵀ + b` for rows that follow each other; `rows` holds them in the weights' format, and the
    /// work is divided among the threads of a crew, if there is one.
    pub(crate) fn apply(
        &self,
        simd: Simd,
        input: &[f32],
        (rows, crew): (&mut Rows, Option<&Crew>),
        out: &mut [f32],
    ) {
        self.apply_then(simd, input, (rows, crew), out, |_, _| ());
    }

    /// As [`Self::apply`], with a function of single values applied to `out`.
    fn apply_then(
        &self,
        simd: Simd,
        input: &[f32],
        (rows, crew): (&mut Rows, Option<&Crew>),
        out: &mut [f32],
        then: fn(Simd, &mut [f32]),
    ) {
        let n_in = self.panels.k();
        kernel::count(simd, self.panels.format());
        rows.fill(simd, &self.panels, (input, n_in), input.len() / n_in);
        let (panels, bias, stride) = (&self.panels, self.bias.as_deref(), self.n_out());
        match crew {
            Some(crew) => {
                kernel::multiply_shared(simd, crew, rows, panels, bias, (out, stride), then);
            }
            None => {
                kernel::multiply(simd, rows, panels, bias, (out, stride));
                then(simd, out);
            }
        }
    }
}

/// Buffers of one thread, reused from group to group.
#[derive(Default)]
pub(crate) struct Workspace {
    /// The other threads of the pool, where they have nothing to do: products and heads are divided among them.
    pub(crate) crew: Option<Arc<Crew>>,
    hidden: Vec<f32>,
    projected: Vec<f32>,
    context: Vec<f32>,
    summed: Vec<f32>,
    intermediate: Vec<f32>,
    /// The left operand of the product at hand.
    rows: Rows,
    /// One for each part of a text's heads; a part is taken by one thread, so nobody waits for the lock.
    attention: Vec<Mutex<Attention>>,
}

/// Buffers of the attention of a few heads.
#[derive(Default)]
struct Attention {
    rows: Rows,
    /// Keys on their way into panels.
    columns: Rows,
    scores: Vec<f32>,
    keys: Panels,
    values: Panels,
    /// What the heads of one part of several computed.
    context: Vec<f32>,
}

impl Network {
    pub(crate) fn new(
        simd: Simd,
        format: Format,
        architecture: &Architecture,
        weights: Weights,
    ) -> Self {
        let pack = |layer| Layer::new(simd, format, layer);
        Self {
            simd,
            attention: match format {
                Format::Int8 if simd.has_bf16() => Format::Bf16,
                Format::Int8 | Format::Bf16x3 => Format::Fixed16,
                format => format,
            },
            quick: format != Format::F32,
            relative_bias: relative_bias(architecture, &weights.relative_bias),
            architecture: architecture.clone(),
            tokens: weights.tokens,
            positions: weights.positions,
            types: weights.types,
            embedding_norm: weights.embedding_norm,
            layers: weights.layers.into_iter().map(pack).collect(),
        }
    }

    /// Computes the last layer's token vectors of a group of texts, one text after the other, (tokens, H); where only
    /// the first token's are `wanted`, (texts, H).
    pub(crate) fn forward<'a>(
        &self,
        group: &[&Tokens],
        wanted: Wanted,
        workspace: &'a mut Workspace,
    ) -> &'a [f32] {
        let Workspace {
            hidden,
            projected,
            context,
            summed,
            intermediate,
            ..
        } = workspace;
        let (width, n_intermediate) = (self.architecture.width, self.architecture.n_intermediate);
        let n_tokens: usize = group.iter().map(|text| text.len()).sum();
        for (buffer, columns) in [
            (hidden, width),
            (projected, 3 * width),
            (context, width),
            (summed, width),
        ] {
            buffer.resize(n_tokens * columns, 0.0);
        }
        intermediate.resize(n_tokens.min(FEED_FORWARD_ROWS) * n_intermediate, 0.0);
        let activation = match self.architecture.activation {
            Activation::Gelu if self.quick => kernel::quick_gelu,
            Activation::Gelu => kernel::gelu,
            Activation::GeluTanh => kernel::gelu_tanh,
            Activation::Relu => kernel::relu,
            Activation::Silu => kernel::silu,
        };
        let crew = workspace.crew.clone();
        let crew = crew.as_deref();
        self.embed(group, workspace);
        for (index, layer) in self.layers.iter().enumerate() {
            let first_only = wanted == Wanted::FirstTokens && index + 1 == self.layers.len();
            let Workspace {
                hidden,
                projected,
                rows,
                ..
            } = workspace;
            layer
                .projections
                .apply(self.simd, hidden, (rows, crew), projected); // (T, 3 H)
            let (mut start, mut n_rows) = (0, 0);
            for text in group {
                let n_queries = if first_only { 1 } else { text.len() };
                self.attend(start, text.len(), n_queries, n_rows, workspace);
                if first_only {
                    let first = start * width..(start + 1) * width;
                    workspace.hidden.copy_within(first, n_rows * width);
                }
                start += text.len();
                n_rows += n_queries;
            }
            let Workspace {
                hidden,
                context,
                summed,
                intermediate,
                rows,
                ..
            } = workspace;
            for buffer in [&mut *hidden, context, summed] {
                buffer.truncate(n_rows * width);
            }
            layer.output.apply(self.simd, context, (rows, crew), summed); // (T, H)
            self.add_norm(summed, hidden, &layer.attention_norm);
            let chunks = summed.chunks(FEED_FORWARD_ROWS * width);
            for (input, out) in chunks.zip(hidden.chunks_mut(FEED_FORWARD_ROWS * width)) {
                let inner = &mut intermediate[..input.len() / width * n_intermediate];
                layer
                    .up
                    .apply_then(self.simd, input, (rows, crew), inner, activation); // (rows, I)
                layer.down.apply(self.simd, inner, (rows, crew), out); // (rows, H)
                self.add_norm(out, input, &layer.output_norm);
            }
        }
        &workspace.hidden
    }

    fn add_norm(&self, rows: &mut [f32], residual: &[f32], norm: &Norm) {
        let epsilon = self.architecture.epsilon as f32;
        kernel::add_layer_norm(self.simd, rows, residual, &norm.weight, &norm.bias, epsilon);
    }

    /// Sums the tables' rows of each token into `hidden` and normalizes them.
    fn embed(&self, group: &[&Tokens], workspace: &mut Workspace) {
        let width = self.architecture.width;
        let row = |index: u32| index as usize * width..(index as usize + 1) * width;
        let mut start = 0;
        for text in group {
            let positions = self.architecture.positions(&text.ids);
            for ((&id, &type_id), &position) in text.ids.iter().zip(&text.type_ids).zip(&positions)
            {
                let token = &self.tokens[row(id)];
                let position = &self.positions[row(position)];
                let (hidden, added) = (
                    &mut workspace.hidden[start..],
                    &mut workspace.summed[start..],
                );
                hidden[..width].copy_from_slice(token);
                added[..width].copy_from_slice(position);
                if !self.types.is_empty() {
                    kernel::add_scaled(
                        self.simd,
                        &mut hidden[..width],
                        1.0,
                        &self.types[row(type_id)],
                    );
                }
                start += width;
            }
        }
        self.add_norm(
            &mut workspace.hidden,
            &workspace.summed,
            &self.embedding_norm,
        );
    }

    /// Computes the attention of one text, which is `length` rows of `projected` from `first` on, for its first
    /// `n_queries` tokens, to `context` from row `target` on. The heads are divided among the threads of a crew.
    fn attend(
        &self,
        first: usize,
        length: usize,
        n_queries: usize,
        target: usize,
        workspace: &mut Workspace,
    ) {
        let Workspace {
            crew,
            projected,
            context,
            attention,
            ..
        } = workspace;
        let (width, n_heads) = (self.architecture.width, self.architecture.n_heads);
        let stride = 3 * width;
        let projected = &projected[first * stride..(first + length) * stride];
        let n_parts = crew
            .as_ref()
            .map_or(1, |crew| crew.n_threads())
            .min(n_heads);
        attention.resize_with(n_parts.max(attention.len()), Mutex::default);
        let context = &mut context[target * width..(target + n_queries) * width];
        let Some(crew) = crew else {
            let buffers = lock(&mut attention[0]);
            self.attend_heads(projected, 0..n_heads, (context, width), buffers);
            return;
        };
        let heads = |part: usize| part * n_heads / n_parts..(part + 1) * n_heads / n_parts;
        let d = width / n_heads;
        crew.share(n_parts, &|part| {
            let mut buffers = attention[part]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let mut context = std::mem::take(&mut buffers.context);
            let part_width = heads(part).len() * d;
            context.resize(n_queries * part_width, 0.0);
            let out = (&mut context[..], part_width);
            self.attend_heads(projected, heads(part), out, &mut buffers);
            buffers.context = context;
        });
        for (part, buffers) in attention.iter_mut().take(n_parts).enumerate() {
            let columns = heads(part).start * d..heads(part).end * d;
            let parts = lock(buffers).context.chunks_exact(columns.len());
            for (row, part) in context.chunks_exact_mut(width).zip(parts) {
                row[columns.clone()].copy_from_slice(part);
            }
        }
    }

    /// Computes `softmax(Q Kᵀ / √d) V` of a few heads of a text, for as many of its first tokens as `context` has rows:
    /// those are (heads · d) wide and start every `context_stride` floats.
    fn attend_heads(
        &self,
        projected: &[f32],
        heads: Range<usize>,
        (context, context_stride): (&mut [f32], usize),
        buffers: &mut Attention,
    ) {
        let Attention {
            rows,
            columns,
            scores,
            keys,
            values,
            ..
        } = buffers;
        let (width, n_heads) = (self.architecture.width, self.architecture.n_heads);
        let (simd, format) = (self.simd, self.attention);
        let (stride, d) = (3 * width, width / n_heads);
        let (length, n_queries) = (projected.len() / stride, context.len() / context_stride);
        let scale = 1.0 / (d as f32).sqrt();
        let padded = Panels::padded(length);
        scores.resize(ATTENTION_ROWS.min(n_queries) * padded, 0.0);
        for (column, head) in heads.enumerate() {
            let queries = &projected[head * d..];
            let head_keys = (&projected[width + head * d..], stride);
            keys.fill_transposed(simd, format, head_keys, length, d, columns);
            keys.widen();
            let head_values = (&projected[2 * width + head * d..], stride);
            values.fill(simd, format, head_values, length, d);
            for row in (0..n_queries).step_by(ATTENTION_ROWS) {
                let n_rows = ATTENTION_ROWS.min(n_queries - row);
                rows.fill(simd, keys, (&queries[row * stride..], stride), n_rows);
                let scores = &mut scores[..n_rows * padded];
                kernel::multiply(simd, rows, keys, None, (scores, padded)); // (rows, L)
                let mut softmax_scale = scale;
                if !self.relative_bias.is_empty() {
                    for (i, scores) in scores.chunks_exact_mut(padded).enumerate() {
                        let biases = self.relative_biases(head, row + i, length);
                        kernel::scale(simd, scores, scale);
                        kernel::add_scaled(simd, scores, 1.0, biases);
                    }
                    softmax_scale = 1.0;
                }
                rows.fill_softmax(simd, values, (scores, padded), softmax_scale);
                let context = &mut context[row * context_stride + column * d..];
                kernel::multiply(simd, rows, values, None, (context, context_stride)); // (rows, d)
            }
        }
    }

    /// What is added to the scores of one query row, by key.
    fn relative_biases(&self, head: usize, query: usize, length: usize) -> &[f32] {
        let n_positions = self.architecture.n_positions;
        let start = head * (2 * n_positions - 1) + n_positions - 1 - query;
        &self.relative_bias[start..start + length]
    }
}

impl Layer {
    fn new(simd: Simd, format: Format, weights: LayerWeights) -> Self {
        let pack = |linear: &Linear| PackedLinear::new(simd, format, linear);
        Self {
            projections: pack(&weights.projections()),
            output: pack(&weights.output),
            up: pack(&weights.up),
            down: pack(&weights.down),
            attention_norm: weights.attention_norm,
            output_norm: weights.output_norm,
        }
    }
}

/// The buffers themselves, where no other thread can hold them.
fn lock(buffers: &mut Mutex<Attention>) -> &mut Attention {
    buffers.get_mut().unwrap_or_else(PoisonError::into_inner)
}

/// Lays out MPNet's bias table by head and offset of key to query, from 1 − P to P − 1.
pub(crate) fn relative_bias(architecture: &Architecture, table: &[f32]) -> Vec<f32> {
    if table.is_empty() {
        return Vec::new();
    }
    let (n_positions, n_heads) = (architecture.n_positions as i64, architecture.n_heads);
    let offsets = || 1 - n_positions..n_positions;
    (0..n_heads)
        .flat_map(|head| offsets().map(move |offset| (head, offset)))
        .map(|(head, offset)| table[mpnet_bucket(offset, architecture.n_buckets) * n_heads + head])
        .collect()
}

/// The buckets of MPNet.
pub(crate) fn mpnet_bucket(offset: i64, n_buckets: usize) -> usize {
    relative_bucket(offset, n_buckets, 128)
}

/// Bucket of an offset of key to query: half of the buckets for each direction, half of those for single offsets, the
/// others growing up to `max_distance`. Raffel et al. 2020 (arXiv 1910.10683), §2.1.
pub(crate) fn relative_bucket(offset: i64, n_buckets: usize, max_distance: usize) -> usize {
    let half = n_buckets / 2;
    let base = if offset > 0 { half } else { 0 };
    base + distance_bucket(offset.unsigned_abs() as usize, half, max_distance)
}

/// Bucket of a distance where there is one direction.
pub(crate) fn distance_bucket(distance: usize, n_buckets: usize, max_distance: usize) -> usize {
    let exact = n_buckets / 2;
    if distance < exact {
        return distance;
    }
    // In f32 and in this order, as the reference computes it: the truncation is sensitive to the last bit.
    let ratio =
        (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    (exact + (ratio * (n_buckets - exact) as f32) as usize).min(n_buckets - 1)
}
