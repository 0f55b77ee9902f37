//! What a generation is made of.

use std::path::PathBuf;

use anyhow::Context;
use corpus::{CorpusConfig, CorpusFormat, Schema, Template};
use encoder::Preset;
use index::{HnswConfig, Metric, RowType};
use indexer::{BroughtVectors, BuildConfig, DEFAULT_CHUNK_PASSAGES};
use store::Language;
use vectors::VectorFile;

use crate::failure::Failure;
use crate::model::{ModelArgs, metric_named, named};

/// Corpus, model and form of a generation, for building one and for planning that.
#[derive(Debug, clap::Args)]
pub struct ContentArgs {
    /// Files of the corpus: JSON lines, TSV or CSV; gzip and zstd are recognised.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Vectors of the passages in place of a model: .npy, .fvecs, .bvecs, .safetensors; needs `--ids` and `--metric`.
    #[arg(long, value_name = "FILE", requires_all = ["ids", "metric"], conflicts_with_all = ["model", "template", "query_template", "pair"])]
    vectors: Option<PathBuf>,
    /// Tensor of `--vectors` (default: its only two-dimensional one).
    #[arg(long, value_name = "NAME", requires = "vectors")]
    vectors_name: Option<String>,
    /// Text file with the id of each vector's passage, one a line.
    #[arg(long, value_name = "FILE", requires = "vectors")]
    ids: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    pub room: RoomArgs,
    /// Text of a passage that is encoded (default: `<title> <text>`, or what the preset says).
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<String>,
    /// Split texts longer than `--passage-tokens N` into passages of whole sentences, each with the title, in place of
    /// cutting them there; neighbors share at most N - M tokens.
    #[arg(long, value_name = "M", conflicts_with = "vectors")]
    stride: Option<usize>,
    /// Encode title and text as a pair of texts, as SimLM does; `--template` makes the second of them (default: `<text>`).
    #[arg(long)]
    pair: bool,
    /// Text of a query that is encoded (default: `<text>`, or what the preset says).
    #[arg(long, value_name = "TEMPLATE")]
    query_template: Option<String>,
    /// How `--vectors` are compared: ip, cosine, l2. A model says so itself, or `--similarity` does.
    #[arg(long, value_name = "NAME", requires = "vectors", value_parser = metric_named)]
    metric: Option<Metric>,
    /// How vectors are stored: f32, f16 (half the size; cosines change by less than 0.0005), bf16, or int8
    /// (a quarter; changes rankings).
    #[arg(long, value_name = "NAME", default_value = "f32", value_parser = named::<RowType>)]
    rows: RowType,
    /// How vectors are searched: flat (exactly), or hnsw (also by a graph, where that is faster).
    #[arg(long, value_name = "NAME", default_value = "flat")]
    kind: Kind,
    /// Links of a node of the graph, M of the paper; twice as many in the lowest layer (default: 16).
    #[arg(long, value_name = "N")]
    hnsw_m: Option<usize>,
    /// Candidates kept while a node is linked, efConstruction of the paper: more find better links and take longer (default: 200).
    #[arg(long, value_name = "N")]
    hnsw_ef_construction: Option<usize>,
    /// Language of the BM25 index: its stop words and stemmer.
    #[arg(long, value_name = "NAME", default_value_t, value_parser = named::<Language>)]
    language: Language,
    /// Shards that the vectors are divided into.
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: usize,
    /// Passages that are encoded and made durable together; what a kill can cost.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CHUNK_PASSAGES)]
    chunk_passages: usize,
}

/// What a build leaves to others on the machine, such as a server.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct RoomArgs {
    /// Yield to other processes: 0 not at all, 19 the most.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=19))]
    nice: u8,
}

impl RoomArgs {
    /// Before any thread is started: each has the priority of the one that starts it.
    pub fn make(self, threads: Option<usize>) -> anyhow::Result<()> {
        if self.nice > 0 {
            compute::yield_to_others(self.nice).context("cannot lower the priority")?;
        }
        if let Some(threads) = threads {
            let threads = compute::thread_budget(Some(threads));
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build_global()?;
        }
        Ok(())
    }
}

/// How vectors are searched.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Kind {
    /// Exactly.
    Flat,
    /// By a graph, or exactly where that is asked for or faster.
    Hnsw,
}

/// How the corpus is read.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Corpus")]
struct ReadingArgs {
    /// Format of the corpus (default: told from its name and content): jsonl, tsv, csv.
    #[arg(long, value_name = "NAME", value_parser = named::<CorpusFormat>)]
    format: Option<CorpusFormat>,
    /// Names of the columns of a TSV or CSV corpus, in order (default: its first line).
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Kinds of the metadata fields, as TOML (default: inferred).
    #[arg(long, value_name = "FILE")]
    schema: Option<PathBuf>,
    /// Leave bad lines out and count them, in place of stopping at the first.
    #[arg(long)]
    skip_bad_lines: bool,
}

impl ContentArgs {
    /// The vectors of `--vectors`.
    pub fn brought(&self) -> anyhow::Result<Option<BroughtVectors>> {
        let (Some(vectors), Some(ids), Some(metric)) = (&self.vectors, &self.ids, self.metric)
        else {
            return Ok(None); // The three are given together.
        };
        let file = VectorFile::open(vectors, self.vectors_name.as_deref())?;
        Ok(Some(BroughtVectors::open(file, ids, metric)?))
    }

    /// The graph over the vectors, if there is to be one.
    fn graph(&self) -> anyhow::Result<Option<HnswConfig>> {
        let flag = match (self.hnsw_m, self.hnsw_ef_construction) {
            (Some(_), _) => Some("--hnsw-m"),
            (_, Some(_)) => Some("--hnsw-ef-construction"),
            (None, None) => None,
        };
        let default = HnswConfig::default();
        match (self.kind, flag) {
            (Kind::Flat, None) => Ok(None),
            (Kind::Flat, Some(flag)) => {
                let text = format!("{flag} has an effect with `--kind hnsw` only");
                Err(Failure::usage(text).into())
            }
            (Kind::Hnsw, _) => Ok(Some(HnswConfig {
                m: self.hnsw_m.unwrap_or(default.m),
                ef_construction: self.hnsw_ef_construction.unwrap_or(default.ef_construction),
                ..default
            })),
        }
    }

    /// What is built into `collection`, a new generation that is not published.
    pub fn resolve(
        self,
        collection: PathBuf,
        model: Option<PathBuf>,
    ) -> anyhow::Result<BuildConfig> {
        let graph = self.graph()?;
        let options = self.model.options();
        let preset = options.preset;
        let pair = self.pair || preset.is_some_and(Preset::passage_pair);
        let passage_template = match preset {
            _ if pair => Some("<text>"),
            Some(preset) => Some(preset.passage_template()),
            None => None,
        };
        let template =
            |text: Option<String>, preset: Option<&str>, default: fn() -> Template| match text
                .as_deref()
                .or(preset)
            {
                Some(text) => {
                    Template::parse(text).map_err(|error| Failure::usage(error.to_string()))
                }
                None => Ok(default()),
            };
        let schema = self
            .reading
            .schema
            .as_deref()
            .map(Schema::from_toml)
            .transpose()?;
        Ok(BuildConfig {
            corpus: CorpusConfig {
                paths: self.corpus,
                format: self.reading.format.unwrap_or_default(),
                columns: self.reading.columns,
                skip_bad_lines: self.reading.skip_bad_lines,
                schema,
                ..CorpusConfig::default()
            },
            model_options: options,
            passage_pair: pair,
            stride: self.stride,
            passage_template: template(self.template, passage_template, Template::default)?,
            query_template: template(
                self.query_template,
                preset.map(Preset::query_template),
                Template::query_default,
            )?,
            n_shards: self.shards,
            chunk_passages: self.chunk_passages,
            rows: self.rows,
            graph,
            language: self.language,
            ..BuildConfig::new(collection, CorpusConfig::default(), model)
        })
    }
}
