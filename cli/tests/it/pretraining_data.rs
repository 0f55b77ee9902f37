//! `trawl data frequency-dictionary` and `trawl data span-pairs` from their arguments to their files and exit codes.

use std::fs;

use serde_json::{Value, json};

use crate::{fail, json, sample, succeed, text, tiny_model};

fn read(path: &std::path::Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn words_of_ids_and_of_texts_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("frequency.json");
    let model = tiny_model();
    let count = |arguments: &[&str]| {
        let all = [
            "data",
            "frequency-dictionary",
            "--json",
            "--tokenizer",
            text(&model),
        ];
        json([&all, arguments, &["--out", text(&out)]].concat())
    };
    let golden = testkit::golden("pretraining");
    let ids = golden.join("master.jsonl");
    let counts = count(&[text(&ids)]);
    assert_eq!(read(&out), read(&golden.join("frequency.json")));
    assert_eq!(
        (&counts["texts"], &counts["empty_texts"]),
        (&json!(14), &json!(1))
    );

    let corpus = testkit::fixture("training/corpus.jsonl");
    let counts = count(&["--texts", text(&corpus), "--threads", "1"]);
    let expected = read(&golden.join("frequency-texts.json"));
    assert_eq!(read(&out), expected);
    assert_eq!(
        counts["distinct_words"],
        expected.as_object().unwrap().len()
    );

    // A bad line ends it, and leaves what was there before.
    let bad = folder.path().join("bad.jsonl");
    fs::write(&bad, "{\"text\": [30]}\n{\"text\": [70000]}\n").unwrap();
    let all = [
        "data",
        "frequency-dictionary",
        text(&bad),
        "--tokenizer",
        text(&model),
    ];
    let arguments = [&all[..], &["--out", text(&out)]].concat();
    let errors = fail(65, arguments.clone());
    assert!(errors.contains("bad.jsonl:2: token 70000"), "{errors}");
    assert_eq!(read(&out), expected);
    let counts = json([&arguments[..], &["--skip-bad-lines", "--json"]].concat());
    assert_eq!(
        (&counts["words"], &counts["bad_lines"]),
        (&json!(1), &json!(1))
    );

    let errors = fail(2, [&arguments[..], &["--columns", "id,text"]].concat());
    assert!(errors.contains("--texts"), "{errors}");
    let other = testkit::fixture("models/tiny-roberta");
    let all = [
        "data",
        "frequency-dictionary",
        text(&ids),
        "--tokenizer",
        text(&other),
    ];
    let errors = fail(2, [&all[..], &["--out", text(&out)]].concat());
    assert!(errors.contains("`[PAD]`"), "{errors}");
}

#[test]
fn documents_become_pairs_of_spans() {
    let folder = tempfile::tempdir().unwrap();
    let (model, corpus) = (tiny_model(), sample("corpus.jsonl"));
    let write = |out: &str, arguments: &[&str]| {
        let out = folder.path().join(out);
        let all = ["data", "span-pairs", "--json", "--tokenizer", text(&model)];
        let counts = json([&all, arguments, &["--out", text(&out)]].concat());
        (counts, out)
    };
    let (counts, one) = write(
        "a.jsonl",
        &[text(&corpus), "--max-tokens", "40", "--threads", "1"],
    );
    let lines = fs::read_to_string(&one).unwrap();
    let n_lines = lines.lines().count() as u64;
    let n_documents = counts["documents"].as_u64().unwrap();
    assert_eq!(
        n_lines + counts["short_documents"].as_u64().unwrap(),
        n_documents
    );
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let span = &first["spans"][0];
    for key in ["anchor", "random_sampled", "nearby", "overlap"] {
        assert!(span[key][0].is_u64(), "{key}: {span}");
    }

    let (_, two) = write(
        "b.jsonl",
        &[text(&corpus), "--max-tokens", "40", "--threads", "2"],
    );
    assert_eq!(fs::read_to_string(two).unwrap(), lines);
    let (_, other) = write(
        "c.jsonl",
        &[text(&corpus), "--max-tokens", "40", "--seed", "7"],
    );
    assert_ne!(fs::read_to_string(other).unwrap(), lines);

    // MS MARCO's documents: id, address, title and body, without a header.
    let documents = folder.path().join("msmarco-docs.tsv");
    let body = "A cat sat. It ate. It slept all day. ".repeat(20);
    let short = "D2\thttps://example.org/2\tShort\tOne.\n";
    let blank = "D3\thttps://example.org/3\t\t\n";
    let text_of = format!("D1\thttps://example.org/1\tCats\t{body}\n{short}{blank}");
    fs::write(&documents, text_of).unwrap();
    let columns = ["--columns", "id,url,title,text"];
    let all = [&[text(&documents), "--skip-bad-lines"], &columns[..]].concat();
    let (counts, out) = write("d.jsonl.zst", &all);
    assert_eq!(
        (
            &counts["documents"],
            &counts["short_documents"],
            &counts["bad_lines"]
        ),
        (&json!(2), &json!(1), &json!(1))
    );
    assert_eq!(fs::read(out).unwrap()[..4], [0x28, 0xb5, 0x2f, 0xfd]);

    let out = folder.path().join("e.jsonl");
    let all = [
        "data",
        "span-pairs",
        text(&documents),
        "--tokenizer",
        text(&model),
        "--out",
        text(&out),
    ];
    let errors = fail(65, [&all[..], &columns].concat());
    assert!(errors.contains("msmarco-docs.tsv:3: "), "{errors}");
    assert!(!out.exists());
    let errors = fail(2, [&all[..], &["--max-tokens", "1"]].concat());
    assert!(errors.contains("max_tokens is 1"), "{errors}");
    succeed(["data", "span-pairs", "--help"]);
}
