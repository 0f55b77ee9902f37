use std::cmp::Reverse;
use std::collections::HashMap;

use corpus::{FieldKind, Schema};
use serde_json::{Map, Value};
use tantivy::columnar::MonotonicallyMappableToU64;
use tantivy::{Searcher, SegmentReader};

use crate::Bitmap;
use crate::filter::FilterError;
use crate::lexical::metadata_field;
use crate::predicate::{IndexedField, filterable};
use crate::selection::{Runs, column};
use crate::values::field_kind;

/// How many passages have each value of a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Facet {
    /// The field.
    pub field: String,
    /// Its most frequent values and how many passages have each: by count descending, then by value ascending. A passage
    /// with several values counts for each of them once.
    pub counts: Vec<(Value, u64)>,
    /// Values that the field has in all, those left out included.
    pub n_values: usize,
}

const COUNTED: &[FieldKind] = &[FieldKind::Keyword, FieldKind::Integer, FieldKind::Boolean];

/// Finds the fields to count; a fault is placed by the position of its field.
pub(crate) fn resolve<'a>(
    fields: &'a [String],
    schema: &Schema,
) -> Result<Vec<IndexedField<'a>>, FilterError> {
    let fields = fields.iter().enumerate();
    fields
        .map(|(position, name)| {
            let pointer = format!("/{position}");
            let field = field_kind(name, schema, "facets", COUNTED);
            let field = field.and_then(|_| filterable(name, schema));
            field.map_err(|fault| FilterError { pointer, fault })
        })
        .collect()
}

/// Counts the values of a field in the passages given, or in all.
pub(crate) fn count(
    searcher: &Searcher,
    runs: &Runs,
    field: &IndexedField<'_>,
    passages: Option<&Bitmap>,
) -> tantivy::Result<Counts> {
    let mut counts = Counts::default();
    for (segment, reader) in searcher.segment_readers().iter().enumerate() {
        let found = count_segment(
            &metadata_field(field.name()),
            reader,
            runs.documents(segment, passages),
        )?;
        counts.add(field, reader, found)?;
    }
    Ok(counts)
}

/// How many documents have each number of a column.
fn count_segment(
    field: &str,
    reader: &SegmentReader,
    documents: impl Iterator<Item = u32>,
) -> tantivy::Result<HashMap<u64, u64>> {
    let mut counts = HashMap::new();
    let Some((column, _)) = column(field, reader)? else {
        return Ok(counts);
    };
    let mut values = Vec::new();
    for document in documents {
        values.clear();
        values.extend(column.values_for_doc(document));
        if values.len() > 1 {
            values.sort_unstable();
            values.dedup();
        }
        for &value in &values {
            *counts.entry(value).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

/// Counts of all segments: texts by themselves, because segments number them differently.
#[derive(Default)]
pub(crate) struct Counts {
    texts: HashMap<String, u64>,
    numbers: HashMap<u64, u64>,
}

impl Counts {
    fn add(
        &mut self,
        field: &IndexedField<'_>,
        reader: &SegmentReader,
        found: HashMap<u64, u64>,
    ) -> tantivy::Result<()> {
        if field.kind != FieldKind::Keyword {
            for (number, count) in found {
                *self.numbers.entry(number).or_insert(0) += count;
            }
            return Ok(());
        }
        let Some(column) = reader.fast_fields().str(&metadata_field(field.name()))? else {
            return Ok(());
        };
        for (ord, count) in found {
            let mut text = String::new();
            column.ord_to_str(ord, &mut text)?;
            *self.texts.entry(text).or_insert(0) += count;
        }
        Ok(())
    }

    /// Adds the values of one passage that is not in the index.
    pub fn add_values(&mut self, field: &IndexedField<'_>, metadata: &Map<String, Value>) {
        let values = field.values(metadata);
        if field.kind == FieldKind::Keyword {
            for text in values.texts {
                *self.texts.entry(text.to_owned()).or_insert(0) += 1;
            }
        } else {
            for number in values.numbers {
                *self.numbers.entry(number).or_insert(0) += 1;
            }
        }
    }

    pub fn into_facet(self, field: &IndexedField<'_>, max_values: usize) -> Facet {
        let n_values = self.texts.len() + self.numbers.len();
        let mut texts: Vec<(String, u64)> = self.texts.into_iter().collect();
        texts.sort_unstable_by(|a, b| (Reverse(a.1), &a.0).cmp(&(Reverse(b.1), &b.0)));
        let mut numbers: Vec<(u64, u64)> = self.numbers.into_iter().collect();
        numbers.sort_unstable_by_key(|&(number, count)| (Reverse(count), number));
        let value = |number: u64| match field.kind {
            FieldKind::Boolean => Value::from(bool::from_u64(number)),
            _ => Value::from(i64::from_u64(number)),
        };
        let texts = texts.into_iter().map(|(text, count)| (text.into(), count));
        let numbers = numbers
            .into_iter()
            .map(|(number, count)| (value(number), count));
        Facet {
            field: field.name().to_owned(),
            counts: texts.chain(numbers).take(max_values).collect(),
            n_values,
        }
    }
}
