//! Any bytes, read as each native request; what is read is the same when it was written and read again.
#![no_main]

#[path = "../../openapi/tests/it/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::read_native(bytes));
