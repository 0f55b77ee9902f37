//! Speed of exact flat search: `cargo bench -p index -- [rows] [width] [threads]`.
//!
//! `cargo bench -p index -- base.npy queries.npy [threads]` reads rows and queries of `f32` instead of making them.
//!
//! Prints, for several batch sizes, the medians of a query's time and of its processor time in the calling thread.

mod vectors;

use std::error::Error;
use std::num::NonZeroUsize;
use std::time::Instant;

use index::{
    FlatShard, Metric, RowType, SearchParams, ShardConfig, ShardWriter, SketchPolicy, VectorIndex,
    Verify,
};

use vectors::{cpu_seconds, read_npy, uniform};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let files: Vec<&String> = arguments
        .iter()
        .filter(|argument| argument.ends_with(".npy"))
        .collect();
    let mut numbers = arguments
        .iter()
        .filter_map(|argument| argument.parse::<usize>().ok());
    let mut seed = 1;
    let (width, rows, queries) = match files[..] {
        [base, queries] => {
            let (width, rows) = read_npy(base)?;
            (width, rows, read_npy(queries)?.1)
        }
        _ => {
            let n_rows = numbers.next().unwrap_or(100_000);
            let width = numbers.next().unwrap_or(384);
            let mut values = |n: usize| {
                (0..n * width)
                    .map(|_| uniform(&mut seed))
                    .collect::<Vec<f32>>()
            };
            (width, values(n_rows), values(256))
        }
    };
    let n_rows = rows.len() / width;
    let threads = numbers.next().and_then(NonZeroUsize::new);

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vectors.trawl");
    let config = ShardConfig {
        width,
        metric: Metric::InnerProduct,
        row_type: RowType::F32,
        first_ordinal: 0,
        sketches: SketchPolicy::default(),
    };
    let mut writer = ShardWriter::create(&path, config)?;
    let started = Instant::now();
    let mut row = vec![0.0; width];
    for values in rows.chunks_exact(width) {
        row.copy_from_slice(values);
        index::normalize(&mut row);
        writer.push(&row)?;
    }
    let summary = writer.finish()?;
    println!(
        "written in {:.1} s, {} bytes a row",
        started.elapsed().as_secs_f64(),
        summary.n_bytes / summary.n_rows
    );

    let started = Instant::now();
    let shard = FlatShard::open(&path, Verify::Checksums)?;
    println!(
        "{n_rows} x {width} f32, opened and verified in {:.0} ms",
        started.elapsed().as_secs_f64() * 1e3
    );

    let params = SearchParams {
        threads,
        ..SearchParams::default()
    };
    println!(
        "{:>6} {:>4} {:>12} {:>12}",
        "batch", "k", "ms/query", "CPU ms/query"
    );
    for (batch, k) in [
        (1, 10),
        (1, 100),
        (8, 10),
        (32, 10),
        (32, 100),
        (256, 10),
        (256, 100),
    ] {
        let mut batches = queries.chunks_exact(batch * width).cycle();
        let (mut seconds, mut cpu) = (Vec::new(), Vec::new());
        while seconds.len() < 7 || seconds.iter().sum::<f64>() < 1.0 {
            let queries = batches
                .next()
                .ok_or("there are fewer queries than a batch has")?;
            let (started, before) = (Instant::now(), cpu_seconds());
            let found = shard.search(queries, k, None, &params)?;
            seconds.push(started.elapsed().as_secs_f64());
            cpu.push(cpu_seconds() - before);
            assert_eq!(found.len(), batch);
        }
        let median = |numbers: &mut Vec<f64>| {
            numbers.sort_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        let median = [median(&mut seconds), median(&mut cpu)];
        let [wall, cpu] = median.map(|seconds| seconds * 1e3 / batch as f64);
        let (_, work) = shard.search_counted(&queries[..batch * width], k, None, &params)?;
        let [heads, tails, scored] =
            [work.heads, work.tails, work.scored].map(|n| n / batch as u64);
        println!("{batch:>6} {k:>4} {wall:>12.3} {cpu:>12.3} {heads:>9} {tails:>8} {scored:>8}");
    }
    Ok(())
}
