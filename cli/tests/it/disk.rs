//! Disks that are full or read-only: a named error, and what was live still is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::session::{Built, build};
use crate::{sample, succeed, text, tiny_model, trawl};

/// Runs `trawl` with files limited to so many blocks of 512 bytes; a longer write fails as on a full disk.
pub fn with_file_limit(n_blocks: usize, arguments: &[&str]) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {n_blocks}; exec \"$@\"");
    Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_trawl")])
        .args(arguments)
        .output()
        .expect("a shell starts")
}

fn arguments<'a>(corpus: &'a str, model: &'a str, collection: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["index", "build", "--corpus", corpus, "--model", model];
    arguments.extend([
        "--collection",
        collection,
        "--resume",
        "--publish",
        "--no-gate",
        "--full",
    ]);
    arguments
}

/// What every command that fails must leave and say.
fn check_failed(output: &Output, built: &Built, live: &str, expected: &[&str]) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.starts_with("error: ") || error.contains("\nerror: "),
        "{error}"
    );
    assert!(expected.iter().any(|part| error.contains(part)), "{error}");
    assert_eq!(
        fs::read_to_string(built.collection.join("aliases.json")).expect("aliases"),
        live
    );
    succeed([
        "--quiet",
        "search",
        text(&built.collection),
        "bread",
        "-k",
        "1",
    ]);
}

#[test]
fn a_full_disk_is_named_and_what_was_live_still_is() {
    let built = build();
    let live = fs::read_to_string(built.collection.join("aliases.json")).expect("aliases");
    let corpus = built.folder.path().join("other.jsonl");
    let changed = fs::read_to_string(sample("corpus.jsonl"))
        .expect("the corpus")
        .replace("bread", "loaf");
    fs::write(&corpus, changed).expect("written");
    let (model, collection) = (tiny_model(), text(&built.collection));
    let arguments = arguments(text(&corpus), text(&model), collection);
    let mut n_failed = 0;
    // From no room for the smallest file up to room for all of them.
    let n_blocks = [0, 1, 4, 16, 64, 200, 400, 4096]
        .into_iter()
        .find(|&n_blocks| {
            let output = with_file_limit(n_blocks, &arguments);
            if output.status.success() {
                return true;
            }
            check_failed(&output, &built, &live, &["disk full", "File too large"]);
            n_failed += 1;
            false
        });
    assert!(n_failed >= 3, "{n_failed}");
    assert!(n_blocks.is_some(), "there was room in the end");
    succeed(["--quiet", "index", "verify", collection, "--sample", "0"]);
    let now = fs::read_to_string(built.collection.join("aliases.json")).expect("aliases");
    assert_ne!(now, live);

    let output = with_file_limit(0, &["index", "rollback", collection]);
    check_failed(&output, &built, &now, &["disk full", "File too large"]);
    // It makes room, and needs none.
    let output = with_file_limit(0, &["index", "gc", collection]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    succeed(["index", "rollback", collection]);
}

#[test]
fn a_document_that_does_not_fit_on_the_disk_is_not_acknowledged() {
    let built = build();
    let live = fs::read_to_string(built.collection.join("aliases.json")).expect("aliases");
    let (model, collection) = (tiny_model(), text(&built.collection));
    let path = built.folder.path().join("documents.jsonl");
    let add = ["--quiet", "documents", "add", collection, text(&path)];
    let add = [&add[..], &["--model", text(&model)]].concat();
    let get = |id| {
        let arguments = ["documents", "get", collection, id, "--model", text(&model)];
        trawl(arguments).status.success()
    };
    let long = "salt and stone ".repeat(2_000);
    for (id, n_blocks) in [("first", 0), ("second", 1), ("third", 32)] {
        let document = serde_json::json!({"_id": id, "text": long});
        fs::write(&path, document.to_string()).expect("written");
        let output = with_file_limit(n_blocks, &add);
        check_failed(&output, &built, &live, &["disk full", "File too large"]);
        assert!(!get(id), "{id} was not written");
    }
    succeed(add);
    assert!(get("third") && !get("second"));
    for command in ["compact", "verify"] {
        succeed([
            "--quiet",
            "index",
            command,
            collection,
            "--model",
            text(&model),
        ]);
    }
    assert!(get("third"));
}

/// Takes the right to write away, from folders and files alike. The superuser keeps it, so the commands run as another user then.
#[test]
fn a_read_only_collection_is_named_and_served() {
    let built = build();
    let live = fs::read_to_string(built.collection.join("aliases.json")).expect("aliases");
    set_modes(built.folder.path(), 0o555, 0o444);
    let probe = built.collection.join("probe");
    let can_write = fs::write(&probe, "").is_ok();
    let run = |arguments: &[&str]| match can_write {
        false => trawl(arguments.iter().copied()),
        true => Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                env!("CARGO_BIN_EXE_trawl"),
            ])
            .args(arguments)
            .output()
            .expect("setpriv starts"),
    };
    if can_write {
        fs::remove_file(&probe).expect("removed");
        let touched = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "touch",
                text(&probe),
            ])
            .status();
        let started = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                env!("CARGO_BIN_EXE_trawl"),
                "--version",
            ])
            .status();
        if !touched.is_ok_and(|status| !status.success())
            || !started.is_ok_and(|status| status.success())
        {
            println!(
                "not run: here a plain write succeeds whatever its rights, and no other user can run the binary"
            );
            set_modes(built.folder.path(), 0o755, 0o644);
            return;
        }
    }
    let (corpus, model, collection) = (
        sample("corpus.jsonl"),
        tiny_model(),
        text(&built.collection),
    );
    let expected = ["not allowed to write", "Permission denied", "Read-only"];
    for arguments in [
        arguments(text(&corpus), text(&model), collection),
        vec!["index", "publish", collection],
        vec!["index", "rollback", collection],
        vec!["index", "gc", collection],
        vec![
            "documents",
            "add",
            collection,
            text(&corpus),
            "--model",
            text(&model),
        ],
        vec!["documents", "delete", collection, "bread"],
    ] {
        check_failed(&run(&arguments), &built, &live, &expected);
    }
    let found = run(&[
        "--quiet",
        "search",
        collection,
        "bread",
        "-k",
        "1",
        "--lexical",
    ]);
    assert!(
        found.status.success(),
        "{}",
        String::from_utf8_lossy(&found.stderr)
    );
    set_modes(built.folder.path(), 0o755, 0o644);
}

fn set_modes(path: &Path, folder: u32, file: u32) {
    let is_folder = path.is_dir();
    let set =
        |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode is set");
    set(if is_folder { folder | 0o200 } else { file });
    if is_folder {
        for entry in fs::read_dir(path).expect("a folder") {
            set_modes(&entry.expect("an entry").path(), folder, file);
        }
        set(folder);
    }
}
