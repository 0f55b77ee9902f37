//! Vectors and scores of texts that callers bring along.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use encoder::{Role, Text};
use serde_json::{Value, json};

use crate::harness::{TestServer, encoder, reranker};

#[test]
fn embeddings_are_those_of_the_model() {
    let server = TestServer::start();
    let texts = ["the tide comes in", "a silent owl", ""];
    let model = encoder("models/tiny-bert");
    for (input_type, role) in [("query", Role::Query), ("document", Role::Passage)] {
        let tokens = model.tokenize(role, &texts.map(Text::Single)).unwrap();
        let expected = model.encode(&tokens).unwrap();
        let check = |mut body: Value, n_rows: usize| {
            body["model"] = "tiny".into();
            body["input_type"] = input_type.into();
            let answer = server.post("/v1/embeddings", &body).ok();
            assert_eq!(
                (&answer["object"], &answer["model"]),
                (&json!("list"), &json!("tiny"))
            );
            let n_tokens: usize = tokens[..n_rows].iter().map(|tokens| tokens.len()).sum();
            assert_eq!(answer["usage"]["prompt_tokens"], n_tokens);
            let data = answer["data"].as_array().unwrap();
            assert_eq!(data.len(), n_rows);
            for (index, entry) in data.iter().enumerate() {
                assert_eq!(
                    (&entry["object"], &entry["index"]),
                    (&json!("embedding"), &json!(index))
                );
                assert_eq!(values(&entry["embedding"]), expected.row(index), "{body}");
            }
        };
        check(
            json!({"input": texts[0], "user": "ignored", "dimensions": 32}),
            1,
        );
        check(json!({"input": texts}), 3);
        check(json!({"input": texts, "encoding_format": "base64"}), 3);
        check(json!({"input": tokens[0].ids}), 1);
        check(
            json!({"input": tokens.iter().map(|t| &t.ids).collect::<Vec<_>>()}),
            3,
        );
    }
}

/// A vector as numbers or in base64.
fn values(embedding: &Value) -> Vec<f32> {
    match embedding.as_str() {
        Some(text) => {
            let bytes = STANDARD.decode(text).unwrap();
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()
        }
        None => serde_json::from_value(embedding.clone()).unwrap(),
    }
}

#[test]
fn errors_of_embeddings_have_the_form_openais_clients_read() {
    let server = TestServer::start();
    let many = vec!["a"; 3000];
    for (body, status, code, param) in [
        (
            json!({"model": "gpt", "input": "a"}),
            404,
            "model_not_found",
            Value::Null,
        ),
        (json!({"input": "a"}), 422, "validation", json!("model")),
        (
            json!({"model": "tiny", "input": {}}),
            422,
            "validation",
            json!("input"),
        ),
        (
            json!({"model": "tiny", "input": []}),
            422,
            "validation",
            json!("input"),
        ),
        (
            json!({"model": "tiny", "input": [[1], []]}),
            422,
            "validation",
            json!("input/1"),
        ),
        (
            json!({"model": "tiny", "input": [4_000_000_000u32]}),
            422,
            "validation",
            json!("input"),
        ),
        (
            json!({"model": "tiny", "input": "a", "dimensions": 9}),
            422,
            "validation",
            json!("dimensions"),
        ),
        (
            json!({"model": "tiny", "input": many}),
            413,
            "batch_too_large",
            Value::Null,
        ),
    ] {
        let answer = server.post("/v1/embeddings", &body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/json");
        let error = &answer.json()["error"];
        assert_eq!(error["code"], code, "{answer:?}");
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], param, "{answer:?}");
        assert!(error["message"].is_string());
    }
    assert_eq!(
        server.post_with("/v1/embeddings", "", b"{").json()["error"]["code"],
        "bad_request"
    );
}

#[test]
fn rerank_orders_by_the_cross_encoder() {
    let server = TestServer::start();
    let (query, texts) = (
        "yeast",
        ["a silent owl", "dough rises", "dough rises", "blue light"],
    );
    let model = reranker();
    let tokens = model.tokenize(&texts.map(|text| (query, text))).unwrap();
    let scores = model.score(&tokens).unwrap().values;
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));

    let body = json!({
        "model": "tiny-cross", "query": query, "return_documents": true, "extra": 1,
        "documents": [texts[0], {"text": texts[1]}, texts[2], texts[3]],
    });
    let answer = server.post("/v1/rerank", &body).ok();
    let results = answer["results"].as_array().unwrap();
    for (result, &index) in results.iter().zip(&order) {
        assert_eq!(result["index"], index);
        assert_eq!(
            result["relevance_score"].as_f64().unwrap() as f32,
            scores[index]
        );
        assert_eq!(result["document"]["text"], texts[index]);
    }
    assert_eq!(results.len(), 4);

    let body = json!({"query": query, "documents": texts, "top_n": 2});
    let answer = server.post("/v1/rerank", &body).ok();
    assert_eq!(answer["model"], "tiny-cross");
    assert_eq!(answer["results"].as_array().unwrap().len(), 2);
    assert!(answer["results"][0].get("document").is_none());

    let body = json!({"model": "other", "query": query, "documents": texts});
    server
        .post("/v1/rerank", &body)
        .problem(404, "model_not_found");
    for body in [
        json!({"query": query, "documents": []}),
        json!({"query": " ", "documents": texts}),
        json!({"query": query, "documents": [1]}),
        json!({"query": query, "documents": [["a"]]}),
        json!({"query": query, "documents": texts, "top_n": 0}),
        json!({"query": query}),
    ] {
        server.post("/v1/rerank", &body).problem(422, "validation");
    }
}
