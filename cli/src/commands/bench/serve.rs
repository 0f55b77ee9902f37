mod load;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};

use self::load::{Asked, Outcome, Target};
use super::clock::percentile_ms;
use crate::chart::{Chart, Curve, Panel, Size};
use crate::failure::Failure;
use crate::output::{self, Output};
use crate::progress::Progress;

/// Parts of a run that its plot tells apart.
const PLOT_PARTS: usize = 60;

/// Arguments of `trawl bench serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Requests are due at a constant rate, whether the server keeps up or not, and their latency counts from when they are due:
a server that stalls is charged for all that had to wait. With --clients, each client asks anew once it has its answer: that finds the
most that a server answers, but hides how long requests wait that come at their own times. Several rates or numbers run one after the other.

Examples:
  trawl bench serve --collection docs --queries queries.jsonl --rate 100
  trawl bench serve --collection docs --queries queries.jsonl --rerank 50 --rate 5,10,20,40 --seconds 30 --plot load.png
  trawl bench serve --queries queries.jsonl --path /v1/embeddings --body '{\"model\": \"all-MiniLM-L6-v2\", \"input\": \"<query>\"}' --rate 500
  trawl bench serve --collection docs --queries queries.jsonl --clients 1,8,32
  trawl bench serve --path /livez --clients 32"
)]
pub struct ServeArgs {
    /// Address of the server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Collection that is searched.
    #[arg(long, value_name = "NAME", required_unless_present = "path")]
    collection: Option<String>,
    /// Queries that are asked in turn: JSONL or TSV.
    #[arg(long, value_name = "FILE", required_unless_present = "path")]
    queries: Option<PathBuf>,
    /// Passages in an answer.
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "path")]
    top_k: usize,
    /// Passages that are reranked (default: none).
    #[arg(long, value_name = "N", conflicts_with = "path")]
    rerank: Option<usize>,
    /// Another route than that of searches; without `--body` it is asked with GET.
    #[arg(long, value_name = "PATH", conflicts_with = "collection")]
    path: Option<String>,
    /// Its body; `<query>` within a string stands for the query.
    #[arg(long, value_name = "JSON", requires = "path", requires = "queries")]
    body: Option<String>,
    /// A header of every request, such as `authorization: Bearer KEY`.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Requests a second; several rates run one after the other.
    #[arg(long, value_name = "N", value_delimiter = ',', required_unless_present = "clients", value_parser = rate)]
    rate: Vec<f64>,
    /// Clients that ask in place of a rate, each anew once it has its answer; several numbers run one after the other.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        conflicts_with_all = ["rate", "max_open"],
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    clients: Vec<u32>,
    /// How long each rate or number of clients lasts.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long a request may take from when it is due.
    #[arg(long, value_name = "MS", default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: u64,
    /// Requests that are open at a time; more wait, and their clocks run.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_open: u32,
    /// Draw latencies and answers a second: over time, or over the loads when there are several.
    #[arg(long, value_name = "FILE.png")]
    plot: Option<PathBuf>,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `NAME: VALUE`")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("`{name}` is no name of a header"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("the value of `{name}` has characters that no header may have"))?;
    Ok((name, value))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.01..=1e6).contains(rate));
    rate.ok_or_else(|| "a rate is a number from 0.01 to 1000000".to_owned())
}

/// How requests come.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Load {
    /// So many a second.
    Rate(f64),
    /// From so many clients, each anew once it has its answer.
    Clients(u32),
}

impl Load {
    fn number(self) -> f64 {
        match self {
            Self::Rate(rate) => rate,
            Self::Clients(n_clients) => f64::from(n_clients),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Rate(_) => "requests a second",
            Self::Clients(1) => "client",
            Self::Clients(_) => "clients",
        }
    }

    fn run(
        self,
        target: &Arc<Target>,
        seconds: u64,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Asked>> {
        let phase = self.to_string();
        match self {
            Self::Rate(rate) => {
                let n = ((rate * seconds as f64).round() as usize).max(1);
                let gap = Duration::from_secs_f64(1.0 / rate);
                load::at_rate(target, n, gap, |done| {
                    progress.update(&phase, "requests", done as u64, n as u64);
                })
            }
            Self::Clients(n_clients) => {
                let duration = Duration::from_secs(seconds);
                let asked = load::by_clients(target, n_clients as usize, duration, |over| {
                    progress.update(&phase, "s of load", over.as_secs(), seconds);
                })?;
                // The last tick comes before the end.
                progress.update(&phase, "s of load", seconds, seconds);
                Ok(asked)
            }
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number(), self.unit())
    }
}

/// What one load led to. Latencies are of answers with status 200, in milliseconds from when the request was due; null without one.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    load: Load,
    n_requests: usize,
    n_answered: usize,
    /// Answers a second, from the start until the last request was due or the last outcome known.
    answered_per_s: f64,
    p50_ms: Option<f64>,
    p90_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    /// 429.
    n_refused: usize,
    n_refused_without_retry_after: usize,
    n_timed_out: usize,
    /// Connections that were not made or broke.
    n_broken: usize,
    /// Other answers, by status.
    by_status: BTreeMap<u16, usize>,
    /// How late the 99th of a hundred requests was handed over by this program; above a millisecond or so it was too slow for the rate.
    generator_late_p99_ms: f64,
}

impl Report {
    fn new(load: Load, seconds: u64, asked: &[Asked]) -> Self {
        let count =
            |is: &dyn Fn(Outcome) -> bool| asked.iter().filter(|asked| is(asked.outcome)).count();
        let latencies = latencies(asked);
        let percentile = |percent| percentile_of(&latencies, percent);
        let end = asked.iter().map(|asked| asked.due + asked.latency).max();
        let end = end.unwrap_or_default().as_secs_f64().max(seconds as f64);
        let mut by_status = BTreeMap::new();
        for asked in asked {
            if let Outcome::Status(status) = asked.outcome {
                *by_status.entry(status).or_default() += 1;
            }
        }
        let late: Vec<Duration> = asked.iter().map(|asked| asked.late).collect();
        Self {
            load,
            n_requests: asked.len(),
            n_answered: latencies.len(),
            answered_per_s: latencies.len() as f64 / end,
            p50_ms: percentile(50),
            p90_ms: percentile(90),
            p99_ms: percentile(99),
            max_ms: percentile(100),
            n_refused: count(&|outcome| matches!(outcome, Outcome::Refused { .. })),
            n_refused_without_retry_after: count(&|outcome| {
                outcome
                    == Outcome::Refused {
                        has_retry_after: false,
                    }
            }),
            n_timed_out: count(&|outcome| outcome == Outcome::TimedOut),
            n_broken: count(&|outcome| outcome == Outcome::Broken),
            by_status,
            generator_late_p99_ms: percentile_ms(&late, 99),
        }
    }

    fn row(&self) -> Vec<String> {
        let n_other: usize = self.by_status.values().sum();
        let statuses: Vec<String> = self.by_status.keys().map(u16::to_string).collect();
        let other = match n_other {
            0 => "0".to_owned(),
            _ => format!("{n_other} ({})", statuses.join(", ")),
        };
        let times = [self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms];
        let mut row = vec![
            self.load.number().to_string(),
            self.n_requests.to_string(),
            format!("{:.1}", self.answered_per_s),
        ];
        row.extend(times.map(|time| time.map_or("–".to_owned(), |time| format!("{time:.1}"))));
        row.extend([self.n_refused, self.n_timed_out, self.n_broken].map(|n| n.to_string()));
        row.push(other);
        row
    }
}

/// None of no times: a server that answers nothing is not a fast one.
fn percentile_of(times: &[Duration], percent: usize) -> Option<f64> {
    (!times.is_empty()).then(|| percentile_ms(times, percent))
}

/// Of the requests that were answered.
fn latencies(asked: &[Asked]) -> Vec<Duration> {
    let answered = asked
        .iter()
        .filter(|asked| asked.outcome == Outcome::Answered);
    answered.map(|asked| asked.latency).collect()
}

pub fn run(args: ServeArgs, output: &Output) -> anyhow::Result<()> {
    if let Some(path) = &args.plot {
        output::check_folder(path)?;
    }
    let progress = Progress::new(output);
    let target = Target {
        uri: uri(&args)?,
        headers: args.header.iter().cloned().collect(),
        bodies: bodies(&args)?,
        timeout: Duration::from_millis(args.timeout_ms),
        max_open: args.max_open as usize,
    };
    load::try_once(&target)?;
    let target = Arc::new(target);
    let mut runs = Vec::new();
    let rates = args.rate.iter().map(|&rate| Load::Rate(rate));
    let clients = args.clients.iter().map(|&n| Load::Clients(n));
    for load in rates.chain(clients) {
        runs.push((load, load.run(&target, args.seconds, &progress)?));
    }
    progress.finish();
    let reports: Vec<Report> = runs
        .iter()
        .map(|(load, asked)| Report::new(*load, args.seconds, asked))
        .collect();
    for report in reports
        .iter()
        .filter(|report| report.generator_late_p99_ms > 2.0)
    {
        let Report {
            load,
            generator_late_p99_ms: late,
            ..
        } = report;
        output.remark(format!(
            "at {load} this program itself was late, by {late:.1} ms at the 99th percentile"
        ));
    }
    if let Some(path) = &args.plot {
        let (panels, x_label) = match &runs[..] {
            [(_, asked)] => (over_time(asked, args.seconds), "seconds"),
            [(load, _), ..] => (over_loads(&reports), load.unit()),
            [] => unreachable!("clap asks for one"),
        };
        let names = ["p50", "p99", "answered"].map(str::to_owned);
        let chart = Chart {
            names: &names,
            panels,
            x_label,
        };
        chart.write(path, "1000x600".parse::<Size>().expect("it is a size"))?;
        output.remark(format!("curves in {}", path.display()));
    }
    output.result(&reports, |reports| {
        let header = [
            if args.clients.is_empty() {
                "rate"
            } else {
                "clients"
            },
            "requests",
            "answered/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "429",
            "timeouts",
            "broken",
            "other",
        ];
        output::table(&header, &header, reports.iter().map(Report::row).collect())
    })
}

fn uri(args: &ServeArgs) -> anyhow::Result<Uri> {
    let path = match (&args.path, &args.collection) {
        (Some(path), _) => path.clone(),
        (None, Some(name)) => format!("/v1/collections/{name}/search"),
        (None, None) => unreachable!("clap asks for one of them"),
    };
    let text = format!("{}{path}", args.url.trim_end_matches('/'));
    let uri: Option<Uri> = text.parse().ok();
    let uri = uri.filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some());
    uri.ok_or_else(|| {
        Failure::usage(format!(
            "`{text}` is no address such as http://127.0.0.1:8080{path}"
        ))
        .into()
    })
}

/// None where the route is asked with GET.
fn bodies(args: &ServeArgs) -> anyhow::Result<Vec<Bytes>> {
    if args.path.is_some() && args.body.is_none() {
        return match args.queries {
            None => Ok(Vec::new()),
            Some(_) => {
                let text = "`--queries` has no effect on a `--path` without `--body`";
                Err(Failure::usage(text).into())
            }
        };
    }
    let Some(path) = &args.queries else {
        unreachable!("clap asks for them where there is a body");
    };
    let queries = corpus::read_queries(path)?;
    if queries.is_empty() {
        return Err(Failure::usage(format!("`{}` has no query", path.display())).into());
    }
    let template = match &args.body {
        Some(body) => serde_json::from_str(body)
            .map_err(|error| Failure::usage(format!("`--body` is no JSON: {error}")))?,
        None => {
            let mut body = json!({"query": "<query>", "top_k": args.top_k});
            if let Some(candidates) = args.rerank {
                body["rerank"] = json!({"candidates": candidates});
            }
            body
        }
    };
    let body = |query: &corpus::Query| Bytes::from(filled(&template, &query.text).to_string());
    Ok(queries.iter().map(body).collect())
}

/// The template with the query in place of `<query>`.
fn filled(template: &Value, query: &str) -> Value {
    match template {
        Value::String(text) => text.replace("<query>", query).into(),
        Value::Array(values) => values.iter().map(|value| filled(value, query)).collect(),
        Value::Object(fields) => {
            let filled = fields
                .iter()
                .map(|(name, value)| (name.clone(), filled(value, query)));
            Value::Object(filled.collect())
        }
        other => other.clone(),
    }
}

fn over_loads(reports: &[Report]) -> Vec<Panel> {
    let curve = |name, value: &dyn Fn(&Report) -> Option<f64>| {
        let points = reports
            .iter()
            .filter_map(|report| Some((report.load.number(), value(report)?)));
        Curve {
            name,
            has_dots: true,
            points: points.collect(),
        }
    };
    panels([
        curve(0, &|report| report.p50_ms),
        curve(1, &|report| report.p99_ms),
        curve(2, &|report| Some(report.answered_per_s)),
    ])
}

/// By when requests were due.
fn over_time(asked: &[Asked], seconds: u64) -> Vec<Panel> {
    let part = seconds as f64 / PLOT_PARTS as f64;
    let mut parts = vec![Vec::new(); PLOT_PARTS];
    for asked in asked {
        let number = (asked.due.as_secs_f64() / part) as usize;
        parts[number.min(PLOT_PARTS - 1)].push(*asked);
    }
    let curve = |name, value: &dyn Fn(&[Duration]) -> Option<f64>| {
        let points = parts.iter().enumerate().filter_map(|(number, asked)| {
            let value = value(&latencies(asked))?;
            Some(((number as f64 + 0.5) * part, value))
        });
        Curve {
            name,
            has_dots: false,
            points: points.collect(),
        }
    };
    panels([
        curve(0, &|times| percentile_of(times, 50)),
        curve(1, &|times| percentile_of(times, 99)),
        curve(2, &|times| Some(times.len() as f64 / part)),
    ])
}

fn panels([p50, p99, answered]: [Curve; 3]) -> Vec<Panel> {
    let panel = |title: &str, curves| Panel {
        title: title.to_owned(),
        curves,
    };
    vec![
        panel("latency, ms", vec![p50, p99]),
        panel("answered a second", vec![answered]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_stands_where_the_template_names_it() {
        let template = json!({"input": ["<query>", "a <query>"], "n": 3, "<query>": "kept"});
        let found = filled(&template, "\"x\"");
        assert_eq!(
            found,
            json!({"input": ["\"x\"", "a \"x\""], "n": 3, "<query>": "kept"})
        );
    }

    #[test]
    fn a_report_counts_every_outcome_once() {
        let outcomes = [
            Outcome::Answered,
            Outcome::Answered,
            Outcome::Refused {
                has_retry_after: true,
            },
            Outcome::Refused {
                has_retry_after: false,
            },
            Outcome::Status(503),
            Outcome::TimedOut,
            Outcome::Broken,
        ];
        let asked: Vec<Asked> = (0..)
            .zip(outcomes)
            .map(|(number, outcome)| Asked {
                due: Duration::from_millis(100 * number),
                late: Duration::ZERO,
                latency: Duration::from_millis(10 * (number + 1)),
                outcome,
            })
            .collect();
        let report = Report::new(Load::Rate(10.0), 1, &asked);
        assert_eq!(
            (report.n_requests, report.n_answered, report.n_refused),
            (7, 2, 2)
        );
        assert_eq!(
            (
                report.n_refused_without_retry_after,
                report.n_timed_out,
                report.n_broken
            ),
            (1, 1, 1)
        );
        assert_eq!(report.by_status, BTreeMap::from([(503, 1)]));
        assert_eq!((report.p50_ms, report.max_ms), (Some(10.0), Some(20.0)));
        assert_eq!(report.answered_per_s, 2.0);
    }

    #[test]
    fn what_was_not_answered_has_no_latency() {
        let asked = [Outcome::TimedOut, Outcome::Broken].map(|outcome| Asked {
            due: Duration::ZERO,
            late: Duration::ZERO,
            latency: Duration::from_secs(10),
            outcome,
        });
        let report = Report::new(Load::Rate(2.0), 1, &asked);
        let shown = json!(report);
        for name in ["p50_ms", "p90_ms", "p99_ms", "max_ms"] {
            assert_eq!(shown[name], Value::Null, "{name}");
        }
        assert_eq!(report.row()[2..7], ["0.0", "–", "–", "–", "–"]);
        let n_points: Vec<usize> = over_loads(&[report])
            .iter()
            .flat_map(|panel| &panel.curves)
            .map(|curve| curve.points.len())
            .collect();
        assert_eq!(n_points, [0, 0, 1]);
    }
}
