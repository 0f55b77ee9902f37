//! Directories of models of other families than BERT's.

use encoder::{Arithmetic, BiEncoder, EncoderConfig, LoadError, ModelOptions, TextSpec};
use serde_json::json;

use crate::directories::{check, copy, edit};

#[test]
fn foreign_configurations_that_cannot_be_are_refused() {
    let changes = [
        (
            "tiny-t5",
            "feed_forward_proj",
            json!("gelu"),
            "feed_forward_proj is `gelu`; supported are relu, gated-gelu and gated-silu",
        ),
        (
            "tiny-t5",
            "relative_attention_num_buckets",
            json!(2),
            "relative_attention_num_buckets is 2",
        ),
        (
            "tiny-t5",
            "num_layers",
            json!(3),
            "has no tensor `encoder.block.2.layer.0.SelfAttention.q.weight`",
        ),
        (
            "tiny-t5",
            "d_ff",
            json!(48),
            "`encoder.block.0.layer.1.DenseReluDense.wi_0.weight` of `DIR/model.safetensors` has shape [64, 32]",
        ),
        (
            "tiny-modernbert",
            "norm_bias",
            json!(true),
            "norm_bias is true, which is not supported",
        ),
        (
            "tiny-modernbert",
            "layer_types",
            json!(["full_attention", "full_attention", "sliding_attention"]),
            "layer_types is not periodic",
        ),
        (
            "tiny-modernbert",
            "global_attn_every_n_layers",
            json!(0),
            "every 0th layer",
        ),
        (
            "tiny-modernbert",
            "max_position_embeddings",
            json!(1 << 21),
            "max_position_embeddings is 2097152; supported are up to 1048576",
        ),
        (
            "tiny-qwen3",
            "num_key_value_heads",
            json!(0),
            "2 attention heads of 16 values with 0 key heads",
        ),
        (
            "tiny-qwen3",
            "rope_parameters",
            json!({"rope_type": "yarn"}),
            "rope_type is `yarn`; supported is default",
        ),
        (
            "tiny-qwen3",
            "rope_parameters",
            json!({"rope_theta": "1e6"}),
            "rope_theta is \"1e6\"; a number is expected",
        ),
        (
            "tiny-modernbert",
            "rope_parameters",
            json!({"rope_theta": 1e6}),
            "rope_parameters says nothing of full_attention",
        ),
        (
            "tiny-qwen3",
            "head_dim",
            json!(1 << 30),
            "attention heads 1073741824 wide; supported are 268435456 values",
        ),
        (
            "tiny-qwen3",
            "vocab_size",
            json!(9),
            "vocab_size is 9, the tokenizer has ids up to 575",
        ),
        (
            "tiny-cross-modernbert",
            "classifier_pooling",
            json!("max"),
            "classifier_pooling is `max`; supported are cls and mean",
        ),
        (
            "tiny-cross-modernbert",
            "model_type",
            json!("qwen3"),
            "cross-encoders of this model_type are not supported, only bi-encoders",
        ),
    ];
    for (name, entry, value, expected) in changes {
        check(name, expected, |folder| {
            edit(&folder.join("config.json"), |config| config[entry] = value);
        });
    }
}

#[test]
fn foreign_models_take_f32_and_auto_only() {
    let load = |arithmetic| {
        let config = EncoderConfig {
            arithmetic,
            ..EncoderConfig::default()
        };
        let path = testkit::fixture("models/tiny-t5");
        BiEncoder::load(&path, &ModelOptions::default(), &config)
    };
    for arithmetic in [
        Arithmetic::Fixed16,
        Arithmetic::Bf16x3,
        Arithmetic::Bf16,
        Arithmetic::Int8,
    ] {
        match load(arithmetic).err().expect("the arithmetic is refused") {
            LoadError::Arithmetic {
                path, requested, ..
            } => {
                assert!(path.ends_with("tiny-t5/config.json"));
                assert_eq!(requested, arithmetic.as_str());
            }
            other => panic!("{other}"),
        }
    }
    let encoder = load(Arithmetic::Auto).expect("auto loads");
    assert_eq!(encoder.config().arithmetic, Arithmetic::F32);
}

#[test]
fn modernbert_of_earlier_versions_of_transformers_is_the_same_model() {
    let path = testkit::fixture("models/tiny-modernbert");
    let older = tempfile::tempdir().expect("a temporary folder");
    copy(&path, older.path());
    edit(&older.path().join("config.json"), |config| {
        let entries = config.as_object_mut().expect("an object");
        for name in ["layer_types", "rope_parameters", "norm_eps"] {
            entries.remove(name);
        }
        config["global_attn_every_n_layers"] = json!(3);
        config["global_rope_theta"] = json!(160_000.0);
        config["local_rope_theta"] = json!(10_000.0);
        config["layer_norm_eps"] = json!(1e-5);
    });
    let [present, older] = [path.as_path(), older.path()].map(|path| {
        let encoder = BiEncoder::load(path, &ModelOptions::default(), &EncoderConfig::default());
        encoder
            .expect("the model loads")
            .fingerprint(&TextSpec::default())
    });
    assert_eq!(present.first_difference(&older), None);
}
