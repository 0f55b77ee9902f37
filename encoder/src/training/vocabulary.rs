//! What stands behind a linear layer with many outputs, such as the projection to a vocabulary: cross-entropy, and the greatest
//! logits of texts.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};

use super::encoder::floats;
use super::engine::lock;
use super::function;
use super::layer::Linear;
use super::linear::{Due, PackedLinear, add_vector, add_weight_gradients};
use super::matrix::{Left, PANEL, Panels, Start, multiply};

/// Rows that one thread takes at a time.
const BLOCK: usize = 128;
/// Logits that it has at once: as many as stay in its cache.
const MOST_LOGITS: usize = 1 << 20;

/// `mean(ln Σ e^(x Wᵀ + b) − (x Wᵀ + b)[target])` over rows.
///
/// Logits are never there all at once. The forward makes their gradients at the same time, as operands of the products of the
/// backward, which is left to multiply by the gradient of the mean: that is linear in it.
pub(super) struct VocabularyLoss {
    layer: Linear,
    packed: Arc<PackedLinear>,
    /// The class of each row.
    targets: Vec<u32>,
    tape: Mutex<Vec<Tape>>,
}

/// What a block of rows leaves for the backward.
#[derive(Default)]
struct Tape {
    loss: f64,
    /// Of logits, of the bias, and of the rows.
    gradient: Panels,
    bias: Vec<f32>,
    d_input: Vec<f32>,
}

impl VocabularyLoss {
    pub(super) fn new(layer: &Linear, packed: Arc<PackedLinear>, targets: Vec<u32>) -> Self {
        Self {
            layer: layer.clone(),
            packed,
            targets,
            tape: Mutex::default(),
        }
    }

    fn block(&self, input: &[f32], targets: &[u32], tape: &mut Tape) {
        let (kernel, packed) = (self.layer.engine.kernel, &self.packed);
        let (n_in, n_out) = (self.layer.weight.width(), self.layer.weight.shape()[0]);
        let (n_rows, n_words) = (targets.len(), kernel.words(n_out));
        let mut words = Vec::new();
        kernel.pack(input, n_in, &mut words);
        let mut gradient = vec![0; n_rows * n_words];
        let at_once = (MOST_LOGITS / n_out).clamp(1, n_rows);
        let mut logits = vec![0.0; at_once * n_out];
        let scale = 1.0 / self.targets.len() as f32;
        tape.bias = vec![0.0; n_out];
        for first in (0..n_rows).step_by(at_once) {
            let n = at_once.min(n_rows - first);
            let logits = &mut logits[..n * n_out];
            let row_words = kernel.words(n_in);
            let left = Left::rows(&words[first * row_words..], row_words);
            for panel in packed.forward.iter() {
                let target = (&mut logits[panel.first..], n_out);
                multiply(kernel, left, panel, packed.start(panel), target, n);
            }
            for (row, &target) in logits.chunks_exact_mut(n_out).zip(&targets[first..]) {
                let logit = row[target as usize];
                tape.loss += f64::from(function::softmax(kernel.simd, row, 1.0) - logit);
                row[target as usize] -= 1.0;
                crate::kernel::scale(kernel.simd, row, scale);
            }
            function::add_rows(kernel.simd, logits, n_out, &mut tape.bias);
            let target = &mut gradient[first * n_words..][..n * n_words];
            kernel.pack_into((logits, n_out), n_out, (target, n_words));
        }
        tape.d_input = vec![0.0; input.len()];
        let left = Left::rows(&gradient, n_words);
        for panel in packed.backward.iter() {
            let target = (&mut tape.d_input[panel.first..], n_in);
            multiply(kernel, left, panel, Start::Zero, target, n_rows);
        }
        tape.gradient
            .fill_packed(kernel, &gradient, n_words, n_rows, n_out);
    }
}

impl CustomOp1 for VocabularyLoss {
    fn name(&self) -> &'static str {
        "vocabulary-loss"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (input, n_in) = (floats(storage, layout)?, self.layer.weight.width());
        let mut tapes: Vec<Tape> = Vec::new();
        tapes.resize_with(self.targets.len().div_ceil(BLOCK), Tape::default);
        let blocks = input.chunks(BLOCK * n_in).zip(self.targets.chunks(BLOCK));
        let mut blocks: Vec<_> = blocks.zip(&mut tapes).collect();
        self.layer
            .engine
            .run(&mut blocks, |((input, targets), tape)| {
                self.block(input, targets, tape);
            });
        drop(blocks);
        let sum: f64 = tapes.iter().map(|tape| tape.loss).sum();
        *lock(&self.tape) = tapes;
        let mean = (sum / self.targets.len() as f64) as f32;
        Ok((CpuStorage::F32(vec![mean]), Shape::from(())))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (layer, kernel) = (&self.layer, self.layer.engine.kernel);
        let (n_in, scale) = (layer.weight.width(), gradient.to_scalar::<f32>()?);
        let rows = super::encoder::values(&(input * f64::from(scale))?)?;
        let tapes = &*lock(&self.tape);
        let mut inputs: Vec<(&[f32], Panels)> = rows
            .chunks(BLOCK * n_in)
            .map(|rows| (rows, Panels::default()))
            .collect();
        layer.engine.run(&mut inputs, |(rows, panels)| {
            panels.fill(kernel, rows, n_in, rows.len() / n_in, n_in);
        });
        let operands = tapes.iter().zip(&inputs);
        let operands = operands
            .map(|(tape, (_, input))| (&tape.gradient, input))
            .collect();
        let due = Due {
            parameter: &mut layer.weight.write(),
            n_in,
            operands,
        };
        add_weight_gradients(&layer.engine, &mut [due]);
        let mut d_input = Vec::with_capacity(rows.len());
        for tape in tapes {
            d_input.extend_from_slice(&tape.d_input);
            if let Some(bias) = &layer.bias {
                let mut gradient = tape.bias.clone();
                crate::kernel::scale(kernel.simd, &mut gradient, scale);
                add_vector(&mut bias.write(), &gradient);
            }
        }
        crate::kernel::scale(kernel.simd, &mut d_input, scale);
        Ok(Some(Tensor::from_vec(
            d_input,
            input.shape(),
            &Device::Cpu,
        )?))
    }
}

/// `max over a text's rows x of (x Wᵀ + b)` for each output.
///
/// Logits are there for one panel of outputs at a time. Each greatest one has the gradient of its own row alone.
pub(super) struct LargestOfTexts {
    layer: Linear,
    packed: Arc<PackedLinear>,
    /// Rows of each text.
    lengths: Vec<usize>,
    /// The row of each greatest logit, (texts, out).
    rows: Mutex<Vec<u32>>,
}

impl LargestOfTexts {
    pub(super) fn new(layer: &Linear, packed: Arc<PackedLinear>, lengths: Vec<usize>) -> Self {
        Self {
            layer: layer.clone(),
            packed,
            lengths,
            rows: Mutex::default(),
        }
    }

    /// Each text's number and rows.
    fn texts(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let mut start = 0;
        self.lengths.iter().enumerate().map(move |(text, &n)| {
            let first = start;
            start += n;
            (text, first..start)
        })
    }
}

impl CustomOp1 for LargestOfTexts {
    fn name(&self) -> &'static str {
        "largest-of-texts"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = floats(storage, layout)?;
        let (engine, packed) = (&self.layer.engine, &*self.packed);
        let (n_in, n_out) = (self.layer.weight.width(), self.layer.weight.shape()[0]);
        let (kernel, n_texts) = (engine.kernel, self.lengths.len());
        let (mut words, row_words) = (Vec::new(), kernel.words(n_in));
        kernel.pack(input, n_in, &mut words);
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let mut panels: Vec<(usize, Vec<(f32, u32)>)> = (0..packed.forward.n_panels())
            .map(|panel| (panel, Vec::new()))
            .collect();
        engine.run(&mut panels, |(panel, largest)| {
            let panel = packed.forward.panel(*panel);
            let mut logits = vec![0.0; longest * PANEL];
            for (_, rows) in self.texts() {
                let left = Left::rows(&words[rows.start * row_words..], row_words);
                let target = (&mut logits[..], PANEL);
                multiply(kernel, left, panel, packed.start(panel), target, rows.len());
                let first = largest.len();
                largest.resize(first + panel.kept, (f32::NEG_INFINITY, rows.start as u32));
                for (row, logits) in rows.zip(logits.chunks_exact(PANEL)) {
                    for (largest, &logit) in largest[first..].iter_mut().zip(logits) {
                        // NaN is the greatest, so that it does not go unseen.
                        if logit > largest.0 || logit.is_nan() {
                            *largest = (logit, row as u32);
                        }
                    }
                }
            }
        });
        let (mut values, mut rows) = (Vec::new(), Vec::new());
        for text in 0..n_texts {
            for (_, largest) in &panels {
                let n = largest.len() / n_texts;
                let (some_values, some_rows): (Vec<f32>, Vec<u32>) =
                    largest[text * n..][..n].iter().copied().unzip();
                values.extend(some_values);
                rows.extend(some_rows);
            }
        }
        *lock(&self.rows) = rows;
        Ok((CpuStorage::F32(values), Shape::from((n_texts, n_out))))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (layer, simd) = (&self.layer, self.layer.engine.kernel.simd);
        let (n_in, n_out) = (layer.weight.width(), layer.weight.shape()[0]);
        let (x, gradient) = (
            super::encoder::values(input)?,
            super::encoder::values(gradient)?,
        );
        let rows = &*lock(&self.rows);
        let mut d_input = vec![0.0; x.len()];
        {
            let weight = layer.weight.read()?;
            let (mut rest, mut texts) = (&mut d_input[..], Vec::new());
            for (text, of_text) in self.texts() {
                let (d_rows, tail) = rest.split_at_mut(of_text.len() * n_in);
                rest = tail;
                texts.push((text, of_text.start, d_rows));
            }
            layer.engine.run(&mut texts, |(text, first, d_rows)| {
                let own = *text * n_out..(*text + 1) * n_out;
                let weights = weight.values.chunks_exact(n_in);
                for ((&row, &factor), weights) in
                    rows[own.clone()].iter().zip(&gradient[own]).zip(weights)
                {
                    let target = &mut d_rows[(row as usize - *first) * n_in..][..n_in];
                    crate::kernel::add_scaled(simd, target, factor, weights);
                }
            });
        }
        let mut d_weight = vec![0.0; n_out * n_in];
        let mut strips: Vec<_> = d_weight.chunks_mut(PANEL * n_in).enumerate().collect();
        layer.engine.run(&mut strips, |(strip, d_weight)| {
            for (i, target) in d_weight.chunks_exact_mut(n_in).enumerate() {
                for text in 0..self.lengths.len() {
                    let at = text * n_out + *strip * PANEL + i;
                    let row = &x[rows[at] as usize * n_in..][..n_in];
                    crate::kernel::add_scaled(simd, target, gradient[at], row);
                }
            }
        });
        add_vector(&mut layer.weight.write(), &d_weight);
        if let Some(bias) = &layer.bias {
            let mut sum = vec![0.0; n_out];
            function::add_rows(simd, &gradient, n_out, &mut sum);
            add_vector(&mut bias.write(), &sum);
        }
        Ok(Some(Tensor::from_vec(
            d_input,
            input.shape(),
            &Device::Cpu,
        )?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use crate::training::{
        Engine, EngineConfig, Kind, Linear, Parameters, Precision, assert_near, cross_entropy,
        normal,
    };

    /// The texts of one row and of many, outputs that fill no panel; a layer without bias.
    #[test]
    fn the_greatest_of_texts_are_those_of_all_logits() {
        let lengths = [1, 40, 7, 129];
        let n_rows = lengths.iter().sum::<usize>();
        for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 1e-2)] {
            for (n_out, has_bias) in [(1_001, true), (9, false)] {
                let config = EngineConfig {
                    precision,
                    ..EngineConfig::default()
                };
                let engine = Engine::new(&config).unwrap();
                let outcome = |fused: bool| {
                    let mut parameters = Parameters::new();
                    let mut insert = |name: &str, shape: &[usize], kind| {
                        let values = normal(5, name.len() as u64, shape.iter().product(), 0.3);
                        parameters.insert(name, shape, values, kind).unwrap()
                    };
                    let weight = insert("w", &[n_out, 12], Kind::Matrix);
                    let x = insert("rows", &[n_rows, 12], Kind::Matrix)
                        .tensor()
                        .unwrap();
                    let bias = has_bias.then(|| insert("bias", &[n_out], Kind::Plain));
                    let layer = match &bias {
                        Some(bias) => Linear::tied(&weight, bias, &engine).unwrap(),
                        None => Linear::without_bias(&weight, &engine),
                    };
                    let largest = match fused {
                        true => layer.largest(&x, &lengths).unwrap(),
                        false => {
                            let mut start = 0;
                            let logits = layer.forward(&x).unwrap();
                            let of_text = |&n: &usize| {
                                start += n;
                                logits.narrow(0, start - n, n).unwrap().max(0).unwrap()
                            };
                            Tensor::stack(&lengths.iter().map(of_text).collect::<Vec<_>>(), 0)
                                .unwrap()
                        }
                    };
                    let factors = normal(5, 100, lengths.len() * n_out, 1.0);
                    let factors = Tensor::from_vec(factors, largest.shape(), &Device::Cpu).unwrap();
                    let loss = (&largest * factors).unwrap().sum_all().unwrap();
                    loss.backward().unwrap();
                    let largest = largest.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    let gradients = parameters
                        .iter()
                        .map(|one| one.gradient().unwrap().unwrap());
                    std::iter::once(largest)
                        .chain(gradients)
                        .collect::<Vec<_>>()
                };
                let (expected, found) = (outcome(false), outcome(true));
                assert_eq!(expected[0], found[0], "{precision:?} {n_out}");
                for (expected, found) in expected.iter().zip(&found) {
                    assert_near(
                        expected,
                        found,
                        tolerance,
                        &format!("{precision:?} {n_out}"),
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_the_greatest() {
        let engine = Engine::new(&EngineConfig::default()).unwrap();
        let mut parameters = Parameters::new();
        let weight = parameters
            .insert("w", &[1, 1], vec![1.0], Kind::Matrix)
            .unwrap();
        let x = Tensor::new(&[[2.0f32], [f32::NAN], [3.0]], &Device::Cpu).unwrap();
        let layer = Linear::without_bias(&weight, &engine);
        let largest = |lengths: &[usize]| {
            layer
                .largest(&x, lengths)
                .unwrap()
                .to_vec2::<f32>()
                .unwrap()
        };
        assert!(largest(&[3])[0][0].is_nan());
        assert_eq!(largest(&[1, 1, 1])[2][0], 3.0);
        let error = layer.largest(&x, &[2, 0, 1]).unwrap_err().to_string();
        assert!(
            error.contains("3 rows are not those of texts [2, 0, 1]"),
            "{error}"
        );
    }

    /// Several blocks, and several times the logits that are held at once; a layer without bias; an odd number of classes.
    #[test]
    fn losses_and_gradients_are_those_of_all_logits() {
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 1e-2)] {
            for (n_rows, n_classes, has_bias) in
                [(300, 20_001, true), (129, 9, false), (1, 2, true)]
            {
                let config = EngineConfig {
                    precision,
                    ..EngineConfig::default()
                };
                let engine = Engine::new(&config).unwrap();
                let targets: Vec<i64> = (0..n_rows).map(|i| i * 7919 % n_classes).collect();
                let outcome = |fused: bool| {
                    let mut parameters = Parameters::new();
                    let n = n_classes as usize;
                    let mut insert = |name: &str, shape: &[usize], kind| {
                        let values = normal(3, name.len() as u64, shape.iter().product(), 0.3);
                        parameters.insert(name, shape, values, kind).unwrap()
                    };
                    let weight = insert("w", &[n, 12], Kind::Matrix);
                    let x = insert("rows", &[n_rows as usize, 12], Kind::Matrix);
                    let bias = has_bias.then(|| insert("bias", &[n], Kind::Plain));
                    let layer = match &bias {
                        Some(bias) => Linear::tied(&weight, bias, &engine).unwrap(),
                        None => Linear::without_bias(&weight, &engine),
                    };
                    let x = x.tensor().unwrap();
                    let loss = match fused {
                        true => layer.cross_entropy(&x, &targets),
                        false => cross_entropy(&layer.forward(&x).unwrap(), &targets),
                    };
                    let loss = (loss.unwrap() * 0.7).unwrap();
                    loss.backward().unwrap();
                    let gradients = parameters
                        .iter()
                        .map(|one| one.gradient().unwrap().unwrap());
                    (
                        loss.to_scalar::<f32>().unwrap(),
                        gradients.collect::<Vec<_>>(),
                    )
                };
                let (expected, found) = (outcome(false), outcome(true));
                let name = format!("{precision:?} {n_rows} x {n_classes}");
                assert!(
                    (expected.0 - found.0).abs() <= 1e-6 * expected.0,
                    "{name}: {found:?}"
                );
                for (expected, found) in expected.1.iter().zip(&found.1) {
                    assert_near(expected, found, tolerance, &name);
                }
            }
        }
    }
}
