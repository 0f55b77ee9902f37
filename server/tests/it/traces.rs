//! Traces: the caller's is taken over, and a collector gets the spans.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use serde_json::{Value, json};
use server::ServerConfig;

use crate::SEARCH;
use crate::harness::TestServer;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// Takes spans on a free port, and hands out the bodies.
fn collector() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                stream.read_line(&mut head).unwrap();
            }
            let head = head.to_ascii_lowercase();
            assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
            let length = head.split("content-length: ").nth(1).unwrap();
            let n_bytes = length.lines().next().unwrap().parse().unwrap();
            let mut body = vec![0; n_bytes];
            stream.read_exact(&mut body).unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            if sender.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (endpoint, bodies)
}

fn sending(endpoint: String) -> impl FnOnce(&mut ServerConfig) {
    |config| config.otlp_endpoint = Some(endpoint)
}

#[test]
fn a_search_is_a_span_of_the_callers_trace_and_its_stages_are_below_it() {
    let (endpoint, bodies) = collector();
    let server = TestServer::start_set(sending(endpoint), |_| {});
    let headers = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\n");
    let body = json!({"query": "silent flight"}).to_string();
    let answer = server.post_with(SEARCH, &headers, body.as_bytes());
    let found = answer.ok();
    let next: Vec<&str> = answer.header("traceparent").split('-').collect();
    assert_eq!((next[0], next[1], next[3]), ("00", TRACE, "01"));

    let mut spans: Vec<Value> = Vec::new();
    while !spans.iter().any(|span| span["traceId"] == TRACE) {
        let body = bodies.recv().unwrap();
        let sent = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        spans.extend(sent.as_array().unwrap().iter().cloned());
    }
    spans.retain(|span| span["traceId"] == TRACE);
    let (request, stages) = spans.split_first().unwrap();
    assert_eq!(request["name"], "POST /v1/collections/{name}/search");
    assert_eq!(
        (&request["parentSpanId"], &request["spanId"]),
        (&json!(CALLER), &json!(next[2]))
    );
    let attributes = request["attributes"].to_string();
    assert!(
        attributes.contains(found["request_id"].as_str().unwrap()),
        "{attributes}"
    );
    assert!(
        attributes.contains("{\"intValue\":\"200\"}"),
        "{attributes}"
    );
    let at = |span: &Value, field: &str| span[field].as_str().unwrap().parse::<u64>().unwrap();
    let (start, end) = (
        at(request, "startTimeUnixNano"),
        at(request, "endTimeUnixNano"),
    );
    assert!(start < end);
    let names: Vec<&str> = stages
        .iter()
        .map(|span| span["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"encode") && names.contains(&"search"),
        "{names:?}"
    );
    for span in stages {
        assert_eq!(span["parentSpanId"], request["spanId"]);
        assert!(
            at(span, "startTimeUnixNano") >= start,
            "{span} in {request}"
        );
    }
}

#[test]
fn what_is_not_sampled_is_not_sent_and_a_silent_collector_holds_up_nobody() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let server = TestServer::start_set(sending(endpoint), |_| {});
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..700 {
                    server.get("/livez").ok();
                }
            });
        }
    });
    let figures = server.get("/metrics").text;
    assert!(figures.contains("trawl_spans_dropped_total"), "{figures}");

    let (endpoint, bodies) = collector();
    let server = TestServer::start_set(sending(endpoint), |_| {});
    let headers = |flags| format!("traceparent: 00-{TRACE}-{CALLER}-{flags}\r\n");
    let body = br#"{"query": "a"}"#;
    let answer = server.post_with("/v1/rerank", &headers("00"), body);
    assert!(answer.header("traceparent").ends_with("-00"), "{answer:?}");
    server.post_with(SEARCH, &headers("01"), body).ok();
    drop(server);
    let sent: String = bodies
        .iter()
        .map(|body| body.to_string())
        .take_while(|body| !body.contains("/search"))
        .collect();
    assert!(!sent.contains(TRACE), "{sent}");
}
