//! What the tests of all crates share: fixtures, golden data, the default model, instructions that the machine lacks.
//!
//! The one library here that reads environment variables, and that asks the network for anything without being told.

#[cfg(feature = "grpc")]
mod grpc;
mod tile_emulation;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use compute::accelerator::{SharedAccelerator, cuda};
use hub::ModelCache;

#[cfg(feature = "grpc")]
pub use grpc::{GrpcReply, GrpcServer};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use tile_emulation::emulated_products;
pub use tile_emulation::simd_levels;

const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

/// The first GPU of this machine, where there is one and `compute` is built for it; a line says which, or why not.
pub fn gpu() -> Option<SharedAccelerator> {
    static OPENED: LazyLock<Option<SharedAccelerator>> = LazyLock::new(|| {
        let opened = cuda::open(0, None);
        opened
            .inspect(|device| eprintln!("tried on a GPU: {}", device.info().model))
            .inspect_err(|error| eprintln!("not tried on a GPU: {error}"))
            .ok()
    });
    OPENED.clone()
}

/// The folder of the default encoder, fetched when it is not there yet.
///
/// Looked for in `$TRAWL_MODELS`, else in `trawl/models` of the user's cache folder.
///
/// # Panics
/// When it cannot be had, with the command that gets it: a test of the real model never passes without it.
pub fn default_model() -> PathBuf {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL
        .get_or_init(|| {
            let cache = ModelCache::new(model_folder());
            let pulled = cache.pull(DEFAULT_MODEL, &mut |line| eprintln!("{line}"));
            match pulled {
                Ok(pulled) => pulled.path,
                Err(error) => panic!(
                    "tests need the default model: {error}\nget it with `cargo run --release -- model pull`"
                ),
            }
        })
        .clone()
}

/// The folder of retrieval sets that `TRAWL_DATA` names (see `docs/data.md`).
pub fn data_folder() -> Option<PathBuf> {
    variable("TRAWL_DATA")
}

/// A path below `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    tests_folder().join("fixtures").join(path)
}

/// A path below `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    tests_folder().join("golden").join(path)
}

/// `$TRAWL_TESTS` for test binaries that run on another machine than they were built on, else where this crate was built.
fn tests_folder() -> PathBuf {
    variable("TRAWL_TESTS").unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("this crate is a folder of tests/")
            .to_owned()
    })
}

fn model_folder() -> PathBuf {
    variable("TRAWL_MODELS")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("trawl/models")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/trawl/models")))
        .expect("TRAWL_MODELS or HOME is set")
}

fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
