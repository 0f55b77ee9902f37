//! Linear layers on slices: packing of weights and the gradients of weights.

use super::engine::Engine;
use super::matrix::{Kernel, Panel, Panels, Start, multiply};
use super::parameter::Inner;

/// A weight matrix, or several with the same input side by side, packed for both directions.
#[derive(Default)]
pub(super) struct PackedLinear {
    /// (in, out): `x Wᵀ`
    pub(super) forward: Panels,
    /// (out, in): `dy W`
    pub(super) backward: Panels,
    /// Padded to whole panels.
    pub(super) bias: Vec<f32>,
}

impl PackedLinear {
    /// Packs rows of `n_in` weights, one row per output.
    pub(super) fn pack(&mut self, kernel: Kernel, weight: &[f32], bias: &[f32], n_in: usize) {
        let (n_out, mut words) = (weight.len() / n_in, Vec::new());
        kernel.pack(weight, n_in, &mut words);
        self.forward
            .fill_transposed(kernel, &words, kernel.words(n_in), n_out, n_in);
        self.backward.fill(kernel, weight, n_in, n_out, n_in);
        self.bias.clear();
        self.bias.extend_from_slice(bias);
        self.bias
            .resize(n_out.next_multiple_of(super::matrix::PANEL), 0.0);
    }

    /// The bias of one panel of [`Self::forward`].
    pub(super) fn start(&self, panel: Panel<'_>) -> Start<'_> {
        Start::Bias(&self.bias[panel.first..])
    }
}

/// One weight matrix whose gradient is due: `dW += Σ over groups of dYᵀ X`.
pub(super) struct Due<'a> {
    pub(super) parameter: &'a mut Inner,
    pub(super) n_in: usize,
    /// dY and X of each group, both with tokens as k.
    pub(super) operands: Vec<(&'a Panels, &'a Panels)>,
}

/// Adds the gradients of weight matrices, 48 rows at a time, in the order of the groups.
pub(super) fn add_weight_gradients(engine: &Engine, due: &mut [Due<'_>]) {
    let mut strips = Vec::new();
    for Due {
        parameter,
        n_in,
        operands,
    } in due
    {
        let gradient = &mut parameter.gradient;
        let is_sum = gradient.is_dense;
        gradient.is_dense = true;
        gradient.values.resize(parameter.values.len(), 0.0);
        for (index, strip) in gradient
            .values
            .chunks_mut(super::matrix::PANEL * *n_in)
            .enumerate()
        {
            strips.push((index, strip, &*operands, *n_in, is_sum));
        }
    }
    let kernel = engine.kernel;
    engine.run(&mut strips, |(index, strip, operands, n_in, is_sum)| {
        for (group, (outputs, inputs)) in operands.iter().enumerate() {
            let left = outputs.panel(*index);
            let start = if group > 0 || *is_sum {
                Start::Sum
            } else {
                Start::Zero
            };
            for panel in inputs.iter() {
                let target = (&mut strip[panel.first..], *n_in);
                multiply(kernel, left.columns(), panel, start, target, left.kept);
            }
        }
    });
}

/// Adds a vector to the gradient of a bias or of a normalization.
pub(super) fn add_vector(parameter: &mut Inner, values: &[f32]) {
    let gradient = &mut parameter.gradient;
    if !gradient.is_dense {
        gradient.values.clear();
        gradient.values.resize(values.len(), 0.0);
        gradient.is_dense = true;
    }
    for (sum, value) in gradient.values.iter_mut().zip(values) {
        *sum += value;
    }
}
