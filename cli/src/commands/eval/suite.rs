use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use collection::{Collection, canonical_json, sha256_hex, write_atomic};
use corpus::{Dataset, RunFormat};
use evaluation::{EvaluationConfig, evaluate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{MeasureArgs, check_ids, input_error, read_run, search, searching, split_of};
use crate::commands::search::HowArgs;
use crate::failure::{Exit, Failure};
use crate::model::{self, ModelArgs, named};
use crate::output::{self, Output};

/// Arguments of `trawl eval suite`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl eval suite beir/* --runs runs --out results --profile beir
  trawl eval suite beir/* --collections data --out results -m ndcg@10,recall@100

A data set NAME is evaluated from the run NAME.SPLIT.trec, or by searching the collection NAME. Its result is kept in
OUT/NAME.SPLIT.json and used again while judgments, run or collection with the documents written to it, measures, search
options and the files of the reranker are the same.")]
pub struct SuiteArgs {
    /// Data sets in BEIR's layout.
    #[arg(required = true)]
    datasets: Vec<PathBuf>,
    /// Folder of the runs.
    #[arg(long, value_name = "DIR", required_unless_present = "collections", conflicts_with_all = searching())]
    runs: Option<PathBuf>,
    /// Folder of the collections to search.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["runs", "explain"])]
    collections: Option<PathBuf>,
    /// Folder of the results, and of the runs that were searched.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Split of every data set (default: test, else dev).
    #[arg(long, value_name = "NAME")]
    split: Option<String>,
    /// Layout of the runs: auto, trec, score3, marco, marco4.
    #[arg(long, value_name = "NAME", default_value = "auto", conflicts_with = "collections", value_parser = named::<RunFormat>)]
    run_format: RunFormat,
    #[command(flatten)]
    measures: MeasureArgs,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// The result of one data set, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    dataset: String,
    split: String,
    /// sha256 of everything that decides the result.
    inputs: String,
    /// Names of the measures, in order.
    measures: Vec<String>,
    report: Value,
}

pub fn run(args: SuiteArgs, output: &Output) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot create `{}`", args.out.display()))?;
    let failed = |folder: &Path| format!("cannot evaluate data set `{}`", folder.display());
    // Before anything is evaluated: the second would take the place of what is kept of the first.
    let mut names = BTreeSet::new();
    for folder in &args.datasets {
        let (name, split) = name_and_split(folder, &args).with_context(|| failed(folder))?;
        if !names.insert((name.clone(), split)) {
            let text = format!("two data sets are named `{name}`");
            return Err(Failure::usage(text).into());
        }
    }
    let mut outcomes: Vec<Outcome> = Vec::new();
    for folder in &args.datasets {
        let outcome = evaluate_dataset(folder, &args, output).with_context(|| failed(folder))?;
        if outcomes
            .first()
            .is_some_and(|first| first.measures != outcome.measures)
        {
            let text = format!(
                "`{}` has other measures than `{}`",
                outcome.dataset, outcomes[0].dataset
            );
            return Err(Failure::usage(text)
                .hint("-m names the same measures for all")
                .into());
        }
        outcomes.push(outcome);
    }
    let average = macro_average(&outcomes);
    for outcome in &mut outcomes {
        // The kept results have every query.
        outcome
            .report
            .as_object_mut()
            .map(|report| report.remove("per_query"));
    }
    let shown =
        json!({ "datasets": outcomes, "n_datasets": outcomes.len(), "macro_average": average });
    output.result(&shown, |_| table(&outcomes, &average))
}

fn name_and_split(folder: &Path, args: &SuiteArgs) -> anyhow::Result<(String, String)> {
    let dataset = Dataset::open(folder).map_err(input_error)?;
    let split = split_of(&dataset, args.split.as_deref())?;
    Ok((dataset.name, split))
}

/// Returns the kept result if its inputs are the same, else evaluates and keeps it.
fn evaluate_dataset(folder: &Path, args: &SuiteArgs, output: &Output) -> anyhow::Result<Outcome> {
    let dataset = Dataset::open(folder).map_err(input_error)?;
    let split = split_of(&dataset, args.split.as_deref())?;
    let qrels = dataset.qrels(&split).map_err(input_error)?;
    let config = args.measures.resolve(&qrels)?;
    let name = format!("{}.{split}", dataset.name);
    let (kept, run_path) = (
        args.out.join(format!("{name}.json")),
        args.out.join(format!("{name}.trec")),
    );
    let source = match (&args.runs, &args.collections) {
        (Some(runs), _) => Source::Run(runs.join(format!("{name}.trec"))),
        (_, Some(collections)) => Source::Collection(collections.join(&dataset.name)),
        _ => return Err(Failure::usage("give --runs or --collections").into()),
    };
    let inputs = inputs_of(&source, &dataset, &split, &config, args)?;
    if let Some(outcome) = read_kept(&kept).filter(|outcome| outcome.inputs == inputs) {
        output.remark(format_args!(
            "{name}: unchanged, result kept in {}",
            kept.display()
        ));
        return Ok(outcome);
    }
    let run = match &source {
        Source::Run(path) => read_run(path, args.run_format)?,
        Source::Collection(path) => {
            let queries = dataset.queries_of(&split).map_err(input_error)?;
            check_ids(&queries, &dataset.queries)?;
            let (how, model) = (&args.how, &args.model);
            let run = search(path, &queries, how, model, &config, Some(&run_path), output)?;
            run.write(&run_path).map_err(input_error)?;
            run
        }
    };
    let report = evaluate(&qrels, &run, &config)
        .map_err(|error| Failure::new(Exit::BadInput, error.to_string()))?;
    let measures = config.measures.iter().map(ToString::to_string).collect();
    let outcome = Outcome {
        dataset: dataset.name,
        split,
        inputs,
        measures,
        report: report.to_json(true),
    };
    write_atomic(&kept, &serde_json::to_vec_pretty(&outcome)?)?;
    output.remark(format_args!(
        "{name}: evaluated, result kept in {}",
        kept.display()
    ));
    Ok(outcome)
}

/// Where the results of queries come from.
enum Source {
    Run(PathBuf),
    Collection(PathBuf),
}

/// sha256 over everything that decides a result: contents of files, not their names or times.
fn inputs_of(
    source: &Source,
    dataset: &Dataset,
    split: &str,
    config: &EvaluationConfig,
    args: &SuiteArgs,
) -> anyhow::Result<String> {
    let source = match source {
        Source::Run(path) => json!({ "run": digest(path)?, "format": args.run_format }),
        Source::Collection(path) => {
            let collection = Collection::open(path)?;
            let generation = collection.resolve(&args.how.generation)?;
            let written = match args.how.drop_live {
                true => None,
                false => Some((
                    collection.replayed_after(&generation)?,
                    collection.log_positions()?.end,
                )),
            };
            let reranker = args.how.rerank.as_deref().map(digests).transpose()?;
            json!({
                // Rows, graph and words differ between generations of one content.
                "generation": generation.id,
                "written": written,
                "reranker": reranker,
                "content": generation.manifest.content_digest,
                "fingerprint": generation.manifest.fingerprint_digest,
                "queries": digest(&dataset.queries)?,
                // Another wording of the same options only searches once more.
                "how": format!("{:?} {:?}", args.how, args.model),
            })
        }
    };
    let inputs = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "source": source,
        "qrels": digest(&dataset.qrels_path(split).map_err(input_error)?)?,
        "config": config,
    });
    Ok(sha256_hex(canonical_json(&inputs).as_bytes()))
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    Ok(sha256_hex(&bytes))
}

/// sha256 of each file of a model, by its path in the model's folder.
fn digests(model: &Path) -> anyhow::Result<Map<String, Value>> {
    let root = model::find(model)?;
    let mut digests = Map::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let failed = || format!("cannot read `{}`", folder.display());
        for entry in std::fs::read_dir(&folder).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap_or(&path);
            digests.insert(name.display().to_string(), digest(&path)?.into());
        }
    }
    Ok(digests)
}

/// A result that cannot be read is none.
fn read_kept(path: &Path) -> Option<Outcome> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The mean of each measure over data sets, all with the same weight.
fn macro_average(outcomes: &[Outcome]) -> Map<String, Value> {
    let measures = outcomes
        .first()
        .map(|outcome| outcome.measures.as_slice())
        .unwrap_or_default();
    let mean = |measure: &String| {
        let sum: f64 = outcomes
            .iter()
            .map(|outcome| value_of(outcome, measure))
            .sum();
        (measure.clone(), json!(sum / outcomes.len() as f64))
    };
    measures.iter().map(mean).collect()
}

fn value_of(outcome: &Outcome, measure: &str) -> f64 {
    outcome.report["metrics"][measure]
        .as_f64()
        .unwrap_or(f64::NAN)
}

/// Measures in one table: with more of them columns get too narrow to be read. BEIR has as many cutoffs of each measure.
const MEASURES_ACROSS: usize = 6;

fn table(outcomes: &[Outcome], average: &Map<String, Value>) -> String {
    let measures = outcomes
        .first()
        .map(|outcome| outcome.measures.as_slice())
        .unwrap_or_default();
    let mut text = String::new();
    for (part, measures) in measures.chunks(MEASURES_ACROSS).enumerate() {
        let counts: &[(&str, &str)] = match part {
            0 => &[("queries", "num_q"), ("missing", "num_q_missing")],
            _ => &[],
        };
        let mut rows: Vec<Vec<String>> = outcomes
            .iter()
            .map(|outcome| {
                let mut row = vec![outcome.dataset.clone(), outcome.split.clone()];
                row.extend(
                    counts
                        .iter()
                        .map(|(_, name)| outcome.report[*name].to_string()),
                );
                row.extend(
                    measures
                        .iter()
                        .map(|measure| format!("{:.4}", value_of(outcome, measure))),
                );
                row
            })
            .collect();
        let mut last = vec![format!("mean of {}", outcomes.len()), String::new()];
        last.extend(counts.iter().map(|_| String::new()));
        last.extend(
            measures
                .iter()
                .map(|measure| format!("{:.4}", average[measure].as_f64().unwrap_or(f64::NAN))),
        );
        rows.push(last);
        let mut header = vec!["data set", "split"];
        header.extend(counts.iter().map(|(shown, _)| *shown));
        header.extend(measures.iter().map(String::as_str));
        text += &output::table(&header, &header[2..], rows);
    }
    text
}
