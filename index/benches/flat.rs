//! Speed of exact flat search: `cargo bench -p index -- [rows] [width] [threads]`.
//!
//! Prints, for several batch sizes, the median time of a query and how fast the rows were read. A batch reads each
//! row once, so its rate is that of the whole batch.

use std::error::Error;
use std::num::NonZeroUsize;
use std::time::Instant;

use index::{
    FlatShard, Metric, RowType, SearchParams, ShardConfig, ShardWriter, VectorIndex, Verify,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|argument| argument.parse::<usize>().ok());
    let n_rows = numbers.next().unwrap_or(100_000);
    let width = numbers.next().unwrap_or(384);
    let threads = numbers.next().and_then(NonZeroUsize::new);

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vectors.trawl");
    let config = ShardConfig {
        width,
        metric: Metric::InnerProduct,
        row_type: RowType::F32,
        first_ordinal: 0,
    };
    let mut writer = ShardWriter::create(&path, config)?;
    let mut seed = 1;
    let mut row = vec![0.0; width];
    for _ in 0..n_rows {
        row.fill_with(|| uniform(&mut seed));
        index::normalize(&mut row);
        writer.push(&row)?;
    }
    writer.finish()?;

    let started = Instant::now();
    let shard = FlatShard::open(&path, Verify::Checksums)?;
    let gigabytes = (n_rows * width * 4) as f64 / 1e9;
    println!(
        "{n_rows} x {width} f32 ({gigabytes:.3} GB), opened and verified in {:.0} ms",
        started.elapsed().as_secs_f64() * 1e3
    );

    let params = SearchParams {
        threads,
        ..SearchParams::default()
    };
    println!("{:>6} {:>4} {:>12} {:>8}", "batch", "k", "ms/query", "GB/s");
    for (batch, k) in [(1, 10), (1, 100), (8, 10), (32, 10), (32, 100), (256, 10)] {
        let queries: Vec<f32> = (0..batch * width).map(|_| uniform(&mut seed)).collect();
        let mut seconds = Vec::new();
        while seconds.len() < 7 || seconds.iter().sum::<f64>() < 1.0 {
            let started = Instant::now();
            let found = shard.search(&queries, k, None, &params)?;
            seconds.push(started.elapsed().as_secs_f64());
            assert_eq!(found.len(), batch);
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        println!(
            "{batch:>6} {k:>4} {:>12.3} {:>8.2}",
            median * 1e3 / batch as f64,
            gigabytes / median
        );
    }
    Ok(())
}

/// Uniform in −1 to 1 (xorshift64*).
fn uniform(seed: &mut u64) -> f32 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
}
