use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use corpus::{FieldKind, Schema};
use serde_json::{Map, Number, Value};
use tantivy::columnar::MonotonicallyMappableToU64;
use tantivy::tokenizer::MAX_TOKEN_LEN;

use crate::filter::{Bounds, Condition, FieldFault, Filter, FilterError, Test};

/// A [`Filter`] in the terms of the fields it names.
#[derive(Debug)]
pub(crate) enum Predicate {
    All(Vec<Predicate>),
    Any(Vec<Predicate>),
    Not(Box<Predicate>),
    /// The field has a value among these.
    Has {
        field: String,
        values: Values,
    },
}

/// A set of values. A column holds numbers of 64 bits without sign in the order of the values they stand for.
#[derive(Debug, PartialEq)]
pub(crate) enum Values {
    /// Texts; the numbers of a column that stand for them differ by segment.
    Keywords(BTreeSet<String>),
    /// All texts but these.
    OtherKeywords(BTreeSet<String>),
    /// Numbers in these ranges, which are in ascending order and apart.
    Numbers(Vec<RangeInclusive<u64>>),
}

impl Values {
    const ALL: RangeInclusive<u64> = 0..=u64::MAX;
}

/// The values of a field in one record, each once, as its column has them.
#[derive(Default)]
pub(crate) struct FieldValues<'a> {
    pub texts: BTreeSet<&'a str>,
    pub numbers: BTreeSet<u64>,
}

impl<'a> FieldValues<'a> {
    fn add(&mut self, kind: FieldKind, value: &'a Value) {
        match (kind, value) {
            (_, Value::Array(values)) => values.iter().for_each(|value| self.add(kind, value)),
            // Not in a column: no filter could match longer terms.
            (FieldKind::Keyword, Value::String(text)) if text.len() > MAX_TOKEN_LEN => {}
            (FieldKind::Keyword, Value::String(text)) => {
                self.texts.insert(text);
            }
            (FieldKind::Integer, value) => {
                self.numbers.extend(value.as_i64().map(|n| n.to_u64()));
            }
            (FieldKind::Float, value) => {
                self.numbers.extend(value.as_f64().map(|x| x.to_u64()));
            }
            (FieldKind::Boolean, value) => {
                self.numbers.extend(value.as_bool().map(|b| b.to_u64()));
            }
            (FieldKind::Date, Value::String(text)) => {
                self.numbers
                    .extend(micros(text).map(|moment| moment.to_u64()));
            }
            _ => {}
        }
    }
}

impl Predicate {
    /// Whether it holds for a record that is not in the index.
    pub fn holds(&self, metadata: &Map<String, Value>, schema: &Schema) -> bool {
        match self {
            Self::All(predicates) => predicates.iter().all(|p| p.holds(metadata, schema)),
            Self::Any(predicates) => predicates.iter().any(|p| p.holds(metadata, schema)),
            Self::Not(unwanted) => !unwanted.holds(metadata, schema),
            Self::Has { field, values } => {
                let Ok(field) = filterable(field, schema) else {
                    return false;
                };
                let found = field.values(metadata);
                match values {
                    Values::Keywords(texts) => found.texts.iter().any(|text| texts.contains(*text)),
                    Values::OtherKeywords(texts) => {
                        found.texts.iter().any(|text| !texts.contains(*text))
                    }
                    Values::Numbers(_) if field.kind == FieldKind::Keyword => {
                        !found.texts.is_empty()
                    }
                    Values::Numbers(ranges) => {
                        let within = |n: &u64| ranges.iter().any(|range| range.contains(n));
                        found.numbers.iter().any(within)
                    }
                }
            }
        }
    }
}

const ORDERED: &[FieldKind] = &[FieldKind::Integer, FieldKind::Float, FieldKind::Date];

/// Resolves a filter against the fields of a collection.
pub(crate) fn resolve(
    filter: &Filter,
    schema: &Schema,
    pointer: &str,
) -> Result<Predicate, FilterError> {
    let resolved = |list: &str, conditions: &[Condition]| -> Result<Vec<Predicate>, FilterError> {
        let conditions = conditions.iter().enumerate();
        conditions
            .map(|(i, condition)| {
                resolve_condition(condition, schema, &format!("{pointer}/{list}/{i}"))
            })
            .collect()
    };
    let mut all = resolved("must", &filter.must)?;
    if !filter.should.is_empty() {
        all.push(Predicate::Any(resolved("should", &filter.should)?));
    }
    for unwanted in resolved("must_not", &filter.must_not)? {
        all.push(Predicate::Not(Box::new(unwanted)));
    }
    Ok(Predicate::All(all))
}

fn resolve_condition(
    condition: &Condition,
    schema: &Schema,
    pointer: &str,
) -> Result<Predicate, FilterError> {
    let (key, test) = match condition {
        Condition::Filter(filter) => return resolve(filter, schema, pointer),
        Condition::Field { key, test } => (key, test),
    };
    let key_pointer = match test {
        Test::Exists => format!("{pointer}/exists/key"),
        Test::IsEmpty => format!("{pointer}/is_empty/key"),
        _ => format!("{pointer}/key"),
    };
    let at = |place: &str| {
        let pointer = format!("{pointer}/{place}");
        move |fault| FilterError { pointer, fault }
    };
    let field = filterable(key, schema).map_err(|fault| FilterError {
        pointer: key_pointer,
        fault,
    })?;
    let points = |list: &str, values: &[Value]| -> Result<Values, FilterError> {
        let values = values.iter().enumerate();
        let points: Result<Vec<Value>, FilterError> = values
            .map(|(i, value)| {
                let checked = field.check(value).map(|()| value.clone());
                checked.map_err(at(&format!("match/{list}/{i}")))
            })
            .collect();
        Ok(field.points(&points?))
    };
    let values = match test {
        Test::Match(value) => {
            field.check(value).map_err(at("match/value"))?;
            field.points(std::slice::from_ref(value))
        }
        Test::Any(values) => points("any", values)?,
        Test::Except(values) => outside(points("except", values)?),
        Test::Range(bounds) => Values::Numbers(field.range(bounds, &at)?),
        Test::Exists | Test::IsEmpty => Values::Numbers(vec![Values::ALL]),
    };
    let has = Predicate::Has {
        field: key.clone(),
        values,
    };
    Ok(match test {
        Test::IsEmpty => Predicate::Not(Box::new(has)),
        _ => has,
    })
}

/// A field whose values are in a column.
pub(crate) struct IndexedField<'a> {
    name: &'a str,
    pub(crate) kind: FieldKind,
}

/// Finds a field that filters can name.
pub(crate) fn filterable<'a>(
    name: &'a str,
    schema: &Schema,
) -> Result<IndexedField<'a>, FieldFault> {
    let Some(field) = schema.fields.get(name) else {
        let known: Vec<String> = schema.fields.keys().cloned().collect();
        let like = |known: &&String| strsim::jaro_winkler(name, known);
        let nearest = known.iter().max_by(|a, b| like(a).total_cmp(&like(b)));
        return Err(FieldFault::Unknown {
            field: name.to_owned(),
            nearest: nearest.filter(|known| like(known) > 0.75).cloned(),
            known,
        });
    };
    let kind = field.kind;
    // Text is indexed by its words and has no column; tantivy makes none for a name with a zero byte.
    if !field.filterable || kind == FieldKind::Text || name.contains('\0') {
        let field = name.to_owned();
        return Err(FieldFault::NotFilterable { field, kind });
    }
    Ok(IndexedField { name, kind })
}

impl<'a> IndexedField<'a> {
    pub(crate) fn name(&self) -> &'a str {
        self.name
    }

    /// Its values in a record.
    pub(crate) fn values<'v>(&self, metadata: &'v Map<String, Value>) -> FieldValues<'v> {
        let mut values = FieldValues::default();
        if let Some(value) = metadata.get(self.name) {
            values.add(self.kind, value);
        }
        values
    }

    /// Refuses a value that no value of the field could equal.
    fn check(&self, value: &Value) -> Result<(), FieldFault> {
        let fits = match self.kind {
            FieldKind::Keyword => value.is_string(),
            FieldKind::Boolean => value.is_boolean(),
            FieldKind::Integer => value.is_i64(),
            FieldKind::Float => value.is_number(),
            FieldKind::Date => value.as_str().is_some_and(|text| micros(text).is_some()),
            FieldKind::Text => false,
        };
        if fits {
            return Ok(());
        }
        let expected = match self.kind {
            FieldKind::Keyword | FieldKind::Text => "a string",
            FieldKind::Boolean => "true or false",
            FieldKind::Integer => "an integer of 64 bits",
            FieldKind::Float => "a number",
            FieldKind::Date => "a date (2026-11-20 or RFC 3339)",
        };
        Err(self.mismatch(expected, value))
    }

    fn mismatch(&self, expected: &'static str, value: &Value) -> FieldFault {
        FieldFault::value(self.name, self.kind, expected, value)
    }

    /// The set of checked values.
    fn points(&self, values: &[Value]) -> Values {
        if self.kind == FieldKind::Keyword {
            let texts = values.iter().filter_map(|value| value.as_str());
            return Values::Keywords(texts.map(str::to_owned).collect());
        }
        let equal = |value: &Value| match (self.kind, value) {
            (FieldKind::Boolean, Value::Bool(value)) => Some(point(value.to_u64())),
            (FieldKind::Integer, value) => Some(point(value.as_i64()?.to_u64())),
            (FieldKind::Date, Value::String(text)) => Some(point(micros(text)?.to_u64())),
            (FieldKind::Float, value) => {
                let value = value.as_f64()?;
                Some(at_least(value).to_u64()..=at_most(value).to_u64())
            }
            _ => None,
        };
        Values::Numbers(merged(values.iter().filter_map(equal).collect()))
    }

    /// The numbers within all bounds given.
    fn range<E: FnOnce(FieldFault) -> FilterError>(
        &self,
        bounds: &Bounds,
        at: &impl Fn(&str) -> E,
    ) -> Result<Vec<RangeInclusive<u64>>, FilterError> {
        if !ORDERED.contains(&self.kind) {
            return Err(at("range")(FieldFault::Test {
                field: self.name.to_owned(),
                kind: self.kind,
                test: "range",
                kinds: ORDERED,
            }));
        }
        let (mut least, mut most) = Values::ALL.into_inner();
        for (name, value) in bounds.given() {
            let side = self.side(name, value);
            let side = side.map_err(at(&format!("range/{name}")))?;
            least = least.max(*side.start());
            most = most.min(*side.end());
        }
        Ok(merged(vec![least..=most]))
    }

    /// The numbers on the right side of one bound; the start is behind the end where there are none.
    fn side(&self, name: &str, value: &Value) -> Result<RangeInclusive<u64>, FieldFault> {
        match (self.kind, value) {
            (FieldKind::Integer, Value::Number(number)) => {
                let (floor, ceil) = neighbors(number);
                Ok(whole_side(name, floor, ceil))
            }
            (FieldKind::Float, Value::Number(number)) => {
                let x = number.as_f64().unwrap_or(f64::NAN);
                let (least, most) = match name {
                    "gt" => (x.next_up(), f64::INFINITY),
                    "gte" => (at_least(x), f64::INFINITY),
                    "lt" => (f64::NEG_INFINITY, x.next_down()),
                    _ => (f64::NEG_INFINITY, at_most(x)),
                };
                Ok(least.to_u64()..=most.to_u64())
            }
            (FieldKind::Date, _) => {
                self.check(value)?;
                let moment = value.as_str().and_then(micros).map_or(0, i128::from);
                Ok(whole_side(name, moment, moment))
            }
            _ => Err(self.mismatch("a number", value)),
        }
    }
}

/// A day or moment in microseconds since 1970, the unit in which dates are indexed and compared.
pub(crate) fn micros(text: &str) -> Option<i64> {
    let moment = corpus::parse_date(text)?;
    i64::try_from(moment.unix_timestamp_nanos().div_euclid(1000)).ok()
}

/// The smallest number equal to `x`: zero has two signs, and a column tells them apart.
fn at_least(x: f64) -> f64 {
    if x == 0.0 { -0.0 } else { x }
}

/// The greatest number equal to `x`.
fn at_most(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x }
}

/// The greatest integer that is not above a number, and the smallest that is not below it.
fn neighbors(number: &Number) -> (i128, i128) {
    match (number.as_i64(), number.as_u64(), number.as_f64()) {
        (Some(n), _, _) => (i128::from(n), i128::from(n)),
        (_, Some(n), _) => (i128::from(n), i128::from(n)),
        (_, _, x) => {
            let x = x.unwrap_or(f64::NAN);
            (x.floor() as i128, x.ceil() as i128)
        }
    }
}

fn whole_side(name: &str, floor: i128, ceil: i128) -> RangeInclusive<u64> {
    let (min, max) = (i128::from(i64::MIN), i128::from(i64::MAX));
    let (least, most) = match name {
        "gt" => (floor.saturating_add(1), max),
        "gte" => (ceil, max),
        "lt" => (min, ceil.saturating_sub(1)),
        _ => (min, floor),
    };
    if least > max || most < min {
        return RangeInclusive::new(u64::MAX, 0);
    }
    let column = |n: i128| (n.clamp(min, max) as i64).to_u64();
    column(least)..=column(most)
}

/// The same numbers in ranges that are in order and apart.
fn merged(mut ranges: Vec<RangeInclusive<u64>>) -> Vec<RangeInclusive<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| *range.start());
    let mut apart: Vec<RangeInclusive<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match apart.last_mut() {
            Some(last) if *range.start() <= last.end().saturating_add(1) => {
                *last = *last.start()..=*range.end().max(last.end());
            }
            _ => apart.push(range),
        }
    }
    apart
}

/// All values but these.
fn outside(values: Values) -> Values {
    match values {
        Values::Keywords(texts) => Values::OtherKeywords(texts),
        Values::OtherKeywords(texts) => Values::Keywords(texts),
        Values::Numbers(ranges) => Values::Numbers(gaps(&ranges)),
    }
}

/// The numbers between ranges that are in order and apart.
pub(crate) fn gaps(ranges: &[RangeInclusive<u64>]) -> Vec<RangeInclusive<u64>> {
    let mut gaps = Vec::with_capacity(ranges.len() + 1);
    let mut next = Some(0);
    for range in ranges {
        if let Some(start) = next
            && start < *range.start()
        {
            gaps.push(start..=*range.start() - 1);
        }
        next = range.end().checked_add(1);
    }
    gaps.extend(next.map(|start| start..=u64::MAX));
    gaps
}

/// The range of one number.
pub(crate) fn point(number: u64) -> RangeInclusive<u64> {
    number..=number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_turned_inside_out() {
        let merge = |ranges: &[(u64, u64)]| {
            merged(
                ranges
                    .iter()
                    .map(|&(start, end)| RangeInclusive::new(start, end))
                    .collect(),
            )
        };
        assert_eq!(
            merge(&[(5, 6), (1, 2), (3, 3), (9, 8), (6, 7)]),
            [1..=3, 5..=7]
        );
        assert_eq!(merge(&[(0, u64::MAX), (3, 4)]), [Values::ALL]);
        assert_eq!(gaps(&[]), [Values::ALL]);
        assert_eq!(gaps(&[Values::ALL]), []);
        assert_eq!(gaps(&[0..=3, 7..=7]), [4..=6, 8..=u64::MAX]);
        assert_eq!(gaps(&[4..=u64::MAX]), [0..=3]);
    }
}
