use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::source::Source;
use crate::{CorpusError, Reason};

/// Relevance judgments: a grade for a query and a passage. What is not judged has no grade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Qrels {
    queries: BTreeMap<String, BTreeMap<String, i32>>,
}

/// How judgments are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QrelsFormat {
    /// Told from the first line; where tabs make such fields of it, ids may hold spaces.
    #[default]
    Auto,
    /// `query iteration passage grade`, separated by white space; MS MARCO's are the same with tabs.
    Trec,
    /// A header `query-id corpus-id score`, which may be absent, then these three, separated by tabs.
    Beir,
    /// `query passage`, separated by a tab: every pair has grade 1.
    Pairs,
}

impl Qrels {
    /// Reads judgments.
    ///
    /// # Errors
    /// Any bad line: a pair that repeats, a grade that is not an integer, a wrong number of fields.
    pub fn read(path: &Path, format: QrelsFormat) -> Result<Self, CorpusError> {
        let mut source = Source::open(path, Arc::default())?;
        let mut qrels = Self::default();
        let mut lines: HashMap<(String, String), u64> = HashMap::new();
        let (mut format, mut is_first) = (format, true);
        source.for_each_line(|text, line| {
            if std::mem::take(&mut is_first) {
                if format == QrelsFormat::Auto {
                    format = detect_format(text);
                }
                if format == QrelsFormat::Beir && is_header(text) {
                    return Ok(());
                }
            }
            let (query, passage, grade) = parse_line(text, format)?;
            let pair = (query, passage);
            if let Some(&line) = lines.get(&pair) {
                return Err(Reason::DuplicatePair {
                    query: pair.0,
                    passage: pair.1,
                    line,
                });
            }
            lines.insert(pair.clone(), line);
            qrels.insert(pair.0, pair.1, grade);
            Ok(())
        })?;
        if qrels.queries.is_empty() {
            return Err(CorpusError::NoValidLine {
                path: path.to_owned(),
            });
        }
        Ok(qrels)
    }

    /// Sets the grade of a passage for a query, and returns the one it had.
    pub fn insert(
        &mut self,
        query: impl Into<String>,
        passage: impl Into<String>,
        grade: i32,
    ) -> Option<i32> {
        self.queries
            .entry(query.into())
            .or_default()
            .insert(passage.into(), grade)
    }

    /// The judged passages of a query, by id.
    pub fn get(&self, query: &str) -> Option<&BTreeMap<String, i32>> {
        self.queries.get(query)
    }

    /// The grade of a passage for a query.
    pub fn grade(&self, query: &str, passage: &str) -> Option<i32> {
        self.queries.get(query)?.get(passage).copied()
    }

    /// The queries in order of id, each with its judged passages.
    pub fn queries(&self) -> impl ExactSizeIterator<Item = (&str, &BTreeMap<String, i32>)> {
        self.queries
            .iter()
            .map(|(query, passages)| (query.as_str(), passages))
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }
}

fn detect_format(text: &str) -> QrelsFormat {
    if is_header(text) {
        return QrelsFormat::Beir;
    }
    let fields: Vec<&str> = text.split('\t').map(str::trim).collect();
    match fields.as_slice() {
        [_, _, _, _] => QrelsFormat::Trec,
        [_, _, grade] if grade.parse::<i32>().is_ok() => QrelsFormat::Beir,
        [query, passage] if !query.is_empty() && !passage.is_empty() => QrelsFormat::Pairs,
        _ => match text.split_ascii_whitespace().count() {
            4 => QrelsFormat::Trec,
            2 => QrelsFormat::Pairs,
            _ => QrelsFormat::Beir,
        },
    }
}

fn is_header(text: &str) -> bool {
    let first = text.split('\t').next().unwrap_or_default().trim();
    ["query-id", "query_id", "qid"].contains(&first) && text.split('\t').count() == 3
}

fn parse_line(text: &str, format: QrelsFormat) -> Result<(String, String, i32), Reason> {
    let grade = |text: &str| {
        text.trim()
            .parse::<i32>()
            .map_err(|_| Reason::NotGrade(text.trim().to_owned()))
    };
    // Fields are separated by tabs where ids may hold spaces, unless the line has none.
    let tabs_or_spaces = |expected| -> Result<Vec<&str>, Reason> {
        let fields: Vec<&str> = if text.contains('\t') {
            text.split('\t').collect()
        } else {
            text.split_ascii_whitespace().collect()
        };
        check_count(&fields, expected)?;
        Ok(fields)
    };
    match format {
        QrelsFormat::Trec => {
            let mut fields: Vec<&str> = text.split_ascii_whitespace().collect();
            if fields.len() != 4 {
                fields = text.split('\t').collect();
            }
            check_count(&fields, 4)?;
            Ok((
                fields[0].to_owned(),
                fields[2].to_owned(),
                grade(fields[3])?,
            ))
        }
        QrelsFormat::Auto | QrelsFormat::Beir => {
            let fields = tabs_or_spaces(3)?;
            Ok((unquote(fields[0]), unquote(fields[1]), grade(fields[2])?))
        }
        QrelsFormat::Pairs => {
            let fields = tabs_or_spaces(2)?;
            Ok((fields[0].to_owned(), fields[1].to_owned(), 1))
        }
    }
}

fn check_count(fields: &[&str], expected: usize) -> Result<(), Reason> {
    if fields.len() == expected {
        Ok(())
    } else {
        Err(Reason::ColumnCount {
            expected,
            found: fields.len(),
        })
    }
}

/// BEIR's writer quotes a field only if it has a quote or a separator in it.
fn unquote(field: &str) -> String {
    match field
        .strip_prefix('"')
        .and_then(|field| field.strip_suffix('"'))
    {
        Some(field) => field.replace("\"\"", "\""),
        None => field.to_owned(),
    }
}
