//! Integration tests of `store`.
#![expect(clippy::unwrap_used, reason = "a test fails by panic")]

mod bm25;

use std::path::Path;

use corpus::Passage;
use store::{Store, StoreConfig, StoreSummary, StoreWriter, Verify};

fn passage(id: &str, title: &str, text: &str, metadata: &serde_json::Value) -> Passage {
    let metadata = metadata.as_object().expect("metadata is an object").clone();
    Passage {
        id: id.into(),
        title: title.into(),
        text: text.into(),
        metadata,
    }
}

fn write(folder: &Path, config: &StoreConfig, passages: &[Passage]) -> StoreSummary {
    let mut writer = StoreWriter::create(folder, config).unwrap();
    for passage in passages {
        writer.push(passage).unwrap();
    }
    writer.finish().unwrap()
}

fn open(folder: &Path) -> Store {
    Store::open(folder, Verify::Checksums).unwrap()
}
