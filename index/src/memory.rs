//! Rows that are not yet in a shard.

use std::sync::Arc;
use std::time::Instant;

use compute::Simd;

use crate::metric::score_with;
use crate::neighbor::TopK;
use crate::rows::Rows;
use crate::search::prepare_queries;
use crate::shard::prepare_row;
use crate::{
    Bitmap, Capabilities, Device, Metric, Neighbor, RowType, SearchError, SearchParams,
    VectorIndex, WriteError,
};

/// Rows that are copied when one more is added while somebody still reads them.
const CHUNK_ROWS: usize = 64;

/// Rows in memory, in the order they were added, as a shard would hold them: the same bytes, the same scores.
///
/// A clone is a snapshot and shares the rows. Search is exhaustive, O(rows · width) a query.
#[derive(Clone, Debug)]
pub struct MemoryRows {
    width: usize,
    metric: Metric,
    row_type: RowType,
    first_ordinal: u32,
    /// Stored rows, [`CHUNK_ROWS`] in each but the last.
    chunks: Vec<Arc<Vec<u8>>>,
    n_rows: usize,
}

impl MemoryRows {
    /// No rows yet; the first one will have the ordinal given.
    #[must_use]
    pub fn new(width: usize, metric: Metric, row_type: RowType, first_ordinal: u32) -> Self {
        Self {
            width,
            metric,
            row_type,
            first_ordinal,
            chunks: Vec::new(),
            n_rows: 0,
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n_rows
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// Bytes of the rows.
    #[must_use]
    pub fn n_bytes(&self) -> u64 {
        (self.n_rows * self.row_type.row_bytes(self.width)) as u64
    }

    /// Adds a row as [`crate::ShardWriter::push`] does.
    ///
    /// # Errors
    /// As there.
    pub fn push(&mut self, row: &[f32]) -> Result<(), WriteError> {
        let ordinal = u32::try_from(u64::from(self.first_ordinal) + self.n_rows as u64)
            .map_err(|_| WriteError::TooManyRows)?;
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        let (width, metric, row_type) = (self.width, self.metric, self.row_type);
        prepare_row(
            width,
            metric,
            row_type,
            ordinal,
            row,
            &mut values,
            &mut bytes,
        )?;
        let stored = Rows {
            row_type,
            width,
            bytes: &bytes,
        }
        .row(0);
        if let Some(dimension) = stored.iter().position(|value| !value.is_finite()) {
            return Err(WriteError::TooLarge {
                ordinal,
                dimension,
                value: values[dimension],
                row_type: row_type.as_str(),
            });
        }
        if self.n_rows.is_multiple_of(CHUNK_ROWS) {
            self.chunks.push(Arc::default());
        }
        let chunk = self.chunks.last_mut().expect("one was just made sure of");
        Arc::make_mut(chunk).extend_from_slice(&bytes);
        self.n_rows += 1;
        Ok(())
    }

    /// Returns the `k` nearest of the rows that pass for each query, as [`VectorIndex::search`] does with this
    /// [`SearchParams::deadline`].
    ///
    /// # Errors
    /// As there.
    pub fn search(
        &self,
        queries: &[f32],
        k: usize,
        passes: &dyn Fn(u32) -> bool,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        let queries = prepare_queries(queries, self.width, self.metric)?;
        let mut best: Vec<TopK> = queries
            .chunks_exact(self.width)
            .map(|_| TopK::new(k.max(1)))
            .collect();
        let simd = Simd::detect();
        let mut ordinals = self.first_ordinal..;
        let mut buffer = Vec::new();
        for chunk in &self.chunks {
            if deadline.is_some_and(|end| end <= Instant::now()) {
                return Err(SearchError::DeadlineExceeded);
            }
            let rows = Rows {
                row_type: self.row_type,
                width: self.width,
                bytes: chunk,
            };
            for (i, ordinal) in (0..rows.len()).zip(&mut ordinals) {
                if !passes(ordinal) {
                    continue;
                }
                let row = rows.read(i, &mut buffer).unwrap_or(&buffer);
                for (query, best) in queries.chunks_exact(self.width).zip(&mut best) {
                    let score = score_with(simd, self.metric, row, query);
                    best.offer(Neighbor { ordinal, score });
                }
            }
        }
        let ranked = best.into_iter().map(TopK::into_ranking);
        Ok(ranked
            .map(|ranking| if k == 0 { Vec::new() } else { ranking })
            .collect())
    }
}

/// An index without rows, of a collection that nothing was written to yet.
#[derive(Clone, Copy, Debug)]
pub struct NoRows {
    /// Values in a query.
    pub width: usize,
    /// What a score would be.
    pub metric: Metric,
}

impl VectorIndex for NoRows {
    fn len(&self) -> usize {
        0
    }

    fn width(&self) -> usize {
        self.width
    }

    fn metric(&self) -> Metric {
        self.metric
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            filter: true,
            exact: true,
            device: Device::Cpu,
        }
    }

    fn search(
        &self,
        queries: &[f32],
        _k: usize,
        _filter: Option<&Bitmap>,
        _params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        let queries = prepare_queries(queries, self.width, self.metric)?;
        Ok(vec![Vec::new(); queries.len() / self.width])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{FlatShard, ShardConfig, ShardWriter, SketchPolicy, Verify};

    #[test]
    fn rows_in_memory_answer_as_those_of_a_shard() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = 7_u32;
        let mut draw = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f32::from((state >> 29) as u8) - 3.0 // few values, so that scores tie
        };
        let (width, n_rows) = (5, 3 * CHUNK_ROWS + 7);
        let mut row = || loop {
            let row: Vec<f32> = (0..width).map(|_| draw()).collect();
            if row.iter().any(|value| *value != 0.0) {
                return row;
            }
        };
        let rows: Vec<Vec<f32>> = (0..n_rows).map(|_| row()).collect();
        let queries: Vec<f32> = (0..4).flat_map(|_| row()).collect();
        for metric in [Metric::InnerProduct, Metric::Cosine, Metric::L2] {
            for row_type in [RowType::F32, RowType::F16, RowType::Bf16, RowType::Int8] {
                let path = folder.path().join("shard");
                let config = ShardConfig {
                    width,
                    metric,
                    row_type,
                    first_ordinal: 0,
                    sketches: SketchPolicy::Never,
                };
                let mut shard = ShardWriter::create(&path, config).unwrap();
                let mut memory = MemoryRows::new(width, metric, row_type, 0);
                for row in &rows {
                    shard.push(row).unwrap();
                    memory.push(row).unwrap();
                }
                shard.finish().unwrap();
                let shard = FlatShard::open(&path, Verify::Checksums).unwrap();
                assert_eq!(memory.n_bytes() as usize, n_rows * shard.stored(0).len());
                let odd: Bitmap = (0..n_rows as u32).filter(|n| n % 2 == 1).collect();
                for k in [0, 1, 10, n_rows] {
                    let params = SearchParams::default();
                    let all = shard.search(&queries, k, None, &params).unwrap();
                    assert_eq!(memory.search(&queries, k, &|_| true, None).unwrap(), all);
                    let some = shard.search(&queries, k, Some(&odd), &params).unwrap();
                    let passes = |ordinal| odd.contains(ordinal);
                    assert_eq!(memory.search(&queries, k, &passes, None).unwrap(), some);
                }
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_search_ends_where_its_deadline_passed() {
        let mut rows = MemoryRows::new(1, Metric::InnerProduct, RowType::F32, 0);
        rows.push(&[1.0]).unwrap();
        let find = |deadline| rows.search(&[1.0], 1, &|_| true, deadline);
        let now = Instant::now();
        assert_eq!(find(Some(now)), Err(SearchError::DeadlineExceeded));
        let later = now.checked_add(Duration::from_secs(3600));
        assert_eq!(find(later), find(None));
        assert_eq!(find(None).unwrap()[0].len(), 1);
    }

    #[test]
    fn what_a_shard_refuses_is_refused() {
        let mut rows = MemoryRows::new(2, Metric::Cosine, RowType::F16, 0);
        for (row, expected) in [
            (&[1.0][..], "width"),
            (&[0.0, 0.0], "zero"),
            (&[f32::NAN, 0.0], "finite"),
        ] {
            let error = rows.push(row).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(rows.is_empty());
        assert!(rows.search(&[0.0, 0.0], 1, &|_| true, None).is_err());
        let none = NoRows {
            width: 2,
            metric: Metric::Cosine,
        };
        let params = SearchParams::default();
        assert_eq!(
            none.search(&[1.0, 0.0], 1, None, &params).unwrap(),
            [vec![]]
        );
        assert!(none.search(&[0.0, 0.0], 1, None, &params).is_err());
    }
}
