//! Which passages of the pool are no negatives of a query.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use candle_core::{DType, Device, Tensor};

use super::contrastive::{Block, minus_infinity, positives};
use super::{LossError, Result, check_shape};
use crate::data::Group;

/// Columns of the similarities that the softmax of a row leaves out; the row's target never is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    n_rows: usize,
    n_columns: usize,
    /// Columns of the pool, the first ones; other blocks follow.
    n_pool: usize,
    /// Row-major.
    masked: Vec<bool>,
}

/// When a passage scores so high that it is taken for relevant. s₊ is the score of the query's positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Better {
    /// s > s₊ + δ. With the student's own scores δ is about 0.1; GISTEmbed has δ = −margin and the scores of a guide.
    Absolute(f64),
    /// s > s₊ + δ |s₊|. GISTEmbed's relative margin m is δ = −m.
    Relative(f64),
}

impl Mask {
    /// Leaves nothing out.
    pub fn empty(n_rows: usize, n_columns: usize) -> Self {
        Self {
            n_rows,
            n_columns,
            n_pool: n_columns,
            masked: vec![false; n_rows * n_columns],
        }
    }

    /// Leaves out i = j of a square.
    pub(super) fn diagonal(n: usize) -> Self {
        let mut mask = Self::empty(n, n);
        for i in 0..n {
            mask.masked[i * n + i] = true;
        }
        mask
    }

    /// Leaves out what is known to be relevant, (B, B·N). Column j of row i is masked when
    /// (a) its passage is among the known positives of query i,
    /// (b) its id or content is that of the row's target, or
    /// (c) one of these holds for a query k with the id or content of query i.
    ///
    /// Hard negatives of the query itself are no exception.
    ///
    /// # Errors
    /// [`LossError::UnevenGroups`] when groups differ in size.
    pub fn known(groups: &[Group]) -> Result<Self> {
        let n_columns = groups.iter().map(|group| group.passages.len()).sum();
        let targets = positives(groups.len(), n_columns)?;
        let n_passages = n_columns / groups.len(); // N
        if groups
            .iter()
            .any(|group| group.passages.len() != n_passages)
        {
            return Err(LossError::UnevenGroups {
                n_queries: groups.len(),
                n_passages: n_columns,
            });
        }
        let same_query = Classes::new(groups.iter().map(|group| (&group.query_id, &group.query)));
        // Each text is hashed once, not once for each query.
        let pool = groups.iter().flat_map(|group| &group.passages);
        let pool: Vec<(&str, u64)> = pool
            .map(|passage| (passage.id.as_str(), passage.content.digest()))
            .collect();
        let mut relevant = vec![(HashSet::new(), HashSet::new()); groups.len()];
        for (row, (group, &target)) in groups.iter().zip(&targets).enumerate() {
            let (ids, contents) = &mut relevant[same_query.0[row]];
            let (id, content) = pool[target as usize];
            ids.extend(group.positives.iter().map(String::as_str));
            ids.insert(id);
            contents.insert(content);
        }
        let mut mask = Self::empty(groups.len(), n_columns);
        for (row, &target) in targets.iter().enumerate() {
            let (ids, contents) = &relevant[same_query.0[row]];
            for (column, (id, content)) in pool.iter().enumerate() {
                mask.masked[row * n_columns + column] =
                    column != target as usize && (ids.contains(id) || contents.contains(content));
            }
        }
        Ok(mask)
    }

    /// Leaves out what scores better than the target too, by these scores of the model or of a guide: (B, B·N), or
    /// [`super::block_similarities`] for a mask of [`Self::blocks`].
    ///
    /// With `spare_own` a query's own hard negatives stay, whatever they score: somebody chose them.
    ///
    /// # Errors
    /// [`LossError::Shape`].
    pub fn mask_better(&mut self, scores: &Tensor, rule: Better, spare_own: bool) -> Result<()> {
        check_shape("scores", scores, &[self.n_rows, self.n_columns])?;
        let targets = positives(self.n_rows, self.n_pool)?;
        let n_passages = self.n_pool / self.n_rows; // N
        let scores: Vec<Vec<f64>> = scores.to_dtype(DType::F64)?.to_vec2()?;
        for (row, (scores, &target)) in scores.iter().zip(&targets).enumerate() {
            let target = target as usize;
            let most = match rule {
                Better::Absolute(margin) => scores[target] + margin,
                Better::Relative(margin) => scores[target] + margin * scores[target].abs(),
            };
            for (column, &score) in scores.iter().enumerate() {
                let is_own = (target..target + n_passages).contains(&column);
                if column != target && score > most && !(spare_own && is_own) {
                    self.masked[row * self.n_columns + column] = true;
                }
            }
        }
        Ok(())
    }

    /// Leaves out each query's own hard negatives.
    ///
    /// # Errors
    /// [`LossError::UnevenGroups`] when this is no mask of a pool.
    pub fn mask_own(&mut self) -> Result<()> {
        let targets = positives(self.n_rows, self.n_columns)?;
        let n_passages = self.n_columns / self.n_rows; // N
        for (row, &target) in targets.iter().enumerate() {
            let first = row * self.n_columns + target as usize;
            self.masked[first + 1..first + n_passages].fill(true);
        }
        Ok(())
    }

    /// Leaves out one more column of each row.
    pub(super) fn mask_columns(&mut self, columns: &[u32]) {
        for (row, &column) in self.masked.chunks_exact_mut(self.n_columns).zip(columns) {
            row[column as usize] = true;
        }
    }

    /// The mask of [`super::block_similarities`], (B, B·N + blocks·B), from that of the pool, (B, B·N).
    ///
    /// With Pᵢⱼ for "the positive of query j is masked for query i" the blocks are P itself for `p⁺ᵢ·p⁺ⱼ`, its
    /// transpose for `p⁺ᵢ·qⱼ`, and for `qᵢ·qⱼ` either of the two.
    ///
    /// # Errors
    /// [`LossError::UnevenGroups`] when this is no mask of a pool.
    pub fn blocks(&self, blocks: &[Block]) -> Result<Self> {
        let targets = positives(self.n_rows, self.n_pool)?;
        let n = self.n_rows;
        let positive = |i: usize, j: usize| self.is_masked(i, targets[j] as usize);
        let mut wide = Self {
            n_pool: self.n_pool,
            ..Self::empty(n, self.n_pool + blocks.len() * n)
        };
        for (i, row) in wide.masked.chunks_exact_mut(wide.n_columns).enumerate() {
            let (pool, squares) = row.split_at_mut(self.n_pool);
            pool.copy_from_slice(&self.masked[i * self.n_columns..][..self.n_pool]);
            for (square, block) in squares.chunks_exact_mut(n).zip(blocks) {
                for (j, masked) in square.iter_mut().enumerate() {
                    *masked = match block {
                        Block::PositiveQuery => positive(j, i),
                        Block::QueryQuery => positive(i, j) || positive(j, i),
                        Block::PositivePositive => positive(i, j),
                    };
                }
            }
        }
        Ok(wide)
    }

    /// The mask of [`super::group_similarities`], (B, N), from that of the pool, (B, B·N).
    ///
    /// # Errors
    /// [`LossError::UnevenGroups`] when this is no mask of a pool.
    pub fn groups(&self) -> Result<Self> {
        let targets = positives(self.n_rows, self.n_columns)?;
        let n_passages = self.n_columns / self.n_rows; // N
        let own = |(row, &target): (usize, &u32)| {
            let first = row * self.n_columns + target as usize;
            &self.masked[first..first + n_passages]
        };
        Ok(Self {
            n_rows: self.n_rows,
            n_columns: n_passages,
            n_pool: n_passages,
            masked: targets.iter().enumerate().flat_map(own).copied().collect(),
        })
    }

    /// Whether a column is left out of a row.
    pub fn is_masked(&self, row: usize, column: usize) -> bool {
        self.masked[row * self.n_columns + column]
    }

    /// Columns left out over all that are no target.
    pub fn share(&self) -> f64 {
        let n_masked = self.masked.iter().filter(|&&masked| masked).count();
        n_masked as f64 / (self.masked.len().saturating_sub(self.n_rows)).max(1) as f64
    }

    /// Sets masked scores to −∞; their gradient is exactly 0.
    ///
    /// # Errors
    /// [`LossError::Shape`].
    pub fn apply(&self, scores: &Tensor) -> Result<Tensor> {
        check_shape("scores", scores, &[self.n_rows, self.n_columns])?;
        if !self.masked.contains(&true) {
            return Ok(scores.clone());
        }
        let masked: Vec<u8> = self.masked.iter().map(|&masked| masked.into()).collect();
        let masked = Tensor::from_vec(masked, scores.shape(), &Device::Cpu)?;
        Ok(masked.where_cond(&minus_infinity(scores)?, scores)?)
    }
}

/// Rows that share one of two keys, directly or through others: the number of each row's class.
struct Classes(Vec<usize>);

impl Classes {
    fn new<A: Hash + Eq, B: Hash + Eq>(keys: impl Iterator<Item = (A, B)>) -> Self {
        let (mut by_first, mut by_second) = (HashMap::new(), HashMap::new());
        let mut classes: Vec<usize> = Vec::new();
        for (row, (first, second)) in keys.enumerate() {
            let first = *by_first.entry(first).or_insert(row);
            let second = *by_second.entry(second).or_insert(row);
            classes.push(row);
            // An earlier class has the smaller number; the row may join two that were apart.
            let joined = [row, classes[first], classes[second]];
            let class = classes[first].min(classes[second]);
            for member in &mut classes {
                if joined.contains(member) {
                    *member = class;
                }
            }
        }
        Self(classes)
    }
}
