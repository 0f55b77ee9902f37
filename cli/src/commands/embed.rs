use std::io::{self, BufRead};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use encoder::{Arithmetic, BiEncoder, Role, Text};
use serde::Deserialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::model::ModelArgs;
use crate::npy::NpyFile;
use crate::output::{self, Output};
use crate::progress::Progress;

/// Texts encoded together: enough to fill the threads, few enough for a steady stream of answers.
const BATCH: usize = 512;

/// Arguments of `trawl embed`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads one text a line from standard input and prints one JSON array of numbers a line.

Examples:
  echo 'the tide comes in twice a day' | trawl embed
  trawl embed --query --output queries.npy < queries.txt
  trawl embed --jsonl < passages.jsonl               lines such as {\"text\": \"…\"}"
)]
pub struct EmbedArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The texts are queries: the model's query prompt and query length apply.
    #[arg(long)]
    query: bool,
    /// Put nothing before the texts, whatever prompt the model has for their role.
    #[arg(long)]
    no_prompt: bool,
    /// Lines are JSON objects with a string under `text`.
    #[arg(long)]
    jsonl: bool,
    /// Write a NumPy array of shape (texts, width), 32-bit floats, in place of lines.
    #[arg(long, value_name = "FILE.npy")]
    output: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

pub fn run(args: EmbedArgs, output: &Output) -> anyhow::Result<()> {
    let encoder = args.model.load(&args.model.directory()?, Arithmetic::F32)?;
    let role = if args.query {
        Role::Query
    } else {
        Role::Passage
    };
    let prompt = if args.no_prompt {
        String::new()
    } else {
        encoder.prompt(role).to_owned()
    };
    // A process that is ended at once would leave a part of the array behind, under another name.
    let stopped = args
        .output
        .as_ref()
        .map(|_| interrupt::flag())
        .transpose()?;
    let mut sink = match &args.output {
        Some(path) => Sink::Npy(NpyFile::create(path, encoder.width())?),
        None => Sink::Lines,
    };
    let progress = Progress::new(output);
    progress.update("encode", "texts", 0, 0);
    let (mut n_texts, mut n_truncated) = (0, 0);
    let mut batch = Vec::with_capacity(BATCH);
    let mut lines = io::stdin().lock().lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let line = line.map_err(|error| unread(error, number + 1))?;
        batch.push(text_of(line, number + 1, args.jsonl)?);
        if batch.len() == BATCH || lines.peek().is_none() {
            n_truncated += encode(&encoder, role, &prompt, &batch, &mut sink)?;
            n_texts += batch.len() as u64;
            progress.update("encode", "texts", n_texts, 0);
            let has_stopped = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
            if stopped.as_ref().is_some_and(has_stopped) {
                progress.finish();
                let text = "stopped; nothing is written";
                return Err(Failure::new(Exit::Interrupted, text).into());
            }
            batch.clear();
        }
    }
    progress.finish();
    if let Sink::Npy(file) = sink {
        file.finish()?;
    }
    if n_truncated > 0 {
        let limit = encoder.max_tokens(role);
        output.remark(format!(
            "{n_truncated} of {n_texts} texts were cut at {limit} tokens"
        ));
    }
    Ok(())
}

/// A line that is no text is bad input; any other failure is of whoever reads.
fn unread(error: io::Error, number: usize) -> anyhow::Error {
    if error.kind() == io::ErrorKind::InvalidData {
        let text = format!("standard input, line {number}: not UTF-8");
        return Failure::new(Exit::BadInput, text).into();
    }
    anyhow::Error::new(error).context(format!("cannot read line {number} of standard input"))
}

fn text_of(line: String, number: usize, jsonl: bool) -> anyhow::Result<String> {
    if !jsonl {
        return Ok(line);
    }
    serde_json::from_str::<Line>(&line)
        .map(|line| line.text)
        .map_err(|error| {
            Failure::new(
                Exit::BadInput,
                format!("standard input, line {number}: {error}"),
            )
            .into()
        })
}

fn encode(
    encoder: &BiEncoder,
    role: Role,
    prompt: &str,
    texts: &[String],
    sink: &mut Sink,
) -> anyhow::Result<usize> {
    let texts: Vec<Text<'_>> = texts.iter().map(|text| Text::Single(text)).collect();
    let tokens = encoder.tokenize_with_prompt(prompt, role, &texts)?;
    let embeddings = encoder.encode(&tokens)?;
    for row in embeddings.values.chunks_exact(embeddings.width) {
        sink.push(row)?;
    }
    Ok(embeddings.n_truncated)
}

/// Where rows go: JSON lines, or a NumPy file.
enum Sink {
    Lines,
    Npy(NpyFile<f32>),
}

impl Sink {
    fn push(&mut self, row: &[f32]) -> anyhow::Result<()> {
        match self {
            Self::Lines => output::print(&(serde_json::to_string(row)? + "\n")),
            Self::Npy(file) => file.push(row),
        }
    }
}
