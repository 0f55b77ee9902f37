use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Texts to turn into vectors, as OpenAI's clients ask for them. Unknown fields are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
#[schema(example = json!({"model": "all-MiniLM-L6-v2", "input": ["the tide comes in twice a day"]}))]
pub struct EmbeddingRequest {
    /// Name of a loaded encoder, as `GET /v1/collections` shows it.
    pub model: String,
    /// One text, many texts, the token ids of one text, or of many. Limit: `limits.embedding_inputs`.
    pub input: EmbeddingInput,
    /// How vectors are written.
    #[serde(default)]
    pub encoding_format: EncodingFormat,
    /// Values of a vector: the model's own width, or one of those that its setting `dimensions` names because it was
    /// trained for them (Matryoshka). Nothing says that another piece of its vectors would still be a good one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<usize>,
    /// What the texts are: the model's prompt and length for queries, or those for documents, apply.
    #[serde(default)]
    pub input_type: InputType,
}

/// One text, many texts, the token ids of one text, or of many. Token ids are used as they are: no prompt and no
/// special tokens are added.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string, strings, token ids, or lists of token ids"
)]
pub enum EmbeddingInput {
    /// One text.
    Text(String),
    /// Many texts.
    Texts(Vec<String>),
    /// Token ids of one text.
    Ids(Vec<u32>),
    /// Token ids of many texts.
    ManyIds(Vec<Vec<u32>>),
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "float")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Little-endian 32-bit floats in base64.
    Base64,
}

/// What texts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(default = "document")]
pub enum InputType {
    /// Queries.
    Query,
    /// Passages to be found.
    #[default]
    #[serde(alias = "passage")]
    Document,
}

/// Vectors in the order of the texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.013, -0.027]}],
    "model": "all-MiniLM-L6-v2",
    "usage": {"prompt_tokens": 9, "total_tokens": 9}
}))]
pub struct EmbeddingResponse {
    /// Always `list`.
    pub object: String,
    /// One entry a text, in the order of the texts.
    pub data: Vec<Embedding>,
    /// The model that answered.
    pub model: String,
    /// What it cost.
    pub usage: EmbeddingUsage,
}

/// The vector of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Embedding {
    /// Always `embedding`.
    pub object: String,
    /// Position of the text.
    pub index: usize,
    /// The vector.
    pub embedding: EmbeddingValues,
}

/// A vector in the format asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EmbeddingValues {
    /// Numbers.
    Float(Vec<f32>),
    /// Little-endian 32-bit floats in base64.
    Base64(String),
}

/// What the vectors cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens read, prompts and special tokens included.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

/// An error as OpenAI's clients read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OpenAiError {
    /// The error.
    pub error: OpenAiErrorBody,
}

/// What an OpenAI error says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OpenAiErrorBody {
    /// What is wrong, for people.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    pub r#type: String,
    /// The field at fault, if one is.
    pub param: Option<String>,
    /// As in [`Problem`](crate::Problem).
    pub code: crate::ErrorCode,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_input_is_read() {
        for (json, expected) in [
            (r#""a""#, EmbeddingInput::Text("a".into())),
            (
                r#"["a", "b"]"#,
                EmbeddingInput::Texts(vec!["a".into(), "b".into()]),
            ),
            ("[1, 2]", EmbeddingInput::Ids(vec![1, 2])),
            (
                "[[1], [2, 3]]",
                EmbeddingInput::ManyIds(vec![vec![1], vec![2, 3]]),
            ),
        ] {
            assert_eq!(
                serde_json::from_str::<EmbeddingInput>(json).unwrap(),
                expected
            );
        }
        assert!(serde_json::from_str::<EmbeddingInput>(r#"["a", 1]"#).is_err());
    }

    #[test]
    fn fields_of_other_servers_are_ignored() {
        let body = r#"{"model": "m", "input": "a", "user": "u", "truncate": true}"#;
        assert!(serde_json::from_str::<EmbeddingRequest>(body).is_ok());
    }
}
