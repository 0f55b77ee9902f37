//! A collection's life: build, promote, publish, damage.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use collection::{
    AliasName, BuildMode, Building, Collection, CollectionError, FileFault, Garbage, Generation,
    GenerationId, Manifest, ManifestError, Retention, Shard, Start, Writer,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn empty() -> (TempDir, Collection) {
    let folder = tempfile::tempdir().unwrap();
    let collection = Collection::create(&folder.path().join("docs")).unwrap();
    (folder, collection)
}

fn begin(writer: &Writer, spec: &Value, mode: BuildMode) -> Building {
    match writer.begin(spec, mode).unwrap() {
        Start::Build(building) => building,
        Start::Done(generation) => panic!("{} is finished", generation.id),
    }
}

fn fill(building: &Building, ids: &str) -> Manifest {
    fs::create_dir_all(building.path().join("shards/000")).unwrap();
    fs::write(building.path().join("shards/000/vectors.trawl"), b"rows").unwrap();
    fs::write(building.path().join("ids"), ids).unwrap();
    fs::write(building.work().join("000000.chunk"), b"only for resuming").unwrap();
    let path = "shards/000/vectors.trawl".to_owned();
    Manifest {
        shards: vec![Shard {
            path,
            first_ordinal: 0,
            n_rows: 0,
            arithmetic: "f32".to_owned(),
            graph: None,
        }],
        width: 2,
        ..Manifest::default()
    }
}

fn build(writer: &Writer, spec: &Value) -> Generation {
    let building = begin(writer, spec, BuildMode::New);
    let contents = fill(&building, &spec.to_string());
    writer.promote(&building, contents).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_first_generation_is_live_and_later_ones_when_published() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    assert!(matches!(
        collection.resolve("live"),
        Err(CollectionError::Unknown { .. })
    ));

    let first = build(&writer, &json!({"corpus": 1}));
    assert_eq!(collection.resolve("live").unwrap(), first);
    assert_eq!(
        names(&first.path),
        ["ids", "manifest.json", "shards", "spec.json"]
    );
    assert_eq!(first.verify(|_| ()).len(), 0);
    let listed: Vec<_> = first
        .manifest
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(listed, ["ids", "shards/000/vectors.trawl", "spec.json"]);
    assert!(names(&collection.root().join("building")).is_empty());

    let second = build(&writer, &json!({"corpus": 2}));
    assert_eq!(collection.resolve("live").unwrap(), first);
    writer.publish(&second.id).unwrap();
    assert_eq!(collection.resolve("live").unwrap(), second);
    writer
        .set_alias(&AliasName::parse("previous").unwrap(), &first.id)
        .unwrap();
    assert_eq!(collection.resolve("previous").unwrap(), first);
    assert_eq!(collection.resolve(first.id.as_str()).unwrap(), first);
    let mut both = [first.id, second.id];
    both.sort();
    assert_eq!(collection.generations().unwrap(), both);
}

#[test]
fn a_build_is_neither_overwritten_nor_continued_by_another_spec() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let spec = json!({"b": 1, "a": 2});
    let building = begin(&writer, &spec, BuildMode::New);
    fill(&building, "half");
    let error = writer
        .begin(&json!({"a": 2, "b": 1}), BuildMode::New)
        .unwrap_err();
    assert!(
        matches!(error, CollectionError::InProgress { .. }),
        "{error}"
    );

    let other = begin(&writer, &json!({"a": 3}), BuildMode::Resume);
    assert_ne!(other.path(), building.path());

    let resumed = begin(&writer, &spec, BuildMode::Resume);
    assert_eq!(names(resumed.path()), ["spec.json", "work"]);
    assert_eq!(names(&resumed.work()), ["000000.chunk"]);

    assert_eq!(collection.unfinished().unwrap().len(), 2);

    let restarted = begin(&writer, &spec, BuildMode::Restart);
    assert!(names(&restarted.work()).is_empty());

    fs::write(restarted.path().join("spec.json"), "{}").unwrap();
    let error = writer.begin(&spec, BuildMode::Resume).unwrap_err();
    assert!(matches!(error, CollectionError::Spec { .. }), "{error}");
}

#[test]
fn a_resumed_build_takes_a_finished_generation_as_it_is() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let spec = json!({"corpus": 1});
    let first = build(&writer, &spec);
    match writer.begin(&spec, BuildMode::Resume).unwrap() {
        Start::Done(generation) => assert_eq!(*generation, first),
        Start::Build(_) => panic!("built twice"),
    }
    begin(&writer, &spec, BuildMode::New);
}

#[test]
fn a_kill_after_the_manifest_is_finished_by_the_next_build() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let spec = json!({"corpus": 1});
    let generation = build(&writer, &spec);
    // Back to the state between the manifest and the rename.
    let path = collection
        .root()
        .join("building")
        .join(&generation.manifest.spec_digest);
    fs::rename(&generation.path, &path).unwrap();
    fs::create_dir(path.join("work")).unwrap();
    fs::remove_file(collection.root().join("aliases.json")).unwrap();

    match writer.begin(&spec, BuildMode::Resume).unwrap() {
        Start::Done(finished) => assert_eq!(*finished, generation),
        Start::Build(_) => panic!("built twice"),
    }
    assert_eq!(collection.resolve("live").unwrap(), generation);
    assert_eq!(generation.verify(|_| ()).len(), 0);
}

#[test]
fn a_second_writer_is_told_who_the_first_is() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let error = collection.writer("test").unwrap_err().to_string();
    let process = format!("process {} on ", std::process::id());
    assert!(error.contains(&process), "{error}");
    assert!(error.contains(" since 2"), "{error}");
    assert!(error.ends_with(": test"), "{error}");
    drop(writer);
    collection.writer("test").unwrap();
}

#[test]
fn other_folders_are_not_collections() {
    let folder = tempfile::tempdir().unwrap();
    let error = Collection::open(folder.path()).unwrap_err();
    assert!(
        matches!(error, CollectionError::NotACollection { .. }),
        "{error}"
    );
    fs::write(folder.path().join("thesis.txt"), "years of work").unwrap();
    let error = Collection::create(folder.path()).unwrap_err();
    assert!(matches!(error, CollectionError::NotEmpty { .. }), "{error}");
}

#[test]
fn names_never_become_paths() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let generation = build(&writer, &json!({}));
    for name in ["../generations", "/etc", "", ".", ".."] {
        let error = collection.resolve(name).unwrap_err();
        assert!(
            matches!(error, CollectionError::Name(_)),
            "{name:?}: {error}"
        );
    }
    fs::create_dir(collection.root().join("generations/.tmp")).unwrap();
    assert_eq!(collection.generations().unwrap(), [generation.id]);
}

#[test]
fn every_damage_of_a_generation_has_a_name() {
    let (_folder, collection) = empty();
    let generation = build(&collection.writer("test").unwrap(), &json!({}));
    let ids = generation.path.join("ids");
    let fault = || {
        let mut faults = generation.verify(|_| ());
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    };
    fs::write(&ids, "{").unwrap();
    assert!(matches!(
        fault(),
        FileFault::Length {
            expected: 2,
            found: 1,
            ..
        }
    ));
    fs::write(&ids, "{]").unwrap();
    assert!(matches!(fault(), FileFault::Checksum { path, .. } if path == "ids"));
    fs::remove_file(&ids).unwrap();
    assert!(matches!(fault(), FileFault::Missing { path } if path == "ids"));
    fs::create_dir(&ids).unwrap();
    assert!(matches!(fault(), FileFault::NotAFile { path } if path == "ids"));
}

#[test]
fn a_damaged_manifest_is_corrupt_and_publishes_nothing() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let first = build(&writer, &json!({"corpus": 1}));
    let second = build(&writer, &json!({"corpus": 2}));
    let manifest = second.path.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"width\": 2", "\"width\": 3")).unwrap();
    let error = writer.publish(&second.id).unwrap_err();
    assert!(
        matches!(
            error,
            CollectionError::Manifest {
                source: ManifestError::Checksum,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.is_corrupt());
    assert_eq!(collection.resolve("live").unwrap(), first);

    fs::write(
        &manifest,
        fs::read(first.path.join("manifest.json")).unwrap(),
    )
    .unwrap();
    let error = collection.generation(&second.id).unwrap_err();
    assert!(
        matches!(
            error,
            CollectionError::Manifest {
                source: ManifestError::Generation { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn links_and_odd_names_are_no_part_of_a_generation() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    for odd in ["two words", "link"] {
        let building = begin(&writer, &json!({"case": odd}), BuildMode::New);
        let contents = fill(&building, "");
        std::os::unix::fs::symlink("/etc/passwd", building.path().join(odd)).unwrap();
        let error = writer.promote(&building, contents).unwrap_err();
        assert!(
            matches!(error, CollectionError::Unexpected { .. }),
            "{error}"
        );
    }
    assert!(collection.generations().unwrap().is_empty());
}

#[test]
fn a_rollback_goes_back_and_a_second_one_forth() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let live = AliasName::parse("live").unwrap();
    let first = build(&writer, &json!({"corpus": 1}));
    let error = writer.rollback(&live).unwrap_err();
    assert!(
        matches!(error, CollectionError::NoPrevious { .. }),
        "{error}"
    );
    let second = build(&writer, &json!({"corpus": 2}));
    writer.publish(&second.id).unwrap();
    writer.publish(&second.id).unwrap(); // no change, so nothing to take back
    assert_eq!(writer.rollback(&live).unwrap(), first.id);
    assert_eq!(collection.resolve("live").unwrap(), first);
    assert_eq!(writer.rollback(&live).unwrap(), second.id);
    assert_eq!(collection.resolve("live").unwrap(), second);

    fs::remove_dir_all(&first.path).unwrap();
    let error = writer.rollback(&live).unwrap_err();
    assert!(matches!(error, CollectionError::Unknown { .. }), "{error}");
    assert_eq!(collection.resolve("live").unwrap(), second);
}

#[test]
fn garbage_is_what_nothing_names_and_what_is_not_new() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let ids: Vec<_> = (0..6)
        .map(|i| build(&writer, &json!({ "corpus": i })).id)
        .collect();
    writer.publish(&ids[1]).unwrap();
    writer.publish(&ids[2]).unwrap(); // before it: 1
    writer
        .set_alias(&AliasName::parse("golden").unwrap(), &ids[0])
        .unwrap();
    let half = begin(&writer, &json!({"corpus": "half"}), BuildMode::New);
    fill(&half, "half");
    // A generation that was removed half way, and came back from elsewhere.
    let removed = format!("generations/.removed-{}", ids[3]);
    let removed = collection.root().join(removed);
    fs::create_dir(&removed).unwrap();
    fs::write(removed.join("ids"), "half").unwrap();
    fs::write(collection.root().join("aliases.json.tmp"), "{").unwrap();
    for id in &ids {
        writer
            .keep_gate_report(id, &json!({"passed": true}))
            .unwrap();
    }
    // The report of one that was removed, when the process was killed.
    let gone = GenerationId::parse("gone").unwrap();
    let report = json!({"passed": true});
    writer.keep_gate_report(&gone, &report).unwrap();

    let retention = Retention {
        keep: 1,
        keep_unfinished: true,
    };
    let garbage = collection.garbage(&retention).unwrap();
    assert_eq!(garbage.generations, [ids[3].clone(), ids[4].clone()]);
    assert_eq!(garbage.unfinished, [] as [std::path::PathBuf; 0]);
    assert_eq!(garbage.leftovers.len(), 3, "{garbage:?}");
    assert!(garbage.bytes > 0);
    assert_eq!(collection.generations().unwrap(), ids, "a dry run");

    let done = writer.gc(&retention).unwrap();
    assert_eq!(done, garbage);
    let kept = [&ids[0], &ids[1], &ids[2], &ids[5]].map(Clone::clone);
    assert_eq!(collection.generations().unwrap(), kept);
    assert_eq!(collection.gate_report(&ids[3]).unwrap(), None);
    assert!(collection.gate_report(&ids[5]).unwrap().is_some());
    assert_eq!(collection.gate_report(&gone).unwrap(), None);
    assert!(half.path().is_dir() && !removed.exists());

    let retention = Retention {
        keep: 0,
        keep_unfinished: false,
    };
    let done = writer.gc(&retention).unwrap();
    assert_eq!(done.generations, [ids[5].clone()]);
    assert_eq!(done.unfinished, [half.path().to_owned()]);
    assert!(!half.path().exists());
    assert_eq!(
        writer.gc(&retention).unwrap(),
        Garbage::default(),
        "nothing is left to do"
    );
    assert_eq!(
        writer.rollback(&AliasName::parse("live").unwrap()).unwrap(),
        ids[1]
    );
}

#[test]
fn a_removal_that_ends_half_way_leaves_no_complete_build() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let building = begin(&writer, &json!({"corpus": 1}), BuildMode::New);
    let manifest = building.path().join("manifest.json");
    fs::write(&manifest, "{}").unwrap();
    let folders: Vec<_> = (0..20)
        .map(|i| building.path().join(i.to_string()))
        .collect();
    let set_modes = |mode| {
        for folder in folders.iter().filter(|folder| folder.exists()) {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    for folder in &folders {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("file"), "").unwrap();
    }
    set_modes(0o555); // That is where it ends, unless the superuser runs it.
    let ended = building.discard();
    set_modes(0o755);
    assert!(!manifest.exists(), "{ended:?}");
}

#[test]
fn damaged_generations_are_no_reserve() {
    let (_folder, collection) = empty();
    let writer = collection.writer("test").unwrap();
    let ids: Vec<_> = (0..4)
        .map(|i| build(&writer, &json!({ "corpus": i })).id)
        .collect();
    let manifest = |id: &GenerationId| {
        let folder = collection.root().join("generations").join(id);
        folder.join("manifest.json")
    };
    fs::write(manifest(&ids[3]), "{").unwrap();
    let newer = r#"{"format_version":2,"checksum":""}"#;
    fs::write(manifest(&ids[1]), newer).unwrap();
    let retention = Retention {
        keep: 1,
        keep_unfinished: false,
    };
    let done = writer.gc(&retention).unwrap();
    // 0 is live, 1 belongs to a newer program, 2 is the newest that can be used.
    assert_eq!(done.generations, [ids[3].clone()]);
    fs::write(collection.root().join("aliases.json"), "{").unwrap();
    let error = writer.gc(&retention).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    assert_eq!(collection.generations().unwrap(), ids[..3]);
}
