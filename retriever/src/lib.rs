//! The read path: query to vector to shards to passages, fused and reranked.
