//! Text to vectors and scores: model directories, tokenisation, batching, layers, pooling.
