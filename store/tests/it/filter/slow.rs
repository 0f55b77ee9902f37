//! Random passages and filters, and the obvious evaluation of the one over the other.

use corpus::{FieldKind, parse_date};
use serde_json::{Map, Value, json};
use store::{Bounds, Condition, Filter, Test};

pub const KINDS: [(&str, FieldKind); 5] = [
    ("lang", FieldKind::Keyword),
    ("year", FieldKind::Integer),
    ("weight", FieldKind::Float),
    ("day", FieldKind::Date),
    ("open", FieldKind::Boolean),
];

/// A small generator, so that the cases are the same everywhere.
pub struct Random(pub u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    /// A value that many passages and filters share.
    fn value(&mut self, kind: FieldKind) -> Value {
        let pick = |values: &[Value], i: u64| values[i as usize % values.len()].clone();
        let i = self.below(1000);
        match kind {
            FieldKind::Keyword | FieldKind::Text => pick(
                &[json!("de"), json!("en"), json!(""), json!("é"), json!("EN")],
                i,
            ),
            FieldKind::Integer => pick(
                &[
                    json!(2019),
                    json!(2020),
                    json!(-1),
                    json!(0),
                    json!(i64::MAX),
                    json!(i64::MIN),
                ],
                i,
            ),
            FieldKind::Float => pick(
                &[
                    json!(0.0),
                    json!(-0.0),
                    json!(2.5),
                    json!(-1e300),
                    json!(2),
                    json!(5e-324),
                ],
                i,
            ),
            FieldKind::Date => pick(
                &[
                    json!("2026-11-20"),
                    json!("2026-11-20T00:00:00Z"),
                    json!("2026-11-20T01:00:00+01:00"),
                    json!("2026-11-20T00:00:00.25Z"),
                    json!("0079-08-24"),
                    json!("9999-12-31T23:59:59Z"),
                ],
                i,
            ),
            FieldKind::Boolean => json!(i.is_multiple_of(2)),
        }
    }

    pub fn metadata(&mut self) -> Value {
        let mut fields = Map::new();
        for (name, kind) in KINDS {
            let value = match self.below(10) {
                0 => continue,
                1 => Value::Null,
                2 => json!([]),
                3 => json!([null]),
                4 | 5 => json!([self.value(kind), self.value(kind), null, self.value(kind)]),
                _ => self.value(kind),
            };
            fields.insert(name.to_owned(), value);
        }
        Value::Object(fields)
    }

    pub fn filter(&mut self, depth: u64) -> Filter {
        let mut conditions = || {
            let n = [0, 0, 1, 1, 2, 3][self.below(6) as usize];
            (0..n).map(|_| self.condition(depth)).collect()
        };
        Filter {
            must: conditions(),
            should: conditions(),
            must_not: conditions(),
        }
    }

    pub fn condition(&mut self, depth: u64) -> Condition {
        if depth > 0 && self.below(4) == 0 {
            return Condition::Filter(self.filter(depth - 1));
        }
        let (key, kind) = KINDS[self.below(5) as usize];
        let n_values = self.below(4);
        let values = |random: &mut Self| -> Vec<Value> {
            (0..n_values).map(|_| random.value(kind)).collect()
        };
        let test = match self.below(7) {
            0 => Test::Match(self.value(kind)),
            1 => Test::Any(values(self)),
            2 => Test::Except(values(self)),
            3 => Test::Exists,
            4 => Test::IsEmpty,
            _ if matches!(kind, FieldKind::Keyword | FieldKind::Boolean) => Test::IsEmpty,
            _ => Test::Range(self.bounds(kind)),
        };
        let key = key.to_owned();
        Condition::Field { key, test }
    }

    fn bounds(&mut self, kind: FieldKind) -> Bounds {
        let mut bound = || match self.below(3) {
            0 if kind == FieldKind::Integer && self.below(2) == 0 => Some(
                [json!(2019.5), json!(-0.5), json!(1e300), json!(u64::MAX)][self.below(4) as usize]
                    .clone(),
            ),
            0 => Some(self.value(kind)),
            _ => None,
        };
        Bounds {
            gt: bound(),
            gte: bound(),
            lt: bound(),
            lte: bound(),
        }
    }
}

/// A value in a form that is compared as the kind says; integers and floats beside each other without rounding.
#[derive(Clone, PartialEq, PartialOrd)]
enum Plain {
    Text(String),
    Boolean(bool),
    Whole(i128),
    Real(f64),
}

fn plain(kind: FieldKind, value: &Value) -> Plain {
    match kind {
        FieldKind::Keyword | FieldKind::Text => Plain::Text(value.as_str().unwrap().to_owned()),
        FieldKind::Boolean => Plain::Boolean(value.as_bool().unwrap()),
        FieldKind::Float => Plain::Real(value.as_f64().unwrap()),
        FieldKind::Date => {
            let moment = parse_date(value.as_str().unwrap()).unwrap();
            Plain::Whole(moment.unix_timestamp_nanos() / 1000)
        }
        FieldKind::Integer => match (value.as_i64(), value.as_u64()) {
            (Some(n), _) => Plain::Whole(i128::from(n)),
            (_, Some(n)) => Plain::Whole(i128::from(n)),
            _ => Plain::Real(value.as_f64().unwrap()),
        },
    }
}

fn less(a: &Plain, b: &Plain) -> bool {
    match (a, b) {
        // The whole numbers of these tests that meet a real one are either small or at the very end.
        (Plain::Whole(a), Plain::Real(b)) => (*a as f64) < *b,
        (Plain::Real(a), Plain::Whole(b)) => *a < *b as f64,
        (a, b) => a < b,
    }
}

pub fn passes(filter: &Filter, metadata: &Map<String, Value>) -> bool {
    let holds = |condition: &Condition| match condition {
        Condition::Filter(filter) => passes(filter, metadata),
        Condition::Field { key, test } => field_holds(key, test, metadata),
    };
    filter.must.iter().all(holds)
        && (filter.should.is_empty() || filter.should.iter().any(holds))
        && !filter.must_not.iter().any(holds)
}

fn field_holds(key: &str, test: &Test, metadata: &Map<String, Value>) -> bool {
    let (_, kind) = KINDS.into_iter().find(|(name, _)| *name == key).unwrap();
    let read = |value: &Value| plain(kind, value);
    let values: Vec<Plain> = values_of(metadata, key).map(read).collect();
    match test {
        Test::Exists => !values.is_empty(),
        Test::IsEmpty => values.is_empty(),
        Test::Match(wanted) => values.contains(&read(wanted)),
        Test::Any(wanted) => wanted.iter().any(|wanted| values.contains(&read(wanted))),
        Test::Except(unwanted) => {
            let unwanted: Vec<Plain> = unwanted.iter().map(read).collect();
            values.iter().any(|value| !unwanted.contains(value))
        }
        Test::Range(Bounds { gt, gte, lt, lte }) => values.iter().any(|value| {
            let given = |bound: &Option<Value>| bound.as_ref().map(read);
            given(gt).is_none_or(|bound| less(&bound, value))
                && given(gte).is_none_or(|bound| !less(value, &bound))
                && given(lt).is_none_or(|bound| less(value, &bound))
                && given(lte).is_none_or(|bound| !less(&bound, value))
        }),
    }
}

pub fn values_of<'a>(
    metadata: &'a Map<String, Value>,
    key: &str,
) -> impl Iterator<Item = &'a Value> {
    let values = match metadata.get(key) {
        Some(Value::Array(values)) => values.as_slice(),
        Some(value) => std::slice::from_ref(value),
        None => &[],
    };
    values.iter().filter(|value| !value.is_null())
}
