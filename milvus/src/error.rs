/// Why a call to Milvus has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MilvusError {
    /// A URL is not that of a Milvus cluster.
    #[error("`{text}` is no address of Milvus, which {what}")]
    Address {
        /// The URL.
        text: String,
        /// What it should be.
        what: &'static str,
    },
    /// A URL has a user or a password, and is shown where it is wrong.
    #[error("an address of Milvus has no user and no password: `TRAWL_MILVUS_TOKEN` has them")]
    Credentials,
    /// No proxy that was asked could answer.
    #[error("no proxy of Milvus answered {call}: {}", tried.join("; "))]
    Unavailable {
        /// The call.
        call: &'static str,
        /// Each proxy that was asked, and why it did not.
        tried: Vec<String>,
    },
    /// The caller's time was over before that of the proxies.
    #[error("deadline passed before Milvus answered {call}")]
    DeadlineExceeded {
        /// The call.
        call: &'static str,
    },
    /// The cluster does not do what it was asked.
    #[error("Milvus refused {call}: {reason} (code {code})")]
    Refused {
        /// The call.
        call: &'static str,
        /// Its reason.
        reason: String,
        /// Its code.
        code: i32,
    },
    /// An answer is not what the call asked for.
    #[error("answer of Milvus to {call}: {what}")]
    Answer {
        /// The call.
        call: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The call ended without an outcome.
    #[error("call to Milvus ended without an outcome")]
    Stopped,
    /// The threads of the connections cannot be started.
    #[error("cannot start the connections to Milvus")]
    Threads(#[source] std::io::Error),
}
