use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::record::{Record, RecordReader};
use crate::{CorpusError, CorpusFormat, Reason, Schema};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// Its id, unique in its file.
    pub id: String,
    /// Its text.
    pub text: String,
    /// Every further field.
    pub metadata: Map<String, Value>,
    /// Its line in its file, from 1; 0 when it is of no file.
    #[serde(skip)]
    pub line: u64,
}

/// Reads all queries of a file, in its order: JSON lines, tabs (`id text` or a header) or CSV with a header.
///
/// # Errors
/// Any bad line; a blank text and an id that repeats are bad.
pub fn read_queries(path: &Path) -> Result<Vec<Query>, CorpusError> {
    let mut reader = RecordReader::open(
        path,
        CorpusFormat::Auto,
        None,
        &Schema::default(),
        Arc::default(),
    )?;
    let mut lines = HashMap::new();
    let mut queries = Vec::new();
    while let Some(record) = reader.next_record()? {
        let query = record
            .and_then(|record| query_of(record, reader.line(), path, &mut lines))
            .map_err(|reason| CorpusError::BadLine(reader.bad_line(reason)))?;
        queries.push(query);
    }
    if queries.is_empty() {
        return Err(CorpusError::NoValidLine {
            path: path.to_owned(),
        });
    }
    Ok(queries)
}

fn query_of(
    record: Record,
    line: u64,
    path: &Path,
    lines: &mut HashMap<String, u64>,
) -> Result<Query, Reason> {
    let Record {
        id,
        title,
        text,
        mut metadata,
    } = record;
    if text.trim().is_empty() {
        return Err(Reason::BlankQuery);
    }
    if let Some(&line) = lines.get(&id) {
        return Err(Reason::DuplicateId {
            id,
            path: path.to_owned(),
            line,
        });
    }
    lines.insert(id.clone(), line);
    if !title.is_empty() {
        metadata.insert("title".to_owned(), Value::from(title));
    }
    Ok(Query {
        id,
        text,
        metadata,
        line,
    })
}
