//! The binary as its users run it: arguments in, exit code and output out.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bench;
mod bench_search;
mod bench_serve;
mod bundles;
mod config;
mod damage;
mod disk;
mod embed;
mod eval;
mod filters;
mod gate;
mod generations;
mod parts;
mod plot;
mod pretraining;
mod pretraining_data;
mod quality;
mod ranks;
mod recipes;
mod serve;
mod session;
mod teacher;
mod train;
mod training_data;
mod write_log;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

/// Runs `trawl` with the arguments given and returns how it ended.
pub fn trawl<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(arguments)
        .output()
        .expect("the binary of this package starts")
}

/// Runs `trawl`, which must succeed, and returns what it printed.
pub fn succeed<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    let output = trawl(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("results are UTF-8")
}

/// Runs `trawl`, which must print one JSON document.
pub fn json<'a>(arguments: impl IntoIterator<Item = &'a str>) -> serde_json::Value {
    serde_json::from_str(&succeed(arguments)).expect("--json prints one JSON document")
}

/// Runs `trawl`, which must fail with the exit code, and returns what it wrote to standard error.
pub fn fail<'a>(exit: i32, arguments: impl IntoIterator<Item = &'a str>) -> String {
    let output = trawl(arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{errors}");
    errors
}

/// Sends Ctrl-C to a command whose stderr is piped, and waits until it says that it stops.
pub fn interrupt(child: &mut Child) {
    let pid = child.id().to_string();
    let signal = Command::new("kill").args(["-INT", &pid]).status();
    assert!(signal.expect("kill starts").success());
    let mut errors = BufReader::new(child.stderr.take().expect("piped")).lines();
    let is_said = |line: std::io::Result<String>| line.expect("UTF-8").contains("next safe point");
    assert!(errors.any(is_said));
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// The two-layer test encoder.
pub fn tiny_model() -> PathBuf {
    testkit::fixture("models/tiny-bert")
}

/// The sample corpus of the repository.
pub fn sample(file: &str) -> PathBuf {
    testkit::fixture("sample").join(file)
}
