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
        let found = found.and_then(|found| found.gradient().expect("it is read"));
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

fn check_steps(bi_encoders: &[&str]) {
    let golden = read();
    let config = BiEncoderConfig {
        dropout: Some(0.0),
        negatives: Negatives::Full,
        contrastive_weight: 0.2,
        distillation: Some(DistillationConfig::default()),
        ..BiEncoderConfig::default()
    };
    for name in bi_encoders {
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

#[test]
fn steps_equal_pytorch() {
    check_steps(&["tiny-bert", "tiny-mpnet"]);
}

#[test]
fn steps_on_a_device_equal_pytorch() {
    on_device(|| check_steps(&["tiny-bert"])); // MPNet is not trained there
}
