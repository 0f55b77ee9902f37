//! Requests that were right once: whatever becomes of them, the server answers as the OpenAPI document says, and goes on.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::TestServer;

const BODIES: [(&str, &str); 14] = [
    (
        "/v1/collections/docs/search",
        r#"{"query": "sea", "mode": "hybrid", "filter": {"must": [{"key": "lang", "match": {"any": ["en", "de"]}}], "must_not": [{"key": "year", "range": {"gte": 1900, "lt": 1950.5}}]}, "facets": ["lang"], "explain": true}"#,
    ),
    (
        "/v1/collections/docs/search",
        r#"{"query": "sea", "filter": {"should": [{"exists": {"key": "day"}}, {"is_empty": {"key": "year"}}]}, "boosts": [{"field": "year", "function": "exp_decay", "origin": 1973, "scale": 10}], "sort": {"field": "day", "order": "desc"}, "rerank": {"candidates": 2, "timeout_ms": 900}}"#,
    ),
    (
        "/v1/collections/docs/search",
        r#"{"query": "sea", "mode": "lexical", "group_by": "lang", "group_size": 2, "group_score": {"method": "sum", "passages": 2}, "pins": [{"id": "owls", "rank": 1}], "highlight": {"fields": ["title", "text"], "max_chars": 9}}"#,
    ),
    (
        "/v1/collections/docs/search/batch",
        r#"{"searches": [{"query": "sea", "top_k": 2}, {"query": "sun", "offset": 1, "include": ["text"]}]}"#,
    ),
    (
        "/v1/collections/docs/documents",
        r#"[{"_id": "tides", "title": "Tides", "text": "The sea.", "lang": ["en", "de"], "year": 1687, "day": "1973-10-11"}]"#,
    ),
    (
        "/v1/collections/docs/documents/delete",
        r#"{"ids": ["nosuch"]}"#,
    ),
    (
        "/v1/embeddings",
        r#"{"model": "tiny", "input": ["sea", "sun"], "encoding_format": "base64", "dimensions": 8}"#,
    ),
    (
        "/v1/embeddings",
        r#"{"model": "tiny", "input": [[5, 6], [7]]}"#,
    ),
    (
        "/v1/rerank",
        r#"{"query": "sea", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": true}"#,
    ),
    (
        "/v2/rerank",
        r#"{"model": "tiny-cross", "query": "sea", "documents": ["a"], "max_tokens_per_doc": 9}"#,
    ),
    (
        "/embed",
        r#"{"inputs": ["sea"], "normalize": true, "truncate": true, "truncation_direction": "Left", "dimensions": 16}"#,
    ),
    (
        "/rerank",
        r#"{"query": "sea", "texts": ["a", "b"], "raw_scores": true, "return_text": true}"#,
    ),
    ("/predict", r#"{"inputs": [["a", "b"], ["c"]]}"#),
    (
        "/similarity",
        r#"{"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}}"#,
    ),
];

/// What takes the place of a piece of a body.
const PIECES: [&str; 18] = [
    "",
    "null",
    "true",
    "[",
    "]",
    "{}",
    "[]",
    "\"",
    ",",
    "-1",
    "0",
    "0.1",
    "1e39",
    "1e400",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "é",
];

#[test]
fn changed_bodies_have_documented_answers() {
    let server = TestServer::start();
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..2_800 {
        let (path, body) = BODIES[round % BODIES.len()];
        let mut bytes = body.as_bytes().to_vec();
        for _ in 0..random.random_range(1..4) {
            // Mostly where a value begins, so that most bodies stay JSON.
            let values = (1..bytes.len()).filter(|&at| b" [".contains(&bytes[at - 1]));
            let values: Vec<usize> = values.collect();
            let start = match values.is_empty() || random.random_range(0..4) == 0 {
                true => random.random_range(0..=bytes.len()),
                false => values[random.random_range(0..values.len())],
            };
            let value = bytes[start..].iter().position(|byte| b",]}".contains(byte));
            let end = match random.random_range(0..4) {
                0 => (start + random.random_range(0..4)).min(bytes.len()),
                _ => start + value.unwrap_or(0),
            };
            let piece = PIECES[random.random_range(0..PIECES.len())];
            bytes.splice(start..end, piece.bytes());
        }
        let answer = server.post_with(path, "", &bytes);
        let sent = String::from_utf8_lossy(&bytes);
        assert_ne!(answer.status, 500, "{path}: {sent}");
    }
}
