use std::path::PathBuf;

use indexer::Changes;

use super::open;
use crate::output::Output;
use crate::progress::Progress;

/// Arguments of `trawl index diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  trawl index diff data/docs live 20261120T195500Z-3f9a1c
  trawl index diff data/docs live 20261120T195500Z-3f9a1c --ids 1000 --json")]
pub struct DiffArgs {
    /// Folder of the collection.
    collection: PathBuf,
    /// Alias or generation that is compared with.
    from: String,
    /// Alias or generation that is compared.
    to: String,
    /// List so many ids of each kind at most.
    #[arg(long, value_name = "N", default_value_t = 10)]
    ids: usize,
}

pub fn run(args: &DiffArgs, output: &Output) -> anyhow::Result<()> {
    let collection = open(&args.collection)?;
    let (from, to) = (
        collection.resolve(&args.from)?,
        collection.resolve(&args.to)?,
    );
    let n_total = from.manifest.counts.passages + to.manifest.counts.passages;
    let progress = Progress::new(output);
    let found = indexer::diff(&from, &to, args.ids, |n| {
        progress.update("compare", "passages", n, n_total);
    });
    progress.finish();
    output.result(&found?, |found| {
        let mut text = format!("{} → {}\n", found.from, found.to);
        let kinds = [
            ("added", &found.added),
            ("changed", &found.changed),
            ("removed", &found.removed),
        ];
        for (kind, Changes { n, ids }) in kinds {
            let more = if *n > ids.len() as u64 && !ids.is_empty() {
                ", …"
            } else {
                ""
            };
            let list = if ids.is_empty() { "" } else { ": " };
            text += &format!("{n} {kind}{list}{}{more}\n", ids.join(", "));
        }
        text += &format!("{} unchanged\n", found.n_unchanged);
        for (what, entries) in [
            ("fingerprint", &found.fingerprint),
            ("setting", &found.settings),
        ] {
            for [entry, before, after] in entries {
                text += &format!("{what} {entry}: {before} → {after}\n");
            }
        }
        if found.same_content {
            text += "vectors and passages are equal bit for bit\n";
        }
        text
    })
}
