//! Passages that are parts of documents.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde_json::json;
use store::{DocumentPart, Store, StoreConfig, StoreError, StoreWriter, Verify, WriteError};

use crate::{open, passage, write};

/// Ids, and the characters of each in its document.
const PARTS: [(&str, Range<u32>); 6] = [
    ("a#0", 0..5),
    ("a#1", 4..9),
    ("b#3#0", 0..2),
    ("é#0", 0..0),
    ("é#1", 7..8),
    ("é#2", 8..11),
];

fn write_parts(folder: &Path) {
    let mut writer = StoreWriter::create(folder, &StoreConfig::default()).unwrap();
    for (id, characters) in &PARTS {
        let passage = passage(id, "title", "text", &json!({}));
        writer.push_part(&passage, characters).unwrap();
    }
    let summary = writer.finish().unwrap();
    assert!(summary.files.contains(&"documents".into()));
}

#[test]
fn passages_know_their_documents() {
    let folder = tempfile::tempdir().unwrap();
    write_parts(folder.path());
    let store = open(folder.path());
    assert_eq!(store.n_documents(), Some(3));
    let places = [("a", 0), ("a", 1), ("b#3", 0), ("é", 0), ("é", 1), ("é", 2)];
    for (ordinal, ((document, number), (_, characters))) in (0..).zip(places.iter().zip(PARTS)) {
        let expected = DocumentPart {
            document,
            number: *number,
            characters,
        };
        assert_eq!(store.document_part(ordinal).unwrap(), Some(expected));
    }
    let siblings: Vec<_> = (0..6)
        .map(|ordinal| store.siblings(ordinal).unwrap())
        .collect();
    assert_eq!(siblings, [0..2, 0..2, 2..3, 3..6, 3..6, 3..6]);
    assert!(store.siblings(6).is_err() && store.document_part(6).is_err());
}

#[test]
fn a_store_of_whole_records_has_no_documents() {
    let folder = tempfile::tempdir().unwrap();
    write_parts(folder.path());
    let passages = [
        passage("a", "", "x", &json!({})),
        passage("a#0", "", "y", &json!({})),
    ];
    write(folder.path(), &StoreConfig::default(), &passages);
    let store = open(folder.path());
    assert_eq!(store.n_documents(), None);
    assert_eq!(store.document_part(1).unwrap(), None);
    assert_eq!(store.siblings(1).unwrap(), 1..2);
    assert!(store.siblings(2).is_err());
}

#[test]
fn parts_and_whole_records_do_not_mix() {
    // A folder for each, because the threads of a writer that is dropped may still write.
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let create =
        |i: usize| StoreWriter::create(folders[i].path(), &StoreConfig::default()).unwrap();
    let (part, whole) = (
        passage("a#0", "", "x", &json!({})),
        passage("b", "", "y", &json!({})),
    );
    let mut writer = create(0);
    writer.push_part(&part, &(0..1)).unwrap();
    let refused = writer.push(&whole).unwrap_err();
    assert!(matches!(refused, WriteError::Part { id } if id == "b"));
    let mut writer = create(1);
    writer.push(&whole).unwrap();
    let refused = writer.push_part(&part, &(0..1)).unwrap_err();
    assert!(matches!(refused, WriteError::Part { id } if id == "a#0"));
    for (i, id) in [(2, "b"), (3, "b#1")] {
        let part = passage(id, "", "y", &json!({}));
        let refused = create(i).push_part(&part, &(0..1)).unwrap_err();
        assert!(matches!(refused, WriteError::Part { id: named } if named == id));
    }
}

#[test]
fn every_flipped_and_missing_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    write_parts(folder.path());
    let path = folder.path().join("documents");
    let sound = fs::read(&path).unwrap();
    let check = |what: String| {
        let error = Store::open(folder.path(), Verify::Checksums).err();
        let error = error.unwrap_or_else(|| panic!("{what} went unseen"));
        assert!(error.to_string().contains("documents"), "{what}: {error}");
        if let Ok(store) = Store::open(folder.path(), Verify::Header) {
            for ordinal in 0..7 {
                let _ = (store.document_part(ordinal), store.siblings(ordinal));
            }
        }
    };
    for at in 0..sound.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= mask;
            fs::write(&path, bytes).unwrap();
            check(format!("byte {at} ^ {mask:#x}"));
        }
        fs::write(&path, &sound[..at]).unwrap();
        check(format!("truncation to {at} bytes"));
    }
}

#[test]
fn documents_that_do_not_fit_the_ids_are_found() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_parts(one.path());
    let mut writer = StoreWriter::create(other.path(), &StoreConfig::default()).unwrap();
    for id in ["a#0", "b#0", "b#1", "b#2", "b#3", "b#4"] {
        let passage = passage(id, "", "x", &json!({}));
        writer.push_part(&passage, &(0..1)).unwrap();
    }
    writer.finish().unwrap();
    fs::copy(other.path().join("documents"), one.path().join("documents")).unwrap();
    let error = Store::open(one.path(), Verify::Checksums).err();
    assert!(
        matches!(error, Some(StoreError::Malformed { part, .. }) if part == "document of ordinal 1")
    );
}
