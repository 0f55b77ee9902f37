//! The element-wise and row-wise functions of training, forward and backward.
//!
//! Sums run in 16 columns, in the same order at every level.

use compute::{mul_add, simd_function};

use crate::architecture::Activation;
use crate::kernel::{erfc, exp, fold};

const LANES: usize = 16;

/// Φ(x), the normal distribution.
#[inline(always)]
fn normal<const FMA: bool>(x: f32) -> f32 {
    let tail = 0.5 * erfc::<FMA>(x);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// The activation at x and its slope.
#[inline(always)]
fn activate<const FMA: bool>(activation: Activation, x: f32) -> (f32, f32) {
    match activation {
        Activation::Gelu => {
            const DENSITY_AT_0: f32 = 0.398_942_3; // 1 / √(2π)
            let phi = normal::<FMA>(x);
            let slope = mul_add::<FMA>(x * DENSITY_AT_0, exp::<FMA>(-0.5 * x * x), phi);
            (x * phi, slope)
        }
        Activation::GeluTanh => {
            const ROOT: f32 = 0.797_884_6; // √(2/π)
            let inner = ROOT * mul_add::<FMA>(0.044_715 * x * x, x, x);
            let tanh = 1.0 - 2.0 / (exp::<FMA>(2.0 * inner) + 1.0);
            let inner_slope = ROOT * mul_add::<FMA>(3.0 * 0.044_715 * x, x, 1.0);
            let slope = 0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * inner_slope;
            (0.5 * x * (1.0 + tanh), slope)
        }
        Activation::Relu => (rectify(x), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Silu => {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-x));
            (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
        }
    }
}

/// `max(x, 0)` that keeps NaN, which `f32::max` would turn into 0 and so hide from the loss.
#[inline(always)]
fn rectify(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// Sums `term` over 0..n in 16 columns.
#[inline(always)]
fn sum_of(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut columns = [0.0; LANES];
    let whole = n / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (i, column) in columns.iter_mut().enumerate() {
            *column += term(start + i);
        }
    }
    for (i, column) in columns.iter_mut().enumerate().take(n - whole) {
        *column += term(whole + i);
    }
    fold(columns, |a, b| a + b)
}

/// Mixes 32 bits until each depends on all: multiply and shift, with the constants of C. Wellons' search for low bias.
#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

simd_function! {
    /// Applies the activation.
    pub(super) fn activation(activation: Activation, values: &mut [f32]) {
        // The match outside, so that each loop has one function in it.
        match activation {
            Activation::Gelu => for x in values { *x *= normal::<FMA>(*x); },
            Activation::GeluTanh => for x in values { *x = activate::<FMA>(Activation::GeluTanh, *x).0; },
            Activation::Relu => for x in values { *x = rectify(*x); },
            Activation::Silu => for x in values { *x = activate::<FMA>(Activation::Silu, *x).0; },
        }
    }

    /// Replaces `values` by the activation and multiplies `gradient` by its slope.
    pub(super) fn activation_backward(activation: Activation, values: &mut [f32], gradient: &mut [f32]) {
        macro_rules! run {
            ($kind:expr) => {
                for (x, gradient) in values.iter_mut().zip(gradient) {
                    let (value, slope) = activate::<FMA>($kind, *x);
                    *x = value;
                    *gradient *= slope;
                }
            };
        }
        match activation {
            Activation::Gelu => run!(Activation::Gelu),
            Activation::GeluTanh => run!(Activation::GeluTanh),
            Activation::Relu => run!(Activation::Relu),
            Activation::Silu => run!(Activation::Silu),
        }
    }

    /// Normalizes each row: `x̂ = (x − mean) / √(variance + epsilon)`, `y = x̂ · weight + bias`.
    ///
    /// `rows` becomes y; `normalized` becomes x̂ and `scales` one `1 / √(variance + epsilon)` per row.
    pub(super) fn layer_norm(
        rows: &mut [f32], normalized: &mut [f32], scales: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32,
    ) {
        let width = weight.len();
        let rows = rows.chunks_exact_mut(width).zip(normalized.chunks_exact_mut(width)).zip(scales);
        for ((row, normalized), kept) in rows {
            let mean = sum_of(width, |i| row[i]) / width as f32;
            for x in row.iter_mut() {
                *x -= mean;
            }
            let variance = sum_of(width, |i| row[i] * row[i]) / width as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            *kept = scale;
            for (((x, normalized), &weight), &bias) in row.iter_mut().zip(normalized).zip(weight).zip(bias) {
                *normalized = *x * scale;
                *x = mul_add::<FMA>(*normalized, weight, bias);
            }
        }
    }

    /// Turns the gradient of y into that of x, and adds up those of weight and bias.
    ///
    /// With g = dy · weight: `dx = scale · (g − mean(g) − x̂ · mean(g · x̂))`.
    pub(super) fn layer_norm_backward(
        gradient: &mut [f32], normalized: &[f32], scales: &[f32], weight: &[f32], d_weight: &mut [f32], d_bias: &mut [f32],
    ) {
        let width = weight.len();
        let rows = gradient.chunks_exact_mut(width).zip(normalized.chunks_exact(width)).zip(scales);
        for ((row, normalized), &scale) in rows {
            let (row, normalized) = (&mut row[..width], &normalized[..width]);
            let (d_weight, d_bias) = (&mut d_weight[..width], &mut d_bias[..width]);
            for i in 0..width {
                d_weight[i] = mul_add::<FMA>(row[i], normalized[i], d_weight[i]);
                d_bias[i] += row[i];
                row[i] *= weight[i];
            }
            let mean = sum_of(width, |i| row[i]) / width as f32;
            let slope = sum_of(width, |i| row[i] * normalized[i]) / width as f32;
            for (x, &normalized) in row.iter_mut().zip(normalized) {
                *x = scale * (*x - mul_add::<FMA>(normalized, slope, mean));
            }
        }
    }

    /// Scales each row to a mean square of 1: `x̂ = x / √(mean(x²) + epsilon)`, `y = x̂ · weight`.
    ///
    /// `rows` becomes y; `normalized` becomes x̂ and `scales` one `1 / √(mean(x²) + epsilon)` per row.
    pub(super) fn rms_norm(
        rows: &mut [f32], normalized: &mut [f32], scales: &mut [f32], weight: &[f32], epsilon: f32,
    ) {
        let width = weight.len();
        let rows = rows.chunks_exact_mut(width).zip(normalized.chunks_exact_mut(width)).zip(scales);
        for ((row, normalized), kept) in rows {
            let scale = 1.0 / (sum_of(width, |i| row[i] * row[i]) / width as f32 + epsilon).sqrt();
            *kept = scale;
            for ((x, normalized), &weight) in row.iter_mut().zip(normalized).zip(weight) {
                *normalized = *x * scale;
                *x = *normalized * weight;
            }
        }
    }

    /// Turns the gradient of y into that of x, and adds up that of the weight.
    ///
    /// With g = dy · weight: `dx = scale · (g − x̂ · mean(g · x̂))`.
    pub(super) fn rms_norm_backward(
        gradient: &mut [f32], normalized: &[f32], scales: &[f32], weight: &[f32], d_weight: &mut [f32],
    ) {
        let width = weight.len();
        let rows = gradient.chunks_exact_mut(width).zip(normalized.chunks_exact(width)).zip(scales);
        for ((row, normalized), &scale) in rows {
            let (row, normalized, d_weight) = (&mut row[..width], &normalized[..width], &mut d_weight[..width]);
            for i in 0..width {
                d_weight[i] = mul_add::<FMA>(row[i], normalized[i], d_weight[i]);
                row[i] *= weight[i];
            }
            let slope = sum_of(width, |i| row[i] * normalized[i]) / width as f32;
            for (x, &normalized) in row.iter_mut().zip(normalized) {
                *x = scale * mul_add::<FMA>(-slope, normalized, *x);
            }
        }
    }

    /// Replaces the scores `s` of a row by `softmax(scale · s)` and returns `ln Σ e^(scale · s)`.
    pub(super) fn softmax(row: &mut [f32], scale: f32) -> f32 {
        let mut columns = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for (column, &x) in columns.iter_mut().zip(chunk) {
                *column = if x > *column { x } else { *column };
            }
        }
        let max = columns.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        let max = max * scale;
        for x in row.iter_mut() {
            *x = exp::<FMA>(mul_add::<FMA>(scale, *x, -max));
        }
        let sum = sum_of(row.len(), |i| row[i]);
        let factor = 1.0 / sum;
        for x in row.iter_mut() {
            *x *= factor;
        }
        max + sum.ln()
    }

    /// Computes the same probabilities from the logarithm that [`softmax`] returned.
    pub(super) fn softmax_again(row: &mut [f32], scale: f32, log_sum: f32) {
        for x in row.iter_mut() {
            *x = exp::<FMA>(mul_add::<FMA>(scale, *x, -log_sum));
        }
    }

    /// Turns the gradient of probabilities into that of scores: `ds = p · (dp − Σ p · dp) · scale`.
    pub(super) fn softmax_backward(probabilities: &[f32], gradient: &mut [f32], scale: f32) {
        let n = gradient.len();
        let probabilities = &probabilities[..n];
        let mean = sum_of(n, |i| probabilities[i] * gradient[i]);
        for (gradient, &p) in gradient.iter_mut().zip(probabilities) {
            *gradient = p * (*gradient - mean) * scale;
        }
    }

    /// Zeroes values whose random number, drawn from the row's key and the place in the row, is below `threshold`, and
    /// multiplies the others by `scale`.
    pub(super) fn drop_out(values: &mut [f32], key: (u32, u32), threshold: u32, scale: f32) {
        for (place, x) in values.iter_mut().enumerate() {
            let number = mix(mix((place as u32).wrapping_mul(0x9e37_79b9) ^ key.0).wrapping_add(key.1));
            *x = if number < threshold { 0.0 } else { *x * scale };
        }
    }

    /// Adds `x` to `y`.
    pub(super) fn add(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }

    /// Adds the rows of `values`, of `sums.len()` columns that start every `stride` values, to `sums`.
    pub(super) fn add_rows(values: &[f32], stride: usize, sums: &mut [f32]) {
        for row in values.chunks(stride) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }

    /// Σ x², in f64 from block to block.
    pub(super) fn squared_norm(values: &[f32]) -> f64 {
        values.chunks(4096).map(|block| f64::from(sum_of(block.len(), |i| block[i] * block[i]))).sum()
    }

    /// One step of AdamW on each value: see [`super::AdamW`].
    pub(super) fn adamw(
        values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], step: AdamWStep,
    ) {
        let n = values.len();
        let (gradient, first, second) = (&gradient[..n], &mut first[..n], &mut second[..n]);
        for i in 0..n {
            let g = gradient[i] * step.gradient_scale;
            let m = mul_add::<FMA>(step.beta1, first[i], (1.0 - step.beta1) * g);
            let v = mul_add::<FMA>(step.beta2, second[i], (1.0 - step.beta2) * g * g);
            (first[i], second[i]) = (m, v);
            let update = m / mul_add::<FMA>(v.sqrt(), step.second_scale, step.epsilon);
            values[i] = mul_add::<FMA>(-step.rate, update, values[i] * step.keep);
        }
    }

    /// Applies several AdamW steps without gradient at once: see [`super::AdamW`].
    pub(super) fn adamw_idle(values: &mut [f32], first: &mut [f32], second: &mut [f32], idle: IdleSteps) {
        let n = values.len();
        let (first, second) = (&mut first[..n], &mut second[..n]);
        for i in 0..n {
            let update = first[i] / (second[i].sqrt() + idle.epsilon);
            values[i] = mul_add::<FMA>(-idle.rate, update, values[i] * idle.keep);
            first[i] *= idle.first;
            second[i] *= idle.second;
        }
    }
}

/// The numbers of one AdamW step.
#[derive(Clone, Copy)]
pub(super) struct AdamWStep {
    pub(super) gradient_scale: f32,
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    /// `1 / √(1 − β₂ᵗ)`
    pub(super) second_scale: f32,
    pub(super) epsilon: f32,
    /// Learning rate over `1 − β₁ᵗ`.
    pub(super) rate: f32,
    /// 1 − learning rate · weight decay
    pub(super) keep: f32,
}

/// The sum of AdamW steps without gradient.
#[derive(Clone, Copy)]
pub(super) struct IdleSteps {
    /// What `m / (√v + epsilon)` is multiplied by and taken away.
    pub(super) rate: f32,
    pub(super) epsilon: f32,
    /// Product of the decays.
    pub(super) keep: f32,
    /// β₁ to the number of steps.
    pub(super) first: f32,
    /// β₂ to the number of steps.
    pub(super) second: f32,
}

#[cfg(test)]
mod tests {
    use compute::Simd;

    use super::*;

    #[test]
    fn activations_keep_nan() {
        for kind in [
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
            Activation::Silu,
        ] {
            for simd in Simd::available() {
                let mut values = [1.0, f32::NAN, -1.0];
                activation(simd, kind, &mut values);
                assert!(values[1].is_nan(), "{kind:?}");
                let mut values = [1.0, f32::NAN, -1.0];
                activation_backward(simd, kind, &mut values, &mut [1.0; 3]);
                assert!(values[1].is_nan(), "{kind:?} with its slope");
            }
        }
    }
}
