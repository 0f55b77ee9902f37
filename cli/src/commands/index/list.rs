use collection::{Collection, Generation};
use serde_json::json;

use super::chain;
use crate::output::{self, Output};

pub fn run(collection: &Collection, output: &Output) -> anyhow::Result<()> {
    for path in collection.unfinished()? {
        output.remark(format!("unfinished build: {}", path.display()));
    }
    let (aliases, previous) = (collection.aliases()?, collection.previous()?);
    let mut shown = Vec::new();
    for id in collection.generations()? {
        let names = aliases.iter().filter(|(_, named)| **named == id);
        let mut names: Vec<_> = names.map(|(alias, _)| alias.to_string()).collect();
        let before = previous.iter().filter(|(_, named)| **named == id);
        names.extend(before.map(|(alias, _)| format!("before {alias}")));
        shown.push(match collection.generation(&id) {
            Ok(Generation { manifest, .. }) => json!({
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
            Err(error) => {
                json!({ "generation": id, "aliases": names, "error": chain(&error) })
            }
        });
    }
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
