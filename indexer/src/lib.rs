//! The write path: corpus to vectors to a published generation.
