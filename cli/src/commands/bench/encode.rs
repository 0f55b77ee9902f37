use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use compute::Simd;
use corpus::CorpusError;
use encoder::{
    Arithmetic, BiEncoder, CrossEncoder, EncoderConfig, KernelPath, LoadError, ModelOptions, Role,
    Text, Tokens, training,
};
use serde::Serialize;

use super::clock::{Pass, calls, cpu, pass, percentile_ms, wall};
use super::texts::{Line, Lines};
use super::train;
use crate::commands::quickstart;
use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::model::{self, ModelArgs};
use crate::npy::NpyFile;
use crate::output::{self, Output};
use crate::progress::Progress;

const QUERIES: &str = include_str!("../../../../tests/fixtures/sample/queries.jsonl");

/// Tokens of a query that is measured, special tokens and prompt included.
const QUERY_TOKENS: std::ops::RangeInclusive<usize> = 6..=20;
/// Tokens of a pair at most, unless the model takes fewer.
const PAIR_TOKENS: usize = 180;
/// Words of a text that stand in for the query of a pair when the file has none.
const QUERY_WORDS: usize = 10;
/// Texts tokenised together while queries of the right length are looked for.
const BATCH: usize = 512;

/// Arguments of `trawl bench encode`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One pass warms up; the median of the repeats counts. CPU time is that of all threads in user mode.
Texts are tokenised before the clock; the two rows that say otherwise are measured beside it.
Without --texts the sample corpus and its queries are read.

Examples:
  trawl bench encode                                             the default model, passages of the sample corpus
  trawl bench encode --texts corpus.jsonl.gz --threads 1 --json
  trawl bench encode --workload queries --texts queries.jsonl --precision f32
  trawl bench encode --workload pairs --model models/cross-encoder --texts corpus.jsonl.gz --max-texts 100
  trawl bench encode --workload train-cross                      forward, backward and AdamW"
)]
pub struct EncodeArgs {
    /// What is measured.
    #[arg(long, value_enum, default_value_t = Workload::Passages, value_name = "NAME")]
    workload: Workload,
    /// Texts: JSON lines (`text`; `title` and `query` if there), or plain text, one a line; gzip and zstd are recognised.
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Texts at most, the first of the file (default: 512 passages, 200 queries, 100 pairs).
    #[arg(long, value_name = "N")]
    max_texts: Option<NonZeroUsize>,
    /// Tokens of a text at most (default: what the model says; for pairs 180, or less if the model takes less).
    #[arg(long, value_name = "N", conflicts_with_all = ["passage_tokens", "query_tokens"])]
    max_tokens: Option<usize>,
    /// Tokens that one thread computes in one go (default: the encoder's).
    #[arg(long, value_name = "N")]
    batch_tokens: Option<NonZeroUsize>,
    /// Passes that are measured.
    #[arg(long, default_value = "5", value_name = "N")]
    repeats: NonZeroUsize,
    /// Write the vectors, of pairs the logits, as a NumPy array of 32-bit floats.
    #[arg(long, value_name = "FILE.npy")]
    vectors_out: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Workload {
    /// Texts into vectors, all in one call.
    Passages,
    /// Texts of 6 to 20 tokens into vectors, one a call.
    Queries,
    /// A cross-encoder's scores of query and text, all in one call; the query is the line's `query`, else the text's first ten words.
    Pairs,
    /// Training steps of a bi-encoder with random weights: 16 queries of 10 tokens, 32 passages of 128.
    TrainBi,
    /// Training steps of a cross-encoder with random weights: 16 pairs of 180 tokens.
    TrainCross,
}

impl Workload {
    /// The training step that this is.
    fn training(self) -> Option<training::Workload> {
        match self {
            Self::TrainBi => Some(training::Workload::BiEncoder),
            Self::TrainCross => Some(training::Workload::CrossEncoder),
            Self::Passages | Self::Queries | Self::Pairs => None,
        }
    }

    fn max_texts(self) -> usize {
        match self {
            Self::Queries => 200,
            Self::Pairs => 100,
            _ => 512,
        }
    }

    fn texts(self, lines: &[Line]) -> Vec<Text<'_>> {
        lines
            .iter()
            .map(|line| match &line.query {
                Some(query) if self == Self::Pairs => Text::Pair(query, &line.text),
                _ => Text::Single(&line.text),
            })
            .collect()
    }
}

/// What was measured. Times of the repeats are medians.
#[derive(Debug, Serialize)]
struct Report {
    workload: Workload,
    model: String,
    precision: &'static str,
    /// Vector instructions used.
    simd: String,
    /// Matrix products of the engine, by instructions and numbers, those of loading and warming up included.
    paths: Vec<KernelPath>,
    threads: usize,
    batch_tokens: usize,
    n_texts: usize,
    n_tokens: usize,
    n_truncated: usize,
    repeats: usize,
    wall_s: f64,
    cpu_s: f64,
    tokens_per_s: f64,
    passages_per_s: f64,
    /// Of the calls of all repeats.
    p50_ms: f64,
    p99_ms: f64,
    /// Against f32 on the same tokens; null when that is what was measured.
    cosine_min: Option<f64>,
    cosine_mean: Option<f64>,
    /// In standard deviations of the f32 logits.
    logit_rmse: Option<f64>,
    /// Text in, tokenising inside the clock.
    end_to_end_tokens_per_s: f64,
    end_to_end_cpu_s: f64,
    tokenize_tokens_per_s: f64,
}

pub fn run(args: EncodeArgs, output: &Output) -> anyhow::Result<()> {
    let stopped = interrupt::flag()?;
    if let Some(workload) = args.workload.training() {
        let unused = [
            ("--texts", args.texts.is_some()),
            ("--max-texts", args.max_texts.is_some()),
            ("--max-tokens", args.max_tokens.is_some()),
            ("--batch-tokens", args.batch_tokens.is_some()),
            ("--vectors-out", args.vectors_out.is_some()),
        ];
        if let Some((flag, _)) = unused.into_iter().find(|(_, given)| *given) {
            let text = format!("`{flag}` has no meaning for training steps");
            return Err(Failure::usage(text).into());
        }
        if args.model.options() != ModelOptions::default() {
            let text = "training steps have fixed texts and a loss of their own, so no option for pooling, prompts or lengths";
            return Err(Failure::usage(text).into());
        }
        return train::run(workload, &args.model, args.repeats.get(), &stopped, output);
    }
    let model = Model::load(&args, args.model.encoder_config(Arithmetic::Auto)?)?;
    let lines = read(&args, &model)?;
    let texts = args.workload.texts(&lines);
    let tokens = model.tokenize(&texts)?;
    let vectors_out = match &args.vectors_out {
        Some(path) => Some(NpyFile::create(path, model.width())?),
        None => None,
    };
    let progress = Progress::new(output);
    let measured = measure(&args, &model, &texts, &tokens, &progress, &stopped);
    progress.finish();
    let Measured { rows, times } = measured?;
    if let Some(mut file) = vectors_out {
        for row in rows.chunks_exact(model.width()) {
            file.push(row)?;
        }
        file.finish()?;
    }

    let (n_tokens, repeats) = (tokens.iter().map(Tokens::len).sum(), times.encode.len());
    let n_truncated = tokens.iter().filter(|text| text.truncated).count();
    if n_truncated > 0 {
        let n_texts = texts.len();
        output.remark(format!("{n_truncated} of {n_texts} texts were cut"));
    }
    let (config, wall_s) = (model.config(), wall(&times.encode));
    let calls = calls(&times.encode);
    let paths = encoder::kernel_paths(); // before the comparison, which takes other ones
    let (mut cosines, mut logit_rmse) = (None, None);
    if config.arithmetic != Arithmetic::F32 {
        output.remark("comparing with f32");
        let plain = EncoderConfig {
            arithmetic: Arithmetic::F32,
            ..config.clone()
        };
        let expected =
            Model::load(&args, plain)?.encode_all(&tokens, args.per_call(texts.len()), &stopped)?;
        match args.workload {
            Workload::Pairs => logit_rmse = relative_rmse(&rows, &expected),
            _ => cosines = Some(least_and_mean_cosine(&rows, &expected, model.width())),
        }
    }
    let simd = Simd::detect();
    let simd = config.simd.map_or(simd, |level| simd.at_most(level));
    let report = Report {
        workload: args.workload,
        model: model.name().to_owned(),
        precision: config.arithmetic.as_str(),
        simd: simd.to_string(),
        paths,
        threads: config.threads,
        batch_tokens: config.batch_tokens,
        n_texts: texts.len(),
        n_tokens,
        n_truncated,
        repeats,
        wall_s,
        cpu_s: cpu(&times.encode),
        tokens_per_s: n_tokens as f64 / wall_s,
        passages_per_s: texts.len() as f64 / wall_s,
        p50_ms: percentile_ms(&calls, 50),
        p99_ms: percentile_ms(&calls, 99),
        cosine_min: cosines.map(|(least, _)| least),
        cosine_mean: cosines.map(|(_, mean)| mean),
        logit_rmse,
        end_to_end_tokens_per_s: n_tokens as f64 / wall(&times.end_to_end),
        end_to_end_cpu_s: cpu(&times.end_to_end),
        tokenize_tokens_per_s: n_tokens as f64 / wall(&times.tokenize),
    };
    output.result(&report, table)
}

impl EncodeArgs {
    /// Texts of one call.
    fn per_call(&self, n_texts: usize) -> usize {
        match self.workload {
            Workload::Queries => 1,
            _ => n_texts,
        }
    }
}

/// What is measured: tokens in, one row of values per text out.
enum Model {
    Bi(Arc<BiEncoder>, Role),
    Cross(Arc<CrossEncoder>),
}

impl Model {
    fn load(args: &EncodeArgs, mut config: EncoderConfig) -> anyhow::Result<Self> {
        if let Some(batch_tokens) = args.batch_tokens {
            config.batch_tokens = batch_tokens.get();
        }
        let mut options = args.model.options();
        let role = match args.workload {
            Workload::Queries => Role::Query,
            Workload::Passages | Workload::TrainBi | Workload::TrainCross => Role::Passage,
            Workload::Pairs => {
                let Some(directory) = &args.model.model else {
                    return Err(Failure::usage("`--workload pairs` needs a cross-encoder")
                        .hint("name it with `--model`")
                        .into());
                };
                if options != ModelOptions::default() {
                    let text =
                        "a cross-encoder has no pooling, prompt or roles, so no option for them";
                    return Err(Failure::usage(text)
                        .hint("`--max-tokens` cuts its pairs")
                        .into());
                }
                return load_cross(&model::find(directory)?, args.max_tokens, &config);
            }
        };
        if args.max_tokens.is_some() {
            (options.query_tokens, options.passage_tokens) = (args.max_tokens, args.max_tokens);
        }
        let encoder = model::load_encoder(&args.model.directory()?, &options, &config)?;
        Ok(Self::Bi(encoder, role))
    }

    fn name(&self) -> &str {
        match self {
            Self::Bi(encoder, _) => encoder.name(),
            Self::Cross(reranker) => reranker.name(),
        }
    }

    /// Values of a text.
    fn width(&self) -> usize {
        match self {
            Self::Bi(encoder, _) => encoder.width(),
            Self::Cross(reranker) => reranker.n_labels(),
        }
    }

    fn config(&self) -> &EncoderConfig {
        match self {
            Self::Bi(encoder, _) => encoder.config(),
            Self::Cross(reranker) => reranker.config(),
        }
    }

    fn tokenize(&self, texts: &[Text<'_>]) -> anyhow::Result<Vec<Tokens>> {
        match self {
            Self::Bi(encoder, role) => Ok(encoder.tokenize(*role, texts)?),
            Self::Cross(reranker) => {
                let pairs: Vec<(&str, &str)> = texts
                    .iter()
                    .map(|text| match *text {
                        Text::Pair(query, text) => (query, text),
                        Text::Single(text) => ("", text),
                    })
                    .collect();
                Ok(reranker.tokenize(&pairs)?)
            }
        }
    }

    /// Vectors, or logits.
    fn encode(&self, tokens: &[Tokens]) -> anyhow::Result<Vec<f32>> {
        match self {
            Self::Bi(encoder, _) => Ok(encoder.encode(tokens)?.values),
            Self::Cross(reranker) => Ok(reranker.score(tokens)?.logits),
        }
    }

    fn encode_all(
        &self,
        tokens: &[Tokens],
        per_call: usize,
        stopped: &AtomicBool,
    ) -> anyhow::Result<Vec<f32>> {
        let mut rows = Vec::new();
        for tokens in tokens.chunks(per_call) {
            check_stopped(stopped)?;
            rows.extend(self.encode(tokens)?);
        }
        Ok(rows)
    }
}

/// Without `max_tokens` pairs are cut at [`PAIR_TOKENS`], or at what the model takes when that is less.
fn load_cross(
    directory: &Path,
    max_tokens: Option<usize>,
    config: &EncoderConfig,
) -> anyhow::Result<Model> {
    let load = |max_tokens| CrossEncoder::load(directory, max_tokens, config);
    let loaded = match load(max_tokens.or(Some(PAIR_TOKENS))) {
        Err(LoadError::MaxTokens { .. }) if max_tokens.is_none() => load(None),
        loaded => loaded,
    };
    let reranker =
        loaded.with_context(|| format!("cannot load cross-encoder `{}`", directory.display()))?;
    Ok(Model::Cross(Arc::new(reranker)))
}

/// Reads as many texts as are wanted: the first of the file, for queries the first of their length.
fn read(args: &EncodeArgs, model: &Model) -> anyhow::Result<Vec<Line>> {
    let workload = args.workload;
    let sample = match workload {
        Workload::Queries => QUERIES,
        _ => quickstart::CORPUS,
    };
    let name = match &args.texts {
        Some(path) => format!("`{}`", path.display()),
        None => "the sample".to_owned(),
    };
    let reading = || format!("cannot read texts from {name}");
    let mut lines = match &args.texts {
        Some(path) => Lines::open(path).with_context(reading)?,
        None => Lines::of_sample(sample),
    };
    let wanted = args
        .max_texts
        .map_or(workload.max_texts(), NonZeroUsize::get);
    let mut found = Vec::new();
    let mut ended = false;
    while !ended && found.len() < wanted {
        let n_asked = match workload {
            Workload::Queries => BATCH,
            _ => wanted,
        };
        let batch: Result<Vec<Line>, CorpusError> = lines.by_ref().take(n_asked).collect();
        let mut batch = batch.with_context(reading)?;
        ended = batch.len() < n_asked;
        if workload == Workload::Queries {
            let tokens = model.tokenize(&workload.texts(&batch))?;
            let mut fits = tokens
                .iter()
                .map(|text| QUERY_TOKENS.contains(&text.len()) && !text.truncated);
            batch.retain(|_| fits.next() == Some(true));
        }
        found.append(&mut batch);
    }
    found.truncate(wanted);
    if found.is_empty() {
        let what = match workload {
            Workload::Queries => {
                let (least, most) = QUERY_TOKENS.into_inner();
                format!("text of {least} to {most} tokens")
            }
            _ => "text".to_owned(),
        };
        return Err(Failure::new(Exit::BadInput, format!("{name} has no {what}")).into());
    }
    if workload == Workload::Pairs {
        let queries: Vec<Line> = match &args.texts {
            Some(_) => Vec::new(),
            None => Lines::of_sample(QUERIES).collect::<Result<_, _>>()?,
        };
        let mut queries = queries.into_iter().map(|line| line.text).cycle();
        for line in &mut found {
            let query = line.query.take().or_else(|| queries.next());
            line.query = query.or_else(|| Some(first_words(&line.text)));
        }
    }
    Ok(found)
}

/// Stands in for the query of a pair.
fn first_words(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().take(QUERY_WORDS).collect();
    words.join(" ")
}

struct Measured {
    /// Values of the texts, in their order.
    rows: Vec<f32>,
    times: Times,
}

/// One pass a repeat of each.
#[derive(Default)]
struct Times {
    encode: Vec<Pass>,
    end_to_end: Vec<Pass>,
    tokenize: Vec<Pass>,
}

fn measure(
    args: &EncodeArgs,
    model: &Model,
    texts: &[Text<'_>],
    tokens: &[Tokens],
    progress: &Progress,
    stopped: &AtomicBool,
) -> anyhow::Result<Measured> {
    let per_call = args.per_call(texts.len());
    progress.update("warm up", "texts", 0, texts.len() as u64);
    let rows = model.encode_all(tokens, per_call, stopped)?;
    progress.update("warm up", "texts", texts.len() as u64, texts.len() as u64);
    let mut times = Times::default();
    let n_repeats = args.repeats.get();
    for repeat in 0..n_repeats {
        progress.update("measure", "repeats", repeat as u64, n_repeats as u64);
        times.encode.push(pass(tokens, per_call, |tokens| {
            check_stopped(stopped)?;
            model.encode(tokens).map(drop)
        })?);
        times.end_to_end.push(pass(texts, per_call, |texts| {
            check_stopped(stopped)?;
            model.encode(&model.tokenize(texts)?).map(drop)
        })?);
        times.tokenize.push(pass(texts, per_call, |texts| {
            check_stopped(stopped)?;
            model.tokenize(texts).map(drop)
        })?);
    }
    progress.update("measure", "repeats", n_repeats as u64, n_repeats as u64);
    Ok(Measured { rows, times })
}

fn check_stopped(stopped: &AtomicBool) -> anyhow::Result<()> {
    if stopped.load(Ordering::SeqCst) {
        return Err(Failure::new(Exit::Interrupted, "stopped before the last repeat").into());
    }
    Ok(())
}

/// The least cosine of a row to the same row of `expected`, and the mean of all.
fn least_and_mean_cosine(rows: &[f32], expected: &[f32], width: usize) -> (f64, f64) {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    };
    let cosines = rows
        .chunks_exact(width)
        .zip(expected.chunks_exact(width))
        .map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
    let (least, sum) = cosines.fold((1.0f64, 0.0), |(least, sum), cosine| {
        (least.min(cosine), sum + cosine)
    });
    (least, sum * width as f64 / rows.len() as f64)
}

/// Root of the mean squared difference over the standard deviation of `expected`; `None` where that is 0.
fn relative_rmse(logits: &[f32], expected: &[f32]) -> Option<f64> {
    let n = expected.len() as f64;
    let mean = expected.iter().map(|&b| f64::from(b)).sum::<f64>() / n;
    let variance = expected
        .iter()
        .map(|&b| (f64::from(b) - mean).powi(2))
        .sum::<f64>()
        / n;
    let differences = logits.iter().zip(expected);
    let error = differences
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum::<f64>()
        / n;
    (variance > 0.0).then(|| (error / variance).sqrt())
}

fn table(report: &Report) -> String {
    let mut rows = vec![
        ("model", report.model.clone()),
        ("precision", report.precision.to_owned()),
        ("instructions", report.simd.clone()),
        ("threads", report.threads.to_string()),
        ("batch tokens", report.batch_tokens.to_string()),
        ("texts", report.n_texts.to_string()),
        ("tokens", report.n_tokens.to_string()),
        ("repeats", report.repeats.to_string()),
        ("wall, s", format!("{:.4}", report.wall_s)),
        ("user CPU, s", format!("{:.4}", report.cpu_s)),
        ("tokens/s", format!("{:.0}", report.tokens_per_s)),
        ("texts/s", format!("{:.1}", report.passages_per_s)),
    ];
    if report.workload == Workload::Queries {
        rows.push(("p50 of a query, ms", format!("{:.3}", report.p50_ms)));
        rows.push(("p99 of a query, ms", format!("{:.3}", report.p99_ms)));
    }
    let optional = [
        ("least cosine to f32", report.cosine_min),
        ("mean cosine to f32", report.cosine_mean),
        ("logit rmse to f32, std", report.logit_rmse),
    ];
    rows.extend(
        optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, format!("{:.7}", value?)))),
    );
    rows.push((
        "tokens/s, text in",
        format!("{:.0}", report.end_to_end_tokens_per_s),
    ));
    rows.push((
        "tokens/s, tokenising alone",
        format!("{:.0}", report.tokenize_tokens_per_s),
    ));
    let rows = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    output::table(&["what", "value"], &["value"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_compare_row_by_row() {
        let (least, mean) = least_and_mean_cosine(&[1.0, 0.0, 3.0, 4.0], &[2.0, 0.0, 4.0, 3.0], 2);
        assert!((least - 0.96).abs() < 1e-12, "{least}"); // (3·4 + 4·3) / (5·5)
        assert!((mean - 0.98).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn logit_error_is_in_standard_deviations() {
        let found = relative_rmse(&[1.5, 2.5, 3.5, 4.5], &[1.0, 2.0, 3.0, 4.0]);
        let expected = 0.5 / 1.25f64.sqrt();
        assert!(found.is_some_and(|found| (found - expected).abs() < 1e-12));
        assert_eq!(relative_rmse(&[1.0], &[2.0]), None);
    }
}
