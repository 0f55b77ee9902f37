//! Columns as sentence-transformers reads them.

use std::path::PathBuf;

use trainer::data::{Content, DataSource, Dataset, Example, LineFormat, LineSource};

fn source(path: PathBuf, skip_bad_lines: bool) -> DataSource {
    DataSource::Lines(LineSource {
        paths: vec![path],
        format: LineFormat::SentenceTransformers,
        skip_bad_lines,
        ..LineSource::default()
    })
}

fn read(name: &str) -> Dataset {
    let path = testkit::fixture("training").join(name);
    source(path, false).read(&mut |_, _| {}).unwrap()
}

/// The query, then the passages, the positive first.
fn texts(example: &Example) -> Vec<String> {
    let passages = example.positives.iter().chain(&example.negatives);
    let contents = passages.map(|one| &one.content);
    let text = |content: &Content| match content {
        Content::Text(text) => text.clone(),
        other => panic!("{other:?} is no text"),
    };
    std::iter::once(&example.query)
        .chain(contents)
        .map(text)
        .collect()
}

fn scores(example: &Example) -> Vec<Option<f32>> {
    let passages = example.positives.iter().chain(&example.negatives);
    passages.map(|one| one.score).collect()
}

const RAINBOW: [&str; 4] = [
    "what makes a rainbow",
    "Rainbows Drops bend sunlight by its colour.",
    "Tides The moon pulls the sea twice a day.",
    "Cables carry a hanging road.",
];

#[test]
fn columns_are_told_by_their_order() {
    let lines = read("sentence-transformers.jsonl");
    assert_eq!(lines.len(), 3);
    assert_eq!(texts(&lines.example(1)), RAINBOW);
    assert_eq!(
        scores(&lines.example(1)),
        [Some(5.0), Some(-1.5), Some(-6.0)]
    );
    assert_eq!(lines.example(1).positives.len(), 1);

    let pairs = read("sentence-transformers.csv");
    assert_eq!(pairs.len(), 3);
    assert_eq!(texts(&pairs.example(1)), RAINBOW[..2]);
    assert_eq!(scores(&pairs.example(1)), [None]);

    let margins = read("sentence-transformers.tsv");
    assert_eq!(texts(&margins.example(1)), RAINBOW[..3]);
    assert_eq!(scores(&margins.example(1)), [Some(0.0), Some(-6.5)]);
}

/// Reads a file of these bytes; what is wrong comes without the folder's name.
fn check(name: &str, bytes: &[u8]) -> Result<Vec<Vec<String>>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let dataset = source(path, false).read(&mut |_, _| {});
    let dataset = dataset.map_err(|error| {
        assert!(error.is_bad_input(), "{error}");
        error
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    })?;
    Ok(dataset.examples().map(|example| texts(&example)).collect())
}

#[test]
fn tables_are_quoted_or_not_as_their_names_say() {
    let rows = check("a.csv", b"q,p\n\"one, two\",\"a \"\"b\"\"\nc\"\n").unwrap();
    assert_eq!(rows, [["one, two", "a \"b\"\nc"]]);
    let rows = check("a.TSV", b"q\tp\n\"one\"\ta, b\n").unwrap();
    assert_eq!(rows, [["\"one\"", "a, b"]]);
    let rows = check("a", b"{\"sentence2\": \"b\", \"sentence1\": \"a\"}\n").unwrap();
    assert_eq!(
        rows,
        [["b", "a"]],
        "the order of the file, not of the alphabet"
    );
}

#[test]
fn bad_rows_are_named() {
    let bad = |name: &str, text: &str| check(name, text.as_bytes()).unwrap_err();
    assert_eq!(
        bad("a.csv", "q,p\nx,y\nz\n"),
        "a.csv:3: 1 cells in a table of 2 columns"
    );
    assert_eq!(
        bad("a.csv", "q\nx\n"),
        "a.csv:2: a row has at least an anchor and a positive"
    );
    assert_eq!(bad("a.csv", "q,p\n"), "`a.csv` has no example");
    assert_eq!(bad("a.csv", ""), "`a.csv` has no example");
    assert_eq!(
        bad("a.tsv", "q\tp\tlabel\nx\ty\t0\n"),
        "a.tsv:2: a pair with the score 0 has no positive"
    );
    assert_eq!(
        bad("a.tsv", "q\tp\tlabel\nx\ty\tgood\n"),
        "a.tsv:2: column `label` is no number of 32 bits, nor a list of them"
    );
    assert_eq!(
        bad("a.csv", "q,p,n,scores\nx,y,z,\"[1, -1e39]\"\n"),
        "a.csv:2: column `scores` is no number of 32 bits, nor a list of them"
    );
    assert_eq!(
        bad("a.csv", "q,p,scores\nx,y,\"[1, 2, 3]\"\n"),
        "a.csv:2: 3 scores for 1 passages"
    );
    assert_eq!(
        bad("a.csv", "q,p\nx, \n"),
        "a.csv:2: no positive that is not blank"
    );
    assert_eq!(
        bad("a.jsonl", "{\"q\": \"x\", \"p\": 3}\n"),
        "a.jsonl:1: column `p` is no text"
    );
    let error = bad("a.jsonl", "[1]\n");
    assert!(error.contains("an object of columns"), "{error}");
    assert_eq!(
        check("a.csv", b"q,p\nx,\xff\n").unwrap_err(),
        "a.csv:2: not UTF-8 at byte 1"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tsv");
    std::fs::write(&path, "q\tp\tlabel\nx\ty\t0\nv\tw\t1\n").unwrap();
    let dataset = source(path, true).read(&mut |_, _| {}).unwrap();
    assert_eq!(
        (dataset.len(), dataset.report().left_out["bad lines"]),
        (1, 1)
    );
}
