//! Rows of columns, as sentence-transformers reads them: anchor, positive, negatives, scores.
//!
//! Columns are told by their order; only the one of scores is by its name. A table's first row names its columns.

use std::fmt;
use std::path::Path;

use corpus::Rows;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::line::{finish, from_json, unnamed};
use super::{Content, DataError, Example};

/// Names of the column of scores.
const SCORES: [&str; 4] = ["label", "labels", "score", "scores"];

/// Reads the examples of a table.
pub(super) struct ColumnReader {
    rows: Rows,
    names: Vec<String>,
}

/// A row: the names of its columns and what they hold, in their order.
struct Row(Vec<(String, Value)>);

impl ColumnReader {
    /// Opens a table, which the name says a file is (`.csv`, `.tsv`, before `.gz` or `.zst`); none for other files.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, DataError> {
        let mut rows = match table_ending(path) {
            Some("csv") => Rows::open_csv(path)?,
            Some(_) => Rows::open_tsv(path)?,
            None => return Ok(None),
        };
        let names = match rows.next_row()? {
            Some(Ok(names)) => names,
            Some(Err(reason)) => return Err(bad_row(&rows, reason.to_string())),
            None => Vec::new(),
        };
        Ok(Some(Self { rows, names }))
    }

    pub(super) fn next_example(&mut self) -> Result<Option<Result<Example, DataError>>, DataError> {
        let Some(row) = self.rows.next_row()? else {
            return Ok(None);
        };
        let example = row
            .map_err(|reason| reason.to_string())
            .and_then(|cells| Row::of_cells(&self.names, cells))
            .and_then(Row::into_example)
            .and_then(finish);
        Ok(Some(example.map_err(|reason| bad_row(&self.rows, reason))))
    }
}

/// Whether the name says that a file is a table.
pub(super) fn is_table(path: &Path) -> bool {
    table_ending(path).is_some()
}

/// `csv` or `tsv`, with which the name of a table ends, before `.gz` or `.zst`.
fn table_ending(path: &Path) -> Option<&'static str> {
    let name = path.to_string_lossy().to_ascii_lowercase();
    let stem = [".gz", ".zst"]
        .iter()
        .find_map(|end| name.strip_suffix(end));
    let (_, ending) = stem.unwrap_or(&name).rsplit_once('.')?;
    ["csv", "tsv"].into_iter().find(|known| *known == ending)
}

fn bad_row(rows: &Rows, reason: String) -> DataError {
    DataError::Line {
        path: rows.path().to_owned(),
        line: rows.line(),
        reason,
    }
}

/// Makes an example of a JSON object; its keys are the columns.
pub(super) fn parse(line: &str) -> Result<Example, String> {
    from_json::<Row>(line)?.into_example()
}

impl Row {
    fn of_cells(names: &[String], cells: Vec<String>) -> Result<Self, String> {
        if names.len() != cells.len() {
            let (n_names, n_cells) = (names.len(), cells.len());
            return Err(format!("{n_cells} cells in a table of {n_names} columns"));
        }
        let value = |(name, cell): (&String, String)| {
            // Scores are a number, or several as in JSON.
            let scores = SCORES.contains(&name.as_str());
            let scores = scores.then(|| serde_json::from_str(&cell).ok()).flatten();
            (name.clone(), scores.unwrap_or(Value::String(cell)))
        };
        Ok(Self(names.iter().zip(cells).map(value).collect()))
    }

    fn into_example(self) -> Result<Example, String> {
        let (mut texts, mut scores) = (Vec::new(), None);
        for (name, value) in self.0 {
            match value {
                value if SCORES.contains(&name.as_str()) => scores = Some(numbers(&name, &value)?),
                Value::String(text) => texts.push(Content::Text(text)),
                _ => return Err(format!("column `{name}` is no text")),
            }
        }
        if texts.len() < 2 {
            return Err("a row has at least an anchor and a positive".to_owned());
        }
        let mut passages = texts.split_off(1);
        let scores = passage_scores(passages.len(), scores)?;
        let mut scored = passages.drain(..).zip(scores);
        let mut candidates = scored.by_ref().map(|(text, score)| unnamed(text, score));
        let positives = candidates.by_ref().take(1).collect();
        Ok(Example {
            query_id: String::new(),
            query: texts.remove(0),
            positives,
            negatives: candidates.collect(),
        })
    }
}

/// The score of each passage from those of a row: one for each passage, or the teacher's margin of the positive over each
/// negative; then the positive gets 0.
fn passage_scores(n_passages: usize, scores: Option<Vec<f32>>) -> Result<Vec<Option<f32>>, String> {
    match scores {
        None => Ok(vec![None; n_passages]),
        Some(scores) if n_passages == 1 && scores.len() == 1 && scores[0] <= 0.0 => Err(format!(
            "a pair with the score {} has no positive",
            scores[0]
        )),
        Some(scores) if scores.len() == n_passages => Ok(scores.into_iter().map(Some).collect()),
        Some(margins) if margins.len() + 1 == n_passages => {
            let negatives = margins.into_iter().map(|margin| Some(-margin));
            Ok(std::iter::once(Some(0.0)).chain(negatives).collect())
        }
        Some(scores) => Err(format!("{} scores for {n_passages} passages", scores.len())),
    }
}

fn numbers(name: &str, value: &Value) -> Result<Vec<f32>, String> {
    let values = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    // Beyond 32 bits a score would be infinite, and a softmax over it no number.
    let number = |value: &Value| {
        let number = value.as_f64().map(|number| number as f32);
        number.filter(|number| number.is_finite())
    };
    let numbers: Option<Vec<f32>> = values.iter().map(number).collect();
    numbers.ok_or_else(|| format!("column `{name}` is no number of 32 bits, nor a list of them"))
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RowVisitor;

        impl<'de> Visitor<'de> for RowVisitor {
            type Value = Row;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of columns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Row, A::Error> {
                let mut columns = Vec::new();
                while let Some(column) = access.next_entry()? {
                    columns.push(column);
                }
                Ok(Row(columns))
            }
        }

        deserializer.deserialize_map(RowVisitor)
    }
}
