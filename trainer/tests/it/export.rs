//! Directories that were written, read back by the serving engine.

use std::path::Path;

use encoder::training::{Encoder, Engine, EngineConfig, Parameters};
use encoder::{
    BiEncoder, Checkpoint, CrossEncoder, Directory, EncoderConfig, ModelOptions, OutputActivation,
    Pooling, Role, Step, Text,
};
use trainer::export::{BiEncoderExport, CrossEncoderExport, DenseExport, Tensors};

const TEXTS: [&str; 3] = [
    "How tides come about",
    "why is the sky blue?",
    "a steak browns",
];

fn parameters(folder: &Path) -> Parameters {
    let engine = Engine::new(&EngineConfig::default()).unwrap();
    Encoder::load(folder, &engine).unwrap().parameters().clone()
}

/// Loads a fixture, writes it out untrained, and compares vectors of both sides.
fn check_bi_encoder(name: &str) {
    let fixture = testkit::fixture("models").join(name);
    let load = |path: &Path| {
        BiEncoder::load(path, &ModelOptions::default(), &EncoderConfig::default()).unwrap()
    };
    let before = load(&fixture);
    let directory = Directory::read(&fixture, &ModelOptions::default()).unwrap();
    let dense = directory.steps.iter().find_map(|step| match step {
        Step::Dense(config) => Some(config),
        Step::Normalize => None,
    });
    let dense = dense.map(|config| {
        let checkpoint = Checkpoint::open(&config.folder).unwrap();
        let bias = checkpoint.tensor("linear.bias", &[config.n_out]);
        DenseExport {
            n_in: config.n_in,
            n_out: config.n_out,
            weight: checkpoint
                .tensor("linear.weight", &[config.n_out, config.n_in])
                .unwrap(),
            bias: config.has_bias.then(|| bias.unwrap()),
            activation: config.activation,
        }
    });
    let mut weights = Tensors::new();
    weights
        .extend(&parameters(&directory.transformer), |name| {
            Some(name.to_owned())
        })
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let export = BiEncoderExport {
        source: &directory.transformer,
        weights,
        lower_case: directory.lower_case,
        max_tokens: before.max_tokens(Role::Passage),
        pooling: directory.pooling[0],
        pools_prompt: directory.pools_prompt,
        dense,
        normalize: directory.steps.contains(&Step::Normalize),
        similarity: directory.similarity,
        query_prompt: &directory.query_prompt,
        passage_prompt: &directory.passage_prompt,
    };
    export.write(folder.path()).unwrap();
    let after = load(folder.path());
    assert_eq!(before.similarity(), after.similarity());
    for role in [Role::Query, Role::Passage] {
        assert_eq!(before.prompt(role), after.prompt(role), "{name}");
        assert_eq!(before.max_tokens(role), after.max_tokens(role), "{name}");
        let encode = |encoder: &BiEncoder| {
            encoder
                .encode_texts(role, &TEXTS.map(Text::Single))
                .unwrap()
        };
        assert_eq!(encode(&before), encode(&after), "{name}");
    }
}

#[test]
fn bi_encoders_come_back_as_they_were() {
    for name in [
        "tiny-bert",
        "tiny-bert-cls-dense",
        "tiny-bert-last",
        "tiny-distilbert",
        "tiny-mpnet",
        "tiny-roberta",
    ] {
        check_bi_encoder(name);
    }
}

#[test]
fn a_cross_encoder_comes_back_with_its_logits() {
    let fixture = testkit::fixture("models/tiny-cross-bert");
    let width = 32;
    let checkpoint = Checkpoint::open(&fixture).unwrap();
    let mut weights = Tensors::new();
    weights
        .extend(&parameters(&fixture), |name| Some(format!("bert.{name}")))
        .unwrap();
    for (name, shape) in [
        ("bert.pooler.dense.weight", vec![width, width]),
        ("bert.pooler.dense.bias", vec![width]),
        ("classifier.weight", vec![1, width]),
        ("classifier.bias", vec![1]),
    ] {
        weights
            .insert(name, &shape, checkpoint.head_tensor(name, &shape).unwrap())
            .unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    CrossEncoderExport {
        source: &fixture,
        weights,
        lower_case: false,
        max_tokens: 48,
        rank_prior: None,
    }
    .write(folder.path())
    .unwrap();
    let load = |path: &Path| CrossEncoder::load(path, None, &EncoderConfig::default()).unwrap();
    let (before, after) = (load(&fixture), load(folder.path()));
    assert_eq!(after.max_tokens(), 48);
    let pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[0])];
    let score = |encoder: &CrossEncoder| encoder.score(&encoder.tokenize(&pairs).unwrap()).unwrap();
    let (before, after) = (score(&before), score(&after));
    assert_eq!(before.logits, after.logits);
    assert_eq!(after.values, after.logits, "no sigmoid behind the score");
}

#[test]
fn a_dense_layer_names_an_identity_that_is_not_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = testkit::fixture("models/tiny-bert");
    let mut weights = Tensors::new();
    weights
        .extend(&parameters(&fixture), |name| Some(name.to_owned()))
        .unwrap();
    let dense = DenseExport {
        n_in: 32,
        n_out: 8,
        weight: (0..256).map(|i| (i as f32).sin()).collect(),
        bias: None,
        activation: OutputActivation::Identity,
    };
    let export = BiEncoderExport {
        source: &fixture,
        weights,
        lower_case: false,
        max_tokens: 64,
        pooling: Pooling::Cls,
        pools_prompt: true,
        dense: Some(dense),
        normalize: true,
        similarity: encoder::Similarity::InnerProduct,
        query_prompt: "query: ",
        passage_prompt: "",
    };
    export.write(folder.path()).unwrap();
    let directory = Directory::read(folder.path(), &ModelOptions::default()).unwrap();
    assert_eq!(directory.steps.len(), 2);
    assert!(
        matches!(&directory.steps[0], Step::Dense(dense) if dense.activation == OutputActivation::Identity && !dense.has_bias)
    );
    assert_eq!(directory.query_prompt, "query: ");
    let encoder = BiEncoder::load(
        folder.path(),
        &ModelOptions::default(),
        &EncoderConfig::default(),
    )
    .unwrap();
    assert_eq!(encoder.width(), 8);
}
