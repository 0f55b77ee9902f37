use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use corpus::{CorpusConfig, CorpusReader, Passage, Run, RunFormat, Scored, Template};
use encoder::Arithmetic;
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::model::{self, KernelArgs};
use crate::output::Output;
use crate::progress::Progress;

/// Arguments of `trawl rerank`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  trawl rerank --model models/cross-encoder --run run.trec --queries queries.jsonl --corpus corpus.jsonl.gz \\
               --depth 200 --run-out reranked.trec")]
pub struct RerankArgs {
    /// Cross-encoder: directory, or name in the model folder.
    #[arg(long, value_name = "DIR|NAME")]
    model: PathBuf,
    /// TREC run to reorder.
    #[arg(long, value_name = "FILE")]
    run: PathBuf,
    /// Queries of the run.
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Corpus that the run's passages are in.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// Passages of each query that are scored; the rest are left out of the new run.
    #[arg(long, default_value_t = 200, value_name = "N")]
    depth: usize,
    /// What the cross-encoder reads of a passage.
    #[arg(long, default_value = "<title> <text>", value_name = "TEMPLATE")]
    template: String,
    /// TREC run to write; its scores are the model's, before any activation.
    #[arg(long, value_name = "FILE")]
    run_out: PathBuf,
    /// Threads (default: all that this process may use).
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    kernel: KernelArgs,
}

pub fn run(args: RerankArgs, output: &Output) -> anyhow::Result<()> {
    let template =
        Template::parse(&args.template).map_err(|error| Failure::usage(error.to_string()))?;
    let run = Run::read(&args.run, RunFormat::Auto)
        .with_context(|| format!("cannot read run `{}`", args.run.display()))?;
    let queries: HashMap<String, String> = corpus::read_queries(&args.queries)
        .with_context(|| format!("cannot read queries `{}`", args.queries.display()))?
        .into_iter()
        .map(|query| (query.id, query.text))
        .collect();
    let texts = passages_of(&run, &args, &template)?;
    let reranker = model::load_reranker(
        &args.model,
        &args.kernel.config(Arithmetic::F32, args.threads),
    )?;

    let start = Instant::now();
    let progress = Progress::new(output);
    let mut reranked = Run::new("trawl");
    let (mut n_pairs, mut n_truncated) = (0, 0);
    let n_queries = run.len() as u64;
    for (position, (query_id, hits)) in run.queries().enumerate() {
        let query = queries
            .get(query_id)
            .ok_or_else(|| missing("query", query_id, &args.queries))?;
        // The order of the run as evaluation sees it; its ties are broken there in the same way.
        let mut hits: Vec<&Scored> = hits.iter().collect();
        hits.sort_by(|a, b| {
            (b.score as f32)
                .total_cmp(&(a.score as f32))
                .then_with(|| b.id.cmp(&a.id))
        });
        let head = &hits[..args.depth.min(hits.len())];
        let pairs: Vec<(&str, &str)> = head
            .iter()
            .map(|hit| (query.as_str(), texts[&hit.id].as_str()))
            .collect();
        let scores = reranker.score(&reranker.tokenize(&pairs)?)?;
        n_pairs += pairs.len();
        n_truncated += scores.n_truncated;
        // A teacher's scores are raw; an activation would change no order.
        let scored = head.iter().zip(scores.logits.chunks_exact(scores.n_labels));
        let scored = scored.map(|(hit, row)| Scored {
            id: hit.id.clone(),
            score: f64::from(row[0]),
        });
        reranked.insert(query_id.to_owned(), scored.collect());
        progress.update("rerank", "queries", position as u64 + 1, n_queries);
    }
    progress.finish();
    let write = || format!("cannot write run `{}`", args.run_out.display());
    reranked.write(&args.run_out).with_context(write)?;
    let seconds = start.elapsed().as_secs_f64();
    let summary = json!({
        "queries": n_queries, "pairs": n_pairs, "truncated_pairs": n_truncated, "seconds": seconds,
        "run": args.run_out,
    });
    output.result(&summary, |_| {
        format!(
            "{n_queries} queries, {n_pairs} pairs ({n_truncated} cut at {} tokens) in {seconds:.1} s, \
             run written to {}",
            reranker.max_tokens(),
            args.run_out.display()
        )
    })
}

/// The rendered texts of the passages that the run names.
fn passages_of(
    run: &Run,
    args: &RerankArgs,
    template: &Template,
) -> anyhow::Result<HashMap<String, String>> {
    let mut wanted: HashMap<String, Option<String>> = run
        .queries()
        .flat_map(|(_, hits)| hits)
        .map(|hit| (hit.id.clone(), None))
        .collect();
    let config = CorpusConfig {
        paths: args.corpus.clone(),
        ..CorpusConfig::default()
    };
    for passage in CorpusReader::open(&config)? {
        let passage: Passage = passage?;
        if let Some(text) = wanted.get_mut(&passage.id) {
            *text = Some(template.render(&passage).text);
        }
    }
    wanted
        .into_iter()
        .map(|(id, text)| match text {
            Some(text) => Ok((id, text)),
            None => Err(missing("passage", &id, &args.corpus[0])),
        })
        .collect()
}

fn missing(kind: &str, id: &str, path: &std::path::Path) -> anyhow::Error {
    Failure::new(
        Exit::BadInput,
        format!("{kind} `{id}` of the run is not in `{}`", path.display()),
    )
    .into()
}
