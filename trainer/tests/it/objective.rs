//! Objectives: they learn what can be learned, repeat bit for bit, and their exports give what they gave.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use encoder::training::{AdamW, AdamWConfig, Engine, EngineConfig, Parameters, TrainingError};
use encoder::{BiEncoder, CrossEncoder, EncoderConfig, ModelOptions, Pooling, Role, Text};
use trainer::data::{Candidate, Content, Group};
use trainer::loss::Width;
use trainer::objective::{
    BiEncoderConfig, BiEncoderObjective, CrossEncoderConfig, CrossEncoderObjective,
    DistillationConfig, DistillationLoss, GradCacheConfig, HeadConfig, MaskConfig, Negatives,
    RankingLoss,
};
use trainer::{Objective, Step, StepReport};

fn model(name: &str) -> PathBuf {
    testkit::fixture("models").join(name)
}

fn engine() -> Arc<Engine> {
    Engine::new(&EngineConfig::default()).expect("threads start")
}

fn bi_encoder(name: &str, config: &BiEncoderConfig) -> Result<BiEncoderObjective, TrainingError> {
    BiEncoderObjective::load(&model(name), config, &engine())
}

fn cross_encoder(name: &str, config: &CrossEncoderConfig) -> CrossEncoderObjective {
    CrossEncoderObjective::load(&model(name), config, &engine()).expect("the model loads")
}

const WORDS: [&str; 24] = [
    "river", "stone", "engine", "water", "mountain", "bread", "music", "train", "forest", "king",
    "winter", "letter", "market", "doctor", "island", "paper", "horse", "window", "garden",
    "metal", "history", "school", "light", "animal",
];

/// A text of `n` words that `seed` chooses.
fn text(seed: usize, n: usize) -> String {
    let word = |i: usize| WORDS[(seed * 7 + seed / 24 * 5 + i * (seed % 11 + 1) + i * i) % 24];
    (0..n).map(word).collect::<Vec<_>>().join(" ")
}

/// Queries with groups of `n_passages`, all texts different, with teacher scores.
fn groups(n_queries: usize, n_passages: usize) -> Vec<Group> {
    let passage = |query: usize, place: usize| Candidate {
        id: format!("p{query}-{place}"),
        content: Content::Text(format!(
            "{} {query} {place}",
            text(query * 31 + place + 5, 6)
        )),
        score: Some(4.0 - place as f32),
    };
    let group = |query: usize| Group {
        query_id: format!("q{query}"),
        query: Content::Text(format!("{} {query}", text(query, 3))),
        passages: (0..n_passages).map(|place| passage(query, place)).collect(),
        positives: [format!("p{query}-0")].into(),
    };
    (0..n_queries).map(group).collect()
}

fn step_at(index: u64) -> Step {
    Step {
        seed: 3,
        index,
        weight: 1.0,
    }
}

/// Takes steps of AdamW and returns what each gave.
fn train<O: Objective>(
    objective: &mut O,
    n_steps: u64,
    rate: f64,
    mut batch: impl FnMut(u64) -> O::Batch,
) -> Vec<StepReport> {
    let config = AdamWConfig::default();
    let mut optimizer =
        AdamW::new(objective.parameters(), config, &engine()).expect("an optimizer");
    let mut reports = Vec::new();
    for index in 0..n_steps {
        let report = objective
            .step(&batch(index), &step_at(index))
            .expect("a step");
        optimizer.step(rate, Some(1.0)).expect("finite gradients");
        reports.push(report);
    }
    reports
}

fn accuracy(report: &StepReport) -> f64 {
    report.measures["accuracy"]
}

/// Gradients by parameter.
type Gradients = Vec<(String, Option<Vec<f32>>)>;

/// Those of one step.
fn gradients<O: Objective>(objective: &mut O, batch: &O::Batch) -> Gradients {
    objective.parameters().clear_gradients();
    objective.step(batch, &step_at(5)).expect("a step");
    let parameters = objective.parameters().iter();
    parameters
        .map(|p| (p.name().to_owned(), p.gradient()))
        .collect()
}

fn length(values: impl Iterator<Item = f32>) -> f32 {
    values.map(|x| x * x).sum::<f32>().sqrt()
}

fn check_equal(found: &Gradients, expected: &Gradients) {
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        let (Some(expected), Some(found)) = (expected, found) else {
            panic!("{name} has no gradient");
        };
        let error = length(found.iter().zip(expected).map(|(a, b)| a - b));
        let size = length(expected.iter().copied());
        assert!(error <= 1e-5 * size.max(0.1), "{name}: {error} of {size}");
    }
}

/// Compares `gradient · u` with the difference quotient of the loss along u, for a direction u of each parameter.
fn check_differences<O: Objective>(objective: &mut O, batch: &O::Batch) {
    let gradients = gradients(objective, batch);
    let parameters: Parameters = objective.parameters().clone();
    for (name, gradient) in gradients {
        let parameter = parameters.get(&name).expect("a parameter of this name");
        let values = parameter.values();
        let gradient = gradient.unwrap_or_else(|| panic!("{name} has no gradient"));
        let size = length(gradient.iter().copied());
        if size < 1e-4 {
            continue; // a key bias, which the softmax cancels
        }
        // Along the gradient itself the slope is its length; a second part crosses it.
        let direction: Vec<f32> = (gradient.iter().enumerate())
            .map(|(i, g)| g / size + 0.3 * (i as f32 * 0.7).sin() / (values.len() as f32).sqrt())
            .collect();
        let slope: f64 = (gradient.iter().zip(&direction))
            .map(|(&g, &u)| f64::from(g) * f64::from(u))
            .sum();
        let mut at = |step: f32| {
            let moved: Vec<f32> = values
                .iter()
                .zip(&direction)
                .map(|(value, u)| value + step * u)
                .collect();
            parameter.set_values(&moved).expect("as many values");
            objective.step(batch, &step_at(5)).expect("a step").loss
        };
        const STEP: f32 = 2e-3;
        let quotient = (at(STEP) - at(-STEP)) / (2.0 * f64::from(STEP));
        parameter.set_values(&values).expect("as many values");
        assert!(
            (slope - quotient).abs() < 0.02 * slope.abs() + 3e-3,
            "{name}: slope {slope}, quotient {quotient}"
        );
    }
}

mod bi_encoders {
    use super::*;

    fn everything() -> BiEncoderConfig {
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

    #[test]
    fn thirty_two_pairs_are_learned_and_shuffled_ones_are_not() {
        let config = BiEncoderConfig {
            dropout: Some(0.0),
            ..BiEncoderConfig::default()
        };
        let mut objective = bi_encoder("tiny-bert", &config).expect("the model loads");
        let pairs = groups(32, 1);
        let before = accuracy(&objective.evaluate(&pairs).expect("figures"));
        train(&mut objective, 120, 5e-3, |_| pairs.clone());
        let after = objective.evaluate(&pairs).expect("figures");
        assert_eq!(accuracy(&after), 1.0, "{after:?}");
        assert!(before < 0.7, "{before}");

        let mut objective = bi_encoder("tiny-bert", &config).expect("the model loads");
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
        let run = || {
            let mut objective = bi_encoder("tiny-bert", &everything()).expect("the model loads");
            let reports = train(&mut objective, 4, 1e-3, |_| groups(5, 3));
            let weights = objective.parameters().iter();
            (
                reports,
                weights
                    .map(|parameter| parameter.values())
                    .collect::<Vec<_>>(),
            )
        };
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
            let mut objective = bi_encoder("tiny-bert", &config).expect("the model loads");
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
        let expected = gradients(
            &mut bi_encoder("tiny-bert", &whole).expect("a model"),
            &batch,
        );
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
            let found = gradients(
                &mut bi_encoder("tiny-bert", &config).expect("a model"),
                &batch,
            );
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
            let mut again = BiEncoderObjective::load(folder.path(), &plain, &engine())
                .expect("the export loads");
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

        for config in [
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
                query_tokens: 1,
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
}

mod cross_encoders {
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

    fn check_served(objective: &CrossEncoderObjective, folder: &Path) {
        let pairs = pairs(&groups(3, 3));
        let found = objective.score(&pairs).expect("scores");
        let texts: Vec<(&str, &str)> = (pairs.iter())
            .map(|pair| match pair {
                (Content::Text(query), Content::Text(passage)) => (&**query, &**passage),
                other => panic!("{other:?} are no texts"),
            })
            .collect();
        let model = CrossEncoder::load(folder, Some(48), &EncoderConfig::default())
            .expect("the model loads");
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
        let run = || {
            let mut objective = cross_encoder("tiny-bert-plain", &config); // with a new head
            let reports = train(&mut objective, 3, 1e-3, |_| groups(3, 3));
            let weights = objective.parameters().iter();
            (
                reports,
                weights
                    .map(|parameter| parameter.values())
                    .collect::<Vec<_>>(),
            )
        };
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
                margin: -1.0,
                ..config()
            },
            CrossEncoderConfig {
                max_tokens: 3,
                ..config()
            },
        ] {
            assert!(load("tiny-cross-bert", &config).is_err(), "{config:?}");
        }
        let mut objective = cross_encoder("tiny-cross-bert", &config());
        for batch in [groups(2, 1), Vec::new()] {
            assert!(objective.step(&batch, &step_at(0)).is_err());
        }
    }
}

mod golden {
    //! Steps of `tests/golden/trainer/steps.json`.

    use serde_json::Value;

    use super::*;

    fn read() -> Value {
        let path = testkit::golden("trainer/steps.json");
        let text = std::fs::read_to_string(path).expect("a golden file");
        let mut golden: Value = serde_json::from_str(&text).expect("valid JSON");
        golden["steps"].take()
    }

    fn batch(step: &Value) -> Vec<Group> {
        let content =
            |ids: &Value| Content::Tokens(serde_json::from_value(ids.clone()).expect("token ids"));
        let queries = step["queries"].as_array().expect("queries");
        let passages = step["passages"].as_array().expect("passages");
        let n = passages.len() / queries.len();
        let group = |(row, query): (usize, &Value)| Group {
            query_id: format!("q{row}"),
            query: content(query),
            passages: (0..n)
                .map(|place| Candidate {
                    id: format!("p{row}-{place}"),
                    content: content(&passages[row * n + place]),
                    score: step["teacher"][row][place]
                        .as_f64()
                        .map(|score| score as f32),
                })
                .collect(),
            positives: [format!("p{row}-0")].into(),
        };
        queries.iter().enumerate().map(group).collect()
    }

    fn check(name: &str, objective: &mut impl Objective<Batch = Vec<Group>>, golden: &Value) {
        let step = &golden[name];
        let report = objective.step(&batch(step), &step_at(0)).expect("a step");
        let expected = step["loss"].as_f64().expect("a loss");
        let error = (report.loss - expected).abs();
        assert!(
            error < 1e-5 * expected,
            "{name}: {}, not {expected}",
            report.loss
        );
        let expected = step["gradients"].as_object().expect("gradients");
        assert_eq!(
            objective.parameters().iter().count(),
            expected.len(),
            "{name}"
        );
        for (parameter, expected) in expected {
            let number = |place: usize| expected[place].as_f64().expect("a number");
            let found = objective.parameters().get(parameter);
            let found = found.and_then(|found| found.gradient());
            let found = found.unwrap_or_else(|| panic!("{name}: {parameter} has no gradient"));
            let square: f64 = found.iter().map(|&g| f64::from(g).powi(2)).sum();
            let product: f64 = (found.iter().enumerate())
                .map(|(i, &g)| f64::from(g) * (0.7 * i as f64 + 0.3).cos())
                .sum();
            // Sums over tokens in f32; a key bias, which the softmax cancels, is rounding alone.
            let tolerance = 1e-4 * number(0) + 2e-6;
            assert!(
                (square.sqrt() - number(0)).abs() < tolerance,
                "{name}, {parameter}: length {}, not {}",
                square.sqrt(),
                number(0)
            );
            assert!(
                (product - number(1)).abs() < tolerance,
                "{name}, {parameter}: product {product}, not {}, length {}",
                number(1),
                number(0)
            );
        }
    }

    #[test]
    fn steps_equal_pytorch() {
        let golden = read();
        let config = BiEncoderConfig {
            dropout: Some(0.0),
            negatives: Negatives::Full,
            contrastive_weight: 0.2,
            distillation: Some(DistillationConfig::default()),
            ..BiEncoderConfig::default()
        };
        for name in ["tiny-bert", "tiny-mpnet"] {
            let mut objective = bi_encoder(name, &config).expect("the model loads");
            check(name, &mut objective, &golden);
        }
        let config = CrossEncoderConfig {
            max_tokens: 48,
            dropout: Some(0.0),
            ..CrossEncoderConfig::default()
        };
        for name in [
            "tiny-cross-bert",
            "tiny-cross-roberta",
            "tiny-cross-distilbert",
        ] {
            check(name, &mut cross_encoder(name, &config), &golden);
        }
    }
}
