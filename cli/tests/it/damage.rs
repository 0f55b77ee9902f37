//! Bits flipped and files cut in everything that a collection holds: every command names the damage (exit code 5) or answers as
//! before, and none panics.
//!
//! `TRAWL_DAMAGES` is the number of damages, `TRAWL_DAMAGE_SEED` another run.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::disk::with_file_limit;
use crate::session::list_files;
use crate::{sample, succeed, text, tiny_model, trawl};

const VERSION: &str = "has format version";

/// A collection with a generation that is searched, one before it, a report of the gate, an unfinished build, and a write log.
struct Fixture {
    folder: tempfile::TempDir,
    /// What readers are told after each write to the log, beginning with none.
    written: Vec<Vec<Result<Value, String>>>,
    unfinished: Vec<String>,
    /// Content digest of the unfinished build, once it is finished.
    finished: Value,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let collection = folder.path().join("collection");
        let (corpus, other) = (sample("corpus.jsonl"), folder.path().join("other.jsonl"));
        let lines = fs::read_to_string(&corpus).expect("the corpus");
        fs::write(&other, lines.replace("bread", "loaf")).expect("written");
        let model = tiny_model();
        let build = |corpus: &Path, more: &[&str]| -> Vec<String> {
            let mut arguments = vec!["--json", "index", "build", "--corpus", text(corpus)];
            arguments.extend(["--model", text(&model), "--collection", text(&collection)]);
            arguments.extend(more);
            arguments.into_iter().map(str::to_owned).collect()
        };
        let as_text = |arguments: &[String]| succeed(arguments.iter().map(String::as_str));
        let split = ["--passage-tokens", "64", "--stride", "48"];
        as_text(&build(&corpus, &[&split[..], &["--shards", "3"]].concat()));
        let graph = ["--kind", "hnsw", "--shards", "2", "--publish"];
        as_text(&build(&corpus, &[&split[..], &graph].concat()));
        // There is room for chunks, and none for the vectors of all.
        let chunks = ["--chunk-passages", "16", "--full", "--resume"];
        let unfinished = build(&other, &chunks);
        let arguments: Vec<&str> = unfinished.iter().map(String::as_str).collect();
        assert_eq!(with_file_limit(64, &arguments).status.code(), Some(1));
        let finished = {
            let copied = folder.path().join("finished");
            copy(&collection, &copied);
            content_digest(&replaced(&unfinished, &copied)).expect("it can be finished")
        };
        let mut written = vec![answers(&collection)];
        for number in 1..=3 {
            let path = folder.path().join("documents.jsonl");
            let document =
                format!(r#"{{"_id": "live-{number}", "text": "bread made to rise {number}"}}"#);
            fs::write(&path, document).expect("written");
            let arguments = [
                "--quiet",
                "documents",
                "add",
                text(&collection),
                text(&path),
            ];
            succeed([&arguments[..], &["--model", text(&model)]].concat());
            written.push(answers(&collection));
        }
        Self {
            folder,
            written,
            unfinished,
            finished,
        }
    }

    fn pristine(&self) -> PathBuf {
        self.folder.path().join("collection")
    }

    /// The files of the collection, with what kind of file each is.
    fn files(&self) -> BTreeMap<String, Vec<PathBuf>> {
        let mut files = Vec::new();
        list_files(&self.pristine(), &mut files);
        let mut kinds = BTreeMap::<String, Vec<PathBuf>>::new();
        for path in files {
            let inside = path.strip_prefix(self.pristine()).expect("it is inside");
            kinds
                .entry(kind(text(inside)))
                .or_default()
                .push(inside.to_owned());
        }
        kinds
    }
}

/// A path without the names that differ from one generation, shard, segment or chunk to the next.
fn kind(path: &str) -> String {
    let part = |part: &str| {
        let (stem, extension) = part.rsplit_once('.').unwrap_or((part, ""));
        let is_digit = |c: char| c.is_ascii_hexdigit() || "TZ-".contains(c);
        let is_name = stem.len() >= 3 && stem.chars().all(is_digit);
        match (is_name, extension) {
            (false, _) => part.to_owned(),
            (true, "") => "*".to_owned(),
            (true, extension) => format!("*.{extension}"),
        }
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn replaced(arguments: &[String], collection: &Path) -> Vec<String> {
    let mut arguments = arguments.to_vec();
    let place = arguments
        .iter()
        .position(|argument| argument == "--collection");
    arguments[place.expect("it is there") + 1] = text(collection).to_owned();
    arguments
}

fn content_digest(arguments: &[String]) -> Result<Value, String> {
    let report = answer(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
    Ok(report["content_digest"].clone())
}

/// What a command prints, or its error, which must be of damage.
fn answer(arguments: &[&str]) -> Result<Value, String> {
    let output = trawl(arguments.iter().copied());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).expect("--json prints JSON")),
        Some(5) => Err(error),
        // A version that this program does not know is no damage: another program may.
        Some(1) if error.contains(VERSION) => Err(error),
        code => panic!("{arguments:?} ended with {code:?}: {error}"),
    }
}

/// Everything that readers are told, without the times it took.
fn answers(collection: &Path) -> Vec<Result<Value, String>> {
    let (model, collection) = (tiny_model(), text(collection));
    let search = |more: &[&str]| {
        let query = "how is bread made to rise";
        let arguments = ["--json", "--quiet", "search", collection, query, "--model"];
        let found = answer(&[&arguments[..], &[text(&model)], more].concat())?;
        Ok(serde_json::json!([found["results"], found["groups"]]))
    };
    vec![
        search(&[]),
        search(&["--exact", "-k", "50"]),
        search(&["--hybrid", "--group-by", "document"]),
        answer(&["--json", "--quiet", "index", "list", collection]),
    ]
}

fn copy(from: &Path, to: &Path) {
    let mut files = Vec::new();
    list_files(from, &mut files);
    for file in files {
        let target = to.join(file.strip_prefix(from).expect("it is inside"));
        fs::create_dir_all(target.parent().expect("a folder")).expect("made");
        fs::copy(&file, target).expect("copied");
    }
}

/// Numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((u128::from(self.0) * u128::from(n)) >> 64) as u64
    }
}

/// Flips a bit, or cuts the file; returns what it did.
fn damage(path: &Path, draw: &mut Draw) -> String {
    let mut bytes = fs::read(path).expect("read");
    let n_bytes = bytes.len() as u64;
    let done = if bytes.is_empty() {
        bytes.push(0);
        "grown by a byte".to_owned()
    } else if draw.below(3) == 0 {
        bytes.truncate(draw.below(n_bytes) as usize);
        format!("cut to {} of {n_bytes} bytes", bytes.len())
    } else {
        let bit = draw.below(8 * n_bytes);
        bytes[bit as usize / 8] ^= 1 << (bit % 8);
        format!("bit {bit} of {n_bytes} bytes")
    };
    fs::write(path, bytes).expect("written");
    done
}

#[test]
fn damage_is_named_or_changes_no_answer() {
    let variable = |name| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let fixture = Fixture::new();
    let pristine = fixture.pristine();
    let before = fixture.written.last().expect("there is one");
    assert!(before.iter().all(Result::is_ok), "{before:?}");
    for (now, earlier) in fixture.written[1..].iter().zip(&fixture.written) {
        assert_ne!(now[..3], earlier[..3], "each write is seen");
    }
    let kinds: Vec<_> = fixture.files().into_iter().collect();
    let n_damages = variable("TRAWL_DAMAGES").unwrap_or(kinds.len() as u64);
    let mut draw = Draw(variable("TRAWL_DAMAGE_SEED").unwrap_or(1));
    let (mut n_named, mut n_harmless) = (BTreeMap::new(), BTreeMap::new());
    for (name, _) in &kinds {
        n_named.insert(name, 0);
        n_harmless.insert(name, 0);
    }
    for (i, (kind, files)) in (0..n_damages).zip(kinds.iter().cycle()) {
        let file = &files[draw.below(files.len() as u64) as usize];
        let path = pristine.join(file);
        let whole = fs::read(&path).expect("read");
        let done = format!(
            "damage {i}: {}: {}",
            file.display(),
            damage(&path, &mut draw)
        );
        let mut is_named = false;
        // A log that ends early is what a crash leaves: what was whole before that is answered from.
        let is_cut_log = kind == "live/*.log" && done.contains(": cut to ");
        let expected = fixture.written.iter().rev();
        let expected = expected.take(if is_cut_log { usize::MAX } else { 1 });
        let expected: Vec<_> = expected.collect();
        for (place, found) in answers(&pristine).iter().enumerate() {
            match found {
                Err(_) => is_named = true,
                // The list has the error in its row.
                Ok(Value::Array(rows)) if rows.iter().any(|row| row["error"].is_string()) => {
                    is_named = true;
                }
                Ok(_) => {
                    let is_expected = expected.iter().any(|answers| answers[place] == *found);
                    assert!(
                        is_expected,
                        "{done}: {found:?}, expected {:?}",
                        before[place]
                    );
                }
            }
        }
        let verified = answer(&[
            "--json",
            "--quiet",
            "index",
            "verify",
            text(&pristine),
            "--sample",
            "0",
        ]);
        is_named |= verified.is_err();
        assert!(
            is_named || !kind.starts_with("generations/"),
            "{done}: nobody told"
        );
        if kind.starts_with("building/") {
            let copied = fixture.folder.path().join(format!("damaged-{i}"));
            copy(&pristine, &copied);
            match content_digest(&replaced(&fixture.unfinished, &copied)) {
                Ok(digest) => assert_eq!(digest, fixture.finished, "{done}"),
                Err(_) => is_named = true,
            }
            fs::remove_dir_all(copied).expect("removed");
        }
        let counted = if is_named {
            &mut n_named
        } else {
            &mut n_harmless
        };
        *counted.entry(kind).or_default() += 1;
        fs::write(&path, whole).expect("written");
    }
    for (kind, _) in &kinds {
        println!(
            "{kind}: {} named, {} harmless",
            n_named[kind], n_harmless[kind]
        );
    }
    assert_eq!(answers(&pristine), *before);
}
