use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use encoder::training::{Kind, Parameter, Parameters, TrainingError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::error::TrainError;

/// The largest rank: no matrix that is trained has a larger one.
const MOST_RANK: usize = 65_536;

/// Low-rank adapters: Hu et al. 2021 (arXiv 2106.09685).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// r: rank of what is added to a matrix.
    pub rank: usize,
    /// α: what is added is multiplied by α / r.
    pub alpha: f64,
    /// Matrices that get adapters, by parts of their names; none: all matrices of the layers.
    pub targets: Vec<String>,
    /// Parameters that are trained whole, without adapters, by the beginning of their names. A new head always is.
    pub train: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 64.0,
            targets: Vec::new(),
            train: Vec::new(),
        }
    }
}

impl LoraConfig {
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let rules = [
            (
                (1..=MOST_RANK).contains(&self.rank),
                "lora.rank",
                "at least 1 and at most 65536",
            ),
            (
                self.alpha > 0.0 && self.alpha.is_finite(),
                "lora.alpha",
                "above 0",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            Some((_, key, rule)) => Err(TrainError::Setting { key, rule }),
            None => Ok(()),
        }
    }

    fn is_target(&self, parameter: &Parameter) -> bool {
        let name = parameter.name();
        let is_named = |part: &String| name.contains(part.as_str());
        parameter.shape().len() == 2
            && parameter.decays() // T5's relative bias is a table in a layer, but no matrix
            && name.contains(".layer.")
            && (self.targets.is_empty() || self.targets.iter().any(is_named))
    }
}

/// The adapters of a model: `W = W₀ + α/r · B A`, where A is (r, in) and drawn, B is (out, r) and begins as 0.
///
/// The product stands in W itself at every step, so forward, backward, evaluation and export know nothing of adapters,
/// and the export is merged by construction. The gradients follow from W's: `dB = α/r · dW Aᵀ`, `dA = α/r · Bᵀ dW`.
///
/// Deviations: no dropout before A, which W's gradient cannot tell; and gradients of whole matrices are computed, so what
/// is saved is the optimizer's memory and the over-fitting, not time.
pub(super) struct Adapters {
    scale: f64,
    adapters: Vec<Adapter>,
    parameters: Parameters,
}

struct Adapter {
    whole: Arc<Parameter>,
    base: Vec<f32>,
    a: Arc<Parameter>,
    b: Arc<Parameter>,
}

impl Adapters {
    pub(super) fn new(
        model: &Parameters,
        config: &LoraConfig,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (mut parameters, mut adapters) = (Parameters::new(), Vec::new());
        for whole in model.iter().filter(|parameter| config.is_target(parameter)) {
            let (n_out, n_in) = (whole.shape()[0], whole.shape()[1]);
            let bound = 1.0 / (n_in as f32).sqrt(); // Kaiming's for √5, as PEFT draws it
            let drawn = (0..config.rank * n_in)
                .map(|_| random.random_range(-bound..bound))
                .collect();
            let mut make = |end: &str, shape: &[usize], values| {
                let name = format!("{}.lora_{end}", whole.name());
                parameters
                    .insert(&name, shape, values, Kind::Matrix)
                    .map_err(TrainingError::from)
            };
            adapters.push(Adapter {
                base: whole.values().map_err(TrainingError::from)?,
                a: make("A", &[config.rank, n_in], drawn)?,
                b: make("B", &[n_out, config.rank], vec![0.0; n_out * config.rank])?,
                whole: whole.clone(),
            });
        }
        let is_used = |part: &str| {
            let mut names = adapters.iter().map(|adapter| adapter.whole.name());
            names.any(|name| name.contains(part))
        };
        if let Some(target) = config.targets.iter().find(|target| !is_used(target)) {
            return Err(TrainError::UnknownTarget {
                name: target.clone(),
            });
        }
        if adapters.is_empty() {
            return Err(TrainError::Nothing {
                hint: ": no matrix of the layers is neither frozen nor in `lora.train`",
            });
        }
        Ok(Self {
            scale: config.alpha / config.rank as f64,
            adapters,
            parameters,
        })
    }

    /// What is trained in place of the matrices.
    pub(super) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Whether a parameter has an adapter.
    pub(super) fn cover(&self, parameter: &Parameter) -> bool {
        self.adapters
            .iter()
            .any(|adapter| adapter.whole.name() == parameter.name())
    }

    /// Turns the gradients of the matrices into those of the adapters.
    pub(super) fn take_gradients(&self) -> Result<(), TrainingError> {
        for adapter in &self.adapters {
            let Some(gradient) = adapter.whole.gradient()? else {
                continue;
            };
            let shape = (adapter.whole.shape()[0], adapter.whole.shape()[1]);
            let gradient = (Tensor::from_vec(gradient, shape, &Device::Cpu)? * self.scale)?;
            let (a, b) = (adapter.a.matrix()?, adapter.b.matrix()?);
            let add = |parameter: &Parameter, gradient: Tensor| {
                parameter.add_gradient(&gradient.flatten_all()?.to_vec1::<f32>()?)
            };
            add(&adapter.b, gradient.matmul(&a.t()?)?)?;
            add(&adapter.a, b.t()?.matmul(&gradient)?)?;
        }
        Ok(())
    }

    /// Puts the products into the matrices.
    pub(super) fn merge(&self) -> Result<(), TrainingError> {
        for adapter in &self.adapters {
            let product = (adapter.b.matrix()?.matmul(&adapter.a.matrix()?)? * self.scale)?;
            let product = product.flatten_all()?.to_vec1::<f32>()?;
            let merged: Vec<f32> = adapter
                .base
                .iter()
                .zip(&product)
                .map(|(w, d)| w + d)
                .collect();
            adapter.whole.set_values(&merged)?;
        }
        Ok(())
    }

    pub(super) fn save(&self, path: &Path) -> Result<(), TrainingError> {
        self.parameters.save(path)
    }

    /// Reads what [`Self::save`] wrote, and merges it.
    pub(super) fn load(&self, path: &Path) -> Result<(), TrainingError> {
        self.parameters.load(path)?;
        self.merge()
    }
}

/// A parameter of two dimensions as a tensor that backward passes do not reach.
trait Matrix {
    fn matrix(&self) -> candle_core::Result<Tensor>;
}

impl Matrix for Parameter {
    fn matrix(&self) -> candle_core::Result<Tensor> {
        Tensor::from_vec(self.values()?, self.shape(), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss `Σ (G ⊙ W)`, of which W's gradient is G, against difference quotients in every value of A and B.
    #[test]
    fn gradients_are_those_of_the_product() {
        let mut model = Parameters::new();
        let weights: Vec<f32> = (0..12).map(|i| (i as f32).cos()).collect();
        let gradient: Vec<f32> = (0..12).map(|i| (i as f32).sin()).collect();
        let whole = model
            .insert(
                "encoder.layer.0.query.weight",
                &[3, 4],
                weights.clone(),
                Kind::Matrix,
            )
            .expect("a new name");
        let config = LoraConfig {
            rank: 2,
            alpha: 6.0,
            ..LoraConfig::default()
        };
        let adapters = Adapters::new(&model, &config, 1).expect("a target");
        let b = adapters
            .parameters()
            .get("encoder.layer.0.query.weight.lora_B")
            .expect("an adapter");
        adapters.merge().expect("shapes fit");
        assert_eq!(whole.values().unwrap(), weights, "B begins as 0");
        b.set_values(&[0.5, -0.25, 0.125, 1.0, -1.0, 0.75])
            .expect("6 values");
        whole.add_gradient(&gradient).expect("12 values");
        adapters.take_gradients().expect("shapes fit");

        let loss = || -> f64 {
            adapters.merge().expect("shapes fit");
            let values = whole.values().unwrap();
            let pairs = values.iter().zip(&gradient);
            pairs.map(|(w, g)| f64::from(*w) * f64::from(*g)).sum()
        };
        for parameter in adapters.parameters().iter() {
            let (values, found) = (
                parameter.values().unwrap(),
                parameter.gradient().unwrap().expect("a gradient"),
            );
            for (i, found) in found.into_iter().enumerate() {
                let mut moved = values.clone();
                let mut at = |shift: f32| {
                    moved[i] = values[i] + shift;
                    parameter.set_values(&moved).expect("as many");
                    loss()
                };
                let quotient = (at(0.125) - at(-0.125)) / 0.25; // the loss is linear in each value
                assert!(
                    (quotient - f64::from(found)).abs() < 1e-5,
                    "{} {i}: {quotient} {found}",
                    parameter.name()
                );
                parameter.set_values(&values).expect("as many");
            }
        }
    }
}
