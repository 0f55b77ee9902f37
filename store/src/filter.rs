use std::fmt;

use corpus::FieldKind;
use serde_json::Value;

use crate::StoreError;

/// Which passages a search may return, by their metadata. The grammar is Qdrant's.
///
/// A passage passes when every condition of `must` holds, at least one of `should` holds (where there is any), and none of
/// `must_not` holds. A filter without conditions passes every passage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// All of them hold.
    pub must: Vec<Condition>,
    /// At least one of them holds, where there is any.
    pub should: Vec<Condition>,
    /// None of them holds.
    pub must_not: Vec<Condition>,
}

/// One condition of a [`Filter`].
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// What the values of a field are.
    Field {
        /// Name of the field.
        key: String,
        /// What holds for its values.
        test: Test,
    },
    /// A filter within the filter.
    Filter(Filter),
}

/// What holds for the values of a field.
///
/// A field has several values where a record holds an array: a test that asks for a value holds when any of them fits. A
/// record without the field has none, and neither has `null` or an array of nulls only.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// A value is equal to this one.
    Match(Value),
    /// A value is equal to one of these.
    Any(Vec<Value>),
    /// A value is equal to none of these.
    Except(Vec<Value>),
    /// A value is within the bounds.
    Range(Bounds),
    /// There is a value.
    Exists,
    /// There is no value.
    IsEmpty,
}

/// Bounds of a number or date; all that are given hold for one and the same value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    /// Greater than.
    pub gt: Option<Value>,
    /// Greater than or equal to.
    pub gte: Option<Value>,
    /// Less than.
    pub lt: Option<Value>,
    /// Less than or equal to.
    pub lte: Option<Value>,
}

impl Bounds {
    /// The bounds given, by name.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &Value)> {
        let bounds = [
            ("gt", &self.gt),
            ("gte", &self.gte),
            ("lt", &self.lt),
            ("lte", &self.lte),
        ];
        bounds
            .into_iter()
            .filter_map(|(name, bound)| Some((name, bound.as_ref()?)))
    }
}

/// How large a filter may be. Its cost is one pass over a column for each condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimits {
    /// Filters within one another; a filter without filters within has depth 1.
    pub depth: usize,
    /// Conditions on fields.
    pub conditions: usize,
    /// Values listed by `any` and `except`, all lists together.
    pub values: usize,
}

impl Default for FilterLimits {
    fn default() -> Self {
        Self {
            depth: 8,
            conditions: 256,
            values: 10_000,
        }
    }
}

impl Filter {
    /// Whether every passage passes because there is no condition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.must.is_empty() && self.should.is_empty() && self.must_not.is_empty()
    }

    /// The filter that passes what both pass.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        if self.should.is_empty() || other.should.is_empty() {
            self.must.extend(other.must);
            self.should.extend(other.should);
            self.must_not.extend(other.must_not);
        } else {
            self.must.push(Condition::Filter(other));
        }
        self
    }

    /// Checks the size of the filter.
    ///
    /// # Errors
    /// [`FieldFault::TooLarge`], at the filter that is too deep or at the whole.
    pub fn check(&self, limits: &FilterLimits) -> Result<(), FilterError> {
        let mut size = FilterLimits {
            depth: 0,
            conditions: 0,
            values: 0,
        };
        self.measure("", 1, limits.depth, &mut size)?;
        let too_large = |what, found, limit| FilterError {
            pointer: String::new(),
            fault: FieldFault::TooLarge { what, found, limit },
        };
        if size.conditions > limits.conditions {
            let (found, limit) = (size.conditions, limits.conditions);
            return Err(too_large("conditions", found, limit));
        }
        if size.values > limits.values {
            return Err(too_large("values", size.values, limits.values));
        }
        Ok(())
    }

    fn measure(
        &self,
        pointer: &str,
        depth: usize,
        max_depth: usize,
        size: &mut FilterLimits,
    ) -> Result<(), FilterError> {
        if depth > max_depth {
            return Err(FilterError {
                pointer: pointer.to_owned(),
                fault: FieldFault::TooLarge {
                    what: "depth",
                    found: depth,
                    limit: max_depth,
                },
            });
        }
        size.depth = size.depth.max(depth);
        for (list, conditions) in self.lists() {
            for (position, condition) in conditions.iter().enumerate() {
                match condition {
                    Condition::Filter(filter) => {
                        let pointer = format!("{pointer}/{list}/{position}");
                        filter.measure(&pointer, depth + 1, max_depth, size)?;
                    }
                    Condition::Field { test, .. } => {
                        size.conditions += 1;
                        if let Test::Any(values) | Test::Except(values) = test {
                            size.values += values.len();
                        }
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn lists(&self) -> [(&'static str, &[Condition]); 3] {
        [
            ("must", &self.must),
            ("should", &self.should),
            ("must_not", &self.must_not),
        ]
    }
}

/// What is wrong in a filter, or in a list of fields, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}{}{fault}", if pointer.is_empty() { "" } else { ": " })]
pub struct FilterError {
    /// The place, from the filter or list on, as in its JSON form (RFC 6901): `/must/0/match/value`.
    pub pointer: String,
    /// What is wrong there.
    pub fault: FieldFault,
}

/// Why a field cannot be asked for what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldFault {
    /// The collection has no such field.
    #[error("there is no field `{field}`{}{}", did_you_mean(nearest.as_deref()), Known(known))]
    Unknown {
        /// The name given.
        field: String,
        /// The name most like it, where one is.
        nearest: Option<String>,
        /// The fields that there are.
        known: Vec<String>,
    },
    /// The field is kept and not indexed.
    #[error("field `{field}` ({}) is not filterable", kind_name(*kind))]
    NotFilterable {
        /// The field.
        field: String,
        /// Its kind.
        kind: FieldKind,
    },
    /// The field is of a kind that has no such test.
    #[error("field `{field}` is of kind {}, {test} takes {} only", kind_name(*kind), names(kinds))]
    Test {
        /// The field.
        field: String,
        /// Its kind.
        kind: FieldKind,
        /// What was asked: `range`, `facets`, `sort` or the name of a function.
        test: &'static str,
        /// The kinds that have it.
        kinds: &'static [FieldKind],
    },
    /// A value is not of the field's kind.
    #[error("field `{field}` is of kind {}: expected {expected}, found {found}", kind_name(*kind))]
    Value {
        /// The field.
        field: String,
        /// Its kind.
        kind: FieldKind,
        /// What its values are.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The filter is too deep, or has too many conditions or values.
    #[error("{what} of the filter: {found}, limit is {limit}")]
    TooLarge {
        /// `depth`, `conditions` or `values`.
        what: &'static str,
        /// How many there are, or as far as was counted.
        found: usize,
        /// The most allowed.
        limit: usize,
    },
}

impl FieldFault {
    /// A value that is not what was expected of it.
    #[must_use]
    pub fn value(field: &str, kind: FieldKind, expected: &'static str, found: &Value) -> Self {
        Self::Value {
            field: field.to_owned(),
            kind,
            expected,
            found: described(found),
        }
    }
}

/// Why passages could not be selected or counted.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// The filter, or the list of fields, does not fit the collection.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The lexical index cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is told about a value that does not fit; a long text is cut.
fn described(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Array(_) => return "an array".to_owned(),
        Value::Object(_) => return "an object".to_owned(),
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
    };
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => format!("{kind} {text}"),
        Some((end, _)) => format!("{kind} {}…", &text[..end]),
    }
}

/// The name of a kind as schemas have it.
pub(crate) fn kind_name(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Keyword => "keyword",
        FieldKind::Integer => "integer",
        FieldKind::Float => "float",
        FieldKind::Date => "date",
        FieldKind::Boolean => "boolean",
        FieldKind::Text => "text",
    }
}

fn names(kinds: &[FieldKind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|&kind| kind_name(kind)).collect();
    names.join(", ")
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!(", did you mean `{name}`?"))
}

/// Lists the fields that there are; a corpus may have a thousand.
struct Known<'a>(&'a [String]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 20;
        if self.0.is_empty() {
            return f.write_str(" (the collection has no fields)");
        }
        let shown = &self.0[..self.0.len().min(MOST)];
        write!(f, " (fields: {}", shown.join(", "))?;
        match self.0.len() - shown.len() {
            0 => f.write_str(")"),
            more => write!(f, " and {more} more)"),
        }
    }
}
