//! `trawl train plot`: what runs logged, as curves.

mod metrics;

use std::path::PathBuf;

use serde_json::json;

use self::metrics::{Kind, Metrics};
use crate::chart::{Chart, Curve, Panel, Size};
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `trawl train plot`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl train plot runs/retromae runs/mlm                              losses of training and of held-out texts
  trawl train plot runs/* --metric ndcg@10 --x hours --out dev.png
  trawl train plot runs/master --metric train/encoder_loss,dev/loss    a panel each

A line is the smoothed log of training, dots are dev figures; colours are runs.")]
pub struct PlotArgs {
    /// Folders of runs.
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// What to show, a panel each; `train/` or `dev/` before a name shows that part of it alone.
    #[arg(
        long,
        short,
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "loss"
    )]
    metric: Vec<String>,
    /// What curves run over.
    #[arg(long, value_enum, default_value_t = Axis::Steps)]
    x: Axis,
    /// Weight of the lines before in a moving average of training's lines; dev figures are shown as they are.
    #[arg(long, value_name = "0…1", default_value_t = 0.8)]
    smooth: f64,
    /// The picture.
    #[arg(long, short, value_name = "FILE.png", default_value = "curves.png")]
    out: PathBuf,
    /// Its pixels.
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "1000x600")]
    size: Size,
}

/// What curves run over.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Axis {
    /// Steps taken.
    Steps,
    /// Tokens that went through an encoder.
    Tokens,
    /// Floating-point operations of matrix products.
    Operations,
    /// Hours of training, without evaluations and checkpoints.
    Hours,
}

pub fn run(args: &PlotArgs, output: &Output) -> anyhow::Result<()> {
    if !(0.0..1.0).contains(&args.smooth) {
        let text = format!(
            "`--smooth` is {}; it is at least 0 and below 1",
            args.smooth
        );
        return Err(Failure::usage(text).into());
    }
    let read = |run: &PathBuf| Metrics::read(run);
    let runs: Vec<Metrics> = args.runs.iter().map(read).collect::<Result<_, _>>()?;
    let panel = |metric: &String| panel(metric, &runs, args, output);
    let panels = args.metric.iter().map(panel).collect::<Result<_, _>>()?;
    let names = names(&args.runs);
    let label = match args.x {
        Axis::Steps => "steps",
        Axis::Tokens => "tokens",
        Axis::Operations => "operations",
        Axis::Hours => "hours",
    };
    let chart = Chart {
        names: &names,
        panels,
        x_label: label,
    };
    chart.write(&args.out, args.size)?;
    let report = json!({ "out": args.out, "runs": names, "metrics": args.metric });
    output.result(&report, |_| format!("curves in {}", args.out.display()))
}

/// The curves of one metric. Runs that do not have it are named and left out.
fn panel(
    metric: &str,
    runs: &[Metrics],
    args: &PlotArgs,
    output: &Output,
) -> anyhow::Result<Panel> {
    let (kinds, name) = match metric.split_once('/') {
        Some(("train", name)) => (&[Kind::Train][..], name),
        Some(("dev", name)) => (&[Kind::Dev][..], name),
        _ => (&[Kind::Train, Kind::Dev][..], metric),
    };
    let (mut curves, mut without) = (Vec::new(), Vec::new());
    for (number, (run, folder)) in runs.iter().zip(&args.runs).enumerate() {
        let n_before = curves.len();
        for &kind in kinds {
            let values = run.values(kind, name);
            let mut points = run.along(args.x, &values);
            if kind == Kind::Train {
                smooth(&mut points, args.smooth);
            }
            if !points.is_empty() {
                curves.push(Curve {
                    name: number,
                    has_dots: kind == Kind::Dev,
                    points,
                });
            }
        }
        if curves.len() == n_before {
            without.push(format!("`{}`", folder.display()));
        }
    }
    if curves.is_empty() {
        let mut known: Vec<String> = runs.iter().flat_map(Metrics::names).collect();
        known.sort();
        known.dedup();
        let text = format!("no run has `{metric}`; there are {}", known.join(", "));
        return Err(Failure::usage(text).into());
    }
    if !without.is_empty() {
        output.remark(format!("without `{metric}`: {}", without.join(", ")));
    }
    Ok(Panel {
        title: metric.to_owned(),
        curves,
    })
}

/// Puts the mean of a value and those before it, each weighing `weight` times the next one, in its place.
fn smooth(points: &mut [(f64, f64)], weight: f64) {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (_, value) in points {
        sum = weight * sum + *value;
        weights = weight * weights + 1.0;
        *value = sum / weights;
    }
}

/// The runs by the names of their folders, or by their paths where two are the same.
fn names(runs: &[PathBuf]) -> Vec<String> {
    let name = |run: &PathBuf| {
        run.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let names: Vec<Option<String>> = runs.iter().map(name).collect();
    let of = |(run, name): (&PathBuf, &Option<String>)| match name {
        Some(own) if names.iter().filter(|other| *other == name).count() == 1 => own.clone(),
        _ => run.display().to_string(),
    };
    runs.iter().zip(&names).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_is_a_weighted_mean_of_what_came_before() {
        let mut points = [(0.0, 4.0), (1.0, 1.0), (2.0, 1.0)];
        smooth(&mut points, 0.5);
        // (4/2 + 1) / (1/2 + 1), (4/4 + 1/2 + 1) / (1/4 + 1/2 + 1)
        assert_eq!(points.map(|(_, value)| value), [4.0, 2.0, 2.5 / 1.75]);
        smooth(&mut points, 0.0);
        assert_eq!(points.map(|(_, value)| value), [4.0, 2.0, 2.5 / 1.75]);
    }

    #[test]
    fn runs_of_one_name_are_told_by_their_paths() {
        let paths = |paths: &[&str]| -> Vec<PathBuf> { paths.iter().map(PathBuf::from).collect() };
        assert_eq!(names(&paths(&["runs/a", "runs/b/"])), ["a", "b"]);
        assert_eq!(
            names(&paths(&["a/run", "b/run", "c"])),
            ["a/run", "b/run", "c"]
        );
    }
}
