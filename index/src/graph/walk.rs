//! Algorithm 2 of the paper: from node to node, always on from the most similar one.

use super::codes::{Codes, Probe};
use super::encoder::{QueryBuffers, QueryEncoder};
use super::kernel::Kernel;
use super::layer::{Layer, Slot};
use super::pool::Pool;
use super::visited::Visited;

/// Where nodes are, and what compares them.
#[derive(Clone, Copy)]
pub(super) struct Space<'a> {
    pub codes: Codes<'a>,
    pub kernel: Kernel,
}

/// Walks, and keeps what a walk needs to save allocations.
#[derive(Debug, Default)]
pub(super) struct Walker {
    /// What nodes are compared with.
    pub probe: Probe,
    /// The nodes that the last walk found.
    pub pool: Pool,
    /// Of those, and of the ones it had no room for, the best that pass a filter.
    pub passing: Pool,
    visited: Visited,
    batch: Vec<u32>,
    similarities: Vec<f32>,
    query: QueryBuffers,
}

impl Walker {
    /// Takes a query as what nodes are compared with.
    pub fn code(&mut self, encoder: &QueryEncoder, kernel: Kernel, query: &[f32]) {
        encoder.encode(kernel, query, &mut self.query, &mut self.probe);
    }

    /// Goes to the most similar neighbor as long as there is a more similar one: the walk with ef = 1.
    pub fn descend<T: Slot>(&mut self, space: Space<'_>, layer: &Layer<'_, T>, from: u32) -> u32 {
        let Self {
            probe,
            batch,
            similarities,
            ..
        } = self;
        let mut best = from;
        space
            .kernel
            .compare(space.codes, probe, &[from], similarities);
        let mut best_similarity = similarities[0];
        loop {
            let here = best;
            batch.clear();
            batch.extend(layer.of(here));
            batch.iter().for_each(|&node| space.codes.fetch(node));
            space
                .kernel
                .compare(space.codes, probe, batch, similarities);
            for (&node, &similarity) in batch.iter().zip(&*similarities) {
                if similarity > best_similarity {
                    (best, best_similarity) = (node, similarity);
                }
            }
            if best == here {
                return best;
            }
        }
    }

    /// Finds the `ef` most similar nodes, as far as links lead there.
    pub fn walk<T: Slot>(&mut self, space: Space<'_>, layer: &Layer<'_, T>, from: u32, ef: usize) {
        self.run(space, layer, from, ef, |_, _, _| {}, |_, _| false);
    }

    /// As [`Self::walk`], but keeps the `ef_passing` best nodes that pass, and ends when the walk cannot better them.
    pub fn walk_passing<T: Slot>(
        &mut self,
        space: Space<'_>,
        layer: &Layer<'_, T>,
        from: u32,
        ef: usize,
        ef_passing: usize,
        passes: impl Fn(u32) -> bool,
    ) {
        self.passing.clear(ef_passing.clamp(1, layer.n_nodes));
        let keep = |passing: &mut Pool, node, similarity| {
            if passing.has_room_for(node, similarity) && passes(node) {
                passing.offer(node, similarity);
            }
        };
        self.run(space, layer, from, ef, keep, |walk, passing| {
            passing.is_settled_by(walk)
        });
    }

    #[inline(always)]
    fn run<T: Slot>(
        &mut self,
        space: Space<'_>,
        layer: &Layer<'_, T>,
        from: u32,
        ef: usize,
        mut keep: impl FnMut(&mut Pool, u32, f32),
        is_done: impl Fn(&Pool, &Pool) -> bool,
    ) {
        let Self {
            probe,
            pool,
            passing,
            visited,
            batch,
            similarities,
            ..
        } = self;
        let Space { codes, kernel } = space;
        visited.clear(layer.n_nodes);
        pool.clear(ef.clamp(1, layer.n_nodes));
        visited.insert(from);
        kernel.compare(codes, probe, &[from], similarities);
        pool.offer(from, similarities[0]);
        keep(passing, from, similarities[0]);
        while !is_done(pool, passing) {
            let Some(node) = pool.expand() else { break };
            batch.clear();
            for link in layer.of(node) {
                if visited.insert(link) {
                    codes.fetch(link);
                    batch.push(link);
                }
            }
            if let Some(next) = pool.peek() {
                layer.fetch(next);
            }
            kernel.compare(codes, probe, batch, similarities);
            for (&node, &similarity) in batch.iter().zip(&*similarities) {
                pool.offer(node, similarity);
                keep(passing, node, similarity);
            }
        }
    }
}
