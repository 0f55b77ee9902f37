//! Arithmetic on slices, compiled for each level of vector instructions.

mod count;
mod function;
mod matrix;
mod operand;
mod quantize;
mod register;
#[cfg(target_arch = "x86_64")]
mod tile;

pub(crate) use count::count;
#[cfg(test)]
pub(crate) use count::tests::n_products;
pub use count::{KernelPath, kernel_paths};
pub(crate) use function::{
    add_layer_norm, add_scaled, erfc, exp, fold, gelu, gelu_tanh, quick_gelu, relu, scale, silu,
    squared_norm,
};
pub(crate) use matrix::{multiply, multiply_shared};
pub(crate) use operand::{Format, Panels, Rows};
