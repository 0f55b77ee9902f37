//! One integration binary: exact search against brute force, graphs against exact search, and files that are not what they should be.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod accelerated;
mod files;
mod graph;
mod hostile;
mod mutations;
mod search;

use std::path::{Path, PathBuf};

use index::{Metric, RowType, ShardConfig, ShardWriter, SketchPolicy};

const METRICS: [Metric; 3] = [Metric::InnerProduct, Metric::Cosine, Metric::L2];

fn config(width: usize, metric: Metric, first_ordinal: u32) -> ShardConfig {
    ShardConfig {
        width,
        metric,
        row_type: RowType::F32,
        first_ordinal,
        sketches: SketchPolicy::Never,
    }
}

/// Writes rows, row-major, as `n_shards` shards and returns their paths.
fn write_shards(
    folder: &Path,
    metric: Metric,
    (sketches, row_type): (SketchPolicy, RowType),
    width: usize,
    rows: &[f32],
    n_shards: usize,
) -> Vec<PathBuf> {
    let n_rows = rows.len() / width;
    let bounds: Vec<usize> = (0..=n_shards).map(|i| i * n_rows / n_shards).collect();
    let write = |(i, bounds): (usize, &[usize])| {
        let path = folder.join(format!("{n_shards}-{i}-{sketches:?}-{row_type:?}.trawl"));
        let mut writer = ShardWriter::create(
            &path,
            ShardConfig {
                sketches,
                row_type,
                ..config(width, metric, bounds[0] as u32)
            },
        )
        .unwrap();
        for row in rows[bounds[0] * width..bounds[1] * width].chunks_exact(width) {
            writer.push(row).unwrap();
        }
        assert_eq!(
            writer.finish().unwrap().n_rows,
            (bounds[1] - bounds[0]) as u64
        );
        path
    };
    bounds.windows(2).enumerate().map(write).collect()
}

/// A small generator with a fixed seed (SplitMix64), so that a failing case is named by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in −1 to 1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
