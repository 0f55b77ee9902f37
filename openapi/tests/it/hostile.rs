//! Drivers of the requests for any bytes: the property test next door and the targets in `fuzz/` run them.
#![allow(dead_code, reason = "a fuzz target runs one of them")]
#![allow(clippy::unwrap_used, reason = "a panic is what the drivers look for")]

use std::fmt::Debug;

use openapi::{
    AliasRequest, BatchSearchRequest, Boost, CohereRerankRequest, CollectionRequest, Condition,
    DocumentsDelete, EmbeddingRequest, FeedbackRequest, Filter, NewDocuments, RerankRequest,
    SearchRequest, ShadowRequest, TeiDecodeRequest, TeiEmbedAllRequest, TeiEmbedRequest,
    TeiPredictRequest, TeiRerankRequest, TeiSimilarityRequest, TeiTokenizeRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Whatever reads as a request of our own is the same when it was written and read again.
pub fn read_native(bytes: &[u8]) {
    round_trip::<SearchRequest>(bytes);
    round_trip::<BatchSearchRequest>(bytes);
    round_trip::<EmbeddingRequest>(bytes);
    round_trip::<RerankRequest>(bytes);
    round_trip::<NewDocuments>(bytes);
    round_trip::<DocumentsDelete>(bytes);
    round_trip::<FeedbackRequest>(bytes);
    round_trip::<CollectionRequest>(bytes);
    round_trip::<AliasRequest>(bytes);
    round_trip::<ShadowRequest>(bytes);
}

/// As [`read_native`], of filters and what stands in them.
pub fn read_filters(bytes: &[u8]) {
    round_trip::<Filter>(bytes);
    round_trip::<Condition>(bytes);
    round_trip::<Boost>(bytes);
}

/// Bodies of other servers' clients are read, or not.
pub fn read_foreign(bytes: &[u8]) {
    let _ = read::<CohereRerankRequest>(bytes);
    let _ = read::<TeiDecodeRequest>(bytes);
    let _ = read::<TeiEmbedAllRequest>(bytes);
    let _ = read::<TeiEmbedRequest>(bytes);
    let _ = read::<TeiPredictRequest>(bytes);
    let _ = read::<TeiRerankRequest>(bytes);
    let _ = read::<TeiSimilarityRequest>(bytes);
    let _ = read::<TeiTokenizeRequest>(bytes);
}

/// Reads an object as the server does; documents may also be an array.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = match bytes.trim_ascii_start().first() {
        Some(b'[') => T::deserialize(&mut deserializer).ok()?,
        _ => openapi::object(&mut deserializer).ok()?,
    };
    deserializer.end().ok()?;
    Some(value)
}

fn round_trip<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) {
    let Some(request) = read::<T>(bytes) else {
        return;
    };
    // A number beyond f32 is read as infinite, so that the server can name its place; JSON has no way to write that.
    if format!("{request:?}").contains("inf") {
        return;
    }
    let written = serde_json::to_vec(&request).unwrap();
    let again: T = serde_json::from_slice(&written).unwrap();
    assert_eq!(again, request);
}
