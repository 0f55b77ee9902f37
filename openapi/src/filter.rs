use std::cell::Cell;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::object::{object, object_or_null};

/// Which passages may be found, by their metadata. The grammar is Qdrant's.
///
/// A passage passes when every condition of `must` holds, at least one of `should` (where there is any), and none of
/// `must_not`; a filter without conditions passes all. Where a field has an array, a condition holds when it holds for one of
/// its values. Limits: `limits.filter_depth`, `limits.filter_conditions`, `limits.filter_values`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "must": [{"key": "lang", "match": {"value": "en"}}, {"key": "year", "range": {"gte": 2020}}],
    "must_not": [{"is_empty": {"key": "author"}}]
}))]
pub struct Filter {
    /// All of them hold.
    #[serde(default, deserialize_with = "conditions")]
    pub must: Vec<Condition>,
    /// At least one of them holds.
    #[serde(default, deserialize_with = "conditions")]
    pub should: Vec<Condition>,
    /// None of them holds.
    #[serde(default, deserialize_with = "conditions")]
    pub must_not: Vec<Condition>,
}

/// One condition: `key` with `match` or `range`; or `is_empty`; or `exists`; or a filter with `must`, `should`, `must_not`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// A metadata field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// A value of the field is equal to these, or to others.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub r#match: Option<Match>,
    /// A number or date of the field is within bounds.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub range: Option<Range>,
    /// The field is missing, null, or an empty array.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub is_empty: Option<FieldKey>,
    /// The field has a value.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub exists: Option<FieldKey>,
    /// As in a filter.
    #[serde(
        default,
        deserialize_with = "some_conditions",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(no_recursion)]
    pub must: Option<Vec<Condition>>,
    /// As in a filter.
    #[serde(
        default,
        deserialize_with = "some_conditions",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(no_recursion)]
    pub should: Option<Vec<Condition>>,
    /// As in a filter.
    #[serde(
        default,
        deserialize_with = "some_conditions",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(no_recursion)]
    pub must_not: Option<Vec<Condition>>,
}

/// What a value of a field is equal to: exactly one of the three. Values are of the field's kind: a string, an integer, a number,
/// a boolean, a date as `2026-11-20` or RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// A value is equal to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
    /// A value is equal to one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any: Option<Vec<Value>>,
    /// A value is equal to none of these; a passage without the field does not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<Value>>,
}

/// Bounds of a number, or of a date (`2026-11-20` or RFC 3339, compared as moments); all that are given hold for one value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Greater than.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gt: Option<Value>,
    /// Greater than or equal to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gte: Option<Value>,
    /// Less than.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lt: Option<Value>,
    /// Less than or equal to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lte: Option<Value>,
}

/// Names a metadata field.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldKey {
    /// The field.
    pub key: String,
}

fn conditions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    Ok(some_conditions(deserializer)?.unwrap_or_default())
}

fn some_conditions<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Condition>>, D::Error> {
    let conditions = Option::<Vec<Counted>>::deserialize(deserializer)?;
    Ok(conditions.map(|conditions| conditions.into_iter().map(|counted| counted.0).collect()))
}

/// Reads a filter or null.
pub(crate) fn filter_or_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Filter>, D::Error> {
    N_CONDITIONS.set(0);
    object_or_null(deserializer)
}

/// Conditions of one filter that are read at all. A server looks at its own limits when the body is read, and a body of
/// megabytes of `{},{},{}` would be gigabytes by then.
const MAX_CONDITIONS: usize = 100_000;

thread_local! {
    /// Conditions read of the filter at hand; lists stand within lists, so that none of them knows all.
    static N_CONDITIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counted(Condition);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let n_conditions = N_CONDITIONS.get() + 1;
        if n_conditions > MAX_CONDITIONS {
            let text = format!("a filter has {MAX_CONDITIONS} conditions at most");
            return Err(D::Error::custom(text));
        }
        N_CONDITIONS.set(n_conditions);
        object(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use crate::SearchRequest;

    #[test]
    fn conditions_are_counted_over_all_lists_of_one_filter() {
        let read = |n_lists: usize, n_conditions: usize| {
            let list = format!(r#"{{"must": [{}]}}"#, vec!["{}"; n_conditions].join(","));
            let lists = vec![list; n_lists].join(",");
            let body = format!(r#"{{"query": "a", "filter": {{"should": [{lists}]}}}}"#);
            serde_json::from_str::<SearchRequest>(&body).map(drop)
        };
        for _ in 0..2 {
            assert!(read(10, 9_999).is_ok());
            let error = read(10, 10_000).unwrap_err().to_string();
            assert!(
                error.starts_with("a filter has 100000 conditions at most"),
                "{error}"
            );
        }
    }
}
