use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::checkpoint::hex;
use crate::options::Similarity;

/// How the text of a passage and of a query is made before the model sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextSpec {
    /// Template of a passage's text.
    pub passage_template: String,
    /// Template of a query's text.
    pub query_template: String,
    /// Whether passages are pairs of title and text.
    pub passage_pair: bool,
    /// Whether queries are pairs.
    pub query_pair: bool,
    /// Tokens of a passage that the next does not share, where documents are split into passages.
    pub passage_stride: Option<usize>,
}

impl Default for TextSpec {
    fn default() -> Self {
        Self {
            passage_template: "<title> <text>".into(),
            query_template: "<text>".into(),
            passage_pair: false,
            query_pair: false,
            passage_stride: None,
        }
    }
}

/// What vectors depend on. Vectors of equal fingerprints may be compared; others may not.
///
/// `space` says what a vector means: architecture, weights, tokenizer, pooling, dense, normalize, dimension, similarity.
/// `passage` and `query` say how texts come in: prompt, template, pair, max_tokens, split. The arithmetic is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Version of this structure.
    pub version: u32,
    /// What a vector means; `"external"` for vectors that the user brought.
    pub space: Value,
    /// How passages come in.
    pub passage: Value,
    /// How queries come in.
    pub query: Value,
}

/// The first entry in which two fingerprints differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Path of the entry, such as `space.weights`.
    pub entry: String,
    /// Its value on the left, as JSON; `absent` without one.
    pub left: String,
    /// Its value on the right.
    pub right: String,
}

impl Fingerprint {
    /// The version that this code writes.
    pub const VERSION: u32 = 1;

    /// The fingerprint of vectors that the user brought: all that is known is their width and how they are compared.
    pub fn external(width: usize, similarity: Similarity) -> Self {
        let vectors = json!({ "dimension": width, "similarity": similarity.as_str() });
        Self {
            version: Self::VERSION,
            space: json!("external"),
            passage: vectors.clone(),
            query: vectors,
        }
    }

    /// `sha256:` and the sha256 of the canonical JSON: keys sorted, no spaces.
    pub fn digest(&self) -> String {
        format!("sha256:{}", sha256_of_json(&self.to_json()))
    }

    /// Returns the first entry that differs, in the order of sorted keys; `None` when all are equal.
    pub fn first_difference(&self, other: &Self) -> Option<Difference> {
        first_difference("", &self.to_json(), &other.to_json())
    }

    fn to_json(&self) -> Value {
        json!({ "version": self.version, "space": self.space, "passage": self.passage, "query": self.query })
    }
}

fn first_difference(path: &str, left: &Value, right: &Value) -> Option<Difference> {
    if left == right {
        return None;
    }
    if let (Value::Object(left), Value::Object(right)) = (left, right) {
        let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let (left, right) = (left.get(key), right.get(key));
            if let (Some(left), Some(right)) = (left, right) {
                if let Some(difference) = first_difference(&path, left, right) {
                    return Some(difference);
                }
            } else {
                let show = |value: Option<&Value>| value.map_or_else(|| "absent".into(), canonical);
                return Some(Difference {
                    entry: path,
                    left: show(left),
                    right: show(right),
                });
            }
        }
    }
    Some(Difference {
        entry: path.to_owned(),
        left: canonical(left),
        right: canonical(right),
    })
}

/// sha256 of the canonical JSON, in hexadecimal.
pub(crate) fn sha256_of_json(value: &Value) -> String {
    hex(&Sha256::digest(canonical(value)))
}

/// Writes JSON with sorted keys and no spaces, whatever order the map keeps.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let mut keys: Vec<&String> = entries.keys().collect();
            keys.sort_unstable();
            let entries = keys
                .into_iter()
                .map(|key| format!("{}:{}", Value::from(key.as_str()), canonical(&entries[key])));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(canonical).collect::<Vec<_>>().join(",")
        ),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(weights: &str, max_tokens: usize) -> Fingerprint {
        Fingerprint {
            version: 1,
            space: json!({ "weights": weights, "dimension": 2 }),
            passage: json!({ "max_tokens": max_tokens }),
            query: json!({}),
        }
    }

    #[test]
    fn canonical_json_is_sorted_and_dense() {
        let value: Value = serde_json::from_str(r#"{"b": [1, {"d": null, "c": "x\n"}], "a": 1.5}"#)
            .expect("valid");
        assert_eq!(
            canonical(&value),
            r#"{"a":1.5,"b":[1,{"c":"x\n","d":null}]}"#
        );
    }

    #[test]
    fn a_digest_survives_saving() {
        let saved = serde_json::to_string_pretty(&fingerprint("ab", 64)).expect("serialisable");
        let loaded: Fingerprint = serde_json::from_str(&saved).expect("valid");
        assert_eq!(loaded.digest(), fingerprint("ab", 64).digest());
        assert_eq!(loaded.first_difference(&fingerprint("ab", 64)), None);
        assert!(loaded.digest().starts_with("sha256:"));
    }

    #[test]
    fn the_first_differing_entry_is_named() {
        let check = |other: &Fingerprint, entry: &str, left: &str, right: &str| {
            let expected = Difference {
                entry: entry.into(),
                left: left.into(),
                right: right.into(),
            };
            assert_eq!(
                fingerprint("ab", 64).first_difference(other),
                Some(expected)
            );
            assert_ne!(fingerprint("ab", 64).digest(), other.digest());
        };
        check(&fingerprint("cd", 64), "space.weights", "\"ab\"", "\"cd\"");
        check(&fingerprint("cd", 32), "passage.max_tokens", "64", "32");
        let mut newer = fingerprint("ab", 64);
        newer.query = json!({ "prompt": "q: " });
        check(&newer, "query.prompt", "absent", "\"q: \"");
        let external = Fingerprint::external(2, Similarity::L2);
        assert_eq!(
            fingerprint("ab", 64)
                .first_difference(&external)
                .map(|d| d.entry),
            Some("passage.dimension".into())
        );
    }
}
