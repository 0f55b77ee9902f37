//! Integration tests of the encoder, in one binary.

mod accelerated;
mod directories;
mod fingerprints;
mod invariance;
mod parity;
mod texts;
mod training;
