//! Integration tests of `store`.
#![expect(clippy::unwrap_used, reason = "a test fails by panic")]

mod bm25;
mod damage;
mod documents;
mod filter;
mod roundtrip;

use std::path::Path;

use corpus::{Field, FieldKind, Passage, Schema};
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

fn schema(fields: &[(&str, FieldKind)]) -> Schema {
    let field = |&(name, kind): &(&str, FieldKind)| {
        (
            name.to_owned(),
            Field {
                kind,
                filterable: true,
            },
        )
    };
    Schema {
        fields: fields.iter().map(field).collect(),
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
