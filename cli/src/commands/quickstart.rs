use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context;
use collection::BuildMode;
use corpus::CorpusConfig;
use encoder::Arithmetic;
use hub::DEFAULT_RERANKER;
use indexer::BuildConfig;
use serde_json::json;
use server::{QueueConfig, Server, ServerConfig};

use super::search::{HowArgs, Session, hits_table};
use super::serve::{Stops, run_until_stopped};
use crate::model::{self, DEFAULT_MODEL, ModelArgs};
use crate::output::{self, Output};
use crate::progress::Progress;

/// The sample corpus travels inside the binary.
pub(super) const CORPUS: &str = include_str!("../../../tests/fixtures/sample/corpus.jsonl");
const COLLECTION: &str = "sample";
/// Paraphrases: none of them shares a content word with the passage that answers it.
const QUERIES: [&str; 3] = [
    "chopping shallots brings on tears",
    "pleasant odor following a shower on parched earth",
    "should I store my baguette in the fridge",
];

/// Arguments of `trawl quickstart`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Gets the default model, indexes the sample corpus, answers three queries with the default reranker, and serves.

Examples:
  trawl quickstart
  trawl quickstart --no-serve
  trawl quickstart --port 9000 --dir /tmp/quick"
)]
pub struct QuickstartArgs {
    /// End after the three answers.
    #[arg(long)]
    no_serve: bool,
    /// Port to serve on, on 127.0.0.1.
    #[arg(long, default_value_t = 8080, value_name = "N")]
    port: u16,
    /// Folder for the corpus and its index.
    #[arg(long, default_value = "trawl-quickstart", value_name = "DIR")]
    dir: PathBuf,
}

pub fn run(args: QuickstartArgs, output: &Output) -> anyhow::Result<()> {
    let stops = Stops::listen()?;
    let pulled = model::cache()?
        .pull(DEFAULT_MODEL, &mut |line| output.remark(line))
        .with_context(|| format!("cannot get model `{DEFAULT_MODEL}`"))?;
    output.remark(format!("model: {DEFAULT_MODEL}, {}", pulled.source));

    let collection = args.dir.join(COLLECTION);
    let corpus = args.dir.join("corpus.jsonl");
    let written = fs::create_dir_all(&args.dir).and_then(|()| fs::write(&corpus, CORPUS));
    written.with_context(|| format!("cannot write `{}`", corpus.display()))?;
    let model = ModelArgs::named(&pulled.path);
    let encoder = model.load(&pulled.path, Arithmetic::Auto)?;
    let start = Instant::now();
    let config = BuildConfig {
        mode: BuildMode::Resume,
        publish: true,
        ..BuildConfig::new(
            collection.clone(),
            CorpusConfig {
                paths: vec![corpus],
                ..CorpusConfig::default()
            },
            pulled.path,
        )
    };
    let progress = Progress::new(output);
    let built = indexer::build(&config, &encoder, &progress, &AtomicBool::new(false));
    progress.finish();
    let report = built.with_context(|| format!("cannot index into `{}`", collection.display()))?;
    let n_passages = report.counts.passages;
    output.remark(format!(
        "index: {n_passages} passages, generation {}, ready after {:.1} s",
        report.generation,
        start.elapsed().as_secs_f64()
    ));

    let how = HowArgs::reranked(3, DEFAULT_RERANKER);
    let session = Session::open(&collection, &how, &model)?;
    let mut answers = Vec::new();
    for query in QUERIES {
        let answer = session.search(query)?;
        let milliseconds = answer.timing.total.as_secs_f64() * 1e3;
        if !output.json {
            output::print(&format!(
                "\n“{query}” ({milliseconds:.1} ms)\n{}",
                hits_table(&answer)
            ))?;
        }
        answers.push(json!({ "query": query, "results": answer.hits, "ms": milliseconds }));
    }
    let shown = json!({
        "model": DEFAULT_MODEL, "collection": collection, "generation": report.generation.to_string(),
        "passages": n_passages, "answers": answers,
    });
    output.result(&shown, |_| try_it(&collection, &args))?;
    if args.no_serve {
        return Ok(());
    }
    let config = ServerConfig {
        bind: SocketAddr::from(([127, 0, 0, 1], args.port)),
        ..ServerConfig::default()
    };
    let mut server = Server::new(config);
    let queue = QueueConfig::for_threads(compute::thread_budget(None));
    server.add_encoder(DEFAULT_MODEL, encoder, queue)?;
    let config = model.encoder_config(Arithmetic::Auto)?;
    let reranker = model::load_reranker(Path::new(DEFAULT_RERANKER), &config)?;
    server.add_reranker(DEFAULT_RERANKER, reranker, queue)?;
    server.add_collection(
        COLLECTION,
        session.retriever,
        Some(DEFAULT_MODEL),
        Some(DEFAULT_RERANKER),
    )?;
    run_until_stopped(server, None, stops, output)
}

/// How the collection is asked from here on.
fn try_it(collection: &Path, args: &QuickstartArgs) -> String {
    let (collection, port) = (collection.display(), args.port);
    let body = format!(
        r#"{{"query": "{}", "top_k": 3, "rerank": {{}}}}"#,
        QUERIES[0]
    );
    let mut text = format!(
        "\nTry it:\n  trawl search {collection} \"your own question\"\n  \
         curl -s http://127.0.0.1:{port}/v1/collections/{COLLECTION}/search \\\n    \
         -H 'content-type: application/json' -d '{body}'\n\n",
    );
    if args.no_serve {
        text += &format!("(curl needs the server: `trawl serve {collection}`)\n");
    }
    text
}
