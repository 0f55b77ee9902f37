//! The links of one layer.

use std::sync::atomic::{AtomicU32, Ordering};

use super::codes::fetch;

/// What fills the slots after a node's last link.
pub(super) const NO_LINK: u32 = u32::MAX;

/// Where a link is kept: mapped from a file, or shared by the threads that build.
pub(super) trait Slot {
    fn get(&self) -> u32;
}

impl Slot for u32 {
    #[inline(always)]
    fn get(&self) -> u32 {
        *self
    }
}

impl Slot for AtomicU32 {
    #[inline(always)]
    fn get(&self) -> u32 {
        self.load(Ordering::Relaxed)
    }
}

/// The links of all nodes in one layer, each node with the same number of slots.
pub(super) struct Layer<'a, T> {
    pub links: &'a [T],
    /// Slots of a node: the paper's M_max, and M_max0 in layer 0.
    pub n_slots: usize,
    /// Above layer 0: for each node, and one more, the number of layers that the nodes before it have there.
    pub above: Option<(usize, &'a [u32])>,
    pub n_nodes: usize,
}

impl<'a, T: Slot> Layer<'a, T> {
    /// The slots of a node; none when it does not reach the layer.
    #[inline(always)]
    pub fn slots(&self, node: u32) -> &'a [T] {
        let node = node as usize;
        let at = match self.above {
            None => node,
            Some((layer, offsets)) => {
                let (first, end) = (offsets[node] as usize, offsets[node + 1] as usize);
                if end - first < layer {
                    return &[];
                }
                first + layer - 1
            }
        };
        &self.links[at * self.n_slots..][..self.n_slots]
    }

    /// The nodes that a node links to. What is no node ends them.
    #[inline(always)]
    pub fn of(&self, node: u32) -> impl Iterator<Item = u32> + 'a {
        let n_nodes = self.n_nodes;
        let slots = self.slots(node).iter().map(Slot::get);
        slots.take_while(move |&link| (link as usize) < n_nodes)
    }

    /// Asks for a node's links before they are needed.
    #[inline(always)]
    pub fn fetch(&self, node: u32) {
        for line in self.slots(node).chunks(16) {
            fetch(&line[0]);
        }
    }
}
