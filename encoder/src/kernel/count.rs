//! Which paths have run: matrix products by instructions and numbers, for benches and tests.

use std::sync::atomic::{AtomicU64, Ordering};

use compute::Simd;
use serde::Serialize;

use super::operand::Format;
use crate::options::Arithmetic;

/// One product of matrices takes microseconds at least, beside which a relaxed addition is nothing.
static PRODUCTS: [[AtomicU64; 4]; 8] = [const { [const { AtomicU64::new(0) }; 4] }; 8];

/// Counts a product.
pub(super) fn count(simd: Simd, format: Format) {
    PRODUCTS[place(simd)][format as usize].fetch_add(1, Ordering::Relaxed);
}

/// A number for each set of instructions: the level, and one more for each extra on top.
fn place(simd: Simd) -> usize {
    let extras = [simd.has_vnni(), simd.has_bf16(), simd.has_amx()];
    simd.level() as usize + extras.into_iter().map(usize::from).sum::<usize>()
}

const FORMATS: [(Format, Arithmetic); 4] = [
    (Format::F32, Arithmetic::F32),
    (Format::Bf16, Arithmetic::Bf16),
    (Format::Fixed16, Arithmetic::Fixed16),
    (Format::Int8, Arithmetic::Int8),
];

/// A set of instructions with a kind of numbers, and the matrix products that this process has computed with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelPath {
    /// The instructions, such as `avx512 vnni`.
    pub simd: String,
    /// The numbers.
    pub arithmetic: Arithmetic,
    /// Matrix products since the process began.
    pub n_products: u64,
}

/// Returns the paths of the engine that have run in this process, narrowest instructions first.
pub fn kernel_paths() -> Vec<KernelPath> {
    let mut paths = Vec::new();
    for simd in Simd::available() {
        for (format, arithmetic) in FORMATS {
            let n_products = PRODUCTS[place(simd)][format as usize].load(Ordering::Relaxed);
            if n_products > 0 {
                paths.push(KernelPath {
                    simd: simd.to_string(),
                    arithmetic,
                    n_products,
                });
            }
        }
    }
    paths
}
