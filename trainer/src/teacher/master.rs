use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use corpus::{BadLine, CorpusConfig, CorpusReader, Qrels, QrelsFormat, Template, read_queries};
use encoder::TextTokenizer;

use super::lines::TeacherLines;
use super::{TeacherError, TeacherText};
use crate::data::{DataError, OnBytes};
use crate::masking::{MasterText, Vocabulary};
use crate::parallel::map_in_order;

/// Passages that a thread tokenises at a time.
const CHUNK_PASSAGES: usize = 256;

/// What MASTER's lines are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct MasterSource {
    /// Where the passages are.
    pub corpus: CorpusConfig,
    /// What is read of each.
    pub template: Template,
    /// Files of generated queries, in the order of the passages.
    pub generated: Vec<PathBuf>,
    /// Queries that were judged, which stand before generated ones.
    pub judged: Option<JudgedQueries>,
    /// Files of continuations, in the order of the passages.
    pub continuations: Vec<PathBuf>,
    /// Threads that tokenise; the lines are the same for any number.
    pub n_threads: usize,
}

/// Queries that stand in for generated ones beside the passages that they are judged to be answered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedQueries {
    /// The queries, of a train split alone.
    pub queries: PathBuf,
    /// The judgments.
    pub qrels: PathBuf,
    /// Lowest grade of an answer.
    pub min_grade: i32,
}

/// What the lines had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MasterReport {
    /// Lines that were written.
    pub n_texts: u64,
    /// Passages without a token, which are left out.
    pub n_empty: u64,
    /// Queries of all lines.
    pub n_queries: u64,
    /// Lines without a query.
    pub n_without_queries: u64,
    /// Lines without a continuation.
    pub n_without_continuation: u64,
    /// Passages that have judged queries and are not in the corpus.
    pub n_missing: u64,
    /// Bad lines of all files, all skipped.
    pub n_bad: u64,
    /// The first bad line.
    pub first_bad: Option<String>,
}

/// A passage with what was written about it.
struct Item {
    id: String,
    text: String,
    queries: Vec<String>,
    continuations: Vec<String>,
}

/// Writes a [`MasterText`] a line, in the order of the passages. Texts without a token are left out of each.
///
/// Generated text is read beside the corpus; memory grows with the judged queries alone.
///
/// # Errors
/// Bad lines, unless the corpus is read without them; generated text of a passage that is not there, or not in its place;
/// judgments that name no passage of the corpus; [`DataError::Empty`] when no passage has a token;
/// [`DataError::NotWordPieces`] for a tokenizer that is not BERT's.
pub fn write_master_lines(
    source: &MasterSource,
    tokenizer: &TextTokenizer,
    writer: &mut dyn Write,
    on_bytes: &mut OnBytes<'_>,
) -> Result<MasterReport, TeacherError> {
    Vocabulary::of(tokenizer)?;
    let mut reader = CorpusReader::open(&source.corpus).map_err(DataError::from)?;
    let skip = source.corpus.skip_bad_lines;
    let mut generated = TeacherLines::open(&source.generated, TeacherText::Queries, skip)?;
    let kind = TeacherText::Continuations;
    let mut continuations = TeacherLines::open(&source.continuations, kind, skip)?;
    let mut judged = source
        .judged
        .as_ref()
        .map_or(Ok(HashMap::new()), by_passage)?;
    let n_judged = judged.len();
    let mut report = MasterReport::default();
    map_in_order(
        source.n_threads,
        || -> Result<_, TeacherError> {
            let mut chunk = Vec::new();
            while chunk.len() < CHUNK_PASSAGES {
                let Some(passage) = reader.next().transpose().map_err(DataError::from)? else {
                    break;
                };
                let mut queries = judged.remove(&passage.id).unwrap_or_default();
                queries.extend(generated.take(&passage.id)?);
                chunk.push(Item {
                    text: source.template.render(&passage).text,
                    queries,
                    continuations: continuations.take(&passage.id)?,
                    id: passage.id,
                });
            }
            on_bytes(reader.n_bytes_read(), reader.n_bytes_total());
            Ok((!chunk.is_empty()).then_some(chunk))
        },
        |chunk: Vec<Item>| {
            chunk
                .into_iter()
                .map(|item| item.tokenize(tokenizer))
                .collect()
        },
        |texts: Result<Vec<MasterText>, DataError>| {
            for text in texts? {
                if report.add(&text) {
                    let line = serde_json::to_string(&text).expect("numbers are written to memory");
                    writeln!(writer, "{line}")?;
                }
            }
            Ok(())
        },
    )?;
    generated.finish()?;
    continuations.finish()?;
    report.n_missing = judged.len() as u64;
    if let Some(JudgedQueries { qrels, .. }) = &source.judged
        && judged.len() == n_judged
    {
        let reason = "no passage of the corpus is judged to answer a query".to_owned();
        let path = qrels.clone();
        return Err(DataError::Folder { path, reason }.into());
    }
    report.n_bad = reader.n_bad() + generated.n_bad + continuations.n_bad;
    let first = reader.bad_examples().first().map(BadLine::to_string);
    report.first_bad = first.or(generated.first_bad).or(continuations.first_bad);
    if report.n_texts == 0 {
        let path = source.corpus.paths.first().cloned().unwrap_or_default();
        return Err(DataError::Empty { path }.into());
    }
    Ok(report)
}

/// The queries of each passage, in the order of their file.
fn by_passage(source: &JudgedQueries) -> Result<HashMap<String, Vec<String>>, DataError> {
    let qrels = Qrels::read(&source.qrels, QrelsFormat::Auto)?;
    let mut by_passage: HashMap<String, Vec<String>> = HashMap::new();
    for query in read_queries(&source.queries)? {
        for (passage, grade) in qrels.get(&query.id).into_iter().flatten() {
            if *grade >= source.min_grade {
                by_passage
                    .entry(passage.clone())
                    .or_default()
                    .push(query.text.clone());
            }
        }
    }
    Ok(by_passage)
}

impl Item {
    fn tokenize(self, tokenizer: &TextTokenizer) -> Result<MasterText, DataError> {
        let ids = |text: &String| {
            tokenizer.ids(text).map_err(|error| DataError::Tokenize {
                passage: self.id.clone(),
                reason: error.to_string(),
            })
        };
        let all = |texts: &[String]| -> Result<Vec<Vec<u32>>, DataError> {
            let texts = texts.iter().map(ids);
            texts
                .filter(|ids| !ids.as_ref().is_ok_and(Vec::is_empty))
                .collect()
        };
        Ok(MasterText {
            text: ids(&self.text)?,
            queries: all(&self.queries)?,
            next: all(&self.continuations)?,
        })
    }
}

impl MasterReport {
    /// Counts a line, and says whether it is one.
    fn add(&mut self, text: &MasterText) -> bool {
        if text.text.is_empty() {
            self.n_empty += 1;
            return false;
        }
        self.n_texts += 1;
        self.n_queries += text.queries.len() as u64;
        self.n_without_queries += u64::from(text.queries.is_empty());
        self.n_without_continuation += u64::from(text.next.is_empty());
        true
    }
}
