//! Training data: other toolkits' formats into ours, OpenMatch's lines of token ids, and what pre-training reads.

mod build_train;
mod convert;
mod feedback;
pub mod judged;
mod pretraining;
mod reading;
mod teacher;
mod writing;

use serde_json::{Map, Value, json};
use trainer::data::{DataReport, DataSource, Dataset};

use crate::output::Output;
use crate::progress::Progress;

pub use writing::write_lines;

/// Arguments of `trawl data`.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DataCommand {
    /// Read training data of any format and write it as trawl's lines, each with its texts.
    Convert(Box<convert::ConvertArgs>),
    /// Write OpenMatch's training files: lines of token ids, in shards.
    BuildTrain(Box<build_train::BuildTrainArgs>),
    /// Learn the word pieces of a corpus: the tokenizer of an encoder that begins with random weights.
    WordPieces(pretraining::WordPiecesArgs),
    /// Count the whole words of a corpus, for MASTER's keyword masks.
    FrequencyDictionary(pretraining::FrequencyDictionaryArgs),
    /// Cut documents into spans and put others of the document beside each, for CoT-MAE and coCondenser.
    SpanPairs(pretraining::SpanPairsArgs),
    /// Cut documents into blocks of whole sentences, so that pre-training reads all of a long one.
    Blocks(pretraining::BlocksArgs),
    /// Let a T5 (doc2query) ask queries of each passage.
    GenerateQueries(Box<teacher::GenerateQueriesArgs>),
    /// Let a GPT-2 continue each passage.
    GenerateContinuations(Box<teacher::GenerateContinuationsArgs>),
    /// Make queries and judgments of a server's query log: of what was clicked and judged.
    FromFeedback(feedback::FromFeedbackArgs),
    /// Put queries and continuations beside the passages, as token ids for MASTER.
    MasterLines(Box<teacher::MasterLinesArgs>),
}

pub fn run(args: DataArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        DataCommand::Convert(args) => convert::run(*args, output),
        DataCommand::BuildTrain(args) => build_train::run(*args, output),
        DataCommand::WordPieces(args) => pretraining::word_pieces(args, output),
        DataCommand::FrequencyDictionary(args) => pretraining::frequency_dictionary(args, output),
        DataCommand::SpanPairs(args) => pretraining::span_pairs(args, output),
        DataCommand::Blocks(args) => pretraining::blocks(args, output),
        DataCommand::GenerateQueries(args) => teacher::generate_queries(*args, output),
        DataCommand::GenerateContinuations(args) => teacher::generate_continuations(*args, output),
        DataCommand::FromFeedback(args) => feedback::run(args, output),
        DataCommand::MasterLines(args) => teacher::master_lines(*args, output),
    }
}

/// Reads a data set, and says what was left out of it.
pub fn read(source: &DataSource, output: &Output) -> anyhow::Result<Dataset> {
    let progress = Progress::new(output);
    let mut on_progress = |unit: &'static str, n: u64| progress.update(unit, unit, n, 0);
    let dataset = source.read(&mut on_progress);
    progress.finish();
    let dataset = dataset?;
    let report = dataset.report();
    for (reason, n) in &report.left_out {
        let first = report.first_left_out.get(reason).map_or("", String::as_str);
        output.remark(format!("left out: {n} {reason}, the first is {first}"));
    }
    Ok(dataset)
}

/// The counts of a report as JSON, with more beside them.
pub fn summary(report: &DataReport, more: Value) -> Value {
    let mut summary = Map::from_iter([
        ("examples".to_owned(), json!(report.n_examples)),
        ("positives".to_owned(), json!(report.n_positives)),
        ("negatives".to_owned(), json!(report.n_negatives)),
        (
            "without_negatives".to_owned(),
            json!(report.n_without_negatives),
        ),
        ("left_out".to_owned(), json!(report.left_out)),
    ]);
    if let Value::Object(more) = more {
        summary.extend(more);
    }
    Value::Object(summary)
}
