use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::source::{Line, Source};
use crate::{BadLine, CorpusError, Passage, Reason, Rows, Schema};

/// Names that an id may have, in the order in which they are tried.
const ID_KEYS: [&str; 4] = ["_id", "id", "docid", "text_id"];
/// Names that a text may have: the toolkits of MS MARCO, SimLM's among them, say `contents`.
const TEXT_KEYS: [&str; 2] = ["text", "contents"];
/// Names that metadata may not have, because every record has them.
pub(crate) const RESERVED_FIELDS: [&str; 3] = ["_id", "title", "text"];
/// Longest id. Indexes of terms and the formats of runs have no room for arbitrary ones.
pub(crate) const MAX_ID_BYTES: usize = 1024;

/// How passages or queries are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorpusFormat {
    /// By the file's name (`.jsonl`, `.tsv`, `.csv`, before `.gz` or `.zst`), else JSON if it begins with `{`, else tabs.
    #[default]
    Auto,
    /// One JSON object per line.
    Jsonl,
    /// Fields separated by tabs, without quoting, as MS MARCO writes them.
    Tsv,
    /// Comma-separated values with quoting.
    Csv,
}

/// A passage or a query before it is told which.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) text: String,
    pub(crate) metadata: Map<String, Value>,
}

/// Reads the records of one file.
pub(crate) struct RecordReader {
    path: PathBuf,
    format: Format,
    schema: Schema,
    line: u64,
}

enum Format {
    Jsonl { source: Source, text: String },
    Table { rows: Rows, columns: Columns },
}

/// What is known of a table's columns before its first line.
struct Columns {
    names: Option<Vec<String>>,
    is_first: bool,
    /// Whether a first line that names no id is a header all the same.
    needs_header: bool,
}

impl RecordReader {
    pub(crate) fn open(
        path: &Path,
        format: CorpusFormat,
        columns: Option<&[String]>,
        schema: &Schema,
        n_read: Arc<AtomicU64>,
    ) -> Result<Self, CorpusError> {
        let mut source = Source::open(path, n_read)?;
        let format = match format {
            CorpusFormat::Auto => detect_format(path, &mut source)?,
            format => format,
        };
        let columns = Columns {
            names: columns.map(<[String]>::to_vec),
            is_first: true,
            needs_header: format == CorpusFormat::Csv,
        };
        if let Some(names) = &columns.names {
            check_columns(path, names)?;
        }
        let text = String::new();
        let format = match format {
            CorpusFormat::Auto | CorpusFormat::Jsonl => Format::Jsonl { source, text },
            CorpusFormat::Tsv => Format::Table {
                rows: Rows::of_tabs(path, source),
                columns,
            },
            CorpusFormat::Csv => Format::Table {
                rows: Rows::of_csv(path, source),
                columns,
            },
        };
        Ok(Self {
            path: path.to_owned(),
            format,
            schema: schema.clone(),
            line: 0,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// First line of the record last read.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    pub(crate) fn bad_line(&self, reason: Reason) -> BadLine {
        BadLine {
            path: self.path.clone(),
            line: self.line,
            reason,
        }
    }

    /// Returns the next record, or what is wrong with it; `None` at the end of the file.
    pub(crate) fn next_record(&mut self) -> Result<Option<Result<Record, Reason>>, CorpusError> {
        loop {
            let row = match &mut self.format {
                Format::Jsonl { source, text } => {
                    let line = source.next_line(text)?;
                    self.line = source.line();
                    match line {
                        Line::End => return Ok(None),
                        Line::Bad(reason) => return Ok(Some(Err(source.explained(reason)))),
                        Line::Text if text.trim().is_empty() => continue,
                        Line::Text => {
                            let record = parse_object(text)
                                .and_then(|record| check_kinds(record, &self.schema));
                            return Ok(Some(record.map_err(|reason| source.explained(reason))));
                        }
                    }
                }
                Format::Table { rows, columns } => {
                    let row = rows.next_row()?;
                    self.line = rows.line();
                    match row {
                        None => return Ok(None),
                        Some(Err(reason)) => return Ok(Some(Err(reason))),
                        Some(Ok(cells)) => columns.take_row(&self.path, cells, &self.schema)?,
                    }
                }
            };
            if let Some(record) = row {
                return Ok(Some(
                    record.and_then(|record| check_kinds(record, &self.schema)),
                ));
            }
        }
    }
}

fn detect_format(path: &Path, source: &mut Source) -> Result<CorpusFormat, CorpusError> {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().to_ascii_lowercase())
        .unwrap_or_default();
    let stem = [".gz", ".zst"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(&name);
    Ok(
        match stem.rsplit_once('.').map(|(_, extension)| extension) {
            Some("jsonl" | "ndjson" | "json") => CorpusFormat::Jsonl,
            Some("tsv") => CorpusFormat::Tsv,
            Some("csv") => CorpusFormat::Csv,
            _ if source.starts_with(b'{')? => CorpusFormat::Jsonl,
            _ => CorpusFormat::Tsv,
        },
    )
}

impl Columns {
    /// Makes a record of a row; `None` if the row is the header.
    fn take_row(
        &mut self,
        path: &Path,
        cells: Vec<String>,
        schema: &Schema,
    ) -> Result<Option<Result<Record, Reason>>, CorpusError> {
        if std::mem::take(&mut self.is_first) {
            match &self.names {
                Some(names) if *names == cells => return Ok(None),
                Some(_) => {}
                None if self.needs_header
                    || cells.iter().any(|cell| ID_KEYS.contains(&cell.as_str())) =>
                {
                    check_columns(path, &cells)?;
                    self.names = Some(cells);
                    return Ok(None);
                }
                None => {
                    self.names = Some(match cells.len() {
                        2 => vec!["_id".into(), "text".into()],
                        3 => vec!["_id".into(), "title".into(), "text".into()],
                        n_fields => {
                            return Err(CorpusError::UnnamedColumns {
                                path: path.to_owned(),
                                n_fields,
                            });
                        }
                    });
                }
            }
        }
        let names = self.names.as_deref().unwrap_or_default();
        if names.len() != cells.len() {
            return Ok(Some(Err(Reason::ColumnCount {
                expected: names.len(),
                found: cells.len(),
            })));
        }
        Ok(Some(record_of_row(names, cells, schema)))
    }
}

fn check_columns(path: &Path, columns: &[String]) -> Result<(), CorpusError> {
    let has = |names: &[&str]| {
        columns
            .iter()
            .any(|column| names.contains(&column.as_str()))
    };
    let missing = match () {
        () if !has(&ID_KEYS) => "an id (`_id`, `id`, `docid` or `text_id`)",
        () if !has(&["title", "text", "contents"]) => "`title` and `text`",
        () if columns
            .iter()
            .enumerate()
            .any(|(i, name)| name != "-" && columns[..i].contains(name)) =>
        {
            "distinct names"
        }
        () => return Ok(()),
    };
    Err(CorpusError::MissingColumn {
        path: path.to_owned(),
        missing,
        columns: columns.to_vec(),
    })
}

/// Makes a record of a table's row. An empty cell of a metadata column is a missing value, a column `-` is left out.
fn record_of_row(names: &[String], cells: Vec<String>, schema: &Schema) -> Result<Record, Reason> {
    let mut fields = Map::new();
    for (name, cell) in names.iter().zip(cells) {
        if name == "-" || cell.is_empty() && !ID_KEYS.contains(&name.as_str()) {
            continue;
        }
        let value = match schema.fields.get(name) {
            Some(field) => field.kind.parse(&cell).ok_or_else(|| Reason::FieldType {
                field: name.clone(),
                kind: field.kind,
            })?,
            None => Value::from(cell),
        };
        fields.insert(name.clone(), value);
    }
    record_of_fields(fields)
}

fn parse_object(text: &str) -> Result<Record, Reason> {
    // The parser sees one line, so only its column, which counts bytes, says anything.
    let reason = |error: serde_json::Error| {
        Reason::NotJson(error.to_string().replace(" at line 1 column ", " at byte "))
    };
    let Object(fields) = serde_json::from_str(text).map_err(reason)?;
    record_of_fields(fields)
}

/// Reads a passage from a JSON object, as a line of a corpus has it; a value that is not of its field's kind is refused.
///
/// # Errors
/// [`Reason`], as for a line of a corpus.
pub fn parse_passage(text: &str, schema: &Schema) -> Result<Passage, Reason> {
    let Record {
        id,
        title,
        text,
        metadata,
    } = check_kinds(parse_object(text)?, schema)?;
    if title.trim().is_empty() && text.trim().is_empty() {
        return Err(Reason::Blank);
    }
    Ok(Passage {
        id,
        title,
        text,
        metadata,
    })
}

fn record_of_fields(mut fields: Map<String, Value>) -> Result<Record, Reason> {
    let id = take_id(&mut fields)?;
    let title = take_text(&mut fields, "title")?;
    if fields.get("text").is_some_and(Value::is_null) {
        fields.remove("text");
    }
    // Beside a `text`, `contents` is a field like any other.
    let key = TEXT_KEYS.into_iter().find(|key| fields.contains_key(*key));
    let text = take_text(&mut fields, key.unwrap_or(TEXT_KEYS[0]))?;
    match fields.remove("metadata") {
        Some(Value::Object(metadata)) => {
            for (name, value) in metadata {
                if RESERVED_FIELDS.contains(&name.as_str()) || fields.contains_key(&name) {
                    return Err(Reason::MetadataClash(name));
                }
                fields.insert(name, value);
            }
        }
        Some(Value::Null) | None => {}
        // A field that happens to have this name and is not BEIR's object.
        Some(value) => {
            fields.insert("metadata".to_owned(), value);
        }
    }
    Ok(Record {
        id,
        title,
        text,
        metadata: fields,
    })
}

fn take_id(fields: &mut Map<String, Value>) -> Result<String, Reason> {
    for key in ID_KEYS {
        let id = match fields.remove(key) {
            None | Some(Value::Null) => continue,
            Some(Value::String(id)) => id,
            Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
            Some(_) => return Err(Reason::IdType(key.to_owned())),
        };
        return match id.len() {
            0 => Err(Reason::EmptyId),
            1..=MAX_ID_BYTES => Ok(id),
            n_bytes => Err(Reason::LongId(n_bytes)),
        };
    }
    Err(Reason::NoId)
}

fn take_text(fields: &mut Map<String, Value>, key: &'static str) -> Result<String, Reason> {
    match fields.remove(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Reason::NotText(key)),
    }
}

fn check_kinds(record: Record, schema: &Schema) -> Result<Record, Reason> {
    for (name, field) in &schema.fields {
        if record
            .metadata
            .get(name)
            .is_some_and(|value| !field.kind.accepts(value))
        {
            return Err(Reason::FieldType {
                field: name.clone(),
                kind: field.kind,
            });
        }
    }
    Ok(record)
}

/// A JSON object none of whose own keys repeats; a plain map would keep the last of them without a word.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Object, A::Error> {
                let mut fields = Map::new();
                while let Some((key, value)) = access.next_entry::<String, Value>()? {
                    if fields.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("key `{key}` repeats")));
                    }
                    fields.insert(key, value);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(ObjectVisitor)
    }
}
