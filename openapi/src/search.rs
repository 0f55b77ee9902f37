use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::filter::filter_or_null;
use crate::object::{object, object_or_null, objects};
use crate::{
    Boost, Filter, GroupScore, HitDocument, HitExplanation, Ordered, Pin, Problem, SearchGroup,
    Sort,
};

/// A search by text or by vector: exactly one of `query` and `vector` is given.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"query": "how do bees find their way home", "top_k": 3}))]
pub struct SearchRequest {
    /// Query text; the collection's query template and the model's query prompt are applied to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Query vector of the collection's width; finite, and not zero where vectors are compared by cosine.
    #[serde(
        default,
        deserialize_with = "singles",
        skip_serializing_if = "Option::is_none"
    )]
    pub vector: Option<Vec<f32>>,
    /// Hits returned, at least 1. Limit: `limits.top_k`.
    #[serde(default = "ten")]
    #[schema(default = 10, minimum = 1)]
    pub top_k: usize,
    /// Hits skipped before the first one returned. Limit on `offset + top_k`: `limits.window`.
    #[serde(default)]
    #[schema(default = 0)]
    pub offset: usize,
    /// The ranking before reranking.
    #[serde(default)]
    pub mode: SearchMode,
    /// Which passages may be found; every source of the ranking searches only among these.
    #[serde(
        default,
        deserialize_with = "filter_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub filter: Option<Filter>,
    /// Metadata fields (keyword, integer, boolean) whose values are counted in the passages that pass the filter. Limit:
    /// `limits.facets`.
    #[serde(default)]
    pub facets: Vec<String>,
    /// Leaves out hits whose `score` is lower. After reranking that is the cross-encoder's score, and passages it did not read
    /// are left out; before, the fused one with `"mode": "hybrid"`, else that of vectors or words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_threshold: Option<f32>,
    /// What is added to scores for the values of fields: recency, popularity. Limit: `limits.boosts`.
    #[serde(default, deserialize_with = "objects")]
    pub boosts: Vec<Boost>,
    /// An order by a field in place of that by score.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub sort: Option<Sort>,
    /// Passages of the ranking that `boosts` and `sort` see, its first ones. With boosts the rest follow in their order; with `sort`
    /// they are left out. It does not depend on the page, so that pages fit together. 1000 unless given. Limit: `limits.window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub rank_window: Option<usize>,
    /// Documents that have given ranks. Limit: `limits.pins`.
    #[serde(default, deserialize_with = "objects")]
    pub pins: Vec<Pin>,
    /// Says of each hit what its score is made of.
    #[serde(default)]
    #[schema(default = false)]
    pub explain: bool,
    /// Returns `groups` in place of `results`, and counts them by `top_k` and `offset`: `document` puts the passages together
    /// that a document was split into, the name of a keyword field those with a value in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<String>,
    /// Passages shown of each group, 1 unless given. Limit: `limits.top_k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub group_size: Option<usize>,
    /// How a group is scored; by its best passage unless given.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub group_score: Option<GroupScore>,
    /// Options of `"mode": "hybrid"`.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub hybrid: Option<HybridOptions>,
    /// Options of the vector search.
    #[serde(default, deserialize_with = "object")]
    pub search: SearchOptions,
    /// Reranks the first candidates with the collection's cross-encoder.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub rerank: Option<RerankOptions>,
    /// What to return of each passage beside its id and scores.
    #[serde(default = "everything")]
    #[schema(default = json!(["text", "metadata"]))]
    pub include: Vec<IncludeField>,
    /// Returns a fragment of each passage with the words of the query marked.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub highlight: Option<HighlightOptions>,
    /// When the answer is of no more use, counted from the arrival of the request; `x-timeout-ms` says the same.
    /// Default: `server.default_timeout`; limit: `server.max_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub timeout_ms: Option<u64>,
}

impl Default for SearchRequest {
    /// The request in which no field is given; it lacks a query or a vector.
    fn default() -> Self {
        Self {
            query: None,
            vector: None,
            top_k: ten(),
            offset: 0,
            mode: SearchMode::default(),
            filter: None,
            facets: Vec::new(),
            score_threshold: None,
            boosts: Vec::new(),
            sort: None,
            rank_window: None,
            pins: Vec::new(),
            explain: false,
            group_by: None,
            group_size: None,
            group_score: None,
            hybrid: None,
            search: SearchOptions::default(),
            rerank: None,
            include: everything(),
            highlight: None,
            timeout_ms: None,
        }
    }
}

/// Many searches of one collection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"searches": [
    {"query": "how do bees find their way home", "top_k": 3}, {"query": "why is the sky blue", "top_k": 3}
]}))]
pub struct BatchSearchRequest {
    /// The searches, at least one; each may have options of its own, and those with equal options are answered together.
    /// Limit: `limits.batch_queries`.
    #[serde(deserialize_with = "objects")]
    pub searches: Vec<SearchRequest>,
}

/// Reads numbers of any size, so that one beyond f32 becomes infinite and is refused with its place in the vector, like any
/// other value that cannot be compared.
fn singles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<f32>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(from = "f64")]
    struct Single(f32);

    impl From<f64> for Single {
        fn from(value: f64) -> Self {
            Self(value as f32)
        }
    }

    let values = Option::<Vec<Single>>::deserialize(deserializer)?;
    Ok(values.map(|values| values.into_iter().map(|Single(value)| value).collect()))
}

/// The ranking before reranking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "dense")]
pub enum SearchMode {
    /// Nearest vectors.
    #[default]
    Dense,
    /// BM25 over title and text.
    Lexical,
    /// Both, fused.
    Hybrid,
}

/// Options of hybrid search. What is not given is as the server has it for the collection (`collections.NAME.hybrid`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HybridOptions {
    /// How the two rankings become one; `rrf` unless the server says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionMethod>,
    /// The constant of reciprocal rank fusion: a passage at rank r of a source gains w / (k + r). 60 unless the server says
    /// otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub k: Option<u32>,
    /// How much each source counts.
    #[serde(
        default,
        deserialize_with = "object_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub weights: Option<HybridWeights>,
}

/// How the two rankings of a hybrid search become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FusionMethod {
    /// Reciprocal rank fusion: ranks count, scores do not.
    Rrf,
    /// Scores count, each between the worst (0) and the best (1) candidate of its source, as a weighted mean. A source that
    /// lacks a passage gives it 0; where all candidates of a source have one score, each of them has 1.
    Weighted,
}

/// How much each source of a hybrid search counts: numbers from 0 on, one of them above. 1 unless the server says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HybridWeights {
    /// The ranking by vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub dense: Option<f32>,
    /// The ranking by words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub bm25: Option<f32>,
}

/// Options of the vector search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchOptions {
    /// Search exhaustively even where a faster, approximate index exists.
    #[serde(default)]
    #[schema(default = false)]
    pub exact: bool,
    /// How many candidates a walk through a graph keeps: more find more and take longer. Collections without graphs have no use
    /// for it. Limit: `limits.ef`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub ef: Option<usize>,
}

/// Options of reranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"candidates": 50, "timeout_ms": 150, "on_timeout": "skip"}))]
pub struct RerankOptions {
    /// The first so many passages are scored; the rest follow in their order. Limit: `limits.rerank_candidates`.
    #[serde(default = "hundred")]
    #[schema(default = 100, minimum = 1)]
    pub candidates: usize,
    /// The most time reranking may take, inside the request's own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub timeout_ms: Option<u64>,
    /// What happens when it takes longer.
    #[serde(default)]
    pub on_timeout: OnTimeout,
}

impl Default for RerankOptions {
    fn default() -> Self {
        Self {
            candidates: hundred(),
            timeout_ms: None,
            on_timeout: OnTimeout::default(),
        }
    }
}

/// What happens when reranking is not finished in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "skip")]
pub enum OnTimeout {
    /// The order before reranking is returned, and `degraded` says `rerank_skipped`.
    #[default]
    Skip,
    /// The request fails with `deadline_exceeded`.
    Fail,
}

/// A part of a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum IncludeField {
    /// Title and text.
    Text,
    /// Every further field of the record.
    Metadata,
}

/// Which fragments are returned. Words are those that lexical search would find, whatever the mode.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"fields": ["text"], "max_chars": 200}))]
pub struct HighlightOptions {
    /// Of which texts, in the order in which the fragments are returned.
    #[serde(default = "of_text")]
    #[schema(default = json!(["text"]))]
    pub fields: Vec<HighlightField>,
    /// Characters (Unicode scalar values) of a fragment at most. Limit: `limits.highlight_chars`.
    #[serde(default = "two_hundred")]
    #[schema(default = 200, minimum = 1)]
    pub max_chars: usize,
}

impl Default for HighlightOptions {
    fn default() -> Self {
        Self {
            fields: of_text(),
            max_chars: two_hundred(),
        }
    }
}

/// A text of a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HighlightField {
    /// The title.
    Title,
    /// The text.
    Text,
}

/// A fragment of a passage: the part that has the most different words of the query, or else its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "field": "text", "pieces": [{"text": "…foragers steer by the "}, {"text": "sun", "match": true}, {"text": "."}]
}))]
pub struct SearchHighlight {
    /// Where it is from.
    pub field: HighlightField,
    /// Its text, in pieces that are words of the query and pieces that are not; `…` stands where the passage goes on.
    pub pieces: Vec<HighlightPiece>,
}

/// A piece of a fragment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HighlightPiece {
    /// The text, as it stands in the passage.
    pub text: String,
    /// Whether it is a word of the query; absent where it is not.
    #[serde(default, rename = "match", skip_serializing_if = "std::ops::Not::not")]
    pub is_match: bool,
}

/// The passages found, best first, and how they were found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "results": [{
        "id": "bees-3", "score": 0.71, "rank": 1, "scores": {"dense": 0.71},
        "title": "Bees", "text": "Returning foragers steer by the sun.", "metadata": {"lang": "en"}
    }],
    "facets": {"lang": {"en": 812, "de": 20}},
    "total": {"value": 832, "relation": "eq"},
    "degraded": [],
    "warnings": [],
    "plan": "scan",
    "exact": true,
    "usage": {"query_tokens": 9, "rerank_tokens": 0, "truncated": false},
    "timing_ms": {
        "queue": 0.1, "tokenize": 0.1, "encode": 3.8, "filter": 0.1, "search": 0.4, "rerank": 0.0, "fetch": 0.2,
        "total": 4.8
    },
    "collection": "docs",
    "generation": "20261120T195500Z-3f9a1c",
    "model_fingerprint": "sha256:ab12…",
    "request_id": "01K9ZP0Q6W3M4T7V8XKJ2C5D9E"
}))]
pub struct SearchResponse {
    /// The passages, best first; none with `group_by`.
    pub results: Vec<SearchHit>,
    /// The groups, best first, with `group_by`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<SearchGroup>>,
    /// For each field asked for, how many of the passages that pass the filter have each value: at most 100 values, by count
    /// descending, then by value. A passage with several values counts once for each.
    #[serde(default, skip_serializing_if = "Ordered::is_empty")]
    #[schema(value_type = Option<HashMap<String, HashMap<String, u64>>>)]
    pub facets: Ordered<Ordered<u64>>,
    /// How many passages the whole ranking has: those that pass the filter; in lexical search, those with a word of the query;
    /// with a threshold, those above it.
    pub total: SearchTotal,
    /// What was left out for lack of time: `rerank_skipped`, and with it `score_threshold_skipped`, because a threshold for
    /// scores of the cross-encoder says nothing about others. With `group_by`: `groups_missing` where there may be more groups
    /// than were found among 10,000 passages, `group_scores_partial` where passages that were not ranked might count in a sum
    /// or mean.
    pub degraded: Vec<String>,
    /// What may make the answer less than it could be, in words: queries encoded in 8-bit arithmetic against vectors that were
    /// not, or the other way round; facets with more values than are counted.
    pub warnings: Vec<String>,
    /// How vectors were searched, where they were: `scan` or `filtered_scan`, exactly; `graph` or `filtered_graph`, by a walk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Whether the ranking by vectors is exact over the stored rows; `false` where no vectors were searched.
    pub exact: bool,
    /// What the answer cost.
    pub usage: SearchUsage,
    /// Where the time went.
    pub timing_ms: SearchTiming,
    /// The collection that was searched.
    pub collection: String,
    /// The generation that answered; every part of the answer comes from it.
    pub generation: String,
    /// The last position of the collection's write log that was searched.
    #[serde(default)]
    pub log_position: u64,
    /// Fingerprint of the model and texts that the generation was built with.
    pub model_fingerprint: String,
    /// As in the header `x-request-id`.
    pub request_id: String,
}

/// The answers to many searches, all from one generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchSearchResponse {
    /// One for each search, in the order asked.
    pub results: Vec<BatchSearchResult>,
    /// The collection that was searched.
    pub collection: String,
    /// The generation that answered.
    pub generation: String,
    /// Fingerprint of the model and texts that the generation was built with.
    pub model_fingerprint: String,
    /// As in the header `x-request-id`.
    pub request_id: String,
}

/// What became of one search of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum BatchSearchResult {
    /// It was answered; `timing_ms` is that of all searches of the batch with equal options.
    Found(Box<SearchResponse>),
    /// It failed, and the others did not fail with it.
    Failed {
        /// Why; places are those in the search, not in the batch.
        error: Problem,
    },
}

/// How many passages a ranking has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SearchTotal {
    /// The number.
    pub value: u64,
    /// Whether there may be more.
    pub relation: TotalRelation,
}

/// Whether a number is all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TotalRelation {
    /// There are exactly so many.
    Eq,
    /// There are so many at least; nobody looked further.
    Gte,
}

/// One passage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchHit {
    /// Its id in the corpus.
    pub id: String,
    /// The score that the last stage gave it; higher is better.
    pub score: f32,
    /// Its place, from 1; hits skipped by `offset` count.
    pub rank: usize,
    /// The score of every stage that saw it.
    pub scores: HitScores,
    /// What the score is made of, with `explain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<HitExplanation>,
    /// Whether it has its rank by a pin. Its score is 0 where the ranking did not bring it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Where it lies in its document, when documents were split into passages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<HitDocument>,
    /// Title, with `"include": ["text"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Text, with `"include": ["text"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Metadata, with `"include": ["metadata"]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// Fragments, with `highlight`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub highlights: Vec<SearchHighlight>,
}

/// The score of every stage that saw a passage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HitScores {
    /// Inner product, cosine, or negated squared distance, as the collection compares vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<f32>,
    /// BM25.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bm25: Option<f32>,
    /// Fusion of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fused: Option<f32>,
    /// The cross-encoder's score, without what it leaves to the order of the first stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank: Option<f32>,
}

/// What an answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SearchUsage {
    /// Tokens of the query.
    pub query_tokens: usize,
    /// Tokens of all pairs that the cross-encoder read.
    pub rerank_tokens: usize,
    /// Whether the query, or a pair, was cut at the model's limit.
    pub truncated: bool,
}

/// Where the time went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchTiming {
    /// Waiting for the encoder.
    pub queue: f64,
    /// Text to tokens.
    pub tokenize: f64,
    /// Tokens to vector.
    pub encode: f64,
    /// Filter and facets.
    pub filter: f64,
    /// Vector and text to passages, fusion included.
    pub search: f64,
    /// Reranking, its wait included.
    pub rerank: f64,
    /// Reading titles, texts and metadata.
    pub fetch: f64,
    /// All of it.
    pub total: f64,
}

fn ten() -> usize {
    10
}

fn two_hundred() -> usize {
    200
}

fn of_text() -> Vec<HighlightField> {
    vec![HighlightField::Text]
}

fn hundred() -> usize {
    100
}

fn everything() -> Vec<IncludeField> {
    vec![IncludeField::Text, IncludeField::Metadata]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_field_has_its_default() {
        let request: SearchRequest = serde_json::from_str(r#"{"query": "a"}"#).unwrap();
        assert_eq!(
            (request.top_k, request.offset, request.mode),
            (10, 0, SearchMode::Dense)
        );
        assert_eq!(
            request.include,
            [IncludeField::Text, IncludeField::Metadata]
        );
        assert_eq!((request.rerank, request.timeout_ms), (None, None));
        fn absent<T: serde::de::DeserializeOwned>() -> T {
            serde_json::from_str("{}").unwrap()
        }
        assert_eq!(absent::<SearchRequest>(), SearchRequest::default());
        assert_eq!(absent::<RerankOptions>(), RerankOptions::default());
        assert_eq!(absent::<HighlightOptions>(), HighlightOptions::default());
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let body = serde_json::json!({
            "vector": [0.5, -1.0], "top_k": 3, "offset": 2, "mode": "hybrid", "score_threshold": 0.25, "facets": ["lang"],
            "filter": {"must": [
                {"key": "lang", "match": {"any": ["en", "de"]}}, {"exists": {"key": "a"}},
                {"should": [{"key": "year", "range": {"gte": 2020}}]}
            ], "must_not": [{"is_empty": {"key": "author"}}]},
            "boosts": [{"field": "day", "function": "exp_decay", "origin": "now", "scale": "30d", "weight": 0.2}],
            "sort": {"field": "year", "order": "desc"}, "pins": [{"id": "d", "rank": 1}], "explain": true,
            "group_by": "document", "group_score": {"method": "sum"}, "hybrid": {"fusion": "rrf", "weights": {"bm25": 2.0}},
            "search": {"ef": 64}, "rerank": {"candidates": 5, "on_timeout": "fail"}, "include": ["text"],
            "highlight": {"max_chars": 80}, "timeout_ms": 500
        });
        let request: SearchRequest = serde_json::from_value(body).unwrap();
        let written = serde_json::to_string(&request).unwrap();
        assert!(!written.contains("null"), "{written}");
        let read: SearchRequest = serde_json::from_str(&written).unwrap();
        assert_eq!(read, request);
    }

    #[test]
    fn a_field_that_does_nothing_is_refused() {
        for body in [
            r#"{"query": "a", "topk": 3}"#,
            r#"{"query": "a", "filter": {"must": [{"kye": "b"}]}}"#,
            r#"{"query": "a", "filter": {"must": [{"key": "b", "match": {"values": 1}}]}}"#,
            r#"{"query": "a", "hybrid": {"weights": {"lexical": 1}}}"#,
            r#"{"query": "a", "rerank": {"model": "b"}}"#,
            r#"{"query": "a", "search": {"oversample": 2.0}}"#,
        ] {
            let error = serde_json::from_str::<SearchRequest>(body).unwrap_err();
            assert!(
                error.to_string().starts_with("unknown field"),
                "{body}: {error}"
            );
        }
    }
}
