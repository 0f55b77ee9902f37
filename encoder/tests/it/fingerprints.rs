//! What vectors depend on, and what they do not.

use encoder::{
    BiEncoder, CrossEncoder, EncoderConfig, Fingerprint, ModelOptions, Pooling, Similarity,
    TextSpec,
};
use safetensors::SafeTensors;

use crate::directories::{copy, edit};

fn fingerprint_with(name: &str, options: &ModelOptions, texts: &TextSpec) -> Fingerprint {
    let path = testkit::fixture("models").join(name);
    BiEncoder::load(&path, options, &EncoderConfig::default())
        .expect("the model loads")
        .fingerprint(texts)
}

fn fingerprint(name: &str) -> Fingerprint {
    fingerprint_with(name, &ModelOptions::default(), &TextSpec::default())
}

fn check_difference(left: &Fingerprint, right: &Fingerprint, entry: &str) {
    assert_eq!(
        left.first_difference(right)
            .map(|difference| difference.entry)
            .as_deref(),
        Some(entry)
    );
    assert_ne!(left.digest(), right.digest());
}

#[test]
fn one_file_several_and_a_pickle_have_one_fingerprint() {
    let one = fingerprint("tiny-bert");
    assert_eq!(
        one.first_difference(&fingerprint("tiny-bert-sharded")),
        None
    );
    assert_eq!(one.first_difference(&fingerprint("tiny-bert-bin")), None);
    let options = ModelOptions {
        pooling: Some(Pooling::Mean),
        normalize: Some(true),
        similarity: Some(Similarity::Cosine),
        query_tokens: Some(64),
        passage_tokens: Some(64),
        ..ModelOptions::default()
    };
    let plain = fingerprint_with("tiny-bert-plain", &options, &TextSpec::default());
    assert_eq!(one.digest(), plain.digest());
}

#[test]
fn whatever_changes_a_vector_changes_the_fingerprint() {
    let bert = fingerprint("tiny-bert");
    check_difference(
        &bert,
        &fingerprint("tiny-bert-weighted"),
        "space.architecture.activation",
    );
    check_difference(
        &bert,
        &fingerprint("tiny-distilbert"),
        "space.architecture.family",
    );
    let options = ModelOptions {
        passage_tokens: Some(20),
        ..ModelOptions::default()
    };
    check_difference(
        &bert,
        &fingerprint_with("tiny-bert", &options, &TextSpec::default()),
        "passage.max_tokens",
    );
    let texts = TextSpec {
        query_template: "<title>".into(),
        ..TextSpec::default()
    };
    check_difference(
        &bert,
        &fingerprint_with("tiny-bert", &ModelOptions::default(), &texts),
        "query.template",
    );
    let texts = TextSpec {
        passage_pair: true,
        ..TextSpec::default()
    };
    check_difference(
        &bert,
        &fingerprint_with("tiny-bert", &ModelOptions::default(), &texts),
        "passage.pair",
    );
    let texts = TextSpec {
        passage_stride: Some(96),
        ..TextSpec::default()
    };
    check_difference(
        &bert,
        &fingerprint_with("tiny-bert", &ModelOptions::default(), &texts),
        "passage.split",
    );
}

#[test]
fn a_changed_bit_counts_where_the_forward_reads_it() {
    let changed = |tensor: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&testkit::fixture("models/tiny-bert"), folder.path());
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).expect("weights");
        let (header, metadata) = SafeTensors::read_metadata(&bytes).expect("valid weights");
        let start = metadata
            .info(tensor)
            .expect("the tensor is there")
            .data_offsets
            .0;
        bytes[8 + header + start] ^= 1; // the last bit of its first float
        std::fs::write(&path, bytes).expect("weights are written");
        let encoder = BiEncoder::load(
            folder.path(),
            &ModelOptions::default(),
            &EncoderConfig::default(),
        );
        encoder
            .expect("the model loads")
            .fingerprint(&TextSpec::default())
    };
    check_difference(
        &fingerprint("tiny-bert"),
        &changed("encoder.layer.1.output.dense.weight"),
        "space.weights",
    );
    assert_eq!(
        fingerprint("tiny-bert").digest(),
        changed("pooler.dense.weight").digest()
    );
}

/// As in transformers, where MPNet counts positions from 2 and RoBERTa from behind the padding id of `config.json`.
#[test]
fn the_padding_id_counts_where_positions_begin_behind_it() {
    let changed = |name: &str| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&testkit::fixture("models").join(name), folder.path());
        edit(&folder.path().join("config.json"), |config| {
            config["pad_token_id"] = serde_json::json!(3);
        });
        let (options, config) = (ModelOptions::default(), EncoderConfig::default());
        let encoder = BiEncoder::load(folder.path(), &options, &config);
        encoder
            .expect("the model loads")
            .fingerprint(&TextSpec::default())
    };
    let (own, other) = (fingerprint("tiny-mpnet"), changed("tiny-mpnet"));
    assert_eq!(own.first_difference(&other), None);
    check_difference(
        &fingerprint("tiny-roberta"),
        &changed("tiny-roberta"),
        "space.architecture.first_position",
    );
}

#[test]
fn a_cross_encoder_has_a_fingerprint_of_its_own() {
    let load = |max_tokens| {
        let path = testkit::fixture("models/tiny-cross-bert");
        CrossEncoder::load(&path, max_tokens, &EncoderConfig::default())
            .expect("the model loads")
            .fingerprint()
    };
    assert_eq!(load(None).digest(), load(Some(64)).digest());
    check_difference(&load(None), &load(Some(32)), "passage.max_tokens");
}
