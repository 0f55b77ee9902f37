mod suite;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use corpus::{
    CorpusConfig, CorpusError, CorpusReader, Dataset, Qrels, QrelsFormat, Query, Run, RunFormat,
    check_query_id,
};
use evaluation::{
    Answers, Averaging, ComparisonConfig, EvaluationConfig, Measure, Profile, Report,
    ScorePrecision, Significance, Ties, compare, evaluate, evaluate_answers,
};
use serde_json::{Value, json};

use crate::commands::search::{HowArgs, Session};
use crate::failure::{Exit, Failure};
use crate::model::{ModelArgs, named};
use crate::output::{self, Output};

/// Hits that a search is asked for where a measure counts the whole ranking.
const FULL_DEPTH: usize = 1000;

/// Arguments of `trawl eval`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(group = clap::ArgGroup::new("ranking").args(["collection", "run"]).required(true))]
#[command(group = clap::ArgGroup::new("run_files").args(["run", "against"]).multiple(true))]
#[command(after_help = "Examples:
  trawl eval --qrels qrels/test.tsv --run run.trec -m ndcg@10,mrr@10,recall@50,1000
  trawl eval --qrels qrels.trec --run new.trec --against old.trec --profile trec-dl
  trawl eval --answers questions.jsonl --corpus corpus.jsonl.gz --run run.trec
  trawl eval data/docs --dataset beir/scifact --split test --run-out scifact.trec
  trawl eval suite beir/* --collections data --out results")]
pub struct EvalArgs {
    #[command(subcommand)]
    command: Option<EvalCommand>,
    /// Collection to search with the queries of `--dataset`.
    #[arg(requires = "dataset", conflicts_with = "explain")]
    collection: Option<PathBuf>,
    /// Data set in BEIR's layout: its queries are searched, its judgments decide.
    #[arg(long, value_name = "DIR", requires = "collection")]
    dataset: Option<PathBuf>,
    /// Split of the data set (default: test, else dev).
    #[arg(long, value_name = "NAME", requires = "dataset")]
    split: Option<String>,
    /// TREC run to write what was searched into.
    #[arg(long, value_name = "FILE", requires = "collection")]
    run_out: Option<PathBuf>,
    /// Run to evaluate: TREC, three columns, or MS MARCO.
    #[arg(long, value_name = "FILE", conflicts_with_all = searching())]
    run: Option<PathBuf>,
    /// Judgments: TREC, BEIR, MS MARCO, or pairs.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["answers", "collection"], conflicts_with_all = ["answers", "dataset"])]
    qrels: Option<PathBuf>,
    /// Questions with a field `answers`: a passage is right if an answer is in its text.
    #[arg(
        long,
        value_name = "FILE",
        requires = "corpus",
        conflicts_with_all = ["dataset", "relevance_level", "judged_only"]
    )]
    answers: Option<PathBuf>,
    /// Corpus that the run's passages are in, for `--answers`.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "answers")]
    corpus: Vec<PathBuf>,
    /// Second run: differences, their interval and their significance, the run less this one.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Layout of the runs: auto, trec, score3, marco, marco4.
    #[arg(long, value_name = "NAME", default_value = "auto", requires = "run_files", value_parser = named::<RunFormat>)]
    run_format: RunFormat,
    /// Layout of the judgments: auto, trec, beir, pairs.
    #[arg(long, value_name = "NAME", default_value = "auto", conflicts_with_all = ["answers", "dataset"], value_parser = named::<QrelsFormat>)]
    qrels_format: QrelsFormat,
    /// Print every query, too.
    #[arg(long)]
    per_query: bool,
    /// Fail when the run lacks a judged query.
    #[arg(long)]
    strict: bool,
    /// Seed of the significance test and of the interval.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "against")]
    seed: u64,
    #[command(flatten)]
    measures: MeasureArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// The arguments that say how a collection is searched: where there is a run, they would have no effect.
fn searching() -> Vec<clap::Id> {
    let command = <HowArgs as clap::Args>::augment_args(clap::Command::new("search"));
    let command = <ModelArgs as clap::Args>::augment_args(command);
    let ids = command.get_arguments().map(clap::Arg::get_id);
    ids.cloned().collect()
}

#[derive(Debug, clap::Subcommand)]
enum EvalCommand {
    /// Evaluate many data sets and average over them; what has not changed is not done again.
    Suite(suite::SuiteArgs),
}

/// What is measured, and by which conventions.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Measures")]
pub struct MeasureArgs {
    /// Measures: ndcg@10, mrr@10, recall@50,1000, map, P@5, success@1, hole@10, judged@10, … (may repeat).
    #[arg(long, short, value_name = "LIST")]
    measures: Vec<String>,
    /// Measures and conventions of another evaluator: trec, trec-dl, msmarco, beir, simlm, openmatch, st.
    #[arg(long, value_name = "NAME")]
    profile: Option<Profile>,
    /// Grade from which a passage is relevant (default: 1).
    #[arg(long, short = 'l', value_name = "GRADE", allow_negative_numbers = true)]
    relevance_level: Option<i32>,
    /// Queries of the mean: complete (all judged), intersection (those in the run), mixed (as BEIR does).
    #[arg(long, value_name = "NAME", value_parser = named::<Averaging>)]
    average: Option<Averaging>,
    /// Precision with which scores are compared: f32, f64 (default: f32).
    #[arg(long, value_name = "NAME", value_parser = named::<ScorePrecision>)]
    score_precision: Option<ScorePrecision>,
    /// Order of equal scores: trec (id descending), file, docid-asc (default: trec).
    #[arg(long, value_name = "NAME", value_parser = ties)]
    ties: Option<Ties>,
    /// Leave out passages that have the id of their query.
    #[arg(long)]
    ignore_identical_ids: bool,
    /// Leave out passages that are not judged.
    #[arg(long)]
    judged_only: bool,
}

impl MeasureArgs {
    /// The profile's choices, or the usual ones, with what was asked for in their place.
    pub fn resolve(&self, qrels: &Qrels) -> anyhow::Result<EvaluationConfig> {
        let base = self
            .profile
            .map_or_else(EvaluationConfig::default, |profile| profile.config(qrels));
        Ok(EvaluationConfig {
            measures: if self.measures.is_empty() {
                base.measures
            } else {
                self.measures()?
            },
            averaging: self.average.unwrap_or(base.averaging),
            relevance_level: self.relevance_level.unwrap_or(base.relevance_level),
            score_precision: self.score_precision.unwrap_or(base.score_precision),
            ties: self.ties.unwrap_or(base.ties),
            ignore_identical_ids: self.ignore_identical_ids || base.ignore_identical_ids,
            judged_only: self.judged_only || base.judged_only,
        })
    }

    /// Commas and spaces separate measures and the cutoffs of one measure alike: `recall@50,1000, ndcg@10`.
    fn measures(&self) -> anyhow::Result<Vec<Measure>> {
        let mut lists: Vec<String> = Vec::new();
        let pieces = self.measures.iter().flat_map(|list| list.split([',', ' ']));
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            match lists.last_mut() {
                Some(last) if piece.chars().all(|c| c.is_ascii_digit()) => {
                    *last += &format!(",{piece}")
                }
                _ => lists.push(piece.to_owned()),
            }
        }
        if lists.is_empty() {
            return Err(Failure::usage("--measures names no measure").into());
        }
        let mut measures = Vec::new();
        for list in lists {
            measures.extend(
                Measure::parse_list(&list).map_err(|error| Failure::usage(error.to_string()))?,
            );
        }
        Ok(measures)
    }
}

fn ties(name: &str) -> Result<Ties, String> {
    match name {
        "trec" => Ok(Ties::Trec),
        "file" => Ok(Ties::File),
        "docid-asc" => Ok(Ties::DocidAsc),
        _ => Err("expected trec, file or docid-asc".to_owned()),
    }
}

pub fn run(args: EvalArgs, output: &Output) -> anyhow::Result<()> {
    if let Some(EvalCommand::Suite(args)) = args.command {
        return suite::run(args, output);
    }
    let (truth, run) = match (&args.collection, &args.dataset, &args.run) {
        (Some(collection), Some(folder), _) => {
            if let Some(path) = &args.run_out {
                output::check_folder(path)?;
            }
            let dataset = Dataset::open(folder).map_err(input_error)?;
            let split = split_of(&dataset, args.split.as_deref())?;
            let qrels = dataset.qrels(&split).map_err(input_error)?;
            let truth = Truth::Qrels(args.measures.resolve(&qrels)?, qrels);
            let queries = dataset.queries_of(&split).map_err(input_error)?;
            if args.run_out.is_some() {
                check_ids(&queries, &dataset.queries)?;
            }
            let run = search(
                collection,
                &queries,
                &args.how,
                &args.model,
                truth.config(),
                args.run_out.as_deref(),
                output,
            )?;
            if let Some(path) = &args.run_out {
                run.write(path).map_err(input_error)?;
            }
            (truth, run)
        }
        (_, _, Some(run)) => (Truth::read(&args)?, read_run(run, args.run_format)?),
        _ => {
            return Err(
                Failure::usage("give --run with --qrels, or a collection with --dataset").into(),
            );
        }
    };
    let other = args
        .against
        .as_deref()
        .map(|path| read_run(path, args.run_format))
        .transpose()?;
    let reports = truth.evaluate(&run, other.as_ref(), &args.corpus)?;
    let comparison = compare_all(&reports, args.seed)?;
    show(&reports, &comparison, args.per_query, output)?;
    let report = &reports[0];
    if args.strict && report.n_missing > 0 {
        let text = format!(
            "the run lacks {} of {} queries",
            report.n_missing, report.n_queries
        );
        return Err(Failure::new(Exit::BadInput, text).into());
    }
    Ok(())
}

/// What decides whether a passage is right, and what is measured.
enum Truth {
    Qrels(EvaluationConfig, Qrels),
    Answers(EvaluationConfig, Answers),
}

impl Truth {
    fn read(args: &EvalArgs) -> anyhow::Result<Self> {
        if let Some(path) = &args.qrels {
            let qrels = Qrels::read(path, args.qrels_format).map_err(input_error)?;
            return Ok(Self::Qrels(args.measures.resolve(&qrels)?, qrels));
        }
        let path = args
            .answers
            .as_ref()
            .context("neither --qrels nor --answers")?;
        let questions = corpus::read_queries(path).map_err(input_error)?;
        let answers = Answers::from_queries(&questions).map_err(|error| {
            Failure::new(Exit::BadInput, format!("`{}`: {error}", path.display()))
        })?;
        if answers.is_empty() {
            let text = format!("no query of `{}` has a field `answers`", path.display());
            return Err(Failure::new(Exit::BadInput, text).into());
        }
        let mut config = args.measures.resolve(&Qrels::default())?;
        if args.measures.measures.is_empty() {
            config.measures = Measure::parse_list("answer@1,5,20,100")?;
        }
        Ok(Self::Answers(config, answers))
    }

    fn config(&self) -> &EvaluationConfig {
        match self {
            Self::Qrels(config, _) | Self::Answers(config, _) => config,
        }
    }

    /// The report of the run, and that of the other one if there is one.
    fn evaluate(
        &self,
        run: &Run,
        other: Option<&Run>,
        corpus: &[PathBuf],
    ) -> anyhow::Result<Vec<Report>> {
        let runs: Vec<&Run> = std::iter::once(run).chain(other).collect();
        let failed =
            |error: evaluation::EvaluationError| Failure::new(Exit::BadInput, error.to_string());
        let mut reports = Vec::new();
        match self {
            Self::Qrels(config, qrels) => {
                for run in runs {
                    reports.push(evaluate(qrels, run, config).map_err(failed)?);
                }
            }
            Self::Answers(config, answers) => {
                let texts = texts_of(&runs, corpus)?;
                for run in runs {
                    let mut text_of = |id: &str| texts.get(id).cloned().flatten();
                    reports.push(
                        evaluate_answers(answers, run, config, &mut text_of).map_err(failed)?,
                    );
                }
            }
        }
        Ok(reports)
    }
}

/// The texts of the passages that the runs name; `None` for those that the corpus does not have.
fn texts_of(runs: &[&Run], paths: &[PathBuf]) -> anyhow::Result<HashMap<String, Option<String>>> {
    let hits = runs
        .iter()
        .flat_map(|run| run.queries())
        .flat_map(|(_, hits)| hits);
    let mut texts: HashMap<String, Option<String>> =
        hits.map(|hit| (hit.id.clone(), None)).collect();
    let config = CorpusConfig {
        paths: paths.to_vec(),
        ..CorpusConfig::default()
    };
    for passage in CorpusReader::open(&config)? {
        let passage = passage.map_err(input_error)?;
        if let Some(text) = texts.get_mut(&passage.id) {
            *text = Some(passage.text);
        }
    }
    Ok(texts)
}

/// Refuses queries whose results no run can hold.
fn check_ids(queries: &[Query], path: &Path) -> anyhow::Result<()> {
    queries
        .iter()
        .try_for_each(|query| check_query_id(&query.id, path, query.line))
        .map_err(input_error)
}

/// Searches a collection for queries, as deep as the measures look.
fn search(
    collection: &Path,
    queries: &[Query],
    how: &HowArgs,
    model: &ModelArgs,
    config: &EvaluationConfig,
    run_out: Option<&Path>,
    output: &Output,
) -> anyhow::Result<Run> {
    let mut how = how.clone();
    how.top_k = how.top_k.max(depth(config));
    Session::open(collection, &how, model)?
        .by_document()
        .run(queries, run_out, output)
}

/// The deepest rank that a measure looks at; one more where the query itself may be among the hits.
fn depth(config: &EvaluationConfig) -> usize {
    let deepest = config
        .measures
        .iter()
        .map(|measure| measure.cutoff.unwrap_or(FULL_DEPTH))
        .max()
        .unwrap_or(0);
    if config.judged_only {
        deepest.max(FULL_DEPTH)
    } else {
        deepest.saturating_add(usize::from(config.ignore_identical_ids))
    }
}

/// The split that was asked for, else `test`, else `dev`.
fn split_of(dataset: &Dataset, asked: Option<&str>) -> anyhow::Result<String> {
    if let Some(split) = asked {
        return Ok(split.to_owned());
    }
    let splits = dataset.splits().map_err(input_error)?;
    let usual = ["test", "dev"]
        .into_iter()
        .find(|usual| splits.iter().any(|split| split == usual));
    usual.map(str::to_owned).ok_or_else(|| {
        let text = format!(
            "data set `{}` has neither split `test` nor `dev`",
            dataset.name
        );
        Failure::usage(text)
            .hint(format!("--split names one of: {}", splits.join(", ")))
            .into()
    })
}

fn read_run(path: &Path, format: RunFormat) -> anyhow::Result<Run> {
    Run::read(path, format).map_err(input_error)
}

/// Here, bad input cannot be skipped: it decides figures.
fn input_error(error: CorpusError) -> anyhow::Error {
    if !error.is_bad_input() {
        return error.into();
    }
    let causes: Vec<String> = anyhow::Error::from(error)
        .chain()
        .map(ToString::to_string)
        .collect();
    Failure::new(Exit::BadInput, causes.join(": ")).into()
}

fn compare_all(reports: &[Report], seed: u64) -> anyhow::Result<Vec<Significance>> {
    let [report, other] = reports else {
        return Ok(Vec::new());
    };
    let config = ComparisonConfig {
        seed,
        ..ComparisonConfig::default()
    };
    let measures = report
        .config
        .measures
        .iter()
        .filter(|measure| !measure.is_count());
    measures
        .map(|&measure| {
            compare(other, report, measure, &config)
                .map_err(|error| Failure::new(Exit::BadInput, error.to_string()).into())
        })
        .collect()
}

fn show(
    reports: &[Report],
    comparison: &[Significance],
    per_query: bool,
    output: &Output,
) -> anyhow::Result<()> {
    let report = &reports[0];
    remark_on(report, output);
    let mut shown = report.to_json(per_query);
    if let [_, other] = reports {
        shown["against"] = other.to_json(per_query);
        shown["comparison"] = comparison
            .iter()
            .map(|found| significance_json(found, per_query))
            .collect();
    }
    output.result(&shown, |_| match reports {
        [_, _] => comparison_text(comparison, per_query),
        _ => report.to_text(per_query),
    })
}

/// Says what the figures depend on and do not show.
fn remark_on(report: &Report, output: &Output) {
    let config = &report.config;
    let name = |value: Value| value.as_str().unwrap_or_default().to_owned();
    output.remark(format_args!(
        "{} queries, {} missing in the run, {} of the run without judgments; average {}, relevant from grade {}, ties {}, scores {}",
        report.n_queries,
        report.n_missing,
        report.n_ignored,
        name(json!(config.averaging)),
        config.relevance_level,
        name(json!(config.ties)),
        name(json!(config.score_precision)),
    ));
}

fn significance_json(found: &Significance, per_query: bool) -> Value {
    let mut shown = json!(found);
    let differences = shown
        .as_object_mut()
        .and_then(|fields| fields.remove("differences"));
    if per_query && differences.is_some() {
        let differences = found
            .differences
            .iter()
            .map(|(query, difference)| (query.clone(), json!(difference)));
        shown["differences"] = Value::Object(differences.collect());
    }
    shown
}

fn comparison_text(comparison: &[Significance], per_query: bool) -> String {
    let rows = comparison.iter().map(|found| {
        vec![
            found.measure.to_string(),
            format!("{:.4}", found.second),
            format!("{:.4}", found.first),
            format!("{:+.4}", found.difference),
            format!("{:+.4} to {:+.4}", found.interval.0, found.interval.1),
            format!("{:.4}", found.p_value),
            found.n_better.to_string(),
            found.n_worse.to_string(),
        ]
    });
    let header = [
        "measure",
        "run",
        "against",
        "difference",
        "95 % interval",
        "p",
        "better",
        "worse",
    ];
    let mut text = output::table(&header, &header[1..], rows.collect());
    if per_query {
        for found in comparison {
            let name = found.measure.to_string();
            for (query, difference) in &found.differences {
                text += &format!("{name:<22}\t{query}\t{difference:+.4}\n");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use evaluation::MeasureKind;

    use super::*;

    #[test]
    fn the_deepest_cutoff_has_no_rank_after_it() {
        let deepest = |cutoff| {
            depth(&EvaluationConfig {
                measures: vec![Measure::at(MeasureKind::Ndcg, cutoff)],
                ignore_identical_ids: true,
                ..EvaluationConfig::default()
            })
        };
        assert_eq!(deepest(10), 11);
        assert_eq!(deepest(usize::MAX), usize::MAX);
    }
}
