//! Passage text, metadata and ids by ordinal, and the lexical index derived from them.
