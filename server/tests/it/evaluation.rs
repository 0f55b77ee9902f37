//! Collections measured by queries with judgments.

use std::collections::BTreeMap;

use corpus::{Qrels, Run, Scored};
use evaluation::EvaluationConfig;
use openapi::TaskProgress;
use serde_json::{Value, json};
use server::{QueueConfig, Scope};

use crate::harness::{Answer, TestServer, wait_until};
use crate::ids;
use crate::security::{self, bearer, key, keys};

/// The documents judged for a query, with their grades.
type Judged = &'static [(&'static str, i32)];

/// Ids, texts and judgments.
const QUERIES: [(&str, &str, Judged); 4] = [
    ("q1", "why is the sky blue", &[("sky", 2), ("glass", 1)]),
    ("q2", "yeast in the dough", &[("bread", 1)]),
    (
        "q/3",
        "the long way home over the sea",
        &[("bees", 1), ("tides", 2), ("none", 1)],
    ),
    ("q4", "silent flight", &[("owls", 1), ("sky", 0)]),
];

fn start(eval_queries: usize) -> TestServer {
    TestServer::start_with(
        |config| config.limits.eval_queries = eval_queries,
        QueueConfig::default(),
    )
}

/// The queries and their judgments, searched as `how` says.
fn request(how: &Value) -> Value {
    let texts: BTreeMap<_, _> = QUERIES.iter().map(|(id, text, _)| (id, text)).collect();
    let mut qrels = BTreeMap::new();
    for (id, _, judged) in QUERIES {
        qrels.insert(id, judged.iter().copied().collect::<BTreeMap<_, _>>());
    }
    let mut body = json!({"collection": "docs", "queries": texts, "qrels": qrels});
    body["queries"]["unjudged"] = json!("glass");
    body["qrels"]["empty"] = json!({});
    for (name, value) in how.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn evaluate(server: &TestServer, body: &Value) -> Answer {
    server.post("/v1/eval", body)
}

/// What a task says that has ended.
fn ended(server: &TestServer, begun: &Answer) -> Value {
    assert_eq!(begun.status, 202, "{}", begun.text);
    let id = begun.json()["task"].as_str().unwrap().to_owned();
    let mut task = Value::Null;
    let has_ended = || {
        task = server.get(&format!("/v1/tasks/{id}")).ok();
        task["state"] != "running"
    };
    wait_until(has_ended, "the evaluation does not end");
    task
}

#[test]
fn the_measures_are_those_of_the_searches() {
    let server = start(4);
    let measures = json!(["ndcg@3", "mrr@10", "recall@3", "num_rel_ret"]);
    let english = json!({"must": [{"key": "lang", "match": {"value": "en"}}]});
    for mut how in [
        json!({}),
        json!({"mode": "lexical"}),
        json!({"mode": "hybrid", "filter": english}),
        json!({"rerank": {"candidates": 3}}),
    ] {
        let mut qrels = Qrels::default();
        let mut run = Run::new("searches");
        for (id, text, judged) in QUERIES {
            for (document, grade) in judged {
                qrels.insert(id, *document, *grade);
            }
            let mut search = how.clone();
            search["query"] = json!(text);
            search["top_k"] = json!(10);
            let found = server.search(search).ok();
            let places = ids(&found).into_iter().enumerate();
            let scored = places.map(|(place, id)| Scored {
                id: id.to_owned(),
                score: -(place as f64),
            });
            run.insert(id, scored.collect());
        }
        let config = EvaluationConfig {
            measures: serde_json::from_value(measures.clone()).unwrap(),
            ..EvaluationConfig::default()
        };
        let expected = evaluation::evaluate(&qrels, &run, &config).unwrap();

        how["measures"] = measures.clone();
        let begun = evaluate(&server, &request(&how));
        let task = ended(&server, &begun);
        assert_eq!(task["state"], "done", "{task}");
        let report = &task["evaluation"];
        assert_eq!(
            (&report["queries"], &report["degraded"]),
            (&json!(4), &json!(0))
        );
        let collection = server.get("/v1/collections/docs").ok();
        assert_eq!(report["generation"], collection["generation"]);
        for (measure, mean) in config.measures.iter().zip(expected.mean) {
            assert_eq!(
                report["measures"][measure.to_string()],
                mean,
                "{how} {measure}"
            );
        }
        assert!(
            report["measures"]["mrr@10"].as_f64().unwrap() > 0.0,
            "{report}"
        );
        let progress: TaskProgress = serde_json::from_value(task["progress"].clone()).unwrap();
        assert_eq!(progress, TaskProgress { done: 4, of: 4 });
    }
}

#[test]
fn documents_are_measured_where_all_that_are_split_were_written_later() {
    let data = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(
        |config| {
            config.data = Some(data.path().to_owned());
            config.limits.eval_queries = 1;
        },
        QueueConfig::default(),
    );
    let made = server.put("/v1/collections/long", "", &json!({"stride": 32}));
    assert_eq!(made.status, 201, "{made:?}");
    let text = "The sea comes in and goes out twice a day. ".repeat(60);
    let documents = json!([{"_id": "a", "text": text}, {"_id": "b", "text": "Sand melts."}]);
    let written = server.post("/v1/collections/long/documents", &documents);
    assert_ne!(written.ok()["passages"], 2);
    let body = json!({
        "collection": "long", "mode": "lexical", "measures": ["mrr@10", "recall@10"],
        "queries": {"q1": "sea"}, "qrels": {"q1": {"a": 1}},
    });
    let task = ended(&server, &evaluate(&server, &body));
    let measured = &task["evaluation"]["measures"];
    assert_eq!(
        measured,
        &json!({"mrr@10": 1.0, "recall@10": 1.0}),
        "{task}"
    );
}

#[test]
fn a_measure_that_looks_at_all_leaves_the_others_what_they_look_at() {
    let check = |most, measures: Value, expected: f64| {
        let data = tempfile::tempdir().unwrap();
        let server = TestServer::start_with(
            |config| {
                config.data = Some(data.path().to_owned());
                config.limits.eval_queries = 1;
                config.limits.top_k = most;
            },
            QueueConfig::default(),
        );
        let made = server.put("/v1/collections/many", "", &json!({}));
        assert_eq!(made.status, 201, "{made:?}");
        let documents: Vec<Value> = (0..110)
            .map(|number| json!({"_id": number.to_string(), "text": format!("tide {number}")}))
            .collect();
        let written = server.post("/v1/collections/many/documents", &json!(documents));
        assert_eq!(written.ok()["documents"], 110);
        let body = json!({
            "collection": "many", "mode": "lexical", "measures": measures,
            "queries": {"q1": "tide"}, "qrels": {"q1": {"0": 1}},
        });
        let task = ended(&server, &evaluate(&server, &body));
        let found = &task["evaluation"]["measures"]["num_ret"];
        assert_eq!(found.as_f64(), Some(expected), "{measures}: {task}");
    };
    check(1000, json!(["num_ret", "recall@105"]), 105.0);
    check(1000, json!(["num_ret", "recall@10"]), 100.0);
    // Nor does it look at more than a search may find.
    check(50, json!(["num_ret"]), 50.0);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let off = evaluate(&start(0), &request(&json!({}))).problem(413, "batch_too_large");
    assert_eq!(off["errors"][0]["setting"], "limits.eval_queries");
    assert_eq!(
        (&off["errors"][0]["given"], &off["errors"][0]["limit"]),
        (&json!(4), &json!(0))
    );

    let server = start(4);
    for (how, pointer) in [
        (json!({"qrels": {"q1": {}}}), "/qrels"),
        (
            json!({"qrels": {"q/3": {"a": 1}, "no/one": {"a": 1}}}),
            "/qrels/no~1one",
        ),
        (
            json!({"queries": {"q/3": " "}, "qrels": {"q/3": {"a": 1}}}),
            "/queries/q~13",
        ),
        (json!({"measures": []}), "/measures"),
        (json!({"measures": ["ndcg@10", "best"]}), "/measures/1"),
        (json!({"measures": ["mrr", "recip_rank"]}), "/measures/1"),
        (json!({"measures": ["answer@5"]}), "/measures/0"),
        (json!({"measures": ["recall@100"], "top_k": 99}), "/top_k"),
        (
            json!({"measures": ["map", "recall@100"], "top_k": 99}),
            "/top_k",
        ),
        (json!({"measures": ["mrr", "recall@2000"]}), "/measures/1"),
        (json!({"hybrid": {}}), "/hybrid"),
        (
            json!({"filter": {"must": [{"exists": {"key": ""}, "match": {}}]}}),
            "/filter/must/0",
        ),
        (json!({"offset": 3}), "/offset"),
    ] {
        let problem = evaluate(&server, &request(&how)).problem(422, "validation");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{how}: {problem}");
    }
    let many: BTreeMap<String, Value> = (0..5)
        .map(|place| (place.to_string(), json!({"sky": 1})))
        .collect();
    let many = evaluate(&server, &request(&json!({"qrels": many})));
    many.problem(413, "batch_too_large");
    for name in ["no", "docs@no", ""] {
        let unknown = evaluate(&server, &request(&json!({"collection": name})));
        unknown.problem(404, "not_found");
    }
    // What only the collection knows is said by the task.
    let filter = json!({"must": [{"exists": {"key": "no"}}]});
    let begun = evaluate(&server, &request(&json!({"filter": filter})));
    let task = ended(&server, &begun);
    assert_eq!(task["state"], "failed");
    let error = task["error"].as_str().unwrap();
    assert!(error.contains("/filter/must/0/exists/key"), "{error}");
}

#[test]
fn a_key_measures_its_own_collections_only() {
    let mut theirs = key("theirs", &[Scope::Admin]);
    theirs.collections = vec!["plain".to_owned()];
    let auth = keys(vec![theirs, key("all", &[Scope::Admin])]);
    let server = TestServer::start_set(
        |config| config.limits.eval_queries = 4,
        |server| server.set_auth(auth).unwrap(),
    );
    let body = request(&json!({})).to_string();
    let ask = |name| server.post_with("/v1/eval", &bearer(name), body.as_bytes());
    ask("theirs").problem(403, "forbidden");
    let begun = ask("all");
    assert_eq!(begun.status, 202);

    // Nor does it learn what another has measured.
    let task = format!("/v1/tasks/{}", begun.json()["task"].as_str().unwrap());
    let cancel = format!("{task}/cancel");
    let of = |name: &str, method: &str, path: &str| {
        security::ask(&server, method, path, &bearer(name), &json!({}))
    };
    assert_eq!(of("theirs", "GET", "/v1/tasks").ok()["tasks"], json!([]));
    of("theirs", "GET", &task).problem(404, "not_found");
    of("theirs", "POST", &cancel).problem(404, "not_found");
    let tasks = of("all", "GET", "/v1/tasks").ok();
    assert_eq!(tasks["tasks"][0]["collection"], "docs");
    of("all", "POST", &cancel).ok();
}
