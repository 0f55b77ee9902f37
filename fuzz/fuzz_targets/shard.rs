//! Any bytes, opened as a shard, and searched if it opens.
#![no_main]

#[path = "../../index/tests/it/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::each_reading(bytes, hostile::read_shard));
