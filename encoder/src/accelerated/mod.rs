//! Models of the BERT family on an accelerator.
//!
//! A token needs, beside the weights, 8 H + 2 H + 2 · max(4 H, I) bytes while its group is computed in f16 or bf16 (6.9 KB for
//! all-MiniLM-L6-v2, 13.8 KB for BERT base), and 8 H + 4 · max(4 H, I) in f32; embedding tables, biases and normalizations are f32 in all
//! of them. Results are those of two groups; where they are the vectors of tokens, that is 8 H more for a token. Groups of few
//! tokens have memory of their own, for 512 tokens and as many rows of results.

mod groups;
mod kernels;
mod network;
mod networks;
mod small;
#[cfg(test)]
mod tests;
mod weights;
mod workspace;

use compute::accelerator::MatrixType;

pub(crate) use kernels::{COLUMN_UNIT, Function, MOST_COLUMNS, number};
pub(crate) use network::{Wanted, as_bytes};
pub(crate) use networks::Networks;

use crate::architecture::Architecture;
use crate::options::Arithmetic;

/// The type of operands, where accelerators have the arithmetic.
pub(crate) fn matrix_type(arithmetic: Arithmetic) -> Option<MatrixType> {
    match arithmetic {
        Arithmetic::F32 => Some(MatrixType::F32),
        Arithmetic::F16 => Some(MatrixType::F16),
        Arithmetic::Bf16 => Some(MatrixType::Bf16),
        Arithmetic::Auto | Arithmetic::Fixed16 | Arithmetic::Bf16x3 | Arithmetic::Int8 => None,
    }
}

/// Says what the kernels do not take of an architecture, if anything.
pub(crate) fn unsupported(architecture: &Architecture) -> Option<String> {
    let unit = COLUMN_UNIT;
    let (width, d) = (
        architecture.width,
        architecture.width / architecture.n_heads,
    );
    for (name, size) in [
        ("hidden_size", width),
        ("intermediate_size", architecture.n_intermediate),
    ] {
        if !size.is_multiple_of(unit) {
            return Some(format!("{name} is {size}, which is no multiple of {unit}"));
        }
    }
    let limits = [
        ("hidden_size", width, MOST_COLUMNS),
        ("the width of a head", d, kernels::MOST_HEAD_COLUMNS),
    ];
    let beyond = limits.into_iter().find(|&(_, size, most)| size > most);
    beyond.map(|(name, size, most)| format!("{name} is {size}; supported are up to {most}"))
}
