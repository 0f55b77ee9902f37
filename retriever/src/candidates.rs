use std::collections::HashMap;

use index::Neighbor;
use store::{LexicalHit, View};

use crate::boost::{BoostStage, Boosted, Scorer};
use crate::{Explanation, Mode, Relation, Scores, SearchError, Sort, Total};

/// A passage on its way through the stages.
pub(crate) struct Candidate {
    pub ordinal: u32,
    pub score: f32,
    pub scores: Scores,
    /// The score of the first stage without boosts; none where the ranking did not bring the passage.
    pub first_stage: Option<f32>,
    /// What the reranker left to the order of the first stage.
    pub rank_prior: Option<f32>,
    pub boosts: Vec<Boosted>,
    pub pinned: bool,
}

impl Candidate {
    /// A passage that no source brought.
    pub fn unranked(ordinal: u32) -> Self {
        Self {
            ordinal,
            score: 0.0,
            scores: Scores::default(),
            first_stage: None,
            rank_prior: None,
            boosts: Vec::new(),
            pinned: false,
        }
    }

    pub fn explanation(&self) -> Explanation {
        Explanation {
            first_stage: self.first_stage,
            rank_prior: self.rank_prior,
            boosts: self.boosts.clone(),
        }
    }
}

/// The passages found for one query, best first, and how many more there may be.
pub(crate) struct Candidates {
    pub list: Vec<Candidate>,
    pub total: Total,
    mode: Mode,
    /// Whether the list has every passage that the ranking has.
    is_complete: bool,
    /// Whether boosts changed the order of the source.
    is_boosted: bool,
}

impl Candidates {
    /// Ranks what the sources of a mode brought when each was asked for `depth` of the `n_passages` that pass the filter.
    pub fn first_stage(
        mode: Mode,
        dense: &[Neighbor],
        lexical: &[LexicalHit],
        depth: usize,
        n_passages: u64,
    ) -> Self {
        let dense: Vec<(u32, f32)> = dense.iter().map(|hit| (hit.ordinal, hit.score)).collect();
        let bm25: Vec<(u32, f32)> = lexical.iter().map(|hit| (hit.ordinal, hit.score)).collect();
        let dense_scores: HashMap<u32, f32> = dense.iter().copied().collect();
        let bm25_scores: HashMap<u32, f32> = bm25.iter().copied().collect();
        let candidate = |ordinal: u32, score: f32, fused: Option<f32>| Candidate {
            score,
            first_stage: Some(score),
            scores: Scores {
                dense: dense_scores.get(&ordinal).copied(),
                bm25: bm25_scores.get(&ordinal).copied(),
                fused,
                rerank: None,
            },
            ..Candidate::unranked(ordinal)
        };
        let of_one = |source: &[(u32, f32)]| -> Vec<Candidate> {
            let source = source.iter();
            source
                .map(|&(ordinal, score)| candidate(ordinal, score, None))
                .collect()
        };
        let has_all_vectors = dense.len() as u64 >= n_passages;
        let has_all_words = bm25.len() < depth;
        let (list, is_complete) = match mode {
            Mode::Dense => (of_one(&dense), has_all_vectors),
            Mode::Lexical => (of_one(&bm25), has_all_words),
            Mode::Hybrid(fusion) => {
                let fused = fusion.fuse(&dense, &bm25).into_iter();
                let list =
                    fused.map(|fused| candidate(fused.ordinal, fused.score, Some(fused.score)));
                (list.collect(), has_all_vectors)
            }
        };
        let total = match mode {
            // Every passage has a vector, and so a place in the ranking.
            Mode::Dense | Mode::Hybrid(_) => Total::exactly(n_passages),
            Mode::Lexical => Total::of(list.len(), is_complete),
        };
        Self {
            list,
            total,
            mode,
            is_complete,
            is_boosted: false,
        }
    }

    /// Adds boosts to the first `window` passages and puts these in order; the rest follow as they were.
    pub fn boost(
        &mut self,
        scorers: &[Scorer<'_>],
        stage: BoostStage,
        window: usize,
        view: &View,
    ) -> Result<(), SearchError> {
        if scorers.iter().all(|scorer| scorer.stage() != stage) {
            return Ok(());
        }
        let n_boosted = match stage {
            BoostStage::Retrieval => window.min(self.list.len()),
            // Those that the cross-encoder read come first.
            BoostStage::Rerank => {
                let read = self.list.iter();
                read.take_while(|hit| hit.scores.rerank.is_some()).count()
            }
        };
        self.is_boosted = true;
        Scorer::apply(scorers, stage, &mut self.list[..n_boosted], view)
    }

    /// Orders the first `window` passages by a field. There are no others then.
    pub fn sort(&mut self, sort: &Sort, window: usize, view: &View) -> Result<(), SearchError> {
        self.list.truncate(window);
        if (self.list.len() as u64) < self.total.value {
            self.total = Total::of(self.list.len(), false);
        }
        sort.apply(&mut self.list, view)
    }

    /// Leaves out what scores less than the threshold. After reranking, passages that the cross-encoder did not read have no
    /// score to compare and are left out, too.
    pub fn keep_above(&mut self, threshold: f32, reranked: bool) {
        let n_before = self.list.len();
        let all_read = self.list.iter().all(|hit| hit.scores.rerank.is_some());
        self.list
            .retain(|hit| hit.score >= threshold && (!reranked || hit.scores.rerank.is_some()));
        let n_kept = self.list.len();
        // Where one source gave the order, what it did not bring scores less than what was left out.
        let is_sorted = !reranked && !self.is_boosted && !matches!(self.mode, Mode::Hybrid(_));
        let saw_all = self.is_complete && (!reranked || all_read);
        self.total = Total::of(n_kept, saw_all || (is_sorted && n_kept < n_before));
    }
}

impl Total {
    fn exactly(value: u64) -> Self {
        let relation = Relation::Eq;
        Self { value, relation }
    }

    fn of(n_found: usize, is_all: bool) -> Self {
        Self {
            value: n_found as u64,
            relation: if is_all { Relation::Eq } else { Relation::Gte },
        }
    }
}
