//! One vector register of 32-bit words, at each level.

/// One vector register; its words are floats, or hold two or four smaller numbers each.
///
/// # Safety
/// Functions are called only where the register's instructions exist.
pub(super) trait Register: Copy {
    const LANES: usize;
    unsafe fn splat(word: u32) -> Self;
    unsafe fn load(from: *const u32) -> Self;
    unsafe fn store(self, to: *mut u32);
    /// Brings the words at `from`, which may be anywhere, into the L2 cache.
    unsafe fn prefetch(from: *const u32);
    /// Integers to floats.
    unsafe fn to_f32(self) -> Self;
    /// `self · b`, floats.
    unsafe fn mul(self, b: Self) -> Self;
    /// `self · b + c`, floats, with one rounding where the level fuses.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// Adds the products of both bf16 of each word to the f32 in `sum`.
    unsafe fn dot_bf16(self, b: Self, sum: Self) -> Self;
    /// Adds the products of both 16-bit integers of each word to the 32-bit ones in `sum`.
    unsafe fn dot_i16(self, b: Self, sum: Self) -> Self;
    /// Adds the products of the four 8-bit integers of each word, unsigned in `self` and signed in `b`, to `sum`.
    unsafe fn dot_u8_i8(self, b: Self, sum: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Ymm, Zmm};

#[cfg(target_arch = "x86_64")]
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "each block is one instruction; the argument is the same for all and stands above each implementation"
)]
mod x86 {
    use std::arch::x86_64::*;

    use super::Register;

    /// AVX-512, with or without the dot products of VNNI and of BF16.
    #[derive(Clone, Copy)]
    pub(crate) struct Zmm<const VNNI: bool, const BF16: bool>(__m512i);

    // SAFETY of every block below: the caller runs on a machine with these instructions, and pointers are to as many
    // words as the register has lanes.
    impl<const VNNI: bool, const BF16: bool> Register for Zmm<VNNI, BF16> {
        const LANES: usize = 16;
        #[inline(always)]
        unsafe fn splat(word: u32) -> Self {
            unsafe { Self(_mm512_set1_epi32(word.cast_signed())) }
        }
        #[inline(always)]
        unsafe fn load(from: *const u32) -> Self {
            unsafe { Self(_mm512_loadu_si512(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u32) {
            unsafe { _mm512_storeu_si512(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn prefetch(from: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn to_f32(self) -> Self {
            unsafe { Self(_mm512_castps_si512(_mm512_cvtepi32_ps(self.0))) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe {
                let product = _mm512_mul_ps(_mm512_castsi512_ps(self.0), _mm512_castsi512_ps(b.0));
                Self(_mm512_castps_si512(product))
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe {
                let [a, b, c] = [self, b, c].map(|register| _mm512_castsi512_ps(register.0));
                Self(_mm512_castps_si512(_mm512_fmadd_ps(a, b, c)))
            }
        }
        #[inline(always)]
        unsafe fn dot_bf16(self, b: Self, sum: Self) -> Self {
            unsafe {
                if BF16 {
                    let [a, b] = [self, b]
                        .map(|register| std::mem::transmute::<__m512i, __m512bh>(register.0));
                    let sum = _mm512_dpbf16_ps(_mm512_castsi512_ps(sum.0), a, b);
                    return Self(_mm512_castps_si512(sum));
                }
                let high =
                    |register: Self| Self(_mm512_and_si512(register.0, _mm512_set1_epi32(-65_536)));
                let low = |register: Self| Self(_mm512_slli_epi32::<16>(register.0));
                high(self).mul_add(high(b), low(self).mul_add(low(b), sum))
            }
        }
        #[inline(always)]
        unsafe fn dot_i16(self, b: Self, sum: Self) -> Self {
            unsafe {
                if VNNI {
                    return Self(dot_i16_vnni(self.0, b.0, sum.0));
                }
                Self(_mm512_add_epi32(sum.0, _mm512_madd_epi16(self.0, b.0)))
            }
        }
        #[inline(always)]
        unsafe fn dot_u8_i8(self, b: Self, sum: Self) -> Self {
            unsafe {
                if VNNI {
                    return Self(_mm512_dpbusd_epi32(sum.0, self.0, b.0));
                }
                let even = _mm512_and_si512(self.0, _mm512_set1_epi16(255));
                let odd = _mm512_srli_epi16::<8>(self.0);
                let even =
                    _mm512_madd_epi16(even, _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b.0)));
                let odd = _mm512_madd_epi16(odd, _mm512_srai_epi16::<8>(b.0));
                Self(_mm512_add_epi32(sum.0, _mm512_add_epi32(even, odd)))
            }
        }
    }

    /// VPDPWSSD by its name: the compiler takes the intrinsic apart again, into a multiplication and an addition.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot_i16_vnni(a: __m512i, b: __m512i, mut sum: __m512i) -> __m512i {
        // SAFETY: the instruction reads and writes these registers and nothing else.
        unsafe {
            std::arch::asm!(
                "vpdpwssd {}, {}, {}",
                inout(zmm_reg) sum,
                in(zmm_reg) a,
                in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    /// AVX2 with FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Ymm(__m256i);

    // SAFETY of every block below: as above.
    impl Register for Ymm {
        const LANES: usize = 8;
        #[inline(always)]
        unsafe fn splat(word: u32) -> Self {
            unsafe { Self(_mm256_set1_epi32(word.cast_signed())) }
        }
        #[inline(always)]
        unsafe fn load(from: *const u32) -> Self {
            unsafe { Self(_mm256_loadu_si256(from.cast())) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u32) {
            unsafe { _mm256_storeu_si256(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn prefetch(from: *const u32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
        }
        #[inline(always)]
        unsafe fn to_f32(self) -> Self {
            unsafe { Self(_mm256_castps_si256(_mm256_cvtepi32_ps(self.0))) }
        }
        #[inline(always)]
        unsafe fn mul(self, b: Self) -> Self {
            unsafe {
                let product = _mm256_mul_ps(_mm256_castsi256_ps(self.0), _mm256_castsi256_ps(b.0));
                Self(_mm256_castps_si256(product))
            }
        }
        #[inline(always)]
        unsafe fn mul_add(self, b: Self, c: Self) -> Self {
            unsafe {
                let [a, b, c] = [self, b, c].map(|register| _mm256_castsi256_ps(register.0));
                Self(_mm256_castps_si256(_mm256_fmadd_ps(a, b, c)))
            }
        }
        #[inline(always)]
        unsafe fn dot_bf16(self, b: Self, sum: Self) -> Self {
            unsafe {
                let high =
                    |register: Self| Self(_mm256_and_si256(register.0, _mm256_set1_epi32(-65_536)));
                let low = |register: Self| Self(_mm256_slli_epi32::<16>(register.0));
                high(self).mul_add(high(b), low(self).mul_add(low(b), sum))
            }
        }
        #[inline(always)]
        unsafe fn dot_i16(self, b: Self, sum: Self) -> Self {
            unsafe { Self(_mm256_add_epi32(sum.0, _mm256_madd_epi16(self.0, b.0))) }
        }
        #[inline(always)]
        unsafe fn dot_u8_i8(self, b: Self, sum: Self) -> Self {
            unsafe {
                let even = _mm256_and_si256(self.0, _mm256_set1_epi16(255));
                let odd = _mm256_srli_epi16::<8>(self.0);
                let even =
                    _mm256_madd_epi16(even, _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b.0)));
                let odd = _mm256_madd_epi16(odd, _mm256_srai_epi16::<8>(b.0));
                Self(_mm256_add_epi32(sum.0, _mm256_add_epi32(even, odd)))
            }
        }
    }
}

/// Four words without any instruction of their own.
impl Register for [u32; 4] {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        [word; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: `from` points to four words; an array of them has the alignment of one.
        unsafe { from.cast::<Self>().read() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u32) {
        // SAFETY: `to` points to four words.
        unsafe { to.cast::<Self>().write(self) }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u32) {}
    #[inline(always)]
    unsafe fn to_f32(self) -> Self {
        self.map(|word| (word.cast_signed() as f32).to_bits())
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        std::array::from_fn(|i| (f32::from_bits(self[i]) * f32::from_bits(b[i])).to_bits())
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        std::array::from_fn(|i| mul_add(self[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, b: Self, sum: Self) -> Self {
        std::array::from_fn(|i| {
            let low = mul_add(self[i] << 16, b[i] << 16, sum[i]);
            mul_add(self[i] & 0xffff_0000, b[i] & 0xffff_0000, low)
        })
    }
    #[inline(always)]
    unsafe fn dot_i16(self, b: Self, sum: Self) -> Self {
        std::array::from_fn(|i| {
            let low = |word: u32| i32::from(word as i16);
            let high = |word: u32| word.cast_signed() >> 16;
            let products = low(self[i]) * low(b[i]) + high(self[i]) * high(b[i]);
            sum[i].wrapping_add(products.cast_unsigned())
        })
    }
    #[inline(always)]
    unsafe fn dot_u8_i8(self, b: Self, sum: Self) -> Self {
        std::array::from_fn(|i| {
            let (a, b) = (self[i].to_ne_bytes(), b[i].to_ne_bytes());
            let product = |j: usize| i32::from(a[j]) * i32::from(b[j].cast_signed());
            let products: i32 = (0..4).map(product).sum();
            sum[i].wrapping_add(products.cast_unsigned())
        })
    }
}

#[inline(always)]
fn mul_add(a: u32, b: u32, c: u32) -> u32 {
    let [a, b, c] = [a, b, c].map(f32::from_bits);
    compute::mul_add::<{ cfg!(target_arch = "aarch64") }>(a, b, c).to_bits()
}
