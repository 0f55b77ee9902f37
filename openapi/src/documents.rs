use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::filter::filter_or_null;
use crate::{EvalReport, Filter};

/// A document to add; fields beside these are metadata.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"_id": "doc-17", "title": "Tides", "text": "The sea comes in and goes out twice a day.", "lang": "en"}))]
pub struct NewDocument {
    /// Its id; the document takes the place of the one that has it.
    #[serde(rename = "_id")]
    pub id: String,
    /// Its title.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// Its text.
    pub text: String,
    /// Its vector, where the collection's vectors are brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub vector: Option<Vec<f32>>,
    /// Metadata.
    #[serde(flatten)]
    pub metadata: Map<String, Value>,
}

/// Documents to add.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum NewDocuments {
    /// One.
    One(NewDocument),
    /// Any number.
    Many(Vec<NewDocument>),
}

/// What became of documents that were sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "collection": "docs", "documents": 2, "passages": 2, "errors": [], "log_position": 17,
    "durability": "fsync", "generation": "20261120T195500Z-3f9a1c"
}))]
pub struct DocumentsWritten {
    /// The collection.
    pub collection: String,
    /// Documents that were written; every search that begins now sees them.
    pub documents: usize,
    /// Passages that they have.
    pub passages: usize,
    /// Documents that were refused.
    pub errors: Vec<DocumentError>,
    /// Position of the write log that holds them.
    pub log_position: u64,
    /// What they survive: `fsync`, a machine that stops; `os`, a process that is killed.
    pub durability: String,
    /// The generation that they were made for.
    pub generation: String,
}

/// A document that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentError {
    /// Line of the body, from 1; in a JSON array the place of the document.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// Documents that are to go: exactly one of `ids` and `filter` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "ids": ["doc-17", "doc-18"] }))]
pub struct DocumentsDelete {
    /// Their ids; one that is not there is no error. Limit: `limits.documents`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<String>>,
    /// All that pass a filter, which has a condition at least: those that are there when their deletion is written. Limit on their
    /// number: `limits.documents`; nothing is deleted where there are more.
    #[serde(
        default,
        deserialize_with = "filter_or_null",
        skip_serializing_if = "Option::is_none"
    )]
    pub filter: Option<Filter>,
}

/// What became of documents that were to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentsDeleted {
    /// The collection.
    pub collection: String,
    /// Documents that were there and are deleted.
    pub documents: usize,
    /// Position of the write log after which they are gone.
    pub log_position: u64,
    /// As of [`DocumentsWritten`].
    pub durability: String,
}

/// A document of a collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Document {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Every other field.
    pub metadata: Map<String, Value>,
    /// Its text: one passage, or the passages that it was split into.
    pub passages: Vec<DocumentPassage>,
    /// The generation it was looked for in.
    pub generation: String,
    /// The position of the write log up to which it was looked for.
    pub log_position: u64,
}

/// A passage of a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentPassage {
    /// Its id, as searches return it.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// Work that goes on behind requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "task": "compact-1", "kind": "compact", "collection": "docs", "state": "done",
    "generation": "20261120T200000Z-77aa01", "error": null
}))]
pub struct Task {
    /// Its id.
    pub task: String,
    /// What it does: `compact` or `eval`.
    pub kind: String,
    /// The collection.
    pub collection: String,
    /// How far it is.
    pub state: TaskState,
    /// The generation that answers since, when the write log has been folded into it.
    pub generation: Option<String>,
    /// How much of an evaluation is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<TaskProgress>,
    /// What an evaluation found, when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvalReport>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Steps of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskProgress {
    /// Those that are done.
    pub done: u64,
    /// All of them.
    pub of: u64,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It goes on.
    Running,
    /// It did what it was to do.
    Done,
    /// It did not, and changed nothing.
    Failed,
    /// It was told to end before, and changed nothing.
    Cancelled,
}

/// The tasks of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TaskList {
    /// Those that go on and the newest that have ended, 100 in all; oldest first.
    pub tasks: Vec<Task>,
}
