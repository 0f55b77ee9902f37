//! Documents that are longer than the encoder reads, split into passages.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use collection::{BuildMode, Collection};
use corpus::{Passage, Template};
use encoder::{BiEncoder, EncoderConfig, ModelOptions, Role, Text};
use indexer::{BuildConfig, BuildError, BuildReport, NoProgress, Phase, build};
use store::Store;

use crate::{Folder, StopAt, config};

const MAX_TOKENS: usize = 64;

fn encoder(n_threads: usize, passage_tokens: usize) -> BiEncoder {
    let config = EncoderConfig {
        threads: n_threads,
        ..EncoderConfig::default()
    };
    let options = ModelOptions {
        passage_tokens: Some(passage_tokens),
        ..ModelOptions::default()
    };
    BiEncoder::load(&testkit::fixture("models/tiny-bert"), &options, &config).unwrap()
}

fn run(config: &BuildConfig) -> Result<BuildReport, BuildError> {
    let never = AtomicBool::new(false);
    build(config, &encoder(2, MAX_TOKENS), &NoProgress, &never)
}

fn splitting(root: &Path, corpus: &Path) -> BuildConfig {
    BuildConfig {
        stride: Some(40),
        ..config(root, corpus)
    }
}

fn line(id: &str, title: &str, text: &str) -> String {
    serde_json::json!({ "_id": id, "title": title, "text": text, "year": 1973 }).to_string()
}

/// Sentences of 13, 21 and 21 tokens.
fn story(n_sentences: usize) -> String {
    let sentence = |i| match i % 3 {
        0 => "The tide came in under the moon. ",
        1 => "Salt lay on the stones — naïve, é! ",
        _ => "Nobody saw the bird fly to the river? ",
    };
    (0..n_sentences).map(sentence).collect()
}

/// The passages of one document, and the characters of its text that each has.
fn split(title: &str, text: &str) -> Vec<(Passage, Range<u32>)> {
    let folder = Folder::new();
    let corpus = folder.lines(&[&line("d", title, text)]);
    let report = run(&splitting(&folder.collection("c"), &corpus)).unwrap();
    let store = Store::open(&report.path, store::Verify::Checksums).unwrap();
    assert_eq!(store.n_documents(), Some(1));
    assert_eq!(report.counts.documents, 1);
    let encoder = encoder(1, 128);
    let characters: Vec<char> = text.chars().collect();
    let mut parts = Vec::new();
    for ordinal in 0..store.len() {
        let passage = store.passage(ordinal).unwrap();
        let part = store.document_part(ordinal).unwrap().unwrap();
        assert_eq!((part.document, part.number), ("d", ordinal));
        assert_eq!(passage.id, format!("d#{ordinal}"));
        assert_eq!(
            (passage.title.as_str(), &passage.metadata["year"]),
            (title, &1973.into())
        );
        let Range { start, end } = part.characters.clone();
        let found: String = characters[start as usize..end as usize].iter().collect();
        assert_eq!(found, passage.text);
        let rendered = Template::default().render(&passage).text;
        let tokens = encoder
            .tokenize(Role::Passage, &[Text::Single(&rendered)])
            .unwrap();
        if title.len() < 20 {
            assert!(
                tokens[0].len() <= MAX_TOKENS,
                "{} tokens: {rendered}",
                tokens[0].len()
            );
        }
        parts.push((passage, part.characters));
    }
    if title.len() < 20 {
        assert_eq!(report.counts.truncated, 0);
    }
    // Nothing but white space is left out.
    let mut end = 0;
    for (_, characters_of_part) in &parts {
        let (start, left_out) = (
            characters_of_part.start,
            end..characters_of_part.start.max(end),
        );
        let left_out = &characters[left_out.start as usize..left_out.end as usize];
        assert!(
            left_out.iter().all(|c| c.is_whitespace()),
            "{end} to {start}"
        );
        assert!(parts.len() == 1 || characters_of_part.end > end);
        end = characters_of_part.end;
    }
    assert!(characters[end as usize..].iter().all(|c| c.is_whitespace()));
    parts
}

#[test]
fn a_long_document_becomes_overlapping_runs_of_sentences() {
    let text = story(9);
    let parts = split("Moon", &text);
    assert!(parts.len() > 3, "{} parts", parts.len());
    let is_whole =
        |text: &str| text.ends_with(['.', '!', '?']) && text.starts_with(['T', 'S', 'N']);
    for (passage, _) in &parts {
        assert!(is_whole(&passage.text), "{}", passage.text);
    }
    for pair in parts.windows(2) {
        assert!(pair[0].1.start < pair[1].1.start && pair[0].1.end < pair[1].1.end);
    }
}

#[test]
fn what_fits_stays_as_it_is() {
    for (title, text) in [
        ("Moon", " The tide.  It came. "),
        ("Moon", ""),
        ("", "é"),
        ("Moon", " \n "),
    ] {
        let parts = split(title, text);
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].0.text, text);
    }
}

#[test]
fn neighbors_share_what_the_stride_leaves() {
    let folder = Folder::new();
    let corpus = folder.lines(&[&line("d", "", &"Tide. ".repeat(60))]);
    let n_passages = |stride| {
        let config = BuildConfig {
            stride: Some(stride),
            ..splitting(&folder.collection(&format!("c{stride}")), &corpus)
        };
        run(&config).unwrap().counts.passages
    };
    let (apart, close) = (n_passages(MAX_TOKENS), n_passages(MAX_TOKENS / 2));
    assert!(close > apart + apart / 2, "{apart} and {close}");
}

#[test]
fn a_giant_sentence_is_split_between_words() {
    let text = "tide and moon, salt in the wind; ".repeat(40);
    let parts = split("Moon", &text);
    assert!(parts.len() > 10);
    for (passage, _) in &parts {
        let words = passage
            .text
            .split([' ', ',', ';'])
            .filter(|word| !word.is_empty());
        for word in words {
            assert!(
                ["tide", "and", "moon", "salt", "in", "the", "wind"].contains(&word),
                "{word}"
            );
        }
    }
}

#[test]
fn a_giant_word_is_split_between_characters() {
    // Word pieces know no word of more than 100 characters: one token, nothing to split.
    assert_eq!(split("", &"é".repeat(5_000)).len(), 1);
    let words = "ärgerlich".repeat(11);
    assert!(split("", &words).len() > 1);
    // Each is a word to the tokenizer, all of them one to Unicode.
    let parts = split("", &"ab_c".repeat(2_000));
    assert!(parts.len() > 50);
    let parts = split("", &"東京".repeat(300));
    assert!(parts.len() > 10);
}

#[test]
fn a_long_title_leaves_half_to_the_text() {
    let title = "moon and tide ".repeat(30);
    let parts = split(&title, &story(6));
    assert!((3..20).contains(&parts.len()), "{} parts", parts.len());
}

#[test]
fn splitting_depends_on_neither_threads_nor_interruption() {
    let folder = Folder::new();
    let lines: Vec<_> = (0..40)
        .map(|i| line(&format!("d{i}"), "Moon", &story(i)))
        .collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let corpus = folder.lines(&lines);
    let never = AtomicBool::new(false);
    let build_with = |name: &str, n_threads| {
        let config = splitting(&folder.collection(name), &corpus);
        build(
            &config,
            &encoder(n_threads, MAX_TOKENS),
            &NoProgress,
            &never,
        )
        .unwrap()
    };
    let whole = build_with("one", 1);
    assert_eq!(whole.counts.documents, 40);
    assert!(whole.counts.passages > 200);
    assert_eq!(build_with("three", 3).content_digest, whole.content_digest);

    let config = splitting(&folder.collection("stopped"), &corpus);
    let cancelled = AtomicBool::new(false);
    let stop = StopAt(Phase::Encode, 48, &cancelled);
    let error = build(&config, &encoder(2, MAX_TOKENS), &stop, &cancelled).unwrap_err();
    assert!(matches!(error, BuildError::Interrupted { .. }), "{error}");
    // Other settings make another build: nothing of this one is taken.
    let other = BuildConfig {
        stride: Some(41),
        mode: BuildMode::Resume,
        ..config.clone()
    };
    assert_eq!(run(&other).unwrap().n_resumed, 0);
    let resumed = run(&BuildConfig {
        mode: BuildMode::Resume,
        ..config.clone()
    })
    .unwrap();
    assert_eq!(resumed.n_resumed, 48);
    assert_eq!(resumed.content_digest, whole.content_digest);
    assert_eq!(resumed.counts, whole.counts);

    let collection = Collection::open(&config.collection).unwrap();
    let manifest = collection.generation(&resumed.generation).unwrap().manifest;
    assert_eq!(manifest.build["stride"], 40);
    assert_eq!(manifest.fingerprint["passage"]["split"]["stride"], 40);
    assert_eq!(manifest.fingerprint["passage"]["max_tokens"], MAX_TOKENS);
}

#[test]
fn impossible_requests_have_names() {
    let folder = Folder::new();
    let corpus = folder.lines(&[&line("a", "", "x"), &line("a#1", "", "y")]);
    let base = splitting(&folder.collection("c"), &corpus);
    let check = |config: BuildConfig, expected: &str| {
        let error = run(&config).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let found = format!("{error}: {}", cause.unwrap_or_default());
        assert!(found.contains(expected), "{found}");
        assert!(!config.collection.exists());
    };
    check(base.clone(), "`a#1` shares ids with");
    for stride in [0, MAX_TOKENS + 1] {
        let config = BuildConfig {
            stride: Some(stride),
            ..base.clone()
        };
        check(
            config,
            &format!("a stride of {stride} tokens, expected 1 to 64"),
        );
    }
    let passage_template = Template::parse("<title>").unwrap();
    let config = BuildConfig {
        passage_template,
        ..base
    };
    check(config, "the template has no `<text>`");
}
