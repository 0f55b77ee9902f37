//! `trawl embed`: vectors of lines.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::{interrupt, text, tiny_model};

#[test]
fn embed_prints_one_vector_a_line_and_writes_numpy() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let npy = folder.path().join("vectors.npy");
    let run = |more: &[&str]| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trawl"))
            .args(["embed", "--model", text(&tiny_model())])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(b"one\n\nthree\n")
            .expect("written");
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let printed = run(&[]);
    let rows: Vec<Vec<f32>> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("an array"))
        .collect();
    assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 32]);
    run(&["--output", text(&npy)]);
    let bytes = fs::read(npy).expect("written");
    assert_eq!(bytes.len(), 128 + 3 * 32 * 4);
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (3, 32)"));
    let values: Vec<f32> = bytes[128..]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    assert_eq!(values, rows.concat());
}

#[test]
fn embed_that_is_interrupted_leaves_no_part_of_its_array() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let n_files = || fs::read_dir(folder.path()).expect("a folder").count();
    let npy = folder.path().join("vectors.npy");
    let mut child = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["--quiet", "embed", "--model", text(&tiny_model())])
        .args(["--output", text(&npy)])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"one\n").expect("written");
    while n_files() == 0 {
        assert!(child.try_wait().expect("a child").is_none());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    interrupt(&mut child);
    drop(input);
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert_eq!(n_files(), 0);
}

#[test]
fn a_line_that_is_no_text_is_named_and_bad_input() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let lines = folder.path().join("lines");
    fs::write(&lines, b"one\ntwo \xff\nthree\n").expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["embed", "--model", text(&tiny_model())])
        .stdin(Stdio::from(fs::File::open(&lines).expect("opened")))
        .output()
        .expect("starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(65), "{errors}");
    assert!(errors.contains("line 2: not UTF-8"), "{errors}");
}
