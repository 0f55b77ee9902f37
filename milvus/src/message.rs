//! The messages of Milvus' gRPC interface, as far as they are used. Fields that are not here are skipped by whoever reads them.

use prost::Message;

/// What an answer says of its call.
pub(crate) trait Answer: Message + Default + 'static {
    fn status(&self) -> Option<&Status>;
}

macro_rules! answers {
    ($($name:ty),*) => {
        $(impl Answer for $name {
            fn status(&self) -> Option<&Status> {
                self.status.as_ref()
            }
        })*
    };
}

answers!(
    DescribeCollectionResponse,
    ShowCollectionsResponse,
    GetCollectionStatisticsResponse,
    ImportResponse,
    GetImportStateResponse,
    DescribeIndexResponse,
    GetLoadingProgressResponse,
    SearchResults
);

impl Answer for Status {
    fn status(&self) -> Option<&Status> {
        Some(self)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    /// Zero when the call succeeded; of versions before 2.3.
    #[prost(int32, tag = "1")]
    pub error_code: i32,
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Zero when the call succeeded.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValuePair {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

pub(crate) fn pairs<const N: usize>(pairs: [(&str, String); N]) -> Vec<KeyValuePair> {
    let pairs = pairs.into_iter();
    pairs
        .map(|(key, value)| KeyValuePair {
            key: key.to_owned(),
            value,
        })
        .collect()
}

/// The value of a key.
pub(crate) fn value<'a>(pairs: &'a [KeyValuePair], key: &str) -> Option<&'a str> {
    let pair = pairs.iter().find(|pair| pair.key == key)?;
    Some(&pair.value)
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CollectionSchema {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub description: String,
    #[prost(message, repeated, tag = "4")]
    pub fields: Vec<FieldSchema>,
}

pub(crate) mod data_type {
    pub const INT64: i32 = 5;
    pub const JSON: i32 = 23;
    pub const FLOAT_VECTOR: i32 = 101;
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldSchema {
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(bool, tag = "3")]
    pub is_primary_key: bool,
    #[prost(int32, tag = "5")]
    pub data_type: i32,
    #[prost(message, repeated, tag = "6")]
    pub type_params: Vec<KeyValuePair>,
}

/// Asks for, or drops, what has a name.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NamedRequest {
    #[prost(string, tag = "3")]
    pub collection_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DescribeCollectionResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub schema: Option<CollectionSchema>,
    #[prost(string, repeated, tag = "9")]
    pub aliases: Vec<String>,
    #[prost(string, tag = "12")]
    pub collection_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ShowCollectionsRequest {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ShowCollectionsResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(string, repeated, tag = "2")]
    pub collection_names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetCollectionStatisticsResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub stats: Vec<KeyValuePair>,
}

pub(crate) const EVENTUALLY: i32 = 3;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateCollectionRequest {
    #[prost(string, tag = "3")]
    pub collection_name: String,
    /// A [`CollectionSchema`].
    #[prost(bytes = "vec", tag = "4")]
    pub schema: Vec<u8>,
    #[prost(int32, tag = "5")]
    pub shards_num: i32,
    #[prost(int32, tag = "6")]
    pub consistency_level: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImportRequest {
    #[prost(string, tag = "1")]
    pub collection_name: String,
    /// One file a field, named as the field.
    #[prost(string, repeated, tag = "5")]
    pub files: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImportResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(int64, repeated, tag = "2")]
    pub tasks: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetImportStateRequest {
    #[prost(int64, tag = "1")]
    pub task: i64,
}

pub(crate) mod import_state {
    pub const FAILED: i32 = 1;
    pub const COMPLETED: i32 = 6;
    pub const FAILED_AND_CLEANED: i32 = 7;
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetImportStateResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(int32, tag = "2")]
    pub state: i32,
    #[prost(int64, tag = "3")]
    pub row_count: i64,
    #[prost(message, repeated, tag = "5")]
    pub infos: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CreateIndexRequest {
    #[prost(string, tag = "3")]
    pub collection_name: String,
    #[prost(string, tag = "4")]
    pub field_name: String,
    #[prost(message, repeated, tag = "5")]
    pub extra_params: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DescribeIndexResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub index_descriptions: Vec<IndexDescription>,
}

pub(crate) mod index_state {
    pub const FAILED: i32 = 4;
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct IndexDescription {
    #[prost(message, repeated, tag = "3")]
    pub params: Vec<KeyValuePair>,
    #[prost(string, tag = "4")]
    pub field_name: String,
    #[prost(int64, tag = "5")]
    pub indexed_rows: i64,
    #[prost(int32, tag = "7")]
    pub state: i32,
    #[prost(string, tag = "8")]
    pub fail_reason: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LoadCollectionRequest {
    #[prost(string, tag = "3")]
    pub collection_name: String,
    #[prost(int32, tag = "4")]
    pub replica_number: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetLoadingProgressRequest {
    #[prost(string, tag = "2")]
    pub collection_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GetLoadingProgressResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// Percent.
    #[prost(int64, tag = "2")]
    pub progress: i64,
}

/// Makes an alias, or makes it name another collection.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AliasRequest {
    #[prost(string, tag = "3")]
    pub collection_name: String,
    #[prost(string, tag = "4")]
    pub alias: String,
}

pub(crate) const BOOLEAN_EXPRESSION: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SearchRequest {
    #[prost(string, tag = "3")]
    pub collection_name: String,
    #[prost(string, tag = "5")]
    pub expression: String,
    /// A [`PlaceholderGroup`].
    #[prost(bytes = "vec", tag = "6")]
    pub placeholder_group: Vec<u8>,
    #[prost(int32, tag = "7")]
    pub expression_type: i32,
    #[prost(message, repeated, tag = "9")]
    pub search_params: Vec<KeyValuePair>,
    /// 1 asks for whatever is there.
    #[prost(uint64, tag = "11")]
    pub guarantee_timestamp: u64,
    #[prost(int64, tag = "12")]
    pub n_queries: i64,
    #[prost(int32, tag = "14")]
    pub consistency_level: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PlaceholderGroup {
    #[prost(message, repeated, tag = "1")]
    pub placeholders: Vec<PlaceholderValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PlaceholderValue {
    #[prost(string, tag = "1")]
    pub tag: String,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Little-endian values.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub values: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SearchResults {
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub results: Option<SearchResultData>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SearchResultData {
    #[prost(int64, tag = "1")]
    pub n_queries: i64,
    #[prost(message, optional, tag = "5")]
    pub ids: Option<Ids>,
    /// Passages found for each query.
    #[prost(int64, repeated, tag = "6")]
    pub counts: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Ids {
    #[prost(message, optional, tag = "1")]
    pub integers: Option<Integers>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Integers {
    #[prost(int64, repeated, tag = "1")]
    pub data: Vec<i64>,
}
