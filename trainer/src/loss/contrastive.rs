//! In-batch contrastive losses.

use candle_core::{D, DType, Tensor};

use super::{LossError, Mask, Result, check_shape, check_temperature, log_softmax};

/// Columns of the queries' positives in their pool: `i·N` for query i.
///
/// # Errors
/// [`LossError::UnevenGroups`] when B is 0 or does not divide the passages.
pub fn positives(n_queries: usize, n_passages: usize) -> Result<Vec<u32>> {
    if n_queries == 0 || n_passages == 0 || !n_passages.is_multiple_of(n_queries) {
        return Err(LossError::UnevenGroups {
            n_queries,
            n_passages,
        });
    }
    let group = n_passages / n_queries; // N
    Ok((0..n_queries).map(|query| (query * group) as u32).collect())
}

/// Softmax cross-entropy of rows of logits, (B, C), mean over rows: `−1/B Σᵢ ln softmax(sᵢ)[targetᵢ]`.
///
/// A logit of −∞ takes its column out of the row.
///
/// # Errors
/// [`LossError::Shape`] when there are not as many targets as rows, [`LossError::Tensor`] for a target outside.
pub fn cross_entropy(logits: &Tensor, targets: &[u32]) -> Result<Tensor> {
    check_shape("logits", logits, &[targets.len(), logits.dims2()?.1])?;
    let targets = Tensor::new(targets, logits.device())?.unsqueeze(1)?; // (B, 1)
    let log_probabilities = log_softmax(logits)?.gather(&targets, 1)?; // (B, 1)
    Ok(log_probabilities.mean_all()?.neg()?)
}

/// Inner products of all queries, (B, H), with the whole pool, (B·N, H): (B, B·N).
///
/// # Errors
/// [`LossError::UnevenGroups`], [`LossError::Tensor`] when widths differ.
pub fn similarities(queries: &Tensor, passages: &Tensor) -> Result<Tensor> {
    positives(queries.dims2()?.0, passages.dims2()?.0)?;
    Ok(queries.matmul(&passages.t()?)?)
}

/// Inner products of each query with its own group alone: (B, N).
///
/// # Errors
/// As [`similarities`].
pub fn group_similarities(queries: &Tensor, passages: &Tensor) -> Result<Tensor> {
    let ((n_queries, width), n_passages) = (queries.dims2()?, passages.dims2()?.0);
    positives(n_queries, n_passages)?;
    let groups = passages.reshape((n_queries, n_passages / n_queries, width))?;
    let queries = queries.reshape((n_queries, width, 1))?;
    Ok(groups.matmul(&queries)?.squeeze(D::Minus1)?)
}

/// Contrastive loss over in-batch and hard negatives.
///
/// `L = −1/B Σᵢ ln( exp(sᵢ,₊/τ) / Σⱼ exp(sᵢⱼ/τ) )`, Karpukhin et al. 2020 (arXiv 2004.04906), eq. 2.
///
/// `queries` is (B, H); `passages` is the pool, (B·N, H). This is MultipleNegativesRankingLoss of sentence-transformers
/// with `scale` 1/τ on normalized vectors, up to the order of its columns.
///
/// Deviation: the paper has τ = 1; normalized vectors need a smaller one.
///
/// # Errors
/// As [`similarities`]; [`LossError::Setting`] for a temperature that is not above 0.
pub fn info_nce(queries: &Tensor, passages: &Tensor, temperature: f64) -> Result<Tensor> {
    check_temperature(temperature)?;
    let scores = (similarities(queries, passages)? / temperature)?; // (B, B·N)
    let positives = positives(queries.dim(0)?, passages.dim(0)?)?; // (B)
    cross_entropy(&scores, &positives)
}

/// A square of inner products, (B, B), that stands beside those of queries and pool. p⁺ᵢ is the positive of query i.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// `p⁺ᵢ·qⱼ`
    PositiveQuery,
    /// `qᵢ·qⱼ`
    QueryQuery,
    /// `p⁺ᵢ·p⁺ⱼ`
    PositivePositive,
}

impl Block {
    /// Those of SimLM.
    pub const FULL: [Self; 3] = [
        Self::PositiveQuery,
        Self::QueryQuery,
        Self::PositivePositive,
    ];
    /// Those of GISTEmbed.
    pub const GIST: [Self; 2] = [Self::QueryQuery, Self::PositivePositive];
}

/// Inner products of blocks, side by side, (B, B·N + blocks·B): those of queries and pool, `qᵢ·pⱼ`, and the blocks asked
/// for, whose diagonals i = j are −∞.
///
/// # Errors
/// As [`similarities`].
pub fn block_similarities(queries: &Tensor, passages: &Tensor, blocks: &[Block]) -> Result<Tensor> {
    let scores = similarities(queries, passages)?; // (B, B·N)
    let (n_queries, n_passages) = scores.dims2()?;
    let rows = Tensor::new(positives(n_queries, n_passages)?, passages.device())?;
    let positives = passages.index_select(&rows, 0)?; // (B, H)
    let diagonal = Mask::diagonal(n_queries);
    let square = |block: &Block| {
        let (left, right) = match block {
            Block::PositiveQuery => (&positives, queries),
            Block::QueryQuery => (queries, queries),
            Block::PositivePositive => (&positives, &positives),
        };
        diagonal.apply(&left.matmul(&right.t()?)?)
    };
    let squares = blocks.iter().map(square);
    let all: Vec<Tensor> = std::iter::once(Ok(scores))
        .chain(squares)
        .collect::<Result<_>>()?;
    Ok(Tensor::cat(&all, 1)?)
}

/// Contrastive loss over four blocks of similarities, as SimLM trains (Wang et al. 2022, arXiv 2207.02578).
///
/// `L = −1/B Σᵢ ln( exp(qᵢ·p⁺ᵢ/τ) / Σ exp(·/τ) )`, the sum over row i of [`block_similarities`] of [`Block::FULL`].
///
/// Deviation from the paper, whose equation has the first block alone: its published code adds the other three.
///
/// # Errors
/// As [`info_nce`].
pub fn full_contrastive(queries: &Tensor, passages: &Tensor, temperature: f64) -> Result<Tensor> {
    check_temperature(temperature)?;
    let scores = block_similarities(queries, passages, &Block::FULL)?; // (B, B·N + 3 B)
    let scores = (scores / temperature)?;
    let positives = positives(queries.dim(0)?, passages.dim(0)?)?; // (B)
    cross_entropy(&scores, &positives)
}

/// A matrix of −∞ like `scores`.
pub(super) fn minus_infinity(scores: &Tensor) -> candle_core::Result<Tensor> {
    let value =
        Tensor::new(f64::NEG_INFINITY, scores.device())?.to_dtype(match scores.dtype() {
            DType::F64 => DType::F64,
            _ => DType::F32,
        })?;
    value.broadcast_as(scores.shape())
}
