use collection::Manifest;
use encoder::{Arithmetic, BiEncoder, Fingerprint, TextSpec};
use serde_json::Value;

/// An encoder that does not belong to a generation, or a generation that does not say which encoder does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// The encoder would make other vectors than those in the index.
    #[error("encoder and index differ in `{entry}`: encoder has {encoder}, index has {index}")]
    Mismatch {
        /// The first entry that differs, such as `space.weights`.
        entry: String,
        /// What the encoder has there.
        encoder: String,
        /// What the index was built with.
        index: String,
    },
    /// The manifest's fingerprint cannot be read.
    #[error("fingerprint of the index cannot be read")]
    Unreadable(#[source] serde_json::Error),
}

/// Vectors of 8-bit arithmetic beside others: the model is the same, but 8 bits are lossy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the index was built with {index} and queries are encoded with {encoder}: 8-bit arithmetic is lossy, and scores shift"
)]
pub struct ArithmeticMismatch {
    /// Arithmetic of a shard.
    pub index: String,
    /// Arithmetic of the queries.
    pub encoder: String,
}

/// Compares the arithmetic of queries with that of every shard. All but `int8` go together.
///
/// # Errors
/// [`ArithmeticMismatch`] names the first shard's arithmetic that does not.
pub fn check_arithmetic(
    manifest: &Manifest,
    queries: Arithmetic,
) -> Result<(), ArithmeticMismatch> {
    let is_lossy = |name: &str| name == Arithmetic::Int8.as_str();
    let differs = |name: &&str| is_lossy(name) != (queries == Arithmetic::Int8);
    let mut shards = manifest
        .shards
        .iter()
        .map(|shard| shard.arithmetic.as_str());
    match shards.find(differs) {
        None => Ok(()),
        Some(index) => Err(ArithmeticMismatch {
            index: index.to_owned(),
            encoder: queries.as_str().to_owned(),
        }),
    }
}

/// Compares an encoder with the one a generation was built with, under the generation's templates.
///
/// # Errors
/// [`FingerprintError::Mismatch`] names the first entry that differs.
pub fn check_encoder(manifest: &Manifest, encoder: &BiEncoder) -> Result<(), FingerprintError> {
    let of_index: Fingerprint = serde_json::from_value(manifest.fingerprint.clone())
        .map_err(FingerprintError::Unreadable)?;
    let of_encoder = encoder.fingerprint(&TextSpec {
        passage_template: manifest.templates.passage.clone(),
        query_template: manifest.templates.query.clone(),
        passage_pair: is_pair(&of_index.passage),
        query_pair: is_pair(&of_index.query),
        passage_stride: stride(&of_index.passage),
    });
    match of_encoder.first_difference(&of_index) {
        None => Ok(()),
        Some(difference) => Err(FingerprintError::Mismatch {
            entry: difference.entry,
            encoder: difference.left,
            index: difference.right,
        }),
    }
}

pub(crate) fn stride(side: &Value) -> Option<usize> {
    let stride = side.pointer("/split/stride")?.as_u64()?;
    usize::try_from(stride).ok()
}

fn is_pair(side: &Value) -> bool {
    side.get("pair").and_then(Value::as_bool).unwrap_or(false)
}
