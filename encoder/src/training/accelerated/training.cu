// What lies between the matrix products of training, forward and backward: `network.rs` beside it says in which order these run.
