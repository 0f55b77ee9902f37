//! Integration tests of the encoder, in one binary.

mod accelerated;
mod directories;
mod fingerprints;
mod foreign;
mod invariance;
mod parity;
mod texts;
mod training;

use compute::{Level, Simd};

/// What this machine can be.
fn levels() -> Vec<Level> {
    let has = |level: &Level| *level <= Simd::detect().level();
    Level::ALL.into_iter().filter(has).collect()
}
