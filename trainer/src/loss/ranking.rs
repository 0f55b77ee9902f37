//! Losses of cross-encoders on scores of groups, (B, N), the positive first.
//!
//! Losses over pairs of the positive and a negative are means over all B·(N − 1) of them.

use candle_core::Tensor;

use super::distillation::{divergence, margins};
use super::{LossError, Result, check_groups, check_shape, cross_entropy, log_softmax, soft_plus};

/// Binary cross-entropy of each passage alone (pointwise).
///
/// `L = mean over pairs of −ln σ(s⁺) − ln(1 − σ(s⁻))`, Nogueira & Cho 2019 (arXiv 1901.04085), eq. 1.
///
/// Deviation: as in OpenMatch positive and negative count the same, so that with more than one negative they share the
/// weight of one.
///
/// # Errors
/// [`LossError::NoNegatives`] when N is 1, [`LossError::UnevenGroups`] when there are no scores.
pub fn binary_cross_entropy(scores: &Tensor) -> Result<Tensor> {
    let (_, n_passages) = check_groups(scores)?;
    if n_passages == 1 {
        return Err(LossError::NoNegatives { n_passages });
    }
    let positives = soft_plus(&scores.narrow(1, 0, 1)?.neg()?)?.mean_all()?;
    let negatives = soft_plus(&scores.narrow(1, 1, n_passages - 1)?)?.mean_all()?;
    Ok((positives + negatives)?)
}

/// Hinge on the margin between positive and negative: `mean max(0, m − s⁺ + s⁻)`, OpenMatch's `mr`.
///
/// # Errors
/// As [`binary_cross_entropy`].
pub fn margin_ranking(scores: &Tensor, margin: f64) -> Result<Tensor> {
    Ok(margins(scores)?.affine(-1.0, margin)?.relu()?.mean_all()?)
}

/// The smooth hinge: `mean ln(1 + exp(m − s⁺ + s⁻))`, OpenMatch's `smr`.
///
/// # Errors
/// As [`binary_cross_entropy`].
pub fn soft_margin_ranking(scores: &Tensor, margin: f64) -> Result<Tensor> {
    Ok(soft_plus(&margins(scores)?.affine(-1.0, margin)?)?.mean_all()?)
}

/// `mean −ln σ(s⁺ − s⁻)`, RankNet: Burges et al. 2005, eq. 3 with target probability 1.
///
/// # Errors
/// As [`binary_cross_entropy`].
pub fn rank_net(scores: &Tensor) -> Result<Tensor> {
    soft_margin_ranking(scores, 0.0)
}

/// Softmax cross-entropy over each group: `−1/B Σᵢ ln softmax(sᵢ)₀` (listwise), as SimLM and RetroMAE train rerankers.
///
/// # Errors
/// [`LossError::UnevenGroups`] when there are no scores.
pub fn listwise_softmax(scores: &Tensor) -> Result<Tensor> {
    let (n_queries, _) = check_groups(scores)?;
    cross_entropy(scores, &vec![0; n_queries])
}

/// Divergence between two passes over the same groups under different dropout, which regularizes both.
///
/// `KL = ½ (KL(p²‖p¹) + KL(p¹‖p²))` with `p = softmax(s)` over the group, mean over queries,
/// Liang et al. 2021 (arXiv 2106.14448), eq. 2. R-Drop adds it to the mean of both passes' losses; SimLM's rerankers
/// with weight 1. Gradients flow into both passes.
///
/// # Errors
/// [`LossError::Shape`] when the passes differ in shape; as [`listwise_softmax`].
pub fn r_drop(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    let (n_queries, _) = check_groups(first)?;
    check_shape("scores of the second pass", second, first.dims())?;
    let (first, second) = (log_softmax(first)?, log_softmax(second)?); // (B, N)
    let sum = (divergence(&first, &second)? + divergence(&second, &first)?)?;
    Ok((sum / (2 * n_queries) as f64)?)
}
