//! Files that were right once: each change to a valid file opens as an error or as something that can be searched.

use std::fs;

use index::{RowType, SketchPolicy};
use proptest::prelude::*;

use crate::{METRICS, Random, hostile, write_shards};

/// Changes a place of a file, by a kind: a bit, a byte, a number, a piece from elsewhere, the end.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.len() < 16 {
        return;
    }
    // Half of the changes hit the header, the table or the small sections at the end.
    let window = match random.below(4) {
        0 => 0..64,
        1 => bytes.len().saturating_sub(600)..bytes.len(),
        _ => 0..bytes.len(),
    };
    let window = window.start..window.end.min(bytes.len());
    let at = window.start + random.below(window.len());
    let word = (at & !7).min(bytes.len() - 8);
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => {
            let numbers = [
                0,
                1,
                63,
                64,
                u64::MAX,
                u64::MAX - 63,
                1 << 32,
                1 << 31,
                bytes.len() as u64,
            ];
            let number = numbers[random.below(numbers.len())];
            bytes[word..word + 8].copy_from_slice(&number.to_le_bytes());
        }
        3 => {
            let numbers = [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::MAX,
                f32::MIN_POSITIVE,
                -0.0,
            ];
            let number = numbers[random.below(numbers.len())];
            bytes[word..word + 4].copy_from_slice(&number.to_le_bytes());
        }
        4 => {
            let length = 8 * (1 + random.below(8)).min((bytes.len() - word) / 8);
            let from = random.below(bytes.len() - length + 1);
            bytes.copy_within(from..from + length, word);
        }
        _ => {
            let by = [1, 8, 64][random.below(3)];
            match random.below(2) {
                0 => bytes.truncate(bytes.len() - by.min(bytes.len())),
                _ => bytes.extend(vec![0; by]),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_files_are_errors_or_can_be_searched(
        seed: u64, metric in prop::sample::select(METRICS.to_vec()), sketched: bool,
        row_type in prop::sample::select(vec![RowType::F32, RowType::F16, RowType::Bf16, RowType::Int8]),
        width in 1usize..10, n_rows in 0usize..40, n_changes in 0usize..4,
    ) {
        let mut random = Random(seed);
        let rows: Vec<f32> = (0..n_rows * width).map(|_| 2.0 + random.uniform()).collect();
        let sketches = if sketched { SketchPolicy::Always } else { SketchPolicy::Never };
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = fs::read(&write_shards(folder.path(), metric, (sketches, row_type), width, &rows, 1)[0]).unwrap();
        for _ in 0..n_changes {
            mutate(&mut bytes, &mut random);
        }
        hostile::each_reading(&bytes, hostile::read_sections);
        hostile::each_reading(&bytes, hostile::read_shard);
    }

    #[test]
    fn changed_graphs_are_errors_or_can_be_walked(seed: u64, n_changes in 0usize..4) {
        let mut random = Random(seed);
        let mut bytes = hostile::small_graph();
        for _ in 0..n_changes {
            mutate(&mut bytes, &mut random);
        }
        hostile::each_reading(&bytes, hostile::read_graph);
    }
}
