//! Links around deleted nodes.

use std::collections::HashSet;
use std::sync::PoisonError;

use super::HnswConfig;
use super::build::{Growing, Links, put};
use super::select::Selector;
use super::walk::{Space, Walker};
use crate::Bitmap;

/// Candidates for the new links of a node: what its deleted neighbors lead to, directly or through other deleted ones.
const MAX_CANDIDATES: usize = 128;

/// Gives the neighbors of deleted nodes new links, chosen from what the deleted ones led to, and no node a link to those.
pub(super) fn repair(
    space: Space<'_>,
    config: &HnswConfig,
    links: Links,
    deleted: &Bitmap,
) -> Links {
    let mut growing = Growing::from_links(space, config, links);
    let n = space.codes.len() as u32;
    let living = || (0..n).filter(|&node| !deleted.contains(node));
    let (mut walker, mut selector) = (Walker::default(), Selector::default());
    let (mut waiting, mut seen, mut candidates) = (Vec::new(), HashSet::new(), Vec::new());
    let mut similarities = Vec::new();
    for node in living() {
        for layer in 0..=growing.top(node) {
            let links = growing.layer(layer);
            if !links.of(node).any(|link| deleted.contains(link)) {
                continue;
            }
            waiting.clear();
            seen.clear();
            candidates.clear();
            seen.insert(node);
            waiting.push(node);
            let mut next = 0;
            while let Some(&through) = waiting.get(next)
                && candidates.len() < MAX_CANDIDATES
            {
                next += 1;
                for link in links.of(through).filter(|&link| seen.insert(link)) {
                    if deleted.contains(link) {
                        waiting.push(link);
                    } else {
                        candidates.push(link);
                    }
                }
            }
            walker.probe.set(space.codes.record(node));
            space
                .kernel
                .compare(space.codes, &walker.probe, &candidates, &mut similarities);
            let mut ranked: Vec<(u32, f32)> = candidates
                .iter()
                .copied()
                .zip(similarities.iter().copied())
                .collect();
            ranked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            selector.choose(space, &ranked, links.n_slots);
            put(links.slots(node), &selector.chosen);
        }
    }
    for node in deleted.iter().filter(|&node| node < n) {
        for layer in 0..=growing.top(node) {
            put(growing.layer(layer).slots(node), &[]);
        }
    }
    let entry = growing
        .entry
        .get_mut()
        .unwrap_or_else(PoisonError::into_inner);
    if deleted.contains(*entry)
        && let Some(highest) = living().max_by_key(|&node| {
            (
                growing.offsets[node as usize + 1] - growing.offsets[node as usize],
                !node,
            )
        })
    {
        *entry = highest;
    }
    growing.connect(deleted);
    growing.finish()
}
