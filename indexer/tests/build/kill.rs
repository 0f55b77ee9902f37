//! kill -9 at random moments: readers have the old state or the new, all of it whole, and the operation, done again, ends as if it
//! had never been killed.
//!
//! `TRAWL_KILLS` is the number of moments, `TRAWL_KILL_SEED` repeats a run as far as a clock allows.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use collection::{AliasName, BuildMode, Collection, LIVE, Retention};
use index::{ShardedIndex, VectorIndex};
use indexer::{BuildConfig, NoProgress, build};
use store::Store;

use crate::{config, encoder, run, write_corpus};

const N_PASSAGES: usize = 800;
const FOLDER: &str = "TRAWL_KILL_FOLDER";
const OPERATION: &str = "TRAWL_KILL_OPERATION";
const BEGAN: &str = "the operation began";
const ENDED: &str = "the operation ended";

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Build,
    Incremental,
    Publish,
    Rollback,
    Gc,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::Build,
        Self::Incremental,
        Self::Publish,
        Self::Rollback,
        Self::Gc,
    ];

    /// The corpus of the generation that is new.
    fn corpus(self) -> &'static str {
        match self {
            Self::Incremental => "changed.jsonl",
            _ => "other.jsonl",
        }
    }

    fn config(self, folder: &Path) -> BuildConfig {
        let base = match self {
            Self::Incremental => Some(LIVE.to_owned()),
            _ => None,
        };
        BuildConfig {
            chunk_passages: 50,
            mode: BuildMode::Resume,
            base,
            ..config(&folder.join("collection"), &folder.join(self.corpus()))
        }
    }

    /// Makes the collection before the operation.
    fn prepare(self, folder: &Path) {
        let old = config(&folder.join("collection"), &folder.join("old.jsonl"));
        run(&old).unwrap();
        if matches!(self, Self::Build | Self::Incremental) {
            return;
        }
        if self == Self::Gc {
            for seed in 10..14 {
                let corpus = folder.join("more.jsonl");
                write_corpus(&corpus, seed, 40);
                run(&config(&old.collection, &corpus)).unwrap();
            }
        }
        run(&BuildConfig {
            publish: self != Self::Publish,
            ..self.config(folder)
        })
        .unwrap();
        if self == Self::Gc {
            let unfinished = old.collection.join("building/unfinished/work");
            fs::create_dir_all(&unfinished).unwrap();
            fs::write(unfinished.join("000000.chunk"), "begun").unwrap();
        }
    }

    fn perform(self, folder: &Path) {
        let collection = || Collection::open(&folder.join("collection")).unwrap();
        let writer = || collection().writer("kill test").unwrap();
        match self {
            Self::Build | Self::Incremental => {
                let (config, encoder) = (self.config(folder), encoder());
                println!("\n{BEGAN}");
                let config = BuildConfig {
                    publish: true,
                    ..config
                };
                build(&config, &encoder, &NoProgress, &false.into()).unwrap();
            }
            Self::Publish => {
                let newest = collection().generations().unwrap().pop().unwrap();
                println!("\n{BEGAN}");
                writer().publish(&newest).unwrap();
            }
            Self::Rollback => {
                println!("\n{BEGAN}");
                writer().rollback(&AliasName::parse(LIVE).unwrap()).unwrap();
            }
            Self::Gc => {
                println!("\n{BEGAN}");
                let retention = Retention {
                    keep: 1,
                    keep_unfinished: false,
                };
                writer().gc(&retention).unwrap();
            }
        }
        println!("{ENDED}");
    }

    /// Whether a kill may leave what is found, when the operation leads from `old` to `new`.
    fn allows(self, found: &View, old: &View, new: &View) -> bool {
        let aliases = |view: &View| (view.live.clone(), view.before.clone());
        match self {
            // Built, and not yet published.
            Self::Build | Self::Incremental => {
                let built = View {
                    generations: new.generations.clone(),
                    ..old.clone()
                };
                [old, &built, new].contains(&found)
            }
            Self::Publish | Self::Rollback => [old, new].contains(&found),
            // One generation goes after the other.
            Self::Gc => {
                aliases(found) == aliases(new)
                    && found.generations.is_superset(&new.generations)
                    && found.generations.is_subset(&old.generations)
            }
        }
    }
}

/// What a reader sees: generations by their content.
#[derive(Clone, Debug, PartialEq)]
struct View {
    live: String,
    before: Option<String>,
    generations: BTreeSet<String>,
}

impl View {
    /// Opens everything and checks that it is whole.
    fn of(root: &Path) -> Self {
        let collection = Collection::open(root).unwrap();
        let content = |name: &str| whole_content(&collection, name);
        let before = collection.previous().unwrap();
        let generations = collection.generations().unwrap();
        Self {
            live: content(LIVE),
            before: before.values().next().map(|id| content(id.as_str())),
            generations: generations.iter().map(|id| content(id.as_str())).collect(),
        }
    }
}

/// Opens a generation, checks that it is whole, and returns its content digest.
fn whole_content(collection: &Collection, name: &str) -> String {
    let generation = collection.resolve(name).unwrap();
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

/// The process that is killed. Only a child of the test below has something to do.
#[test]
fn the_process_that_is_killed() {
    let (Some(folder), Ok(name)) = (env::var_os(FOLDER), env::var(OPERATION)) else {
        return;
    };
    let named = |operation: &Operation| format!("{operation:?}") == name;
    let operation = Operation::ALL.into_iter().find(named).unwrap();
    operation.perform(&PathBuf::from(folder));
}

struct Running {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts the process and waits until the operation begins.
    fn start(operation: Operation, folder: &Path) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "kill::the_process_that_is_killed", "--nocapture"])
            .env(FOLDER, folder)
            .env(OPERATION, format!("{operation:?}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim_end() != BEGAN {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it did not begin");
        }
        Self { process, output }
    }

    /// Waits until it ends, and returns whether the operation was done.
    fn end(mut self) -> bool {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.process.wait().unwrap();
        rest.contains(ENDED)
    }

    fn kill_after(mut self, moment: Duration) -> bool {
        sleep(moment);
        self.process.kill().unwrap();
        self.end()
    }
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

/// Kills an operation so many times and returns how many of them came before its end.
fn check_kills(operation: Operation, n_kills: u64, state: &mut u64) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (root, pristine) = (folder.join("collection"), folder.join("pristine"));
    write_corpora(folder);
    operation.prepare(folder);
    copy(&root, &pristine);
    let old = View::of(&root);
    let running = Running::start(operation, folder);
    let start = Instant::now();
    assert!(running.end());
    let mut longest = start.elapsed();
    let new = View::of(&root);
    assert_ne!(old, new);

    let (mut n_unfinished, mut is_new) = (0, true);
    for i in 0..n_kills {
        if is_new {
            fs::remove_dir_all(&root).unwrap();
            copy(&pristine, &root);
        }
        *state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let moment = longest.mul_f64((*state >> 11) as f64 / (1u64 << 53) as f64);
        let ended = Running::start(operation, folder).kill_after(moment);
        let found = View::of(&root);
        assert!(
            operation.allows(&found, &old, &new) && (!ended || found == new),
            "{operation:?}: kill {i} after {moment:?}: {found:#?}, old {old:#?}, new {new:#?}"
        );
        // What is collected last is no part of a view.
        is_new = found == new && (operation != Operation::Gc || nothing_is_unfinished(&root));
        n_unfinished += u64::from(!ended);
        // Moments follow the speed of the machine: most before the end, some at it.
        longest = longest.mul_f64(if ended { 0.8 } else { 1.05 });
    }
    if !is_new {
        operation.perform(folder);
    }
    assert_eq!(View::of(&root), new);
    assert!(nothing_is_unfinished(&root));
    n_unfinished
}

fn nothing_is_unfinished(root: &Path) -> bool {
    let collection = Collection::open(root).unwrap();
    collection.unfinished().unwrap().is_empty()
}

/// A corpus, one with every twentieth passage changed, and another one.
fn write_corpora(folder: &Path) {
    write_corpus(&folder.join("old.jsonl"), 1, N_PASSAGES);
    write_corpus(&folder.join("other.jsonl"), 2, N_PASSAGES);
    let old = fs::read_to_string(folder.join("old.jsonl")).unwrap();
    let changed = old.lines().enumerate().map(|(i, line)| match i % 20 {
        0 => line.replacen("\"text\":\"", "\"text\":\"changed ", 1) + "\n",
        _ => format!("{line}\n"),
    });
    fs::write(folder.join("changed.jsonl"), changed.collect::<String>()).unwrap();
}

#[test]
fn kills_leave_the_old_state_or_the_new() {
    let variable = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let n_kills = variable("TRAWL_KILLS").unwrap_or(20);
    let seed = variable("TRAWL_KILL_SEED").unwrap_or_else(|| RandomState::new().hash_one(n_kills));
    println!("TRAWL_KILLS={n_kills} TRAWL_KILL_SEED={seed}");
    let mut state = seed;
    let (n_operations, mut n_early) = (Operation::ALL.len() as u64, 0);
    for (i, operation) in (0..).zip(Operation::ALL) {
        let n_kills = (n_kills + i) / n_operations;
        let n_unfinished = check_kills(operation, n_kills, &mut state);
        println!("{operation:?}: {n_unfinished} of {n_kills} kills came before its end");
        n_early += n_unfinished;
    }
    assert!(n_early > 0, "every kill came too late");
}
