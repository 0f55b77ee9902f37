use std::time::Duration;

/// Why ranks cannot go on together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectiveError {
    /// Ranks did not come.
    #[error("{} not joined within {} s", name(ranks), timeout.as_secs_f64())]
    Absent {
        /// Which.
        ranks: Vec<usize>,
        /// How long they were waited for.
        timeout: Duration,
    },
    /// A rank has ended.
    #[error("rank {rank} is gone: it closed its connection")]
    Gone {
        /// Which.
        rank: usize,
    },
    /// A rank is stopped, or its machine cannot be reached.
    #[error("rank {rank} is missing: nothing was heard of it for {} s", timeout.as_secs_f64())]
    Silent {
        /// Which.
        rank: usize,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// A rank lives and does not do what the others wait for.
    #[error("rank {rank} is stuck: it lives, and others have waited for it for {} s", patience.as_secs_f64())]
    Stuck {
        /// Which.
        rank: usize,
        /// How long it was waited for.
        patience: Duration,
    },
    /// Rank 0 ended the run of all.
    #[error("rank 0 ended the run: {reason}")]
    Ended {
        /// Why, in its words.
        reason: String,
    },
    /// A rank does not belong to this run.
    #[error("rank {rank} has another {what} than rank 0")]
    Different {
        /// Which.
        rank: usize,
        /// In what it differs.
        what: Difference,
    },
    /// There is no such rank.
    #[error("rank {rank} is none of {world_size} ranks")]
    NoRank {
        /// What it says it is.
        rank: usize,
        /// How many there are.
        world_size: usize,
    },
    /// Two processes say that they are the same rank.
    #[error("rank {rank} is there twice")]
    Repeated {
        /// Which.
        rank: usize,
    },
    /// A rank does something else than the others.
    #[error("rank {rank} is out of step: expected {expected}, found {found}")]
    OutOfStep {
        /// Which.
        rank: usize,
        /// What this rank does.
        expected: String,
        /// What came.
        found: String,
    },
    /// An address is none, or cannot be used.
    #[error("cannot use the address `{address}` of rank 0")]
    Address {
        /// Host and port.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// MPI cannot be used.
    #[error(
        "MPI cannot be used: it was started before, or has no calls from one thread of several"
    )]
    NoMpi,
    /// More values than MPI takes at once.
    #[error("{n_values} values are too many for one message of MPI, which has {max} at most")]
    TooLong {
        /// How many.
        n_values: usize,
        /// How many there may be.
        max: usize,
    },
    /// A connection failed.
    #[error("the connection with rank {rank} failed")]
    Connection {
        /// The rank at its other end.
        rank: usize,
        /// What the system says.
        source: std::io::Error,
    },
}

/// In what a rank differs from rank 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The version of what they speak.
    Protocol,
    /// How many ranks it thinks there are.
    WorldSize,
    /// Configuration, version of the program, or processor.
    Fingerprint,
    /// The checkpoint that it goes on from.
    Step,
    /// What it is trained on.
    Data,
    /// The values of the parameters.
    Weights,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Protocol => "version of the protocol",
            Self::WorldSize => "number of ranks",
            Self::Fingerprint => "configuration, program or processor",
            Self::Step => "checkpoint",
            Self::Data => "training data",
            Self::Weights => "weights",
        })
    }
}

/// "rank 1 has", "ranks 1, 2 have".
fn name(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(usize::to_string).collect();
    match ranks {
        [rank] => format!("rank {rank} has"),
        _ => format!("ranks {} have", numbers.join(", ")),
    }
}

impl From<CollectiveError> for encoder::training::TrainingError {
    fn from(error: CollectiveError) -> Self {
        Self::Peers(Box::new(error))
    }
}
