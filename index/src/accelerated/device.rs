//! The rows of one device, and how they are searched.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use compute::Simd;
use compute::accelerator::{
    AcceleratorError, Argument, Buffer, Launch, MatrixType, Product, SharedAccelerator,
};
use half::{bf16, f16};

use super::limit::{LimitRule, RoundedQuery};
use super::part::Part;
use super::plan::{MemoryPlan, Stretch, steps};
use super::{AcceleratedConfig, MAX_K, SEARCH_KERNELS};
use crate::neighbor::Neighbor;
use crate::scan::upper_norm;
use crate::search::{Bitmap, SearchError, SearchParams};
use crate::shard::FlatShard;
use crate::sketch::{Coordinates, QuerySketch};
use crate::{Metric, RowType};

/// Threads in a block of every kernel.
const THREADS: u32 = 256;
/// Blocks that a multiprocessor gets of kernels that go round.
const BLOCKS: u32 = 8;
/// Shared memory that a block may have for queries: two blocks fit the smallest devices that are supported.
const MAX_SHARED_BYTES: usize = 48 << 10;
/// Queries that a scan takes at once, at most.
const SCANNED: usize = 16;
/// Keys that `keep_best` sorts, as in `search.cu`.
const SELECTED: usize = 2048;

/// Queries as the metric compares them.
pub(super) struct Queries<'a> {
    pub values: &'a [f32],
    pub width: usize,
    pub metric: Metric,
}

impl Queries<'_> {
    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// In parts of so many queries.
    pub fn chunks(&self, n: usize) -> impl Iterator<Item = Queries<'_>> {
        self.values
            .chunks(n * self.width)
            .map(|values| Queries { values, ..*self })
    }
}

pub(super) struct DeviceRows {
    device: SharedAccelerator,
    parts: Vec<Part>,
    config: AcceleratedConfig,
    /// One search at a time: the device is no faster with two.
    workspace: Mutex<Workspace>,
}

/// Memory of the device that searches need.
struct Workspace {
    /// Candidates, a key each.
    keys: Buffer,
    counts: Buffer,
    limits: Buffer,
    rules: Buffer,
    /// The best keys of each query, then how many of its rows were rescored, so that one copy brings both to the host.
    found: Buffer,
    queries: Buffer,
    /// The queries as matrix units or sketches take them, and what they were multiplied by.
    rounded: Buffer,
    scales: Buffer,
    products: Buffer,
    /// Bits of the rows that pass a filter.
    filter: Buffer,
}

/// Bytes of the buffers of a workspace, in their order.
fn workspace_bytes(config: &AcceleratedConfig, padded_width: usize, n_rows: usize) -> [usize; 10] {
    let n = config.max_queries;
    [
        config.candidate_bytes.min(8 * n * n_rows.max(1)),
        4 * n,
        4 * n,
        size_of::<LimitRule>() * n,
        8 * (MAX_K + 1) * n,
        4 * padded_width * n,
        (4 * padded_width + 16) * n,
        4 * n,
        4 * config.tile_rows.min(n_rows) * n,
        n_rows.div_ceil(32) * 4 + 4,
    ]
}

impl Workspace {
    fn new(device: &SharedAccelerator, bytes: [usize; 10]) -> Result<Self, AcceleratorError> {
        let buffer = |i: usize| Buffer::new(device, bytes[i]);
        Ok(Self {
            keys: buffer(0)?,
            counts: buffer(1)?,
            limits: buffer(2)?,
            rules: buffer(3)?,
            found: buffer(4)?,
            queries: buffer(5)?,
            rounded: buffer(6)?,
            scales: buffer(7)?,
            products: buffer(8)?,
            filter: buffer(9)?,
        })
    }
}

/// What the rows take on a device.
pub(super) fn memory_plan(
    shards: &[FlatShard],
    stretches: &[Stretch],
    config: &AcceleratedConfig,
) -> MemoryPlan {
    let mut plan = MemoryPlan::default();
    let (mut n_rows, mut padded_width) = (0, 0);
    for stretch in stretches {
        let shard = &shards[stretch.shard];
        plan.add(shard, stretch.rows.len());
        n_rows += stretch.rows.len();
        padded_width = padded_width.max(super::padded_width(shard));
    }
    // Every part's filter begins with a word of its own.
    let filtered = n_rows + 32 * stretches.len();
    let bytes = workspace_bytes(config, padded_width, filtered);
    plan.workspace = bytes.iter().sum::<usize>() as u64;
    plan
}

impl DeviceRows {
    /// Copies rows to the device, if all of them and what searches need have room there.
    pub fn load(
        device: &SharedAccelerator,
        shards: &[FlatShard],
        stretches: &[Stretch],
        config: &AcceleratedConfig,
    ) -> Result<Self, AcceleratorError> {
        device.load(&SEARCH_KERNELS)?;
        let plan = memory_plan(shards, stretches, config);
        let free = device.free_bytes()?;
        if plan.total() > free {
            let info = device.info();
            return Err(AcceleratorError::OutOfMemory {
                device: info.name.clone(),
                needed: plan.total(),
                free,
                total: info.total_bytes,
            });
        }
        let parts = stretches
            .iter()
            .map(|stretch| Part::load(device, &shards[stretch.shard], stretch))
            .collect::<Result<Vec<_>, _>>()?;
        let padded_width = parts.iter().map(Part::padded_width).max().unwrap_or(0);
        let n_filtered = parts.iter().map(|part| part.n_rows + 32).sum();
        let bytes = workspace_bytes(config, padded_width, n_filtered);
        Ok(Self {
            workspace: Mutex::new(Workspace::new(device, bytes)?),
            device: device.clone(),
            parts,
            config: *config,
        })
    }

    /// The `k` best rows of each query, best first, and how many rows were rescored; `k` is 1 to [`MAX_K`].
    pub fn search(
        &self,
        shards: &[FlatShard],
        queries: &Queries<'_>,
        k: usize,
        filter: Option<&Bitmap>,
        params: &SearchParams,
    ) -> Result<(Vec<Vec<Neighbor>>, u64), SearchError> {
        let workspace = self
            .workspace
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let filters = self.upload_filter(&workspace, filter)?;
        let (mut lists, mut n_rescored) = (Vec::new(), 0);
        for queries in queries.chunks(self.config.max_queries) {
            if params.is_late() {
                return Err(SearchError::DeadlineExceeded);
            }
            let n = queries.len();
            let search = Search {
                device: &self.device,
                workspace: &workspace,
                config: &self.config,
                capacity: (workspace.keys.n_bytes() / 8 / n).min(u32::MAX as usize),
                queries: &queries,
                k,
            };
            workspace.found.clear(0, 8 * (k + 1) * n)?;
            workspace.counts.clear(0, 4 * n)?;
            let (mut seen, mut padded) = (0, Vec::new());
            for (part, filter) in self.parts.iter().zip(&filters) {
                // Parts of one type of rows have the queries in common.
                if padded.len() != n * part.padded_width() {
                    padded = search.padded_queries(part);
                    workspace.queries.write(0, &bytes_of(&padded))?;
                }
                search.part((&shards[part.shard], part), &padded, *filter, seen)?;
                seen += part.n_rows;
            }
            let mut found = vec![0; 8 * (k + 1) * n];
            workspace.found.read(0, &mut found)?;
            let (best, counts) = found.split_at(8 * k * n);
            lists.extend(best.chunks_exact(8 * k).map(ranking));
            let (counts, _) = counts.as_chunks::<8>();
            n_rescored += counts.iter().map(|n| u64::from_le_bytes(*n)).sum::<u64>();
        }
        Ok((lists, n_rescored))
    }

    /// Where each part's bits are; 0 is no filter.
    fn upload_filter(
        &self,
        workspace: &Workspace,
        filter: Option<&Bitmap>,
    ) -> Result<Vec<u64>, AcceleratorError> {
        let Some(filter) = filter else {
            return Ok(vec![0; self.parts.len()]);
        };
        let mut words: Vec<u32> = Vec::new();
        let mut starts = Vec::new();
        for part in &self.parts {
            starts.push(workspace.filter.at(words.len() * 4));
            let first_word = words.len();
            words.resize(first_word + part.n_rows.div_ceil(32), 0);
            let last = part.first_ordinal + (part.n_rows as u32 - 1);
            for ordinal in filter.range(part.first_ordinal..=last) {
                let row = (ordinal - part.first_ordinal) as usize;
                words[first_word + row / 32] |= 1 << (row % 32);
            }
        }
        workspace.filter.write(0, &bytes_of(&words))?;
        Ok(starts)
    }
}

/// One batch of queries against the rows of a device.
struct Search<'a> {
    device: &'a SharedAccelerator,
    workspace: &'a Workspace,
    config: &'a AcceleratedConfig,
    /// Candidates that a query may have.
    capacity: usize,
    queries: &'a Queries<'a>,
    k: usize,
}

impl Search<'_> {
    /// Offers the rows of a part, after so many of others, to the queries as they are padded for it and on the device.
    fn part(
        &self,
        (shard, part): (&FlatShard, &Part),
        padded: &[f32],
        filter: u64,
        seen: usize,
    ) -> Result<(), AcceleratorError> {
        let scan = self.prepare(shard, part, padded)?;
        // The limits of this part's rules, from the best rows of the parts before.
        self.keep_best()?;
        for rows in steps(seen, part.n_rows, self.config.first_rows, self.capacity) {
            let rows = rows.start as u32..rows.end as u32;
            match &scan {
                FirstPass::Products(product) => self.products(part, product, rows, filter)?,
                FirstPass::Rows => self.rows(part, rows, filter)?,
                FirstPass::Heads => self.heads(shard, part, rows, filter)?,
            }
            self.rescore(part)?;
            self.keep_best()?;
        }
        Ok(())
    }

    /// The queries, padded as the part's rows are.
    fn padded_queries(&self, part: &Part) -> Vec<f32> {
        let (width, padded) = (self.queries.width, part.padded_width());
        let mut values = vec![0.0; self.queries.len() * padded];
        let queries = self.queries.values.chunks_exact(width);
        for (to, query) in values.chunks_exact_mut(padded).zip(queries) {
            to[..width].copy_from_slice(query);
        }
        values
    }

    /// Chooses the first pass over a part, and gives the device what it needs: many queries are for matrix units, few read as few
    /// bytes as there are.
    fn prepare(
        &self,
        shard: &FlatShard,
        part: &Part,
        padded: &[f32],
    ) -> Result<FirstPass, AcceleratorError> {
        let Queries { width, metric, .. } = *self.queries;
        let queries = || self.queries.values.chunks_exact(width);
        let operands = match part.row_type {
            RowType::F32 => Some(MatrixType::F32),
            RowType::F16 => Some(MatrixType::F16),
            RowType::Bf16 => Some(MatrixType::Bf16),
            RowType::Int8 => None,
        };
        let (pass, rules): (_, Vec<LimitRule>) = match operands {
            Some(operands) if self.queries.len() > SCANNED => {
                let (bytes, rounded) = round(operands, padded, part.padded_width());
                self.workspace.rounded.write(0, &bytes)?;
                let scales: Vec<f32> = rounded.iter().map(|query| query.scale as f32).collect();
                self.workspace.scales.write(0, &bytes_of(&scales))?;
                let rule = |query| LimitRule::of_products(metric, width, query, part.max_norm);
                let shape = (self.queries.len(), 0, part.padded_width());
                let product = Product::new(shape, operands, MatrixType::F32);
                (
                    FirstPass::Products(product),
                    rounded.iter().map(rule).collect(),
                )
            }
            _ if let (Some(sketches), true) = (shard.sketches(), part.heads.is_some()) => {
                let simd = Simd::detect();
                let mut coordinates = Coordinates::default();
                let projected =
                    sketches
                        .projection
                        .project(simd, self.queries.values, &mut coordinates);
                let sketched: Vec<QuerySketch> = projected
                    .map(|query| QuerySketch::new(simd, sketches, metric, query))
                    .collect();
                let codes = sketched.iter().flat_map(|query| &query.codes);
                let codes: Vec<u8> = codes.map(|code| code.cast_unsigned()).collect();
                let numbers = sketched.iter().flat_map(|query| {
                    let HeadQuery(bytes) = HeadQuery::of(query);
                    bytes
                });
                self.workspace.rounded.write(0, &codes)?;
                let at = head_queries_at(codes.len());
                self.workspace
                    .rounded
                    .write(at, &numbers.collect::<Vec<u8>>())?;
                (
                    FirstPass::Heads,
                    sketched.iter().map(QuerySketch::limit_rule).collect(),
                )
            }
            _ => {
                let values = 16 / super::plan::value_bytes(part.row_type);
                let chunks = part.row_bytes / 16;
                // A lane sums its chunks, then the lanes are added in five steps; a product is rounded once.
                let depth = chunks.div_ceil(32) * values + 6;
                let rule = |query| {
                    let norms = upper_norm(query) * part.max_norm;
                    LimitRule::of_sums(metric, width, depth, norms)
                };
                (FirstPass::Rows, queries().map(rule).collect())
            }
        };
        let bytes = rules.iter().flat_map(|rule| {
            let LimitRule {
                relative,
                absolute,
                shift,
                factor,
                slack,
            } = *rule;
            [relative, absolute, shift, factor, slack]
                .map(f64::to_le_bytes)
                .concat()
        });
        self.workspace.rules.write(0, &bytes.collect::<Vec<u8>>())?;
        Ok(pass)
    }

    /// Scans rows with a few queries at a time.
    fn rows(&self, part: &Part, rows: Range<u32>, filter: u64) -> Result<(), AcceleratorError> {
        let query_bytes = 4 * part.padded_width();
        let kernels = scan_kernels(part.row_type, self.queries.metric == Metric::L2);
        for group in self.groups(query_bytes) {
            let (kernel, at_once) = by_queries(kernels, group.len(), query_bytes);
            self.scan(
                kernel,
                (self.blocks(rows.len() as u64 * 8), 1),
                at_once * query_bytes,
                &[
                    part.rows.address().into(),
                    part.steps.as_ref().map_or(0, Buffer::address).into(),
                    (part.row_bytes as u32).into(),
                    rows.start.into(),
                    rows.end.into(),
                    self.workspace.queries.at(group.start * query_bytes).into(),
                    (group.len() as u32).into(),
                ],
                (group.start, filter),
            )?;
        }
        Ok(())
    }

    /// Scans the heads of sketches with a few queries at a time.
    fn heads(
        &self,
        shard: &FlatShard,
        part: &Part,
        rows: Range<u32>,
        filter: u64,
    ) -> Result<(), AcceleratorError> {
        let (Some(sketches), Some(heads)) = (shard.sketches(), &part.heads) else {
            unreachable!("`prepare` found them");
        };
        let layout = sketches.layout;
        let code_bytes = layout.n_groups() * 4;
        let numbers_at = head_queries_at(code_bytes * self.queries.len());
        for group in self.groups(code_bytes) {
            let (kernel, at_once) = by_queries(HEAD_KERNELS, group.len(), code_bytes);
            let rounded = &self.workspace.rounded;
            self.scan(
                kernel,
                (self.blocks(rows.len() as u64), 1),
                at_once * code_bytes,
                &[
                    heads.address().into(),
                    (layout.block_bytes() as u32).into(),
                    (layout.codes_at() as u32).into(),
                    (layout.n_groups() as u32).into(),
                    u32::from(layout.has_squares).into(),
                    rows.start.into(),
                    rows.end.into(),
                    rounded.at(group.start * code_bytes).into(),
                    rounded
                        .at(numbers_at + group.start * HEAD_QUERY_BYTES)
                        .into(),
                    (group.len() as u32).into(),
                ],
                (group.start, filter),
            )?;
        }
        Ok(())
    }

    /// Multiplies all queries with tiles of rows and filters the products, which stay in the device's cache.
    fn products(
        &self,
        part: &Part,
        product: &Product,
        rows: Range<u32>,
        filter: u64,
    ) -> Result<(), AcceleratorError> {
        let workspace = self.workspace;
        let half_squares = part.half_squares.as_ref().map_or(0, Buffer::address);
        for first in rows.clone().step_by(self.config.tile_rows) {
            let end = rows.end.min(first + self.config.tile_rows as u32);
            let product = Product {
                n: (end - first) as usize,
                ..*product
            };
            // SAFETY: the queries were rounded to this type, the rows are of it, and the products of a tile have room.
            unsafe {
                self.device.multiply(
                    &product,
                    workspace.rounded.address(),
                    part.rows.at(first as usize * part.row_bytes),
                    0,
                    workspace.products.address(),
                )?;
            }
            self.scan(
                "filter_products",
                ((end - first).div_ceil(THREADS), product.m as u32),
                0,
                &[
                    workspace.products.address().into(),
                    first.into(),
                    end.into(),
                    half_squares.into(),
                    workspace.scales.address().into(),
                ],
                (0, filter),
            )?;
        }
        Ok(())
    }

    /// Queues a kernel that appends candidates of a query and those after it; such kernels end with the same parameters.
    fn scan(
        &self,
        kernel: &'static str,
        grid: (u32, u32),
        shared_bytes: usize,
        own: &[Argument],
        (query, filter): (usize, u64),
    ) -> Result<(), AcceleratorError> {
        let [limits, counts, keys] = self.of_queries(query);
        let capacity = self.capacity as u32;
        let of_candidates: [Argument; 5] = [
            limits.into(),
            filter.into(),
            keys.into(),
            counts.into(),
            capacity.into(),
        ];
        self.launch(kernel, grid, shared_bytes, &[own, &of_candidates].concat())
    }

    /// Gives candidates their defined scores.
    fn rescore(&self, part: &Part) -> Result<(), AcceleratorError> {
        let [_, counts, keys] = self.of_queries(0);
        let n_queries = self.queries.len() as u32;
        let blocks = self.device.info().n_multiprocessors * BLOCKS;
        self.launch(
            rescore_kernel(part.row_type, self.queries.metric == Metric::L2),
            (blocks.div_ceil(n_queries), n_queries),
            0,
            &[
                part.rows.address().into(),
                part.steps.as_ref().map_or(0, Buffer::address).into(),
                (part.row_bytes as u32).into(),
                (self.queries.width as u32).into(),
                part.first_ordinal.into(),
                self.workspace.queries.address().into(),
                keys.into(),
                counts.into(),
                (self.capacity as u32).into(),
            ],
        )
    }

    /// Keeps the best of the candidates, and raises the limits.
    fn keep_best(&self) -> Result<(), AcceleratorError> {
        let [limits, counts, keys] = self.of_queries(0);
        self.launch(
            "keep_best",
            (self.queries.len() as u32, 1),
            8 * SELECTED,
            &[
                keys.into(),
                counts.into(),
                (self.capacity as u32).into(),
                self.workspace.found.address().into(),
                (self.k as u32).into(),
                self.workspace.rules.address().into(),
                limits.into(),
                self.workspace
                    .found
                    .at(8 * self.k * self.queries.len())
                    .into(),
            ],
        )
    }

    /// Where the limits, the numbers of candidates and the candidates of a query and those after it are.
    fn of_queries(&self, query: usize) -> [u64; 3] {
        let Workspace {
            limits,
            counts,
            keys,
            ..
        } = self.workspace;
        [
            limits.at(4 * query),
            counts.at(4 * query),
            keys.at(8 * self.capacity * query),
        ]
    }

    /// The queries in groups that a scan takes at once, when each has so many bytes.
    fn groups(&self, query_bytes: usize) -> impl Iterator<Item = Range<usize>> {
        let n = self.queries.len();
        let at_once = *SIZES
            .iter()
            .rev()
            .find(|&&size| size * query_bytes <= MAX_SHARED_BYTES)
            .unwrap_or(&1);
        (0..n)
            .step_by(at_once)
            .map(move |start| start..n.min(start + at_once))
    }

    /// Blocks for so many threads that would each have something to do.
    fn blocks(&self, n_threads: u64) -> u32 {
        let most = self.device.info().n_multiprocessors * BLOCKS;
        n_threads.div_ceil(THREADS.into()).clamp(1, most.into()) as u32
    }

    fn launch(
        &self,
        kernel: &'static str,
        grid: (u32, u32),
        shared_bytes: usize,
        arguments: &[Argument],
    ) -> Result<(), AcceleratorError> {
        let launch = Launch {
            kernel,
            grid,
            threads: THREADS,
            shared_bytes: shared_bytes as u32,
            arguments,
        };
        // SAFETY: each caller gives the kernel's parameters in their order; the buffers are as large as `workspace_bytes` and `Part::load`
        // made them, for no more rows and queries than those.
        unsafe { self.device.launch(&launch) }
    }
}

/// How a part is looked at first.
enum FirstPass {
    /// Products of matrices; the number of rows is each tile's.
    Products(Product),
    Rows,
    Heads,
}

/// Queries of the kernels that scan.
const SIZES: [usize; 3] = [1, 4, SCANNED];
const HEAD_KERNELS: [&str; 3] = ["scan_heads_1", "scan_heads_4", "scan_heads_16"];

/// The kernel for so many queries of so many bytes, and how many it takes: the next size that has room.
fn by_queries(
    kernels: [&'static str; 3],
    n_queries: usize,
    query_bytes: usize,
) -> (&'static str, usize) {
    let mut fitting = SIZES
        .iter()
        .zip(kernels)
        .filter(|(size, _)| **size >= n_queries);
    let (&size, kernel) = fitting.next().expect("groups are no larger");
    debug_assert!(size == 1 || size * query_bytes <= MAX_SHARED_BYTES);
    (kernel, size)
}

fn scan_kernels(row_type: RowType, is_l2: bool) -> [&'static str; 3] {
    match (row_type, is_l2) {
        (RowType::F32, false) => ["scan_f32_1", "scan_f32_4", "scan_f32_16"],
        (RowType::F16, false) => ["scan_f16_1", "scan_f16_4", "scan_f16_16"],
        (RowType::Bf16, false) => ["scan_bf16_1", "scan_bf16_4", "scan_bf16_16"],
        (RowType::Int8, false) => ["scan_int8_1", "scan_int8_4", "scan_int8_16"],
        (RowType::F32, true) => ["scan_f32_1_l2", "scan_f32_4_l2", "scan_f32_16_l2"],
        (RowType::F16, true) => ["scan_f16_1_l2", "scan_f16_4_l2", "scan_f16_16_l2"],
        (RowType::Bf16, true) => ["scan_bf16_1_l2", "scan_bf16_4_l2", "scan_bf16_16_l2"],
        (RowType::Int8, true) => ["scan_int8_1_l2", "scan_int8_4_l2", "scan_int8_16_l2"],
    }
}

fn rescore_kernel(row_type: RowType, is_l2: bool) -> &'static str {
    match (row_type, is_l2) {
        (RowType::F32, false) => "rescore_f32",
        (RowType::F16, false) => "rescore_f16",
        (RowType::Bf16, false) => "rescore_bf16",
        (RowType::Int8, false) => "rescore_int8",
        (RowType::F32, true) => "rescore_f32_l2",
        (RowType::F16, true) => "rescore_f16_l2",
        (RowType::Bf16, true) => "rescore_bf16_l2",
        (RowType::Int8, true) => "rescore_int8_l2",
    }
}

const HEAD_QUERY_BYTES: usize = 16;

/// Where the numbers of the queries are, after their codes.
fn head_queries_at(n_codes: usize) -> usize {
    n_codes.next_multiple_of(HEAD_QUERY_BYTES)
}

/// `HeadQuery` of `search.cu`.
struct HeadQuery([u8; HEAD_QUERY_BYTES]);

impl HeadQuery {
    fn of(query: &QuerySketch) -> Self {
        let mut bytes = [0; HEAD_QUERY_BYTES];
        bytes[..4].copy_from_slice(&query.start.to_le_bytes());
        bytes[4..8].copy_from_slice(&query.rest.to_le_bytes());
        bytes[8..12].copy_from_slice(&query.inverse.to_le_bytes());
        Self(bytes)
    }
}

/// Queries as matrix units take them: each multiplied by the power of two that brings its largest value to between 1 and 2, then
/// rounded to the type.
fn round(to: MatrixType, queries: &[f32], width: usize) -> (Vec<u8>, Vec<RoundedQuery>) {
    let mut bytes = Vec::with_capacity(queries.len() * to.bytes());
    let rounded = queries.chunks_exact(width).map(|query| {
        let largest = query
            .iter()
            .fold(0.0_f32, |largest, value| largest.max(value.abs()));
        // Beyond what f32 can express the query would be zero to the device, or infinite.
        let exponent = f64::from(largest).log2().floor().clamp(-120.0, 120.0);
        let scale = if largest > 0.0 {
            (-exponent).exp2()
        } else {
            1.0
        };
        let mut lost = 0.0;
        for &value in query {
            let exact = f64::from(value) * scale;
            let kept = match to {
                MatrixType::F32 => {
                    let kept = exact as f32;
                    bytes.extend(kept.to_le_bytes());
                    f64::from(kept)
                }
                MatrixType::F16 => {
                    let kept = f16::from_f64(exact);
                    bytes.extend(kept.to_le_bytes());
                    kept.to_f64()
                }
                MatrixType::Bf16 => {
                    let kept = bf16::from_f64(exact);
                    bytes.extend(kept.to_le_bytes());
                    kept.to_f64()
                }
            };
            lost += (kept - exact).powi(2);
        }
        RoundedQuery {
            scale,
            norm: upper_norm(query),
            lost: lost.sqrt() * (1.0 + 1.0 / f64::from(1 << 20)),
        }
    });
    let rounded = rounded.collect();
    (bytes, rounded)
}

/// The neighbours that keys say, which are sorted and end with zeros where there are fewer.
fn ranking(keys: &[u8]) -> Vec<Neighbor> {
    let (keys, _) = keys.as_chunks::<8>();
    let keys = keys.iter().map(|key| u64::from_le_bytes(*key));
    let neighbor = |key: u64| {
        let ordered = (key >> 32) as u32;
        let bits = if ordered >> 31 == 1 {
            ordered & 0x7fff_ffff
        } else {
            !ordered
        };
        Neighbor {
            ordinal: !(key as u32),
            score: f32::from_bits(bits),
        }
    };
    keys.take_while(|&key| key != 0).map(neighbor).collect()
}

/// The bytes of 32-bit numbers.
fn bytes_of<T: Copy + Into<Word>>(values: &[T]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|&value| {
        let Word(bytes) = value.into();
        bytes
    });
    bytes.collect()
}

struct Word([u8; 4]);

impl From<f32> for Word {
    fn from(value: f32) -> Self {
        Self(value.to_le_bytes())
    }
}

impl From<u32> for Word {
    fn from(value: u32) -> Self {
        Self(value.to_le_bytes())
    }
}
