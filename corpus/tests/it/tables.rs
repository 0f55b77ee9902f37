//! Corpora with columns.

use super::*;

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
        "id,text\n1,x\n2,\"open\n3,y\n4,z\n",
        Err("corpus.csv:3: not a CSV record: a quote is never closed"),
    );
    check_corpus(
        "corpus.csv",
        "id,text\n1,x\n2,\"y\"",
        Ok(&[
            passage("1", "", "x", json!({})),
            passage("2", "", "y", json!({})),
        ]),
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
        if let CorpusError::Schema { source, .. } = error
            && bad.contains("year =")
        {
            assert!(source.to_string().contains("keyword, integer"), "{source}");
        }
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
