//! Headers that requests may have, for the document; `exchange` and the routes read them.

#![expect(dead_code, reason = "the document is made of names and types alone")]

use utoipa::{IntoParams, ToSchema};

/// Of requests that models compute for.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Waiting {
    /// Milliseconds after which the answer is of no more use; the shorter time where the body has one, too.
    #[param(rename = "x-timeout-ms", required = false, minimum = 1)]
    timeout_ms: u64,
    /// Who waits. Default: `bulk` for documents, else `interactive`.
    #[param(rename = "x-priority", required = false, inline)]
    priority: Priority,
    /// Given back, and kept in the log.
    #[param(rename = "x-request-id", required = false)]
    request_id: String,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
enum Priority {
    /// A person.
    Interactive,
    /// Nobody in particular.
    Bulk,
}

/// Of changes that may be sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Repeated {
    /// A request that is repeated with its key is written once.
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 255
    )]
    key: String,
}

/// Of changes of an alias.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub(super) struct Expected {
    /// The generation, in quotes, that the alias has to name before; `*` is any.
    #[param(rename = "If-Match", required = false)]
    generation: String,
}
