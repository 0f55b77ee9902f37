//! Matrix products by cuBLASLt.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference,
};
use cudarc::driver::result::{free_async, malloc_async};
use cudarc::driver::{CudaStream, DriverError};

use crate::accelerator::{Epilogue, MatrixType, Product, Transposed};

/// What the library's documentation recommends for Hopper; other devices use less of it.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Of matrices, in bytes, as [`crate::accelerator::Accelerator::multiply`] promises it.
const ALIGNMENT: u32 = 16;
/// `CUBLAS_OP_T`, which belongs to another library of the family.
const TRANSPOSED: i32 = 1;
/// Shapes whose algorithm is remembered: a server sees few, a build with texts of every length sees many.
const REMEMBERED: usize = 4096;

/// The library, with a workspace of its own on one stream.
pub(super) struct Products {
    stream: Arc<CudaStream>,
    workspace: u64,
    library: Mutex<Library>,
}

struct Library {
    handle: sys::cublasLtHandle_t,
    algorithms: HashMap<Product, sys::cublasLtMatmulAlgo_t>,
}

// SAFETY: the handle is not bound to a thread.
unsafe impl Send for Library {}

/// Why a product was not queued.
#[derive(Debug)]
pub(super) enum ProductError {
    Driver(DriverError),
    Library(CublasError),
}

impl From<CublasError> for ProductError {
    fn from(error: CublasError) -> Self {
        Self::Library(error)
    }
}

impl Products {
    /// The context of the stream is current.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self, ProductError> {
        // SAFETY: the workspace is used on this stream only, in order.
        let workspace = unsafe { malloc_async(stream.cu_stream(), WORKSPACE_BYTES) };
        let workspace = workspace.map_err(ProductError::Driver)?;
        Ok(Self {
            stream: stream.clone(),
            workspace,
            library: Mutex::new(Library {
                handle: result::create_handle()?,
                algorithms: HashMap::new(),
            }),
        })
    }

    /// Queues a product on a stream: that of the workspace, or one that records what will run there. The context is current.
    ///
    /// The library thinks in columns: what is (m, k) by rows is (k, m) by columns. So for `C = A·Bᵀ` it is asked for `Cᵀ = B·Aᵀ`, of the
    /// same bytes, in which its first operand, `B`, is what it calls transposed. Its bias is by rows, which are the columns of `C`, and of
    /// the type of the result. Its GELU is the approximation with tanh.
    ///
    /// # Safety
    /// As [`crate::accelerator::Accelerator::multiply`].
    pub unsafe fn multiply(
        &self,
        product: &Product,
        a: u64,
        b: u64,
        bias: u64,
        c: u64,
        stream: &CudaStream,
    ) -> Result<(), ProductError> {
        let Product {
            m,
            n,
            k,
            transposed,
            operands,
            result: of_c,
            adds,
            epilogue,
        } = *product;
        let mut library = self.library.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = library.handle;
        let operation = Description::new()?;
        let epilogue = match epilogue {
            Epilogue::None => None,
            Epilogue::BiasRelu => Some(sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS),
            Epilogue::BiasGelu => Some(sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS),
        };
        if let Some(epilogue) = epilogue {
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue)?;
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, address(bias))?;
        }
        let left = match transposed {
            Transposed::Second => {
                operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED)?;
                Layout::new(operands, k, n)?
            }
            Transposed::Neither | Transposed::First => Layout::new(operands, n, k)?,
        };
        let right = match transposed {
            Transposed::First => {
                operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, TRANSPOSED)?;
                Layout::new(operands, m, k)?
            }
            Transposed::Second | Transposed::Neither => Layout::new(operands, k, m)?,
        };
        let into = Layout::new(of_c, n, m)?;
        let algorithm = match library.algorithms.get(product) {
            Some(&algorithm) => algorithm,
            None => {
                let preference = Limits::new()?;
                // SAFETY: all of them are there until this returns.
                let found = unsafe {
                    result::get_matmul_algo_heuristic(
                        handle,
                        operation.0,
                        left.0,
                        right.0,
                        into.0,
                        into.0,
                        preference.0,
                    )?
                };
                if library.algorithms.len() >= REMEMBERED {
                    library.algorithms.clear();
                }
                library.algorithms.insert(*product, found.algo);
                found.algo
            }
        };
        let (one, kept) = (1.0_f32, if adds { 1.0_f32 } else { 0.0 });
        // SAFETY: the caller answers for the addresses; the rest is there until this returns.
        unsafe {
            result::matmul(
                handle,
                operation.0,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&kept).cast(),
                address(b),
                left.0,
                address(a),
                right.0,
                address(c),
                into.0,
                address(c),
                into.0,
                &algorithm,
                address(self.workspace),
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )?;
        }
        Ok(())
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        let library = self
            .library
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // Errors are those of work before, and nobody is left to hear of them.
        let _ = self.stream.context().bind_to_thread();
        // SAFETY: nobody has the handle or the workspace after this.
        unsafe {
            let _ = result::destroy_handle(library.handle);
            let _ = free_async(self.workspace, self.stream.cu_stream());
        }
    }
}

fn address(of: u64) -> *mut c_void {
    ptr::without_provenance_mut(of as usize)
}

/// A product, summed in `f32`.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new() -> Result<Self, CublasError> {
        let sum = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        result::create_matmul_desc(sum, sys::cudaDataType_t::CUDA_R_32F).map(Self)
    }

    fn set<T>(&self, attribute: Attribute, value: T) -> Result<(), CublasError> {
        // SAFETY: the library copies a value of this size.
        unsafe {
            result::set_matmul_desc_attribute(
                self.0,
                attribute,
                ptr::from_ref(&value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: nobody has it after this.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix by columns, without gaps.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(of: MatrixType, rows: usize, columns: usize) -> Result<Self, CublasError> {
        let of = match of {
            MatrixType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            MatrixType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            MatrixType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
        };
        result::create_matrix_layout(of, rows as u64, columns as u64, rows as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: nobody has it after this.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What an algorithm may use.
struct Limits(sys::cublasLtMatmulPreference_t);

impl Limits {
    fn new() -> Result<Self, CublasError> {
        let limits = Self(result::create_matmul_pref()?);
        limits.set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            WORKSPACE_BYTES,
        )?;
        // Without these, matrices are taken to begin at multiples of 256.
        for matrix in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            limits.set(matrix, ALIGNMENT)?;
        }
        Ok(limits)
    }

    fn set<T>(&self, attribute: Preference, value: T) -> Result<(), CublasError> {
        // SAFETY: the library copies a value of this size.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                attribute,
                ptr::from_ref(&value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        // SAFETY: nobody has it after this.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}
