use std::sync::Arc;

use candle_core::Tensor;

use super::dropout::Dropout;
use super::encoder::{Encoder, apply_layers, check_heads, even, layer_parameters, normal, place};
use super::engine::Engine;
use super::error::TrainingError;
use super::network::Network;
use super::parameter::{Parameter, Parameters};
use crate::architecture::Architecture;
use crate::weights::LayerNames;

/// Layers of the BERT family without tables, such as a decoder of pre-training.
pub struct Stack {
    network: Arc<Network>,
    parameters: Parameters,
    /// One of the parameters, which ties what goes through to the graph.
    anchor: Arc<Parameter>,
}

/// With which weights the layers begin.
#[derive(Clone, Copy)]
pub enum Initial<'a> {
    /// As BERT does: normal with a deviation of 0.02, biases 0.
    Normal {
        /// Seed of the numbers.
        seed: u64,
    },
    /// As PyTorch's linear layers do: weights and biases even within ±1/√(values that come in).
    Uniform {
        /// Seed of the numbers.
        seed: u64,
    },
    /// As the last layers of an encoder.
    Last(&'a Encoder),
}

impl Stack {
    /// Makes `n_layers` layers of the architecture's sizes, named `{name}.{layer}.…` as in BERT.
    ///
    /// # Errors
    /// [`TrainingError::Setting`] without a layer, or for more than the encoder has to copy.
    pub fn new(
        name: &str,
        n_layers: usize,
        architecture: &Architecture,
        initial: Initial<'_>,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        check_heads(architecture, engine)?;
        let n_copied = match initial {
            Initial::Last(encoder) => encoder.architecture().n_layers,
            _ => n_layers,
        };
        if n_layers == 0 || n_layers > n_copied {
            return Err(TrainingError::Setting {
                name: "number of decoder layers",
                value: n_layers as f64,
                rule: "it is at least 1, and at most that of the encoder where layers are copied",
            });
        }
        let a = Architecture {
            n_layers,
            n_buckets: 0,
            ..architecture.clone()
        };
        let (mut parameters, mut layers) = (Parameters::new(), Vec::new());
        for layer in 0..n_layers {
            let names = LayerNames::under(name, a.family, layer);
            let mut draw = Drawing {
                initial,
                stream: (layer as u64) << 8,
                n_in: 0,
                own: format!("{name}.{layer}."),
                layer: n_copied - n_layers + layer,
            };
            let mut make = |own: &str, shape: &[usize], kind| {
                let values = draw.values(own, shape)?;
                Ok(parameters.insert(own, shape, values, kind)?)
            };
            layers.push(layer_parameters(&a, &names, &mut make)?);
        }
        place(&a, &parameters, engine)?;
        let anchor = layers[0].query.weight.clone();
        Ok(Self {
            network: Arc::new(Network::new(engine.clone(), a, layers, None)),
            parameters,
            anchor,
        })
    }

    /// All parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Takes token vectors of texts of these lengths, (T, H), through all layers. Its masks of dropout are those of an
    /// encoder's first layers: give it another [`Dropout::step`].
    ///
    /// # Errors
    /// [`TrainingError::Tensor`] when shapes do not fit.
    pub fn forward(
        &self,
        hidden: &Tensor,
        lengths: &[usize],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let layers = 0..self.network.layers.len();
        apply_layers(
            &self.network,
            &self.anchor,
            layers,
            hidden,
            lengths,
            false,
            dropout,
        )
    }
}

/// Gives the parameters of one layer their first values, in the order in which they are made.
struct Drawing<'a> {
    initial: Initial<'a>,
    /// Counts the parameters.
    stream: u64,
    /// Values that come into the last matrix.
    n_in: usize,
    /// How the names begin, and the layer of the encoder that is copied.
    own: String,
    layer: usize,
}

impl Drawing<'_> {
    fn values(&mut self, name: &str, shape: &[usize]) -> candle_core::Result<Vec<f32>> {
        self.stream += 1;
        let n = shape.iter().product();
        if let [_, n_in] = *shape {
            self.n_in = n_in;
        }
        let part = name.strip_prefix(self.own.as_str()).unwrap_or(name);
        Ok(match self.initial {
            Initial::Last(encoder) => {
                let stem = LayerNames::stem(encoder.architecture().family);
                let parameter = encoder.parameters().iter().find(|one| {
                    one.name()
                        .ends_with(&format!("{stem}.{}.{part}", self.layer))
                });
                parameter.expect("the encoder has this layer").values()?
            }
            _ if part.ends_with("LayerNorm.weight") => vec![1.0; n],
            _ if part.ends_with("LayerNorm.bias") => vec![0.0; n],
            Initial::Uniform { seed } => {
                even(seed, self.stream, n, 1.0 / (self.n_in as f64).sqrt())
            }
            Initial::Normal { .. } if shape.len() == 1 => vec![0.0; n],
            Initial::Normal { seed } => normal(seed, self.stream, n, 0.02),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::EngineConfig;

    fn encoder(engine: &Arc<Engine>) -> Encoder {
        Encoder::load(&testkit::fixture("models/tiny-bert"), engine).unwrap()
    }

    #[test]
    fn copied_layers_compute_what_the_encoders_do() {
        let engine = Engine::new(&EngineConfig::default()).unwrap();
        let encoder = encoder(&engine);
        let a = encoder.architecture();
        let stack = Stack::new("c_head", 1, a, Initial::Last(&encoder), &engine).unwrap();
        let lengths = [3, 5];
        let hidden = Tensor::from_vec(
            normal(1, 1, 8 * a.width, 1.0),
            (8, a.width),
            &candle_core::Device::Cpu,
        );
        let hidden = hidden.unwrap();
        let last = a.n_layers - 1..a.n_layers;
        let expected = encoder.layers(last, &hidden, &lengths, &Dropout::NONE);
        let found = stack.forward(&hidden, &lengths, &Dropout::NONE).unwrap();
        let values = |x: Tensor| x.to_vec2::<f32>().unwrap();
        assert_eq!(values(found), values(expected.unwrap()));
        let names: Vec<&str> = stack.parameters().iter().map(|one| one.name()).collect();
        assert!(
            names.contains(&"c_head.0.attention.output.LayerNorm.bias"),
            "{names:?}"
        );
        let many = Stack::new(
            "c_head",
            a.n_layers + 1,
            a,
            Initial::Last(&encoder),
            &engine,
        );
        assert!(matches!(many, Err(TrainingError::Setting { .. })));
    }

    #[test]
    fn drawn_layers_have_the_deviations_of_their_kind() {
        let engine = Engine::new(&EngineConfig::default()).unwrap();
        let encoder = encoder(&engine);
        let a = encoder.architecture();
        for (initial, bias) in [
            (Initial::Normal { seed: 3 }, 0.0),
            (
                Initial::Uniform { seed: 3 },
                1.0 / 3f64.sqrt() / (a.width as f64).sqrt(),
            ),
        ] {
            let stack = Stack::new("head", 2, a, initial, &engine).unwrap();
            let deviation = |name: &str| {
                let values = stack.parameters().get(name).unwrap().values().unwrap();
                let squares = values.iter().map(|&x| f64::from(x * x)).sum::<f64>();
                (squares / values.len() as f64).sqrt()
            };
            let expected = if bias > 0.0 { bias } else { 0.02 };
            let weight = deviation("head.1.attention.self.query.weight");
            assert!(
                (weight / expected - 1.0).abs() < 0.1,
                "{weight}, not {expected}"
            );
            let found = deviation("head.0.attention.self.key.bias");
            assert!((found - bias).abs() <= 0.3 * bias, "{found}, not {bias}");
            assert_eq!(deviation("head.0.output.LayerNorm.weight"), 1.0);
            assert_eq!(deviation("head.1.output.LayerNorm.bias"), 0.0);
        }
    }
}
