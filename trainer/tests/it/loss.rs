//! Losses against PyTorch's, the numbers worked out in advance, and what must hold of any of them.

mod golden;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use trainer::data::{Candidate, Content, Group};
use trainer::loss::{self, Better, Block, GradScale, LossError, Mask, Reduction, Result, Width};

/// A matrix in f64.
fn matrix(rows: &[&[f64]]) -> Tensor {
    let values: Vec<f64> = rows.iter().flat_map(|row| row.iter().copied()).collect();
    Tensor::from_vec(values, (rows.len(), rows[0].len()), &Device::Cpu).expect("rows of one width")
}

fn value(loss: Result<Tensor>) -> f64 {
    let loss = loss.expect("a loss").to_dtype(DType::F64);
    loss.and_then(|loss| loss.to_scalar()).expect("a scalar")
}

fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all());
    flat.and_then(|flat| flat.to_vec1()).expect("numbers")
}

#[track_caller]
fn check(loss: Result<Tensor>, expected: f64) {
    let found = value(loss);
    assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
}

/// Values without a pattern, between −1 and 1.
fn noise(shape: (usize, usize), seed: u32) -> Tensor {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 23) - 1.0
    };
    let values: Vec<f64> = (0..shape.0 * shape.1).map(|_| next()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("as many values")
}

/// Gradients of a loss by its inputs.
fn gradients<const N: usize>(
    inputs: [&Tensor; N],
    loss: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> [Vec<f64>; N] {
    let variables = inputs.map(|input| Var::from_tensor(input).expect("a variable"));
    let loss = loss(variables.each_ref().map(|variable| variable.as_tensor())).expect("a loss");
    let store = loss.backward().expect("a backward");
    variables.map(|variable| match store.get(&variable) {
        Some(gradient) => values(gradient),
        None => vec![0.0; variable.elem_count()],
    })
}

/// Compares gradients in f64 with central difference quotients, element by element.
fn check_differences<const N: usize>(
    name: &str,
    inputs: [&Tensor; N],
    loss: impl Fn([&Tensor; N]) -> Result<Tensor>,
) {
    const STEP: f64 = 1e-5;
    let found = gradients(inputs, &loss);
    for (place, found) in found.iter().enumerate() {
        let base = values(inputs[place]);
        for element in 0..base.len() {
            let at = |step: f64| {
                let mut moved = base.clone();
                moved[element] += step;
                let moved = Tensor::from_vec(moved, inputs[place].shape(), &Device::Cpu)
                    .expect("as many values");
                let mut inputs = inputs;
                inputs[place] = &moved;
                value(loss(inputs))
            };
            let quotient = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let difference = (found[element] - quotient).abs();
            assert!(
                difference < 1e-6 * (1.0 + quotient.abs()),
                "{name}, input {place}, element {element}: {} and {quotient}",
                found[element]
            );
        }
    }
}

fn group(query: &str, text: &str, positives: &[&str], passages: &[(&str, &str)]) -> Group {
    let candidate = |&(id, text): &(&str, &str)| Candidate {
        id: id.to_owned(),
        content: Content::Text(text.to_owned()),
        score: None,
    };
    Group {
        query_id: query.to_owned(),
        query: Content::Text(text.to_owned()),
        passages: passages.iter().map(candidate).collect(),
        positives: Arc::from_iter(positives.iter().map(|&id| id.to_owned())),
    }
}

mod vectors {
    //! Two queries of two passages each, small enough for paper.

    use super::*;

    fn queries() -> Tensor {
        matrix(&[&[1.0, 0.0], &[0.6, 0.8]])
    }

    fn passages() -> Tensor {
        matrix(&[&[0.8, 0.6], &[0.0, 1.0], &[0.0, 1.0], &[1.0, 0.0]])
    }

    fn teacher() -> Tensor {
        matrix(&[&[2.0, 0.0], &[1.0, 3.0]])
    }

    /// The group's scores over a temperature of 0.5.
    fn student() -> Tensor {
        let scores = loss::group_similarities(&queries(), &passages()).expect("scores");
        (scores / 0.5).expect("a quotient")
    }

    #[test]
    fn contrastive_losses() {
        check(
            loss::info_nce(&queries(), &passages(), 1.0),
            1.261_102_668_044_425_5,
        );
        check(
            loss::info_nce(&queries(), &passages(), 0.5),
            1.230_642_489_977_152_4,
        );
        check(
            loss::full_contrastive(&queries(), &passages(), 0.5),
            1.723_065_264_806_717_7,
        );
        let rows = loss::block_similarities(&queries(), &passages(), &Block::FULL).expect("scores");
        let rows = (rows / 0.5).expect("a quotient");
        for (row, expected) in [1.725_154_029_491_892, 1.720_976_500_121_537]
            .into_iter()
            .enumerate()
        {
            let logits = rows.narrow(0, row, 1).expect("a row");
            check(loss::cross_entropy(&logits, &[2 * row as u32]), expected);
        }
    }

    #[test]
    fn a_passage_with_the_text_of_the_target_is_masked() {
        let groups = [
            group("q0", "a", &["p0"], &[("p0", "P0"), ("p1", "same")]),
            group("q1", "b", &["p2"], &[("p2", "same"), ("p3", "P3")]),
        ];
        let mask = Mask::known(&groups).expect("a mask");
        let scores = loss::similarities(&queries(), &passages()).expect("scores");
        let scores = (mask.apply(&scores).expect("a mask that fits") / 0.5).expect("a quotient");
        check(loss::cross_entropy(&scores, &[0, 2]), 1.088_751_462_295_544);
        for (row, expected) in [1.063_198_467_755_221, 1.114_304_456_835_868]
            .into_iter()
            .enumerate()
        {
            let logits = scores.narrow(0, row, 1).expect("a row");
            check(loss::cross_entropy(&logits, &[2 * row as u32]), expected);
        }
        assert_eq!(mask.share(), 1.0 / 6.0);
    }

    #[test]
    fn distillation_losses() {
        let kl = |reduction| loss::kl_divergence(&student(), &teacher(), reduction);
        check(kl(Reduction::BatchMean), 0.254_645_894_770_208_4);
        check(kl(Reduction::Mean), 0.127_322_947_385_104_2);
        check(
            loss::soft_cross_entropy(&student(), &teacher()),
            0.619_979_749_857_416,
        );
        let reverse = loss::kl_divergence(&teacher(), &student(), Reduction::BatchMean);
        check(reverse, 0.330_491_529_506_984_74);
        let contrastive = value(loss::full_contrastive(&queries(), &passages(), 0.5));
        let total = value(kl(Reduction::BatchMean)) + 0.2 * contrastive;
        assert!((total - 0.599_258_947_731_552).abs() < 1e-12, "{total}");
        let raw = loss::group_similarities(&queries(), &passages()).expect("scores");
        check(
            loss::margin_mse(&raw, &matrix(&[&[2.0, 0.0], &[1.0, 3.0]])),
            (1.2f64.powi(2) + 2.2f64.powi(2)) / 2.0, // margins 0.8 for 2 and 0.2 for −2
        );
        let scores = loss::similarities(&queries(), &passages()).expect("scores");
        let scores = (scores / 0.5).expect("a quotient");
        check(
            loss::in_batch_distillation(&scores, &teacher()),
            1.351_936_661_043_053_9,
        );
    }

    #[test]
    fn ranking_losses() {
        let scores = matrix(&[&[1.2, -0.3]]);
        check(loss::margin_ranking(&scores, 1.0), 0.0);
        check(
            loss::soft_margin_ranking(&scores, 1.0),
            0.474_076_984_180_106_7,
        );
        check(loss::binary_cross_entropy(&scores), 0.817_637_711_806_558_3);
        let (first, second) = (matrix(&[&[2.0, 1.0, 0.0]]), matrix(&[&[1.5, 1.2, 0.1]]));
        let (divergence, mean) = (
            value(loss::r_drop(&first, &second)),
            (value(loss::listwise_softmax(&first)) + value(loss::listwise_softmax(&second))) / 2.0,
        );
        assert!(
            (divergence - 0.055_023_756_982_453_85).abs() < 1e-12,
            "{divergence}"
        );
        assert!((mean - 0.547_220_428_338_396_6).abs() < 1e-12, "{mean}");
        assert!((divergence + mean - 0.602_244_185_320_850_4).abs() < 1e-12);
    }
}

#[test]
fn cross_entropy_keeps_its_invariants() {
    let (n_queries, n_passages) = (3, 12);
    let same = Tensor::ones((n_passages, 4), DType::F64, &Device::Cpu).expect("ones");
    let queries = same.narrow(0, 0, n_queries).expect("rows");
    check(loss::info_nce(&queries, &same, 0.05), 12f64.ln());
    check(
        loss::info_nce(&noise((3, 4), 1), &noise((12, 4), 2), 1e14),
        12f64.ln(),
    );
    check(
        loss::info_nce(&noise((1, 4), 1), &noise((1, 4), 2), 0.01),
        0.0,
    );

    let (scores, targets) = (noise((3, 12), 3), [0, 4, 8]);
    let base = value(loss::cross_entropy(&scores, &targets));
    assert!(base > 0.0);
    let shifts = matrix(&[&[5.0], &[-3.0], &[100.0]]);
    check(
        loss::cross_entropy(&scores.broadcast_add(&shifts).expect("a sum"), &targets),
        base,
    );
    // The first column stays, the others turn round.
    let turned = [0u32, 11, 10, 9, 4, 7, 6, 5, 8, 3, 2, 1];
    let turned =
        Tensor::new(&turned, &Device::Cpu).and_then(|order| scores.index_select(&order, 1));
    check(
        loss::cross_entropy(&turned.expect("columns"), &targets),
        base,
    );
}

#[test]
fn the_full_contrastive_loss_is_above_its_first_block_and_symmetric() {
    let (queries, passages) = (noise((3, 4), 1), noise((6, 4), 2));
    let full = value(loss::full_contrastive(&queries, &passages, 0.2));
    assert!(full > value(loss::info_nce(&queries, &passages, 0.2)));
    let rows = |tensor: &Tensor, order: &[u32]| {
        let order = Tensor::new(order, &Device::Cpu).expect("indices");
        tensor.index_select(&order, 0).expect("rows")
    };
    let (moved, moved_passages) = (
        rows(&queries, &[2, 0, 1]),
        rows(&passages, &[4, 5, 0, 1, 2, 3]),
    );
    check(loss::full_contrastive(&moved, &moved_passages, 0.2), full);
    let (one, its_passages) = (rows(&queries, &[0]), rows(&passages, &[0, 1]));
    let alone = value(loss::info_nce(&one, &its_passages, 0.2));
    check(loss::full_contrastive(&one, &its_passages, 0.2), alone);
}

#[test]
fn gradients_equal_difference_quotients() {
    let (queries, passages) = (noise((3, 4), 1), noise((6, 4), 2));
    let mut mask = Mask::empty(3, 6);
    let scores = loss::similarities(&queries, &passages).expect("scores");
    mask.mask_better(&scores, Better::Absolute(0.1), true)
        .expect("a mask that fits");
    assert!(mask.share() > 0.0 && mask.share() < 1.0);
    let full = mask.blocks(&Block::FULL).expect("a mask of the pool");
    check_differences("masked", [&queries, &passages], |[queries, passages]| {
        let scores = mask.apply(&loss::similarities(queries, passages)?)?;
        loss::cross_entropy(&(scores / 0.3)?, &[0, 2, 4])
    });
    check_differences(
        "full, masked",
        [&queries, &passages],
        |[queries, passages]| {
            let scores = full.apply(&loss::block_similarities(queries, passages, &Block::FULL)?)?;
            loss::cross_entropy(&(scores / 0.3)?, &[0, 2, 4])
        },
    );
    check_differences(
        "normalized",
        [&queries, &passages],
        |[queries, passages]| {
            loss::info_nce(&loss::normalize(queries)?, &loss::normalize(passages)?, 0.3)
        },
    );
    let teacher = noise((3, 2), 5);
    check_differences("distilled", [&queries, &passages], |[queries, passages]| {
        let scores = loss::group_similarities(queries, passages)?;
        Ok((loss::kl_divergence(&scores, &teacher, Reduction::Mean)?
            + loss::margin_mse(&scores, &teacher)?)?)
    });
    // Zeros stand where max(x, 0) has its corner.
    check_differences("smooth at 0", [&matrix(&[&[0.0, 0.0, 0.0]])], |[scores]| {
        Ok((loss::binary_cross_entropy(scores)? + loss::rank_net(scores)?)?)
    });
}

#[test]
fn masked_columns_get_no_gradient() {
    let scores = noise((2, 4), 1);
    let groups = [
        group("q0", "a", &["p0", "p3"], &[("p0", "P0"), ("p1", "P1")]),
        group("q1", "b", &["p2"], &[("p2", "P2"), ("p3", "P3")]),
    ];
    let mask = Mask::known(&groups).expect("a mask");
    let [gradient] = gradients([&scores], |[scores]| {
        loss::cross_entropy(&mask.apply(scores)?, &[0, 2])
    });
    for (place, gradient) in gradient.iter().enumerate() {
        let masked = mask.is_masked(place / 4, place % 4);
        assert_eq!(masked, place == 3);
        assert_eq!(*gradient == 0.0, masked, "{place}");
    }
}

#[test]
fn distinct_ids_mask_nothing_and_targets_never_are() {
    let distinct = [
        group("q0", "a", &["p0"], &[("p0", "P0"), ("p1", "P1")]),
        group("q1", "b", &["p2"], &[("p2", "P2"), ("p3", "P3")]),
    ];
    assert_eq!(Mask::known(&distinct).expect("a mask"), Mask::empty(2, 4));
    // One query thrice, by id and by text, and one passage everywhere.
    let same = [
        group("q0", "a", &["p0"], &[("p0", "P"), ("p0", "P")]),
        group("q0", "b", &["p0"], &[("p0", "P"), ("p1", "P")]),
        group("q1", "a", &["p2"], &[("p2", "P2"), ("p3", "P3")]),
    ];
    let mask = Mask::known(&same).expect("a mask");
    for row in 0..3 {
        let masked: Vec<bool> = (0..6).map(|column| mask.is_masked(row, column)).collect();
        let mut expected = vec![true; 6];
        (expected[2 * row], expected[5]) = (false, false); // p3 is nobody's positive
        assert_eq!(masked, expected, "row {row}");
    }
    let uneven = [
        group(
            "q0",
            "a",
            &["p0"],
            &[("p0", "P0"), ("p1", "P1"), ("p4", "P4")],
        ),
        group("q1", "b", &["p2"], &[("p2", "P2")]),
    ];
    assert!(matches!(
        Mask::known(&uneven),
        Err(LossError::UnevenGroups { .. })
    ));
}

#[test]
fn better_passages_are_masked_by_the_rule() {
    let scores = matrix(&[&[0.5, 0.7, 0.55, 0.65], &[-0.2, 0.0, -0.5, -0.4]]);
    let masked = |rule, spare_own| {
        let mut mask = Mask::empty(2, 4);
        mask.mask_better(&scores, rule, spare_own)
            .expect("a mask that fits");
        let masked = |&(row, column): &(usize, usize)| mask.is_masked(row, column);
        (0..2)
            .flat_map(|row| (0..4).map(move |column| (row, column)))
            .filter(masked)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        masked(Better::Absolute(0.1), true),
        [(0, 3), (1, 0), (1, 1)]
    );
    assert_eq!(
        masked(Better::Absolute(0.1), false),
        [(0, 1), (0, 3), (1, 0), (1, 1)]
    );
    // 10 % below −0.5 is −0.55, so that −0.4 is better too.
    assert_eq!(
        masked(Better::Relative(-0.1), false),
        [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 3)]
    );
}

#[test]
fn distillation_keeps_its_invariants() {
    let (student, teacher) = (noise((3, 4), 1), noise((3, 4), 2));
    check(
        loss::kl_divergence(&teacher, &teacher, Reduction::BatchMean),
        0.0,
    );
    let [gradient] = gradients([&teacher], |[student]| {
        loss::kl_divergence(student, &teacher, Reduction::BatchMean)
    });
    assert!(
        gradient.iter().all(|gradient| gradient.abs() < 1e-15),
        "{gradient:?}"
    );
    let shifts = matrix(&[&[5.0], &[-3.0], &[100.0]]);
    let shifted = teacher.broadcast_add(&shifts).expect("a sum");
    let base = value(loss::kl_divergence(
        &student,
        &teacher,
        Reduction::BatchMean,
    ));
    check(
        loss::kl_divergence(&student, &shifted, Reduction::BatchMean),
        base,
    );
    let swapped = value(loss::kl_divergence(
        &teacher,
        &student,
        Reduction::BatchMean,
    ));
    assert!((swapped - base).abs() > 0.01);
    let base = value(loss::margin_mse(&student, &teacher));
    check(loss::margin_mse(&student, &shifted), base);
    let narrow = noise((3, 3), 1);
    assert!(matches!(
        loss::margin_mse(&narrow, &teacher),
        Err(LossError::Shape { .. })
    ));
    let one = noise((3, 1), 1);
    assert!(matches!(
        loss::margin_mse(&one, &one),
        Err(LossError::NoNegatives { n_passages: 1 })
    ));
}

#[test]
fn matryoshka_at_the_whole_width_is_the_loss_itself() {
    let normalized = |shape, seed| loss::normalize(&noise(shape, seed)).expect("rows");
    let (queries, passages) = (normalized((3, 4), 1), normalized((6, 4), 2));
    let base = value(loss::info_nce(&queries, &passages, 0.1));
    let at = |width| {
        let widths = [Width { width, weight: 1.0 }];
        loss::matryoshka(&queries, &passages, &widths, |queries, passages| {
            for row in values(&queries.sqr()?.sum(1)?) {
                assert!((row - 1.0).abs() < 1e-12, "squared length {row}");
            }
            loss::info_nce(queries, passages, 0.1)
        })
    };
    check(at(4), base);
    assert!((value(at(2)) - base).abs() > 1e-3);
    for width in [0, 5] {
        assert!(matches!(at(width), Err(LossError::Setting { .. })));
    }
}

#[test]
fn the_order_of_negatives_does_not_matter_to_rankings() {
    let scores = noise((3, 4), 1);
    let order = Tensor::new(&[0u32, 3, 1, 2], &Device::Cpu).expect("indices");
    let turned = scores.index_select(&order, 1).expect("columns");
    let losses: [fn(&Tensor) -> Result<Tensor>; 5] = [
        loss::binary_cross_entropy,
        |scores| loss::margin_ranking(scores, 1.0),
        |scores| loss::soft_margin_ranking(scores, 1.0),
        loss::rank_net,
        loss::listwise_softmax,
    ];
    for ranking in losses {
        check(ranking(&turned), value(ranking(&scores)));
    }
}

#[test]
fn great_scores_do_not_overflow() {
    let scores = Tensor::new(&[[1e4f32, -1e4], [-1e4, 1e4]], &Device::Cpu).expect("a matrix");
    for (found, expected) in [
        (loss::listwise_softmax(&scores), 1e4),
        (loss::rank_net(&scores), 1e4),
        (loss::binary_cross_entropy(&scores), 1e4),
        (
            loss::kl_divergence(&scores, &scores, Reduction::BatchMean),
            0.0,
        ),
    ] {
        assert_eq!(value(found), expected);
    }
}

/// Gradient of one matrix that makes all vectors, (H, H), and with W devices the mean of what each computes.
fn check_devices(loss: fn(&Tensor, &Tensor, f64) -> Result<Tensor>, n_devices: usize) {
    let (queries, passages) = (noise((6, 3), 1), noise((12, 3), 2));
    let weights = noise((3, 3), 3);
    let [whole] = gradients([&weights], |[weights]| {
        loss(&queries.matmul(weights)?, &passages.matmul(weights)?, 0.3)
    });
    let mean = |scale| {
        let mut mean = vec![0.0; whole.len()];
        for rank in 0..n_devices {
            let [own] = gradients([&weights], |[weights]| {
                let parts = |x: &Tensor| -> Result<Vec<Tensor>> {
                    let parts = x.chunk(n_devices, 0)?;
                    Ok(parts
                        .iter()
                        .map(|part| part.matmul(weights))
                        .collect::<candle_core::Result<_>>()?)
                };
                loss::device_loss(
                    &parts(&queries)?,
                    &parts(&passages)?,
                    rank,
                    scale,
                    |queries, passages| loss(queries, passages, 0.3),
                )
            });
            let shares = own.iter().map(|gradient| gradient / n_devices as f64);
            mean.iter_mut()
                .zip(shares)
                .for_each(|(sum, share)| *sum += share);
        }
        mean
    };
    let size = whole.iter().map(|x| x * x).sum::<f64>().sqrt();
    assert!(size > 0.1, "{size}");
    for (scale, factor) in [(GradScale::World, 1.0), (GradScale::None, n_devices as f64)] {
        for (found, whole) in mean(scale).iter().zip(&whole) {
            assert!(
                (found * factor - whole).abs() < 1e-12 * size,
                "{scale:?}: {found} and {whole}"
            );
        }
    }
}

#[test]
fn devices_train_with_the_gradient_of_the_whole_batch_or_too_little_by_their_number() {
    for n_devices in [1, 2, 3] {
        check_devices(loss::info_nce, n_devices);
        check_devices(loss::full_contrastive, n_devices);
    }
    let one = [noise((2, 3), 1)];
    let refused = loss::device_loss(&one, &one, 1, GradScale::World, |queries, passages| {
        loss::info_nce(queries, passages, 1.0)
    });
    assert!(matches!(
        refused,
        Err(LossError::Setting { name: "rank", .. })
    ));
}

#[test]
fn a_guide_is_compared_block_by_block() {
    // Unit vectors by angle: query 0 at 0°, its positive at 60°, its negative at 50°; query 1 at 20°, and so on.
    let angles = |degrees: &[f64]| {
        let rows: Vec<Vec<f64>> = degrees
            .iter()
            .map(|x| vec![x.to_radians().cos(), x.to_radians().sin()])
            .collect();
        Tensor::new(rows, &Device::Cpu).expect("a matrix")
    };
    let (queries, passages) = (angles(&[0.0, 20.0]), angles(&[60.0, 50.0, 30.0, 170.0]));
    let scores = loss::block_similarities(&queries, &passages, &Block::GIST).expect("scores");
    let masked = |spare_own| {
        let pool = Mask::empty(2, 4);
        let mut mask = pool.blocks(&Block::GIST).expect("a mask of the pool");
        mask.mask_better(&scores, Better::Absolute(0.0), spare_own)
            .expect("a mask that fits");
        [0, 1].map(|row| {
            (0..8)
                .filter(|&column| mask.is_masked(row, column))
                .collect::<Vec<_>>()
        })
    };
    // Query 0: its negative and query 1's positive are nearer than its positive, so is query 1, and so are the positives
    // to each other. Query 1 has its positive at 10°, and nothing is nearer.
    assert_eq!(masked(false), [vec![1, 2, 5, 7], vec![]]);
    assert_eq!(masked(true), [vec![2, 5, 7], vec![]]);
}

#[test]
fn lambda_loss_looks_at_exchanges_near_the_top() {
    let labels = matrix(&[&[1.0, 0.0, 0.0, 0.0]]);
    let at = |scores: [f64; 4], k| value(loss::lambda_loss(&matrix(&[&scores]), &labels, 10.0, k));
    // The relevant passage last and first but one: the first is worse by more pairs that matter more.
    assert!(at([0.0, 3.0, 2.0, 1.0], None) > at([2.0, 3.0, 1.0, 0.0], None));
    assert!(at([9.0, 0.0, 0.0, 0.0], None) < 1e-2);
    // Labels without a difference have no pairs, and ranks beyond k no loss.
    let equal = matrix(&[&[1.0, 1.0, 1.0, 1.0]]);
    check(
        loss::lambda_loss(&noise((1, 4), 1), &equal, 10.0, None),
        0.0,
    );
    let scores = matrix(&[&[0.0, 3.0, 2.0, 1.0]]);
    let [gradient] = gradients([&scores], |[scores]| {
        loss::lambda_loss(scores, &labels, 10.0, Some(1))
    });
    assert!(
        gradient[1] > 0.0 && gradient[2] == 0.0 && gradient[3] == 0.0,
        "{gradient:?}"
    );
    for (labels, k) in [(&labels, Some(0)), (&equal.t().expect("a column"), None)] {
        assert!(loss::lambda_loss(&scores, labels, 10.0, k).is_err());
    }
}

#[test]
fn what_makes_no_groups_is_refused() {
    let (queries, passages) = (noise((3, 4), 1), noise((5, 4), 2));
    assert!(matches!(
        loss::info_nce(&queries, &passages, 0.1),
        Err(LossError::UnevenGroups {
            n_queries: 3,
            n_passages: 5
        })
    ));
    for temperature in [0.0, -1.0, f64::NAN] {
        let refused = loss::info_nce(&queries, &noise((6, 4), 2), temperature);
        assert!(matches!(
            refused,
            Err(LossError::Setting {
                name: "temperature",
                ..
            })
        ));
    }
    let refused = loss::cross_entropy(&noise((2, 3), 1), &[0]);
    assert!(matches!(refused, Err(LossError::Shape { .. })));
    assert!(loss::cross_entropy(&noise((2, 3), 1), &[0, 3]).is_err());
}
