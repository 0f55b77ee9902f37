use std::collections::HashMap;
use std::path::PathBuf;

use corpus::Lines;
use xxhash_rust::xxh3::xxh3_128;

use super::DataError;

/// What a teacher gave pairs of query and passage, raw.
#[derive(Debug, Default)]
pub struct Scores(HashMap<u128, f32>);

impl Scores {
    /// Reads files of scores: `query passage score`, the score in brackets or not, or TREC runs.
    ///
    /// # Errors
    /// Any file that is not there, any line that is neither, any score that is not a number.
    pub fn read(paths: &[PathBuf]) -> Result<Self, DataError> {
        let mut scores = HashMap::new();
        for path in paths {
            let mut lines = Lines::open(path)?;
            while let Some((line, text)) = lines.next_line()? {
                let bad = |reason| DataError::Line {
                    path: path.clone(),
                    line,
                    reason,
                };
                let fields: Vec<&str> = text.split_ascii_whitespace().collect();
                let (query, passage, score) = match fields.as_slice() {
                    [query, passage, score] | [query, _, passage, _, score, _] => {
                        (query, passage, score.trim_matches(['[', ']']))
                    }
                    _ => {
                        return Err(bad(format!(
                            "{} fields where 3 or 6 are expected",
                            fields.len()
                        )));
                    }
                };
                match score.parse::<f32>() {
                    Ok(number) if number.is_finite() => scores.insert(key(query, passage), number),
                    _ => return Err(bad(format!("score `{score}` is not a number"))),
                };
            }
            if scores.is_empty() {
                return Err(DataError::Empty { path: path.clone() });
            }
        }
        Ok(Self(scores))
    }

    /// The score of a pair.
    pub fn get(&self, query: &str, passage: &str) -> Option<f32> {
        self.0.get(&key(query, passage)).copied()
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key(query: &str, passage: &str) -> u128 {
    // The length keeps `ab c` from being `a bc`.
    let mut bytes = (query.len() as u64).to_le_bytes().to_vec();
    bytes.extend(query.as_bytes());
    bytes.extend(passage.as_bytes());
    xxh3_128(&bytes)
}
