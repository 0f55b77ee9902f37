//! Single linear layers on a device, and the cross-entropy behind one.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use compute::accelerator::{AcceleratorError, Buffer, MatrixType};

use super::kernels::Kernels;
use super::{Device, download, failed};
use crate::training::encoder::{floats, values};
use crate::training::engine::lock;
use crate::training::function;
use crate::training::layer::Linear;
use crate::training::parameter::Parameter;

/// Logits that are held at once.
const MOST_LOGITS: usize = 64 << 20;

/// Rows and a weight matrix, as operands.
struct Operands {
    rows: Buffer,
    weight: Buffer,
}

impl Operands {
    fn new(device: &Device, rows: &[f32], weight: &Parameter) -> Result<Self> {
        let n = weight.shape().iter().product();
        let from = weight.address();
        let make = || {
            let weight = device.operands(n)?;
            // SAFETY: there is room for as many operands as the parameter has values.
            unsafe { device.kernels().store(from, n, weight.address())? };
            Ok(Self {
                rows: store(device, rows)?,
                weight,
            })
        };
        make().map_err(failed)
    }
}

/// Values as operands.
fn store(device: &Device, values: &[f32]) -> std::result::Result<Buffer, AcceleratorError> {
    let (from, to) = (device.upload(values)?, device.operands(values.len())?);
    // SAFETY: there is room for as many.
    unsafe {
        device
            .kernels()
            .store(from.address(), values.len(), to.address())?
    };
    Ok(to)
}

/// `x Wᵀ + b` and an activation. The product is computed on the device, the rest on the host.
pub(in crate::training) struct LinearOnDevice {
    pub device: Device,
    pub layer: Linear,
    tape: Mutex<Option<(Operands, Vec<f32>)>>,
}

impl LinearOnDevice {
    pub fn new(device: &Device, layer: &Linear) -> Self {
        Self {
            device: device.clone(),
            layer: layer.clone(),
            tape: Mutex::default(),
        }
    }
}

impl CustomOp1 for LinearOnDevice {
    fn name(&self) -> &'static str {
        "linear-on-device"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (device, layer) = (&self.device, &self.layer);
        let (n_in, n_out) = (layer.weight.width(), layer.weight.shape()[0]);
        let input = floats(storage, layout)?;
        let n_rows = input.len() / n_in;
        let operands = Operands::new(device, input, &layer.weight)?;
        let product = device.floats(n_rows * n_out).map_err(failed)?;
        let at = (operands.rows.address(), operands.weight.address());
        let to = (product.address(), MatrixType::F32);
        // SAFETY: the buffers have the shapes of the product.
        unsafe { device.kernels().forward((n_rows, n_out, n_in), at, to) }.map_err(failed)?;
        let mut output = download(&product).map_err(failed)?;
        let simd = layer.engine.kernel.simd;
        if let Some(bias) = &layer.bias {
            let bias = bias.read()?;
            for row in output.chunks_exact_mut(n_out) {
                function::add(simd, row, &bias.values);
            }
        }
        let mut inner = Vec::new();
        if let Some(activation) = layer.activation {
            inner.extend_from_slice(&output);
            function::activation(simd, activation, &mut output);
        }
        *lock(&self.tape) = Some((operands, inner));
        Ok((CpuStorage::F32(output), Shape::from((n_rows, n_out))))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (device, layer) = (&self.device, &self.layer);
        let (n_in, n_out) = (layer.weight.width(), layer.weight.shape()[0]);
        let mut tape = lock(&self.tape);
        let (operands, inner) = tape.as_mut().expect("candle runs the forward first");
        let mut gradient = values(gradient)?;
        if let Some(activation) = layer.activation {
            let mut inner = inner.clone();
            let simd = layer.engine.kernel.simd;
            function::activation_backward(simd, activation, &mut inner, &mut gradient);
        }
        let n_rows = gradient.len() / n_out;
        let d_output = store(device, &gradient).map_err(failed)?;
        let d_input = device.floats(n_rows * n_in).map_err(failed)?;
        let to = (d_input.address(), MatrixType::F32);
        let kernels = device.kernels();
        let d_output = d_output.address();
        let (rows, weight) = (operands.rows.address(), operands.weight.address());
        let d_weight = layer.weight.gradient_address()?;
        // SAFETY: the buffers and the parameter have the shapes of the products.
        unsafe {
            let shape = (n_rows, n_in, n_out);
            kernels
                .backward(shape, (d_output, weight), to, false)
                .map_err(failed)?;
            let shape = (n_out, n_in, n_rows);
            kernels
                .add_weights(shape, (d_output, rows), d_weight)
                .map_err(failed)?;
        }
        if let Some(bias) = &layer.bias {
            device.add_columns((d_output, device.of), (n_rows, n_out), bias)?;
        }
        let d_input = download(&d_input).map_err(failed)?;
        Ok(Some(Tensor::from_vec(
            d_input,
            input.shape(),
            input.device(),
        )?))
    }
}

/// The mean cross-entropy of `x Wᵀ + b`. Logits stay on the device, and only as many at once as have room; the backward computes them
/// again.
pub(in crate::training) struct LossOnDevice {
    pub device: Device,
    pub layer: Linear,
    /// The class of each row.
    pub targets: Vec<u32>,
    tape: Mutex<Option<(Operands, Buffer)>>,
}

/// Where a part of the rows has its logits.
struct Logits {
    first: usize,
    n: usize,
    at: (u64, u64, u64),
}

impl LossOnDevice {
    pub fn new(device: &Device, layer: &Linear, targets: Vec<u32>) -> Self {
        Self {
            device: device.clone(),
            layer: layer.clone(),
            targets,
            tape: Mutex::default(),
        }
    }

    fn bias(&self) -> &Parameter {
        let bias = self.layer.bias.as_deref();
        bias.expect("layers without a bias are T5's, which no device trains")
    }

    /// Computes the logits of all rows, some at a time, and calls `then` with those.
    fn by_parts(
        &self,
        operands: &Operands,
        then: impl Fn(&Kernels<'_>, &Logits) -> Result<()>,
    ) -> Result<()> {
        let (device, layer) = (&self.device, &self.layer);
        let (n_in, n_out) = (layer.weight.width(), layer.weight.shape()[0]);
        let most = (MOST_LOGITS / n_out).max(1).min(self.targets.len());
        let bias = self.bias().address();
        let logits = device.floats(most * n_out).map_err(failed)?;
        let targets = device.upload_words(&self.targets).map_err(failed)?;
        let kernels = device.kernels();
        for first in (0..self.targets.len()).step_by(most) {
            let n = most.min(self.targets.len() - first);
            let rows = operands.rows.at(first * n_in * device.of.bytes());
            let to = (logits.address(), MatrixType::F32);
            // SAFETY: there are so many rows, and room for their logits.
            unsafe { kernels.forward((n, n_out, n_in), (rows, operands.weight.address()), to) }
                .map_err(failed)?;
            let targets = targets.at(first * size_of::<u32>());
            let at = (logits.address(), bias, targets);
            then(&kernels, &Logits { first, n, at })?;
        }
        Ok(())
    }
}

impl CustomOp1 for LossOnDevice {
    fn name(&self) -> &'static str {
        "vocabulary-loss-on-device"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (device, n_rows) = (&self.device, self.targets.len());
        let n_out = self.layer.weight.shape()[0];
        let operands = Operands::new(device, floats(storage, layout)?, &self.layer.weight)?;
        let log_sums = device.floats(n_rows).map_err(failed)?;
        let losses = device.floats(n_rows).map_err(failed)?;
        self.by_parts(&operands, |kernels, logits| {
            let at = logits.first * size_of::<f32>();
            let to = (log_sums.at(at), losses.at(at));
            // SAFETY: targets are classes, and there is a place for each row.
            unsafe { kernels.cross_entropy(logits.at, (logits.n, n_out), to) }.map_err(failed)
        })?;
        let losses = download(&losses).map_err(failed)?;
        let sum: f64 = losses.iter().copied().map(f64::from).sum();
        *lock(&self.tape) = Some((operands, log_sums));
        let mean = (sum / n_rows as f64) as f32;
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (device, layer, n_rows) = (&self.device, &self.layer, self.targets.len());
        let (n_in, n_out) = (layer.weight.width(), layer.weight.shape()[0]);
        let tape = lock(&self.tape);
        let (operands, log_sums) = tape.as_ref().expect("candle runs the forward first");
        let scale = gradient.to_scalar::<f32>()? / n_rows as f32;
        let most = (MOST_LOGITS / n_out).max(1).min(n_rows);
        let d_logits = device.operands(most * n_out).map_err(failed)?;
        let d_rows = device.floats(n_rows * n_in).map_err(failed)?;
        self.by_parts(operands, |kernels, logits| {
            let Logits { first, n, at } = *logits;
            let log_sums = log_sums.at(first * size_of::<f32>());
            let to = d_logits.address();
            let d_weight = layer.weight.gradient_address()?;
            // SAFETY: as in the forward; the buffers and the parameter have the shapes of the products.
            unsafe {
                kernels
                    .cross_entropy_backward(at, log_sums, (n, n_out), scale, to)
                    .map_err(failed)?;
                let d_rows = (d_rows.at(first * n_in * size_of::<f32>()), MatrixType::F32);
                let shape = (n, n_in, n_out);
                kernels
                    .backward(shape, (to, operands.weight.address()), d_rows, false)
                    .map_err(failed)?;
                let rows = operands.rows.at(first * n_in * device.of.bytes());
                kernels
                    .add_weights((n_out, n_in, n), (to, rows), d_weight)
                    .map_err(failed)?;
            }
            device.add_columns((to, device.of), (n, n_out), self.bias())
        })?;
        let d_rows = download(&d_rows).map_err(failed)?;
        Ok(Some(Tensor::from_vec(
            d_rows,
            input.shape(),
            input.device(),
        )?))
    }
}
