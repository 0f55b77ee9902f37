//! What changes the order of an answer: boosts, a field, pins.

use openapi::HitExplanation;
use retriever::{Boost, Hit, Pin, SearchOptions, Sort, SortOrder};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// What changes the order of an answer.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RankingArgs {
    /// Add weight · f(value of a field) to scores: `FIELD:FUNCTION key=value…`, such as `published:exp_decay origin=now
    /// scale=30d weight=0.2` or `downloads:log1p weight=0.05`, or the JSON of the HTTP API; may repeat. Functions: exp_decay,
    /// gauss_decay, linear_decay (origin, scale, offset, decay), log1p, linear. `stage=rerank` adds to the reranker's scores.
    #[arg(long, value_name = "BOOST")]
    boost: Vec<String>,
    /// Order hits by a field in place of their scores.
    #[arg(long, value_name = "FIELD[:asc|desc]")]
    sort: Option<String>,
    /// Hits that `--boost` and `--sort` see (default: 1000).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rank_window: Option<u32>,
    /// Give a document a rank; may repeat.
    #[arg(long, value_name = "RANK:ID", value_parser = pin)]
    pin: Vec<Pin>,
    /// Show what each score is made of.
    #[arg(long)]
    explain: bool,
}

impl RankingArgs {
    /// Puts the order into options; whether its fields are there is for the collection to say.
    pub fn apply(&self, options: &mut SearchOptions) -> anyhow::Result<()> {
        let boosts = self.boost.iter().map(|text| {
            let boost = boost(text).and_then(|boost| {
                let is_late = boost.stage == retriever::BoostStage::Rerank;
                match is_late && options.rerank.is_none() {
                    true => Err("stage=rerank has an effect with `--rerank` only".to_owned()),
                    false => Ok(boost),
                }
            });
            boost.map_err(|error| Failure::usage(format!("--boost '{text}': {error}")))
        });
        options.boosts = boosts.collect::<Result<_, _>>()?;
        options.sort = self.sort.as_deref().map(sort);
        if let Some(window) = self.rank_window {
            options.rank_window = window as usize;
        }
        options.pins.clone_from(&self.pin);
        options.explain = self.explain;
        Ok(())
    }
}

/// Reads `FIELD:FUNCTION key=value…` or JSON.
fn boost(text: &str) -> Result<Boost, String> {
    let json = match text.trim_start().starts_with('{') {
        true => text.to_owned(),
        false => Value::Object(terms(text)?).to_string(),
    };
    let mut deserializer = serde_json::Deserializer::from_str(&json);
    let boost: openapi::Boost =
        openapi::object(&mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    server::read_boost(boost, "").map_err(|faults| {
        let texts = faults.iter().map(|fault| {
            let entry = fault.pointer.trim_start_matches('/');
            format!("{entry} {}", fault.message)
        });
        texts.collect::<Vec<_>>().join("; ")
    })
}

fn terms(text: &str) -> Result<Map<String, Value>, String> {
    let mut words = text.split_whitespace();
    let named = words.next().and_then(|word| word.rsplit_once(':'));
    let (field, function) = named.ok_or("expected FIELD:FUNCTION, then key=value")?;
    let mut entries = Map::new();
    entries.insert("field".to_owned(), field.into());
    entries.insert("function".to_owned(), function.into());
    for word in words {
        let (key, value) = word
            .split_once('=')
            .ok_or_else(|| format!("expected key=value, found `{word}`"))?;
        let number = serde_json::from_str(value).ok().filter(Value::is_number);
        let value = number.unwrap_or_else(|| value.into());
        if entries.insert(key.to_owned(), value).is_some() {
            return Err(format!("`{key}` is there twice"));
        }
    }
    Ok(entries)
}

/// Reads `FIELD`, `FIELD:asc` or `FIELD:desc`.
fn sort(text: &str) -> Sort {
    let (field, order) = match text.rsplit_once(':') {
        Some((field, "asc")) => (field, SortOrder::Asc),
        Some((field, "desc")) => (field, SortOrder::Desc),
        _ => (text, SortOrder::Asc),
    };
    let field = field.to_owned();
    Sort { field, order }
}

/// Reads `RANK:ID`.
fn pin(text: &str) -> Result<Pin, String> {
    let read = text.split_once(':').and_then(|(rank, id)| {
        let rank = rank.parse().ok().filter(|rank| *rank > 0)?;
        let id = id.to_owned();
        Some(Pin { id, rank })
    });
    read.ok_or_else(|| "expected a rank from 1 on and an id, such as 1:d42".to_owned())
}

/// What scores are made of, one line a hit.
pub fn explained<'a>(hits: impl Iterator<Item = &'a Hit>) -> String {
    let mut text = String::new();
    for hit in hits {
        let Some(explanation) = hit.explanation.clone() else {
            continue;
        };
        let HitExplanation {
            first_stage,
            rank_prior,
            boosts,
        } = server::write_explanation(explanation);
        let mut parts = Vec::new();
        if hit.pinned {
            parts.push("pinned".to_owned());
        }
        parts.extend(first_stage.map(|score| format!("first stage {score:.4}")));
        parts.extend(
            hit.scores
                .rerank
                .map(|score| format!("reranker {score:.4}")),
        );
        parts.extend(rank_prior.map(|prior| format!("rank prior {prior:.4}")));
        parts.extend(boosts.iter().map(|boost| {
            let (field, function) = (&boost.field, &boost.function);
            format!("{function} of {field} {:+.4}", boost.contribution)
        }));
        text += &format!("{}: {}\n", hit.id, parts.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use retriever::{BoostFunction, BoostStage, DecayShape};
    use serde_json::json;

    use super::*;

    #[test]
    fn terms_and_json_are_the_same_boost() {
        let expected = Boost {
            field: "a:b".to_owned(),
            function: BoostFunction::Decay {
                shape: DecayShape::Gauss,
                origin: json!("2026-11-20"),
                scale: json!("30d"),
                offset: None,
                decay: 0.25,
            },
            weight: 0.2,
            stage: BoostStage::Rerank,
        };
        let terms =
            "a:b:gauss_decay origin=2026-11-20 scale=30d decay=0.25 weight=0.2 stage=rerank";
        let json = r#"{"field": "a:b", "function": "gauss_decay", "origin": "2026-11-20", "scale": "30d", "decay": 0.25,
            "weight": 0.2, "stage": "rerank"}"#;
        assert_eq!(boost(terms), Ok(expected.clone()));
        assert_eq!(boost(json), Ok(expected));
        for (text, error) in [
            ("year", "expected FIELD:FUNCTION"),
            ("year:log1p weight", "expected key=value"),
            ("year:log1p weight=1 weight=2", "`weight` is there twice"),
            ("year:log2", "unknown variant `log2`"),
            ("year:log1p wieght=2", "unknown field `wieght`"),
            ("year:exp_decay origin=3", "scale is missing"),
            (
                "year:linear origin=3",
                "origin has an effect with a decay only",
            ),
        ] {
            let found = boost(text).unwrap_err();
            assert!(found.contains(error), "{text}: {found}");
        }
    }

    #[test]
    fn pins_and_orders_are_read() {
        let read = |id: &str, rank| {
            Ok(Pin {
                id: id.to_owned(),
                rank,
            })
        };
        assert_eq!(pin("3:a:b"), read("a:b", 3));
        for text in ["a", "0:a", "a:1", ""] {
            assert!(pin(text).is_err(), "{text}");
        }
        for (text, field, order) in [
            ("year", "year", SortOrder::Asc),
            ("year:desc", "year", SortOrder::Desc),
            ("a:b", "a:b", SortOrder::Asc),
            ("a:b:asc", "a:b", SortOrder::Asc),
        ] {
            let field = field.to_owned();
            assert_eq!(sort(text), Sort { field, order });
        }
    }
}
