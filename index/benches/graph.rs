//! Speed and recall of search by graph:
//! `cargo bench -p index --bench graph -- base.npy queries.npy [--folder DIR] [--m M] [--ef-construction N] [--threads N] [--ef N,N]`.
//!
//! Reads rows and queries of `f32`; without files it makes 20,000 rows of 64 values. Prints what the build takes, then, for
//! several ef and several filters, the recall of the 10 nearest and the time of a query on one thread: that of the
//! processor, so that other work on the machine counts little. With `--folder`, shard and graph are kept there, and
//! opened if they are there.

mod vectors;

use std::error::Error;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use index::{
    Bitmap, FlatShard, GraphIndex, HnswConfig, Metric, Neighbor, Plan, RowType, SearchError,
    SearchParams, ShardConfig, ShardWriter, ShardedIndex, SketchPolicy, VectorIndex, Verify,
    build_graph,
};

use vectors::{cpu_seconds, read_npy, uniform};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const K: usize = 10;
/// Times are the least of so many rounds.
const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let number = |name| option(name).map(|text| text.parse::<usize>()).transpose();
    let files: Vec<&String> = arguments
        .iter()
        .filter(|argument| argument.ends_with(".npy"))
        .collect();
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
        m: number("--m")?.unwrap_or(16),
        ef_construction: number("--ef-construction")?.unwrap_or(200),
        seed: 0,
        threads: NonZeroUsize::new(number("--threads")?.unwrap_or(1)),
    };
    let temporary = tempfile::tempdir()?;
    let folder = option("--folder").map_or(temporary.path().to_owned(), PathBuf::from);
    let index = open(&folder, width, &rows, &config)?;
    #[cfg(feature = "hnsw-rs")]
    compare(&folder, &index, &queries, &config)?;

    let bench = Bench {
        index: &index,
        queries: &queries,
    };
    println!(
        "{:>8} {:>5} {:>8} {:>9}  plan",
        "passing", "ef", "recall", "us/query"
    );
    bench.print(None, Plan::Scan, None)?;
    let default = "10,12,16,20,24,32,48,64,96,128,192,256,384,512".to_owned();
    for ef in option("--ef").unwrap_or(&default).split(',') {
        bench.print(None, Plan::Graph, Some(ef.parse()?))?;
    }
    if option("--ef").is_none() {
        for one_in in [2, 10, 100, 1000] {
            let filter = every(index.len(), one_in);
            for plan in [Plan::FilteredScan, Plan::FilteredGraph] {
                bench.print(Some(&filter), plan, None)?;
            }
        }
    }
    Ok(())
}

/// Opens the shard and the graph of a folder, which are made first if they are not there.
fn open(folder: &Path, width: usize, rows: &[f32], config: &HnswConfig) -> Result<GraphIndex> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("vectors.trawl");
    if !path.exists() {
        let config = ShardConfig {
            width,
            metric: Metric::Cosine,
            row_type: RowType::F32,
            first_ordinal: 0,
            sketches: SketchPolicy::default(),
        };
        let mut writer = ShardWriter::create(&path, config)?;
        let mut rows = rows.chunks_exact(width);
        rows.try_for_each(|row| writer.push(row))?;
        writer.finish()?;
    }
    let shard = FlatShard::open(&path, Verify::Header)?;
    let graph = folder.join("graph.trawl");
    if !graph.exists() {
        let (started, cpu) = (Instant::now(), cpu_seconds());
        let summary = build_graph(&graph, &shard, config, &|_| ControlFlow::Continue(()))?;
        println!(
            "{} nodes built in {:.1} s, {:.1} s of this thread; {} bytes a node",
            summary.n_nodes,
            started.elapsed().as_secs_f64(),
            cpu_seconds() - cpu,
            summary.n_bytes / summary.n_nodes.max(1)
        );
    }
    let flat = ShardedIndex::from_shards(vec![shard])?;
    Ok(GraphIndex::open(flat, &[graph], Verify::Checksums)?)
}

/// Prints what the crate `hnsw_rs` takes for the same.
#[cfg(feature = "hnsw-rs")]
fn compare(folder: &Path, exact: &GraphIndex, queries: &[f32], config: &HnswConfig) -> Result<()> {
    let shard = FlatShard::open(&folder.join("vectors.trawl"), Verify::Header)?;
    let cpu = cpu_seconds();
    let index = index::HnswRsIndex::build(shard, config);
    println!(
        "hnsw_rs: {:.1} s of this thread to build",
        cpu_seconds() - cpu
    );
    for (one_in, ef) in [(1, 16), (1, 32), (1, 64), (1, 128), (10, 128), (100, 128)] {
        let filter = (one_in > 1).then(|| every(index.len(), one_in));
        let params = SearchParams {
            ef: Some(ef),
            threads: NonZeroUsize::new(1),
            ..SearchParams::default()
        };
        let search = |query: &[f32]| index.search(query, K, filter.as_ref(), &params);
        let (recall, microseconds) = measure(exact, queries, filter.as_ref(), search)?;
        println!("hnsw_rs, one in {one_in}: ef {ef}, recall {recall:.4}, {microseconds:.1} us");
    }
    Ok(())
}

/// Rows spread as if at random, so that about one in so many passes.
fn every(n_rows: usize, one_in: u64) -> Bitmap {
    let passes =
        |row: &u32| u64::from(*row).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 < (1 << 24) / one_in;
    (0..n_rows as u32).filter(passes).collect()
}

/// The part of the exact answers that a search finds, and the microseconds of a query.
fn measure(
    index: &GraphIndex,
    queries: &[f32],
    filter: Option<&Bitmap>,
    search: impl Fn(&[f32]) -> std::result::Result<Vec<Vec<Neighbor>>, SearchError>,
) -> Result<(f64, f64)> {
    let exact = SearchParams {
        exact: true,
        threads: NonZeroUsize::new(1),
        ..SearchParams::default()
    };
    let exact = index.search(queries, K, filter, &exact)?;
    let mut least = f64::INFINITY;
    let mut found: Vec<Vec<Neighbor>> = Vec::new();
    for _ in 0..ROUNDS {
        let started = cpu_seconds();
        found.clear();
        for query in queries.chunks_exact(index.width()) {
            found.extend(search(query)?);
        }
        least = least.min(cpu_seconds() - started);
    }
    let hits = found.iter().zip(&exact);
    let hits = hits.map(|(found, exact)| found.iter().filter(|one| exact.contains(one)).count());
    let n_exact: usize = exact.iter().map(Vec::len).sum();
    let recall = hits.sum::<usize>() as f64 / n_exact as f64;
    Ok((recall, least * 1e6 / exact.len() as f64))
}

struct Bench<'a> {
    index: &'a GraphIndex,
    queries: &'a [f32],
}

impl Bench<'_> {
    /// Searches by a plan and prints what came of it; a star marks the plan that the index would choose.
    fn print(&self, filter: Option<&Bitmap>, plan: Plan, ef: Option<usize>) -> Result<()> {
        let params = SearchParams {
            ef,
            threads: NonZeroUsize::new(1),
            ..SearchParams::default()
        };
        let search = |query: &[f32]| self.index.search_by(plan, query, K, filter, &params);
        let (recall, microseconds) = measure(self.index, self.queries, filter, search)?;
        println!(
            "{:>8} {:>5} {:>8.4} {:>9.1}  {}{}",
            filter.map_or(self.index.len() as u64, Bitmap::len),
            ef.map_or(String::new(), |ef| ef.to_string()),
            recall,
            microseconds,
            plan.as_str(),
            if self.index.plan(K, filter, &params) == plan {
                " *"
            } else {
                ""
            },
        );
        Ok(())
    }
}
