//! Generations, their manifest, aliases and locks: what an index on disk is.
