//! The OpenAPI document is kept: every exchange of every test is held against it, and every status it names can be had.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use collection::{Collection, LogConfig};
use serde_json::{Map, Value, json};
use server::{QueryLogConfig, QueueConfig, Scope};

use crate::harness::{Answer, CORPUS, TestServer, wait_until};
use crate::security::{ask, bearer, key, keys as keys_only};
use crate::swaps;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(&server::openapi_document()).expect("the document is JSON")
});

/// Routes that are not in the document: pages for people, other names of routes that are in it, and `POST /`, whose body says which
/// other route it is.
const UNDOCUMENTED: [&str; 5] = ["/", "/ui", "/docs", "/healthz", "/ping"];

/// Fails unless the document foresees an answer: its path, status, media type and body, to the last field.
#[track_caller]
pub fn check(request: &[u8], answer: &Answer) {
    let line = request.split(|&byte| byte == b'\r').next();
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    let mut words = line.split(' ');
    let (Some(method), Some(address)) = (words.next(), words.next()) else {
        return;
    };
    if let Err(fault) = conforms(method, address, answer) {
        panic!("{method} {address}: {fault}: {answer:?}");
    }
}

fn conforms(method: &str, address: &str, answer: &Answer) -> Result<(), String> {
    let path = address.split('?').next().unwrap_or_default();
    let kind = answer.header("content-type");
    let kind = kind.split(';').next().unwrap_or_default();
    let Some((_, operation)) = operation(method, path) else {
        let first = path.split('/').nth(1).unwrap_or_default();
        let is_refused = [401, 403, 404, 405, 429, 431].contains(&answer.status);
        let is_preflight = method == "OPTIONS" && [204, 403].contains(&answer.status);
        return match UNDOCUMENTED.contains(&format!("/{first}").as_str())
            || is_preflight
            || is_refused
        {
            true => Ok(()),
            false => Err(format!("status {} of no documented route", answer.status)),
        };
    };
    let response = &operation["responses"][answer.status.to_string()];
    let response = resolved(response);
    if response.is_null() {
        return Err(format!("status {} is not documented", answer.status));
    }
    let Some(content) = response["content"].as_object() else {
        return match answer.text.is_empty() {
            true => Ok(()),
            false => Err("no body is documented".to_owned()),
        };
    };
    let Some(content) = content.get(kind) else {
        return Err(format!("media type `{kind}` is not documented"));
    };
    if kind == "text/plain" {
        return Ok(());
    }
    let body: Value = serde_json::from_str(&answer.text).map_err(|error| error.to_string())?;
    matches(&content["schema"], &body).map_err(|fault| format!("body{fault}"))
}

/// The template of a path and the operation that it leads to.
fn operation(method: &str, path: &str) -> Option<(&'static str, &'static Value)> {
    let leads_to = |template: &str| {
        let (mut parts, mut given) = (template.split('/'), path.split('/'));
        loop {
            match (parts.next(), given.next()) {
                (None, None) => return true,
                (Some(part), Some(given)) if part == given => {}
                (Some(part), Some(given)) if part.starts_with('{') && !given.is_empty() => {}
                _ => return false,
            }
        }
    };
    let paths = DOCUMENT["paths"].as_object()?;
    // A path that is there as it is comes before one with parameters.
    let mut found: Vec<_> = paths
        .iter()
        .filter(|(template, _)| leads_to(template))
        .collect();
    found.sort_by_key(|(template, _)| template.matches('{').count());
    let (template, item) = found.first()?;
    let operation = item.get(method.to_ascii_lowercase())?;
    Some((template.as_str(), operation))
}

/// What a reference names, or the value itself.
fn resolved(value: &Value) -> &Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("references are local");
            DOCUMENT
                .pointer(pointer)
                .unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => value,
    }
}

/// Whether a value is as a schema says, and has no field that the schema does not name.
fn matches(schema: &Value, value: &Value) -> Result<(), String> {
    let known = evaluate(schema, value)?;
    let Some((fields, known)) = value.as_object().zip(known) else {
        return Ok(());
    };
    match fields.keys().find(|field| !known.contains(*field)) {
        Some(field) => Err(format!(": field `{field}` is not documented")),
        None => Ok(()),
    }
}

/// The fields of an object that a schema names, none where it takes any; of JSON Schema, what the document makes use of.
fn evaluate(schema: &Value, value: &Value) -> Result<Option<BTreeSet<String>>, String> {
    let empty = Map::new();
    let schema = resolved(schema).as_object().unwrap_or(&empty);
    let (mut known, mut is_open) = (BTreeSet::new(), true);
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "type" => check_type(rule, value)?,
            "enum" => {
                let allowed = rule
                    .as_array()
                    .is_some_and(|allowed| allowed.contains(value));
                allowed
                    .then_some(())
                    .ok_or_else(|| format!(" is {value}, none of {rule}"))?;
            }
            "minimum" => {
                let enough = value
                    .as_f64()
                    .is_none_or(|value| Some(value) >= rule.as_f64());
                enough
                    .then_some(())
                    .ok_or_else(|| format!(" is {value}, the least is {rule}"))?;
            }
            "required" => {
                for field in rule
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                {
                    if value.is_object() && value.get(field).is_none() {
                        return Err(format!(": field `{field}` is missing"));
                    }
                }
            }
            "properties" => {
                is_open = false;
                for (field, schema) in rule.as_object().into_iter().flatten() {
                    known.insert(field.clone());
                    if let Some(value) = value.get(field) {
                        matches(schema, value).map_err(|fault| format!("/{field}{fault}"))?;
                    }
                }
            }
            "items" => {
                for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                    matches(rule, item).map_err(|fault| format!("/{place}{fault}"))?;
                }
            }
            "additionalProperties" if rule == &Value::Bool(false) => is_open = false,
            "additionalProperties" => {
                for (field, value) in value.as_object().into_iter().flatten() {
                    matches(rule, value).map_err(|fault| format!("/{field}{fault}"))?;
                    known.insert(field.clone());
                }
            }
            "allOf" => {
                for part in rule.as_array().into_iter().flatten() {
                    if let Some(fields) = evaluate(part, value)? {
                        is_open = false;
                        known.extend(fields);
                    }
                }
            }
            "oneOf" => {
                let parts = rule.as_array().into_iter().flatten();
                let outcomes: Vec<_> = parts.map(|part| evaluate(part, value)).collect();
                let mut faults = Vec::new();
                let mut n_matching = 0;
                for outcome in outcomes {
                    match outcome {
                        Ok(fields) => {
                            n_matching += 1;
                            is_open &= fields.is_none();
                            known.extend(fields.into_iter().flatten());
                        }
                        Err(fault) => faults.push(fault),
                    }
                }
                if n_matching != 1 {
                    return Err(format!(" is {n_matching} of these: {}", faults.join(" | ")));
                }
            }
            "title" | "description" | "example" | "examples" | "default" | "format"
            | "propertyNames" => {}
            keyword => panic!("the check knows no keyword `{keyword}`"),
        }
    }
    Ok((!is_open).then_some(known))
}

fn check_type(rule: &Value, value: &Value) -> Result<(), String> {
    let is = |kind: &Value| match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => panic!("the check knows no type {kind}"),
    };
    let fits = match rule.as_array() {
        Some(kinds) => kinds.iter().any(is),
        None => is(rule),
    };
    fits.then_some(())
        .ok_or_else(|| format!(" is {value}, expected {rule}"))
}

/// Statuses that no request alone brings about, by route, or `*` for all; and what shows them.
const ELSEWHERE: [(&str, u16, &str); 2] = [
    (
        "*",
        500,
        "nothing that a caller sends makes the server fail; the unit tests of `exchange` let a handler panic",
    ),
    (
        "*",
        503,
        "while a server starts; the unit tests of `routes` ask one that never ends",
    ),
];

/// A request that succeeds, by its operation: path and body.
fn request(operation: &str) -> (String, Value) {
    let collection = "/v1/collections/docs";
    let reranking = json!({"model": "tiny-cross", "query": "a", "documents": ["b"]});
    let (path, body) = match operation {
        "list_collections" => ("/v1/collections", Value::Null),
        "show_collection" => ("/v1/collections/docs", Value::Null),
        "create_collection" => ("/v1/collections/notes", json!({"encoder": "tiny"})),
        "delete_collection" => ("/v1/collections/passing", Value::Null),
        "cancel_task" => ("/v1/tasks/compact-1/cancel", Value::Null),
        "search" => ("/search", json!({"query": "a"})),
        "search_batch" => ("/search/batch", json!({"searches": [{"query": "a"}]})),
        "feedback" => (
            "/feedback",
            json!({"feedback": [{"request_id": "a", "id": "tides"}]}),
        ),
        "add_documents" => ("/documents", json!({"_id": "new", "text": "salt"})),
        "delete_documents" => ("/documents/delete", json!({"ids": ["owls"]})),
        "show_document" => ("/documents/tides", Value::Null),
        "compact" => ("/compact", Value::Null),
        "list_generations" => ("/generations", Value::Null),
        "show_alias" => ("/aliases/live", Value::Null),
        "set_alias" => (
            "/aliases/live",
            json!({"generation": "nosuch", "gate": false}),
        ),
        "roll_back_alias" => ("/aliases/live/rollback", json!({"drop_live": false})),
        "show_shadow" | "end_shadow" => ("/shadow", Value::Null),
        "set_shadow" => ("/shadow", json!({"generation": "nosuch"})),
        "list_tasks" => ("/v1/tasks", Value::Null),
        "show_task" => ("/v1/tasks/compact-1", Value::Null),
        "evaluate" => (
            "/v1/eval",
            json!({"collection": "docs", "queries": {"1": "a"}, "qrels": {"1": {"tides": 1}}}),
        ),
        "embed" => ("/v1/embeddings", json!({"model": "tiny", "input": "a"})),
        "list_models" => ("/v1/models", Value::Null),
        "show_model" => ("/v1/models/tiny", Value::Null),
        "version" => ("/v1/version", Value::Null),
        "limits" => ("/v1/limits", Value::Null),
        "rerank" => ("/v1/rerank", reranking),
        "cohere_rerank" => ("/v2/rerank", reranking),
        "tei_embed" => ("/embed", json!({"inputs": "a"})),
        "tei_embed_all" => ("/embed_all", json!({"inputs": "a"})),
        "tei_similarity" => (
            "/similarity",
            json!({"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
        ),
        "tei_rerank" => ("/rerank", json!({"query": "a", "texts": ["b"]})),
        "tei_predict" => ("/predict", json!({"inputs": "a"})),
        "tei_tokenize" => ("/tokenize", json!({"inputs": "a", "model": "tiny"})),
        "tei_decode" => ("/decode", json!({"ids": [5, 6], "model": "tiny"})),
        "tei_info" => ("/info?model=tiny", Value::Null),
        "tei_health" => ("/health", Value::Null),
        "livez" | "readyz" | "metrics" => (operation, Value::Null),
        "openapi" => ("openapi.json", Value::Null),
        other => panic!("operation `{other}` is new: how is it asked?"),
    };
    let top = DOCUMENT["paths"].as_object().is_some_and(|paths| {
        let path = path.split('?').next().unwrap_or_default();
        paths.contains_key(path) || path.starts_with("/v1")
    });
    match path.starts_with('/') {
        true if top => (path.to_owned(), body),
        true => (format!("{collection}{path}"), body),
        false => (format!("/{path}"), body),
    }
}

/// The same for a thing that there is not.
fn of_nothing(operation: &str) -> (String, Value) {
    let (path, mut body) = request(operation);
    match operation {
        "create_collection" => body["encoder"] = json!("nosuch"),
        "delete_collection" => {}
        "evaluate" => body["collection"] = json!("nosuch"),
        "show_task" | "cancel_task" | "show_model" | "tei_info" => {
            return (
                path.replace("compact-1", "nosuch")
                    .replace("tiny", "nosuch"),
                body,
            );
        }
        _ if path.contains("/docs") => return (path.replace("docs", "nosuch"), body),
        _ => body["model"] = json!("nosuch"),
    }
    (path, body)
}

/// The same, of more than there is time for, or than is taken at once.
fn of_much(operation: &str, n: usize, text: &str) -> (String, Value) {
    let (path, _) = request(operation);
    let texts = vec![text; n];
    let body = match operation {
        "search" => json!({"query": text.repeat(n)}),
        "search_batch" => json!({"searches": vec![json!({"query": "a"}); n]}),
        "add_documents" => texts
            .iter()
            .map(|text| json!({"_id": "a", "text": text}))
            .collect(),
        "delete_documents" => json!({"ids": texts}),
        "embed" => json!({"model": "tiny", "input": texts}),
        "rerank" | "cohere_rerank" => {
            json!({"model": "tiny-cross", "query": "a", "documents": texts})
        }
        "tei_similarity" => json!({"inputs": {"source_sentence": "a", "sentences": texts}}),
        "tei_rerank" => json!({"query": "a", "texts": texts}),
        "tei_predict" => json!({"inputs": texts.iter().map(|text| vec![text]).collect::<Vec<_>>()}),
        "tei_decode" => json!({"model": "tiny", "ids": vec![vec![5; text.len() / 2]; n]}),
        _ => json!({"model": "tiny", "inputs": texts}),
    };
    (path, body)
}

#[derive(Default)]
struct Seen(BTreeSet<(String, u16)>);

impl Seen {
    #[track_caller]
    fn add(&mut self, route: &str, answer: &Answer) {
        self.0.insert((route.to_owned(), answer.status));
    }
}

/// An operation of the document.
struct Asked {
    /// As `GET /v1/collections`.
    route: String,
    method: String,
    id: &'static str,
    /// The statuses that it names.
    statuses: BTreeSet<u16>,
}

fn operations() -> Vec<Asked> {
    let paths = DOCUMENT["paths"].as_object().into_iter().flatten();
    let of_path = |(path, item): (&String, &'static Value)| {
        let asked = |(method, operation): (&String, &'static Value)| {
            let method = method.to_ascii_uppercase();
            let statuses = operation["responses"].as_object()?.keys();
            Some(Asked {
                route: format!("{method} {path}"),
                method,
                id: operation["operationId"].as_str()?,
                statuses: statuses.map(|status| status.parse().unwrap()).collect(),
            })
        };
        item.as_object()
            .into_iter()
            .flatten()
            .filter_map(asked)
            .collect::<Vec<_>>()
    };
    paths.flat_map(of_path).collect()
}

#[test]
fn every_documented_status_can_be_had() {
    let mut seen = Seen::default();
    let operations = operations();
    ask_with_keys(&operations, &mut seen);
    ask_wrongly(&operations, &mut seen);
    ask_while_it_is_written(&operations, &mut seen);
    ask_for_too_much(&operations, &mut seen);
    ask_of_generations(&operations, &mut seen);
    for asked in &operations {
        for &status in &asked.statuses {
            let is_seen = seen.0.contains(&(asked.route.clone(), status));
            let elsewhere = ELSEWHERE.iter().find(|(route, elsewhere, _)| {
                (*route == "*" || *route == asked.route) && *elsewhere == status
            });
            match elsewhere {
                Some((_, _, reason)) => assert!(
                    !is_seen,
                    "{} {status} is seen, not only: {reason}",
                    asked.route
                ),
                None => assert!(
                    is_seen,
                    "{} {status} is documented, and never given",
                    asked.route
                ),
            }
        }
    }
}

/// Without a key, with one that may not, with one that has none left; and as it should be.
fn ask_with_keys(operations: &[Asked], seen: &mut Seen) {
    let key = |name: &str, scope| key(name, &[scope]);
    let mut spent = key("spent", Scope::Admin);
    spent.rate = Some("1/h".parse().unwrap());
    let keys = vec![
        key("all", Scope::Admin),
        key("search", Scope::Search),
        key("metrics", Scope::Metrics),
        spent,
    ];
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_set(
        |config| {
            config.data = Some(folder.path().to_owned());
            config.limits.eval_queries = 1;
        },
        |server| {
            server.set_auth(keys_only(keys)).unwrap();
            let log = QueryLogConfig::new(folder.path().join("queries.jsonl"));
            server.set_query_log(&log).unwrap();
        },
    );
    ask(&server, "GET", "/v1/models", &bearer("spent"), &Value::Null).ok();
    for asked in operations {
        let (path, mut body) = request(asked.id);
        if asked.id == "set_alias" {
            let shown = ask(
                &server,
                "GET",
                "/v1/collections/docs",
                &bearer("all"),
                &Value::Null,
            )
            .ok();
            body["generation"] = shown["generation"].clone();
        }
        let other = match asked.id {
            "metrics" => "search",
            _ => "metrics",
        };
        for headers in [String::new(), bearer(other), bearer("spent")] {
            seen.add(
                &asked.route,
                &ask(&server, &asked.method, &path, &headers, &body),
            );
        }
        if asked.id == "delete_collection" {
            ask(&server, "PUT", &path, &bearer("all"), &json!({})).json();
        }
        if !["roll_back_alias", "show_task", "cancel_task"].contains(&asked.id) {
            seen.add(
                &asked.route,
                &ask(&server, &asked.method, &path, &bearer("all"), &body),
            );
        }
        if asked.id == "compact" {
            let task = "/v1/tasks/compact-1";
            let answer = ask(&server, "GET", task, &bearer("all"), &Value::Null);
            seen.add("GET /v1/tasks/{task}", &answer);
            let cancel = format!("{task}/cancel");
            let answer = ask(&server, "POST", &cancel, &bearer("all"), &Value::Null);
            seen.add("POST /v1/tasks/{task}/cancel", &answer);
            fold_twice(&server, &asked.route, seen);
        }
    }
}

/// Asks for what goes on already: a fold that waits for the manifest of the generation, which is a pipe that nobody writes.
fn fold_twice(server: &TestServer, route: &str, seen: &mut Seen) {
    let asked = |method, path: &str| ask(server, method, path, &bearer("all"), &Value::Null);
    let is_over = |task: &str| {
        let task = asked("GET", &format!("/v1/tasks/{task}")).ok();
        task["state"] != "running"
    };
    wait_until(|| is_over("compact-1"), "the fold before does not end");
    let live = Collection::open(&server.root).unwrap().resolve("live");
    let manifest = live.unwrap().path.join("manifest.json");
    let kept = manifest.with_extension("kept");
    fs::rename(&manifest, &kept).unwrap();
    let made = Command::new("mkfifo").arg(&manifest).status().unwrap();
    assert!(made.success());
    let fold = || asked("POST", "/v1/collections/docs/compact");
    let (first, second) = (fold(), fold());
    let let_go = || drop(File::options().read(true).write(true).open(&manifest));
    let first = first.json()["task"].take();
    let ends = || {
        let_go();
        is_over(first.as_str().unwrap())
    };
    wait_until(ends, "the fold does not end");
    fs::rename(&kept, &manifest).unwrap();
    assert_eq!(second.status, 409, "{second:?}");
    seen.add(route, &second);
}

/// What is wrong with a request alone.
fn ask_wrongly(operations: &[Asked], seen: &mut Seen) {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_set(
        |config| {
            config.max_body_bytes = 1000;
            config.data = Some(folder.path().to_owned());
        },
        |_| {},
    );
    let many = format!("x-many: {}\r\n", "a".repeat(17_000));
    let mut slow = Vec::new();
    for asked in operations {
        let (path, body) = request(asked.id);
        for headers in ["x-timeout-ms: soon\r\n", &many] {
            seen.add(
                &asked.route,
                &ask(&server, &asked.method, &path, headers, &body),
            );
        }
        if asked.statuses.contains(&404) {
            let (path, body) = of_nothing(asked.id);
            seen.add(&asked.route, &ask(&server, &asked.method, &path, "", &body));
        }
        if asked.statuses.contains(&412) {
            let stale = "if-match: \"another\"\r\n";
            seen.add(
                &asked.route,
                &ask(&server, &asked.method, &path, stale, &body),
            );
        }
        if asked.statuses.contains(&415) {
            let wrong = match asked.id {
                "create_collection" => json!({"encoder": "tiny", "width": 3}),
                "roll_back_alias" => json!({"drop_live": "later"}),
                _ => json!({}),
            };
            seen.add(
                &asked.route,
                &ask(&server, &asked.method, &path, "", &wrong),
            );
            let head = format!(
                "{} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n",
                asked.method
            );
            for (kind, body) in [
                ("text/plain", "{}".to_owned()),
                ("application/json", " ".repeat(2000)),
            ] {
                let n_bytes = body.len();
                let rest =
                    format!("content-type: {kind}\r\ncontent-length: {n_bytes}\r\n\r\n{body}");
                seen.add(
                    &asked.route,
                    &server.raw(format!("{head}{rest}").as_bytes()),
                );
            }
            let rest = "content-type: application/json\r\ncontent-length: 2\r\n\r\n{";
            slow.push((asked, format!("{head}{rest}")));
        }
    }
    let server = TestServer::start_with(
        |config| {
            config.read_timeout = Duration::from_millis(500);
            config.data = Some(folder.path().to_owned());
        },
        QueueConfig::default(),
    );
    std::thread::scope(|scope| {
        let ask = |(asked, request): (&Asked, String)| {
            let server = &server;
            let asking = scope.spawn(move || server.insist(request.as_bytes()));
            (asked.route.clone(), asking)
        };
        let asking: Vec<_> = slow.into_iter().map(ask).collect();
        for (route, asking) in asking {
            seen.add(&route, &asking.join().unwrap());
        }
    });
}

/// While another process writes, or this one does.
fn ask_while_it_is_written(operations: &[Asked], seen: &mut Seen) {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_set(
        |config| config.data = Some(folder.path().to_owned()),
        |_| {},
    );
    let collection = Collection::open(&server.root).unwrap();
    let _log = collection
        .log_writer("another process", LogConfig::default())
        .unwrap();
    let _writer = collection.writer("another process").unwrap();
    server.put("/v1/collections/passing", "", &json!({})).json();
    let made = fs::read_dir(folder.path()).unwrap().next().unwrap();
    let made = Collection::open(&made.unwrap().path()).unwrap();
    let _made_writer = made.writer("another process").unwrap();
    for asked in operations
        .iter()
        .filter(|asked| asked.statuses.contains(&409))
    {
        let (path, body) = request(asked.id);
        let path = match asked.id {
            "create_collection" => "/v1/collections/docs".to_owned(),
            _ => path,
        };
        seen.add(&asked.route, &ask(&server, &asked.method, &path, "", &body));
    }
}

fn ask_for_too_much(operations: &[Asked], seen: &mut Seen) {
    let server = TestServer::start_set(
        |config| {
            config.limits.live_bytes = 1;
            config.limits.query_bytes = 10_000_000;
            config.limits.documents = 300;
            config.limits.tokenize_bytes = 10_000_000;
        },
        |_| {},
    );
    let long = "tide and time wait for no man ".repeat(200);
    for asked in operations {
        if asked.statuses.contains(&504) {
            let (path, body) = of_much(asked.id, 200, &long);
            seen.add(
                &asked.route,
                &ask(&server, &asked.method, &path, "x-timeout-ms: 1\r\n", &body),
            );
        }
        if asked.statuses.contains(&507) {
            let (path, body) = request(asked.id);
            for _ in 0..2 {
                seen.add(&asked.route, &ask(&server, &asked.method, &path, "", &body));
            }
        }
    }
}

/// Generations of other models, and for which there is no room.
fn ask_of_generations(operations: &[Asked], seen: &mut Seen) {
    let server = TestServer::start();
    let other = swaps::build_with(&server, "models/tiny-bert-last", CORPUS, |_| ());
    let candidate = swaps::build(&server, &CORPUS.replace("Glass", "Window"), |_| ());
    let shadow = json!({"generation": candidate});
    for (method, body) in [
        ("PUT", &shadow),
        ("GET", &Value::Null),
        ("DELETE", &Value::Null),
    ] {
        let answer = ask(&server, method, "/v1/collections/docs/shadow", "", body);
        seen.add(
            &format!("{method} /v1/collections/{{name}}/shadow"),
            &answer,
        );
    }
    let narrow = TestServer::start_with(
        |config| config.max_memory_bytes = Some(1),
        QueueConfig::default(),
    );
    let second = swaps::build(&narrow, CORPUS, |_| ());
    swaps::publish(&narrow.root, &second);
    let rollback = "/v1/collections/docs/aliases/live/rollback";
    let route = "POST /v1/collections/{name}/aliases/{alias}/rollback";
    seen.add(route, &narrow.post(rollback, &Value::Null));
    for (server, generation) in [(server, other), (narrow, second)] {
        for asked in operations
            .iter()
            .filter(|asked| asked.statuses.contains(&507))
        {
            let (path, mut body) = request(asked.id);
            if ["set_alias", "set_shadow"].contains(&asked.id) {
                body["generation"] = json!(generation);
            }
            if asked.id == "evaluate" {
                body["collection"] = json!(format!("docs@{generation}"));
            }
            let path = match asked.id {
                "search" | "search_batch" | "show_collection" | "feedback" => {
                    path.replace("docs", &format!("docs@{generation}"))
                }
                _ => path,
            };
            seen.add(&asked.route, &ask(&server, &asked.method, &path, "", &body));
        }
    }
}

#[test]
fn what_is_not_documented_is_noticed() {
    let json = "application/json";
    for (path, status, kind, body, fault) in [
        ("/livez", 200, json, r#"{"status": "live"}"#, ""),
        (
            "/livez",
            202,
            json,
            r#"{"status": "live"}"#,
            "status 202 is not documented",
        ),
        (
            "/livez",
            200,
            "text/html",
            "<p>",
            "media type `text/html` is not documented",
        ),
        (
            "/livez",
            200,
            json,
            r#"{"status": "live", "since": 1}"#,
            "body: field `since` is not documented",
        ),
        ("/livez", 200, json, "{}", "body: field `status` is missing"),
        ("/livez", 200, json, r#"{"status": "alive"}"#, "none of"),
        ("/livez", 200, json, "[]", "expected \"object\""),
        (
            "/v1/tasks",
            200,
            json,
            r#"{"tasks": [{}]}"#,
            "body/tasks/0: field `",
        ),
        (
            "/v2/new",
            200,
            json,
            "{}",
            "status 200 of no documented route",
        ),
    ] {
        let answer = format!("HTTP/1.1 {status} A\r\ncontent-type: {kind}\r\n\r\n{body}");
        let answer = Answer::parse(answer.as_bytes());
        let found = conforms("GET", path, &answer).err().unwrap_or_default();
        assert!(
            found.contains(fault) && found.is_empty() == fault.is_empty(),
            "{path} {body}: {found}"
        );
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value) {
        let _ = resolved(value);
        let items = value.as_array().into_iter().flatten();
        let fields = value.as_object().into_iter().flatten();
        items.chain(fields.map(|(_, value)| value)).for_each(check);
    }
    check(&DOCUMENT);
}
