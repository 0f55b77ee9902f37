//! Readers and writers on good, bad and hostile files.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use corpus::{
    CorpusConfig, CorpusError, CorpusFormat, CorpusReader, Dataset, FieldKind, MAX_LINE_BYTES,
    Passage, Qrels, QrelsFormat, Reason, Run, RunFormat, Schema, Scored, Survey, Template,
    TemplateError, read_queries,
};
use serde_json::{Map, Value, json};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(path: &Path) -> CorpusConfig {
    CorpusConfig {
        paths: vec![path.to_owned()],
        ..CorpusConfig::default()
    }
}

fn read_all(config: &CorpusConfig) -> Result<Vec<Passage>, CorpusError> {
    CorpusReader::open(config)?.collect()
}

fn survey(config: &CorpusConfig) -> Result<Survey, CorpusError> {
    corpus::survey(config, &mut |_| ControlFlow::Continue(()))
}

fn passage(id: &str, title: &str, text: &str, metadata: Value) -> Passage {
    let Value::Object(metadata) = metadata else {
        panic!("metadata is an object")
    };
    Passage {
        id: id.into(),
        title: title.into(),
        text: text.into(),
        metadata,
    }
}

/// Reads one file and returns its passages, or the message of the error without the folder.
#[track_caller]
fn check_corpus(name: &str, bytes: impl AsRef<[u8]>, expected: Result<&[Passage], &str>) {
    let folder = Folder::new();
    let path = folder.write(name, bytes);
    check_result(&folder, read_all(&config(&path)).as_deref(), expected);
}

#[track_caller]
fn check_result<T: PartialEq + std::fmt::Debug>(
    folder: &Folder,
    found: Result<T, &CorpusError>,
    expected: Result<T, &str>,
) {
    let prefix = format!("{}/", folder.0.path().display());
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected),
        (Err(error), Err(expected)) => {
            assert_eq!(error.to_string().replace(&prefix, ""), expected);
            assert!(error.is_bad_input(), "{error:?}");
        }
        (found, expected) => panic!("found {found:?}, expected {expected:?}"),
    }
}

#[test]
fn json_lines_keep_every_further_field() {
    let text = concat!(
        "\u{feff}{\"_id\": \"a\", \"title\": \"T\", \"text\": \"x\", \"year\": 2026, \"metadata\": {\"url\": \"u\", \"n\": null}}\r\n",
        "\n",
        "{\"id\": 7, \"text\": \"y\", \"docid\": \"kept\"}\n",
        "{\"docid\": 18446744073709551615, \"title\": \"only a title\", \"text\": null, \"metadata\": null}\n",
        "{\"_id\": null, \"text_id\": \"-3\", \"text\": \" z \", \"metadata\": \"a field like any other\"}\n",
        "{\"id\": \"8\", \"contents\": \"as SimLM writes it\", \"title\": \"T\"}\n",
        "{\"id\": \"9\", \"contents\": [\"kept\"], \"text\": \"x\"}\n",
        "{\"id\": \"10\", \"contents\": \"y\", \"text\": null}",
    );
    let expected = [
        passage("a", "T", "x", json!({"year": 2026, "url": "u", "n": null})),
        passage("7", "", "y", json!({"docid": "kept"})),
        passage("18446744073709551615", "only a title", "", json!({})),
        passage(
            "-3",
            "",
            " z ",
            json!({"metadata": "a field like any other"}),
        ),
        passage("8", "T", "as SimLM writes it", json!({})),
        passage("9", "", "x", json!({"contents": ["kept"]})),
        passage("10", "", "y", json!({})),
    ];
    check_corpus("c.jsonl", text, Ok(&expected));
    check_corpus("c.jsonl", gzip(text.as_bytes()), Ok(&expected));
    check_corpus("no extension", gzip(text.as_bytes()), Ok(&expected));
    check_corpus(
        "c.jsonl.gz",
        zstd::encode_all(text.as_bytes(), 1).unwrap(),
        Ok(&expected),
    );
    check_corpus("c.jsonl.gz", text, Ok(&expected));
}

#[test]
fn bad_lines_name_file_line_and_reason() {
    for (line, reason) in [
        (
            r#"{"text": "x"}"#,
            "no id (`_id`, `id`, `docid` or `text_id`)",
        ),
        (r#"{"_id": "", "text": "x"}"#, "empty id"),
        (
            r#"{"_id": 1.5, "text": "x"}"#,
            "`_id` is neither text nor an integer",
        ),
        (
            r#"{"_id": ["b"], "text": "x"}"#,
            "`_id` is neither text nor an integer",
        ),
        (r#"{"_id": "b", "text": 5}"#, "`text` is not text"),
        (
            r#"{"_id": "b", "title": ["t"], "text": "x"}"#,
            "`title` is not text",
        ),
        (
            r#"{"_id": "b", "title": " ", "text": "\t\n"}"#,
            "title and text are both blank",
        ),
        (r#"{"_id": "b"}"#, "title and text are both blank"),
        (r#"{"_id": "a", "text": "x"}"#, "id `a` repeats bad.jsonl:1"),
        (
            r#"{"_id": "b", "text": "x", "url": 1, "metadata": {"url": 2}}"#,
            "`metadata` has a field `url`, and so has the record",
        ),
        (
            r#"{"_id": "b", "text": "x", "metadata": {"title": 2}}"#,
            "`metadata` has a field `title`, and so has the record",
        ),
        (
            r#"{"_id": "b", "text": "x", "text": "y"}"#,
            "not a JSON object: key `text` repeats at byte 38",
        ),
        (
            r#"["_id"]"#,
            "not a JSON object: invalid type: sequence, expected an object at byte 0",
        ),
        (
            r#"{"_id": "b", "text": "x"} trailing"#,
            "not a JSON object: trailing characters at byte 27",
        ),
        (
            r#"{"_id": "b", "text": "\ud800"}"#,
            "not a JSON object: unexpected end of hex escape at byte 29",
        ),
    ] {
        let text = format!("{{\"_id\": \"a\", \"text\": \"x\"}}\n\n{line}\n");
        check_corpus("bad.jsonl", text, Err(&format!("bad.jsonl:3: {reason}")));
    }
    check_corpus(
        "bad.jsonl",
        b"{\"_id\": \"a\", \"text\": \"\xff\"}\n",
        Err("bad.jsonl:1: not UTF-8 at byte 23"),
    );
    let long_id = format!("{{\"_id\": \"{}\", \"text\": \"x\"}}", "a".repeat(1025));
    check_corpus(
        "bad.jsonl",
        long_id,
        Err("bad.jsonl:1: id of 1025 bytes, more than 1024"),
    );
    let nested = format!(
        "{{\"_id\": \"a\", \"text\": \"x\", \"deep\": {}1{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    check_corpus(
        "bad.jsonl",
        nested,
        Err("bad.jsonl:1: not a JSON object: recursion limit exceeded at byte 161"),
    );
}

#[test]
fn files_without_a_valid_line_are_refused() {
    for bytes in ["", "\n \n", "\u{feff}"] {
        check_corpus("empty.jsonl", bytes, Err("`empty.jsonl` has no valid line"));
        check_corpus("empty", bytes, Err("`empty` has no valid line"));
        check_corpus("empty.csv", bytes, Err("`empty.csv` has no valid line"));
    }
    let folder = Folder::new();
    let good = folder.write("good.jsonl", r#"{"_id": 1, "text": "x"}"#);
    let bad = folder.write("bad.jsonl", "nothing\nof use\n");
    let config = CorpusConfig {
        paths: vec![good, bad],
        skip_bad_lines: true,
        ..CorpusConfig::default()
    };
    check_result(
        &folder,
        read_all(&config).as_ref(),
        Err("`bad.jsonl` has no valid line"),
    );
}

#[test]
fn missing_files_are_not_bad_input() {
    let error = read_all(&config(Path::new("/nonexistent/c.jsonl"))).unwrap_err();
    assert!(matches!(error, CorpusError::Open { .. }) && !error.is_bad_input());
    // A folder opens, but cannot be read.
    let folder = Folder::new();
    assert!(
        !read_all(&config(folder.0.path()))
            .unwrap_err()
            .is_bad_input()
    );
}

#[test]
fn skipped_lines_are_counted_and_shown() {
    let folder = Folder::new();
    let first = folder.write(
        "1.jsonl",
        "{\"_id\": 1, \"text\": \"x\"}\nbad\n{\"_id\": 1, \"text\": \"y\"}\n",
    );
    let second = folder.write("2.jsonl", "\n{\"_id\": 2, \"text\": \"x\"}\n{\"_id\": 1, \"text\": \"z\"}\n{\"_id\": 2, \"text\": \"z\"}\n");
    let mut config = CorpusConfig {
        paths: vec![first.clone(), second.clone()],
        ..CorpusConfig::default()
    };
    assert!(read_all(&config).is_err());
    config.skip_bad_lines = true;
    let mut reader = CorpusReader::open(&config).unwrap();
    let ids: Vec<String> = reader.by_ref().map(|passage| passage.unwrap().id).collect();
    assert_eq!(ids, ["1", "2"]);
    assert_eq!(reader.n_bad(), 4);
    assert_eq!(reader.n_bytes_read(), reader.n_bytes_total());
    let repeats = |id: &str, path: &PathBuf, line| Reason::DuplicateId {
        id: id.into(),
        path: path.clone(),
        line,
    };
    let found: Vec<_> = reader.bad_examples()[1..]
        .iter()
        .map(|bad| (&bad.path, bad.line, bad.reason.clone()))
        .collect();
    assert_eq!(
        found,
        [
            (&first, 3, repeats("1", &first, 1)),
            (&second, 3, repeats("1", &first, 1)),
            (&second, 4, repeats("2", &second, 2))
        ]
    );
    let many = folder.write(
        "many.jsonl",
        format!("{}{{\"_id\": 3, \"text\": \"x\"}}\n", "bad\n".repeat(50)),
    );
    let survey = survey(&CorpusConfig {
        paths: vec![many],
        ..config
    })
    .unwrap();
    assert_eq!(
        (survey.n_passages, survey.n_bad, survey.bad_examples.len()),
        (1, 50, 10)
    );
}

#[test]
fn lines_over_the_limit_are_bad_and_passed_over() {
    let folder = Folder::new();
    let mut text = b"{\"_id\": 1, \"text\": \"x\"}\n".to_vec();
    text.resize(text.len() + MAX_LINE_BYTES + 1, b' ');
    text.extend(b"\n{\"_id\": 2, \"text\": \"x\"}\n");
    let path = folder.write("long.jsonl", gzip(&text));
    check_result(
        &folder,
        read_all(&config(&path)).as_ref(),
        Err("long.jsonl:2: longer than 64 MiB"),
    );
    let skipping = CorpusConfig {
        skip_bad_lines: true,
        ..config(&path)
    };
    assert_eq!(read_all(&skipping).unwrap().len(), 2);

    let mut table = b"_id,text\n1,\"".to_vec();
    table.resize(table.len() + 2 * MAX_LINE_BYTES, b'\n');
    let path = folder.write("unclosed.csv", gzip(&table));
    check_result(
        &folder,
        read_all(&config(&path)).as_ref(),
        Err("unclosed.csv:2: longer than 64 MiB"),
    );
}

#[test]
fn damaged_compression_is_bad_input() {
    let lines: String = (0..2000)
        .map(|i| format!("{{\"_id\": {i}, \"text\": \"passage {}\"}}\n", i * i))
        .collect();
    let zipped = gzip(lines.as_bytes());
    let packed = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    for bytes in [zipped, packed] {
        for n_bytes in [5, 11, bytes.len() / 2, bytes.len() - 1] {
            let folder = Folder::new();
            let path = folder.write("c.jsonl", &bytes[..n_bytes]);
            // Skipping bad lines is not for what is missing.
            let error = read_all(&CorpusConfig {
                skip_bad_lines: true,
                ..config(&path)
            })
            .unwrap_err();
            assert!(
                matches!(error, CorpusError::Corrupt { .. }),
                "{n_bytes}: {error:?}"
            );
            assert!(error.is_bad_input());
        }
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 0x10;
        let folder = Folder::new();
        let error = read_all(&config(&folder.write("c.jsonl", flipped))).unwrap_err();
        assert!(error.is_bad_input(), "{error:?}");
    }
}

#[test]
fn tables_have_named_columns() {
    let ms_marco = [
        passage("0", "", "He said \"yes\".", json!({})),
        passage("1", "", "\"quoted\"", json!({})),
    ];
    check_corpus(
        "collection.tsv",
        "0\tHe said \"yes\".\r\n1\t\"quoted\"\r\n",
        Ok(&ms_marco),
    );
    check_corpus(
        "collection",
        "0\tHe said \"yes\".\n1\t\"quoted\"\n",
        Ok(&ms_marco),
    );
    check_corpus(
        "corpus.tsv",
        "9\tT\tx\n",
        Ok(&[passage("9", "T", "x", json!({}))]),
    );
    check_corpus(
        "corpus.tsv",
        "text\turl\tid\nx\tu\t9\ny\t\t8\n",
        Ok(&[
            passage("9", "", "x", json!({"url": "u"})),
            passage("8", "", "y", json!({})),
        ]),
    );
    check_corpus(
        "corpus.tsv",
        "9\tT\tx\ty\n",
        Err("the 4 columns of `corpus.tsv` have no names; name them"),
    );
    check_corpus(
        "corpus.tsv",
        "9\tT\tx\n8\tT\n",
        Err("corpus.tsv:2: 2 fields for 3 columns"),
    );
    check_corpus(
        "corpus.csv",
        "\u{feff}\"id\",text,tag\n1,\"two\nlines, \"\"quoted\"\"\",a\n2,x,\n",
        Ok(&[
            passage("1", "", "two\nlines, \"quoted\"", json!({"tag": "a"})),
            passage("2", "", "x", json!({})),
        ]),
    );
    check_corpus(
        "corpus.csv",
        "id,text\n1,\"two\nlines\"\n2,x,y\n",
        Err("corpus.csv:4: 3 fields for 2 columns"),
    );
    check_corpus(
        "corpus.csv",
        b"id,text\n1,\xff\n",
        Err("corpus.csv:2: not UTF-8 at byte 1"),
    );
    check_corpus(
        "corpus.csv",
        "name,text\n1,x\n",
        Err(
            "the columns of `corpus.csv` lack an id (`_id`, `id`, `docid` or `text_id`): name, text",
        ),
    );
    check_corpus(
        "corpus.csv",
        "id,body\n1,x\n",
        Err("the columns of `corpus.csv` lack `title` and `text`: id, body"),
    );
    check_corpus(
        "corpus.csv",
        "id,text,text\n1,x,y\n",
        Err("the columns of `corpus.csv` lack distinct names: id, text, text"),
    );

    let folder = Folder::new();
    let columns = ["_id", "-", "text", "year"].map(str::to_owned).to_vec();
    let schema: Schema = toml::from_str("[fields]\nyear = \"integer\"").unwrap();
    let named = |name: &str, text: &str| CorpusConfig {
        columns: Some(columns.clone()),
        schema: Some(schema.clone()),
        ..config(&folder.write(name, text))
    };
    let expected = vec![passage("1", "", "x", json!({"year": 2026}))];
    assert_eq!(
        read_all(&named("a.tsv", "1\tleft out\tx\t2026\n")).unwrap(),
        expected
    );
    assert_eq!(
        read_all(&named("a.csv", "_id,-,text,year\n1,left out,x, 2026\n")).unwrap(),
        expected
    );
    let forced = CorpusConfig {
        format: CorpusFormat::Csv,
        ..named("a.txt", "1,left out,x,2026\n")
    };
    assert_eq!(read_all(&forced).unwrap(), expected);
    let bad = read_all(&named("a.tsv", "1\tleft out\tx\tlast year\n"));
    check_result(
        &folder,
        bad.as_ref(),
        Err("a.tsv:1: field `year` is not a 64-bit integer"),
    );
}

#[test]
fn declared_fields_are_checked_and_the_others_inferred() {
    let folder = Folder::new();
    let lines = [
        json!({"_id": 1, "text": "x", "year": 1999, "price": 1, "seen": true, "day": "2026-11-20", "tags": ["a", "b"], "mixed": 1, "list": [[1]], "none": null, "big": 1}),
        json!({"_id": 2, "text": "y", "year": 2001, "price": 1.5, "day": "2026-11-20T10:00:00Z", "tags": "c", "mixed": "one", "long": "w ".repeat(200), "big": u64::MAX}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let mut config = config(&folder.write("c.jsonl", &text));
    let inferred = survey(&config).unwrap().schema;
    let kinds: Vec<(&str, FieldKind, bool)> = inferred
        .fields
        .iter()
        .map(|(name, field)| (name.as_str(), field.kind, field.filterable))
        .collect();
    assert_eq!(
        kinds,
        [
            ("big", FieldKind::Float, true),
            ("day", FieldKind::Date, true),
            ("list", FieldKind::Text, false),
            ("long", FieldKind::Text, false),
            ("mixed", FieldKind::Text, false),
            ("none", FieldKind::Keyword, true),
            ("price", FieldKind::Float, true),
            ("seen", FieldKind::Boolean, true),
            ("tags", FieldKind::Keyword, true),
            ("year", FieldKind::Integer, true),
        ]
    );
    // What was inferred accepts what it was inferred from, so a second pass reads the same.
    config.schema = Some(inferred.clone());
    let second = survey(&config).unwrap();
    assert_eq!((second.n_passages, second.schema), (2, inferred));

    let schema = folder.write(
        "schema.toml",
        "[fields]\nyear = { kind = \"float\", filterable = false }\nmixed = \"integer\"\n",
    );
    let schema = Schema::from_toml(&schema).unwrap();
    assert_eq!(
        (schema.fields["year"].kind, schema.fields["year"].filterable),
        (FieldKind::Float, false)
    );
    assert!(schema.fields["mixed"].filterable);
    config.schema = Some(schema.clone());
    check_result(
        &folder,
        read_all(&config).as_ref(),
        Err("c.jsonl:2: field `mixed` is not a 64-bit integer"),
    );
    config.skip_bad_lines = true;
    let skipped = survey(&config).unwrap();
    assert_eq!((skipped.n_passages, skipped.n_bad), (1, 1));
    assert_eq!(skipped.schema.fields["year"], schema.fields["year"]);
    // Written and read again, a schema is the same.
    let text = toml::to_string(&schema).unwrap();
    assert_eq!(toml::from_str::<Schema>(&text).unwrap(), schema);
    for bad in [
        "[fields]\nyear = \"whole\"",
        "years = 1",
        "[fields]\ntitle = \"keyword\"",
        "[fields.a]\nkind = \"text\"\nx = 1",
    ] {
        let error = Schema::from_toml(&folder.write("bad.toml", bad)).unwrap_err();
        assert!(error.is_bad_input(), "{bad}: {error}");
    }
}

#[test]
fn data_in_the_place_of_field_names_is_refused() {
    let folder = Folder::new();
    let text: String = (0..2000)
        .map(|i| format!("{{\"_id\": {i}, \"text\": \"x\", \"f{i}\": 1}}\n"))
        .collect();
    let found = survey(&config(&folder.write("c.jsonl", text)));
    check_result(
        &folder,
        found.as_ref(),
        Err("more than 1024 metadata fields at `c.jsonl` line 1025"),
    );
}

#[test]
fn the_digest_is_of_the_records_and_not_of_the_files() {
    let folder = Folder::new();
    let json = "{\"_id\": \"1\", \"text\": \"x\", \"b\": \"2\", \"a\": \"1\"}\n{\"_id\": 2, \"title\": \"T\", \"text\": \"\\u0079\", \"a\": \"é\"}\n";
    let first = survey(&config(&folder.write("c.jsonl", json))).unwrap();
    assert_eq!(
        (first.n_passages, first.n_bad, first.n_text_bytes),
        (2, 0, 3)
    );
    // sha256 of the two lines as the documentation of `Survey::digest` writes them.
    assert_eq!(
        first.digest,
        "ca15e86c74fcbee7210ee479b76d5f905d9f5a375b059fd7d8a7b274afcc0b84"
    );
    let table = folder.write("c.csv", "a,b,title,text,id\n1,2,,x,1\né,,T,y,2\n");
    assert_eq!(survey(&config(&table)).unwrap(), first);
    let (one, two) = json.split_once('\n').unwrap();
    let parts = [
        folder.write("1.jsonl", gzip(one.as_bytes())),
        folder.write("2.jsonl", two),
    ];
    let parted = CorpusConfig {
        paths: parts.to_vec(),
        ..CorpusConfig::default()
    };
    assert_eq!(survey(&parted).unwrap(), first);
    let turned = CorpusConfig {
        paths: parts.into_iter().rev().collect(),
        ..CorpusConfig::default()
    };
    assert_ne!(survey(&turned).unwrap().digest, first.digest);
}

#[test]
fn a_survey_reports_and_stops() {
    let folder = Folder::new();
    let text: String = (0..5000)
        .map(|i| format!("{{\"_id\": {i}, \"text\": \"x\"}}\n"))
        .collect();
    let config = config(&folder.write("c.jsonl", text));
    let mut reports = Vec::new();
    corpus::survey(&config, &mut |progress| {
        reports.push(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(
        reports
            .iter()
            .map(|report| report.n_passages)
            .collect::<Vec<_>>(),
        [1024, 2048, 3072, 4096, 5000]
    );
    let last = reports.last().unwrap();
    assert_eq!(last.n_bytes_read, last.n_bytes_total);
    let stopped = corpus::survey(&config, &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(CorpusError::Stopped)));
}

#[test]
fn templates_substitute_once() {
    #[track_caller]
    fn check(template: &str, expected: &str, n_missing: usize) {
        let metadata = json!({"year": 2026, "tags": ["a", 1], "url": null, "a.b-c_d": true,
            "meta": {"name": "N", "deep": {"er": [1, 2]}}});
        let rendered = Template::parse(template)
            .unwrap()
            .render(&passage("p1", "T <text>", " x ", metadata));
        assert_eq!(
            (rendered.text.as_str(), rendered.n_missing),
            (expected, n_missing),
            "{template}"
        );
    }
    check("<title> <text>", "T <text>  x", 0);
    check("  <text>\n", "x", 0);
    check(
        "<_id>: <year> (<tags>) <url><none>|<a.b-c_d>",
        "p1: 2026 (a, 1) |true",
        2,
    );
    check(
        "<meta.name> <meta.deep.er> <metadata.year>",
        "N 1, 2 2026",
        0,
    );
    check("<meta.none> <year.name> <.>|", "|", 3);
    check("<< text> <text <text> <>", "<< text> <text  x  <>", 0);
    check("<text><text>", "x  x", 0);
    assert_eq!(Template::default().as_str(), "<title> <text>");
    assert_eq!(Template::default().fields(), ["title", "text"]);
    assert_eq!(
        Template::default()
            .render(&passage("p", "", "x", json!({})))
            .text,
        "x"
    );
    assert!(matches!(
        Template::parse("no <field here>"),
        Err(TemplateError::NoField { .. })
    ));
    let schema: Schema = toml::from_str("[fields]\nyear = \"integer\"").unwrap();
    assert_eq!(
        Template::parse("<_id> <title> <year> <year.inner> <metadata.year>")
            .unwrap()
            .check_fields(&schema),
        Ok(())
    );
    let error = Template::parse("<title> <name>")
        .unwrap()
        .check_fields(&schema)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "template field `name` is not one of title, text, _id, year"
    );
    let stored = serde_json::to_string(&Template::default()).unwrap();
    assert_eq!(stored, "\"<title> <text>\"");
    assert_eq!(
        serde_json::from_str::<Template>(&stored).unwrap(),
        Template::default()
    );
    let query = corpus::Query {
        id: "q".into(),
        text: "why".into(),
        metadata: Map::new(),
    };
    assert_eq!(
        Template::parse("query: <text>")
            .unwrap()
            .render_query(&query)
            .text,
        "query: why"
    );
}

#[test]
fn queries_are_read_in_order() {
    let folder = Folder::new();
    let ids = |path: &Path| {
        read_queries(path).map(|queries| queries.into_iter().map(|q| (q.id, q.text)).collect())
    };
    let pair = |id: &str, text: &str| (id.to_owned(), text.to_owned());
    let json = "{\"_id\": 2, \"text\": \"b\", \"metadata\": {\"answers\": [\"x\"]}}\n{\"_id\": \"1\", \"text\": \"a\"}\n";
    let expected: Vec<(String, String)> = vec![pair("2", "b"), pair("1", "a")];
    for (name, bytes) in [
        ("q.jsonl", json.as_bytes().to_vec()),
        ("q.jsonl.gz", gzip(json.as_bytes())),
        ("q.tsv", b"2\tb\r\n1\ta\r\n".to_vec()),
        ("q.query.txt", b"2\tb\n1\ta\n".to_vec()),
        ("q.csv", b"id,text\n2,b\n1,a\n".to_vec()),
    ] {
        let found: Result<Vec<_>, _> = ids(&folder.write(name, bytes));
        check_result(&folder, found.as_ref(), Ok(&expected));
    }
    let path = folder.write("q.jsonl", json);
    assert_eq!(
        read_queries(&path).unwrap()[0].metadata["answers"],
        json!(["x"])
    );
    for (text, message) in [
        ("1\ta\n1\tb\n", "q.tsv:2: id `1` repeats q.tsv:1"),
        ("1\ta\n2\t \n", "q.tsv:2: text is blank"),
        ("1\ta\n2\n", "q.tsv:2: 1 fields for 2 columns"),
        ("\n", "`q.tsv` has no valid line"),
    ] {
        let found: Result<Vec<(String, String)>, _> = ids(&folder.write("q.tsv", text));
        check_result(&folder, found.as_ref(), Err(message));
    }
}

#[test]
fn judgments_are_read_in_every_layout() {
    let folder = Folder::new();
    let mut expected = Qrels::default();
    expected.insert("q1", "d2", 2);
    expected.insert("q1", "d1", -1);
    expected.insert("q2", "d1", 0);
    for text in [
        "q1 0 d2 2\nq1 Q0  d1 -1\nq2\t0\td1 0\n",
        "q1\t0\td2\t2\r\nq1\t0\td1\t-1\r\nq2\t0\td1\t0\r\n",
        "query-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td1\t-1\nq2\td1\t0\n",
        "q1\td2\t2\nq1\td1\t-1\n\nq2\td1\t0",
        "q1 d2 2\nq1 d1 -1\nq2 d1 0",
    ] {
        let found = Qrels::read(&folder.write("qrels", text), QrelsFormat::Auto);
        check_result(&folder, found.as_ref(), Ok(&expected));
    }
    assert_eq!(expected.grade("q1", "d1"), Some(-1));
    assert_eq!(expected.grade("q1", "d9"), None);
    assert_eq!(
        expected
            .queries()
            .map(|(query, passages)| (query, passages.len()))
            .collect::<Vec<_>>(),
        [("q1", 2), ("q2", 1)]
    );
    let pairs = Qrels::read(
        &folder.write("qrels", "q1\td1\nq1\td2\n"),
        QrelsFormat::Auto,
    )
    .unwrap();
    assert_eq!((pairs.grade("q1", "d2"), pairs.len()), (Some(1), 1));
    let beir = "query-id\tcorpus-id\tscore\nq 1\t\"d\"\"1\"\t1\n";
    let beir = Qrels::read(&folder.write("qrels", beir), QrelsFormat::Auto).unwrap();
    assert_eq!(beir.grade("q 1", "d\"1"), Some(1));
    for (text, message) in [
        (
            "q 0 d 1\nq 0 d 2\n",
            "qrels:2: query `q` and passage `d` repeat line 1",
        ),
        ("q 0 d 1.0\n", "qrels:1: relevance `1.0` is not an integer"),
        ("q 0 d 1\nq 0 d\n", "qrels:2: 1 fields for 4 columns"),
        (
            "query-id\tcorpus-id\tscore\nq\td\t1\t2\n",
            "qrels:2: 4 fields for 3 columns",
        ),
        (
            "q\td\t99999999999\n",
            "qrels:1: relevance `99999999999` is not an integer",
        ),
        ("query-id\tcorpus-id\tscore\n", "`qrels` has no valid line"),
    ] {
        check_result(
            &folder,
            Qrels::read(&folder.write("qrels", text), QrelsFormat::Auto).as_ref(),
            Err(message),
        );
    }
    let bytes = b"q 0 d\xff 1\n";
    check_result(
        &folder,
        Qrels::read(&folder.write("qrels", bytes), QrelsFormat::Auto).as_ref(),
        Err("qrels:1: not UTF-8 at byte 6"),
    );
}

/// `query: passage=score …` for every query.
fn described(run: &Run) -> String {
    let queries = run.queries().map(|(query, passages)| {
        let passages: Vec<String> = passages
            .iter()
            .map(|p| format!("{}={}", p.id, p.score))
            .collect();
        format!("{query}: {}", passages.join(" "))
    });
    queries.collect::<Vec<_>>().join("; ")
}

#[test]
fn runs_are_read_in_every_layout() {
    let folder = Folder::new();
    for (text, expected) in [
        (
            "q2 Q0 d1 9 1.5 sys\nq1 Q0 d1 1 -inf sys\nq2\tQ0\td2\t1\t2e3\tsys\r\n",
            Ok("q2: d1=1.5 d2=2000; q1: d1=-inf"),
        ),
        ("q1 d1 0.5\nq1 d2 3\n", Ok("q1: d1=0.5 d2=3")),
        (
            "q1\td1\t1\nq1\td2\t2\nq2\td1\t1\n",
            Ok("q1: d1=-1 d2=-2; q2: d1=-1"),
        ),
        ("q1\td1\t2\t0.5\nq1\td2\t1\t0.7\n", Ok("q1: d2=0.7 d1=0.5")),
        (
            "q1 d1 2\nq1 d2 1\n",
            Err("the third column of run `run` may be a rank or a score; name the format"),
        ),
        (
            "q1 d1\n",
            Err("run:1: 2 fields where 3, 4 or 6 are expected"),
        ),
        (
            "q1 d1 1.5\nq1 Q0 d2 1 2.5 s\n",
            Err("run:2: 6 fields where 3 are expected"),
        ),
        (
            "q1 Q0 d1 1 nan s\n",
            Err("run:1: score `nan` is not a number"),
        ),
        (
            "q1 Q0 d1 1 high s\n",
            Err("run:1: score `high` is not a number"),
        ),
        (
            "q1 d1 1.5\nq2 d1 1.5\nq1 d1 1.0\n",
            Err("run:3: query `q1` and passage `d1` repeat line 1"),
        ),
        (
            "q1 d1 0 0.5\n",
            Err("run:1: rank `0` is not a positive integer"),
        ),
        ("", Err("`run` has no valid line")),
    ] {
        let found =
            Run::read(&folder.write("run", text), RunFormat::Auto).map(|run| described(&run));
        check_result(&folder, found.as_ref().map(String::as_str), expected);
    }
    let ambiguous = folder.write("run", "q1 d1 2\nq1 d2 1\n");
    assert_eq!(
        described(&Run::read(&ambiguous, RunFormat::Score3).unwrap()),
        "q1: d1=2 d2=1"
    );
    assert_eq!(
        described(&Run::read(&ambiguous, RunFormat::Marco).unwrap()),
        "q1: d2=-1 d1=-2"
    );
}

#[test]
fn runs_are_written_in_the_order_of_evaluators() {
    let folder = Folder::new();
    let path = folder.path("run.trec");
    let scored = |id: &str, score: f64| Scored {
        id: id.into(),
        score,
    };
    let mut run = Run::new("sys");
    run.insert(
        "q2",
        vec![
            scored("9", 1.0),
            scored("10", 1.0 + 1e-9),
            scored("a", 0.1),
            scored("B", 3.0),
        ],
    );
    run.insert(
        "q1",
        vec![
            scored("x", f64::from(f32::MIN_POSITIVE)),
            scored("y", -0.0),
            scored("z", 0.0),
        ],
    );
    assert_eq!(run.insert("q3", vec![scored("x", 1.0)]), None);
    assert_eq!(run.insert("q3", Vec::new()), Some(vec![scored("x", 1.0)]));
    run.write(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        "q2 Q0 B 1 3 sys\nq2 Q0 9 2 1 sys\nq2 Q0 10 3 1 sys\nq2 Q0 a 4 0.1 sys\n\
         q1 Q0 x 1 0.000000000000000000000000000000000000011754944 sys\nq1 Q0 z 2 0 sys\nq1 Q0 y 3 -0 sys\n"
    );
    let again = Run::read(&path, RunFormat::Auto).unwrap();
    assert_eq!((again.tag.as_str(), again.len()), ("sys", 2));
    assert_eq!(again.get("q1").unwrap()[0].score as f32, f32::MIN_POSITIVE);

    // A run that cannot be written leaves the file as it was, and nothing beside it.
    for (query, passage, score) in [
        ("q 1", "d", 1.0),
        ("q", "d\t1", 1.0),
        ("q", "", 1.0),
        ("q", "d", f64::NAN),
    ] {
        let mut bad = Run::new("sys");
        bad.insert(query, vec![scored(passage, score)]);
        assert!(bad.write(&path).unwrap_err().is_bad_input());
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 1);
    assert!(matches!(
        run.write(&folder.path("none/run.trec")),
        Err(CorpusError::Write { .. })
    ));
}

#[test]
fn data_sets_are_found_by_their_layout() {
    let folder = Folder::new();
    let missing = |file: &str| {
        format!(
            "data set `{}` has no `{file}`",
            folder.path("set").display()
        )
    };
    let open = || Dataset::open(&folder.path("set"));
    assert_eq!(open().unwrap_err().to_string(), missing("corpus.jsonl"));
    folder.write(
        "set/corpus.jsonl.gz",
        gzip(b"{\"_id\": \"d1\", \"text\": \"x\"}\n"),
    );
    assert_eq!(open().unwrap_err().to_string(), missing("queries.jsonl"));
    folder.write(
        "set/queries.jsonl",
        "{\"_id\": 1, \"text\": \"a\"}\n{\"_id\": 2, \"text\": \"b\"}\n",
    );
    let dataset = open().unwrap();
    assert!(dataset.splits().is_err());
    folder.write(
        "set/qrels/test.tsv",
        "query-id\tcorpus-id\tscore\n2\td1\t1\n",
    );
    folder.write(
        "set/qrels/dev.tsv.zst",
        zstd::encode_all(&b"1\td1\t1\n3\td1\t1\n"[..], 1).unwrap(),
    );
    assert_eq!(
        (dataset.name.as_str(), dataset.splits().unwrap()),
        ("set", vec!["dev".to_owned(), "test".to_owned()])
    );
    assert_eq!(dataset.qrels("test").unwrap().grade("2", "d1"), Some(1));
    assert_eq!(
        dataset.qrels("train").unwrap_err().to_string(),
        missing("train.tsv")
    );
    let ids: Vec<String> = dataset
        .queries_of("test")
        .unwrap()
        .into_iter()
        .map(|query| query.id)
        .collect();
    assert_eq!(ids, ["2"]);
    let error = dataset.queries_of("dev").unwrap_err();
    assert!(
        error.is_bad_input() && error.to_string().contains("judges query `3`"),
        "{error}"
    );
    let config = CorpusConfig {
        paths: dataset.corpus,
        ..CorpusConfig::default()
    };
    assert_eq!(read_all(&config).unwrap().len(), 1);
}
