//! The calls to a Milvus cluster that publishing and searching need: gRPC with messages declared here, field by field.
//!
//! A [`Cluster`] is the proxies of one [`Address`]. It knows which of them fail, and asks another when one does. What a collection is
//! made for is written into its description by whoever makes it; this crate knows nothing of generations, text or models.

mod address;
mod breaker;
mod cluster;
mod collection;
mod error;
mod message;
mod search;

pub use address::Address;
pub use cluster::{Cluster, Config};
pub use collection::{
    Description, Distance, Hnsw, Import, METADATA, NewCollection, ORDINAL, VECTOR,
};
pub use error::MilvusError;
pub use search::Search;
