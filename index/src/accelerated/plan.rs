//! Which rows a device gets, what they take there, and in which steps they are read.

use std::ops::Range;

use crate::RowType;
use crate::shard::{BLOCK_ROWS, FlatShard};
use crate::{Metric, VectorIndex};

/// Rows of one shard on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub shard: usize,
    pub rows: Range<usize>,
}

/// Divides rows over devices: contiguous ranges of about as many rows each, cut between blocks. Device by device, in order.
pub(crate) fn divide(n_rows: &[usize], n_devices: usize) -> Vec<Vec<Stretch>> {
    let total: usize = n_rows.iter().sum();
    let mut stretches = vec![Vec::new(); n_devices];
    let mut before = 0; // rows of the shards before
    let mut device = 0;
    for (shard, &n) in n_rows.iter().enumerate() {
        let mut start = 0;
        while start < n {
            // The device ends where its share of all rows does, at the next block; the last one takes the rest.
            let end = match device + 1 {
                next if next == n_devices => n,
                next => {
                    let share = (total * next / n_devices).saturating_sub(before);
                    share.next_multiple_of(BLOCK_ROWS).min(n)
                }
            };
            if end > start {
                stretches[device].push(Stretch {
                    shard,
                    rows: start..end,
                });
                start = end;
            }
            if start < n {
                device += 1;
            }
        }
        before += n;
        while device + 1 < n_devices && before >= total * (device + 1) / n_devices {
            device += 1;
        }
    }
    stretches
}

/// Bytes of a row on a device: whole 16, the step of `int8` rows elsewhere.
pub(crate) fn row_bytes(row_type: RowType, width: usize) -> usize {
    (value_bytes(row_type) * width).next_multiple_of(16)
}

pub(crate) fn value_bytes(row_type: RowType) -> usize {
    match row_type {
        RowType::F32 => 4,
        RowType::F16 | RowType::Bf16 => 2,
        RowType::Int8 => 1,
    }
}

/// What the rows of an index take in the memory of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The rows as they are stored, and the steps of `int8` rows.
    pub rows: u64,
    /// The heads of their sketches.
    pub sketches: u64,
    /// Their lengths, which L2 needs.
    pub norms: u64,
    /// What searches need besides.
    pub workspace: u64,
}

impl MemoryPlan {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.rows + self.sketches + self.norms + self.workspace
    }

    pub(crate) fn add(&mut self, shard: &FlatShard, n_rows: usize) {
        let config = shard.config();
        let steps = if config.row_type == RowType::Int8 {
            4
        } else {
            0
        };
        self.rows += (n_rows * (row_bytes(config.row_type, config.width) + steps)) as u64;
        if let Some(sketches) = shard.sketches() {
            let blocks = n_rows.div_ceil(crate::sketch::LANES);
            self.sketches += (blocks * sketches.layout.block_bytes()) as u64;
        }
        if shard.metric() == Metric::L2 {
            self.norms += (n_rows * 4) as u64;
        }
    }
}

/// The steps in which `n_rows` are read when `seen` rows were before: `first` rows until there is a limit, then each time three times as
/// many as before, so that the limit of what was seen keeps candidates few; never more than `capacity`, which all may be candidates.
pub(crate) fn steps(
    seen: usize,
    n_rows: usize,
    first: usize,
    capacity: usize,
) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let n = (3 * (seen + start))
            .max(first)
            .min(capacity)
            .min(n_rows - start);
        let step = start..start + n;
        start = step.end;
        (n > 0).then_some(step)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_has_one_device(
            n_rows in prop::collection::vec(0usize..3000, 1..6),
            n_devices in 1usize..6,
        ) {
            let devices = divide(&n_rows, n_devices);
            let found: Vec<(usize, usize)> = devices
                .iter()
                .flatten()
                .flat_map(|stretch| stretch.rows.clone().map(|row| (stretch.shard, row)))
                .collect();
            let all: Vec<(usize, usize)> = n_rows
                .iter()
                .enumerate()
                .flat_map(|(shard, &n)| (0..n).map(move |row| (shard, row)))
                .collect();
            prop_assert_eq!(found, all);
            for stretch in devices.iter().flatten() {
                prop_assert_eq!(stretch.rows.start % BLOCK_ROWS, 0);
            }
            let share = n_rows.iter().sum::<usize>() / n_devices;
            for stretches in &devices {
                let n: usize = stretches.iter().map(|stretch| stretch.rows.len()).sum();
                prop_assert!(n <= share + n_rows.len() * BLOCK_ROWS + n_devices, "{n} of {share}");
            }
        }

        #[test]
        fn steps_cover_all_rows(seen in 0usize..100_000, n_rows in 0usize..1_000_000, first in 1usize..10_000, capacity in 1usize..50_000) {
            let mut next = 0;
            for step in steps(seen, n_rows, first, capacity) {
                prop_assert_eq!(step.start, next);
                prop_assert!(step.len() <= capacity);
                next = step.end;
            }
            prop_assert_eq!(next, n_rows);
        }
    }
}
