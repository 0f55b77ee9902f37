//! Model directories that are incomplete, contradictory or damaged: every one is an error that names the thing.

use std::fs;
use std::path::Path;

use encoder::{
    BiEncoder, CrossEncoder, EncoderConfig, Golden, LoadError, ModelOptions, Pooling, Preset, Role,
    Similarity, TextSpec,
};
use serde_json::{Value, json};

/// Copies a model directory.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).expect("a folder is made");
            copy(&entry.path(), &target);
        } else {
            fs::write(&target, fs::read(entry.path()).expect("a file")).expect("a file is written");
        }
    }
}

/// Returns the error of a copy of `name` after `spoil`.
fn error_of(name: &str, spoil: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&testkit::fixture("models").join(name), folder.path());
    spoil(folder.path());
    let error = if name.starts_with("tiny-cross") {
        CrossEncoder::load(folder.path(), None, &EncoderConfig::default()).err()
    } else {
        BiEncoder::load(
            folder.path(),
            &ModelOptions::default(),
            &EncoderConfig::default(),
        )
        .err()
    };
    let error = error.expect("the directory is refused");
    let source = std::error::Error::source(&error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    format!("{error}{source}").replace(&folder.path().display().to_string(), "DIR")
}

pub(crate) fn check(name: &str, expected: &str, spoil: impl FnOnce(&Path)) {
    let error = error_of(name, spoil);
    assert!(
        error.contains(expected),
        "{error}\n  does not contain\n{expected}"
    );
}

/// Changes one file of JSON.
pub(crate) fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).expect("a file")).expect("valid JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("a file is written");
}

/// Writes `model.safetensors` anew: `change` sees name, shape and bytes of each tensor and says which to keep.
pub(crate) fn edit_weights(
    folder: &Path,
    mut change: impl FnMut(&str, &mut Vec<usize>, &mut Vec<u8>) -> bool,
) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let stored = safetensors::SafeTensors::deserialize(&bytes).expect("valid weights");
    let mut tensors = Vec::new();
    for (name, view) in stored.tensors() {
        let (mut shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
        if change(&name, &mut shape, &mut data) {
            tensors.push((name, view.dtype(), shape, data));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        let view = safetensors::tensor::TensorView::new(*dtype, shape.clone(), data);
        (name.as_str(), view.expect("shape and bytes agree"))
    });
    fs::write(
        &path,
        safetensors::serialize(views, None).expect("serialisable"),
    )
    .expect("weights are written");
}

#[test]
fn missing_files_are_named() {
    for file in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ] {
        check(
            "tiny-bert",
            &format!("model file `DIR/{file}` is missing"),
            |folder| {
                fs::remove_file(folder.join(file)).expect("the file was there");
            },
        );
    }
    // Without modules.json, too, where options are asked for: none makes a model of such a folder.
    check(
        "tiny-bert-plain",
        "model file `DIR/config.json` is missing",
        |folder| {
            fs::remove_file(folder.join("config.json")).expect("the file was there");
        },
    );
    check(
        "tiny-bert-sharded",
        "model file `DIR/model-00002-of-00003.safetensors` is missing",
        |folder| {
            fs::remove_file(folder.join("model-00002-of-00003.safetensors"))
                .expect("the file was there");
        },
    );
    let nowhere = Path::new("no/such/model");
    let error = BiEncoder::load(nowhere, &ModelOptions::default(), &EncoderConfig::default()).err();
    assert_eq!(
        error.expect("nothing there").to_string(),
        "no model directory at `no/such/model`"
    );
}

#[test]
fn damaged_json_is_named() {
    let files = [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "tokenizer_config.json",
    ];
    for file in files {
        for content in [&b""[..], b"{", b"[1, 2", b"\xff\xfe{}", b"42"] {
            check("tiny-bert", &format!("`DIR/{file}`"), |folder| {
                fs::write(folder.join(file), content).expect("a file is written");
            });
        }
    }
    check(
        "tiny-bert-sharded",
        "`DIR/model.safetensors.index.json`: weight_map",
        |folder| {
            edit(&folder.join("model.safetensors.index.json"), |index| {
                index["weight_map"]["embeddings.LayerNorm.bias"] =
                    json!("../elsewhere.safetensors");
            });
        },
    );
}

#[test]
fn a_template_of_tokens_that_it_does_not_list_is_named() {
    for (kind, id) in [("SpecialToken", "[NEW]"), ("Sequence", "B")] {
        check(
            "tiny-bert",
            "cannot use tokenizer `DIR/tokenizer.json`",
            |folder| {
                edit(&folder.join("tokenizer.json"), |tokenizer| {
                    tokenizer["post_processor"]["single"][0] =
                        json!({kind: {"id": id, "type_id": 0}});
                });
            },
        );
    }
}

#[test]
fn weights_cut_short_are_named_wherever_the_cut_is() {
    let whole = fs::metadata(testkit::fixture("models/tiny-bert/model.safetensors"))
        .expect("weights")
        .len();
    for length in [
        0,
        1,
        7,
        8,
        9,
        100,
        1000,
        whole / 2,
        whole - 4,
        whole - 1,
        whole + 1,
    ] {
        check(
            "tiny-bert",
            "weight file `DIR/model.safetensors` is damaged",
            |folder| {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(folder.join("model.safetensors"))
                    .expect("weights");
                file.set_len(length).expect("the length is set");
            },
        );
    }
    for length in [0, 1, 100, 1000, 20_000] {
        check(
            "tiny-bert-bin",
            "`DIR/pytorch_model.bin` is damaged",
            |folder| {
                let file = fs::OpenOptions::new()
                    .write(true)
                    .open(folder.join("pytorch_model.bin"))
                    .expect("weights");
                file.set_len(length).expect("the length is set");
            },
        );
    }
}

#[test]
fn damaged_headers_of_weights_are_named() {
    let header = |length: u64, text: &[u8]| [&length.to_le_bytes(), text].concat();
    let damaged = [
        header(u64::MAX, b"{}"),
        header(1 << 40, b"{}"),
        header(3, b"{}"),
        header(2, b"[]"),
        header(4, b"\xff\xff\xff\xff"),
        header(
            64,
            br#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,9999999999]}}"#,
        ),
        header(
            63,
            br#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,9],"data_offsets":[0,4]}}"#,
        ),
        header(
            60,
            br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}      "#,
        ),
    ];
    for bytes in damaged {
        check(
            "tiny-bert",
            "weight file `DIR/model.safetensors` is damaged",
            |folder| {
                fs::write(folder.join("model.safetensors"), &bytes).expect("weights are written");
            },
        );
    }
}

#[test]
fn a_pickle_that_promises_more_than_it_holds_is_named() {
    check(
        "tiny-bert-bin",
        "tensor `embeddings.word_embeddings.weight`: [65535, 255] values are more than the file holds",
        |folder| {
            let path = folder.join("pytorch_model.bin");
            let mut bytes = fs::read(&path).expect("weights");
            let stored = b"M\x40\x02K\x20\x86"; // the pickled shape, (576, 32)
            let place = bytes.windows(stored.len()).position(|part| part == stored);
            let place = place.expect("the shape is there");
            bytes[place..][..stored.len()].copy_from_slice(b"M\xff\xffK\xff\x86");
            fs::write(path, bytes).expect("weights are written");
        },
    );
}

#[test]
fn weights_of_old_versions_of_pytorch_are_not_called_damaged() {
    check(
        "tiny-bert-bin",
        "`DIR/pytorch_model.bin`: its format is that of PyTorch before 1.6",
        |folder| {
            // The protocol, and a long integer of ten bytes.
            let magic = 0x1950_a86a_20f9_469c_fc6c_u128.to_le_bytes();
            let bytes = [&b"\x80\x02\x8a\x0a"[..], &magic[..10], b"."].concat();
            fs::write(folder.join("pytorch_model.bin"), bytes).expect("weights are written");
        },
    );
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let query = "encoder.layer.1.attention.self.query.weight";
    check(
        "tiny-bert",
        &format!("`DIR/model.safetensors` has no tensor `{query}`"),
        |folder| {
            edit_weights(folder, |name, _, _| name != query);
        },
    );
    check(
        "tiny-bert",
        &format!("tensor `{query}` of `DIR/model.safetensors` has shape [32, 16]"),
        |folder| {
            edit_weights(folder, |name, shape, bytes| {
                if name == query {
                    *shape = vec![32, 16];
                    bytes.truncate(32 * 16 * 4);
                }
                true
            });
        },
    );
    for (value, shown) in [
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        check(
            "tiny-bert",
            &format!("`{query}` of `DIR/model.safetensors` holds {shown} at position 5"),
            |folder| {
                edit_weights(folder, |name, _, bytes| {
                    if name == query {
                        bytes[20..24].copy_from_slice(&value.to_le_bytes());
                    }
                    true
                });
            },
        );
    }
    check(
        "tiny-cross-bert",
        "has no tensor `classifier.weight`",
        |folder| {
            edit_weights(folder, |name, _, _| name != "classifier.weight");
        },
    );
    check(
        "tiny-bert",
        "vocab_size is 100, the tokenizer has ids up to",
        |folder| {
            edit(&folder.join("config.json"), |config| {
                config["vocab_size"] = json!(100)
            });
        },
    );
}

#[test]
fn half_precision_and_old_names_load() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&testkit::fixture("models/tiny-bert"), folder.path());
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).expect("weights");
    let stored = safetensors::SafeTensors::deserialize(&bytes).expect("valid weights");
    let halves: Vec<_> = stored
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let name = name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta");
            let values = view.data().chunks_exact(4).map(|bytes| {
                half::f16::from_f32(f32::from_le_bytes(bytes.try_into().expect("four bytes")))
                    .to_le_bytes()
            });
            (
                format!("bert.{name}"),
                view.shape().to_vec(),
                values.flatten().collect::<Vec<u8>>(),
            )
        })
        .collect();
    let views = halves.iter().map(|(name, shape, data)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape.clone(), data);
        (name.as_str(), view.expect("shape and bytes agree"))
    });
    fs::write(
        &path,
        safetensors::serialize(views, None).expect("serialisable"),
    )
    .expect("weights are written");
    let encoder = BiEncoder::load(
        folder.path(),
        &ModelOptions::default(),
        &EncoderConfig::default(),
    );
    let golden =
        Golden::load(&testkit::golden("encoder/tiny-bert/golden.json")).expect("golden file");
    let report = golden
        .check_bi(&encoder.expect("the model loads"))
        .expect("comparable");
    assert!(
        report.min_cosine > 0.9999 && report.wrong_tokens.is_empty(),
        "{report:?}"
    );
}

#[test]
fn a_vocabulary_stands_in_for_the_tokenizer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&testkit::fixture("models/tiny-bert"), folder.path());
    let path = folder.path().join("tokenizer.json");
    let tokenizer: Value =
        serde_json::from_slice(&fs::read(&path).expect("a file")).expect("valid JSON");
    let vocabulary = tokenizer["model"]["vocab"]
        .as_object()
        .expect("a vocabulary");
    let mut pieces: Vec<_> = vocabulary
        .iter()
        .map(|(piece, id)| (id.as_u64(), piece.as_str()))
        .collect();
    pieces.sort_unstable();
    let lines: Vec<_> = pieces.into_iter().map(|(_, piece)| piece).collect();
    fs::write(folder.path().join("vocab.txt"), lines.join("\n")).expect("a file is written");
    fs::remove_file(&path).expect("the file was there");
    let load = || {
        BiEncoder::load(
            folder.path(),
            &ModelOptions::default(),
            &EncoderConfig::default(),
        )
    };
    let golden =
        Golden::load(&testkit::golden("encoder/tiny-bert/golden.json")).expect("golden file");
    let report = golden
        .check_bi(&load().expect("the model loads"))
        .expect("comparable");
    assert!(report.passed, "{report:?}");

    let without_cls: Vec<_> = lines
        .into_iter()
        .filter(|&piece| piece != "[CLS]")
        .collect();
    fs::write(folder.path().join("vocab.txt"), without_cls.join("\n")).expect("a file is written");
    let error = load().err().expect("no [CLS]").to_string();
    assert!(
        error.contains("vocab.txt") && error.ends_with("it has no [CLS]"),
        "{error}"
    );
}

#[test]
fn a_null_of_the_sentence_configuration_says_nothing() {
    let path = testkit::fixture("models/tiny-bert");
    let nulls = tempfile::tempdir().expect("a temporary folder");
    copy(&path, nulls.path());
    edit(&nulls.path().join("sentence_bert_config.json"), |config| {
        config["do_lower_case"] = json!(null);
        config["max_seq_length"] = json!(null);
    });
    let [stored, nulls] = [path.as_path(), nulls.path()].map(|path| {
        let encoder = BiEncoder::load(path, &ModelOptions::default(), &EncoderConfig::default());
        encoder
            .expect("the model loads")
            .fingerprint(&TextSpec::default())
    });
    assert_eq!(stored.first_difference(&nulls), None);
}

#[test]
fn vectors_that_are_cut_are_not_of_length_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&testkit::fixture("models/tiny-bert"), folder.path());
    let load = |kept: usize| {
        edit(
            &folder.path().join("config_sentence_transformers.json"),
            |config| config["truncate_dim"] = json!(kept),
        );
        BiEncoder::load(
            folder.path(),
            &ModelOptions::default(),
            &EncoderConfig::default(),
        )
    };
    for (kept, width, normalizes) in [(8, 8, false), (32, 32, true), (40, 32, true)] {
        let encoder = load(kept).expect("the model loads");
        assert_eq!((encoder.width(), encoder.normalizes()), (width, normalizes));
        let vectors = encoder.encode_texts(Role::Passage, &["a stone in the river".into()]);
        let vectors = vectors.expect("a text encodes");
        let length: f32 = vectors.values.iter().map(|x| x * x).sum();
        assert_eq!((length - 1.0).abs() < 1e-5, normalizes, "{kept}: {length}");
    }
    let error = load(0).err().expect("no vectors").to_string();
    assert!(error.ends_with("truncate_dim is 0"), "{error}");
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let changes = [
        (
            "model_type",
            json!("gpt2"),
            "model_type is `gpt2`; supported are bert, roberta, xlm-roberta, camembert, distilbert and mpnet, and for \
             inference only t5, mt5, modernbert, qwen3",
        ),
        ("model_type", json!(7), "model_type is 7, not a text"),
        (
            "hidden_act",
            json!("mish"),
            "activation `mish` is not supported",
        ),
        (
            "hidden_size",
            json!(0),
            "hidden_size is 0; supported are 1 to",
        ),
        (
            "hidden_size",
            json!(4_000_000_000_u64),
            "hidden_size is 4000000000; supported are 1 to",
        ),
        ("hidden_size", json!(-1), "hidden_size is -1, not a count"),
        (
            "num_attention_heads",
            json!(5),
            "hidden_size 32 is no multiple of num_attention_heads 5",
        ),
        (
            "num_hidden_layers",
            json!(null),
            "num_hidden_layers is missing",
        ),
        (
            "num_hidden_layers",
            json!(3),
            "has no tensor `encoder.layer.2.attention.self.query.weight`",
        ),
        (
            "position_embedding_type",
            json!("relative_key"),
            "position_embedding_type is `relative_key`",
        ),
        ("is_decoder", json!(true), "is_decoder is true"),
        (
            "num_labels",
            json!(4_000_000_000_u64),
            "4000000000 labels; supported are up to 65536",
        ),
        (
            "max_position_embeddings",
            json!(32),
            "tensor `embeddings.position_embeddings.weight`",
        ),
    ];
    for (entry, value, expected) in changes {
        let spoil =
            |folder: &Path| edit(&folder.join("config.json"), |config| config[entry] = value);
        check("tiny-bert", expected, spoil);
    }
    check(
        "tiny-cross-bert",
        "names no model for sequence classification",
        |folder| {
            edit(&folder.join("config.json"), |config| {
                config["architectures"] = json!(["BertModel"])
            });
        },
    );
    check(
        "tiny-cross-bert",
        "activation `my.own.Activation` is not supported",
        |folder| {
            edit(
                &folder.join("config_sentence_transformers.json"),
                |config| {
                    config["activation_fn"] = json!("my.own.Activation");
                },
            );
        },
    );
}

#[test]
fn modules_that_are_not_known_are_refused() {
    let modules =
        |change: fn(&mut Value)| move |folder: &Path| edit(&folder.join("modules.json"), change);
    check(
        "tiny-bert",
        "module 0 is `missing`",
        modules(|modules| *modules = json!([])),
    );
    check(
        "tiny-bert",
        "module 1 is `a.b.LSTM`",
        modules(|modules| modules[1]["type"] = json!("a.b.LSTM")),
    );
    check(
        "tiny-bert",
        "module 2 is `a.WordWeights`",
        modules(|modules| modules[2]["type"] = json!("a.WordWeights")),
    );
    // Code that a model brings along computes what it likes under any name.
    check(
        "tiny-bert",
        "module 0 is `custom_st.Transformer`",
        modules(|modules| modules[0]["type"] = json!("custom_st.Transformer")),
    );
    check(
        "tiny-bert",
        "module 1 is `my_models.Pooling`",
        modules(|modules| modules[1]["type"] = json!("my_models.Pooling")),
    );
    let escape = |modules: &mut Value| modules[1]["path"] = json!("../1_Pooling");
    check(
        "tiny-bert",
        "module 1 is `sentence_transformers",
        modules(escape),
    );
    let pooling = |folder: &Path| {
        edit(&folder.join("1_Pooling/config.json"), |config| {
            config["pooling_mode"] = json!("attention")
        });
    };
    check(
        "tiny-bert",
        "pooling_mode \"attention\" is not known",
        pooling,
    );
    let dense = |change: fn(&mut Value)| {
        move |folder: &Path| edit(&folder.join("2_Dense/config.json"), change)
    };
    check(
        "tiny-bert-cls-dense",
        "in_features is 7, but 32 values come in",
        dense(|c| c["in_features"] = json!(7)),
    );
    check(
        "tiny-bert-cls-dense",
        "tensor `linear.weight`",
        dense(|c| c["out_features"] = json!(15)),
    );
    check(
        "tiny-bert-cls-dense",
        "`os.system` is not supported",
        dense(|c| c["activation_function"] = json!("os.system")),
    );
    check("tiny-bert", "similarity_fn_name is `manhattan`", |folder| {
        edit(&folder.join("config_sentence_transformers.json"), |c| {
            c["similarity_fn_name"] = json!("manhattan")
        });
    });
}

#[test]
fn what_stands_beside_a_cross_encoder_is_followed_or_refused() {
    let dense = json!({"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.models.Dense"});
    check(
        "tiny-cross-bert",
        "`DIR/modules.json`: module 1 is `sentence_transformers.models.Dense`",
        |folder| {
            edit(&folder.join("modules.json"), |modules| {
                modules.as_array_mut().expect("a list").push(dense);
            });
        },
    );
    check(
        "tiny-cross-bert",
        "default_prompt_name names a prompt",
        |folder| {
            let path = folder.join("config_sentence_transformers.json");
            edit(&path, |config| {
                config["default_prompt_name"] = json!("search");
                config["prompts"] = json!({"search": "is it an answer? "});
            });
        },
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&testkit::fixture("models/tiny-cross-bert"), folder.path());
    edit(&folder.path().join("tokenizer_config.json"), |config| {
        config["do_lower_case"] = json!(false);
    });
    let tokens = || {
        let model = CrossEncoder::load(folder.path(), None, &EncoderConfig::default());
        let model = model.expect("the model loads");
        let pairs = [("the Moon", "a STONE"), ("the moon", "a stone")];
        let tokens = model.tokenize(&pairs).expect("pairs tokenise");
        (model.max_tokens(), tokens[0] == tokens[1])
    };
    assert_eq!(tokens(), (64, false));
    edit(&folder.path().join("sentence_bert_config.json"), |config| {
        config["max_seq_length"] = json!(20);
        config["do_lower_case"] = json!(true);
    });
    assert_eq!(tokens(), (20, true));
}

#[test]
fn a_bare_checkpoint_is_refused_without_a_preset_or_all_options() {
    let path = testkit::fixture("models/tiny-bert-plain");
    let load = |options: &ModelOptions| BiEncoder::load(&path, options, &EncoderConfig::default());
    let error = load(&ModelOptions::default())
        .err()
        .expect("nothing says how to pool")
        .to_string();
    for word in [
        "--preset",
        "master, retromae, cotmae, openmatch, simlm",
        "--pooling",
        "--passage-tokens",
    ] {
        assert!(error.contains(word), "{error}");
    }
    let some = ModelOptions {
        pooling: Some(Pooling::Cls),
        normalize: Some(false),
        ..ModelOptions::default()
    };
    let Some(LoadError::NotSentenceTransformers { missing, .. }) = load(&some).err() else {
        panic!("refused")
    };
    assert_eq!(
        missing,
        ["--similarity", "--query-tokens", "--passage-tokens"]
    );

    let preset = ModelOptions {
        preset: Some(Preset::Retromae),
        query_tokens: Some(16),
        ..ModelOptions::default()
    };
    let encoder = load(&preset).expect("the preset says it all");
    assert_eq!(encoder.pooling(), [Pooling::Cls]);
    assert_eq!(encoder.similarity(), Similarity::InnerProduct);
    assert_eq!(
        (
            encoder.max_tokens(Role::Query),
            encoder.max_tokens(Role::Passage)
        ),
        (16, 128)
    );
    let simlm = ModelOptions {
        preset: Some(Preset::Simlm),
        ..ModelOptions::default()
    };
    let error = load(&simlm)
        .err()
        .expect("this model has 128 positions")
        .to_string();
    assert_eq!(
        error,
        "144 tokens for the passage: the model takes 4 to 128"
    );
    assert!(Preset::Simlm.passage_pair() && !Preset::Master.passage_pair());
}

#[test]
fn options_that_contradict_the_directory_are_refused() {
    let path = testkit::fixture("models/tiny-bert");
    let load = |options: &ModelOptions| BiEncoder::load(&path, options, &EncoderConfig::default());
    let same = ModelOptions {
        pooling: Some(Pooling::Mean),
        normalize: Some(true),
        ..ModelOptions::default()
    };
    assert!(load(&same).is_ok());
    let contradictions = [
        ModelOptions {
            pooling: Some(Pooling::Cls),
            ..ModelOptions::default()
        },
        ModelOptions {
            normalize: Some(false),
            ..ModelOptions::default()
        },
        ModelOptions {
            preset: Some(Preset::Simlm),
            ..ModelOptions::default()
        },
    ];
    for options in contradictions {
        assert!(
            matches!(load(&options).err(), Some(LoadError::Contradiction { .. })),
            "{options:?}"
        );
    }
    let other = ModelOptions {
        similarity: Some(Similarity::InnerProduct),
        ..ModelOptions::default()
    };
    assert_eq!(
        load(&other).expect("a similarity is a choice").similarity(),
        Similarity::InnerProduct
    );
    for tokens in [0, 3, 129] {
        let options = ModelOptions {
            query_tokens: Some(tokens),
            ..ModelOptions::default()
        };
        assert!(
            matches!(load(&options).err(), Some(LoadError::MaxTokens { .. })),
            "{tokens}"
        );
    }
}

#[test]
fn a_golden_file_of_another_model_fails() {
    let path = testkit::fixture("models/tiny-bert-last");
    let encoder = BiEncoder::load(&path, &ModelOptions::default(), &EncoderConfig::default())
        .expect("it loads");
    let golden =
        |name: &str| Golden::load(&testkit::golden("encoder").join(name).join("golden.json"));
    let report = golden("tiny-bert")
        .expect("golden file")
        .check_bi(&encoder)
        .expect("comparable");
    assert!(!report.passed && report.max_abs > 1e-2, "{report:?}");
    assert!(
        golden("tiny-cross-bert")
            .expect("golden file")
            .check_bi(&encoder)
            .is_err()
    );
    assert!(
        golden("minilm")
            .expect("golden file")
            .check_bi(&encoder)
            .is_err(),
        "another width"
    );
}

#[test]
fn flipped_bytes_never_panic() {
    // A flip in a tensor's data gives other numbers; anywhere else it must be an error, not a panic or a huge request.
    let cases = [
        ("tiny-bert", "model.safetensors", 120),
        ("tiny-bert-bin", "pytorch_model.bin", 200),
        ("tiny-bert", "tokenizer.json", 80),
        ("tiny-bert", "config.json", 120),
        ("tiny-bert-cls-dense", "2_Dense/config.json", 60),
    ];
    for (name, file, n_flips) in cases {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&testkit::fixture("models").join(name), folder.path());
        let path = folder.path().join(file);
        let whole = fs::read(&path).expect("a file");
        // Headers are at the start, the directory of a pickle's zip at the end: flip there more often than elsewhere.
        let mut state = 7_u64;
        let mut random = |n: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        for flip in 0..n_flips {
            let mut bytes = whole.clone();
            let place = match flip % 3 {
                0 => random(whole.len()),
                1 => random(whole.len().min(3000)),
                _ => whole.len() - 1 - random(whole.len().min(5000)),
            };
            bytes[place] ^= 1 << random(8);
            fs::write(&path, bytes).expect("a file is written");
            let loaded = BiEncoder::load(
                folder.path(),
                &ModelOptions::default(),
                &EncoderConfig::default(),
            );
            if let Ok(encoder) = loaded {
                let _ = encoder.encode_texts(Role::Passage, &["a stone in the river".into()]);
            }
        }
    }
}
