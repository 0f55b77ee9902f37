use std::cmp::Ordering;

use corpus::{FieldKind, Schema};
use serde_json::{Map, Value};
use tantivy::Searcher;
use tantivy::columnar::{ColumnType, MonotonicallyMappableToU64};

use crate::filter::FieldFault;
use crate::lexical::metadata_field;
use crate::predicate::{IndexedField, filterable};
use crate::selection::{Runs, column};

/// One value that a passage has in a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// Of a keyword field.
    Text(String),
    /// Of an integer field.
    Integer(i64),
    /// Of a float field.
    Float(f64),
    /// Of a boolean field.
    Boolean(bool),
    /// Of a date field: microseconds since 1970.
    Date(i64),
}

impl FieldValue {
    /// The value as a number: dates in seconds since 1970, nothing for texts and booleans.
    #[must_use]
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Date(micros) => Some(*micros as f64 / 1e6),
            Self::Text(_) | Self::Boolean(_) => None,
        }
    }

    /// Orders values of one field: texts by their bytes, `false` before `true`, the rest as numbers.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Integer(a), Self::Integer(b)) | (Self::Date(a), Self::Date(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            (Self::Boolean(a), Self::Boolean(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }

    fn of_number(kind: FieldKind, number: u64) -> Option<Self> {
        Some(match kind {
            FieldKind::Integer => Self::Integer(i64::from_u64(number)),
            // Zero has two signs, which no order should tell apart.
            FieldKind::Float => Self::Float(f64::from_u64(number) + 0.0),
            FieldKind::Boolean => Self::Boolean(bool::from_u64(number)),
            FieldKind::Date => Self::Date(i64::from_u64(number)),
            FieldKind::Keyword | FieldKind::Text => return None,
        })
    }
}

/// Finds a field of one of the kinds that `test` takes.
///
/// # Errors
/// [`FieldFault`] where there is no such field, none that is indexed, or one of another kind.
pub fn field_kind(
    name: &str,
    schema: &Schema,
    test: &'static str,
    kinds: &'static [FieldKind],
) -> Result<FieldKind, FieldFault> {
    let kind = filterable(name, schema)?.kind;
    if kinds.contains(&kind) {
        return Ok(kind);
    }
    let field = name.to_owned();
    Err(FieldFault::Test {
        field,
        kind,
        test,
        kinds,
    })
}

/// The values of a field in each of the passages, which are in the index.
pub(crate) fn read(
    searcher: &Searcher,
    runs: &Runs,
    field: &IndexedField<'_>,
    ordinals: &[u32],
) -> tantivy::Result<Vec<Vec<FieldValue>>> {
    let name = metadata_field(field.name());
    let mut found = vec![Vec::new(); ordinals.len()];
    let places: Vec<_> = ordinals.iter().map(|&o| runs.document(o)).collect();
    for (segment, reader) in searcher.segment_readers().iter().enumerate() {
        let of_segment = places.iter().zip(&mut found).filter_map(|(place, found)| {
            let (_, document) = place.filter(|place| place.0 == segment)?;
            Some((document, found))
        });
        if field.kind == FieldKind::Keyword {
            let Some(texts) = reader.fast_fields().str(&name)? else {
                continue;
            };
            for (document, found) in of_segment {
                for ord in texts.ords().values_for_doc(document) {
                    let mut text = String::new();
                    texts.ord_to_str(ord, &mut text)?;
                    found.push(FieldValue::Text(text));
                }
            }
            continue;
        }
        let Some((column, kind)) = column(&name, reader)? else {
            continue;
        };
        // Earlier versions indexed dates in nanoseconds.
        let to_micros = |number: u64| match kind {
            ColumnType::DateTime => i64::from_u64(number).div_euclid(1000).to_u64(),
            _ => number,
        };
        for (document, found) in of_segment {
            let numbers = column.values_for_doc(document).map(to_micros);
            found.extend(numbers.filter_map(|n| FieldValue::of_number(field.kind, n)));
        }
    }
    Ok(found)
}

/// The values of a field in a record that is not in the index.
pub(crate) fn of_record(
    field: &IndexedField<'_>,
    metadata: &Map<String, Value>,
) -> Vec<FieldValue> {
    let values = field.values(metadata);
    let texts = values.texts.into_iter().map(str::to_owned);
    let numbers = values.numbers.into_iter();
    texts
        .map(FieldValue::Text)
        .chain(numbers.filter_map(|n| FieldValue::of_number(field.kind, n)))
        .collect()
}
