//! Corpora and queries, whose passages and texts examples name by id.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use corpus::{CorpusConfig, CorpusReader, Lines, Passage, Template, read_queries};
use serde::{Deserialize, Serialize};

use super::line::from_json;
use super::passages::PassageTable;
use super::{Content, DataError, DataReport, PassageText, arrow};

/// Column of token ids in RetroMAE's folders.
const TOKENS: &str = "input_ids";
/// Passages between two reports of progress.
const REPORT_EVERY: u64 = 4096;

/// Told what is read, and how many so far.
pub type OnProgress<'a> = dyn FnMut(&'static str, u64) + 'a;

/// Where passages are read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorpusSource {
    /// JSON lines (BEIR, Tevatron), TSV or CSV.
    Files(CorpusConfig),
    /// RocketQA's `para.txt` (`id text`) and `para.title.txt` (`id title`), separated by tabs.
    TextsAndTitles {
        /// The texts.
        texts: PathBuf,
        /// The titles; a passage without one has an empty title.
        titles: PathBuf,
    },
    /// SimLM's `passages.jsonl.gz`: `{"contents", "title"}`, the id of a passage is its row, from 0.
    Rows(PathBuf),
    /// RetroMAE's folder of token ids, saved by the datasets library, with `mapping_id.txt` (`id row`) in it.
    Tokens(PathBuf),
}

/// Where queries are read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuerySource {
    /// JSON lines or TSV.
    File(PathBuf),
    /// RetroMAE's folder of token ids, as [`CorpusSource::Tokens`].
    Tokens(PathBuf),
}

impl CorpusSource {
    /// A corpus in one file.
    pub fn file(path: &Path) -> Self {
        Self::files(vec![path.to_owned()])
    }

    /// A corpus in several files.
    pub fn files(paths: Vec<PathBuf>) -> Self {
        Self::Files(CorpusConfig {
            paths,
            ..CorpusConfig::default()
        })
    }

    /// The file or folder, the first of several.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Files(config) => config.paths.first().map_or(Path::new(""), |path| path),
            Self::TextsAndTitles { texts: path, .. } | Self::Rows(path) | Self::Tokens(path) => {
                path
            }
        }
    }

    /// Reads the contents of the passages that `table` names; with `all`, of every passage.
    pub(super) fn fill(
        &self,
        table: &mut PassageTable,
        text: &PassageText,
        all: bool,
        report: &mut DataReport,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<(), DataError> {
        let mut filler = Filler {
            table,
            text,
            all,
            path: self.path(),
            unknown: match (self, text) {
                (Self::Tokens(_), _) | (_, PassageText::Pair) => Vec::new(),
                (_, PassageText::Template(template)) => template.fields().to_vec(),
            },
            report,
            on_progress,
            n_read: 0,
        };
        match self {
            Self::Files(config) => {
                for passage in CorpusReader::open(config)? {
                    filler.passage(&passage?, None)?;
                }
            }
            Self::TextsAndTitles { texts, titles } => {
                let titles = filler.titles(titles)?;
                each_pair(texts, &mut |line, id, text| {
                    let passage = Passage {
                        title: titles.get(id).cloned().unwrap_or_default(),
                        id: id.to_owned(),
                        text: text.to_owned(),
                        ..Passage::default()
                    };
                    filler.passage(&passage, Some((texts, line)))
                })?;
            }
            Self::Rows(path) => filler.rows(path)?,
            Self::Tokens(folder) => {
                each_token_row(folder, &mut |id, ids| {
                    filler.content(id, Content::Tokens(ids))
                })?;
            }
        }
        filler.end()
    }
}

impl QuerySource {
    /// The file or folder.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Tokens(path) => path,
        }
    }

    /// Reads all queries, in the order of the file.
    pub(super) fn read(
        &self,
        template: &Template,
        report: &mut DataReport,
    ) -> Result<Vec<(String, Content)>, DataError> {
        match self {
            Self::File(path) => {
                let queries = read_queries(path)?;
                for field in template.fields() {
                    let has = |query: &corpus::Query| {
                        let passage = as_passage(query);
                        template.missing(&passage).all(|missing| missing != field)
                    };
                    if !queries.iter().any(has) {
                        return Err(DataError::Marker {
                            template: template.as_str().to_owned(),
                            field: field.clone(),
                            path: path.clone(),
                        });
                    }
                }
                let render = |query: corpus::Query| {
                    let rendered = template.render_query(&query);
                    if rendered.n_missing > 0 {
                        report.leave_out(EMPTY_MARKERS, || format!("query {}", query.id));
                    }
                    (query.id, Content::Text(rendered.text))
                };
                Ok(queries.into_iter().map(render).collect())
            }
            Self::Tokens(folder) => {
                let mut queries = Vec::new();
                each_token_row(folder, &mut |id, ids| {
                    queries.push((id.to_owned(), Content::Tokens(ids)));
                    Ok(())
                })?;
                Ok(queries)
            }
        }
    }
}

const EMPTY_MARKERS: &str = "template fields that a record lacks (left empty)";

/// A query has no title of its own: one is a field like any other.
fn as_passage(query: &corpus::Query) -> Passage {
    Passage {
        metadata: query.metadata.clone(),
        ..Passage::default()
    }
}

/// Puts passages into a table.
struct Filler<'a, 'b> {
    table: &'a mut PassageTable,
    text: &'a PassageText,
    all: bool,
    path: &'a Path,
    /// Fields of the template that no passage had so far.
    unknown: Vec<String>,
    report: &'a mut DataReport,
    on_progress: &'a mut OnProgress<'b>,
    n_read: u64,
}

impl Filler<'_, '_> {
    fn passage(
        &mut self,
        passage: &Passage,
        place: Option<(&PathBuf, u64)>,
    ) -> Result<(), DataError> {
        self.count();
        if let PassageText::Template(template) = self.text {
            if !self.unknown.is_empty() {
                self.unknown
                    .retain(|field| template.missing(passage).any(|one| one == field));
            }
            if template.missing(passage).next().is_some() {
                self.report
                    .leave_out(EMPTY_MARKERS, || format!("passage {}", passage.id));
            }
        }
        let Some(ordinal) = self.ordinal(&passage.id)? else {
            return Ok(());
        };
        if self.table.has_content(ordinal)
            && let Some((path, line)) = place
        {
            return Err(DataError::Line {
                path: path.clone(),
                line,
                reason: format!("id `{}` repeats", passage.id),
            });
        }
        self.set(ordinal, self.text.content(passage));
        Ok(())
    }

    fn content(&mut self, id: &str, content: Content) -> Result<(), DataError> {
        self.count();
        if let Some(ordinal) = self.ordinal(id)? {
            self.set(ordinal, content);
        }
        Ok(())
    }

    /// The titles of the passages that are wanted.
    fn titles(&self, path: &Path) -> Result<HashMap<String, String>, DataError> {
        let mut titles = HashMap::new();
        each_pair(path, &mut |_, id, title| {
            if self.all || self.table.find(id).is_some() {
                titles.insert(id.to_owned(), title.to_owned());
            }
            Ok(())
        })?;
        Ok(titles)
    }

    fn rows(&mut self, path: &PathBuf) -> Result<(), DataError> {
        #[derive(Deserialize)]
        struct Row {
            #[serde(default)]
            id: Option<super::line::Id>,
            #[serde(default)]
            title: Option<String>,
            contents: String,
        }
        let mut lines = Lines::open(path)?;
        let mut number = 0u64;
        while let Some((line, text)) = lines.next_line()? {
            let bad = |reason| DataError::Line {
                path: path.clone(),
                line,
                reason,
            };
            let row: Row = from_json(text).map_err(bad)?;
            let id = number.to_string();
            // Positives and negatives are rows; a file in another order would give other passages without a word.
            if let Some(named) = row.id.map(String::from).filter(|named| *named != id) {
                return Err(bad(format!(
                    "id `{named}` in row {id}: ids are rows, from 0"
                )));
            }
            let passage = Passage {
                id,
                title: row.title.unwrap_or_default(),
                text: row.contents,
                ..Passage::default()
            };
            self.passage(&passage, Some((path, line)))?;
            number += 1;
        }
        Ok(())
    }

    fn ordinal(&mut self, id: &str) -> Result<Option<u32>, DataError> {
        match self.all {
            true => self.table.name(id).map(Some),
            false => Ok(self.table.find(id)),
        }
    }

    fn set(&mut self, ordinal: u32, content: Content) {
        if content.is_blank() {
            let id = self.table.id(ordinal);
            self.report.leave_out("blank passages", || id.to_owned());
        }
        self.table.fill(ordinal, content);
    }

    fn count(&mut self) {
        self.n_read += 1;
        if self.n_read.is_multiple_of(REPORT_EVERY) {
            (self.on_progress)("passages", self.n_read);
        }
    }

    fn end(self) -> Result<(), DataError> {
        (self.on_progress)("passages", self.n_read);
        if self.n_read == 0 {
            return Err(DataError::Empty {
                path: self.path.to_owned(),
            });
        }
        match (self.text, self.unknown.first()) {
            (PassageText::Template(template), Some(field)) => Err(DataError::Marker {
                template: template.as_str().to_owned(),
                field: field.clone(),
                path: self.path.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Takes the number of a line, its id and the rest of it.
type EachPair<'a> = dyn FnMut(u64, &str, &str) -> Result<(), DataError> + 'a;

/// Reads lines of an id, a tab and the rest.
fn each_pair(path: &Path, each: &mut EachPair<'_>) -> Result<(), DataError> {
    let mut lines = Lines::open(path)?;
    while let Some((line, text)) = lines.next_line()? {
        let (id, rest) = text.split_once('\t').ok_or_else(|| DataError::Line {
            path: path.to_owned(),
            line,
            reason: "no tab".to_owned(),
        })?;
        each(line, id, rest)?;
    }
    Ok(())
}

/// Takes the id of a row and its token ids.
type EachRow<'a> = dyn FnMut(&str, Vec<u32>) -> Result<(), DataError> + 'a;

/// Gives the rows of a folder of token ids to `each`, with the id that `mapping_id.txt` gives them.
fn each_token_row(folder: &Path, each: &mut EachRow<'_>) -> Result<(), DataError> {
    let path = folder.join("mapping_id.txt");
    let mut ids: HashMap<u64, String> = HashMap::new();
    each_pair(&path, &mut |line, id, row| {
        let bad = |reason| DataError::Line {
            path: path.clone(),
            line,
            reason,
        };
        let row = row.trim();
        let number: u64 = row
            .parse()
            .map_err(|_| bad(format!("row `{row}` is not a number")))?;
        match ids.insert(number, id.to_owned()) {
            None => Ok(()),
            Some(other) => Err(bad(format!("row {row} is `{other}` already"))),
        }
    })?;
    let mut row = 0;
    arrow::for_each_row(folder, TOKENS, &mut |tokens| {
        if let Some(id) = ids.remove(&row) {
            each(&id, tokens)?;
        }
        row += 1;
        Ok(())
    })?;
    match ids.into_iter().min() {
        None => Ok(()),
        Some((missing, id)) => Err(DataError::Folder {
            path,
            reason: format!("`{id}` is row {missing}, and there are {row} rows"),
        }),
    }
}
