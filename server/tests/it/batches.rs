//! Many searches in one request.

use openapi::BatchSearchResponse;
use serde_json::{Value, json};
use server::QueueConfig;

use crate::harness::{Answer, TestServer, encoder};
use encoder::{Role, Text};

const BATCH: &str = "/v1/collections/docs/search/batch";

fn batch(server: &TestServer, searches: &[Value]) -> Answer {
    server.post(BATCH, &json!({ "searches": searches }))
}

/// An answer without what differs from one request to the next.
fn lasting(answer: &Value) -> Value {
    let mut answer = answer.clone();
    let fields = answer.as_object_mut().unwrap();
    for name in ["timing_ms", "request_id"] {
        fields.remove(name).unwrap();
    }
    answer
}

#[test]
fn each_search_is_answered_as_it_is_alone() {
    let server = TestServer::start();
    let english = json!({"must": [{"key": "lang", "match": {"value": "en"}}]});
    let vector = encoder("models/tiny-bert").encode_texts(Role::Query, &[Text::Single("silence")]);
    let vector = vector.unwrap().values;
    let searches = [
        json!({"query": "why is the sky blue", "top_k": 3}),
        json!({"query": "yeast", "mode": "lexical"}),
        json!({"query": "silent flight of the owl", "top_k": 3}),
        json!({"query": "bees", "filter": english, "facets": ["lang"], "top_k": 3}),
        json!({"vector": vector, "top_k": 3}),
        json!({"query": "bees", "rerank": {"candidates": 4}}),
        json!({"query": "the long way home over the sea", "rerank": {"candidates": 4}}),
        json!({"query": "bees", "mode": "hybrid", "group_by": "lang"}),
    ];
    let answer = batch(&server, &searches);
    let found = answer.ok();
    let typed: BatchSearchResponse = serde_json::from_str(&answer.text).unwrap();
    assert!(serde_json::to_string(&typed).unwrap() == answer.text);
    let results = found["results"].as_array().unwrap();
    assert_eq!(results.len(), searches.len());
    for (search, together) in searches.iter().zip(results) {
        let alone = server.search(search.clone()).ok();
        assert_eq!(lasting(together), lasting(&alone), "{search}");
        assert_eq!(together["generation"], found["generation"]);
    }
    assert_eq!(found["generation"], answer.header("x-index-generation"));
    let fingerprint = answer.header("x-model-fingerprint");
    assert_eq!(found["model_fingerprint"], fingerprint);
    assert_eq!(found["request_id"], answer.header("x-request-id"));
}

#[test]
fn a_search_that_fails_takes_no_other_with_it() {
    let server = TestServer::start();
    let width = 32;
    let searches = [
        json!({"query": "the sea", "top_k": 1}),
        json!({"query": "the sea", "top_k": 5000}),
        json!({"vector": vec![0.5; width]}),
        json!({"vector": vec![0.5; width + 1]}),
        json!({"vector": vec![0.0; width]}),
        json!({"query": "the sea", "filter": {"must": [{"exists": {"key": "no"}}]}}),
        json!({}),
    ];
    let found = batch(&server, &searches).ok();
    let results = found["results"].as_array().unwrap();
    let pointer = |result: &Value| {
        let error = &result["error"];
        assert_eq!(
            (&error["status"], &error["instance"]),
            (&json!(422), &json!(BATCH))
        );
        assert_eq!(error["request_id"], found["request_id"]);
        error["errors"][0]["pointer"].as_str().unwrap().to_owned()
    };
    for (place, expected) in [
        (1, "/top_k"),
        (3, "/vector"),
        (4, "/vector"),
        (5, "/filter/must/0/exists/key"),
        (6, "/query"),
    ] {
        assert_eq!(pointer(&results[place]), expected, "{place}");
    }
    assert_eq!(results[0]["results"].as_array().map(Vec::len), Some(1));
    assert_eq!(results[2]["results"].as_array().map(Vec::len), Some(6));
}

#[test]
fn a_batch_that_cannot_be_read_is_refused() {
    let server = TestServer::start_with(
        |config| config.limits.batch_queries = 2,
        QueueConfig::default(),
    );
    let one = json!({"query": "a"});
    let many = batch(&server, &[one.clone(), one.clone(), one.clone()]);
    let problem = many.problem(413, "batch_too_large");
    assert_eq!(problem["errors"][0]["setting"], "limits.batch_queries");
    for (searches, pointer) in [
        (json!([]), "/searches"),
        (json!([one, {"query": 1}]), "/searches/1/query"),
        (json!([{"query": "a", "topk": 3}]), "/searches/0/topk"),
        (json!([["a"]]), "/searches/0"),
    ] {
        let answer = server.post(BATCH, &json!({ "searches": searches }));
        let problem = answer.problem(422, "validation");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{searches}");
    }
    let unknown = server.post(
        "/v1/collections/no/search/batch",
        &json!({"searches": [one]}),
    );
    unknown.problem(404, "not_found");
}
