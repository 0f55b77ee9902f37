//! A client of trawl's HTTP API: one blocking method for each operation that a search application needs.
//!
//! Requests and answers are the types of [`openapi`], the same that the server reads and writes. What the server refuses is an
//! [`Error::Refused`] with its code, request id, and when to try again.
//!
//! ```no_run
//! use trawl_client::openapi::{RerankOptions, SearchRequest};
//! use trawl_client::{Client, ClientConfig, Error};
//!
//! let client = Client::new(ClientConfig {
//!     key: Some("…".into()),
//!     ..ClientConfig::new("http://127.0.0.1:8080")
//! });
//! let request = SearchRequest {
//!     query: Some("why is the sky blue".into()),
//!     top_k: 3,
//!     rerank: Some(RerankOptions { candidates: 50, ..RerankOptions::default() }),
//!     ..SearchRequest::default()
//! };
//! match client.search("docs", &request) {
//!     Ok(found) => {
//!         for hit in found.results {
//!             println!("{} {}", hit.score, hit.id);
//!         }
//!     }
//!     Err(Error::Refused(refusal)) if refusal.retry_after.is_some() => println!("later: {refusal}"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<(), Error>(())
//! ```

mod client;
mod error;
mod operation;

pub use client::{Client, ClientConfig};
pub use error::{Error, Refusal};
pub use openapi;
