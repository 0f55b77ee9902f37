//! The write log of a collection on the command line: what verify finds in it, and generations that lack what it has.

use std::fs;

use collection::{Collection, LogConfig};

use crate::session::{Built, build, list_files};
use crate::{fail, json, succeed, text, tiny_model, trawl};

/// Adds a document, which is the only one in the log.
fn add(built: &Built) {
    let document = built.folder.path().join("document.jsonl");
    fs::write(&document, r#"{"_id": "new", "text": "salt and stone"}"#).expect("written");
    let (collection, model) = (text(&built.collection), tiny_model());
    let add = ["documents", "add", collection, text(&document)];
    succeed([&add[..], &["--model", text(&model)]].concat());
}

#[test]
fn a_flipped_byte_of_the_write_log_is_found_by_verify_and_named() {
    let built = build();
    let collection = text(&built.collection);
    let verify = ["--json", "index", "verify", collection];
    assert_eq!(json(verify)["log_records"], 0);
    add(&built);
    assert_eq!(json(verify)["log_records"], 1);
    let mut files = Vec::new();
    list_files(&built.collection.join("live"), &mut files);
    let log = files
        .iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "log"))
        .expect("a segment");
    let mut bytes = fs::read(log).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(log, bytes).expect("written");
    let output = trawl(verify);
    assert_eq!(output.status.code(), Some(5));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let fault = &shown["faults"][0];
    assert!(fault["generation"].is_null(), "{shown}");
    let text = fault["fault"].as_str().expect("a text");
    assert!(
        text.contains("write log") && text.contains(".log"),
        "{shown}"
    );
}

#[test]
fn a_write_log_that_ends_before_what_a_generation_contains_is_found_by_verify() {
    let built = build();
    let path = text(&built.collection);
    let verify = ["--json", "index", "verify", path];
    add(&built);
    succeed(["index", "compact", path]);
    assert_eq!(json(verify)["log_records"], 1);
    let log = built.collection.join("live/00000000000000000001.log");
    let bytes = fs::read(&log).expect("read");
    fs::write(&log, &bytes[..bytes.len() - 1]).expect("written");

    let output = trawl(verify);
    assert_eq!(output.status.code(), Some(5));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown["faults"].as_array().map(Vec::len), Some(1), "{shown}");
    let said = shown["faults"][0]["fault"].as_str().expect("a text");
    assert!(
        said.contains("ends at position 0") && said.contains("know position 1"),
        "{shown}"
    );
}

#[test]
fn a_generation_that_lacks_documents_of_the_log_is_named_and_goes_back_without_them() {
    let built = build();
    let path = text(&built.collection);
    let verify = ["--json", "index", "verify", path];
    add(&built);
    let collection = Collection::open(&built.collection).expect("a collection");
    let first = collection.resolve("live").expect("a generation");
    succeed(["index", "compact", path]);
    // Removed here, and pulled from elsewhere when the log was folded.
    let aside = built.folder.path().join("aside");
    fs::rename(&first.path, &aside).expect("moved");
    let log = collection.log_writer("test", LogConfig::default());
    let writer = collection.writer("test").expect("the lock");
    let freed = log.expect("the log").truncate(&writer).expect("removed");
    assert!(freed > 0);
    drop(writer);
    fs::rename(&aside, &first.path).expect("moved");

    let output = trawl(verify);
    assert_eq!(output.status.code(), Some(5));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown["faults"].as_array().map(Vec::len), Some(1), "{shown}");
    let fault = &shown["faults"][0];
    assert_eq!(fault["generation"], first.id.as_str(), "{shown}");
    let said = fault["fault"].as_str().expect("a text");
    assert!(said.contains("begins at position 2"), "{shown}");

    let refused = fail(5, ["index", "rollback", path]);
    assert!(refused.contains("begins at position 2"), "{refused}");
    succeed(["index", "rollback", path, "--drop-live"]);
    let live = collection.resolve("live").expect("a generation");
    assert_eq!(live.id, first.id);
    succeed(verify);
}
