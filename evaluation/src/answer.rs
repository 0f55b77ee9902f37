use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use corpus::{Query, Run};
use regex::Regex;
use serde_json::Value;
use unicode_normalization::UnicodeNormalization;

use crate::ranking::order;
use crate::report::EvaluationError;
use crate::{EvaluationConfig, MeasureKind, QueryReport, Report};

/// The answers to questions, by query id; a passage that has one of them in its text is right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    queries: BTreeMap<String, Vec<Vec<String>>>,
}

impl Answers {
    /// Takes the answers from the field `answers` or `answer` of queries: a string, a number, or an array of them. A query
    /// without one is left out.
    ///
    /// # Errors
    /// [`EvaluationError::NotAnAnswer`] for anything else.
    pub fn from_queries(queries: &[Query]) -> Result<Self, EvaluationError> {
        let mut answers = Self::default();
        for query in queries {
            let metadata = &query.metadata;
            let given = match metadata.get("answers").or_else(|| metadata.get("answer")) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(given)) => given.as_slice(),
                Some(given) => std::slice::from_ref(given),
            };
            let text_of = |answer: &Value| match answer {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) => Ok(number.to_string()),
                other => Err(EvaluationError::NotAnAnswer {
                    query: query.id.clone(),
                    found: other.to_string(),
                }),
            };
            let found: Vec<String> = given.iter().map(text_of).collect::<Result<_, _>>()?;
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            answers.insert(&query.id, &found);
        }
        Ok(answers)
    }

    /// Sets the answers to a query. One without a word or sign is left out, for it would be in every text.
    pub fn insert(&mut self, query: &str, answers: &[&str]) {
        let answers = answers
            .iter()
            .map(|answer| tokens(answer))
            .filter(|answer| !answer.is_empty())
            .collect();
        self.queries.insert(query.to_owned(), answers);
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// Whether a text has an answer to a query in it.
    pub fn is_answered(&self, query: &str, text: &str) -> bool {
        let answers = self
            .queries
            .get(query)
            .map(Vec::as_slice)
            .unwrap_or_default();
        has_any(&tokens(text), answers)
    }
}

/// Measures whether the first passages have an answer in their texts: top-k accuracy of open-domain question answering,
/// Karpukhin et al. 2020 (arXiv 2004.04906), §5.
///
/// Texts and answers are put into Unicode's NFD and lower case and cut into tokens: runs of letters, digits and marks,
/// and single other signs; a text has an answer if it has the answer's tokens in a row. `text_of` gives the text of a
/// passage, and is asked once for each passage and query. The measures are [`MeasureKind::Answer`] with cutoffs.
///
/// Deviation: an answer without tokens is in no text; in the authors' program it is in every one.
///
/// # Errors
/// As [`crate::evaluate`]; [`EvaluationError::UnknownPassage`] when `text_of` has none.
pub fn evaluate_answers(
    answers: &Answers,
    run: &Run,
    config: &EvaluationConfig,
    text_of: &mut dyn FnMut(&str) -> Option<String>,
) -> Result<Report, EvaluationError> {
    if let Some(&measure) = config
        .measures
        .iter()
        .find(|measure| measure.kind != MeasureKind::Answer)
    {
        return Err(EvaluationError::WrongMeasure {
            measure,
            what: "answers",
        });
    }
    let depth = config
        .measures
        .iter()
        .map(|measure| measure.cutoff.unwrap_or(usize::MAX))
        .max()
        .unwrap_or(0);
    let mut per_query = BTreeMap::new();
    for (query, answers) in &answers.queries {
        let scored = run.get(query);
        let mut first = None;
        for (passage, rank) in order(query, scored.unwrap_or_default(), config)?
            .into_iter()
            .take(depth)
            .zip(1..)
        {
            let text = text_of(passage).ok_or_else(|| EvaluationError::UnknownPassage {
                query: query.clone(),
                passage: passage.to_owned(),
            })?;
            if has_any(&tokens(&text), answers) {
                first = Some(rank);
                break;
            }
        }
        let value =
            |cutoff: Option<usize>| first.is_some_and(|rank| rank <= cutoff.unwrap_or(usize::MAX));
        let measured = config
            .measures
            .iter()
            .map(|measure| f64::from(u8::from(value(measure.cutoff))));
        let measured = QueryReport {
            is_missing: scored.is_none(),
            values: measured.collect(),
        };
        per_query.insert(query.clone(), measured);
    }
    let n_ignored = run
        .queries()
        .filter(|(query, _)| !answers.queries.contains_key(*query))
        .count();
    Ok(Report::new(config.clone(), per_query, n_ignored))
}

fn tokens(text: &str) -> Vec<String> {
    static TOKEN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]").expect("the pattern is valid")
    });
    let text: String = text.nfd().collect();
    TOKEN
        .find_iter(&text)
        .map(|token| token.as_str().to_lowercase())
        .collect()
}

fn has_any(text: &[String], answers: &[Vec<String>]) -> bool {
    // One pass over the text for all answers, which share few first tokens with it.
    let mut by_first: HashMap<&str, Vec<&[String]>> = HashMap::new();
    for answer in answers {
        by_first.entry(&answer[0]).or_default().push(answer);
    }
    (0..text.len()).any(|start| {
        let starting = by_first
            .get(text[start].as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        starting
            .iter()
            .any(|answer| text[start..].starts_with(answer))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Measure;
    use corpus::Scored;

    #[test]
    fn answers_are_found_as_whole_tokens() {
        for (answer, text, expected) in [
            ("Paris", "in PARIS, France", true),
            ("Paris", "comparison", false),
            ("New York", "the new\n York Times", true),
            ("New York", "New Jersey and York", false),
            ("caf\u{e9}", "a cafe\u{301} here", true),
            ("cafe", "a caf\u{e9} here", false),
            ("1,000", "about 1,000 of them", true),
            ("1,000", "about 1000 of them", false),
            ("U.S.", "the U.S. army", true),
            ("", "anything", false),
            (" \u{200b}", "any thing", false),
            ("東京", "東京 is a city", true),
            ("東京", "東京都", false),
            ("longer than the text", "longer", false),
        ] {
            let mut answers = Answers::default();
            answers.insert("q", &[answer]);
            assert_eq!(
                answers.is_answered("q", text),
                expected,
                "{answer:?} in {text:?}"
            );
        }
    }

    #[test]
    fn accuracy_counts_the_first_passage_with_an_answer() {
        let query = |id: &str, answers: Value| Query {
            id: id.into(),
            text: "?".into(),
            metadata: [("answers".to_owned(), answers)].into_iter().collect(),
            line: 0,
        };
        let answers = Answers::from_queries(&[
            query("q1", serde_json::json!(["no", "x"])),
            query("q2", serde_json::json!("z")),
            query("q3", serde_json::json!([])),
            query("not asked", Value::Null),
        ])
        .unwrap();
        assert_eq!(answers.len(), 3);
        let mut run = Run::new("sys");
        for id in ["q1", "q3", "other"] {
            let scored = |id: &str, score| Scored {
                id: id.into(),
                score,
            };
            run.insert(
                id,
                vec![scored("y", 2.0), scored("x", 1.0), scored("unknown", 0.0)],
            );
        }
        let config = EvaluationConfig {
            measures: Measure::parse_list("answer@1,2").unwrap(),
            ..Default::default()
        };
        let mut text_of = |id: &str| (id != "unknown").then(|| format!("text of {id}."));
        let report = evaluate_answers(&answers, &run, &config, &mut text_of).unwrap();
        assert_eq!(
            (report.n_queries, report.n_missing, report.n_ignored),
            (3, 1, 1)
        );
        assert_eq!(report.per_query["q1"].values, [0.0, 1.0]);
        assert_eq!(report.mean, [0.0, 1.0 / 3.0]);
        let deep = EvaluationConfig {
            measures: Measure::parse_list("answer@5").unwrap(),
            ..config
        };
        let error = evaluate_answers(&answers, &run, &deep, &mut text_of).unwrap_err();
        assert_eq!(
            error.to_string(),
            "passage `unknown` of query `q3` has no text"
        );
    }
}
