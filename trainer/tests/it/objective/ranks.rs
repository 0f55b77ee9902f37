//! Several ranks, each with a share of a batch, do what one does with all of it.

use trainer::objective::pretraining::RetroMaeConfig;
use trainer::ranks::Collective;

use super::bi_encoders::{everything, tiny};
use super::pretraining::{
    condenser, corrupted, cot_mae, mlm, objective, retro_mae, retro_mae_texts,
};
use super::*;
use crate::ranks::with_ranks;

type Gradient = Vec<(String, Option<Vec<f32>>)>;

/// A step of one rank: its report, and the gradients that it adds.
fn step<O: Objective>(
    mut objective: O,
    batch: &O::Batch,
    ranks: &dyn Collective,
) -> (StepReport, Gradient) {
    assert_eq!(objective.unshareable(), None);
    let input = objective.preparation()(batch).expect("an input");
    let report = objective.step_prepared(batch, input, &step_at(3), ranks);
    let gradients = objective.parameters().iter();
    let gradients = gradients.map(|one| (one.name().to_owned(), one.gradient().unwrap()));
    (report.expect("a step"), gradients.collect())
}

/// Compares 2, 3 and more ranks than examples with one rank, dropout and all.
fn check<O: Objective>(make: impl Fn() -> O + Sync, batch: &O::Batch)
where
    O::Batch: Sync,
{
    let (expected, whole) = with_ranks(1, |ranks| step(make(), batch, ranks)).remove(0);
    assert!(expected.loss > 0.0);
    for world_size in [2, 3, expected.n_examples + 1] {
        let found = with_ranks(world_size, |ranks| step(make(), batch, ranks));
        for (report, _) in found.iter().take(expected.n_examples) {
            assert_eq!(report.n_examples, expected.n_examples);
            assert_eq!(report.n_tokens, expected.n_tokens);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs().max(1.0);
            assert!(
                near(report.loss, expected.loss),
                "{} of {world_size} ranks, {} of one",
                report.loss,
                expected.loss
            );
            for (name, value) in &report.measures {
                assert!(near(*value, expected.measures[name]), "{name}");
            }
        }
        // Relative to the length of all gradients: some are zero but for rounding.
        let (mut difference, mut length) = (0.0, 0.0);
        for (place, (name, whole)) in whole.iter().enumerate() {
            let parts = found.iter().filter_map(|(_, own)| own[place].1.as_ref());
            let mut sum: Option<Vec<f64>> = None;
            for part in parts {
                let sum = sum.get_or_insert_with(|| vec![0.0; part.len()]);
                sum.iter_mut()
                    .zip(part)
                    .for_each(|(s, x)| *s += f64::from(*x));
            }
            assert_eq!(sum.is_some(), whole.is_some(), "{name}");
            for (sum, x) in sum.into_iter().flatten().zip(whole.iter().flatten()) {
                difference += (sum - f64::from(*x)).powi(2);
                length += f64::from(*x).powi(2);
            }
        }
        let relative = (difference / length).sqrt();
        assert!(relative < 1e-5, "{relative} of {world_size} ranks");
    }
}

#[test]
fn shares_of_a_contrastive_batch_add_up() {
    let config = BiEncoderConfig {
        temperature: Some(0.05),
        dropout: Some(0.1),
        ..BiEncoderConfig::default()
    };
    check(|| tiny(&config), &groups(32, 3));
    let parts = GradCacheConfig {
        queries: 3,
        passages: 5,
        max_tokens: None,
    };
    let cached = BiEncoderConfig {
        grad_cache: Some(parts),
        ..everything()
    };
    for config in [everything(), cached] {
        check(|| tiny(&config), &groups(7, 3));
    }
}

#[test]
fn shares_of_a_batch_of_pairs_add_up() {
    let config = CrossEncoderConfig {
        max_tokens: 48,
        dropout: Some(0.1),
        r_drop: Some(1.0),
        ..CrossEncoderConfig::default()
    };
    for name in ["tiny-cross-bert", "tiny-cross-roberta"] {
        check(|| cross_encoder(name, &config), &groups(7, 3));
    }
    let lambda = CrossEncoderConfig {
        loss: RankingLoss::Lambda,
        ..config.clone()
    };
    check(|| cross_encoder("tiny-cross-bert", &lambda), &groups(7, 3));
    let at_k = CrossEncoderConfig {
        lambda_k: Some(2),
        ..lambda
    };
    let factor = CrossEncoderConfig {
        rerank_forward_factor: 2,
        ..config
    };
    for (config, key) in [(at_k, "lambda_k"), (factor, "rerank_forward_factor")] {
        let reason = cross_encoder("tiny-cross-bert", &config).unshareable();
        assert!(reason.is_some_and(|reason| reason.contains(key)));
    }
}

#[test]
fn shares_of_a_batch_of_texts_add_up() {
    check(|| objective(mlm(), 0.1), &corrupted(32, 0.3, 1));
    check(|| objective(condenser(false), 0.1), &corrupted(7, 0.3, 1));
    for config in [RetroMaeConfig::default(), RetroMaeConfig::dup_mae()] {
        check(
            || objective(retro_mae(&config), 0.1),
            &retro_mae_texts(7, 24),
        );
    }
    for reason in [
        objective(condenser(true), 0.1).unshareable(),
        objective(cot_mae(), 0.1).unshareable(),
    ] {
        assert!(reason.is_some());
    }
}
