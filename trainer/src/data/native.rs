use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::line::{Id, unnamed};
use super::{Candidate, Content, Example};

/// A line of our format, as it is read.
#[derive(Deserialize)]
pub(super) struct NativeExample {
    #[serde(default)]
    query_id: Option<Id>,
    query: QueryContent,
    positives: Vec<NativeCandidate>,
    #[serde(default)]
    negatives: Vec<NativeCandidate>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "neither text nor [text, text] nor token ids")]
enum QueryContent {
    Text(String),
    Tokens(Vec<u32>),
    Pair(String, String),
}

#[derive(Deserialize)]
struct NativeCandidate {
    #[serde(default)]
    id: Option<Id>,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    tokens: Option<Vec<u32>>,
    #[serde(default)]
    score: Option<f32>,
}

impl NativeExample {
    pub(super) fn into_example(self) -> Result<Example, String> {
        let candidates = |candidates: Vec<NativeCandidate>| -> Result<Vec<Candidate>, String> {
            candidates
                .into_iter()
                .map(NativeCandidate::into_candidate)
                .collect()
        };
        let query = match self.query {
            QueryContent::Text(text) => Content::Text(text),
            QueryContent::Tokens(ids) => Content::Tokens(ids),
            QueryContent::Pair(first, second) => Content::Pair(first, second),
        };
        Ok(Example {
            query_id: self.query_id.map_or(String::new(), String::from),
            query,
            positives: candidates(self.positives)?,
            negatives: candidates(self.negatives)?,
        })
    }
}

impl NativeCandidate {
    fn into_candidate(self) -> Result<Candidate, String> {
        let content = match (self.title, self.text, self.tokens) {
            (None, Some(text), None) => Content::Text(text),
            (Some(title), Some(text), None) => Content::Pair(title, text),
            (None, None, Some(ids)) => Content::Tokens(ids),
            _ => return Err("a passage has `text`, `title` and `text`, or `tokens`".to_owned()),
        };
        let unnamed = unnamed(content, self.score);
        Ok(match self.id {
            Some(id) => Candidate {
                id: id.into(),
                ..unnamed
            },
            None => unnamed,
        })
    }
}

/// A line of our format, as it is written.
#[derive(Serialize)]
struct WrittenExample<'a> {
    query_id: &'a str,
    query: WrittenQuery<'a>,
    positives: Vec<WrittenCandidate<'a>>,
    negatives: Vec<WrittenCandidate<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WrittenQuery<'a> {
    Text(&'a str),
    Tokens(&'a [u32]),
    Pair(&'a str, &'a str),
}

#[derive(Serialize)]
struct WrittenCandidate<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
}

impl Example {
    /// Writes the example as a line of trawl's format.
    ///
    /// # Errors
    /// What the writer fails with.
    pub fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        let line = WrittenExample {
            query_id: &self.query_id,
            query: match &self.query {
                Content::Text(text) => WrittenQuery::Text(text),
                Content::Tokens(ids) => WrittenQuery::Tokens(ids),
                Content::Pair(first, second) => WrittenQuery::Pair(first, second),
            },
            positives: written(&self.positives),
            negatives: written(&self.negatives),
        };
        serde_json::to_writer(&mut *writer, &line)?;
        writer.write_all(b"\n")
    }
}

fn written(candidates: &[Candidate]) -> Vec<WrittenCandidate<'_>> {
    candidates.iter().map(WrittenCandidate::new).collect()
}

impl<'a> WrittenCandidate<'a> {
    fn new(candidate: &'a Candidate) -> Self {
        let (title, text, tokens) = match &candidate.content {
            Content::Text(text) => (None, Some(text.as_str()), None),
            Content::Pair(title, text) => (Some(title.as_str()), Some(text.as_str()), None),
            Content::Tokens(ids) => (None, None, Some(ids.as_slice())),
        };
        Self {
            id: &candidate.id,
            title,
            text,
            tokens,
            score: candidate.score,
        }
    }
}
