//! Kills of a process that writes documents and folds them.

use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use collection::{AliasName, Collection, LIVE, LogConfig, Retention};
use corpus::CorpusConfig;
use index::Metric;
use indexer::{CompactConfig, DocumentChange, NoProgress, Recipe, VectorSource, compact, create};

use super::{Document, Draws, Trial, WIDTH, open, patiently, schema};

const KILLED: &str = "TRAWL_LIVE_FOLDER";

fn create_empty(root: &Path) {
    let source = VectorSource::Brought {
        width: WIDTH,
        metric: Metric::InnerProduct,
    };
    let config = Trial::config(root, CorpusConfig::default(), false);
    patiently(|| create(&config, &schema(), source));
}

/// Upserts and folds without end, and notes what was acknowledged; as an ordinary test it does so a little.
#[test]
fn writes_and_folds_go_on() {
    let own = tempfile::tempdir().unwrap();
    let folder = env::var_os(KILLED).map_or(own.path().to_owned(), PathBuf::from);
    let root = folder.join("docs");
    if env::var_os(KILLED).is_none() {
        create_empty(&root);
    }
    let collection = Collection::open(&root).unwrap();
    let config = LogConfig {
        segment_bytes: 4_000,
        ..LogConfig::default()
    };
    let mut log = patiently(|| collection.log_writer("test", config));
    let mut acknowledged = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("acknowledged"))
        .unwrap();
    let retriever = open(&collection);
    let recipe = Recipe::of(retriever.manifest(), retriever.row_form()).unwrap();
    let is_killed = env::var_os(KILLED).is_some();
    std::thread::scope(|scope| {
        let collection = &collection;
        scope.spawn(move || {
            let config = CompactConfig {
                alias: AliasName::parse(LIVE).unwrap(),
                publish: true,
            };
            loop {
                let cancelled = AtomicBool::new(false);
                patiently(|| compact(collection, &config, None, &NoProgress, &cancelled));
                let writer = patiently(|| collection.writer("test"));
                writer.gc(&Retention::default()).unwrap();
                if !is_killed {
                    break;
                }
            }
        });
        let mut draws = Draws(log.position());
        for n in 0.. {
            if n == 50 && !is_killed {
                break;
            }
            let document = Document {
                id: format!("a{}", log.position()),
                ..draws.document(1)
            };
            let vector = document.vector.to_vec();
            let upsert = recipe.brought(document.passage(), vector).unwrap();
            let change = DocumentChange::Upsert(upsert);
            log.append(&[change.to_record()]).unwrap();
            // One write of less than a page: it is there as a whole or not at all.
            std::io::Write::write_all(&mut acknowledged, format!("{}\n", document.id).as_bytes())
                .unwrap();
            if n % 50 == 49
                && let Ok(writer) = collection.writer("test")
            {
                log.truncate(&writer).unwrap();
            }
        }
    });
}

/// `TRAWL_KILLS` is the number of moments.
#[test]
fn a_kill_loses_no_acknowledged_document() {
    let n_kills = env::var("TRAWL_KILLS").map_or(5, |text| text.parse().unwrap());
    let seed = RandomState::new().hash_one(0);
    println!("seed {seed}");
    let mut draws = Draws(seed);
    let folder = tempfile::tempdir().unwrap();
    create_empty(&folder.path().join("docs"));
    for _ in 0..n_kills {
        let mut child = std::process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "live::kills::writes_and_folds_go_on"])
            .env(KILLED, folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(
            20 + draws.below(400) as u64,
        ));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        let Ok(text) = fs::read_to_string(folder.path().join("acknowledged")) else {
            continue; // It was killed before it wrote.
        };
        let collection = Collection::open(&folder.path().join("docs")).unwrap();
        let generation = collection.resolve(LIVE).unwrap();
        assert!(generation.verify(|_| ()).is_empty());
        let retriever = open(&collection);
        let live = retriever.live();
        for id in text.lines() {
            assert_eq!(
                live.view().passages_of(id).unwrap().len(),
                1,
                "{id} is lost"
            );
        }
        patiently(|| collection.log_writer("test", LogConfig::default()));
    }
}
