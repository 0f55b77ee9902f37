use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};

use crate::training::encoder::{floats, values};
use crate::training::engine::{Engine, lock};
use crate::training::function;
use crate::training::parameter::Parameter;

/// `x / √(mean(x²) + ε) · w`, Zhang & Sennrich 2019 (arXiv 1910.07467), on rows of H values.
#[derive(Clone)]
pub(super) struct RmsNorm {
    weight: Arc<Parameter>,
    epsilon: f32,
    engine: Arc<Engine>,
}

impl RmsNorm {
    pub(super) fn new(weight: Arc<Parameter>, epsilon: f32, engine: &Arc<Engine>) -> Self {
        Self {
            weight,
            epsilon,
            engine: engine.clone(),
        }
    }

    /// Normalizes rows, (N, H).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let operation = NormOperation {
            layer: self.clone(),
            kept: Mutex::default(),
        };
        self.weight.input(x)?.apply_op1(operation)
    }
}

struct NormOperation {
    layer: RmsNorm,
    /// Normalized rows and their scales.
    kept: Mutex<(Vec<f32>, Vec<f32>)>,
}

impl CustomOp1 for NormOperation {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let layer = &self.layer;
        let mut rows = floats(x, layout)?.to_vec();
        let mut normalized = vec![0.0; rows.len()];
        let mut scales = vec![0.0; layout.dims()[0]];
        function::rms_norm(
            layer.engine.kernel.simd,
            &mut rows,
            &mut normalized,
            &mut scales,
            &layer.weight.read()?.values,
            layer.epsilon,
        );
        *lock(&self.kept) = (normalized, scales);
        Ok((CpuStorage::F32(rows), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let layer = &self.layer;
        let (mut gradient, mut d_weight) = (values(gradient)?, vec![0.0; layer.weight.shape()[0]]);
        let (normalized, scales) = &*lock(&self.kept);
        function::rms_norm_backward(
            layer.engine.kernel.simd,
            &mut gradient,
            normalized,
            scales,
            &layer.weight.read()?.values,
            &mut d_weight,
        );
        layer.weight.add_gradient(&d_weight)?;
        Ok(Some(Tensor::from_vec(gradient, x.shape(), &Device::Cpu)?))
    }
}
