//! Differentiable layers for training on the CPU, or with a device behind the same types ([`Engine::on_device`]).
//!
//! Kernels work on slices; candle stands at the edge. An [`Encoder`] takes packed texts to token vectors in one candle
//! operation, so that losses are written with ordinary candle operations and `loss.backward()` works. Weights, gradients
//! and moments live in [`Parameters`]; [`AdamW`] steps on what backward passes have added up.
//!
//! ```no_run
//! use encoder::training::{AdamW, AdamWConfig, Dropout, Encoder, Engine, EngineConfig};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let texts: Vec<encoder::Tokens> = Vec::new();
//! let engine = Engine::new(&EngineConfig::default())?;
//! let encoder = Encoder::load("all-MiniLM-L6-v2".as_ref(), &engine)?;
//! let mut optimizer = AdamW::new(encoder.parameters(), AdamWConfig::default(), &engine)?;
//! let hidden = encoder.forward(&texts, &Dropout::NONE)?;
//! hidden.sqr()?.mean_all()?.backward()?;
//! optimizer.step(2e-5, Some(1.0))?;
//! # Ok(())
//! # }
//! ```

mod accelerated;
mod adamw;
mod attend;
mod attention;
mod backbone;
mod dropout;
mod encoder;
mod engine;
mod error;
mod function;
mod layer;
mod linear;
mod matrix;
mod network;
mod parameter;
mod register;
mod stack;
mod t5;
mod vocabulary;
mod words;
mod workload;

pub use adamw::{AdamW, AdamWConfig};
pub use attend::Attend;
pub use backbone::Backbone;
pub use dropout::{Dropout, First};
pub use encoder::{Encoder, normal};
pub use engine::{Engine, EngineConfig};
pub use error::TrainingError;
pub use layer::{
    IGNORED, LayerNorm, Linear, cross_entropy, dropout, embedding, first, mean,
    sparse_cross_entropy,
};
pub use matrix::Precision;
pub use parameter::{Extent, Kind, Parameter, Parameters};
pub use stack::{Initial, Stack};
pub use t5::T5;
pub use workload::{StepTimes, TrainingBench, Workload, minilm};

/// Checks the distance of two arrays beside the length of the first.
#[cfg(test)]
fn assert_near(expected: &[f32], found: &[f32], tolerance: f64, name: &str) {
    let length =
        |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let off = length(&mut expected.iter().zip(found).map(|(a, b)| a - b));
    let size = length(&mut expected.iter().copied());
    assert!(off <= tolerance * size, "{name}: {off} of {size}");
}
