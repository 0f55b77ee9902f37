//! Boosts, order and pins over HTTP.

use retriever::{Condition, Filter, Test};
use serde_json::{Value, json};
use server::{ApiKey, Scope};

use crate::harness::TestServer;
use crate::ids;
use crate::security::{bearer, key, keys, start};

fn pinned(answer: &Value) -> Vec<&str> {
    let hits = answer["results"].as_array().unwrap().iter();
    let pinned = hits.filter(|hit| hit["pinned"] == true);
    pinned.map(|hit| hit["id"].as_str().unwrap()).collect()
}

#[test]
fn a_boost_is_explained_and_pages_and_batches_agree() {
    let server = TestServer::start();
    let search = |extra: Value| {
        let mut body = json!({
            "query": "the sea", "explain": true,
            "boosts": [
                {"field": "day", "function": "exp_decay", "origin": "1973-10-21", "scale": "10d", "decay": 0.25, "weight": 8},
                {"field": "year", "function": "log1p", "weight": -0.1},
            ],
        });
        let entries = extra.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(entries);
        body
    };
    let whole = server.search(search(json!({}))).ok();
    assert_eq!(ids(&whole)[0], "bees");
    let first = &whole["results"][0];
    let explanation = &first["explanation"];
    let decay = json!({"field": "day", "function": "exp_decay", "stage": "retrieval", "input": 119_145_600.0,
        "value": 0.25, "contribution": 2.0});
    assert_eq!(explanation["boosts"][0], decay);
    let log = &explanation["boosts"][1];
    assert_eq!(log["input"], 1973.0);
    let expected = 1974_f64.ln();
    assert!((log["value"].as_f64().unwrap() - expected).abs() < 1e-12);
    let score = explanation["first_stage"].as_f64().unwrap() + 2.0 - 0.1 * expected;
    assert!((first["score"].as_f64().unwrap() - score).abs() < 1e-6);
    let mut hits = whole["results"].as_array().unwrap().iter();
    let bread = hits.find(|hit| hit["id"] == "bread").unwrap();
    let nothing = json!({"field": "day", "function": "exp_decay", "stage": "retrieval", "value": 0.0, "contribution": 0.0});
    assert_eq!(bread["explanation"]["boosts"][0], nothing);

    let page = |offset| search(json!({"top_k": 2, "offset": offset}));
    let pages = [0, 2, 4].map(|offset| server.search(page(offset)).ok());
    let found: Vec<&str> = pages.iter().flat_map(ids).collect();
    assert_eq!(found, ids(&whole));
    let batch = json!({"searches": [page(0), page(2), page(4)]});
    let batch = server
        .post("/v1/collections/docs/search/batch", &batch)
        .ok();
    let answers = batch["results"].as_array().unwrap();
    assert_eq!(answers.iter().flat_map(ids).collect::<Vec<_>>(), found);
    let plain = server.search(json!({"query": "the sea"})).ok();
    assert!(plain["results"][0].get("explanation").is_none());
    let late = json!({"rerank": {"candidates": 6}, "boosts": [
        {"field": "year", "function": "linear", "weight": 1e3, "stage": "rerank"}
    ]});
    let reranked = server.search(search(late)).ok();
    assert_eq!(ids(&reranked)[..2], ["bees", "tides"]);
}

#[test]
fn an_order_puts_what_has_no_value_last() {
    let server = TestServer::start();
    for (field, order, expected) in [
        ("year", "desc", ["bees", "tides", "bread"]),
        ("year", "asc", ["tides", "bees", "bread"]),
        // Two languages: the smaller counts in one direction, the greater in the other.
        ("lang", "asc", ["bees", "tides", "sky"]),
        ("lang", "desc", ["bread", "tides", "bees"]),
        ("day", "asc", ["bees", "tides", "bread"]),
    ] {
        let body =
            json!({"query": "the sea", "top_k": 3, "sort": {"field": field, "order": order}});
        assert_eq!(ids(&server.search(body).ok()), expected, "{field} {order}");
    }
    let body = json!({"query": "the sea", "rank_window": 2, "sort": {"field": "year"}});
    let answer = server.search(body).ok();
    assert_eq!(answer["total"], json!({"value": 2, "relation": "gte"}));
}

#[test]
fn pins_pass_the_filters_of_request_and_key() {
    let english = Condition::Field {
        key: "lang".to_owned(),
        test: Test::Match(json!("en")),
    };
    let filter = Filter {
        must: vec![english],
        ..Filter::default()
    };
    let tenant = ApiKey {
        filter: Some(filter),
        ..key("tenant", &[Scope::Search])
    };
    let server = start(keys(vec![tenant]));
    let search = |body: Value| {
        let (path, body) = ("/v1/collections/docs/search", body.to_string());
        server
            .post_with(path, &bearer("tenant"), body.as_bytes())
            .ok()
    };
    let pins =
        json!([{"id": "bread", "rank": 1}, {"id": "glass", "rank": 2}, {"id": "sky", "rank": 9}]);
    let answer = search(json!({"query": "the sea", "pins": pins}));
    // `bread` is another tenant's.
    assert_eq!(pinned(&answer), ["glass", "sky"]);
    assert_eq!((ids(&answer)[1], ids(&answer).len()), ("glass", 5));
    assert_eq!(ids(&answer)[4], "sky");
    let filter = json!({"must": [{"key": "year", "range": {"gte": 1}}]});
    let answer = search(json!({"query": "the sea", "pins": pins, "filter": filter}));
    assert_eq!(pinned(&answer), [""; 0]);
    let body = json!({"query": "sea", "mode": "lexical", "pins": pins, "group_by": "document"});
    let groups = search(body);
    let group = &groups["groups"][1];
    assert_eq!(
        (&group["id"], &group["pinned"]),
        (&json!("glass"), &json!(true))
    );
}

#[test]
fn what_is_wrong_with_an_order_is_placed() {
    let server = TestServer::start();
    let check = |extra: Value, pointer: &str, code: &str| {
        let mut body = json!({"query": "a"});
        let entries = extra.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(entries);
        let problem = server.search(body).problem(422, "validation");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["pointer"], &error["code"]),
            (&json!(pointer), &json!(code)),
            "{extra}"
        );
    };
    let boost = |boost: Value| json!({"boosts": [{"field": "year", "function": "linear"}, boost]});
    let decay = |entry: &str, value: Value| {
        let mut decay =
            json!({"field": "day", "function": "gauss_decay", "origin": "now", "scale": "30d"});
        decay[entry] = value;
        boost(decay)
    };
    check(
        boost(json!({"field": "year", "function": "log2"})),
        "/boosts/1/function",
        "unknown_value",
    );
    check(
        boost(json!({"field": "yaer", "function": "log1p"})),
        "/boosts/1/field",
        "unknown_value",
    );
    check(
        boost(json!({"field": "lang", "function": "log1p"})),
        "/boosts/1/field",
        "unsupported",
    );
    check(
        boost(json!({"field": "day", "function": "log1p"})),
        "/boosts/1/field",
        "unsupported",
    );
    check(
        boost(json!({"field": "year", "function": "exp_decay", "scale": 3})),
        "/boosts/1/origin",
        "missing",
    );
    check(
        boost(json!({"field": "year", "function": "linear", "scale": 3})),
        "/boosts/1/scale",
        "conflict",
    );
    check(
        boost(json!({"field": "year", "function": "linear", "stage": "rerank"})),
        "/boosts/1/stage",
        "conflict",
    );
    check(
        decay("origin", json!("soon")),
        "/boosts/1/origin",
        "wrong_type",
    );
    check(decay("scale", json!(30)), "/boosts/1/scale", "wrong_type");
    check(decay("scale", json!("0d")), "/boosts/1/scale", "wrong_type");
    check(
        decay("offset", json!("1 year")),
        "/boosts/1/offset",
        "wrong_type",
    );
    check(decay("decay", json!(1)), "/boosts/1/decay", "wrong_type");
    check(
        decay("midpoint", json!(1)),
        "/boosts/1/midpoint",
        "unknown_field",
    );
    let many = vec![json!({"field": "year", "function": "linear"}); 17];
    check(json!({"boosts": many}), "/boosts", "too_large");
    check(
        json!({"sort": {"field": "titel"}}),
        "/sort/field",
        "unknown_value",
    );
    check(
        json!({"sort": {"field": "year", "order": "up"}}),
        "/sort/order",
        "unknown_value",
    );
    check(json!({"rank_window": 5}), "/rank_window", "conflict");
    check(
        json!({"rank_window": 0, "sort": {"field": "year"}}),
        "/rank_window",
        "too_small",
    );
    check(
        json!({"pins": [{"id": "a", "rank": 0}]}),
        "/pins/0/rank",
        "too_small",
    );
    check(
        json!({"pins": [{"id": "a", "rank": 1}, {"id": "b", "rank": 1}]}),
        "/pins/1/rank",
        "duplicate",
    );
    check(
        json!({"pins": [{"id": "a", "rank": 1}, {"id": "a", "rank": 2}]}),
        "/pins/1/id",
        "duplicate",
    );
    check(json!({"pins": ["a"]}), "/pins/0", "wrong_type");
}
