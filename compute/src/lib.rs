//! What the encoder and the index need of the machine: CPU features, threads, memory.
