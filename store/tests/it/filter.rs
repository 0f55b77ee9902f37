//! Filters and facets beside a slow evaluation over the passages' own metadata.

mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;

use corpus::{FieldKind, Passage, Schema};
use serde_json::{Value, json};
use store::{
    Added, Bitmap, Bounds, Condition, FieldFault, FieldValue, Filter, FilterLimits, SelectError,
    Store, StoreConfig, Test, View,
};

use crate::{open, passage, schema, write};
use slow::{KINDS, Random, passes, values_of};

struct World {
    store: Store,
    schema: Schema,
    passages: Vec<Passage>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(schema: Schema, metadata: impl Iterator<Item = Value>) -> Self {
        let passages: Vec<Passage> = metadata
            .enumerate()
            .map(|(i, metadata)| passage(&i.to_string(), "", "text", &metadata))
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            schema: schema.clone(),
            ..Default::default()
        };
        write(folder.path(), &config, &passages);
        Self {
            store: open(folder.path()),
            schema,
            passages,
            _folder: folder,
        }
    }

    fn random(n_passages: usize) -> Self {
        let mut random = Random(7);
        Self::new(schema(&KINDS), (0..n_passages).map(|_| random.metadata()))
    }

    fn select(&self, filter: &Filter) -> Vec<u32> {
        let selected = self.store.select(filter, &self.schema);
        selected
            .unwrap_or_else(|error| panic!("{filter:?}: {error}"))
            .iter()
            .collect()
    }

    #[track_caller]
    fn refused(&self, filter: &Filter, message: &str) {
        match self.store.select(filter, &self.schema) {
            Err(SelectError::Filter(error)) => assert_eq!(error.to_string(), message),
            other => panic!("{other:?}"),
        }
    }
}

fn field(key: &str, test: Test) -> Filter {
    let key = key.to_owned();
    Filter {
        must: vec![Condition::Field { key, test }],
        ..Filter::default()
    }
}

#[test]
fn a_filter_selects_what_a_slow_evaluation_selects() {
    let world = World::random(300);
    let mut random = Random(1);
    let mut n_partial = 0;
    for round in 0..4000 {
        // Single conditions first: where one of them fails, the message is short.
        let filter = match round {
            0..1000 => Filter {
                must: vec![random.condition(0)],
                ..Filter::default()
            },
            _ => random.filter(3),
        };
        let expected: Vec<u32> = (0..)
            .zip(&world.passages)
            .filter(|(_, passage)| passes(&filter, &passage.metadata))
            .map(|(ordinal, _)| ordinal)
            .collect();
        n_partial += usize::from((1..300).contains(&expected.len()));
        assert_eq!(world.select(&filter), expected, "{filter:?}");
    }
    assert!(
        n_partial > 1000,
        "{n_partial} filters passed some and not all"
    );
}

#[test]
fn many_values_are_looked_up_as_few_are() {
    let metadata =
        (0..500).map(|i| json!({"year": [i % 97, i % 13], "lang": format!("l{}", i % 97)}));
    let world = World::new(schema(&KINDS), metadata);
    for n in [0, 1, 3, 20, 60] {
        let wanted = |year: i64| year % 97 < 2 * n && year % 2 == 0;
        let years: Vec<Value> = (0..2 * n)
            .filter(|year| wanted(*year))
            .map(Value::from)
            .collect();
        let langs = years.iter().map(|year| json!(format!("l{year}"))).collect();
        let found = |test: Box<dyn Fn(i64) -> bool>| -> Vec<u32> {
            (0..500).filter(|&i| test(i)).map(|i| i as u32).collect()
        };
        let any = found(Box::new(move |i| wanted(i % 97) || wanted(i % 13)));
        assert_eq!(world.select(&field("year", Test::Any(years.clone()))), any);
        let other = found(Box::new(move |i| !wanted(i % 97) || !wanted(i % 13)));
        assert_eq!(world.select(&field("year", Test::Except(years))), other);
        let any = found(Box::new(move |i| wanted(i % 97)));
        assert_eq!(world.select(&field("lang", Test::Any(langs))), any);
    }
}

#[test]
fn an_empty_filter_passes_everything_and_one_that_matches_nothing_gives_nothing() {
    let world = World::random(20);
    assert_eq!(
        world.select(&Filter::default()),
        (0..20).collect::<Vec<_>>()
    );
    assert!(
        world
            .select(&field("lang", Test::Match(json!("xx"))))
            .is_empty()
    );
    assert!(
        world
            .select(&field("lang", Test::Any(Vec::new())))
            .is_empty()
    );
    let empty = World::new(schema(&KINDS), std::iter::empty());
    assert!(empty.select(&Filter::default()).is_empty());
    assert!(empty.select(&field("lang", Test::IsEmpty)).is_empty());
    // No passage has a value: there is no column.
    let bare = World::new(
        schema(&KINDS),
        [json!({}), json!({"year": null})].into_iter(),
    );
    assert_eq!(bare.select(&field("year", Test::IsEmpty)), [0, 1]);
    assert!(bare.select(&field("year", Test::Exists)).is_empty());
    let other = Test::Except(vec![json!("a")]);
    assert!(bare.select(&field("lang", other)).is_empty());
}

#[test]
fn what_a_field_cannot_be_asked_is_named_with_its_place() {
    let mut fields = schema(&KINDS);
    fields.fields.extend(
        schema(&[
            ("kept", FieldKind::Keyword),
            ("note", FieldKind::Text),
            ("a\0b", FieldKind::Keyword),
        ])
        .fields,
    );
    fields.fields.get_mut("kept").unwrap().filterable = false;
    let world = World::new(fields, std::iter::once(json!({})));
    let exists = || Test::Exists;
    world.refused(
        &field("langg", Test::Match(json!("en"))),
        "/must/0/key: there is no field `langg`, did you mean `lang`? (fields: a\0b, day, kept, lang, note, open, weight, year)",
    );
    world.refused(
        &field("kept", exists()),
        "/must/0/exists/key: field `kept` (keyword) is not filterable",
    );
    world.refused(
        &field("note", exists()),
        "/must/0/exists/key: field `note` (text) is not filterable",
    );
    world.refused(
        &field("a\0b", Test::IsEmpty),
        "/must/0/is_empty/key: field `a\0b` (keyword) is not filterable",
    );
    world.refused(
        &field("year", Test::Match(json!("2020"))),
        "/must/0/match/value: field `year` is of kind integer: expected an integer of 64 bits, found string \"2020\"",
    );
    world.refused(
        &field("year", Test::Any(vec![json!(1), json!(1.5)])),
        "/must/0/match/any/1: field `year` is of kind integer: expected an integer of 64 bits, found number 1.5",
    );
    world.refused(
        &field("open", Test::Except(vec![json!([])])),
        "/must/0/match/except/0: field `open` is of kind boolean: expected true or false, found an array",
    );
    let range = |key: &str, bound: Value| {
        let bounds = Bounds {
            lt: Some(bound),
            ..Bounds::default()
        };
        field(key, Test::Range(bounds))
    };
    world.refused(
        &range("lang", json!("m")),
        "/must/0/range: field `lang` is of kind keyword, range takes integer, float, date only",
    );
    world.refused(
        &range("day", json!("soon")),
        "/must/0/range/lt: field `day` is of kind date: expected a date (2026-11-20 or RFC 3339), found string \"soon\"",
    );
    world.refused(
        &range("weight", json!("2.5")),
        "/must/0/range/lt: field `weight` is of kind float: expected a number, found string \"2.5\"",
    );
    let nested = Filter {
        must_not: vec![Condition::Filter(Filter {
            should: field("open", exists())
                .must
                .into_iter()
                .chain(field("nix", exists()).must)
                .collect(),
            ..Filter::default()
        })],
        ..Filter::default()
    };
    let Err(SelectError::Filter(error)) = world.store.select(&nested, &world.schema) else {
        panic!("`nix` is no field");
    };
    assert_eq!(error.pointer, "/must_not/0/should/1/exists/key");
    assert!(matches!(
        error.fault,
        FieldFault::Unknown { nearest: None, .. }
    ));
    let fieldless = World::new(Schema::default(), std::iter::once(json!({})));
    fieldless.refused(
        &field("a", exists()),
        "/must/0/exists/key: there is no field `a` (the collection has no fields)",
    );
}

#[test]
fn the_size_of_a_filter_is_limited() {
    let limits = FilterLimits {
        depth: 3,
        conditions: 4,
        values: 5,
    };
    let nest = |filter: Filter| Filter {
        must: vec![
            Condition::Filter(Filter::default()),
            Condition::Filter(filter),
        ],
        ..Filter::default()
    };
    let deep = nest(nest(field("a", Test::Exists)));
    assert_eq!(deep.check(&limits), Ok(()));
    let error = nest(deep).check(&limits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/must/1/must/1/must/0: depth of the filter: 4, limit is 3"
    );
    let wide = |n: usize| Filter {
        should: vec![
            Condition::Field {
                key: "a".into(),
                test: Test::Exists
            };
            n
        ],
        ..Filter::default()
    };
    assert_eq!(wide(4).check(&limits), Ok(()));
    assert_eq!(
        wide(5).check(&limits).unwrap_err().to_string(),
        "conditions of the filter: 5, limit is 4"
    );
    let long = |n: usize| field("a", Test::Any(vec![json!(1); n]));
    assert_eq!(long(5).check(&limits), Ok(()));
    assert_eq!(
        long(6).check(&limits).unwrap_err().to_string(),
        "values of the filter: 6, limit is 5"
    );
}

#[test]
fn two_filters_become_one_that_both_pass() {
    let world = World::random(200);
    let mut random = Random(3);
    for _ in 0..300 {
        let (a, b) = (random.filter(1), random.filter(1));
        let both = world.select(&a.clone().and(b.clone()));
        let (a, b): (Bitmap, Bitmap) = (
            world.select(&a).into_iter().collect(),
            world.select(&b).into_iter().collect(),
        );
        assert_eq!(both, (a & b).iter().collect::<Vec<_>>());
    }
}

#[test]
fn facets_count_each_value_of_a_passage_once() {
    let world = World::random(300);
    let names: Vec<String> = ["lang", "year", "open"].map(str::to_owned).to_vec();
    let some: Bitmap = (0..300).filter(|ordinal| ordinal % 3 != 0).collect();
    for (passages, max_values) in [
        (None, 100),
        (Some(&some), 100),
        (Some(&some), 2),
        (Some(&Bitmap::new()), 9),
    ] {
        let facets = world
            .store
            .facets(&names, &world.schema, passages, max_values)
            .unwrap();
        for (facet, name) in facets.iter().zip(&names) {
            let mut counts: BTreeMap<String, (Value, u64)> = BTreeMap::new();
            for (ordinal, passage) in (0..).zip(&world.passages) {
                if passages.is_none_or(|passages| passages.contains(ordinal)) {
                    let mut values: Vec<&Value> = values_of(&passage.metadata, name).collect();
                    values.sort_by_key(|value| value.to_string());
                    values.dedup();
                    for value in values {
                        counts
                            .entry(value.to_string())
                            .or_insert((value.clone(), 0))
                            .1 += 1;
                    }
                }
            }
            let mut expected: Vec<(Value, u64)> = counts.into_values().collect();
            let text = |value: &Value| value.as_str().map(str::to_owned);
            expected.sort_by_key(|(value, count)| {
                (
                    std::cmp::Reverse(*count),
                    text(value),
                    value.as_i64(),
                    value.as_bool(),
                )
            });
            assert_eq!((&facet.field, facet.n_values), (name, expected.len()));
            expected.truncate(max_values);
            assert_eq!(facet.counts, expected, "{name}");
        }
    }
    for (name, message) in [
        (
            "weight",
            "/1: field `weight` is of kind float, facets takes keyword, integer, boolean only",
        ),
        (
            "lagn",
            "/1: there is no field `lagn`, did you mean `lang`? (fields: day, lang, open, weight, year)",
        ),
    ] {
        let names = ["lang".to_owned(), name.to_owned()];
        let error = world
            .store
            .facets(&names, &world.schema, None, 1)
            .unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn any_field_name_can_be_filtered_by() {
    let names = [
        "",
        "-",
        "a.b",
        "a\\.b",
        "\u{1}",
        "ordinal",
        "text",
        "naïve ✓",
    ];
    let kinds: Vec<_> = names
        .iter()
        .map(|&name| (name, FieldKind::Keyword))
        .collect();
    let metadata = (0..names.len()).map(|i| json!({names[i]: "x"}));
    let world = World::new(schema(&kinds), metadata);
    for (ordinal, name) in (0..).zip(names) {
        assert_eq!(
            world.select(&field(name, Test::Match(json!("x")))),
            [ordinal],
            "{name:?}"
        );
        assert_eq!(
            world.select(&field(name, Test::Exists)),
            [ordinal],
            "{name:?}"
        );
    }
}

#[test]
fn a_store_that_was_written_before_filters_is_filtered() {
    let folder = testkit::fixture("collection-v1/generations/20261121T042407Z-ee2d21");
    let store = open(&folder);
    let fields = schema(&[
        ("year", FieldKind::Integer),
        ("subject", FieldKind::Keyword),
    ]);
    let physics = field("subject", Test::Match(json!("physics")));
    let expected: Vec<u32> = (0..store.len())
        .filter(|&ordinal| {
            store.passage(ordinal).unwrap().metadata.get("subject") == Some(&json!("physics"))
        })
        .collect();
    assert!(!expected.is_empty());
    let found = store.select(&physics, &fields).unwrap();
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    let years = vec!["year".to_owned()];
    let facets = store.facets(&years, &fields, None, 100).unwrap();
    assert!(facets[0].counts.contains(&(json!(-1500), 1)));
}

#[test]
fn values_are_those_of_the_records_stored_or_added() {
    let mut random = Random(3);
    let records: Vec<Value> = (0..200).map(|_| random.metadata()).collect();
    let World {
        store,
        schema,
        _folder,
        ..
    } = World::new(schema(&KINDS), records[..150].iter().cloned());
    let mut view = View::new(Arc::new(store), Arc::new(schema));
    for (i, record) in (150..).zip(&records[150..]) {
        let passage = passage(&format!("{i}"), "", "text", record);
        view.add(Added {
            passage,
            part: None,
        })
        .unwrap();
    }
    let ordinals: Vec<u32> = (0..200).map(|i| i * 77 % 200).collect();
    for (name, kind) in KINDS {
        let found = view.values(name, &ordinals).unwrap();
        for (&ordinal, found) in ordinals.iter().zip(found) {
            let record = records[ordinal as usize].as_object().unwrap();
            let mut expected: Vec<FieldValue> = Vec::new();
            for value in values_of(record, name) {
                expected.push(match kind {
                    FieldKind::Keyword | FieldKind::Text => {
                        FieldValue::Text(value.as_str().unwrap().to_owned())
                    }
                    FieldKind::Integer => FieldValue::Integer(value.as_i64().unwrap()),
                    FieldKind::Float => FieldValue::Float(value.as_f64().unwrap()),
                    FieldKind::Boolean => FieldValue::Boolean(value.as_bool().unwrap()),
                    FieldKind::Date => {
                        let moment = corpus::parse_date(value.as_str().unwrap()).unwrap();
                        FieldValue::Date((moment.unix_timestamp_nanos() / 1000) as i64)
                    }
                });
            }
            for value in &found {
                assert!(expected.contains(value), "{name}: {value:?} of {record:?}");
            }
            for value in &expected {
                assert!(found.contains(value), "{name}: {value:?} of {record:?}");
            }
        }
    }
    assert!(view.values("nothing", &[0]).is_err());
}
