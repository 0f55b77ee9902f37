//! What the scores of a batch say, beside its loss.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::data::Group;
use crate::loss::{LossError, Mask, Result, positives};

/// Raw teacher scores of a batch, (B, N).
pub(super) fn teacher_scores(batch: &[Group]) -> Result<Tensor> {
    let n_passages = batch.iter().map(|group| group.passages.len()).sum();
    let group_size = n_passages / batch.len().max(1);
    let mut scores = Vec::with_capacity(n_passages);
    for group in batch {
        for passage in &group.passages {
            scores.push(passage.score.ok_or_else(|| LossError::NoScore {
                query: group.query_id.clone(),
                passage: passage.id.clone(),
            })?);
        }
    }
    Ok(Tensor::from_vec(
        scores,
        (batch.len(), group_size),
        &Device::Cpu,
    )?)
}

/// Means over the queries of a batch.
#[derive(Default)]
pub(super) struct Measures {
    n_queries: usize,
    n_first: usize,
    reciprocal_ranks: f64,
    positive_scores: f64,
    negative_scores: f64,
    n_negatives: usize,
    masked: Option<f64>,
}

impl Measures {
    /// Adds queries by their scores of the columns that are not masked. The rank of a positive counts ties against it.
    pub(super) fn add(&mut self, scores: &Tensor, mask: &Mask) -> Result<()> {
        let (n_queries, n_columns) = scores.dims2()?;
        let targets = positives(n_queries, n_columns)?;
        self.add_rows(scores, &targets, |row, column| mask.is_masked(row, column))?;
        self.masked = Some(mask.share());
        Ok(())
    }

    /// Adds groups, the positive first.
    pub(super) fn add_groups(&mut self, scores: &Tensor) -> Result<()> {
        let targets = vec![0; scores.dims2()?.0];
        self.add_rows(scores, &targets, |_, _| false)
    }

    fn add_rows(
        &mut self,
        scores: &Tensor,
        targets: &[u32],
        is_masked: impl Fn(usize, usize) -> bool,
    ) -> Result<()> {
        let scores: Vec<Vec<f64>> = scores.to_dtype(DType::F64)?.to_vec2()?;
        for (row, (scores, &target)) in scores.iter().zip(targets).enumerate() {
            let target = target as usize;
            let negatives = scores.iter().enumerate();
            let negatives = negatives.filter(|&(column, _)| column != target);
            let mut rank = 1;
            for (_, &score) in negatives.filter(|&(column, _)| !is_masked(row, column)) {
                rank += usize::from(score >= scores[target]);
                self.negative_scores += score;
                self.n_negatives += 1;
            }
            self.n_queries += 1;
            self.n_first += usize::from(rank == 1);
            self.reciprocal_ranks += 1.0 / rank as f64;
            self.positive_scores += scores[target];
        }
        Ok(())
    }

    /// `accuracy` (the positive is first), `mrr`, `positive_score`, `negative_score`, and for pools `masked`.
    pub(super) fn finish(self) -> BTreeMap<&'static str, f64> {
        let n = self.n_queries.max(1) as f64;
        let mut measures = BTreeMap::from([
            ("accuracy", self.n_first as f64 / n),
            ("mrr", self.reciprocal_ranks / n),
            ("positive_score", self.positive_scores / n),
            (
                "negative_score",
                self.negative_scores / self.n_negatives.max(1) as f64,
            ),
        ]);
        if let Some(masked) = self.masked {
            measures.insert("masked", masked);
        }
        measures
    }
}
