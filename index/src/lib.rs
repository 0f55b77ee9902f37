//! Vectors to neighbours: exact flat search over typed, memory-mapped rows.
