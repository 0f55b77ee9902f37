//! A tiny model and batches for it.

use std::path::Path;
use std::sync::Arc;

use encoder::training::{Engine, EngineConfig, TrainingError};

use crate::data::{Candidate, Content, Group};

/// Loads an objective from the tiny BERT of the fixtures.
pub(super) fn tiny<T>(load: impl Fn(&Path, &Arc<Engine>) -> Result<T, TrainingError>) -> T {
    let engine = Engine::new(&EngineConfig::default()).expect("threads start");
    load(&testkit::fixture("models/tiny-bert"), &engine).expect("the model loads")
}

/// Queries with groups of `n_passages`, all texts and ids different, with teacher scores.
pub(super) fn groups(n_queries: usize, n_passages: usize) -> Vec<Group> {
    let ids = |seed: usize, n: usize| -> Content {
        Content::Tokens(
            (0..n)
                .map(|i| (10 + (seed * 37 + i * i * 11) % 500) as u32)
                .collect(),
        )
    };
    let passage = |query: usize, place: usize| Candidate {
        id: format!("p{query}-{place}"),
        content: ids(
            100 + query * n_passages + place,
            4 + (query + 3 * place) % 9,
        ),
        score: Some(if place == 0 { 3.0 } else { 0.5 * place as f32 }),
    };
    let group = |query: usize| Group {
        query_id: format!("q{query}"),
        query: ids(query, 3 + query % 4),
        passages: (0..n_passages).map(|place| passage(query, place)).collect(),
        positives: [format!("p{query}-0")].into(),
    };
    (0..n_queries).map(group).collect()
}

/// Length of the difference over the length of what was expected; below 1e-6 everything is 0.
pub(super) fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let difference = length(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    let expected = length(&mut expected.iter().copied());
    if expected < 1e-6 {
        difference
    } else {
        difference / expected
    }
}
