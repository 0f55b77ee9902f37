use std::collections::HashSet;

use store::{Bitmap, View};

use crate::SearchError;
use crate::candidates::Candidate;

/// A document that has a given rank in the answer, wherever the ranking has it, if at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its id; that of a passage where documents were not split into passages. One that is not there, or does not pass the
    /// filter, has no effect.
    pub id: String,
    /// Its rank, from 1. Behind the end of the ranking it comes last.
    pub rank: usize,
}

/// The passages of a pinned document that pass the filter.
pub(crate) struct Pinned {
    pub rank: usize,
    pub ordinals: Vec<u32>,
}

impl Pinned {
    /// Finds the passages of pinned documents, in the order of their ranks.
    pub fn find(
        pins: &[Pin],
        view: &View,
        passing: Option<&Bitmap>,
    ) -> Result<Vec<Self>, SearchError> {
        let mut found = Vec::with_capacity(pins.len());
        for pin in pins {
            let mut ordinals = view.passages_of(&pin.id).map_err(SearchError::Store)?;
            ordinals.retain(|ordinal| passing.is_none_or(|passing| passing.contains(*ordinal)));
            if !ordinals.is_empty() {
                let rank = pin.rank;
                found.push(Self { rank, ordinals });
            }
        }
        found.sort_by_key(|pinned| pinned.rank);
        Ok(found)
    }
}

/// Puts pinned items at their ranks; the others follow in their order. `pinned` is in the order of ranks.
pub(crate) fn place<T>(pinned: Vec<(usize, T)>, others: Vec<T>) -> Vec<T> {
    let mut placed = Vec::with_capacity(pinned.len() + others.len());
    let mut others = others.into_iter();
    for (rank, item) in pinned {
        let before = rank.saturating_sub(1).saturating_sub(placed.len());
        placed.extend(others.by_ref().take(before));
        placed.push(item);
    }
    placed.extend(others);
    placed
}

/// Pins passages in a ranking: of each document the one that ranks best, or its first where none is ranked.
pub(crate) fn pin(pinned: &[Pinned], ranking: &mut Vec<Candidate>) {
    let wanted: HashSet<u32> = pinned.iter().flat_map(|p| &p.ordinals).copied().collect();
    let ranked: Vec<u32> = ranking.iter().map(|c| c.ordinal).collect();
    let ranked: Vec<u32> = ranked.into_iter().filter(|o| wanted.contains(o)).collect();
    let mut taken: Vec<(usize, u32)> = Vec::with_capacity(pinned.len());
    for Pinned { rank, ordinals } in pinned {
        let best = ranked.iter().find(|ordinal| ordinals.contains(ordinal));
        let ordinal = best.or(ordinals.first()).copied();
        // A document that is pinned twice has the better of its ranks.
        let is_new = |ordinal: &u32| taken.iter().all(|(_, known)| known != ordinal);
        taken.extend(ordinal.filter(is_new).map(|ordinal| (*rank, ordinal)));
    }
    let mut items: Vec<(usize, Candidate)> = Vec::with_capacity(taken.len());
    for (rank, ordinal) in taken {
        let position = ranking.iter().position(|c| c.ordinal == ordinal);
        let candidate = position.map(|position| ranking.remove(position));
        let mut candidate = candidate.unwrap_or_else(|| Candidate::unranked(ordinal));
        candidate.pinned = true;
        items.push((rank, candidate));
    }
    *ranking = place(items, std::mem::take(ranking));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_items_have_their_ranks_and_the_last_ones_the_end() {
        let check = |pinned: &[(usize, char)], others: &str, expected: &str| {
            let placed = place(pinned.to_vec(), others.chars().collect());
            assert_eq!(placed.into_iter().collect::<String>(), expected);
        };
        check(&[], "abc", "abc");
        check(&[(1, 'X')], "abc", "Xabc");
        check(&[(2, 'X'), (3, 'Y')], "abc", "aXYbc");
        check(&[(2, 'X'), (2, 'Y')], "abc", "aXYbc");
        check(&[(3, 'X'), (9, 'Y')], "a", "aXY");
        check(&[(0, 'X')], "", "X");
    }
}
