//! Fragments with the words of the query marked.

use serde_json::{Value, json};

use crate::harness::TestServer;

#[test]
fn every_kind_of_hit_shows_where_the_words_are() {
    let server = TestServer::start();
    let highlight = json!({"fields": ["title", "text"], "max_chars": 24});
    let expected = json!([
        {"field": "title", "pieces": [{"text": "Bees", "match": true}]},
        {"field": "text", "pieces": [{"text": "Returning", "match": true}, {"text": " foragers steer…"}]},
    ]);
    for further in [
        json!({}),
        json!({"mode": "hybrid", "include": []}),
        json!({"mode": "lexical", "include": ["metadata"]}),
    ] {
        let mut body = json!({"query": "the bee returns", "highlight": highlight});
        body.as_object_mut()
            .unwrap()
            .extend(further.as_object().unwrap().clone());
        let found = server.search(body.clone()).ok();
        let hits = found["results"].as_array().unwrap();
        let bees = hits.iter().find(|hit| hit["id"] == "bees").unwrap();
        assert_eq!(bees["highlights"], expected, "{body}");
        body["group_by"] = json!("lang");
        let grouped = server.search(body).ok();
        let groups = grouped["groups"].as_array().unwrap();
        let german = groups.iter().find(|group| group["id"] == "de").unwrap();
        assert_eq!(german["hits"][0]["highlights"], expected);
    }
    let plain = server.search(json!({"query": "the bee returns"})).ok();
    assert!(plain["results"][0].get("highlights").is_none());
    let body = json!({"query": "zzz", "highlight": {}, "top_k": 1});
    let unmarked = server.search(body).ok();
    let hit = &unmarked["results"][0];
    let whole = json!([{"field": "text", "pieces": [{"text": hit["text"]}]}]);
    assert_eq!(hit["highlights"], whole);
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let server = TestServer::start();
    let check = |body: Value, pointer: &str, code: &str| {
        let problem = server.search(body.clone()).problem(422, "validation");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["pointer"], &error["code"]),
            (&json!(pointer), &json!(code)),
            "{body}"
        );
    };
    let with = |highlight: Value| json!({"query": "a", "highlight": highlight});
    check(
        with(json!({"max_chars": 0})),
        "/highlight/max_chars",
        "too_small",
    );
    check(
        with(json!({"max_chars": 1001})),
        "/highlight/max_chars",
        "too_large",
    );
    check(
        with(json!({"fields": ["lang"]})),
        "/highlight/fields/0",
        "unknown_value",
    );
    check(
        with(json!({"fields": ["text", "text"]})),
        "/highlight/fields/1",
        "duplicate",
    );
    check(
        json!({"vector": vec![0.5; 32], "highlight": {}}),
        "/highlight",
        "conflict",
    );
}
