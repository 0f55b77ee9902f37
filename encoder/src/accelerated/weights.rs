//! Weights on a device.

use compute::accelerator::{AcceleratorError, Buffer, MatrixType, SharedAccelerator};
use half::{bf16, f16};

use super::kernels::{Function, NormAt};
use crate::cross_encoder::HeadWeights;
use crate::weights::{LayerWeights, Linear, Norm};

/// Copies values to the device in a type; none are no memory.
pub(super) fn upload(
    device: &SharedAccelerator,
    values: &[f32],
    of: MatrixType,
) -> Result<Buffer, AcceleratorError> {
    let bytes: Vec<u8> = match of {
        MatrixType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        MatrixType::F16 => {
            let halves = values.iter().map(|&x| f16::from_f32(x));
            halves.flat_map(f16::to_le_bytes).collect()
        }
        MatrixType::Bf16 => {
            let halves = values.iter().map(|&x| bf16::from_f32(x));
            halves.flat_map(bf16::to_le_bytes).collect()
        }
    };
    Buffer::of(device, &bytes)
}

/// A linear layer: weights of the type of operands, (out, in), and a bias, zeros where the model has none.
pub(super) struct DeviceLinear {
    pub weight: Buffer,
    pub bias: Buffer,
}

impl DeviceLinear {
    fn new(
        device: &SharedAccelerator,
        linear: &Linear,
        of: MatrixType,
        of_bias: MatrixType,
    ) -> Result<Self, AcceleratorError> {
        let zeros = || vec![0.0; linear.n_out];
        let bias = linear.bias.clone().unwrap_or_else(zeros);
        Ok(Self {
            weight: upload(device, &linear.weight, of)?,
            bias: upload(device, &bias, of_bias)?,
        })
    }
}

/// Scale and shift of a normalization.
pub(super) struct DeviceNorm {
    weight: Buffer,
    bias: Buffer,
}

impl DeviceNorm {
    pub fn new(device: &SharedAccelerator, norm: &Norm) -> Result<Self, AcceleratorError> {
        Ok(Self {
            weight: upload(device, &norm.weight, MatrixType::F32)?,
            bias: upload(device, &norm.bias, MatrixType::F32)?,
        })
    }

    pub fn at(&self, epsilon: f32) -> NormAt {
        NormAt {
            weight: self.weight.address(),
            bias: self.bias.address(),
            epsilon,
        }
    }
}

pub(super) struct DeviceLayer {
    /// Queries, keys and values of all heads side by side.
    pub projections: DeviceLinear,
    pub output: DeviceLinear,
    pub attention_norm: DeviceNorm,
    pub up: DeviceLinear,
    pub down: DeviceLinear,
    pub output_norm: DeviceNorm,
}

impl DeviceLayer {
    pub fn new(
        device: &SharedAccelerator,
        weights: &LayerWeights,
        of: MatrixType,
        activation: Function,
    ) -> Result<Self, AcceleratorError> {
        let linear = |linear: &Linear| DeviceLinear::new(device, linear, of, MatrixType::F32);
        let norm = |norm: &Norm| DeviceNorm::new(device, norm);
        Ok(Self {
            output: linear(&weights.output)?,
            attention_norm: norm(&weights.attention_norm)?,
            up: DeviceLinear::new(device, &weights.up, of, activation.bias_type(of))?,
            down: linear(&weights.down)?,
            output_norm: norm(&weights.output_norm)?,
            projections: linear(&weights.projections())?,
        })
    }
}

/// A head for classification, in f32 as on the CPU: it is a small part of the work.
pub(super) struct DeviceHead {
    pub hidden: DeviceLinear,
    pub function: Function,
    pub classifier: DeviceLinear,
    pub n_labels: usize,
}

impl DeviceHead {
    pub fn new(device: &SharedAccelerator, head: &HeadWeights) -> Result<Self, AcceleratorError> {
        let of = MatrixType::F32;
        let linear = |linear: &Linear| DeviceLinear::new(device, linear, of, of);
        Ok(Self {
            hidden: linear(&head.hidden)?,
            function: Function::of_head(head.hidden_activation)
                .expect("heads of the BERT family have an activation"),
            classifier: linear(&head.classifier)?,
            n_labels: head.classifier.n_out,
        })
    }
}
