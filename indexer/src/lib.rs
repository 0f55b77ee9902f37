//! The write path: corpus to vectors to a published generation.
//!
//! [`build`] reads the corpus twice. The first pass validates and counts it and takes its digest; with it the *spec* is complete,
//! everything that decides the content. The second pass cuts the corpus into *chunks* of a fixed number of passages and turns each
//! into one durable file in the building folder: vectors, records, counts. When every chunk is there, shards, store and lexical
//! index are assembled from them and the generation is promoted. Interrupted or killed at any moment, a build loses at most the
//! chunk it was working on; resumed, it checks the finished chunks and goes on. Batches never cross a chunk, so the vectors do
//! not depend on how often a build was interrupted.
//!
//! With [`BuildConfig::stride`] the records of the corpus are documents, which the encoder's tokenizer splits into passages; both
//! passes split them, the first to count. Everything after that knows passages only, and the store knows their documents.
//!
//! A generation keeps, in the file `inputs`, a digest of the text that each row was made from. The next build copies the rows of
//! texts that it meets again from the generation before, when that has the same fingerprint, arithmetic and type of rows;
//! it encodes the rest. Chunks then hold ordinals in place of rows. The engine is batch-invariant, so the content digest is
//! that of a full build.
//!
//! [`encode_part`] makes the chunks of one part of a build, beside other processes that make others; [`commit`] puts them together.
//! [`encode_part_remotely`] and [`commit_remotely`] do the same in object storage.
//!
//! [`gate`] compares a generation with the one it is to replace; [`check_sample`] compares rows with the texts they are of.
//!
//! [`forecast()`] tells what a build would take: it reads the corpus as the first pass does, builds a sample of it in a temporary
//! folder, and carries on what that took.
//!
//! # Memory
//!
//! Independent of the number of passages, but for the 28 bytes a record that find duplicate ids, the 16 bytes a passage of the
//! store's id lookup, the passages of one document, 20 bytes a row when vectors are brought, and 24 bytes a passage of the generation whose
//! vectors are taken over. Beside them: three chunks of texts with their tokens (one being
//! read, one waiting, one being encoded), one chunk of vectors, the encoder's workspace, and about 150 MiB at most for the store.
//! A million generated passages of 40 words, with the encoder of width 32 that the tests use, took 122 MiB of anonymous memory.
//!
//! # Disk
//!
//! While shards are assembled, vectors and records exist twice: as chunks and as the generation.

mod assemble;
mod base;
mod brought;
mod build;
mod chunk;
mod config;
mod create;
mod diff;
mod digest;
mod encode;
mod error;
mod first_pass;
mod forecast;
mod gate;
mod inputs;
mod live;
mod part_status;
mod parts;
mod passages;
mod progress;
mod remote_parts;
mod sample;
mod source;
mod splitter;
mod to_milvus;

pub use base::{NotReused, Reuse};
pub use brought::{BroughtVectors, VectorsError};
pub use build::{BuildReport, build, build_from_vectors};
pub use config::{BuildConfig, DEFAULT_CHUNK_PASSAGES, LogPosition};
pub use create::{VectorSource, create};
pub use diff::{Changes, DiffError, GenerationDiff, diff};
pub use error::BuildError;
pub use forecast::{
    Basis, DiskPart, Figure, Forecast, ForecastConfig, PhaseTime, SampleSize, forecast,
    forecast_from_vectors,
};
pub use gate::{
    Change, Entry, FingerprintRule, GateConfig, GateError, GateReport, Limit, Measured,
    Requirements, ShownHit, WorstQuestion, gate,
};
pub use live::{
    Batch, Committed, Committer, CompactConfig, CompactReport, DocumentChange, Draft, LiveError,
    Recipe, Remembered, Upsert, apply, compact, replay,
};
pub use part_status::{BuildStatus, build_status_here};
pub use parts::{CommitConfig, PartNumber, PartReport, commit, encode_part};
pub use progress::{NoProgress, Phase, Progress};
pub use remote_parts::{Remote, build_status, commit_remotely, encode_part_remotely};
pub use sample::{DEFAULT_SAMPLE, SampleError, SampleReport, check_sample};
pub use to_milvus::{
    MilvusConfig, MilvusPublishError, MilvusReport, MilvusWatch, publish_to_milvus,
    switch_in_milvus,
};
