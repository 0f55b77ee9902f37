//! What happens when more is asked than can be answered, or the server ends meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use server::QueueConfig;

use crate::SEARCH;
use crate::harness::TestServer;

#[test]
fn a_full_queue_refuses_with_a_time_to_come_back() {
    let queue = QueueConfig {
        max_tokens: 10_000,
        max_batch_tokens: 200,
        ..QueueConfig::default()
    };
    let server = TestServer::start_with(|_| {}, queue);
    let body = json!({"model": "tiny", "input": vec![vec![5; 30]; 300]});
    let answers: Vec<_> = std::thread::scope(|scope| {
        let send = || {
            (0..20)
                .map(|_| server.post("/v1/embeddings", &body))
                .collect::<Vec<_>>()
        };
        let clients: Vec<_> = (0..16).map(|_| scope.spawn(send)).collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status == 429)
        .collect();
    let n_answered = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(n_answered + refused.len(), answers.len());
    assert!(
        n_answered > 0 && !refused.is_empty(),
        "{n_answered} answered"
    );
    for answer in refused {
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    }
    // More than the queue could ever hold is not a matter of time.
    let body = json!({"model": "tiny", "input": vec![vec![5; 30]; 334]});
    assert_eq!(server.post("/v1/embeddings", &body).status, 413);
}

#[test]
fn requests_in_flight_are_limited() {
    let server =
        TestServer::start_with(|config| config.limits.requests = 1, QueueConfig::default());
    let (mut slow, body) = (server.connect(), br#"{"query": "a"}"#);
    slow.begin(SEARCH, body.len());
    let refused = server.search(json!({"query": "a"}));
    let problem = refused.problem(429, "overloaded");
    assert_eq!(
        (&problem["retryable"], &problem["retry_after_ms"]),
        (&json!(true), &json!(1000))
    );
    assert_eq!(refused.header("retry-after"), "1");
    server.get("/livez").ok();
    slow.send(body);
    slow.answer().ok();
    server.search(json!({"query": "a"})).ok();
}

#[test]
fn a_request_out_of_time_ends_and_says_so() {
    let server = TestServer::start();
    let long = vec!["tide and time wait for no man ".repeat(200); 500];
    let body = json!({"query": "a", "documents": long}).to_string();
    let answer = server.post_with("/v1/rerank", "x-timeout-ms: 5\r\n", body.as_bytes());
    answer.problem(504, "deadline_exceeded");
    let body = json!({"model": "tiny", "input": long}).to_string();
    let answer = server.post_with("/v1/embeddings", "x-timeout-ms: 5\r\n", body.as_bytes());
    assert_eq!(
        (answer.status, &answer.json()["error"]["code"]),
        (504, &json!("deadline_exceeded"))
    );
    // Nothing was computed for nobody: there are the rows of the known answers only.
    let figures = server.get("/metrics").text;
    for model in ["tiny", "tiny-cross"] {
        let rows = format!("trawl_batch_rows_sum{{model=\"{model}\"}} ");
        let n_rows = figures.lines().find_map(|line| line.strip_prefix(&rows));
        let n_rows: f64 = n_rows.unwrap().parse().unwrap();
        assert!(n_rows < long.len() as f64, "{model}: {n_rows}");
    }
}

#[test]
fn a_shutdown_finishes_what_it_began() {
    let mut server = TestServer::start();
    let mut idle = TcpStream::connect(server.address).unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        .unwrap();
    idle.read_exact(&mut [0]).unwrap(); // It is answered, and stays open.
    let body = br#"{"query": "silent flight"}"#;
    let mut slow = server.connect();
    slow.begin(SEARCH, body.len());
    slow.send(&body[..5]);
    server.stop();
    // Ends when the shutdown has begun; the port may be another server's by then.
    idle.read_to_end(&mut Vec::new()).unwrap();
    slow.send(&body[5..]);
    slow.answer().ok();
    server.wait().unwrap();
}

#[test]
fn a_shutdown_does_not_wait_longer_than_its_grace() {
    let grace = Duration::from_millis(200);
    let mut server = TestServer::start_with(
        |config| config.shutdown_grace = grace,
        QueueConfig::default(),
    );
    let mut stuck = server.connect();
    stuck.begin(SEARCH, 100);
    server.stop();
    server.wait().unwrap();
    // Else it would have been answered when the time for its body was over.
    assert!(stuck.ask(b"").is_none());
}

#[test]
fn many_clients_get_what_one_would_get() {
    let server = TestServer::start();
    let queries: Vec<String> = (0..8)
        .map(|number| format!("question {number} about the sea"))
        .collect();
    let body = |query: &str| json!({"query": query, "rerank": {"candidates": 3}});
    let expected: Vec<Value> = queries
        .iter()
        .map(|query| server.search(body(query)).ok()["results"].clone())
        .collect();
    std::thread::scope(|scope| {
        for client in 0..16 {
            let (server, queries, expected) = (&server, &queries, &expected);
            scope.spawn(move || {
                for turn in 0..20 {
                    let number = (client + turn) % queries.len();
                    let answer = server.search(body(&queries[number]));
                    assert_eq!(answer.ok()["results"], expected[number]);
                }
            });
        }
    });
    let figures = server.get("/metrics").text;
    let line = r#"trawl_http_requests_total{route="/v1/collections/{name}/search",status="200",code=""} 328"#;
    assert!(figures.contains(line), "{figures}");
    for name in [
        "trawl_stage_seconds_bucket",
        "trawl_batch_tokens_sum",
        "trawl_queue_tokens",
    ] {
        assert!(figures.contains(name), "{figures}");
    }
}
