//! `trawl serve`: what it takes from flags, variables and file, what it refuses, and how it stops.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::session::{Built, build, build_with};
use crate::{fail, json as run_json, succeed, text, tiny_model};

/// A file that serves the collection as `docs`; returns its path.
fn write_file(built: &Built) -> String {
    let path = built.folder.path().join("server.toml");
    let (encoder, reranker) = (tiny_model(), testkit::fixture("models/tiny-cross-bert"));
    let file = format!(
        "[server]\nbind = \"127.0.0.1:0\"\n\
         [models.enc]\npath = {encoder:?}\nrole = \"encoder\"\n\
         [models.ce]\npath = {reranker:?}\nrole = \"reranker\"\n\
         [collections.docs]\npath = {:?}\nencoder = \"enc\"\nreranker = \"ce\"\n\
         hybrid = {{ fusion = \"weighted\", weights = {{ dense = 0, bm25 = 1 }} }}\n\
         [limits]\ntop_k = 50\n",
        built.collection,
    );
    fs::write(&path, file).unwrap();
    path.to_str().unwrap().to_owned()
}

/// `trawl serve`, in whose answers no time runs out however busy the machine is.
fn serve() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trawl"));
    command.arg("serve");
    for setting in [
        "SERVER__DEFAULT_TIMEOUT",
        "SERVER__MAX_TIMEOUT",
        "SERVER__READ_TIMEOUT",
        "SERVER__WRITE_TIMEOUT",
        "SERVER__SHUTDOWN_GRACE",
        "QUEUE__MAX_WAIT",
    ] {
        command.env(format!("TRAWL__{setting}"), "10m");
    }
    command
}

struct Serving {
    process: Child,
    address: String,
}

impl Serving {
    /// Starts a server and waits until it says where it listens.
    fn start(arguments: &[&str], variable: (&str, &str)) -> Self {
        let mut process = serve()
            .args(arguments)
            .env(variable.0, variable.1)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.as_mut().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, rest) = line.split_once("serving on http://")?;
            rest.split(',').next().map(str::to_owned)
        });
        let address = address.expect("a server that starts says where it listens");
        Self { process, address }
    }

    /// Posts to a path until the server is ready; status and body.
    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        loop {
            let mut stream = TcpStream::connect(&self.address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            if status != 503 {
                return (status, serde_json::from_str(body).unwrap());
            }
        }
    }

    /// Sends SIGTERM and waits for the end; the exit code.
    fn stop(mut self) -> Option<i32> {
        let process = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &process])
                .status()
                .unwrap()
                .success()
        );
        self.process.wait().unwrap().code()
    }
}

#[test]
fn a_file_under_variables_is_served_until_sigterm() {
    let built = build();
    let file = write_file(&built);
    let server = Serving::start(&["--config", &file], ("TRAWL__LIMITS__TOP_K", "7"));
    let search = "/v1/collections/docs/search";
    let body = json!({"query": "onions", "top_k": 7, "rerank": {"candidates": 5}});
    let (status, found) = server.post(search, &body);
    assert_eq!(status, 200, "{found}");
    assert_eq!(found["results"].as_array().unwrap().len(), 7);
    let (status, problem) = server.post(search, &json!({"query": "onions", "top_k": 8}));
    assert_eq!((status, &problem["errors"][0]["limit"]), (422, &json!(7)));
    let (_, hybrid) = server.post(
        search,
        &json!({"query": "onions", "mode": "hybrid", "top_k": 7}),
    );
    assert_eq!(hybrid["results"][0]["score"], 1.0, "{hybrid}");
    let (status, vectors) = server.post("/v1/embeddings", &json!({"model": "enc", "input": "a"}));
    assert_eq!(status, 200, "{vectors}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn sigterm_before_there_is_a_server_ends_with_130() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    let made = Command::new("mkfifo").arg(&file).status().unwrap();
    assert!(made.success());
    let process = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["serve", "--config", text(&file)])
        .spawn()
        .unwrap();
    // Opens when the process reads its configuration, which does not end while this is open.
    let _writing = fs::OpenOptions::new().write(true).open(&file).unwrap();
    let address = String::new();
    assert_eq!(Serving { process, address }.stop(), Some(130));
}

#[test]
fn a_file_that_changes_while_collections_are_opened_is_read_again() {
    let built = build();
    let file = write_file(&built);
    let log = built.folder.path().join("queries.log");
    let with_log = fs::read_to_string(&file).unwrap() + &format!("[query_log]\npath = {log:?}\n");
    fs::write(&file, &with_log).unwrap();
    // The clock of a file system may be too coarse to tell two changes in a row apart.
    let before = SystemTime::now() - Duration::from_secs(60);
    let written = fs::File::options().write(true).open(&file).unwrap();
    written.set_modified(before).unwrap();
    let mut process = serve()
        .args(["--config", &file])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stderr.as_mut().unwrap()).lines();
    let mut line_with = |text: &str| {
        let line = lines.find_map(|line| Some(line.unwrap()).filter(|line| line.contains(text)));
        line.expect("a server that starts says so")
    };
    // The file has been read by then, and models and collections have not.
    line_with("query log: ");
    fs::write(&file, with_log.replace("top_k = 50", "top_k = 7")).unwrap();
    let line = line_with("serving on http://");
    let (_, rest) = line.split_once("http://").unwrap();
    let address = rest.split(',').next().unwrap().to_owned();
    let server = Serving { process, address };
    let body = json!({"query": "onions", "top_k": 8});
    let start = Instant::now();
    while server.post("/v1/collections/docs/search", &body).0 == 200 {
        assert!(start.elapsed() < Duration::from_secs(600));
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn sighup_while_collections_are_opened_is_heeded_when_the_server_is_up() {
    let built = build();
    let file = write_file(&built);
    let log = built.folder.path().join("queries.log");
    let with_log = fs::read_to_string(&file).unwrap() + &format!("[query_log]\npath = {log:?}\n");
    fs::write(&file, with_log).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["serve", "--config", &file])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = process.id().to_string();
    let mut lines = BufReader::new(process.stderr.as_mut().unwrap()).lines();
    let mut wait_for = |text: &str| {
        let said = lines.any(|line| line.unwrap().contains(text));
        assert!(said, "the process ended before it said `{text}`");
    };
    // Models and collections have not been read by then.
    wait_for("query log: ");
    let sent = Command::new("kill").args(["-HUP", &id]).status().unwrap();
    assert!(sent.success());
    wait_for("serving on http://");
    // The file has not changed.
    wait_for("read again from");
    let address = String::new();
    assert_eq!(Serving { process, address }.stop(), Some(0));
}

#[test]
fn what_was_copied_is_served_when_the_storage_has_lost_everything() {
    let built = build();
    let folder = built.folder.path();
    let (bucket, file) = (folder.join("bucket"), folder.join("server.toml"));
    let url = format!("file://{}", bucket.display());
    succeed(["index", "push", text(&built.collection), url.as_str()]);
    let follow_with = |cache: &str| {
        let (encoder, cache) = (tiny_model(), folder.join(cache));
        let settings = format!(
            "[server]\nbind = \"127.0.0.1:0\"\n\
             [models.enc]\npath = {encoder:?}\nrole = \"encoder\"\n\
             [collections.docs]\npath = {url:?}\ncache = {cache:?}\nencoder = \"enc\"\n",
        );
        fs::write(&file, settings).unwrap();
    };
    follow_with("cache");
    let found = || {
        let server = Serving::start(&["--config", text(&file)], ("TRAWL__LIMITS__TOP_K", "7"));
        let body = json!({"query": "onions", "top_k": 7});
        let (status, mut found) = server.post("/v1/collections/docs/search", &body);
        assert_eq!((status, server.stop()), (200, Some(0)), "{found}");
        found["results"].take()
    };
    let before = found();
    fs::remove_dir_all(&bucket).unwrap();
    assert_eq!(found(), before);
    // Nobody has copied anything here.
    follow_with("empty");
    let error = fail(1, ["serve", "--config", text(&file)]);
    assert!(error.contains("has no alias `live`"), "{error}");
}

#[test]
fn a_collection_alone_has_the_default_reranker_unless_it_shall_not() {
    let built = build();
    let (collection, models) = (text(&built.collection), tempfile::tempdir().unwrap());
    let search = |more: &[&str]| {
        let arguments = [&[collection, "--bind", "127.0.0.1:0"], more].concat();
        let server = Serving::start(&arguments, ("TRAWL_MODELS", text(models.path())));
        let body = json!({"query": "onions", "top_k": 3, "rerank": {"candidates": 5}});
        let (status, answer) = server.post("/v1/collections/sample/search", &body);
        assert_eq!(server.stop(), Some(0));
        (status, answer)
    };
    let (status, answer) = search(&[]);
    assert_eq!(status, 200, "{answer}");
    assert!(models.path().join(".shipped").is_dir());
    let scores = answer["results"].as_array().unwrap().iter();
    let scores: Vec<&Value> = scores.map(|hit| &hit["scores"]["rerank"]).collect();
    assert!(scores.iter().all(|score| score.is_number()), "{answer}");
    let (status, answer) = search(&["--rerank", "none"]);
    assert_eq!(status, 422, "{answer}");

    let file = models.path().join("no-folder");
    fs::write(&file, "").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_trawl"));
    command.args(["serve", collection, "--bind", "127.0.0.1:0"]);
    let output = command.env("TRAWL_MODELS", file).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("cannot write") && error.contains("--rerank none"),
        "{error}"
    );
}

#[test]
fn a_collection_alone_is_served_with_the_model_it_names() {
    // The second model does not bring its vectors to length 1, as most plain checkpoints.
    for model in ["models/tiny-bert", "models/tiny-distilbert"] {
        let built = build_with(&testkit::fixture(model));
        let arguments = [text(&built.collection), "--bind", "127.0.0.1:0"];
        let server = Serving::start(&arguments, ("TRAWL__SERVER__BIND", "127.0.0.1:1"));
        let path = "/v1/collections/sample/search";
        let (status, found) = server.post(path, &json!({"query": "onions"}));
        assert_eq!(status, 200, "{model}: {found}");
        assert_eq!(server.stop(), Some(0));
    }
}

#[test]
fn a_bundle_is_served_with_the_models_in_it() {
    let built = build();
    let bundle = built.folder.path().join("packed.trawl");
    let reranker = testkit::fixture("models/tiny-cross-bert");
    let arguments = ["bundle", text(&built.collection), "--to", text(&bundle)];
    succeed([&arguments[..], &["--rerank", text(&reranker)]].concat());
    fs::remove_dir_all(&built.collection).unwrap();
    let arguments = [text(&bundle), "--bind", "127.0.0.1:0"];
    let server = Serving::start(&arguments, ("XDG_CACHE_HOME", text(built.folder.path())));
    let body = json!({"query": "onions", "top_k": 3, "rerank": {"candidates": 5}});
    let (status, answer) = server.post("/v1/collections/packed/search", &body);
    assert_eq!(status, 200, "{answer}");
    assert!(
        answer["results"][0]["scores"]["rerank"].is_number(),
        "{answer}"
    );
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn rerankers_of_two_bundles_stay_apart_whatever_their_folders_are_called() {
    let built = build();
    let folder = built.folder.path();
    let names = [("one", "tiny-cross-bert"), ("two", "tiny-cross-distilbert")];
    let bundles = names.map(|(name, model)| {
        let (bundle, reranker) = (
            folder.join(format!("{name}.trawl")),
            folder.join(name).join("export"),
        );
        fs::create_dir(folder.join(name)).unwrap();
        let model = testkit::fixture("models").join(model);
        std::os::unix::fs::symlink(model, &reranker).unwrap();
        let pack = ["bundle", text(&built.collection), "--to", text(&bundle)];
        succeed([&pack[..], &["--rerank", text(&reranker)]].concat());
        bundle
    });
    let arguments = [
        text(&bundles[0]),
        text(&bundles[1]),
        "--bind",
        "127.0.0.1:0",
    ];
    let server = Serving::start(&arguments, ("XDG_CACHE_HOME", text(folder)));
    let body = json!({"query": "onions", "top_k": 1, "rerank": {"candidates": 1}});
    let [one, two] = ["one", "two"].map(|name| {
        let path = format!("/v1/collections/{name}/search");
        let (status, answer) = server.post(&path, &body);
        assert_eq!(status, 200, "{answer}");
        answer["results"][0].clone()
    });
    assert_eq!(one["id"], two["id"]);
    assert!(one["scores"]["rerank"].is_number(), "{one}");
    assert_ne!(one["scores"]["rerank"], two["scores"]["rerank"]);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let built = build();
    let collection = text(&built.collection);
    let other = testkit::fixture("models/tiny-bert-last");
    let errors = fail(
        4,
        [
            "serve",
            collection,
            "--model",
            text(&other),
            "--bind",
            "127.0.0.1:0",
        ],
    );
    assert!(errors.contains("differ in `space."), "{errors}");
    let errors = fail(2, ["serve", collection, "--bind", "0.0.0.0:0"]);
    assert!(errors.contains("--insecure"), "{errors}");
    let errors = fail(
        4,
        [
            "serve",
            collection,
            "--precision",
            "int8",
            "--strict-arithmetic",
            "--bind",
            "127.0.0.1:0",
        ],
    );
    assert!(
        errors.contains("queries are encoded with int8")
            && errors.contains("hint: give `--precision`"),
        "{errors}"
    );
    let file = write_file(&built);
    fs::write(
        &file,
        fs::read_to_string(&file).unwrap().replace("top_k", "topk"),
    )
    .unwrap();
    let errors = fail(2, ["serve", "--config", &file]);
    assert!(errors.contains("did you mean `top_k`?"), "{errors}");
    let errors = fail(1, ["serve", "--config", "no/such/server.toml"]);
    assert!(errors.contains("no/such/server.toml"), "{errors}");
}

#[test]
fn what_was_clicked_becomes_a_data_set_that_evaluation_training_and_the_gate_read() {
    let built = build();
    let folder = built.folder.path();
    let file = write_file(&built);
    let log = folder.join("log/queries.jsonl");
    let section =
        format!("[query_log]\npath = {log:?}\ntext = true\nmax_size = \"2KiB\"\nfiles = 50\n");
    fs::write(&file, fs::read_to_string(&file).unwrap() + &section).unwrap();
    let server = Serving::start(&["--config", &file], ("TRAWL__QUERY_LOG__TEXT", "true"));
    let feedback = "/v1/collections/docs/feedback";
    let queries = [
        "why onions make you weep",
        "how mayonnaise holds together",
        "the moon and the sea",
    ];
    let mut clicked = Vec::new();
    for query in queries {
        for spaces in ["", " ", "  "] {
            let body = json!({"query": format!("{query}{spaces}"), "top_k": 5, "mode": "lexical"});
            let (_, found) = server.post("/v1/collections/docs/search", &body);
            let (request_id, id) = (&found["request_id"], &found["results"][1]["id"]);
            let click = json!({"request_id": request_id, "id": id});
            let (status, answer) = server.post(feedback, &json!({"feedback": [click, click]}));
            assert_eq!(status, 202, "{answer}");
            clicked.push(id.as_str().unwrap().to_owned());
        }
    }
    let judgment = json!({"query": queries[0], "id": "kitchen-01", "grade": 2});
    server.post(feedback, &json!({"feedback": [judgment]}));
    assert_eq!(server.stop(), Some(0));
    assert!(server::query_log_files(&log).unwrap().len() > 2);

    let out = folder.join("clicks");
    let arguments = [
        "data",
        "from-feedback",
        text(&log),
        "--out",
        text(&out),
        "--split",
        "test",
        "--min-clicks",
        "3",
    ];
    let made = run_json([&["--json"][..], &arguments].concat());
    let report = &made["report"];
    assert_eq!(
        (&report["queries"], &report["clicks"]),
        (&json!(3), &json!(9)),
        "{made}"
    );
    assert_eq!(report["clicks_by_rank"], json!({"2": 9}));
    assert_eq!(report["left_out"], json!({"clicks that repeat": 9}));
    let qrels = out.join("qrels/test.tsv");
    let first = fs::read(&qrels).unwrap();
    succeed(arguments);
    assert_eq!(fs::read(&qrels).unwrap(), first);

    fs::copy(crate::sample("corpus.jsonl"), out.join("corpus.jsonl")).unwrap();
    let collection = text(&built.collection);
    let measured = run_json([
        "--json",
        "eval",
        collection,
        "--dataset",
        text(&out),
        "--split",
        "test",
        "--lexical",
        "--measures",
        "mrr@10",
    ]);
    assert!(measured.to_string().contains("mrr@10"), "{measured}");
    let run = folder.join("run.trec");
    let asked = out.join("queries.jsonl");
    succeed([
        "search",
        collection,
        "--lexical",
        "--queries",
        text(&asked),
        "-k",
        "10",
        "--run-out",
        text(&run),
    ]);
    let mined = folder.join("mined.jsonl");
    let corpus = crate::sample("corpus.jsonl");
    succeed([
        "mine",
        "--run",
        text(&run),
        "--qrels",
        text(&qrels),
        "--queries",
        text(&asked),
        "--corpus",
        text(&corpus),
        "--n",
        "3",
        "--out",
        text(&mined),
    ]);
    let mined = fs::read_to_string(&mined).unwrap();
    assert_eq!(mined.lines().count(), 3);
    assert!(
        clicked
            .iter()
            .all(|id| mined.contains(&format!("\"{id}\"")))
    );

    let model = tiny_model();
    let second = run_json([
        "--json",
        "index",
        "build",
        "--corpus",
        text(&corpus),
        "--model",
        text(&model),
        "--collection",
        collection,
        "--full",
    ]);
    let gate = folder.join("gate.toml");
    fs::write(&gate, format!("queries = {asked:?}\nqrels = {qrels:?}\n")).unwrap();
    let generation = second["generation"].as_str().unwrap();
    let shown = run_json([
        "--json",
        "index",
        "publish",
        collection,
        generation,
        "--gate",
        text(&gate),
    ]);
    let gate = &shown["gate"];
    assert_eq!(
        (&gate["passed"], &gate["questions"], &gate["n_queries"]),
        (&json!(true), &json!("queries"), &json!(3)),
        "{shown}"
    );
}
