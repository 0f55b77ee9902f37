//! The element-wise and row-wise functions between the matrix products.

use compute::{mul_add, simd_function};

/// Lanes of a reduction: sums run in 16 columns on every level, so that their order is the same on all.
const LANES: usize = 16;

/// `eˣ` with a relative error below 2e-7; x is clamped to ±87, where results stay normal numbers.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; the polynomial for eʳ is a minimax fit (error 2e-9 before rounding).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer, held in the low bits
    const LN_2_HIGH: f32 = 0.693_359_4; // 10 bits, so that n · LN_2_HIGH is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 87.0);
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN_2_LOW, mul_add::<FMA>(n, -LN_2_HIGH, x));
    let mut p = 0.001_384_364_4;
    for coefficient in [
        0.008_374_163,
        0.041_668,
        0.166_664_32,
        0.499_999_94,
        1.0,
        1.0,
    ] {
        p = mul_add::<FMA>(p, r, coefficient);
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// `erfc(|x|/√2) = e^(−q(|x|))`, with a minimax fit of q on 0..6, weighted by erfc: the error is 4e-8. Beyond 6 the value
/// is below 1e-8 and stays what it is there.
#[inline(always)]
pub(crate) fn erfc<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs().min(6.0);
    let mut q = -1.218_032_7e-7;
    for coefficient in [
        3.003_746_3e-6,
        -2.929_242_5e-5,
        1.234_278e-4,
        1.230_042_1e-4,
        -0.004_939_048,
        0.036_416_918,
        0.318_290_38,
        0.797_886_1,
        0.0,
    ] {
        q = mul_add::<FMA>(q, a, coefficient);
    }
    exp::<FMA>(-q)
}

/// `x Φ(x)`, the exact GELU, with an error below 1.2e-7 · |x| plus one rounding: with [`erfc`] it is x − x/2·erfc for
/// positive x, x/2·erfc for the others.
#[inline(always)]
fn gelu_scalar<const FMA: bool>(x: f32) -> f32 {
    let tail = 0.5 * x * erfc::<FMA>(x);
    if x > 0.0 { x - tail } else { tail }
}

/// `2ˣ` with a relative error below 2.7e-6, for −126 ≤ x ≤ 126; a minimax fit as in [`exp`].
#[inline(always)]
fn quick_exp2<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³
    let shifted = x + ROUND;
    let r = x - (shifted - ROUND);
    let mut p = 0.009_570_102;
    for coefficient in [0.055_917_863, 0.240_247_44, 0.693_121_8, 0.999_999_3] {
        p = mul_add::<FMA>(p, r, coefficient);
    }
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// [`gelu_scalar`] with an error below 2e-6 · |x|: q of degree 5, in base 2.
#[inline(always)]
fn quick_gelu_scalar<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs().min(6.0);
    let mut q = -0.000_520_448_67;
    for coefficient in [
        0.007_397_464_5,
        -0.052_561_168,
        -0.459_254_7,
        -1.151_091_3,
        0.0,
    ] {
        q = mul_add::<FMA>(q, a, coefficient);
    }
    let tail = 0.5 * x * quick_exp2::<FMA>(q);
    if x > 0.0 { x - tail } else { tail }
}

/// `tanh x` from [`exp`], with an absolute error below 2e-7.
#[inline(always)]
fn tanh_scalar<const FMA: bool>(x: f32) -> f32 {
    1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0)
}

simd_function! {
    /// Applies the exact GELU, `x Φ(x)`.
    pub(crate) fn gelu(values: &mut [f32]) {
        for x in values {
            *x = gelu_scalar::<FMA>(*x);
        }
    }

    /// Applies the exact GELU with an error below 2e-6 · |x|.
    pub(crate) fn quick_gelu(values: &mut [f32]) {
        for x in values {
            *x = quick_gelu_scalar::<FMA>(*x);
        }
    }

    /// Applies the tanh approximation of GELU, `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    pub(crate) fn gelu_tanh(values: &mut [f32]) {
        for x in values {
            let inner = 0.797_884_6 * mul_add::<FMA>(0.044_715 * *x * *x, *x, *x);
            *x = 0.5 * *x * (1.0 + tanh_scalar::<FMA>(inner));
        }
    }

    /// Applies `max(x, 0)`.
    pub(crate) fn relu(values: &mut [f32]) {
        for x in values {
            *x = if *x < 0.0 { 0.0 } else { *x }; // NaN stays
        }
    }

    /// Applies `x / (1 + e⁻ˣ)`.
    pub(crate) fn silu(values: &mut [f32]) {
        for x in values {
            *x /= 1.0 + exp::<FMA>(-*x);
        }
    }

    /// Adds `residual` to `rows`, then normalizes each row of `weight.len()` values:
    /// `(x − mean) / √(variance + epsilon) · weight + bias`, with the variance around the mean.
    pub(crate) fn add_layer_norm(rows: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
        let width = weight.len();
        for (row, residual) in rows.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
            for (x, &residual) in row.iter_mut().zip(residual) {
                *x += residual;
            }
            let mean = sum(row) / width as f32;
            for x in row.iter_mut() {
                *x -= mean;
            }
            let variance = sum_of_squares::<FMA>(row) / width as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            for ((x, &weight), &bias) in row.iter_mut().zip(weight).zip(bias) {
                *x = mul_add::<FMA>(*x * scale, weight, bias);
            }
        }
    }

    /// Replaces `row` by `e^(scale·x − max)` and returns the sum and the sum of squares.
    pub(super) fn exp_of_scaled(row: &mut [f32], scale: f32) -> [f32; 2] {
        let max = max(row);
        for x in row.iter_mut() {
            *x = exp::<FMA>((*x - max) * scale); // exactly 0 at the maximum, however great that is
        }
        [sum(row), sum_of_squares::<FMA>(row)]
    }

    /// As [`exp_of_scaled`], with a relative error of 3e-6 and 1e-7 for each unit below the greatest; what is below e⁻⁸⁷
    /// of the greatest becomes that. The row is a multiple of 16 long.
    pub(super) fn quick_exp_of_scaled(row: &mut [f32], scale: f32) -> [f32; 2] {
        let scale = scale * std::f32::consts::LOG2_E;
        let max = max(row);
        let (mut sums, mut squares) = ([0.0; LANES], [0.0; LANES]);
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        assert!(rest.is_empty(), "rows of scores are padded");
        for chunk in chunks {
            for i in 0..LANES {
                let exponent = (chunk[i] - max) * scale;
                let x = quick_exp2::<FMA>(if exponent < -126.0 { -126.0 } else { exponent });
                chunk[i] = x;
                sums[i] += x;
                squares[i] = mul_add::<FMA>(x, x, squares[i]);
            }
        }
        [fold(sums, |a, b| a + b), fold(squares, |a, b| a + b)]
    }

    /// Multiplies every value.
    pub(crate) fn scale(values: &mut [f32], factor: f32) {
        for x in values {
            *x *= factor;
        }
    }

    /// Adds `factor · x` to `y`.
    pub(crate) fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = mul_add::<FMA>(factor, x, *y);
        }
    }

    /// Σ x², summed in 16 columns.
    pub(crate) fn squared_norm(values: &[f32]) -> f32 {
        sum_of_squares::<FMA>(values)
    }
}

/// Folds 16 columns into one value, in halves.
#[inline(always)]
pub(crate) fn fold(columns: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    // Written out, so that the columns stay in a register.
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for i in 0..8 {
        eight[i] = combine(columns[i], columns[i + 8]);
    }
    for i in 0..4 {
        four[i] = combine(eight[i], eight[i + 4]);
    }
    combine(combine(four[0], four[2]), combine(four[1], four[3]))
}

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let mut columns = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            columns[i] += chunk[i];
        }
    }
    for (column, &x) in columns.iter_mut().zip(rest) {
        *column += x;
    }
    fold(columns, |a, b| a + b)
}

#[inline(always)]
pub(super) fn sum_of_squares<const FMA: bool>(values: &[f32]) -> f32 {
    let mut columns = [0.0; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            columns[i] = mul_add::<FMA>(chunk[i], chunk[i], columns[i]);
        }
    }
    for (column, &x) in columns.iter_mut().zip(rest) {
        *column = mul_add::<FMA>(x, x, *column);
    }
    fold(columns, |a, b| a + b)
}

/// The greatest of |x|, where NaN counts as the greatest of all.
#[inline(always)]
pub(super) fn magnitude(values: &[f32]) -> f32 {
    // The bits of positive floats are ordered as the floats are, and a maximum of integers needs no order of its own.
    let bits = values.iter().map(|x| x.to_bits() & 0x7fff_ffff);
    f32::from_bits(bits.fold(0, u32::max))
}

/// The greatest value; NaN only when all are.
#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let mut columns = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            columns[i] = if chunk[i] > columns[i] {
                chunk[i]
            } else {
                columns[i]
            };
        }
    }
    for (column, &x) in columns.iter_mut().zip(rest) {
        *column = if x > *column { x } else { *column };
    }
    fold(columns, |a, b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;
    use compute::Simd;

    /// Compares an element-wise function with an f64 one on −`limit`..`limit`, at every level, relative to |x|.
    fn check(function: fn(Simd, &mut [f32]), exact: fn(f64) -> f64, limit: f32, tolerance: f64) {
        let inputs: Vec<f32> = (-20_000..=20_000)
            .map(|i| i as f32 / 20_000.0 * limit)
            .collect();
        for simd in Simd::available() {
            let mut values = inputs.clone();
            function(simd, &mut values);
            for (&x, &value) in inputs.iter().zip(&values) {
                let error = (f64::from(value) - exact(f64::from(x))).abs();
                assert!(
                    error <= tolerance * f64::from(x.abs()) + 1e-12,
                    "{simd:?} f({x}) = {value}, off by {error:e}"
                );
            }
        }
    }

    /// erf by its series, 2/√π Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n+1)), in f64; good to 1e-10 for |x| ≤ 4.
    fn erf(x: f64) -> f64 {
        if x.abs() > 4.0 {
            return x.signum() * (1.0 - 1.5e-8); // erfc(4) = 1.54e-8
        }
        let (mut term, mut total) = (x, x);
        for n in 1..120 {
            term *= -x * x / f64::from(n);
            total += term / f64::from(2 * n + 1);
        }
        total * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn activations_equal_their_definitions() {
        check(gelu, |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())), 9.0, 2e-7);
        check(
            quick_gelu,
            |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            9.0,
            2e-6,
        );
        check(
            gelu_tanh,
            |x| 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh()),
            9.0,
            3e-7,
        );
        check(relu, |x| x.max(0.0), 9.0, 0.0);
        check(silu, |x| x / (1.0 + (-x).exp()), 30.0, 3e-7);
    }

    fn check_exp(function: fn(Simd, &mut [f32], f32) -> [f32; 2], tolerance: f64) {
        for simd in Simd::available() {
            for i in 0..40_000 {
                let x = -80.0 * i as f32 / 40_000.0;
                let mut row = [x; 32];
                row[7] = 0.0;
                let [sum, squares] = function(simd, &mut row, 1.0);
                let exact = f64::from(x).exp();
                for j in [0, 31] {
                    assert!(
                        (f64::from(row[j]) / exact - 1.0).abs() < tolerance,
                        "{simd:?} exp({x}) = {}",
                        row[j]
                    );
                }
                assert!((row[7] - 1.0).abs() < 1e-6);
                let near = |value: f32, exact: f64| (f64::from(value) / exact - 1.0).abs() < 2e-5;
                assert!(near(sum, 1.0 + 31.0 * exact), "{sum}");
                assert!(near(squares, 1.0 + 31.0 * exact * exact), "{squares}");
            }
        }
    }

    #[test]
    fn exp_is_as_accurate_as_it_says() {
        check_exp(exp_of_scaled, 2e-7);
        check_exp(quick_exp_of_scaled, 1.2e-5);
        let mut row = [-1e30; 16]; // far below the smallest power
        row[3] = 0.0;
        let [sum, _] = quick_exp_of_scaled(Simd::detect(), &mut row, 1.0);
        assert!((sum - 1.0).abs() < 1e-6, "{row:?}");
    }

    #[test]
    fn layer_norm_equals_its_definition() {
        for width in [1, 5, 16, 40, 384] {
            let at = |i: usize| (i as f32 * 0.7).sin() * 3.0 + 100.0;
            let rows: Vec<f32> = (0..2 * width).map(at).collect();
            let residual: Vec<f32> = (0..2 * width).map(|i| at(i + 9) - 50.0).collect();
            let weight: Vec<f32> = (0..width).map(|i| 1.0 + i as f32 / 100.0).collect();
            let bias: Vec<f32> = (0..width).map(|i| i as f32 / 10.0).collect();
            for simd in Simd::available() {
                let mut values = rows.clone();
                add_layer_norm(simd, &mut values, &residual, &weight, &bias, 1e-5);
                for row in 0..2 {
                    let x: Vec<f64> = (row * width..(row + 1) * width)
                        .map(|i| f64::from(rows[i]) + f64::from(residual[i]))
                        .collect();
                    let mean = x.iter().sum::<f64>() / width as f64;
                    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                    for i in 0..width {
                        let exact = (x[i] - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i])
                            + f64::from(bias[i]);
                        let value = f64::from(values[row * width + i]);
                        assert!(
                            (value - exact).abs() < 1e-4,
                            "{simd:?} {width}: {value} {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        for function in [exp_of_scaled, quick_exp_of_scaled] {
            let mut row = [1.0; 16];
            row[5] = f32::NAN;
            assert!(function(Simd::detect(), &mut row, 1.0)[0].is_nan());
        }
        for function in [gelu, quick_gelu, gelu_tanh, relu, silu] {
            let mut values = [f32::NAN];
            function(Simd::detect(), &mut values);
            assert!(values[0].is_nan());
        }
    }
}
