mod built;
mod requests;
mod truth;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;
use compute::thread_budget;
use index::{Bitmap, HnswConfig, Metric, Neighbor, RowType, SearchParams, Work};
use serde::Serialize;
use vectors::{VectorFile, ZeroRows};

use self::built::{BuildConfig, Built, Kind};
use self::truth::Truth;
use super::clock::{Pass, median, pass, percentile_ms};
use crate::device::DeviceChoice;
use crate::failure::{Exit, Failure};
use crate::model::{metric_named, named};
use crate::npy::NpyFile;
use crate::output::{self, Output};

/// Scores that are computed to know the exact answers, unless `--exact-queries` says otherwise.
const EXACT_SCORES: u64 = 100_000_000;
/// Queries whose exact answers are known at least.
const EXACT_QUERIES: u64 = 20;

/// Arguments of `trawl bench search`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The index is built in a temporary folder. One pass over all queries warms up; the medians of the repeats count.
CPU time is that of all threads in user mode. Recall counts rows that score at least as high as the exact answer's last.

Examples:
  trawl bench search --base base.npy --queries queries.npy --batch 32 --threads 1
  trawl bench search --base base.fvecs --queries queries.fvecs --metric l2 -k 100 --ids-out ids.npy --json
  trawl bench search --base base.npy --requests        then {\"queries\": \"queries.npy\", \"batch\": 32} on standard input

With --requests each line of standard input is a JSON object that runs the queries and is answered by one line. Keys: `queries`
(a file) or `vectors` (rows of 32-bit floats, little-endian, in base64), `k`, `batch`, `threads`, `ef`, `filter`, `ids_out`."
)]
pub struct SearchArgs {
    /// Vectors that are searched: .npy, .fvecs, .bvecs, .safetensors.
    #[arg(long, value_name = "FILE")]
    base: PathBuf,
    /// Vectors that are searched for.
    #[arg(long, value_name = "FILE", required_unless_present = "requests")]
    queries: Option<PathBuf>,
    /// The index.
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    kind: Kind,
    /// How vectors are stored: f32, f16, bf16, int8.
    #[arg(long, value_name = "NAME", default_value = "f32", value_parser = named::<RowType>)]
    rows: RowType,
    /// Links of a node of `--kind hnsw`, as in the paper; layer 0 has twice as many (default: 16).
    #[arg(long, value_name = "N")]
    m: Option<usize>,
    /// Candidates kept while a graph is built (default: 200).
    #[arg(long, value_name = "N")]
    ef_construction: Option<usize>,
    /// Candidates kept while a graph is searched (default: what the index chooses).
    #[arg(long, value_name = "N")]
    ef: Option<usize>,
    /// How vectors are compared: ip, cosine, l2.
    #[arg(long, default_value = "ip", value_name = "NAME", value_parser = metric_named)]
    metric: Metric,
    /// Rows to find for each query.
    #[arg(short, long, default_value = "10", value_name = "N")]
    k: NonZeroUsize,
    /// Queries that are searched together.
    #[arg(long, default_value = "1", value_name = "N")]
    batch: NonZeroUsize,
    /// Threads that build and search (default: all processors).
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// What holds the rows of an exact index and searches them: cpu, cuda:0, cuda:0,cuda:1, auto.
    #[arg(long, default_value_t = DeviceChoice::Cpu, value_name = "NAME")]
    device: DeviceChoice,
    /// Text file of the rows that may be found, one number a line, counted from 0.
    #[arg(long, value_name = "FILE")]
    filter: Option<PathBuf>,
    /// Passes that are measured.
    #[arg(
        long,
        alias = "repeat",
        default_value = "5",
        value_name = "N",
        conflicts_with = "requests"
    )]
    repeats: NonZeroUsize,
    /// Queries whose recall is taken, evenly spread (default: as many as 10^8 scores allow, at least 20).
    #[arg(long, value_name = "N", conflicts_with = "requests")]
    exact_queries: Option<NonZeroUsize>,
    /// Write the rows found, shape (queries, k), as a NumPy array of 64-bit integers; -1 where there are too few.
    #[arg(long, value_name = "FILE.npy", conflicts_with = "requests")]
    ids_out: Option<PathBuf>,
    /// Build, then answer requests on standard input until it ends.
    #[arg(long, conflicts_with = "queries")]
    requests: bool,
}

/// How queries are searched.
pub struct How {
    k: usize,
    batch: usize,
    threads: NonZeroUsize,
    ef: Option<usize>,
    filter: Option<Bitmap>,
}

impl How {
    fn params(&self) -> SearchParams {
        SearchParams {
            ef: self.ef,
            threads: Some(self.threads),
            ..SearchParams::default()
        }
    }
}

/// What was measured. Times of the repeats are medians.
#[derive(Debug, Serialize)]
struct Report {
    kind: &'static str,
    /// What searched.
    device: String,
    /// How the index chose to search.
    plan: &'static str,
    metric: Metric,
    rows: RowType,
    n_rows: usize,
    width: usize,
    /// Rows that the filter lets pass; null without one.
    n_pass: Option<u64>,
    n_queries: usize,
    k: usize,
    batch: usize,
    threads: usize,
    repeats: usize,
    /// Of the queries whose exact answers were computed.
    recall: f64,
    recall_queries: usize,
    queries_per_s: f64,
    /// Of the batches of all repeats.
    p50_ms: f64,
    p99_ms: f64,
    user_us_per_query: f64,
    build_s: f64,
    build_cpu_s: f64,
    index_bytes: u64,
    /// Physical memory of the process after the last pass, mapped files included.
    rss_bytes: Option<u64>,
    /// Rows that an exact search of a query compared by the head of their sketch, by its tail, and by their defined score.
    heads_per_query: Option<f64>,
    tails_per_query: Option<f64>,
    scored_per_query: Option<f64>,
    /// Bytes of rows that were read, where all of them are for each batch.
    read_bytes_per_s: Option<f64>,
    /// What a loop that only reads as many bytes reaches on as many threads.
    machine_bytes_per_s: Option<f64>,
}

impl SearchArgs {
    /// Refuses what would have no effect on the kind of index.
    fn check_kind(&self) -> Result<(), Failure> {
        let is_graph = self.kind == Kind::Hnsw;
        let of_graphs = [
            ("--m", self.m.is_some()),
            ("--ef-construction", self.ef_construction.is_some()),
            ("--ef", self.ef.is_some()),
        ];
        if let Some((flag, _)) = of_graphs.iter().find(|(_, given)| *given && !is_graph) {
            let text = format!("{flag} has an effect with `--kind hnsw` only");
            return Err(Failure::usage(text));
        }
        match is_graph && self.device != DeviceChoice::Cpu {
            true => Err(Failure::usage(
                "--device has an effect with `--kind flat` and `--kind flat-rows` only",
            )),
            false => Ok(()),
        }
    }
}

pub fn run(args: SearchArgs, output: &Output) -> anyhow::Result<()> {
    args.check_kind()?;
    if let Some(path) = &args.ids_out {
        output::check_folder(path)?;
    }
    let base = VectorFile::open(&args.base, None)?;
    let queries = match &args.queries {
        Some(path) => read_queries(path, base.width(), args.metric)?,
        None => Vec::new(),
    };
    let how = How {
        k: args.k.get().min(base.n_rows() as usize),
        batch: args.batch.get(),
        threads: match args.threads {
            Some(threads) => threads,
            None => NonZeroUsize::new(thread_budget(None)).unwrap_or(NonZeroUsize::MIN),
        },
        ef: args.ef,
        filter: match &args.filter {
            Some(path) => Some(read_filter(path, base.n_rows())?),
            None => None,
        },
    };
    let graph = HnswConfig::default();
    let config = BuildConfig {
        kind: args.kind,
        metric: args.metric,
        row_type: args.rows,
        m: args.m.unwrap_or(graph.m),
        ef_construction: args.ef_construction.unwrap_or(graph.ef_construction),
        threads: how.threads,
        devices: args.device.open()?,
    };
    let built = in_pool(how.threads, || built::build(&base, &config))?;
    if args.requests {
        output.remark(format!("{} rows, ready", built.index.as_dyn().len()));
        return requests::answer(&built, &how);
    }

    let Measured { answers, work, .. } = measure(&built, &queries, &how)?;
    let mut passes = Vec::new();
    for _ in 0..args.repeats.get() {
        passes.push(measure(&built, &queries, &how)?.pass);
    }
    let rss_bytes = compute::rss_bytes();
    if let Some(path) = &args.ids_out {
        write_ids(path, how.k, &answers)?;
    }
    let n_queries = answers.len();
    let n_exact = match args.exact_queries {
        Some(n) => n.get(),
        None => (EXACT_SCORES / base.n_rows()).max(EXACT_QUERIES) as usize,
    };
    let truth = Truth::compute(&base, args.metric, &queries, &how, n_exact)?;
    let recall = truth.recall(&base, &answers)?;
    let wall_s = median(passes.iter().map(|pass| pass.wall));
    let calls: Vec<_> = passes
        .iter()
        .flat_map(|pass| &pass.calls)
        .copied()
        .collect();
    let reads_rows = args.kind == Kind::FlatRows && how.filter.is_none();
    let scan_bytes = reads_rows.then(|| base.n_rows() * args.rows.row_bytes(base.width()) as u64);
    let per_query = |rows: fn(Work) -> u64| work.map(|work| rows(work) as f64 / n_queries as f64);
    let n_batches = n_queries.div_ceil(how.batch) as f64;
    let report = Report {
        kind: args.kind.as_str(),
        device: args.device.to_string(),
        plan: built.index.plan(&how, &how.params()).as_str(),
        metric: args.metric,
        rows: args.rows,
        n_rows: built.index.as_dyn().len(),
        width: base.width(),
        n_pass: how.filter.as_ref().map(Bitmap::len),
        n_queries,
        k: how.k,
        batch: how.batch,
        threads: how.threads.get(),
        repeats: passes.len(),
        recall,
        recall_queries: truth.n_queries(),
        queries_per_s: n_queries as f64 / wall_s,
        p50_ms: percentile_ms(&calls, 50),
        p99_ms: percentile_ms(&calls, 99),
        user_us_per_query: median(passes.iter().map(|pass| pass.cpu)) * 1e6 / n_queries as f64,
        build_s: built.time.wall.as_secs_f64(),
        build_cpu_s: built.time.cpu.as_secs_f64(),
        index_bytes: built.n_bytes,
        rss_bytes,
        heads_per_query: per_query(|work| work.heads),
        tails_per_query: per_query(|work| work.tails),
        scored_per_query: per_query(|work| work.scored),
        read_bytes_per_s: scan_bytes.map(|bytes| bytes as f64 * n_batches / wall_s),
        machine_bytes_per_s: scan_bytes
            .map(|bytes| compute::read_bytes_per_s(bytes as usize, how.threads.get())),
    };
    output.result(&report, summary)
}

/// One pass over all queries.
struct Measured {
    pass: Pass,
    answers: Vec<Vec<Neighbor>>,
    work: Option<Work>,
}

fn measure(built: &Built, queries: &[f32], how: &How) -> anyhow::Result<Measured> {
    let params = how.params();
    let width = built.index.as_dyn().width();
    let mut answers = Vec::with_capacity(queries.len() / width);
    let mut work = None;
    let run = || {
        pass(queries, how.batch.saturating_mul(width), |values| {
            let (found, more) = built.index.search(values, how, &params)?;
            answers.extend(found);
            if let Some(more) = more {
                *work.get_or_insert_with(Work::default) += more;
            }
            Ok(())
        })
    };
    let pass = on_threads(how.threads, run)?;
    Ok(Measured {
        pass,
        answers,
        work,
    })
}

/// Runs on so many threads; on this one when one is asked for.
fn on_threads<T: Send>(
    threads: NonZeroUsize,
    run: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    match threads.get() {
        1 => run(),
        _ => in_pool(threads, run),
    }
}

/// Runs where whatever divides its work among the threads that it finds, as the writer of sketches does, finds so many.
fn in_pool<T: Send>(
    threads: NonZeroUsize,
    run: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .build()?
        .install(run)
}

/// Reads query vectors that fit the index.
fn read_queries(path: &Path, width: usize, metric: Metric) -> anyhow::Result<Vec<f32>> {
    let file = VectorFile::open(path, None)?;
    if file.width() != width {
        let (path, found) = (path.display(), file.width());
        let text = format!("`{path}` has width {found}, the rows that are searched {width}");
        return Err(Failure::new(Exit::BadInput, text).into());
    }
    Ok(file.read_all(zero_rows(metric))?)
}

fn zero_rows(metric: Metric) -> ZeroRows {
    match metric {
        Metric::Cosine => ZeroRows::Refused,
        Metric::InnerProduct | Metric::L2 => ZeroRows::Allowed,
    }
}

/// Reads row numbers below `n_rows`, one a line.
fn read_filter(path: &Path, n_rows: u64) -> anyhow::Result<Bitmap> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read `{}`", path.display()))?;
    let rows = text.lines().enumerate().map(|(i, line)| {
        let row = line.trim().parse::<u32>().ok();
        let within = row.filter(|&row| u64::from(row) < n_rows);
        within.ok_or_else(|| {
            let what = match row {
                Some(row) => format!("row {row}, expected one below {n_rows}"),
                None => format!("`{line}` is no row number"),
            };
            let text = format!("{}:{}: {what}", path.display(), i + 1);
            Failure::new(Exit::BadInput, text)
        })
    });
    Ok(rows.collect::<Result<Bitmap, Failure>>()?)
}

fn write_ids(path: &Path, k: usize, answers: &[Vec<Neighbor>]) -> anyhow::Result<()> {
    let mut file = NpyFile::create(path, k)?;
    for found in answers {
        let mut row: Vec<i64> = found
            .iter()
            .map(|neighbor| neighbor.ordinal.into())
            .collect();
        row.resize(k, -1);
        file.push(&row)?;
    }
    file.finish()
}

fn summary(report: &Report) -> String {
    let Report {
        kind,
        plan,
        n_rows,
        width,
        n_queries,
        k,
        batch,
        threads,
        ..
    } = report;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut text = format!(
        "{kind} ({plan}), {n_rows} rows of width {width}, {}; {n_queries} queries in batches of {batch}, k = {k}, threads: {threads}\n",
        report.metric.as_str()
    );
    if let Some(n_pass) = report.n_pass {
        text += &format!("filter: {n_pass} rows pass\n");
    }
    text += &format!(
        "recall@{k} {:.4} of {} queries\n{:.1} queries/s, {:.1} us user CPU a query; a batch: p50 {:.3} ms, p99 {:.3} ms\n",
        report.recall,
        report.recall_queries,
        report.queries_per_s,
        report.user_us_per_query,
        report.p50_ms,
        report.p99_ms
    );
    text += &format!(
        "built in {:.2} s, {:.2} s user CPU; index {:.1} MiB",
        report.build_s,
        report.build_cpu_s,
        mib(report.index_bytes)
    );
    if let Some(bytes) = report.rss_bytes {
        text += &format!(", process {:.1} MiB", mib(bytes));
    }
    text += "\n";
    if let (Some(heads), Some(tails), Some(scored)) = (
        report.heads_per_query,
        report.tails_per_query,
        report.scored_per_query,
    ) && heads > 0.0
    {
        text += &format!(
            "rows a query: {heads:.0} compared by the head of their sketch, {tails:.0} by its tail, {scored:.1} scored\n"
        );
    }
    if let (Some(read), Some(machine)) = (report.read_bytes_per_s, report.machine_bytes_per_s) {
        text += &format!(
            "rows read at {:.2} GB/s, {:.0} % of a loop that only reads ({:.2} GB/s)\n",
            read / 1e9,
            100.0 * read / machine,
            machine / 1e9
        );
    }
    text
}
