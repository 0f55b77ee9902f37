//! Rows of f32 to the words of a matrix product, and back.
//!
//! `(values, stride)` are rows that start every `stride` values; `(words, stride)` likewise.

use compute::simd_function;

use super::matrix::Kernel;

/// Packs rows of `n` values along their own dimension.
pub(super) fn pack_rows(
    kernel: Kernel,
    rows: (&[f32], usize),
    n: usize,
    words: (&mut [u32], usize),
) {
    #[cfg(target_arch = "x86_64")]
    if kernel.rounds() && kernel.has_pairs {
        // SAFETY: `has_pairs` says that the processor has these instructions.
        return unsafe { pairs::pack_rows(rows, n, words) };
    }
    pack_rows_plain(kernel.simd, kernel.rounds(), rows, n, words);
}

/// Packs `n` columns of `k` rows; what lies between the steps becomes 0.
pub(super) fn pack_steps(
    kernel: Kernel,
    rows: (&[f32], usize),
    k: usize,
    n: usize,
    words: (&mut [u32], usize),
) {
    #[cfg(target_arch = "x86_64")]
    if kernel.rounds() && kernel.has_pairs {
        // SAFETY: as above.
        return unsafe { pairs::pack_steps(rows, k, n, words) };
    }
    pack_steps_plain(kernel.simd, kernel.rounds(), rows, k, n, words);
}

/// Rounds to bf16; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded }
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    round(low) | (round(high) << 16)
}

simd_function! {
    fn pack_rows_plain(rounds: bool, rows: (&[f32], usize), n: usize, words: (&mut [u32], usize)) {
        for (row, words) in rows.0.chunks(rows.1).zip(words.0.chunks_mut(words.1)) {
            let row = &row[..n];
            if !rounds {
                for (word, value) in words.iter_mut().zip(row) {
                    *word = value.to_bits();
                }
                continue;
            }
            let (pairs, last) = row.as_chunks::<2>();
            for (word, &[low, high]) in words.iter_mut().zip(pairs) {
                *word = pair(low, high);
            }
            if let [last] = last {
                words[pairs.len()] = pair(*last, 0.0);
            }
        }
    }

    /// Reverses [`pack_rows`], but for the rounding.
    pub(super) fn unpack_rows(rounds: bool, words: (&[u32], usize), n: usize, rows: (&mut [f32], usize)) {
        for (row, words) in rows.0.chunks_mut(rows.1).zip(words.0.chunks(words.1)) {
            let row = &mut row[..n];
            if !rounds {
                for (value, &word) in row.iter_mut().zip(words) {
                    *value = f32::from_bits(word);
                }
                continue;
            }
            let (pairs, last) = row.as_chunks_mut::<2>();
            for ([low, high], &word) in pairs.iter_mut().zip(words) {
                (*low, *high) = (f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000));
            }
            if let [last] = last {
                *last = f32::from_bits(words[pairs.len()] << 16);
            }
        }
    }

    fn pack_steps_plain(rounds: bool, rows: (&[f32], usize), k: usize, n: usize, words: (&mut [u32], usize)) {
        let (values, stride) = rows;
        let row = |index: usize| &values[index * stride..][..n];
        for (step, words) in words.0.chunks_exact_mut(words.1).enumerate() {
            let (words, padding) = words.split_at_mut(n);
            padding.fill(0);
            if !rounds {
                for (word, value) in words.iter_mut().zip(row(step)) {
                    *word = value.to_bits();
                }
            } else if 2 * step + 1 < k {
                for ((word, &low), &high) in words.iter_mut().zip(row(2 * step)).zip(row(2 * step + 1)) {
                    *word = pair(low, high);
                }
            } else {
                for (word, &low) in words.iter_mut().zip(row(2 * step)) {
                    *word = pair(low, 0.0);
                }
            }
        }
    }

    /// Does as [`pack_steps`] for `k` rows of `n` values that are packed along the other dimension already.
    pub(super) fn repack_steps(rounds: bool, rows: (&[u32], usize), k: usize, n: usize, words: (&mut [u32], usize)) {
        let (values, stride) = rows;
        for (step, words) in words.0.chunks_exact_mut(words.1).enumerate() {
            let (words, padding) = words.split_at_mut(n);
            padding.fill(0);
            if !rounds {
                words.copy_from_slice(&values[step * stride..][..n]);
                continue;
            }
            let low = &values[2 * step * stride..][..n.div_ceil(2)];
            let high = if 2 * step + 1 < k { Some(&values[(2 * step + 1) * stride..][..n.div_ceil(2)]) } else { None };
            let (pairs, last) = words.as_chunks_mut::<2>();
            match high {
                Some(high) => {
                    for (([even, odd], &low), &high) in pairs.iter_mut().zip(low).zip(high) {
                        (*even, *odd) = ((low & 0xffff) | (high << 16), (low >> 16) | (high & 0xffff_0000));
                    }
                }
                None => {
                    for ([even, odd], &low) in pairs.iter_mut().zip(low) {
                        (*even, *odd) = (low & 0xffff, low >> 16);
                    }
                }
            }
            if let [last] = last {
                *last = (low[pairs.len()] & 0xffff) | (high.map_or(0, |high| high[pairs.len()] << 16));
            }
        }
    }
}

/// The same with the processor's own rounding, which takes numbers below 2⁻¹²⁶ for 0 as its products do.
#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;

    use super::pair;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    pub(super) fn pack_rows(rows: (&[f32], usize), n: usize, words: (&mut [u32], usize)) {
        for (row, words) in rows.0.chunks(rows.1).zip(words.0.chunks_mut(words.1)) {
            let (blocks, rest) = row[..n].as_chunks::<32>();
            let (targets, last) = words[..n.div_ceil(2)].split_at_mut(16 * blocks.len());
            for (block, target) in blocks.iter().zip(targets.as_chunks_mut::<16>().0) {
                // SAFETY: a block has 32 floats, its target 16 words.
                unsafe {
                    let (low, high) = (block.as_ptr(), block.as_ptr().add(16));
                    let rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(high), _mm512_loadu_ps(low));
                    target
                        .as_mut_ptr()
                        .cast::<__m512bh>()
                        .write_unaligned(rounded);
                }
            }
            for (values, word) in rest.chunks(2).zip(last) {
                *word = pair(values[0], values.get(1).copied().unwrap_or(0.0));
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    pub(super) fn pack_steps(
        rows: (&[f32], usize),
        k: usize,
        n: usize,
        words: (&mut [u32], usize),
    ) {
        let (values, stride) = rows;
        let row = |index: usize| &values[index * stride..][..n];
        // Value i of the first row beside value i of the second, which follows 16 places behind.
        let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + 16 * (i % 2)) as u16);
        // SAFETY: 32 numbers of 16 bits fill the register.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        for (step, words) in words.0.chunks_exact_mut(words.1).enumerate() {
            let (words, padding) = words.split_at_mut(n);
            padding.fill(0);
            let low = row(2 * step);
            let high = if 2 * step + 1 < k {
                Some(row(2 * step + 1))
            } else {
                None
            };
            let whole = n / 16 * 16;
            for first in (0..whole).step_by(16) {
                let low = &low[first..first + 16];
                let high = high.map(|high| &high[first..first + 16]);
                // SAFETY: 16 floats of each row are left, and 16 words.
                unsafe {
                    let high =
                        high.map_or(_mm512_setzero_ps(), |high| _mm512_loadu_ps(high.as_ptr()));
                    let rounded = _mm512_cvtne2ps_pbh(high, _mm512_loadu_ps(low.as_ptr()));
                    let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded); // the same bits
                    let target = words[first..first + 16].as_mut_ptr().cast();
                    _mm512_storeu_si512(target, _mm512_permutexvar_epi16(order, rounded));
                }
            }
            for column in whole..n {
                words[column] = pair(low[column], high.map_or(0.0, |high| high[column]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use compute::Simd;

    use super::*;
    use crate::training::Precision;

    /// Numbers of many sizes, ties between two bf16, infinities and NaN.
    fn values(n: usize) -> Vec<f32> {
        let special = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1.003_906_2,
            1.011_718_8,
            3.4e38,
            -1e-30,
        ];
        let value = |i: usize| (i as f32 * 0.37).sin() * 10f32.powi((i % 40) as i32 - 20);
        (0..n)
            .map(|i| {
                if i % 5 == 0 {
                    special[i / 5 % special.len()]
                } else {
                    value(i)
                }
            })
            .collect()
    }

    fn bits(words: &[u32]) -> Vec<u32> {
        let number = |bits: u32| {
            if f32::from_bits(bits).is_nan() {
                0x7fc0
            } else {
                bits >> 16
            }
        };
        words
            .iter()
            .flat_map(|word| [number(word << 16), number(word & 0xffff_0000)])
            .collect()
    }

    /// Ragged rows with space between them, packed at all levels and by definition.
    #[test]
    fn packing_rounds_to_nearest_even_on_every_path() {
        for (n_rows, n) in [
            (1usize, 1usize),
            (2, 31),
            (5, 32),
            (4, 33),
            (7, 48),
            (3, 100),
        ] {
            let (stride, mut columns) = (n + 3, vec![vec![0u32; n]; n_rows.div_ceil(2) * 2]);
            let values = values(n_rows * stride);
            for (row, columns) in columns[..n_rows].iter_mut().enumerate() {
                for (column, target) in columns.iter_mut().enumerate() {
                    *target =
                        u32::from(half::bf16::from_f32(values[row * stride + column]).to_bits());
                    if values[row * stride + column].is_nan() {
                        *target = 0x7fc0;
                    }
                }
            }
            for simd in Simd::available() {
                let kernel = Kernel::new(simd, Precision::Bf16);
                let n_words = kernel.words(n);
                let mut words = vec![u32::MAX; n_rows * n_words];
                pack_rows(kernel, (&values, stride), n, (&mut words, n_words));
                for (words, expected) in words.chunks(n_words).zip(&columns) {
                    assert_eq!(bits(words)[..n], expected[..], "{simd:?} {n_rows} x {n}");
                }
                let mut words = vec![u32::MAX; kernel.words(n_rows) * (n + 2)];
                pack_steps(kernel, (&values, stride), n_rows, n, (&mut words, n + 2));
                for (step, words) in words.chunks(n + 2).enumerate() {
                    let found = bits(words);
                    for (column, pair) in found.chunks(2).enumerate() {
                        let expected = if column < n {
                            [columns[2 * step][column], columns[2 * step + 1][column]]
                        } else {
                            [0, 0]
                        };
                        assert_eq!(
                            pair, expected,
                            "{simd:?} {n_rows} x {n}, step {step}, column {column}"
                        );
                    }
                }
            }
        }
    }
}
