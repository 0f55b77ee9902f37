//! One file a command.

mod bench;
mod bundle;
mod completions;
pub mod config;
mod data;
mod doctor;
mod documents;
mod embed;
mod eval;
mod index;
mod mine;
mod model;
mod openapi;
mod quickstart;
mod rerank;
mod search;
mod serve;
mod train;

use crate::output::Output;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Get the default model, index the sample corpus, answer three queries, and serve.
    Quickstart(quickstart::QuickstartArgs),
    /// Build, list, verify and publish the generations of a collection.
    Index(index::IndexArgs),
    /// Add, delete and print single documents of a collection.
    Documents(documents::DocumentsArgs),
    /// Search a collection: one query, or a file of queries into a TREC run.
    Search(Box<search::SearchArgs>),
    /// Answer over HTTP: search, embeddings, reranking.
    Serve(serve::ServeArgs),
    /// Pack a generation with its models into one file, which is served and searched without a network.
    Bundle(bundle::BundleArgs),
    /// Check and print what `serve` would run with; make API keys.
    Config(config::ConfigArgs),
    /// Reorder a TREC run with a cross-encoder.
    Rerank(rerank::RerankArgs),
    /// Measure a run, a collection, or many data sets.
    Eval(Box<eval::EvalArgs>),
    /// Convert training data of other toolkits, write OpenMatch's, prepare pre-training.
    Data(data::DataArgs),
    /// Find hard negatives in a run.
    Mine(Box<mine::MineArgs>),
    /// Train a model: a configuration, a run directory, checkpoints, dev figures.
    Train(train::TrainArgs),
    /// Turn texts into vectors, one a line.
    Embed(embed::EmbedArgs),
    /// Get, describe and check models.
    Model(model::ModelCommandArgs),
    /// Measure speed on this machine, and what a faster arithmetic costs.
    Bench(bench::BenchArgs),
    /// Say what this machine offers and what is missing.
    Doctor(doctor::DoctorArgs),
    /// Print the OpenAPI document of the HTTP API.
    #[command(after_help = "Example: trawl openapi > openapi.json")]
    Openapi,
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

pub fn run(command: Command, output: &Output) -> anyhow::Result<()> {
    match command {
        Command::Quickstart(args) => quickstart::run(args, output),
        Command::Index(args) => index::run(args, output),
        Command::Documents(args) => documents::run(args, output),
        Command::Search(args) => search::run(*args, output),
        Command::Serve(args) => serve::run(args, output),
        Command::Bundle(args) => bundle::run(args, output),
        Command::Config(args) => config::run(args, output),
        Command::Rerank(args) => rerank::run(args, output),
        Command::Eval(args) => eval::run(*args, output),
        Command::Data(args) => data::run(args, output),
        Command::Mine(args) => mine::run(*args, output),
        Command::Train(args) => train::run(args, output),
        Command::Embed(args) => embed::run(args, output),
        Command::Model(args) => model::run(args, output),
        Command::Bench(args) => bench::run(args, output),
        Command::Doctor(args) => doctor::run(args, output),
        Command::Openapi => openapi::run(),
        Command::Completions(args) => completions::run(args),
    }
}
