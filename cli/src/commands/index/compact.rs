use std::path::PathBuf;

use anyhow::Context;
use collection::{AliasName, Collection, CollectionError, LIVE, LogConfig};
use indexer::{BuildError, CompactConfig, CompactReport, LiveError};
use serde_json::json;

use super::open;
use crate::interrupt;
use crate::model::{self, ModelArgs};
use crate::output::Output;
use crate::progress::Progress;

/// Arguments of `trawl index compact`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index compact data/docs
  trawl index compact data/docs --no-publish

The new generation has the passages of the one before that are still there, in their order, and behind them the documents that
the write log brought, in the order in which each was last written: what a full build of such a corpus would give, digest and all.
Documents may be changed meanwhile.")]
pub struct CompactArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// The alias whose generation is folded with the log.
    #[arg(long, value_name = "NAME", default_value = LIVE)]
    alias: String,
    /// Leave the alias as it is.
    #[arg(long)]
    no_publish: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &CompactArgs, output: &Output) -> anyhow::Result<()> {
    let collection = open(&args.collection)?;
    let config = CompactConfig {
        alias: AliasName::parse(&args.alias)?,
        publish: !args.no_publish,
    };
    let progress = Progress::new(output);
    let cancelled = interrupt::flag()?;
    let compact = |encoder| indexer::compact(&collection, &config, encoder, &progress, &cancelled);
    let report = match compact(None) {
        Err(BuildError::Live(LiveError::Fingerprint { .. })) => {
            let base = collection.resolve(&args.alias)?;
            let encoder = model::encoder_of(&base.manifest, &args.model)?;
            compact(Some(&encoder))
        }
        report => report,
    };
    progress.finish();
    let report =
        report.with_context(|| format!("cannot compact `{}`", args.collection.display()))?;
    let (base, generation, n_kept, n_added) = match report {
        CompactReport::Nothing { generation } => {
            let shown = json!({ "generation": generation, "folded": false });
            return output.result(&shown, |_| {
                format!("generation {generation} contains the whole write log")
            });
        }
        CompactReport::Folded {
            base,
            generation,
            n_kept,
            n_added,
        } => (base, generation, n_kept, n_added),
    };
    let freed = truncate(&collection)?;
    let manifest = &generation.manifest;
    let position = manifest.log_position;
    let shown = json!({
        "generation": generation.id, "folded": true, "base": base, "kept": n_kept, "added": n_added,
        "published": config.publish, "content_digest": manifest.content_digest, "log_position": position,
        "log_bytes_removed": freed,
    });
    output.result(&shown, |_| {
        let state = match config.publish {
            true => config.alias.to_string(),
            false => "not published".to_owned(),
        };
        format!(
            "generation {} ({state}) contains the write log up to {position}: {n_kept} passages of {base}, {n_added} new ones\n",
            generation.id
        )
    })
}

/// Removes what every generation contains of the log, unless somebody else writes log or collection: then it is left to the next one.
fn truncate(collection: &Collection) -> Result<u64, CollectionError> {
    let command = "trawl index compact";
    let log = collection.log_writer(command, LogConfig::default());
    match log.and_then(|mut log| log.truncate(&collection.writer(command)?)) {
        Err(CollectionError::Locked { .. }) => Ok(0),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log is folded by then: the command has done what it was asked for.
    #[test]
    fn a_log_is_left_as_it_is_while_others_write_the_collection() {
        let folder = tempfile::tempdir().unwrap();
        let collection = Collection::create(&folder.path().join("docs")).unwrap();
        let config = LogConfig::default();
        let writer = collection.writer("test").unwrap();
        assert_eq!(truncate(&collection).unwrap(), 0);
        drop(writer);
        let log = collection.log_writer("test", config).unwrap();
        assert_eq!(truncate(&collection).unwrap(), 0);
        drop(log);
    }
}
