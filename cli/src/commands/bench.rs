mod clock;
mod encode;
mod search;
mod serve;
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
    /// Measure a running server: latency and answers a second at given rates of requests.
    Serve(serve::ServeArgs),
}

pub fn run(args: BenchArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::Encode(args) => encode::run(args, output),
        BenchCommand::Search(args) => search::run(args, output),
        BenchCommand::Serve(args) => serve::run(args, output),
    }
}
