//! Passages, queries, judgments and runs: the types and their file formats.
