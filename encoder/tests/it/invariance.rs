//! A vector depends on its own text only: not on the batch, its order, or the threads.

use compute::{Level, Simd};
use encoder::{
    Arithmetic, BiEncoder, CrossEncoder, Embeddings, EncoderConfig, ModelOptions, Role, Text,
    Tokens, kernel_paths,
};

use crate::levels;

const BI_ENCODERS: [&str; 5] = [
    "tiny-bert",
    "tiny-bert-cls-dense",
    "tiny-roberta",
    "tiny-distilbert",
    "tiny-mpnet",
];

/// Those that candle-transformers computes, in f32.
const FOREIGN: [&str; 3] = ["tiny-t5", "tiny-modernbert", "tiny-qwen3"];

const ARITHMETIC: [Arithmetic; 5] = [
    Arithmetic::F32,
    Arithmetic::Fixed16,
    Arithmetic::Bf16x3,
    Arithmetic::Bf16,
    Arithmetic::Int8,
];

fn load(
    name: &str,
    (arithmetic, level): (Arithmetic, Level),
    threads: usize,
    batch_tokens: usize,
) -> BiEncoder {
    let config = EncoderConfig {
        threads,
        batch_tokens,
        arithmetic,
        simd: Some(level),
        ..EncoderConfig::default()
    };
    BiEncoder::load(
        &testkit::fixture("models").join(name),
        &ModelOptions::default(),
        &config,
    )
    .expect("the model loads")
}

/// Texts of many lengths, some cut, some empty.
fn texts() -> Vec<String> {
    let words = [
        "river",
        "stone",
        "market",
        "engine",
        "garden",
        "letter",
        "winter",
        "copper",
        "signal",
        "é",
        "図書館",
    ];
    let word = |i: usize| words[(i * i + i / 7) % words.len()];
    (0..40)
        .map(|i| {
            (0..i * 13 % 90)
                .map(|j| word(i + j))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

fn tokens(encoder: &BiEncoder) -> Vec<Tokens> {
    let texts = texts();
    let texts: Vec<Text<'_>> = texts.iter().map(|text| Text::Single(text)).collect();
    encoder
        .tokenize(Role::Passage, &texts)
        .expect("texts tokenise")
}

/// A permutation of 0..n, another for each seed.
fn shuffled(n: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

fn assert_same_rows(name: &str, found: &Embeddings, order: &[usize], expected: &Embeddings) {
    for (place, &index) in order.iter().enumerate() {
        assert_eq!(
            found.row(place),
            expected.row(index),
            "{name}: text {index} at place {place}"
        );
    }
}

#[test]
fn vectors_are_bit_equal_for_every_order_grouping_and_number_of_threads() {
    let mut cases: Vec<_> = FOREIGN
        .map(|name| (name, (Arithmetic::F32, Level::Portable)))
        .to_vec();
    for name in BI_ENCODERS {
        for level in levels() {
            cases.extend(ARITHMETIC.map(|arithmetic| (name, (arithmetic, level))));
        }
    }
    for (name, kernels) in cases {
        let alone = load(name, kernels, 1, 1);
        assert!(alone.batch_invariant());
        let tokens = tokens(&alone);
        let expected = alone.encode(&tokens).expect("texts encode");
        for (seed, threads, batch_tokens) in [(1, 1, 64), (2, 2, 100), (3, 3, 384), (4, 2, 100_000)]
        {
            let encoder = load(name, kernels, threads, batch_tokens);
            let order = shuffled(tokens.len(), seed);
            let permuted: Vec<Tokens> = order.iter().map(|&index| tokens[index].clone()).collect();
            assert_same_rows(
                &format!("{name} {kernels:?}"),
                &encoder.encode(&permuted).expect("texts encode"),
                &order,
                &expected,
            );
        }
    }
}

#[test]
fn all_minilm_is_bit_equal_alone_and_in_a_batch() {
    let mut plain = None;
    // The least cosine to f32 that the documentation promises.
    for (arithmetic, least) in ARITHMETIC.into_iter().zip([1.0, 0.999_999, 0.9999, 0.99]) {
        let config = EncoderConfig {
            threads: 2,
            arithmetic,
            ..EncoderConfig::default()
        };
        let options = ModelOptions {
            passage_tokens: Some(512),
            ..ModelOptions::default()
        };
        let encoder =
            BiEncoder::load(&testkit::default_model(), &options, &config).expect("the model loads");
        let mut tokens = tokens(&encoder);
        let long = "water runs down to the sea. ".repeat(90);
        tokens.extend(
            encoder
                .tokenize(Role::Passage, &[Text::Single(&long)])
                .expect("a text tokenises"),
        );
        assert_eq!(tokens[40].len(), 512);
        let together = encoder.encode(&tokens).expect("texts encode");
        for index in [0, 1, 7, 20, 39, 40] {
            let alone = encoder
                .encode(&tokens[index..=index])
                .expect("a text encodes");
            assert_eq!(
                alone.values,
                together.row(index),
                "{arithmetic:?} text {index}"
            );
        }
        let plain = plain.get_or_insert_with(|| together.clone());
        for index in 0..together.len() {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                let pairs = a.iter().zip(b);
                pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
            };
            let (a, b) = (together.row(index), plain.row(index));
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(
                cosine >= least - 1e-12,
                "{arithmetic:?} text {index}: {cosine}"
            );
        }
    }
}

#[test]
fn scores_are_bit_equal_alone_and_in_a_batch() {
    let texts = texts();
    let pairs: Vec<(&str, &str)> = texts
        .iter()
        .map(|text| ("stone garden", text.as_str()))
        .collect();
    let mut cases = vec![("tiny-cross-modernbert", Arithmetic::F32, Level::Portable)];
    for name in [
        "tiny-cross-bert",
        "tiny-cross-bert-3",
        "tiny-cross-roberta",
        "tiny-cross-distilbert",
    ] {
        for level in levels() {
            cases.extend(ARITHMETIC.map(|arithmetic| (name, arithmetic, level)));
        }
    }
    for (name, arithmetic, level) in cases {
        let config = EncoderConfig {
            threads: 2,
            batch_tokens: 150,
            arithmetic,
            simd: Some(level),
            ..EncoderConfig::default()
        };
        let path = testkit::fixture("models").join(name);
        let encoder = CrossEncoder::load(&path, None, &config).expect("the model loads");
        let tokens = encoder.tokenize(&pairs).expect("pairs tokenise");
        let together = encoder.score(&tokens).expect("pairs score");
        assert_eq!(together.values.len(), pairs.len() * encoder.n_labels());
        for (index, pair) in tokens.iter().enumerate() {
            let alone = encoder
                .score(std::slice::from_ref(pair))
                .expect("a pair scores");
            let row = &together.values[index * encoder.n_labels()..][..encoder.n_labels()];
            assert_eq!(
                alone.values, row,
                "{name} {arithmetic:?} {level:?}: pair {index}"
            );
        }
    }
}

#[test]
fn the_path_that_was_asked_for_is_the_one_that_runs() {
    let widest = Simd::detect();
    for level in Level::ALL {
        for arithmetic in ARITHMETIC {
            let config = EncoderConfig {
                threads: 2,
                arithmetic,
                simd: Some(level),
                ..EncoderConfig::default()
            };
            let options = ModelOptions::default();
            let encoder = BiEncoder::load(&testkit::default_model(), &options, &config)
                .expect("the model loads");
            let simd = widest.at_most(level);
            let expected = match arithmetic {
                Arithmetic::Bf16 | Arithmetic::Bf16x3 if simd.has_amx() => "amx".to_owned(),
                Arithmetic::Int8 if simd.has_amx_int8() => "amx".to_owned(),
                _ => widest.at_most(level.min(Level::Avx512)).to_string(),
            };
            let products = || {
                let paths = kernel_paths();
                let path = paths
                    .iter()
                    .find(|path| path.simd == expected && path.arithmetic == arithmetic);
                path.map_or(0, |path| path.n_products)
            };
            let before = products();
            let text = Text::Single("the river runs to the sea");
            encoder
                .encode_texts(Role::Passage, &[text])
                .expect("a text encodes");
            // Four products with weights in each of six layers.
            assert!(products() >= before + 24, "{arithmetic:?} at {level:?}");
        }
    }
}

#[test]
fn nothing_gives_nothing() {
    for (name, arithmetic) in [
        ("tiny-bert", Arithmetic::Fixed16),
        ("tiny-t5", Arithmetic::F32),
    ] {
        let encoder = load(name, (arithmetic, Level::Amx), 2, 384);
        let embeddings = encoder
            .encode_texts(Role::Query, &[])
            .expect("nothing encodes");
        assert!(embeddings.is_empty());
        assert_eq!(
            (embeddings.len(), embeddings.width, embeddings.n_tokens),
            (0, encoder.width(), 0)
        );
    }
}

#[test]
fn encoders_are_shared_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<BiEncoder>();
    assert_shared::<CrossEncoder>();
    let encoder = load("tiny-bert", (Arithmetic::F32, Level::Amx), 2, 64);
    let tokens = tokens(&encoder);
    let expected = encoder.encode(&tokens).expect("texts encode");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(encoder.encode(&tokens).expect("texts encode"), expected));
        }
    });
}
