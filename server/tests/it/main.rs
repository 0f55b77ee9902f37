//! A server as its callers see it: real sockets, a real collection, real (small) models.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod batches;
mod client;
mod compat;
mod contract;
mod evaluation;
mod feedback;
mod figures;
mod filters;
mod groups;
mod harness;
mod highlights;
mod hostile;
mod live;
mod load;
mod models;
mod ranking;
mod security;
mod swaps;
mod traces;
mod ui;

use std::time::Duration;

use encoder::{Role, Text};
use harness::{PATIENCE, TestServer, build, encoder, lossy_encoder, open};
use retriever::{OpenConfig, Retriever};
use serde_json::{Value, json};
use server::{AttachError, CheckError, QueueConfig, ServeError, Server, ServerConfig};

const SEARCH: &str = "/v1/collections/docs/search";

fn ids(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().unwrap();
    results
        .iter()
        .map(|hit| hit["id"].as_str().unwrap())
        .collect()
}

#[test]
fn a_search_says_what_answered_and_what_it_took() {
    let server = TestServer::start();
    let body = json!({"query": "why is the sky blue", "top_k": 3});
    let headers = "x-request-id: mine-1\r\n";
    let answer = server.post_with(SEARCH, headers, body.to_string().as_bytes());
    let found = answer.ok();
    let results = found["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    for (place, hit) in results.iter().enumerate() {
        assert_eq!(hit["rank"], place + 1);
        assert_eq!(hit["score"], hit["scores"]["dense"]);
        assert!(hit["text"].is_string() && hit["title"].is_string());
        assert!(!hit["metadata"]["lang"].is_null());
    }
    assert_eq!(found["degraded"], json!([]));
    assert_eq!(found["warnings"], json!([]));
    assert_eq!(found["exact"], true);
    assert_eq!(found["collection"], "docs");
    assert!(found["usage"]["query_tokens"].as_u64().unwrap() > 4);
    assert!(found["timing_ms"]["total"].as_f64().unwrap() > 0.0);
    assert_eq!(found["request_id"], "mine-1");
    assert_eq!(answer.header("x-request-id"), "mine-1");
    assert_eq!(found["generation"], answer.header("x-index-generation"));
    assert_eq!(
        found["model_fingerprint"],
        answer.header("x-model-fingerprint")
    );
    assert!(answer.header("server-timing").contains("encode;dur="));

    let shown = server.get("/v1/collections/docs").ok();
    assert_eq!(shown["generation"], found["generation"]);
    assert_eq!(shown["model_fingerprint"], found["model_fingerprint"]);
    assert_eq!(
        (&shown["passages"], &shown["counts"]["passages"]),
        (&json!(6), &json!(6))
    );
    assert_eq!(
        (&shown["encoder"], &shown["reranker"]),
        (&json!("tiny"), &json!("tiny-cross"))
    );
    let list = server.get("/v1/collections").ok();
    assert_eq!(list["collections"][0]["name"], "docs");
    assert_eq!(list["collections"][1]["name"], "plain");
    assert_eq!(list["collections"][1]["encoder"], Value::Null);
}

#[test]
fn a_text_and_its_vector_find_the_same_passages() {
    let server = TestServer::start();
    let text = "silent flight";
    let vectors = encoder("models/tiny-bert").encode_texts(Role::Query, &[Text::Single(text)]);
    let by_vector = json!({"vector": vectors.unwrap().values, "top_k": 6});
    let by_text = server.search(json!({"query": text, "top_k": 6})).ok();
    let by_vector = server.post("/v1/collections/plain/search", &by_vector).ok();
    assert_eq!(by_text["results"], by_vector["results"]);

    let paged = server
        .search(json!({"query": text, "top_k": 2, "offset": 3, "include": []}))
        .ok();
    assert_eq!(ids(&paged), ids(&by_text)[3..5]);
    assert_eq!(paged["results"][0]["rank"], 4);
    assert!(paged["results"][0].get("text").is_none());
    assert!(paged["results"][0].get("metadata").is_none());
}

#[test]
fn every_mode_answers_with_its_scores() {
    let server = TestServer::start();
    let query = "yeast and dough";
    let lexical = server
        .search(json!({"query": query, "mode": "lexical"}))
        .ok();
    assert_eq!(ids(&lexical), ["bread"]);
    assert!(lexical["results"][0]["scores"]["bm25"].is_number());
    let plain = json!({"query": query, "mode": "lexical"});
    let plain = server.post("/v1/collections/plain/search", &plain).ok();
    assert_eq!(plain["results"], lexical["results"]);

    let body = json!({"query": query, "mode": "hybrid", "hybrid": {"k": 10}});
    let hybrid = server.search(body).ok();
    let hits = hybrid["results"].as_array().unwrap();
    let bread = hits.iter().find(|hit| hit["id"] == "bread").unwrap();
    for score in ["dense", "bm25", "fused"] {
        assert!(bread["scores"][score].is_number(), "{bread}");
    }

    let body = json!({"query": query, "rerank": {"candidates": 4}, "search": {"exact": true}});
    let reranked = server.search(body).ok();
    let scores: Vec<f64> = reranked["results"].as_array().unwrap()[..4]
        .iter()
        .map(|hit| hit["scores"]["rerank"].as_f64().unwrap())
        .collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    assert!(reranked["results"][4]["scores"].get("rerank").is_none());
    assert!(reranked["usage"]["rerank_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn a_bad_body_is_refused_with_its_place() {
    let server = TestServer::start();
    let width = 32;
    let wide = vec![0.5; width + 1];
    let huge: Vec<f64> = (0..width)
        .map(|i| if i == 3 { 1e39 } else { 1.0 })
        .collect();
    for (body, pointer, code) in [
        (json!({"query": 1}), "/query", "wrong_type"),
        (json!({"query": "a", "top_k": "3"}), "/top_k", "wrong_type"),
        (json!({"query": "a", "top_k": -1}), "/top_k", "wrong_type"),
        (json!({"query": "a", "top_k": 0}), "/top_k", "too_small"),
        (json!({"query": "a", "top_k": 1001}), "/top_k", "too_large"),
        (
            json!({"query": "a", "offset": 9_991}),
            "/offset",
            "too_large",
        ),
        (
            json!({"query": "a", "offset": u64::MAX}),
            "/offset",
            "too_large",
        ),
        (json!({"query": "a", "filter": []}), "/filter", "wrong_type"),
        (
            json!({"query": "a", "rerank": {"model": "m"}}),
            "/rerank/model",
            "unknown_field",
        ),
        (
            json!({"query": "a", "rerank": {"candidates": 500}}),
            "/rerank/candidates",
            "too_large",
        ),
        (
            json!({"query": "a", "rerank": [50]}),
            "/rerank",
            "wrong_type",
        ),
        (
            json!({"query": "a", "include": ["vectors"]}),
            "/include/0",
            "unknown_value",
        ),
        (
            json!({"query": "a", "timeout_ms": 0}),
            "/timeout_ms",
            "too_small",
        ),
        (
            json!({"query": "a", "timeout_ms": 10_000_000}),
            "/timeout_ms",
            "too_large",
        ),
        (
            json!({"query": "a", "mode": "sparse"}),
            "/mode",
            "unknown_value",
        ),
        (
            json!({"query": "a", "hybrid": {"k": 60}}),
            "/hybrid",
            "conflict",
        ),
        (
            json!({"query": "a", "mode": "hybrid", "hybrid": {"k": 0}}),
            "/hybrid/k",
            "too_small",
        ),
        (json!({"query": " "}), "/query", "blank"),
        (json!({"query": "a".repeat(20_000)}), "/query", "too_large"),
        (json!({}), "/query", "missing"),
        (json!([]), "", "wrong_type"),
        (json!({"query": "a", "vector": [1]}), "/vector", "conflict"),
        (json!({"vector": wide}), "/vector", "wrong_width"),
        (json!({"vector": []}), "/vector", "wrong_width"),
        (json!({"vector": ["a"]}), "/vector/0", "wrong_type"),
        (json!({"vector": huge}), "/vector/3", "not_finite"),
        (
            json!({"vector": [0.5], "mode": "lexical"}),
            "/mode",
            "conflict",
        ),
        (
            json!({"vector": [0.5], "rerank": {}}),
            "/rerank",
            "conflict",
        ),
    ] {
        let problem = server.search(body.clone()).problem(422, "validation");
        assert_eq!(
            problem["errors"][0]["pointer"], pointer,
            "{body}: {problem}"
        );
        assert_eq!(problem["errors"][0]["code"], code, "{body}: {problem}");
        assert_eq!(problem["instance"], SEARCH);
    }
    let problem = server.search(json!({"query": "a", "top_k": 1001})).json();
    assert_eq!(problem["errors"][0]["setting"], "limits.top_k");
    assert_eq!(problem["errors"][0]["limit"], 1000);
    let limits = server.get("/v1/limits").ok();
    assert_eq!(limits["settings"]["limits.top_k"], 1000);
    assert_eq!(
        limits["settings"]["server.max_timeout"],
        PATIENCE.as_millis() as u64
    );
    let both = json!({"query": "", "top_k": 0});
    assert_eq!(
        server.search(both).json()["errors"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let path = "/v1/collections/plain/search";
    let problem = server
        .post(path, &json!({"query": "a"}))
        .problem(422, "validation");
    assert_eq!(problem["errors"][0]["code"], "unsupported");
    let body = json!({"query": "a", "mode": "lexical", "rerank": {}});
    let problem = server.post(path, &body).problem(422, "validation");
    assert_eq!(problem["errors"][0]["pointer"], "/rerank");
}

#[test]
fn what_is_no_json_is_refused() {
    let server = TestServer::start();
    let deep = "[".repeat(1_000_000);
    for (body, place) in [
        (&b"{\"query\": \"a\",\n \"top_k\" 3}"[..], "line 2"),
        (b"{\"query\": \"a", "line 1"),
        (b"{\"query\": \"\xff\xfe\"}", "line 1"),
        (b"", "line 1"),
        (b"{\"query\": \"a\"}{}", "line 1"),
        (
            format!("{{\"query\": \"a\", \"vector\": {deep}").as_bytes(),
            "",
        ),
        (deep.as_bytes(), ""),
    ] {
        let answer = server.post_with(SEARCH, "", body);
        assert!([400, 422].contains(&answer.status), "{answer:?}");
        let code = if answer.status == 400 {
            "bad_request"
        } else {
            "validation"
        };
        let problem = answer.problem(answer.status, code);
        assert!(
            problem["detail"].as_str().unwrap().contains(place),
            "{problem}"
        );
    }
}

#[test]
fn a_body_of_the_wrong_type_or_size_is_refused() {
    let server = TestServer::start();
    let body = br#"{"query": "a"}"#;
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "json",
        "",
    ] {
        let headers = format!("content-type: {kind}\r\n");
        server
            .post_with(SEARCH, &headers, body)
            .problem(415, "unsupported_media_type");
    }
    let headers = "content-type: application/json; charset=utf-8\r\n";
    server.post_with(SEARCH, headers, body).ok();

    let large = vec![b' '; 100 << 20];
    let problem = server
        .post_with(SEARCH, "", &large)
        .problem(413, "body_too_large");
    assert_eq!(problem["errors"][0]["setting"], "server.max_body");
    assert_eq!(problem["errors"][0]["limit"], 32 << 20);
    // The same without a declared length.
    let head = "POST /v1/rerank HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2800000\r\n";
    let chunked = [head.as_bytes(), &large[..0x280_0000], b"\r\n0\r\n\r\n"].concat();
    server.raw(&chunked).problem(413, "body_too_large");

    let headers = format!("x-long: {}\r\n", "a".repeat(20_000));
    let problem = server
        .post_with(SEARCH, &headers, body)
        .problem(431, "headers_too_large");
    assert_eq!(problem["errors"][0]["setting"], "limits.header_bytes");
    // Many, and small enough.
    server
        .post_with(SEARCH, &"x-a: 1\r\n".repeat(300), body)
        .ok();
}

#[test]
fn a_body_that_breaks_off_or_stalls_is_refused() {
    let server = TestServer::start();
    let mut client = server.connect();
    client.begin(SEARCH, 100);
    client.send(b"{\"query\": ");
    client.close_sending();
    client.answer().problem(400, "bad_request");

    let read_timeout = Duration::from_millis(300);
    let server = TestServer::start_with(
        |config| config.read_timeout = read_timeout,
        QueueConfig::default(),
    );
    let request = format!(
        "POST {SEARCH} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{\"query\": "
    );
    let answer = server.insist(request.as_bytes());
    let problem = answer.problem(408, "slow_client");
    assert_eq!(problem["retryable"], true);
}

#[test]
fn unknown_routes_methods_and_names_are_told_apart() {
    let server = TestServer::start();
    server.get("/v1/nothing").problem(404, "not_found");
    server
        .get("/v1/collections/nothing")
        .problem(404, "not_found");
    server
        .get("/v1/collections/%ff")
        .problem(400, "bad_request");
    let body = json!({"query": "a"});
    server
        .post("/v1/collections/nothing/search", &body)
        .problem(404, "not_found");
    let answer = server.get(SEARCH);
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), "POST");
    let answer = server.post("/v1/collections", &body);
    answer.problem(405, "method_not_allowed");
    assert_eq!(answer.header("allow"), "GET,HEAD");
    for headers in [
        "x-timeout-ms: soon\r\n",
        "x-timeout-ms: 0\r\n",
        "x-priority: high\r\n",
    ] {
        let answer = server.post_with(SEARCH, headers, body.to_string().as_bytes());
        answer.problem(400, "bad_request");
    }
}

#[test]
fn a_time_beyond_the_limit_is_refused_by_where_it_was_asked() {
    let most = Duration::from_secs(200);
    let server = TestServer::start_with(
        |config| {
            config.max_timeout = most;
            config.default_timeout = 2 * most;
        },
        QueueConfig::default(),
    );
    let ask = |body: Value| {
        let headers = "x-timeout-ms: 200001\r\n";
        let answer = server.post_with(SEARCH, headers, body.to_string().as_bytes());
        answer.problem(422, "validation")["detail"].to_string()
    };
    let detail = ask(json!({"query": "a"}));
    assert!(
        detail.contains("header `x-timeout-ms` is 200001"),
        "{detail}"
    );
    let detail = ask(json!({"query": "a", "timeout_ms": 200_001}));
    assert!(detail.contains("/timeout_ms is 200001"), "{detail}");
    // Who asks for none has no more than anybody may ask for.
    server.search(json!({"query": "a"})).ok();
}

#[test]
fn an_encoder_that_did_not_make_the_vectors_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let root = build(folder.path(), &encoder("models/tiny-bert"));
    let mut server = Server::new(ServerConfig::default());
    server
        .add_encoder(
            "other",
            encoder("models/tiny-bert-last"),
            QueueConfig::default(),
        )
        .unwrap();
    let refused = server
        .add_collection("docs", open(&root), Some("other"), None)
        .unwrap_err();
    let AttachError::Fingerprint { source, .. } = refused else {
        panic!("{refused}")
    };
    assert!(source.to_string().contains("`space."), "{source}");
    let refused = server
        .add_collection("docs", open(&root), Some("none"), None)
        .unwrap_err();
    assert!(matches!(refused, AttachError::NoModel { .. }), "{refused}");
    for name in ["", "../docs", "a/b", ".docs", "a b"] {
        let refused = server
            .add_collection(name, open(&root), None, None)
            .unwrap_err();
        assert!(matches!(refused, AttachError::Name { .. }), "{refused}");
    }
}

#[test]
fn lossy_arithmetic_is_a_warning_in_every_answer_or_refused() {
    let server = TestServer::start_over(&lossy_encoder(), |_| {}, QueueConfig::default());
    for body in [
        json!({"query": "why is the sky blue"}),
        json!({"query": "sky", "mode": "lexical"}),
    ] {
        let warnings = server.search(body).ok()["warnings"].take();
        let warning = warnings[0].as_str().unwrap();
        assert!(
            warning.contains("built with int8 and queries are encoded with f32"),
            "{warning}"
        );
    }

    let folder = tempfile::tempdir().unwrap();
    let root = build(folder.path(), &encoder("models/tiny-bert"));
    let attach = |model, strict_arithmetic| {
        let mut server = Server::new(ServerConfig {
            strict_arithmetic,
            ..ServerConfig::default()
        });
        server
            .add_encoder("tiny", model, QueueConfig::default())
            .unwrap();
        server.add_collection("docs", open(&root), Some("tiny"), None)
    };
    let refused = attach(lossy_encoder(), true).unwrap_err();
    let AttachError::Arithmetic { source, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!((&*source.index, &*source.encoder), ("f32", "int8"));
    attach(lossy_encoder(), false).unwrap();
    attach(encoder("models/tiny-bert"), true).unwrap();
}

#[test]
fn a_collection_that_does_not_know_its_own_passages_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let model = encoder("models/tiny-bert");
    let root = build(folder.path(), &model);
    // Other rows under the same manifest, as a damaged disk or a wrong copy would leave them.
    let rows: Vec<Vec<f32>> = (0..6)
        .map(|row| (0..32).map(|i| if i == row { 1.0 } else { 0.0 }).collect())
        .collect();
    let generation = open(&root).generation().clone();
    let path = generation.path.join(&generation.manifest.shards[0].path);
    let config = index::ShardConfig {
        width: 32,
        metric: index::Metric::Cosine,
        row_type: index::RowType::F32,
        first_ordinal: 0,
        sketches: index::SketchPolicy::default(),
    };
    std::fs::remove_file(&path).unwrap();
    let mut writer = index::ShardWriter::create(&path, config).unwrap();
    for row in &rows {
        writer.push(row).unwrap();
    }
    writer.finish().unwrap();

    let mut server = Server::new(ServerConfig {
        bind: ([127, 0, 0, 1], 0).into(),
        ..ServerConfig::default()
    });
    server
        .add_encoder("tiny", model, QueueConfig::default())
        .unwrap();
    let retriever = Retriever::open(
        generation,
        OpenConfig {
            verify: false,
            ..OpenConfig::default()
        },
    )
    .unwrap();
    server
        .add_collection("docs", retriever, Some("tiny"), None)
        .unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = runtime.block_on(async {
        server
            .bind()
            .await
            .unwrap()
            .run(std::future::pending())
            .await
    });
    let Err(ServeError::Check(CheckError::Unfamiliar { collection, .. })) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(collection, "docs");
}

#[test]
fn the_checked_in_document_is_the_one_served() {
    let checked_in = include_str!("../../../openapi/openapi.json");
    assert!(
        server::openapi_document() == checked_in,
        "openapi/openapi.json is not what the code says; write it anew: cargo run -- openapi > openapi/openapi.json"
    );
    let server = TestServer::start();
    assert_eq!(server.get("/openapi.json").text, checked_in);
}

#[test]
fn the_page_of_the_document_asks_nobody_else() {
    let server = TestServer::start();
    let page = server.get("/docs/");
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-security-policy")
            .starts_with("default-src 'self'")
    );
    for file in [
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-ui-standalone-preset.js",
        "swagger-initializer.js",
    ] {
        assert_eq!(server.get(&format!("/docs/{file}")).status, 200, "{file}");
    }
    for place in page
        .text
        .split("src=\"")
        .skip(1)
        .chain(page.text.split("href=\"").skip(1))
    {
        let link = place.split('"').next().unwrap();
        assert!(!link.contains("//"), "{link}");
    }
    let start = server.get("/docs/swagger-initializer.js").text;
    assert!(start.contains("\"validatorUrl\": \"none\""), "{start}");
    assert!(!start.contains("http"), "{start}");
}
