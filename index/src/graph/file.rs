//! A graph's file.

use std::ops::Range;
use std::path::Path;

use compute::Simd;
use rayon::prelude::*;

use super::build::{self, Links, layer_from};
use super::codes::{Codes, Line, blank, bytes};
use super::encoder::{Encoder, QueryEncoder, product};
use super::kernel::Kernel;
use super::layer::Layer;
use super::pool::MAX_NODES;
use super::principal::{Directions, MAX_WIDTH, lines_of};
use super::repair::repair;
use super::walk::Space;
use super::{GraphSummary, HnswConfig, Progress};
use crate::rows::values;
use crate::section::{KnownSection, Need, SectionFile, SectionWriter, Verify, u32_at, u64_at};
use crate::shard::checked_section;
use crate::{Bitmap, FlatShard, Metric, OpenError, RepairError, VectorIndex, WriteError};

const GRAPH: KnownSection = known("graph");
const DIRECTIONS: KnownSection = known("graph_directions");
const CODES: KnownSection = known("graph_codes");
const LINKS: KnownSection = known("graph_links");
const OFFSETS: KnownSection = known("graph_offsets");
const UPPER_LINKS: KnownSection = known("graph_upper_links");
const DELETED: KnownSection = known("graph_deleted");
const GRAPH_BYTES: u64 = 56;

const fn known(name: &'static str) -> KnownSection {
    KnownSection { name, version: 1 }
}

/// M at least and at most: with 1 a node leads nowhere, and beyond the other end a walk compares everything.
const M: std::ops::RangeInclusive<usize> = 2..=256;

/// Rows coded in one go.
const CHUNK_ROWS: usize = 64;

/// The graph of a shard, memory-mapped.
#[derive(Debug)]
pub(super) struct GraphFile {
    file: SectionFile,
    directions: Directions,
    pub queries: QueryEncoder,
    pub config: HnswConfig,
    pub entry: u32,
    /// Rows that are not found, by their number in the shard; no link leads to them.
    pub deleted: Bitmap,
    n_nodes: usize,
    codes: Range<usize>,
    links: Range<usize>,
    offsets: Range<usize>,
    upper_links: Range<usize>,
}

/// Builds the graph of a shard into a file of its own.
pub(super) fn write(
    path: &Path,
    shard: &FlatShard,
    config: &HnswConfig,
    progress: &Progress<'_>,
) -> Result<GraphSummary, WriteError> {
    let (n, width) = (shard.len(), shard.width());
    if n > MAX_NODES {
        return Err(WriteError::GraphRows {
            n_rows: n,
            max: MAX_NODES,
        });
    }
    check(width, config)?;
    let directions = if n == 0 {
        None
    } else {
        Directions::learn(shard.rows())
    };
    let directions = directions.unwrap_or_else(|| Directions::axes(width));
    let lines = encode(shard, &directions, config);
    let links = if n == 0 {
        Links::none()
    } else {
        let space = Space {
            codes: Codes::new(&lines, lines_of(directions.len())),
            kernel: Kernel::of(Simd::detect()),
        };
        build::build(space, config, progress)?
    };
    let content = Content {
        directions: &directions,
        codes: bytes(&lines),
        links: &links,
        deleted: &Bitmap::new(),
        config,
    };
    content.write(path, shard)
}

/// Checks that rows of a width can have a graph with these parameters.
pub(super) fn check(width: usize, config: &HnswConfig) -> Result<(), WriteError> {
    if width > MAX_WIDTH {
        return Err(WriteError::Width {
            width,
            max: MAX_WIDTH,
        });
    }
    if !M.contains(&config.m) {
        return Err(WriteError::Links {
            m: config.m,
            min: *M.start(),
            max: *M.end(),
        });
    }
    Ok(())
}

/// The records of a shard's rows.
fn encode(shard: &FlatShard, directions: &Directions, config: &HnswConfig) -> Vec<Line> {
    let per_record = lines_of(directions.len());
    let mut lines = blank(shard.len() * per_record);
    let (simd, metric) = (Simd::detect(), shard.metric());
    let rows = shard.rows();
    let squared_norm = |i| product(&rows.row(i), &rows.row(i));
    let squared_radius = match metric {
        Metric::InnerProduct => (0..rows.len()).map(squared_norm).fold(0.0, f64::max),
        Metric::Cosine | Metric::L2 => 0.0,
    };
    let encoder = || Encoder::new(simd, directions, metric, squared_radius);
    let encode = |encoder: &mut Encoder<'_>, (i, records): (usize, &mut [Line])| {
        let first = i * CHUNK_ROWS;
        encoder.encode(rows, first..first + records.len() / per_record, records);
    };
    if config.threads.is_some_and(|threads| threads.get() == 1) {
        let chunks = lines.chunks_mut(CHUNK_ROWS * per_record).enumerate();
        let mut encoder = encoder();
        chunks.for_each(|chunk| encode(&mut encoder, chunk));
    } else {
        let chunks = lines.par_chunks_mut(CHUNK_ROWS * per_record).enumerate();
        chunks.for_each_init(encoder, encode);
    }
    lines
}

/// What a graph's file holds.
pub(super) struct Content<'a> {
    pub directions: &'a Directions,
    pub codes: &'a [u8],
    pub links: &'a Links,
    pub deleted: &'a Bitmap,
    pub config: &'a HnswConfig,
}

impl Content<'_> {
    pub fn write(&self, path: &Path, shard: &FlatShard) -> Result<GraphSummary, WriteError> {
        let mut file = SectionWriter::create(path)?;
        let mut section = |section: KnownSection, content: &[&[u8]]| {
            file.begin(section.name, section.version, Need::Required)?;
            content.iter().try_for_each(|bytes| file.write(bytes))
        };
        let numbers = [
            metric_number(shard.metric()),
            shard.width() as u32,
            shard.first_ordinal(),
            self.directions.len() as u32,
            self.config.m as u32,
            self.links.entry,
        ];
        let longs = [
            shard.len() as u64,
            shard.checksum(),
            self.config.ef_construction as u64,
            self.config.seed,
        ];
        let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
        let header: Vec<u8> = numbers
            .chain(longs.iter().flat_map(|number| number.to_le_bytes()))
            .collect();
        section(GRAPH, &[&header])?;
        let Directions { center, basis } = self.directions;
        section(DIRECTIONS, &[raw(center), raw(basis)])?;
        section(CODES, &[self.codes])?;
        section(LINKS, &[raw(&self.links.base)])?;
        section(OFFSETS, &[raw(&self.links.offsets)])?;
        section(UPPER_LINKS, &[raw(&self.links.upper)])?;
        let deleted: Vec<u32> = self.deleted.iter().collect();
        section(DELETED, &[raw(&deleted)])?;
        Ok(GraphSummary {
            n_nodes: shard.len() as u64 - self.deleted.len(),
            n_bytes: file.finish()?,
        })
    }
}

fn metric_number(metric: Metric) -> u32 {
    match metric {
        Metric::InnerProduct => 0,
        Metric::Cosine => 1,
        Metric::L2 => 2,
    }
}

/// The bytes of numbers.
fn raw<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: these types are four bytes each and nothing else.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

trait Number {}
impl Number for f32 {}
impl Number for u32 {}

impl GraphFile {
    /// Opens the graph of a shard.
    pub fn open(path: &Path, shard: &FlatShard, verify: Verify) -> Result<Self, OpenError> {
        let known = [
            GRAPH,
            DIRECTIONS,
            CODES,
            LINKS,
            OFFSETS,
            UPPER_LINKS,
            DELETED,
        ];
        let file = SectionFile::open(path, &known, verify)?;
        let header = &file.bytes()[checked_section(&file, GRAPH, GRAPH_BYTES)?];
        let [metric, width, first_ordinal, n_directions, m, entry] =
            std::array::from_fn(|i| u32_at(header, i * 4));
        let [n, checksum, ef_construction, seed] =
            std::array::from_fn(|i| u64_at(header, 24 + i * 8));
        let bad = |field, found| OpenError::GraphField {
            path: path.to_owned(),
            field,
            found,
        };
        let of_shard = [
            (
                "metric",
                u64::from(metric),
                metric_number(shard.metric()).into(),
            ),
            ("width", width.into(), shard.width() as u64),
            (
                "first ordinal",
                first_ordinal.into(),
                shard.first_ordinal().into(),
            ),
            ("number of rows", n, shard.len() as u64),
            ("checksum", checksum, shard.checksum()),
        ];
        for (field, found, expected) in of_shard {
            if found != expected {
                return Err(OpenError::GraphShard {
                    path: path.to_owned(),
                    shard: shard.path().to_owned(),
                    field,
                    expected,
                    found,
                });
            }
        }
        if n > MAX_NODES as u64 {
            return Err(bad("number of rows", n));
        }
        if !(1..=width).contains(&n_directions) || width as usize > MAX_WIDTH {
            return Err(bad("number of directions", n_directions.into()));
        }
        if !M.contains(&(m as usize)) {
            return Err(bad("m", m.into()));
        }
        if u64::from(entry) >= n.max(1) {
            return Err(bad("entry", entry.into()));
        }
        let (n, width, m) = (n as usize, width as usize, m as usize);
        let per_record = lines_of(n_directions as usize);
        let n_floats = (1 + n_directions as usize) * width;
        let section = |section, n_bytes: usize| checked_section(&file, section, n_bytes as u64);
        let directions = section(DIRECTIONS, n_floats * 4)?;
        let codes = section(CODES, n * per_record * size_of::<Line>())?;
        let links = section(LINKS, n * m * 8)?;
        let offsets = section(OFFSETS, (n + 1) * 4)?;
        let n_upper = {
            let offsets = numbers(&file.bytes()[offsets.clone()]);
            let falls = offsets.windows(2).position(|pair| pair[1] < pair[0]);
            if let Some(node) = falls {
                return Err(bad("offset, of node", node as u64));
            }
            if offsets[0] != 0 {
                return Err(bad("first offset", offsets[0].into()));
            }
            offsets[n] as usize
        };
        let upper_links = section(UPPER_LINKS, n_upper * m * 4)?;
        let deleted = file.section(DELETED.name)?;
        if !deleted.len().is_multiple_of(4) {
            return Err(bad("number of bytes of deleted rows", deleted.len() as u64));
        }
        let is_sorted = numbers(&file.bytes()[deleted.clone()]).is_sorted_by(|a, b| a < b);
        let deleted: Bitmap = numbers(&file.bytes()[deleted]).iter().copied().collect();
        if let Some(last) = deleted
            .max()
            .filter(|&last| last as usize >= n || !is_sorted)
        {
            return Err(bad("deleted row", last.into()));
        }
        let (center, basis) = values(&file.bytes()[directions]).split_at(width);
        let directions = Directions {
            center: center.to_vec(),
            basis: basis.to_vec(),
        };
        let config = HnswConfig {
            m,
            ef_construction: ef_construction as usize,
            seed,
            threads: None,
        };
        let graph = Self {
            file,
            queries: QueryEncoder::new(&directions),
            directions,
            config,
            entry,
            deleted,
            n_nodes: n,
            codes,
            links,
            offsets,
            upper_links,
        };
        if verify == Verify::Checksums {
            graph.check_links()?;
        }
        Ok(graph)
    }

    /// Refuses a link that leads nowhere, or follows a slot without one.
    ///
    /// Walks do not need it: what is no node ends a list.
    fn check_links(&self) -> Result<(), OpenError> {
        let n_nodes = self.n_nodes;
        for (layer, links) in [(0, &self.links), (1, &self.upper_links)] {
            let n_slots = self.layer(layer).n_slots;
            for list in numbers(&self.file.bytes()[links.clone()]).chunks_exact(n_slots) {
                let n_links = list.partition_point(|&link| link != super::layer::NO_LINK);
                let wrong = list[..n_links]
                    .iter()
                    .find(|&&link| link as usize >= n_nodes);
                let wrong = wrong.or(list[n_links..]
                    .iter()
                    .find(|&&link| link != super::layer::NO_LINK));
                if let Some(&found) = wrong {
                    return Err(OpenError::GraphField {
                        path: self.file.path().to_owned(),
                        field: "link",
                        found: found.into(),
                    });
                }
            }
        }
        Ok(())
    }

    pub fn n_bytes(&self) -> usize {
        self.file.bytes().len()
    }

    pub fn n_nodes(&self) -> usize {
        self.n_nodes
    }

    /// Where the nodes are.
    pub fn space(&self, simd: Simd) -> Space<'_> {
        // SAFETY: every 64 bytes are a line.
        let (before, lines, after) = unsafe { self.code_bytes().align_to::<Line>() };
        assert!(
            before.is_empty() && after.is_empty(),
            "sections of lines are aligned and whole"
        );
        Space {
            codes: Codes::new(lines, lines_of(self.directions.len())),
            kernel: Kernel::of(simd),
        }
    }

    pub fn code_bytes(&self) -> &[u8] {
        &self.file.bytes()[self.codes.clone()]
    }

    /// The links of a layer.
    pub fn layer(&self, layer: usize) -> Layer<'_, u32> {
        let [base, upper, offsets] = [&self.links, &self.upper_links, &self.offsets]
            .map(|section| numbers(&self.file.bytes()[section.clone()]));
        layer_from(base, upper, offsets, self.config.m, layer)
    }

    /// The layers above 0 that a node reaches.
    pub fn top(&self, node: u32) -> usize {
        let offsets = numbers(&self.file.bytes()[self.offsets.clone()]);
        (offsets[node as usize + 1] - offsets[node as usize]) as usize
    }

    /// Leads links around these rows of the shard and writes the graph anew.
    pub fn repair(&mut self, shard: &FlatShard, deleted: &Bitmap) -> Result<(), RepairError> {
        let space = self.space(Simd::detect());
        let content = Content {
            directions: &self.directions,
            codes: self.code_bytes(),
            links: &repair(space, &self.config, self.copied_links(), deleted),
            deleted,
            config: &self.config,
        };
        content.write(self.file.path(), shard)?;
        *self = Self::open(self.file.path(), shard, Verify::Header)?;
        Ok(())
    }

    fn copied_links(&self) -> Links {
        let [base, upper, offsets] = [&self.links, &self.upper_links, &self.offsets]
            .map(|section| numbers(&self.file.bytes()[section.clone()]).to_vec());
        Links {
            base,
            upper,
            offsets,
            entry: self.entry,
        }
    }
}

/// The `u32` in a section of them.
fn numbers(section: &[u8]) -> &[u32] {
    // SAFETY: every four bytes are some `u32`.
    let (before, numbers, after) = unsafe { section.align_to() };
    assert!(
        before.is_empty() && after.is_empty(),
        "sections of numbers are aligned and whole"
    );
    numbers
}
