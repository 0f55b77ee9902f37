//! What language models write about passages, and MASTER's lines of it.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::Context;
use encoder::{LanguageModel, Sampling, Writing};
use serde_json::{Value, json};
use trainer::teacher::{
    JudgedQueries, MasterSource, TeacherConfig, TeacherError, TeacherText, Unfinished,
    write_master_lines, write_teacher_text,
};

use super::reading::{TextsArgs, TokenizerArgs, remark_bad};
use super::writing::write_lines_of;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::{interrupt, model};

/// What both commands that generate take.
#[derive(Debug, clap::Args)]
struct GenerationArgs {
    #[command(flatten)]
    texts: TextsArgs,
    /// Model that writes: directory, or name in the model folder.
    #[arg(long, value_name = "DIR|NAME")]
    model: PathBuf,
    /// File to write, a line for each passage; `.gz` and `.zst` compress it. Until all is done, `FILE.unfinished` grows.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What scores are divided by before a token is drawn.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    temperature: f64,
    /// Seed of the draws.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Text before each passage, such as `text2query: `.
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// Tokens of a passage at most [default: 512, or what the model has positions for].
    #[arg(long, value_name = "N")]
    max_passage_tokens: Option<usize>,
    /// Passages that a thread computes side by side; the text is the same for any number.
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_size: usize,
}

/// Arguments of `trawl data generate-queries`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  trawl data generate-queries corpus.jsonl --model doc2query-t5 --out queries.jsonl.zst

A line is a passage: `{\"id\": \"…\", \"queries\": [\"…\", …]}`. The text is the same for any `--threads` and `--batch-size`. After
Ctrl-C or a failure the same command goes on where it was.")]
pub struct GenerateQueriesArgs {
    #[command(flatten)]
    generation: GenerationArgs,
    /// Queries of a passage.
    #[arg(long, value_name = "N", default_value_t = 10)]
    queries: usize,
    /// Tokens of a query at most.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// Tokens that each one is drawn from, those of the best scores; 1 takes the best, 0 stands for all.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top_k: usize,
}

/// Arguments of `trawl data generate-continuations`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  trawl data generate-continuations corpus.jsonl --model gpt2 --out continuations.jsonl.zst

A line is a passage: `{\"id\": \"…\", \"continuations\": [\"…\"]}`. The text is the same for any `--threads` and `--batch-size`. After
Ctrl-C or a failure the same command goes on where it was.")]
pub struct GenerateContinuationsArgs {
    #[command(flatten)]
    generation: GenerationArgs,
    /// Tokens of a continuation at most.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Tokens that each one is drawn from, those of the best scores; 1 takes the best, 0 stands for all.
    #[arg(long, value_name = "N", default_value_t = 50)]
    top_k: usize,
}

/// What the two commands differ in.
struct Task {
    kind: TeacherText,
    writing: Writing,
    n_texts: usize,
    max_tokens: usize,
    top_k: usize,
}

pub fn generate_queries(args: GenerateQueriesArgs, output: &Output) -> anyhow::Result<()> {
    let task = Task {
        kind: TeacherText::Queries,
        writing: Writing::About,
        n_texts: args.queries,
        max_tokens: args.max_tokens,
        top_k: args.top_k,
    };
    generate(args.generation, task, output)
}

pub fn generate_continuations(
    args: GenerateContinuationsArgs,
    output: &Output,
) -> anyhow::Result<()> {
    let task = Task {
        kind: TeacherText::Continuations,
        writing: Writing::On,
        n_texts: 1,
        max_tokens: args.max_tokens,
        top_k: args.top_k,
    };
    generate(args.generation, task, output)
}

fn generate(args: GenerationArgs, task: Task, output: &Output) -> anyhow::Result<()> {
    let folder = model::find(&args.model)?;
    let language_model = LanguageModel::load(&folder)
        .with_context(|| format!("cannot load `{}`", folder.display()))?;
    if language_model.writing() != task.writing {
        let text = match task.writing {
            Writing::About => "queries are written by an encoder with a decoder, a T5",
            Writing::On => "continuations are written by a decoder alone, a GPT-2",
        };
        let text = format!("{text}; `{}` is none", folder.display());
        return Err(Failure::usage(text).into());
    }
    let most = language_model.most_prompt_tokens(task.max_tokens);
    let n_threads = compute::thread_budget(args.texts.threads);
    let (corpus, template) = args.texts.corpus();
    let config = TeacherConfig {
        template,
        before: args.prompt,
        max_passage_tokens: args.max_passage_tokens.unwrap_or(most.min(512)),
        kind: task.kind,
        n_texts: task.n_texts,
        sampling: Sampling {
            max_tokens: task.max_tokens,
            top_k: task.top_k,
            temperature: args.temperature,
        },
        seed: args.seed,
        batch_size: args.batch_size,
        n_threads,
        corpus,
    };
    config.check(&language_model)?;
    let progress = Progress::new(output);
    let mut on_bytes = |done, total| progress.update("count", "bytes", done, total);
    let surveyed = config.survey(&mut on_bytes);
    progress.finish();
    let (n_passages, digest) = surveyed?;
    let settings = config.settings(&language_model, digest);
    let mut file = unfinished(&args.out, &settings)?;

    let stop = interrupt::flag()?;
    let progress = Progress::new(output);
    let mut first = None;
    let mut on_passages = |done: u64| {
        // Rate and time left are of this run: passages of an earlier one took none of its time.
        let first = *first.get_or_insert(done);
        progress.update(
            "generate",
            "passages",
            done - first,
            n_passages.saturating_sub(first),
        );
        match stop.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let written = write_teacher_text(&config, &language_model, &mut file, &mut on_passages);
    progress.finish();
    let report = written.map_err(plain)?;
    super::write_lines(&args.out, |writer| file.copy_to(writer))?;
    file.remove()?;

    if report.n_before > 0 {
        output.remark(format!("{} passages were done before", report.n_before));
    }
    remark_bad(report.n_bad, report.first_bad.as_deref(), output);
    let value = json!({
        "passages": report.n_passages, "empty_passages": report.n_empty, "texts": report.n_texts,
        "passages_before": report.n_before, "bad_lines": report.n_bad, "seed": config.seed, "out": args.out,
    });
    output.result(&value, |_| {
        format!(
            "{} texts about {} passages written to {}; {} passages without text",
            report.n_texts,
            report.n_passages - report.n_empty,
            args.out.display(),
            report.n_empty
        )
    })
}

fn unfinished(out: &Path, settings: &Value) -> anyhow::Result<Unfinished> {
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot write `{}`", out.display()))?;
    }
    let mut path = OsString::from(out);
    path.push(".unfinished");
    let path = PathBuf::from(path);
    let opened = Unfinished::open(&path, settings);
    opened.map_err(|error| match error {
        TeacherError::Write(error) => {
            anyhow::Error::new(error).context(format!("cannot write `{}`", path.display()))
        }
        error => plain(error),
    })
}

/// Bad data and settings are told as everywhere.
fn plain(error: TeacherError) -> anyhow::Error {
    match error {
        TeacherError::Data(error) => error.into(),
        error => error.into(),
    }
}

/// Arguments of `trawl data master-lines`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data master-lines corpus.jsonl --generated-queries queries.jsonl.zst --continuations continuations.jsonl.zst \\
                          --tokenizer bert-base-uncased --out master.jsonl.zst
  trawl data master-lines corpus.jsonl --queries train.jsonl --qrels qrels/train.tsv \\
                          --tokenizer bert-base-uncased --out master.jsonl

A line is a passage: `{\"text\": [token ids], \"queries\": [[…], …], \"next\": [[…]]}`, what `objective.name = \"master\"` reads.
Judged queries are of a train split alone: what is judged for a test would be learned.")]
pub struct MasterLinesArgs {
    #[command(flatten)]
    texts: TextsArgs,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// Files of `generate-queries`, in the order of the passages; any passage may be missing.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    generated_queries: Vec<PathBuf>,
    /// Files of `generate-continuations`, in the order of the passages; any passage may be missing.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    continuations: Vec<PathBuf>,
    /// Queries that were judged, in place of generated ones or before them: JSON lines or TSV.
    #[arg(long, value_name = "FILE", requires = "qrels")]
    queries: Option<PathBuf>,
    /// Their judgments: TREC, BEIR or two columns.
    #[arg(long, value_name = "FILE", requires = "queries")]
    qrels: Option<PathBuf>,
    /// Lowest grade of a passage that answers.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "qrels")]
    min_grade: i32,
    /// File to write; `.gz` and `.zst` compress it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn master_lines(args: MasterLinesArgs, output: &Output) -> anyhow::Result<()> {
    let tokenizer = args.tokenizer.load()?;
    let n_threads = compute::thread_budget(args.texts.threads);
    let (corpus, template) = args.texts.corpus();
    let min_grade = args.min_grade;
    let judged = args.queries.zip(args.qrels);
    let source = MasterSource {
        corpus,
        template,
        generated: args.generated_queries,
        judged: judged.map(|(queries, qrels)| JudgedQueries {
            queries,
            qrels,
            min_grade,
        }),
        continuations: args.continuations,
        n_threads,
    };
    let progress = Progress::new(output);
    let mut on_bytes = |done, total| progress.update("lines", "bytes", done, total);
    let write =
        |writer: &mut dyn io::Write| write_master_lines(&source, &tokenizer, writer, &mut on_bytes);
    let written = write_lines_of(&args.out, write, |error| match error {
        TeacherError::Write(error) => Ok(error),
        error => Err(plain(error)),
    });
    progress.finish();
    let report = written?;
    remark_bad(report.n_bad, report.first_bad.as_deref(), output);
    if report.n_missing > 0 {
        let n_missing = report.n_missing;
        output.remark(format!("{n_missing} judged passages are not in the corpus"));
    }
    let value = json!({
        "texts": report.n_texts, "empty_texts": report.n_empty, "queries": report.n_queries,
        "without_queries": report.n_without_queries, "without_continuation": report.n_without_continuation,
        "judged_passages_missing": report.n_missing, "bad_lines": report.n_bad, "out": args.out,
    });
    output.result(&value, |_| {
        format!(
            "{} lines with {} queries written to {}; {} without a query, {} without a continuation",
            report.n_texts,
            report.n_queries,
            args.out.display(),
            report.n_without_queries,
            report.n_without_continuation
        )
    })
}
