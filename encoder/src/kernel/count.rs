//! Which paths have run: matrix products by instructions and numbers, for benches and tests.

use std::sync::atomic::{AtomicU64, Ordering};

use compute::{Level, Simd};
use serde::Serialize;

use super::operand::Format;
use crate::options::Arithmetic;

/// A set of instructions that products are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    Portable,
    Avx2,
    Avx512,
    Avx512Vnni,
    Avx512Bf16,
    /// Tiles of bf16 or of 8-bit integers.
    Amx,
}

impl Path {
    const ALL: [(Self, &str); 6] = [
        (Self::Portable, "portable"),
        (Self::Avx2, "avx2"),
        (Self::Avx512, "avx512"),
        (Self::Avx512Vnni, "avx512 vnni"),
        (Self::Avx512Bf16, "avx512 vnni bf16"),
        (Self::Amx, "amx"),
    ];

    /// What products of these numbers take on such a machine. Their dispatch goes by this and by nothing else.
    pub(super) fn of(simd: Simd, format: Format) -> Self {
        match simd.level() {
            Level::Portable => Self::Portable,
            Level::Avx2 => Self::Avx2,
            Level::Avx512 | Level::Amx => {
                let by_tiles = match format {
                    Format::Bf16 | Format::Bf16x3 => simd.has_amx(),
                    Format::Int8 => simd.has_amx_int8(),
                    Format::F32 | Format::Fixed16 => false,
                };
                if by_tiles {
                    Self::Amx
                } else if simd.has_bf16() {
                    Self::Avx512Bf16
                } else if simd.has_vnni() {
                    Self::Avx512Vnni
                } else {
                    Self::Avx512
                }
            }
        }
    }
}

const N_FORMATS: usize = 5;

static PRODUCTS: [[AtomicU64; N_FORMATS]; 6] =
    [const { [const { AtomicU64::new(0) }; N_FORMATS] }; 6];

/// Counts a product with weights. Those take microseconds, beside which an addition is nothing; the products of attention
/// may not, and are left out.
pub(crate) fn count(simd: Simd, format: Format) {
    let path = Path::of(simd, format);
    PRODUCTS[path as usize][format as usize].fetch_add(1, Ordering::Relaxed);
    #[cfg(test)]
    tests::OF_THIS_THREAD.with_borrow_mut(|products| products[path as usize][format as usize] += 1);
}

/// What tests count, who run beside each other.
#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        pub(super) static OF_THIS_THREAD: RefCell<[[u64; N_FORMATS]; 6]> = const { RefCell::new([[0; N_FORMATS]; 6]) };
    }

    /// Products with weights that this thread has computed with some instructions, by their name, and numbers.
    pub(crate) fn n_products(instructions: &str, format: Format) -> u64 {
        let named = |(_, name): &(Path, &str)| *name == instructions;
        let (path, _) = Path::ALL.into_iter().find(named).expect("a known path");
        OF_THIS_THREAD.with_borrow(|products| products[path as usize][format as usize])
    }
}

/// A set of instructions with a kind of numbers, and the products with weights that this process has computed with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelPath {
    /// The instructions, such as `avx512 vnni`.
    pub simd: &'static str,
    /// The numbers.
    pub arithmetic: Arithmetic,
    /// Products with weights since the process began.
    pub n_products: u64,
}

/// Returns the paths of the engine that have run in this process, narrowest instructions first.
pub fn kernel_paths() -> Vec<KernelPath> {
    let mut paths = Vec::new();
    let arithmetics = [
        Arithmetic::F32,
        Arithmetic::Fixed16,
        Arithmetic::Bf16x3,
        Arithmetic::Bf16,
        Arithmetic::Int8,
    ];
    for (path, name) in Path::ALL {
        for arithmetic in arithmetics {
            let counter = &PRODUCTS[path as usize][arithmetic.format() as usize];
            let n_products = counter.load(Ordering::Relaxed);
            if n_products > 0 {
                paths.push(KernelPath {
                    simd: name,
                    arithmetic,
                    n_products,
                });
            }
        }
    }
    paths
}
