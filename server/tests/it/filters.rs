//! Filters, facets, thresholds and fusion over HTTP.

use serde_json::{Value, json};
use server::QueueConfig;

use crate::harness::TestServer;
use crate::ids;

fn sorted_ids(answer: &Value) -> Vec<&str> {
    let mut ids = ids(answer);
    ids.sort();
    ids
}

#[test]
fn a_filter_narrows_every_mode_and_facets_count_what_is_left() {
    let server = TestServer::start();
    let filter = json!({
        "must": [{"key": "lang", "match": {"any": ["en", "fr"]}}],
        "should": [
            {"key": "year", "range": {"gte": 1687.0, "lt": 1974}},
            {"must_not": [{"exists": {"key": "year"}}], "must": [{"key": "lang", "match": {"except": ["en"]}}]},
        ],
        "must_not": null,
    });
    for mode in ["dense", "hybrid"] {
        let body = json!({"query": "the sea", "mode": mode, "filter": filter, "facets": ["lang", "year"], "top_k": 2});
        let answer = server.search(body).ok();
        assert_eq!(answer["total"], json!({"value": 3, "relation": "eq"}));
        assert_eq!(answer["results"].as_array().map(Vec::len), Some(2));
        assert_eq!(answer["facets"]["lang"], json!({"en": 2, "de": 1, "fr": 1}));
        assert_eq!(answer["facets"]["year"], json!({"1687": 1, "1973": 1}));
        assert!(answer["timing_ms"]["filter"].is_number());
        let whole = json!({"query": "the sea", "mode": mode, "filter": filter});
        let whole = server.search(whole).ok();
        assert_eq!(sorted_ids(&whole), ["bees", "bread", "tides"], "{mode}");
        assert!(whole.get("facets").is_none());
    }
    let words = |filter: Value| {
        let body = json!({"query": "sea sun", "mode": "lexical", "filter": filter});
        server.search(body).ok()
    };
    assert_eq!(sorted_ids(&words(json!({}))), ["bees", "tides"]);
    let day = json!({"must": [{"key": "day", "range": {"gt": "1973-10-10T23:59:59.5Z", "lte": "1973-10-11T01:00:00+01:00"}}]});
    assert_eq!(sorted_ids(&words(day)), ["bees"]);
    let none = words(json!({"must": [{"key": "lang", "match": {"value": "nl"}}]}));
    assert_eq!(
        (&none["results"], &none["total"]["value"]),
        (&json!([]), &json!(0))
    );
    let empty = json!({"must": [{"is_empty": {"key": "year"}}]});
    let body = json!({"query": "a", "filter": empty});
    assert_eq!(server.search(body).ok()["total"]["value"], 4);
}

#[test]
fn a_threshold_keeps_hits_that_score_as_much() {
    let server = TestServer::start();
    let whole = server.search(json!({"query": "the sea"})).ok();
    let threshold = &whole["results"][2]["score"];
    let body = json!({"query": "the sea", "score_threshold": threshold});
    let kept = server.search(body).ok();
    assert_eq!(ids(&kept), ids(&whole)[..3]);
    assert_eq!(kept["total"], json!({"value": 3, "relation": "eq"}));
}

#[test]
fn weights_and_fusion_come_from_the_request_else_from_the_collection() {
    let server = TestServer::start();
    let search = |collection: &str, hybrid: Value| {
        let body = json!({"query": "yeast sea", "mode": "hybrid", "hybrid": hybrid, "top_k": 6});
        server
            .post(&format!("/v1/collections/{collection}/search"), &body)
            .ok()
    };
    let scores = |answer: &Value| -> Vec<f64> {
        let hits = answer["results"].as_array().unwrap().iter();
        hits.map(|hit| hit["score"].as_f64().unwrap()).collect()
    };
    let explicit = json!({"fusion": "weighted", "weights": {"dense": 0, "bm25": 1}});
    let explicit = search("docs", explicit);
    let configured = search("weighted", Value::Null);
    assert_eq!(explicit["results"], configured["results"]);
    // Two passages have a word of the query; the others are there with nothing.
    assert_eq!((scores(&explicit)[0], scores(&explicit).len()), (1.0, 6));
    assert_eq!(scores(&explicit)[2..], [0.0; 4]);
    let ranks = search(
        "weighted",
        json!({"fusion": "rrf", "k": 9, "weights": {"dense": 1}}),
    );
    let both = search("docs", json!({"k": 9}));
    assert_eq!(ranks["results"], both["results"]);
    assert!(scores(&both)[0] > 0.1, "{both}");
}

#[test]
fn what_is_wrong_in_a_filter_is_placed_at_its_leaf() {
    let server = TestServer::start();
    let must = |condition: Value| json!({"query": "a", "filter": {"must": [{"exists": {"key": "lang"}}, condition]}});
    for (body, pointer, code) in [
        (
            must(json!({"kye": "lang"})),
            "/filter/must/1/kye",
            "unknown_field",
        ),
        (
            must(json!({"key": "lang", "match": {"values": 1}})),
            "/filter/must/1/match/values",
            "unknown_field",
        ),
        (must(json!({"key": 1})), "/filter/must/1/key", "wrong_type"),
        (must(json!(["lang"])), "/filter/must/1", "wrong_type"),
        (must(json!({})), "/filter/must/1", "missing"),
        (must(json!({"key": "lang"})), "/filter/must/1", "missing"),
        (
            must(json!({"match": {"value": 1}})),
            "/filter/must/1/key",
            "missing",
        ),
        (
            must(json!({"key": "lang", "match": {"value": null}})),
            "/filter/must/1/match",
            "missing",
        ),
        (
            must(json!({"key": "lang", "match": {"value": "a", "any": []}})),
            "/filter/must/1/match",
            "conflict",
        ),
        (
            must(json!({"key": "year", "range": {}})),
            "/filter/must/1/range",
            "missing",
        ),
        (
            must(json!({"key": "year", "range": {"gt": 1}, "match": {"value": 1}})),
            "/filter/must/1",
            "conflict",
        ),
        (
            must(json!({"key": "lang", "is_empty": {"key": "lang"}})),
            "/filter/must/1",
            "conflict",
        ),
        (
            must(json!({"should": [{"key": "langg", "match": {"value": "en"}}]})),
            "/filter/must/1/should/0/key",
            "unknown_value",
        ),
        (
            must(json!({"key": "lang", "match": {"any": ["en", 3]}})),
            "/filter/must/1/match/any/1",
            "wrong_type",
        ),
        (
            must(json!({"key": "year", "range": {"gte": "soon"}})),
            "/filter/must/1/range/gte",
            "wrong_type",
        ),
        (
            must(json!({"key": "lang", "range": {"gte": "a"}})),
            "/filter/must/1/range",
            "unsupported",
        ),
        (
            json!({"query": "a", "facets": ["lang", "day"]}),
            "/facets/1",
            "unsupported",
        ),
        (
            json!({"query": "a", "facets": ["lang", "lang"]}),
            "/facets/1",
            "duplicate",
        ),
        (
            json!({"query": "a", "facets": vec!["lang"; 17]}),
            "/facets",
            "too_large",
        ),
        (
            json!({"query": "a", "mode": "hybrid", "hybrid": {"fusion": "weighted", "k": 3}}),
            "/hybrid/k",
            "conflict",
        ),
        (
            json!({"query": "a", "mode": "hybrid", "hybrid": {"weights": {"dense": 0, "bm25": 0}}}),
            "/hybrid/weights",
            "unsupported",
        ),
    ] {
        let problem = server.search(body.clone()).problem(422, "validation");
        assert_eq!(
            problem["errors"][0]["pointer"], pointer,
            "{body}: {problem}"
        );
        assert_eq!(problem["errors"][0]["code"], code, "{body}: {problem}");
    }
    let unknown = server
        .search(must(json!({"key": "langg", "match": {"value": "en"}})))
        .json();
    let detail = unknown["detail"].as_str().unwrap();
    assert!(
        detail.contains("did you mean `lang`? (fields: day, lang, year)"),
        "{detail}"
    );
    let both = json!({"query": "a", "filter": {"must": [{"key": "lang"}], "should": [{}]}});
    let both = server.search(both).json();
    assert_eq!(both["errors"].as_array().map(Vec::len), Some(2), "{both}");
}

#[test]
fn the_size_of_a_filter_is_limited_by_settings() {
    let server = TestServer::start_with(
        |config| {
            config.limits.filter_depth = 2;
            config.limits.filter_conditions = 3;
            config.limits.filter_values = 2;
        },
        QueueConfig::default(),
    );
    let leaf = || json!({"exists": {"key": "lang"}});
    let many = |values: usize| json!({"key": "lang", "match": {"any": vec!["en"; values]}});
    for (filter, pointer, setting) in [
        (
            json!({"must": [{"must": [{"must": [leaf()]}]}]}),
            "/filter/must/0/must/0",
            "limits.filter_depth",
        ),
        (
            json!({"must": vec![leaf(); 4]}),
            "/filter",
            "limits.filter_conditions",
        ),
        (
            json!({"must": [many(3)]}),
            "/filter",
            "limits.filter_values",
        ),
    ] {
        let body = json!({"query": "a", "filter": filter});
        let problem = server.search(body).problem(422, "validation");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["pointer"], &error["setting"]),
            (&json!(pointer), &json!(setting)),
            "{problem}"
        );
        assert_eq!(error["code"], "too_large");
        assert!(error["given"].as_u64() > error["limit"].as_u64());
    }
    server
        .search(json!({"query": "a", "filter": {"must": [{"should": vec![leaf(); 3]}]}}))
        .ok();
}
