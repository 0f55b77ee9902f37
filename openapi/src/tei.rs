//! The API of text-embeddings-inference, for the clients that were written for it. Unknown fields are ignored.
//!
//! Where that server has one model, this one may have several: `model` in the body, or `?model=` behind the address, says which,
//! and may be left out where there is one of the kind.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::EmbeddingInput;

/// Texts to turn into vectors.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": ["the tide comes in twice a day"], "truncate": true}))]
pub struct TeiEmbedRequest {
    /// One text, many texts, the token ids of one text, or of many. Limit: `limits.embedding_inputs`.
    pub inputs: EmbeddingInput,
    /// Whether vectors are brought to length 1.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub normalize: bool,
    /// Values of each vector, from the first; the model's own width, or one of those that its setting `dimensions` names.
    #[serde(default)]
    pub dimensions: Option<usize>,
    /// How the texts are read.
    #[serde(flatten)]
    pub reading: TeiReading,
}

/// Texts of whose tokens the vectors are asked for.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": "the tide comes in"}))]
pub struct TeiEmbedAllRequest {
    /// As for `/embed`.
    pub inputs: EmbeddingInput,
    /// How the texts are read.
    #[serde(flatten)]
    pub reading: TeiReading,
}

/// How texts are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub struct TeiReading {
    /// Whether a text over the model's length is cut; `false` refuses it. Left out, it is cut.
    #[serde(default)]
    pub truncate: Option<bool>,
    /// Which end of such a text is lost; left out, the one that the model's configuration says.
    #[serde(default)]
    pub truncation_direction: Option<TeiSide>,
    /// Name of the model's prompt that is put before each text; left out, the model's default prompt, if it has one.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// Name of a loaded model; may be left out when exactly one of the kind is loaded.
    #[serde(default)]
    pub model: Option<String>,
}

/// An end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
pub enum TeiSide {
    /// Its beginning.
    #[serde(alias = "left")]
    Left,
    /// Its end.
    #[serde(alias = "right")]
    Right,
}

/// Texts to order by how well they answer a query.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[schema(example = json!({
    "query": "why is the sky blue", "return_text": true,
    "texts": ["Air scatters blue light more than red.", "Bread rises because yeast breathes."]
}))]
pub struct TeiRerankRequest {
    /// The query.
    pub query: String,
    /// The texts. Limit: `limits.rerank_documents`.
    pub texts: Vec<String>,
    /// Logits in place of values between 0 and 1.
    #[serde(default)]
    pub raw_scores: bool,
    /// Whether results carry their text.
    #[serde(default)]
    pub return_text: bool,
    /// How the pairs are read; rerankers have no prompts.
    #[serde(flatten)]
    pub reading: TeiReading,
}

/// A text's score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"index": 0, "score": 0.97, "text": "Air scatters blue light more than red."}))]
pub struct TeiRank {
    /// Position of the text in the request.
    pub index: usize,
    /// The logistic function of the model's logit, or the logit with `raw_scores`; higher is better.
    pub score: f32,
    /// The text, with `return_text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Texts, or pairs of texts, to classify.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": [["why is the sky blue", "Air scatters blue light more than red."]]}))]
pub struct TeiPredictRequest {
    /// The texts.
    pub inputs: TeiPredictInput,
    /// Logits in place of probabilities.
    #[serde(default)]
    pub raw_scores: bool,
    /// How the texts are read; classifiers have no prompts.
    #[serde(flatten)]
    pub reading: TeiReading,
}

/// One text, one pair of texts, or a list of lists of one or two texts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string, a list of one or two strings, or a list of such lists"
)]
pub enum TeiPredictInput {
    /// One text.
    Text(String),
    /// One text, or a pair.
    One(Vec<String>),
    /// Many of them.
    Many(Vec<Vec<String>>),
}

/// A label and how sure the model is of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"score": 0.97, "label": "LABEL_0"}))]
pub struct TeiPrediction {
    /// Probability of the label, or its logit with `raw_scores`.
    pub score: f32,
    /// Its name in the model's `id2label`.
    pub label: String,
}

/// The labels of the one input, surest first, or those of each of many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TeiPredictions {
    /// Of one input.
    One(Vec<TeiPrediction>),
    /// Of many.
    Many(Vec<Vec<TeiPrediction>>),
}

/// A text to compare with others.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": {
    "source_sentence": "the tide comes in", "sentences": ["the sea rises", "bread rises"]
}}))]
pub struct TeiSimilarityRequest {
    /// The texts.
    #[serde(deserialize_with = "crate::object")]
    pub inputs: TeiSimilarityInput,
    /// How they are read.
    #[serde(default, deserialize_with = "crate::object::object_or_null")]
    #[schema(value_type = Option<TeiReading>)]
    pub parameters: Option<TeiReading>,
    /// Name of a loaded encoder; may be left out when exactly one is loaded.
    #[serde(default)]
    pub model: Option<String>,
}

/// A text and those it is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
pub struct TeiSimilarityInput {
    /// The text.
    pub source_sentence: String,
    /// The others. Limit: `limits.embedding_inputs`, less one.
    pub sentences: Vec<String>,
}

/// Texts to turn into tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(example = json!({"inputs": ["the tide"]}))]
pub struct TeiTokenizeRequest {
    /// One text, or many. Limit: `limits.embedding_inputs`.
    pub inputs: TeiTexts,
    /// Whether the model's special tokens are put around each text.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub add_special_tokens: bool,
    /// As for `/embed`.
    #[serde(default)]
    pub prompt_name: Option<String>,
    /// Name of a loaded model; may be left out when exactly one encoder is loaded, or one model.
    #[serde(default)]
    pub model: Option<String>,
}

/// One text, or many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string, or strings")]
pub enum TeiTexts {
    /// One.
    One(String),
    /// Many.
    Many(Vec<String>),
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"id": 1996, "text": "the", "special": false, "start": 0, "stop": 3}))]
pub struct TeiToken {
    /// Its id.
    pub id: u32,
    /// The piece of text that it stands for; its name where it is special.
    pub text: String,
    /// Whether it is one of the tokenizer's special tokens.
    pub special: bool,
    /// First byte of the piece, in prompt and text together; none for special tokens.
    pub start: Option<usize>,
    /// The byte after its last.
    pub stop: Option<usize>,
}

/// Token ids to turn into text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(example = json!({"ids": [101, 1996, 10401, 102]}))]
pub struct TeiDecodeRequest {
    /// Ids of one text, or of many. Limit: `limits.embedding_inputs`.
    pub ids: TeiIds,
    /// Whether special tokens are left out.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub skip_special_tokens: bool,
    /// As for `/tokenize`.
    #[serde(default)]
    pub model: Option<String>,
}

/// Token ids of one text, or of many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "token ids, or lists of token ids")]
pub enum TeiIds {
    /// Of one text.
    One(Vec<u32>),
    /// Of many.
    Many(Vec<Vec<u32>>),
}

/// The model that answers, and the limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "model_id": "all-MiniLM-L6-v2", "model_sha": "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "model_dtype": "float32", "model_type": {"embedding": {"pooling": "mean"}}, "max_concurrent_requests": 512,
    "max_input_length": 256, "max_batch_tokens": 4096, "max_batch_requests": null, "max_client_batch_size": 2048,
    "auto_truncate": true, "tokenization_workers": 2, "version": "0.1.0", "sha": null, "docker_label": null
}))]
pub struct TeiInfo {
    /// Its name.
    pub model_id: String,
    /// Fingerprint of an encoder.
    pub model_sha: Option<String>,
    /// The arithmetic.
    pub model_dtype: String,
    /// What it is.
    pub model_type: TeiModelType,
    /// `limits.requests`.
    pub max_concurrent_requests: usize,
    /// Most tokens of a text, or pair.
    pub max_input_length: usize,
    /// Tokens that the model reads at once.
    pub max_batch_tokens: usize,
    /// Always none: batches are bounded by their tokens.
    pub max_batch_requests: Option<usize>,
    /// `limits.embedding_inputs`, or `limits.rerank_documents`.
    pub max_client_batch_size: usize,
    /// Always true.
    pub auto_truncate: bool,
    /// Texts turned into tokens at the same time.
    pub tokenization_workers: usize,
    /// Version of this server.
    pub version: String,
    /// Always none.
    pub sha: Option<String>,
    /// Always none.
    pub docker_label: Option<String>,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeiModelType {
    /// An encoder.
    Embedding {
        /// How token vectors become one.
        pooling: String,
    },
    /// A cross-encoder of one label.
    Reranker(TeiLabels),
    /// A cross-encoder of several.
    Classifier(TeiLabels),
}

/// Names of labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TeiLabels {
    /// Names by number.
    pub id2label: std::collections::BTreeMap<String, String>,
    /// Numbers by name.
    pub label2id: std::collections::BTreeMap<String, usize>,
}

/// An error as the clients of text-embeddings-inference read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "error": "there is no encoder `gpt`; loaded: all-MiniLM-L6-v2", "error_type": "validation", "code": "model_not_found"
}))]
pub struct TeiError {
    /// What is wrong, for people.
    pub error: String,
    /// What kind of error it is there.
    pub error_type: TeiErrorType,
    /// As in [`Problem`](crate::Problem).
    pub code: crate::ErrorCode,
}

/// The kinds of error of text-embeddings-inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeiErrorType {
    /// Come back later.
    Overloaded,
    /// The request is at fault.
    Validation,
    /// The text cannot be made into tokens.
    Tokenizer,
    /// There is nothing in the request.
    Empty,
    /// The model failed, or took too long.
    Backend,
    /// The server is not ready, or about to stop.
    Unhealthy,
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_is_read() {
        let body =
            r#"{"inputs": "a", "truncate": true, "truncation_direction": "left", "later": 1}"#;
        let request: TeiEmbedRequest = serde_json::from_str(body).unwrap();
        assert_eq!(
            (request.normalize, request.reading.truncation_direction),
            (true, Some(TeiSide::Left))
        );
        let body = r#"{"inputs": ["a"], "truncation_direction": "Right"}"#;
        assert!(serde_json::from_str::<TeiEmbedRequest>(body).is_ok());
        for (json, expected) in [
            (r#""a""#, TeiPredictInput::Text("a".into())),
            (
                r#"["a", "b"]"#,
                TeiPredictInput::One(vec!["a".into(), "b".into()]),
            ),
            (r#"[["a"]]"#, TeiPredictInput::Many(vec![vec!["a".into()]])),
        ] {
            assert_eq!(
                serde_json::from_str::<TeiPredictInput>(json).unwrap(),
                expected
            );
        }
    }
}
