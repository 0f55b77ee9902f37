//! What the tests of all crates share: fixtures, golden data, the default model.
