//! Algorithm 4 of the paper: which of the candidates a node links to.

use super::codes::Probe;
use super::walk::Space;

/// Chooses neighbors, and keeps what that needs to save allocations.
#[derive(Debug, Default)]
pub(super) struct Selector {
    /// The neighbors chosen last, the most similar first.
    pub chosen: Vec<u32>,
    probe: Probe,
    similarities: Vec<f32>,
}

/// Chosen neighbors that a candidate is compared with at once.
const GROUP: usize = 4;

impl Selector {
    /// Chooses up to `m` of the candidates, which are given best first: those that are more similar to the node itself
    /// than to any neighbor chosen before, so that links lead in all directions.
    ///
    /// As in hnswlib, all are taken when there are no more than `m`, and places left by others stay empty.
    pub fn choose(&mut self, space: Space<'_>, candidates: &[(u32, f32)], m: usize) {
        let Self {
            chosen,
            probe,
            similarities,
        } = self;
        chosen.clear();
        if candidates.len() <= m {
            chosen.extend(candidates.iter().map(|(node, _)| node));
            return;
        }
        for &(candidate, to_node) in candidates {
            if chosen.len() == m {
                break;
            }
            probe.set(space.codes.record(candidate));
            let is_apart = chosen.chunks(GROUP).all(|chosen| {
                space
                    .kernel
                    .compare(space.codes, probe, chosen, similarities);
                similarities.iter().all(|&to_chosen| to_chosen <= to_node)
            });
            if is_apart {
                chosen.push(candidate);
            }
        }
    }
}
