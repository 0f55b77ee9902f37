//! The kernels of `training.cu`, with their arguments.

use std::sync::atomic::{AtomicU64, Ordering};

use compute::accelerator::{
    Accelerator, AcceleratorError, Argument, Launch, MatrixType, Product, Transposed,
};

use crate::accelerated::{Function, MOST_COLUMNS, number};
use crate::training::dropout::Mask;
use crate::training::function::AdamWStep;

/// Threads of most blocks.
const THREADS: u32 = 128;
/// Threads of blocks that add up in shared memory.
const SUMMING_THREADS: u32 = 256;
/// Blocks that are enough for any device where threads go on to the next values.
const MOST_BLOCKS: usize = 1 << 16;
/// Rows that a block adds up.
const ROWS_OF_BLOCK: usize = 64;
/// Partial sums that [`Kernels::sum_squares`] leaves.
pub(super) const SQUARES: usize = 64;

/// Addresses of a normalization's parameters, and of what its backward needs: x̂ of every row, and its scale.
#[derive(Clone, Copy)]
pub(super) struct NormAt {
    pub weight: u64,
    pub bias: u64,
    pub epsilon: f32,
    pub normalized: u64,
    pub scales: u64,
}

/// Addresses of ids by token, and of the tables; no types are 0.
#[derive(Clone, Copy)]
pub(super) struct TablesAt {
    pub ids: [u64; 3],
    pub tables: [u64; 3],
}

/// Addresses of rows by the table's row that they belong to.
#[derive(Clone, Copy)]
pub(super) struct OrderAt {
    /// Rows of the table, each once.
    pub ids: u64,
    /// Where those of each begin in `order`, and the end.
    pub starts: u64,
    pub order: u64,
    pub n: usize,
}

/// Launches kernels on a device that has loaded [`super::MODULE`].
///
/// # Safety
/// For all that launch: addresses are those of as many values of the right type as the shapes say, and multiples of 16 where they are
/// of rows; ids are rows of their tables.
pub(super) struct Kernels<'a> {
    pub device: &'a dyn Accelerator,
    /// Type of operands.
    pub of: MatrixType,
    /// Floating-point operations of matrix products so far.
    pub operations: &'a AtomicU64,
}

impl Kernels<'_> {
    /// Token, position and type rows, summed, normalized and masked to `hidden` and `operand`, (rows, width).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn embed(
        &self,
        from: &TablesAt,
        (n_rows, width): (usize, usize),
        norm: NormAt,
        mask: Mask,
        (hidden, operand): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let mut arguments: Vec<Argument> = from.ids.map(Argument::from).to_vec();
        arguments.extend([number(n_rows), number(width)]);
        arguments.extend(from.tables.map(Argument::from));
        arguments.extend([norm.weight, norm.bias].map(Argument::from));
        arguments.push(norm.epsilon.into());
        arguments.extend(mask.arguments());
        arguments.extend([hidden, norm.normalized, norm.scales, operand].map(Argument::from));
        let kernel = self.by_type("train_embed_f32", "train_embed_bf16");
        // SAFETY: the caller's.
        unsafe { self.by_warps(kernel, (n_rows, width), width, &arguments) }
    }

    /// `norm(mask(product + added) + residual)` in place of the product and as `operand`, (rows, width). Row r belongs to row `sources[r]`
    /// of the pass, and to row `rows[r]` of the residual; 0 is row r.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn add_norm(
        &self,
        (product, added): (u64, u64),
        (mask, sources): (Mask, u64),
        (residual, rows): (u64, u64),
        (n_rows, width): (usize, usize),
        norm: NormAt,
        operand: u64,
    ) -> Result<(), AcceleratorError> {
        let mut arguments: Vec<Argument> = vec![product.into(), added.into()];
        arguments.extend(mask.arguments());
        arguments.extend([sources, residual, rows].map(Argument::from));
        arguments.extend([number(n_rows), number(width)]);
        arguments.extend([norm.weight, norm.bias].map(Argument::from));
        arguments.push(norm.epsilon.into());
        arguments.extend([norm.normalized, norm.scales, operand].map(Argument::from));
        let kernel = self.by_type("train_add_norm_f32", "train_add_norm_bf16");
        // SAFETY: the caller's.
        unsafe { self.by_warps(kernel, (n_rows, width), width, &arguments) }
    }

    /// The gradient of a normalization's input in place of that of its result, and times the mask as `operand`, unless that is 0.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn norm_backward(
        &self,
        gradient: u64,
        norm: NormAt,
        (n_rows, width): (usize, usize),
        mask: Mask,
        (sources, operand): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let mut arguments: Vec<Argument> = [gradient, norm.normalized, norm.scales, norm.weight]
            .map(Argument::from)
            .to_vec();
        arguments.extend([number(n_rows), number(width)]);
        arguments.extend(mask.arguments());
        arguments.extend([sources, operand].map(Argument::from));
        let kernel = self.by_type("norm_backward_f32", "norm_backward_bf16");
        // SAFETY: the caller's.
        unsafe { self.by_warps(kernel, (n_rows, width), 0, &arguments) }
    }

    /// A warp takes a row, of which `shared` values are in shared memory.
    unsafe fn by_warps(
        &self,
        kernel: &'static str,
        (n_rows, width): (usize, usize),
        shared: usize,
        arguments: &[Argument],
    ) -> Result<(), AcceleratorError> {
        let n_warps = (MOST_COLUMNS / width).clamp(1, THREADS as usize / 32);
        let launch = Launch {
            kernel,
            grid: (n_rows.div_ceil(n_warps) as u32, 1),
            threads: 32 * n_warps as u32,
            shared_bytes: (n_warps * shared * size_of::<f32>()) as u32,
            arguments,
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// Adds a bias to rows in place; `activated` gets the activation of the sums, unless it is 0.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn add_bias(
        &self,
        (rows, bias): (u64, u64),
        (n_rows, width): (usize, usize),
        function: Function,
        activated: u64,
    ) -> Result<(), AcceleratorError> {
        let n_chunks = self.chunks(n_rows * width);
        let arguments = [
            rows.into(),
            bias.into(),
            (function as u32).into(),
            number(n_chunks),
            number(width),
            activated.into(),
        ];
        let kernel = self.by_type("add_bias_f32", "add_bias_bf16");
        // SAFETY: the caller's.
        unsafe { self.by_value(kernel, n_chunks, &arguments) }
    }

    /// Multiplies gradients by the slopes at `inner` in place; `activated` gets the activation, unless it is 0.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn activation_backward(
        &self,
        (inner, gradient): (u64, u64),
        n_values: usize,
        function: Function,
        activated: u64,
    ) -> Result<(), AcceleratorError> {
        let n_chunks = self.chunks(n_values);
        let arguments = [
            inner.into(),
            gradient.into(),
            (function as u32).into(),
            number(n_chunks),
            activated.into(),
        ];
        let kernel = self.by_type("activation_backward_f32", "activation_backward_bf16");
        // SAFETY: the caller's.
        unsafe { self.by_value(kernel, n_chunks, &arguments) }
    }

    /// Groups of 16 bytes of operands.
    fn chunks(&self, n_values: usize) -> usize {
        n_values * self.of.bytes() / 16
    }

    /// A thread takes a value, or a few.
    unsafe fn by_value(
        &self,
        kernel: &'static str,
        n: usize,
        arguments: &[Argument],
    ) -> Result<(), AcceleratorError> {
        let n_blocks = n.div_ceil(SUMMING_THREADS as usize).clamp(1, MOST_BLOCKS);
        let launch = Launch {
            kernel,
            grid: (n_blocks as u32, 1),
            threads: SUMMING_THREADS,
            shared_bytes: 0,
            arguments,
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// A block takes a row.
    unsafe fn by_block(
        &self,
        kernel: &'static str,
        (n_rows, threads): (usize, u32),
        arguments: &[Argument],
    ) -> Result<(), AcceleratorError> {
        let launch = Launch {
            kernel,
            grid: (n_rows as u32, 1),
            threads,
            shared_bytes: 0,
            arguments,
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// Values of the partial sums of so many rows.
    pub fn partial_values((n_rows, width): (usize, usize)) -> usize {
        n_rows.div_ceil(ROWS_OF_BLOCK) * width
    }

    /// `sums += Σ over rows`, of rows of the type `rows_of`, times those of `others` in f32 unless that is 0. `partial` has room for
    /// [`Self::partial_values`].
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn add_columns(
        &self,
        (rows, rows_of): (u64, MatrixType),
        others: u64,
        (n_rows, width): (usize, usize),
        partial: u64,
        sums: u64,
    ) -> Result<(), AcceleratorError> {
        let n_blocks = n_rows.div_ceil(ROWS_OF_BLOCK);
        let n_columns = width.div_ceil(THREADS as usize) as u32;
        let kernel = match rows_of {
            MatrixType::F32 => "sum_columns_f32",
            _ => "sum_columns_bf16",
        };
        // Blocks in y are few enough for a launch up to 4 million rows.
        let launch = Launch {
            kernel,
            grid: (n_columns, n_blocks as u32),
            threads: THREADS,
            shared_bytes: 0,
            arguments: &[
                rows.into(),
                others.into(),
                number(n_rows),
                number(width),
                number(ROWS_OF_BLOCK),
                partial.into(),
            ],
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch)? };
        let launch = Launch {
            kernel: "add_partial",
            grid: (n_columns, 1),
            threads: THREADS,
            shared_bytes: 0,
            arguments: &[partial.into(), number(n_blocks), number(width), sums.into()],
        };
        // SAFETY: the caller's.
        unsafe { self.device.launch(&launch) }
    }

    /// Rounds values to the type of operands.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn store(&self, values: u64, n: usize, stored: u64) -> Result<(), AcceleratorError> {
        let kernel = self.by_type("store_f32", "store_bf16");
        let arguments = [values.into(), (n as u64).into(), stored.into()];
        // SAFETY: the caller's.
        unsafe { self.by_value(kernel, n, &arguments) }
    }

    /// `sums += values`.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn add_values(
        &self,
        values: u64,
        n: usize,
        sums: u64,
    ) -> Result<(), AcceleratorError> {
        let arguments = [values.into(), (n as u64).into(), sums.into()];
        // SAFETY: the caller's.
        unsafe { self.by_value("add_values", n, &arguments) }
    }

    /// Drops elements of f32 rows in place.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn drop_rows(
        &self,
        rows: u64,
        (n_rows, width): (usize, usize),
        mask: Mask,
    ) -> Result<(), AcceleratorError> {
        if mask.is_none() {
            return Ok(());
        }
        let mut arguments: Vec<Argument> = vec![rows.into(), number(width)];
        arguments.extend(mask.arguments());
        // SAFETY: the caller's.
        unsafe { self.by_block("drop_rows", (n_rows, THREADS), &arguments) }
    }

    /// Copies rows of a table, (ids, width).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn gather_rows(
        &self,
        (ids, n): (u64, usize),
        width: usize,
        (table, rows): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let arguments = [ids.into(), number(width), table.into(), rows.into()];
        // SAFETY: the caller's.
        unsafe { self.by_block("gather_rows", (n, THREADS), &arguments) }
    }

    /// Adds rows to those of a table.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn add_rows(
        &self,
        at: OrderAt,
        width: usize,
        (rows, table): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let arguments = [
            at.ids.into(),
            at.starts.into(),
            at.order.into(),
            number(width),
            rows.into(),
            table.into(),
        ];
        // SAFETY: the caller's.
        unsafe { self.by_block("add_rows", (at.n, THREADS), &arguments) }
    }

    /// The mean of the rows of each text, (texts, width).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn mean_rows(
        &self,
        (starts, n_texts): (u64, usize),
        width: usize,
        (rows, means): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let arguments = [starts.into(), rows.into(), number(width), means.into()];
        // SAFETY: the caller's.
        unsafe { self.by_block("mean_rows", (n_texts, THREADS), &arguments) }
    }

    /// The gradients of vectors of texts become those of their tokens: of all in equal shares, or of the first.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn spread_rows(
        &self,
        (starts, n_texts): (u64, usize),
        width: usize,
        all: bool,
        (pooled, rows): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let arguments = [
            starts.into(),
            pooled.into(),
            number(width),
            u32::from(all).into(),
            rows.into(),
        ];
        // SAFETY: the caller's.
        unsafe { self.by_block("spread_rows", (n_texts, THREADS), &arguments) }
    }

    /// [`SQUARES`] sums of squares in f64, which add up to that of all values.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn sum_squares(
        &self,
        values: u64,
        n: usize,
        partial: u64,
    ) -> Result<(), AcceleratorError> {
        let arguments = [values.into(), (n as u64).into(), partial.into()];
        let shape = (SQUARES, SUMMING_THREADS);
        // SAFETY: the caller's.
        unsafe { self.by_block("sum_squares", shape, &arguments) }
    }

    /// A step of AdamW on all of `n` values: values, gradient, first and second moment.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn adamw(
        &self,
        at: [u64; 4],
        n: usize,
        step: &AdamWStep,
    ) -> Result<(), AcceleratorError> {
        let mut arguments: Vec<Argument> = at.map(Argument::from).to_vec();
        arguments.push((n as u64).into());
        let numbers = [
            step.gradient_scale,
            step.beta1,
            step.beta2,
            step.second_scale,
            step.epsilon,
            step.rate,
            step.keep,
        ];
        arguments.extend(numbers.map(Argument::from));
        // SAFETY: the caller's.
        unsafe { self.by_value("adamw", n, &arguments) }
    }

    /// The log-sum and the loss of each row of logits (rows, classes) and a bias.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn cross_entropy(
        &self,
        (logits, bias, targets): (u64, u64, u64),
        (n_rows, n_classes): (usize, usize),
        (log_sums, losses): (u64, u64),
    ) -> Result<(), AcceleratorError> {
        let arguments = [
            logits.into(),
            bias.into(),
            targets.into(),
            number(n_classes),
            log_sums.into(),
            losses.into(),
        ];
        // SAFETY: the caller's.
        unsafe { self.by_block("cross_entropy", (n_rows, SUMMING_THREADS), &arguments) }
    }

    /// The gradient of logits, in the type of operands: `(softmax − onehot) · scale`.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn cross_entropy_backward(
        &self,
        (logits, bias, targets): (u64, u64, u64),
        log_sums: u64,
        (n_rows, n_classes): (usize, usize),
        scale: f32,
        gradient: u64,
    ) -> Result<(), AcceleratorError> {
        let kernel = self.by_type("cross_entropy_backward_f32", "cross_entropy_backward_bf16");
        let arguments = [
            logits.into(),
            bias.into(),
            targets.into(),
            log_sums.into(),
            number(n_classes),
            scale.into(),
            gradient.into(),
        ];
        // SAFETY: the caller's.
        unsafe { self.by_block(kernel, (n_rows, SUMMING_THREADS), &arguments) }
    }

    /// `x Wᵀ`: (m, k) by (n, k).
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn forward(
        &self,
        shape: (usize, usize, usize),
        (x, weight): (u64, u64),
        (out, result): (u64, MatrixType),
    ) -> Result<(), AcceleratorError> {
        let product = Product::new(shape, self.of, result);
        // SAFETY: the caller's.
        unsafe { self.multiply(&product, x, weight, out) }
    }

    /// `dy W`: (m, k) by (k, n), added to what is there where `adds`.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn backward(
        &self,
        shape: (usize, usize, usize),
        (dy, weight): (u64, u64),
        (out, result): (u64, MatrixType),
        adds: bool,
    ) -> Result<(), AcceleratorError> {
        let product = Product {
            transposed: Transposed::Neither,
            adds,
            ..Product::new(shape, self.of, result)
        };
        // SAFETY: the caller's.
        unsafe { self.multiply(&product, dy, weight, out) }
    }

    /// `dW += dyᵀ x`: (k, m) by (k, n), in f32.
    ///
    /// # Safety
    /// See [`Kernels`].
    pub unsafe fn add_weights(
        &self,
        shape: (usize, usize, usize),
        (dy, x): (u64, u64),
        gradient: u64,
    ) -> Result<(), AcceleratorError> {
        let product = Product {
            transposed: Transposed::First,
            adds: true,
            ..Product::new(shape, self.of, MatrixType::F32)
        };
        // SAFETY: the caller's.
        unsafe { self.multiply(&product, dy, x, gradient) }
    }

    unsafe fn multiply(
        &self,
        product: &Product,
        a: u64,
        b: u64,
        c: u64,
    ) -> Result<(), AcceleratorError> {
        self.count(product.m * product.n * product.k);
        // SAFETY: the caller's.
        unsafe { self.device.multiply(product, a, b, 0, c) }
    }

    /// Counts multiplications, each of which is added to something.
    pub fn count(&self, n: usize) {
        self.operations.fetch_add(2 * n as u64, Ordering::Relaxed);
    }

    fn by_type(&self, f32: &'static str, bf16: &'static str) -> &'static str {
        match self.of {
            MatrixType::F32 => f32,
            _ => bf16,
        }
    }
}
