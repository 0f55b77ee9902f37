//! The one binary of trawl: arguments to configs, progress, error report.
//!
//! Each command is a file in `commands/`: its arguments, their resolution into a library's config, and how its result
//! is shown. Results go to standard output, progress and errors to standard error. How a failure becomes an exit code
//! and a hint stands in one place, `failure`.

mod bundle;
mod chart;
mod commands;
mod device;
mod failure;
mod filter;
mod fusion;
mod group;
mod interrupt;
mod milvus;
mod model;
mod npy;
mod output;
mod progress;
mod query_vectors;
mod ranking;
mod ranks;
mod server_auth;
mod server_file;
mod storage;

use std::process::ExitCode;

use clap::Parser;

/// Dense retrieval in one binary: index a corpus, search it, serve it, measure it.
#[derive(Debug, Parser)]
#[command(
    name = "trawl",
    version,
    propagate_version = true,
    max_term_width = 110
)]
#[command(after_help = "Examples:
  trawl quickstart                                              a sample corpus, three queries, a server
  trawl index build --corpus corpus.jsonl --model all-MiniLM-L6-v2 --collection data/docs
  trawl search data/docs \"why is the sky blue\" -k 5
  trawl serve data/docs

Exit codes: 0 ok, 1 failed, 2 usage, 3 gate failed, 4 fingerprint mismatch, 5 corrupt, 65 bad input data, 130 interrupted.")]
struct Cli {
    #[command(flatten)]
    output: output::OutputArgs,
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.output.resolve();
    output.start_log();
    match commands::run(cli.command, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::Cli;

    #[test]
    fn the_help_of_every_command_has_an_example() {
        fn check(command: &Command, path: &str) {
            let mut subcommands = command.get_subcommands().peekable();
            if subcommands.peek().is_none() {
                let help = command.get_after_help().map(ToString::to_string);
                let has_example = help.is_some_and(|help| help.contains(path));
                assert!(has_example, "`{path} --help` has no example");
            }
            for subcommand in subcommands {
                check(subcommand, &format!("{path} {}", subcommand.get_name()));
            }
        }
        check(&Cli::command(), "trawl");
    }
}
