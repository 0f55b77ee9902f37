//! `trawl config`, and a server whose keys change.

use std::fs;

use crate::session::build;
use crate::{fail, json, succeed, text, tiny_model};

#[test]
fn settings_are_printed_with_where_they_come_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    fs::write(
        &file,
        "[limits]\ntop_k = 50\n[models.enc]\npath = \"a\"\nrole = \"encoder\"\n\
         [collections.docs]\npath = \"b\"\nkeep = 3\n",
    )
    .unwrap();
    let printed = succeed(["config", "print", "--origin", "--config", text(&file)]);
    let origin = |name: &str| {
        let line = printed
            .lines()
            .find(|line| line.starts_with(&format!("{name} = ")));
        line.unwrap_or_else(|| panic!("{name} in {printed}"))
            .to_owned()
    };
    assert!(origin("limits.top_k").starts_with("limits.top_k = 50"));
    assert!(origin("limits.top_k").ends_with(&format!("# {}", file.display())));
    assert!(origin("limits.window").ends_with("# default"));
    assert!(origin("server.read_timeout").contains("\"30s\""));
    assert!(origin("models.enc.role").contains("\"encoder\""));
    for (name, value, place) in [
        ("models.enc.dimensions", "[]", "default"),
        ("collections.docs.path", "\"b\"", text(&file)),
        ("collections.docs.keep", "3", text(&file)),
        ("collections.docs.alias", "\"live\"", "default"),
        ("collections.docs.poll", "\"30s\"", "default"),
        ("collections.docs.hybrid.fusion", "\"rrf\"", "default"),
        ("collections.docs.hybrid.weights.bm25", "1.0", "default"),
    ] {
        let line = origin(name);
        assert!(line.starts_with(&format!("{name} = {value}")), "{line}");
        assert!(line.ends_with(&format!("# {place}")), "{line}");
    }

    let print = ["--json", "config", "print", "--config", text(&file)];
    let printed = json(print);
    assert_eq!(printed["limits.top_k"], 50);
    assert_eq!(printed["models.enc.role"], "encoder");
    let printed = json([&print[..], &["--origin"]].concat());
    assert_eq!(printed["limits.top_k"]["value"], 50);
    assert_eq!(printed["limits.window"]["origin"], "default");
}

#[test]
fn a_key_is_made_as_json() {
    let made = json(["--json", "config", "key", "shop", "--rate", "5/m"]);
    let key = made["key"].as_str().unwrap();
    assert_eq!(key.len(), 43);
    assert_eq!(
        made["entry"]["sha256"],
        collection::sha256_hex(key.as_bytes())
    );
    assert_eq!(made["entry"]["scopes"], serde_json::json!(["search"]));
    assert_eq!(made["entry"]["rate"], "5/m");
}

#[test]
fn a_configuration_is_checked_with_what_it_names() {
    let built = build();
    let file = built.folder.path().join("server.toml");
    let write = |more: &str| {
        let (model, collection) = (tiny_model(), &built.collection);
        let content = format!(
            "[models.enc]\npath = {model:?}\nrole = \"encoder\"\n[collections.docs]\npath = {collection:?}\nencoder = \"enc\"\n{more}"
        );
        fs::write(&file, content).unwrap();
    };
    let check = ["config", "check", "--config", text(&file)];
    write("");
    succeed(check);
    let printed = succeed([
        "config",
        "key",
        "shop",
        "--scopes",
        "search,embed",
        "--rate",
        "5/m",
    ]);
    let entry = printed.split("entry: ").nth(1).unwrap().trim();
    assert!(
        entry.contains("rate = \"5/m\"") && entry.contains("\"embed\""),
        "{entry}"
    );
    write(&format!("[auth]\nkeys = [{entry}]\n"));
    succeed(check);
    write(&format!("[auth]\nkeys = [{entry}, {entry}]\n"));
    assert!(fail(1, check).contains("two keys named `shop`"));
    write("[auth]\nkeys = [{ name = \"a\", sha256 = \"b\", scopes = [\"search\"] }]\n");
    assert!(fail(2, check).contains("64 hexadecimal digits"));
    write("[server.tls]\ncert = \"no/cert.pem\"\nkey = \"no/key.pem\"\n");
    assert!(fail(1, check).contains("no/cert.pem"));
    write("[collections.gone]\npath = \"no/such\"\n");
    assert!(fail(1, check).contains("no/such"));
    write("[collections.\"my docs\"]\npath = \"no/such\"\n");
    assert!(fail(1, check).contains("`my docs` is no name"));
    write("[queue]\ninteractive_share = 80\n");
    assert!(fail(1, check).contains("queue.interactive_share is 80"));
}

/// As `serve` refuses it.
#[test]
fn a_collection_whose_model_is_not_loaded_is_refused() {
    let built = build();
    let file = built.folder.path().join("server.toml");
    let (model, collection) = (tiny_model(), &built.collection);
    for (names, expected) in [
        ("encoder = \"encoder\"", "encoder `encoder`"),
        ("encoder = \"enc\"\nreranker = \"ce\"", "reranker `ce`"),
        ("encoder = \"enc\"\nreranker = \"enc\"", "reranker `enc`"),
        ("reranker = \"ce\"", "reranker `ce`"),
    ] {
        let content = format!(
            "[server]\nbind = \"127.0.0.1:0\"\n[models.enc]\npath = {model:?}\nrole = \"encoder\"\n\
             [collections.docs]\npath = {collection:?}\n{names}\n"
        );
        fs::write(&file, content).unwrap();
        for command in [&["config", "check"][..], &["serve"]] {
            let errors = fail(1, [command, &["--config", text(&file)]].concat());
            assert!(
                errors.contains(&format!(
                    "collection `docs` names {expected}, which is not loaded"
                )) && errors.contains("hint: `[models."),
                "{errors}"
            );
        }
    }
}
