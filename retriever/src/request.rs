use std::time::Duration;

use index::Plan;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use store::DocumentPart;
use store::{Facet, Filter, Piece};

use crate::{Boost, Boosted, Deadline, Fusion, Group, Grouping, Pin, Sort};

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryInput {
    /// Text, made a vector by the encoder.
    Text(String),
    /// A vector of the index's width.
    Vector(Vec<f32>),
}

impl QueryInput {
    /// The text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Vector(_) => None,
        }
    }
}

/// Which ranking is made before reranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nearest vectors.
    #[default]
    Dense,
    /// BM25 over title and text.
    Lexical,
    /// Both, fused.
    Hybrid(Fusion),
}

/// What happens when reranking is not finished in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// The order of the first stage is returned, and the answer says so.
    #[default]
    Skip,
    /// The request fails.
    Fail,
}

/// How many passages the cross-encoder reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RerankRequest {
    /// The first so many of the first stage are scored; the rest follow in their order.
    pub candidates: usize,
    /// The most time reranking may take, inside the request's own deadline.
    pub timeout: Option<Duration>,
    /// What happens then.
    pub on_timeout: OnTimeout,
}

/// Parts of a passage that are returned beside id and scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Include {
    /// Title and text.
    pub text: bool,
    /// Metadata.
    pub metadata: bool,
}

/// Everything about a search but the query.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchOptions {
    /// The ranking of the first stage.
    pub mode: Mode,
    /// Which passages may be found, by their metadata; all where there is none. Every source searches only among these.
    pub filter: Option<Filter>,
    /// Fields whose values are counted in the passages that pass the filter.
    pub facets: Vec<String>,
    /// Leaves out passages with a lower [`Hit::score`], which is that of the stage that made the order: the cross-encoder
    /// where it ran (what it did not read is left out), else the fusion or the one source.
    pub score_threshold: Option<f32>,
    /// What is added to scores for the values of fields.
    pub boosts: Vec<Boost>,
    /// An order by a field in place of that by score.
    pub sort: Option<Sort>,
    /// Passages of the first stage that boosts and `sort` see, whatever page is asked for, so that pages fit together. With
    /// boosts the rest follow in their order, with `sort` they are left out.
    pub rank_window: usize,
    /// Documents that have given ranks; groups, where there are groups.
    pub pins: Vec<Pin>,
    /// Says of each hit what its score is made of.
    pub explain: bool,
    /// Answers by group; hits are then counted and skipped by group.
    pub group: Option<Grouping>,
    /// Hits returned.
    pub top_k: usize,
    /// Hits skipped before the first one returned.
    pub offset: usize,
    /// Passages that each source of the first stage brings; at least `offset + top_k` are asked for.
    pub candidates: usize,
    /// Reranking of the first stage's list.
    pub rerank: Option<RerankRequest>,
    /// Search exhaustively even where a faster, approximate index exists.
    pub exact: bool,
    /// How many candidates a walk through a graph keeps; the index has a default.
    pub ef: Option<usize>,
    /// Prompt used in place of the model's query prompt.
    pub prompt: Option<String>,
    /// What to return of each passage.
    pub include: Include,
    /// What to mark in each passage; needs a query that is text.
    pub highlight: Option<Highlight>,
    /// When the answer is of no more use.
    pub deadline: Deadline,
}

/// A text of a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextField {
    /// Its title.
    Title,
    /// Its text.
    Text,
}

/// Which fragments of passages are shown with the words of the query marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Highlight {
    /// Of which texts, in the order of [`Hit::highlights`].
    pub fields: Vec<TextField>,
    /// Characters of a fragment at most.
    pub max_chars: usize,
}

/// A fragment of a passage with the words of the query marked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Where it is from.
    pub field: TextField,
    /// What it consists of, in order.
    pub pieces: Vec<Piece>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Dense,
            filter: None,
            facets: Vec::new(),
            score_threshold: None,
            boosts: Vec::new(),
            sort: None,
            rank_window: 1000,
            pins: Vec::new(),
            explain: false,
            group: None,
            top_k: 10,
            offset: 0,
            candidates: 100,
            rerank: None,
            exact: false,
            ef: None,
            prompt: None,
            include: Include {
                text: true,
                metadata: true,
            },
            highlight: None,
            deadline: Deadline::NONE,
        }
    }
}

/// One search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchRequest {
    /// What is searched for.
    pub query: QueryInput,
    /// How.
    pub options: SearchOptions,
}

/// The score of a passage in each stage that saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Similarity of query and passage vectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<f32>,
    /// BM25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bm25: Option<f32>,
    /// Fusion of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fused: Option<f32>,
    /// The cross-encoder's score, without what it leaves to the order of the first stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<f32>,
}

/// One passage of the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// Its place in the corpus.
    #[serde(skip)]
    pub ordinal: u32,
    /// Its id.
    pub id: String,
    /// Its place in the answer, from 1; hits skipped by `offset` count.
    pub rank: usize,
    /// The score that the last stage gave it.
    pub score: f32,
    /// The scores of all stages.
    pub scores: Scores,
    /// What the score is made of, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    /// Whether it has its rank by a pin. Its score is 0 where the ranking did not bring it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Where it lies in its document, when documents were split into passages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<HitDocument>,
    /// Title, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Text, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Metadata, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// One fragment for each field asked for.
    #[serde(skip)]
    pub highlights: Vec<Fragment>,
}

/// What a score is made of: that of the cross-encoder, its rank prior and the boosts of its stage, where it read the passage; else
/// that of the first stage and the boosts of that.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Explanation {
    /// The score of the first stage before boosts; none where the ranking did not bring the passage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_stage: Option<f32>,
    /// What the cross-encoder leaves to the order of the first stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_prior: Option<f32>,
    /// What each boost added, in the order of the stages, then as asked.
    pub boosts: Vec<Boosted>,
}

/// The part of a document that a passage is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HitDocument {
    /// Id of the document.
    pub id: String,
    /// Place of the passage among those of the document, from 0.
    pub passage: u32,
    /// Its first character in the document's text.
    pub start: u32,
    /// The character after its last.
    pub end: u32,
}

impl From<DocumentPart<'_>> for HitDocument {
    fn from(part: DocumentPart<'_>) -> Self {
        Self {
            id: part.document.to_owned(),
            passage: part.number,
            start: part.characters.start,
            end: part.characters.end,
        }
    }
}

/// Where the time of an answer went. For a batch, the time of the whole batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Waiting for the encoder.
    pub queue: Duration,
    /// Text to tokens.
    pub tokenize: Duration,
    /// Tokens to vector.
    pub encode: Duration,
    /// Filter and facets.
    pub filter: Duration,
    /// Vector (and text) to passages, fusion included.
    pub search: Duration,
    /// Reranking, its wait included.
    pub rerank: Duration,
    /// Reading titles, texts and metadata.
    pub fetch: Duration,
    /// All of it.
    pub total: Duration,
}

/// What an answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the query.
    pub query_tokens: usize,
    /// Tokens of all reranked pairs.
    pub rerank_tokens: usize,
    /// Whether the query, or a reranked pair, was cut at the model's limit.
    pub truncated: bool,
}

/// How many passages a ranking has, whatever part of it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Total {
    /// The number.
    pub value: u64,
    /// Whether there may be more.
    pub relation: Relation,
}

/// Whether a number is all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// It is.
    Eq,
    /// There are so many at least; nobody looked further.
    Gte,
}

/// The answer to one search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchResponse {
    /// The passages, best first; none where they are grouped.
    pub hits: Vec<Hit>,
    /// The groups, best first.
    pub groups: Vec<Group>,
    /// How many passages the ranking has: those that pass the filter, in lexical search those with a word of the query,
    /// above the threshold where there is one.
    pub total: Total,
    /// What was counted in the passages that pass the filter, in the order asked for.
    pub facets: Vec<Facet>,
    /// Where the time went.
    pub timing: Timing,
    /// What it cost.
    pub usage: Usage,
    /// What was left out for lack of time, by name: `rerank_skipped`, and `score_threshold_skipped` with it, because a
    /// threshold for scores of the cross-encoder says nothing about others.
    pub degraded: Vec<&'static str>,
    /// How vectors were searched, where they were.
    pub plan: Option<Plan>,
    /// Whether the first stage is the exact ranking by vector over the stored rows.
    pub exact: bool,
    /// The last position of the write log that was searched.
    pub log_position: u64,
}
