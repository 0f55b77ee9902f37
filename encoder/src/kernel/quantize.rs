//! Floats to the numbers of a faster product.

use compute::{Simd, simd_function};

use super::function::{magnitude, sum_of_squares};
use super::operand::{DEPTH, PANEL};

/// Adding it rounds a float below 2²² to an integer, ties to even, and leaves that in the low bits.
const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³

/// Greatest length of a vector of 16-bit integers. By the Cauchy-Schwarz inequality no sum of products of two such
/// vectors, nor any part of it, leaves 32 bits: (46,000 + √384 / 2 of rounding)² < 2³¹.
const GREATEST_NORM: f32 = 46_000.0;

/// Rounds to the nearest bf16, ties to even; with AVX-512 BF16, what is below 2⁻¹²⁶ becomes zero.
pub(super) fn bf16(simd: Simd, values: &[f32], words: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if simd.has_bf16() {
        // SAFETY: a `Simd` has BF16 only where the machine has these instructions.
        return unsafe { bf16_by_instruction(values, words) };
    }
    bf16_by_bits(simd, values, words);
}

/// Fills half of the words with the nearest bf16 of each value, and the other half with those of what is missing.
pub(super) fn bf16x3(simd: Simd, values: &[f32], words: &mut [u32]) {
    let (rounded, missing) = words.split_at_mut(words.len() / 2);
    if !values.len().is_multiple_of(2) {
        for half in [&mut *rounded, missing] {
            half[values.len() / 2] = 0;
        }
    }
    bf16(simd, values, rounded);
    let mut differences = [0.0; DEPTH];
    let differences = &mut differences[..values.len()];
    differences.copy_from_slice(values);
    take_off(simd, differences, rounded);
    bf16(simd, differences, missing);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn bf16_by_instruction(values: &[f32], words: &mut [u32]) {
    use std::arch::x86_64::*;

    const LANES: usize = 32;
    let halves = halves(words);
    assert!(values.len() <= halves.len());
    for (values, halves) in values.chunks(LANES).zip(halves.chunks_mut(LANES)) {
        let mask = u32::MAX >> (LANES - values.len());
        // SAFETY: of both only the elements within `mask` are touched, which are those of `values`, and `halves` has as many.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as u16, values.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> 16) as u16, values.as_ptr().wrapping_add(16));
            let rounded = _mm512_cvtne2ps_pbh(high, low);
            let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded);
            _mm512_mask_storeu_epi16(halves.as_mut_ptr().cast(), mask, rounded);
        }
    }
}

simd_function! {
    fn bf16_by_bits(values: &[f32], words: &mut [u32]) {
        for (half, x) in halves(words).iter_mut().zip(values) {
            *half = rounded_bf16(*x) as u16;
        }
    }

    /// Subtracts bf16.
    fn take_off(values: &mut [f32], words: &mut [u32]) {
        for (x, &half) in values.iter_mut().zip(halves(words).iter()) {
            *x -= f32::from_bits(u32::from(half) << 16);
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

#[cfg(test)]
mod tests {
    use testkit::simd_levels;

    use super::*;

    #[test]
    fn bf16_is_rounded_alike_at_every_level() {
        let bits = [
            0u32,
            0x3f80_8000,
            0x3f81_8000,
            0x3f80_8001,
            0x7f7f_ffff,
            0x7f80_0000,
            0x0080_0000,
        ];
        let both = bits.iter().flat_map(|&bits| [bits, bits | 1 << 31]);
        let special = both.map(f32::from_bits);
        let values: Vec<f32> = special
            .chain((0..120).map(|i| (i as f32 - 60.0) * 0.123))
            .collect();
        for n in [0, 1, 15, 16, 17, 31, 32, 33, 64, values.len()] {
            let expected = |i: usize| {
                values
                    .get(i)
                    .filter(|_| i < n)
                    .map_or(7, |&x| rounded_bf16(x) as u16)
            };
            for simd in simd_levels() {
                let mut words = vec![7 | 7 << 16; 70];
                bf16(simd, &values[..n], &mut words);
                for (i, &half) in halves(&mut words).iter().enumerate() {
                    assert_eq!(half, expected(i), "{n} {simd} [{i}]");
                }
                bf16(simd, &[f32::NAN], &mut words);
                assert!(f32::from_bits(words[0] << 16).is_nan(), "{simd}");
            }
        }
    }
}
