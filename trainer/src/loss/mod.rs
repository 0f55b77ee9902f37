//! Losses on candle tensors of f32 or f64, each with its equation, shapes, source and deviations.
//!
//! B is the number of queries, N that of the passages of each (the positive first), H the width of the vectors. Logarithms
//! are natural, and losses are means over queries unless they say otherwise. The **pool** of a batch is all its passages,
//! query by query, (B·N, H): the positive of query i is row i·N.
//!
//! | name elsewhere | here |
//! |---|---|
//! | MultipleNegativesRankingLoss (sentence-transformers; its `scale` is 1/τ) | [`info_nce`] |
//! | GISTEmbedLoss | [`Mask::mask_better`] with a guide's [`block_similarities`] of [`Block::GIST`], then [`cross_entropy`] |
//! | MarginMSELoss | [`margin_mse`] |
//! | DistillKLDivLoss | [`kl_divergence`], times τ² |
//! | MatryoshkaLoss | [`matryoshka`] |
//! | BinaryCrossEntropyLoss, MultipleNegativesRankingLoss, RankNetLoss, ListNetLoss of cross-encoders | [`binary_cross_entropy`], [`listwise_softmax`], [`rank_net`], [`soft_cross_entropy`] |
//! | LambdaLoss with its default weights | [`lambda_loss`] with μ = 10 |
//! | `bce`, `mr`, `smr` (OpenMatch) | [`binary_cross_entropy`], [`margin_ranking`], [`soft_margin_ranking`] |
//! | `kl_div`, `m3_kd_loss` (FlagEmbedding) | [`soft_cross_entropy`], [`in_batch_distillation`] |

mod contrastive;
mod devices;
mod distillation;
mod error;
mod false_negatives;
mod lambda;
mod matryoshka;
mod ranking;

use candle_core::{D, Tensor};

pub use contrastive::{
    Block, block_similarities, cross_entropy, full_contrastive, group_similarities, info_nce,
    positives, similarities,
};
pub use devices::{GradScale, device_loss};
pub use distillation::{
    Reduction, in_batch_distillation, kl_divergence, margin_mse, soft_cross_entropy,
};
pub use error::LossError;
pub use false_negatives::{Better, Mask};
pub use lambda::lambda_loss;
pub use matryoshka::{Width, matryoshka};
pub use ranking::{
    binary_cross_entropy, listwise_softmax, margin_ranking, r_drop, rank_net, soft_margin_ranking,
};

/// What a loss returns: a scalar.
pub type Result<T> = std::result::Result<T, LossError>;

/// Brings rows to length 1; shorter than 1e-12 they are divided by that, so that zeros stay zeros.
///
/// # Errors
/// candle's, where `x` is no matrix.
pub fn normalize(x: &Tensor) -> candle_core::Result<Tensor> {
    // The square is kept from 0 rather than the root, whose slope at 0 is infinite.
    let squares = x.sqr()?.sum_keepdim(D::Minus1)?.maximum(1e-24)?;
    x.broadcast_div(&squares.sqrt()?)
}

/// ln softmax of each row. A logit of −∞ has probability 0 and gradient 0.
fn log_softmax(logits: &Tensor) -> candle_core::Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_sums = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&log_sums)
}

/// `ln(1 + eˣ)`, element by element: minus the log probability of 0 in a softmax over (x, 0).
fn soft_plus(x: &Tensor) -> candle_core::Result<Tensor> {
    let most = x.relu()?.detach();
    let sum = ((x - &most)?.exp()? + most.neg()?.exp()?)?;
    most + sum.log()?
}

/// Refuses scores that are not (B, N) with B, N ≥ 1.
fn check_groups(scores: &Tensor) -> Result<(usize, usize)> {
    let (n_queries, n_passages) = scores.dims2()?;
    if n_queries == 0 || n_passages == 0 {
        return Err(LossError::UnevenGroups {
            n_queries,
            n_passages,
        });
    }
    Ok((n_queries, n_passages))
}

/// Refuses a tensor whose shape is not the expected one.
fn check_shape(what: &'static str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    Err(LossError::Shape {
        what,
        expected: expected.to_vec(),
        found: tensor.dims().to_vec(),
    })
}

/// Refuses a temperature that is not above 0.
fn check_temperature(temperature: f64) -> Result<()> {
    if temperature.is_finite() && temperature > 0.0 {
        return Ok(());
    }
    Err(LossError::Setting {
        name: "temperature",
        value: temperature,
        rule: "it is above 0",
    })
}
