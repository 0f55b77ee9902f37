//! Losses that make a student order a group as a teacher does.
//!
//! Student and teacher scores are (B, N); the teacher's get no gradient.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{LossError, Mask, Result, check_groups, check_shape, log_softmax, positives};

/// What a divergence is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// The number of queries, as the definition has it (SimLM, Tevatron, sentence-transformers).
    #[default]
    BatchMean,
    /// The number of scores, B·N (RetroMAE, OpenMatch): N times smaller.
    Mean,
}

/// Divergence of the student's distribution over a group from the teacher's.
///
/// `KL = 1/B Σᵢ Σⱼ tᵢⱼ (ln tᵢⱼ − ln zᵢⱼ)` with `t = softmax(teacher)` and `z = softmax(student)`, rows of (B, N),
/// Hinton et al. 2015 (arXiv 1503.02531); in retrieval Wang et al. 2022 (arXiv 2207.02578), eq. 7.
///
/// Scores come divided by their temperatures: SimLM has 0.02 for the student and 1 for the teacher, Tevatron 0.02 for
/// both. Deviation: Hinton's factor τ² is left to the caller.
///
/// # Errors
/// [`LossError::Shape`] when the scores differ in shape, [`LossError::UnevenGroups`] when there are none.
pub fn kl_divergence(student: &Tensor, teacher: &Tensor, reduction: Reduction) -> Result<Tensor> {
    let (n_queries, n_passages) = check_scores(student, teacher)?;
    let sum = divergence(&log_softmax(&teacher.detach())?, &log_softmax(student)?)?;
    let divisor = match reduction {
        Reduction::BatchMean => n_queries,
        Reduction::Mean => n_queries * n_passages,
    };
    Ok((sum / divisor as f64)?)
}

/// Cross-entropy of the student's distribution over a group to the teacher's: [`kl_divergence`] plus the teacher's
/// entropy, which the student cannot change.
///
/// `L = −1/B Σᵢ Σⱼ tᵢⱼ ln zᵢⱼ`, the `kl_div` of FlagEmbedding, and ListNet of cross-encoders: Cao et al. 2007, eq. 6.
///
/// # Errors
/// As [`kl_divergence`].
pub fn soft_cross_entropy(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let (n_queries, _) = check_scores(student, teacher)?;
    let teacher = log_softmax(&teacher.detach())?.exp()?; // (B, N)
    let sum = (teacher * log_softmax(student)?)?.sum_all()?;
    Ok((sum / -(n_queries as f64))?)
}

/// Squared error of the margins between the positive and each negative.
///
/// `L = 1/(B (N − 1)) Σᵢ Σ_{j≥1} ((sᵢ₀ − sᵢⱼ) − (tᵢ₀ − tᵢⱼ))²`, Hofstätter et al. 2020 (arXiv 2010.02666), eq. 8.
///
/// Scores are raw inner products. Deviation: the paper has one negative for each query.
///
/// # Errors
/// As [`kl_divergence`]; [`LossError::NoNegatives`] when N is 1.
pub fn margin_mse(student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    check_scores(student, teacher)?;
    let error = (margins(student)? - margins(&teacher.detach())?)?; // (B, N − 1)
    Ok(error.sqr()?.mean_all()?)
}

/// Distillation over the whole pool: each passage of a group in turn is the target, weighted as the teacher weighs it.
///
/// `L = Σⱼ 1/B Σᵢ tᵢⱼ · CE(sᵢ without columns i·N … i·N + j − 1, target i·N + j)` with `t = softmax(teacher)`:
/// `m3_kd_loss` of FlagEmbedding (Chen et al. 2024, arXiv 2402.03216).
///
/// `scores` are [`super::similarities`] over the student's temperature, (B, B·N), `teacher` is (B, N).
///
/// # Errors
/// As [`kl_divergence`].
pub fn in_batch_distillation(scores: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let (n_queries, n_passages) = check_groups(teacher)?;
    check_shape("scores", scores, &[n_queries, n_queries * n_passages])?;
    let firsts = positives(n_queries, n_queries * n_passages)?;
    let weights = log_softmax(&teacher.detach())?.exp()?; // (B, N)
    let mut mask = Mask::empty(n_queries, n_queries * n_passages);
    let mut sum = weights.zeros_like()?.sum_all()?;
    for j in 0..n_passages {
        let targets: Vec<u32> = firsts.iter().map(|first| first + j as u32).collect();
        let columns = Tensor::new(&targets[..], scores.device())?.unsqueeze(1)?; // (B, 1)
        let log_probabilities = log_softmax(&mask.apply(scores)?)?.gather(&columns, 1)?; // (B, 1)
        sum = (sum + (log_probabilities * weights.narrow(1, j, 1)?)?.sum_all()?)?;
        mask.mask_columns(&targets);
    }
    Ok((sum / -(n_queries as f64))?)
}

/// `Σ p (ln p − ln q)` over all elements of log probabilities.
pub(super) fn divergence(log_p: &Tensor, log_q: &Tensor) -> candle_core::Result<Tensor> {
    (log_p.exp()? * (log_p - log_q)?)?.sum_all()
}

fn check_scores(student: &Tensor, teacher: &Tensor) -> Result<(usize, usize)> {
    let shape = check_groups(student)?;
    check_shape("teacher scores", teacher, student.dims())?;
    Ok(shape)
}

/// Scores of the positive minus those of each negative, (B, N − 1), from (B, N).
pub(super) fn margins(scores: &Tensor) -> Result<Tensor> {
    let (_, n_passages) = check_groups(scores)?;
    if n_passages == 1 {
        return Err(LossError::NoNegatives { n_passages });
    }
    let negatives = scores.narrow(1, 1, n_passages - 1)?;
    Ok(scores.narrow(1, 0, 1)?.broadcast_sub(&negatives)?)
}
