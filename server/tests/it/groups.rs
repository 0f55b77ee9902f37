//! Groups over HTTP.

use serde_json::{Value, json};

use crate::harness::TestServer;

#[test]
fn a_field_groups_passages() {
    let server = TestServer::start();
    let body =
        json!({"query": "the sea", "group_by": "lang", "group_size": 9, "include": ["text"]});
    let answer = server.search(body).ok();
    assert_eq!(answer["results"], json!([]));
    let groups = answer["groups"].as_array().unwrap();
    let mut sizes: Vec<(&str, usize)> = groups
        .iter()
        .map(|group| {
            (
                group["id"].as_str().unwrap(),
                group["hits"].as_array().unwrap().len(),
            )
        })
        .collect();
    sizes.sort();
    assert_eq!(sizes, [("de", 1), ("en", 5), ("fr", 1)]);
    assert_eq!(groups[0]["rank"], 1);
    assert_eq!(groups[0]["score"], groups[0]["hits"][0]["score"]);
    assert!(groups[0]["hits"][0]["text"].is_string());
    let body = json!({"query": "the sea", "group_by": "document", "top_k": 2,
        "group_score": {"method": "sum", "passages": 2}});
    let answer = server.search(body).ok();
    assert_eq!(answer["groups"].as_array().map(Vec::len), Some(2));
    let plain = server.search(json!({"query": "the sea"})).ok();
    assert!(plain.get("groups").is_none());
}

#[test]
fn what_cannot_be_grouped_is_named() {
    let server = TestServer::start();
    let check = |body: Value, pointer: &str| {
        let problem = server.search(body.clone()).problem(422, "validation");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    };
    check(json!({"query": "a", "group_by": "year"}), "/group_by");
    check(json!({"query": "a", "group_by": "nothing"}), "/group_by");
    check(json!({"query": "a", "group_size": 2}), "/group_size");
    check(json!({"query": "a", "group_score": {}}), "/group_score");
    check(
        json!({"query": "a", "group_by": "lang", "group_size": 0}),
        "/group_size",
    );
    let passages =
        json!({"query": "a", "group_by": "lang", "group_score": {"method": "sum", "passages": 0}});
    check(passages, "/group_score/passages");
}
