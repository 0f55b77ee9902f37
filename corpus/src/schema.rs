use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use crate::CorpusError;

/// The metadata fields of a corpus, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// The fields.
    #[serde(default)]
    pub fields: BTreeMap<String, Field>,
}

/// One metadata field. A value may also be an array of values of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FieldEntry")]
pub struct Field {
    /// What its values are.
    pub kind: FieldKind,
    /// Whether searches may filter by it.
    pub filterable: bool,
}

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// Text compared as a whole.
    Keyword,
    /// A whole number that fits into 64 bits with sign.
    Integer,
    /// A number.
    Float,
    /// A day (`2026-11-20`) or a moment (RFC 3339), as text.
    Date,
    /// True or false.
    Boolean,
    /// Any value, kept as it is; text is searched by its words.
    Text,
}

impl FieldKind {
    /// Returns whether a value, or every element of an array, is of this kind. Null is of every kind.
    pub fn accepts(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) | (Self::Text, _) => true,
            (_, Value::Array(values)) => values
                .iter()
                .all(|value| !value.is_array() && self.accepts(value)),
            (Self::Keyword, value) => value.is_string(),
            (Self::Integer, value) => value.is_i64(),
            (Self::Float, value) => value.is_number(),
            (Self::Boolean, value) => value.is_boolean(),
            (Self::Date, value) => value
                .as_str()
                .is_some_and(|text| parse_date(text).is_some()),
        }
    }

    /// Reads a table's cell as a value of this kind.
    pub(crate) fn parse(self, cell: &str) -> Option<Value> {
        match self {
            Self::Integer => cell.trim().parse::<i64>().ok().map(Value::from),
            Self::Float => cell
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite())
                .map(Value::from),
            Self::Boolean => cell.trim().parse::<bool>().ok().map(Value::from),
            Self::Keyword | Self::Date | Self::Text => Some(Value::from(cell)),
        }
    }

    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Keyword => "text",
            Self::Integer => "a 64-bit integer",
            Self::Float => "a number",
            Self::Date => "a date (2026-11-20 or RFC 3339)",
            Self::Boolean => "true or false",
            Self::Text => "a value",
        }
    }
}

/// A field as a schema file may write it: `year = "integer"` or `year = { kind = "integer", filterable = false }`.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected keyword, integer, float, date, boolean or text, or such a kind as `{ kind = …, filterable = … }`"
)]
enum FieldEntry {
    Kind(FieldKind),
    Full(FullField),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FullField {
    kind: FieldKind,
    filterable: Option<bool>,
}

impl From<FieldEntry> for Field {
    fn from(entry: FieldEntry) -> Self {
        let (kind, filterable) = match entry {
            FieldEntry::Kind(kind) => (kind, None),
            FieldEntry::Full(field) => (field.kind, field.filterable),
        };
        Self {
            kind,
            filterable: filterable.unwrap_or(kind != FieldKind::Text),
        }
    }
}

impl Schema {
    /// Reads the fields from a file such as
    ///
    /// ```toml
    /// [fields]
    /// year = "integer"
    /// abstract = { kind = "text", filterable = false }
    /// ```
    ///
    /// # Errors
    /// [`CorpusError::Open`], [`CorpusError::Schema`], and [`CorpusError::ReservedField`] for `_id`, `title` and `text`.
    pub fn from_toml(path: &Path) -> Result<Self, CorpusError> {
        let text = std::fs::read_to_string(path).map_err(|source| CorpusError::Open {
            path: path.to_owned(),
            source,
        })?;
        let schema: Self = toml::from_str(&text).map_err(|source| CorpusError::Schema {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        match crate::record::RESERVED_FIELDS
            .iter()
            .find(|field| schema.fields.contains_key(**field))
        {
            Some(&field) => Err(CorpusError::ReservedField {
                path: path.to_owned(),
                field: field.to_owned(),
            }),
            None => Ok(schema),
        }
    }
}

/// Reads a day (midnight UTC) or an RFC 3339 moment.
pub fn parse_date(text: &str) -> Option<OffsetDateTime> {
    let day = format_description!("[year]-[month]-[day]");
    match Date::parse(text, day) {
        Ok(date) => Some(date.midnight().assume_utc()),
        Err(_) => OffsetDateTime::parse(text, &Rfc3339).ok(),
    }
}
