//! Every truncated or changed file is a named error, never a panic.

use std::fs;
use std::path::Path;

use corpus::Passage;
use serde_json::json;
use store::{Store, StoreConfig, StoreError, Verify};

use crate::{passage, write};

fn small_store(folder: &Path) -> Vec<Passage> {
    let passages = vec![
        passage("a", "Apple", "red or green", &json!({"n": 1})),
        passage("bb", "", "a pear", &json!({})),
        passage("ccc", "Plum", "blue", &json!({"x": [true, null]})),
    ];
    write(
        folder,
        &StoreConfig {
            block_bytes: 40,
            ..Default::default()
        },
        &passages,
    );
    passages
}

/// Opens a damaged store in both ways and reads all of it. The checksums must find the damage; without them, reading may
/// find it or not, but must end.
fn check_damage(folder: &Path, file: &str, what: &str) {
    let error = Store::open(folder, Verify::Checksums).err();
    let error = error.unwrap_or_else(|| panic!("{what} of {file} went unseen"));
    assert!(
        error.to_string().contains(file),
        "{what} of {file}: {error}"
    );
    if let Ok(store) = Store::open(folder, Verify::Header) {
        for ordinal in 0..4 {
            let _ = store.passage(ordinal);
            let _ = store.id(ordinal);
        }
        for id in ["a", "bb", "ccc", "d"] {
            let _ = store.ordinal_of(id);
        }
    }
}

#[test]
fn every_flipped_and_missing_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    small_store(folder.path());
    for file in ["ids", "passages"] {
        let path = folder.path().join(file);
        let sound = fs::read(&path).unwrap();
        for at in 0..sound.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut bytes = sound.clone();
                bytes[at] ^= mask;
                fs::write(&path, bytes).unwrap();
                check_damage(folder.path(), file, &format!("byte {at} ^ {mask:#x}"));
            }
            fs::write(&path, &sound[..at]).unwrap();
            check_damage(folder.path(), file, &format!("truncation to {at} bytes"));
        }
        fs::write(&path, [&sound[..], &[0]].concat()).unwrap();
        check_damage(folder.path(), file, "a byte too many");
        fs::remove_file(&path).unwrap();
        check_damage(folder.path(), file, "absence");
        fs::write(&path, sound).unwrap();
    }
    Store::open(folder.path(), Verify::Checksums).unwrap();
}

#[test]
fn damage_of_the_lexical_index_is_found_before_tantivy_sees_it() {
    let folder = tempfile::tempdir().unwrap();
    small_store(folder.path());
    for entry in fs::read_dir(folder.path().join("lexical")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let sound = fs::read(&path).unwrap();
        let check = |verify, what: String| {
            let error = Store::open(folder.path(), verify).err();
            let error = error.unwrap_or_else(|| panic!("{what} of {file} went unseen"));
            assert!(
                error.to_string().contains("lexical/"),
                "{what} of {file}: {error}"
            );
        };
        for at in (0..sound.len()).step_by(3) {
            let mut bytes = sound.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, bytes).unwrap();
            check(Verify::Checksums, format!("a flip in byte {at}"));
            fs::write(&path, &sound[..at]).unwrap();
            check(Verify::Header, format!("truncation to {at} bytes"));
        }
        fs::remove_file(&path).unwrap();
        check(Verify::Header, "absence".into());
        fs::write(&path, sound).unwrap();
    }
    Store::open(folder.path(), Verify::Checksums).unwrap();
}

#[test]
fn parts_of_different_stores_are_told_apart() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let passages = small_store(one.path());
    write(other.path(), &StoreConfig::default(), &passages[..2]);
    fs::copy(other.path().join("passages"), one.path().join("passages")).unwrap();
    let error = Store::open(one.path(), Verify::Header).err();
    assert!(
        matches!(
            error,
            Some(StoreError::Count {
                expected: 3,
                found: 2,
                ..
            })
        ),
        "{error:?}"
    );
}
