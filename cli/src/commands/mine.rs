use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use corpus::{Run, RunFormat};
use serde_json::json;
use trainer::data::{
    Candidate, Content, DataSource, Dataset, Example, JudgedSource, NegativeSource, Scores,
};
use trainer::{MiningConfig, MiningCounts, Selection, mine};

use super::data::judged::JudgedArgs;
use super::data::{read, write_lines};
use crate::model::named;
use crate::output::{self, Output};

/// Arguments of `trawl mine`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("margin").args(["absolute_margin", "relative_margin"]).multiple(true))]
#[command(after_help = "Examples:
  trawl search data/docs --queries queries.jsonl --qrels qrels/train.tsv -k 200 --run-out dense.trec
  trawl mine --run dense.trec --corpus corpus.jsonl --queries queries.jsonl --qrels qrels/train.tsv --out train.jsonl
  trawl mine --run dense.trec --data data/medquad --relative-margin 0.05 --select top --n 8 --out train.jsonl
  trawl mine --run bm25.trec --data data/medquad --teacher reranked.trec --teacher-margin 3 --out train.jsonl

Filters work in this order: positives of the query and texts that repeat leave, then depth, skip, scores, margins,
teacher, then the draw. What each dropped is printed.")]
pub struct MineArgs {
    /// Run with the candidates: dense, BM25 or anybody's.
    #[arg(long, value_name = "FILE")]
    run: PathBuf,
    /// Format of the run: auto, trec, score3, marco, marco4.
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = named::<RunFormat>)]
    run_format: RunFormat,
    #[command(flatten)]
    judged: JudgedArgs,
    #[command(flatten)]
    filters: FilterArgs,
    /// File to write; `.gz` and `.zst` compress it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What is written.
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Examples with their texts.
    Jsonl,
    /// `query<TAB>passage,passage,…`.
    Tsv,
    /// SimLM's lines of ids, scored by the teacher, or else by the run with -1 where it has no score.
    Simlm,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
struct FilterArgs {
    /// Results of a query that are considered.
    #[arg(long, value_name = "N", default_value_t = 200)]
    depth: usize,
    /// First results that are passed over.
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: usize,
    /// Drop results with a higher score.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    max_score: Option<f64>,
    /// Drop results with a lower score.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    min_score: Option<f64>,
    /// Drop results that score over the lowest positive less this.
    #[arg(long, value_name = "SCORE")]
    absolute_margin: Option<f64>,
    /// Drop results that score over the lowest positive less this share of it (NV-Retriever: 0.05).
    #[arg(long, value_name = "SHARE")]
    relative_margin: Option<f64>,
    /// Scores of positives that the run lacks, for the margins: `query passage score` or TREC.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "margin")]
    positive_scores: Vec<PathBuf>,
    /// Keep queries of whose positives no score is known, without margins, in place of leaving them out.
    #[arg(long, requires = "margin")]
    keep_unanchored: bool,
    /// A teacher's scores, which the output carries: `query passage score` or TREC, such as `trawl rerank` writes.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    teacher: Vec<PathBuf>,
    /// Drop results that the teacher scores over the lowest positive less this.
    #[arg(
        long,
        value_name = "SCORE",
        requires = "teacher",
        allow_negative_numbers = true
    )]
    teacher_margin: Option<f64>,
    /// Negatives of a query at most.
    #[arg(long = "n", value_name = "N", default_value_t = 30)]
    n_negatives: usize,
    /// How they are taken from what is left.
    #[arg(long, value_enum, default_value_t = Select::Random)]
    select: Select,
    /// Random passages of the corpus added to each query.
    #[arg(long, value_name = "N", default_value_t = 0)]
    n_random: usize,
    /// Leave out queries with fewer negatives.
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_negatives: usize,
    /// Leave out queries none of whose positives is in the run (SimLM's `--filter-noisy-positives`).
    #[arg(long)]
    found_only: bool,
    /// Put each query's negatives in a random order: SimLM's sampling takes them in the order of their list.
    #[arg(long)]
    shuffle: bool,
    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Select {
    /// Uniformly.
    Random,
    /// The first.
    Top,
}

impl FilterArgs {
    fn config(&self) -> MiningConfig {
        MiningConfig {
            depth: self.depth,
            skip: self.skip,
            max_score: self.max_score,
            min_score: self.min_score,
            absolute_margin: self.absolute_margin,
            relative_margin: self.relative_margin,
            teacher_margin: self.teacher_margin,
            n_negatives: self.n_negatives,
            selection: match self.select {
                Select::Random => Selection::Random,
                Select::Top => Selection::Top,
            },
            n_random: self.n_random,
            min_negatives: self.min_negatives,
            keep_unanchored: self.keep_unanchored,
            found_only: self.found_only,
            shuffle: self.shuffle,
            seed: self.seed,
        }
    }
}

pub fn run(args: MineArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    let config = args.filters.config();
    let scores = |paths: &[PathBuf]| match paths {
        [] => Ok(None),
        paths => Scores::read(paths).map(Some),
    };
    let positive_scores = scores(&args.filters.positive_scores)?;
    let teacher = scores(&args.filters.teacher)?;
    let source = JudgedSource {
        negatives: Some(NegativeSource::Run {
            path: args.run.clone(),
            format: args.run_format,
            depth: None,
        }),
        all_passages: config.n_random > 0,
        ..args.judged.resolve()?
    };
    let dataset = read(&DataSource::Judged(Box::new(source)), output)?;
    let run = Run::read(&args.run, args.run_format)
        .with_context(|| format!("cannot read run `{}`", args.run.display()))?;
    let mined = mine(
        &dataset,
        &run,
        positive_scores.as_ref(),
        teacher.as_ref(),
        &config,
    );
    let (mined, counts) = mined.with_context(|| format!("cannot mine `{}`", args.run.display()))?;
    write_lines(&args.out, |writer| match args.format {
        Format::Jsonl => mined
            .examples()
            .try_for_each(|example| example.write(writer)),
        Format::Tsv => mined.examples().try_for_each(|example| {
            let ids: Vec<&str> = example
                .negatives
                .iter()
                .map(|one| one.id.as_str())
                .collect();
            writeln!(writer, "{}\t{}", example.query_id, ids.join(","))
        }),
        Format::Simlm => mined.examples().try_for_each(|example| {
            serde_json::to_writer(&mut *writer, &simlm_line(&example, &run)?)?;
            writer.write_all(b"\n")
        }),
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let summary = json!({
        "queries": counts.n_queries, "mined": counts.n_mined, "queries_left_out": counts.queries_left_out,
        "candidates": counts.n_candidates, "kept": counts.n_kept, "dropped": counts.dropped,
        "random": counts.n_random, "seconds": seconds, "out": args.out,
    });
    output.result(&summary, |_| shown(&mined, &counts, seconds, &args.out))
}

/// An example as SimLM's loaders read it.
fn simlm_line(example: &Example, run: &Run) -> io::Result<serde_json::Value> {
    let Content::Text(query) = &example.query else {
        return Err(io::Error::other("SimLM's lines have texts as queries"));
    };
    let found: HashMap<&str, f64> = run
        .get(&example.query_id)
        .unwrap_or_default()
        .iter()
        .map(|one| (one.id.as_str(), one.score))
        .collect();
    let list = |candidates: &[Candidate]| {
        let score = |one: &Candidate| match one.score {
            Some(score) => f64::from(score),
            None => found.get(one.id.as_str()).copied().unwrap_or(-1.0),
        };
        json!({
            "doc_id": candidates.iter().map(|one| &one.id).collect::<Vec<_>>(),
            "score": candidates.iter().map(score).collect::<Vec<_>>(),
        })
    };
    Ok(json!({
        "query_id": example.query_id, "query": query,
        "positives": list(&example.positives), "negatives": list(&example.negatives),
    }))
}

/// The counts as a table: candidates less what each filter dropped are those kept.
fn shown(mined: &Dataset, counts: &MiningCounts, seconds: f64, out: &Path) -> String {
    let row = |name: &str, n: u64| vec![name.to_owned(), n.to_string()];
    let mut rows = vec![row("candidates", counts.n_candidates)];
    rows.extend(
        counts
            .dropped
            .iter()
            .map(|(name, n)| row(&format!("− {name}"), *n)),
    );
    rows.push(row("kept", counts.n_kept));
    if counts.n_random > 0 {
        rows.push(row("+ random passages", counts.n_random));
    }
    let mut text = output::table(&["results", "number"], &["number"], rows);
    for (reason, n) in &counts.queries_left_out {
        text += &format!("{n} queries left out: {reason}\n");
    }
    text + &format!(
        "{} examples with {:.1} negatives each in {seconds:.1} s, written to {}",
        mined.len(),
        mined.report().n_negatives as f64 / mined.len() as f64,
        out.display()
    )
}
