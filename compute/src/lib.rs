//! What the encoder and the index need of the machine: CPU features, threads, memory, accelerators.
//!
//! [`Simd`] chooses the widest vector instructions once; [`simd_function!`] compiles one body for each of them.
//! Invariant: nothing here reads flags or environment variables.

pub mod accelerator;
#[cfg(target_arch = "x86_64")]
mod amx;
mod bandwidth;
mod features;
mod memory;
mod neighbors;
mod simd;
mod threads;
#[cfg(target_arch = "x86_64")]
pub mod tile;

pub use bandwidth::read_bytes_per_s;
pub use features::CpuFeatures;
pub use memory::{
    anonymous_bytes, keep_freed_memory, memory_limit_bytes, peak_rss_bytes, rss_bytes,
};
pub use neighbors::{free_disk_bytes, yield_to_others};
pub use simd::{Level, Simd, mul_add};
pub use threads::thread_budget;
