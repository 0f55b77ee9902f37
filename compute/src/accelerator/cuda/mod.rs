//! CUDA's devices, through its driver. Nothing of CUDA is linked: it is looked for when a device is asked for.

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
mod kernels;
#[cfg(feature = "cuda")]
mod product;
#[cfg(feature = "cuda")]
mod staging;

use std::path::Path;

use super::{AcceleratorError, DeviceInfo, SharedAccelerator};

/// What is known of CUDA on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaInfo {
    /// The newest CUDA that the driver knows, as in `13.0`.
    pub driver: String,
    /// By number.
    pub devices: Vec<CudaDevice>,
    /// Libraries that are not found, and without which devices cannot be opened.
    pub missing: Vec<&'static str>,
}

/// A device of CUDA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    /// What it is.
    pub info: DeviceInfo,
    /// As in `9.0`.
    pub compute_capability: String,
    /// Bytes of memory that are free.
    pub free_bytes: u64,
}

/// Looks for CUDA.
///
/// # Errors
/// [`AcceleratorError::NotAvailable`] says what is missing: the feature `cuda`, the driver, a device.
pub fn info() -> Result<CudaInfo, AcceleratorError> {
    #[cfg(feature = "cuda")]
    return device::info();
    #[cfg(not(feature = "cuda"))]
    Err(not_built())
}

/// Opens the device of a number. Compiled kernels are kept in the folder `kernels`, which is made when it is needed; without, every
/// process compiles them.
///
/// # Errors
/// [`AcceleratorError::NotAvailable`], also when there is no device of this number.
pub fn open(number: usize, kernels: Option<&Path>) -> Result<SharedAccelerator, AcceleratorError> {
    #[cfg(feature = "cuda")]
    return device::open(number, kernels);
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (number, kernels);
        Err(not_built())
    }
}

#[cfg(not(feature = "cuda"))]
fn not_built() -> AcceleratorError {
    AcceleratorError::NotAvailable {
        reason: "this trawl was built without the feature `cuda`".to_owned(),
    }
}
