//! kill -9 at random moments: the collection has the old content or the new, and a resumed build ends with the content of an
//! uninterrupted one.
//!
//! `TRAWL_KILLS` is the number of moments, `TRAWL_KILL_SEED` repeats a run as far as a clock allows.

use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Instant;

use collection::{BuildMode, Collection};
use index::{ShardedIndex, VectorIndex};
use indexer::BuildConfig;
use store::Store;

use crate::{config, run, write_corpus};

const N_PASSAGES: usize = 2000;
const FOLDER: &str = "TRAWL_KILL_FOLDER";

fn new_config(folder: &Path) -> BuildConfig {
    let config = config(&folder.join("collection"), &folder.join("new.jsonl"));
    BuildConfig {
        chunk_passages: 100,
        mode: BuildMode::Resume,
        publish: true,
        ..config
    }
}

/// Runs by itself as an ordinary test, and as the process that is killed: then in the folder it is given.
#[test]
fn a_published_build_is_live() {
    let own = tempfile::tempdir().unwrap();
    let folder = env::var_os(FOLDER).map_or(own.path().to_owned(), Into::into);
    if env::var_os(FOLDER).is_none() {
        write_corpus(&folder.join("new.jsonl"), 2, 200);
    }
    let report = run(&new_config(&folder)).unwrap();
    assert!(report.live);
}

fn spawn(folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "kill::a_published_build_is_live"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Opens what is live, checks that it is whole, and returns its content digest.
fn live_content(root: &Path) -> String {
    let generation = Collection::open(root).unwrap().resolve("live").unwrap();
    let faults = generation.verify(|_| ());
    assert!(faults.is_empty(), "{faults:?}");
    let manifest = generation.manifest;
    let shards: Vec<_> = manifest
        .shards
        .iter()
        .map(|shard| generation.path.join(&shard.path))
        .collect();
    let index = ShardedIndex::open(&shards, index::Verify::Checksums).unwrap();
    let store = Store::open(&generation.path, store::Verify::Checksums).unwrap();
    assert_eq!(
        (index.len() as u64, u64::from(store.len())),
        (manifest.counts.passages, manifest.counts.passages)
    );
    manifest.content_digest
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, name) = entry
            .map(|entry| (entry.path(), entry.file_name()))
            .unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
fn kills_leave_the_old_content_or_the_new() {
    let variable = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let n_kills = variable("TRAWL_KILLS").unwrap_or(20);
    let seed = variable("TRAWL_KILL_SEED").unwrap_or_else(|| RandomState::new().hash_one(n_kills));
    println!("TRAWL_KILLS={n_kills} TRAWL_KILL_SEED={seed}");

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (root, pristine) = (folder.join("collection"), folder.join("pristine"));
    write_corpus(&folder.join("old.jsonl"), 1, 40);
    write_corpus(&folder.join("new.jsonl"), 2, N_PASSAGES);
    let old = run(&config(&pristine, &folder.join("old.jsonl")))
        .unwrap()
        .content_digest;
    copy(&pristine, &root);
    let start = Instant::now();
    assert!(spawn(folder).wait().unwrap().success());
    let mut longest = start.elapsed();
    let new = live_content(&root);
    assert_ne!(old, new);

    let (mut n_unfinished, mut state) = (0, seed);
    let mut finished = true;
    for i in 0..n_kills {
        if finished {
            fs::remove_dir_all(&root).unwrap();
            copy(&pristine, &root);
        }
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let moment = longest.mul_f64((state >> 11) as f64 / (1u64 << 53) as f64);
        let mut child = spawn(folder);
        sleep(moment);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = live_content(&root);
        assert!(
            found == old || found == new,
            "kill {i} after {moment:?}: {found}"
        );
        finished = found == new;
        n_unfinished += u64::from(!finished);
        // Moments follow the speed of the machine: most before the end, some at it.
        longest = longest.mul_f64(if finished { 0.9 } else { 1.05 });
    }
    assert!(n_unfinished > 0, "every kill came too late");
    println!("{n_unfinished} of {n_kills} kills came before the new generation was live");
    assert_eq!(run(&new_config(folder)).unwrap().content_digest, new);
    assert_eq!(live_content(&root), new);
    assert_eq!(
        Collection::open(&root)
            .unwrap()
            .generations()
            .unwrap()
            .len(),
        2
    );
    assert!(
        fs::read_dir(root.join("building"))
            .unwrap()
            .next()
            .is_none()
    );
}
