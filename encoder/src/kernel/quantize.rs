//! Floats to the numbers of a faster product.

use compute::simd_function;

use super::function::{magnitude, sum_of_squares};
use super::operand::PANEL;

/// Adding it rounds a float below 2²² to an integer, ties to even, and leaves that in the low bits.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³

/// Greatest length of a vector of 16-bit integers. By the Cauchy-Schwarz inequality no sum of products of two such
/// vectors, nor any part of it, leaves 32 bits: (46,000 + √384 / 2 of rounding)² < 2³¹.
const GREATEST_NORM: f32 = 46_000.0;

simd_function! {
    /// Rounds to the nearest bf16, ties to even.
    pub(super) fn bf16(values: &[f32], words: &mut [u32]) {
        for (half, x) in halves(words).iter_mut().zip(values) {
            *half = rounded_bf16(*x) as u16;
        }
    }

    /// Rounds to multiples of a scale, held in 16 bits, and returns the scale; NaN and infinity make it so.
    pub(super) fn fixed16(values: &[f32], words: &mut [u32]) -> f32 {
        let scale = fixed16_scale(sum_of_squares::<FMA>(values), magnitude(values));
        multiples::<FMA>(values, scale, words);
        scale
    }

    /// [`fixed16`] with a scale that is known to keep within the limits.
    pub(super) fn multiples_of(values: &[f32], scale: f32, words: &mut [u32]) {
        multiples::<FMA>(values, scale, words);
    }

    /// Packs `n_keys` rows of `kept` floats, `stride` apart, as the columns of a right operand: the bf16 of two rows
    /// stand in one word.
    pub(super) fn columns_bf16(values: &[f32], stride: usize, n_keys: usize, words: &mut [u32], padded: usize, kept: usize) {
        for (pair, words) in words.chunks_exact_mut(padded).enumerate() {
            let first = &values[2 * pair * stride..][..kept];
            if 2 * pair + 1 < n_keys {
                let second = &values[(2 * pair + 1) * stride..][..kept];
                for ((word, &x), &y) in words.iter_mut().zip(first).zip(second) {
                    *word = rounded_bf16(x) | rounded_bf16(y) << 16;
                }
            } else {
                for (word, &x) in words.iter_mut().zip(first) {
                    *word = rounded_bf16(x);
                }
            }
        }
    }

    /// Packs `n_keys` rows of floats, `stride` apart, as the columns of a right operand: the integers of two rows
    /// stand in one word, and each column has one scale, by its length over all rows.
    pub(super) fn columns_fixed16(values: &[f32], stride: usize, n_keys: usize, words: &mut [u32], padded: usize, scales: &mut [f32]) {
        let width = scales.len();
        let mut greatest = [0.0f32; PANEL];
        let greatest = &mut greatest[..width];
        scales.fill(0.0);
        for row in values.chunks(stride).take(n_keys) {
            for ((scale, greatest), &x) in scales.iter_mut().zip(greatest.iter_mut()).zip(row) {
                *scale = compute::mul_add::<FMA>(x, x, *scale);
                *greatest = if x.abs() > *greatest { x.abs() } else { *greatest };
            }
        }
        for (scale, inverse) in scales.iter_mut().zip(greatest.iter_mut()) {
            *scale = fixed16_scale(*scale, *inverse);
            *inverse = if *scale == 0.0 { 0.0 } else { 1.0 / *scale };
        }
        let inverses = &*greatest;
        let rounded = |x: f32, inverse: f32| compute::mul_add::<FMA>(x, inverse, ROUND).to_bits() & 0xffff;
        for (pair, words) in words.chunks_exact_mut(padded).enumerate() {
            let first = &values[2 * pair * stride..][..width];
            if 2 * pair + 1 < n_keys {
                let second = &values[(2 * pair + 1) * stride..][..width];
                for (((word, &x), &y), &inverse) in words.iter_mut().zip(first).zip(second).zip(inverses) {
                    *word = rounded(x, inverse) | rounded(y, inverse) << 16;
                }
            } else {
                for ((word, &x), &inverse) in words.iter_mut().zip(first).zip(inverses) {
                    *word = rounded(x, inverse);
                }
            }
        }
    }

    /// Rounds to multiples of a scale between −127 and 127, held in 8 bits after adding `offset`, and returns the scale.
    pub(super) fn int8(values: &[f32], words: &mut [u32], offset: i32) -> f32 {
        let scale = magnitude(values) / 127.0;
        let scale = scale + scale * 0.0; // infinity becomes NaN
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        let round = ROUND + offset as f32;
        for (byte, x) in bytes_mut(words).iter_mut().zip(values) {
            *byte = (x * inverse + round).to_bits() as u8;
        }
        scale
    }
}

/// The bits of the nearest bf16, ties to even. NaN stays so: those of arithmetic have no payload that could carry over.
#[inline(always)]
fn rounded_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16
}

/// The scale of 16-bit integers that keeps the limits of length and of magnitude.
#[inline(always)]
pub(super) fn fixed16_scale(sum_of_squares: f32, magnitude: f32) -> f32 {
    if sum_of_squares < f32::MIN_POSITIVE {
        return 0.0; // too small for its length to be known; all zeros, as far as f32 can tell
    }
    let (by_norm, by_magnitude) = (sum_of_squares.sqrt() / GREATEST_NORM, magnitude / 32_767.0);
    // Written so that NaN in the sum is kept.
    if by_magnitude > by_norm {
        by_magnitude
    } else {
        by_norm
    }
}

#[inline(always)]
fn multiples<const FMA: bool>(values: &[f32], scale: f32, words: &mut [u32]) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    for (half, &x) in halves(words).iter_mut().zip(values) {
        *half = compute::mul_add::<FMA>(x, inverse, ROUND).to_bits() as u16;
    }
}

/// The sum of the bytes as signed integers.
pub(super) fn sum_of_bytes(words: &[u32]) -> i32 {
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    bytes.map(|byte| i32::from(byte.cast_signed())).sum()
}

/// The bits of floats.
#[inline(always)]
pub(super) fn as_words(values: &[f32]) -> &[u32] {
    // SAFETY: both types have four bytes of equal alignment, and any bits are a u32.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
}

#[inline(always)]
fn halves(words: &mut [u32]) -> &mut [u16] {
    // SAFETY: a u32 is two u16, which have a smaller alignment and take any bits.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 2) }
}

#[inline(always)]
fn bytes_mut(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: a u32 is four u8.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() * 4) }
}
