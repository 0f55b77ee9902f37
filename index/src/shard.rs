//! A shard: a contiguous range of ordinals and their rows, in one file.
//!
//! Sections of a shard's file, version 1 each, all required:
//!
//! | name          | content                                                                                         |
//! |---------------|-------------------------------------------------------------------------------------------------|
//! | `rows`        | the rows, row-major, of the row type                                                            |
//! | `block_norms` | for each block of 256 rows a `f32` that no row of the block exceeds in length                   |
//! | `shard`       | `u32` metric (0 inner product, 1 cosine, 2 L2), row type (0 `f32`, 1 `f16`, 2 `bf16`, 3 `int8`), width, first ordinal; `u64` number of rows |

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::metric::normalize;
use crate::rows::{RowType, Rows, values};
use crate::scan::{self, upper_norm};
use crate::section::{KnownSection, Need, SectionFile, SectionWriter, Verify, u32_at, u64_at};
use crate::sketch::{self, Sketches};
use crate::{
    Bitmap, Capabilities, Device, Metric, Neighbor, OpenError, SearchError, SearchParams,
    VectorIndex, Work, WriteError,
};

/// The widest row. The error bound of the first pass is proven up to here, far above any encoder.
pub const MAX_WIDTH: usize = 1 << 16;

/// Rows in a block, the unit in which rows are searched and their norms are bounded. Part of the format.
pub(crate) const BLOCK_ROWS: usize = 256;

const ROWS: KnownSection = KnownSection {
    name: "rows",
    version: 1,
};
const BLOCK_NORMS: KnownSection = KnownSection {
    name: "block_norms",
    version: 1,
};
const SHARD: KnownSection = KnownSection {
    name: "shard",
    version: 1,
};
const SHARD_BYTES: usize = 24;

/// What a shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardConfig {
    /// Values in a row, 1 to [`MAX_WIDTH`].
    pub width: usize,
    /// What a score is.
    pub metric: Metric,
    /// How values are stored.
    pub row_type: RowType,
    /// Ordinal of the first row.
    pub first_ordinal: u32,
    /// Whether the shard gets sketches.
    #[serde(default)]
    pub sketches: SketchPolicy,
}

/// Which shards get sketches, by which exact search leaves most rows unread. Answers do not depend on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SketchPolicy {
    /// Shards of so many rows that reading all of them takes a while.
    #[default]
    Large,
    /// Every shard.
    Always,
    /// None: rows are cheaper to write, dearer to search.
    Never,
}

impl SketchPolicy {
    /// Whether a shard of so many rows gets sketches.
    pub fn applies(self, n_rows: u64) -> bool {
        match self {
            Self::Large => n_rows >= sketch::MIN_SKETCHED_ROWS,
            Self::Always => n_rows > 0,
            Self::Never => false,
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSummary {
    /// Number of rows.
    pub n_rows: u64,
    /// Length of the file.
    pub n_bytes: u64,
}

/// Writes the file of a shard row by row.
///
/// Memory: a buffer of 1 MiB, one row, and 4 bytes for every 256 rows. The file appears under its name in
/// [`Self::finish`]; see [`SectionWriter`].
pub struct ShardWriter {
    config: ShardConfig,
    sections: SectionWriter,
    n_rows: u64,
    block_norms: Vec<f32>,
    /// The row being written, as stored.
    row: Vec<f32>,
    bytes: Vec<u8>,
}

impl ShardWriter {
    /// Starts the shard that will be at `path`.
    ///
    /// # Errors
    /// [`WriteError::Width`]; [`WriteError::Write`].
    pub fn create(path: &Path, config: ShardConfig) -> Result<Self, WriteError> {
        if !(1..=MAX_WIDTH).contains(&config.width) {
            return Err(WriteError::Width {
                width: config.width,
                max: MAX_WIDTH,
            });
        }
        let mut sections = SectionWriter::create(path)?;
        sections.begin(ROWS.name, ROWS.version, Need::Required)?;
        Ok(Self {
            config,
            sections,
            n_rows: 0,
            block_norms: Vec::new(),
            row: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Appends a row; under [`Metric::Cosine`] it is normalized first.
    ///
    /// # Errors
    /// The row is refused by its ordinal when its width is wrong, when it is not finite, when it is zero under cosine,
    /// or when no ordinal is left. The shard is then as it was before, so a caller may skip the row.
    pub fn push(&mut self, row: &[f32]) -> Result<(), WriteError> {
        let ordinal = self.next_ordinal()?;
        let ShardConfig {
            width,
            metric,
            row_type,
            ..
        } = self.config;
        let (values, bytes) = (&mut self.row, &mut self.bytes);
        prepare_row(width, metric, row_type, ordinal, row, values, bytes)?;
        match self.write()? {
            None => Ok(()),
            Some(dimension) => Err(WriteError::TooLarge {
                ordinal,
                dimension,
                value: self.row[dimension],
                row_type: row_type.as_str(),
            }),
        }
    }

    /// Appends a row as [`FlatShard::stored`] gives it, of a shard with the same width, metric and type of rows.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_stored(&mut self, row: &[u8]) -> Result<(), WriteError> {
        let ordinal = self.next_ordinal()?;
        let ShardConfig {
            row_type, width, ..
        } = self.config;
        if row.len() != row_type.row_bytes(width) {
            return Err(WriteError::RowWidth {
                ordinal,
                expected: width,
                found: row.len() * width / row_type.row_bytes(width),
            });
        }
        self.bytes.clear();
        self.bytes.extend_from_slice(row);
        match self.write()? {
            None => Ok(()),
            Some(dimension) => Err(WriteError::NotFinite { ordinal, dimension }),
        }
    }

    fn next_ordinal(&self) -> Result<u32, WriteError> {
        u32::try_from(u64::from(self.config.first_ordinal) + self.n_rows)
            .map_err(|_| WriteError::TooManyRows)
    }

    /// Writes the bytes that are ready; returns a dimension that is not finite, and then writes nothing.
    fn write(&mut self) -> Result<Option<usize>, WriteError> {
        let ShardConfig {
            row_type, width, ..
        } = self.config;
        let stored = Rows {
            row_type,
            width,
            bytes: &self.bytes,
        }
        .row(0);
        if let Some(dimension) = stored.iter().position(|value| !value.is_finite()) {
            return Ok(Some(dimension));
        }
        self.sections.write(&self.bytes)?;

        let norm = (upper_norm(&stored) as f32).next_up(); // rounded up
        match self.block_norms.last_mut() {
            Some(largest) if !self.n_rows.is_multiple_of(BLOCK_ROWS as u64) => {
                *largest = largest.max(norm)
            }
            _ => self.block_norms.push(norm),
        }
        self.n_rows += 1;
        Ok(None)
    }

    /// Completes the shard, makes it durable and gives it its name.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn finish(mut self) -> Result<ShardSummary, WriteError> {
        let ShardConfig {
            row_type,
            width,
            metric,
            ..
        } = self.config;
        if self.config.sketches.applies(self.n_rows) {
            let rows = self.sections.map_section()?;
            let rows = Rows {
                row_type,
                width,
                bytes: rows.bytes(),
            };
            sketch::write(&mut self.sections, rows, metric)?;
        }
        self.sections
            .begin(BLOCK_NORMS.name, BLOCK_NORMS.version, Need::Required)?;
        for norm in &self.block_norms {
            self.sections.write(&norm.to_le_bytes())?;
        }
        self.sections
            .begin(SHARD.name, SHARD.version, Need::Required)?;
        let metric: u32 = match self.config.metric {
            Metric::InnerProduct => 0,
            Metric::Cosine => 1,
            Metric::L2 => 2,
        };
        for number in [
            metric,
            row_type.code(),
            self.config.width as u32,
            self.config.first_ordinal,
        ] {
            self.sections.write(&number.to_le_bytes())?;
        }
        self.sections.write(&self.n_rows.to_le_bytes())?;
        Ok(ShardSummary {
            n_rows: self.n_rows,
            n_bytes: self.sections.finish()?,
        })
    }
}

/// Checks a row and puts it into `values` as it is compared and into `bytes` as it is stored.
pub(crate) fn prepare_row(
    width: usize,
    metric: Metric,
    row_type: RowType,
    ordinal: u32,
    row: &[f32],
    values: &mut Vec<f32>,
    bytes: &mut Vec<u8>,
) -> Result<(), WriteError> {
    if row.len() != width {
        return Err(WriteError::RowWidth {
            ordinal,
            expected: width,
            found: row.len(),
        });
    }
    if let Some(dimension) = row.iter().position(|value| !value.is_finite()) {
        return Err(WriteError::NotFinite { ordinal, dimension });
    }
    values.clear();
    values.extend_from_slice(row);
    if metric == Metric::Cosine && normalize(values) == 0.0 {
        return Err(WriteError::ZeroRow { ordinal });
    }
    bytes.clear();
    row_type.encode(values, bytes);
    Ok(())
}

/// A shard open for exact search, memory-mapped.
#[derive(Debug)]
pub struct FlatShard {
    file: SectionFile,
    config: ShardConfig,
    n_rows: usize,
    /// Where the sections are in the file.
    rows: Range<usize>,
    block_norms: Range<usize>,
    sketches: Option<Sketches>,
}

impl FlatShard {
    /// Opens the shard at `path`.
    ///
    /// # Errors
    /// [`OpenError`] names what is damaged or not understood. With [`Verify::Checksums`] that is every changed or
    /// missing byte.
    pub fn open(path: &Path, verify: Verify) -> Result<Self, OpenError> {
        let known = [
            ROWS,
            BLOCK_NORMS,
            SHARD,
            sketch::SKETCH,
            sketch::PROJECTION,
            sketch::HEADS,
            sketch::TAILS,
        ];
        let file = SectionFile::open(path, &known, verify)?;
        let (mut config, n_rows) = read_config(&file)?;
        let row_bytes = config.row_type.row_bytes(config.width);
        let rows = checked_section(&file, ROWS, n_rows * row_bytes as u64)?;
        let block_norms =
            checked_section(&file, BLOCK_NORMS, n_rows.div_ceil(BLOCK_ROWS as u64) * 4)?;
        let sketches = Sketches::open(&file, &config, n_rows as usize)?;
        if sketches.is_some() {
            config.sketches = SketchPolicy::Always;
        }
        Ok(Self {
            file,
            config,
            n_rows: n_rows as usize,
            rows,
            block_norms,
            sketches,
        })
    }

    /// Where the shard is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// What the shard holds.
    pub fn config(&self) -> &ShardConfig {
        &self.config
    }

    /// Ordinal of the first row.
    pub fn first_ordinal(&self) -> u32 {
        self.config.first_ordinal
    }

    /// One past the ordinal of the last row.
    pub(crate) fn end_ordinal(&self) -> u64 {
        u64::from(self.config.first_ordinal) + self.n_rows as u64
    }

    /// What identifies the file's content: the checksum in its header, which covers those of all sections.
    pub(crate) fn checksum(&self) -> u64 {
        self.file.checksum()
    }

    /// A stored row, counted from 0 in this shard; under cosine it is normalized.
    ///
    /// # Panics
    /// When `i` is not below [`VectorIndex::len`].
    pub fn row(&self, i: usize) -> Cow<'_, [f32]> {
        assert!(i < self.n_rows, "row {i} of {}", self.n_rows);
        self.rows().row(i)
    }

    /// The bytes of a row, counted from 0 in this shard, for [`ShardWriter::push_stored`].
    ///
    /// # Panics
    /// When `i` is not below [`VectorIndex::len`].
    pub fn stored(&self, i: usize) -> &[u8] {
        assert!(i < self.n_rows, "row {i} of {}", self.n_rows);
        self.rows().stored(i)
    }

    /// All rows as they are stored.
    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows {
            row_type: self.config.row_type,
            width: self.config.width,
            bytes: &self.file.bytes()[self.rows.clone()],
        }
    }

    /// The sketches, if the shard has any.
    pub(crate) fn sketches(&self) -> Option<&Sketches> {
        self.sketches.as_ref()
    }

    /// The heads of rows that begin with a block of them.
    pub(crate) fn heads(&self, sketches: &Sketches, rows: Range<usize>) -> &[u8] {
        let stride = sketches.layout.block_bytes();
        let blocks = rows.start / sketch::LANES * stride..rows.end.div_ceil(sketch::LANES) * stride;
        &self.file.bytes()[sketches.heads.clone()][blocks]
    }

    /// The tail of a row.
    pub(crate) fn tail(&self, sketches: &Sketches, i: usize) -> &[u8] {
        let stride = sketches.layout.tail_bytes();
        &self.file.bytes()[sketches.tails.clone()][i * stride..][..stride]
    }

    /// A bound on the length of the rows of a block.
    pub(crate) fn block_norm(&self, block: usize) -> f32 {
        values::<f32>(&self.file.bytes()[self.block_norms.clone()])[block]
    }

    /// [`VectorIndex::search`], and what it read.
    ///
    /// # Errors
    /// As there.
    pub fn search_counted(
        &self,
        queries: &[f32],
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<(Vec<Vec<Neighbor>>, Work), SearchError> {
        scan::search(std::slice::from_ref(self), queries, k, filter, params)
    }
}

impl VectorIndex for FlatShard {
    fn len(&self) -> usize {
        self.n_rows
    }

    fn width(&self) -> usize {
        self.config.width
    }

    fn metric(&self) -> Metric {
        self.config.metric
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
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<Vec<Vec<Neighbor>>, SearchError> {
        Ok(self.search_counted(queries, k, filter, params)?.0)
    }
}

/// Reads the section `shard`. Afterwards all ordinals are within `u32`.
fn read_config(file: &SectionFile) -> Result<(ShardConfig, u64), OpenError> {
    let bytes = &file.bytes()[checked_section(file, SHARD, SHARD_BYTES as u64)?];
    let bad = |field, found| OpenError::ShardField {
        path: file.path().to_owned(),
        field,
        found,
    };
    let metric = match u32_at(bytes, 0) {
        0 => Metric::InnerProduct,
        1 => Metric::Cosine,
        2 => Metric::L2,
        found => return Err(bad("metric", found.into())),
    };
    let row_type = RowType::from_code(u32_at(bytes, 4));
    let row_type = row_type.ok_or_else(|| bad("row type", u32_at(bytes, 4).into()))?;
    let (width, first_ordinal, n_rows) = (u32_at(bytes, 8), u32_at(bytes, 12), u64_at(bytes, 16));
    if !(1..=MAX_WIDTH).contains(&(width as usize)) {
        return Err(bad("width", width.into()));
    }
    if n_rows > (1 << 32) - u64::from(first_ordinal) {
        return Err(bad("number of rows", n_rows));
    }
    Ok((
        ShardConfig {
            width: width as usize,
            metric,
            row_type,
            first_ordinal,
            sketches: SketchPolicy::Never,
        },
        n_rows,
    ))
}

/// Where a section is, if it has the length that the shape of the shard asks for.
pub(crate) fn checked_section(
    file: &SectionFile,
    section: KnownSection,
    expected: u64,
) -> Result<Range<usize>, OpenError> {
    let range = file.section(section.name)?;
    let found = range.len() as u64;
    if found != expected {
        let (path, section) = (file.path().to_owned(), section.name.to_owned());
        return Err(OpenError::SectionLength {
            path,
            section,
            expected,
            found,
        });
    }
    Ok(range)
}
