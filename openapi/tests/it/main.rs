//! Requests that were right once: each change to a valid body reads as an error, or as a request that can be written again.

mod hostile;

use proptest::prelude::*;
use proptest::sample::{Index, select};

const BODIES: [&str; 22] = [
    r#"{"query": "a", "vector": null, "top_k": 3, "offset": 2, "mode": "hybrid", "score_threshold": 0.25, "facets": ["lang"],
        "filter": {"must": [{"key": "lang", "match": {"any": ["en", 1]}}, {"should": [{"key": "y", "range": {"gte": 2020}}]}]},
        "hybrid": {"fusion": "rrf", "k": 60, "weights": {"bm25": 2.0}}, "explain": true, "timeout_ms": 500}"#,
    r#"{"vector": [0.5, -1.0, 1e39], "sort": {"field": "year", "order": "desc"}, "pins": [{"id": "d", "rank": 1}],
        "boosts": [{"field": "day", "function": "exp_decay", "origin": "now", "scale": "30d", "weight": 0.2}],
        "group_by": "document", "group_score": {"method": "sum", "passages": 2}, "search": {"ef": 64, "exact": false},
        "rerank": {"candidates": 5, "on_timeout": "fail"}, "include": ["text"], "highlight": {"fields": ["title"], "max_chars": 80}}"#,
    r#"{"searches": [{"query": "a"}, {"vector": [1, 2], "top_k": 1}]}"#,
    r#"{"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 8, "input_type": "query"}"#,
    r#"{"model": "m", "input": [[1, 2], [3]]}"#,
    r#"{"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1, "return_documents": true}"#,
    r#"{"_id": "a", "title": "b", "text": "c", "vector": [0.25], "lang": ["en", null, {"x": 1.5}]}"#,
    r#"[{"_id": "a", "text": "c"}, {"_id": "b", "text": "d", "year": 1e3}]"#,
    r#"{"ids": ["a", "b"]}"#,
    r#"{"feedback": [{"request_id": "a", "place": 1, "id": "d", "rank": 3}, {"query": "q", "id": "d", "grade": 2}]}"#,
    r#"{"encoder": "m", "schema": {"fields": {"lang": "keyword"}}, "stride": 64, "graph": true}"#,
    r#"{"generation": "g", "gate": false}"#,
    r#"{"generation": "g", "share": 0.05}"#,
    r#"{"must": [{"key": "lang", "match": {"value": "en"}}, {"exists": {"key": "a"}}], "should": null,
        "must_not": [{"is_empty": {"key": "author"}}, {"must": [{"key": "x", "match": {"except": [true]}}]}]}"#,
    r#"{"field": "n", "function": "log1p", "stage": "rerank", "offset": 0, "decay": 0.5}"#,
    r#"{"inputs": ["a"], "normalize": false, "truncate": true, "truncation_direction": "Left", "prompt_name": "p"}"#,
    r#"{"query": "a", "texts": ["b"], "raw_scores": true, "return_text": true}"#,
    r#"{"inputs": [["a", "b"], ["c"]], "raw_scores": true}"#,
    r#"{"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {"truncate": true}}"#,
    r#"{"inputs": "a", "add_special_tokens": false}"#,
    r#"{"ids": [[1, 2], [3]], "skip_special_tokens": true}"#,
    r#"{"model": "m", "query": "a", "documents": ["b"], "max_tokens_per_doc": 9}"#,
];

/// What takes the place of a piece of a body.
const PIECES: [&str; 20] = [
    "",
    "null",
    "true",
    "[",
    "]",
    "{",
    "}",
    "{}",
    "[]",
    "\"",
    ",",
    ":",
    "-1",
    "0.1",
    "1e39",
    "1e400",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "é",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bodies_are_errors_or_can_be_written_again(
        body in select(BODIES.to_vec()),
        changes in prop::collection::vec((any::<Index>(), 0usize..6, select(PIECES.to_vec())), 0..4),
    ) {
        let mut bytes = body.as_bytes().to_vec();
        for (at, n_removed, piece) in changes {
            let start = at.index(bytes.len() + 1);
            let end = (start + n_removed).min(bytes.len());
            bytes.splice(start..end, piece.bytes());
        }
        hostile::read_native(&bytes);
        hostile::read_filters(&bytes);
        hostile::read_foreign(&bytes);
    }
}
