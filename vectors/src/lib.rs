//! Files of vectors that other programs wrote, as rows of `f32`.
//!
//! A [`VectorFile`] is opened by path; its kind is told from its first bytes or its name:
//!
//! | file | rows |
//! |---|---|
//! | NumPy `.npy` | a two-dimensional array in C order, of `f2`, `f4`, `f8`, `i1` or `u1` |
//! | `.fvecs`, `.bvecs` | each row preceded by its width, a 32-bit integer; `f32` and `u8` |
//! | `.safetensors` | the only two-dimensional tensor, or the one that is named; F16, BF16, F32, F64, I8, U8 |
//!
//! Every kind is little-endian and has rows at a fixed distance, so rows are read in any order without the file in memory. Values
//! that are not finite are refused with file, row and dimension; rows are counted from 0.

mod error;
mod fvecs;
mod npy;
mod tensors;
mod value;
mod vector_file;

pub use error::VectorFileError;
pub use vector_file::{MAX_WIDTH, VectorFile, ZeroRows};
