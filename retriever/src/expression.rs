//! Filters in the terms of Milvus, and the metadata that they are evaluated over.
//!
//! Which passages pass is decided here ([`View::select`]); an expression only keeps most of the others from being sent. So it may
//! hold for too many passages, never for too few. A row has, in its JSON field, the values of each field as an array, and of numbers
//! and dates the least and the greatest, too.

use corpus::{FieldKind, Schema};
use milvus::METADATA;
use serde_json::{Map, Value};
use store::{Bounds, Condition, FieldValue, Filter, SelectError, Test, View};

/// Values of one list that are worth an expression.
const MAX_VALUES: usize = 1000;

/// Whether a field is in the metadata of rows.
fn is_written(name: &str, schema: &Schema) -> Option<FieldKind> {
    let field = schema.fields.get(name)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let is_plain = !name.is_empty() && name.bytes().all(plain);
    (field.filterable && field.kind != FieldKind::Text && is_plain).then_some(field.kind)
}

/// Whether rows of a generation have metadata.
#[must_use]
pub fn has_milvus_metadata(schema: &Schema) -> bool {
    let mut names = schema.fields.keys();
    names.any(|name| is_written(name, schema).is_some())
}

/// The metadata of passages, as rows of Milvus have it.
///
/// # Errors
/// [`SelectError`] when the store cannot be read.
pub fn milvus_metadata(
    view: &View,
    ordinals: &[u32],
) -> Result<Vec<Map<String, Value>>, SelectError> {
    let mut rows = vec![Map::new(); ordinals.len()];
    let schema = view.schema();
    for name in schema.fields.keys() {
        if is_written(name, schema).is_none() {
            continue;
        }
        let values = view.values(name, ordinals)?;
        for (row, mut values) in rows.iter_mut().zip(values) {
            values.sort_by(FieldValue::order);
            let (first, last) = (values.first(), values.last());
            if let (Some(first), Some(last)) = (first, last)
                && first.as_number().is_some()
            {
                row.insert(least(name), json(first));
                row.insert(greatest(name), json(last));
            }
            if !values.is_empty() {
                row.insert(name.clone(), values.iter().map(json).collect());
            }
        }
    }
    Ok(rows)
}

fn least(name: &str) -> String {
    format!("{name}<")
}

fn greatest(name: &str) -> String {
    format!("{name}>")
}

fn json(value: &FieldValue) -> Value {
    match value {
        FieldValue::Text(text) => Value::from(text.as_str()),
        FieldValue::Integer(number) | FieldValue::Date(number) => Value::from(*number),
        FieldValue::Float(number) => Value::from(*number),
        FieldValue::Boolean(value) => Value::from(*value),
    }
}

/// An expression that holds for every passage that passes a filter; empty where there is none.
pub(crate) fn narrowing(filter: &Filter, schema: &Schema) -> String {
    Expression::of(filter, schema).wide.unwrap_or_default()
}

/// A condition from both sides, as far as it can be said.
#[derive(Debug, Default)]
struct Expression {
    /// Holds wherever the condition does.
    wide: Option<String>,
    /// Holds nowhere but where the condition does.
    narrow: Option<String>,
}

impl Expression {
    fn exact(text: String) -> Self {
        Self {
            wide: Some(text.clone()),
            narrow: Some(text),
        }
    }

    fn wide(text: String) -> Self {
        Self {
            wide: Some(text),
            narrow: None,
        }
    }

    fn of(filter: &Filter, schema: &Schema) -> Self {
        let each = |conditions: &[Condition]| -> Vec<Self> {
            let conditions = conditions.iter();
            conditions
                .map(|condition| Self::of_condition(condition, schema))
                .collect()
        };
        let mut all = each(&filter.must);
        if !filter.should.is_empty() {
            all.push(Self::any(each(&filter.should)));
        }
        all.extend(each(&filter.must_not).into_iter().map(Self::not));
        Self::all(all)
    }

    /// Holds where all do: what cannot be said of one is left out on the wide side, and leaves nothing to say on the narrow one.
    fn all(parts: Vec<Self>) -> Self {
        let narrow: Option<Vec<&str>> = parts.iter().map(|part| part.narrow.as_deref()).collect();
        let wide = parts.iter().filter_map(|part| part.wide.as_deref());
        Self {
            narrow: narrow.and_then(|parts| joined(parts, " and ")),
            wide: joined(wide.collect(), " and "),
        }
    }

    /// Holds where one does.
    fn any(parts: Vec<Self>) -> Self {
        let wide: Option<Vec<&str>> = parts.iter().map(|part| part.wide.as_deref()).collect();
        let narrow = parts.iter().filter_map(|part| part.narrow.as_deref());
        Self {
            wide: wide.and_then(|parts| joined(parts, " or ")),
            narrow: joined(narrow.collect(), " or "),
        }
    }

    fn not(self) -> Self {
        let not = |text: String| format!("not ({text})");
        Self {
            wide: self.narrow.map(not),
            narrow: self.wide.map(not),
        }
    }

    fn of_condition(condition: &Condition, schema: &Schema) -> Self {
        let (key, test) = match condition {
            Condition::Filter(filter) => return Self::of(filter, schema),
            Condition::Field { key, test } => (key.as_str(), test),
        };
        let Some(kind) = is_written(key, schema) else {
            return Self::default();
        };
        let is_discrete = !matches!(kind, FieldKind::Float | FieldKind::Date);
        match test {
            Test::Match(value) if is_discrete => {
                Self::exact(format!("json_contains({}, {value})", at(key)))
            }
            Test::Any(values) if is_discrete && (1..=MAX_VALUES).contains(&values.len()) => {
                let list = Value::from(values.clone());
                Self::exact(format!("json_contains_any({}, {list})", at(key)))
            }
            Test::Match(value) => {
                let bounds = Bounds {
                    gte: Some(value.clone()),
                    lte: Some(value.clone()),
                    ..Bounds::default()
                };
                Self::range(key, kind, &bounds)
            }
            Test::Range(bounds) => Self::range(key, kind, bounds),
            Test::Exists => Self::exact(format!("exists {}", at(key))),
            Test::IsEmpty => Self::exact(format!("exists {}", at(key))).not(),
            // There is some value, at least.
            Test::Any(_) | Test::Except(_) => Self::wide(format!("exists {}", at(key))),
        }
    }

    /// Some value is not too small, and some is not too great.
    fn range(key: &str, kind: FieldKind, bounds: &Bounds) -> Self {
        let sides = [
            (greatest(key), ">", &bounds.gt),
            (greatest(key), ">=", &bounds.gte),
            (least(key), "<", &bounds.lt),
            (least(key), "<=", &bounds.lte),
        ];
        let sides = sides.into_iter().filter_map(|(name, compared, bound)| {
            let bound = number(kind, bound.as_ref()?)?;
            Some(Self::wide(format!("{} {compared} {bound}", at(&name))))
        });
        Self::all(sides.collect())
    }
}

fn at(name: &str) -> String {
    format!("{METADATA}[\"{name}\"]")
}

fn joined(parts: Vec<&str>, with: &str) -> Option<String> {
    match parts[..] {
        [] => None,
        [one] => Some(one.to_owned()),
        _ => Some(format!("({})", parts.join(with))),
    }
}

/// A bound as the metadata has such numbers.
fn number(kind: FieldKind, bound: &Value) -> Option<Value> {
    match kind {
        FieldKind::Integer => bound.as_i64().map(Value::from),
        FieldKind::Float => bound.as_f64().map(Value::from),
        FieldKind::Date => {
            let moment = corpus::parse_date(bound.as_str()?)?;
            let micros = moment.unix_timestamp_nanos().div_euclid(1000);
            i64::try_from(micros).ok().map(Value::from)
        }
        FieldKind::Keyword | FieldKind::Boolean | FieldKind::Text => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn field(key: &str, test: Test) -> Condition {
        Condition::Field {
            key: key.to_owned(),
            test,
        }
    }

    fn is(key: &str, value: Value) -> Condition {
        field(key, Test::Match(value))
    }

    fn check(filter: Filter, expected: &str) {
        let schema = json!({ "fields": {
            "tag": "keyword", "n": "integer", "x": "float", "on": "date", "text": "text", "a b": "keyword"
        }});
        let schema: Schema = serde_json::from_value(schema).unwrap();
        assert_eq!(narrowing(&filter, &schema), expected);
    }

    fn must(conditions: Vec<Condition>) -> Filter {
        Filter {
            must: conditions,
            ..Filter::default()
        }
    }

    fn should(conditions: Vec<Condition>) -> Filter {
        Filter {
            should: conditions,
            ..Filter::default()
        }
    }

    fn must_not(conditions: Vec<Condition>) -> Filter {
        Filter {
            must_not: conditions,
            ..Filter::default()
        }
    }

    const TAG: &str = r#"json_contains(metadata["tag"], "a")"#;

    #[test]
    fn conditions_are_said_as_far_as_they_can_be() {
        let tag = || is("tag", json!("a"));
        check(Filter::default(), "");
        check(must(vec![tag()]), TAG);
        check(
            must(vec![is("tag", json!("a\"b"))]),
            r#"json_contains(metadata["tag"], "a\"b")"#,
        );
        check(
            must(vec![field("n", Test::Any(vec![json!(1), json!(2)]))]),
            r#"json_contains_any(metadata["n"], [1,2])"#,
        );
        check(
            must(vec![field("tag", Test::Exists)]),
            r#"exists metadata["tag"]"#,
        );
        check(
            must(vec![field("tag", Test::IsEmpty)]),
            r#"not (exists metadata["tag"])"#,
        );
        check(must_not(vec![tag()]), &format!("not ({TAG})"));
        check(
            must(vec![is("x", json!(2))]),
            r#"(metadata["x>"] >= 2.0 and metadata["x<"] <= 2.0)"#,
        );
        let since = Bounds {
            gte: Some(json!("1970-01-02")),
            ..Bounds::default()
        };
        check(
            must(vec![tag(), field("on", Test::Range(since))]),
            &format!(r#"({TAG} and metadata["on>"] >= 86400000000)"#),
        );
        check(
            should(vec![tag(), Condition::Filter(must_not(vec![tag()]))]),
            &format!("({TAG} or not ({TAG}))"),
        );
    }

    #[test]
    fn what_cannot_be_said_never_narrows() {
        let tag = || is("tag", json!("a"));
        // A range is wider than its condition, so its opposite would be too narrow.
        let range = || {
            let bounds = Bounds {
                gt: Some(json!(1)),
                ..Bounds::default()
            };
            field("n", Test::Range(bounds))
        };
        check(must_not(vec![range()]), "");
        check(
            must_not(vec![Condition::Filter(must_not(vec![range()]))]),
            r#"not (not (metadata["n>"] > 1))"#,
        );
        check(must_not(vec![tag(), range()]), &format!("not ({TAG})"));
        for unsaid in [is("a b", json!("a")), is("gone", json!("a"))] {
            check(must(vec![tag(), unsaid.clone()]), TAG);
            check(should(vec![tag(), unsaid.clone()]), "");
            check(must_not(vec![unsaid]), "");
        }
        let many = (0..=MAX_VALUES as i64).map(Value::from).collect();
        check(
            must(vec![field("n", Test::Any(many))]),
            r#"exists metadata["n"]"#,
        );
    }
}
