/// Why a device did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceleratorError {
    /// There is no CUDA here: no driver, no device, or trawl was built without it.
    #[error("CUDA is not available: {reason}")]
    NotAvailable {
        /// What is missing.
        reason: String,
    },
    /// Less memory is free than is needed.
    #[error("{device} has no room for {needed} more bytes ({free} of {total} are free)")]
    OutOfMemory {
        /// As in `cuda:0`.
        device: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Bytes of the device.
        total: u64,
    },
    /// Kernels do not compile.
    #[error("{device} cannot compile the kernels of `{module}`: {log}")]
    Compile {
        /// As in `cuda:0`.
        device: String,
        /// The module's name.
        module: &'static str,
        /// What the compiler said.
        log: String,
    },
    /// Something that the device was asked for went wrong.
    #[error("{device}: {what} failed: {reason}")]
    Failed {
        /// As in `cuda:0`.
        device: String,
        /// The operation.
        what: &'static str,
        /// The driver's name of the error and its description.
        reason: String,
    },
}
