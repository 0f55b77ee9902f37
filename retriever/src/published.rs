//! What a collection of Milvus says of the generation whose vectors it holds.

use collection::{GenerationId, Manifest};
use encoder::Fingerprint;
use milvus::{Cluster, MilvusError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const VERSION: u64 = 1;

/// What a collection of Milvus says of itself; its description, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Version of this form.
    pub trawl: u64,
    /// The generation.
    pub generation: GenerationId,
    /// Digest of its vectors, ids and texts.
    pub content_digest: String,
    /// How rows are compared.
    pub metric: String,
    /// Which vector space they live in, in full.
    pub fingerprint: Value,
}

/// Why a collection of Milvus cannot answer for a generation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishedError {
    /// The cluster does not answer.
    #[error("cannot ask the cluster")]
    Milvus(#[from] MilvusError),
    /// There is no such collection.
    #[error("Milvus has no collection `{collection}`")]
    Missing {
        /// The collection.
        collection: String,
    },
    /// It was made by somebody else.
    #[error("collection `{collection}` of Milvus does not say which generation it holds")]
    Unreadable {
        /// The collection.
        collection: String,
        /// Why.
        source: serde_json::Error,
    },
    /// It holds something else.
    #[error(
        "collection `{collection}` of Milvus differs in `{field}`: expected {expected}, found {found}"
    )]
    Differs {
        /// The collection.
        collection: String,
        /// What differs, such as `fingerprint.space.weights`.
        field: String,
        /// What the generation has.
        expected: String,
        /// What the collection has.
        found: String,
    },
    /// The vectors of the generation cannot be read.
    #[error("cannot read the vectors of the generation")]
    Rows(#[from] index::OpenError),
}

impl Published {
    /// What the collection of a generation says.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            trawl: VERSION,
            generation: manifest.generation.clone(),
            content_digest: manifest.content_digest.clone(),
            metric: manifest.metric.clone(),
            fingerprint: manifest.fingerprint.clone(),
        }
    }

    /// The name of a generation's collection among those that begin with `name`.
    #[must_use]
    pub fn collection(name: &str, generation: &GenerationId) -> String {
        let generation = generation
            .as_str()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        format!("{name}_{generation}")
    }

    /// Compares what the cluster has with a generation.
    ///
    /// # Errors
    /// [`PublishedError`] names the first thing that differs.
    pub fn check(
        cluster: &Cluster,
        collection: &str,
        manifest: &Manifest,
    ) -> Result<(), PublishedError> {
        let described = cluster.describe(collection)?;
        let described = described.ok_or_else(|| PublishedError::Missing {
            collection: collection.to_owned(),
        })?;
        let found: Self =
            serde_json::from_str(&described.text).map_err(|source| PublishedError::Unreadable {
                collection: collection.to_owned(),
                source,
            })?;
        let width = described.width.map_or(Value::Null, Value::from);
        if let Some((field, expected, found)) = found.difference(&Self::of(manifest)) {
            return Err(differs(collection, field, expected, found));
        }
        for (field, expected, found) in [
            ("width", Value::from(manifest.width), width),
            (
                "rows",
                Value::from(manifest.counts.passages),
                Value::from(cluster.n_rows(collection)?),
            ),
        ] {
            if expected != found {
                return Err(differs(
                    collection,
                    field.to_owned(),
                    expected.to_string(),
                    found.to_string(),
                ));
            }
        }
        Ok(())
    }

    /// The first thing in which it differs from what is expected: its name, the expected value, the one found.
    fn difference(&self, expected: &Self) -> Option<(String, String, String)> {
        let fields = [
            ("trawl", expected.trawl.to_string(), self.trawl.to_string()),
            (
                "generation",
                expected.generation.to_string(),
                self.generation.to_string(),
            ),
            ("metric", expected.metric.clone(), self.metric.clone()),
        ];
        let differs = |(_, expected, found): &(_, String, String)| expected != found;
        if let Some((field, expected, found)) = fields.into_iter().find(differs) {
            return Some((field.to_owned(), expected, found));
        }
        if self.fingerprint != expected.fingerprint {
            let read = |value: &Value| Fingerprint::deserialize(value).ok();
            let differing = read(&expected.fingerprint)
                .zip(read(&self.fingerprint))
                .and_then(|(expected, found)| expected.first_difference(&found));
            return Some(match differing {
                Some(differing) => (
                    format!("fingerprint.{}", differing.entry),
                    differing.left,
                    differing.right,
                ),
                None => (
                    "fingerprint".to_owned(),
                    expected.fingerprint.to_string(),
                    self.fingerprint.to_string(),
                ),
            });
        }
        (self.content_digest != expected.content_digest).then(|| {
            (
                "content_digest".to_owned(),
                expected.content_digest.clone(),
                self.content_digest.clone(),
            )
        })
    }
}

fn differs(collection: &str, field: String, expected: String, found: String) -> PublishedError {
    PublishedError::Differs {
        collection: collection.to_owned(),
        field,
        expected,
        found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_named() {
        let of = |weights: &str| {
            json!({
                "version": 1,
                "space": { "weights": weights, "pooling": "mean" },
                "passage": {},
                "query": {}
            })
        };
        let manifest = Manifest {
            generation: GenerationId::parse("20261120T195500Z-3f9a1c").unwrap(),
            content_digest: "abc".to_owned(),
            metric: "cosine".to_owned(),
            fingerprint: of("w"),
            ..Manifest::default()
        };
        let expected = Published::of(&manifest);
        assert_eq!(expected.difference(&expected), None);
        let read = serde_json::to_string(&expected).unwrap();
        assert_eq!(serde_json::from_str::<Published>(&read).unwrap(), expected);
        for (field, found) in [
            (
                "trawl",
                Published {
                    trawl: 2,
                    ..expected.clone()
                },
            ),
            (
                "metric",
                Published {
                    metric: "l2".to_owned(),
                    ..expected.clone()
                },
            ),
            (
                "fingerprint.space.weights",
                Published {
                    fingerprint: of("x"),
                    ..expected.clone()
                },
            ),
            (
                "fingerprint",
                Published {
                    fingerprint: json!("external"),
                    ..expected.clone()
                },
            ),
            (
                "content_digest",
                Published {
                    content_digest: "x".to_owned(),
                    ..expected.clone()
                },
            ),
        ] {
            assert_eq!(found.difference(&expected).unwrap().0, field);
        }
    }
}
