//! The query log, and feedback into it.

use std::path::Path;

use retriever::{Condition, Filter, Test};
use serde_json::{Value, json};
use server::{
    ApiKey, LoggedEvent, LoggedFeedback, LoggedSearch, QueryLogConfig, Scope, Server,
    query_log_files,
};

use crate::harness::{Answer, TestServer};
use crate::ids;
use crate::security::{bearer, key, keys};

const SEARCH: &str = "/v1/collections/docs/search";
const FEEDBACK: &str = "/v1/collections/docs/feedback";

fn start(path: &Path, text: bool, setup: impl FnOnce(&mut Server)) -> TestServer {
    let log = QueryLogConfig {
        text,
        ..QueryLogConfig::new(path.to_owned())
    };
    TestServer::start_set(
        |_| {},
        |server| {
            server.set_query_log(&log).unwrap();
            setup(server);
        },
    )
}

/// Stops a server and reads what it logged.
fn logged(mut server: TestServer, path: &Path) -> (Vec<LoggedSearch>, Vec<LoggedFeedback>) {
    server.stop();
    server.wait().unwrap();
    let files = query_log_files(path).unwrap();
    let text: String = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let (mut searches, mut feedback) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line).unwrap() {
            LoggedEvent::Search(search) => searches.push(search),
            LoggedEvent::Feedback(given) => feedback.push(given),
        }
    }
    (searches, feedback)
}

fn shown(search: &LoggedSearch) -> Vec<&str> {
    search.results.iter().map(|hit| hit.id.as_str()).collect()
}

#[test]
fn searches_and_feedback_are_in_the_log_when_the_server_has_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log/queries.jsonl");
    let server = start(&path, true, |_| {});
    let found = server
        .search(json!({"query": "the sea", "top_k": 3, "offset": 1}))
        .ok();
    let batch = json!({"searches": [
        {"query": "sky"}, {"query": " "}, {"query": "glass"},
        {"query": "owls", "group_by": "lang", "group_size": 2}
    ]});
    let batch = server
        .post("/v1/collections/docs/search/batch", &batch)
        .ok();
    server
        .search(json!({"vector": vec![0.5; 32], "top_k": 1}))
        .ok();
    server
        .search(json!({"query": "a", "top_k": 0}))
        .problem(422, "validation");
    let body = json!({"feedback": [
        {"request_id": found["request_id"], "id": "bees", "rank": 7},
        {"request_id": batch["request_id"], "place": 2, "id": "sky"},
        {"query": "what is glass", "id": "glass", "grade": 3},
    ]});
    let answer = server.post(FEEDBACK, &body);
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json()["accepted"], 3);
    let (searches, feedback) = logged(server, &path);
    assert_eq!(searches.len(), 5);
    let first = &searches[0];
    assert_eq!(first.query.as_deref(), Some("the sea"));
    assert_eq!(shown(first), ids(&found));
    let ranks: Vec<usize> = first.results.iter().map(|hit| hit.rank).collect();
    assert_eq!((ranks, &first.key), (vec![2, 3, 4], &None));
    assert_eq!(found["generation"], first.generation.as_str());
    let mut of_batch: Vec<&LoggedSearch> = searches[1..4].iter().collect();
    of_batch.sort_by_key(|search| search.place);
    let queries: Vec<_> = of_batch
        .iter()
        .map(|s| (s.place, s.query.as_deref().unwrap()))
        .collect();
    assert_eq!(queries, [(0, "sky"), (2, "glass"), (3, "owls")]);
    assert!(
        of_batch
            .iter()
            .all(|search| batch["request_id"] == search.request_id.as_str())
    );
    let groups = batch["results"][3]["groups"].as_array().unwrap();
    let n_hits: usize = groups
        .iter()
        .map(|group| group["hits"].as_array().unwrap().len())
        .sum();
    assert_eq!(of_batch[2].results.len(), n_hits);
    assert_eq!(of_batch[2].results[0].rank, 1);
    assert_eq!((&searches[4].query, searches[4].results.len()), (&None, 1));
    let given: Vec<_> = feedback
        .iter()
        .map(|f| {
            (
                f.request_id.is_some(),
                f.place,
                f.id.as_str(),
                f.grade,
                f.rank,
            )
        })
        .collect();
    let expected = [
        (true, 0, "bees", None, Some(7)),
        (true, 2, "sky", None, None),
        (false, 0, "glass", Some(3), None),
    ];
    assert_eq!(given, expected);
    assert_eq!(feedback[2].query.as_deref(), Some("what is glass"));
}

#[test]
fn texts_and_keys_are_not_in_the_log_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.jsonl");
    let all = vec![key("one", &[Scope::Search]), key("two", &[Scope::Search])];
    let server = start(&path, false, |server| server.set_auth(keys(all)).unwrap());
    let post = |name: &str, path: &str, body: &Value| -> Answer {
        server.post_with(path, &bearer(name), body.to_string().as_bytes())
    };
    for name in ["one", "two", "one"] {
        post(name, SEARCH, &json!({"query": "a secret of the sea"})).ok();
    }
    let body = json!({"feedback": [{"query": "a secret of the sea", "id": "tides"}]});
    let problem = post("one", FEEDBACK, &body).problem(422, "validation");
    assert_eq!(problem["errors"][0]["pointer"], "/feedback/0/query");
    let body = json!({"feedback": [{"request_id": "r", "id": "tides"}]});
    assert_eq!(post("two", FEEDBACK, &body).status, 202);
    let (searches, feedback) = logged(server, &path);
    let callers: Vec<_> = searches
        .iter()
        .map(|search| search.key.clone().unwrap())
        .collect();
    assert!(callers[0] != callers[1] && callers[0] == callers[2]);
    assert_eq!(feedback[0].key.as_ref(), Some(&callers[1]));
    let text = std::fs::read_to_string(&path).unwrap();
    let sha256: String = key("one", &[])
        .sha256
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for hidden in ["secret", "one", &sha256, &sha256[..16]] {
        assert!(!text.contains(hidden), "{hidden} is in {text}");
    }
}

#[test]
fn a_tenant_says_nothing_of_documents_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queries.jsonl");
    let french = Condition::Field {
        key: "lang".to_owned(),
        test: Test::Match(json!("fr")),
    };
    let tenant = ApiKey {
        filter: Some(Filter {
            must: vec![french],
            ..Filter::default()
        }),
        ..key("tenant", &[Scope::Search])
    };
    let server = start(&path, true, |server| {
        server.set_auth(keys(vec![tenant])).unwrap()
    });
    let give = |id: &str| {
        let body = json!({"feedback": [{"query": "a", "id": "bread"}, {"query": "a", "id": id}]});
        server.post_with(FEEDBACK, &bearer("tenant"), body.to_string().as_bytes())
    };
    assert_eq!(give("bread").status, 202);
    let (other, absent) = (give("tides"), give("nothing"));
    let problem = other.problem(422, "validation");
    assert_eq!(
        problem["errors"],
        absent.problem(422, "validation")["errors"]
    );
    let error = &problem["errors"][0];
    assert_eq!(
        (&error["pointer"], &error["code"]),
        (&json!("/feedback/1/id"), &json!("unknown_value"))
    );
    let (_, feedback) = logged(server, &path);
    assert_eq!(feedback.len(), 2);
}

#[test]
fn what_is_wrong_with_feedback_is_placed() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&folder.path().join("queries.jsonl"), true, |_| {});
    let check = |given: Value, pointer: &str, code: &str| {
        let answer = server.post(FEEDBACK, &json!({"feedback": given}));
        let problem = answer.problem(422, "validation");
        let error = &problem["errors"][0];
        assert_eq!(
            (&error["pointer"], &error["code"]),
            (&json!(pointer), &json!(code)),
            "{given}"
        );
    };
    check(json!([]), "/feedback", "too_small");
    check(json!(["bees"]), "/feedback/0", "wrong_type");
    check(json!([{"id": "bees"}]), "/feedback/0/request_id", "missing");
    check(
        json!([{"id": "bees", "request_id": "two words"}]),
        "/feedback/0/request_id",
        "unknown_value",
    );
    check(
        json!([{"id": "bees", "query": " "}]),
        "/feedback/0/query",
        "blank",
    );
    check(
        json!([{"id": "bees", "query": "a".repeat(17_000)}]),
        "/feedback/0/query",
        "too_large",
    );
    check(
        json!([{"id": "bees", "query": "a", "grade": 11}]),
        "/feedback/0/grade",
        "too_large",
    );
    check(
        json!([{"id": "bees", "query": "a", "grade": -1}]),
        "/feedback/0/grade",
        "wrong_type",
    );
    check(
        json!([{"id": "bees", "query": "a", "rank": 0}]),
        "/feedback/0/rank",
        "too_small",
    );
    check(
        json!([{"id": "bees", "query": "a", "clicked": 1}]),
        "/feedback/0/clicked",
        "unknown_field",
    );
    let good = json!({"id": "bees", "query": "a"});
    check(
        json!([good, {"id": "wasps", "query": "a"}]),
        "/feedback/1/id",
        "unknown_value",
    );
    let many = json!({"feedback": vec![good.clone(); 1001]});
    server.post(FEEDBACK, &many).problem(413, "batch_too_large");
    let off = TestServer::start();
    off.post(FEEDBACK, &json!({"feedback": [good]}))
        .problem(404, "not_found");
}
