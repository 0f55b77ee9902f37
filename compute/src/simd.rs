/// The vector instructions that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 and FMA: 8 floats.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 floats.
    Avx512,
}

/// Proof that this machine has the instructions of a [`Level`]: only detection makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Simd(Level);

impl Simd {
    /// The widest level of this machine.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") {
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    return Self(Level::Avx512);
                }
                return Self(Level::Avx2);
            }
        }
        Self(Level::Portable)
    }

    /// Every level of this machine, narrowest first; tests run their kernels at each.
    pub fn available() -> Vec<Self> {
        let widest = Self::detect();
        [Level::Portable, Level::Avx2, Level::Avx512]
            .map(Self)
            .into_iter()
            .filter(|simd| *simd <= widest)
            .collect()
    }

    /// Which instructions these are.
    pub fn level(self) -> Level {
        self.0
    }
}

/// `a · b + c`, fused to one rounding when `FMA`, else with two.
///
/// Without the instruction a fused result would cost a library call, so the portable level does without.
#[inline(always)]
pub fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Defines functions whose body is compiled once for each [`Level`]; the first argument, a [`Simd`], chooses.
///
/// Inside the body the constant `FMA` says whether fused multiplication is one instruction: see [`mul_add`].
/// What the body calls is compiled for the level only where it is `#[inline(always)]`.
///
/// ```
/// compute::simd_function! {
///     /// Adds `a · x` to `y`.
///     pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
///         for (y, &x) in y.iter_mut().zip(x) {
///             *y = compute::mul_add::<FMA>(a, x, *y);
///         }
///     }
/// }
/// let mut y = [1.0, 2.0];
/// axpy(compute::Simd::detect(), 2.0, &[10.0, 20.0], &mut y);
/// assert_eq!(y, [21.0, 42.0]);
/// ```
#[macro_export]
macro_rules! simd_function {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block
    )*) => {$(
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments, reason = "the level comes on top of the function's own arguments")]
        $visibility fn $name(simd: $crate::Simd, $($argument: $kind),*) $(-> $result)? {
            #[inline(always)]
            #[allow(unused_mut, clippy::extra_unused_type_parameters, reason = "not every body multiplies")]
            fn body<const FMA: bool>($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($argument: $kind),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $kind),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            match simd.level() {
                // SAFETY: a `Simd` of this level exists only where the machine has these instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::Level::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::Level::Avx2 => unsafe { avx2($($argument),*) },
                _ => body::<{ cfg!(target_arch = "aarch64") }>($($argument),*),
            }
        }
    )*};
}

#[cfg(test)]
mod tests {
    use super::*;

    simd_function! {
        fn dot(a: &[f32], b: &[f32]) -> f32 {
            a.iter().zip(b).fold(0.0, |sum, (&a, &b)| mul_add::<FMA>(a, b, sum))
        }
    }

    #[test]
    fn every_level_computes_the_same() {
        let a: Vec<f32> = (0..100).map(|i| i as f32).collect();
        assert_eq!(Simd::available().last(), Some(&Simd::detect()));
        for simd in Simd::available() {
            assert_eq!(dot(simd, &a, &a), 328_350.0, "{simd:?}"); // Σ i² = 99 · 100 · 199 / 6
        }
    }
}
