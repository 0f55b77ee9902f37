//! Any bytes, read as the bodies that clients of other servers send.
#![no_main]

#[path = "../../openapi/tests/it/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::read_foreign(bytes));
