use std::path::PathBuf;

use corpus::Lines;

use super::{TeacherLine, TeacherText};
use crate::data::{DataError, from_json};

/// What was written about the passages of a corpus, read beside it: lines are in the order of the passages, of which any
/// may have none.
pub(super) struct TeacherLines {
    paths: std::vec::IntoIter<PathBuf>,
    kind: TeacherText,
    skip_bad_lines: bool,
    file: Option<Lines>,
    /// The line to be used next, with its file and number.
    ahead: Option<(PathBuf, u64, String, Vec<String>)>,
    pub(super) n_bad: u64,
    pub(super) first_bad: Option<String>,
}

impl TeacherLines {
    pub(super) fn open(
        paths: &[PathBuf],
        kind: TeacherText,
        skip_bad_lines: bool,
    ) -> Result<Self, DataError> {
        let mut lines = Self {
            paths: Vec::from(paths).into_iter(),
            kind,
            skip_bad_lines,
            file: None,
            ahead: None,
            n_bad: 0,
            first_bad: None,
        };
        lines.read()?;
        Ok(lines)
    }

    /// Takes what the line of a passage has; none where the next line is another's.
    pub(super) fn take(&mut self, passage: &str) -> Result<Vec<String>, DataError> {
        match self.ahead.take_if(|(_, _, id, _)| id.as_str() == passage) {
            Some((_, _, _, texts)) => {
                self.read()?;
                Ok(texts)
            }
            None => Ok(Vec::new()),
        }
    }

    /// Refuses a line that no passage has taken.
    pub(super) fn finish(&self) -> Result<(), DataError> {
        match &self.ahead {
            None => Ok(()),
            Some((path, line, id, _)) => Err(DataError::Line {
                path: path.clone(),
                line: *line,
                reason: format!("passage `{id}` is not in the corpus, or not in this order"),
            }),
        }
    }

    fn read(&mut self) -> Result<(), DataError> {
        loop {
            let Some(file) = &mut self.file else {
                let Some(path) = self.paths.next() else {
                    return Ok(());
                };
                self.file = Some(Lines::open(&path)?);
                continue;
            };
            let path = file.path().to_owned();
            let Some((line, text)) = file.next_line_or_reason()? else {
                self.file = None;
                continue;
            };
            let parsed = text
                .map_err(|reason| reason.to_string())
                .and_then(from_json)
                .and_then(|parsed: TeacherLine| Ok((parsed.id.clone(), parsed.texts(self.kind)?)));
            match parsed {
                Ok((id, texts)) => {
                    self.ahead = Some((path, line, id, texts));
                    return Ok(());
                }
                Err(reason) => {
                    let error = DataError::Line { path, line, reason };
                    if !self.skip_bad_lines {
                        return Err(error);
                    }
                    self.n_bad += 1;
                    self.first_bad.get_or_insert_with(|| error.to_string());
                }
            }
        }
    }
}
