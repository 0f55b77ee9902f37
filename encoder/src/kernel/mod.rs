//! Arithmetic on slices, compiled for each level of vector instructions.

mod function;
mod matrix;
mod quantize;
mod register;

pub(crate) use function::{
    add_layer_norm, add_scaled, gelu, gelu_tanh, quick_gelu, relu, scale, silu, squared_norm,
};
pub(crate) use matrix::{Format, Panels, Rows, multiply, multiply_shared};
