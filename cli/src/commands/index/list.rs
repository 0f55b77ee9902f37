use std::path::Path;

use anyhow::Context;
use collection::{Aliases, GenerationId, Manifest};
use serde_json::json;

use super::{chain, open};
use crate::output::{self, Output};
use crate::storage;

pub fn run(path: &Path, output: &Output) -> anyhow::Result<()> {
    let shown: Vec<_> = match storage::location(path)? {
        Some(location) => {
            let objects = storage::open(&location)?;
            let failed = || format!("cannot list `{location}`");
            let aliases = objects.aliases().with_context(failed)?;
            let row = |id: &GenerationId| {
                let names = names(&aliases.now, &aliases.before, id);
                row(id, &names, objects.manifest(id))
            };
            objects
                .generations()
                .with_context(failed)?
                .iter()
                .map(row)
                .collect()
        }
        None => {
            let collection = open(path)?;
            for path in collection.unfinished()? {
                output.remark(format!("unfinished build: {}", path.display()));
            }
            let (aliases, previous) = (collection.aliases()?, collection.previous()?);
            let row = |id: &GenerationId| {
                let names = names(&aliases, &previous, id);
                let generation = collection.generation(id);
                row(id, &names, generation.map(|generation| generation.manifest))
            };
            collection.generations()?.iter().map(row).collect()
        }
    };
    output.result(&shown, |shown| {
        if shown.is_empty() {
            return "no generation yet".to_owned();
        }
        let header = [
            "generation",
            "aliases",
            "created",
            "documents",
            "passages",
            "shards",
            "width",
            "metric",
            "bytes",
            "error",
        ];
        let cell = |row: &serde_json::Value, name: &str| match &row[name] {
            serde_json::Value::Null => String::new(),
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(names) => names
                .iter()
                .filter_map(|name| name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
            other => other.to_string(),
        };
        let header: Vec<_> = header
            .into_iter()
            .filter(|name| shown.iter().any(|row| !row[name].is_null()))
            .collect();
        let rows = shown
            .iter()
            .map(|row| header.iter().map(|name| cell(row, name)).collect());
        output::table(
            &header,
            &["documents", "passages", "shards", "width", "bytes"],
            rows.collect(),
        )
    })
}

/// The aliases that name a generation, and those that did before.
fn names(aliases: &Aliases, previous: &Aliases, id: &GenerationId) -> Vec<String> {
    let now = aliases.iter().filter(|(_, named)| *named == id);
    let before = previous.iter().filter(|(_, named)| *named == id);
    let now = now.map(|(alias, _)| alias.to_string());
    now.chain(before.map(|(alias, _)| format!("before {alias}")))
        .collect()
}

fn row<E: std::error::Error + 'static>(
    id: &GenerationId,
    names: &[String],
    manifest: Result<Manifest, E>,
) -> serde_json::Value {
    match manifest {
        Ok(manifest) => json!({
            "generation": id,
            "aliases": names,
            "created": manifest.created,
            "documents": Some(manifest.counts.documents).filter(|&n| n > 0),
            "passages": manifest.counts.passages,
            "shards": manifest.shards.len(),
            "width": manifest.width,
            "metric": manifest.metric,
            "bytes": manifest.files.iter().map(|file| file.bytes).sum::<u64>(),
            "fingerprint": manifest.fingerprint_digest,
            "content_digest": manifest.content_digest,
        }),
        Err(error) => json!({ "generation": id, "aliases": names, "error": chain(&error) }),
    }
}
