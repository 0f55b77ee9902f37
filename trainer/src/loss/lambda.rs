use std::f64::consts::LN_2;

use candle_core::{DType, Tensor};

use super::{LossError, Result, check_groups, check_shape, soft_plus};

/// NDCG-Loss2++: a bound of NDCG that weighs each pair of passages by what exchanging them would change.
///
/// `L = 1/M Σ (μ |1/D_d − 1/D_{d+1}| + |1/D_rₐ − 1/D_r_b|) · |Gₐ − G_b| · log₂(1 + e^{s_b − sₐ})` over the M pairs of all
/// groups with labels `yₐ > y_b`; rₐ is the rank of a by its score (ties go to the earlier), `d = |rₐ − r_b|`,
/// `D_r = log₂(1 + r)`, `Gₐ = (2^yₐ − 1) / maxDCG`. Wang et al. 2018 (The LambdaLoss Framework), eq. 16; weights have no
/// gradient.
///
/// `scores` and `labels` are (B, N); labels are grades from 0 on. With `k` a pair counts when one of the two ranks is at
/// most k, and the maximal DCG is that at k (eq. 18).
///
/// Deviation: the paper sums over pairs; the mean is what sentence-transformers' `LambdaLoss` has.
///
/// # Errors
/// [`LossError::Shape`] when scores and labels differ in shape, [`LossError::UnevenGroups`] when there are none,
/// [`LossError::Setting`] when k is 0.
pub fn lambda_loss(scores: &Tensor, labels: &Tensor, mu: f64, k: Option<usize>) -> Result<Tensor> {
    let (n_queries, n_passages) = check_groups(scores)?;
    check_shape("labels", labels, scores.dims())?;
    if k == Some(0) {
        return Err(LossError::Setting {
            name: "k of the lambda loss",
            value: 0.0,
            rule: "it is at least 1",
        });
    }
    let rows = |x: &Tensor| x.detach().to_dtype(DType::F64)?.to_vec2::<f64>();
    let (mut weights, mut n_pairs) = (Vec::new(), 0);
    for (scores, labels) in rows(scores)?.iter().zip(&rows(labels)?) {
        n_pairs += pair_weights(scores, labels, mu, k.unwrap_or(n_passages), &mut weights);
    }
    let weights = Tensor::from_vec(
        weights,
        (n_queries, n_passages, n_passages),
        scores.device(),
    )?;
    // (B, N, N): row a, column b holds s_b − sₐ
    let differences = scores.unsqueeze(1)?.broadcast_sub(&scores.unsqueeze(2)?)?;
    let losses = (soft_plus(&differences)? * weights.to_dtype(scores.dtype())?)?;
    Ok((losses.sum_all()? / (LN_2 * n_pairs.max(1) as f64))?)
}

/// Appends the weight of each pair of a group, (N, N), 0 where it does not count, and returns how many do.
fn pair_weights(
    scores: &[f64],
    labels: &[f64],
    mu: f64,
    k: usize,
    weights: &mut Vec<f64>,
) -> usize {
    let n = scores.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a])); // stable
    let mut ranks = vec![0; n];
    order
        .iter()
        .enumerate()
        .for_each(|(place, &passage)| ranks[passage] = place + 1);

    let inverse = |rank: usize| 1.0 / (1.0 + rank as f64).log2(); // 1/D
    let gain = |label: f64| label.max(0.0).exp2() - 1.0;
    let mut sorted = labels.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let best = sorted.iter().take(k).zip(1..);
    let max_dcg: f64 = best.map(|(&label, rank)| gain(label) * inverse(rank)).sum();

    let mut n_pairs = 0;
    for a in 0..n {
        for b in 0..n {
            if labels[a] <= labels[b] || ranks[a].min(ranks[b]) > k {
                weights.push(0.0);
                continue;
            }
            let distance = ranks[a].abs_diff(ranks[b]);
            let loss2 = (inverse(distance) - inverse(distance + 1)).abs();
            let lambda_rank = (inverse(ranks[a]) - inverse(ranks[b])).abs();
            let gains = (gain(labels[a]) - gain(labels[b])).abs() / max_dcg.max(1e-10);
            weights.push((mu * loss2 + lambda_rank) * gains);
            n_pairs += 1;
        }
    }
    n_pairs
}
