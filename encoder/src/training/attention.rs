//! Attention of one text over its own or another's keys, forward and backward; the backward computes the weights again.

use std::ops::Range;

use super::dropout::Mask;
use super::function;
use super::matrix::{Kernel, LANES, Left, Panels, Start, multiply};

/// Query rows whose attention weights are held at once.
const QUERIES: usize = 64;

/// What is done to the scores of queries and keys.
#[derive(Clone, Copy)]
pub(super) enum Bias<'a> {
    None,
    /// B by head and offset of key to query from 1 − P to P − 1, (A, 2 P − 1), is added.
    Relative(&'a [f32]),
    /// A query attends to some keys only, to one at least: bit `j % 64` of the `j / 64`-th of its ⌈keys / 64⌉ numbers is 1 for each
    /// key j of these.
    Seen(&'a [u64]),
}

impl<'a> Bias<'a> {
    /// [`Self::Relative`], or nothing where there are no values.
    pub(super) fn relative(values: &'a [f32]) -> Self {
        match values {
            [] => Self::None,
            values => Self::Relative(values),
        }
    }
}

/// `softmax(s · Q Kᵀ + B) V` of one text, for each of A heads of width d.
///
/// Rows of queries, keys and values hold the heads one after the other and are packed along them.
pub(super) struct Attention<'a> {
    pub(super) kernel: Kernel,
    pub(super) n_heads: usize,
    /// d
    pub(super) head_width: usize,
    /// s
    pub(super) scale: f32,
    pub(super) bias: Bias<'a>,
    /// Dropout of the weights.
    pub(super) mask: Mask,
    /// Number of the first query among all of the pass.
    pub(super) first_row: usize,
    pub(super) n_queries: usize,
    pub(super) n_keys: usize,
    /// Queries, keys and values, each from its first row and head on.
    pub(super) parts: [&'a [u32]; 3],
    /// Words from row to row.
    pub(super) stride: usize,
}

/// Where the gradients of queries, keys and values go: rows of `stride` values, of which each part begins somewhere.
pub(super) struct PartGradients<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) starts: [usize; 3],
    pub(super) stride: usize,
}

/// Memory that keeps its size from text to text.
#[derive(Default)]
pub(super) struct Buffers {
    scores: Vec<f32>,
    score_gradients: Vec<f32>,
    dropped: Vec<f32>,
    score_words: Vec<u32>,
    keys: Panels,
    values: Panels,
    turned_keys: Panels,
    queries: Panels,
    context: Panels,
}

impl Attention<'_> {
    /// Computes the context, rows of A · d values that start every `context.1` values.
    ///
    /// The backward needs ln Σ eˢ of each head and query, which goes to `log_sums`; heads are `log_sums.1` values apart.
    pub(super) fn forward(
        &self,
        (log_sums, log_stride): (&mut [f32], usize),
        (context, context_stride): (&mut [f32], usize),
        buffers: &mut Buffers,
    ) {
        let (kernel, stride, d, n_keys) = (self.kernel, self.stride, self.head_width, self.n_keys);
        let columns = n_keys.next_multiple_of(LANES);
        let Buffers {
            scores,
            score_words,
            keys,
            values,
            ..
        } = buffers;
        scores.resize(QUERIES.min(self.n_queries) * columns, 0.0);
        for head in 0..self.n_heads {
            let part = |part: usize| &self.parts[part][kernel.words(head * d)..];
            keys.fill_transposed(kernel, part(1), stride, n_keys, d);
            values.fill_packed(kernel, part(2), stride, n_keys, d);
            for first in (0..self.n_queries).step_by(QUERIES) {
                let n_queries = QUERIES.min(self.n_queries - first);
                let queries = Left::rows(&part(0)[first * stride..], stride);
                for panel in keys.iter() {
                    let target = (&mut scores[panel.first..], columns);
                    multiply(kernel, queries, panel, Start::Zero, target, n_queries);
                }
                let scores = &mut scores[..n_queries * columns];
                for (i, row) in scores.chunks_exact_mut(columns).enumerate() {
                    let (query, row) = (first + i, &mut row[..n_keys]);
                    let scale = self.add_bias(head, query, row);
                    log_sums[head * log_stride + query] =
                        function::softmax(kernel.simd, row, scale);
                    self.hide(query, row, 0.0);
                    self.drop_out(head, query, row);
                }
                let n_words = kernel.words(n_keys);
                score_words.resize(n_queries * n_words, 0);
                kernel.pack_into((scores, columns), n_keys, (score_words, n_words));
                let left = Left::rows(score_words, n_words);
                for panel in values.iter() {
                    let target = &mut context[first * context_stride + head * d + panel.first..];
                    let target = (target, context_stride);
                    multiply(kernel, left, panel, Start::Zero, target, n_queries);
                }
            }
        }
    }

    /// Turns the gradient of the context, packed rows that start every `d_context.1` words, into those of queries, keys
    /// and values, and adds that of B to `d_relative`.
    ///
    /// The weights P are computed again from the scores and their log-sums. With dC the gradient of the context:
    /// `dV = Pᵀ dC`, `dP = dC Vᵀ`, `dS = P · (dP − Σ P · dP)`, `dQ = s · dS K`, `dK = s · dSᵀ Q`.
    pub(super) fn backward(
        &self,
        (log_sums, log_stride): (&[f32], usize),
        (d_context, context_stride): (&[u32], usize),
        gradients: &mut PartGradients<'_>,
        d_relative: &mut [f32],
        buffers: &mut Buffers,
    ) {
        let (kernel, stride, d, n_keys) = (self.kernel, self.stride, self.head_width, self.n_keys);
        let (simd, columns) = (kernel.simd, n_keys.next_multiple_of(LANES));
        let Buffers {
            scores,
            score_gradients,
            dropped,
            score_words,
            keys,
            values,
            turned_keys,
            queries,
            context,
        } = buffers;
        for buffer in [&mut *scores, &mut *score_gradients] {
            buffer.resize(QUERIES.min(self.n_queries) * columns, 0.0);
        }
        for head in 0..self.n_heads {
            let part = |part: usize| &self.parts[part][kernel.words(head * d)..];
            let d_context = &d_context[kernel.words(head * d)..];
            turned_keys.fill_transposed(kernel, part(1), stride, n_keys, d);
            values.fill_transposed(kernel, part(2), stride, n_keys, d);
            keys.fill_packed(kernel, part(1), stride, n_keys, d);
            for first in (0..self.n_queries).step_by(QUERIES) {
                let n_queries = QUERIES.min(self.n_queries - first);
                let n_scores = n_queries * columns;
                let query_words = &part(0)[first * stride..];
                let context_words = &d_context[first * context_stride..];
                for panel in turned_keys.iter() {
                    let left = Left::rows(query_words, stride);
                    let target = (&mut scores[panel.first..], columns);
                    multiply(kernel, left, panel, Start::Zero, target, n_queries);
                }
                for panel in values.iter() {
                    let left = Left::rows(context_words, context_stride);
                    let target = (&mut score_gradients[panel.first..], columns);
                    multiply(kernel, left, panel, Start::Zero, target, n_queries);
                }
                let (scores, score_gradients) =
                    (&mut scores[..n_scores], &mut score_gradients[..n_scores]);
                let pairs = scores
                    .chunks_exact_mut(columns)
                    .zip(score_gradients.chunks_exact_mut(columns));
                for (i, (row, gradient)) in pairs.enumerate() {
                    let (query, row, gradient) =
                        (first + i, &mut row[..n_keys], &mut gradient[..n_keys]);
                    let scale = self.add_bias(head, query, row);
                    let log_sum = log_sums[head * log_stride + query];
                    function::softmax_again(simd, row, scale, log_sum);
                    self.hide(query, row, 0.0);
                    self.drop_out(head, query, gradient);
                    if let Bias::Relative(values) = self.bias {
                        function::softmax_backward(simd, row, gradient, 1.0);
                        let offsets = &mut d_relative[self.offsets(values, head, query)];
                        function::add(simd, offsets, gradient);
                        crate::kernel::scale(simd, gradient, self.scale);
                    } else {
                        function::softmax_backward(simd, row, gradient, scale);
                    }
                }
                // What multiplied the values in the forward: the weights after dropout.
                let weights = if self.mask.is_none() {
                    &*scores
                } else {
                    dropped.clear();
                    dropped.extend_from_slice(scores);
                    for (i, row) in dropped.chunks_exact_mut(columns).enumerate() {
                        self.drop_out(head, first + i, &mut row[..n_keys]);
                    }
                    &*dropped
                };
                let PartGradients {
                    values: out,
                    starts,
                    stride: out_stride,
                } = gradients;
                let start = if first == 0 { Start::Zero } else { Start::Sum };
                let mut add = |weights: &[f32], right: &Panels, part: usize| {
                    kernel.pack_columns(weights, columns, n_keys, score_words);
                    let left = Left::columns(score_words, n_keys);
                    for panel in right.iter() {
                        let target = &mut out[starts[part] + head * d + panel.first..];
                        multiply(kernel, left, panel, start, (target, *out_stride), n_keys);
                    }
                };
                context.fill_packed(kernel, context_words, context_stride, n_queries, d);
                add(weights, context, 2); // dV
                queries.fill_packed(kernel, query_words, stride, n_queries, d);
                add(score_gradients, queries, 1); // dK
                let n_words = kernel.words(n_keys);
                score_words.resize(n_queries * n_words, 0);
                kernel.pack_into((score_gradients, columns), n_keys, (score_words, n_words));
                for panel in keys.iter() {
                    let place = starts[0] + first * *out_stride + head * d + panel.first;
                    let left = Left::rows(score_words, n_words);
                    let target = (&mut out[place..], *out_stride);
                    multiply(kernel, left, panel, Start::Zero, target, n_queries); // dQ
                }
            }
        }
    }

    /// Adds B to a row of scores, or makes those of hidden keys as small as can be, and returns by what the softmax still has
    /// to multiply them.
    fn add_bias(&self, head: usize, query: usize, row: &mut [f32]) -> f32 {
        let Bias::Relative(values) = self.bias else {
            self.hide(query, row, f32::MIN);
            return self.scale;
        };
        crate::kernel::scale(self.kernel.simd, row, self.scale);
        let biases = &values[self.offsets(values, head, query)];
        function::add(self.kernel.simd, row, biases);
        1.0
    }

    /// Puts a value in the place of each key that the query does not attend to.
    fn hide(&self, query: usize, row: &mut [f32], value: f32) {
        let Bias::Seen(seen) = self.bias else {
            return;
        };
        let width = self.n_keys.div_ceil(64);
        for (keys, &seen) in row.chunks_mut(64).zip(&seen[query * width..][..width]) {
            for (j, x) in keys.iter_mut().enumerate() {
                *x = if seen >> j & 1 == 1 { *x } else { value };
            }
        }
    }

    /// Where B of a query's keys lies.
    fn offsets(&self, values: &[f32], head: usize, query: usize) -> Range<usize> {
        let n_offsets = values.len() / self.n_heads; // 2 P − 1
        let start = head * n_offsets + n_offsets / 2 - query;
        start..start + self.n_keys
    }

    fn drop_out(&self, head: usize, query: usize, row: &mut [f32]) {
        let number = self.mask.first_row + (self.first_row + query) as u64;
        let number = number * self.n_heads as u64 + head as u64;
        self.mask.apply(self.kernel.simd, number, row);
    }
}
