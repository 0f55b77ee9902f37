mod load;

use std::collections::BTreeMap;
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
a server that stalls is charged for all that had to wait. Several rates run one after the other.

Examples:
  trawl bench serve --collection docs --queries queries.jsonl --rate 100
  trawl bench serve --collection docs --queries queries.jsonl --rerank 50 --rate 5,10,20,40 --seconds 30 --plot load.png
  trawl bench serve --queries queries.jsonl --path /v1/embeddings --body '{\"model\": \"all-MiniLM-L6-v2\", \"input\": \"<query>\"}' --rate 500"
)]
pub struct ServeArgs {
    /// Address of the server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Collection that is searched.
    #[arg(long, value_name = "NAME", required_unless_present = "path")]
    collection: Option<String>,
    /// Queries that are asked in turn: JSONL or TSV.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Passages in an answer.
    #[arg(long, value_name = "N", default_value_t = 10, conflicts_with = "body")]
    top_k: usize,
    /// Passages that are reranked (default: none).
    #[arg(long, value_name = "N", conflicts_with = "body")]
    rerank: Option<usize>,
    /// Another route than that of searches.
    #[arg(long, value_name = "PATH", requires = "body")]
    path: Option<String>,
    /// Its body; `<query>` within a string stands for the query.
    #[arg(long, value_name = "JSON", requires = "path")]
    body: Option<String>,
    /// A header of every request, such as `authorization: Bearer KEY`.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Requests a second; several rates run one after the other.
    #[arg(long, value_name = "N", value_delimiter = ',', required = true, value_parser = rate)]
    rate: Vec<f64>,
    /// How long each rate lasts.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How long a request may take from when it is due.
    #[arg(long, value_name = "MS", default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: u64,
    /// Requests that are open at a time; more wait, and their clocks run.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    max_open: u32,
    /// Draw latencies and answers a second: over time, or over the rates when there are several.
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

/// What one rate led to. Latencies are of answers with status 200, in milliseconds from when the request was due.
#[derive(Debug, Serialize)]
struct Report {
    /// Requests a second that were due.
    rate: f64,
    n_requests: usize,
    n_answered: usize,
    /// Answers a second, from the start until the last request was due or the last outcome known.
    answered_per_s: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    max_ms: f64,
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
    fn new(rate: f64, seconds: u64, asked: &[Asked]) -> Self {
        let count =
            |is: &dyn Fn(Outcome) -> bool| asked.iter().filter(|asked| is(asked.outcome)).count();
        let latencies = latencies(asked);
        let percentile = |percent| percentile_ms(&latencies, percent);
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
            rate,
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
            format!("{}", self.rate),
            self.n_requests.to_string(),
            format!("{:.1}", self.answered_per_s),
        ];
        row.extend(times.map(|time| format!("{time:.1}")));
        row.extend([self.n_refused, self.n_timed_out, self.n_broken].map(|n| n.to_string()));
        row.push(other);
        row
    }
}

/// Of the requests that were answered.
fn latencies(asked: &[Asked]) -> Vec<Duration> {
    let answered = asked
        .iter()
        .filter(|asked| asked.outcome == Outcome::Answered);
    answered.map(|asked| asked.latency).collect()
}

pub fn run(args: ServeArgs, output: &Output) -> anyhow::Result<()> {
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
    for &rate in &args.rate {
        let n = ((rate * args.seconds as f64).round() as usize).max(1);
        let gap = Duration::from_secs_f64(1.0 / rate);
        let phase = format!("{rate} requests a second");
        let tell = |done: usize| progress.update(&phase, "requests", done as u64, n as u64);
        runs.push((rate, load::run(&target, n, gap, tell)?));
    }
    progress.finish();
    let reports: Vec<Report> = runs
        .iter()
        .map(|(rate, asked)| Report::new(*rate, args.seconds, asked))
        .collect();
    for report in reports
        .iter()
        .filter(|report| report.generator_late_p99_ms > 2.0)
    {
        let Report {
            rate,
            generator_late_p99_ms: late,
            ..
        } = report;
        output.remark(format!("at {rate} requests a second this program itself was late, by {late:.1} ms at the 99th percentile"));
    }
    if let Some(path) = &args.plot {
        let (panels, x_label) = match &runs[..] {
            [(_, asked)] => (over_time(asked, args.seconds), "seconds"),
            _ => (over_rates(&reports), "requests a second"),
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
            "rate",
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

fn bodies(args: &ServeArgs) -> anyhow::Result<Vec<Bytes>> {
    let queries = corpus::read_queries(&args.queries)?;
    if queries.is_empty() {
        return Err(Failure::usage(format!("`{}` has no query", args.queries.display())).into());
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

fn over_rates(reports: &[Report]) -> Vec<Panel> {
    let curve = |name, value: &dyn Fn(&Report) -> f64| {
        let points = reports.iter().map(|report| (report.rate, value(report)));
        Curve {
            name,
            has_dots: true,
            points: points.collect(),
        }
    };
    panels([
        curve(0, &|report| report.p50_ms),
        curve(1, &|report| report.p99_ms),
        curve(2, &|report| report.answered_per_s),
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
    let percentile = |percent| {
        move |times: &[Duration]| (!times.is_empty()).then(|| percentile_ms(times, percent))
    };
    panels([
        curve(0, &percentile(50)),
        curve(1, &percentile(99)),
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
        let report = Report::new(10.0, 1, &asked);
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
        assert_eq!((report.p50_ms, report.max_ms), (10.0, 20.0));
        assert_eq!(report.answered_per_s, 2.0);
    }
}
