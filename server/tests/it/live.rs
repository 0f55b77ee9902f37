//! Documents written over HTTP: seen by the next search, whatever generation answers.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use collection::{Collection, LogConfig};
use indexer::DocumentChange;
use serde_json::{Value, json};

use crate::harness::{Answer, TestServer, wait_until};
use crate::ids;

const DOCUMENTS: &str = "/v1/collections/docs/documents";
const LINES: &str = "content-type: application/x-ndjson\r\n";

fn words(server: &TestServer, query: &str) -> Value {
    server
        .search(json!({"query": query, "mode": "lexical", "top_k": 100}))
        .ok()
}

/// Folds the log of `docs` and waits until that is done.
fn compact(server: &TestServer) -> Value {
    compact_of(server, "docs")
}

fn compact_of(server: &TestServer, collection: &str) -> Value {
    let path = format!("/v1/collections/{collection}/compact");
    let begun = server.post(&path, &Value::Null);
    assert_eq!(begun.status, 202);
    let path = format!("/v1/tasks/{}", begun.json()["task"].as_str().unwrap());
    let task = || server.get(&path).ok();
    wait_until(|| task()["state"] != "running", "the log is not folded");
    let task = task();
    assert_eq!(task["state"], "done", "{task}");
    task
}

#[test]
fn what_is_written_is_found_and_what_is_deleted_is_not() {
    let server = TestServer::start();
    let before = server.search(json!({"query": "a", "top_k": 50})).ok();
    assert_eq!(before["log_position"], 0);
    let lines = concat!(
        "{\"_id\": \"new-1\", \"title\": \"Granite\", \"text\": \"zirconium crystals\", \"lang\": \"xx\"}\n\n",
        "{\"text\": \"nobody\"}\n",
        "{\"_id\": \"new-2\", \"text\": \"zirconium and more\"}",
    );
    let written = server.post_with(DOCUMENTS, LINES, lines.as_bytes()).ok();
    assert_eq!(
        (
            &written["documents"],
            &written["passages"],
            &written["log_position"]
        ),
        (&json!(2), &json!(2), &json!(2))
    );
    assert_eq!(written["durability"], "fsync");
    assert_eq!(written["errors"][0]["line"], 3);
    let found = words(&server, "zirconium");
    assert_eq!(ids(&found), ["new-2", "new-1"]);
    assert_eq!(found["log_position"], 2);
    let filter = json!({"must": [{"key": "lang", "match": {"value": "xx"}}]});
    let body = json!({"query": "zirconium", "top_k": 50, "filter": filter, "facets": ["lang"]});
    let found = server.search(body).ok();
    assert_eq!(ids(&found), ["new-1"]);
    assert_eq!(found["facets"]["lang"]["xx"], 1);

    let shown = server.get(&format!("{DOCUMENTS}/new-1")).ok();
    assert_eq!(
        (
            &shown["title"],
            &shown["passages"][0]["text"],
            &shown["metadata"]["lang"]
        ),
        (
            &json!("Granite"),
            &json!("zirconium crystals"),
            &json!("xx")
        )
    );
    // An object, and an array; one document takes the place of the other.
    let one = json!({"_id": "new-1", "text": "feldspar"});
    server.post(DOCUMENTS, &one).ok();
    server
        .post(
            DOCUMENTS,
            &json!([one, {"_id": "new-3", "text": "feldspar too"}]),
        )
        .ok();
    assert_eq!(ids(&words(&server, "zirconium")), ["new-2"]);
    assert_eq!(ids(&words(&server, "feldspar")).len(), 2);

    let old = before["results"][0]["id"].as_str().unwrap();
    let body = json!({"ids": [old, "new-2", "nobody"]});
    let deleted = server.post(&format!("{DOCUMENTS}/delete"), &body).ok();
    assert_eq!(deleted["documents"], 2);
    let found = server.search(json!({"query": "a", "top_k": 50})).ok();
    assert_eq!(found["log_position"], deleted["log_position"]);
    assert!(!ids(&found).contains(&old) && ids(&found).contains(&"new-3"));
    assert_eq!(
        found["total"]["value"],
        before["total"]["value"].as_u64().unwrap() + 1
    );
    server
        .get(&format!("{DOCUMENTS}/{old}"))
        .problem(404, "not_found");

    // The same from a new generation, and from the one before.
    let folded = compact(&server);
    let after = server.search(json!({"query": "a", "top_k": 50})).ok();
    assert_eq!(after["generation"], folded["generation"]);
    assert_eq!(ids(&after), ids(&found));
    let alias = "/v1/collections/docs/aliases/live/rollback";
    let back = server.post(alias, &Value::Null).ok();
    assert_eq!(back["generation"], before["generation"]);
    let again = server.search(json!({"query": "a", "top_k": 50})).ok();
    assert_eq!(
        (ids(&again), &again["generation"]),
        (ids(&found), &before["generation"])
    );
    assert_eq!(server.get("/v1/tasks").ok()["tasks"][0]["state"], "done");
    server.get("/v1/tasks/none").problem(404, "not_found");
}

#[test]
fn what_cannot_be_taken_is_refused_by_name() {
    let server = TestServer::start_with(
        |config| {
            config.limits.documents = 3;
            config.limits.live_bytes = 1_500;
        },
        server::QueueConfig::default(),
    );
    let bad = json!([{"text": "no id"}, {"_id": "a", "text": " "}]);
    let refused = server.post(DOCUMENTS, &bad).problem(422, "validation");
    assert_eq!(refused["errors"][1]["pointer"], "/1");
    let many = json!([1, 2, 3, 4]);
    let refused = server
        .post(DOCUMENTS, &many)
        .problem(413, "batch_too_large");
    assert_eq!(refused["errors"][0]["setting"], "limits.documents");
    let ids = json!({"ids": ["a", "b", "c", "d"]});
    let refused = server.post(&format!("{DOCUMENTS}/delete"), &ids);
    refused.problem(413, "batch_too_large");
    let text = "content-type: text/plain\r\n";
    server
        .post_with(DOCUMENTS, text, b"{}")
        .problem(415, "unsupported_media_type");
    server
        .post_with(DOCUMENTS, "", b"[{")
        .problem(400, "bad_request");
    server
        .post_with(DOCUMENTS, LINES, b"\xff")
        .problem(400, "bad_request");
    let nowhere = "/v1/collections/plain/documents";
    server
        .post(nowhere, &json!({"_id": "a", "text": "b"}))
        .problem(404, "not_found");
    assert_eq!(server.search(json!({"query": "a"})).ok()["log_position"], 0);

    let three = json!(["x", "y", "z"].map(|id| json!({"_id": id, "text": "salt"})));
    server.post(DOCUMENTS, &three).ok();
    let refused = server
        .post(DOCUMENTS, &three)
        .problem(507, "insufficient_storage");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("limits.live_bytes"),
        "{refused}"
    );
    compact(&server);
    server.post(DOCUMENTS, &three).ok();
}

#[test]
fn what_is_refused_is_named_by_its_line() {
    let server = TestServer::start();
    let body = "\n{\"_id\": \"a\", \"text\": \"x\"}\n \n{\"_id\": 3, \"text\": 5}\n";
    let written = server.post_with(DOCUMENTS, LINES, body.as_bytes()).ok();
    assert_eq!(written["documents"], 1);
    assert_eq!(written["errors"][0]["line"], 4, "{written}");
    let bad = json!({"_id": 3, "text": 5});
    for (body, pointer) in [(bad.clone(), ""), (json!([bad]), "/0")] {
        let refused = server.post(DOCUMENTS, &body).problem(422, "validation");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}");
    }
}

#[test]
fn what_passes_a_filter_is_deleted() {
    let server = TestServer::start_with(
        |config| config.limits.documents = 3,
        server::QueueConfig::default(),
    );
    let delete = |key: &str, body: &Value| {
        let headers = match key {
            "" => String::new(),
            key => format!("idempotency-key: {key}\r\n"),
        };
        let body = body.to_string();
        server.post_with(&format!("{DOCUMENTS}/delete"), &headers, body.as_bytes())
    };
    let of = |lang: &str| json!({"must": [{"key": "lang", "match": {"value": lang}}]});
    let before = server.search(json!({"query": "a", "top_k": 50})).ok();
    let n_before = before["total"]["value"].as_u64().unwrap();
    for (body, pointer) in [
        (json!({}), "/ids"),
        (json!({"ids": ["a"], "filter": of("fr")}), "/filter"),
        (json!({"filter": {}}), "/filter"),
        (json!({"filter": {"must": [{"must": []}]}}), "/filter"),
        (
            json!({"filter": {"must_not": [{"should": [{"must": []}]}]}}),
            "/filter",
        ),
        (
            json!({"filter": {"must": [{"key": "lang"}]}}),
            "/filter/must/0",
        ),
        (
            json!({"filter": {"must": [{"key": "langg", "match": {"value": "fr"}}]}}),
            "/filter/must/0/key",
        ),
    ] {
        let refused = delete("", &body).problem(422, "validation");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}");
    }
    let refused = delete("", &json!({"filter": of("en")})).problem(413, "batch_too_large");
    assert_eq!(
        (
            &refused["errors"][0]["setting"],
            &refused["errors"][0]["given"]
        ),
        (&json!("limits.documents"), &json!(n_before - 1))
    );
    assert_eq!(server.search(json!({"query": "a"})).ok()["log_position"], 0);

    let new = json!([{"_id": "n1", "text": "zinc", "lang": "fr"}, {"_id": "n2", "text": "zinc", "lang": "de"}]);
    server.post(DOCUMENTS, &new).ok();
    let deleted = delete("k", &json!({"filter": of("fr")}));
    let deleted = deleted.ok();
    // One is the generation's, one was written since.
    assert_eq!(
        (&deleted["documents"], &deleted["log_position"]),
        (&json!(2), &json!(5))
    );
    assert_eq!(ids(&words(&server, "zinc")), ["n2"]);
    let again = delete("k", &json!({"filter": of("fr")}));
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.ok(), deleted);
    delete("k", &json!({"filter": of("de")})).problem(422, "validation");
    let nothing = delete("", &json!({"filter": of("fr")})).ok();
    assert_eq!(
        (&nothing["documents"], &nothing["log_position"]),
        (&json!(0), &json!(5))
    );
    // What passes the filter later was not deleted by it, whoever answers.
    server
        .post(
            DOCUMENTS,
            &json!({"_id": "n1", "text": "zinc", "lang": "fr"}),
        )
        .ok();
    assert_eq!(ids(&words(&server, "zinc")), ["n2", "n1"]);
    compact(&server);
    assert_eq!(ids(&words(&server, "zinc")), ["n2", "n1"]);
    server
        .post("/v1/collections/docs/aliases/live/rollback", &Value::Null)
        .ok();
    let after = server.search(json!({"query": "a", "top_k": 50})).ok();
    assert_eq!(after["generation"], before["generation"]);
    assert_eq!(after["total"]["value"], n_before + 1);
    assert_eq!(ids(&words(&server, "zinc")), ["n2", "n1"]);
}

#[test]
fn a_request_with_a_key_is_written_once() {
    let server = TestServer::start();
    let ask = |key: &str, text: &str| -> Answer {
        let headers = format!("idempotency-key: {key}\r\n");
        let body = json!({"_id": "k", "text": text}).to_string();
        server.post_with(DOCUMENTS, &headers, body.as_bytes())
    };
    let first = ask("one", "salt").ok();
    let again = ask("one", "salt");
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.ok(), first);
    ask("one", "sand").problem(422, "validation");
    let other = ask("two", "sand").ok();
    assert!(other["log_position"].as_u64() > first["log_position"].as_u64());
    ask(&"x".repeat(256), "salt").problem(400, "bad_request");

    let delete = |ids: &Value| {
        let body = json!({"ids": ids}).to_string();
        let headers = "idempotency-key: three\r\n";
        server.post_with(&format!("{DOCUMENTS}/delete"), headers, body.as_bytes())
    };
    delete(&json!(["a\nb"])).ok();
    delete(&json!(["a", "b"])).problem(422, "validation");
}

#[test]
fn a_request_with_a_key_is_answered_again_when_there_is_no_room_for_more() {
    let server = TestServer::start_with(
        |config| config.limits.live_bytes = 1_500,
        server::QueueConfig::default(),
    );
    let three = json!(["x", "y", "z"].map(|id| json!({"_id": id, "text": "salt"}))).to_string();
    let key = "idempotency-key: one\r\n";
    let first = server.post_with(DOCUMENTS, key, three.as_bytes()).ok();
    let full = server.post_with(DOCUMENTS, "", three.as_bytes());
    full.problem(507, "insufficient_storage");
    let again = server.post_with(DOCUMENTS, key, three.as_bytes());
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.ok(), first);
    let other = server.post_with(DOCUMENTS, key, b"{\"_id\": \"x\", \"text\": \"sand\"}");
    other.problem(422, "validation");
}

#[test]
fn deletions_are_refused_when_there_is_no_room_for_more() {
    let server = TestServer::start_with(
        |config| config.limits.live_bytes = 1,
        server::QueueConfig::default(),
    );
    let delete = format!("{DOCUMENTS}/delete");
    let (key, owls) = ("idempotency-key: one\r\n", br#"{"ids": ["owls"]}"#);
    let first = server.post_with(&delete, key, owls).ok();
    let french = json!({"must": [{"key": "lang", "match": {"value": "fr"}}]});
    for more in [json!({"ids": ["sky"]}), json!({"filter": french})] {
        let refused = server.post(&delete, &more);
        refused.problem(507, "insufficient_storage");
    }
    server.get(&format!("{DOCUMENTS}/sky")).ok();
    server.get(&format!("{DOCUMENTS}/bread")).ok();
    let again = server.post_with(&delete, key, owls);
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(again.ok(), first);
    compact(&server);
    let deleted = server.post(&delete, &json!({"ids": ["sky"]})).ok();
    assert_eq!(deleted["documents"], 1);
}

#[test]
fn writes_while_generations_change_are_neither_lost_nor_doubled() {
    let server = TestServer::start();
    let (stop, n_written) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for writer in 0..3 {
            let (server, stop, n_written) = (&server, &stop, &n_written);
            scope.spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("w{writer}-{n}");
                    let document = json!({"_id": id, "text": format!("quicksilver {id}")});
                    server.post(DOCUMENTS, &document).ok();
                    let shown = server.get(&format!("{DOCUMENTS}/{id}")).ok();
                    assert_eq!(shown["id"], id, "not there after the answer");
                    n_written.fetch_add(1, Ordering::Relaxed);
                    n += 1;
                }
            });
        }
        let changes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for n in 0..4 {
                let document = json!({"_id": format!("c{n}"), "text": "cinnabar"});
                server.post(DOCUMENTS, &document).ok(); // so that there is something to fold
                compact(&server);
                let alias = "/v1/collections/docs/aliases/live/rollback";
                server.post(alias, &Value::Null).ok();
                server.post(alias, &Value::Null).ok();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        changes.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let n_written = n_written.into_inner();
    let body = json!({"query": "quicksilver", "mode": "lexical", "top_k": 1000});
    let found = server.search(body).ok();
    let different: BTreeSet<&str> = ids(&found).into_iter().collect();
    assert_eq!((ids(&found).len(), different.len()), (n_written, n_written));
}

#[test]
fn what_another_process_writes_is_noticed_until_this_one_writes() {
    let server = TestServer::start();
    let collection = Collection::open(&server.root).unwrap();
    let mut log = collection
        .log_writer("another process", LogConfig::default())
        .unwrap();
    let first = server.search(json!({"query": "a", "top_k": 1})).ok();
    let id = ids(&first)[0].to_owned();
    let delete = DocumentChange::Delete(id.clone()).to_record();
    log.append(&[delete]).unwrap();
    let is_gone = || server.get(&format!("{DOCUMENTS}/{id}")).status != 200;
    wait_until(is_gone, "the change is not noticed");
    let document = json!({"_id": id, "text": "back again"});
    let refused = server.post(DOCUMENTS, &document).problem(409, "locked");
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("another process"),
        "{refused}"
    );
    drop(log);
    assert_eq!(server.post(DOCUMENTS, &document).ok()["log_position"], 2);
    server.get(&format!("{DOCUMENTS}/{id}")).ok();
}

/// Damages the text of `bees`, which is needed to delete it, or repairs it.
fn flip_text_of_bees(server: &TestServer) {
    let generation = Collection::open(&server.root).unwrap();
    let path = generation.resolve("live").unwrap().path.join("passages");
    let bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[!bytes[middle]], middle as u64).unwrap();
}

#[test]
fn a_request_with_a_key_that_could_not_be_shown_is_written_once() {
    let server = TestServer::start();
    let delete = || {
        let (headers, body) = ("idempotency-key: one\r\n", br#"{"ids": ["bees"]}"#);
        server.post_with(&format!("{DOCUMENTS}/delete"), headers, body)
    };
    flip_text_of_bees(&server);
    delete().problem(500, "internal");
    flip_text_of_bees(&server);
    let again = delete();
    assert_eq!(again.header("idempotent-replayed"), "true");
    let again = again.ok();
    assert_eq!(
        (&again["documents"], &again["log_position"]),
        (&json!(1), &json!(2))
    );
    server
        .get(&format!("{DOCUMENTS}/bees"))
        .problem(404, "not_found");
    let document = json!({"_id": "new", "text": "quicksilver"});
    assert_eq!(server.post(DOCUMENTS, &document).ok()["log_position"], 3);
}

#[test]
fn what_could_not_be_shown_is_shown_with_what_is_written_next() {
    let server = TestServer::start();
    flip_text_of_bees(&server);
    let delete = json!({"ids": ["bees"]});
    let failed = server.post(&format!("{DOCUMENTS}/delete"), &delete);
    failed.problem(500, "internal");
    flip_text_of_bees(&server);
    let document = json!({"_id": "new", "text": "quicksilver"});
    assert_eq!(server.post(DOCUMENTS, &document).ok()["log_position"], 2);
    assert_eq!(ids(&words(&server, "quicksilver")), ["new"]);
    let gone = server.get(&format!("{DOCUMENTS}/bees"));
    gone.problem(404, "not_found");
}

#[test]
fn a_log_that_has_grown_is_folded_without_being_asked() {
    let server = TestServer::start_with(
        |config| config.compact_after = Some(5),
        server::QueueConfig::default(),
    );
    let before = server.search(json!({"query": "a"})).ok()["generation"].clone();
    for n in 0..6 {
        server
            .post(DOCUMENTS, &json!({"_id": format!("n{n}"), "text": "salt"}))
            .ok();
    }
    let is_folded = || server.search(json!({"query": "a"})).ok()["generation"] != before;
    wait_until(is_folded, "the log is not folded");
    assert_eq!(
        ids(&words(&server, "salt"))
            .iter()
            .filter(|id| id.starts_with('n'))
            .count(),
        6
    );
}

#[test]
fn a_log_of_deletions_is_folded_without_being_asked() {
    let of = |lang: &str| json!({"must": [{"key": "lang", "match": {"value": lang}}]});
    for body in [
        json!({"ids": ["nobody", "nothing"]}),
        json!({"filter": of("en")}),
    ] {
        let server = TestServer::start_with(
            |config| config.compact_after = Some(2),
            server::QueueConfig::default(),
        );
        let before = server.search(json!({"query": "a"})).ok()["generation"].clone();
        server.post(&format!("{DOCUMENTS}/delete"), &body).ok();
        let is_folded = || server.search(json!({"query": "a"})).ok()["generation"] != before;
        wait_until(is_folded, "the log is not folded");
    }
}

#[test]
fn a_document_may_be_longer_than_what_waits_for_the_model() {
    let data = tempfile::tempdir().unwrap();
    let queue = server::QueueConfig {
        max_tokens: 64,
        max_batch_tokens: 64,
        ..server::QueueConfig::default()
    };
    let server = TestServer::start_with(|config| config.data = Some(data.path().to_owned()), queue);
    let made = server.put("/v1/collections/long", "", &json!({"stride": 32}));
    assert_eq!(made.status, 201, "{made:?}");
    let text = "The sea comes in and goes out twice a day. ".repeat(60);
    let documents = json!([{"_id": "a", "text": text}, {"_id": "b", "text": "Sand melts."}]);
    let written = server
        .post("/v1/collections/long/documents", &documents)
        .ok();
    assert_eq!(
        (&written["documents"], &written["errors"]),
        (&json!(2), &json!([]))
    );
    let passages = written["passages"].as_u64().unwrap();
    assert!(passages > 10, "{written}");
    let shown = server.get("/v1/collections/long/documents/a").ok();
    let shown = shown["passages"].as_array().unwrap().len();
    assert_eq!(shown as u64 + 1, passages);
    let body = json!({"query": "Sand melts.", "top_k": 1});
    let found = server.post("/v1/collections/long/search", &body).ok();
    assert_eq!(ids(&found), ["b#0"]);
}

#[test]
fn a_collection_is_made_and_answers_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("made");
    let start = || {
        TestServer::start_set(
            |config| config.data = Some(path.clone()),
            |server| server.add_created().unwrap(),
        )
    };
    let server = start();
    let put = |name: &str, body: Value| server.put(&format!("/v1/collections/{name}"), "", &body);
    let fields = json!({"fields": {"year": "integer"}});
    let made = put("notes", json!({"schema": fields})).json();
    assert_eq!(
        (&made["passages"], &made["encoder"]),
        (&json!(0), &json!("tiny"))
    );
    put("notes", json!({})).problem(409, "already_exists");
    put("docs", json!({})).problem(409, "already_exists");
    put("..%2Fnotes", json!({})).problem(422, "validation");
    put("other", json!({"encoder": "none"})).problem(404, "model_not_found");
    for (field, value) in [
        ("rows", json!("f8")),
        ("schema", json!({"fields": {"year": "number"}})),
        ("passage_template", json!("<nothing")),
        ("stride", json!(100_000)),
        ("pages", json!(1)),
    ] {
        put("other", json!({ (field): value })).problem(422, "validation");
    }
    put("other", json!({"width": 0})).problem(422, "validation");
    assert_eq!(
        put("pairs", json!({"width": 2, "metric": "l2"})).status,
        201
    );
    // Every folder is named by a digest.
    for entry in std::fs::read_dir(&path).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{name}"
        );
    }

    let empty = json!({"query": "salt", "mode": "hybrid", "facets": ["year"]});
    let search = "/v1/collections/notes/search";
    let found = server.post(search, &empty).ok();
    assert_eq!(ids(&found).len(), 0);
    let documents = json!([{"_id": "a", "text": "salt", "year": 3}, {"_id": "b", "text": "sand"}]);
    server
        .post("/v1/collections/notes/documents", &documents)
        .ok();
    let pair =
        json!([{"_id": "a", "text": "salt", "vector": [1, 2]}, {"_id": "b", "text": "sand"}]);
    let written = server.post("/v1/collections/pairs/documents", &pair).ok();
    assert_eq!(
        (&written["documents"], &written["errors"][0]["line"]),
        (&json!(1), &json!(2))
    );
    compact_of(&server, "notes");
    let back = json!({"generation": found["generation"]});
    server
        .put("/v1/collections/notes/aliases/live", "", &back)
        .problem(409, "gate_failed");
    drop(server);
    std::fs::create_dir(path.join(".new-left-by-a-crash")).unwrap();

    let server = start();
    let filter = json!({"must": [{"key": "year", "match": {"value": 3}}]});
    let found = server
        .post(search, &json!({"query": "salt", "filter": filter}))
        .ok();
    assert_eq!(ids(&found), ["a"]);
    let found = server
        .post("/v1/collections/pairs/search", &json!({"vector": [1, 1]}))
        .ok();
    assert_eq!(
        (ids(&found), &found["results"][0]["score"]),
        (vec!["a"], &json!(-1.0))
    );
    assert!(!path.join(".new-left-by-a-crash").exists());

    let refused = server
        .delete("/v1/collections/docs")
        .problem(403, "forbidden");
    // Nobody has a key here.
    assert_eq!(refused["title"], "This is not allowed");
    assert_eq!(
        refused["detail"],
        "collection `docs` was not made over HTTP"
    );
    let n_folders = || std::fs::read_dir(&path).unwrap().count();
    assert_eq!(n_folders(), 2);
    assert_eq!(server.delete("/v1/collections/notes").status, 204);
    assert_eq!(n_folders(), 1);
    server.post(search, &empty).problem(404, "not_found");
    server
        .delete("/v1/collections/notes")
        .problem(404, "not_found");
    drop(server);
    let server = start();
    server.post(search, &empty).problem(404, "not_found");
    // The name is free again.
    assert_eq!(
        server
            .put("/v1/collections/notes", "", &json!({"width": 2}))
            .status,
        201
    );
}

#[test]
fn a_server_without_a_folder_makes_no_collections() {
    let server = TestServer::start();
    server
        .put("/v1/collections/new", "", &json!({}))
        .problem(403, "forbidden");
}
