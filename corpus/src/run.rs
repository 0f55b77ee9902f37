use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::source::Source;
use crate::{CorpusError, Reason};

/// The results of a search: scored passages by query, in the order of their file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Name of the system, written into the last column.
    pub tag: String,
    queries: Vec<(String, Vec<Scored>)>,
    positions: HashMap<String, usize>,
}

/// A passage in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Id of the passage.
    pub id: String,
    /// Higher is better; never NaN in a run that was read.
    pub score: f64,
}

/// How a run is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunFormat {
    /// Told from the contents.
    #[default]
    Auto,
    /// `query Q0 passage rank score tag`; the rank is not read.
    Trec,
    /// `query passage score`.
    Score3,
    /// `query passage rank`, as MS MARCO's scorer reads: the score becomes −rank.
    Marco,
    /// `query passage rank score`; passages are put in order of rank, which file-order ties keep.
    Marco4,
}

/// A line of a run.
struct Row {
    query: String,
    passage: String,
    rank: Option<u64>,
    score: f64,
    line: u64,
}

impl Run {
    /// Makes an empty run.
    pub fn new(tag: impl Into<String>) -> Self {
        Self {
            tag: tag.into(),
            ..Self::default()
        }
    }

    /// Reads a run.
    ///
    /// # Errors
    /// Any bad line: a pair that repeats, a score that is not a number, a wrong number of fields. With
    /// [`RunFormat::Auto`], [`CorpusError::AmbiguousRun`] when a third column of three may be a rank or a score.
    pub fn read(path: &Path, format: RunFormat) -> Result<Self, CorpusError> {
        let mut source = Source::open(path, Arc::default())?;
        let mut rows: Vec<Row> = Vec::new();
        let mut tag = None;
        let mut format = format;
        let mut may_be_ranks = format == RunFormat::Auto;
        source.for_each_line(|text, line| {
            let fields: Vec<&str> = text.split_ascii_whitespace().collect();
            if format == RunFormat::Auto {
                format = match fields.len() {
                    6 => RunFormat::Trec,
                    4 => RunFormat::Marco4,
                    3 => RunFormat::Score3,
                    found => {
                        return Err(Reason::FieldCount {
                            expected: "3, 4 or 6",
                            found,
                        });
                    }
                };
            }
            if format == RunFormat::Trec && tag.is_none() {
                tag = fields.get(5).map(|tag| (*tag).to_owned());
            }
            let row = parse_row(&fields, format, line)?;
            may_be_ranks &= format == RunFormat::Score3 && fields[2].parse::<u64>().is_ok();
            rows.push(row);
            Ok(())
        })?;
        if rows.is_empty() {
            return Err(CorpusError::NoValidLine {
                path: path.to_owned(),
            });
        }
        let mut run = Self::group(tag.unwrap_or_default(), rows, path)?;
        if may_be_ranks {
            let is_ranking = |passages: &Vec<Scored>| {
                passages
                    .iter()
                    .zip(1..)
                    .all(|(p, rank)| p.score == f64::from(rank))
            };
            if !run.queries.iter().all(|(_, passages)| is_ranking(passages)) {
                return Err(CorpusError::AmbiguousRun {
                    path: path.to_owned(),
                });
            }
            for (_, passages) in &mut run.queries {
                passages
                    .iter_mut()
                    .for_each(|passage| passage.score = -passage.score);
            }
        }
        Ok(run)
    }

    /// Sets the passages of a query, and returns those it had.
    pub fn insert(
        &mut self,
        query: impl Into<String>,
        passages: Vec<Scored>,
    ) -> Option<Vec<Scored>> {
        let query = query.into();
        match self.positions.get(&query) {
            Some(&position) => Some(std::mem::replace(&mut self.queries[position].1, passages)),
            None => {
                self.positions.insert(query.clone(), self.queries.len());
                self.queries.push((query, passages));
                None
            }
        }
    }

    /// The passages of a query, in the order of the file.
    pub fn get(&self, query: &str) -> Option<&[Scored]> {
        self.positions
            .get(query)
            .map(|&position| self.queries[position].1.as_slice())
    }

    /// The queries in the order of the file, each with its passages.
    pub fn queries(&self) -> impl ExactSizeIterator<Item = (&str, &[Scored])> {
        self.queries
            .iter()
            .map(|(query, passages)| (query.as_str(), passages.as_slice()))
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// Writes the run in TREC's six columns, under a temporary name first.
    ///
    /// Within a query the order is by score as f32, descending, then by id in byte order, descending: the order in which
    /// evaluators read it, so the ranks written are the ranks evaluated. A query without passages leaves no line.
    ///
    /// # Errors
    /// [`CorpusError::UnwritableId`], [`CorpusError::UnwritableScore`] and [`CorpusError::Write`]; an older file stays.
    pub fn write(&self, path: &Path) -> Result<(), CorpusError> {
        let failed = |source| CorpusError::Write {
            path: path.to_owned(),
            source,
        };
        let tag = if self.tag.is_empty() {
            "trawl"
        } else {
            &self.tag
        };
        check_run_id(tag)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let file = tempfile::Builder::new()
            .prefix(".run")
            .suffix(".tmp")
            .tempfile_in(folder)
            .map_err(failed)?;
        let mut writer = BufWriter::new(file);
        for (query, passages) in self.queries() {
            check_run_id(query)?;
            let mut ranked: Vec<(f32, &str)> = Vec::with_capacity(passages.len());
            for Scored { id, score } in passages {
                check_run_id(id)?;
                if score.is_nan() {
                    return Err(CorpusError::UnwritableScore {
                        query: query.to_owned(),
                        id: id.clone(),
                    });
                }
                ranked.push((*score as f32, id));
            }
            ranked.sort_by(|a, b| {
                b.0.partial_cmp(&a.0)
                    .unwrap_or(Ordering::Equal)
                    .then_with(|| b.1.cmp(a.1))
            });
            for ((score, id), rank) in ranked.into_iter().zip(1..) {
                writeln!(writer, "{query} Q0 {id} {rank} {score} {tag}").map_err(failed)?;
            }
        }
        let file = writer
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        set_readable(file.as_file()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    fn group(tag: String, rows: Vec<Row>, path: &Path) -> Result<Self, CorpusError> {
        let mut run = Self::new(tag);
        let mut grouped: Vec<Vec<Row>> = Vec::new();
        for row in rows {
            match run.positions.get(&row.query) {
                Some(&position) => grouped[position].push(row),
                None => {
                    run.insert(row.query.clone(), Vec::new());
                    grouped.push(vec![row]);
                }
            }
        }
        for (position, mut rows) in grouped.into_iter().enumerate() {
            let mut lines: HashMap<&str, u64> = HashMap::with_capacity(rows.len());
            for row in &rows {
                if let Some(line) = lines.insert(&row.passage, row.line) {
                    let (query, passage) = (row.query.clone(), row.passage.clone());
                    let reason = Reason::DuplicatePair {
                        query,
                        passage,
                        line,
                    };
                    let bad_line = crate::BadLine {
                        path: path.to_owned(),
                        line: row.line,
                        reason,
                    };
                    return Err(CorpusError::BadLine(bad_line));
                }
            }
            rows.sort_by_key(|row| row.rank);
            run.queries[position].1 = rows
                .into_iter()
                .map(|row| Scored {
                    id: row.passage,
                    score: row.score,
                })
                .collect();
        }
        Ok(run)
    }
}

fn parse_row(fields: &[&str], format: RunFormat, line: u64) -> Result<Row, Reason> {
    let score = |text: &str| match text.parse::<f64>() {
        Ok(score) if !score.is_nan() => Ok(score),
        _ => Err(Reason::NotScore(text.to_owned())),
    };
    let rank = |text: &str| match text.parse::<u64>() {
        Ok(rank) if rank > 0 => Ok(rank),
        _ => Err(Reason::NotRank(text.to_owned())),
    };
    let (passage, rank, score) = match (format, fields) {
        (RunFormat::Trec, [_, _, passage, _, value, _]) => (passage, None, score(value)?),
        // Readers of TREC runs take three columns as well.
        (RunFormat::Trec | RunFormat::Score3, [_, passage, value]) => {
            (passage, None, score(value)?)
        }
        (RunFormat::Marco, [_, passage, value]) => {
            (passage, Some(rank(value)?), -(rank(value)? as f64))
        }
        (RunFormat::Marco4, [_, passage, value, scored]) => {
            (passage, Some(rank(value)?), score(scored)?)
        }
        _ => {
            let expected = match format {
                RunFormat::Auto => "3, 4 or 6",
                RunFormat::Trec => "6 or 3",
                RunFormat::Score3 | RunFormat::Marco => "3",
                RunFormat::Marco4 => "4",
            };
            return Err(Reason::FieldCount {
                expected,
                found: fields.len(),
            });
        }
    };
    Ok(Row {
        query: fields[0].to_owned(),
        passage: (*passage).to_owned(),
        rank,
        score,
        line,
    })
}

/// Refuses an id that [`Run::write`] would refuse.
///
/// # Errors
/// [`CorpusError::UnwritableId`].
pub fn check_run_id(id: &str) -> Result<(), CorpusError> {
    match is_writable(id) {
        true => Ok(()),
        false => Err(CorpusError::UnwritableId { id: id.to_owned() }),
    }
}

fn is_writable(id: &str) -> bool {
    !id.is_empty() && !id.contains(|c: char| c.is_ascii_whitespace())
}

/// Refuses the id of a query that [`Run::write`] would refuse, before the query is searched.
///
/// # Errors
/// [`CorpusError::BadLine`] with [`Reason::UnwritableId`].
pub fn check_query_id(id: &str, path: &Path, line: u64) -> Result<(), CorpusError> {
    match is_writable(id) {
        true => Ok(()),
        false => Err(CorpusError::BadLine(crate::BadLine {
            path: path.to_owned(),
            line,
            reason: Reason::UnwritableId(id.to_owned()),
        })),
    }
}

/// Temporary files are for their owner alone; a result is for everybody.
fn set_readable(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// The results of a query as evaluators order them: by score as f32, descending, then by id, descending.
pub fn ranked(results: &[Scored]) -> Vec<&Scored> {
    let mut ranked: Vec<&Scored> = results.iter().collect();
    let score = |hit: &Scored| hit.score as f32 + 0.0; // −0 is 0, which a total order tells apart.
    ranked.sort_by(|a, b| score(b).total_cmp(&score(a)).then_with(|| b.id.cmp(&a.id)));
    ranked
}
