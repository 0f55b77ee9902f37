//! Searches that a program on the other side of a pipe asks for, so that one index is measured in turns with others.

use std::io::BufRead;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::clock::percentile_ms;
use super::{Built, How, Measured, measure, read_filter, read_queries, write_ids};
use crate::output;

/// One search. What is missing is as in the arguments of the command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    queries: Option<PathBuf>,
    vectors: Option<String>,
    k: Option<NonZeroUsize>,
    batch: Option<NonZeroUsize>,
    threads: Option<NonZeroUsize>,
    ef: Option<usize>,
    filter: Option<PathBuf>,
    ids_out: Option<PathBuf>,
}

/// Answers a line with a line until standard input ends. A request that fails is answered by its error.
pub fn answer(built: &Built, default: &How) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read standard input")?;
        let answer = serve(&line, built, default)
            .unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        output::print(&format!("{answer}\n"))?;
    }
    Ok(())
}

fn serve(line: &str, built: &Built, default: &How) -> anyhow::Result<Value> {
    let request: Request = serde_json::from_str(line)?;
    let index = built.index.as_dyn();
    let (width, metric) = (index.width(), index.metric());
    let (queries, inline) = match (&request.queries, &request.vectors) {
        (Some(path), None) => (read_queries(path, width, metric)?, false),
        (None, Some(vectors)) => (floats(vectors)?, true),
        _ => anyhow::bail!("a request has either `queries` or `vectors`"),
    };
    let how = How {
        k: request
            .k
            .map_or(default.k, NonZeroUsize::get)
            .min(index.len()),
        batch: request.batch.map_or(default.batch, NonZeroUsize::get),
        threads: request.threads.unwrap_or(default.threads),
        ef: request.ef.or(default.ef),
        filter: match &request.filter {
            Some(path) => Some(read_filter(path, index.len() as u64)?),
            None => default.filter.clone(),
        },
    };
    let Measured { pass, answers, .. } = measure(built, &queries, &how)?;
    if let Some(path) = &request.ids_out {
        write_ids(path, how.k, &answers)?;
    }
    let mut answer = json!({
        "n_queries": answers.len(),
        "plan": built.index.plan(&how, &how.params()).as_str(),
        "wall_s": pass.wall.as_secs_f64(),
        "user_cpu_s": pass.cpu.as_secs_f64(),
        "p50_ms": percentile_ms(&pass.calls, 50),
        "p99_ms": percentile_ms(&pass.calls, 99),
        "rss_bytes": compute::rss_bytes(),
        "build_s": built.time.wall.as_secs_f64(),
        "build_cpu_s": built.time.cpu.as_secs_f64(),
        "index_bytes": built.n_bytes,
    });
    if inline {
        let ids = answers
            .iter()
            .map(|found| found.iter().map(|neighbor| neighbor.ordinal));
        answer["ids"] = ids.map(Iterator::collect::<Vec<u32>>).collect();
    }
    Ok(answer)
}

fn floats(base64: &str) -> anyhow::Result<Vec<f32>> {
    let bytes = BASE64_STANDARD
        .decode(base64)
        .context("`vectors` is no base64")?;
    let (values, rest) = bytes.as_chunks();
    anyhow::ensure!(rest.is_empty(), "`vectors` has {} bytes", bytes.len());
    Ok(values
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect())
}
