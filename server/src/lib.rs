//! The HTTP server: routes, error mapping, scheduler, limits, metrics, shutdown.
//!
//! ```text
//! connection (serve) → exchange (id, limits, errors, metrics) → route → retriever → model (tokenize) → scheduler → model call
//! ```
//!
//! Requests are handled by tokio's threads, texts become tokens on blocking threads, and each model is called by the one thread
//! of its scheduler. Only types of `openapi` cross the network, and only `problem` knows which error has which code.

mod auth;
mod body;
mod boost;
mod cache;
mod check;
mod config;
mod cors;
mod created;
mod exchange;
mod faults;
mod filter;
mod form;
mod group;
mod live;
mod metrics;
mod model;
mod problem;
mod query_log;
mod rate;
mod remote;
mod routes;
mod scheduler;
mod serve;
mod shadow;
mod state;
mod swap;
mod tls;
mod trace;
mod unread;

pub use auth::{ApiKey, AuthConfig, AuthError, Scope};
pub use body::nearest;
pub use boost::{read_boost, write_explanation};
pub use check::CheckError;
pub use config::{Limits, QueueConfig, ServerConfig};
pub use created::CreatedError;
pub use filter::{read_filter, write_facets};
pub use query_log::{
    LoggedEvent, LoggedFeedback, LoggedResult, LoggedSearch, QueryLogConfig, query_log_files,
};
pub use rate::Rate;
pub use remote::{FollowError, Remote};
pub use routes::openapi_document;
pub use serve::{BoundServer, Control, ServeError, Server};
pub use state::{AttachError, check_name, check_queue};
pub use tls::{Tls, TlsError};
