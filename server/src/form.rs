//! Which form the errors of a route have: that which the clients it was made for read.

/// Routes of text-embeddings-inference.
pub(crate) const TEI_ROUTES: [&str; 10] = [
    "/",
    "/embed",
    "/embed_all",
    "/rerank",
    "/predict",
    "/similarity",
    "/tokenize",
    "/decode",
    "/info",
    "/health",
];

/// The form in which an error is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"id", "message"}`.
    Cohere,
    /// `{"error", "error_type"}`.
    Tei,
}

impl Form {
    /// The form of a path, whether it leads to a route or not.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/v1/embeddings") || path.starts_with("/v1/models") {
            Self::OpenAi
        } else if path.starts_with("/v2/") {
            Self::Cohere
        } else if TEI_ROUTES.contains(&path) {
            Self::Tei
        } else {
            Self::Problem
        }
    }

    pub(crate) const fn media_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            Self::OpenAi | Self::Cohere | Self::Tei => "application/json",
        }
    }
}

/// Whether a path leads to models and collections, so that it waits for them to be ready and counts as a request in flight.
pub(crate) fn is_work(path: &str) -> bool {
    path.starts_with("/v1/")
        || path.starts_with("/v2/")
        || (TEI_ROUTES.contains(&path) && path != "/health")
}
