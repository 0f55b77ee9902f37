//! One file that answers without a network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::session::build;
use crate::{fail, interrupt, json, succeed, text, tiny_model};

/// Runs `trawl` where there are no models, with a cache folder of its own.
fn elsewhere(cache: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(arguments)
        .env("TRAWL_MODELS", cache.join("no-models"))
        .env("XDG_CACHE_HOME", cache)
        .output()
        .expect("the binary of this package starts")
}

/// The one bundle that is unpacked in a cache folder.
fn unpacked(cache: &Path) -> PathBuf {
    let folders = fs::read_dir(cache.join("trawl/bundles")).expect("a folder");
    let mut folders = folders
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect::<Vec<_>>();
    assert_eq!(folders.len(), 1, "{folders:?}");
    folders.remove(0)
}

#[test]
fn a_bundle_answers_as_its_collection_does_and_damage_is_named() {
    let built = build();
    let (folder, collection) = (built.folder.path(), text(&built.collection));
    let model = tiny_model();
    let (bundle, cache) = (folder.join("sample.trawl"), folder.join("cache"));
    let reranker = testkit::fixture("models/tiny-cross-bert");
    let pack = ["--json", "bundle", collection, "--to", text(&bundle)];
    let packed = json([&pack[..], &["--rerank", text(&reranker)]].concat());
    let bytes = fs::read(&bundle).expect("read");
    assert_eq!(packed["bytes"], bytes.len());
    // It is for whoever may read what its maker writes: a server runs as another user.
    let mode = |path: &Path| fs::metadata(path).expect("a file").permissions().mode();
    let plain = folder.join("plain");
    fs::write(&plain, "").expect("written");
    assert_eq!(mode(&bundle), mode(&plain));

    let how = ["-k", "5", "--rerank"];
    let query = "how is bread made to rise";
    let expected = [
        "--json",
        "search",
        collection,
        query,
        "--model",
        text(&model),
    ];
    let expected = json([&expected[..], &how, &[text(&reranker)]].concat());
    // What the collection was built with is not there any more.
    fs::rename(&built.collection, folder.join("away")).expect("renamed");
    let search = ["--json", "search", text(&bundle), query];
    let search = [&search[..], &how, &["tiny-cross-bert"]].concat();
    // What a process left that was ended while it unpacked.
    let left = cache.join("trawl/bundles/.bundle-left");
    fs::create_dir_all(left.join("models")).expect("a folder");
    fs::write(left.join("models/half"), "").expect("written");
    let first = elsewhere(&cache, &search);
    assert!(!left.exists());
    let error = String::from_utf8_lossy(&first.stderr);
    assert!(first.status.success(), "{error}");
    let found: serde_json::Value = serde_json::from_slice(&first.stdout).expect("JSON");
    assert_eq!(found["results"], expected["results"]);

    // A server may be told of it by its file as well.
    let file = folder.join("server.toml");
    let served = format!("[collections.sample]\npath = {bundle:?}\n");
    fs::write(&file, served).expect("written");
    let checked = elsewhere(&cache, &["config", "check", "--config", text(&file)]);
    let error = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{error}");

    // What was unpacked is checked, and unpacked again.
    let weights = unpacked(&cache).join("models/tiny-bert/model.safetensors");
    fs::write(&weights, "damaged").expect("written");
    let again = elsewhere(&cache, &search);
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&again.stdout).expect("JSON")["results"],
        found["results"]
    );

    let mut state = 1u64;
    for i in 0..24 {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let mut damaged = bytes.clone();
        let place = (state >> 16) as usize % bytes.len();
        match i {
            0..8 => damaged[i * 7] ^= 1, // the header
            8..20 => damaged[place] ^= 1 << (state & 7),
            _ => damaged.truncate(place),
        }
        fs::write(&bundle, &damaged).expect("written");
        let cache = folder.join(format!("cache-{i}"));
        let output = elsewhere(&cache, &search);
        let error = String::from_utf8_lossy(&output.stderr);
        let is_other = ["has format version", "is not a bundle"];
        let is_other = is_other.iter().any(|text| error.contains(text));
        let code = if is_other { Some(1) } else { Some(5) };
        assert_eq!(output.status.code(), code, "damage {i}: {error}");
        assert!(error.contains("sample.trawl"), "{error}");
    }
}

#[test]
fn documents_that_were_written_to_a_bundle_stay_when_it_is_unpacked_again() {
    let built = build();
    let folder = built.folder.path();
    let (bundle, cache) = (folder.join("sample.trawl"), folder.join("cache"));
    let reranker = testkit::fixture("models/tiny-cross-bert");
    let pack = ["--json", "bundle", text(&built.collection), "--to"];
    json([&pack[..], &[text(&bundle), "--rerank", text(&reranker)]].concat());
    let search = || {
        let found = elsewhere(&cache, &["search", text(&bundle), "bread"]);
        let error = String::from_utf8_lossy(&found.stderr);
        assert!(found.status.success(), "{error}");
    };
    search();
    let copy = unpacked(&cache);
    let (collection, model) = (copy.join("collection"), tiny_model());
    let collection = text(&collection);
    let document = folder.join("document.jsonl");
    fs::write(&document, r#"{"_id": "new", "text": "salt and stone"}"#).expect("written");
    let with_model = ["--model", text(&model)];
    let add = ["documents", "add", collection, text(&document)];
    succeed([&add[..], &with_model].concat());
    let weights = copy.join("models/tiny-bert/model.safetensors");
    let whole = fs::read(&weights).expect("read");
    let repair = || {
        fs::write(&weights, "damaged").expect("written");
        search();
        assert!(fs::read(&weights).expect("read") == whole);
        let get = ["documents", "get", collection, "new"];
        succeed([&get[..], &with_model].concat());
    };
    repair();
    // As part of a generation that the bundle does not have.
    succeed(["index", "compact", collection]);
    repair();
}

#[test]
fn a_file_that_was_never_a_bundle_is_not_called_a_damaged_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("corpus.jsonl");
    for (content, code, expected) in [
        (
            &b"{\"_id\": \"a\", \"text\": \"b\"}\n"[..],
            1,
            "is not a bundle",
        ),
        (&b"x"[..], 1, "is not a bundle"),
        (&b"TRAWLBDL"[..], 5, "is damaged: it is too short"),
        (&b""[..], 5, "is damaged: it is too short"),
    ] {
        fs::write(&file, content).expect("written");
        let refused = elsewhere(folder.path(), &["search", text(&file), "bread"]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn two_models_in_folders_of_one_name_are_packed_beside_each_other() {
    let built = build();
    let folder = built.folder.path();
    let [encoder, reranker] = ["first/export", "second/export"].map(|name| folder.join(name));
    for (model, to) in [
        (tiny_model(), &encoder),
        (testkit::fixture("models/tiny-cross-bert"), &reranker),
    ] {
        fs::create_dir_all(to.parent().expect("it has a parent")).expect("made");
        std::os::unix::fs::symlink(model, to).expect("linked");
    }
    let bundle = folder.join("sample.trawl");
    json([
        "--json",
        "bundle",
        text(&built.collection),
        "--to",
        text(&bundle),
        "--model",
        text(&encoder),
        "--rerank",
        text(&reranker),
    ]);
    let search = ["--json", "search", text(&bundle), "bread", "-k", "3"];
    let search = [&search[..], &["--rerank", "export"]].concat();
    let found = elsewhere(&folder.join("cache"), &search);
    let error = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "{error}");
}

#[test]
fn the_folder_that_one_is_in_is_packed_under_its_name() {
    let built = build();
    let bundle = built.folder.path().join("sample.trawl");
    let (collection, bundle) = (text(&built.collection), text(&bundle));
    let packed = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["bundle", collection, "--to", bundle, "--rerank", "."])
        .current_dir(testkit::fixture("models/tiny-cross-bert"))
        .output()
        .expect("the binary of this package starts");
    let error = String::from_utf8_lossy(&packed.stderr);
    assert!(packed.status.success(), "{error}");
    let search = ["search", bundle, "bread", "--rerank", "tiny-cross-bert"];
    let found = elsewhere(&built.folder.path().join("cache"), &search);
    let error = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "{error}");
}

#[test]
fn a_damaged_generation_is_not_packed() {
    let built = build();
    let generations = fs::read_dir(built.collection.join("generations")).expect("a folder");
    let generation = generations
        .map(|entry| entry.expect("an entry").path())
        .next();
    let ids = generation.expect("a generation").join("ids");
    let mut bytes = fs::read(&ids).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&ids, bytes).expect("written");
    let to = built.folder.path().join("sample.trawl");
    fail(5, ["bundle", text(&built.collection), "--to", text(&to)]);
    assert!(!to.exists());
}

#[test]
fn a_bundle_that_is_interrupted_leaves_no_part_of_its_file() {
    use std::io::Write;
    use std::process::Stdio;
    let built = build();
    let (reranker, out) = (
        built.folder.path().join("reranker"),
        built.folder.path().join("out"),
    );
    fs::create_dir(&reranker).expect("made");
    fs::create_dir(&out).expect("made");
    // A file of the model that is read when this test writes into it.
    let slow = reranker.join("slow");
    let made = Command::new("mkfifo").arg(&slow).status();
    assert!(made.expect("mkfifo starts").success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["--quiet", "bundle", text(&built.collection)])
        .args(["--to", text(&out.join("sample.trawl"))])
        .args(["--rerank", text(&reranker)])
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut counted = fs::File::options().write(true).open(&slow).expect("open");
    counted.write_all(b"x").expect("written");
    drop(counted);
    let n_files = || fs::read_dir(&out).expect("a folder").count();
    while n_files() == 0 {
        assert!(child.try_wait().expect("a child").is_none());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    interrupt(&mut child);
    // Opened for both, so that this does not wait for a reader: the child may have stopped before it.
    let mut both = fs::File::options();
    let mut copied = both.read(true).write(true).open(&slow).expect("open");
    copied.write_all(b"x").expect("written");
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert_eq!(n_files(), 0);
}
