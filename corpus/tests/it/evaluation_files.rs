//! Queries, judgments, runs and whole data sets.

use super::*;

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
    for (text, query, passage, grade) in [
        ("q 1\td1\t2\nq1\td1\t1\n", "q 1", "d1", 2),
        ("q1\td 1\t2\nq1\td1\t1\n", "q1", "d 1", 2),
        ("q 1\t0\td 1\t2\nq1\t0\td1\t1\n", "q 1", "d 1", 2),
        ("q 1\td 1\nq1\td1\n", "q 1", "d 1", 1),
        ("q1 0 d1 2\t\n", "q1", "d1", 2),
    ] {
        let found = Qrels::read(&folder.write("qrels", text), QrelsFormat::Auto).unwrap();
        assert_eq!(found.grade(query, passage), Some(grade), "{text:?}");
    }
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

    let signed = [scored("y", 0.0), scored("z", -0.0)];
    let ids = corpus::ranked(&signed).into_iter().map(|hit| &hit.id);
    assert_eq!(ids.collect::<Vec<_>>(), ["z", "y"]);

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
        missing("qrels/train.tsv")
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
