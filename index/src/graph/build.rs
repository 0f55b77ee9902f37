//! Algorithm 1 of the paper: one node after the other is linked to what a walk finds near it.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use super::layer::{Layer, NO_LINK, Slot};
use super::select::Selector;
use super::walk::{Space, Walker};
use super::{HnswConfig, Progress};
use crate::{Bitmap, WriteError};

/// Locks of nodes' links; nodes share them.
const N_LOCKS: usize = 1 << 12;
/// A node reaches no layer above; with M = 2 one in 65,536 nodes would.
const MAX_LAYER: usize = 16;
/// Candidates among which a node that no link leads to looks for a place.
const EF_CONNECT: usize = 32;

/// Links as they are written.
#[derive(Debug)]
pub(super) struct Links {
    /// Layer 0: 2M slots for each node.
    pub base: Vec<u32>,
    /// The layers above: M slots for each layer of each node.
    pub upper: Vec<u32>,
    /// For each node, and one more: layers above 0 that the nodes before it have.
    pub offsets: Vec<u32>,
    /// Where walks begin: a node of the highest layer.
    pub entry: u32,
}

impl Links {
    /// Those of a graph without nodes.
    pub fn none() -> Self {
        Self {
            base: Vec::new(),
            upper: Vec::new(),
            offsets: vec![0],
            entry: 0,
        }
    }
}

/// The layer that a node reaches: `⌊−ln U · m_L⌋` with `m_L = 1/ln M`, U from the seed and the node alone.
fn layer_of(config: &HnswConfig, node: u32) -> usize {
    let mut z = config.seed ^ (u64::from(node) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15); // SplitMix64
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uniform = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
    let layer = -(1.0 - uniform).ln() / (config.m as f64).ln();
    (layer as usize).min(MAX_LAYER)
}

/// Links all nodes of the space; there is at least one.
///
/// `progress` is told how many nodes are linked, now and then and from any thread.
///
/// # Errors
/// [`WriteError::Interrupted`] when `progress` breaks off.
pub(super) fn build(
    space: Space<'_>,
    config: &HnswConfig,
    progress: &Progress<'_>,
) -> Result<Links, WriteError> {
    let growing = Growing::new(space, config);
    let n = space.codes.len();
    let n_threads = config
        .threads
        .map_or_else(rayon::current_num_threads, NonZeroUsize::get);
    let next = AtomicUsize::new(1); // node 0 is there
    let is_stopped = AtomicBool::new(false);
    let work = || {
        let mut inserter = Inserter::default();
        loop {
            let node = next.fetch_add(1, Ordering::Relaxed);
            if node >= n || is_stopped.load(Ordering::Relaxed) {
                break;
            }
            growing.insert(node as u32, &mut inserter);
            if node.is_multiple_of(PROGRESS_NODES) && progress(node).is_break() {
                is_stopped.store(true, Ordering::Relaxed);
            }
        }
    };
    if n_threads == 1 {
        work();
    } else {
        rayon::scope(|scope| (0..n_threads).for_each(|_| scope.spawn(|_| work())));
    }
    if is_stopped.into_inner() {
        let n_linked = next.into_inner().min(n);
        return Err(WriteError::Interrupted { n_linked, n });
    }
    growing.connect(&Bitmap::new());
    Ok(growing.finish())
}

const PROGRESS_NODES: usize = 1024;

/// A graph that is being built. Links are read without locks: a list that is being rewritten is still a list of nodes.
pub(super) struct Growing<'a> {
    space: Space<'a>,
    config: &'a HnswConfig,
    base: Vec<AtomicU32>,
    upper: Vec<AtomicU32>,
    pub offsets: Vec<u32>,
    pub entry: RwLock<u32>,
    locks: Vec<Mutex<()>>,
}

/// The work of one thread.
#[derive(Default)]
struct Inserter {
    walker: Walker,
    selector: Selector,
    candidates: Vec<(u32, f32)>,
    /// By layer, from the highest down.
    chosen: Vec<(usize, Vec<u32>)>,
    nodes: Vec<u32>,
    similarities: Vec<f32>,
}

impl<'a> Growing<'a> {
    fn new(space: Space<'a>, config: &'a HnswConfig) -> Self {
        let n = space.codes.len();
        let mut offsets = vec![0];
        let mut n_upper = 0;
        for node in 0..n as u32 {
            n_upper += layer_of(config, node) as u32;
            offsets.push(n_upper);
        }
        let links = Links {
            base: vec![NO_LINK; n * config.m * 2],
            upper: vec![NO_LINK; n_upper as usize * config.m],
            offsets,
            entry: 0,
        };
        Self::from_links(space, config, links)
    }

    pub fn from_links(space: Space<'a>, config: &'a HnswConfig, links: Links) -> Self {
        let shared = |links: Vec<u32>| links.into_iter().map(AtomicU32::new).collect();
        Self {
            space,
            config,
            base: shared(links.base),
            upper: shared(links.upper),
            offsets: links.offsets,
            entry: RwLock::new(links.entry),
            locks: (0..N_LOCKS).map(|_| Mutex::new(())).collect(),
        }
    }

    pub fn layer(&self, layer: usize) -> Layer<'_, AtomicU32> {
        layer_from(&self.base, &self.upper, &self.offsets, self.config.m, layer)
    }

    /// The highest layer that a node reaches.
    pub fn top(&self, node: u32) -> usize {
        let node = node as usize;
        (self.offsets[node + 1] - self.offsets[node]) as usize
    }

    fn insert(&self, node: u32, inserter: &mut Inserter) {
        let Inserter {
            walker,
            selector,
            candidates,
            chosen,
            ..
        } = inserter;
        let top = self.top(node);
        let entry = *self.entry.read().unwrap_or_else(PoisonError::into_inner);
        let entry_top = self.top(entry);
        walker.probe.set(self.space.codes.record(node));
        let mut from = entry;
        for layer in (top + 1..=entry_top).rev() {
            from = walker.descend(self.space, &self.layer(layer), from);
        }
        // The node has its own links in every layer before any other node leads to it.
        chosen.clear();
        for layer in (0..=top.min(entry_top)).rev() {
            let links = self.layer(layer);
            walker.walk(self.space, &links, from, self.config.ef_construction);
            candidates.clear();
            candidates.extend(walker.pool.ranking().filter(|&(other, _)| other != node));
            from = candidates.first().map_or(from, |&(nearest, _)| nearest);
            selector.choose(self.space, candidates, self.config.m);
            put(links.slots(node), &selector.chosen);
            chosen.push((layer, selector.chosen.clone()));
        }
        for (layer, chosen) in std::mem::take(&mut inserter.chosen) {
            for other in chosen {
                self.link(layer, other, node, inserter);
            }
        }
        if top > entry_top {
            let mut entry = self.entry.write().unwrap_or_else(PoisonError::into_inner);
            if top > self.top(*entry) {
                *entry = node;
            }
        }
    }

    /// Makes a link from `node` to `other`; when there is no room, the links are chosen anew.
    fn link(&self, layer: usize, node: u32, other: u32, inserter: &mut Inserter) {
        let Inserter {
            walker,
            selector,
            candidates,
            nodes,
            similarities,
            ..
        } = inserter;
        let links = self.layer(layer);
        let lock = &self.locks[node as usize % N_LOCKS];
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = links.slots(node);
        nodes.clear();
        nodes.extend(links.of(node));
        if nodes.contains(&other) {
            return;
        }
        if let Some(free) = slots.get(nodes.len()) {
            free.store(other, Ordering::Relaxed);
            return;
        }
        nodes.push(other);
        walker.probe.set(self.space.codes.record(node));
        let Space { codes, kernel } = self.space;
        kernel.compare(codes, &walker.probe, nodes, similarities);
        candidates.clear();
        candidates.extend(nodes.iter().copied().zip(similarities.iter().copied()));
        candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        selector.choose(self.space, candidates, links.n_slots);
        put(slots, &selector.chosen);
    }

    /// Gives every node that no way leads to a place on one, near it; deleted nodes stay without.
    ///
    /// Where links are chosen anew, the last one to a node may go; of equal vectors most would be lost.
    pub fn connect(&self, deleted: &Bitmap) {
        let links = self.layer(0);
        let n = self.space.codes.len();
        let entry = *self.entry.read().unwrap_or_else(PoisonError::into_inner);
        let mut is_reached = vec![false; n];
        let reach = |from: u32, is_reached: &mut Vec<bool>| {
            let mut waiting = vec![from];
            is_reached[from as usize] = true;
            while let Some(node) = waiting.pop() {
                for link in links.of(node) {
                    if !std::mem::replace(&mut is_reached[link as usize], true) {
                        waiting.push(link);
                    }
                }
            }
        };
        reach(entry, &mut is_reached);
        let mut walker = Walker::default();
        for node in 0..n as u32 {
            if is_reached[node as usize] || deleted.contains(node) {
                continue;
            }
            walker.probe.set(self.space.codes.record(node));
            let mut from = entry;
            for layer in (1..=self.top(entry)).rev() {
                from = walker.descend(self.space, &self.layer(layer), from);
            }
            if !is_reached[from as usize] {
                from = entry;
            }
            walker.walk(self.space, &links, from, EF_CONNECT);
            let near: Vec<u32> = walker.pool.ranking().map(|(near, _)| near).collect();
            let free = |node: u32| links.slots(node).iter().find(|slot| slot.get() == NO_LINK);
            if let Some(slot) = near.iter().find_map(|&near| free(near)) {
                slot.store(node, Ordering::Relaxed);
            } else {
                // The node takes the last place of the nearest one, and leads on to what was there. None of its own
                // links was part of a way so far.
                let last = links.slots(near[0]).last().expect("there are slots");
                let moved = last.swap(node, Ordering::Relaxed);
                let own = links.slots(node);
                free(node)
                    .unwrap_or(&own[own.len() - 1])
                    .store(moved, Ordering::Relaxed);
            }
            reach(node, &mut is_reached);
        }
    }

    pub fn finish(self) -> Links {
        let plain = |links: Vec<AtomicU32>| links.into_iter().map(AtomicU32::into_inner).collect();
        Links {
            base: plain(self.base),
            upper: plain(self.upper),
            offsets: self.offsets,
            entry: self
                .entry
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// The links of a layer, wherever they are kept.
pub(super) fn layer_from<'a, T>(
    base: &'a [T],
    upper: &'a [T],
    offsets: &'a [u32],
    m: usize,
    layer: usize,
) -> Layer<'a, T> {
    let n_nodes = offsets.len() - 1;
    match layer {
        0 => Layer {
            links: base,
            n_slots: 2 * m,
            above: None,
            n_nodes,
        },
        _ => Layer {
            links: upper,
            n_slots: m,
            above: Some((layer, offsets)),
            n_nodes,
        },
    }
}

/// Replaces the links of a node.
pub(super) fn put(slots: &[AtomicU32], links: &[u32]) {
    let links = links.iter().copied().chain(std::iter::repeat(NO_LINK));
    for (slot, link) in slots.iter().zip(links) {
        slot.store(link, Ordering::Relaxed);
    }
}
