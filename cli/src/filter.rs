//! Filters of the command line: `lang=en year>=2020`, or the JSON of the HTTP API.

use corpus::{FieldKind, Schema};
use retriever::{Bounds, Condition, Filter, FilterLimits, Retriever, Test};
use serde_json::Value;
use store::SelectError;

use crate::failure::Failure;

const OPERATORS: [&str; 6] = ["!=", ">=", "<=", "=", ">", "<"];

/// Reads the expressions, all of which hold, and checks each against the fields of the collection.
pub fn resolve(expressions: &[String], retriever: &Retriever) -> anyhow::Result<Option<Filter>> {
    let mut whole: Option<Filter> = None;
    for expression in expressions {
        let refused = |text: String| Failure::usage(format!("--filter '{expression}': {text}"));
        let is_json = expression.trim_start().starts_with('{');
        let filter = match is_json {
            true => of_json(expression),
            false => of_terms(expression, retriever.schema()),
        };
        let filter = filter.map_err(refused)?;
        let fits = filter
            .check(&FilterLimits::default())
            .map_err(SelectError::Filter);
        let fits = fits.and_then(|()| retriever.store().select(&filter, retriever.schema()));
        match fits {
            // In the short form the place says nothing that the field does not.
            Err(SelectError::Filter(error)) if !is_json => {
                return Err(refused(error.fault.to_string()).into());
            }
            Err(SelectError::Filter(error)) => return Err(refused(error.to_string()).into()),
            Err(SelectError::Store(error)) => return Err(error.into()),
            Ok(_) => {}
        }
        whole = Some(match whole {
            Some(whole) => whole.and(filter),
            None => filter,
        });
    }
    Ok(whole)
}

fn of_json(text: &str) -> Result<Filter, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let filter: openapi::Filter =
        openapi::object(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    server::read_filter(filter, "").map_err(|faults| {
        let texts = faults
            .iter()
            .map(|fault| format!("{} {}", fault.pointer, fault.message));
        texts.collect::<Vec<_>>().join("; ")
    })
}

/// Reads terms such as `lang=en`, all of which hold; `!=` excludes passages with the value.
fn of_terms(text: &str, schema: &Schema) -> Result<Filter, String> {
    let mut filter = Filter::default();
    let mut rest = text.trim_start();
    if rest.is_empty() {
        return Err("is empty, expected terms such as `lang=en`".to_owned());
    }
    while !rest.is_empty() {
        let (key, after_key) = word(rest, &['=', '!', '<', '>'])?;
        let after_key = after_key.trim_start();
        let operator = OPERATORS
            .iter()
            .find(|operator| after_key.starts_with(**operator));
        let Some(operator) = operator else {
            let text = format!("expected `=`, `!=`, `<`, `<=`, `>` or `>=` after `{key}`");
            return Err(text);
        };
        let after_operator = after_key[operator.len()..].trim_start();
        if after_operator.starts_with('=') {
            return Err(format!("`{key}{operator}=`: there is no such operator"));
        }
        if after_operator.is_empty() {
            return Err(format!("expected a value after `{key}{operator}`"));
        }
        let (value, after_value) = word(after_operator, &[])?;
        let value = typed(&key, value, schema);
        let bounds = Bounds::default();
        let test = match *operator {
            "=" | "!=" => Test::Match(value),
            ">" => Test::Range(Bounds {
                gt: Some(value),
                ..bounds
            }),
            ">=" => Test::Range(Bounds {
                gte: Some(value),
                ..bounds
            }),
            "<" => Test::Range(Bounds {
                lt: Some(value),
                ..bounds
            }),
            _ => Test::Range(Bounds {
                lte: Some(value),
                ..bounds
            }),
        };
        let list = if *operator == "!=" {
            &mut filter.must_not
        } else {
            &mut filter.must
        };
        list.push(Condition::Field { key, test });
        rest = after_value.trim_start();
    }
    Ok(filter)
}

/// Takes a word, in double quotes or up to a space or one of `ends`; returns it and what follows.
fn word<'a>(text: &'a str, ends: &[char]) -> Result<(String, &'a str), String> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (word, rest) = quoted
            .split_once('"')
            .ok_or_else(|| format!("a quote is not closed: {text}"))?;
        return Ok((word.to_owned(), rest));
    }
    let end = text.find(|c: char| c.is_whitespace() || ends.contains(&c));
    match text.split_at(end.unwrap_or(text.len())) {
        ("", rest) => Err(format!("expected the name of a field before `{rest}`")),
        (word, rest) => Ok((word.to_owned(), rest)),
    }
}

/// The value as the field has it; what cannot be read as such stays a text, which the field then refuses.
fn typed(key: &str, text: String, schema: &Schema) -> Value {
    let kind = schema.fields.get(key).map(|field| field.kind);
    let read: Option<Value> = match kind {
        Some(FieldKind::Integer | FieldKind::Float | FieldKind::Boolean) => {
            serde_json::from_str(&text).ok()
        }
        _ => None,
    };
    read.filter(|value: &Value| value.is_number() || value.is_boolean())
        .unwrap_or(Value::String(text))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        let fields = json!({"lang": "keyword", "year": "integer", "w": "float", "day": "date", "open": "boolean", "a b": "keyword"});
        serde_json::from_value(json!({ "fields": fields })).unwrap()
    }

    fn term(key: &str, test: Test) -> Condition {
        let key = key.to_owned();
        Condition::Field { key, test }
    }

    #[test]
    fn terms_are_conditions_of_the_fields_kinds() {
        let text = r#" lang=en  year>=2020 w < 2.5 day<=2026-11-20 open=true "a b"="x = y" lang!=2020 year>-3"#;
        let bounds = Bounds::default;
        let expected = Filter {
            must: vec![
                term("lang", Test::Match(json!("en"))),
                term(
                    "year",
                    Test::Range(Bounds {
                        gte: Some(json!(2020)),
                        ..bounds()
                    }),
                ),
                term(
                    "w",
                    Test::Range(Bounds {
                        lt: Some(json!(2.5)),
                        ..bounds()
                    }),
                ),
                term(
                    "day",
                    Test::Range(Bounds {
                        lte: Some(json!("2026-11-20")),
                        ..bounds()
                    }),
                ),
                term("open", Test::Match(json!(true))),
                term("a b", Test::Match(json!("x = y"))),
                term(
                    "year",
                    Test::Range(Bounds {
                        gt: Some(json!(-3)),
                        ..bounds()
                    }),
                ),
            ],
            must_not: vec![term("lang", Test::Match(json!("2020")))],
            ..Filter::default()
        };
        assert_eq!(of_terms(text, &schema()), Ok(expected));
        let soon = of_terms("year=soon", &schema()).unwrap();
        assert_eq!(soon.must, [term("year", Test::Match(json!("soon")))]);
    }

    #[test]
    fn what_is_no_expression_is_named() {
        for (text, expected) in [
            (" ", "is empty"),
            (
                "lang",
                "expected `=`, `!=`, `<`, `<=`, `>` or `>=` after `lang`",
            ),
            ("lang en", "after `lang`"),
            ("lang=", "expected a value after `lang=`"),
            ("=en", "expected the name of a field before `=en`"),
            ("lang==en", "there is no such operator"),
            ("lang=\"en", "a quote is not closed"),
            ("lang!en", "after `lang`"),
        ] {
            let error = of_terms(text, &schema()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (text, expected) in [
            ("{", "EOF"),
            ("{} x", "trailing"),
            (r#"{"mst": []}"#, "unknown field `mst`"),
            (r#"{"must": [{"key": "a"}]}"#, "/must/0 tests nothing"),
        ] {
            let error = of_json(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert_eq!(of_json(" {} "), Ok(Filter::default()));
    }

    #[test]
    fn any_text_is_conditions_or_an_error() {
        let pieces = [
            "lang", "year", "w", "a b", "=", "!=", ">=", "<", ">", "!", "\"", " ", "é", "2020",
            "-", "1e999", "{", "}", "\"must\"", "\"key\"", ":", "[", "]", ",", "null", "\u{3000}",
        ];
        let mut random = StdRng::seed_from_u64(11);
        let mut n_read = 0;
        for _ in 0..50_000 {
            let n_pieces = random.random_range(0..9);
            let piece = |_| pieces[random.random_range(0..pieces.len())];
            let text: String = (0..n_pieces).map(piece).collect();
            match of_terms(&text, &schema()) {
                Ok(filter) => {
                    let n_terms = filter.must.len() + filter.must_not.len();
                    let n_operators = text.matches(['=', '<', '>']).count();
                    assert!(n_terms > 0 && n_terms <= n_operators, "{text}");
                    n_read += 1;
                }
                Err(error) => assert!(!error.is_empty(), "{text}"),
            }
            if let Err(error) = of_json(&format!("{{{text}")) {
                assert!(!error.is_empty(), "{text}");
            }
        }
        assert!(n_read > 500, "{n_read}");
    }
}
