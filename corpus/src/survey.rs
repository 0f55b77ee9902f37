use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    BadLine, CorpusConfig, CorpusError, CorpusReader, Field, FieldKind, Passage, Schema, parse_date,
};

/// Passages between two reports of progress.
const PROGRESS_INTERVAL: u64 = 1024;
/// Different metadata fields that a corpus may have; more are data in the place of names.
const MAX_FIELDS: usize = 1024;
/// Longest text, in bytes, of a field whose kind is inferred to be keyword.
const MAX_KEYWORD_BYTES: usize = 256;

/// What the first pass over a corpus finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Survey {
    /// Valid passages.
    pub n_passages: u64,
    /// Bad lines, all skipped.
    pub n_bad: u64,
    /// The first ten of them.
    pub bad_examples: Vec<BadLine>,
    /// The declared fields, and the others with the kinds that hold all their values.
    pub schema: Schema,
    /// SHA-256, in hexadecimal, over the records in order, each as canonical JSON (`id`, `metadata`, `text`, `title`;
    /// sorted keys, no spaces) and a line feed: whatever the files' format, names and compression.
    pub digest: String,
    /// Bytes of all titles and texts.
    pub n_text_bytes: u64,
}

/// How far a survey is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyProgress {
    /// Valid passages so far.
    pub n_passages: u64,
    /// Bad lines so far.
    pub n_bad: u64,
    /// Bytes taken from the files, before decompression.
    pub n_bytes_read: u64,
    /// Bytes of all files.
    pub n_bytes_total: u64,
}

/// Reads a corpus once: validates and counts it, infers the kinds of its fields and takes its digest.
///
/// # Errors
/// As [`CorpusReader`]; [`CorpusError::TooManyFields`] over 1,024 fields; [`CorpusError::Stopped`] when `on_progress`
/// breaks.
pub fn survey(
    config: &CorpusConfig,
    on_progress: &mut dyn FnMut(SurveyProgress) -> ControlFlow<()>,
) -> Result<Survey, CorpusError> {
    survey_each(config, &mut |_| ControlFlow::Continue(()), on_progress)
}

/// [`survey`], which shows every passage to `on_passage` as well.
///
/// # Errors
/// As [`survey`]; [`CorpusError::Stopped`] when `on_passage` breaks, too.
pub fn survey_each(
    config: &CorpusConfig,
    on_passage: &mut dyn FnMut(&Passage) -> ControlFlow<()>,
    on_progress: &mut dyn FnMut(SurveyProgress) -> ControlFlow<()>,
) -> Result<Survey, CorpusError> {
    let mut reader = CorpusReader::open(config)?;
    let declared = config.schema.clone().unwrap_or_default();
    let mut seen_fields: BTreeMap<String, SeenValues> = BTreeMap::new();
    let mut digest = Sha256::new();
    let mut line = Vec::new();
    let (mut n_passages, mut n_text_bytes) = (0, 0);
    while let Some(passage) = reader.next() {
        let passage = passage?;
        if on_passage(&passage).is_break() {
            return Err(CorpusError::Stopped);
        }
        n_passages += 1;
        n_text_bytes += (passage.title.len() + passage.text.len()) as u64;
        for (name, value) in &passage.metadata {
            if declared.fields.contains_key(name) {
                continue;
            }
            if seen_fields.len() == MAX_FIELDS && !seen_fields.contains_key(name) {
                let (path, line) = reader.position();
                return Err(CorpusError::TooManyFields {
                    path,
                    line,
                    limit: MAX_FIELDS,
                });
            }
            seen_fields.entry(name.clone()).or_default().add(value);
        }
        line.clear();
        push_canonical(&mut line, passage);
        digest.update(&line);
        if n_passages % PROGRESS_INTERVAL == 0 {
            report(&reader, n_passages, on_progress)?;
        }
    }
    report(&reader, n_passages, on_progress)?;
    let mut schema = declared;
    schema.fields.extend(
        seen_fields
            .into_iter()
            .map(|(name, seen)| (name, seen.field())),
    );
    Ok(Survey {
        n_passages,
        n_bad: reader.n_bad(),
        bad_examples: reader.bad_examples().to_vec(),
        schema,
        digest: digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        n_text_bytes,
    })
}

fn report(
    reader: &CorpusReader,
    n_passages: u64,
    on_progress: &mut dyn FnMut(SurveyProgress) -> ControlFlow<()>,
) -> Result<(), CorpusError> {
    let progress = SurveyProgress {
        n_passages,
        n_bad: reader.n_bad(),
        n_bytes_read: reader.n_bytes_read(),
        n_bytes_total: reader.n_bytes_total(),
    };
    match on_progress(progress) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(CorpusError::Stopped),
    }
}

/// The kinds of value that a field was seen to have.
#[derive(Default)]
struct SeenValues {
    has_boolean: bool,
    has_integer: bool,
    has_float: bool,
    has_date: bool,
    has_keyword: bool,
    has_other: bool,
}

impl SeenValues {
    fn add(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::Array(values) if values.iter().all(|value| !value.is_array()) => {
                values.iter().for_each(|value| self.add(value));
            }
            Value::Bool(_) => self.has_boolean = true,
            Value::Number(number) if number.is_i64() => self.has_integer = true,
            Value::Number(_) => self.has_float = true,
            Value::String(text) if parse_date(text).is_some() => self.has_date = true,
            Value::String(text) if text.len() <= MAX_KEYWORD_BYTES => self.has_keyword = true,
            Value::String(_) | Value::Array(_) | Value::Object(_) => self.has_other = true,
        }
    }

    /// The narrowest kind that accepts all values seen; a field without any is a keyword.
    fn field(&self) -> Field {
        let is_text = self.has_date || self.has_keyword;
        let is_number = self.has_integer || self.has_float;
        let n_families =
            usize::from(self.has_boolean) + usize::from(is_number) + usize::from(is_text);
        let kind = match () {
            () if self.has_other || n_families > 1 => FieldKind::Text,
            () if self.has_boolean => FieldKind::Boolean,
            () if self.has_float => FieldKind::Float,
            () if self.has_integer => FieldKind::Integer,
            () if self.has_date && !self.has_keyword => FieldKind::Date,
            () => FieldKind::Keyword,
        };
        Field {
            kind,
            filterable: kind != FieldKind::Text,
        }
    }
}

fn push_canonical(line: &mut Vec<u8>, passage: Passage) {
    let Passage {
        id,
        title,
        text,
        metadata,
    } = passage;
    let record = [
        ("id".to_owned(), Value::from(id)),
        ("metadata".to_owned(), Value::Object(metadata)),
        ("text".to_owned(), Value::from(text)),
        ("title".to_owned(), Value::from(title)),
    ];
    push_canonical_value(line, &Value::Object(record.into_iter().collect()));
    line.push(b'\n');
}

fn push_canonical_value(line: &mut Vec<u8>, value: &Value) {
    let push_scalar = |line: &mut Vec<u8>, value: &Value| {
        serde_json::to_writer(line, value).expect("a value is written to memory without error");
    };
    match value {
        Value::Object(fields) => {
            // Sorted here, because a feature of serde_json that any crate may turn on keeps the order of insertion.
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            line.push(b'{');
            for (i, (name, value)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    line.push(b',');
                }
                push_scalar(line, &Value::from(name.as_str()));
                line.push(b':');
                push_canonical_value(line, value);
            }
            line.push(b'}');
        }
        Value::Array(values) => {
            line.push(b'[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    line.push(b',');
                }
                push_canonical_value(line, value);
            }
            line.push(b']');
        }
        value => push_scalar(line, value),
    }
}
