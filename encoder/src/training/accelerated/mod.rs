//! Training on a device: the layers of an encoder, its tables, projections to the vocabulary and the optimizer.
//!
//! What the CPU does on slices is done here on buffers, with the same formulas, the same random numbers and the same edge: candle
//! operations whose tensors are on the host. Parameters of layers live on the device with their gradients and moments and are copied to
//! the host when somebody reads them there; whatever has no kernels here, such as a loss, is computed on the host as ever.
//!
//! Differences to the CPU: sums have another order, so that results agree within rounding; between a product and an activation values are
//! rounded to the type of operands; and every row of a table takes every step of the optimizer, where the CPU puts some off.

mod attention;
mod kernels;
mod linear;
mod network;
mod operation;
mod resident;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use compute::accelerator::{AcceleratorError, Buffer, MatrixType, Module, SharedAccelerator};

use self::kernels::{Kernels, NormAt};
use super::matrix::Precision;
use super::network::Pair;
use super::parameter::Parameter;
use crate::accelerated::{COLUMN_UNIT, as_bytes};
use crate::architecture::Architecture;

pub(super) use self::linear::{LinearOnDevice, LossOnDevice};
pub(super) use self::network::Layers;
pub(super) use self::operation::{Embedded, Operation, Output};
pub(super) use self::resident::{Resident, squared_norms};

/// The kernels of training.
pub(super) static MODULE: Module = Module {
    name: "training",
    source: concat!(
        include_str!("../../accelerated/stored.cuh"),
        include_str!("training.cuh"),
        include_str!("attention.cu"),
        include_str!("training.cu")
    ),
    kernels: &[
        "attend_train_f32_32",
        "attend_train_f32_64",
        "attend_train_f32_128",
        "attend_train_bf16_32",
        "attend_train_bf16_64",
        "attend_train_bf16_128",
        "attend_train_tiles_bf16_32",
        "attend_train_tiles_bf16_64",
        "attend_queries_f32_32",
        "attend_queries_f32_64",
        "attend_queries_f32_128",
        "attend_queries_bf16_32",
        "attend_queries_bf16_64",
        "attend_queries_bf16_128",
        "attend_queries_tiles_bf16_32",
        "attend_queries_tiles_bf16_64",
        "attend_keys_f32_32",
        "attend_keys_f32_64",
        "attend_keys_f32_128",
        "attend_keys_bf16_32",
        "attend_keys_bf16_64",
        "attend_keys_bf16_128",
        "attend_keys_tiles_bf16_32",
        "attend_keys_tiles_bf16_64",
        "attend_delta_f32",
        "attend_delta_bf16",
        "train_embed_f32",
        "train_embed_bf16",
        "train_add_norm_f32",
        "train_add_norm_bf16",
        "norm_backward_f32",
        "norm_backward_bf16",
        "add_bias_f32",
        "add_bias_bf16",
        "activation_backward_f32",
        "activation_backward_bf16",
        "sum_columns_f32",
        "sum_columns_bf16",
        "store_f32",
        "store_bf16",
        "cross_entropy_backward_f32",
        "cross_entropy_backward_bf16",
        "add_partial",
        "drop_rows",
        "gather_rows",
        "add_rows",
        "mean_rows",
        "spread_rows",
        "add_values",
        "sum_squares",
        "adamw",
        "cross_entropy",
    ],
};

/// Says what the kernels do not take of an architecture, if anything.
pub(super) fn unsupported(architecture: &Architecture) -> Option<String> {
    if architecture.n_buckets > 0 {
        return Some("it has relative positions".to_owned());
    }
    let d = architecture.width / architecture.n_heads;
    if !d.is_multiple_of(COLUMN_UNIT) {
        return Some(format!(
            "the width of a head is {d}, which is no multiple of {COLUMN_UNIT}"
        ));
    }
    crate::accelerated::unsupported(architecture)
}

/// A device that has loaded the kernels, and the type of operands.
#[derive(Clone)]
pub(super) struct Device {
    accelerator: SharedAccelerator,
    of: MatrixType,
    /// Floating-point operations of matrix products so far.
    operations: Arc<AtomicU64>,
}

impl Device {
    pub(super) fn new(
        accelerator: SharedAccelerator,
        precision: Precision,
        operations: Arc<AtomicU64>,
    ) -> Result<Self, AcceleratorError> {
        accelerator.load(&MODULE)?;
        let of = match precision {
            Precision::F32 => MatrixType::F32,
            Precision::Bf16 => MatrixType::Bf16,
        };
        Ok(Self {
            accelerator,
            of,
            operations,
        })
    }

    pub(super) fn accelerator(&self) -> &SharedAccelerator {
        &self.accelerator
    }

    /// Waits for all work.
    pub(super) fn wait(&self) -> Result<(), AcceleratorError> {
        let nothing = self.floats(1)?;
        nothing.clear(0, nothing.n_bytes())?;
        nothing.read(0, &mut [0; size_of::<f32>()])
    }

    /// As in `cuda:0`.
    pub(super) fn name(&self) -> String {
        self.accelerator.info().name.clone()
    }

    fn kernels(&self) -> Kernels<'_> {
        Kernels {
            device: &*self.accelerator,
            of: self.of,
            operations: &self.operations,
        }
    }

    /// Room for so many values of a type.
    fn room(&self, n_values: usize, of: MatrixType) -> Result<Buffer, AcceleratorError> {
        Buffer::new(&self.accelerator, n_values * of.bytes())
    }

    /// Room for f32 values.
    fn floats(&self, n_values: usize) -> Result<Buffer, AcceleratorError> {
        self.room(n_values, MatrixType::F32)
    }

    /// Room for operands.
    fn operands(&self, n_values: usize) -> Result<Buffer, AcceleratorError> {
        self.room(n_values, self.of)
    }

    /// Adds sums over rows of operands or f32 values to the gradient of a vector.
    fn add_columns(
        &self,
        rows: (u64, MatrixType),
        shape: (usize, usize),
        to: &Parameter,
    ) -> candle_core::Result<()> {
        self.add_products(rows, 0, shape, to)
    }

    /// Adds the gradients of scale and shift of a normalization, of that of its result.
    fn add_norm_gradients(
        &self,
        rows: u64,
        at: NormAt,
        shape: (usize, usize),
        norm: &Pair,
    ) -> candle_core::Result<()> {
        let rows = (rows, MatrixType::F32);
        self.add_products(rows, at.normalized, shape, &norm.weight)?;
        self.add_columns(rows, shape, &norm.bias)
    }

    fn add_products(
        &self,
        rows: (u64, MatrixType),
        others: u64,
        shape: (usize, usize),
        to: &Parameter,
    ) -> candle_core::Result<()> {
        let to = to.gradient_address()?;
        let partial = self
            .floats(Kernels::partial_values(shape))
            .map_err(failed)?;
        // SAFETY: the parameter has a value for each column, and there is room for the partial sums.
        unsafe {
            self.kernels()
                .add_columns(rows, others, shape, partial.address(), to)
        }
        .map_err(failed)
    }

    fn upload(&self, values: &[f32]) -> Result<Buffer, AcceleratorError> {
        Buffer::of(&self.accelerator, bytes(values))
    }

    fn upload_words(&self, words: &[u32]) -> Result<Buffer, AcceleratorError> {
        Buffer::of(&self.accelerator, as_bytes(words))
    }
}

/// The f32 values of a buffer.
fn download(buffer: &Buffer) -> Result<Vec<f32>, AcceleratorError> {
    let mut values = vec![0.0; buffer.n_bytes() / size_of::<f32>()];
    // SAFETY: every four bytes are an f32, and the device is little-endian as every host is that has one.
    let bytes = unsafe {
        std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), size_of_val(&values[..]))
    };
    buffer.read(0, bytes)?;
    Ok(values)
}

fn bytes(values: &[f32]) -> &[u8] {
    // SAFETY: every f32 is four bytes, and the device is little-endian as every host is that has one.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// What went wrong on a device, as an error of candle's operations.
pub(super) fn failed(error: AcceleratorError) -> candle_core::Error {
    candle_core::Error::wrap(error)
}
