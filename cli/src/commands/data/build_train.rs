use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use corpus::Template;
use encoder::{Directory, TextTokenizer};
use serde_json::json;
use trainer::data::{Candidate, Content, DataSource, Dataset, Example, JudgedSource, PassageText};

use super::judged::{CandidateArgs, JudgedArgs};
use crate::failure::{Exit, Failure};
use crate::model;
use crate::output::Output;
use crate::progress::Progress;

/// What is read of a passage when nothing is said.
const TEMPLATE: &str = "Title: <title> Text: <text>";

/// Arguments of `trawl data build-train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl data build-train --corpus corpus.tsv --queries queries.train.tsv --qrels qrels.train.tsv \\
                         --negatives train.negatives.tsv --tokenizer all-MiniLM-L6-v2 --save-to train
  trawl data build-train --data data/medquad --run dense.trec --depth 200 --suffix hn \\
                         --tokenizer all-MiniLM-L6-v2 --save-to train-hn

Passages are read as `Title: <title> Text: <text>` unless `--passage-template` says otherwise. Token ids have no special
tokens. Queries without a judged passage, and passages without a token, are counted.")]
pub struct BuildTrainArgs {
    #[command(flatten)]
    judged: JudgedArgs,
    #[command(flatten)]
    candidates: CandidateArgs,
    /// Model whose tokenizer is used: directory, or name in the model folder.
    #[arg(long, value_name = "DIR|NAME")]
    tokenizer: PathBuf,
    /// What a line holds; all but `train` need `--scores`.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Layout::Train)]
    layout: Layout,
    /// A teacher's scores: `query passage score` lines or TREC runs, such as `trawl rerank --qrels` writes.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    scores: Vec<PathBuf>,
    /// Tokens of a passage at most.
    #[arg(long, value_name = "N", default_value_t = 128)]
    truncate: usize,
    /// Tokens of a query at most.
    #[arg(long, value_name = "N", default_value_t = 32)]
    truncate_query: usize,
    /// Negatives of a query at most, drawn from its candidates.
    #[arg(long, value_name = "N", default_value_t = 30)]
    n_sample: usize,
    /// Lines of a file.
    #[arg(long, value_name = "N", default_value_t = 45_000)]
    shard_size: usize,
    /// Seed of the draw.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    /// Folder to write `split00.jsonl`, `split01.jsonl`, … into; files of these names are replaced, further ones refused.
    #[arg(long, value_name = "DIR")]
    save_to: PathBuf,
    /// Word in the names of the files, as in `split00.hn.jsonl`.
    #[arg(long, value_name = "WORD")]
    suffix: Option<String>,
}

/// OpenMatch's kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Layout {
    /// A query, its positives and its negatives, as `build_train` and `build_hn` write them.
    Train,
    /// A query, its first scored positive, one negative and the teacher's margin: a line for each negative.
    Pairwise,
    /// A query, passages drawn from all that the teacher scored, relevant or not, and the scores.
    Listwise,
}

/// Lines and what they lack.
#[derive(Default)]
struct Counts {
    n_lines: u64,
    n_files: u64,
    n_empty_passages: u64,
    n_without_positive: u64,
    n_without_scored_positive: u64,
    n_without_negative: u64,
}

/// A line as OpenMatch's trainers read it.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Line {
    Train {
        query: Vec<u32>,
        positives: Vec<Vec<u32>>,
        negatives: Vec<Vec<u32>>,
    },
    Pairwise {
        query: Vec<u32>,
        positive: Vec<u32>,
        negative: Vec<u32>,
        score: f32,
    },
    Listwise {
        query: Vec<u32>,
        docs: Vec<Vec<u32>>,
        scores: Vec<f32>,
    },
}

pub fn run(args: BuildTrainArgs, output: &Output) -> anyhow::Result<()> {
    for (name, value) in [
        ("--shard-size", args.shard_size),
        ("--truncate", args.truncate),
        ("--truncate-query", args.truncate_query),
    ] {
        if value == 0 {
            return Err(Failure::usage(format!("`{name}` is at least 1")).into());
        }
    }
    if (args.layout == Layout::Train) != args.scores.is_empty() {
        let text =
            "`--layout pairwise` and `--layout listwise` go with `--scores`, `train` goes without";
        return Err(Failure::usage(text).into());
    }
    if args.layout == Layout::Listwise && args.n_sample < 2 {
        let text = "a list has at least two passages: `--n-sample` is at least 2";
        return Err(Failure::usage(text).into());
    }
    let folder = model::find_transformer(&args.tokenizer)?;
    let tokenizer = TextTokenizer::load(&folder, Directory::lower_cases(&folder)?)
        .with_context(|| format!("cannot load the tokenizer of `{}`", folder.display()))?;
    let default = Template::parse(TEMPLATE).expect("the template names fields");
    let passage = args.judged.corpus.passage(PassageText::Template(default));
    if passage == PassageText::Pair {
        return Err(Failure::usage("a line has no room for pairs: give a template").into());
    }
    let lines = LineWriter {
        tokenizer,
        layout: args.layout,
        query_tokens: args.truncate_query,
        passage_tokens: args.truncate,
        n_sample: args.n_sample,
        seed: args.seed,
    };
    let source = JudgedSource {
        passage,
        negatives: args.candidates.resolve(),
        scores: args.scores,
        ..args.judged.resolve()?
    };
    let dataset = super::read(&DataSource::Judged(Box::new(source)), output)?;
    let end = match &args.suffix {
        Some(suffix) => format!(".{suffix}.jsonl"),
        None => ".jsonl".to_owned(),
    };
    let n_files = dataset.len().div_ceil(args.shard_size) as u64;
    check_others(&args.save_to, &end, n_files)?;
    if !lines.has_some(&dataset)? {
        let text = "no query has both a positive and a negative with a token";
        return Err(Failure::new(Exit::BadInput, text).into());
    }
    let progress = Progress::new(output);
    let mut counts = Counts::default();
    let starts = (0..dataset.len()).step_by(args.shard_size);
    for start in starts {
        let name = format!("split{:02}{end}", counts.n_files);
        let shard = start..(start + args.shard_size).min(dataset.len());
        super::write_lines(&args.save_to.join(name), |writer| {
            for index in shard {
                lines.write(dataset.example(index), writer, &mut counts)?;
                progress.update(
                    "tokenize",
                    "queries",
                    index as u64 + 1,
                    dataset.len() as u64,
                );
            }
            Ok(())
        })?;
        counts.n_files += 1;
    }
    progress.finish();
    show(&dataset, &counts, &args.save_to, output)
}

/// Refuses a folder with files of an earlier run that had more of them: who reads all would read theirs too.
fn check_others(folder: &Path, end: &str, n_files: u64) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot read `{}`", folder.display()))?,
    };
    for entry in entries {
        let name = entry
            .with_context(|| format!("cannot read `{}`", folder.display()))?
            .file_name();
        let name = name.to_string_lossy();
        let number = name
            .strip_prefix("split")
            .and_then(|name| name.strip_suffix(end))
            .and_then(|number| number.parse::<u64>().ok());
        if number.is_some_and(|number| number >= n_files) {
            let text = format!(
                "`{}` is of other data: {n_files} files are to be written",
                folder.join(&*name).display()
            );
            return Err(Failure::usage(text)
                .hint("remove it, or name another folder with `--save-to`")
                .into());
        }
    }
    Ok(())
}

/// Makes lines of examples.
struct LineWriter {
    tokenizer: TextTokenizer,
    layout: Layout,
    query_tokens: usize,
    passage_tokens: usize,
    n_sample: usize,
    seed: u64,
}

/// Token ids of a passage and the teacher's score; 0 where the layout has none.
type Passage = (Vec<u32>, f32);

impl LineWriter {
    fn ids(&self, content: &Content, max_tokens: usize) -> io::Result<Vec<u32>> {
        let mut ids = match content {
            Content::Text(text) => self.tokenizer.ids(text).map_err(io::Error::other)?,
            Content::Tokens(ids) => ids.clone(),
            Content::Pair(..) => return Err(io::Error::other("a line has no room for pairs")),
        };
        ids.truncate(max_tokens);
        Ok(ids)
    }

    /// The passages that have a token.
    fn passages(&self, candidates: &[Candidate], counts: &mut Counts) -> io::Result<Vec<Passage>> {
        let passage = |one: &Candidate| {
            let ids = self.ids(&one.content, self.passage_tokens)?;
            Ok((ids, one.score.unwrap_or_default()))
        };
        let mut passages = candidates
            .iter()
            .map(passage)
            .collect::<io::Result<Vec<_>>>()?;
        passages.retain(|(ids, _)| !ids.is_empty());
        counts.n_empty_passages += (candidates.len() - passages.len()) as u64;
        Ok(passages)
    }

    /// Whether any example gives a line: without one, files of an earlier run are not replaced by empty ones.
    fn has_some(&self, dataset: &Dataset) -> io::Result<bool> {
        let mut counts = Counts::default();
        for example in dataset.examples() {
            self.write(example, &mut io::sink(), &mut counts)?;
            if counts.n_lines > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the lines of an example.
    fn write(
        &self,
        mut example: Example,
        writer: &mut dyn Write,
        counts: &mut Counts,
    ) -> io::Result<()> {
        if self.layout != Layout::Train && !example.positives.is_empty() {
            example.positives.retain(|one| one.score.is_some());
            if example.positives.is_empty() {
                counts.n_without_scored_positive += 1;
                return Ok(());
            }
        }
        if self.layout == Layout::Listwise {
            // A list is drawn from all that the teacher scored.
            example.negatives.extend(example.positives.clone());
        }
        example.sample_negatives(self.n_sample, self.seed);
        let query = self.ids(&example.query, self.query_tokens)?;
        let positives = self.passages(&example.positives, counts)?;
        let negatives = self.passages(&example.negatives, counts)?;
        if positives.is_empty() || query.is_empty() {
            counts.n_without_positive += 1;
            return Ok(());
        }
        let lines = self.layout.lines(query, positives, negatives);
        counts.n_without_negative += u64::from(lines.is_empty());
        for line in lines {
            counts.n_lines += 1;
            serde_json::to_writer(&mut *writer, &line)?;
            writer.write_all(b"\n")?;
        }
        Ok(())
    }
}

impl Layout {
    /// The lines of a query that has a positive; none where there is nothing to tell it from.
    fn lines(self, query: Vec<u32>, positives: Vec<Passage>, negatives: Vec<Passage>) -> Vec<Line> {
        let without_scores = |passages: Vec<Passage>| passages.into_iter().map(|(ids, _)| ids);
        match self {
            Self::Train => vec![Line::Train {
                query,
                positives: without_scores(positives).collect(),
                negatives: without_scores(negatives).collect(),
            }],
            Self::Pairwise => {
                let (positive, best) = &positives[0];
                let line = |(negative, score): Passage| Line::Pairwise {
                    query: query.clone(),
                    positive: positive.clone(),
                    negative,
                    score: best - score,
                };
                negatives.into_iter().map(line).collect()
            }
            Self::Listwise if negatives.len() < 2 => Vec::new(),
            Self::Listwise => {
                let (docs, scores) = negatives.into_iter().unzip();
                vec![Line::Listwise {
                    query,
                    docs,
                    scores,
                }]
            }
        }
    }
}

fn show(dataset: &Dataset, counts: &Counts, folder: &Path, output: &Output) -> anyhow::Result<()> {
    let Counts {
        n_lines,
        n_files,
        n_empty_passages,
        n_without_positive,
        n_without_scored_positive,
        n_without_negative,
    } = counts;
    let more = json!({
        "lines": n_lines, "files": n_files, "empty_passages": n_empty_passages,
        "queries_without_tokens": n_without_positive, "queries_without_scored_positives": n_without_scored_positive,
        "queries_without_negatives": n_without_negative, "out": folder,
    });
    output.result(&super::summary(dataset.report(), more), |_| {
        format!(
            "{n_lines} lines in {n_files} files written to {}; {n_empty_passages} passages without a token and \
             {n_without_positive} queries without a positive or a token left out, {n_without_scored_positive} without a \
             positive that has a score, {n_without_negative} without a second passage that has one",
            folder.display()
        )
    })
}
