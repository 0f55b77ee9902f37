//! Registers of sums, one for each set of instructions and kind of words: what a tile of [`matrix`](super::matrix) is made of.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A register of sums. Its functions are called only where its instructions exist.
pub(super) trait Register: Copy {
    const LANES: usize;
    type Words: Copy;
    unsafe fn zero() -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn splat_word(word: u32) -> Self::Words;
    unsafe fn load_words(from: *const u32) -> Self::Words;
    /// Adds the product of each pair of words.
    unsafe fn add_product(self, a: Self::Words, b: Self::Words) -> Self;
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_register {
    ($(#[$doc:meta])* $name:ident, $sums:ident, $words:ident, $lanes:literal, $zero:ident, $load:ident, $store:ident,
     $splat:ident, $load_words:ident, |$sum:ident, $a:ident, $b:ident| $product:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $name($sums);

        impl Register for $name {
            const LANES: usize = $lanes;
            type Words = $words;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller runs on a machine with this instruction.
                Self(unsafe { $zero() })
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: as above, and `from` points to as many floats as there are lanes.
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: as above, and `to` points to as many floats as there are lanes.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            unsafe fn splat_word(word: u32) -> $words {
                // SAFETY: as above.
                unsafe { $splat(word as i32) }
            }
            #[inline(always)]
            unsafe fn load_words(from: *const u32) -> $words {
                // SAFETY: as above, and `from` points to as many words as there are lanes.
                unsafe { $load_words(from.cast()) }
            }
            #[inline(always)]
            unsafe fn add_product(self, $a: $words, $b: $words) -> Self {
                let $sum = self.0;
                // SAFETY: as above.
                Self(unsafe { $product })
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_register!(
    Avx512,
    __m512,
    __m512i,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
);
#[cfg(target_arch = "x86_64")]
x86_register!(
    Avx512Pairs,
    __m512,
    __m512i,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_epi32,
    _mm512_loadu_si512,
    // A `__m512bh` is the same 512 bits under another name; there is no intrinsic for the change of name.
    |sum, a, b| _mm512_dpbf16_ps(
        sum,
        std::mem::transmute::<__m512i, __m512bh>(a),
        std::mem::transmute::<__m512i, __m512bh>(b)
    )
);
#[cfg(target_arch = "x86_64")]
x86_register!(
    /// bf16 where the processor has no instruction for it: the low half is shifted up, the high half masked.
    Avx512Widened, __m512, __m512i, 16, _mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_epi32,
    _mm512_loadu_si512, |sum, a, b| {
        let low = |words| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words));
        let high = |words| _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32)));
        _mm512_fmadd_ps(high(a), high(b), _mm512_fmadd_ps(low(a), low(b), sum))
    }
);
#[cfg(target_arch = "x86_64")]
x86_register!(
    Avx2,
    __m256,
    __m256i,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    |sum, a, b| _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum)
);
#[cfg(target_arch = "x86_64")]
x86_register!(
    Avx2Widened,
    __m256,
    __m256i,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_set1_epi32,
    _mm256_loadu_si256,
    |sum, a, b| {
        let low = |words| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words));
        let high = |words| {
            _mm256_castsi256_ps(_mm256_and_si256(
                words,
                _mm256_set1_epi32(0xffff_0000_u32 as i32),
            ))
        };
        _mm256_fmadd_ps(high(a), high(b), _mm256_fmadd_ps(low(a), low(b), sum))
    }
);

macro_rules! portable_register {
    ($name:ident, |$sum:ident, $a:ident, $b:ident| $product:expr) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name([f32; 4]);

        impl Register for $name {
            const LANES: usize = 4;
            type Words = [u32; 4];
            #[inline(always)]
            unsafe fn zero() -> Self {
                Self([0.0; 4])
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: `from` points to four floats; an array of floats has the alignment of one.
                Self(unsafe { from.cast::<[f32; 4]>().read() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: `to` points to four floats.
                unsafe { to.cast::<[f32; 4]>().write(self.0) }
            }
            #[inline(always)]
            unsafe fn splat_word(word: u32) -> [u32; 4] {
                [word; 4]
            }
            #[inline(always)]
            unsafe fn load_words(from: *const u32) -> [u32; 4] {
                // SAFETY: `from` points to four words.
                unsafe { from.cast::<[u32; 4]>().read() }
            }
            #[inline(always)]
            unsafe fn add_product(self, a: [u32; 4], b: [u32; 4]) -> Self {
                Self(std::array::from_fn(|i| {
                    let ($sum, $a, $b) = (self.0[i], a[i], b[i]);
                    $product
                }))
            }
        }
    };
}

/// `a · b + c` as this architecture does it without asking for more.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    compute::mul_add::<{ cfg!(target_arch = "aarch64") }>(a, b, c)
}

portable_register!(Portable, |sum, a, b| mul_add(
    f32::from_bits(a),
    f32::from_bits(b),
    sum
));
portable_register!(PortablePairs, |sum, a, b| {
    let (low, high) = (
        |word| f32::from_bits(word << 16),
        |word| f32::from_bits(word & 0xffff_0000),
    );
    mul_add(high(a), high(b), mul_add(low(a), low(b), sum))
});
