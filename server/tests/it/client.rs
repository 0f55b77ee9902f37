//! The Rust client against a live server.

use std::thread;
use std::time::Duration;

use serde_json::json;
use server::{QueryLogConfig, Scope};
use trawl_client::openapi::{
    AliasRequest, BatchSearchRequest, BatchSearchResult, CollectionRequest, DocumentsDelete,
    EmbeddingInput, EmbeddingRequest, EmbeddingValues, EncodingFormat, ErrorCode, Feedback,
    FeedbackRequest, Gate, GateLimit, GateRequirements, GateSettings, InputType, NewDocument,
    RerankDocument, RerankOptions, RerankRequest, RollbackRequest, SearchMode, SearchRequest,
    ShadowRequest, TaskState,
};
use trawl_client::{Client, ClientConfig, Error, Refusal};

use crate::harness::TestServer;
use crate::security::{key, keys};

fn connect(server: &TestServer, tweak: impl FnOnce(&mut ClientConfig)) -> Client {
    let mut config = ClientConfig::new(format!("http://{}/", server.address));
    tweak(&mut config);
    Client::new(config)
}

fn words(query: &str) -> SearchRequest {
    SearchRequest {
        query: Some(query.to_owned()),
        mode: SearchMode::Lexical,
        ..SearchRequest::default()
    }
}

#[track_caller]
fn refusal<A: std::fmt::Debug>(answer: Result<A, Error>, code: ErrorCode) -> Refusal {
    match answer {
        Err(Error::Refused(refusal)) => {
            assert_eq!(refusal.code, Some(code), "{refusal}");
            assert_eq!(refusal.status, code.status());
            assert!(refusal.request_id.is_some() && !refusal.detail.is_empty());
            *refusal
        }
        answer => panic!("not refused: {answer:?}"),
    }
}

#[test]
fn the_client_searches_and_says_what_was_good() {
    let folder = tempfile::tempdir().unwrap();
    let log = QueryLogConfig::new(folder.path().join("queries.jsonl"));
    let server = TestServer::start_set(|_| {}, |server| server.set_query_log(&log).unwrap());
    let client = connect(&server, |_| {});
    let found = client.search("docs", &words("yeast")).unwrap();
    assert_eq!(found.results[0].id, "bread");
    let filter = json!({"must": [{"key": "lang", "match": {"value": "de"}}]});
    let filtered = SearchRequest {
        query: Some("light".to_owned()),
        filter: Some(serde_json::from_value(filter).unwrap()),
        rerank: Some(RerankOptions::default()),
        ..SearchRequest::default()
    };
    let found = client.search("docs@live", &filtered).unwrap();
    assert_eq!(found.results.len(), 1);
    assert_eq!(found.results[0].id, "bees");
    assert!(found.results[0].scores.rerank.is_some());

    let searches = vec![words("sand"), words("")];
    let batch = client.search_batch("docs", &BatchSearchRequest { searches });
    let results = batch.unwrap().results;
    let [
        BatchSearchResult::Found(found),
        BatchSearchResult::Failed { error },
    ] = &results[..]
    else {
        panic!("{results:?}");
    };
    assert_eq!(found.results[0].id, "glass");
    assert_eq!(error.code, ErrorCode::Validation);

    let clicked = Feedback {
        request_id: Some(found.request_id.clone()),
        place: 0,
        query: None,
        id: "glass".to_owned(),
        grade: Some(2),
        rank: None,
    };
    let request = FeedbackRequest {
        feedback: vec![clicked],
    };
    assert_eq!(client.feedback("docs", &request).unwrap().accepted, 1);
}

#[test]
fn the_client_uses_models() {
    let server = TestServer::start();
    let client = connect(&server, |_| {});
    let request = EmbeddingRequest {
        model: "tiny".to_owned(),
        input: EmbeddingInput::Texts(vec!["salt".to_owned(), "sand".to_owned()]),
        encoding_format: EncodingFormat::Float,
        dimensions: Some(8),
        input_type: InputType::Query,
    };
    let embedded = client.embed(&request).unwrap();
    assert_eq!(embedded.data.len(), 2);
    for embedding in embedded.data {
        assert!(matches!(embedding.embedding, EmbeddingValues::Float(values) if values.len() == 8));
    }
    let request = RerankRequest {
        model: None,
        query: "salt".to_owned(),
        documents: ["sand", "sea"]
            .map(|text| RerankDocument::Text(text.into()))
            .into(),
        top_n: Some(1),
        return_documents: true,
    };
    let reranked = client.rerank(&request).unwrap();
    assert_eq!(reranked.results.len(), 1);
    assert!(reranked.results[0].document.is_some());
    let models = client.list_models().unwrap().data;
    assert_eq!(client.show_model("tiny").unwrap(), models[0]);
    assert_eq!(client.version().unwrap().name, "trawl");
    client.readyz().unwrap();
}

#[test]
fn the_client_writes_and_changes_generations() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_owned();
    let server = TestServer::start_set(|config| config.data = Some(data), |_| {});
    let client = connect(&server, |_| {});
    let request = CollectionRequest {
        encoder: Some("tiny".to_owned()),
        ..CollectionRequest::default()
    };
    let made = client.create_collection("notes", &request).unwrap();
    assert_eq!((made.name.as_str(), made.passages), ("notes", 0));
    let again = client.create_collection("notes", &request);
    refusal(again, ErrorCode::AlreadyExists);
    client.delete_collection("notes").unwrap();
    refusal(client.show_collection("notes"), ErrorCode::NotFound);

    let document = |id: &str, text: &str| NewDocument {
        id: id.to_owned(),
        text: text.to_owned(),
        metadata: json!({"lang": "en"}).as_object().unwrap().clone(),
        ..NewDocument::default()
    };
    let documents = [
        document("a/1", "zirconium"),
        document("b", "zinc"),
        document("", ""),
    ];
    let written = client
        .add_documents("docs", &documents, Some("k1"))
        .unwrap();
    assert_eq!((written.documents, written.errors.len()), (2, 1));
    let again = client
        .add_documents("docs", &documents, Some("k1"))
        .unwrap();
    assert_eq!(again, written);
    let shown = client.show_document("docs", "a/1").unwrap();
    assert_eq!(shown.passages[0].text, "zirconium");
    assert_eq!(shown.metadata["lang"], "en");
    let of_ids = DocumentsDelete {
        ids: Some(vec!["b".to_owned()]),
        ..DocumentsDelete::default()
    };
    let filter = json!({"must": [{"key": "lang", "match": {"value": "fr"}}]});
    let of_filter = DocumentsDelete {
        filter: serde_json::from_value(filter).unwrap(),
        ..DocumentsDelete::default()
    };
    for request in [of_ids, of_filter] {
        let deleted = client.delete_documents("docs", &request, None).unwrap();
        assert_eq!(deleted.documents, 1, "{request:?}");
    }

    let before = client.show_alias("docs", "live").unwrap().generation;
    let mut task = client.compact("docs").unwrap();
    while task.state == TaskState::Running {
        thread::sleep(Duration::from_millis(20));
        task = client.show_task(&task.task).unwrap();
    }
    assert_eq!(task.state, TaskState::Done, "{task:?}");
    assert_eq!(client.list_tasks().unwrap().tasks, [task.clone()]);
    assert_eq!(client.cancel_task(&task.task).unwrap(), task);
    let after = task.generation.unwrap();
    assert_eq!(
        client.list_generations("docs").unwrap().generations.len(),
        2
    );
    assert_eq!(client.show_collection("docs").unwrap().counts.passages, 6);
    let listed = client.list_collections().unwrap().collections;
    assert_eq!(listed[0].generation, after);

    let request = ShadowRequest {
        generation: before.clone(),
        share: 1.0,
    };
    assert_eq!(
        client.set_shadow("docs", &request).unwrap().candidate,
        before
    );
    assert_eq!(client.show_shadow("docs").unwrap().live, after);
    client.end_shadow("docs").unwrap();
    refusal(client.show_shadow("docs"), ErrorCode::NotFound);

    let back = client
        .roll_back_alias("docs", "live", &RollbackRequest::default(), Some(&after))
        .unwrap();
    assert_eq!(back.generation, before);
    let request = AliasRequest {
        generation: after.clone(),
        gate: Gate::Asked(false),
        drop_live: false,
    };
    let stale = client.set_alias("docs", "live", &request, Some(&after));
    refusal(stale, ErrorCode::PreconditionFailed);
    let set = client
        .set_alias("docs", "live", &request, Some(&before))
        .unwrap();
    assert_eq!(set.generation, after);
    let limit = GateLimit {
        min: Some(100.0),
        ..GateLimit::default()
    };
    let request = AliasRequest {
        generation: before,
        gate: Gate::With(Box::new(GateSettings {
            require: Some(GateRequirements {
                passages: Some(limit),
                ..GateRequirements::default()
            }),
            ..GateSettings::default()
        })),
        drop_live: true,
    };
    match client.set_alias("docs", "live", &request, None) {
        Err(Error::Refused(refusal)) => {
            assert_eq!(refusal.code, Some(ErrorCode::GateFailed));
            assert_eq!(refusal.gate.unwrap()["passed"], false);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_client_says_why_it_was_refused() {
    let auth = keys(vec![key("reader", &[Scope::Search])]);
    let server = TestServer::start_set(|_| {}, |server| server.set_auth(auth).unwrap());
    let client = connect(&server, |config| {
        config.key = Some("secret of reader".into())
    });
    client.search("docs", &words("yeast")).unwrap();
    refusal(client.search("nosuch", &words("a")), ErrorCode::NotFound);
    let stranger = connect(&server, |_| {});
    refusal(stranger.list_collections(), ErrorCode::Unauthorized);
    refusal(client.compact("docs"), ErrorCode::Forbidden);
    let request = SearchRequest {
        top_k: 0,
        ..words("a")
    };
    let invalid = refusal(client.search("docs", &request), ErrorCode::Validation);
    assert_eq!(invalid.errors[0].pointer, "/top_k");

    let hurried = connect(&server, |config| {
        config
            .headers
            .push(("x-priority".into(), "nonsense".into()));
        config.key = Some("secret of reader".into());
    });
    let refused = refusal(hurried.search("docs", &words("a")), ErrorCode::BadRequest);
    assert!(refused.detail.contains("x-priority"), "{refused}");
    let short = connect(&server, |config| {
        config.max_answer_bytes = 10;
        config.key = Some("secret of reader".into());
    });
    let cut = short.search("docs", &words("yeast"));
    assert!(matches!(cut, Err(Error::Transport { .. })), "{cut:?}");
    let nobody = Client::new(ClientConfig::new("http://127.0.0.1:1"));
    assert!(matches!(
        nobody.readyz(),
        Err(Error::Transport {
            operation: "readyz",
            ..
        })
    ));
}

#[test]
fn errors_of_the_routes_of_other_clients_are_read_too() {
    let server = TestServer::start();
    let client = connect(&server, |_| {});
    refusal(client.show_model("nosuch"), ErrorCode::ModelNotFound);
    let request: RerankRequest =
        serde_json::from_value(json!({"model": "nosuch", "query": "a", "documents": ["b"]}))
            .unwrap();
    refusal(client.rerank(&request), ErrorCode::ModelNotFound);
}
