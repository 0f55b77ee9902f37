//! Losses against PyTorch, objectives against difference quotients and themselves; data, groups and mining; whole runs.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod blocks;
mod columns;
mod data;
mod dev;
mod export;
mod loss;
mod mining;
mod objective;
mod pretraining;
mod ranks;
mod run;
mod sampling;
mod stream;
mod token_cache;
