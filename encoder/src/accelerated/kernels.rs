//! The kernels of `encoder.cu`, with their arguments.

use compute::accelerator::{
    Accelerator, AcceleratorError, Argument, Epilogue, Launch, MatrixType, Module, Product,
};

use crate::architecture::Activation;
use crate::directory::OutputActivation;
use crate::options::Pooling;

/// Threads of a block.
const THREADS: u32 = 128;
/// Warps of a block.
const WARPS: u32 = THREADS / 32;
/// Shared memory that every device gives a block without being asked.
const SHARED_BYTES: usize = 48 << 10;
/// Columns of a row that a warp normalizes in shared memory.
pub(crate) const MOST_COLUMNS: usize = SHARED_BYTES / size_of::<f32>();
/// Columns of a head.
pub(super) const MOST_HEAD_COLUMNS: usize = 128;
/// What widths are multiples of, so that rows are read in 16 bytes.
pub(crate) const COLUMN_UNIT: usize = 8;
/// Blocks that are enough for any device where threads go on to the next values.
const MOST_BLOCKS: usize = 1 << 16;

pub(super) static MODULE: Module = Module {
    name: "encoder",
    source: concat!(include_str!("stored.cuh"), include_str!("encoder.cu")),
    kernels: &[
        "embed_f32",
        "embed_f16",
        "embed_bf16",
        "add_norm_f32",
        "add_norm_f16",
        "add_norm_bf16",
        "activate_f32",
        "activate_f16",
        "activate_bf16",
        "attend_f32_32",
        "attend_f32_64",
        "attend_f32_128",
        "attend_f16_32",
        "attend_f16_64",
        "attend_f16_128",
        "attend_bf16_32",
        "attend_bf16_64",
        "attend_bf16_128",
        "attend_tiles_f16_32",
        "attend_tiles_f16_64",
        "attend_tiles_bf16_32",
        "attend_tiles_bf16_64",
        "pool",
        "classify",
    ],
};

/// Queries of one text that a block of an attention kernel takes, as `Tile` of the kernels has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// The text's first row.
    pub start: u32,
    /// Its tokens.
    pub length: u32,
    /// The first query among them.
    pub first: u32,
    pub n_queries: u32,
    /// Row of the context for the first query.
    pub target: u32,
}

impl Tile {
    pub const WORDS: usize = 5;

    pub fn words(self) -> [u32; Self::WORDS] {
        [
            self.start,
            self.length,
            self.first,
            self.n_queries,
            self.target,
        ]
    }
}

/// Attention kernels are of two kinds: on tensor cores for heads of 32 and 64 columns of 16 bits, plain for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heads {
    pub n: usize,
    /// Columns of each.
    pub d: usize,
    /// Type of queries, keys and values.
    pub of: MatrixType,
}

impl Heads {
    fn on_tensor_cores(self) -> bool {
        matches!(self.d, 32 | 64) && self.of != MatrixType::F32
    }

    /// Queries that a tile has at most.
    pub fn tile_queries(self) -> usize {
        if self.on_tensor_cores() { 64 } else { 16 }
    }

    fn kernel(self) -> &'static str {
        match (self.of, self.on_tensor_cores(), self.d) {
            (MatrixType::F16, true, 32) => "attend_tiles_f16_32",
            (MatrixType::F16, true, _) => "attend_tiles_f16_64",
            (_, true, 32) => "attend_tiles_bf16_32",
            (_, true, _) => "attend_tiles_bf16_64",
            (MatrixType::F32, _, ..=32) => "attend_f32_32",
            (MatrixType::F32, _, ..=64) => "attend_f32_64",
            (MatrixType::F32, ..) => "attend_f32_128",
            (MatrixType::F16, _, ..=32) => "attend_f16_32",
            (MatrixType::F16, _, ..=64) => "attend_f16_64",
            (MatrixType::F16, ..) => "attend_f16_128",
            (MatrixType::Bf16, _, ..=32) => "attend_bf16_32",
            (MatrixType::Bf16, _, ..=64) => "attend_bf16_64",
            (MatrixType::Bf16, ..) => "attend_bf16_128",
        }
    }

    /// What a block of the kernel lays out in shared memory.
    fn shared_bytes(self) -> usize {
        let d = self.d;
        if self.on_tensor_cores() {
            const KEYS: usize = 64;
            (KEYS * (d + 8) + d * (KEYS + 8)) * self.of.bytes()
        } else {
            const KEYS: usize = 32;
            const QUERIES: usize = 16;
            (QUERIES * d + KEYS * (d + 1) + KEYS * d + QUERIES * KEYS) * size_of::<f32>()
        }
    }
}

/// Addresses of a normalization's scale and shift.
#[derive(Clone, Copy)]
pub(super) struct NormAt {
    pub weight: u64,
    pub bias: u64,
    pub epsilon: f32,
}

/// Addresses of what embeddings are made from; no types are 0.
pub(super) struct EmbeddingsAt {
    pub ids: u64,
    pub positions: u64,
    pub types: u64,
    pub token_table: u64,
    pub position_table: u64,
    pub type_table: u64,
}

/// Addresses of what attention reads and writes; no relative positions are 0.
pub(super) struct AttentionAt {
    pub projected: u64,
    pub bias: u64,
    pub tiles: u64,
    pub relative: u64,
    pub context: u64,
}

/// Addresses of what a layer's product becomes the sum of, and of the sum in the type of operands: 0 where that is f32, and in
/// place of the product.
pub(super) struct ResidualAt {
    pub product: u64,
    pub bias: u64,
    pub residual: u64,
    /// Row of the residual by row of the product, or 0.
    pub sources: u64,
    pub operand: u64,
}

/// Launches kernels on a device that has loaded [`MODULE`].
///
/// # Safety
/// For all that launch: addresses are those of as many values of the right type as the kernel's shapes say, multiples of 16
/// where they are of rows, and ids are rows of their tables.
pub(super) struct Kernels<'a> {
    pub device: &'a dyn Accelerator,
    /// Type of operands.
    pub of: MatrixType,
}

impl Kernels<'_> {
    /// Token, position and type rows, summed and normalized to `hidden` and `operand`, (rows, width).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn embed(
        &self,
        from: &EmbeddingsAt,
        (n_rows, width): (usize, usize),
        norm: NormAt,
        (hidden, operand): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let arguments = [
            from.ids.into(),
            from.positions.into(),
            from.types.into(),
            number(n_rows),
            number(width),
            from.token_table.into(),
            from.position_table.into(),
            from.type_table.into(),
            norm.weight.into(),
            norm.bias.into(),
            norm.epsilon.into(),
            hidden.into(),
            operand.into(),
        ];
        let kernel = self.by_type("embed_f32", "embed_f16", "embed_bf16");
        // SAFETY: the caller's.
        unsafe { self.normalize(kernel, (n_rows, width), &arguments) }
    }

    /// `norm(product + bias + residual)` in place of the product, (rows, width).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn add_norm(
        &self,
        at: &ResidualAt,
        (n_rows, width): (usize, usize),
        norm: NormAt,
    ) -> Result<(), AcceleratorError> {
        let arguments = [
            at.product.into(),
            at.bias.into(),
            at.residual.into(),
            at.sources.into(),
            number(n_rows),
            number(width),
            norm.weight.into(),
            norm.bias.into(),
            norm.epsilon.into(),
            at.operand.into(),
        ];
        let kernel = self.by_type("add_norm_f32", "add_norm_f16", "add_norm_bf16");
        // SAFETY: the caller's.
        unsafe { self.normalize(kernel, (n_rows, width), &arguments) }
    }

    unsafe fn normalize(
        &self,
        kernel: &'static str,
        (n_rows, width): (usize, usize),
        arguments: &[Argument],
    ) -> Result<(), AcceleratorError> {
        let n_warps = (MOST_COLUMNS / width).clamp(1, WARPS as usize);
        let launch = Launch {
            kernel,
            grid: (n_rows.div_ceil(n_warps) as u32, 1),
            threads: 32 * n_warps as u32,
            shared_bytes: (n_warps * width * size_of::<f32>()) as u32,
            arguments,
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// `activation(rows + bias)` in place, (rows, width).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn activate(
        &self,
        rows: u64,
        bias: u64,
        (n_rows, width): (usize, usize),
        function: Function,
    ) -> Result<(), AcceleratorError> {
        let n_chunks = n_rows * width * self.of.bytes() / 16;
        let n_blocks = n_chunks.div_ceil(THREADS as usize);
        let launch = Launch {
            kernel: self.by_type("activate_f32", "activate_f16", "activate_bf16"),
            grid: (n_blocks.min(MOST_BLOCKS) as u32, 1),
            threads: THREADS,
            shared_bytes: 0,
            arguments: &[
                rows.into(),
                bias.into(),
                (function as u32).into(),
                number(n_chunks),
                number(width),
            ],
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// `softmax(Q Kᵀ / √d + relative) V` for the queries of the tiles.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn attend(
        &self,
        heads: Heads,
        n_tiles: usize,
        at: &AttentionAt,
        n_positions: usize,
    ) -> Result<(), AcceleratorError> {
        let launch = Launch {
            kernel: heads.kernel(),
            grid: (n_tiles as u32, heads.n as u32),
            threads: THREADS,
            shared_bytes: heads.shared_bytes() as u32,
            arguments: &[
                at.projected.into(),
                at.bias.into(),
                at.tiles.into(),
                at.relative.into(),
                number(n_positions),
                number(heads.d),
                (1.0 / (heads.d as f32).sqrt()).into(),
                at.context.into(),
            ],
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// Pools the rows of each text to `width` columns of a row of `out`, which has `stride`.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn pool(
        &self,
        (hidden, starts, skips): (u64, u64, u64),
        (n_texts, width): (usize, usize),
        pooling: Pooling,
        (out, stride): (u64, usize),
    ) -> Result<(), AcceleratorError> {
        let launch = Launch {
            kernel: "pool",
            grid: (n_texts as u32, 1),
            threads: width.next_multiple_of(32).min(512) as u32,
            shared_bytes: 0,
            arguments: &[
                hidden.into(),
                starts.into(),
                skips.into(),
                pooling_number(pooling).into(),
                number(width),
                out.into(),
                number(stride),
            ],
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// `rows · Wᵀ + b` in f32 for few outputs, (rows, labels).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn classify(
        &self,
        (rows, weight, bias): (u64, u64, u64),
        (n_rows, width): (usize, usize),
        n_labels: usize,
        logits: u64,
    ) -> Result<(), AcceleratorError> {
        let launch = Launch {
            kernel: "classify",
            grid: ((n_rows * n_labels).div_ceil(WARPS as usize) as u32, 1),
            threads: THREADS,
            shared_bytes: 0,
            arguments: &[
                rows.into(),
                weight.into(),
                bias.into(),
                number(n_rows),
                number(width),
                number(n_labels),
                logits.into(),
            ],
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// `out = rows · Wᵀ` of (rows, `k`) and (`n`, `k`), which are of the type of operands.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn multiply(
        &self,
        n_rows: usize,
        (n, k): (usize, usize),
        (rows, weight): (u64, u64),
        (out, result): (u64, MatrixType),
    ) -> Result<(), AcceleratorError> {
        let product = Product::new((n_rows, n, k), self.of, result);
        // SAFETY: the caller's.
        unsafe { self.device.multiply(&product, rows, weight, 0, out) }
    }

    /// `out = function(rows · Wᵀ + b)` of (rows, `k`) and (`n`, `k`), all of them but the bias of the type of operands. The product
    /// ends in the function where it can, else another kernel follows it; the bias is of [`Function::bias_type`].
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn multiply_activated(
        &self,
        n_rows: usize,
        (n, k): (usize, usize),
        (rows, weight, bias): (u64, u64, u64),
        (out, function): (u64, Function),
    ) -> Result<(), AcceleratorError> {
        let Some(epilogue) = function.epilogue() else {
            // SAFETY: the caller's.
            return unsafe {
                self.multiply(n_rows, (n, k), (rows, weight), (out, self.of))?;
                self.activate(out, bias, (n_rows, n), function)
            };
        };
        let product = Product {
            epilogue,
            ..Product::new((n_rows, n, k), self.of, self.of)
        };
        // SAFETY: the caller's.
        unsafe { self.device.multiply(&product, rows, weight, bias, out) }
    }

    fn by_type(&self, f32: &'static str, f16: &'static str, bf16: &'static str) -> &'static str {
        match self.of {
            MatrixType::F32 => f32,
            MatrixType::F16 => f16,
            MatrixType::Bf16 => bf16,
        }
    }
}

pub(crate) fn number(value: usize) -> Argument {
    Argument::U32(u32::try_from(value).expect("sizes of a group fit in 32 bits"))
}

/// Functions by the numbers that `activated` of the kernels has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Gelu = 0,
    GeluTanh = 1,
    Relu = 2,
    Silu = 3,
    Tanh = 4,
}

impl From<Activation> for Function {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Relu => Self::Relu,
            Activation::Silu => Self::Silu,
        }
    }
}

impl Function {
    /// What a product ends in to have applied it, where there is such a thing: no library has the exact GELU.
    fn epilogue(self) -> Option<Epilogue> {
        match self {
            Self::GeluTanh => Some(Epilogue::BiasGelu),
            Self::Relu => Some(Epilogue::BiasRelu),
            Self::Gelu | Self::Silu | Self::Tanh => None,
        }
    }

    /// The type of the bias before it, in a layer whose operands are of a type.
    pub fn bias_type(self, of: MatrixType) -> MatrixType {
        match self.epilogue() {
            Some(_) => of,
            None => MatrixType::F32,
        }
    }

    /// The activation of a head's layer, where kernels have it.
    pub fn of_head(activation: OutputActivation) -> Option<Self> {
        match activation {
            OutputActivation::Tanh => Some(Self::Tanh),
            OutputActivation::Relu => Some(Self::Relu),
            OutputActivation::Gelu => Some(Self::Gelu),
            OutputActivation::Identity | OutputActivation::Sigmoid => None,
        }
    }
}

/// Poolings as the kernel numbers them.
fn pooling_number(pooling: Pooling) -> u32 {
    match pooling {
        Pooling::Cls | Pooling::Decoder => 0,
        Pooling::Last => 1,
        Pooling::Max => 2,
        Pooling::Mean => 3,
        Pooling::MeanSqrtLength => 4,
        Pooling::WeightedMean => 5,
    }
}
