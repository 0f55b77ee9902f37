//! Lengths, truncation, prompts and pairs.

use encoder::{
    BiEncoder, CrossEncoder, EncodeError, EncoderConfig, ModelOptions, Role, Text, TextTokenizer,
    Tokens, Truncation,
};

fn load(name: &str, options: &ModelOptions) -> BiEncoder {
    let path = testkit::fixture("models").join(name);
    BiEncoder::load(&path, options, &EncoderConfig::default()).expect("the model loads")
}

fn minilm() -> BiEncoder {
    BiEncoder::load(
        &testkit::default_model(),
        &ModelOptions::default(),
        &EncoderConfig::default(),
    )
    .expect("the model loads")
}

/// A text of `n` tokens and two special ones that ends in `last`.
fn words(n: usize, last: &str) -> String {
    format!("{}{last}", "stone ".repeat(n - 1))
}

#[test]
fn token_129_changes_the_vector() {
    // The model's tokenizer.json carries a truncation and a padding to 128; sentence_bert_config.json says 256.
    let encoder = minilm();
    assert_eq!(encoder.max_tokens(Role::Passage), 256);
    let (river, engine) = (words(127, "river"), words(127, "engine"));
    let texts = [Text::Single(&river), Text::Single(&engine)];
    let tokens = encoder
        .tokenize(Role::Passage, &texts)
        .expect("texts tokenise");
    assert_eq!((tokens[0].len(), tokens[0].truncated), (129, false));
    let embeddings = encoder.encode(&tokens).expect("texts encode");
    assert_eq!((embeddings.n_tokens, embeddings.n_truncated), (258, 0));
    let largest = embeddings
        .row(0)
        .iter()
        .zip(embeddings.row(1))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(largest > 1e-3, "{largest}");
}

#[test]
fn truncation_is_counted_from_the_first_lost_token() {
    let encoder = minilm();
    let (fits, cut) = (words(254, "river"), words(255, "river"));
    let texts = [Text::Single(&fits), Text::Single(&cut), Text::Single("")];
    let tokens = encoder
        .tokenize(Role::Passage, &texts)
        .expect("texts tokenise");
    let lengths: Vec<_> = tokens
        .iter()
        .map(|text| (text.len(), text.truncated))
        .collect();
    assert_eq!(lengths, [(256, false), (256, true), (2, false)]);
    let embeddings = encoder.encode(&tokens).expect("texts encode");
    assert_eq!(
        (
            embeddings.len(),
            embeddings.n_tokens,
            embeddings.n_truncated
        ),
        (3, 514, 1)
    );
    assert_eq!(
        encoder
            .encode_texts(Role::Passage, &texts)
            .expect("texts encode"),
        embeddings
    );
}

#[test]
fn queries_and_passages_have_lengths_of_their_own() {
    let options = ModelOptions {
        query_tokens: Some(8),
        passage_tokens: Some(20),
        ..ModelOptions::default()
    };
    let encoder = load("tiny-bert", &options);
    let text = words(30, "river");
    let length = |role| {
        encoder
            .tokenize(role, &[Text::Single(&text)])
            .expect("a text tokenises")[0]
            .len()
    };
    assert_eq!((length(Role::Query), length(Role::Passage)), (8, 20));
}

#[test]
fn a_prompt_stands_before_the_text() {
    let encoder = load("tiny-bert-cls-dense", &ModelOptions::default());
    assert_eq!(
        (encoder.prompt(Role::Query), encoder.prompt(Role::Passage)),
        ("query: ", "passage: ")
    );
    let prompted = encoder
        .tokenize(Role::Query, &["stone".into()])
        .expect("a text tokenises");
    let written = encoder
        .tokenize_with_prompt("", Role::Query, &["query: stone".into()])
        .expect("a text tokenises");
    assert_eq!(prompted, written);
    let options = ModelOptions {
        query_prompt: Some(String::new()),
        ..ModelOptions::default()
    };
    let bare = load("tiny-bert-cls-dense", &options)
        .tokenize(Role::Query, &["stone".into()])
        .expect("tokenises");
    assert!(bare[0].len() < prompted[0].len());
}

#[test]
fn a_pair_has_two_segments_and_loses_its_longer_text_first() {
    let encoder = load("tiny-bert", &ModelOptions::default());
    let long = words(200, "river");
    let pair = Text::Pair("stone", &long);
    let tokens = encoder
        .tokenize(Role::Passage, &[Text::Pair("stone", "river"), pair])
        .expect("pairs tokenise");
    let n_first = encoder
        .tokenize(Role::Passage, &["stone".into()])
        .expect("a text tokenises")[0]
        .len();
    for pair in &tokens {
        assert_eq!(
            pair.type_ids.iter().filter(|&&id| id == 0).count(),
            n_first,
            "[CLS] stone [SEP]"
        );
    }
    assert_eq!(
        (tokens[1].len(), tokens[1].truncated, tokens[0].truncated),
        (64, true, false)
    );
}

#[test]
fn tokens_that_the_model_has_no_row_for_are_refused() {
    let encoder = load("tiny-bert", &ModelOptions::default());
    let check = |tokens: Tokens, expected: &str| {
        let good = Tokens {
            ids: vec![1],
            type_ids: vec![0],
            ..Tokens::default()
        };
        let error = encoder
            .encode(&[good, tokens])
            .expect_err("row 1 is refused");
        assert_eq!(error.to_string(), expected);
    };
    let tokens = |ids: Vec<u32>, type_ids: Vec<u32>| Tokens {
        ids,
        type_ids,
        ..Tokens::default()
    };
    check(tokens(vec![], vec![]), "row 1 has no tokens");
    check(
        tokens(vec![1; 129], vec![0; 129]),
        "row 1 has 129 tokens, the model takes 128",
    );
    check(
        tokens(vec![1; 3], vec![0; 2]),
        "row 1 has 3 ids and 2 type ids",
    );
    check(
        tokens(vec![1, 576], vec![0; 2]),
        "row 1 has token id 576, the model has 576",
    );
    check(
        tokens(vec![1, 2], vec![0, 2]),
        "row 1 has type id 2, the model has 2",
    );
    let cross = CrossEncoder::load(
        &testkit::fixture("models/tiny-cross-bert"),
        None,
        &EncoderConfig::default(),
    );
    let error = cross
        .expect("the model loads")
        .score(&[Tokens::default()])
        .expect_err("no tokens");
    assert!(matches!(error, EncodeError::Empty { row: 0 }));
}

#[test]
fn ids_put_together_are_the_text_encoded() {
    for name in [
        "tiny-bert",
        "tiny-roberta",
        "tiny-xlm-roberta",
        "tiny-distilbert",
        "tiny-mpnet",
    ] {
        let folder = testkit::fixture("models").join(name);
        let tokenizer = TextTokenizer::load(&folder, false).expect("the tokenizer loads");
        let (first, second) = (
            "stones of the river",
            "The engine runs, and runs; it never stops.",
        );
        let ids = |text: &str| tokenizer.ids(text).expect("a text tokenises");
        let (first_ids, second_ids) = (ids(first), ids(second));
        for max_tokens in [4, 5, 7, 10, 100] {
            let put = |second: Option<&[u32]>, truncation| {
                let tokens = tokenizer.assemble(&first_ids, second, max_tokens, truncation);
                tokens.expect("ids of this tokenizer")
            };
            let encode = |text| {
                tokenizer
                    .encode("", text, max_tokens)
                    .expect("a text tokenises")
            };
            let single = encode(Text::Single(first));
            assert_eq!(
                put(None, Truncation::LongestFirst),
                single,
                "{name} {max_tokens}"
            );
            let pair = encode(Text::Pair(first, second));
            let put_pair = put(Some(&second_ids), Truncation::LongestFirst);
            assert_eq!(put_pair, pair, "{name} {max_tokens}");
            // The second text loses all it can before the first loses anything.
            let only_second = put(Some(&second_ids), Truncation::OnlySecond);
            let n_first = first_ids.len().min(max_tokens - tokenizer.n_special(true));
            assert_eq!(only_second.len(), pair.len());
            assert_eq!(only_second.truncated, pair.truncated);
            assert_eq!(
                only_second.ids[1..=n_first],
                first_ids[..n_first],
                "{name} {max_tokens}"
            );
        }
    }
}
