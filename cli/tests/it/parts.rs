//! A build in parts.

use std::fs;

use crate::{fail, json, sample, succeed, text, tiny_model};

#[test]
fn parts_are_encoded_anywhere_and_committed_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name);
    let (corpus, model, collection) = (sample("corpus.jsonl"), tiny_model(), path("parts"));
    let content = ["--corpus", text(&corpus), "--model", text(&model)];
    let content = [&content[..], &["--chunk-passages", "64"]].concat();
    let into = |collection, command: &'static [&'static str]| {
        [
            &["--json", "index"],
            command,
            &content[..],
            &["--collection", collection],
        ]
        .concat()
    };
    let collection = text(&collection);
    let encode = |part: &'static [&'static str]| json(into(collection, part));
    let first = encode(&["encode", "--nice", "5", "--threads", "1", "--part", "0/2"]);
    let error = fail(1, ["index", "commit", collection]);
    assert!(error.contains("1 of 2 parts are missing: 1"), "{error}");
    let status = json(["--json", "index", "status", collection]);
    assert_eq!(
        (
            &status[0]["build"],
            &status[0]["parts"],
            &status[0]["missing"]
        ),
        (
            &first["report"]["build"],
            &2.into(),
            &serde_json::json!([1])
        )
    );
    assert_eq!(status[0]["passages"], first["report"]["passages"]);
    let second = encode(&["encode", "--part", "1/2"]);
    assert_eq!(second["report"]["build"], first["report"]["build"]);

    let built = json(["--json", "index", "commit", collection]);
    assert_eq!(built["live"], true);
    assert_eq!(
        json(["--json", "index", "status", collection]),
        serde_json::json!([])
    );
    let whole = path("whole");
    let whole = json(into(text(&whole), &["build"]));
    assert_eq!(built["content_digest"], whole["content_digest"]);
    assert_eq!(
        encode(&["encode", "--part", "1/2"])["report"]["generation"],
        built["generation"]
    );
    let error = fail(1, ["index", "commit", collection]);
    assert!(
        error.contains("0 builds") && error.contains("`trawl index encode` makes parts"),
        "{error}"
    );
    encode(&["encode", "--part", "0/2", "--rows", "f16"]);
    encode(&["encode", "--part", "0/2", "--rows", "bf16"]);
    let error = fail(1, ["index", "commit", collection]);
    assert!(
        error.contains("2 builds") && error.contains("`--build DIGEST` says which"),
        "{error}"
    );
    succeed(["--quiet", "search", collection, "bread", "-k", "1"]);

    fail(2, into(collection, &["encode", "--part", "2/2"]));
    let bad = path("bad.jsonl");
    fs::write(&bad, "not json\n").expect("written");
    let bad = ["index", "encode", "--part", "0/2", "--corpus", text(&bad)];
    fail(
        65,
        [
            &bad[..],
            &["--model", text(&model), "--collection", collection],
        ]
        .concat(),
    );
}
