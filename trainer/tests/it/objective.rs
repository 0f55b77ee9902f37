//! Objectives: they learn what can be learned, repeat bit for bit, and their exports give what they gave.

mod bi_encoders;
mod cross_encoders;
mod golden;
mod pretraining;
mod ranks;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use emulated_gpu::EmulatedGpu;
use encoder::training::{AdamW, AdamWConfig, Engine, EngineConfig, Parameters, TrainingError};
use encoder::{
    BiEncoder, CrossEncoder, EncoderConfig, ModelOptions, Pooling, RankPrior, Role, Text,
};
use trainer::data::{Candidate, Content, Group};
use trainer::loss::{Reduction, Width};
use trainer::objective::{
    BiEncoderConfig, BiEncoderObjective, CrossEncoderConfig, CrossEncoderObjective,
    DistillationConfig, DistillationLoss, GradCacheConfig, GuideConfig, HeadConfig, MarginKind,
    MaskConfig, Negatives, RankingLoss,
};
use trainer::{Objective, Step, StepReport};

fn model(name: &str) -> PathBuf {
    testkit::fixture("models").join(name)
}

thread_local! {
    static IS_ON_DEVICE: Cell<bool> = const { Cell::new(false) };
}

/// The engine of this thread's objectives.
fn engine() -> Arc<Engine> {
    let config = EngineConfig::default();
    match IS_ON_DEVICE.get() {
        true => Engine::on_device(&config, EmulatedGpu::new("gpu:0", 1 << 28)).expect("kernels"),
        false => Engine::new(&config).expect("threads start"),
    }
}

/// Does work in which engines have an emulated device.
fn on_device<R>(work: impl FnOnce() -> R) -> R {
    IS_ON_DEVICE.set(true);
    let result = work();
    IS_ON_DEVICE.set(false);
    result
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
        optimizer_step: index,
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

/// What steps gave, and the weights after them.
fn outcome<O: Objective>(
    mut objective: O,
    n_steps: u64,
    batch: impl FnMut(u64) -> O::Batch,
) -> (Vec<StepReport>, Vec<Vec<f32>>) {
    let reports = train(&mut objective, n_steps, 1e-3, batch);
    let weights = objective.parameters().iter();
    (reports, weights.map(|one| one.values().unwrap()).collect())
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
        .map(|p| (p.name().to_owned(), p.gradient().unwrap()))
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
        let values = parameter.values().unwrap();
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
