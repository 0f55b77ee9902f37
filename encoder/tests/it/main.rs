//! Integration tests of the encoder, in one binary.

mod parity;
