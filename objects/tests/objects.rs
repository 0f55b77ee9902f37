//! Generations and aliases on their way to object storage and from there; in memory, and in a folder.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use collection::{
    AliasName, BuildMode, Collection, CollectionError, FileFault, Generation, GenerationId,
    Manifest, Retention, Shard, Start,
};
use objects::{Garbage, Location, Objects, ObjectsError, Settings, Turn, Watch};
use serde_json::json;
use tempfile::TempDir;

static GOES_ON: AtomicBool = AtomicBool::new(false);

fn watch() -> Watch<'static> {
    Watch {
        on_bytes: &|_, _| (),
        cancelled: &GOES_ON,
    }
}

/// Storage in memory and in a folder, each with what it needs to live.
fn storages() -> Vec<(Objects, Option<TempDir>)> {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(&format!("file://{}", folder.path().display())).unwrap();
    let files = Objects::open(&location, &Settings::default()).unwrap();
    vec![(Objects::in_memory().unwrap(), None), (files, Some(folder))]
}

fn collection(folder: &TempDir, name: &str) -> Collection {
    Collection::create(&folder.path().join(name)).unwrap()
}

/// A generation with a file that is sent in several pieces.
fn build(collection: &Collection, number: u64) -> Generation {
    let writer = collection.writer("test").unwrap();
    let spec = json!({ "number": number });
    let Start::Build(building) = writer.begin(&spec, BuildMode::New).unwrap() else {
        panic!("there is nothing to build")
    };
    let path = "shards/000/vectors.trawl".to_owned();
    let rows: Vec<u8> = (0..9_000_000u64)
        .map(|i| (i * number % 251) as u8)
        .collect();
    fs::create_dir_all(building.path().join("shards/000")).unwrap();
    fs::write(building.path().join(&path), rows).unwrap();
    fs::write(building.path().join("ids"), number.to_string()).unwrap();
    let contents = Manifest {
        shards: vec![Shard {
            path,
            first_ordinal: 0,
            n_rows: 0,
            arithmetic: "f32".to_owned(),
            graph: None,
        }],
        ..Manifest::default()
    };
    writer.promote(&building, contents).unwrap()
}

fn pull(
    objects: &Objects,
    id: &GenerationId,
    into: &Collection,
    watch: Watch<'_>,
) -> Result<Generation, ObjectsError> {
    objects.pull(id, &into.writer("test").unwrap(), watch)
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn what_is_sent_comes_back_whole_and_nothing_is_sent_twice() {
    for (objects, _kept) in storages() {
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (collection(&folder, "from"), collection(&folder, "into"));
        let generation = build(&from, 3);
        assert_eq!(objects.push(&generation, watch()).unwrap().n_files, 3);
        assert_eq!(objects.push(&generation, watch()).unwrap().n_files, 0);
        let id = &generation.id;
        assert_eq!(objects.generations().unwrap(), std::slice::from_ref(id));
        assert_eq!(objects.manifest(id).unwrap(), generation.manifest);

        let copy = pull(&objects, id, &into, watch()).unwrap();
        assert_eq!(copy.manifest, generation.manifest);
        assert!(copy.verify(|_| ()).is_empty());
        for file in ["manifest.json", "ids", "shards/000/vectors.trawl"] {
            assert!(bytes(&copy.path.join(file)) == bytes(&generation.path.join(file)));
        }
        assert_eq!(into.resolve("live").unwrap(), copy);
        assert!(into.unfinished().unwrap().is_empty());
        pull(&objects, id, &into, watch()).unwrap();
    }
}

#[test]
fn a_generation_is_there_when_all_of_it_is() {
    for (objects, _kept) in storages() {
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (collection(&folder, "from"), collection(&folder, "into"));
        let generation = build(&from, 3);
        let id = &generation.id;
        let total: u64 = generation
            .manifest
            .files
            .iter()
            .map(|file| file.bytes)
            .sum();
        let enough = AtomicBool::new(false);
        let stops = Watch {
            on_bytes: &|done, _| enough.store(done > total / 2, Ordering::Relaxed),
            cancelled: &enough,
        };
        let stopped = objects.push(&generation, stops).unwrap_err();
        assert!(
            matches!(stopped, ObjectsError::Interrupted { .. }),
            "{stopped}"
        );
        assert!(objects.generations().unwrap().is_empty());
        let absent = pull(&objects, id, &into, watch()).unwrap_err();
        assert!(matches!(absent, ObjectsError::Unknown { .. }), "{absent}");

        enough.store(false, Ordering::Relaxed);
        objects.push(&generation, watch()).unwrap();
        let stopped = pull(&objects, id, &into, stops).unwrap_err();
        assert!(
            matches!(stopped, ObjectsError::Interrupted { .. }),
            "{stopped}"
        );
        assert!(into.generations().unwrap().is_empty());

        // What was copied is not copied again.
        let told = Mutex::new(Vec::new());
        let goes_on = Watch {
            on_bytes: &|done, _| told.lock().unwrap().push(done),
            cancelled: &GOES_ON,
        };
        pull(&objects, id, &into, goes_on).unwrap();
        let told = told.into_inner().unwrap();
        assert!(told[..2] == [1, told[1]] && told[1] > total / 2, "{told:?}");
        assert_eq!(into.generations().unwrap(), std::slice::from_ref(id));
    }
}

#[test]
fn what_is_damaged_is_named_and_never_there() {
    for (objects, _kept) in storages() {
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (collection(&folder, "from"), collection(&folder, "into"));
        let generation = build(&from, 3);
        let id = &generation.id;
        objects.push(&generation, watch()).unwrap();
        let key = format!("generations/{id}/shards/000/vectors.trawl");
        let intact = objects.read(&key, u64::MAX).unwrap().unwrap().bytes;
        let replace = |key: &str, bytes: Option<&[u8]>| {
            objects.remove(key).unwrap();
            if let Some(bytes) = bytes {
                assert!(objects.create(key, bytes).unwrap().is_none());
            }
        };
        let mut flipped = intact.clone();
        flipped[8_999_999] ^= 1;
        for damaged in [Some(&flipped[..]), Some(&intact[1..]), None] {
            replace(&key, damaged);
            let error = pull(&objects, id, &into, watch()).unwrap_err();
            assert!(error.is_corrupt(), "{error}");
            let ObjectsError::Damaged {
                first, n_files: 1, ..
            } = error
            else {
                panic!("{error}")
            };
            assert_eq!(first.path(), "shards/000/vectors.trawl");
            assert_eq!(
                matches!(first, FileFault::Checksum { .. }),
                damaged == Some(&flipped[..])
            );
            assert!(into.generations().unwrap().is_empty());
        }
        replace(&key, Some(&intact));
        let manifest = format!("generations/{id}/manifest.json");
        let stated = objects.read(&manifest, u64::MAX).unwrap().unwrap().bytes;
        replace(&manifest, Some(&stated[..stated.len() / 2]));
        let error = pull(&objects, id, &into, watch()).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        replace(&manifest, Some(&stated));
        pull(&objects, id, &into, watch()).unwrap();

        // On this side, before anything of it is seen there.
        let other = build(&from, 5);
        fs::write(other.path.join("ids"), "6").unwrap();
        let error = objects.push(&other, watch()).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        fs::write(other.path.join("shards/000/vectors.trawl"), &intact).unwrap();
        fs::write(other.path.join("ids"), "5").unwrap();
        let error = objects.push(&other, watch()).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert_eq!(objects.generations().unwrap(), std::slice::from_ref(id));

        replace("aliases.json", Some(b"{}"));
        let error = objects.aliases().unwrap_err();
        assert!(error.is_corrupt(), "{error}");
    }
}

#[test]
fn another_generation_of_the_same_name_is_refused() {
    let (objects, _) = storages().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (collection(&folder, "one"), collection(&folder, "two"));
    let generation = build(&one, 3);
    objects.push(&generation, watch()).unwrap();
    pull(&objects, &generation.id, &two, watch()).unwrap();
    let key = format!("generations/{}/manifest.json", generation.id);
    let text = String::from_utf8(objects.read(&key, u64::MAX).unwrap().unwrap().bytes).unwrap();
    objects.remove(&key).unwrap();
    // The same JSON, other bytes.
    let other = text.trim_end().to_owned();
    let checksum = &generation.manifest.checksum;
    let emptied = other.replacen(checksum, "", 1);
    let other = other.replacen(checksum, &collection::sha256_hex(emptied.as_bytes()), 1);
    assert!(objects.create(&key, other.as_bytes()).unwrap().is_none());
    let refused = objects.push(&generation, watch()).unwrap_err();
    assert!(matches!(refused, ObjectsError::Differs { .. }), "{refused}");
    let refused = pull(&objects, &generation.id, &two, watch()).unwrap_err();
    assert!(
        matches!(
            refused,
            ObjectsError::Collection(CollectionError::Differs { .. })
        ),
        "{refused}"
    );
}

#[test]
fn of_those_that_create_or_replace_at_once_one_succeeds() {
    const N: usize = 16;
    for (objects, _kept) in storages() {
        let race = |attempt: &(dyn Fn(usize) -> bool + Sync)| {
            let n_won = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for i in 0..N {
                    let n_won = &n_won;
                    scope
                        .spawn(move || n_won.fetch_add(usize::from(attempt(i)), Ordering::Relaxed));
                }
            });
            n_won.into_inner()
        };
        let own = |i: usize| i.to_string().into_bytes();
        let created = race(&|i| objects.create("one", &own(i)).unwrap().is_none());
        assert_eq!(created, 1);
        let found = objects.read("one", 9).unwrap().unwrap();
        let replaced = race(&|i| objects.replace("one", &own(N + i), &found.version).unwrap());
        assert_eq!(replaced, 1);
        // Who finds its own bytes has succeeded.
        let bytes = objects.read("one", 9).unwrap().unwrap().bytes;
        assert!(objects.create("one", &bytes).unwrap().is_none());
    }
}

#[test]
fn aliases_name_what_is_there_and_go_back() {
    for (objects, _kept) in storages() {
        let folder = tempfile::tempdir().unwrap();
        let from = collection(&folder, "from");
        let ids: Vec<GenerationId> = (3..6)
            .map(|number| {
                let generation = build(&from, number);
                objects.push(&generation, watch()).unwrap();
                generation.id
            })
            .collect();
        let live = AliasName::parse("live").unwrap();
        let absent = GenerationId::parse("absent").unwrap();
        let error = objects.set_alias(&live, &absent, None).unwrap_err();
        assert!(matches!(error, ObjectsError::Unknown { .. }), "{error}");
        let error = objects.rollback(&live).unwrap_err();
        assert!(matches!(error, ObjectsError::NoPrevious { .. }), "{error}");

        objects.set_alias(&live, &ids[0], Some(None)).unwrap();
        objects
            .set_alias(&live, &ids[1], Some(Some(&ids[0])))
            .unwrap();
        let error = objects
            .set_alias(&live, &ids[2], Some(Some(&ids[0])))
            .unwrap_err();
        assert!(matches!(error, ObjectsError::Changed { .. }), "{error}");
        assert_eq!(objects.resolve("live").unwrap(), ids[1]);
        assert_eq!(objects.rollback(&live).unwrap(), ids[0]);
        assert_eq!(objects.rollback(&live).unwrap(), ids[1]);

        // Each sets its own alias; none is lost.
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (objects, id) = (&objects, &ids[i % 3]);
                let alias = AliasName::parse(&format!("a{i}")).unwrap();
                scope.spawn(move || objects.set_alias(&alias, id, None).unwrap());
            }
        });
        assert_eq!(objects.aliases().unwrap().now.len(), 9);
    }
}

#[test]
fn what_nobody_needs_is_removed_and_nothing_else() {
    for (objects, _kept) in storages() {
        let folder = tempfile::tempdir().unwrap();
        let (from, into) = (collection(&folder, "from"), collection(&folder, "into"));
        let live = AliasName::parse("live").unwrap();
        for number in 3..8 {
            objects.push(&build(&from, number), watch()).unwrap();
        }
        let ids = objects.generations().unwrap();
        objects.set_alias(&live, &ids[0], None).unwrap();
        objects.set_alias(&live, &ids[1], None).unwrap();
        objects.keep_gate_report(&ids[2], b"{}").unwrap();
        objects.keep_gate_report(&ids[2], b"{ }").unwrap();
        let put = |key: &str, bytes: &[u8]| assert!(objects.create(key, bytes).unwrap().is_none());
        let manifest = |id: &str| {
            let found = objects.read(&format!("generations/{id}/manifest.json"), u64::MAX);
            found.unwrap().unwrap().bytes
        };
        // A push that was killed; a build that goes on, one that is complete, and one whose generation is not visible yet.
        let (abandoned, awaited) = ("20200101T000000Z-000000", "20200101T000000Z-000001");
        put(&format!("generations/{abandoned}/ids"), b"1");
        put("building/a/spec.json", b"{}");
        put("building/b/generation.json", &manifest(ids[1].as_str()));
        put("building/b/blobs/0", b"12");
        put("building/c/generation.json", &manifest(ids[2].as_str()));
        let of_other = String::from_utf8(manifest(ids[0].as_str())).unwrap();
        let unsigned = of_other.trim_end().replace(ids[0].as_str(), awaited);
        let checksum = &objects.manifest(&ids[0]).unwrap().checksum;
        let emptied = unsigned.replacen(checksum, "", 1);
        let signed = unsigned.replacen(checksum, &collection::sha256_hex(emptied.as_bytes()), 1);
        put("building/d/generation.json", signed.as_bytes());
        put(&format!("generations/{awaited}/ids"), b"1");

        let hour = Duration::from_secs(3600);
        let now = std::time::SystemTime::now();
        let retention = |keep, keep_unfinished| Retention {
            keep,
            keep_unfinished,
        };
        let garbage = |keep, keep_unfinished, since| {
            objects
                .garbage(&retention(keep, keep_unfinished), since)
                .unwrap()
        };
        assert_eq!(garbage(0, false, now - hour), Garbage::default());
        let of = |id: &str| format!("generations/{id}");
        let kept = garbage(1, true, now + hour);
        assert_eq!(kept.generations, ids[2..4]);
        assert!(kept.unfinished.is_empty());
        let left = [
            "building/b/blobs".to_owned(),
            "building/c".to_owned(),
            of(abandoned),
        ];
        assert_eq!(kept.leftovers, left);
        assert_eq!(garbage(5, false, now + hour).generations, []);

        let all = garbage(1, false, now + hour);
        assert_eq!(all.generations, ids[2..4]);
        assert_eq!(all.unfinished, ["building/a", "building/d"]);
        let mut left = left.to_vec();
        left.push(of(awaited));
        assert_eq!(all.leftovers, left);
        assert_eq!(objects.gc(&retention(1, false), now + hour).unwrap(), all);
        assert_eq!(garbage(1, false, now + hour), Garbage::default());
        assert_eq!(
            objects.generations().unwrap(),
            [&ids[..2], &ids[4..]].concat()
        );
        for id in [&ids[0], &ids[1], &ids[4]] {
            pull(&objects, id, &into, watch()).unwrap();
        }
        let keys: Vec<_> = objects
            .list("building")
            .unwrap()
            .into_iter()
            .map(|entry| entry.key)
            .collect();
        assert_eq!(keys, ["building/b/generation.json"]);
        assert!(objects.list("gate").unwrap().is_empty());
        assert_eq!(objects.rollback(&live).unwrap(), ids[0]);
    }
}

#[test]
fn the_files_of_a_named_generation_stay_without_its_manifest() {
    for (objects, _kept) in storages() {
        let folder = tempfile::tempdir().unwrap();
        let generation = build(&collection(&folder, "from"), 3);
        objects.push(&generation, watch()).unwrap();
        let live = AliasName::parse("live").unwrap();
        objects.set_alias(&live, &generation.id, None).unwrap();
        let key = format!("generations/{}/manifest.json", generation.id);
        objects.remove(&key).unwrap();
        let since = std::time::SystemTime::now() + Duration::from_secs(3600);
        let retention = Retention {
            keep: 0,
            keep_unfinished: false,
        };
        let removed = objects.gc(&retention, since).unwrap();
        assert_eq!(removed, Garbage::default());
        // Its manifest is all that a push has to send.
        let pushed = objects.push(&generation, watch()).unwrap();
        assert_eq!(pushed.n_files, 0);
        assert_eq!(objects.resolve("live").unwrap(), generation.id);
        assert_eq!(objects.generations().unwrap(), [generation.id]);
    }
}

#[test]
fn a_turn_is_had_by_one_until_it_ends_or_is_not_renewed() {
    for (objects, _kept) in storages() {
        let turn = |holder: &str, patience| {
            Turn::new(objects.clone(), "live", holder.to_owned(), patience)
        };
        let (long, none) = (Duration::from_secs(3600), Duration::ZERO);
        let (mut one, mut two) = (turn("one", long), turn("two", long));
        assert!(one.take().unwrap());
        assert!(!two.take().unwrap() && !two.take().unwrap());
        assert!(one.take().unwrap(), "it is renewed");
        two.end().unwrap();
        assert!(!two.take().unwrap(), "another's turn is not ended");
        one.end().unwrap();
        assert!(two.take().unwrap());
        assert!(!one.take().unwrap());

        // Who has no patience takes what was not renewed since it looked, and no sooner.
        let mut hasty = turn("three", none);
        assert!(hasty.take().unwrap());
        assert!(!two.take().unwrap(), "it was lost");
        two.end().unwrap();
        assert!(hasty.take().unwrap());
        hasty.end().unwrap();

        let mut patient = turn("four", Duration::from_millis(1));
        assert!(one.take().unwrap());
        for _ in 0..5 {
            assert!(!patient.take().unwrap(), "it is renewed in time");
            assert!(one.take().unwrap());
        }
        assert!(!patient.take().unwrap());
        std::thread::sleep(Duration::from_millis(2));
        assert!(patient.take().unwrap());
        patient.end().unwrap();

        let n_had = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (mut turn, n_had) = (turn(&format!("racer {i}"), long), &n_had);
                scope.spawn(move || {
                    n_had.fetch_add(usize::from(turn.take().unwrap()), Ordering::Relaxed)
                });
            }
        });
        assert_eq!(n_had.into_inner(), 1);
    }
}
