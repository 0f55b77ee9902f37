//! Corpora of JSON lines: what is kept, refused, skipped and counted.

use super::*;

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
    // As pzstd writes it: frames of zstd, each behind one that holds its length and is skipped.
    let frames = text.as_bytes().chunks(40).flat_map(|part| {
        let packed = zstd::encode_all(part, 1).unwrap();
        let length = (packed.len() as u32).to_le_bytes();
        [&b"\x50\x2a\x4d\x18\x04\0\0\0"[..], &length[..], &packed[..]].concat()
    });
    check_corpus("c.jsonl.zst", frames.collect::<Vec<u8>>(), Ok(&expected));
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_told_so() {
    let expected = "not a record, and the file is neither gzip nor zstd, in spite of its name";
    let page = "<html>not found</html>\n";
    check_corpus(
        "c.jsonl.gz",
        page,
        Err(&format!("c.jsonl.gz:1: {expected}")),
    );
    check_corpus(
        "c.jsonl.zst",
        b"BZh9\xff",
        Err(&format!("c.jsonl.zst:1: {expected}")),
    );
    for (name, bytes) in [
        ("c.jsonl", page.into()),
        ("c.jsonl.gz", gzip(page.as_bytes())),
    ] {
        let usual = format!("{name}:1: not a JSON object: expected value at byte 1");
        check_corpus(name, bytes, Err(&usual));
    }
    let later = "{\"_id\": \"a\", \"text\": \"x\"}\n<html>\n";
    let usual = "c.jsonl.gz:2: not a JSON object: expected value at byte 1";
    check_corpus("c.jsonl.gz", later, Err(usual));
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
fn documents_to_be_split_do_not_share_ids_with_passages() {
    let check = |ids: &[&str], split: bool, expected: Option<&str>| {
        let folder = Folder::new();
        let line = |id: &&str| format!("{{\"_id\": \"{id}\", \"text\": \"x\"}}\n");
        let text: String = ids.iter().map(line).collect();
        let config = CorpusConfig {
            split,
            ..config(&folder.write("c.jsonl", text))
        };
        let error = read_all(&config).err().map(|error| error.to_string());
        let found =
            error.map(|error| error.replace(&format!("{}/", folder.0.path().display()), ""));
        assert_eq!(found.as_deref(), expected, "{ids:?}");
    };
    let second = Some("c.jsonl:3: split into passages, `a#3` shares ids with c.jsonl:1");
    check(&["a", "b#7", "a#3"], true, second);
    check(&["a", "b#7", "a#3"], false, None);
    let first = Some("c.jsonl:2: split into passages, `a` shares ids with c.jsonl:1");
    check(&["a#3", "a"], true, first);
    check(
        &["a#3", "a#3#1"],
        true,
        Some("c.jsonl:2: split into passages, `a#3#1` shares ids with c.jsonl:1"),
    );
    check(&["a#3", "a#4", "a#03", "a#x", "#1", "b#3"], true, None);
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

    // Lines of other formats, too.
    let bytes = [&text[..], b"\n \nx\xff\nlast"].concat();
    let mut lines = Lines::open(&folder.write("lines.jsonl", gzip(&bytes))).unwrap();
    let mut found = Vec::new();
    while let Some((line, text)) = lines.next_line_or_reason().unwrap() {
        let text = text.map(str::len).map_err(|reason| reason.to_string());
        found.push((line, text));
    }
    let bad = |reason: &str| Err(reason.to_owned());
    let expected = [
        (1, Ok(23)),
        (2, bad("longer than 64 MiB")),
        (3, Ok(23)),
        (6, bad("not UTF-8 at byte 2")),
        (7, Ok(4)),
    ];
    assert_eq!(found, expected);

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
fn a_window_over_the_limit_of_zstd_is_told() {
    let line = b"{\"_id\": \"a\", \"text\": \"x\"}\n";
    // One raw block, RFC 8878, §3.1.1: no content size, a window of 2^`log` bytes.
    let frame = |log: u8| {
        let block = (((line.len() as u32) << 3) | 1).to_le_bytes();
        [
            &b"\x28\xb5\x2f\xfd\0"[..],
            &[(log - 10) << 3],
            &block[..3],
            line,
        ]
        .concat()
    };
    let expected = [passage("a", "", "x", json!({}))];
    check_corpus("c.jsonl", frame(27), Ok(&expected));
    let expected = "`c.jsonl` takes more than 128 MiB to unpack, as files of `zstd --long=28` and above do; \
                    pack it again with less";
    check_corpus("c.jsonl", frame(28), Err(expected));
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
