//! Readers and writers on good, bad and hostile files.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod evaluation_files;
mod json_lines;
mod tables;
mod templates;

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use corpus::{
    CorpusConfig, CorpusError, CorpusFormat, CorpusReader, Dataset, FieldKind, Lines,
    MAX_LINE_BYTES, Passage, Qrels, QrelsFormat, Reason, Run, RunFormat, Schema, Scored, Survey,
    Template, TemplateError, read_queries,
};
use serde_json::{Map, Value, json};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(path: &Path) -> CorpusConfig {
    CorpusConfig {
        paths: vec![path.to_owned()],
        ..CorpusConfig::default()
    }
}

fn read_all(config: &CorpusConfig) -> Result<Vec<Passage>, CorpusError> {
    CorpusReader::open(config)?.collect()
}

fn survey(config: &CorpusConfig) -> Result<Survey, CorpusError> {
    corpus::survey(config, &mut |_| ControlFlow::Continue(()))
}

fn passage(id: &str, title: &str, text: &str, metadata: Value) -> Passage {
    let Value::Object(metadata) = metadata else {
        panic!("metadata is an object")
    };
    Passage {
        id: id.into(),
        title: title.into(),
        text: text.into(),
        metadata,
    }
}

/// Reads one file and returns its passages, or the message of the error without the folder.
#[track_caller]
fn check_corpus(name: &str, bytes: impl AsRef<[u8]>, expected: Result<&[Passage], &str>) {
    let folder = Folder::new();
    let path = folder.write(name, bytes);
    check_result(&folder, read_all(&config(&path)).as_deref(), expected);
}

#[track_caller]
fn check_result<T: PartialEq + std::fmt::Debug>(
    folder: &Folder,
    found: Result<T, &CorpusError>,
    expected: Result<T, &str>,
) {
    let prefix = format!("{}/", folder.0.path().display());
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(error), Err(expected)) => {
            assert_eq!(error.to_string().replace(&prefix, ""), expected);
            assert!(error.is_bad_input(), "{error:?}");
        }
        (found, expected) => panic!("found {found:?}, expected {expected:?}"),
    }
}
