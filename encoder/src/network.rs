//! The inference forward: packed texts of any length, no padding, one thread.

use compute::Simd;

use crate::architecture::{Activation, Architecture};
use crate::kernel::{self, Panels};
use crate::tokenizer::Tokens;
use crate::weights::{LayerWeights, Linear, Norm, Weights};

/// Query rows whose attention scores are held at once: 64 · 512 floats stay in the L2 cache.
const ATTENTION_ROWS: usize = 64;

/// A transformer with its weights packed for [`kernel::multiply`].
///
/// Every value depends on the tokens of its own text only, and is computed in the same order whatever texts stand
/// beside it: results are bit-equal for every grouping.
pub(crate) struct Network {
    simd: Simd,
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

/// A linear layer with packed weights.
pub(crate) struct PackedLinear {
    panels: Panels,
    bias: Option<Vec<f32>>,
}

impl PackedLinear {
    pub(crate) fn new(linear: &Linear) -> Self {
        Self {
            panels: Panels::from_transposed(&linear.weight, linear.n_out, linear.n_in),
            bias: linear.bias.clone(),
        }
    }

    pub(crate) fn n_out(&self) -> usize {
        self.panels.n()
    }

    /// Computes `out = input · Wᵀ + b` for `n_rows` rows that follow each other.
    pub(crate) fn apply(&self, simd: Simd, input: &[f32], out: &mut [f32], n_rows: usize) {
        let (n_in, n_out) = (input.len() / n_rows.max(1), self.n_out());
        kernel::multiply(
            simd,
            (input, n_in),
            &self.panels,
            self.bias.as_deref(),
            (out, n_out),
            n_rows,
        );
    }
}

/// Buffers of one thread, reused from group to group.
#[derive(Default)]
pub(crate) struct Workspace {
    hidden: Vec<f32>,
    projected: Vec<f32>,
    context: Vec<f32>,
    summed: Vec<f32>,
    intermediate: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
    keys: Panels,
    values: Panels,
}

impl Network {
    pub(crate) fn new(simd: Simd, architecture: &Architecture, weights: Weights) -> Self {
        Self {
            simd,
            relative_bias: relative_bias(architecture, &weights.relative_bias),
            architecture: architecture.clone(),
            tokens: weights.tokens,
            positions: weights.positions,
            types: weights.types,
            embedding_norm: weights.embedding_norm,
            layers: weights.layers.into_iter().map(Layer::new).collect(),
        }
    }

    /// Computes the last layer's token vectors of a group of texts, one text after the other, (tokens, H).
    pub(crate) fn forward<'a>(&self, group: &[&Tokens], workspace: &'a mut Workspace) -> &'a [f32] {
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
            (intermediate, n_intermediate),
        ] {
            buffer.resize(n_tokens * columns, 0.0);
        }
        self.embed(group, workspace);
        for layer in &self.layers {
            layer.projections.apply(
                self.simd,
                &workspace.hidden,
                &mut workspace.projected,
                n_tokens,
            ); // (T, 3 H)
            let mut start = 0;
            for text in group {
                self.attend(start, text.len(), workspace);
                start += text.len();
            }
            layer.output.apply(
                self.simd,
                &workspace.context,
                &mut workspace.summed,
                n_tokens,
            ); // (T, H)
            self.add_norm(
                &mut workspace.summed,
                &workspace.hidden,
                &layer.attention_norm,
            );
            layer.up.apply(
                self.simd,
                &workspace.summed,
                &mut workspace.intermediate,
                n_tokens,
            ); // (T, I)
            match self.architecture.activation {
                Activation::Gelu => kernel::gelu(self.simd, &mut workspace.intermediate),
                Activation::GeluTanh => kernel::gelu_tanh(self.simd, &mut workspace.intermediate),
                Activation::Relu => kernel::relu(self.simd, &mut workspace.intermediate),
                Activation::Silu => kernel::silu(self.simd, &mut workspace.intermediate),
            }
            layer.down.apply(
                self.simd,
                &workspace.intermediate,
                &mut workspace.hidden,
                n_tokens,
            ); // (T, H)
            self.add_norm(&mut workspace.hidden, &workspace.summed, &layer.output_norm);
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

    /// Computes the attention of one text: `softmax(Q Kᵀ / √d) V` for each head, from `projected` to `context`.
    fn attend(&self, first: usize, length: usize, workspace: &mut Workspace) {
        let Workspace {
            projected,
            context,
            scores,
            sums,
            keys,
            values,
            ..
        } = workspace;
        let (width, n_heads) = (self.architecture.width, self.architecture.n_heads);
        let (stride, d) = (3 * width, width / n_heads);
        let projected = &projected[first * stride..(first + length) * stride];
        let context = &mut context[first * width..(first + length) * width];
        let scale = 1.0 / (d as f32).sqrt();
        let columns = Panels::padded(length);
        scores.resize(ATTENTION_ROWS.min(length) * columns, 0.0);
        sums.resize(ATTENTION_ROWS.min(length), 0.0);
        for head in 0..n_heads {
            let queries = &projected[head * d..];
            keys.fill_transposed(&projected[width + head * d..], stride, length, d);
            keys.widen();
            values.fill(&projected[2 * width + head * d..], stride, length, d);
            for row in (0..length).step_by(ATTENTION_ROWS) {
                let n_rows = ATTENTION_ROWS.min(length - row);
                let queries = (&queries[row * stride..], stride);
                kernel::multiply(self.simd, queries, keys, None, (scores, columns), n_rows); // (rows, L)
                for (i, scores) in scores.chunks_exact_mut(columns).take(n_rows).enumerate() {
                    sums[i] = match self.relative_biases(head, row + i, length) {
                        None => kernel::exp_of_scaled(self.simd, scores, length, scale),
                        Some(biases) => {
                            kernel::scale(self.simd, scores, scale);
                            kernel::add_scaled(self.simd, scores, 1.0, biases);
                            kernel::exp_of_scaled(self.simd, scores, length, 1.0)
                        }
                    };
                }
                let context = &mut context[row * width + head * d..];
                kernel::multiply(
                    self.simd,
                    (scores, columns),
                    values,
                    None,
                    (context, width),
                    n_rows,
                ); // (rows, d)
                for (i, &sum) in sums[..n_rows].iter().enumerate() {
                    kernel::scale(self.simd, &mut context[i * width..][..d], 1.0 / sum);
                }
            }
        }
    }

    /// What is added to the scores of one query row, by key.
    fn relative_biases(&self, head: usize, query: usize, length: usize) -> Option<&[f32]> {
        if self.relative_bias.is_empty() {
            return None;
        }
        let n_positions = self.architecture.n_positions;
        let start = head * (2 * n_positions - 1) + n_positions - 1 - query;
        Some(&self.relative_bias[start..start + length])
    }
}

impl Layer {
    fn new(weights: LayerWeights) -> Self {
        let LayerWeights {
            query,
            key,
            value,
            output,
            attention_norm,
            up,
            down,
            output_norm,
        } = weights;
        let projections = Linear {
            weight: [query.weight, key.weight, value.weight].concat(),
            bias: Some(
                [query.bias, key.bias, value.bias]
                    .into_iter()
                    .flatten()
                    .flatten()
                    .collect(),
            ),
            n_in: query.n_in,
            n_out: 3 * query.n_out,
        };
        Self {
            projections: PackedLinear::new(&projections),
            output: PackedLinear::new(&output),
            attention_norm,
            up: PackedLinear::new(&up),
            down: PackedLinear::new(&down),
            output_norm,
        }
    }
}

/// Lays out MPNet's bias table by head and offset of key to query, from 1 − P to P − 1.
fn relative_bias(architecture: &Architecture, table: &[f32]) -> Vec<f32> {
    if table.is_empty() {
        return Vec::new();
    }
    let (n_positions, n_heads) = (architecture.n_positions as i64, architecture.n_heads);
    let offsets = || 1 - n_positions..n_positions;
    (0..n_heads)
        .flat_map(|head| offsets().map(move |offset| (head, offset)))
        .map(|(head, offset)| {
            table[relative_bucket(offset, architecture.n_buckets) * n_heads + head]
        })
        .collect()
}

/// Bucket of an offset of key to query: half of the buckets for each direction, half of those for single offsets, the
/// others growing up to a distance of 128. Raffel et al. 2020 (arXiv 1910.10683), §2.1, as MPNet uses it.
pub(crate) fn relative_bucket(offset: i64, n_buckets: usize) -> usize {
    const MAX_DISTANCE: f32 = 128.0;
    let half = n_buckets / 2;
    let exact = half / 2;
    let base = if offset > 0 { half } else { 0 };
    let distance = offset.unsigned_abs() as usize;
    if distance < exact {
        return base + distance;
    }
    // In f32 and in this order, as the reference computes it: the truncation is sensitive to the last bit.
    let ratio =
        (distance as f32 / exact as f32).ln() / (MAX_DISTANCE as f64 / exact as f64).ln() as f32;
    base + (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
}
