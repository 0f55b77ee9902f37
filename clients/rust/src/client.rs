use std::time::Duration;

use openapi::{
    Alias, AliasRequest, BatchSearchRequest, BatchSearchResponse, Collection, CollectionDetail,
    CollectionList, CollectionRequest, Document, DocumentsDelete, DocumentsDeleted,
    DocumentsWritten, EmbeddingRequest, EmbeddingResponse, EvalRequest, FeedbackRequest,
    FeedbackResponse, GenerationList, Health, Limits, Model, ModelList, NewDocument, RerankRequest,
    RerankResponse, RollbackRequest, SearchRequest, SearchResponse, Shadow, ShadowRequest, Task,
    TaskList, Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::Request;

use crate::error::{Error, Refusal};
use crate::operation::{self, Operation};

/// How a server is asked.
#[derive(Clone)]
pub struct ClientConfig {
    /// The server's address, with the prefix that a proxy gives it: `https://search.example/trawl`.
    pub url: String,
    /// The API key.
    pub key: Option<String>,
    /// The most time a request may take, from the connection to the last byte of the answer.
    pub timeout: Duration,
    /// Headers that go with every request: `x-timeout-ms`, `x-priority`, `traceparent`.
    pub headers: Vec<(String, String)>,
    /// The longest answer that is read.
    pub max_answer_bytes: u64,
}

impl ClientConfig {
    /// The server at `url`, without a key, with a minute for a request and 256 MiB for an answer.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            key: None,
            timeout: Duration::from_secs(60),
            headers: Vec::new(),
            max_answer_bytes: 256 << 20,
        }
    }
}

/// A client of one server. It keeps connections open; clones share them, and threads may share a client.
///
/// Nothing is sent a second time, redirections are not followed, and proxies are those that the environment names. Every method fails with [`Error::Refused`] where the server
/// says no, and with the other errors where it cannot be asked or understood.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    config: ClientConfig,
}

impl Client {
    /// A client that has not asked anything yet.
    #[must_use]
    pub fn new(mut config: ClientConfig) -> Self {
        config.url.truncate(config.url.trim_end_matches('/').len());
        let agent = Agent::config_builder()
            .timeout_global(Some(config.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build();
        Self {
            agent: agent.into(),
            config,
        }
    }

    /// Searches a collection, or another of its generations: `collection@alias`, `collection@generation`.
    pub fn search(
        &self,
        collection: &str,
        request: &SearchRequest,
    ) -> Result<SearchResponse, Error> {
        self.send(operation::SEARCH, &[collection], &[], request)
    }

    /// Answers many searches at once; each of them may fail alone.
    pub fn search_batch(
        &self,
        collection: &str,
        request: &BatchSearchRequest,
    ) -> Result<BatchSearchResponse, Error> {
        self.send(operation::SEARCH_BATCH, &[collection], &[], request)
    }

    /// Says what was clicked on, or how relevant it is.
    pub fn feedback(
        &self,
        collection: &str,
        request: &FeedbackRequest,
    ) -> Result<FeedbackResponse, Error> {
        self.send(operation::FEEDBACK, &[collection], &[], request)
    }

    /// Writes documents; those that are refused are in the answer. A request with the `idempotency_key` of one that was answered
    /// gets its answer and writes nothing.
    pub fn add_documents(
        &self,
        collection: &str,
        documents: &[NewDocument],
        idempotency_key: Option<&str>,
    ) -> Result<DocumentsWritten, Error> {
        let headers = [("idempotency-key", idempotency_key)];
        self.send(
            operation::ADD_DOCUMENTS,
            &[collection],
            &headers,
            &documents,
        )
    }

    /// A document as it is now.
    pub fn show_document(&self, collection: &str, id: &str) -> Result<Document, Error> {
        self.call(operation::SHOW_DOCUMENT, &[collection, id])
    }

    /// Deletes documents; `idempotency_key` is as for [`Self::add_documents`].
    pub fn delete_documents(
        &self,
        collection: &str,
        request: &DocumentsDelete,
        idempotency_key: Option<&str>,
    ) -> Result<DocumentsDeleted, Error> {
        let headers = [("idempotency-key", idempotency_key)];
        self.send(
            operation::DELETE_DOCUMENTS,
            &[collection],
            &headers,
            request,
        )
    }

    /// Begins to make a generation of the present one and of what was written since; [`Self::show_task`] says how far it is.
    pub fn compact(&self, collection: &str) -> Result<Task, Error> {
        self.call(operation::COMPACT, &[collection])
    }

    /// Begins to measure how well a collection answers queries with judgments; [`Self::show_task`] has the measures in the end.
    pub fn evaluate(&self, request: &EvalRequest) -> Result<Task, Error> {
        self.send(operation::EVALUATE, &[], &[], request)
    }

    /// The newest tasks.
    pub fn list_tasks(&self) -> Result<TaskList, Error> {
        self.call(operation::LIST_TASKS, &[])
    }

    /// How far a task is.
    pub fn show_task(&self, task: &str) -> Result<Task, Error> {
        self.call(operation::SHOW_TASK, &[task])
    }

    /// Tells a task to end; one that has ended stays as it is.
    pub fn cancel_task(&self, task: &str) -> Result<Task, Error> {
        self.call(operation::CANCEL_TASK, &[task])
    }

    /// The collections that the key may see.
    pub fn list_collections(&self) -> Result<CollectionList, Error> {
        self.call(operation::LIST_COLLECTIONS, &[])
    }

    /// A collection in full.
    pub fn show_collection(&self, collection: &str) -> Result<CollectionDetail, Error> {
        self.call(operation::SHOW_COLLECTION, &[collection])
    }

    /// Makes a collection without documents.
    pub fn create_collection(
        &self,
        collection: &str,
        request: &CollectionRequest,
    ) -> Result<Collection, Error> {
        self.send(operation::CREATE_COLLECTION, &[collection], &[], request)
    }

    /// Removes a collection that was made over HTTP, with all its generations and documents.
    pub fn delete_collection(&self, collection: &str) -> Result<(), Error> {
        self.exchange(operation::DELETE_COLLECTION, &[collection], &[], None)?;
        Ok(())
    }

    /// The generations of a collection, oldest first.
    pub fn list_generations(&self, collection: &str) -> Result<GenerationList, Error> {
        self.call(operation::LIST_GENERATIONS, &[collection])
    }

    /// What an alias names.
    pub fn show_alias(&self, collection: &str, alias: &str) -> Result<Alias, Error> {
        self.call(operation::SHOW_ALIAS, &[collection, alias])
    }

    /// Makes an alias name another generation; with `if_match`, only while it names that one.
    pub fn set_alias(
        &self,
        collection: &str,
        alias: &str,
        request: &AliasRequest,
        if_match: Option<&str>,
    ) -> Result<Alias, Error> {
        let tag = if_match.map(entity_tag);
        let headers = [("if-match", tag.as_deref())];
        self.send(
            operation::SET_ALIAS,
            &[collection, alias],
            &headers,
            request,
        )
    }

    /// Makes an alias name the generation before; with `if_match`, only while it names that one.
    pub fn roll_back_alias(
        &self,
        collection: &str,
        alias: &str,
        request: &RollbackRequest,
        if_match: Option<&str>,
    ) -> Result<Alias, Error> {
        let parameters = [collection, alias];
        let tag = if_match.map(entity_tag);
        let headers = [("if-match", tag.as_deref())];
        self.send(operation::ROLL_BACK_ALIAS, &parameters, &headers, request)
    }

    /// Lets a candidate answer a share of the live searches, too.
    pub fn set_shadow(&self, collection: &str, request: &ShadowRequest) -> Result<Shadow, Error> {
        self.send(operation::SET_SHADOW, &[collection], &[], request)
    }

    /// How the candidate's answers compare with those that were given.
    pub fn show_shadow(&self, collection: &str) -> Result<Shadow, Error> {
        self.call(operation::SHOW_SHADOW, &[collection])
    }

    /// Lets the candidate go.
    pub fn end_shadow(&self, collection: &str) -> Result<(), Error> {
        self.exchange(operation::END_SHADOW, &[collection], &[], None)?;
        Ok(())
    }

    /// Turns texts into vectors.
    pub fn embed(&self, request: &EmbeddingRequest) -> Result<EmbeddingResponse, Error> {
        self.send(operation::EMBED, &[], &[], request)
    }

    /// Orders texts by how well they answer a query.
    pub fn rerank(&self, request: &RerankRequest) -> Result<RerankResponse, Error> {
        self.send(operation::RERANK, &[], &[], request)
    }

    /// The loaded models.
    pub fn list_models(&self) -> Result<ModelList, Error> {
        self.call(operation::LIST_MODELS, &[])
    }

    /// A loaded model.
    pub fn show_model(&self, model: &str) -> Result<Model, Error> {
        self.call(operation::SHOW_MODEL, &[model])
    }

    /// Which program answers.
    pub fn version(&self) -> Result<Version, Error> {
        self.call(operation::VERSION, &[])
    }

    /// What requests may ask for at most.
    pub fn limits(&self) -> Result<Limits, Error> {
        self.call(operation::LIMITS, &[])
    }

    /// That every model and collection gave the known answer; until then it is refused with `not_ready`.
    pub fn readyz(&self) -> Result<Health, Error> {
        self.call(operation::READYZ, &[])
    }

    /// Asks without a body.
    fn call<A: DeserializeOwned>(
        &self,
        operation: Operation,
        parameters: &[&str],
    ) -> Result<A, Error> {
        self.ask(operation, parameters, &[], None)
    }

    /// Asks with a body.
    fn send<A: DeserializeOwned>(
        &self,
        operation: Operation,
        parameters: &[&str],
        headers: &[(&str, Option<&str>)],
        request: &impl Serialize,
    ) -> Result<A, Error> {
        let body = serde_json::to_vec(request).map_err(|source| Error::Request {
            operation: operation.id,
            source,
        })?;
        self.ask(operation, parameters, headers, Some(body))
    }

    fn ask<A: DeserializeOwned>(
        &self,
        operation: Operation,
        parameters: &[&str],
        headers: &[(&str, Option<&str>)],
        body: Option<Vec<u8>>,
    ) -> Result<A, Error> {
        let answer = self.exchange(operation, parameters, headers, body)?;
        serde_json::from_slice(&answer).map_err(|source| Error::Answer {
            operation: operation.id,
            source,
        })
    }

    /// The body of an answer that is no error.
    fn exchange(
        &self,
        operation: Operation,
        parameters: &[&str],
        headers: &[(&str, Option<&str>)],
        body: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, Error> {
        let failed = |source: ureq::Error| Error::Transport {
            operation: operation.id,
            source: Box::new(source),
        };
        let config = &self.config;
        let mut request = Request::builder().method(operation.method).uri(format!(
            "{}{}",
            config.url,
            operation.path_of(parameters)
        ));
        if let Some(key) = &config.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in &config.headers {
            request = request.header(name, value);
        }
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(*name, *value);
            }
        }
        let answer = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                let request = request.body(body).map_err(|error| failed(error.into()))?;
                self.agent.run(request)
            }
            None => {
                let request = request.body(()).map_err(|error| failed(error.into()))?;
                self.agent.run(request)
            }
        };
        let mut answer = answer.map_err(failed)?;
        let limited = answer.body_mut().with_config();
        let body = limited.limit(config.max_answer_bytes).read_to_vec();
        let body = body.map_err(failed)?;
        let status = answer.status();
        match status.is_success() {
            true => Ok(body),
            false => {
                let refusal = Refusal::read(status.as_u16(), answer.headers(), &body);
                Err(Error::Refused(Box::new(refusal)))
            }
        }
    }
}

/// A generation as `ETag` and `If-Match` have it (RFC 9110, section 8.8.3).
fn entity_tag(generation: &str) -> String {
    format!("\"{generation}\"")
}
