//! Arithmetic on slices of f32, compiled for each level of vector instructions.

mod function;
mod matrix;

pub(crate) use function::{
    add_layer_norm, add_scaled, exp_of_scaled, gelu, gelu_tanh, relu, scale, silu, squared_norm,
};
pub(crate) use matrix::{Panels, multiply};
