mod clock;
mod encode;
mod search;
mod texts;
mod train;

use crate::output::Output;

/// Arguments of `trawl bench`.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    /// Measure a model: texts to vectors, queries one by one, pairs to scores, or training steps.
    Encode(encode::EncodeArgs),
    /// Measure an index: recall, queries a second, CPU time, latency, building, memory.
    Search(search::SearchArgs),
}

pub fn run(args: BenchArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::Encode(args) => encode::run(args, output),
        BenchCommand::Search(args) => search::run(args, output),
    }
}
