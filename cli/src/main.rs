//! The one binary of trawl: arguments to configs, progress, error report.

fn main() {}
