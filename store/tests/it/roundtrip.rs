//! What was pushed is what is read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corpus::{FieldKind, Passage, Schema};
use serde_json::json;
use store::{Language, Store, StoreConfig, StoreError, StoreWriter, Verify, WriteError};
use tantivy::schema::Value;

use crate::{open, passage, schema, write};

fn varied_passages() -> Vec<Passage> {
    let long = "long words and more of them ".repeat(10_000);
    vec![
        passage("a", "Title", "text", &json!({})),
        passage(
            "ünïcode/✓",
            "",
            "日本語 \0 \u{feff} \"quoted\"\n",
            &json!({"n": null, "deep": [{"x": [1, 2.5, "z"]}]}),
        ),
        passage(
            "",
            "only a title",
            "",
            &json!({"big": u64::MAX, "small": i64::MIN, "": "empty name"}),
        ),
        passage("long", "", &long, &json!({"same": long})),
        passage("last", "t", "x", &json!({"b": true})),
    ]
}

fn check_roundtrip(passages: &[Passage], block_bytes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        block_bytes,
        ..Default::default()
    };
    let summary = write(folder.path(), &config, passages);
    assert_eq!(summary.n_passages as usize, passages.len());
    let store = open(folder.path());
    assert_eq!(store.len() as usize, passages.len());
    for (ordinal, passage) in (0..).zip(passages) {
        assert_eq!(store.passage(ordinal).unwrap(), *passage);
        assert_eq!(store.id(ordinal).unwrap(), passage.id);
        assert_eq!(store.ordinal_of(&passage.id).unwrap(), Some(ordinal));
    }
    assert_eq!(store.ordinal_of("absent").unwrap(), None);
    let n_passages = store.len();
    for result in [
        store.passage(n_passages).map(drop),
        store.id(n_passages).map(drop),
    ] {
        assert!(
            matches!(result, Err(StoreError::Ordinal { ordinal, .. }) if ordinal == n_passages)
        );
    }
}

#[test]
fn passages_are_read_as_they_were_pushed() {
    for block_bytes in [0, 1, 100, 64 << 10, usize::MAX] {
        check_roundtrip(&varied_passages(), block_bytes);
        check_roundtrip(&[], block_bytes);
    }
}

#[test]
fn passages_come_in_the_order_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let passages: Vec<_> = (0..100)
        .map(|i| passage(&format!("p{i}"), "", &i.to_string(), &json!({"i": i})))
        .collect();
    write(
        folder.path(),
        &StoreConfig {
            block_bytes: 64,
            ..Default::default()
        },
        &passages,
    );
    let store = open(folder.path());
    let ordinals = [99, 3, 3, 50, 0, 51, 99];
    let expected: Vec<_> = ordinals
        .iter()
        .map(|&ordinal| passages[ordinal as usize].clone())
        .collect();
    assert_eq!(store.passages(&ordinals).unwrap(), expected);
    assert_eq!(store.passages(&[]).unwrap(), []);
}

#[test]
fn summary_lists_every_file_and_a_reader_changes_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut listed: Vec<_> =
        write(folder.path(), &StoreConfig::default(), &varied_passages()).files;
    let before = files(folder.path(), folder.path());
    listed.sort();
    assert_eq!(listed, before.keys().cloned().collect::<Vec<_>>());
    let store = open(folder.path());
    assert_eq!(store.search_lexical("title", 10, None).unwrap().len(), 2);
    drop(store);
    assert_eq!(files(folder.path(), folder.path()), before);
}

/// Path relative to the root → when it was changed.
fn files(root: &Path, folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(root, &path));
        } else {
            let name = path.strip_prefix(root).unwrap().to_owned();
            found.insert(name, path.metadata().unwrap().modified().unwrap());
        }
    }
    found
}

#[test]
fn a_writer_begins_anew_and_an_unfinished_store_is_none() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &StoreConfig::default(), &varied_passages());
    let mut writer = StoreWriter::create(folder.path(), &StoreConfig::default()).unwrap();
    writer.push(&varied_passages()[0]).unwrap();
    drop(writer);
    let error = Store::open(folder.path(), Verify::Header).err();
    assert!(
        matches!(
            error,
            Some(StoreError::Kind { kind: "ids", .. } | StoreError::Length { .. })
        ),
        "{error:?}"
    );
    write(
        folder.path(),
        &StoreConfig::default(),
        &varied_passages()[..2],
    );
    assert_eq!(open(folder.path()).len(), 2);
}

#[test]
fn the_language_decides_which_words_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let passages = [
        passage("a", "Häuser", "", &json!({})),
        passage("b", "", "ein Haus", &json!({})),
    ];
    for (language, expected) in [
        (Language::English, &[1_u32][..]),
        (Language::German, &[0, 1][..]),
    ] {
        let config = StoreConfig {
            language,
            ..Default::default()
        };
        write(folder.path(), &config, &passages);
        let hits = open(folder.path())
            .search_lexical("haus", 10, None)
            .unwrap();
        let ordinals: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
        assert_eq!(ordinals, expected, "{language}");
    }
    fs::remove_dir_all(folder.path().join("lexical")).unwrap();
    let error = Store::open(folder.path(), Verify::Header).err();
    assert!(matches!(error, Some(StoreError::Read { .. })), "{error:?}");
}

#[test]
fn filterable_metadata_are_typed_stored_fast_and_indexed() {
    let folder = tempfile::tempdir().unwrap();
    let mut fields = schema(&[
        ("text", FieldKind::Keyword), // not the passage's text
        ("year", FieldKind::Integer),
        ("weight", FieldKind::Float),
        ("day", FieldKind::Date),
        ("open", FieldKind::Boolean),
        ("note", FieldKind::Text),
        ("kept", FieldKind::Keyword),
    ]);
    fields.fields.get_mut("kept").unwrap().filterable = false;
    let metadata = json!({"text": ["red", "blue"], "year": 1973, "weight": 2.5, "day": "2026-11-20", "open": true,
        "note": "The dogs ran", "kept": "here", "undeclared": {}});
    let passages = [
        passage("a", "", "apple", &metadata),
        passage("b", "", "pear", &json!({"year": null})),
    ];
    write(
        folder.path(),
        &StoreConfig {
            schema: fields,
            ..Default::default()
        },
        &passages,
    );
    assert_eq!(
        open(folder.path()).passage(0).unwrap().metadata,
        passages[0].metadata
    );

    let index = tantivy::Index::open_in_dir(folder.path().join("lexical")).unwrap();
    let (schema, searcher) = (index.schema(), index.reader().unwrap().searcher());
    assert!(schema.get_field("metadata.kept").is_err());
    let segment = &searcher.segment_readers()[0];
    let fast = segment.fast_fields();
    let document = fast
        .u64("ordinal")
        .unwrap()
        .values
        .iter()
        .position(|ordinal| ordinal == 0)
        .unwrap() as u32;
    assert_eq!(
        fast.i64("metadata.year").unwrap().first(document),
        Some(1973)
    );
    assert_eq!(
        fast.f64("metadata.weight").unwrap().first(document),
        Some(2.5)
    );
    assert_eq!(
        fast.bool("metadata.open").unwrap().first(document),
        Some(true)
    );
    let day = fast.i64("metadata.day").unwrap().first(document);
    assert_eq!(day, Some(1_795_132_800_000_000));
    let colors = fast.str("metadata.text").unwrap().unwrap();
    assert_eq!(colors.term_ords(document).count(), 2);
    for name in ["text", "year", "weight", "day", "open", "note"] {
        let field = schema.get_field(&format!("metadata.{name}")).unwrap();
        assert!(
            segment.inverted_index(field).unwrap().terms().num_terms() > 0,
            "{name} is indexed"
        );
        let stored = searcher
            .doc::<tantivy::TantivyDocument>(tantivy::DocAddress::new(0, document))
            .unwrap();
        assert!(stored.get_first(field).is_some(), "{name} is stored");
    }
    let stored = searcher
        .doc::<tantivy::TantivyDocument>(tantivy::DocAddress::new(0, document))
        .unwrap();
    assert_eq!(
        stored
            .get_first(schema.get_field("id").unwrap())
            .unwrap()
            .as_str(),
        Some("a")
    );
}

#[test]
fn a_value_of_another_kind_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        schema: schema(&[("year", FieldKind::Integer)]),
        ..Default::default()
    };
    let mut writer = StoreWriter::create(folder.path(), &config).unwrap();
    let error = writer
        .push(&passage("a", "", "x", &json!({"year": "soon"})))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "passage `a`: field `year` takes no such value as \"soon\" (Integer)"
    );
    assert!(matches!(error, WriteError::Value { .. }));
    assert_eq!(StoreConfig::default().schema, Schema::default());
}

#[test]
fn any_field_name_and_length_of_value_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let names = [
        "",
        "-",
        "a.b",
        "a\\.b",
        "a\0b",
        "\u{1}",
        "ordinal",
        "naïve ✓",
        &"n".repeat(100_000),
    ];
    let fields: Vec<_> = names
        .iter()
        .map(|&name| (name, FieldKind::Keyword))
        .collect();
    let metadata = |value: &str| {
        names
            .iter()
            .map(|&name| (name.to_owned(), json!(value)))
            .collect()
    };
    let values = ["x".to_owned(), String::new(), "é".repeat(50_000)];
    let passages: Vec<_> = values
        .iter()
        .map(|value| {
            passage(
                value,
                "",
                value,
                &serde_json::Value::Object(metadata(value)),
            )
        })
        .collect();
    write(
        folder.path(),
        &StoreConfig {
            schema: schema(&fields),
            ..Default::default()
        },
        &passages,
    );
    let store = open(folder.path());
    assert_eq!(store.passages(&[0, 1, 2]).unwrap(), passages);
    assert_eq!(store.search_lexical("x", 10, None).unwrap().len(), 1);
}

#[test]
fn a_query_may_be_as_long_as_a_book() {
    let folder = tempfile::tempdir().unwrap();
    let words = |n: usize| (0..n).map(|i| format!("w{i} ")).collect::<String>();
    write(
        folder.path(),
        &StoreConfig::default(),
        &[passage("a", "", &words(3000), &json!({}))],
    );
    let store = open(folder.path());
    let score = |n| store.search_lexical(&words(n), 1, None).unwrap()[0].score;
    assert!(score(1000) < score(1024));
    assert_eq!(score(1024), score(200_000));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    fs::write(&path, "a file").unwrap();
    let error = StoreWriter::create(&path, &StoreConfig::default()).err();
    assert!(matches!(error, Some(WriteError::Write { path: named, .. }) if named == path));
}
