//! Devices that run kernels: what the kernels of `index` and `encoder` need of a GPU, and no more.
//!
//! The interface is as narrow as CUDA's driver: memory, copies, launches, one matrix product. That makes it possible to run
//! kernels and their host code without a GPU: `tests/emulated-gpu` compiles the same sources as C++ for the host.
//! [`cuda`] is the real thing.

mod arguments;
mod buffer;
pub mod cuda;
mod error;
#[cfg(any(feature = "cuda", test))]
mod ring;

use std::fmt;
use std::sync::Arc;

pub use arguments::{Argument, Launch};
pub use buffer::{Buffer, Download};
pub use error::AcceleratorError;

/// What kernel sources begin with: names that they share, and how they are spelt for CUDA and for the host.
pub const PRELUDE: &str = include_str!("prelude.cuh");

/// The sources of some kernels.
#[derive(Debug)]
pub struct Module {
    /// What messages call it.
    pub name: &'static str,
    /// CUDA C++ that needs [`PRELUDE`] before it and no other header.
    pub source: &'static str,
    /// The kernels that the host launches.
    pub kernels: &'static [&'static str],
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As in `cuda:0`.
    pub name: String,
    /// As its maker calls it.
    pub model: String,
    /// Bytes of its memory.
    pub total_bytes: u64,
    /// Multiprocessors, each of which runs some blocks at once.
    pub n_multiprocessors: u32,
}

/// The type of the values of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatrixType {
    /// `float`
    F32,
    /// `half`
    F16,
    /// `bfloat16`
    Bf16,
}

impl MatrixType {
    /// Bytes of a value.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// What a product does to each value before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// Adds the bias of the value's column; `max(x, 0)`.
    BiasRelu,
    /// Adds the bias of the value's column; GELU by its approximation with tanh (Hendrycks & Gimpel 2016, arXiv 1606.08415, §2).
    BiasGelu,
}

/// Which operand of a product is transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transposed {
    /// `A·Bᵀ` of (m, k) and (n, k): activations with the weights of a linear layer, queries with rows.
    Second,
    /// `A·B` of (m, k) and (k, n): gradients with the weights of a linear layer.
    Neither,
    /// `Aᵀ·B` of (k, m) and (k, n): gradients with activations.
    First,
}

/// A product of two matrices, summed in `f32` and stored as (m, n); all are row-major and without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Which operand is transposed.
    pub transposed: Transposed,
    /// Type of the operands.
    pub operands: MatrixType,
    /// Type of the result: that of the operands, or `f32`.
    pub result: MatrixType,
    /// Whether the product is added to what is there, which no epilogue follows.
    pub adds: bool,
    /// What the sums become.
    pub epilogue: Epilogue,
}

impl Product {
    /// `A·Bᵀ` of (m, k) and (n, k) of a type, to a result of a type.
    #[must_use]
    pub fn new((m, n, k): (usize, usize, usize), operands: MatrixType, result: MatrixType) -> Self {
        Self {
            m,
            n,
            k,
            transposed: Transposed::Second,
            operands,
            result,
            adds: false,
            epilogue: Epilogue::None,
        }
    }
}

/// A copy to the host that was started.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A device. Work is queued and done in order, and nobody waits for it but in [`Accelerator::finish_download`].
///
/// Its memory is addressed by numbers, as in CUDA. [`Buffer`] owns some of it; the methods here are for its implementation.
pub trait Accelerator: fmt::Debug + Send + Sync {
    /// What it is.
    fn info(&self) -> &DeviceInfo;

    /// Bytes of memory that could be allocated now.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    fn free_bytes(&self) -> Result<u64, AcceleratorError>;

    /// Makes kernels known, compiling them where they are not yet.
    ///
    /// # Errors
    /// [`AcceleratorError::Compile`] has the compiler's log.
    fn load(&self, module: &'static Module) -> Result<(), AcceleratorError>;

    /// Memory of undefined content.
    ///
    /// # Errors
    /// [`AcceleratorError::OutOfMemory`].
    fn allocate(&self, n_bytes: usize) -> Result<u64, AcceleratorError>;

    /// Gives memory back once the work queued so far is done.
    ///
    /// # Safety
    /// `address` is from [`Self::allocate`] and is not used after this.
    unsafe fn free(&self, address: u64);

    /// Queues a copy to the device. The bytes may be changed when this returns.
    ///
    /// # Safety
    /// So many bytes are allocated at `to`.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    unsafe fn upload(&self, bytes: &[u8], to: u64) -> Result<(), AcceleratorError>;

    /// Starts to copy from the device what the work queued so far leaves there. Work that is queued after this does not wait for it.
    ///
    /// # Safety
    /// So many bytes, at least one, are allocated at `from`, and are neither written nor freed until the copy is finished, which it is
    /// once.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    unsafe fn start_download(&self, from: u64, n_bytes: usize) -> Result<Ticket, AcceleratorError>;

    /// Waits for a copy, and so for the work that was queued before it, and hands over its first bytes.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`], also for the work before.
    ///
    /// # Panics
    /// When there are not so many bytes, or the ticket is of another device.
    fn finish_download(&self, ticket: Ticket, bytes: &mut [u8]) -> Result<(), AcceleratorError>;

    /// Sets bytes to zero.
    ///
    /// # Safety
    /// So many bytes are allocated at `at`.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    unsafe fn clear(&self, at: u64, n_bytes: usize) -> Result<(), AcceleratorError>;

    /// Queues a kernel of a loaded module.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number, type and order, and what they point to is allocated and as large as the
    /// kernel expects.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`]; what goes wrong in the kernel itself is reported by a later call.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<(), AcceleratorError>;

    /// Records the kernels and products that `work` queues from this thread, and does not queue them. Each of them was queued by itself
    /// before.
    ///
    /// # Errors
    /// Those of the work; [`AcceleratorError::Failed`].
    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), AcceleratorError>,
    ) -> Result<Box<dyn Recording>, AcceleratorError>;

    /// Queues a matrix product. The bias has `n` values of the type of `C`, and is 0 where the epilogue adds none.
    ///
    /// # Safety
    /// The matrices and the bias are allocated at these addresses, which are multiples of 16, and `c` overlaps none of the others.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    unsafe fn multiply(
        &self,
        product: &Product,
        a: u64,
        b: u64,
        bias: u64,
        c: u64,
    ) -> Result<(), AcceleratorError>;
}

/// Kernels and products that were recorded. It is dropped before the memory that they name is freed.
pub trait Recording: fmt::Debug + Send {
    /// Queues all of them, with what is in their memory then.
    ///
    /// # Safety
    /// As for each of them.
    ///
    /// # Errors
    /// [`AcceleratorError::Failed`].
    unsafe fn replay(&self) -> Result<(), AcceleratorError>;
}

/// Devices that may be shared by an index, an encoder and a reranker.
pub type SharedAccelerator = Arc<dyn Accelerator>;
