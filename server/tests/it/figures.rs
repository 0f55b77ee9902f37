//! The figures of `/metrics`, and what depends on them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use server::{AuthConfig, QueryLogConfig, QueueConfig, Scope};

use crate::SEARCH;
use crate::harness::{PATIENCE, TestServer, build, encoder, lossy_encoder, open};
use crate::security::{ask, bearer, key, keys};

fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("trawl_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_dashboard_asks_for_figures_that_are_there() {
    let auth = AuthConfig {
        public: vec!["metrics".to_owned()],
        ..keys(vec![key("all", &[Scope::Admin])])
    };
    let folder = tempfile::tempdir().unwrap();
    let log = QueryLogConfig::new(folder.path().join("queries.jsonl"));
    // No request may wait for this model, so that those of people never reach it.
    let hurried = QueueConfig {
        max_wait: Duration::ZERO,
        ..QueueConfig::default()
    };
    let model = encoder("models/tiny-bert");
    let server = TestServer::start_set(
        |config| config.check_interval = Duration::from_millis(20),
        |server| {
            server.set_query_log(&log).unwrap();
            server.add_encoder("hurried", model, hurried).unwrap();
        },
    );
    server.control.set_auth(auth).unwrap();
    let query = json!({"query": "a"});
    ask(&server, "POST", SEARCH, &bearer("all"), &query).ok();
    let body = json!({"model": "hurried", "input": "a tide"}).to_string();
    while server
        .get("/metrics")
        .text
        .find("trawl_queue_dropped_total{")
        .is_none()
    {
        let headers = format!("x-priority: interactive\r\n{}", bearer("all"));
        server.post_with("/v1/embeddings", &headers, body.as_bytes());
    }
    let there = names(&server.get("/metrics").text);
    let dashboard = include_str!("../../../docker/grafana/trawl.json");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    let mut n_figures = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            for name in names(target["expr"].as_str().unwrap()) {
                assert!(there.contains(&name), "{name} is not in {there:?}");
                n_figures += 1;
            }
        }
    }
    assert!(n_figures > 12, "{n_figures}");
}

#[test]
fn a_query_asked_again_is_remembered() {
    let server = TestServer::start();
    let search = |query: &str| server.search(json!({"query": query})).ok();
    let first = search("the tide comes in");
    let again = search("the tide comes in");
    assert_eq!(first["results"], again["results"]);
    assert_eq!(first["usage"], again["usage"]);
    assert_eq!(again["timing_ms"]["encode"], 0.0);
    search("another one");
    let figures = server.get("/metrics").text;
    assert!(
        figures.contains("trawl_query_cache_total{result=\"hit\"} 1"),
        "{figures}"
    );
    assert!(
        figures.contains("trawl_query_cache_total{result=\"miss\"} 2"),
        "{figures}"
    );
    let server = TestServer::start_set(|config| config.query_cache_bytes = 0, |_| {});
    for _ in 0..2 {
        server.search(json!({"query": "a"})).ok();
    }
    assert!(
        server
            .get("/metrics")
            .text
            .contains("trawl_query_cache_total{result=\"hit\"} 0")
    );
}

#[test]
fn a_query_is_remembered_for_the_arithmetic_that_encoded_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = build(folder.path(), &encoder("models/tiny-bert"));
    let server = TestServer::start_set(
        |_| {},
        |server| {
            let queue = QueueConfig {
                max_wait: PATIENCE,
                ..QueueConfig::default()
            };
            server.add_encoder("lossy", lossy_encoder(), queue).unwrap();
            let retriever = open(&root);
            let added = server.add_collection("rough", retriever, Some("lossy"), None);
            added.unwrap();
        },
    );
    for collection in ["docs", "rough"] {
        let path = format!("/v1/collections/{collection}/search");
        server.post(&path, &json!({"query": "the tide"})).ok();
    }
    let figures = server.get("/metrics").text;
    assert!(
        figures.contains("trawl_query_cache_total{result=\"miss\"} 2"),
        "{figures}"
    );
}

#[test]
fn vectors_and_scores_say_what_they_took() {
    let server = TestServer::start();
    let rerank = json!({"model": "tiny-cross", "query": "a", "documents": ["b"]});
    for (path, body, last) in [
        (
            "/v1/embeddings",
            json!({"model": "tiny", "input": "a"}),
            "encode",
        ),
        ("/v1/rerank", rerank.clone(), "rerank"),
        ("/v2/rerank", rerank, "rerank"),
    ] {
        let answer = server.post(path, &body);
        answer.ok();
        for stage in ["queue", "tokenize", last] {
            let stage = format!("{stage};dur=");
            assert!(
                answer.header("server-timing").contains(&stage),
                "{answer:?}"
            );
        }
    }
    let figures = server.get("/metrics").text;
    let counted = "trawl_stage_seconds_count{stage=\"rerank\"} 2";
    assert!(figures.contains(counted), "{figures}");
}

#[test]
fn times_and_sizes_of_batches_are_told_in_their_own_steps() {
    let server = TestServer::start();
    server.search(json!({"query": "a"})).ok();
    let figures = server.get("/metrics").text;
    let steps = |name: &str| {
        let lines = figures.lines().filter(|line| line.starts_with(name));
        let step = |line: &str| line.split("le=\"").nth(1)?.split('"').next()?.parse().ok();
        lines.filter_map(step).collect::<Vec<f64>>()
    };
    assert_eq!(steps("trawl_batch_seconds_bucket")[..2], [0.0001, 0.0002]);
    for name in ["trawl_batch_tokens_bucket", "trawl_batch_rows_bucket"] {
        assert_eq!(steps(name)[..2], [1.0, 2.0], "{name}");
    }
}

#[test]
fn requests_are_counted_by_key() {
    let mut shop = key("shop", &[Scope::Search]);
    shop.rate = Some("3/h".parse().unwrap());
    let auth = keys(vec![shop, key("watch", &[Scope::Metrics])]);
    let server = TestServer::start_set(|_| {}, |server| server.set_auth(auth).unwrap());
    let get = |path: &str, headers: &str| ask(&server, "GET", path, headers, &Value::Null);
    for _ in 0..4 {
        get("/v1/collections", &bearer("shop"));
    }
    get("/v1/tasks", &bearer("shop"));
    get("/v1/collections", "");
    get("/v1/collections", &bearer("nobody"));
    let figures = get("/metrics", &bearer("watch")).text;
    for (code, n) in [("", 3), ("rate_limited", 1), ("forbidden", 1)] {
        let line = format!("trawl_key_requests_total{{key=\"shop\",code=\"{code}\"}} {n}\n");
        assert!(figures.contains(&line), "{line}: {figures}");
    }
    assert!(!figures.contains("nobody"));
}
