//! A build in parts: whoever makes them, however often and however interrupted, the content is that of one build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use collection::Collection;
use indexer::{
    BuildConfig, BuildError, BuildReport, CommitConfig, NoProgress, PartNumber, PartReport,
};

use crate::{Folder, config, encoder, run, write_corpus};

const FOLDER: &str = "TRAWL_PARTS_FOLDER";
const PART: &str = "TRAWL_PART";

fn encode(config: &BuildConfig, part: &str) -> Result<PartReport, BuildError> {
    let part: PartNumber = part.parse().unwrap();
    let never = AtomicBool::new(false);
    indexer::encode_part(config, &encoder(), part, &NoProgress, &never)
}

fn commit(collection: &Path, build: Option<&str>) -> Result<BuildReport, BuildError> {
    let config = CommitConfig {
        collection: collection.to_owned(),
        build: build.map(str::to_owned),
        publish: false,
    };
    indexer::commit(&config, &NoProgress, &AtomicBool::new(false))
}

#[test]
fn parts_are_i_of_n() {
    for (text, expected) in [("0/1", Some((0, 1))), ("7/8", Some((7, 8)))] {
        let (number, of) = expected.unwrap();
        assert_eq!(text.parse().ok(), PartNumber::new(number, of));
    }
    for text in ["", "1", "8/8", "-1/8", "1/0", "a/b", "1/2/3"] {
        assert!(text.parse::<PartNumber>().is_err(), "{text}");
    }
}

#[test]
fn parts_make_the_content_of_one_build() {
    let folder = Folder::new();
    let corpus = folder.corpus(1, 100);
    let whole = run(&config(&folder.collection("whole"), &corpus)).unwrap();
    let config = config(&folder.collection("parts"), &corpus);
    // More parts than chunks: some are empty.
    for n_parts in [3, 9] {
        let parts: Vec<String> = (0..n_parts).map(|i| format!("{i}/{n_parts}")).collect();
        let (last, others) = parts.split_last().unwrap();
        let mut n_passages = 0;
        for part in others.iter().rev() {
            n_passages += encode(&config, part).unwrap().passages;
        }
        let error = commit(&config.collection, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("1 of {n_parts} parts are missing: {}", n_parts - 1)
        );
        let report = encode(&config, last).unwrap();
        assert_eq!(n_passages + report.passages, 100);
        let again = encode(&config, last).unwrap();
        assert_eq!((again.encoded_chunks, again.chunks), (0, report.chunks));

        let built = commit(&config.collection, None).unwrap();
        assert!(built.live);
        assert_eq!(built.content_digest, whole.content_digest);
        assert_eq!((built.counts, &built.schema), (whole.counts, &whole.schema));
        let again = commit(&config.collection, Some(&report.build)).unwrap();
        assert_eq!(again.generation, built.generation);
        let late = encode(&config, last).unwrap();
        assert_eq!(late.generation, Some(built.generation));
        let error = commit(&config.collection, None).unwrap_err();
        assert!(
            matches!(error, BuildError::Builds { n_builds: 0, .. }),
            "{error}"
        );
        fs::remove_dir_all(&config.collection).unwrap();
    }
}

#[test]
fn a_damaged_part_is_named_and_made_again() {
    let folder = Folder::new();
    let config = config(&folder.collection("c"), &folder.corpus(1, 100));
    for part in ["0/2", "1/2"] {
        encode(&config, part).unwrap();
    }
    let build = Collection::open(&config.collection)
        .unwrap()
        .unfinished()
        .unwrap()
        .remove(0);
    for file in [
        "work/000005.chunk",
        "work/parts/00001-of-00002.json",
        "work/outline.json",
    ] {
        let path = build.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = commit(&config.collection, None).unwrap_err();
        assert!(
            matches!(error, BuildError::Chunk { .. } | BuildError::Record { .. }),
            "{file}: {error}"
        );
        encode(&config, "1/2").unwrap();
    }
    let whole = run(&BuildConfig {
        collection: folder.collection("whole"),
        ..config.clone()
    });
    let built = commit(&config.collection, None).unwrap();
    assert_eq!(built.content_digest, whole.unwrap().content_digest);
}

#[test]
fn a_build_that_is_killed_before_its_outline_is_made_anew_and_no_build_in_parts_until_then() {
    let folder = Folder::new();
    let config = config(&folder.collection("c"), &folder.corpus(1, 100));
    let report = encode(&config, "0/1").unwrap();
    let collection = Collection::open(&config.collection).unwrap();
    let work = collection.unfinished().unwrap().remove(0).join("work");
    // The folder of the records is made before the outline is written.
    fs::remove_file(work.join("outline.json")).unwrap();
    fs::remove_file(work.join("parts/00000-of-00001.json")).unwrap();
    assert_eq!(indexer::build_status_here(&collection).unwrap(), []);
    for build in [None, Some(report.build.as_str())] {
        let error = commit(&config.collection, build).unwrap_err();
        assert!(
            matches!(error, BuildError::Builds { n_builds: 0, .. }),
            "{error}"
        );
    }
    encode(&config, "0/1").unwrap();
    assert_eq!(indexer::build_status_here(&collection).unwrap().len(), 1);
    commit(&config.collection, None).unwrap();
}

#[test]
fn a_damaged_record_of_another_division_is_not_asked() {
    let folder = Folder::new();
    let config = config(&folder.collection("c"), &folder.corpus(1, 100));
    for part in ["0/2", "1/2"] {
        encode(&config, part).unwrap();
    }
    let collection = Collection::open(&config.collection).unwrap();
    let parts = collection
        .unfinished()
        .unwrap()
        .remove(0)
        .join("work/parts");
    fs::write(parts.join("00001-of-00003.json"), "{").unwrap();
    commit(&config.collection, None).unwrap();
}

/// The process that is killed. Only a child of the test below has something to do.
#[test]
fn the_process_that_is_killed() {
    let (Some(folder), Ok(part)) = (env::var_os(FOLDER), env::var(PART)) else {
        return;
    };
    encode(&parts_config(&PathBuf::from(folder)), &part).unwrap();
}

fn parts_config(folder: &Path) -> BuildConfig {
    config(&folder.join("parts"), &folder.join("corpus.jsonl"))
}

/// Encodes a part in a process of its own; kills it at the moment given, if it has not ended by then. Whether it succeeded.
fn encode_elsewhere(folder: &Path, part: usize, kill_after: Option<Duration>) -> bool {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "parts::the_process_that_is_killed"])
        .env(FOLDER, folder)
        .env(PART, format!("{part}/8"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if let Some(moment) = kill_after {
        thread::sleep(moment);
        child.kill().unwrap();
    }
    child.wait().unwrap().success()
}

#[test]
fn eight_parts_by_four_processes_that_are_killed_make_one_build() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_corpus(&folder.join("corpus.jsonl"), 1, 400);
    let config = parts_config(folder);
    let whole = run(&BuildConfig {
        collection: folder.join("whole"),
        ..config.clone()
    })
    .unwrap();
    let start = Instant::now();
    assert!(encode_elsewhere(folder, 0, None));
    let longest = Mutex::new(start.elapsed());
    fs::remove_dir_all(&config.collection).unwrap();

    // Some parts are started twice, as by a scheduler that lost sight of them.
    let queue = Mutex::new(vec![3, 7, 0, 7, 6, 5, 4, 3, 2, 1, 0]);
    let (n_killed, n_seeds) = (AtomicUsize::new(0), AtomicUsize::new(1));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let next = || queue.lock().unwrap().pop();
                while let Some(part) = next() {
                    let mut state = n_seeds.fetch_add(1, Ordering::Relaxed) as u64;
                    for _ in 0..2 {
                        state = state
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        let share = (state >> 11) as f64 / (1u64 << 53) as f64;
                        let moment = longest.lock().unwrap().mul_f64(share);
                        let done = encode_elsewhere(folder, part, Some(moment));
                        // Moments follow the speed of the machine, as in `kill`.
                        let factor = if done { 0.7 } else { 1.05 };
                        let mut longest = longest.lock().unwrap();
                        *longest = longest.mul_f64(factor);
                        n_killed.fetch_add(usize::from(!done), Ordering::Relaxed);
                    }
                    assert!(encode_elsewhere(folder, part, None));
                }
            });
        }
    });
    let n_killed = n_killed.into_inner();
    println!("{n_killed} of 22 kills came before the end of a part");
    assert!(n_killed > 0, "every kill came too late");
    let built = commit(&config.collection, None).unwrap();
    assert_eq!(built.content_digest, whole.content_digest);
    assert_eq!(built.counts, whole.counts);
}

#[test]
fn parts_in_object_storage_make_the_content_of_one_build() {
    let folder = Folder::new();
    let corpus = folder.corpus(1, 100);
    let whole = run(&config(&folder.collection("whole"), &corpus)).unwrap();
    let config = config(&folder.collection("unused"), &corpus);
    let objects = objects::Objects::in_memory().unwrap();
    let work = folder.collection("work");
    let remote = indexer::Remote {
        objects: &objects,
        work: &work,
    };
    let (never, encoder) = (AtomicBool::new(false), encoder());
    let encode = |part: &str| {
        let part = part.parse().unwrap();
        indexer::encode_part_remotely(remote, &config, &encoder, part, &NoProgress, &never)
    };
    let commit = |build| indexer::commit_remotely(remote, build, &NoProgress, &never);
    let status = || indexer::build_status(&objects).unwrap();
    // Killed between the spec and what all parts share.
    let begun = objects.create("building/begun/spec.json", b"{}").unwrap();
    assert!(begun.is_none() && status().is_empty());
    let error = commit(None).unwrap_err();
    assert!(
        matches!(error, BuildError::Builds { n_builds: 0, .. }),
        "{error}"
    );

    let first = encode("1/3").unwrap();
    assert!(first.encoded_chunks > 0);
    assert_eq!(encode("1/3").unwrap().encoded_chunks, 0);
    let [half] = &status()[..] else {
        panic!("one build was begun")
    };
    assert_eq!((half.parts, &half.missing[..]), (Some(3), &[0, 2][..]));
    assert_eq!((half.passages, half.total_passages), (first.passages, 100));
    let error = commit(None).unwrap_err();
    assert!(
        matches!(error, BuildError::MissingParts { of: 3, .. }),
        "{error}"
    );
    for part in ["0/3", "2/3"] {
        encode(part).unwrap();
    }
    let built = commit(None).unwrap();
    assert!(built.live);
    assert_eq!(built.content_digest, whole.content_digest);
    assert_eq!(
        objects.generations().unwrap(),
        std::slice::from_ref(&built.generation)
    );
    let again = commit(Some(&first.build)).unwrap();
    assert_eq!(again.generation, built.generation);
    assert_eq!(encode("1/3").unwrap().generation, Some(built.generation));
    assert!(!config.collection.exists());
}
