//! `trawl data word-pieces`, `frequency-dictionary`, `span-pairs` and `blocks` from their arguments to their files and exit codes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{fail, interrupt, json, sample, succeed, text, tiny_model, trawl};

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn word_pieces_are_learned_and_make_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = sample("corpus.jsonl");
    let learn = |name: &str, more: &[&str]| {
        let out = folder.path().join(name);
        let all = [
            "data",
            "word-pieces",
            "--json",
            text(&corpus),
            "--out",
            text(&out),
        ];
        (json([&all, more].concat()), out)
    };
    let (report, out) = learn("first", &["--pieces", "400", "--threads", "1"]);
    let n_pieces = report["pieces"].as_u64().unwrap();
    assert!((300..=400).contains(&n_pieces), "{report}");
    let (_, again) = learn("again", &["--pieces", "400", "--threads", "2"]);
    for file in ["tokenizer.json", "tokenizer_config.json", "vocab.txt"] {
        let bytes = |folder: &Path| fs::read(folder.join(file)).unwrap();
        assert!(bytes(&out) == bytes(&again), "{file} depends on threads");
    }
    let pieces = fs::read_to_string(out.join("vocab.txt")).unwrap();
    let pieces: Vec<&str> = pieces.lines().collect();
    assert_eq!(pieces.len() as u64, n_pieces);
    assert_eq!(pieces[..5], ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]);
    assert!(
        pieces
            .iter()
            .skip(5)
            .all(|piece| *piece == piece.to_lowercase())
    );
    let (_, cased) = learn("cased", &["--pieces", "400", "--cased"]);
    let cased = fs::read_to_string(cased.join("vocab.txt")).unwrap();
    assert!(
        cased
            .lines()
            .skip(5)
            .any(|piece| piece != piece.to_lowercase())
    );

    // Every character of the texts is a piece, so no word is unknown.
    let words = folder.path().join("words.json");
    let count = [
        "data",
        "frequency-dictionary",
        "--json",
        "--texts",
        text(&corpus),
    ];
    let report = json(
        [
            &count[..],
            &["--tokenizer", text(&out), "--out", text(&words)],
        ]
        .concat(),
    );
    assert!(report["words"].as_u64().unwrap() > 100, "{report}");
    assert!(read(&words).get("[UNK]").is_none());

    // With a configuration it is a model that begins with random weights.
    let mut config = read(&tiny_model().join("config.json"));
    config["vocab_size"] = json!(n_pieces);
    fs::write(out.join("config.json"), config.to_string()).unwrap();
    let train = folder.path().join("train.toml");
    let toml = format!(
        "[model]\npath = {:?}\n[data]\ncorpus = {{ files = [{:?}] }}\n[objective]\nname = \"mlm\"\n[run]\nmeasure = \"loss\"\n[dev]\ntexts = 2\n",
        text(&out),
        text(&corpus)
    );
    fs::write(&train, toml).unwrap();
    let report = json(["train", "--json", "--quiet", "--dry-run", text(&train)]);
    let loss = report["loss_of_the_first_batch"].as_f64().unwrap();
    let expected = (n_pieces as f64).ln();
    assert!(
        (loss - expected).abs() < 0.2 * expected,
        "{loss}, not {expected}"
    );

    let all = ["data", "word-pieces", text(&corpus), "--out", text(&out)];
    let errors = fail(2, all);
    assert!(errors.contains("tokenizer.json` exists"), "{errors}");
    // That of an old checkpoint is a vocabulary alone.
    let old = folder.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("vocab.txt"), "[PAD]\n").unwrap();
    let all = ["data", "word-pieces", text(&corpus), "--out", text(&old)];
    let errors = fail(2, all);
    assert!(errors.contains("vocab.txt` exists"), "{errors}");
    let empty = folder.path().join("empty.jsonl");
    fs::write(&empty, "").unwrap();
    let nowhere = folder.path().join("nowhere");
    fail(
        65,
        ["data", "word-pieces", text(&empty), "--out", text(&nowhere)],
    );
    fs::write(
        &empty,
        "{\"_id\": \"a\", \"title\": \"Tides\", \"text\": \"\"}\n",
    )
    .unwrap();
    let untitled = ["--passage-template", "<text>", "--out", text(&nowhere)];
    let all = ["data", "word-pieces", text(&empty)];
    let errors = fail(65, all.into_iter().chain(untitled));
    assert!(
        errors.contains("empty.jsonl`: no text has a word to learn pieces of"),
        "{errors}"
    );
    assert!(!nowhere.exists());
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
    fs::write(&bad, "{\"_id\": \"a\", \"text\": \"words\"}\n").unwrap();
    let errors = fail(65, arguments.clone());
    assert!(errors.contains("`--texts` counts plain texts"), "{errors}");
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

#[test]
fn documents_become_blocks_that_training_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (model, corpus) = (tiny_model(), sample("corpus.jsonl"));
    let cut = |out: &str, more: &[&str]| {
        let out = folder.path().join(out);
        let all = ["data", "blocks", text(&corpus), "--json", "--tokenizer"];
        let out_of = [text(&model), "--out", text(&out)];
        (json([&all[..], &out_of, more].concat()), out)
    };
    let (counts, blocks) = cut("blocks.jsonl.zst", &["--max-tokens", "40"]);
    let n = |name: &str| counts[name].as_u64().unwrap();
    assert!(n("blocks") > n("documents"), "{counts}");
    assert!(n("long_blocks") > 0 && n("tokens_beyond") >= n("long_blocks"));
    assert_eq!(counts["config"]["short_probability"], 0.0);
    let (of_condenser, _) = cut("c.jsonl", &["--max-tokens", "40", "--rule", "condenser"]);
    assert_eq!(of_condenser["config"]["short_probability"], 0.1);
    assert_eq!(of_condenser["tokens"], counts["tokens"]);
    assert!(of_condenser["tokens_beyond"].as_u64() < counts["tokens_beyond"].as_u64());
    let (whole, _) = cut("whole.jsonl", &[]);
    assert_eq!(
        (&whole["blocks"], &whole["long_blocks"]),
        (&whole["documents"], &json!(0))
    );

    let train = folder.path().join("train.toml");
    let toml = format!(
        "[model]\npath = {:?}\n[data]\ncorpus = {{ files = [{:?}], format = \"master\" }}\n[objective]\nname = \"retro_mae\"\n\
         masks = {{ max_tokens = 40 }}\n",
        text(&model),
        text(&blocks)
    );
    fs::write(&train, toml).unwrap();
    let output = trawl(["train", "--dry-run", text(&train)]);
    let errors = String::from_utf8_lossy(&output.stderr);
    let texts = format!("{} texts, now tokenised", n("blocks"));
    assert!(
        output.status.success() && errors.contains(&texts),
        "{errors}"
    );

    let out = folder.path().join("none.jsonl");
    let all = ["data", "blocks", text(&corpus), "--tokenizer", text(&model)];
    let errors = fail(
        2,
        [&all[..], &["--out", text(&out), "--joined", "0"]].concat(),
    );
    assert!(errors.contains("joined is 0"), "{errors}");
    assert!(!out.exists());
}

#[test]
fn blocks_that_are_interrupted_leave_no_part_of_their_file() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (
        folder.path().join("corpus.jsonl"),
        folder.path().join("out"),
    );
    fs::create_dir(&out).unwrap();
    let made = Command::new("mkfifo").arg(&corpus).status().unwrap();
    assert!(made.success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_trawl"))
        .args(["--quiet", "data", "blocks", text(&corpus)])
        .args(["--tokenizer", text(&tiny_model())])
        .args(["--out", text(&out.join("blocks.jsonl"))])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let n_files = || fs::read_dir(&out).unwrap().count();
    while n_files() == 0 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut input = fs::File::options().write(true).open(&corpus).unwrap();
    input
        .write_all(b"{\"_id\": \"a\", \"text\": \"The tide comes in twice a day.\"}\n")
        .unwrap();
    interrupt(&mut child);
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(n_files(), 0);
}
