//! Keys, scopes, rates, tenants, origins, certificates, and clients that take their time.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use retriever::{Condition, Filter, Test};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use server::{ApiKey, AuthConfig, QueueConfig, Scope, Tls};
use sha2::{Digest, Sha256};

use crate::harness::{Answer, PATIENCE, TestServer};
use crate::ids;

const SCOPES: [Scope; 6] = [
    Scope::Search,
    Scope::Embed,
    Scope::Rerank,
    Scope::Write,
    Scope::Metrics,
    Scope::Admin,
];

/// A key whose secret is `secret of NAME`.
pub fn key(name: &str, scopes: &[Scope]) -> ApiKey {
    ApiKey {
        name: name.to_owned(),
        sha256: Sha256::digest(format!("secret of {name}")).into(),
        scopes: scopes.to_vec(),
        rate: None,
        collections: Vec::new(),
        filter: None,
    }
}

pub fn keys(keys: Vec<ApiKey>) -> AuthConfig {
    AuthConfig {
        keys,
        ..AuthConfig::default()
    }
}

pub fn start(auth: AuthConfig) -> TestServer {
    TestServer::start_set(|_| {}, |server| server.set_auth(auth).unwrap())
}

pub fn bearer(name: &str) -> String {
    format!("authorization: Bearer secret of {name}\r\n")
}

#[test]
fn whoever_is_still_sending_learns_why_it_is_refused() {
    let server = start(keys(vec![key("boss", &[Scope::Admin])]));
    // More than the buffers of a connection hold.
    let body = vec![b'a'; 16 << 20];
    let documents = "/v1/collections/docs/documents";
    let (none, boss) = (String::new(), bearer("boss"));
    for (path, headers, status, code) in [
        (documents, &none, 401, "unauthorized"),
        ("/v1/nowhere", &boss, 404, "not_found"),
        ("/livez", &none, 405, "method_not_allowed"),
    ] {
        let answer = server.post_with(path, headers, &body);
        answer.problem(status, code);
    }
}

pub fn ask(server: &TestServer, method: &str, path: &str, headers: &str, body: &Value) -> Answer {
    let body = match method {
        "GET" => String::new(),
        _ => body.to_string(),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    server.raw(&[head.as_bytes(), body.as_bytes()].concat())
}

#[test]
fn every_route_asks_for_its_scope() {
    let all = |scope: &Scope| key(&format!("{scope:?}"), &[*scope]);
    let server = start(keys(SCOPES.iter().map(all).collect()));
    let (search, embed, rerank) = (Some(Scope::Search), Some(Scope::Embed), Some(Scope::Rerank));
    let (write, metrics, admin) = (Some(Scope::Write), Some(Scope::Metrics), Some(Scope::Admin));
    let text = json!({"inputs": "a tide", "ids": [5, 6]});
    let pair = json!({"query": "a", "texts": ["b"], "documents": ["b"], "model": "tiny-cross", "inputs": "a"});
    let compared = json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}});
    for (method, path, body, needed) in [
        (
            "POST",
            "/v1/collections/docs/search",
            json!({"query": "a"}),
            search,
        ),
        (
            "POST",
            "/v1/collections/docs/search/batch",
            json!({"searches": [{"query": "a"}]}),
            search,
        ),
        (
            "POST",
            "/v1/collections/docs/feedback",
            json!({"feedback": [{"query": "a", "id": "tides"}]}),
            search,
        ),
        ("GET", "/v1/collections", json!(null), search),
        ("GET", "/v1/collections/docs", json!(null), search),
        ("POST", "/v1/collections/docs/documents", json!({}), write),
        (
            "POST",
            "/v1/collections/docs/documents/delete",
            json!({"ids": []}),
            write,
        ),
        (
            "GET",
            "/v1/collections/docs/documents/a",
            json!(null),
            search,
        ),
        ("POST", "/v1/collections/docs/compact", json!(null), admin),
        (
            "POST",
            "/v1/eval",
            json!({"collection": "docs", "queries": {}, "qrels": {}}),
            admin,
        ),
        ("GET", "/v1/tasks", json!(null), admin),
        ("GET", "/v1/tasks/compact-1", json!(null), admin),
        ("PUT", "/v1/collections/docs/aliases/live", json!({}), admin),
        ("DELETE", "/v1/collections/nosuch", json!(null), admin),
        ("POST", "/v1/tasks/compact-1/cancel", json!(null), admin),
        ("DELETE", "/v1/collections/docs/shadow", json!(null), admin),
        (
            "POST",
            "/v1/embeddings",
            json!({"model": "tiny", "input": "a"}),
            embed,
        ),
        ("POST", "/embed", text.clone(), embed),
        ("POST", "/embed_all", text.clone(), embed),
        ("POST", "/similarity", compared.clone(), embed),
        ("POST", "/tokenize", text.clone(), embed),
        ("POST", "/decode", text.clone(), embed),
        ("POST", "/", text.clone(), embed),
        ("POST", "/", compared, embed),
        ("POST", "/", pair.clone(), rerank),
        ("POST", "/v1/rerank", pair.clone(), rerank),
        ("POST", "/v2/rerank", pair.clone(), rerank),
        ("POST", "/rerank", pair.clone(), rerank),
        ("POST", "/predict", pair, rerank),
        ("GET", "/metrics", json!(null), metrics),
        ("GET", "/v1/models", json!(null), None),
        ("GET", "/v1/models/tiny", json!(null), None),
        ("GET", "/v1/limits", json!(null), None),
        ("GET", "/v1/version", json!(null), None),
        ("GET", "/info", json!(null), None),
        ("GET", "/openapi.json", json!(null), None),
        ("GET", "/docs/", json!(null), None),
        ("GET", "/v1/nothing", json!(null), admin),
    ] {
        for headers in [
            "",
            "authorization: Bearer no\r\n",
            "api-key: no\r\n",
            "authorization: Basic a\r\n",
        ] {
            let answer = ask(&server, method, path, headers, &body);
            assert_eq!(answer.status, 401, "{method} {path} {headers}: {answer:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            assert!(answer.text.contains("unauthorized"), "{answer:?}");
        }
        for scope in SCOPES {
            let answer = ask(&server, method, path, &bearer(&format!("{scope:?}")), &body);
            let may = needed.is_none_or(|needed| scope == needed || scope == Scope::Admin);
            let refused = [401, 403].contains(&answer.status);
            assert_eq!(refused, !may, "{method} {path} with {scope:?}: {answer:?}");
            assert!(!refused || answer.text.contains("forbidden"), "{answer:?}");
        }
    }
    for path in ["/ui", "/livez", "/readyz", "/healthz", "/health", "/ping"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let alias = "api-key: secret of Search\r\n";
    ask(&server, "GET", "/v1/collections", alias, &json!(null)).ok();
}

/// What passes one test of a field.
fn only(key: &str, test: Test) -> Filter {
    let key = key.to_owned();
    Filter {
        must: vec![Condition::Field { key, test }],
        ..Filter::default()
    }
}

#[test]
fn a_tenant_deletes_its_own_documents_only() {
    let own = |lang: &str| only("lang", Test::Any(vec![lang.into()]));
    let unfit = only("no such field", Test::Exists);
    let tenant = |name: &str, filter: Filter| ApiKey {
        filter: Some(filter),
        ..key(name, &[Scope::Search, Scope::Write])
    };
    let server = start(keys(vec![
        tenant("english", own("en")),
        tenant("french", own("fr")),
        tenant("unfit", unfit),
        key("all", &[Scope::Search]),
    ]));
    let post = |name: &str, path: &str, body: &Value| {
        let path = format!("/v1/collections/docs/{path}");
        ask(&server, "POST", &path, &bearer(name), body)
    };
    let all = || {
        let found = post("all", "search", &json!({"query": "a", "top_k": 50})).ok();
        let mut ids: Vec<String> = ids(&found).into_iter().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    let before = all();
    let delete = |name: &str, body: Value| post(name, "documents/delete", &body);
    // `bread` is French, `tides` English, and nobody has `none`.
    let n_deleted = delete("french", json!({"ids": ["tides", "none"]})).ok();
    assert_eq!(
        (&n_deleted["documents"], &n_deleted["log_position"]),
        (&json!(0), &json!(0))
    );
    let wide = json!({"should": [{"exists": {"key": "lang"}}, {"is_empty": {"key": "lang"}}]});
    for (body, n) in [
        (
            json!({"filter": {"must": [{"key": "lang", "match": {"value": "en"}}]}}),
            0,
        ),
        (json!({"filter": wide}), 1),
        (json!({"filter": wide}), 0),
    ] {
        assert_eq!(
            delete("french", body.clone()).ok()["documents"],
            n,
            "{body}"
        );
    }
    let mut expected = before.clone();
    expected.retain(|id| id != "bread");
    assert_eq!(all(), expected);
    let body = json!({"ids": ["tides", "bread", "tides"]});
    assert_eq!(delete("english", body).ok()["documents"], 1);
    expected.retain(|id| id != "tides");
    assert_eq!(all(), expected);

    let body = json!({"filter": {"must": [{"key": "langg", "match": {"value": "en"}}]}});
    let problem = delete("english", body).problem(422, "validation");
    assert_eq!(problem["errors"][0]["pointer"], "/filter/must/0/key");
    delete("unfit", json!({"ids": ["owls"]})).problem(403, "forbidden");
    delete("unfit", json!({"filter": wide})).problem(403, "forbidden");
    let document = json!({"_id": "owls", "text": "mine now", "lang": "en"});
    post("english", "documents", &document).problem(403, "forbidden");
    delete("all", json!({"ids": ["owls"]})).problem(403, "forbidden");
    assert_eq!(all(), expected);

    // One key of repetition in two hands is two keys.
    let nightly = |name: &str| {
        let headers = format!("{}idempotency-key: nightly\r\n", bearer(name));
        let path = "/v1/collections/docs/documents/delete";
        ask(&server, "POST", path, &headers, &json!({"filter": wide}))
    };
    assert_eq!(nightly("french").ok()["documents"], 0);
    let deleted = nightly("english").ok()["documents"].as_u64();
    assert!(deleted.unwrap() > 0);
    assert_eq!(nightly("english").header("idempotent-replayed"), "true");
}

#[test]
fn a_tenant_finds_its_own_passages_only() {
    let english = only("lang", Test::Any(vec!["en".into()]));
    let unfit = only("no such field", Test::Exists);
    let tenant = |name: &str, filter: &Filter| ApiKey {
        filter: Some(filter.clone()),
        collections: vec!["docs".to_owned()],
        ..key(name, &[Scope::Search])
    };
    let all = key("all", &[Scope::Search]);
    let server = start(keys(vec![
        tenant("english", &english),
        tenant("unfit", &unfit),
        all,
    ]));
    let search = |name: &str, body: Value| {
        ask(
            &server,
            "POST",
            "/v1/collections/docs/search",
            &bearer(name),
            &body,
        )
    };
    for mode in ["dense", "hybrid"] {
        let body = json!({"query": "the sea", "mode": mode, "facets": ["lang"]});
        assert_eq!(search("all", body.clone()).ok()["total"]["value"], 6);
        let found = search("english", body).ok();
        assert_eq!(found["total"]["value"], 5);
        assert!(!ids(&found).contains(&"bread"));
        assert!(found["facets"]["lang"].get("fr").is_none(), "{found}");
    }
    // What the caller asks for is narrowed, too, and cannot widen it.
    for filter in [
        json!({"must": [{"key": "lang", "match": {"value": "fr"}}]}),
        json!({"must_not": [{"key": "lang", "match": {"value": "en"}}]}),
        json!({"should": [{"key": "lang", "match": {"value": "fr"}}]}),
    ] {
        let body = json!({"query": "the sea", "filter": filter});
        assert_eq!(search("english", body).ok()["total"]["value"], 0);
    }
    let body =
        json!({"query": "a", "filter": {"must": [{"key": "langg", "match": {"value": "en"}}]}});
    let problem = search("english", body).problem(422, "validation");
    assert_eq!(problem["errors"][0]["pointer"], "/filter/must/0/key");
    search("unfit", json!({"query": "a"})).problem(403, "forbidden");

    for place in ["docs/search/batch", "docs@live/search/batch"] {
        let path = format!("/v1/collections/{place}");
        let body =
            json!({"searches": [{"query": "the sea"}, {"query": "dough", "mode": "lexical"}]});
        let found = ask(&server, "POST", &path, &bearer("english"), &body).ok();
        let totals = [0, 1].map(|n| found["results"][n]["total"]["value"].as_u64());
        assert_eq!(totals, [Some(5), Some(0)]);
    }

    let get = |name: &str, path: &str| ask(&server, "GET", path, &bearer(name), &json!(null));
    assert_eq!(
        get("english", "/v1/collections").ok()["collections"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    get("english", "/v1/collections/docs").ok();
    for path in [
        "/v1/collections/plain",
        "/v1/collections/pl%61in",
        "/v1/collections/plain@live",
        "/v1/collections/docs/documents/tides",
    ] {
        get("english", path).problem(403, "forbidden");
    }
    let body = json!({"query": "a", "mode": "lexical"});
    ask(
        &server,
        "POST",
        "/v1/collections/plain/search",
        &bearer("english"),
        &body,
    )
    .problem(403, "forbidden");
}

#[test]
fn a_rate_is_kept_and_keys_and_limits_change_while_serving() {
    let limited = |requests: &str| ApiKey {
        rate: Some(requests.parse().unwrap()),
        ..key("limited", &[Scope::Search])
    };
    let server = start(keys(vec![limited("3/h")]));
    let list = |name: &str| {
        ask(
            &server,
            "GET",
            "/v1/collections",
            &bearer(name),
            &json!(null),
        )
    };
    for _ in 0..3 {
        list("limited").ok();
    }
    let refused = list("limited");
    let problem = refused.problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1000..=1200).contains(&wait), "{wait}");
    assert_eq!(problem["retryable"], true);

    let control = &server.control;
    control
        .set_auth(keys(vec![limited("3/h"), key("new", &[Scope::Search])]))
        .unwrap();
    list("new").ok();
    assert_eq!(list("limited").status, 429); // What was used is not given back.
    let twice = keys(vec![
        key("new", &[Scope::Search]),
        key("new", &[Scope::Search]),
    ]);
    assert!(control.set_auth(twice).is_err());
    list("new").ok();
    control.set_auth(keys(vec![limited("9/h")])).unwrap();
    assert_eq!((list("new").status, list("limited").status), (401, 200));

    let server = TestServer::start();
    server.search(json!({"query": "a", "top_k": 5})).ok();
    let limits = server::Limits {
        top_k: 4,
        ..server::Limits::default()
    };
    server.control.set_limits(limits);
    let problem = server
        .search(json!({"query": "a", "top_k": 5}))
        .problem(422, "validation");
    assert_eq!(problem["errors"][0]["limit"], 4);
}

#[test]
fn pages_of_other_origins_are_shut_out_unless_named() {
    let open = |origins: &[&str]| {
        let origins: Vec<String> = origins.iter().map(|&origin| origin.to_owned()).collect();
        let auth = keys(vec![key("web", &[Scope::Search])]);
        TestServer::start_set(
            |config| config.cors_origins = origins,
            |server| server.set_auth(auth).unwrap(),
        )
    };
    let origin = "origin: https://shop.example\r\n";
    let preflight = format!(
        "{origin}access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n"
    );
    let path = "/v1/collections/docs/search";
    let body = json!({"query": "a"});

    let closed = open(&[]);
    let answer = ask(&closed, "OPTIONS", path, &preflight, &json!(null));
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (403, "")
    );
    let answer = ask(
        &closed,
        "POST",
        path,
        &format!("{origin}{}", bearer("web")),
        &body,
    );
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, "")
    );

    for origins in [&["https://shop.example"][..], &["*"]] {
        let server = open(origins);
        let answer = ask(&server, "OPTIONS", path, &preflight, &json!(null));
        assert_eq!(answer.status, 204);
        assert!(
            answer
                .header("access-control-allow-headers")
                .contains("authorization")
        );
        for (headers, status) in [
            (format!("{origin}{}", bearer("web")), 200),
            (origin.to_owned(), 401),
        ] {
            let answer = ask(&server, "POST", path, &headers, &body);
            assert_eq!(answer.status, status);
            assert_eq!(
                answer.header("access-control-allow-origin"),
                "https://shop.example"
            );
            let exposed = answer.header("access-control-expose-headers");
            for header in ["x-request-id", "etag", "idempotent-replayed"] {
                assert!(exposed.contains(header), "{header}");
            }
        }
    }
    let server = open(&["https://shop.example"]);
    let other = preflight.replace("shop", "evil");
    assert_eq!(
        ask(&server, "OPTIONS", path, &other, &json!(null)).status,
        403
    );
}

/// A certificate for `localhost`: for the server, and as the client trusts it.
fn certificate() -> (Tls, ClientConfig) {
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let tls = Tls::from_pem(
        cert.pem().as_bytes(),
        signing_key.serialize_pem().as_bytes(),
    )
    .unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(cert.der().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (tls, client)
}

fn live_over_tls(server: &TestServer, client: &ClientConfig) -> std::io::Result<String> {
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(client.clone()), name).unwrap();
    let stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        // The end of the connection without the end of TLS; the answer says how long it is.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        other => drop(other?),
    }
    Ok(answer)
}

#[test]
fn https_answers_and_takes_another_certificate() {
    let ((first, trusts_first), (second, trusts_second)) = (certificate(), certificate());
    let server = TestServer::start_unasked(|_| {}, |server| server.set_tls(first));
    assert!(
        live_over_tls(&server, &trusts_first)
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    assert!(live_over_tls(&server, &trusts_second).is_err());
    server.control.set_tls(second);
    assert!(
        live_over_tls(&server, &trusts_second)
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
    assert!(live_over_tls(&server, &trusts_first).is_err());
    // Who says nothing, or does not speak TLS, is sent away.
    let (tls, _) = certificate();
    let server = TestServer::start_unasked(
        |config| config.read_timeout = Duration::from_millis(500),
        |server| server.set_tls(tls),
    );
    let mut silent = TcpStream::connect(server.address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let is_closed = match silent.read(&mut [0; 16]) {
        Ok(n_bytes) => n_bytes == 0,
        Err(error) => ![ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()),
    };
    assert!(is_closed);
    assert!(Tls::from_pem(b"", b"").is_err());
}

#[test]
fn clients_that_dribble_are_sent_away_and_cost_the_others_nothing() {
    let read_timeout = Duration::from_millis(600);
    let server = TestServer::start_with(
        |config| config.read_timeout = read_timeout,
        QueueConfig::default(),
    );
    let head = b"POST /v1/collections/docs/search HTTP/1.1\r\nhost: a\r\n";
    let search = || {
        let body = r#"{"query": "a"}"#;
        let request = format!(
            "POST /v1/collections/docs/search HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        server.insist(request.as_bytes()).ok();
    };
    let start = Instant::now();
    let mut slow: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(server.address).unwrap())
        .collect();
    let mut n_open = slow.len();
    // A byte of a header every 50 ms, which never ends.
    for turn in 0.. {
        assert!(start.elapsed() < PATIENCE, "{n_open} still open");
        for stream in &mut slow {
            let bytes: &[u8] = if turn == 0 { head } else { b"x" };
            let _ = stream.write_all(bytes);
        }
        if turn % 4 == 0 {
            search();
        }
        std::thread::sleep(Duration::from_millis(50));
        n_open = slow.iter().filter(|stream| is_open(stream)).count();
        if n_open == 0 {
            break;
        }
    }
    assert!(start.elapsed() >= read_timeout, "{:?}", start.elapsed());
    search();
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let open = match stream.peek(&mut [0; 1]) {
        Ok(n) => n > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).unwrap();
    open
}

#[test]
fn bombs_of_headers_and_bodies_are_refused() {
    let server = TestServer::start();
    // Far more headers than anybody needs, and one that never ends.
    for headers in [
        "a: b\r\n".repeat(20_000),
        format!("a: {}\r\n", "b".repeat(400_000)),
        (0..90)
            .map(|i| format!("h{i}: {}\r\n", "b".repeat(200)))
            .collect(),
    ] {
        let head = format!("GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may close before it has read everything.
        let _ = stream.write_all(head.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
    let head = "POST /v1/collections/docs/search HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                content-type: application/json\r\ncontent-length: 99999999999\r\n\r\n";
    // The connection ends when the body has had its time.
    let brief = TestServer::start_with(
        |config| config.read_timeout = Duration::from_millis(500),
        QueueConfig::default(),
    );
    let refused = brief.insist(head.as_bytes());
    refused.problem(413, "body_too_large");
    server.search(json!({"query": "a"})).ok();
}

#[test]
fn a_client_that_does_not_read_gives_its_connection_back() {
    let server = TestServer::start_set(
        |config| {
            config.write_timeout = Duration::from_millis(100);
            config.limits.connections = 1;
        },
        |_| {},
    );
    let mut unread = server.connect();
    // More than the buffers of both sides hold.
    let request = b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n";
    unread.send(&request.repeat(400));
    // There is one connection to be had.
    server.get("/livez").ok();
    drop(unread);
}
