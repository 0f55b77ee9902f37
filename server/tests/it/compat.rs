//! The routes of other servers' clients: values are those of the models, errors those that the clients read.

use encoder::{Output, Role, Side, Text};
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, encoder, reranker};

const TEXTS: [&str; 3] = [
    "the tide comes in",
    "a silent owl",
    "dough rises because yeast breathes",
];

fn rows(answer: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(answer.clone()).unwrap()
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[track_caller]
fn close(a: f32, b: f32) {
    assert!((a - b).abs() < 1e-5, "{a} {b}");
}

/// An error of text-embeddings-inference's form.
#[track_caller]
fn tei_error(answer: &Answer, status: u16, kind: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.json()["error_type"], kind, "{answer:?}");
    assert!(answer.json()["error"].is_string());
}

#[test]
fn tei_embeds_as_the_model_does() {
    let server = TestServer::start();
    let model = encoder("models/tiny-bert");
    let tokens = model
        .tokenize(Role::Passage, &TEXTS.map(Text::Single))
        .unwrap();
    let expected = model.encode(&tokens).unwrap();
    for path in ["/embed", "/"] {
        let answer = server.post(path, &json!({"inputs": TEXTS, "unknown": 1}));
        let found = rows(&answer.ok());
        for (row, found) in found.iter().enumerate() {
            close(norm(found), 1.0);
            let length = norm(expected.row(row));
            for (found, expected) in found.iter().zip(expected.row(row)) {
                close(*found, expected / length);
            }
        }
        assert_eq!(
            answer.header("x-compute-tokens"),
            expected.n_tokens.to_string()
        );
        let n_characters: usize = TEXTS.iter().map(|text| text.len()).sum();
        assert_eq!(
            answer.header("x-compute-characters"),
            n_characters.to_string()
        );
        for name in [
            "x-compute-time",
            "x-tokenization-time",
            "x-queue-time",
            "x-inference-time",
            "x-total-time",
        ] {
            answer.header(name).parse::<u64>().unwrap();
        }
        assert_eq!(answer.header("x-compute-type"), "");
    }
    let one = server.post("/embed", &json!({"inputs": TEXTS[0]})).ok();
    let ids = server
        .post("/embed", &json!({"inputs": [tokens[0].ids]}))
        .ok();
    assert_eq!(rows(&one), rows(&ids));
    let raw = server
        .post("/embed", &json!({"inputs": TEXTS, "normalize": false}))
        .ok();
    let plain = model.encode_as(&tokens, Output::Unnormalized).unwrap();
    assert_eq!(rows(&raw).concat(), plain);
    let cut = server
        .post("/embed", &json!({"inputs": TEXTS[0], "dimensions": 8}))
        .ok();
    let length = norm(&rows(&one)[0][..8]);
    close(rows(&cut)[0][3], rows(&one)[0][3] / length);
    assert_eq!(rows(&cut)[0].len(), 8);
}

#[test]
fn tei_gives_the_vectors_of_tokens() {
    let server = TestServer::start();
    let model = encoder("models/tiny-bert");
    let tokens = model
        .tokenize(Role::Passage, &TEXTS.map(Text::Single))
        .unwrap();
    let answer = server.post("/embed_all", &json!({"inputs": TEXTS})).ok();
    let found: Vec<Vec<Vec<f32>>> = serde_json::from_value(answer).unwrap();
    let expected = model.encode_as(&tokens, Output::TokenVectors).unwrap();
    assert_eq!(found.concat().concat(), expected);
    let lengths: Vec<usize> = tokens.iter().map(encoder::Tokens::len).collect();
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
    // The model pools by the mean, so the mean of its token vectors is its vector before normalization.
    let plain = model.encode_as(&tokens[..1], Output::Unnormalized).unwrap();
    let mean: f32 = found[0].iter().map(|token| token[5]).sum::<f32>() / lengths[0] as f32;
    close(mean, plain[5]);
}

#[test]
fn tei_cuts_where_it_is_told_or_refuses() {
    let server = TestServer::start();
    let model = encoder("models/tiny-bert");
    let long = format!("{} end", "the tide ".repeat(400));
    let (right, left) = (
        model
            .tokenize_cut("", Role::Passage, &long, Some(Side::Right))
            .unwrap(),
        model
            .tokenize_cut("", Role::Passage, &long, Some(Side::Left))
            .unwrap(),
    );
    assert!(right.truncated && left.truncated && right.ids != left.ids);
    let embed = |more: Value| {
        let mut body = json!({"inputs": long, "normalize": false});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.post("/embed", &body)
    };
    for (more, tokens) in [
        (json!({}), &right),
        (
            json!({"truncate": true, "truncation_direction": "Right"}),
            &right,
        ),
        (json!({"truncation_direction": "left"}), &left),
    ] {
        let expected = model.encode_as(std::slice::from_ref(tokens), Output::Unnormalized);
        assert_eq!(rows(&embed(more).ok()).concat(), expected.unwrap());
    }
    tei_error(&embed(json!({"truncate": false})), 413, "validation");
    tei_error(&embed(json!({"prompt_name": "none"})), 422, "validation");
    tei_error(&embed(json!({"dimensions": 9})), 422, "validation");
    tei_error(&embed(json!({"model": "gpt"})), 404, "validation");
    tei_error(
        &server.post("/embed?model=gpt", &json!({"inputs": "a"})),
        404,
        "validation",
    );
    tei_error(&server.post("/embed", &json!({"inputs": []})), 422, "empty");
    tei_error(
        &server.post("/embed", &json!({"inputs": {}})),
        422,
        "validation",
    );
    tei_error(&server.post_with("/embed", "", b"{"), 400, "validation");
    tei_error(&server.get("/embed"), 405, "validation");
    tei_error(&server.get("/"), 405, "validation");
    let many = vec!["a"; 3000];
    tei_error(
        &server.post("/embed", &json!({"inputs": many})),
        413,
        "validation",
    );
}

#[test]
fn tei_reranks_predicts_and_compares() {
    let server = TestServer::start();
    let model = reranker();
    let query = "yeast";
    let tokens = model.tokenize(&TEXTS.map(|text| (query, text))).unwrap();
    let scores = model.score(&tokens).unwrap();
    let logit = |index: u64| scores.logits[index as usize * scores.n_labels];
    let sigmoid = |logit: f32| 1.0 / (1.0 + (-logit).exp());
    for (raw, path) in [(true, "/rerank"), (false, "/rerank"), (false, "/")] {
        let body = json!({"query": query, "texts": TEXTS, "raw_scores": raw, "return_text": true});
        let answer = server.post(path, &body);
        assert!(answer.header("x-compute-tokens").parse::<usize>().unwrap() > 10);
        let found = answer.ok();
        let found = found.as_array().unwrap();
        assert_eq!(found.len(), 3);
        assert!(found.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));
        for rank in found {
            let index = rank["index"].as_u64().unwrap();
            let expected = if raw {
                logit(index)
            } else {
                sigmoid(logit(index))
            };
            close(rank["score"].as_f64().unwrap() as f32, expected);
            assert_eq!(rank["text"], TEXTS[index as usize]);
        }
    }
    let body = json!({"query": query, "texts": TEXTS});
    assert!(server.post("/rerank", &body).ok()[0].get("text").is_none());
    tei_error(
        &server.post("/rerank", &json!({"query": "a", "texts": []})),
        422,
        "empty",
    );
    tei_error(
        &server.post("/rerank", &json!({"query": "", "texts": ["a"]})),
        422,
        "validation",
    );

    let pair = server
        .post("/predict", &json!({"inputs": [query, TEXTS[0]]}))
        .ok();
    let many = server
        .post(
            "/predict",
            &json!({"inputs": [[query, TEXTS[0]], ["alone"]]}),
        )
        .ok();
    assert_eq!(many[0], pair);
    assert_eq!(pair.as_array().unwrap().len(), model.n_labels());
    assert_eq!(pair[0]["label"], model.labels()[0]);
    let expected = if model.n_labels() == 1 {
        sigmoid(logit(0))
    } else {
        1.0
    };
    let sum: f64 = pair
        .as_array()
        .unwrap()
        .iter()
        .map(|label| label["score"].as_f64().unwrap())
        .sum();
    close(sum as f32, expected);
    let single = server.post("/predict", &json!({"inputs": "alone"})).ok();
    assert_eq!(single, many[1]);
    tei_error(
        &server.post("/predict", &json!({"inputs": [["a"], ["a", "b", "c"]]})),
        422,
        "validation",
    );

    let body = json!({"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}});
    for path in ["/similarity", "/"] {
        let cosines: Vec<f32> = serde_json::from_value(server.post(path, &body).ok()).unwrap();
        close(cosines[0], 1.0);
        let vectors = rows(&server.post("/embed", &json!({"inputs": TEXTS})).ok());
        let expected: f32 = vectors[0].iter().zip(&vectors[2]).map(|(a, b)| a * b).sum();
        close(cosines[2], expected);
    }
}

#[test]
fn tei_takes_so_many_bytes_for_tokens() {
    let server = TestServer::start_with(
        |config| config.limits.tokenize_bytes = 2000,
        server::QueueConfig::default(),
    );
    let text = |n_bytes: usize| json!({"inputs": ["a ".repeat(n_bytes / 2)]});
    server.post("/tokenize", &text(2000)).ok();
    tei_error(&server.post("/tokenize", &text(2002)), 413, "validation");
    let ids = |n: usize| json!({"ids": [vec![5; n], vec![5; 100]]});
    server.post("/decode", &ids(400)).ok();
    tei_error(&server.post("/decode", &ids(401)), 413, "validation");
}

#[test]
fn tei_gives_the_vectors_of_so_many_tokens() {
    let server = TestServer::start_with(
        |config| config.limits.embed_all_tokens = 20,
        server::QueueConfig::default(),
    );
    let ids = |n: usize| json!({"inputs": [vec![5; n], vec![5; 10]]});
    server.post("/embed_all", &ids(10)).ok();
    tei_error(&server.post("/embed_all", &ids(11)), 413, "validation");
    server.post("/embed", &ids(11)).ok();
}

#[test]
fn tei_shows_tokens_and_the_model() {
    let server = TestServer::start();
    let model = encoder("models/tiny-bert");
    let text = "the tide";
    let tokens = model
        .tokenize(Role::Passage, &[Text::Single(text)])
        .unwrap();
    let found = server.post("/tokenize", &json!({"inputs": text})).ok();
    let ids: Vec<u64> = found[0]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token["id"].as_u64().unwrap())
        .collect();
    assert_eq!(
        ids,
        tokens[0]
            .ids
            .iter()
            .map(|&id| u64::from(id))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        (&found[0][0]["special"], &found[0][0]["start"]),
        (&json!(true), &Value::Null)
    );
    assert_eq!(
        (&found[0][1]["start"], &found[0][1]["special"]),
        (&json!(0), &json!(false))
    );
    let pieces = found[0]
        .as_array()
        .unwrap()
        .iter()
        .filter(|token| token["special"] == false);
    for piece in pieces {
        let range =
            piece["start"].as_u64().unwrap() as usize..piece["stop"].as_u64().unwrap() as usize;
        assert_eq!(piece["text"], text[range]);
    }
    let plain = server
        .post(
            "/tokenize",
            &json!({"inputs": [text], "add_special_tokens": false}),
        )
        .ok();
    assert_eq!(plain[0].as_array().unwrap().len(), ids.len() - 2);
    let decoded = server.post("/decode", &json!({"ids": ids})).ok();
    assert_eq!(decoded, json!([text]));
    let whole = server
        .post(
            "/decode",
            &json!({"ids": [ids], "skip_special_tokens": false}),
        )
        .ok();
    assert!(whole[0].as_str().unwrap().len() > text.len());
    tei_error(
        &server.post("/decode", &json!({"ids": ["a"]})),
        422,
        "validation",
    );

    let info = server.get("/info").ok();
    assert_eq!(info["model_id"], "tiny");
    assert_eq!(info["max_input_length"], model.max_tokens(Role::Passage));
    assert_eq!(info["model_type"]["embedding"]["pooling"], "mean");
    let info = server.get("/info?model=tiny-cross").ok();
    assert!(info["model_type"].get("embedding").is_none(), "{info}");
    tei_error(&server.get("/info?model=no"), 404, "validation");
    for path in ["/health", "/healthz", "/ping"] {
        assert_eq!(server.get(path).status, 200);
    }
}

#[test]
fn openai_lists_models() {
    let server = TestServer::start();
    let list = server.get("/v1/models").ok();
    let ids: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        (&list["object"], ids),
        (&json!("list"), vec!["tiny", "tiny-cross"])
    );
    let tiny = server.get("/v1/models/tiny").ok();
    assert_eq!(tiny, list["data"][0]);
    assert_eq!(
        (&tiny["width"], &tiny["dimensions"]),
        (&json!(32), &json!([8, 16]))
    );
    let missing = server.get("/v1/models/gpt");
    assert_eq!(
        (missing.status, &missing.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );

    let body =
        |dimensions: usize| json!({"model": "tiny", "input": "a tide", "dimensions": dimensions});
    let cut = server.post("/v1/embeddings", &body(8)).ok();
    let whole = server.post("/v1/embeddings", &body(32)).ok();
    let of = |answer: &Value| -> Vec<f32> {
        serde_json::from_value(answer["data"][0]["embedding"].clone()).unwrap()
    };
    assert_eq!(of(&cut).len(), 8);
    close(norm(&of(&cut)), 1.0);
    close(of(&cut)[2], of(&whole)[2] / norm(&of(&whole)[..8]));
}

#[test]
fn cohere_reads_so_much_of_each_document() {
    let server = TestServer::start();
    let model = reranker();
    let query = "yeast";
    let body = json!({"model": "tiny-cross", "query": query, "documents": TEXTS, "max_tokens_per_doc": 3, "priority": 1});
    let found = server.post("/v2/rerank", &body).ok();
    assert_eq!(
        found["meta"]["warnings"],
        json!(["3 of 3 documents were cut"])
    );
    assert_eq!(found["meta"]["api_version"]["version"], "2");
    for result in found["results"].as_array().unwrap() {
        let text = TEXTS[result["index"].as_u64().unwrap() as usize];
        let tokens = model
            .tokenize_cut(Text::Pair(query, text), Some(3), None)
            .unwrap();
        let whole = model.tokenize(&[(query, text)]).unwrap();
        assert!(tokens.len() < whole[0].len());
        let logit = model.score(&[tokens]).unwrap().logits[0];
        close(
            result["relevance_score"].as_f64().unwrap() as f32,
            1.0 / (1.0 + (-logit).exp()),
        );
    }
    let body = json!({"model": "tiny-cross", "query": query, "documents": TEXTS, "top_n": 1});
    let found = server.post("/v2/rerank", &body).ok();
    assert_eq!(found["results"].as_array().unwrap().len(), 1);
    assert!(found["meta"].get("warnings").is_none());

    for (body, status, code) in [
        (
            json!({"model": "gpt", "query": "a", "documents": ["a"]}),
            404,
            "model_not_found",
        ),
        (
            json!({"model": "tiny-cross", "query": "a", "documents": []}),
            422,
            "validation",
        ),
        (
            json!({"model": "tiny-cross", "query": "a", "documents": ["a"], "max_tokens_per_doc": 0}),
            422,
            "validation",
        ),
        (json!({"query": "a", "documents": ["a"]}), 422, "validation"),
    ] {
        let answer = server.post("/v2/rerank", &body);
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &json!(code)),
            "{answer:?}"
        );
        assert!(answer.json()["message"].is_string());
    }
}
