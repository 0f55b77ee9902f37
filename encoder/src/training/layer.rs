//! Single layers as candle operations, for heads and decoders.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor};
use compute::Simd;

use super::accelerated::{LinearOnDevice, LossOnDevice};
use super::dropout::{Dropout, Mask};
use super::encoder::{floats, values};
use super::engine::{Engine, lock};
use super::function;
use super::linear::{Due, PackedLinear, add_vector, add_weight_gradients};
use super::matrix::{Left, Panels, Start, multiply};
use super::parameter::{Kind, Parameter, Parameters};
use super::vocabulary::{LargestOfTexts, VocabularyLoss};
use crate::architecture::Activation;

/// Rows that one thread takes through a linear layer at a time.
const BLOCK: usize = 128;

/// `x Wᵀ + b`, with an activation behind it where there is one: a differentiable layer on rows of values.
#[derive(Clone)]
pub struct Linear {
    pub(super) weight: Arc<Parameter>,
    pub(super) bias: Option<Arc<Parameter>>,
    pub(super) activation: Option<Activation>,
    pub(super) engine: Arc<Engine>,
    packed: Arc<Mutex<Option<Versioned>>>,
}

/// Packed weights and the version of the parameters that they were packed from.
type Versioned = (u64, Arc<PackedLinear>);

impl Linear {
    /// Makes the parameters `name.weight`, (out, in), and `name.bias`, (out), from values for both.
    ///
    /// # Errors
    /// When the name is taken or the weights are no multiple of the biases.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        (weight, bias): (Vec<f32>, Vec<f32>),
        engine: &Arc<Engine>,
    ) -> Result<Self> {
        let shape = [bias.len(), weight.len() / bias.len().max(1)];
        let weight = parameters.insert(&format!("{name}.weight"), &shape, weight, Kind::Matrix)?;
        let bias = parameters.insert(&format!("{name}.bias"), &shape[..1], bias, Kind::Plain)?;
        Self::tied(&weight, &bias, engine)
    }

    /// Uses parameters that exist, such as the token table as the projection to the vocabulary.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn tied(
        weight: &Arc<Parameter>,
        bias: &Arc<Parameter>,
        engine: &Arc<Engine>,
    ) -> Result<Self> {
        if weight.shape().len() != 2 || bias.shape() != &weight.shape()[..1] || weight.width() == 0
        {
            candle_core::bail!(
                "weight {:?} and bias {:?} make no linear layer",
                weight.shape(),
                bias.shape()
            );
        }
        if let Some(device) = &engine.device {
            weight.place(device)?;
            bias.place(device)?;
        }
        Ok(Self {
            bias: Some(bias.clone()),
            ..Self::without_bias(weight, engine)
        })
    }

    /// `x Wᵀ` of a weight (out, in).
    pub(super) fn without_bias(weight: &Arc<Parameter>, engine: &Arc<Engine>) -> Self {
        Self {
            weight: weight.clone(),
            bias: None,
            activation: None,
            engine: engine.clone(),
            packed: Arc::default(),
        }
    }

    /// Puts an activation behind the layer.
    pub fn with_activation(self, activation: Activation) -> Self {
        Self {
            activation: Some(activation),
            ..self
        }
    }

    /// Computes (N, out) from (N, in).
    ///
    /// # Errors
    /// When the width of `x` is another.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n_rows, n_in) = x.dims2()?;
        self.check_width(n_in)?;
        if n_rows == 0 {
            let shape = (0, self.weight.shape()[0]);
            return Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu);
        }
        let x = self.weight.input(x)?;
        if let Some(device) = &self.engine.device {
            return x.apply_op1(LinearOnDevice::new(device, self));
        }
        x.apply_op1(LinearOperation {
            layer: self.clone(),
            packed: self.packed()?,
            tape: Mutex::default(),
        })
    }

    /// Returns [`cross_entropy`] of the layer's results for rows (N, in), each of which has a target that is a class. The results of
    /// all rows are never there at once. On the CPU the forward makes their gradients, as operands of products, for the backward.
    ///
    /// # Errors
    /// As [`Self::forward`] and [`cross_entropy`]; a target that is [`IGNORED`].
    pub fn cross_entropy(&self, x: &Tensor, targets: &[i64]) -> Result<Tensor> {
        if targets.is_empty() || self.activation.is_some() {
            return cross_entropy(&self.forward(x)?, targets);
        }
        let (n_rows, n_in) = x.dims2()?;
        self.check_width(n_in)?;
        check_targets((n_rows, self.weight.shape()[0]), targets)?;
        let class = |&target: &i64| match target {
            IGNORED => candle_core::bail!("a row has no target"),
            class => Ok(class as u32),
        };
        let classes = targets.iter().map(class).collect::<Result<_>>()?;
        let x = self.weight.input(x)?;
        match &self.engine.device {
            Some(device) => x.apply_op1(LossOnDevice::new(device, self, classes)),
            None => x.apply_op1(VocabularyLoss::new(self, self.packed()?, classes)),
        }
    }

    /// Returns the greatest result of each output over the rows of each text, (texts, out), from rows (N, in) of texts one after the
    /// other. Its gradient goes to the row that has it: the first of equal ones. The results of all rows are never there at
    /// once. With a device they are, until the backward, and equal ones all have the gradient.
    ///
    /// # Errors
    /// As [`Self::forward`]; when the lengths do not add up to N, or one is 0; a layer with an activation.
    pub fn largest(&self, x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (n_rows, n_in) = x.dims2()?;
        self.check_width(n_in)?;
        if n_rows != lengths.iter().sum::<usize>()
            || lengths.contains(&0)
            || self.activation.is_some()
        {
            candle_core::bail!(
                "{n_rows} rows are not those of texts {lengths:?} for a plain layer"
            );
        }
        if self.engine.device.is_some() || lengths.is_empty() {
            let mut start = 0;
            let of_text = |&n: &usize| {
                start += n;
                self.forward(&x.narrow(0, start - n, n)?)?.max(0)
            };
            let texts = lengths.iter().map(of_text).collect::<Result<Vec<_>>>()?;
            return match texts[..] {
                [] => self.forward(x),
                _ => Tensor::stack(&texts, 0),
            };
        }
        let operation = LargestOfTexts::new(self, self.packed()?, lengths.to_vec());
        self.weight.input(x)?.apply_op1(operation)
    }

    fn check_width(&self, n_in: usize) -> Result<()> {
        let width = self.weight.width();
        if n_in != width {
            let name = self.weight.name();
            candle_core::bail!("`{name}` takes rows of {width}, not {n_in}");
        }
        Ok(())
    }

    fn packed(&self) -> Result<Arc<PackedLinear>> {
        let mut cached = lock(&self.packed);
        // Reading brings a table up to date, which leaves its version as it is: a step has counted already.
        let weight = self.weight.read()?;
        let bias = self.bias.as_ref().map(|bias| bias.read()).transpose()?;
        let version = self.weight.version() + self.bias.as_ref().map_or(0, |b| b.version());
        if let Some((known, packed)) = &*cached
            && *known == version
        {
            return Ok(packed.clone());
        }
        let mut packed = cached
            .take()
            .and_then(|(_, packed)| Arc::into_inner(packed))
            .unwrap_or_default();
        let zeros = match bias {
            Some(_) => Vec::new(),
            None => vec![0.0; self.weight.shape()[0]],
        };
        packed.pack(
            self.engine.kernel,
            &weight.values,
            bias.as_ref().map_or(&zeros, |bias| &bias.values),
            self.weight.width(),
        );
        let packed = Arc::new(packed);
        *cached = Some((version, packed.clone()));
        Ok(packed)
    }
}

struct LinearOperation {
    layer: Linear,
    packed: Arc<PackedLinear>,
    tape: Mutex<Vec<LinearTape>>,
}

/// What one block of rows leaves for the backward.
#[derive(Default)]
struct LinearTape {
    input: Panels,
    /// Before the activation; empty without one.
    inner: Vec<f32>,
    gradient: Panels,
    bias: Vec<f32>,
}

impl CustomOp1 for LinearOperation {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let layer = &self.layer;
        let (kernel, n_in, n_out) = (
            layer.engine.kernel,
            layer.weight.width(),
            layer.weight.shape()[0],
        );
        let input = floats(storage, layout)?;
        let n_rows = input.len() / n_in;
        let mut output = vec![0.0; n_rows * n_out];
        let mut tapes: Vec<LinearTape> = Vec::new();
        tapes.resize_with(n_rows.div_ceil(BLOCK), LinearTape::default);
        let mut blocks: Vec<_> = input
            .chunks(BLOCK * n_in)
            .zip(output.chunks_mut(BLOCK * n_out))
            .zip(&mut tapes)
            .collect();
        layer.engine.run(&mut blocks, |((input, output), tape)| {
            let (n_rows, mut words) = (input.len() / n_in, Vec::new());
            kernel.pack(input, n_in, &mut words);
            tape.input.fill(kernel, input, n_in, n_rows, n_in);
            let left = Left::rows(&words, kernel.words(n_in));
            for panel in self.packed.forward.iter() {
                let target = (&mut output[panel.first..], n_out);
                multiply(
                    kernel,
                    left,
                    panel,
                    self.packed.start(panel),
                    target,
                    n_rows,
                );
            }
            if let Some(activation) = layer.activation {
                tape.inner.extend_from_slice(output);
                function::activation(kernel.simd, activation, output);
            }
        });
        drop(blocks);
        *lock(&self.tape) = tapes;
        Ok((CpuStorage::F32(output), Shape::from((n_rows, n_out))))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let layer = &self.layer;
        let (kernel, n_in, n_out) = (
            layer.engine.kernel,
            layer.weight.width(),
            layer.weight.shape()[0],
        );
        let mut gradient = values(gradient)?;
        let mut d_input = vec![0.0; input.elem_count()];
        let tapes = &mut *lock(&self.tape);
        let mut blocks: Vec<_> = gradient
            .chunks_mut(BLOCK * n_out)
            .zip(d_input.chunks_mut(BLOCK * n_in))
            .zip(&mut *tapes)
            .collect();
        layer
            .engine
            .run(&mut blocks, |((gradient, d_input), tape)| {
                let (n_rows, mut words) = (gradient.len() / n_out, Vec::new());
                if let Some(activation) = layer.activation {
                    function::activation_backward(
                        kernel.simd,
                        activation,
                        &mut tape.inner.clone(),
                        gradient,
                    );
                }
                kernel.pack(gradient, n_out, &mut words);
                tape.gradient.fill(kernel, gradient, n_out, n_rows, n_out);
                tape.bias = vec![0.0; n_out];
                function::add_rows(kernel.simd, gradient, n_out, &mut tape.bias);
                let left = Left::rows(&words, kernel.words(n_out));
                for panel in self.packed.backward.iter() {
                    multiply(
                        kernel,
                        left,
                        panel,
                        Start::Zero,
                        (&mut d_input[panel.first..], n_in),
                        n_rows,
                    );
                }
            });
        drop(blocks);
        {
            let mut weight = layer.weight.write();
            let operands = tapes
                .iter()
                .map(|tape| (&tape.gradient, &tape.input))
                .collect();
            let due = Due {
                parameter: &mut weight,
                n_in,
                operands,
            };
            add_weight_gradients(&layer.engine, &mut [due]);
        }
        if let Some(bias) = &layer.bias {
            let mut bias = bias.write();
            for tape in &*tapes {
                add_vector(&mut bias, &tape.bias);
            }
        }
        Ok(Some(Tensor::from_vec(
            d_input,
            input.shape(),
            &Device::Cpu,
        )?))
    }
}

/// Layer normalization of rows, of a sum where there is a residual: `LN(x + r)`.
#[derive(Clone)]
pub struct LayerNorm {
    weight: Arc<Parameter>,
    bias: Arc<Parameter>,
    epsilon: f32,
    engine: Arc<Engine>,
}

impl LayerNorm {
    /// Makes the parameters `name.weight`, all 1, and `name.bias`, all 0.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn new(
        parameters: &mut Parameters,
        name: &str,
        width: usize,
        epsilon: f64,
        engine: &Arc<Engine>,
    ) -> Result<Self> {
        let weight = parameters.insert(
            &format!("{name}.weight"),
            &[width],
            vec![1.0; width],
            Kind::Plain,
        )?;
        let bias = parameters.insert(
            &format!("{name}.bias"),
            &[width],
            vec![0.0; width],
            Kind::Plain,
        )?;
        Ok(Self {
            weight,
            bias,
            epsilon: epsilon as f32,
            engine: engine.clone(),
        })
    }

    /// Uses parameters that exist, such as those of the embeddings.
    pub fn tied(
        weight: &Arc<Parameter>,
        bias: &Arc<Parameter>,
        epsilon: f64,
        engine: &Arc<Engine>,
    ) -> Self {
        Self {
            weight: weight.clone(),
            bias: bias.clone(),
            epsilon: epsilon as f32,
            engine: engine.clone(),
        }
    }

    /// Normalizes `x + residual`, both (N, H).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let width = self.weight.width();
        if x.dims2()?.1 != width || x.shape() != residual.shape() {
            candle_core::bail!(
                "`{}` takes rows of {width}, not {:?} + {:?}",
                self.weight.name(),
                x.shape(),
                residual.shape()
            );
        }
        let operation = NormOperation {
            layer: self.clone(),
            kept: Mutex::default(),
        };
        self.weight
            .input(x)?
            .apply_op2(&residual.contiguous()?, operation)
    }
}

struct NormOperation {
    layer: LayerNorm,
    kept: Mutex<(Vec<f32>, Vec<f32>)>,
}

impl CustomOp2 for NormOperation {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        residual: &CpuStorage,
        other: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (layer, simd) = (&self.layer, self.layer.engine.kernel.simd);
        let mut rows = floats(x, layout)?.to_vec();
        function::add(simd, &mut rows, floats(residual, other)?);
        let (mut normalized, mut scales) = (
            vec![0.0; rows.len()],
            vec![0.0; rows.len() / layer.weight.width()],
        );
        let (weight, bias) = (layer.weight.read()?, layer.bias.read()?);
        function::layer_norm(
            simd,
            &mut rows,
            &mut normalized,
            &mut scales,
            &weight.values,
            &bias.values,
            layer.epsilon,
        );
        *lock(&self.kept) = (normalized, scales);
        Ok((CpuStorage::F32(rows), layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut gradient = values(gradient)?;
        let (layer, simd) = (&self.layer, self.layer.engine.kernel.simd);
        let norm = (&*layer.weight, &*layer.bias);
        norm_backward(simd, &mut gradient, &lock(&self.kept), norm)?;
        let gradient = Tensor::from_vec(gradient, x.shape(), &Device::Cpu)?;
        Ok((Some(gradient.clone()), Some(gradient)))
    }
}

/// Turns the gradient of a layer normalization's rows into that of its inputs, and adds those of weight and bias to them.
/// `kept` is what the forward left: normalized rows and a scale for each.
pub(super) fn norm_backward(
    simd: Simd,
    gradient: &mut [f32],
    (normalized, scales): &(Vec<f32>, Vec<f32>),
    (weight, bias): (&Parameter, &Parameter),
) -> Result<()> {
    let width = weight.width();
    let (mut d_weight, mut d_bias) = (vec![0.0; width], vec![0.0; width]);
    let values = weight.values()?;
    function::layer_norm_backward(
        simd,
        gradient,
        normalized,
        scales,
        &values,
        &mut d_weight,
        &mut d_bias,
    );
    weight.add_gradient(&d_weight)?;
    bias.add_gradient(&d_bias)
}

/// Zeroes elements of (N, H) with probability [`Dropout::hidden`] and scales the others.
///
/// `place` tells layers apart that are not the [`super::Encoder`]'s own; equal numbers give equal masks.
///
/// # Errors
/// When the probability is none.
pub fn dropout(x: &Tensor, dropout: &Dropout, place: u32, engine: &Engine) -> Result<Tensor> {
    dropout.check()?;
    if dropout.hidden == 0.0 {
        return Ok(x.clone());
    }
    let (_, width) = x.dims2()?;
    let mask = dropout.at(dropout.hidden, place_of(place));
    x.contiguous()?.apply_op1(DropoutOperation {
        mask,
        width,
        simd: engine.kernel.simd,
    })
}

/// The encoder's places are four a layer, from 0, and the last number of all.
pub(super) fn place_of(place: u32) -> u64 {
    (1 << 32) + u64::from(place)
}

struct DropoutOperation {
    mask: Mask,
    width: usize,
    simd: Simd,
}

impl CustomOp1 for DropoutOperation {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut rows = floats(storage, layout)?.to_vec();
        self.mask.apply_rows(self.simd, &mut rows, self.width);
        Ok((CpuStorage::F32(rows), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let mut gradient = values(gradient)?;
        self.mask.apply_rows(self.simd, &mut gradient, self.width);
        Ok(Some(Tensor::from_vec(gradient, x.shape(), &Device::Cpu)?))
    }
}

/// Looks up rows of a table: (N, H) for N ids. Only these rows get a gradient.
///
/// # Errors
/// When an id lies outside the table.
pub fn embedding(table: &Arc<Parameter>, ids: &[u32]) -> Result<Tensor> {
    let n_rows = table.shape()[0];
    if !table.is_table() || table.shape().len() != 2 {
        candle_core::bail!("`{}` is no table", table.name());
    }
    if let Some(id) = ids.iter().find(|&&id| id as usize >= n_rows) {
        candle_core::bail!("id {id} of `{}`, which has {n_rows} rows", table.name());
    }
    table.anchor().apply_op1(EmbeddingOperation {
        table: table.clone(),
        ids: ids.to_vec(),
    })
}

struct EmbeddingOperation {
    table: Arc<Parameter>,
    ids: Vec<u32>,
}

impl CustomOp1 for EmbeddingOperation {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let shape = (self.ids.len(), self.table.width());
        let mut rows = vec![0.0; shape.0 * shape.1];
        self.table.gather(&self.ids, &mut rows)?;
        Ok((CpuStorage::F32(rows), Shape::from(shape)))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.table.add_row_gradient(&self.ids, &values(gradient)?)?;
        Ok(None)
    }
}

/// Returns the first token vector of each text, (B, H), from packed token vectors (T, H).
///
/// # Errors
/// When the lengths do not add up to T, or one is 0.
pub fn first(hidden: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    pool(hidden, lengths, false)
}

/// Returns the mean of each text's token vectors, (B, H), from packed token vectors (T, H).
///
/// # Errors
/// When the lengths do not add up to T, or one is 0.
pub fn mean(hidden: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    pool(hidden, lengths, true)
}

fn pool(hidden: &Tensor, lengths: &[usize], all: bool) -> Result<Tensor> {
    if hidden.dims2()?.0 != lengths.iter().sum::<usize>() || lengths.contains(&0) {
        candle_core::bail!(
            "token vectors {:?} are not those of texts {lengths:?}",
            hidden.shape()
        );
    }
    hidden.contiguous()?.apply_op1(PoolOperation {
        lengths: lengths.to_vec(),
        all,
    })
}

struct PoolOperation {
    lengths: Vec<usize>,
    /// All tokens of a text, not the first only.
    all: bool,
}

impl PoolOperation {
    /// (text, token, weight)
    fn weights(&self) -> impl Iterator<Item = (usize, usize, f32)> {
        let mut start = 0;
        self.lengths
            .iter()
            .enumerate()
            .flat_map(move |(text, &length)| {
                let first = start;
                start += length;
                let n = if self.all { length } else { 1 };
                (first..first + n).map(move |token| (text, token, 1.0 / n as f32))
            })
    }
}

impl CustomOp1 for PoolOperation {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (hidden, width) = (floats(storage, layout)?, layout.dims()[1]);
        let mut pooled = vec![0.0; self.lengths.len() * width];
        for (text, token, weight) in self.weights() {
            let target = &mut pooled[text * width..][..width];
            for (target, value) in target.iter_mut().zip(&hidden[token * width..][..width]) {
                *target += weight * value;
            }
        }
        Ok((
            CpuStorage::F32(pooled),
            Shape::from((self.lengths.len(), width)),
        ))
    }

    fn bwd(&self, hidden: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (gradient, width) = (values(gradient)?, hidden.dims2()?.1);
        let mut rows = vec![0.0; hidden.elem_count()];
        for (text, token, weight) in self.weights() {
            let target = &mut rows[token * width..][..width];
            for (target, value) in target.iter_mut().zip(&gradient[text * width..][..width]) {
                *target = weight * value;
            }
        }
        Ok(Some(Tensor::from_vec(rows, hidden.shape(), &Device::Cpu)?))
    }
}

/// The target that a loss leaves out, as in PyTorch.
pub const IGNORED: i64 = -100;

/// Mean softmax cross-entropy of rows of logits, (N, C), in natural logarithms; rows whose target is [`IGNORED`] do not
/// count. Without any row left it is 0.
///
/// # Errors
/// When there are not as many targets as rows, or one is no column.
pub fn cross_entropy(logits: &Tensor, targets: &[i64]) -> Result<Tensor> {
    check_targets(logits.dims2()?, targets)?;
    logits.contiguous()?.apply_op1(CrossEntropyOperation {
        targets: targets.to_vec(),
        probabilities: Mutex::default(),
    })
}

fn check_targets((n_rows, n_classes): (usize, usize), targets: &[i64]) -> Result<()> {
    if targets.len() != n_rows {
        candle_core::bail!("{n_rows} rows of logits and {} targets", targets.len());
    }
    let mut targets = targets.iter().filter(|&&target| target != IGNORED);
    if let Some(target) = targets.find(|target| !(0..n_classes as i64).contains(target)) {
        candle_core::bail!("target {target} of {n_classes} classes");
    }
    Ok(())
}

/// Mean cross-entropy of a projection of rows, such as to the vocabulary: [`cross_entropy`] of `projection(hidden)`,
/// where only rows that count go through the projection.
///
/// # Errors
/// As [`cross_entropy`].
pub fn sparse_cross_entropy(
    hidden: &Tensor,
    projection: &Linear,
    targets: &[i64],
) -> Result<Tensor> {
    if targets.len() != hidden.dims2()?.0 {
        candle_core::bail!(
            "{:?} token vectors and {} targets",
            hidden.shape(),
            targets.len()
        );
    }
    let kept = || {
        targets
            .iter()
            .enumerate()
            .filter(|&(_, &target)| target != IGNORED)
    };
    let rows: Vec<u32> = kept().map(|(row, _)| row as u32).collect();
    let targets: Vec<i64> = kept().map(|(_, &target)| target).collect();
    if rows.is_empty() {
        return Tensor::zeros((), candle_core::DType::F32, &Device::Cpu);
    }
    let rows = hidden.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?;
    projection.cross_entropy(&rows, &targets)
}

struct CrossEntropyOperation {
    targets: Vec<i64>,
    probabilities: Mutex<Vec<f32>>,
}

impl CrossEntropyOperation {
    fn n_kept(&self) -> usize {
        self.targets
            .iter()
            .filter(|&&target| target != IGNORED)
            .count()
    }
}

impl CustomOp1 for CrossEntropyOperation {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut logits = floats(storage, layout)?.to_vec();
        let (n_classes, simd, mut sum) = (layout.dims()[1], Simd::detect(), 0.0);
        for (row, &target) in logits.chunks_exact_mut(n_classes.max(1)).zip(&self.targets) {
            if target != IGNORED {
                let logit = row[target as usize];
                sum += f64::from(function::softmax(simd, row, 1.0) - logit);
            }
        }
        *lock(&self.probabilities) = logits;
        Ok((
            CpuStorage::F32(vec![(sum / self.n_kept().max(1) as f64) as f32]),
            Shape::from(()),
        ))
    }

    /// `(softmax(s) − onehot(target)) / n` in rows that count.
    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let scale = gradient.to_scalar::<f32>()? / self.n_kept().max(1) as f32;
        let mut rows = lock(&self.probabilities).clone();
        let n_classes = logits.dims2()?.1;
        for (row, &target) in rows.chunks_exact_mut(n_classes.max(1)).zip(&self.targets) {
            if target == IGNORED {
                row.fill(0.0);
                continue;
            }
            row[target as usize] -= 1.0;
            for value in row {
                *value *= scale;
            }
        }
        Ok(Some(Tensor::from_vec(rows, logits.shape(), &Device::Cpu)?))
    }
}
