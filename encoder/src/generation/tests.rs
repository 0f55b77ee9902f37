#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    /// Steps whose scores are there.
    steps: Vec<usize>,
    tolerance: Tolerance,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Tolerance {
    max_abs: f32,
}

#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    forced: Vec<u32>,
    scores: Vec<Vec<f32>>,
}

const GREEDY: Sampling = Sampling {
    max_tokens: 40,
    top_k: 1,
    temperature: 1.0,
};

fn model(name: &str) -> LanguageModel {
    LanguageModel::load(&testkit::fixture("models").join(name)).unwrap()
}

/// Draws that depend on the text and its number, as in use.
fn draws(text: usize, n: usize) -> Vec<impl FnMut() -> f64> {
    let source = |number: usize| {
        let mut state = (text * 31 + number * 7 + 1) as u64;
        move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    };
    (0..n).map(source).collect()
}

/// Compares with transformers' `generate` and its scores.
fn check_golden(name: &str) {
    let path = testkit::golden("generation").join(name).join("golden.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let model = model(name);
    for Case {
        prompt,
        forced,
        scores,
        ..
    } in golden.cases.iter().filter(|case| !case.scores.is_empty())
    {
        let buffers = &mut Buffers::default();
        let mut groups = model
            .start(std::slice::from_ref(prompt), &[2], 40, buffers)
            .unwrap();
        for (step, token) in forced.iter().enumerate() {
            let found = model.step(&mut groups, buffers);
            let (first, second) = found.split_at(model.n_vocabulary);
            assert_eq!(first, second, "two sequences of one prompt");
            if let Some(place) = golden.steps.iter().position(|&golden| golden == step) {
                let expected = &scores[place];
                assert_eq!(found.len(), 2 * expected.len());
                for (found, expected) in first.iter().zip(expected) {
                    let error = (found - expected).abs();
                    let n_prompt = prompt.len();
                    assert!(
                        error < golden.tolerance.max_abs,
                        "{name}, {n_prompt} tokens, step {step}: {found}, {expected}"
                    );
                }
            }
            for sequence in &mut groups[0].sequences {
                sequence.next = *token;
            }
        }
    }
    let prompts: Vec<Vec<u32>> = golden
        .cases
        .iter()
        .map(|case| case.prompt.clone())
        .collect();
    let texts = model
        .write(
            &prompts,
            (0..prompts.len()).map(|text| draws(text, 1)).collect(),
            &GREEDY,
        )
        .unwrap();
    let expected: Vec<_> = golden
        .cases
        .into_iter()
        .map(|case| vec![case.greedy])
        .collect();
    assert_eq!(texts, expected, "{name}");
}

#[test]
fn t5_writes_what_transformers_does() {
    check_golden("tiny-t5-relu");
    check_golden("tiny-doc2query");
}

#[test]
fn gpt2_writes_what_transformers_does() {
    check_golden("tiny-gpt2");
}

#[test]
fn texts_do_not_depend_on_those_beside_them() {
    let sampling = Sampling {
        max_tokens: 12,
        top_k: 8,
        temperature: 1.5,
    };
    for name in ["tiny-doc2query", "tiny-gpt2"] {
        let model = model(name);
        let prompt = |n: u32| (0..n).map(|i| 3 + (i * 37 + n) % 300).collect::<Vec<u32>>();
        let prompts: Vec<Vec<u32>> = [9, 1, 70, 2, 33].into_iter().map(prompt).collect();
        let together = model
            .write(
                &prompts,
                (0..5).map(|text| draws(text, 3)).collect(),
                &sampling,
            )
            .unwrap();
        for (text, prompt) in prompts.iter().enumerate() {
            let alone = model
                .write(
                    std::slice::from_ref(prompt),
                    vec![draws(text, 3)],
                    &sampling,
                )
                .unwrap();
            assert_eq!(alone[0], together[text], "{name}");
            assert!(alone[0].iter().all(|written| written.len() <= 12), "{name}");
        }
        let distinct: std::collections::HashSet<_> = together.iter().flatten().collect();
        assert!(distinct.len() > 10, "{name}: {together:?}");
    }
}

#[test]
fn prompts_that_cannot_be_read_are_named() {
    let model = model("tiny-gpt2");
    let write = |prompts: &[Vec<u32>]| {
        let draws = (0..prompts.len()).map(|text| draws(text, 1)).collect();
        model
            .write(prompts, draws, &GREEDY)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(model.most_prompt_tokens(40), 89); // 128 positions
    assert_eq!(write(&[vec![1], vec![]]), "row 1 has no tokens");
    assert_eq!(
        write(&[vec![1; 90]]),
        "row 0 has 90 tokens, the model takes 89"
    );
    assert_eq!(
        write(&[vec![320]]),
        "row 0 has token id 320, the model has 320"
    );
    let draws = (0..1).map(|text| draws(text, 1)).collect();
    assert!(model.write(&[vec![1; 89]], draws, &GREEDY).is_ok());
    let bert = LanguageModel::load(&testkit::fixture("models/tiny-bert"));
    let error = bert.err().unwrap().to_string();
    assert!(error.contains("model_type is `bert`"), "{error}");
}

#[test]
fn texts_become_prompts_and_tokens_texts() {
    let t5 = model("tiny-doc2query");
    let prompt = t5.prompt("ask: ", "the river flows to the sea", 6).unwrap();
    assert_eq!((prompt.len(), prompt[5]), (6, 1)); // the beginning, and the end of a text
    let whole = t5.prompt("", "the river", 100).unwrap();
    assert_eq!(t5.text(&whole).unwrap(), "the river");

    let gpt2 = model("tiny-gpt2");
    let whole = gpt2.prompt("", "the river flows", 100).unwrap();
    assert_eq!(gpt2.text(&whole).unwrap(), "the river flows");
    assert_eq!(
        gpt2.prompt("", "the river flows", 2).unwrap(),
        whole[whole.len() - 2..]
    );
    assert!(gpt2.prompt("", "", 2).unwrap().is_empty());
}
