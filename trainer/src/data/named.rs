use std::path::{Path, PathBuf};

use corpus::Lines;
use serde::{Deserialize, Serialize};

use super::collection::{CorpusSource, OnProgress};
use super::dataset::{DatasetBuilder, Entry};
use super::line::{Id, check_lengths, from_json};
use super::passages::Link;
use super::{Content, DataError, Dataset, PassageText};

/// Lines of examples that name their passages, and the corpus that has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSource {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// Their format.
    pub format: NamedFormat,
    /// The passages.
    pub corpus: CorpusSource,
    /// What is read of a passage.
    #[serde(default)]
    pub passage: PassageText,
    /// Keeps passages that no example names, to be drawn at random.
    #[serde(default)]
    pub all_passages: bool,
    /// Counts passages that are not in the corpus instead of ending at the first.
    #[serde(default)]
    pub skip_missing: bool,
}

/// Formats whose lines name passages by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedFormat {
    /// SimLM: `{"query_id", "query", "positives": {"doc_id": […], "score": […]}, "negatives": {…}}`.
    Simlm,
    /// Tevatron with ids: `{"query_id", "query_text", "positive_document_ids": […], "negative_document_ids": […]}`.
    TevatronIds,
}

#[derive(Deserialize)]
struct Simlm {
    query_id: Id,
    query: String,
    positives: SimlmList,
    #[serde(default)]
    negatives: SimlmList,
}

#[derive(Default, Deserialize)]
struct SimlmList {
    doc_id: Vec<Id>,
    #[serde(default)]
    score: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct TevatronIds {
    query_id: Id,
    query_text: String,
    positive_document_ids: Vec<Id>,
    #[serde(default)]
    negative_document_ids: Vec<Id>,
}

/// An id and its score.
type Named = (String, Option<f32>);

struct Line {
    query_id: String,
    query: String,
    positives: Vec<Named>,
    negatives: Vec<Named>,
}

impl NamedSource {
    /// Reads all examples, then the passages that they name.
    ///
    /// # Errors
    /// Any bad line; passages that are not in the corpus unless they are skipped.
    pub fn read(&self, on_progress: &mut OnProgress<'_>) -> Result<Dataset, DataError> {
        let mut builder = DatasetBuilder::default();
        let mut n_examples = 0;
        for path in &self.paths {
            let mut lines = Lines::open(path)?;
            while let Some((line, text)) = lines.next_line()? {
                let parsed = parse(self.format, text).map_err(|reason| DataError::Line {
                    path: path.clone(),
                    line,
                    reason,
                })?;
                let mut links = |named: Vec<Named>| -> Result<Vec<Link>, DataError> {
                    named
                        .into_iter()
                        .map(|(id, score)| Ok(Link::new(builder.passages.name(&id)?, score)))
                        .collect()
                };
                let (positives, negatives) = (links(parsed.positives)?, links(parsed.negatives)?);
                builder.push_entry(Entry {
                    query_id: parsed.query_id,
                    query: Content::Text(parsed.query),
                    positives,
                    negatives,
                    also_positive: Vec::new(),
                });
                n_examples += 1;
            }
        }
        on_progress("examples", n_examples);
        self.corpus.fill(
            &mut builder.passages,
            &self.passage,
            self.all_passages,
            &mut builder.report,
            on_progress,
        )?;
        let paths: Vec<&Path> = self.paths.iter().map(PathBuf::as_path).collect();
        builder.check_named(&paths, &paths, self.skip_missing)?;
        builder.finish(paths.first().unwrap_or(&Path::new("")))
    }
}

fn parse(format: NamedFormat, text: &str) -> Result<Line, String> {
    let line = match format {
        NamedFormat::Simlm => {
            let line: Simlm = from_json(text)?;
            Line {
                query_id: line.query_id.into(),
                query: line.query,
                positives: line.positives.named("positives")?,
                negatives: line.negatives.named("negatives")?,
            }
        }
        NamedFormat::TevatronIds => {
            let line: TevatronIds = from_json(text)?;
            let unscored = |ids: Vec<Id>| ids.into_iter().map(|id| (id.into(), None)).collect();
            Line {
                query_id: line.query_id.into(),
                query: line.query_text,
                positives: unscored(line.positive_document_ids),
                negatives: unscored(line.negative_document_ids),
            }
        }
    };
    if line.query.trim().is_empty() {
        return Err("query is blank".to_owned());
    }
    if line.positives.is_empty() {
        return Err("no positive".to_owned());
    }
    Ok(line)
}

impl SimlmList {
    fn named(self, name: &str) -> Result<Vec<Named>, String> {
        let ids = self.doc_id.into_iter().map(String::from);
        match self.score {
            None => Ok(ids.map(|id| (id, None)).collect()),
            Some(scores) => {
                check_lengths(name, ids.len(), scores.len())?;
                Ok(ids.zip(scores.into_iter().map(Some)).collect())
            }
        }
    }
}
