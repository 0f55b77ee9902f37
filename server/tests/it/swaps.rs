//! One generation after another, under load: every answer comes from one, and none is lost.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use collection::{AliasName, Collection, GenerationId, LogConfig};
use compute::accelerator::SharedAccelerator;
use corpus::{CorpusConfig, Template};
use emulated_gpu::EmulatedGpu;
use indexer::{BuildConfig, DocumentChange, LogPosition, NoProgress};
use retriever::OpenConfig;
use serde_json::{Value, json};
use server::QueueConfig;

use crate::harness::{self, Answer, CORPUS, TestServer, encoder, wait_until};

const ALIAS: &str = "/v1/collections/docs/aliases/live";

/// Adds a generation of a corpus to the served collection.
pub fn build(server: &TestServer, corpus: &str, tweak: impl FnOnce(&mut BuildConfig)) -> String {
    build_with(server, "models/tiny-bert", corpus, tweak)
}

/// The same with another encoder.
pub fn build_with(
    server: &TestServer,
    fixture: &str,
    corpus: &str,
    tweak: impl FnOnce(&mut BuildConfig),
) -> String {
    add(&server.root, fixture, corpus, tweak)
}

/// Adds a generation to the collection in a folder.
fn add(root: &Path, fixture: &str, corpus: &str, tweak: impl FnOnce(&mut BuildConfig)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.jsonl");
    std::fs::write(&path, corpus).unwrap();
    let corpus = CorpusConfig {
        paths: vec![path],
        ..CorpusConfig::default()
    };
    let mut config = BuildConfig::new(root.to_owned(), corpus, None);
    tweak(&mut config);
    let stop = AtomicBool::new(false);
    let encoder = encoder(fixture);
    let report = indexer::build(&config, &encoder, &NoProgress, &stop).unwrap();
    report.generation.to_string()
}

/// Half of the passages.
fn half(server: &TestServer) -> String {
    let lines = CORPUS.lines().take(3);
    let corpus: String = lines.map(|line| format!("{line}\n")).collect();
    build(server, &corpus, |_| ())
}

/// The same passages, every text of which says that it is the second.
fn second(server: &TestServer) -> String {
    let corpus = CORPUS.replace(r#""text": ""#, r#""text": "Second. "#);
    build(server, &corpus, |_| ())
}

pub fn publish(root: &Path, id: &str) {
    let writer = Collection::open(root).unwrap().writer("test").unwrap();
    writer.publish(&GenerationId::parse(id).unwrap()).unwrap();
}

impl TestServer {
    pub(crate) fn put(&self, path: &str, headers: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        self.raw((head + &body).as_bytes())
    }

    fn served(&self) -> String {
        let shown = self.get("/v1/collections/docs").ok();
        shown["generation"].as_str().unwrap().to_owned()
    }

    fn wait_until_served(&self, id: &str) {
        wait_until(|| self.served() == id, &format!("{id} is not served"));
    }
}

/// Searches until told to stop, and checks each answer.
fn search_on(server: &TestServer, second: &str, stop: &AtomicBool, n_answers: &AtomicUsize) {
    let query = json!({"query": "the sea and the sky", "top_k": 6});
    while !stop.load(Ordering::Relaxed) {
        let answer = server.search(query.clone());
        let body = answer.ok();
        let generation = body["generation"].as_str().unwrap();
        assert_eq!(answer.header("x-index-generation"), generation);
        let hits = body["results"].as_array().unwrap();
        assert_eq!(hits.len(), 6);
        for hit in hits {
            let is_second = hit["text"].as_str().unwrap().starts_with("Second. ");
            assert_eq!(is_second, generation == second, "a mixed answer: {body}");
        }
        n_answers.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn swaps_and_rollbacks_under_load_lose_and_mix_no_answer() {
    let server = TestServer::start();
    let first = server.served();
    let second = second(&server);
    let (stop, n_answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| search_on(&server, &second, &stop, &n_answers));
        }
        // Whatever panics here must not leave the others searching.
        let swaps = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..10 {
                let body = json!({"generation": second, "gate": false});
                let shown = server.put(ALIAS, "", &body).ok();
                assert_eq!(
                    (&shown["generation"], &shown["served"]),
                    (&json!(second), &json!(true))
                );
                assert_eq!(server.served(), second, "the answer comes after the switch");
                let shown = server.post(&format!("{ALIAS}/rollback"), &Value::Null).ok();
                assert_eq!(
                    (&shown["generation"], &shown["previous"]),
                    (&json!(first), &json!(second))
                );
                assert_eq!(server.served(), first);
            }
            // Changed by another process: noticed.
            publish(&server.root, &second);
            server.wait_until_served(&second);
            publish(&server.root, &first);
            server.wait_until_served(&first);
        }));
        stop.store(true, Ordering::Relaxed);
        swaps.unwrap();
    });
    assert!(n_answers.load(Ordering::Relaxed) > 0);
    let figures = server.get("/metrics").text;
    assert!(
        figures.contains("trawl_swaps_total{outcome=\"done\"} 22"),
        "{figures}"
    );
}

#[test]
fn a_server_starts_and_switches_though_no_request_may_wait() {
    let queue = QueueConfig {
        max_wait: Duration::ZERO,
        ..QueueConfig::default()
    };
    let server = TestServer::start_with(|_| {}, queue);
    let second = second(&server);
    let body = json!({"generation": second, "gate": false});
    server.put(ALIAS, "", &body).ok();
    assert_eq!(server.served(), second);
}

#[test]
fn an_alias_is_changed_only_if_it_names_what_the_caller_thinks() {
    let server = TestServer::start();
    let first = server.served();
    let second = second(&server);
    let shown = server.get(ALIAS);
    assert_eq!(shown.header("etag"), format!("\"{first}\""));
    assert_eq!(shown.ok()["previous"], Value::Null);
    server
        .get("/v1/collections/docs/aliases/nosuch")
        .problem(404, "not_found");
    server
        .get("/v1/collections/plain/aliases/live")
        .problem(404, "not_found");
    server
        .post(&format!("{ALIAS}/rollback"), &Value::Null)
        .problem(404, "not_found");

    let body = json!({"generation": second, "gate": false});
    let stale = format!("if-match: \"{second}\"\r\n");
    let problem = server
        .put(ALIAS, &stale, &body)
        .problem(412, "precondition_failed");
    assert!(problem["detail"].as_str().unwrap().contains(&first));
    for other in ["nonsense", "", &first, &format!("W/\"{first}\"")] {
        server
            .put(ALIAS, &format!("if-match: {other}\r\n"), &body)
            .problem(412, "precondition_failed");
    }
    let right = format!("if-match: \"{second}\", \"{first}\"\r\n");
    let done = server.put(ALIAS, &right, &body);
    assert_eq!(done.header("etag"), format!("\"{second}\""));
    done.ok();
    let listed = server.get("/v1/collections/docs/generations").ok();
    let row = |i: usize| {
        (
            &listed["generations"][i]["aliases"],
            &listed["generations"][i]["served"],
        )
    };
    assert_eq!(
        (row(0), row(1)),
        (
            (&json!([]), &json!(false)),
            (&json!(["live"]), &json!(true))
        )
    );

    let body = json!({"generation": "nosuch", "gate": false});
    server.put(ALIAS, "", &body).problem(404, "not_found");
    let body = json!({"generation": "../x", "gate": false});
    server.put(ALIAS, "", &body).problem(422, "validation");
    let writer = Collection::open(&server.root)
        .unwrap()
        .writer("a long build")
        .unwrap();
    let body = json!({"generation": first, "gate": false});
    let problem = server.put(ALIAS, "", &body).problem(409, "locked");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .ends_with("a long build")
    );
    drop(writer);
    assert_eq!(server.served(), second);
}

#[test]
fn what_is_worse_or_of_another_model_is_refused() {
    let server = TestServer::start();
    let first = server.served();
    let half = half(&server);
    let problem = server
        .put(ALIAS, "", &json!({"generation": half}))
        .problem(409, "gate_failed");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("passages is 3.0000, more than 20 % below live"),
        "{detail}"
    );

    let other = build(&server, CORPUS, |config| {
        config.passage_template = Template::parse("<text>").unwrap();
    });
    let problem = server
        .put(ALIAS, "", &json!({"generation": other}))
        .problem(409, "fingerprint_mismatch");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("`passage.template`")
    );

    let equal = build(&server, CORPUS, |_| ());
    server.put(ALIAS, "", &json!({"generation": equal})).ok();
    assert_eq!(server.served(), equal);
    let listed = server.get("/v1/collections/docs/generations").ok();
    assert_eq!(listed["generations"][3]["gate"]["passed"], true);
    server.post(&format!("{ALIAS}/rollback"), &Value::Null).ok();
    assert_eq!(server.served(), first);
}

#[test]
fn an_alias_that_is_not_served_names_only_what_can_be() {
    let server = TestServer::start_with(|config| config.verify = true, QueueConfig::default());
    let damaged = build(&server, CORPUS, |_| ());
    let generation = Collection::open(&server.root)
        .and_then(|found| found.generation(&GenerationId::parse(&damaged).unwrap()))
        .unwrap();
    let vectors = generation.path.join("shards/000/vectors.trawl");
    let mut bytes = std::fs::read(&vectors).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&vectors, bytes).unwrap();
    let staging = "/v1/collections/docs/aliases/staging";
    let refused = server.put(staging, "", &json!({"generation": damaged}));
    refused.problem(500, "internal");
    server.get(staging).problem(404, "not_found");
    let half = half(&server);
    server.put(staging, "", &json!({"generation": half})).ok();
    assert_eq!(server.get(staging).ok()["generation"], half);
}

#[test]
fn a_request_says_what_the_gate_requires() {
    let server = TestServer::start();
    let first = server.served();
    let other = CORPUS.replace("The sea comes", "Now and then the sea comes");
    let other = build(&server, &other, |_| ());
    let put = |gate: Value| server.put(ALIAS, "", &json!({"generation": other, "gate": gate}));

    let problem = put(json!({"k": 3, "require": {"passages": {"min": 100}}}));
    let problem = problem.problem(409, "gate_failed");
    let report = &problem["gate"];
    assert_eq!(
        (
            &report["passed"],
            &report["candidate"],
            &report["live"],
            &report["k"]
        ),
        (&json!(false), &json!(other), &json!(first), &json!(3))
    );
    let measures = report["measures"].as_array().unwrap();
    let violated: Vec<_> = measures
        .iter()
        .filter(|measure| !measure["violation"].is_null())
        .map(|measure| (&measure["name"], &measure["violation"]))
        .collect();
    assert_eq!(violated, [(&json!("passages"), &json!("less than 100"))]);
    assert!(!report["worst"][0]["live"][0]["text"].is_null(), "{report}");

    for (gate, pointer, said) in [
        (
            json!({"requires": {}}),
            "/gate/requires",
            "did you mean `require`?",
        ),
        (
            json!({"require": {"ndgc": {}}}),
            "/gate/require/ndgc",
            "did you mean `ndcg`?",
        ),
        (
            json!({"require": {"ndcg": {"minimum": 1}}}),
            "/gate/require/ndcg/minimum",
            "unknown field",
        ),
        (
            json!({"require": {"ndcg": {"max_drop": "5"}}}),
            "/gate/require/ndcg/max_drop",
            "neither a number",
        ),
        (
            json!({"require": {"ndcg": {"max_drop": -1}}}),
            "/gate/require/ndcg/max_drop",
            "neither a number",
        ),
        (
            json!({"require": []}),
            "/gate/require",
            "expected an object",
        ),
        (
            json!({"queries": "/etc/passwd"}),
            "/gate/queries",
            "unknown field",
        ),
        (
            json!({"fingerprint": "other"}),
            "/gate/fingerprint",
            "unknown variant",
        ),
        (json!({"k": 0}), "/gate/k", "limit is 1"),
        (json!({"k": 1_000_000}), "/gate/k", "limits.top_k"),
        (json!({"n_queries": 0}), "/gate/n_queries", "limit is 1"),
        (json!("yes"), "/gate", "a boolean or an object"),
    ] {
        let problem = put(gate.clone()).problem(422, "validation");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{gate}");
        let message = problem["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains(said), "{gate}: {message}");
    }
    assert_eq!(server.served(), first);

    // Another model is none that this server has, whatever the gate allows.
    let foreign = build_with(&server, "models/tiny-bert-last", CORPUS, |_| ());
    let body = json!({"generation": foreign, "gate": {"fingerprint": "any"}});
    let problem = server.put(ALIAS, "", &body);
    problem.problem(409, "fingerprint_mismatch");

    let half = half(&server);
    let allowed =
        json!({"require": {"passages": {"max_drop": "50%"}, "overlap": {}, "ndcg": {}, "mrr": {}}});
    server
        .put(ALIAS, "", &json!({"generation": half, "gate": allowed}))
        .ok();
    assert_eq!(server.served(), half);
}

/// Makes another generation answer, and removes from the log what the one before lacks; returns both.
fn with_a_gap(server: &TestServer) -> (String, String) {
    let first = server.served();
    let collection = Collection::open(&server.root).unwrap();
    let mut log = collection.log_writer("test", LogConfig::default()).unwrap();
    let absent = DocumentChange::Delete("absent".to_owned());
    log.append(&[absent.to_record()]).unwrap();
    let second = build(server, CORPUS, |config| {
        config.log_position = Some(LogPosition::End);
    });
    let body = json!({"generation": second, "gate": false});
    server.put(ALIAS, "", &body).ok();

    // Removed here, and pulled from elsewhere when the log was folded.
    let folder = server.root.join("generations").join(&first);
    let aside = server.root.join("aside");
    std::fs::rename(&folder, &aside).unwrap();
    let writer = collection.writer("test").unwrap();
    assert!(log.truncate(&writer).unwrap() > 0);
    drop((log, writer));
    std::fs::rename(&aside, &folder).unwrap();
    (first, second)
}

#[test]
fn a_generation_that_lacks_what_the_log_has_no_more_is_served_without_it() {
    let server = TestServer::start();
    let (first, second) = with_a_gap(&server);
    let rollback = format!("{ALIAS}/rollback");
    assert_eq!(server.post(&rollback, &Value::Null).status, 500);
    assert_eq!(server.served(), second);
    server.post(&rollback, &json!({"drop_live": true})).ok();
    assert_eq!(server.served(), first);
}

#[test]
fn an_alias_that_is_not_served_names_a_generation_without_what_the_log_has_no_more() {
    let server = TestServer::start();
    let (first, second) = with_a_gap(&server);
    let next = "/v1/collections/docs/aliases/next";
    let body = json!({"generation": first, "gate": false});
    assert_eq!(server.put(next, "", &body).status, 500);
    let body = json!({"generation": first, "gate": false, "drop_live": true});
    let set = server.put(next, "", &body).ok();
    assert_eq!(set["generation"], json!(first));
    assert_eq!(server.served(), second);
    let path = "/v1/collections/docs@next/search";
    let found = server.post(path, &json!({"query": "bread"})).ok();
    assert_eq!(found["generation"], json!(first));
}

#[test]
fn what_was_written_is_left_out_where_that_is_asked_for() {
    let server = TestServer::start();
    let first = server.served();
    let second = second(&server);
    let write = |id: &str| {
        let document = json!({"_id": id, "title": "Quokka", "text": "A quokka.", "lang": "en"});
        server
            .post("/v1/collections/docs/documents", &document)
            .ok();
    };
    let found = || -> Vec<String> {
        let body = json!({"query": "quokka", "mode": "lexical"});
        let found = server.search(body).ok();
        crate::ids(&found).into_iter().map(str::to_owned).collect()
    };
    let of_other = |generation: &str| {
        let path = format!("/v1/collections/docs@{generation}/search");
        let found = server
            .post(&path, &json!({"query": "quokka", "mode": "lexical"}))
            .ok();
        crate::ids(&found).len()
    };
    let set = |generation: &str, drop_live: bool| {
        let body = json!({"generation": generation, "gate": false, "drop_live": drop_live});
        server.put(ALIAS, "", &body).ok();
    };
    write("a");
    // Of the generation that answers.
    set(&first, true);
    assert_eq!((found().len(), of_other(&second)), (0, 1));
    write("b");
    assert_eq!(found(), ["b"]);
    // Of another one, which then answers; the one before still has what it had.
    set(&second, true);
    assert_eq!((found().len(), of_other(&first)), (0, 1));
    write("c");
    assert_eq!(found(), ["c"]);
    server.post(&format!("{ALIAS}/rollback"), &Value::Null).ok();
    assert_eq!(
        (server.served(), found()),
        (first.clone(), vec!["b".to_owned(), "c".to_owned()])
    );
    server
        .post(&format!("{ALIAS}/rollback"), &json!({"drop_live": true}))
        .ok();
    assert_eq!((server.served(), found().len()), (second.clone(), 0));
    server.post_with(&format!("{ALIAS}/rollback"), "", b"").ok();
    let bad = json!({"drop_lvie": true});
    let bad = server
        .post(&format!("{ALIAS}/rollback"), &bad)
        .problem(422, "validation");
    assert!(
        bad["detail"]
            .as_str()
            .unwrap()
            .contains("did you mean `drop_live`?"),
        "{bad}"
    );

    // Another process leaves it out of the generation that answers: noticed, although the alias names what it named.
    assert_eq!(found().len(), 2);
    let collection = Collection::open(&server.root).unwrap();
    let writer = collection.writer("test").unwrap();
    let (alias, end) = (
        AliasName::parse("live").unwrap(),
        collection.log_positions().unwrap().end,
    );
    let id = GenerationId::parse(&first).unwrap();
    writer.set_alias_without(&alias, &id, end - 1).unwrap();
    wait_until(|| found().is_empty(), "it is not left out");
    write("d");
    assert_eq!(found(), ["d"]);
}

#[test]
fn two_generations_that_do_not_fit_into_memory_are_refused_with_the_figure() {
    let server = TestServer::start_with(
        |config| config.max_memory_bytes = Some(1),
        QueueConfig::default(),
    );
    let first = server.served();
    let second = second(&server);
    let problem = server
        .put(ALIAS, "", &json!({"generation": second, "gate": false}))
        .problem(507, "insufficient_storage");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("bytes of memory beside the current one, 0 are available"),
        "{detail}"
    );
    let collection = Collection::open(&server.root).unwrap();
    assert_eq!(
        collection.resolve("live").unwrap().id.as_str(),
        first,
        "the alias is as it was"
    );
    assert_eq!(server.served(), first);
}

#[test]
fn a_device_without_room_for_two_generations_keeps_the_first() {
    let gpu = EmulatedGpu::new("gpu:0", 1 << 30);
    let devices: Vec<SharedAccelerator> = vec![gpu.clone()];
    let folder = tempfile::tempdir().unwrap();
    let root = harness::build(folder.path(), &encoder("models/tiny-bert"));
    let server = TestServer::start_set(
        |_| {},
        |server| {
            server.set_devices(devices.clone());
            let on_device = OpenConfig {
                devices,
                ..OpenConfig::default()
            };
            let retriever = harness::open_with(&root, on_device);
            server
                .add_collection("fast", retriever, Some("tiny"), None)
                .unwrap();
            let live = AliasName::parse("live").unwrap();
            server
                .follow("fast", Collection::open(&root).unwrap(), live)
                .unwrap();
        },
    );
    let search = || {
        let query = json!({"query": "the sea and the sky", "top_k": 6});
        server.post("/v1/collections/fast/search", &query).ok()
    };
    let (first, on_host) = (
        search(),
        server
            .search(json!({"query": "the sea and the sky", "top_k": 6}))
            .ok(),
    );
    assert_eq!(
        first["results"], on_host["results"],
        "as the host finds them"
    );
    let n_launches = gpu.n_launches();
    search();
    assert!(gpu.n_launches() > n_launches, "the device searched");

    let second = add(&root, "models/tiny-bert", CORPUS, |_| ());
    let publish = json!({"generation": second, "gate": false});
    let alias = "/v1/collections/fast/aliases/live";
    let taken = gpu.allocated_bytes();
    gpu.set_total_bytes(taken + taken / 2);
    let problem = server
        .put(alias, "", &publish)
        .problem(507, "insufficient_storage");
    let detail = problem["detail"].as_str().unwrap();
    let free = format!("({} of ", taken / 2);
    assert!(
        detail.contains("has no room beside the current one") && detail.contains(&free),
        "{detail}"
    );
    assert_eq!(search()["generation"], first["generation"]);

    gpu.set_total_bytes(2 * taken);
    server.put(alias, "", &publish).ok();
    assert_eq!(search()["generation"], second.as_str());
}

#[test]
fn another_generation_is_searched_by_its_name() {
    let server = TestServer::start();
    let first = server.served();
    let ids: Vec<String> = (2..5)
        .map(|n| {
            build(
                &server,
                &CORPUS.replace("Glass", &format!("Glass {n}")),
                |_| (),
            )
        })
        .collect();
    let title = |generation: &str| {
        let path = format!("/v1/collections/docs@{generation}/search");
        let body = json!({"query": "glass", "mode": "lexical"});
        let found = server.post(&path, &body).ok();
        let title = found["results"][0]["title"].as_str().unwrap().to_owned();
        (found["generation"].as_str().unwrap().to_owned(), title)
    };
    // More than are kept open, and again those that were closed.
    for _ in 0..2 {
        for (id, n) in ids.iter().zip(2..) {
            assert_eq!(title(id), (id.clone(), format!("Glass {n}")));
        }
    }
    for live in [first.as_str(), "live"] {
        assert_eq!(title(live), (first.clone(), "Glass".to_owned()));
    }
    let shown = server.get(&format!("/v1/collections/docs@{}", ids[0])).ok();
    assert_eq!(shown["generation"], ids[0]);
    let searches = json!({"searches": [{"query": "a"}, {"query": "b", "top_k": 2}]});
    let path = format!("/v1/collections/docs@{}/search/batch", ids[1]);
    let batch = server.post(&path, &searches).ok();
    assert_eq!(batch["results"][1]["generation"], ids[1]);
    assert_eq!(server.served(), first);
    for unknown in [
        "docs@other",
        "docs@",
        "docs@../docs",
        "no@live",
        "plain@live",
    ] {
        let path = format!("/v1/collections/{}/search", unknown.replace('/', "%2F"));
        server
            .post(&path, &json!({"query": "a"}))
            .problem(404, "not_found");
    }
}

const SHADOW: &str = "/v1/collections/docs/shadow";

impl TestServer {
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.raw(
            format!("DELETE {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes(),
        )
    }

    /// Waits for so many comparisons.
    fn compared(&self, n: u64) -> Value {
        let shown = || self.get(SHADOW).ok();
        wait_until(|| shown()["compared"].as_u64() >= Some(n), "not compared");
        shown()
    }
}

#[test]
fn a_candidate_answers_its_share_of_the_searches_unseen() {
    let server = TestServer::start();
    let live = server.served();
    let last = CORPUS.lines().last().unwrap();
    let fewer = CORPUS.replace(&format!("{last}\n"), "");
    let candidate = build(&server, &fewer, |_| ());
    server.get(SHADOW).problem(404, "not_found");
    let ask = |n: usize| {
        for number in 0..n {
            let body = json!({"query": format!("sea {number}"), "top_k": 6});
            let found = server.search(body).ok();
            assert_eq!(found["generation"], live);
        }
    };
    let request = json!({"generation": candidate, "share": 0.5});
    let shown = server.put(SHADOW, "", &request).ok();
    assert_eq!(
        (&shown["compared"], &shown["overlap"]),
        (&json!(0), &Value::Null)
    );
    ask(8);
    let batch = json!({"searches": [{"query": "a", "top_k": 6}, {"query": "b", "top_k": 6}]});
    server
        .post("/v1/collections/docs/search/batch", &batch)
        .ok();
    // Searches of a named generation are not those of users.
    let named = format!("/v1/collections/docs@{candidate}/search");
    server.post(&named, &json!({"query": "a"})).ok();
    let shown = server.compared(5);
    assert_eq!(
        (&shown["live"], &shown["candidate"], &shown["compared"]),
        (&json!(live), &json!(candidate), &json!(5))
    );
    assert_eq!(
        (&shown["failed"], &shown["skipped"]),
        (&json!(0), &json!(0))
    );
    // All six passages against the same without one.
    let overlap = shown["overlap"].as_f64().unwrap();
    assert!((overlap - 5.0 / 6.0).abs() < 1e-9, "{shown}");
    assert_eq!(
        (&shown["identical"], &shown["score_drift"]),
        (&json!(0.0), &json!(0.0))
    );
    assert!(shown["candidate_ms"]["p99"].as_f64().unwrap() > 0.0);
    let figures = server.get("/metrics").text;
    let counted = "trawl_shadow_searches_total{collection=\"docs\",outcome=\"compared\"} 5";
    assert!(figures.contains(counted), "{figures}");

    for (request, pointer) in [
        (json!({"generation": candidate, "share": 0.0}), "/share"),
        (json!({"generation": candidate, "share": 1.5}), "/share"),
        (json!({"generation": live}), "/generation"),
    ] {
        let problem = server.put(SHADOW, "", &request).problem(422, "validation");
        assert_eq!(problem["errors"][0]["pointer"], pointer);
    }
    let unknown = json!({"generation": "no-such"});
    server.put(SHADOW, "", &unknown).problem(404, "not_found");

    assert_eq!(server.delete(SHADOW).status, 204);
    server.get(SHADOW).problem(404, "not_found");
    assert_eq!(server.delete(SHADOW).status, 404);
    server.put(SHADOW, "", &request).ok();
    let swap = json!({"generation": candidate, "gate": false});
    server.put(ALIAS, "", &swap).ok();
    server.get(SHADOW).problem(404, "not_found");
}

#[test]
fn a_candidate_sees_what_is_written_while_it_is_compared() {
    let server = TestServer::start();
    let candidate = second(&server);
    let request = json!({"generation": candidate, "share": 1.0});
    server.put(SHADOW, "", &request).ok();
    let document = json!({"_id": "new", "title": "Quokka", "text": "A quokka.", "lang": "en"});
    let lines = "content-type: application/x-ndjson\r\n";
    let path = "/v1/collections/docs/documents";
    server
        .post_with(path, lines, document.to_string().as_bytes())
        .ok();
    let body = json!({"query": "quokka", "mode": "lexical", "top_k": 1});
    assert_eq!(server.search(body).ok()["results"][0]["id"], "new");
    let shown = server.compared(1);
    assert_eq!(shown["overlap"], 1.0, "{shown}");
}
