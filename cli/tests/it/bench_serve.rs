//! `trawl bench serve`: what it counts is what the server did.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{fail, json as json_of, text, trawl};

/// Milliseconds in which a request is answered however busy the machine is.
const PATIENT: &str = "600000";

/// A server of one connection at a time, which answers each request after a pause with the next of the statuses.
struct Slow {
    url: String,
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Slow {
    fn start(pause: Duration, statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bodies);
        std::thread::spawn(move || {
            let mut statuses = statuses.iter().cycle();
            for stream in listener.incoming() {
                let Some(body) = read(stream.as_ref().unwrap()) else {
                    continue;
                };
                seen.lock().unwrap().push(body);
                std::thread::sleep(pause);
                let status = statuses.next().unwrap();
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
                );
                stream.unwrap().write_all(head.as_bytes()).unwrap();
            }
        });
        Self { url, bodies }
    }
}

/// The body of a request, null where it has none, `None` of a connection that is closed without one.
fn read(stream: &TcpStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    match body.is_empty() {
        true => Some(Value::Null),
        false => Some(serde_json::from_slice(&body).unwrap()),
    }
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let queries = "{\"_id\": \"1\", \"text\": \"why\"}\n{\"_id\": \"2\", \"text\": \"say \\\"how\\\"\"}\n";
        fs::write(files.path("queries.jsonl"), queries).unwrap();
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

/// The report of searches of a collection.
fn searched(server: &Slow, queries: &Path, load: &[&str]) -> Value {
    let command = [
        "bench",
        "serve",
        "--url",
        &server.url,
        "--collection",
        "docs",
    ];
    let more = [
        "--queries",
        text(queries),
        "--seconds",
        "1",
        "--timeout-ms",
        PATIENT,
        "--json",
        "--quiet",
    ];
    json_of([&command[..], &more[..], load].concat())
}

#[test]
fn the_last_line_of_progress_has_the_whole_time() {
    let (files, server) = (Files::new(), Slow::start(Duration::ZERO, &[200]));
    let queries = files.path("queries.jsonl");
    let command = ["bench", "serve", "--url", &server.url];
    let asked = ["--collection", "docs", "--queries", text(&queries)];
    let load = ["--clients", "1", "--seconds", "1", "--timeout-ms", PATIENT];
    let output = trawl([&command[..], &asked, &load].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("1 client: 1 s of load in "), "{errors}");
}

#[test]
fn requests_that_wait_for_others_are_charged_for_it() {
    let (files, server) = (Files::new(), Slow::start(Duration::from_millis(50), &[200]));
    let (queries, plot) = (files.path("queries.jsonl"), files.path("load.png"));
    let report = searched(&server, &queries, &["--rate", "40", "--plot", text(&plot)]);
    let report = &report[0];
    assert_eq!(
        (&report["n_requests"], &report["n_answered"]),
        (&json!(40), &json!(40))
    );
    // 40 answers take 2 s one after another, and the last request is due before 1 s is over.
    assert!(report["max_ms"].as_f64().unwrap() > 1000.0, "{report}");
    assert!(
        report["answered_per_s"].as_f64().unwrap() <= 20.0,
        "{report}"
    );
    let bodies = server.bodies.lock().unwrap();
    // The first one is asked once before.
    for (query, n) in [("why", 21), ("say \"how\"", 20)] {
        let body = json!({"query": query, "top_k": 10});
        assert_eq!(
            bodies.iter().filter(|seen| **seen == body).count(),
            n,
            "{query}"
        );
    }
    assert!(fs::read(plot).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn a_client_asks_anew_once_it_has_its_answer() {
    let (files, server) = (Files::new(), Slow::start(Duration::from_millis(50), &[200]));
    let queries = files.path("queries.jsonl");
    let report = searched(&server, &queries, &["--clients", "1"]);
    let report = &report[0];
    assert_eq!(
        (&report["clients"], &report["n_answered"]),
        (&json!(1), &report["n_requests"])
    );
    let n = report["n_requests"].as_u64().unwrap() as usize;
    assert!((1..=20).contains(&n), "{report}");
    assert!(report["p50_ms"].as_f64().unwrap() >= 50.0, "{report}");
    // One request beforehand shows that the server is there.
    assert_eq!(server.bodies.lock().unwrap().len(), n + 1);
}

#[test]
fn a_route_without_a_body_is_asked_with_get() {
    let server = Slow::start(Duration::ZERO, &[200]);
    let command = ["bench", "serve", "--url", &server.url, "--path", "/livez"];
    let load = ["--rate", "5", "--seconds", "1", "--timeout-ms", PATIENT];
    let report = json_of([&command[..], &load, &["--json", "--quiet"]].concat());
    assert_eq!(report[0]["n_answered"], 5);
    assert_eq!(*server.bodies.lock().unwrap(), vec![Value::Null; 6]);
}

#[test]
fn what_is_not_answered_is_counted_by_what_became_of_it() {
    let (files, server) = (
        Files::new(),
        Slow::start(Duration::ZERO, &[200, 429, 500, 200]),
    );
    let queries = files.path("queries.jsonl");
    let body = "{\"input\": [\"<query>\"], \"n\": 1}";
    let report = json_of([
        "bench",
        "serve",
        "--url",
        &server.url,
        "--path",
        "/v1/embeddings",
        "--body",
        body,
        "--queries",
        text(&queries),
        "--rate",
        "20,40",
        "--seconds",
        "1",
        "--max-open",
        "1",
        "--timeout-ms",
        PATIENT,
        "--json",
        "--quiet",
    ]);
    for (report, n) in [(&report[0], 5), (&report[1], 10)] {
        assert_eq!(report["n_answered"], 2 * n);
        assert_eq!(
            (
                &report["n_refused"],
                &report["n_refused_without_retry_after"]
            ),
            (&json!(n), &json!(n))
        );
        assert_eq!(report["by_status"], json!({"500": n}));
        assert_eq!(
            (&report["n_timed_out"], &report["n_broken"]),
            (&json!(0), &json!(0))
        );
    }
    let bodies = server.bodies.lock().unwrap();
    assert!(bodies.contains(&json!({"input": ["say \"how\""], "n": 1})));
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let files = Files::new();
    let queries = files.path("queries.jsonl");
    let check_server = |url: &str, expected: &str| {
        let command = ["bench", "serve", "--collection", "docs", "--rate", "1"];
        let more = ["--queries", text(&queries), "--url", url];
        let errors = fail(1, command.into_iter().chain(more));
        assert!(errors.contains(expected), "{errors}");
    };
    check_server(
        "http://127.0.0.1:1",
        "cannot ask http://127.0.0.1:1/v1/collections/docs/search",
    );
    let server = Slow::start(Duration::ZERO, &[404]);
    check_server(&server.url, "/v1/collections/docs/search answers 404: {}");

    let check = |more: &[&str], expected: &str| {
        let command = ["bench", "serve", "--queries", text(&queries), "--rate", "1"];
        let errors = fail(2, command.into_iter().chain(more.iter().copied()));
        assert!(errors.contains(expected), "{errors}");
    };
    check(
        &["--collection", "docs", "--url", "localhost"],
        "`localhost/v1/collections/docs/search` is no address",
    );
    check(&["--path", "/x", "--body", "{"], "`--body` is no JSON");
    check(&["--path", "/x"], "`--queries` has no effect");
    for more in ["--top-k", "--rerank"] {
        check(&["--path", "/x", more, "5"], "cannot be used with");
    }
    check(
        &["--collection", "docs", "--rate", "0"],
        "a rate is a number",
    );
    check(
        &["--collection", "docs", "--header", "x"],
        "expected `NAME: VALUE`",
    );
}
