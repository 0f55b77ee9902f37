//! The life of generations: built from one another, compared, published, taken back, removed.

use std::fs;
use std::path::Path;

use crate::session::{Built, build};
use crate::{fail, json, sample, succeed, text, tiny_model};

/// Builds the sample corpus with one text changed, one passage gone and one new.
pub fn build_changed(built: &Built, more: &[&str]) -> serde_json::Value {
    let corpus = fs::read_to_string(sample("corpus.jsonl")).expect("the corpus");
    let mut lines: Vec<serde_json::Value> = corpus
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    lines[2]["text"] = "changed".into();
    lines[3]["_id"] = "renamed".into();
    lines.remove(5);
    let corpus: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let path = built.folder.path().join("changed.jsonl");
    fs::write(&path, corpus).expect("written");
    let (model, collection) = (tiny_model(), text(&built.collection));
    let mut args = vec!["--json", "index", "build", "--corpus", text(&path)];
    args.extend(["--model", text(&model), "--collection", collection]);
    args.extend(more);
    json(args)
}

fn live(collection: &Path) -> String {
    let listed = json(["--json", "index", "list", text(collection)]);
    let is_live = |row: &&serde_json::Value| {
        let aliases = row["aliases"].as_array().expect("a list");
        aliases.iter().any(|alias| alias == "live")
    };
    let row = listed.as_array().expect("rows").iter().find(is_live);
    row.expect("a live one")["generation"]
        .as_str()
        .expect("a name")
        .to_owned()
}

#[test]
fn a_generation_is_built_from_the_one_before_compared_swapped_and_taken_back() {
    let built = build();
    let collection = text(&built.collection);
    let first = live(&built.collection);
    let report = build_changed(&built, &[]);
    let second = report["generation"].as_str().expect("a name");
    let n = report["counts"]["passages"].as_u64().expect("a count");
    assert_eq!(report["reused"]["generation"], first.as_str());
    assert_eq!(report["reused"]["passages"], n - 1);
    let full = build_changed(&built, &["--full"]);
    assert_eq!(full["content_digest"], report["content_digest"]);
    assert_eq!(full["reused"]["reason"], "a full build was asked for");

    let diff = json(["--json", "index", "diff", collection, &first, second]);
    let n_of = |kind: &str| diff[kind]["n"].as_u64().expect("a count");
    assert_eq!(["added", "changed", "removed"].map(n_of), [1, 1, 2]);
    assert_eq!(diff["added"]["ids"][0], "renamed");
    let shown = succeed(["index", "diff", collection, "live", second]);
    assert!(shown.contains("1 added: renamed\n"), "{shown}");

    let error = fail(1, ["index", "rollback", collection]);
    assert!(
        error.contains("has named no other generation before"),
        "{error}"
    );
    succeed(["index", "publish", collection, second, "--no-gate"]);
    assert_eq!(live(&built.collection), second);
    let shown = succeed(["index", "list", collection]);
    assert!(shown.contains("before live"), "{shown}");
    succeed(["index", "rollback", collection]);
    assert_eq!(live(&built.collection), first);

    let n_generations = || {
        json(["--json", "index", "list", collection])
            .as_array()
            .map(Vec::len)
    };
    let dry = json([
        "--json",
        "index",
        "gc",
        collection,
        "--keep",
        "0",
        "--dry-run",
    ]);
    assert_eq!(dry["generations"].as_array().map(Vec::len), Some(1));
    assert_eq!(n_generations(), Some(3));
    let done = json(["--json", "index", "gc", collection, "--keep", "0"]);
    assert_eq!(done["generations"], dry["generations"]);
    assert_eq!(done["generations"][0], full["generation"]);
    assert_eq!(n_generations(), Some(2));
}
