//! Attention of the texts of a group.

use super::{GroupGradients, LayerTape, Pass, Place, Workspace};
use crate::training::attention::{Attention, Bias, PartGradients};

impl Pass<'_> {
    /// Computes the context of each text's kept rows, from `projected` to `wide`, (R, H).
    pub(super) fn attend(&self, tape: &mut LayerTape, workspace: &mut Workspace) {
        let (width, n_rows) = (self.architecture.width, self.group.n_rows());
        let Workspace {
            wide: context,
            attention,
            ..
        } = workspace;
        context.resize(self.kept.len() * width, 0.0);
        tape.log_sums
            .resize(self.architecture.n_heads * n_rows, 0.0);
        for index in 0..self.group.lengths.len() {
            let (text, kept) = self.text(index);
            self.attention(&tape.projected, index).forward(
                (&mut tape.log_sums[text.start..], n_rows),
                (&mut context[kept.start * width..], width),
                attention,
            );
        }
    }

    /// Turns the gradient of the attention's context, `rows`, into those of queries, keys and values, `wide`.
    pub(super) fn attend_backward(
        &self,
        tape: &LayerTape,
        out: &mut GroupGradients,
        workspace: &mut Workspace,
    ) {
        let (kernel, width, n_rows) = (self.kernel, self.architecture.width, self.group.n_rows());
        let context_stride = kernel.words(width);
        let Workspace {
            rows: d_context,
            wide,
            words,
            attention,
            ..
        } = workspace;
        if self.kept.len() < n_rows {
            wide.clear(); // queries that do not count have gradient 0
        }
        wide.resize(n_rows * 3 * width, 0.0);
        kernel.pack(d_context, width, words);
        for index in 0..self.group.lengths.len() {
            let (text, kept) = self.text(index);
            let mut gradients = PartGradients {
                values: &mut wide[text.start * 3 * width..text.end * 3 * width],
                starts: [0, width, 2 * width],
                stride: 3 * width,
            };
            self.attention(&tape.projected, index).backward(
                (&tape.log_sums[text.start..], n_rows),
                (&words[kept.start * context_stride..], context_stride),
                &mut gradients,
                &mut out.relative,
                attention,
            );
        }
    }

    /// `softmax(Q Kᵀ / √d + B) V` of one text.
    fn attention<'a>(&'a self, projected: &'a [u32], index: usize) -> Attention<'a> {
        let (kernel, a) = (self.kernel, self.architecture);
        let (text, kept) = self.text(index);
        let stride = kernel.words(3 * a.width);
        let projected = &projected[text.start * stride..text.end * stride];
        let head_width = a.width / a.n_heads;
        Attention {
            kernel,
            n_heads: a.n_heads,
            head_width,
            scale: 1.0 / (head_width as f32).sqrt(),
            bias: Bias::relative(self.relative),
            mask: self
                .dropout
                .at(self.dropout.attention, Place::Weights.number(self.index)),
            first_row: self.group.start + text.start,
            n_queries: kept.len(),
            n_keys: text.len(),
            parts: [0, 1, 2].map(|part| &projected[kernel.words(part * a.width)..]),
            stride,
        }
    }
}
