//! Losses against PyTorch, objectives against difference quotients and themselves.

mod loss;
