//! How a build tells how far it is, and is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::BuildError;

/// A part of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// The first pass: validate and count.
    Survey,
    /// The second pass: tokenise, encode, write chunks.
    Encode,
    /// Chunks become shards and store.
    Assemble,
    /// A graph is built over the shards.
    Graph,
    /// The lexical index merges its segments.
    Lexical,
    /// The content digest is taken of what was written.
    Digest,
    /// Chunks, or the files of a generation, are sent to object storage.
    Upload,
    /// Chunks come from object storage.
    Download,
}

impl Phase {
    /// The phase as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Survey => "survey",
            Self::Encode => "encode",
            Self::Assemble => "assemble",
            Self::Graph => "graph",
            Self::Lexical => "lexical",
            Self::Digest => "digest",
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    /// What is counted in this phase.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Survey | Self::Upload => "bytes",
            Self::Download => "chunks",
            _ => "passages",
        }
    }
}

/// Is told how far a build is.
pub trait Progress: Sync {
    /// `done` of `total` units of the phase are finished.
    fn update(&self, phase: Phase, done: u64, total: u64);
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn update(&self, _: Phase, _: u64, _: u64) {}
}

/// What a running build tells and obeys.
#[derive(Clone, Copy)]
pub(crate) struct Watch<'a> {
    pub progress: &'a dyn Progress,
    pub cancelled: &'a AtomicBool,
}

impl Watch<'_> {
    /// Tells how far the phase is; an error when the build is to stop here.
    pub fn update(&self, phase: Phase, done: u64, total: u64) -> Result<(), BuildError> {
        self.progress.update(phase, done, total);
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(BuildError::Interrupted { phase, done, total });
        }
        Ok(())
    }
}
