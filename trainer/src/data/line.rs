use std::path::Path;

use corpus::{Lines, Passage};
use serde::{Deserialize, Serialize};

use super::columns::{self, ColumnReader};
use super::native::NativeExample;
use super::{Candidate, Content, DataError, Example, PassageText};

/// Formats whose lines hold the texts of an example, or its token ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// Ours: `{"query_id", "query", "positives": [{"id", "text", "score"}], "negatives": […]}`.
    #[default]
    Native,
    /// OpenMatch and Tevatron's tokenised lines: `{"query", "positives": […], "negatives": […]}`, token ids or texts.
    Openmatch,
    /// OpenMatch's distillation by pairs: `{"query", "positive", "negative", "score"}`. The score is the teacher's margin,
    /// so the positive gets it and the negative gets 0.
    OpenmatchPairwise,
    /// OpenMatch's distillation by lists: `{"query", "docs", "scores"}`. The passage with the highest score stands as the
    /// positive.
    OpenmatchListwise,
    /// Tevatron: `{"query_id", "query", "positive_passages": [{"docid", "title", "text"}], "negative_passages": […]}`.
    Tevatron,
    /// FlagEmbedding: `{"query", "pos": […], "neg": […], "pos_scores", "neg_scores", "prompt"}`.
    FlagEmbedding,
    /// sentence-transformers: columns of anchor, positive, any negatives, and one of `label`, `labels`, `score`, `scores`.
    /// JSON objects whose keys are the columns, or a table by its name: `.csv`, `.tsv`.
    SentenceTransformers,
}

impl LineFormat {
    /// Whether passages have titles, so that a template or a pair decides what is read of them.
    pub fn has_titles(self) -> bool {
        self == Self::Tevatron
    }
}

/// Yields the examples of a file whose lines hold their texts.
pub struct ExampleReader {
    input: Input,
    format: LineFormat,
    passage: PassageText,
}

enum Input {
    Lines(Lines),
    Columns(ColumnReader),
}

impl ExampleReader {
    /// Opens a file; `passage` makes a passage of title and text where the format has both.
    ///
    /// # Errors
    /// [`DataError::Corpus`].
    pub fn open(path: &Path, format: LineFormat, passage: &PassageText) -> Result<Self, DataError> {
        let columns = match format {
            LineFormat::SentenceTransformers => ColumnReader::open(path)?,
            _ => None,
        };
        Ok(Self {
            input: match columns {
                Some(columns) => Input::Columns(columns),
                None => Input::Lines(Lines::open(path)?),
            },
            format,
            passage: passage.clone(),
        })
    }

    /// Reads the next line, which is an example or says what is wrong with it; none at the end of the file.
    ///
    /// # Errors
    /// [`DataError::Corpus`] when the file cannot be read further.
    pub fn next_example(&mut self) -> Result<Option<Result<Example, DataError>>, DataError> {
        let lines = match &mut self.input {
            Input::Lines(lines) => lines,
            Input::Columns(columns) => return columns.next_example(),
        };
        let Some((line, text)) = lines.next_line_or_reason()? else {
            return Ok(None);
        };
        let parsed = text
            .map_err(|reason| reason.to_string())
            .and_then(|text| parse(self.format, text, &self.passage));
        Ok(Some(parsed.map_err(|reason| DataError::Line {
            path: lines.path().to_owned(),
            line,
            reason,
        })))
    }
}

/// Makes an example of a line.
pub(crate) fn parse(
    format: LineFormat,
    line: &str,
    passage: &PassageText,
) -> Result<Example, String> {
    finish(match format {
        LineFormat::Native => from_json::<NativeExample>(line)?.into_example()?,
        LineFormat::Openmatch => from_json::<Openmatch>(line)?.into_example(),
        LineFormat::OpenmatchPairwise => from_json::<Pairwise>(line)?.into_example(),
        LineFormat::OpenmatchListwise => from_json::<Listwise>(line)?.into_example()?,
        LineFormat::Tevatron => from_json::<Tevatron>(line)?.into_example(passage),
        LineFormat::FlagEmbedding => from_json::<FlagEmbedding>(line)?.into_example()?,
        LineFormat::SentenceTransformers => columns::parse(line)?,
    })
}

/// Gives ids to a query and passages that have none, and refuses an example that cannot be trained on.
pub(super) fn finish(mut example: Example) -> Result<Example, String> {
    if example.query_id.is_empty() {
        example.query_id = content_id(&example.query);
    }
    if example.query.is_blank() {
        return Err("query is blank".to_owned());
    }
    // A passage without a token cannot be encoded, so it cannot stand in a group.
    example.positives.retain(|one| !one.content.is_blank());
    example.negatives.retain(|one| !one.content.is_blank());
    if example.positives.is_empty() {
        return Err("no positive that is not blank".to_owned());
    }
    // One empty id for all would make every passage of a batch the positive of every query.
    let passages = example.positives.iter_mut().chain(&mut example.negatives);
    for passage in passages.filter(|passage| passage.id.is_empty()) {
        passage.id = content_id(&passage.content);
    }
    Ok(example)
}

pub(crate) fn from_json<'de, T: Deserialize<'de>>(line: &'de str) -> Result<T, String> {
    // The parser sees one line, so only its column, which counts bytes, says anything.
    serde_json::from_str(line)
        .map_err(|error| error.to_string().replace(" at line 1 column ", " at byte "))
}

/// Whether a line is one of a corpus of texts, where ids of tokens are read.
pub(crate) fn is_plain_text(line: &str) -> bool {
    serde_json::from_str(line).is_ok_and(|line: serde_json::Value| line["text"].is_string())
}

/// An id, which some write as a number.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "an id is text or a whole number")]
pub(super) enum Id {
    Text(String),
    Number(u64),
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        match id {
            Id::Text(text) => text,
            Id::Number(number) => number.to_string(),
        }
    }
}

/// A text, or its token ids without special tokens.
#[derive(Deserialize)]
#[serde(untagged, expecting = "neither text nor token ids")]
enum TextOrTokens {
    Text(String),
    Tokens(Vec<u32>),
}

impl From<TextOrTokens> for Content {
    fn from(content: TextOrTokens) -> Self {
        match content {
            TextOrTokens::Text(text) => Self::Text(text),
            TextOrTokens::Tokens(ids) => Self::Tokens(ids),
        }
    }
}

/// The id of what has none of its own.
fn content_id(content: &Content) -> String {
    format!("{:016x}", content.digest())
}

/// A passage that has no id of its own: its content names it.
pub(super) fn unnamed(content: Content, score: Option<f32>) -> Candidate {
    Candidate {
        id: content_id(&content),
        content,
        score,
    }
}

fn unscored(contents: Vec<TextOrTokens>) -> Vec<Candidate> {
    contents
        .into_iter()
        .map(|content| unnamed(content.into(), None))
        .collect()
}

/// Passages beside their scores, where there are some.
fn scored(
    contents: Vec<TextOrTokens>,
    scores: Option<Vec<f32>>,
    name: &str,
) -> Result<Vec<Candidate>, String> {
    let Some(scores) = scores.filter(|scores| !scores.is_empty()) else {
        return Ok(unscored(contents));
    };
    check_lengths(name, contents.len(), scores.len())?;
    let scored = contents.into_iter().zip(scores);
    Ok(scored
        .map(|(content, score)| unnamed(content.into(), Some(score)))
        .collect())
}

pub(super) fn check_lengths(name: &str, n_passages: usize, n_scores: usize) -> Result<(), String> {
    if n_passages == n_scores {
        Ok(())
    } else {
        Err(format!(
            "`{name}` has {n_scores} scores for {n_passages} passages"
        ))
    }
}

#[derive(Deserialize)]
struct Openmatch {
    query: TextOrTokens,
    positives: Vec<TextOrTokens>,
    #[serde(default)]
    negatives: Vec<TextOrTokens>,
}

impl Openmatch {
    fn into_example(self) -> Example {
        Example {
            query_id: String::new(),
            query: self.query.into(),
            positives: unscored(self.positives),
            negatives: unscored(self.negatives),
        }
    }
}

#[derive(Deserialize)]
struct Pairwise {
    query: TextOrTokens,
    positive: TextOrTokens,
    negative: TextOrTokens,
    score: f32,
}

impl Pairwise {
    fn into_example(self) -> Example {
        Example {
            query_id: String::new(),
            query: self.query.into(),
            positives: vec![unnamed(self.positive.into(), Some(self.score))],
            negatives: vec![unnamed(self.negative.into(), Some(0.0))],
        }
    }
}

#[derive(Deserialize)]
struct Listwise {
    query: TextOrTokens,
    docs: Vec<TextOrTokens>,
    scores: Vec<f32>,
}

impl Listwise {
    fn into_example(self) -> Result<Example, String> {
        check_lengths("scores", self.docs.len(), self.scores.len())?;
        let mut negatives = scored(self.docs, Some(self.scores), "scores")?;
        let best = (0..negatives.len())
            .rev()
            .max_by(|&a, &b| {
                let score = |number: usize| negatives[number].score.unwrap_or(f32::NEG_INFINITY);
                score(a).total_cmp(&score(b))
            })
            .ok_or("`docs` is empty")?;
        let positives = vec![negatives.remove(best)];
        Ok(Example {
            query_id: String::new(),
            query: self.query.into(),
            positives,
            negatives,
        })
    }
}

#[derive(Deserialize)]
struct Tevatron {
    query_id: Id,
    query: String,
    positive_passages: Vec<TevatronPassage>,
    #[serde(default)]
    negative_passages: Vec<TevatronPassage>,
}

#[derive(Deserialize)]
struct TevatronPassage {
    docid: Id,
    #[serde(default)]
    title: Option<String>,
    text: String,
}

impl Tevatron {
    fn into_example(self, text: &PassageText) -> Example {
        let candidates = |passages: Vec<TevatronPassage>| -> Vec<Candidate> {
            let candidate = |one: TevatronPassage| {
                let passage = Passage {
                    id: one.docid.into(),
                    title: one.title.unwrap_or_default(),
                    text: one.text,
                    ..Passage::default()
                };
                Candidate {
                    content: text.content(&passage),
                    id: passage.id,
                    score: None,
                }
            };
            passages.into_iter().map(candidate).collect()
        };
        Example {
            query_id: self.query_id.into(),
            query: Content::Text(self.query),
            positives: candidates(self.positive_passages),
            negatives: candidates(self.negative_passages),
        }
    }
}

#[derive(Deserialize)]
struct FlagEmbedding {
    query: String,
    pos: Vec<TextOrTokens>,
    #[serde(default)]
    neg: Vec<TextOrTokens>,
    #[serde(default)]
    pos_scores: Option<Vec<f32>>,
    #[serde(default)]
    neg_scores: Option<Vec<f32>>,
    #[serde(default)]
    prompt: Option<String>,
}

impl FlagEmbedding {
    fn into_example(self) -> Result<Example, String> {
        Ok(Example {
            query_id: String::new(),
            query: Content::Text(self.prompt.unwrap_or_default() + &self.query),
            positives: scored(self.pos, self.pos_scores, "pos_scores")?,
            negatives: scored(self.neg, self.neg_scores, "neg_scores")?,
        })
    }
}
