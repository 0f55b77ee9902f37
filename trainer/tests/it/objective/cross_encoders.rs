use super::*;

const MODELS: [&str; 4] = [
    "tiny-cross-bert",
    "tiny-cross-roberta",
    "tiny-cross-distilbert",
    "tiny-bert-plain",
];

fn config() -> CrossEncoderConfig {
    CrossEncoderConfig {
        max_tokens: 48,
        ..CrossEncoderConfig::default()
    }
}

fn pairs(batch: &[Group]) -> Vec<(Content, Content)> {
    let pair = |group: &Group| {
        let query = group.query.clone();
        let passages = group.passages.clone();
        passages
            .into_iter()
            .map(move |passage| (query.clone(), passage.content))
    };
    batch.iter().flat_map(pair).collect()
}

#[test]
fn scores_are_those_of_the_serving_engine() {
    for name in [
        "tiny-cross-bert",
        "tiny-cross-roberta",
        "tiny-cross-distilbert",
    ] {
        check_served(&cross_encoder(name, &config()), &model(name));
    }
}

#[test]
fn exports_give_the_same_scores() {
    for name in MODELS {
        let mut objective = cross_encoder(name, &config());
        train(&mut objective, 2, 1e-3, |_| groups(3, 3));
        let folder = tempfile::tempdir().expect("a folder");
        objective.export(folder.path()).expect("an export");
        check_served(&objective, folder.path());
        let again = CrossEncoderObjective::load(folder.path(), &config(), &engine())
            .expect("the export loads");
        let pairs = pairs(&groups(3, 3));
        let scores = objective.score(&pairs).expect("scores");
        assert_eq!(again.score(&pairs).expect("scores"), scores);
    }
}

#[test]
fn a_rank_prior_is_exported_and_stays_with_the_model() {
    let prior = RankPrior {
        weight: 4.0,
        offset: 2.0,
    };
    let with = CrossEncoderConfig {
        rank_prior: Some(prior),
        ..config()
    };
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [first, second] = folders.each_ref().map(tempfile::TempDir::path);
    let objective = cross_encoder("tiny-cross-bert", &with);
    objective.export(first).expect("an export");
    let again = CrossEncoderObjective::load(first, &config(), &engine()).expect("it loads");
    again.export(second).expect("an export");
    for folder in [first, second] {
        let model = CrossEncoder::load(folder, Some(48), &EncoderConfig::default());
        assert_eq!(model.expect("the model loads").rank_prior(), prior);
    }
}

#[test]
fn texts_are_lower_cased_where_the_model_asks_for_it() {
    let source = model("tiny-cross-bert");
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [folder, exported] = folders.each_ref().map(tempfile::TempDir::path);
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(source.join(name), folder.join(name)).expect("a copy");
    }
    for name in ["tokenizer_config.json", "sentence_bert_config.json"] {
        let is_lower = name.starts_with("sentence");
        let text = format!("{{\"do_lower_case\": {is_lower}}}");
        std::fs::write(folder.join(name), text).expect("a file");
    }
    let objective = CrossEncoderObjective::load(folder, &config(), &engine()).expect("it loads");
    let score = |first: &str, second: &str| {
        let pair = [first, second].map(|text| Content::Text(text.to_owned()));
        let [query, passage] = pair;
        objective.score(&[(query, passage)]).expect("a score")[0]
    };
    let expected = score("is it the end", "the end");
    assert_eq!(score("IS IT THE END", "The End"), expected);
    objective.export(exported).expect("an export");
    for folder in [folder, exported] {
        let model = CrossEncoder::load(folder, Some(48), &EncoderConfig::default());
        let model = model.expect("the model loads");
        let tokens = model.tokenize(&[("IS IT THE END", "The End")]);
        let scores = model.score(&tokens.expect("texts tokenise"));
        let found = scores.expect("scores").logits[0];
        assert!(
            (found - expected).abs() < 1e-5,
            "{folder:?}: {found}, not {expected}"
        );
    }
}

fn check_served(objective: &CrossEncoderObjective, folder: &Path) {
    let pairs = pairs(&groups(3, 3));
    let found = objective.score(&pairs).expect("scores");
    let texts: Vec<(&str, &str)> = (pairs.iter())
        .map(|pair| match pair {
            (Content::Text(query), Content::Text(passage)) => (&**query, &**passage),
            other => panic!("{other:?} are no texts"),
        })
        .collect();
    let model =
        CrossEncoder::load(folder, Some(48), &EncoderConfig::default()).expect("the model loads");
    let tokens = model.tokenize(&texts).expect("texts tokenise");
    let expected = model.score(&tokens).expect("scores").logits;
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() < 1e-5,
            "{folder:?}: {found}, not {expected}"
        );
    }
}

#[test]
fn a_group_is_learned_by_every_loss() {
    for loss in [
        RankingLoss::Listwise,
        RankingLoss::Pointwise,
        RankingLoss::Margin,
        RankingLoss::SoftMargin,
        RankingLoss::RankNet,
        RankingLoss::ListNet,
        RankingLoss::Lambda,
    ] {
        let config = CrossEncoderConfig {
            loss,
            dropout: Some(0.0),
            ..config()
        };
        let mut objective = cross_encoder("tiny-cross-bert", &config);
        let batch = groups(4, 4);
        let before = objective.evaluate(&batch).expect("figures").loss;
        train(&mut objective, 40, 2e-3, |_| batch.clone());
        let after = objective.evaluate(&batch).expect("figures");
        assert!(
            after.loss < before,
            "{loss:?}: {before}, then {}",
            after.loss
        );
        assert_eq!(accuracy(&after), 1.0, "{loss:?}: {after:?}");
    }
}

#[test]
fn gradients_equal_difference_quotients() {
    for name in MODELS {
        let config = CrossEncoderConfig {
            r_drop: Some(1.0),
            distillation: Some(DistillationConfig::default()),
            ..config()
        };
        check_differences(&mut cross_encoder(name, &config), &groups(3, 3));
    }
}

#[test]
fn parts_give_the_gradient_of_the_whole_batch() {
    let whole = CrossEncoderConfig {
        dropout: Some(0.0),
        ..config()
    };
    let batch = groups(3, 4);
    let expected = gradients(&mut cross_encoder("tiny-cross-bert", &whole), &batch);
    for passages in [1, 3, 12] {
        let parts = GradCacheConfig {
            passages,
            ..GradCacheConfig::default()
        };
        let config = CrossEncoderConfig {
            grad_cache: Some(parts),
            ..whole.clone()
        };
        let found = gradients(&mut cross_encoder("tiny-cross-bert", &config), &batch);
        check_equal(&found, &expected);
    }
}

#[test]
fn a_forward_factor_keeps_the_positive_and_the_best() {
    let plain = CrossEncoderConfig {
        dropout: Some(0.0),
        ..config()
    };
    let mut whole = cross_encoder("tiny-cross-bert", &plain);
    let mut batch = groups(2, 8);
    let scores = whole.score(&pairs(&batch)).expect("scores");
    let factor = CrossEncoderConfig {
        rerank_forward_factor: 2,
        ..plain.clone()
    };
    let found = cross_encoder("tiny-cross-bert", &factor)
        .step(&batch, &step_at(0))
        .expect("a step");
    for (group, scores) in batch.iter_mut().zip(scores.chunks(8)) {
        let mut order: Vec<usize> = (1..8).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let kept = [0].into_iter().chain(order).take(4);
        group.passages = kept.map(|place| group.passages[place].clone()).collect();
    }
    let expected = whole.step(&batch, &step_at(0)).expect("a step");
    assert!(
        (found.loss - expected.loss).abs() < 1e-6,
        "{found:?} {expected:?}"
    );
    let one = CrossEncoderConfig {
        rerank_forward_factor: 1,
        ..plain
    };
    let same = cross_encoder("tiny-cross-bert", &one)
        .step(&batch, &step_at(0))
        .expect("a step");
    assert_eq!(same, expected);
}

#[test]
fn a_run_repeats_bit_for_bit() {
    let config = CrossEncoderConfig {
        r_drop: Some(1.0),
        ..config()
    };
    let new_head = || cross_encoder("tiny-bert-plain", &config);
    let run = || outcome(new_head(), 3, |_| groups(3, 3));
    assert_eq!(run(), run());
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let load = |name: &str, config: &CrossEncoderConfig| {
        CrossEncoderObjective::load(&model(name), config, &engine())
    };
    let refused = load("tiny-cross-bert-3", &config())
        .err()
        .expect("three labels");
    assert!(refused.to_string().contains("3 labels"), "{refused}");
    for config in [
        CrossEncoderConfig {
            rerank_forward_factor: 0,
            ..config()
        },
        CrossEncoderConfig {
            loss: RankingLoss::Margin,
            margin: -1.0,
            ..config()
        },
        CrossEncoderConfig {
            margin: 2.0,
            ..config()
        },
        CrossEncoderConfig {
            loss: RankingLoss::Lambda,
            lambda_k: Some(0),
            ..config()
        },
        CrossEncoderConfig {
            lambda_k: Some(2),
            ..config()
        },
        CrossEncoderConfig {
            max_tokens: 3,
            ..config()
        },
        CrossEncoderConfig {
            rank_prior: Some(RankPrior {
                weight: -1.0,
                offset: 2.0,
            }),
            ..config()
        },
        CrossEncoderConfig {
            dropout: Some(1.5),
            ..config()
        },
        CrossEncoderConfig {
            distillation: Some(DistillationConfig {
                loss: DistillationLoss::InBatch,
                ..DistillationConfig::default()
            }),
            ..config()
        },
        CrossEncoderConfig {
            ranking_weight: 0.0,
            r_drop: Some(1.0),
            ..config()
        },
    ] {
        assert!(load("tiny-cross-bert", &config).is_err(), "{config:?}");
    }
    let distilled = CrossEncoderConfig {
        ranking_weight: 0.0,
        distillation: Some(DistillationConfig::default()),
        ..config()
    };
    load("tiny-cross-bert", &distilled).expect("the model loads");
    // A head that the checkpoint lacks is drawn; the pooler of tiny-bert is none of it.
    let new = load("tiny-roberta", &config()).expect("the model loads");
    let old = load("tiny-cross-roberta", &config()).expect("the model loads");
    for (name, is_head) in [
        ("classifier.dense.weight", true),
        ("classifier.out_proj.bias", true),
        ("roberta.embeddings.LayerNorm.bias", false),
    ] {
        assert!(
            new.parameters().iter().any(|one| one.name() == name),
            "{name}"
        );
        assert_eq!(
            (new.is_drawn(name), old.is_drawn(name)),
            (is_head, false),
            "{name}"
        );
    }
    let mut objective = cross_encoder("tiny-cross-bert", &config());
    for batch in [groups(2, 1), Vec::new()] {
        assert!(objective.step(&batch, &step_at(0)).is_err());
    }
}
