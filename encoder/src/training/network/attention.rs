//! Attention of the texts of a group, forward and backward; the backward computes the weights again.

use std::ops::Range;

use super::{GroupGradients, LayerTape, Pass, Place, QUERIES, Workspace};
use crate::training::function;
use crate::training::matrix::{LANES, Left, Panels, Start, multiply};

impl Pass<'_> {
    /// Computes `softmax(Q Kᵀ / √d) V` for each text and head, from `projected` to `wide`, (R, H).
    pub(super) fn attend(&self, tape: &mut LayerTape, workspace: &mut Workspace) {
        let (kernel, a, n_rows) = (self.kernel, self.architecture, self.group.n_rows());
        let (width, n_heads) = (a.width, a.n_heads);
        let d = width / n_heads;
        let stride = kernel.words(3 * width);
        let Workspace {
            wide: context,
            scores,
            score_words,
            keys,
            values,
            ..
        } = workspace;
        context.resize(self.kept.len() * width, 0.0);
        tape.log_sums.resize(n_heads * n_rows, 0.0);
        let mask = self
            .dropout
            .at(self.dropout.attention, self.place(Place::Weights));
        for (text, kept) in self.group.texts().zip(self.kept_texts()) {
            let length = text.len();
            let columns = length.next_multiple_of(LANES);
            let projected = &tape.projected[text.start * stride..text.end * stride];
            scores.resize(QUERIES.min(length) * columns, 0.0);
            for head in 0..n_heads {
                let part = |part: usize| &projected[kernel.words(part * width + head * d)..];
                keys.fill_transposed(kernel, part(1), stride, length, d);
                values.fill_packed(kernel, part(2), stride, length, d);
                for first in (0..kept.len()).step_by(QUERIES) {
                    let n_queries = QUERIES.min(kept.len() - first);
                    let queries = Left::rows(&part(0)[first * stride..], stride);
                    for panel in keys.iter() {
                        multiply(
                            kernel,
                            queries,
                            panel,
                            Start::Zero,
                            (&mut scores[panel.first..], columns),
                            n_queries,
                        );
                    }
                    let scores = &mut scores[..n_queries * columns];
                    for (i, row) in scores.chunks_exact_mut(columns).enumerate() {
                        let (query, row) = (first + i, &mut row[..length]);
                        let scale = self.bias_scores(head, query, row);
                        tape.log_sums[head * n_rows + text.start + query] =
                            function::softmax(kernel.simd, row, scale);
                        mask.apply(kernel.simd, self.weights_row(text.start + query, head), row);
                    }
                    let n_words = kernel.words(length);
                    score_words.resize(n_queries * n_words, 0);
                    kernel.pack_into((scores, columns), length, (score_words, n_words));
                    let left = Left::rows(score_words, n_words);
                    for panel in values.iter() {
                        let target =
                            &mut context[(kept.start + first) * width + head * d + panel.first..];
                        multiply(kernel, left, panel, Start::Zero, (target, width), n_queries);
                    }
                }
            }
        }
    }

    /// Turns the gradient of the attention's context, `rows`, into those of queries, keys and values, `wide`.
    ///
    /// The weights P are computed again from the scores and their log-sums. With dC the gradient of the context:
    /// `dV = Pᵀ dC`, `dP = dC Vᵀ`, `dS = P · (dP − Σ P · dP)`, `dQ = dS K / √d`, `dK = dSᵀ Q / √d`.
    pub(super) fn attend_backward(
        &self,
        tape: &LayerTape,
        out: &mut GroupGradients,
        workspace: &mut Workspace,
    ) {
        let (kernel, a, n_rows) = (self.kernel, self.architecture, self.group.n_rows());
        let (simd, width, n_heads) = (kernel.simd, a.width, a.n_heads);
        let d = width / n_heads;
        let (stride, context_stride) = (kernel.words(3 * width), kernel.words(width));
        let Workspace {
            rows: d_context,
            wide,
            words,
            scores,
            score_gradients,
            dropped,
            score_words,
            keys,
            values,
            turned_keys,
            queries,
            context,
            ..
        } = workspace;
        if self.kept.len() < n_rows {
            wide.clear(); // queries that do not count have gradient 0
        }
        wide.resize(n_rows * 3 * width, 0.0);
        kernel.pack(d_context, width, words);
        let mask = self
            .dropout
            .at(self.dropout.attention, self.place(Place::Weights));
        for (text, kept) in self.group.texts().zip(self.kept_texts()) {
            let length = text.len();
            let columns = length.next_multiple_of(LANES);
            let projected = &tape.projected[text.start * stride..text.end * stride];
            let d_context = &words[kept.start * context_stride..kept.end * context_stride];
            for buffer in [&mut *scores, &mut *score_gradients] {
                buffer.resize(QUERIES.min(length) * columns, 0.0);
            }
            for head in 0..n_heads {
                let part = |part: usize| &projected[kernel.words(part * width + head * d)..];
                let d_context = &d_context[kernel.words(head * d)..];
                turned_keys.fill_transposed(kernel, part(1), stride, length, d);
                values.fill_transposed(kernel, part(2), stride, length, d);
                keys.fill_packed(kernel, part(1), stride, length, d);
                for first in (0..kept.len()).step_by(QUERIES) {
                    let n_queries = QUERIES.min(kept.len() - first);
                    let n_scores = n_queries * columns;
                    let query_words = &part(0)[first * stride..];
                    let context_words = &d_context[first * context_stride..];
                    for panel in turned_keys.iter() {
                        let left = Left::rows(query_words, stride);
                        multiply(
                            kernel,
                            left,
                            panel,
                            Start::Zero,
                            (&mut scores[panel.first..], columns),
                            n_queries,
                        );
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
                            (first + i, &mut row[..length], &mut gradient[..length]);
                        let scale = self.bias_scores(head, query, row);
                        let log_sum = tape.log_sums[head * n_rows + text.start + query];
                        function::softmax_again(simd, row, scale, log_sum);
                        mask.apply(simd, self.weights_row(text.start + query, head), gradient);
                        if self.relative.is_empty() {
                            function::softmax_backward(simd, row, gradient, scale);
                        } else {
                            function::softmax_backward(simd, row, gradient, 1.0);
                            function::add(
                                simd,
                                &mut out.relative[self.offsets(head, query, length)],
                                gradient,
                            );
                            crate::kernel::scale(simd, gradient, self.scale());
                        }
                    }
                    // What multiplied the values in the forward: the weights after dropout.
                    let weights = if mask.is_none() {
                        &*scores
                    } else {
                        dropped.clear();
                        dropped.extend_from_slice(scores);
                        for (i, row) in dropped.chunks_exact_mut(columns).enumerate() {
                            mask.apply(
                                simd,
                                self.weights_row(text.start + first + i, head),
                                &mut row[..length],
                            );
                        }
                        &*dropped
                    };
                    let start = if first == 0 { Start::Zero } else { Start::Sum };
                    let mut add = |weights: &[f32], right: &Panels, part: usize| {
                        kernel.pack_columns(weights, columns, length, score_words);
                        let left = Left::columns(score_words, length);
                        for panel in right.iter() {
                            let place =
                                text.start * 3 * width + part * width + head * d + panel.first;
                            multiply(
                                kernel,
                                left,
                                panel,
                                start,
                                (&mut wide[place..], 3 * width),
                                length,
                            );
                        }
                    };
                    context.fill_packed(kernel, context_words, context_stride, n_queries, d);
                    add(weights, context, 2); // dV
                    queries.fill_packed(kernel, query_words, stride, n_queries, d);
                    add(score_gradients, queries, 1); // dK
                    let n_words = kernel.words(length);
                    score_words.resize(n_queries * n_words, 0);
                    kernel.pack_into((score_gradients, columns), length, (score_words, n_words));
                    for panel in keys.iter() {
                        let place = (text.start + first) * 3 * width + head * d + panel.first;
                        let left = Left::rows(score_words, n_words);
                        multiply(
                            kernel,
                            left,
                            panel,
                            Start::Zero,
                            (&mut wide[place..], 3 * width),
                            n_queries,
                        ); // dQ
                    }
                }
            }
        }
    }

    fn scale(&self) -> f32 {
        1.0 / ((self.architecture.width / self.architecture.n_heads) as f32).sqrt()
    }

    /// Adds relative biases to a row of scores and returns by what the softmax still has to multiply them.
    fn bias_scores(&self, head: usize, query: usize, row: &mut [f32]) -> f32 {
        if self.relative.is_empty() {
            return self.scale();
        }
        let biases = &self.relative[self.offsets(head, query, row.len())];
        crate::kernel::scale(self.kernel.simd, row, self.scale());
        function::add(self.kernel.simd, row, biases);
        1.0
    }

    /// Where the relative biases of a query's keys lie.
    fn offsets(&self, head: usize, query: usize, length: usize) -> Range<usize> {
        let n_positions = self.architecture.n_positions;
        let start = head * (2 * n_positions - 1) + n_positions - 1 - query;
        start..start + length
    }
}
