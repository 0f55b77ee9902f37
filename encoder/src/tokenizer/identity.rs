//! The fast path against the tokenizers crate: equal ids, types and truncation on whatever a text can hold.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Planes with assigned characters: all of their blocks, and every 64th of the others.
const DENSE_PLANES: [u32; 5] = [0, 1, 2, 3, 14];

/// Encodes both ways and compares; returns whether the fast path knew the answer.
fn check(tokenizer: &TextTokenizer, prompt: &str, text: Text<'_>, max_tokens: usize) -> bool {
    let is_pair = matches!(text, Text::Pair(..));
    let room = tokenizer.room(is_pair, max_tokens);
    let room = room.expect("special tokens fit");
    let plain = tokenizer
        .encode_plain(prompt, text, room, tokenizer.truncation)
        .expect("the crate encodes every text");
    let fast = tokenizer.encode_word_pieces(prompt, text, room, tokenizer.truncation);
    if let Some(fast) = &fast {
        assert_eq!(fast, &plain, "{prompt:?} {text:?} cut to {max_tokens}");
    }
    fast.is_some()
}

/// [`check`] for many single texts without truncation; returns the share that the fast path knew.
fn check_all(tokenizer: &TextTokenizer, texts: &[String]) -> f64 {
    assert!(!texts.is_empty());
    let n_fast: usize = texts
        .par_iter()
        .map(|text| usize::from(check(tokenizer, "", text.as_str().into(), usize::MAX)))
        .sum();
    n_fast as f64 / texts.len() as f64
}

#[test]
fn lengths_below_the_special_tokens_are_refused() {
    for name in ["tiny-bert", "tiny-roberta"] {
        let tokenizer = load(&testkit::fixture("models").join(name), false);
        for text in [Text::Single("tides"), Text::Pair("tides", "the moon")] {
            let is_pair = matches!(text, Text::Pair(..));
            let n_special = tokenizer.n_special(is_pair);
            let tokens = tokenizer.encode("", text, n_special).expect("no text");
            assert_eq!((tokens.len(), tokens.truncated), (n_special, true));
            let second = is_pair.then_some([7].as_slice());
            let cut = |n| tokenizer.assemble(&[6], second, n, Truncation::LongestFirst);
            assert_eq!(cut(n_special).expect("no text").ids, tokens.ids);
            for n in 0..n_special {
                let expected =
                    format!("at most {n} tokens leave no room for {n_special} special ones");
                let refused = tokenizer.encode("", text, n).expect_err("too short");
                assert_eq!(refused.to_string(), expected);
                assert_eq!(cut(n).expect_err("too short").to_string(), expected);
            }
        }
    }
}

fn load(folder: &Path, lower_case: bool) -> TextTokenizer {
    TextTokenizer::load(folder, lower_case).expect("the tokenizer loads")
}

/// The default model's tokenizer with other settings.
fn load_changed(change: impl FnOnce(&mut Value), config: Value, lower_case: bool) -> TextTokenizer {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bytes = fs::read(testkit::default_model().join("tokenizer.json")).expect("tokenizer.json");
    let mut stored: Value = serde_json::from_slice(&bytes).expect("JSON");
    change(&mut stored);
    for (name, value) in [
        ("tokenizer.json", stored),
        ("tokenizer_config.json", config),
    ] {
        fs::write(folder.path().join(name), value.to_string()).expect("a written file");
    }
    load(folder.path(), lower_case)
}

/// The settings that a BERT tokenizer can have.
fn variants() -> Vec<TextTokenizer> {
    let normalizer = |clean: bool, chinese: bool, accents: Value, lower: bool| {
        move |stored: &mut Value| {
            stored["normalizer"] = json!({
                "type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese,
                "strip_accents": accents, "lowercase": lower,
            });
        }
    };
    let left = json!({ "truncation_side": "left" });
    let untyped = json!({ "model_input_names": ["input_ids", "attention_mask"] });
    let bert = |stored: &mut Value| {
        stored["post_processor"] =
            json!({ "type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101] });
        stored["model"]["max_input_chars_per_word"] = 5.into();
    };
    let bare = |stored: &mut Value| {
        stored["post_processor"] = Value::Null;
        stored["added_tokens"] = json!([]);
        stored["model"]["continuing_subword_prefix"] = "".into();
    };
    vec![
        load_changed(normalizer(true, true, Value::Null, false), left, false),
        load_changed(normalizer(true, true, true.into(), false), untyped, true),
        load_changed(
            normalizer(false, true, false.into(), true),
            json!({}),
            false,
        ),
        load_changed(normalizer(true, false, Value::Null, true), json!({}), true),
        load_changed(
            normalizer(false, false, false.into(), false),
            json!({}),
            true,
        ),
        load_changed(bert, json!({}), false),
        load_changed(bare, json!({}), false),
    ]
}

fn default_tokenizer() -> TextTokenizer {
    load(&testkit::default_model(), false)
}

/// SplitMix64, Steele et al. 2014: texts that are the same on every machine.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn char_in(&mut self, range: RangeInclusive<u32>) -> char {
        let n = (range.end() - range.start() + 1) as usize;
        char::from_u32(range.start() + self.below(n) as u32).unwrap_or('\u{fffd}')
    }

    /// A text of words, blanks and oddities.
    fn text(&mut self) -> String {
        const WORDS: [&str; 16] = [
            "the",
            "retrieval",
            "Unaffable",
            "TOKENIZATION",
            "naïve",
            "Ångström",
            "İstanbul",
            "straße",
            "ﬁne",
            "東京",
            "Ωmega",
            "한국어",
            "don't",
            "e-mail",
            "3.14",
            "x",
        ];
        const BLANKS: [&str; 12] = [
            " ", " ", " ", "  ", "\n", "\t", "\r\n", "\u{b}", "\u{85}", "\u{a0}", "\u{2003}",
            "\u{3000}",
        ];
        const ODD: [&str; 28] = [
            "",
            "\0",
            "\u{7}",
            "\u{7f}",
            "\u{ad}",
            "\u{200b}",
            "\u{200d}",
            "\u{feff}",
            "\u{fffd}",
            "\u{fffc}",
            "\u{301}",
            "\u{345}",
            "\u{334}",
            "\u{302e}",
            "\u{1d165}",
            "\u{16ff0}",
            "\u{20dd}",
            "\u{e0001}",
            "👩‍👩‍👧",
            "🇩🇪",
            "≮",
            "…",
            "’",
            "—",
            "##ing",
            "[",
            "[[CLS",
            "<s",
        ];
        const SPECIAL: [&str; 6] = ["[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]", "<mask>"];
        const RANGES: [RangeInclusive<u32>; 14] = [
            0..=0x7f,
            0x80..=0x24f,
            0x300..=0x36f,
            0x370..=0x5ff,
            0x600..=0xfff,
            0x1000..=0x1fff,
            0x2000..=0x2fff,
            0x3000..=0x9fff,
            0xac00..=0xd7ff,
            0xf900..=0xffff,
            0x1_0000..=0x1_ffff,
            0x2_0000..=0x3_ffff,
            0xe_0000..=0xe_0fff,
            0..=0x10_ffff,
        ];
        let mut text = String::new();
        for _ in 0..self.below(24) {
            match self.below(64) {
                0..=27 => text.push_str(self.of(&WORDS)),
                28..=41 => text.push_str(self.of(&BLANKS)),
                42..=47 => text.push(self.char_in(0x21..=0x7e)),
                48..=52 => text.push_str(self.of(&ODD)),
                53 if self.below(4) == 0 => text.push_str(self.of(&SPECIAL)),
                54 if self.below(8) == 0 => {
                    let c = self.of(&['a', 'é', '字', '\u{1d538}']);
                    text.extend(std::iter::repeat_n(c, self.below(210)));
                }
                _ => {
                    let range = RANGES[self.below(RANGES.len())].clone();
                    for _ in 0..1 + self.below(6) {
                        text.push(self.char_in(range.clone()));
                    }
                }
            }
        }
        text
    }
}

fn texts(seed: u64, n: usize) -> Vec<String> {
    let mut draw = Draw(seed);
    (0..n).map(|_| draw.text()).collect()
}

/// Every character as a word, within a word, and doubled; 32 of them to a text.
fn every_character() -> Vec<String> {
    let all: Vec<char> = (0..=u32::from(char::MAX))
        .filter(|c| DENSE_PLANES.contains(&(c >> 16)) || c % 64 == 0)
        .filter_map(char::from_u32)
        .collect();
    let line = |chars: &[char]| {
        chars
            .iter()
            .map(|c| format!("{c} a{c}b x{c}{c} "))
            .collect()
    };
    all.chunks(32).map(line).collect()
}

#[test]
fn every_character_gives_the_tokens_of_the_crate() {
    let texts = every_character();
    assert!(check_all(&default_tokenizer(), &texts) > 0.95);
    // The settings change what becomes of a character in the lower planes.
    let lower: Vec<String> = texts[..0x3000 / 32].to_vec();
    for tokenizer in variants() {
        assert!(check_all(&tokenizer, &lower) > 0.8);
    }
}

#[test]
fn a_lone_character_gives_the_tokens_of_the_crate() {
    let texts: Vec<String> = (0..0x3100)
        .filter_map(char::from_u32)
        .map(String::from)
        .collect();
    assert!(check_all(&default_tokenizer(), &texts) > 0.95);
}

#[test]
fn mixed_texts_give_the_tokens_of_the_crate() {
    assert!(check_all(&default_tokenizer(), &texts(1, 40_000)) > 0.8);
    for (seed, tokenizer) in (2..).zip(variants()) {
        assert!(check_all(&tokenizer, &texts(seed, 4_000)) > 0.8);
    }
}

#[test]
fn pairs_prompts_and_truncation_give_the_tokens_of_the_crate() {
    let left = json!({ "truncation_side": "left" });
    let mut tokenizers = variants();
    tokenizers.push(default_tokenizer());
    tokenizers.push(load_changed(|_| {}, left, false));
    tokenizers
        .par_iter()
        .enumerate()
        .for_each(|(i, tokenizer)| {
            let mut draw = Draw(100 + i as u64);
            let mut n_fast = 0;
            for _ in 0..400 {
                let (first, second) = (draw.text(), draw.text());
                let prompt = draw.of(&["", "", "query: ", "straße ", "[CL"]);
                for (text, is_pair) in [
                    (Text::Single(&first), false),
                    (Text::Pair(&first, &second), true),
                ] {
                    let max_tokens = tokenizer.n_special(is_pair) + draw.below(40);
                    n_fast += usize::from(check(tokenizer, prompt, text, max_tokens));
                }
            }
            assert!(n_fast > 500, "{n_fast} of 800");
        });
}

#[test]
fn fixture_tokenizers_give_the_tokens_of_the_crate() {
    let mut n_covered = 0;
    for entry in fs::read_dir(testkit::fixture("models")).expect("the fixtures") {
        let folder = entry.expect("a fixture").path();
        if !folder.join("tokenizer.json").exists() {
            continue;
        }
        let tokenizer = load(&folder, false);
        n_covered += usize::from(tokenizer.word_pieces.is_some());
        let is_bert = fs::read_to_string(folder.join("tokenizer.json"))
            .expect("tokenizer.json")
            .contains("BertPreTokenizer");
        assert_eq!(
            tokenizer.word_pieces.is_some(),
            is_bert,
            "{}",
            folder.display()
        );
        check_all(&tokenizer, &texts(7, 200));
    }
    assert!(n_covered > 3);
}

#[test]
fn a_vocabulary_alone_gives_the_tokens_of_the_crate() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##a\nab\n##ab\n##abc\nabcabcabcab\n##abcabcabcabc\n!\né\n##字\n字\n##\u{302e}\n##\u{1d165}\n";
    fs::write(folder.path().join("vocab.txt"), vocabulary).expect("a written file");
    let tokenizer = load(folder.path(), false);
    let mut draw = Draw(9);
    let word = |draw: &mut Draw| -> String {
        (0..draw.below(30))
            .map(|_| {
                draw.of(&[
                    "a",
                    "b",
                    "c",
                    "ab",
                    "abc",
                    "é",
                    "字",
                    "!",
                    " ",
                    "\u{302e}",
                    "\u{1d165}",
                ])
            })
            .collect()
    };
    let texts: Vec<String> = (0..20_000).map(|_| word(&mut draw)).collect();
    // Two of the marks are kept and are put in order, which is the crate's to do.
    assert!((0.1..0.9).contains(&check_all(&tokenizer, &texts)));
}

/// Ids of transformers 5.23.
#[test]
fn settings_beside_a_tokenizer_stand_above_its_own() {
    let (lowered, cased) = ([1996u32, 7668, 2003, 2330], [100u32, 100, 2003, 100]);
    for (config, expected) in [
        (json!({}), lowered),
        (
            json!({ "do_lower_case": true, "strip_accents": null }),
            lowered,
        ),
        (json!({ "do_lower_case": false }), cased),
        (
            json!({ "do_lower_case": false, "tokenizer_class": "BertTokenizer" }),
            cased,
        ),
        (json!({ "strip_accents": false }), [1996, 100, 2003, 2330]),
        (
            json!({ "do_lower_case": false, "tokenizer_class": "PreTrainedTokenizerFast" }),
            lowered,
        ),
    ] {
        let shown = config.to_string();
        let tokenizer = load_changed(|_: &mut Value| (), config, false);
        let ids = tokenizer.ids("The Café is OPEN").expect("tokens");
        assert_eq!(ids, expected, "{shown}");
        assert!(tokenizer.word_pieces.is_some(), "{shown}");
    }
    let keeps = |stored: &mut Value| stored["normalizer"]["strip_accents"] = false.into();
    for (config, expected) in [
        (json!({}), [1996, 100, 2003, 2330]),
        (json!({ "strip_accents": null }), lowered),
    ] {
        let shown = config.to_string();
        let tokenizer = load_changed(keeps, config, false);
        let ids = tokenizer.ids("The Café is OPEN").expect("tokens");
        assert_eq!(ids, expected, "{shown}");
    }
}

#[test]
fn the_space_before_byte_pieces_is_that_of_the_settings_beside_them() {
    let source = testkit::fixture("models/tiny-roberta");
    let stored = fs::read(source.join("tokenizer.json")).expect("tokenizer.json");
    let stored: Value = serde_json::from_slice(&stored).expect("JSON");
    let load_with = |own: bool, config: Value| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut stored = stored.clone();
        stored["pre_tokenizer"]["add_prefix_space"] = own.into();
        for (name, value) in [
            ("tokenizer.json", stored),
            ("tokenizer_config.json", config),
        ] {
            fs::write(folder.path().join(name), value.to_string()).expect("a written file");
        }
        load(folder.path(), false)
    };
    let plain = load_with(false, json!({}));
    let ids = |tokenizer: &TextTokenizer, text: &str| tokenizer.ids(text).expect("tokens");
    let (bare, spaced) = (ids(&plain, "the sky"), ids(&plain, " the sky"));
    assert_ne!(bare, spaced);
    for (own, config, expected) in [
        (false, json!({ "add_prefix_space": true }), &spaced),
        (true, json!({ "add_prefix_space": false }), &bare),
        (true, json!({}), &spaced),
        (false, json!({ "add_prefix_space": null }), &bare),
    ] {
        let shown = config.to_string();
        let found = ids(&load_with(own, config), "the sky");
        assert_eq!(found, *expected, "{shown}");
    }
}

#[test]
fn what_the_fast_path_does_not_know_is_left_to_the_crate() {
    let tokenizer = default_tokenizer();
    for (text, is_known) in [
        ("plain [CLS text", true),
        ("plain [CLS] text", false),
        ("[mask]", true),
        ("e\u{301}\u{327}", true), // marks that are removed have no order
        ("e\u{302e}", false),
    ] {
        assert_eq!(check(&tokenizer, "", text.into(), 16), is_known, "{text:?}");
    }
    let strip = json!({ "type": "Sequence", "normalizers": [{ "type": "StripAccents" }] });
    let changes: [(&str, Value); 5] = [
        ("/normalizer", Value::Null),
        ("/normalizer", strip),
        ("/pre_tokenizer", json!({ "type": "Whitespace" })),
        ("/added_tokens/0/normalized", true.into()),
        ("/model/max_input_chars_per_word", 1_000_000.into()),
    ];
    for (place, value) in changes {
        let change = |stored: &mut Value| *stored.pointer_mut(place).expect("a setting") = value;
        let tokenizer = load_changed(change, json!({}), false);
        assert!(tokenizer.word_pieces.is_none(), "{place}");
    }
}

/// At most 5,000 texts, evenly spread, of a folder with `corpus.jsonl` or `corpus.jsonl.gz`.
fn corpus(folder: &Path) -> Vec<String> {
    let plain: PathBuf = folder.join("corpus.jsonl");
    let bytes: Box<dyn std::io::Read> = if plain.exists() {
        Box::new(fs::File::open(plain).expect("a corpus"))
    } else {
        let file = fs::File::open(folder.join("corpus.jsonl.gz")).expect("a corpus");
        Box::new(MultiGzDecoder::new(file))
    };
    let text = |line: std::io::Result<String>| {
        let passage: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let field = |name: &str| passage[name].as_str().unwrap_or_default().to_owned();
        format!("{} {}", field("title"), field("text"))
    };
    let texts: Vec<String> = BufReader::new(bytes).lines().map(text).collect();
    let step = texts.len().div_ceil(5_000).max(1);
    texts.into_iter().step_by(step).collect()
}

#[test]
fn real_sets_give_the_tokens_of_the_crate() {
    let tokenizer = default_tokenizer();
    assert!(check_all(&tokenizer, &corpus(&testkit::fixture("sample"))) > 0.99);
    let Some(data) = testkit::data_folder() else {
        println!("sets of TRAWL_DATA did not run: it names no folder of data sets");
        return;
    };
    for set in fs::read_dir(data).expect("the data folder") {
        let folder = set.expect("a set").path();
        if folder.join("corpus.jsonl.gz").exists() {
            let n_fast = check_all(&tokenizer, &corpus(&folder));
            assert!(n_fast > 0.99, "{}: {n_fast}", folder.display());
        }
    }
}
