//! What a build would take.

use std::path::{Path, PathBuf};

use anyhow::Context;
use encoder::Arithmetic;
use indexer::{
    Basis, BuildError, Figure, Forecast, ForecastConfig, forecast, forecast_from_vectors,
};

use super::content::ContentArgs;
use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::output::{self, Output};
use crate::progress::Progress;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index plan --corpus corpus.jsonl
  trawl index plan --corpus corpus.jsonl --model models/mine --kind hnsw --rows f16 --shards 4 --json
  trawl index plan --corpus corpus.jsonl --vectors v.npy --ids v.ids --metric cosine

Takes the options of `index build`. The corpus is read once; a sample of it is encoded, built in a temporary folder,
measured, and removed. The plan is of a build that encodes every passage.")]
pub struct PlanArgs {
    #[command(flatten)]
    content: ContentArgs,
    /// Folder of the collection: the sample is built beside it, on the same disk. It is neither made nor read.
    #[arg(long, value_name = "PATH")]
    collection: Option<PathBuf>,
    /// Passages to encode: more take longer and tell the time better.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    sample: usize,
    /// Seed of the sample.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub fn run(args: PlanArgs, output: &Output) -> anyhow::Result<()> {
    let how = ForecastConfig {
        max_encoded: args.sample,
        seed: args.seed,
        ..ForecastConfig::new(folder(args.collection.as_deref()))
    };
    let collection = args.collection.unwrap_or_default();
    args.content.room.make(args.content.model.threads)?;
    let vectors = args.content.brought()?;
    let progress = Progress::new(output);
    let cancelled = interrupt::flag()?;
    let forecast = match vectors {
        Some(vectors) => {
            let config = args.content.resolve(collection, None)?;
            forecast_from_vectors(&config, &vectors, &how, &progress, &cancelled)
        }
        None => {
            let directory = args.content.model.directory()?.canonicalize()?;
            let encoder = args.content.model.load(&directory, Arithmetic::Auto)?;
            let config = args.content.resolve(collection, Some(directory))?;
            forecast(&config, &encoder, &how, &progress, &cancelled)
        }
    };
    progress.finish();
    if let Err(BuildError::Interrupted { .. }) = forecast {
        let text = "stopped before the plan was made; nothing is left of it";
        return Err(Failure::new(Exit::Interrupted, text).into());
    }
    let forecast = forecast.context("cannot plan the index")?;
    output.result(&forecast, table)
}

/// Where the sample is built: beside the collection, whose folders may not be there yet; else where temporary files are.
fn folder(collection: Option<&Path>) -> PathBuf {
    let Some(collection) = collection else {
        return std::env::temp_dir();
    };
    let mut above = collection.ancestors().skip(1);
    match above.find(|folder| folder.is_dir()) {
        Some(folder) => folder.to_owned(),
        None => PathBuf::from("."), // a relative path has the empty one above it
    }
}

fn table(forecast: &Forecast) -> String {
    const COUNTED: &str = "counted";
    let sampled = match forecast.sample.records == forecast.records {
        true => "all of it, tried",
        false => "from the sample",
    };
    let mut rows = Vec::new();
    let mut row = |what: &str, figure: Figure, unit: Unit, basis: &str| {
        let margin = match (figure.low, figure.high) {
            (low, high) if low == high => String::new(),
            (low, high) => format!("{} to {}", unit.write(low), unit.write(high)),
        };
        rows.push(vec![
            what.to_owned(),
            unit.write(figure.expected),
            margin,
            basis.to_owned(),
        ]);
    };
    let of_rows = format!("rows of width {}", forecast.width);
    row(
        &of_rows,
        Figure::exactly(forecast.passages),
        Unit::Number,
        COUNTED,
    );
    let has_tokens = forecast.sample.encoded > 0;
    if has_tokens {
        row("tokens", forecast.tokens, Unit::Number, sampled);
        row("passages cut", forecast.truncated, Unit::Number, sampled);
    }
    for part in &forecast.disk {
        let basis = if part.part == "vectors" {
            COUNTED
        } else {
            sampled
        };
        row(
            &format!("disk: {}", part.part),
            part.bytes,
            Unit::Bytes,
            basis,
        );
    }
    row("disk", forecast.disk_total, Unit::Bytes, "the parts");
    row(
        "disk while building",
        forecast.disk_peak,
        Unit::Bytes,
        sampled,
    );
    row(
        "memory of the build",
        forecast.build_memory,
        Unit::Bytes,
        sampled,
    );
    row(
        "memory to serve",
        forecast.serve_memory,
        Unit::Bytes,
        "this process, model loaded",
    );
    row(
        "and files mapped",
        forecast.serve_mapped,
        Unit::Bytes,
        "disk",
    );
    for phase in &forecast.time {
        let basis = match phase.basis {
            Basis::Measured => "measured",
            Basis::Extrapolated if phase.phase == "graph" => "the sample, n to n log n",
            Basis::Extrapolated => sampled,
        };
        row(
            &format!("time: {}", phase.phase),
            phase.time,
            Unit::Milliseconds,
            basis,
        );
    }
    row(
        "time",
        forecast.time_total,
        Unit::Milliseconds,
        "the phases",
    );
    let header = ["", "expected", "between", "basis"];
    let mut text = output::table(&header, &["expected", "between"], rows);
    text += "memory of graphics cards: none\n";
    let sample = &forecast.sample;
    text += &format!(
        "sample: {} of {} records, {} passages",
        sample.records, forecast.records, sample.passages
    );
    if has_tokens {
        text += &format!(
            ", {} of them encoded: {:.0} tokens/s",
            sample.encoded,
            sample.encoded_tokens as f64 / (sample.encode_time.max(1) as f64 / 1e3)
        );
    }
    if forecast.bad_lines > 0 {
        text += &format!("\n{} bad lines skipped", forecast.bad_lines);
    }
    let seconds = forecast.forecast_time as f64 / 1e3;
    text + &format!("\nplanned in {seconds:.1} s, on this machine as busy as it was\n")
}

#[derive(Clone, Copy)]
enum Unit {
    Number,
    Bytes,
    Milliseconds,
}

impl Unit {
    fn write(self, n: u64) -> String {
        match self {
            Self::Number => n.to_string(),
            Self::Bytes => {
                let (mut value, mut unit) = (n as f64, "B");
                for larger in ["KiB", "MiB", "GiB", "TiB"] {
                    if value < 1024.0 {
                        break;
                    }
                    (value, unit) = (value / 1024.0, larger);
                }
                match unit {
                    "B" => format!("{n} B"),
                    _ => format!("{value:.1} {unit}"),
                }
            }
            Self::Milliseconds => match n {
                0..60_000 => format!("{:.1} s", n as f64 / 1e3),
                60_000..7_200_000 => format!("{:.1} min", n as f64 / 6e4),
                _ => format!("{:.1} h", n as f64 / 3.6e6),
            },
        }
    }
}
