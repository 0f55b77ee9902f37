//! The choice of how a search is carried out: by what it is expected to cost.

use crate::{Bitmap, FlatShard, SearchParams, VectorIndex, sketch};

/// How a search is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    /// Exact: every row.
    Scan,
    /// Exact: every row that passes the filter.
    FilteredScan,
    /// Approximate: a walk through the graph.
    Graph,
    /// Approximate: a walk through the graph that keeps what passes the filter.
    FilteredGraph,
}

impl Plan {
    /// Whether the answer is exact over the stored rows.
    pub fn is_exact(self) -> bool {
        matches!(self, Self::Scan | Self::FilteredScan)
    }

    /// The name in explanations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::FilteredScan => "filtered_scan",
            Self::Graph => "graph",
            Self::FilteredGraph => "filtered_graph",
        }
    }
}

/// Nodes that a walk keeps when nothing else is said: so many in a shard of up to [`EF_ROWS`], or so many for each of
/// the `k`.
const EF: usize = 40;
const EF_PER_K: usize = 2;
/// As [`EF`], of nodes that pass a filter.
const FILTERED_EF: usize = 128;
/// With more rows an equal recall takes more: a recall of .95 took an ef of 32 in 100,000 rows, of 120 in ten times as many.
const EF_ROWS: f64 = 1e5;
const EF_EXPONENT: f64 = 0.56;
/// A filtered walk keeps so many nodes at most, passing or not. Where it would need more, rows are scanned.
const MAX_WALKED: usize = 1 << 13;

/// Nanoseconds on one core of a server, as measured with the bench `graph`.
mod cost {
    /// A query of a scan: setting up, and rows that get their score.
    pub const SCAN: f64 = 20_000.0;
    /// A byte of the sketches that the first pass of a scan reads, or of the rows.
    pub const SKETCH_BYTE: f64 = 0.03;
    pub const ROW_BYTE: f64 = 0.035;
    /// A row that passes a filter.
    pub const PASSING: f64 = 4.0;
    /// A query of a walk: coding it, layers above, and rows that get their score.
    pub const WALK: f64 = 8_000.0;
    /// A node that a walk keeps, and so expands.
    pub const WALKED: f64 = 500.0;
}

/// Nodes of a shard that a walk keeps of those that may be found.
pub(super) fn ef(n_rows: usize, k: usize, is_filtered: bool, params: &SearchParams) -> usize {
    let least = if is_filtered { FILTERED_EF } else { EF };
    let grown = (n_rows as f64 / EF_ROWS).max(1.0).powf(EF_EXPONENT) * least as f64;
    let default = (grown as usize).max(k.saturating_mul(EF_PER_K));
    params.ef.unwrap_or(default).max(k)
}

/// Nodes that a walk keeps so that `ef` of them may be expected to pass; none where no row passes.
pub(super) fn walked(ef: usize, n_rows: usize, n_passing: usize) -> usize {
    if n_passing == 0 {
        return 0;
    }
    let needed = ef as f64 * n_rows as f64 / n_passing as f64;
    (needed.ceil() as usize).min(n_rows.min(MAX_WALKED.max(ef)))
}

/// Rows of a shard that pass.
pub(super) fn passing_in(shard: &FlatShard, filter: &Bitmap) -> usize {
    let first = shard.first_ordinal();
    match shard.len() {
        0 => 0,
        n => filter.range_cardinality(first..=first + (n - 1) as u32) as usize,
    }
}

/// The cheaper plan of the two that answer.
pub(super) fn choose(
    shards: &[FlatShard],
    k: usize,
    filter: Option<&Bitmap>,
    params: &SearchParams,
) -> Plan {
    let (scan, graph) = match filter {
        None => (Plan::Scan, Plan::Graph),
        Some(_) => (Plan::FilteredScan, Plan::FilteredGraph),
    };
    if params.exact {
        return scan;
    }
    let (mut scan_cost, mut walk_cost) = (cost::SCAN, 0.0);
    for shard in shards {
        let n_rows = shard.len();
        let ef = ef(n_rows, k, filter.is_some(), params);
        let n_passing = filter.map_or(n_rows, |filter| passing_in(shard, filter));
        if n_passing == 0 {
            continue; // neither plan reads any of it
        }
        if ef.saturating_mul(n_rows) / n_passing > MAX_WALKED.max(ef) {
            return scan; // the walk would be cut short
        }
        scan_cost += first_pass(shard, n_passing);
        if filter.is_some() {
            scan_cost += n_passing as f64 * cost::PASSING;
        }
        walk_cost += cost::WALK + walked(ef, n_rows, n_passing) as f64 * cost::WALKED;
    }
    if walk_cost == 0.0 || scan_cost <= walk_cost {
        scan
    } else {
        graph
    }
}

/// What the first pass of a scan costs, of sketches, by blocks, or of rows.
fn first_pass(shard: &FlatShard, n_passing: usize) -> f64 {
    let (n_rows, n_passing) = (shard.len() as f64, n_passing as f64);
    let row_bytes = shard.config().row_type.row_bytes(shard.width());
    let of_rows = n_passing * row_bytes as f64 * cost::ROW_BYTE;
    let Some(sketches) = shard.sketches() else {
        return of_rows;
    };
    let per_block = sketch::LANES as f64;
    // The part of the blocks that have a passing row, when rows pass at random.
    let touched = 1.0 - (1.0 - n_passing / n_rows.max(1.0)).powf(per_block);
    let n_blocks = n_rows / per_block * touched;
    let of_sketches = n_blocks * sketches.layout.block_bytes() as f64 * cost::SKETCH_BYTE;
    of_sketches.min(of_rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metric, RowType, ShardConfig, ShardWriter, SketchPolicy, Verify};

    #[test]
    fn a_shard_where_no_row_passes_costs_nothing() {
        const N_ROWS: u32 = 20_000;
        let folder = tempfile::tempdir().unwrap();
        let shards = [0, N_ROWS].map(|first_ordinal| {
            let path = folder.path().join(first_ordinal.to_string());
            let config = ShardConfig {
                width: 16,
                metric: Metric::InnerProduct,
                row_type: RowType::F32,
                first_ordinal,
                sketches: SketchPolicy::Never,
            };
            let mut writer = ShardWriter::create(&path, config).unwrap();
            for _ in 0..N_ROWS {
                writer.push(&[1.0; 16]).unwrap();
            }
            writer.finish().unwrap();
            FlatShard::open(&path, Verify::Header).unwrap()
        });
        let check = |filter: Bitmap, expected| {
            let params = SearchParams::default();
            assert_eq!(choose(&shards, 10, Some(&filter), &params), expected);
        };
        check((0..N_ROWS).collect(), Plan::FilteredGraph);
        check((N_ROWS..2 * N_ROWS).collect(), Plan::FilteredGraph);
        check((0..2 * N_ROWS).collect(), Plan::FilteredGraph);
        check(Bitmap::new(), Plan::FilteredScan);
        assert_eq!(walked(128, N_ROWS as usize, 0), 0);
    }
}
