//! The kernels of `attention.cu`, with their arguments.

#[cfg(test)]
mod tests;

use compute::accelerator::{Accelerator, AcceleratorError, Argument, Launch, MatrixType};

use crate::accelerated::number;
use crate::training::dropout::Mask;

/// Threads of a block.
const THREADS: u32 = 128;

/// Queries or keys of one text that a block takes, as `Tile` of the kernels has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// The text's first row.
    pub start: u32,
    /// Its tokens, which are its keys.
    pub length: u32,
    /// The first query or key of the tile.
    pub first: u32,
    pub n: u32,
    /// The text's queries: its tokens, or its first one only.
    pub n_queries: u32,
    /// Row of the context for the first of them.
    pub target: u32,
}

impl Tile {
    pub fn words(self) -> [u32; 6] {
        [
            self.start,
            self.length,
            self.first,
            self.n,
            self.n_queries,
            self.target,
        ]
    }
}

/// What the blocks of kernels take of some texts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    pub queries: Vec<Tile>,
    pub keys: Vec<Tile>,
}

impl Tiles {
    /// Cuts packed texts of these lengths into tiles of at most `n_rows`. With `first_only`, the context is that of each text's
    /// first query, text by text.
    pub fn new(lengths: &[usize], first_only: bool, n_rows: usize) -> Self {
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        let (mut start, mut target) = (0, 0);
        for &length in lengths {
            let n_queries = if first_only { length.min(1) } else { length };
            for (tiles, n) in [(&mut queries, n_queries), (&mut keys, length)] {
                tiles.extend((0..n).step_by(n_rows).map(|first| Tile {
                    start: start as u32,
                    length: length as u32,
                    first: first as u32,
                    n: (n - first).min(n_rows) as u32,
                    n_queries: n_queries as u32,
                    target: target as u32,
                }));
            }
            start += length;
            target += n_queries;
        }
        Self { queries, keys }
    }
}

/// Tiles on a device.
#[derive(Clone, Copy)]
pub(super) struct TilesAt {
    pub address: u64,
    pub n: usize,
}

/// The names of a kernel: plain ones for heads of up to 32, 64 and 128 columns, and in bf16 on tensor cores for 32 and 64.
struct Names {
    f32: [&'static str; 3],
    bf16: [&'static str; 3],
    tiles: [&'static str; 2],
}

const FORWARD: Names = Names {
    f32: [
        "attend_train_f32_32",
        "attend_train_f32_64",
        "attend_train_f32_128",
    ],
    bf16: [
        "attend_train_bf16_32",
        "attend_train_bf16_64",
        "attend_train_bf16_128",
    ],
    tiles: ["attend_train_tiles_bf16_32", "attend_train_tiles_bf16_64"],
};
const BACKWARD_QUERIES: Names = Names {
    f32: [
        "attend_queries_f32_32",
        "attend_queries_f32_64",
        "attend_queries_f32_128",
    ],
    bf16: [
        "attend_queries_bf16_32",
        "attend_queries_bf16_64",
        "attend_queries_bf16_128",
    ],
    tiles: [
        "attend_queries_tiles_bf16_32",
        "attend_queries_tiles_bf16_64",
    ],
};
const BACKWARD_KEYS: Names = Names {
    f32: [
        "attend_keys_f32_32",
        "attend_keys_f32_64",
        "attend_keys_f32_128",
    ],
    bf16: [
        "attend_keys_bf16_32",
        "attend_keys_bf16_64",
        "attend_keys_bf16_128",
    ],
    tiles: ["attend_keys_tiles_bf16_32", "attend_keys_tiles_bf16_64"],
};

/// The heads of a layer, which decide what its kernels are.
///
/// # Panics
/// For all that name a kernel: when the type is f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub n: usize,
    /// Columns of each, a multiple of 8 up to 128.
    pub d: usize,
    /// Type of queries, keys, values, context and their gradients.
    pub of: MatrixType,
}

impl Heads {
    fn on_tensor_cores(self) -> bool {
        matches!(self.d, 32 | 64) && self.of == MatrixType::Bf16
    }

    /// Queries or keys that a tile has at most.
    pub fn tile_rows(self) -> usize {
        if self.on_tensor_cores() { 64 } else { 16 }
    }

    fn kernel(self, names: &Names) -> &'static str {
        let by_width = self.by_type(names.f32, names.bf16);
        match (self.on_tensor_cores(), self.d) {
            (true, 32) => names.tiles[0],
            (true, _) => names.tiles[1],
            (_, ..=32) => by_width[0],
            (_, 33..=64) => by_width[1],
            _ => by_width[2],
        }
    }

    fn by_type<T>(self, f32: T, bf16: T) -> T {
        match self.of {
            MatrixType::F32 => f32,
            MatrixType::Bf16 => bf16,
            MatrixType::F16 => panic!("training is in f32 or bf16"),
        }
    }
}

/// The attention of one layer on a device that has loaded the module.
///
/// # Safety
/// For all that launch: addresses are those of as many values of the right type as the shapes say, multiples of 16 where they
/// are of rows, and tiles are those of [`Tiles`] for the same texts and [`Heads::tile_rows`]. T is the number of tokens, H that
/// of all columns.
pub(super) struct Attention<'a> {
    pub device: &'a dyn Accelerator,
    pub heads: Heads,
    /// K, the rows of the context.
    pub n_kept: usize,
    /// Dropout of the weights; the number of a row of them is that of the query's token in the pass.
    pub mask: Mask,
    /// Queries, keys and values with their biases, (T, 3 H).
    pub projected: u64,
    /// ln Σ eˢ by head and row of the context, (heads, K): the forward writes it.
    pub log_sums: u64,
}

/// What the backward reads.
#[derive(Clone, Copy)]
pub(super) struct GradientAt {
    /// Gradient of the context, (K, H).
    pub context: u64,
    /// What [`Attention::delta`] wrote.
    pub deltas: u64,
}

impl Attention<'_> {
    /// `dropout(softmax(Q Kᵀ / √d)) V`, (K, H), for tiles of queries.
    ///
    /// # Safety
    /// See [`Attention`].
    pub unsafe fn forward(&self, tiles: TilesAt, context: u64) -> Result<(), AcceleratorError> {
        let (d, rows) = (self.heads.d, self.heads.tile_rows());
        let shared_bytes = if self.heads.on_tensor_cores() {
            2 * rows * (d + 8) * size_of::<u16>()
        } else {
            const KEYS: usize = 32;
            (rows * d + KEYS * (2 * d + 1) + rows * KEYS) * size_of::<f32>()
        };
        let arguments = [context.into(), self.log_sums.into()];
        // SAFETY: the caller's.
        unsafe { self.launch(&FORWARD, tiles, shared_bytes, &arguments) }
    }

    /// What the softmax takes off the gradients of its scores: Σ dC · C by head and row of the context, (heads, K).
    ///
    /// # Safety
    /// See [`Attention`].
    pub unsafe fn delta(&self, context: u64, at: GradientAt) -> Result<(), AcceleratorError> {
        let Heads { n, d, .. } = self.heads;
        let n_threads = 8 * self.n_kept * n;
        let launch = Launch {
            kernel: self.heads.by_type("attend_delta_f32", "attend_delta_bf16"),
            grid: (n_threads.div_ceil(THREADS as usize) as u32, 1),
            threads: THREADS,
            shared_bytes: 0,
            arguments: &[
                at.context.into(),
                context.into(),
                number(self.n_kept),
                number(n),
                number(d),
                at.deltas.into(),
            ],
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// The gradients of the queries of tiles, in (T, H); rows that are no query's stay as they are.
    ///
    /// # Safety
    /// See [`Attention`].
    pub unsafe fn backward_queries(
        &self,
        tiles: TilesAt,
        from: GradientAt,
        d_queries: u64,
    ) -> Result<(), AcceleratorError> {
        // SAFETY: the caller's.
        unsafe { self.backward(&BACKWARD_QUERIES, tiles, from, &[d_queries]) }
    }

    /// The gradients of the keys and values of tiles, each in (T, H).
    ///
    /// # Safety
    /// See [`Attention`].
    pub unsafe fn backward_keys(
        &self,
        tiles: TilesAt,
        from: GradientAt,
        (d_keys, d_values): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        // SAFETY: the caller's.
        unsafe { self.backward(&BACKWARD_KEYS, tiles, from, &[d_keys, d_values]) }
    }

    unsafe fn backward(
        &self,
        names: &Names,
        tiles: TilesAt,
        from: GradientAt,
        gradients: &[u64],
    ) -> Result<(), AcceleratorError> {
        let (d, rows, n_sums) = (self.heads.d, self.heads.tile_rows(), gradients.len());
        let shared_bytes = if self.heads.on_tensor_cores() {
            const QUERY_BYTES: usize = 16;
            2 * rows * (d + 8) * size_of::<u16>() + (n_sums - 1) * rows * QUERY_BYTES
        } else {
            const OTHERS: usize = 32;
            (2 * rows * d + 2 * OTHERS * (d + 1) + n_sums * rows * OTHERS) * size_of::<f32>()
        };
        let mut arguments = vec![
            from.context.into(),
            self.log_sums.into(),
            from.deltas.into(),
        ];
        arguments.extend(gradients.iter().map(|&address| Argument::from(address)));
        // SAFETY: the caller's.
        unsafe { self.launch(names, tiles, shared_bytes, &arguments) }
    }

    /// Launches a kernel for tiles, with the arguments that all have and those that are its own.
    unsafe fn launch(
        &self,
        names: &Names,
        tiles: TilesAt,
        shared_bytes: usize,
        own: &[Argument],
    ) -> Result<(), AcceleratorError> {
        let Heads { n, d, .. } = self.heads;
        let mut arguments = vec![
            self.projected.into(),
            tiles.address.into(),
            number(self.n_kept),
            number(d),
            (1.0 / (d as f32).sqrt()).into(),
        ];
        arguments.extend(self.mask.arguments());
        arguments.extend(own);
        let launch = Launch {
            kernel: self.heads.kernel(names),
            grid: (tiles.n as u32, n as u32),
            threads: THREADS,
            shared_bytes: shared_bytes as u32,
            arguments: &arguments,
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }
}
