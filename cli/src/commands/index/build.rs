use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use collection::{AliasName, BuildMode, LIVE};
use corpus::{CorpusConfig, CorpusFormat, Schema, Template};
use encoder::{Arithmetic, Preset, Role};
use index::{HnswConfig, Metric, RowType};
use indexer::{
    BroughtVectors, BuildConfig, BuildReport, DEFAULT_CHUNK_PASSAGES, NotReused, Phase, Reuse,
    build_from_vectors,
};
use serde_json::json;
use store::Language;
use vectors::VectorFile;

use super::gate::GateArgs;
use super::{open, publish};
use crate::failure::Failure;
use crate::interrupt;
use crate::model::{ModelArgs, metric_named, named};
use crate::output::Output;
use crate::progress::Progress;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index build --corpus corpus.jsonl --collection data/docs
  trawl index build --corpus part-*.jsonl.zst --model models/mine --collection data/docs --shards 4 --publish
  trawl index build --corpus docs.tsv --columns id,text,title --collection data/docs --resume
  trawl index build --corpus books.jsonl --collection data/books --passage-tokens 256 --stride 192

Vectors of passages whose text has not changed are taken over from the generation that is searched, if model, templates,
arithmetic and --rows are the same; docs/rebuilding.md says more. `--full` encodes everything.

The first generation of a collection is searched at once, later ones when they are published.")]
pub struct BuildArgs {
    /// Files of the corpus: JSON lines, TSV or CSV; gzip and zstd are recognised.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// Folder of the collection; made when it is not there.
    #[arg(long, value_name = "PATH")]
    collection: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
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
    /// Links of a node of the graph, M of the paper; twice as many in the lowest layer.
    #[arg(long, value_name = "N", default_value_t = HnswConfig::default().m)]
    hnsw_m: usize,
    /// Candidates kept while a node is linked, efConstruction of the paper: more find better links and take longer.
    #[arg(long, value_name = "N", default_value_t = HnswConfig::default().ef_construction)]
    hnsw_ef_construction: usize,
    /// Language of the BM25 index: its stop words and stemmer.
    #[arg(long, value_name = "NAME", default_value_t, value_parser = named::<Language>)]
    language: Language,
    /// Shards that the vectors are divided into.
    #[arg(long, value_name = "N", default_value_t = 1)]
    shards: usize,
    /// Passages that are encoded and made durable together; what a kill can cost.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CHUNK_PASSAGES)]
    chunk_passages: usize,
    /// Continue an interrupted build of the same content; a finished one is taken as it is.
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Drop an interrupted build of the same content.
    #[arg(long)]
    restart: bool,
    /// Encode every passage, also those whose vectors the generation before has.
    #[arg(long, conflicts_with = "base")]
    full: bool,
    /// Alias or generation whose vectors are taken over where a passage's text has not changed.
    #[arg(long, value_name = "NAME", default_value = LIVE, conflicts_with = "vectors")]
    base: String,
    /// Search the new generation as soon as it is complete and has passed the gate.
    #[arg(long)]
    publish: bool,
    #[command(flatten)]
    gate: GateArgs,
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

impl BuildArgs {
    /// The vectors of `--vectors`.
    fn brought(&self) -> anyhow::Result<Option<BroughtVectors>> {
        let (Some(vectors), Some(ids), Some(metric)) = (&self.vectors, &self.ids, self.metric)
        else {
            return Ok(None); // The three are given together.
        };
        let file = VectorFile::open(vectors, self.vectors_name.as_deref())?;
        Ok(Some(BroughtVectors::open(file, ids, metric)?))
    }

    fn resolve(self, model: Option<PathBuf>) -> anyhow::Result<BuildConfig> {
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
            collection: self.collection,
            corpus: CorpusConfig {
                paths: self.corpus,
                format: self.reading.format.unwrap_or_default(),
                columns: self.reading.columns,
                skip_bad_lines: self.reading.skip_bad_lines,
                schema,
                ..CorpusConfig::default()
            },
            model,
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
            graph: match self.kind {
                Kind::Flat => None,
                Kind::Hnsw => Some(HnswConfig {
                    m: self.hnsw_m,
                    ef_construction: self.hnsw_ef_construction,
                    ..HnswConfig::default()
                }),
            },
            language: self.language,
            base: (!self.full).then_some(self.base),
            mode: match (self.resume, self.restart) {
                (true, _) => BuildMode::Resume,
                (_, true) => BuildMode::Restart,
                _ => BuildMode::New,
            },
            publish: false,
        })
    }
}

impl indexer::Progress for Progress {
    fn update(&self, phase: Phase, done: u64, total: u64) {
        self.update(phase.as_str(), phase.unit(), done, total);
    }
}

pub fn run(args: BuildArgs, output: &Output) -> anyhow::Result<()> {
    let start = Instant::now();
    let vectors = args.brought()?;
    let progress = Progress::new(output);
    let cancelled = interrupt::flag()?;
    let mut max_tokens = 0;
    let (wanted, gate, model) = (args.publish, args.gate.clone(), args.model.clone());
    let (collection, built) = if let Some(vectors) = vectors {
        let config = args.resolve(None)?;
        let built = build_from_vectors(&config, &vectors, &progress, &cancelled);
        (config.collection, built)
    } else {
        let directory = args.model.directory()?.canonicalize()?;
        let encoder = args.model.load(&directory, Arithmetic::Auto)?;
        max_tokens = encoder.max_tokens(Role::Passage);
        let config = args.resolve(Some(directory))?;
        let built = indexer::build(&config, &encoder, &progress, &cancelled);
        (config.collection, built)
    };
    progress.finish();
    let mut report =
        built.with_context(|| format!("cannot index into `{}`", collection.display()))?;
    for bad_line in &report.bad_examples {
        output.remark(format!("skipped {bad_line}"));
    }
    let mut gate_report = None;
    if wanted && !report.live {
        let writer = open(&collection)?.writer("trawl index build --publish")?;
        let live = AliasName::parse(LIVE)?;
        gate_report = publish::publish(&writer, &report.generation, &live, &gate, &model, output)?;
        report.live = true;
    }
    let (counts, seconds) = (report.counts, start.elapsed().as_secs_f64());
    let shown = json!({
        "generation": report.generation,
        "path": report.path,
        "live": report.live,
        "content_digest": report.content_digest,
        "counts": counts,
        "resumed_passages": report.n_resumed,
        "reused": reused(&report.reuse),
        "encode_seconds": report.encode_time.as_secs_f64(),
        "schema": report.schema,
        "gate": gate_report,
        "seconds": seconds,
    });
    output.result(&shown, |_| summary(&report, max_tokens, seconds))
}

/// What was taken over, or why nothing was.
fn reused(reuse: &Reuse) -> serde_json::Value {
    match reuse {
        Reuse::From {
            generation,
            n_passages,
        } => json!({ "generation": generation, "passages": n_passages }),
        Reuse::Nothing(reason) => json!({ "passages": 0, "reason": reason.to_string() }),
        _ => serde_json::Value::Null,
    }
}

fn summary(report: &BuildReport, max_tokens: usize, seconds: f64) -> String {
    let BuildReport {
        generation, counts, ..
    } = report;
    let state = if report.live {
        "live"
    } else {
        "not live yet: `trawl index publish` makes it so"
    };
    let mut text = format!("generation {generation} ({state})\n");
    let documents = match counts.documents {
        0 => String::new(),
        n => format!(" of {n} documents"),
    };
    text += &format!(
        "{} passages{documents}, {} tokens, {seconds:.1} s\n",
        counts.passages, counts.tokens
    );
    match &report.reuse {
        Reuse::From {
            generation,
            n_passages,
        } => {
            let n_new = counts.passages - n_passages;
            text += &format!(
                "{n_passages} vectors taken over from {generation}, {n_new} passages encoded\n"
            );
        }
        Reuse::Nothing(
            NotReused::First | NotReused::Full | NotReused::Brought | NotReused::Finished,
        ) => {}
        Reuse::Nothing(reason) => text += &format!("all passages encoded: {reason}\n"),
        _ => {}
    }
    let remarks = [
        (
            report.n_resumed,
            "passages taken from an earlier run".to_owned(),
        ),
        (
            counts.truncated,
            format!("passages cut at {max_tokens} tokens"),
        ),
        (counts.missing_fields, "template fields missing".to_owned()),
        (counts.bad_lines, "bad lines skipped".to_owned()),
    ];
    for (n, what) in remarks.iter().filter(|(n, _)| *n > 0) {
        text += &format!("{n} {what}\n");
    }
    for (name, field) in &report.schema.fields {
        let kind = serde_json::to_value(field.kind).unwrap_or_default();
        let filterable = if field.filterable { ", filterable" } else { "" };
        text += &format!(
            "field {name}: {}{filterable}\n",
            kind.as_str().unwrap_or_default()
        );
    }
    text
}
