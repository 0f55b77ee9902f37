use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use corpus::{FieldKind, Passage};
use serde_json::Value;
use tantivy::directory::MmapDirectory;
use tantivy::schema::{
    FAST, Field, FieldType, INDEXED, IndexRecordOption, STORED, STRING, Schema, TextFieldIndexing,
    TextOptions,
};
use tantivy::tokenizer::{MAX_TOKEN_LEN, TextAnalyzer};
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, TantivyDocument, TantivyError, Term};

use crate::bm25::{self, Changes, LexicalHit};
use crate::error::write_error;
use crate::facet::{self, Counts};
use crate::filter::{Filter, SelectError};
use crate::predicate::IndexedField;
use crate::read_only::ReadOnly;
use crate::selection::{self, Runs};
use crate::values::{self, FieldValue};
use crate::{Bitmap, Language, StoreConfig, StoreError, Verify, WriteError, file_list, predicate};

pub(crate) const ORDINAL: &str = "ordinal";
const ID: &str = "id";
const TITLE: &str = "title";
const TEXT: &str = "text";

/// Heap of tantivy's indexing thread.
const HEAP_BYTES: usize = 64 << 20;
/// Titles and texts handed to tantivy's queue before a commit empties it and closes a segment; bounds the queue whatever
/// the passages' length. A writer holds as much of them in memory, and as much again of what is made of them.
pub const SEGMENT_BYTES: usize = 64 << 20;
/// Different terms of a query that are searched; each holds a block of its postings in memory.
const MAX_QUERY_TERMS: usize = 1024;

/// Schema of the lexical index.
///
/// `text` holds title and text as two values of one field: term frequencies, length and document frequency are those
/// of "title text", which is what BM25 scores. `title` is there once more for matching titles alone. Neither is stored:
/// `passages` has them. The name of the analyzer is the name of the language, so the index says how to read it.
/// Of the metadata, the filterable fields are here.
fn schema(config: &StoreConfig) -> Schema {
    let terms = TextFieldIndexing::default()
        .set_tokenizer(config.language.as_str())
        .set_index_option(IndexRecordOption::WithFreqs);
    let analyzed = TextOptions::default().set_indexing_options(terms);
    let mut schema = Schema::builder();
    schema.add_u64_field(ORDINAL, FAST);
    schema.add_text_field(ID, STRING | STORED);
    schema.add_text_field(TITLE, analyzed.clone());
    schema.add_text_field(TEXT, analyzed.clone());
    for (name, kind) in filterable(config) {
        let name = metadata_field(name);
        match kind {
            FieldKind::Keyword => schema.add_text_field(&name, STRING | STORED | FAST),
            FieldKind::Integer => schema.add_i64_field(&name, STORED | FAST | INDEXED),
            FieldKind::Float => schema.add_f64_field(&name, STORED | FAST | INDEXED),
            // Microseconds: tantivy's own dates are cut to seconds and end in 2262.
            FieldKind::Date => schema.add_i64_field(&name, STORED | FAST | INDEXED),
            FieldKind::Boolean => schema.add_bool_field(&name, STORED | FAST | INDEXED),
            // Text is matched by its terms; a column of whole texts would serve no filter.
            FieldKind::Text => schema.add_text_field(&name, analyzed.clone().set_stored()),
        };
    }
    schema.build()
}

fn filterable(config: &StoreConfig) -> impl Iterator<Item = (&String, FieldKind)> {
    let fields = config
        .schema
        .fields
        .iter()
        .filter(|(_, field)| field.filterable);
    fields.map(|(name, field)| (name, field.kind))
}

/// The prefix keeps a metadata field called `text` or `ordinal` apart from ours.
pub(crate) fn metadata_field(name: &str) -> String {
    format!("metadata.{name}")
}

/// Writes `lexical/` in one thread of tantivy's.
pub(crate) struct LexicalWriter {
    path: PathBuf,
    writer: IndexWriter,
    ordinal: Field,
    id: Field,
    title: Field,
    text: Field,
    metadata: Vec<(String, FieldKind, Field)>,
    n_queued_bytes: usize,
}

impl LexicalWriter {
    pub fn create(path: &Path, config: &StoreConfig) -> Result<Self, WriteError> {
        fs::create_dir_all(path).map_err(write_error(path))?;
        let schema = schema(config);
        let field = |name: &str| {
            schema
                .get_field(name)
                .expect("the schema was built with this field")
        };
        let [ordinal, id, title, text] = [ORDINAL, ID, TITLE, TEXT].map(field);
        let metadata = filterable(config)
            .map(|(name, kind)| (name.clone(), kind, field(&metadata_field(name))))
            .collect();
        let error = lexical_error(path);
        let index = Index::create_in_dir(path, schema).map_err(&error)?;
        index
            .tokenizers()
            .register(config.language.as_str(), config.language.analyzer());
        let writer = index
            .writer_with_num_threads(1, HEAP_BYTES)
            .map_err(&error)?;
        Ok(Self {
            path: path.to_owned(),
            writer,
            ordinal,
            id,
            title,
            text,
            metadata,
            n_queued_bytes: 0,
        })
    }

    pub fn push(&mut self, ordinal: u32, passage: &Passage) -> Result<(), WriteError> {
        let mut document = TantivyDocument::new();
        document.add_u64(self.ordinal, u64::from(ordinal));
        document.add_text(self.id, &passage.id);
        document.add_text(self.title, &passage.title);
        document.add_text(self.text, &passage.title);
        document.add_text(self.text, &passage.text);
        for (name, kind, field) in &self.metadata {
            match passage.metadata.get(name) {
                Some(value) if kind.accepts(value) => {
                    add_value(&mut document, *field, *kind, value)
                }
                Some(value) => {
                    let (id, field, kind) = (passage.id.clone(), name.clone(), *kind);
                    return Err(WriteError::Value {
                        id,
                        field,
                        kind,
                        value: value.to_string(),
                    });
                }
                None => {}
            }
        }
        let error = lexical_error(&self.path);
        self.writer.add_document(document).map_err(&error)?;
        self.n_queued_bytes += passage.title.len() + passage.text.len();
        if self.n_queued_bytes >= SEGMENT_BYTES {
            self.writer.commit().map_err(&error)?;
            self.n_queued_bytes = 0;
        }
        Ok(())
    }

    /// Commits, lets the merges end, and leaves the folder synced and without lock files.
    pub fn finish(mut self) -> Result<(), WriteError> {
        let error = lexical_error(&self.path);
        self.writer.commit().map_err(&error)?;
        self.writer.wait_merging_threads().map_err(&error)?;
        file_list::seal(&self.path).map_err(write_error(&self.path))
    }
}

fn lexical_error(path: &Path) -> impl Fn(TantivyError) -> WriteError {
    move |source| WriteError::Lexical {
        path: path.to_owned(),
        source,
    }
}

/// Adds a value that its kind accepts; an array adds each of its elements.
fn add_value(document: &mut TantivyDocument, field: Field, kind: FieldKind, value: &Value) {
    match (kind, value) {
        (_, Value::Null) => {}
        (_, Value::Array(values)) => values
            .iter()
            .for_each(|value| add_value(document, field, kind, value)),
        // tantivy cuts longer terms short, and no filter could match those.
        (FieldKind::Keyword, Value::String(text)) if text.len() > MAX_TOKEN_LEN => {}
        (FieldKind::Keyword | FieldKind::Text, Value::String(text)) => {
            document.add_text(field, text)
        }
        (FieldKind::Keyword | FieldKind::Text, other) => {
            document.add_text(field, other.to_string())
        }
        (FieldKind::Integer, value) => value
            .as_i64()
            .into_iter()
            .for_each(|n| document.add_i64(field, n)),
        (FieldKind::Float, value) => value
            .as_f64()
            .into_iter()
            .for_each(|x| document.add_f64(field, x)),
        (FieldKind::Boolean, value) => value
            .as_bool()
            .into_iter()
            .for_each(|b| document.add_bool(field, b)),
        (FieldKind::Date, value) => {
            let moment = value.as_str().and_then(predicate::micros);
            moment
                .into_iter()
                .for_each(|moment| document.add_i64(field, moment));
        }
    }
}

/// Reads `lexical/`.
pub(crate) struct Lexical {
    path: PathBuf,
    reader: IndexReader,
    text: Field,
    analyzer: TextAnalyzer,
    /// Read when first needed.
    runs: OnceLock<Runs>,
}

impl Lexical {
    pub fn open(path: &Path, verify: Verify) -> Result<Self, StoreError> {
        file_list::check(path, verify)?;
        let error = |source| StoreError::Lexical {
            path: path.to_owned(),
            source,
        };
        let directory = MmapDirectory::open(path).map_err(|source| error(source.into()))?;
        let index = Index::open(ReadOnly(directory)).map_err(error)?;
        let text = index.schema().get_field(TEXT).map_err(error)?;
        let language =
            analyzer_name(&index.schema(), text).and_then(|name| name.parse::<Language>().ok());
        let unknown = || TantivyError::SchemaError("field `text` names no language".into());
        let analyzer = language.ok_or_else(|| error(unknown()))?.analyzer();
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()
            .map_err(error)?;
        Ok(Self {
            path: path.to_owned(),
            reader,
            text,
            analyzer,
            runs: OnceLock::new(),
        })
    }

    pub fn len(&self) -> u64 {
        self.reader.searcher().num_docs()
    }

    /// Reads every file against its checksum.
    pub fn verify(&self) -> Result<(), StoreError> {
        file_list::check(&self.path, Verify::Checksums)
    }

    pub fn search(
        &self,
        query: &str,
        k: usize,
        filter: Option<&Bitmap>,
        changes: &Changes<'_>,
    ) -> Result<Vec<LexicalHit>, StoreError> {
        let mut terms = BTreeMap::new();
        self.analyzer
            .clone()
            .token_stream(query)
            .process(&mut |token| {
                let term = Term::from_field_text(self.text, &token.text);
                if terms.len() < MAX_QUERY_TERMS || terms.contains_key(&term) {
                    *terms.entry(term).or_insert(0) += 1;
                }
            });
        let searcher = self.reader.searcher();
        bm25::search(&searcher, self.text, &terms, k, filter, changes).map_err(self.error())
    }

    pub fn select(&self, filter: &Filter, schema: &corpus::Schema) -> Result<Bitmap, SelectError> {
        let predicate = predicate::resolve(filter, schema, "")?;
        let selected = selection::select(&self.reader.searcher(), self.runs()?, &predicate);
        Ok(selected.map_err(self.error())?)
    }

    /// Counts the values of fields in the passages given, or in all.
    pub fn count(
        &self,
        fields: &[String],
        schema: &corpus::Schema,
        passages: Option<&Bitmap>,
    ) -> Result<Vec<Counts>, SelectError> {
        let fields = facet::resolve(fields, schema)?;
        let (searcher, runs) = (self.reader.searcher(), self.runs()?);
        let count = |field| facet::count(&searcher, runs, field, passages);
        let counts: tantivy::Result<Vec<Counts>> = fields.iter().map(count).collect();
        Ok(counts.map_err(self.error())?)
    }

    /// The values of a field in each of the passages.
    pub fn values(
        &self,
        field: &IndexedField<'_>,
        ordinals: &[u32],
    ) -> Result<Vec<Vec<FieldValue>>, StoreError> {
        let values = values::read(&self.reader.searcher(), self.runs()?, field, ordinals);
        values.map_err(self.error())
    }

    pub fn analyzer(&self) -> TextAnalyzer {
        self.analyzer.clone()
    }

    fn runs(&self) -> Result<&Runs, StoreError> {
        if let Some(runs) = self.runs.get() {
            return Ok(runs);
        }
        let runs = Runs::read(&self.reader.searcher()).map_err(self.error())?;
        Ok(self.runs.get_or_init(|| runs))
    }

    fn error(&self) -> impl Fn(TantivyError) -> StoreError {
        |source| StoreError::Lexical {
            path: self.path.clone(),
            source,
        }
    }
}

fn analyzer_name(schema: &Schema, field: Field) -> Option<String> {
    match schema.get_field_entry(field).field_type() {
        FieldType::Str(options) => Some(options.get_indexing_options()?.tokenizer().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Condition, Test};

    #[test]
    fn segments_change_neither_ordinals_nor_scores() {
        let folder = tempfile::tempdir().unwrap();
        let schema: corpus::Schema =
            serde_json::from_value(json!({"fields": {"n": "integer", "word": "keyword"}})).unwrap();
        let config = StoreConfig {
            schema: schema.clone(),
            ..StoreConfig::default()
        };
        let words = ["a", "b", "c"];
        let passage = |ordinal: u32| Passage {
            id: ordinal.to_string(),
            text: format!("apple {}", "pear ".repeat(ordinal as usize % 4)),
            metadata: json!({"n": ordinal % 5, "word": words[ordinal as usize % 3]})
                .as_object()
                .unwrap()
                .clone(),
            ..Passage::default()
        };
        let build = |name: &str, ordinals: &[u32], segment_len: usize| {
            let path = folder.path().join(name);
            let mut writer = LexicalWriter::create(&path, &config).unwrap();
            for segment in ordinals.chunks(segment_len) {
                writer.n_queued_bytes = SEGMENT_BYTES; // a full queue is committed as a segment
                segment
                    .iter()
                    .for_each(|&ordinal| writer.push(ordinal, &passage(ordinal)).unwrap());
            }
            writer.finish().unwrap();
            Lexical::open(&path, Verify::Checksums).unwrap()
        };
        let in_order: Vec<u32> = (0..50).collect();
        let shuffled: Vec<u32> = in_order.iter().map(|ordinal| ordinal * 7 % 50).collect();
        let (two, many) = (build("two", &in_order, 50), build("many", &shuffled, 10));
        assert_eq!(two.reader.searcher().segment_readers().len(), 2);
        assert_eq!(many.reader.searcher().segment_readers().len(), 6);
        let unchanged = Changes {
            first_ordinal: 50,
            added: &[],
            chunk: 1,
            deleted: &Bitmap::new(),
            removed: &[],
        };
        for query in ["pear", "apples and pears"] {
            let hits = two.search(query, 20, None, &unchanged).unwrap();
            assert_eq!(hits.len(), 20);
            assert_eq!(many.search(query, 20, None, &unchanged).unwrap(), hits);
        }
        let field = |key: &str, test| Condition::Field {
            key: key.to_owned(),
            test,
        };
        let filter = Filter {
            must_not: vec![
                field("n", Test::Match(json!(3))),
                field("word", Test::Except(vec![json!("a"), json!("c")])),
            ],
            ..Filter::default()
        };
        let expected: Bitmap = (0..50).filter(|n| n % 5 != 3 && n % 3 != 1).collect();
        let fields = ["n", "word"].map(str::to_owned);
        for lexical in [&two, &many] {
            assert_eq!(lexical.select(&filter, &schema).unwrap(), expected);
            let counted = lexical.count(&fields, &schema, Some(&expected)).unwrap();
            let resolved = facet::resolve(&fields, &schema).unwrap();
            let facets: Vec<_> = resolved
                .iter()
                .zip(counted)
                .map(|(field, counts)| counts.into_facet(field, 9))
                .collect();
            let counts = [(0, 7), (2, 7), (1, 6), (4, 6)].map(|(n, count)| (json!(n), count));
            assert_eq!(facets[0].counts, counts);
            assert_eq!(facets[1].counts, [(json!("a"), 13), (json!("c"), 13)]);
            let ordinals = [49, 0, 7, 13];
            let read: Vec<_> = resolved
                .iter()
                .map(|field| lexical.values(field, &ordinals).unwrap())
                .collect();
            let expected = ordinals.map(|n| vec![FieldValue::Integer(i64::from(n % 5))]);
            assert_eq!(read[0], expected);
            let word = |n: u32| words[n as usize % 3].to_owned();
            let expected = ordinals.map(|n| vec![FieldValue::Text(word(n))]);
            assert_eq!(read[1], expected);
        }
    }
}
