//! Vectors and scores equal those of the reference implementation.

use std::path::Path;

use encoder::{
    BiEncoder, CrossEncoder, EncoderConfig, Golden, GoldenReport, ModelOptions, Pooling, Similarity,
};

use crate::levels;

/// At each level of this machine.
fn configs() -> impl Iterator<Item = EncoderConfig> {
    levels().into_iter().map(|level| EncoderConfig {
        threads: 2,
        simd: Some(level),
        ..EncoderConfig::default()
    })
}

fn assert_passed(name: &str, report: &GoldenReport) {
    println!("{name}: {report:?}");
    assert!(report.passed, "{name}: {report:?}");
    assert!(report.n >= 5, "{name}: {report:?}");
}

fn check_bi(model: &Path, golden: &str, options: &ModelOptions) {
    let golden = Golden::load(&testkit::golden("encoder").join(golden).join("golden.json"))
        .expect("golden file");
    for config in configs() {
        let encoder = BiEncoder::load(model, options, &config).expect("the model loads");
        let report = golden.check_bi(&encoder).expect("comparable");
        assert_passed(&format!("{} {:?}", encoder.name(), config.simd), &report);
    }
}

fn check_tiny(name: &str, golden: &str) {
    check_bi(
        &testkit::fixture("models").join(name),
        golden,
        &ModelOptions::default(),
    );
}

fn check_cross(name: &str) {
    let path = testkit::fixture("models").join(name);
    let golden = Golden::load(&testkit::golden("encoder").join(name).join("golden.json"))
        .expect("golden file");
    for config in configs() {
        let encoder = CrossEncoder::load(&path, None, &config).expect("the model loads");
        let report = golden.check_cross(&encoder).expect("comparable");
        assert_passed(&format!("{name} {:?}", config.simd), &report);
    }
}

#[test]
fn all_minilm_l6_v2() {
    check_bi(
        &testkit::default_model(),
        "minilm",
        &ModelOptions::default(),
    );
}

#[test]
fn bert() {
    check_tiny("tiny-bert", "tiny-bert");
}

#[test]
fn bert_in_three_weight_files() {
    check_tiny("tiny-bert-sharded", "tiny-bert");
}

#[test]
fn bert_as_a_pickle() {
    check_tiny("tiny-bert-bin", "tiny-bert");
}

#[test]
fn bert_with_options_in_place_of_modules() {
    let options = ModelOptions {
        pooling: Some(Pooling::Mean),
        normalize: Some(true),
        similarity: Some(Similarity::Cosine),
        query_tokens: Some(64),
        passage_tokens: Some(64),
        ..ModelOptions::default()
    };
    check_bi(
        &testkit::fixture("models/tiny-bert-plain"),
        "tiny-bert",
        &options,
    );
}

#[test]
fn bert_with_prompts_and_a_dense_module() {
    check_tiny("tiny-bert-cls-dense", "tiny-bert-cls-dense");
}

#[test]
fn bert_with_weighted_mean_and_relu() {
    check_tiny("tiny-bert-weighted", "tiny-bert-weighted");
}

#[test]
fn bert_with_the_last_token_and_approximate_gelu() {
    check_tiny("tiny-bert-last", "tiny-bert-last");
}

#[test]
fn roberta() {
    check_tiny("tiny-roberta", "tiny-roberta");
}

#[test]
fn xlm_roberta() {
    check_tiny("tiny-xlm-roberta", "tiny-xlm-roberta");
}

#[test]
fn distilbert() {
    check_tiny("tiny-distilbert", "tiny-distilbert");
}

#[test]
fn mpnet() {
    check_tiny("tiny-mpnet", "tiny-mpnet");
}

#[test]
fn t5_with_a_dense_module() {
    check_tiny("tiny-t5", "tiny-t5");
}

#[test]
fn t5_with_one_step_of_the_decoder() {
    check_tiny("tiny-t5-relu", "tiny-t5-relu");
    check_tiny("tiny-t5-gated", "tiny-t5-gated");
}

#[test]
fn modernbert() {
    check_tiny("tiny-modernbert", "tiny-modernbert");
}

#[test]
fn qwen3_with_the_last_token() {
    check_tiny("tiny-qwen3", "tiny-qwen3");
}

#[test]
fn cross_encoder_with_sigmoid() {
    check_cross("tiny-cross-bert");
}

#[test]
fn cross_encoder_with_three_labels() {
    check_cross("tiny-cross-bert-3");
}

#[test]
fn cross_encoder_of_roberta() {
    check_cross("tiny-cross-roberta");
}

#[test]
fn cross_encoder_of_distilbert() {
    check_cross("tiny-cross-distilbert");
}

#[test]
fn cross_encoder_of_modernbert() {
    check_cross("tiny-cross-modernbert");
}
