use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use corpus::{Lines, Qrels, QrelsFormat, Run, RunFormat, Template, ranked};
use serde::{Deserialize, Serialize};

use super::collection::{CorpusSource, OnProgress, QuerySource};
use super::dataset::{DatasetBuilder, Entry};
use super::passages::Link;
use super::{Content, DataError, Dataset, PassageText, Scores};

/// A corpus, queries and judgments, with candidates for negatives and a teacher's scores where there are some.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgedSource {
    /// The passages.
    pub corpus: CorpusSource,
    /// The queries; those without judgments are counted and left out.
    pub queries: QuerySource,
    /// Which passages are relevant.
    pub judgments: Judgments,
    /// Which are not, best candidates first. Without them, negatives are drawn from the whole corpus.
    #[serde(default)]
    pub negatives: Option<NegativeSource>,
    /// A teacher's scores. Negatives without one are counted and left out.
    #[serde(default)]
    pub scores: Vec<PathBuf>,
    /// What is read of a passage.
    #[serde(default)]
    pub passage: PassageText,
    /// What is read of a query.
    #[serde(default = "Template::query_default")]
    pub query: Template,
    /// Keeps passages that no example names, to be drawn at random.
    #[serde(default)]
    pub all_passages: bool,
    /// Counts passages and queries that are judged and not there, instead of ending at the first.
    #[serde(default)]
    pub skip_missing: bool,
}

/// How relevant passages are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgments {
    /// Judgments in any format: one example a query, its positives in order of id.
    Qrels {
        /// The file.
        path: PathBuf,
        /// Lowest grade of a positive. Passages of lower grades above 0 are neither positives nor negatives.
        #[serde(default = "one")]
        min_grade: i32,
    },
    /// RetroMAE's `train_qrels.txt`, `query passage[,passage]` with a tab: one example a line.
    Lines(PathBuf),
}

/// Where candidates for negatives are read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeSource {
    /// A run, by score.
    Run {
        /// The file.
        path: PathBuf,
        /// Its format.
        #[serde(default)]
        format: RunFormat,
        /// Candidates of a query, counted after its positives have left.
        #[serde(default)]
        depth: Option<usize>,
    },
    /// Lists (`train.negatives.tsv`, RetroMAE's `neg_file`): `query passage,passage,…` with a tab. A query's lists add up.
    Lists(PathBuf),
}

fn one() -> i32 {
    1
}

/// The queries, and what is known of each.
struct Judged {
    queries: Vec<(String, Content)>,
    numbers: HashMap<String, usize>,
    /// Positives of each example, by number of its query, in the order of the examples.
    examples: Vec<(usize, Vec<u32>)>,
    /// All passages known to be relevant to each query.
    positives: HashMap<usize, HashSet<u32>>,
}

impl JudgedSource {
    /// A data set without candidates for negatives, read with the default templates.
    pub fn new(corpus: CorpusSource, queries: QuerySource, judgments: Judgments) -> Self {
        Self {
            corpus,
            queries,
            judgments,
            negatives: None,
            scores: Vec::new(),
            passage: PassageText::default(),
            query: Template::query_default(),
            all_passages: false,
            skip_missing: false,
        }
    }

    /// A data set in BEIR's layout.
    ///
    /// # Errors
    /// A file that the folder lacks.
    pub fn beir(folder: &Path, split: &str) -> Result<Self, DataError> {
        let dataset = corpus::Dataset::open(folder)?;
        let judgments = Judgments::qrels(&dataset.qrels_path(split)?);
        let corpus = CorpusSource::files(dataset.corpus);
        Ok(Self::new(
            corpus,
            QuerySource::File(dataset.queries),
            judgments,
        ))
    }

    /// Reads judgments and candidates, then the passages that they name.
    ///
    /// # Errors
    /// Any bad line; passages and queries that are judged and not there, unless they are skipped.
    pub fn read(&self, on_progress: &mut OnProgress<'_>) -> Result<Dataset, DataError> {
        let mut builder = DatasetBuilder::default();
        let queries = self.queries.read(&self.query, &mut builder.report)?;
        on_progress("queries", queries.len() as u64);
        let judged = self.judge(queries, &mut builder)?;
        let mut negatives = match &self.negatives {
            None => HashMap::new(),
            Some(NegativeSource::Run {
                path,
                format,
                depth,
            }) => judged.of_run(&Run::read(path, *format)?, *depth, &mut builder)?,
            Some(NegativeSource::Lists(path)) => judged.of_lists(path, &mut builder)?,
        };
        let scores = match self.scores.as_slice() {
            [] => None,
            paths => Some(Scores::read(paths)?),
        };
        let all = self.all_passages || self.negatives.is_none();
        self.corpus.fill(
            &mut builder.passages,
            &self.passage,
            all,
            &mut builder.report,
            on_progress,
        )?;
        let mut n_left = HashMap::new();
        for (query, _) in &judged.examples {
            *n_left.entry(*query).or_insert(0) += 1;
        }
        for (query, positives) in judged.examples {
            let (query_id, content) = &judged.queries[query];
            let mut also_positive: Vec<u32> = judged.positives[&query]
                .iter()
                .filter(|passage| !positives.contains(passage))
                .copied()
                .collect();
            also_positive.sort_unstable();
            // The last example of a query takes its list.
            let n_left = n_left.entry(query).or_insert(1);
            *n_left -= 1;
            let negatives = match n_left {
                0 => negatives.remove(&query).unwrap_or_default(),
                _ => negatives.get(&query).cloned().unwrap_or_default(),
            };
            let link = |builder: &DatasetBuilder, passage: u32| {
                let score = |scores: &Scores| scores.get(query_id, builder.passages.id(passage));
                Link::new(passage, scores.as_ref().and_then(score))
            };
            let positives = positives
                .into_iter()
                .map(|one| link(&builder, one))
                .collect();
            let mut links: Vec<Link> = negatives
                .into_iter()
                .map(|one| link(&builder, one))
                .collect();
            if scores.is_some() {
                let (passages, report) = (&builder.passages, &mut builder.report);
                links.retain(|link| {
                    let is_scored = link.score().is_some();
                    if !is_scored {
                        let place = || format!("{} of {query_id}", passages.id(link.passage));
                        report.leave_out("negatives without a teacher's score", place);
                    }
                    is_scored
                });
            }
            builder.push_entry(Entry {
                query_id: query_id.clone(),
                query: content.clone(),
                positives,
                negatives: links,
                also_positive,
            });
        }
        let negatives = match &self.negatives {
            Some(NegativeSource::Run { path, .. } | NegativeSource::Lists(path)) => {
                vec![path.as_path()]
            }
            None => Vec::new(),
        };
        builder.check_named(&[self.judgments.path()], &negatives, self.skip_missing)?;
        builder.finish(self.judgments.path())
    }

    /// Finds the examples in the judgments.
    fn judge(
        &self,
        queries: Vec<(String, Content)>,
        builder: &mut DatasetBuilder,
    ) -> Result<Judged, DataError> {
        let numbered = queries.iter().enumerate();
        let mut judged = Judged {
            numbers: numbered
                .map(|(number, (id, _))| (id.clone(), number))
                .collect(),
            queries,
            examples: Vec::new(),
            positives: HashMap::new(),
        };
        match &self.judgments {
            Judgments::Qrels { path, min_grade } => {
                let qrels = Qrels::read(path, QrelsFormat::Auto)?;
                let strange = qrels.queries().map(|(id, _)| id);
                for id in strange.filter(|id| !judged.numbers.contains_key(*id)) {
                    self.missing_query(id, builder)?;
                }
                for (number, (id, _)) in judged.queries.iter().enumerate() {
                    let Some(grades) = qrels.get(id) else {
                        builder
                            .report
                            .leave_out("queries without judgments", || id.clone());
                        continue;
                    };
                    let (mut positives, mut others) = (Vec::new(), HashSet::new());
                    for (passage, grade) in grades {
                        if grade >= min_grade {
                            positives.push(builder.passages.name(passage)?);
                        } else if *grade > 0 {
                            others.insert(builder.passages.name(passage)?);
                        }
                    }
                    if positives.is_empty() {
                        let reason = "queries without a relevant passage";
                        builder.report.leave_out(reason, || id.clone());
                        continue;
                    }
                    judged.examples.push((number, positives));
                    judged.positives.insert(number, others);
                }
            }
            Judgments::Lines(path) => {
                let mut lines = Lines::open(path)?;
                while let Some((line, text)) = lines.next_line()? {
                    let (id, passages) = split_list(path, line, text)?;
                    let Some(&number) = judged.numbers.get(id) else {
                        self.missing_query(id, builder)?;
                        continue;
                    };
                    let positives = passages
                        .map(|passage| builder.passages.name(passage))
                        .collect::<Result<Vec<u32>, _>>()?;
                    judged.examples.push((number, positives));
                }
            }
        }
        for (query, positives) in &judged.examples {
            let known = judged.positives.entry(*query).or_default();
            known.extend(positives);
        }
        Ok(judged)
    }

    fn missing_query(&self, id: &str, builder: &mut DatasetBuilder) -> Result<(), DataError> {
        if self.skip_missing {
            let reason = "judged queries that are not among the queries";
            builder.report.leave_out(reason, || id.to_owned());
            return Ok(());
        }
        let reason = format!("query `{id}` is not in `{}`", self.queries.path().display());
        Err(place_of(&[self.judgments.path()], &[id], reason))
    }
}

impl Judgments {
    /// Judgments whose positives have grade 1 or more.
    pub fn qrels(path: &Path) -> Self {
        Self::Qrels {
            path: path.to_owned(),
            min_grade: one(),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Qrels { path, .. } | Self::Lines(path) => path,
        }
    }
}

impl Judged {
    /// The results of each judged query, best first and without its positives, down to a depth.
    fn of_run(
        &self,
        run: &Run,
        depth: Option<usize>,
        builder: &mut DatasetBuilder,
    ) -> Result<HashMap<usize, Vec<u32>>, DataError> {
        let mut negatives = HashMap::new();
        for (id, results) in run.queries() {
            let Some((number, positives)) = self.judged(id) else {
                let reason = "queries of the run without judgments";
                builder.report.leave_out(reason, || id.to_owned());
                continue;
            };
            let mut list = Vec::new();
            for result in ranked(results) {
                if depth.is_some_and(|depth| list.len() == depth) {
                    break;
                }
                let passage = builder.passages.name(&result.id)?;
                if !positives.contains(&passage) {
                    list.push(passage);
                }
            }
            negatives.insert(number, list);
        }
        Ok(negatives)
    }

    fn of_lists(
        &self,
        path: &Path,
        builder: &mut DatasetBuilder,
    ) -> Result<HashMap<usize, Vec<u32>>, DataError> {
        let mut negatives: HashMap<usize, Vec<u32>> = HashMap::new();
        let mut lines = Lines::open(path)?;
        while let Some((line, text)) = lines.next_line()? {
            let (id, passages) = split_list(path, line, text)?;
            let Some((number, positives)) = self.judged(id) else {
                let reason = "lists of queries without judgments";
                builder.report.leave_out(reason, || id.to_owned());
                continue;
            };
            let list = negatives.entry(number).or_default();
            for passage in passages {
                let passage = builder.passages.name(passage)?;
                if !positives.contains(&passage) {
                    list.push(passage);
                }
            }
        }
        Ok(negatives)
    }

    fn judged(&self, id: &str) -> Option<(usize, &HashSet<u32>)> {
        let number = *self.numbers.get(id)?;
        Some((number, self.positives.get(&number)?))
    }
}

/// Splits `query passage,passage,…`, whose two fields are separated by a tab.
fn split_list<'a>(
    path: &Path,
    line: u64,
    text: &'a str,
) -> Result<(&'a str, impl Iterator<Item = &'a str>), DataError> {
    let bad = |reason: &str| DataError::Line {
        path: path.to_owned(),
        line,
        reason: reason.to_owned(),
    };
    let (query, passages) = text.split_once('\t').ok_or_else(|| bad("no tab"))?;
    if query.trim().is_empty() || passages.split(',').any(|passage| passage.trim().is_empty()) {
        return Err(bad("an empty id"));
    }
    Ok((query.trim(), passages.split(',').map(str::trim)))
}

/// Says what is wrong at the first line of a file that has all the words; without one, at the file.
pub(super) fn place_of(paths: &[&Path], words: &[&str], reason: String) -> DataError {
    let is_separator = |c: char| c.is_whitespace() || "\",:[]{}".contains(c);
    for path in paths {
        let Ok(mut lines) = Lines::open(path) else {
            continue;
        };
        while let Ok(Some((line, text))) = lines.next_line() {
            if words
                .iter()
                .all(|word| text.split(is_separator).any(|one| one == *word))
            {
                return DataError::Line {
                    path: path.to_path_buf(),
                    line,
                    reason,
                };
            }
        }
    }
    DataError::Folder {
        path: paths.first().map(PathBuf::from).unwrap_or_default(),
        reason,
    }
}
