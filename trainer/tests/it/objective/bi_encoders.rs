use super::*;

pub fn everything() -> BiEncoderConfig {
    BiEncoderConfig {
        temperature: Some(0.2),
        dropout: Some(0.1),
        negatives: Negatives::Full,
        contrastive_weight: 0.5,
        distillation: Some(DistillationConfig::default()),
        matryoshka: vec![
            Width {
                width: 32,
                weight: 1.0,
            },
            Width {
                width: 8,
                weight: 0.5,
            },
        ],
        ..BiEncoderConfig::default()
    }
}

pub fn tiny(config: &BiEncoderConfig) -> BiEncoderObjective {
    bi_encoder("tiny-bert", config).expect("the model loads")
}

#[test]
fn thirty_two_pairs_are_learned_and_shuffled_ones_are_not() {
    let config = BiEncoderConfig {
        dropout: Some(0.0),
        ..BiEncoderConfig::default()
    };
    let mut objective = tiny(&config);
    let pairs = groups(32, 1);
    let before = accuracy(&objective.evaluate(&pairs).expect("figures"));
    train(&mut objective, 120, 5e-3, |_| pairs.clone());
    let after = objective.evaluate(&pairs).expect("figures");
    assert_eq!(accuracy(&after), 1.0, "{after:?}");
    assert!(before < 0.7, "{before}");

    let mut objective = tiny(&config);
    let shuffled = |index: u64| -> Vec<Group> {
        let turn = |place: usize| (place * 11 + 1 + index as usize * 5) % 32;
        let with = |(place, group): (usize, &Group)| Group {
            passages: pairs[turn(place)].passages.clone(),
            positives: pairs[turn(place)].positives.clone(),
            ..group.clone()
        };
        pairs.iter().enumerate().map(with).collect()
    };
    let reports = train(&mut objective, 60, 5e-3, shuffled);
    let mean = reports[20..].iter().map(accuracy).sum::<f64>() / 40.0;
    assert!(mean < 0.15, "{mean} with chance at 1 / 32");
}

#[test]
fn a_run_repeats_bit_for_bit() {
    let run = || outcome(tiny(&everything()), 4, |_| groups(5, 3));
    assert_eq!(run(), run());
}

#[test]
fn gradients_equal_difference_quotients() {
    let masked = BiEncoderConfig {
        mask: MaskConfig {
            above: Some(-0.3),
            ..MaskConfig::default()
        },
        ..everything()
    };
    let untied = BiEncoderConfig {
        untied: true,
        pooling: Some(Pooling::Cls),
        head: Some(HeadConfig {
            width: 16,
            bias: true,
            seed: 1,
        }),
        negatives: Negatives::InBatch,
        matryoshka: Vec::new(),
        ..everything()
    };
    let group = BiEncoderConfig {
        negatives: Negatives::Group,
        matryoshka: Vec::new(),
        distillation: Some(DistillationConfig {
            loss: DistillationLoss::InBatch,
            ..DistillationConfig::default()
        }),
        ..everything()
    };
    for config in [masked, untied, group] {
        let mut objective = tiny(&config);
        check_differences(&mut objective, &groups(4, 2));
    }
}

#[test]
fn parts_give_the_gradient_of_the_whole_batch() {
    let whole = BiEncoderConfig {
        dropout: Some(0.0),
        ..everything()
    };
    let batch = groups(6, 2);
    let expected = gradients(&mut tiny(&whole), &batch);
    for (queries, passages, max_tokens) in [(1, 1, None), (3, 3, None), (6, 12, Some(30))] {
        let grad_cache = Some(GradCacheConfig {
            queries,
            passages,
            max_tokens,
        });
        let config = BiEncoderConfig {
            grad_cache,
            ..whole.clone()
        };
        let found = gradients(&mut tiny(&config), &batch);
        check_equal(&found, &expected);
    }
}

/// Vectors of a tower by the serving engine.
fn served(folder: &Path, role: Role, texts: &[&str], max_tokens: usize) -> Vec<f32> {
    let options = ModelOptions {
        query_tokens: Some(max_tokens),
        passage_tokens: Some(max_tokens),
        ..ModelOptions::default()
    };
    let encoder = BiEncoder::load(folder, &options, &EncoderConfig::default());
    let texts: Vec<Text<'_>> = texts.iter().map(|&text| text.into()).collect();
    encoder
        .expect("the export loads")
        .encode_texts(role, &texts)
        .expect("vectors")
        .values
}

/// Scores that the exported model gives to the groups, as accuracy and mean positive score.
fn check_export(name: &str, config: &BiEncoderConfig) {
    let mut objective = bi_encoder(name, config).expect("the model loads");
    let batch = groups(4, 2);
    train(&mut objective, 2, 1e-3, |_| batch.clone());
    let folder = tempfile::tempdir().expect("a folder");
    objective.export(folder.path()).expect("an export");
    let (queries, passages) = match config.untied {
        true => (folder.path().join("query"), folder.path().join("passage")),
        false => (folder.path().to_owned(), folder.path().to_owned()),
    };
    let string = |content: &Content| match content {
        Content::Text(text) => text.clone(),
        other => panic!("{other:?} is no text"),
    };
    let query_texts: Vec<String> = batch.iter().map(|group| string(&group.query)).collect();
    let passage_texts: Vec<String> = batch
        .iter()
        .map(|group| string(&group.passages[0].content))
        .collect();
    let texts = |texts: &[String]| -> Vec<&'static str> {
        texts.iter().map(|text| &*text.clone().leak()).collect()
    };
    let query_vectors = served(
        &queries,
        Role::Query,
        &texts(&query_texts),
        config.query_tokens,
    );
    let passage_vectors = served(
        &passages,
        Role::Passage,
        &texts(&passage_texts),
        config.passage_tokens,
    );
    let sum: f64 = (query_vectors.iter().zip(&passage_vectors))
        .map(|(q, p)| f64::from(*q) * f64::from(*p))
        .sum();
    let report = objective.evaluate(&batch).expect("figures");
    let (found, expected) = (sum / 4.0, report.measures["positive_score"]);
    let error = (found - expected).abs();
    assert!(
        error < 1e-5 * expected.abs().max(1.0),
        "{name}: {found}, not {expected}"
    );
    // What was exported can be trained again, and is what it was.
    if !config.untied {
        let plain = BiEncoderConfig {
            head: None,
            ..config.clone()
        };
        let mut again =
            BiEncoderObjective::load(folder.path(), &plain, &engine()).expect("the export loads");
        let again = again.evaluate(&batch).expect("figures");
        assert_eq!(again.measures["positive_score"], expected);
    }
}

#[test]
fn exports_give_the_same_vectors() {
    let lengths = BiEncoderConfig {
        query_tokens: 16,
        passage_tokens: 40,
        query_prompt: Some("query: ".into()),
        passage_prompt: Some("text: ".into()),
        ..BiEncoderConfig::default()
    };
    check_export("tiny-bert", &lengths);
    check_export("tiny-bert-cls-dense", &lengths);
    check_export("tiny-roberta", &lengths);
    check_export("tiny-mpnet", &lengths);
    check_export("tiny-t5", &lengths);
    check_export("tiny-t5-relu", &lengths);
    check_export("tiny-t5-gated", &lengths);
    let normalized = BiEncoderConfig {
        normalize: Some(true),
        ..lengths.clone()
    };
    check_export("tiny-t5-gated", &normalized);
    let encoder_alone = BiEncoderConfig {
        pooling: Some(Pooling::Mean),
        ..normalized
    };
    check_export("tiny-t5-relu", &encoder_alone);
    let head = BiEncoderConfig {
        pooling: Some(Pooling::Cls),
        normalize: Some(false),
        head: Some(HeadConfig {
            width: 8,
            bias: false,
            seed: 0,
        }),
        ..lengths.clone()
    };
    check_export("tiny-bert-plain", &head);
    check_export(
        "tiny-bert",
        &BiEncoderConfig {
            untied: true,
            ..head
        },
    );
}

/// A guide that is the fixture itself.
fn guide(spare_own: bool) -> GuideConfig {
    GuideConfig {
        model: model("tiny-bert"),
        margin: 0.0,
        kind: MarginKind::Absolute,
        spare_own,
    }
}

/// Loss and share of masked columns where the hard negative of query 0 is the query itself.
fn guided(guide: Option<GuideConfig>, negatives: Negatives) -> (f64, f64) {
    let mut batch = groups(4, 2);
    batch[0].passages[1].content = batch[0].query.clone();
    // The guide finds every other passage farther from its query than the positive, which is a copy of the query.
    for group in &mut batch[1..] {
        group.passages[0].content = group.query.clone();
    }
    let config = BiEncoderConfig {
        guide,
        negatives,
        ..BiEncoderConfig::default()
    };
    let report = tiny(&config).evaluate(&batch).expect("figures");
    (report.loss, report.measures["masked"])
}

#[test]
fn a_guide_that_knows_the_answers_masks_what_is_one() {
    let n_others = 4.0 * 7.0; // columns that are no target
    let (plain, none) = guided(None, Negatives::InBatch);
    let (masked, share) = guided(Some(guide(false)), Negatives::InBatch);
    assert_eq!(none, 0.0);
    // The copy of query 0, and whatever passage of another query the guide finds nearer than the positive of query 0.
    assert!(
        share >= 1.0 / n_others && share <= 7.0 / n_others,
        "{share}"
    );
    assert!(masked < plain - 0.1, "{masked} and {plain}");
    let (spared, _) = guided(Some(guide(true)), Negatives::InBatch);
    assert!(spared > masked, "{spared} and {masked}");
    // In its own group the copy is the only negative of query 0, so nothing is left to learn there.
    let (alone, _) = guided(Some(guide(false)), Negatives::Group);
    let (with, _) = guided(None, Negatives::Group);
    assert!(alone < with, "{alone} and {with}");
    // A margin that nothing keeps leaves the targets alone.
    let all = GuideConfig {
        margin: 3.0,
        ..guide(false)
    };
    for negatives in [
        Negatives::InBatch,
        Negatives::Full,
        Negatives::Gist,
        Negatives::Group,
    ] {
        let (loss, _) = guided(Some(all.clone()), negatives);
        assert!(loss.abs() < 1e-6, "{negatives:?}: {loss}");
    }
}

#[test]
fn a_guide_reads_texts_alone() {
    let config = BiEncoderConfig {
        guide: Some(guide(false)),
        ..BiEncoderConfig::default()
    };
    let mut batch = groups(2, 2);
    batch[1].passages[1].content = Content::Tokens(vec![7, 8]);
    let refused = tiny(&config)
        .step(&batch, &step_at(0))
        .expect_err("token ids");
    assert!(refused.to_string().contains("token ids"), "{refused}");
    let nowhere = GuideConfig {
        model: "nowhere".into(),
        ..guide(false)
    };
    let config = BiEncoderConfig {
        guide: Some(nowhere),
        ..BiEncoderConfig::default()
    };
    assert!(bi_encoder("tiny-bert", &config).is_err());
}

#[test]
fn the_temperature_falls_to_what_it_is_in_the_warm_up() {
    let at = |temperature: f64, temperature_warmup: u64, index: u64| {
        let config = BiEncoderConfig {
            temperature: Some(temperature),
            temperature_warmup,
            dropout: Some(0.0),
            ..BiEncoderConfig::default()
        };
        let report = tiny(&config).step(&groups(4, 2), &step_at(index));
        report.expect("a step").loss
    };
    // max(1, 20 · t/100): 1 up to step 5, then in proportion.
    for (step, temperature) in [
        (0, 1.0),
        (5, 1.0),
        (10, 0.5),
        (50, 0.1),
        (100, 0.05),
        (101, 0.05),
    ] {
        let (found, expected) = (at(0.05, 100, step), at(temperature, 0, step));
        assert!(
            (found - expected).abs() < 1e-6,
            "step {step}: {found}, not {expected}"
        );
    }
}

#[test]
fn a_step_may_train_some_of_the_widths() {
    let widths = [2, 4, 8, 16, 32].map(|width| Width { width, weight: 1.0 });
    let load = |matryoshka: &[Width], matryoshka_per_step| {
        tiny(&BiEncoderConfig {
            matryoshka: matryoshka.to_vec(),
            matryoshka_per_step,
            dropout: Some(0.0),
            ..BiEncoderConfig::default()
        })
    };
    let batch = groups(4, 2);
    let alone = widths.map(|width| {
        let report = load(&[width], None).evaluate(&batch);
        report.expect("figures").loss
    });
    let mut some = load(&widths, Some(2));
    let mut seen = std::collections::HashSet::new();
    for index in 0..30 {
        let loss = some.step(&batch, &step_at(index)).expect("a step").loss;
        let again = some.step(&batch, &step_at(index)).expect("a step").loss;
        assert_eq!(loss, again, "a step draws by its number alone");
        let pairs = (0..5).flat_map(|a| (a + 1..5).map(move |b| (a, b)));
        let pair = pairs.min_by(|&(a, b), &(c, d)| {
            let error = |a: usize, b: usize| (alone[a] + alone[b] - loss).abs();
            error(a, b).total_cmp(&error(c, d))
        });
        let (a, b) = pair.expect("ten pairs");
        assert!(
            (alone[a] + alone[b] - loss).abs() < 1e-5,
            "step {index}: {loss}"
        );
        seen.extend([a, b]);
    }
    assert_eq!(seen.len(), 5);
    let whole = some.evaluate(&batch).expect("figures").loss;
    assert!((whole - alone.iter().sum::<f64>()).abs() < 1e-5);
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let load = |config: &BiEncoderConfig| bi_encoder("tiny-bert", config);
    let plain = BiEncoderConfig::default();
    let mut objective = load(&plain).expect("the model loads");
    for batch in [groups(1, 1), Vec::new()] {
        let refused = objective.step(&batch, &step_at(0));
        assert!(matches!(refused, Err(TrainingError::Setting { .. })));
    }
    let mut uneven = groups(2, 3);
    uneven[0].passages.pop();
    let refused = objective
        .step(&uneven, &step_at(0))
        .expect_err("uneven groups");
    assert!(
        refused.to_string().contains("5 passages for 2 queries"),
        "{refused}"
    );

    let mut objective = load(&everything()).expect("the model loads");
    let mut unscored = groups(2, 2);
    unscored[1].passages[1].score = None;
    let refused = objective
        .step(&unscored, &step_at(0))
        .expect_err("no score");
    assert_eq!(
        refused.to_string(),
        "passage `p1-1` of query `q1` has no teacher score"
    );

    let alone = objective.step(&groups(3, 1), &step_at(0));
    let refused = alone.expect_err("groups of one").to_string();
    assert!(
        refused.starts_with("number of passages that distillation compares is 1"),
        "{refused}"
    );
    let pool = DistillationConfig {
        loss: DistillationLoss::InBatch,
        ..DistillationConfig::default()
    };
    let pool = BiEncoderConfig {
        distillation: Some(pool),
        ..plain.clone()
    };
    let mut objective = load(&pool).expect("the model loads");
    objective
        .step(&groups(3, 1), &step_at(0))
        .expect("the pool is compared");

    let distilled = |distillation| BiEncoderConfig {
        distillation: Some(distillation),
        ..plain.clone()
    };
    let margins = DistillationConfig {
        loss: DistillationLoss::MarginMse,
        ..DistillationConfig::default()
    };
    load(&distilled(margins)).expect("the model loads");
    for config in [
        distilled(DistillationConfig {
            reduction: Reduction::Mean,
            ..margins
        }),
        distilled(DistillationConfig {
            teacher_temperature: 2.0,
            ..margins
        }),
        distilled(DistillationConfig {
            student_temperature: Some(0.02),
            ..margins
        }),
        BiEncoderConfig {
            negatives: Negatives::Group,
            mask: MaskConfig {
                own: true,
                ..MaskConfig::default()
            },
            ..plain.clone()
        },
        BiEncoderConfig {
            temperature: Some(0.0),
            ..plain.clone()
        },
        BiEncoderConfig {
            contrastive_weight: 0.0,
            ..plain.clone()
        },
        BiEncoderConfig {
            grad_scale: f64::NAN,
            ..plain.clone()
        },
        BiEncoderConfig {
            passage_tokens: 4000,
            ..plain.clone()
        },
        BiEncoderConfig {
            matryoshka: vec![Width {
                width: 8,
                weight: 1.0,
            }],
            matryoshka_per_step: Some(0),
            ..plain.clone()
        },
        BiEncoderConfig {
            matryoshka_per_step: Some(1),
            ..plain.clone()
        },
        BiEncoderConfig {
            passage_model: Some(model("tiny-bert")),
            ..plain.clone()
        },
        BiEncoderConfig {
            mask: MaskConfig {
                above_own: true,
                ..MaskConfig::default()
            },
            ..plain.clone()
        },
        BiEncoderConfig {
            query_tokens: 1,
            ..plain.clone()
        },
        BiEncoderConfig {
            dropout: Some(1.0),
            ..plain.clone()
        },
        BiEncoderConfig {
            head: Some(HeadConfig {
                width: 0,
                bias: false,
                seed: 0,
            }),
            ..plain.clone()
        },
        BiEncoderConfig {
            mask: MaskConfig {
                above: Some(f64::NAN),
                ..MaskConfig::default()
            },
            ..plain.clone()
        },
        BiEncoderConfig {
            matryoshka: vec![Width {
                width: 4000,
                weight: 1.0,
            }],
            ..plain.clone()
        },
        BiEncoderConfig {
            pooling: Some(Pooling::Max),
            ..plain.clone()
        },
    ] {
        assert!(load(&config).is_err(), "{config:?}");
    }
    let refused = bi_encoder("tiny-bert-plain", &plain)
        .err()
        .expect("no modules.json");
    assert!(
        refused.to_string().contains("`pooling` and `normalize`"),
        "{refused}"
    );
}

#[test]
fn passages_have_the_prompt_of_their_own_model() {
    let (source, folder) = (model("tiny-bert"), tempfile::tempdir().expect("a folder"));
    std::fs::create_dir(folder.path().join("1_Pooling")).expect("a folder");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "1_Pooling/config.json",
    ] {
        std::fs::copy(source.join(name), folder.path().join(name)).expect("a copy");
    }
    let prompts =
        r#"{"prompts": {"query": "ask: ", "document": "read: "}, "similarity_fn_name": "cosine"}"#;
    let path = folder.path().join("config_sentence_transformers.json");
    std::fs::write(path, prompts).expect("a file");
    let config = BiEncoderConfig {
        untied: true,
        passage_model: Some(folder.path().to_owned()),
        query_tokens: 16,
        passage_tokens: 32,
        ..BiEncoderConfig::default()
    };
    let own = bi_encoder(
        "tiny-bert",
        &BiEncoderConfig {
            untied: true,
            passage_model: None,
            ..config.clone()
        },
    );
    let own = own.expect("the model loads").config().clone();
    let found = bi_encoder("tiny-bert", &config).expect("the models load");
    assert_eq!(found.config().query_prompt, own.query_prompt);
    assert_eq!(found.config().passage_prompt.as_deref(), Some("read: "));
}

#[test]
fn towers_of_different_tokenizers_are_refused() {
    let source = model("tiny-bert-plain");
    let load = |do_lower_case: bool| {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(source.join(name), folder.path().join(name)).expect("a copy");
        }
        let settings = format!("{{\"do_lower_case\": {do_lower_case}}}");
        std::fs::write(folder.path().join("tokenizer_config.json"), settings).expect("a file");
        let config = BiEncoderConfig {
            pooling: Some(Pooling::Mean),
            normalize: Some(true),
            untied: true,
            passage_model: Some(folder.path().to_owned()),
            query_tokens: 16,
            passage_tokens: 32,
            ..BiEncoderConfig::default()
        };
        bi_encoder("tiny-bert-plain", &config).map(drop)
    };
    load(true).expect("equal tokenizers");
    let error = load(false).expect_err("capitals would be other tokens in the export");
    assert!(
        error.to_string().contains("its tokenizer is another"),
        "{error}"
    );
}

#[test]
fn unknown_settings_are_refused_and_known_ones_come_back() {
    let refused = serde_json::from_str::<BiEncoderConfig>(r#"{"temprature": 0.1}"#);
    assert!(
        refused
            .expect_err("a typing error")
            .to_string()
            .contains("temprature")
    );
    let text = serde_json::to_string(&everything()).expect("a config is JSON");
    let back: BiEncoderConfig = serde_json::from_str(&text).expect("its own JSON");
    assert_eq!(back, everything());
}
