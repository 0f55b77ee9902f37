use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use corpus::{
    CorpusConfig, CorpusReader, Passage, Qrels, QrelsFormat, Run, RunFormat, Scored, Template,
    check_run_id, ranked,
};
use encoder::{Arithmetic, RankPrior};
use hub::DEFAULT_RERANKER;
use serde_json::json;

use crate::failure::{Exit, Failure};
use crate::model::{self, KernelArgs};
use crate::output::{self, Output};
use crate::progress::Progress;

/// Arguments of `trawl rerank`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl rerank --run run.trec --queries queries.jsonl --corpus corpus.jsonl.gz --run-out reranked.trec
  trawl rerank --model models/cross-encoder --run run.trec --queries queries.jsonl --corpus corpus.jsonl.gz \\
               --depth 200 --keep-rest --run-out reranked.trec
  trawl rerank --model models/cross-encoder --run train.trec --queries queries.jsonl --corpus corpus.jsonl.gz \\
               --qrels qrels/train.tsv --run-out teacher.trec")]
pub struct RerankArgs {
    /// Cross-encoder: directory, or name in the model folder. The default one is in this binary.
    #[arg(long, value_name = "DIR|NAME", default_value = DEFAULT_RERANKER)]
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
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = at_least_1)]
    depth: usize,
    /// Put the rest below those that are scored, in their order, with scores that fall by 1.
    #[arg(long)]
    keep_rest: bool,
    /// Judgments: relevant passages of the run's queries are scored wherever they are, for a teacher's scores; implies
    /// `--raw`.
    #[arg(long, value_name = "FILE")]
    qrels: Option<PathBuf>,
    /// Leave out what the order of the run adds to the scores, for models that have a `rank_prior` in their config.json.
    #[arg(long)]
    raw: bool,
    /// What the cross-encoder reads of a passage.
    #[arg(long, default_value = "<title> <text>", value_name = "TEMPLATE")]
    template: String,
    /// TREC run to write; its scores are the model's, before any activation, and what the order of the run adds to them.
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
    output::check_folder(&args.run_out)?;
    let run = Run::read(&args.run, RunFormat::Auto)
        .with_context(|| format!("cannot read run `{}`", args.run.display()))?;
    let queries: HashMap<String, String> = corpus::read_queries(&args.queries)
        .with_context(|| format!("cannot read queries `{}`", args.queries.display()))?
        .into_iter()
        .map(|query| (query.id, query.text))
        .collect();
    let relevant = match &args.qrels {
        Some(path) => Qrels::read(path, QrelsFormat::Auto)
            .with_context(|| format!("cannot read judgments `{}`", path.display()))?,
        None => Qrels::default(),
    };
    let mut lists = Vec::with_capacity(run.len());
    for (query_id, hits) in run.queries() {
        let query = queries
            .get(query_id)
            .ok_or_else(|| missing("query", query_id, &args.queries))?;
        lists.push(Listed::new(query_id, query, hits, args.depth, &relevant));
    }
    if let Some(path) = &args.qrels {
        let mut ids = lists.iter().flat_map(|list| &list.head);
        ids.try_for_each(|id| check_run_id(id))
            .with_context(|| format!("cannot score what `{}` has", path.display()))?;
    }
    let texts = passages_of(&lists, &args, &template)?;
    let reranker = model::load_reranker(
        &args.model,
        &args.kernel.config(Arithmetic::F32, args.threads)?,
    )?;

    let prior = match args.raw || args.qrels.is_some() {
        true => RankPrior::default(),
        false => reranker.rank_prior(),
    };

    let start = Instant::now();
    let progress = Progress::new(output);
    let mut reranked = Run::new("trawl");
    let (mut n_pairs, mut n_truncated) = (0, 0);
    let n_queries = run.len() as u64;
    progress.update("rerank", "queries", 0, n_queries);
    for (position, list) in lists.iter().enumerate() {
        let pairs: Vec<(&str, &str)> = list
            .head
            .iter()
            .map(|id| (list.query, texts[*id].as_str()))
            .collect();
        let scores = reranker.score(&reranker.tokenize(&pairs)?)?;
        n_pairs += pairs.len();
        n_truncated += scores.n_truncated;
        // A teacher's scores are logits; an activation would change no order.
        let values = scores.logits.chunks_exact(scores.n_labels);
        let values = values.zip(1..);
        let values: Vec<f64> = values
            .map(|(row, rank)| f64::from(row[0] + prior.at(rank)))
            .collect();
        let last = values.iter().copied().fold(f64::INFINITY, f64::min);
        let mut scored: Vec<(&str, f64)> = list.head.iter().copied().zip(values).collect();
        if args.keep_rest {
            let rest = list.rest.iter().zip(1..);
            scored.extend(rest.map(|(id, place)| (*id, last - f64::from(place))));
        }
        let scored = scored.into_iter().map(|(id, score)| Scored {
            id: id.to_owned(),
            score,
        });
        reranked.insert(list.query_id.to_owned(), scored.collect());
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

fn at_least_1(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it is at least 1".to_owned()),
        parsed => parsed.map_err(|error: std::num::ParseIntError| error.to_string()),
    }
}

/// A query and its passages by id: those that are scored, and those behind them.
struct Listed<'a> {
    query_id: &'a str,
    query: &'a str,
    head: Vec<&'a str>,
    rest: Vec<&'a str>,
}

impl<'a> Listed<'a> {
    /// The first `depth` of the run and then what else is relevant, in the order that evaluation sees.
    fn new(
        query_id: &'a str,
        query: &'a str,
        hits: &'a [Scored],
        depth: usize,
        relevant: &'a Qrels,
    ) -> Self {
        let mut head: Vec<&str> = ranked(hits)
            .into_iter()
            .map(|hit| hit.id.as_str())
            .collect();
        let mut rest = head.split_off(depth.min(head.len()));
        let mut taken: HashSet<&str> = head.iter().copied().collect();
        let grades = relevant.get(query_id).into_iter().flatten();
        let relevant = grades.filter(|(_, grade)| **grade > 0);
        head.extend(
            relevant
                .map(|(id, _)| id.as_str())
                .filter(|id| taken.insert(id)),
        );
        rest.retain(|id| !taken.contains(id));
        Self {
            query_id,
            query,
            head,
            rest,
        }
    }
}

/// The rendered texts of the passages that are scored.
fn passages_of(
    lists: &[Listed<'_>],
    args: &RerankArgs,
    template: &Template,
) -> anyhow::Result<HashMap<String, String>> {
    let ids = lists.iter().flat_map(|list| &list.head);
    let mut wanted: HashMap<String, Option<String>> =
        ids.map(|&id| (id.to_owned(), None)).collect();
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
        format!(
            "{kind} `{id}` of the run or the judgments is not in `{}`",
            path.display()
        ),
    )
    .into()
}
