//! Filters and facets between the API and the retriever.

use openapi::{FieldError, Ordered};
use retriever::{Bounds, Condition, Facet, Filter, Test};
use serde_json::Value;

use crate::faults::Faults;

/// Reads a filter as it came over the network. Whether its fields are there and of the right kind is for the collection to say.
///
/// # Errors
/// Every condition that says nothing, or two things at once, with its place below `pointer`.
pub fn read_filter(filter: openapi::Filter, pointer: &str) -> Result<Filter, Vec<FieldError>> {
    let mut faults = Faults::default();
    let openapi::Filter {
        must,
        should,
        must_not,
    } = filter;
    let filter = read_lists([must, should, must_not], pointer, &mut faults);
    if faults.0.is_empty() {
        Ok(filter)
    } else {
        Err(faults.0)
    }
}

/// Reads `must`, `should` and `must_not`, leaving out what is at fault.
fn read_lists(
    [must, should, must_not]: [Vec<openapi::Condition>; 3],
    pointer: &str,
    faults: &mut Faults,
) -> Filter {
    let mut list = |name: &str, conditions: Vec<openapi::Condition>| {
        let conditions = conditions.into_iter().enumerate();
        conditions
            .filter_map(|(i, condition)| read(condition, &format!("{pointer}/{name}/{i}"), faults))
            .collect()
    };
    Filter {
        must: list("must", must),
        should: list("should", should),
        must_not: list("must_not", must_not),
    }
}

fn read(condition: openapi::Condition, pointer: &str, faults: &mut Faults) -> Option<Condition> {
    let openapi::Condition {
        key,
        r#match,
        range,
        is_empty,
        exists,
        must,
        should,
        must_not,
    } = condition;
    let is_test = key.is_some() || r#match.is_some() || range.is_some();
    let is_filter = must.is_some() || should.is_some() || must_not.is_some();
    let forms = [is_test, is_empty.is_some(), exists.is_some(), is_filter];
    match forms.into_iter().filter(|&given| given).count() {
        0 => {
            let text = "is no condition, expected `key` with `match` or `range`, `is_empty`, `exists`, or a filter";
            faults.add(pointer, "missing", text);
            return None;
        }
        1 => {}
        _ => {
            let text = "is more than one condition: a test of a `key`, `is_empty`, `exists` and a filter are one each";
            faults.add(pointer, "conflict", text);
            return None;
        }
    }
    if is_filter {
        let lists = [must, should, must_not].map(Option::unwrap_or_default);
        return Some(Condition::Filter(read_lists(lists, pointer, faults)));
    }
    let (key, test) = match (is_empty, exists) {
        (Some(field), _) => (Some(field.key), Some(Test::IsEmpty)),
        (_, Some(field)) => (Some(field.key), Some(Test::Exists)),
        _ => (key, read_test(r#match, range, pointer, faults)),
    };
    if key.is_none() {
        faults.add(&format!("{pointer}/key"), "missing", "is missing");
    }
    Some(Condition::Field {
        key: key?,
        test: test?,
    })
}

fn read_test(
    values: Option<openapi::Match>,
    range: Option<openapi::Range>,
    pointer: &str,
    faults: &mut Faults,
) -> Option<Test> {
    match (values, range) {
        (Some(openapi::Match { value, any, except }), None) => match (value, any, except) {
            (Some(value), None, None) => Some(Test::Match(value)),
            (None, Some(any), None) => Some(Test::Any(any)),
            (None, None, Some(except)) => Some(Test::Except(except)),
            (None, None, None) => {
                let text = "matches nothing, expected `value`, `any` or `except`; `is_empty` finds what has no value";
                faults.add(&format!("{pointer}/match"), "missing", text);
                None
            }
            _ => {
                let text = "has more than one of `value`, `any` and `except`";
                faults.add(&format!("{pointer}/match"), "conflict", text);
                None
            }
        },
        (None, Some(openapi::Range { gt, gte, lt, lte })) => {
            let bounds = Bounds { gt, gte, lt, lte };
            if bounds == Bounds::default() {
                let text = "has no bound, expected `gt`, `gte`, `lt` or `lte`";
                faults.add(&format!("{pointer}/range"), "missing", text);
                return None;
            }
            Some(Test::Range(bounds))
        }
        (None, None) => {
            faults.add(
                pointer,
                "missing",
                "tests nothing, expected `match` or `range`",
            );
            None
        }
        (Some(_), Some(_)) => {
            let text = "has `match` and `range`; each is a condition of its own";
            faults.add(pointer, "conflict", text);
            None
        }
    }
}

/// Facets as they go over the network: counts by value, in their order.
#[must_use]
pub fn write_facets(facets: Vec<Facet>) -> Ordered<Ordered<u64>> {
    let name = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    let facets = facets.into_iter().map(|facet| {
        let counts = facet.counts.into_iter();
        let counts = counts.map(|(value, count)| (name(value), count)).collect();
        (facet.field, Ordered(counts))
    });
    Ordered(facets.collect())
}
