use std::fmt;

/// The vector instructions that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every processor of the architecture has.
    Portable,
    /// AVX2 and FMA: 8 floats.
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 floats.
    Avx512,
    /// Tiles of AMX beside the registers of [`Self::Avx512`]. A limit only: [`Simd::level`] names registers.
    Amx,
}

impl Level {
    /// All levels, narrowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    /// The name in flags and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }
}

/// Proof that this machine has certain vector instructions: only detection makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Simd {
    level: Level,
    vnni: bool,
    bf16: bool,
    amx: bool,
    amx_int8: bool,
}

impl Simd {
    const PORTABLE: Self = Self {
        level: Level::Portable,
        vnni: false,
        bf16: false,
        amx: false,
        amx_int8: false,
    };

    /// The widest level of this machine. The first call asks the system to let this process use tiles.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") {
                let wide =
                    has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
                let vnni = wide && has!("avx512vnni");
                let bf16 = vnni && has!("avx512bf16");
                let tiles = crate::amx::permitted();
                return Self {
                    level: if wide { Level::Avx512 } else { Level::Avx2 },
                    vnni,
                    bf16,
                    amx: bf16 && tiles.bf16,
                    amx_int8: vnni && tiles.int8,
                };
            }
        }
        Self::PORTABLE
    }

    /// Everything that this machine can be, narrowest first; tests run their kernels at each.
    pub fn available() -> Vec<Self> {
        let of = |level, vnni, bf16| Self {
            level,
            vnni,
            bf16,
            ..Self::PORTABLE
        };
        let widest = Self::detect();
        let narrower = [
            Self::PORTABLE,
            of(Level::Avx2, false, false),
            of(Level::Avx512, false, false),
            of(Level::Avx512, true, false),
            of(Level::Avx512, true, true),
        ];
        let narrower = narrower.into_iter().filter(|simd| *simd < widest);
        narrower.chain([widest]).collect()
    }

    /// The same machine, using nothing beyond a level.
    pub fn at_most(self, level: Level) -> Self {
        match level {
            Level::Amx => self,
            Level::Avx512 => Self {
                amx: false,
                amx_int8: false,
                ..self
            },
            Level::Avx2 | Level::Portable => Self {
                level: self.level.min(level),
                ..Self::PORTABLE
            },
        }
    }

    /// The same machine, said to have tiles: how tests run on an emulation of them.
    ///
    /// # Safety
    /// The process carries out the tile instructions of AMX itself where the machine does not.
    #[doc(hidden)]
    pub unsafe fn assume_amx(self) -> Self {
        Self {
            amx: self.level == Level::Avx512,
            amx_int8: self.vnni,
            ..self
        }
    }

    /// Which registers there are; never [`Level::Amx`].
    pub fn level(self) -> Level {
        self.level
    }

    /// Whether AVX-512 sums products of 8-bit and 16-bit integers in one instruction (AVX-512 VNNI).
    pub fn has_vnni(self) -> bool {
        self.vnni
    }

    /// Whether AVX-512 sums products of bf16 pairs in one instruction (AVX-512 BF16); never without VNNI.
    pub fn has_bf16(self) -> bool {
        self.bf16
    }

    /// Whether tiles of bf16 are multiplied in one instruction (AMX, with the system's permission); never without
    /// AVX-512 BF16.
    pub fn has_amx(self) -> bool {
        self.amx
    }

    /// Whether tiles of 8-bit integers are multiplied in one instruction (AMX, with the system's permission); never without
    /// AVX-512 VNNI.
    pub fn has_amx_int8(self) -> bool {
        self.amx_int8
    }
}

impl fmt::Display for Simd {
    /// Writes the name that flags take, with what comes on top.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.level.as_str())?;
        let extras = [
            (self.vnni, " vnni"),
            (self.bf16, " bf16"),
            (self.amx, " amx"),
            (self.amx_int8, " amx-int8"),
        ];
        for (has, name) in extras {
            if has {
                formatter.write_str(name)?;
            }
        }
        Ok(())
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
    fn a_narrower_level_takes_its_extras_along() {
        for simd in Simd::available() {
            let with_tiles = Simd {
                amx: true,
                amx_int8: true,
                ..simd
            };
            assert_eq!(with_tiles.at_most(Level::Amx), with_tiles);
            let registers = with_tiles.at_most(Level::Avx512);
            assert!(!registers.has_amx() && !registers.has_amx_int8());
            assert_eq!(format!("{registers} amx amx-int8"), with_tiles.to_string());
            let narrow = with_tiles.at_most(Level::Avx2);
            assert!(narrow <= simd && !narrow.has_vnni() && !narrow.has_bf16());
            assert!(!narrow.has_amx() && !narrow.has_amx_int8());
            assert_eq!(simd.at_most(Level::Portable), Simd::PORTABLE);
        }
        assert_eq!(Simd::PORTABLE.to_string(), "portable");
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
