//! Speed and recall of search by graph: `cargo bench -p index --bench graph -- base.npy queries.npy [--graph FILE] [M [ef_construction [threads]]]`.
//!
//! Reads rows and queries of `f32`; without files it makes 20,000 rows of 64 values. Prints what the build takes, and for
//! several ef the recall of the 10 nearest and the time of a query on one thread: that of the processor, so that other
//! work on the machine counts little. With `--graph` the graph is kept in a file, and read from there if it is there.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use index::{
    FlatShard, GraphIndex, HnswConfig, Metric, RowType, SearchParams, ShardConfig, ShardWriter,
    ShardedIndex, SketchPolicy, VectorIndex, Verify, build_graph,
};

const K: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let at = arguments.iter().position(|argument| argument == "--graph");
    let kept: Option<PathBuf> = at
        .and_then(|at| arguments.drain(at..at + 2).next_back())
        .map(PathBuf::from);
    let files: Vec<&String> = arguments
        .iter()
        .filter(|argument| argument.ends_with(".npy"))
        .collect();
    let mut numbers = arguments
        .iter()
        .filter_map(|argument| argument.parse::<usize>().ok());
    let (width, rows, queries) = match files[..] {
        [base, queries] => {
            let (width, rows) = read_npy(base)?;
            (width, rows, read_npy(queries)?.1)
        }
        _ => {
            let mut seed = 1;
            let mut values = |n: usize| (0..n * 64).map(|_| uniform(&mut seed)).collect();
            (64, values(20_000), values(200))
        }
    };
    let config = HnswConfig {
        m: numbers.next().unwrap_or(16),
        ef_construction: numbers.next().unwrap_or(200),
        seed: 0,
        threads: NonZeroUsize::new(numbers.next().unwrap_or(1)),
    };

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vectors.trawl");
    let shard_config = ShardConfig {
        width,
        metric: Metric::Cosine,
        row_type: RowType::F32,
        first_ordinal: 0,
        sketches: SketchPolicy::default(),
    };
    let mut writer = ShardWriter::create(&path, shard_config)?;
    rows.chunks_exact(width)
        .try_for_each(|row| writer.push(row))?;
    writer.finish()?;
    let shard = FlatShard::open(&path, Verify::Header)?;
    let graph = kept.unwrap_or_else(|| folder.path().join("graph.trawl"));
    if !graph.exists() {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        let summary = build_graph(&graph, &shard, &config, &|_| ())?;
        println!(
            "{} nodes built in {:.1} s, {:.1} s of this thread; {} bytes a node",
            summary.n_nodes,
            started.elapsed().as_secs_f64(),
            cpu_seconds() - cpu,
            summary.n_bytes / summary.n_nodes.max(1)
        );
    }
    let index = GraphIndex::open(
        ShardedIndex::from_shards(vec![shard])?,
        &[graph],
        Verify::Checksums,
    )?;
    let n_queries = queries.len() / width;
    let params = SearchParams {
        threads: NonZeroUsize::new(1),
        ..SearchParams::default()
    };
    let exact = index.flat().search(&queries, K, None, &params)?;
    let time = |params: &SearchParams| {
        let mut seconds = Vec::new();
        let mut found = Vec::new();
        for _ in 0..5 {
            let started = cpu_seconds();
            found.clear();
            for query in queries.chunks_exact(width) {
                found.extend(index.search(query, K, None, params)?);
            }
            seconds.push(cpu_seconds() - started);
        }
        let least = seconds.into_iter().fold(f64::INFINITY, f64::min);
        Ok::<_, Box<dyn Error>>((found, least * 1e6 / n_queries as f64))
    };
    let exact_params = SearchParams {
        exact: true,
        ..params.clone()
    };
    println!("exact: {:.1} us", time(&exact_params)?.1);
    println!("{:>5} {:>8} {:>9}  plan", "ef", "recall", "us/query");
    for ef in [10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256, 384] {
        let params = SearchParams {
            ef: Some(ef),
            ..params.clone()
        };
        let (found, microseconds) = time(&params)?;
        let hits: usize = found
            .iter()
            .zip(&exact)
            .map(|(found, exact)| found.iter().filter(|one| exact.contains(one)).count())
            .sum();
        println!(
            "{ef:>5} {:>8.4} {microseconds:>9.1}  {}",
            hits as f64 / (n_queries * K) as f64,
            index.plan(K, None, &params).as_str()
        );
    }
    Ok(())
}

/// Seconds that the processor has worked for this thread; where the system does not say, seconds.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = stat
        .split(' ')
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    nanoseconds.map_or_else(
        || {
            std::time::SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(0.0, |now| now.as_secs_f64())
        },
        |nanoseconds| nanoseconds / 1e9,
    )
}

/// Uniform in −1 to 1 (xorshift64*).
fn uniform(seed: &mut u64) -> f32 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The width and the values of a NumPy file of rows of `f32`.
fn read_npy(path: &str) -> Result<(usize, Vec<f32>), Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let shape = String::from_utf8_lossy(&bytes[10..header]).into_owned();
    let width = shape
        .split("'shape': (")
        .nth(1)
        .and_then(|shape| shape.split([',', ')']).nth(1));
    let width = width.ok_or("no shape")?.trim().parse()?;
    let values = bytes[header..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes));
    Ok((width, values.collect()))
}
