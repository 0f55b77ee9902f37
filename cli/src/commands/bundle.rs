use std::path::{Path, PathBuf};

use anyhow::Context;
use collection::{Collection, LIVE};
use serde_json::json;

use crate::bundle::{self, Contents};
use crate::failure::{Exit, Failure};
use crate::model::{self, ModelArgs};
use crate::output::Output;

/// Arguments of `trawl bundle`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl bundle data/docs --to docs.trawl
  trawl serve docs.trawl
  trawl search docs.trawl \"why is the sky blue\" --rerank trawl-reranker-small

The file has everything that an answer needs but this program. It is checked and unpacked into `trawl/bundles` in the user's cache
folder (`$XDG_CACHE_HOME`) when it is first used, and found there from then on.")]
pub struct BundleArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Alias or generation.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    generation: String,
    /// Cross-encoder (directory or name); `none` leaves it out.
    #[arg(long, value_name = "DIR|NAME", default_value = hub::DEFAULT_RERANKER)]
    rerank: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: BundleArgs, output: &Output) -> anyhow::Result<()> {
    let context = || format!("cannot open collection `{}`", args.collection.display());
    let generation = Collection::open(&args.collection)
        .and_then(|collection| collection.resolve(&args.generation))
        .with_context(context)?;
    if let Some(fault) = generation.verify(|_| ()).first() {
        let text = format!("generation `{}`: {fault}", generation.id);
        return Err(Failure::new(Exit::Corrupt, text).into());
    }
    let encoder = match generation.manifest.fingerprint["space"] == "external" {
        true => None,
        // Loaded, so that no other model is packed than the one that the vectors are of.
        false => Some(model::encoder_and_directory(&generation.manifest, &args.model)?.1),
    };
    let reranker = match args.rerank == Path::new("none") {
        true => None,
        false => Some(model::find(&args.rerank)?),
    };
    let contents = Contents {
        generation: &generation,
        encoder: encoder.as_deref(),
        reranker: reranker.as_deref(),
    };
    let n_bytes = bundle::write(&args.to, &contents)
        .with_context(|| format!("cannot write bundle `{}`", args.to.display()))?;
    let shown = json!({ "bundle": args.to, "generation": generation.id, "bytes": n_bytes });
    output.result(&shown, |_| {
        format!(
            "{}: generation {}, {n_bytes} bytes",
            args.to.display(),
            generation.id
        )
    })
}
