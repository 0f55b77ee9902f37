//! Any bytes, opened as the graph of a small shard, and walked if it opens.
#![no_main]

#[path = "../../index/tests/it/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hostile::each_reading(bytes, hostile::read_graph));
