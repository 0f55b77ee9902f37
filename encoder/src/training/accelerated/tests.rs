//! Training on an emulated device, and on a GPU where there is one, beside training on the CPU: the same operations, losses and steps.
//!
//! Tolerances in f32 are some hundreds of units in the last place of the greatest value: both sides sum in orders of their own, and a GPU in a third
//! one. In bf16, each product rounds its operands to 2⁻⁸.

use std::sync::Arc;

use candle_core::Tensor;
use compute::accelerator::SharedAccelerator;
use compute::thread_budget;
use emulated_gpu::EmulatedGpu;

use crate::Tokens;
use crate::architecture::{Activation, Architecture};
use crate::training::{
    AdamW, AdamWConfig, Dropout, Encoder, Engine, EngineConfig, First, IGNORED, Initial, Kind,
    Linear, Parameters, Precision, Stack, TrainingError, cross_entropy, embedding, normal,
    sparse_cross_entropy,
};

fn config(precision: Precision) -> EngineConfig {
    EngineConfig {
        precision,
        threads: thread_budget(Some(1)),
        ..EngineConfig::default()
    }
}

/// The CPU beside each device.
fn engines(precision: Precision) -> Vec<[Arc<Engine>; 2]> {
    let config = config(precision);
    let beside = |device| {
        [
            Engine::new(&config).expect("threads start"),
            Engine::on_device(&config, device).expect("kernels are known"),
        ]
    };
    let emulated: SharedAccelerator = EmulatedGpu::new("gpu:0", 1 << 28);
    let devices = [emulated].into_iter().chain(testkit::gpu());
    devices.map(beside).collect()
}

fn architecture() -> Architecture {
    let path = testkit::fixture("models/tiny-bert").join("config.json");
    Architecture::read(&path).expect("the fixture has a configuration")
}

/// Wider heads, other functions, odd sizes.
fn shapes() -> [Architecture; 3] {
    let tiny = architecture();
    [
        tiny.clone(),
        Architecture {
            width: 48,
            n_heads: 2,
            n_intermediate: 104,
            n_layers: 1,
            activation: Activation::GeluTanh,
            ..tiny.clone()
        },
        Architecture {
            width: 64,
            n_heads: 1,
            n_intermediate: 72,
            n_types: 0,
            activation: Activation::Relu,
            ..tiny
        },
    ]
}

/// Texts of these lengths, with ids that repeat.
fn texts(lengths: &[usize]) -> Vec<Tokens> {
    let text = |(text, &length): (usize, &usize)| Tokens {
        ids: (0..length)
            .map(|i| ((i * 7 + text * 5) % 23) as u32 + 5)
            .collect(),
        type_ids: (0..length).map(|i| u32::from(2 * i > length)).collect(),
        ..Tokens::default()
    };
    lengths.iter().enumerate().map(text).collect()
}

const LENGTHS: [usize; 5] = [3, 17, 1, 40, 9];

fn dropout(step: u64) -> Dropout {
    Dropout {
        hidden: 0.2,
        attention: 0.1,
        seed: 3,
        step,
        first: First { text: 4, row: 70 },
    }
}

/// Greatest difference of two vectors, of the greatest value of the first.
fn difference(expected: &[f32], found: &[f32]) -> f32 {
    assert_eq!(expected.len(), found.len());
    let most = expected.iter().fold(1e-6f32, |most, x| most.max(x.abs()));
    let pairs = expected.iter().zip(found);
    pairs.fold(0.0f32, |worst, (a, b)| {
        assert!(b.is_finite(), "{b}");
        worst.max((a - b).abs())
    }) / most
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    let values = tensor.flatten_all().and_then(|values| values.to_vec1());
    values.expect("f32 on the host")
}

/// A loss in which every value of `x` has another share.
fn weigh(x: &Tensor) -> Tensor {
    let n = x.elem_count();
    let shares = Tensor::from_vec(normal(9, 9, n, 1.0), x.shape(), x.device()).unwrap();
    (x * shares).unwrap().sum_all().unwrap()
}

/// What all gradients are at most apart, of their own size.
fn compare_gradients(name: &str, expected: &Parameters, found: &Parameters, tolerance: f32) {
    let mut n = 0;
    for (a, b) in expected.iter().zip(found.iter()) {
        assert_eq!(a.name(), b.name());
        // The loss does not depend on the bias of keys: on the CPU its gradient is rounding, and nothing else.
        if a.name().ends_with("key.bias") {
            continue;
        }
        let (a_gradient, b_gradient) = (a.gradient().unwrap(), b.gradient().unwrap());
        assert_eq!(
            a_gradient.is_some(),
            b_gradient.is_some(),
            "{name}: {}",
            a.name()
        );
        if let (Some(a_gradient), Some(b_gradient)) = (a_gradient, b_gradient) {
            let worst = difference(&a_gradient, &b_gradient);
            assert!(
                worst < tolerance,
                "{name}: gradient of {} is {worst} off",
                a.name()
            );
            n += 1;
        }
    }
    assert!(n > 0, "{name}: there are gradients");
}

type Pass = fn(&Encoder, &[Tokens], &Dropout) -> Result<Tensor, TrainingError>;

#[test]
fn vectors_and_gradients_are_those_of_the_cpu() {
    let passes: [(&str, Pass); 5] = [
        ("tokens", |encoder, texts, dropout| {
            encoder.forward(texts, dropout)
        }),
        ("first", |encoder, texts, dropout| {
            encoder.forward_first(texts, dropout)
        }),
        ("mean", |encoder, texts, dropout| {
            encoder.forward_mean(texts, dropout)
        }),
        ("tables", |encoder, texts, dropout| {
            encoder.embed(texts, dropout)
        }),
        ("in parts", |encoder, texts, dropout| {
            let lengths: Vec<usize> = texts.iter().map(Tokens::len).collect();
            let hidden = encoder.embed(texts, dropout)?;
            let n = encoder.architecture().n_layers;
            let hidden = encoder.layers(0..1, &hidden, &lengths, dropout)?;
            encoder.layers(1..n, &hidden, &lengths, dropout)
        }),
    ];
    let texts = texts(&LENGTHS);
    for (precision, tolerance) in [(Precision::F32, 3e-5), (Precision::Bf16, 5e-2)] {
        for engines in engines(precision) {
            for (shape, a) in shapes().into_iter().enumerate() {
                for (pass_name, pass) in &passes {
                    for dropout in [Dropout::NONE, dropout(1)] {
                        let name = format!("{precision:?} {shape} {pass_name} {}", dropout.hidden);
                        let [cpu, device] = engines.each_ref().map(|engine| {
                            let encoder = Encoder::random(a.clone(), 5, engine).unwrap();
                            let vectors = pass(&encoder, &texts, &dropout).unwrap();
                            weigh(&vectors).backward().unwrap();
                            (encoder, flat(&vectors))
                        });
                        let worst = difference(&cpu.1, &device.1);
                        assert!(worst < tolerance, "{name}: vectors are {worst} off");
                        compare_gradients(
                            &name,
                            cpu.0.parameters(),
                            device.0.parameters(),
                            tolerance,
                        );
                    }
                }
            }
        }
    }
}

/// The loss of texts whose tokens are to be told from their vectors by the token table, as masked language models have it.
fn language_loss(encoder: &Encoder, bias: &Parameters, engine: &Arc<Engine>, step: u64) -> Tensor {
    let texts = texts(&LENGTHS);
    let hidden = encoder.forward(&texts, &dropout(step)).unwrap();
    let tokens = encoder
        .parameters()
        .get("embeddings.word_embeddings.weight");
    let projection = Linear::tied(tokens.unwrap(), bias.get("bias").unwrap(), engine).unwrap();
    let ids = texts.iter().flat_map(|text| &text.ids).enumerate();
    let targets: Vec<i64> = ids
        .map(|(i, &id)| if i % 3 == 0 { i64::from(id) } else { IGNORED })
        .collect();
    sparse_cross_entropy(&hidden, &projection, &targets).unwrap()
}

struct Trained {
    engine: Arc<Engine>,
    encoder: Encoder,
    own: Parameters,
    all: Parameters,
    optimizer: AdamW,
}

impl Trained {
    fn new(engine: &Arc<Engine>) -> Self {
        let encoder = Encoder::random(architecture(), 5, engine).unwrap();
        let n = encoder.architecture().n_vocabulary;
        let mut own = Parameters::new();
        own.insert("bias", &[n], normal(1, 2, n, 0.02), Kind::Plain)
            .unwrap();
        let mut all = encoder.parameters().clone();
        all.extend(&own);
        let adamw = AdamWConfig {
            epsilon: 1e-6,
            weight_decay: 0.1,
            ..AdamWConfig::default()
        };
        Self {
            optimizer: AdamW::new(&all, adamw, engine).unwrap(),
            engine: engine.clone(),
            encoder,
            own,
            all,
        }
    }

    fn step(&mut self, step: u64) -> (f32, f64) {
        let loss = language_loss(&self.encoder, &self.own, &self.engine, step);
        loss.backward().unwrap();
        let norm = self.optimizer.step(1e-3, Some(0.5)).unwrap();
        (loss.to_scalar().unwrap(), norm)
    }

    fn values(&self) -> Vec<(String, Vec<f32>)> {
        let values =
            |p: &Arc<crate::training::Parameter>| (p.name().to_owned(), p.values().unwrap());
        self.all.iter().map(values).collect()
    }
}

#[test]
fn steps_of_the_optimizer_are_those_of_the_cpu() {
    for [cpu, device] in engines(Precision::F32) {
        let [mut cpu, mut device] = [cpu, device].map(|engine| Trained::new(&engine));
        let before = cpu.values();
        for step in 0..6 {
            let (expected, found) = (cpu.step(step), device.step(step));
            assert!(
                (expected.0 - found.0).abs() < 2e-4,
                "loss {found:?} for {expected:?}"
            );
            assert!(
                (expected.1 / found.1 - 1.0).abs() < 1e-3,
                "norm {found:?} for {expected:?}"
            );
        }
        assert!(cpu.encoder.engine().operations() > 0);
        let operations = [&cpu, &device].map(|trained| trained.engine.operations() as f64);
        assert!(
            (operations[0] / operations[1] - 1.0).abs() < 0.1,
            "{operations:?} operations"
        );
        for ((name, expected), ((_, before), (_, found))) in cpu
            .values()
            .into_iter()
            .zip(before.into_iter().zip(device.values()))
        {
            if name.ends_with("key.bias") {
                continue; // rounding on the CPU, which steps of AdamW make as large as any
            }
            let moved = difference(&before, &expected);
            assert!(moved > 1e-4, "{name} has moved by {moved}");
            let moves = |after: &[f32]| -> Vec<f32> {
                after
                    .iter()
                    .zip(&before)
                    .map(|(after, before)| after - before)
                    .collect()
            };
            let off = difference(&moves(&expected), &moves(&found));
            assert!(off < 0.05, "{name} is {off} of its way off");
        }
    }
}

#[test]
fn a_run_goes_on_from_its_files_bit_for_bit_and_between_cpu_and_device() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, moments) = (folder.path().join("w"), folder.path().join("m"));
    for [cpu, device] in engines(Precision::F32) {
        let mut whole = Trained::new(&device);
        for step in 0..2 {
            whole.step(step);
        }
        whole.all.save(&weights).unwrap();
        whole.optimizer.save(&moments).unwrap();
        let load = |engine: &Arc<Engine>| {
            let mut trained = Trained::new(engine);
            trained.all.load(&weights).unwrap();
            trained.optimizer.load(&moments).unwrap();
            trained
        };
        let [mut again, mut on_cpu] = [load(&device), load(&cpu)];
        let expected = whole.step(2);
        assert_eq!(again.step(2), expected);
        assert_eq!(again.values(), whole.values());
        let found = on_cpu.step(2);
        assert!(
            (found.0 - expected.0).abs() < 1e-4,
            "{found:?} for {expected:?}"
        );

        // What the CPU has put off is done when a device goes on.
        on_cpu.all.save(&weights).unwrap();
        on_cpu.optimizer.save(&moments).unwrap();
        let mut back = load(&device);
        for ((name, expected), (_, found)) in on_cpu.values().into_iter().zip(back.values()) {
            assert_eq!(expected, found, "{name}");
        }
        let (expected, found) = (on_cpu.step(3), back.step(3));
        assert!(
            (expected.0 - found.0).abs() < 2e-4,
            "{found:?} for {expected:?}"
        );
    }
}

#[test]
fn parameters_on_a_device_are_read_and_written_as_others() {
    for [_, engine] in engines(Precision::F32) {
        let mut parameters = Parameters::new();
        let table = normal(1, 1, 48, 1.0);
        let table = parameters.insert("t", &[6, 8], table, Kind::Table).unwrap();
        let bias = parameters
            .insert("b", &[6], vec![0.5; 6], Kind::Plain)
            .unwrap();
        let projection = Linear::tied(&table, &bias, &engine).unwrap();
        let before = table.values().unwrap();
        assert_eq!(table.gradient().unwrap(), None);
        let rows = embedding(&table, &[4, 1, 4]).unwrap();
        assert_eq!(flat(&rows)[8..16], before[8..16]);
        weigh(&rows).backward().unwrap();
        let shares = normal(9, 9, 24, 1.0);
        let gradient = table.gradient().unwrap().unwrap();
        for i in 0..8 {
            assert_eq!(gradient[8 + i], shares[8 + i]);
            assert_eq!(gradient[32 + i], shares[i] + shares[16 + i]);
        }
        assert!(gradient[..8].iter().all(|&x| x == 0.0));
        table.add_gradient(&[1.0; 48]).unwrap();
        assert_eq!(table.gradient().unwrap().unwrap()[0], 1.0);
        let mut all = Vec::new();
        table
            .append_gradient(&table.gradient_extent(), &mut all)
            .unwrap();
        assert_eq!(all[32], shares[0] + shares[16] + 1.0);
        parameters.clear_gradients();
        assert_eq!(table.gradient().unwrap(), None);

        // More rows than a block adds up, and a few of another.
        let ids: Vec<u32> = (0..1000)
            .map(|i| if i % 100 == 7 { 3 } else { 2 })
            .collect();
        weigh(&embedding(&table, &ids).unwrap()).backward().unwrap();
        let shares = normal(9, 9, 8000, 1.0);
        let gradient = table.gradient().unwrap().unwrap();
        for id in [2, 3] {
            let rows = shares.chunks(8).zip(&ids).filter(|(_, own)| **own == id);
            let expected = rows.fold([0.0f64; 8], |mut sum, (row, _)| {
                sum.iter_mut()
                    .zip(row)
                    .for_each(|(sum, &x)| *sum += f64::from(x));
                sum
            });
            for (i, expected) in expected.iter().enumerate() {
                let found = f64::from(gradient[id as usize * 8 + i]);
                assert!((found - expected).abs() < 1e-3, "{found} for {expected}");
            }
        }
        parameters.clear_gradients();

        // A step on the device is seen by whoever reads on the host, whole or by row.
        weigh(&projection.forward(&rows.detach()).unwrap())
            .backward()
            .unwrap();
        let mut optimizer = AdamW::new(&parameters, AdamWConfig::default(), &engine).unwrap();
        optimizer.step(0.1, None).unwrap();
        let rows = flat(&embedding(&table, &[5]).unwrap());
        let after = table.values().unwrap();
        assert_ne!(after, before);
        assert_eq!(rows, after[40..]);
        table.set_values(&before).unwrap();
        assert_eq!(flat(&embedding(&table, &[0]).unwrap()), before[..8]);
        assert_eq!(flat(&table.tensor().unwrap()), before);
    }
}

#[test]
fn single_layers_are_those_of_the_cpu() {
    for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 2e-2)] {
        for activation in [None, Some(Activation::Gelu)] {
            for engines in engines(precision) {
                let [cpu, device] = engines.map(|engine| {
                    let mut parameters = Parameters::new();
                    let values = (normal(1, 1, 30 * 16, 0.3), normal(1, 2, 30, 0.3));
                    let layer = Linear::new(&mut parameters, "l", values, &engine).unwrap();
                    let layer = match activation {
                        Some(activation) => layer.with_activation(activation),
                        None => layer,
                    };
                    let input =
                        parameters.insert("x", &[7, 16], normal(2, 2, 112, 1.0), Kind::Matrix);
                    let x = input.unwrap().tensor().unwrap();
                    let logits = layer.forward(&x).unwrap();
                    let targets = [0, 29, 3, 3, 17, 8, 1];
                    let loss = layer.cross_entropy(&x, &targets).unwrap();
                    let expected = cross_entropy(&logits, &targets).unwrap();
                    let [loss, expected] = [loss, expected].map(|loss| (loss * 0.7).unwrap());
                    loss.backward().unwrap();
                    let expected = expected.to_scalar::<f32>().unwrap();
                    let found = loss.to_scalar::<f32>().unwrap();
                    assert!(
                        (found - expected).abs() < tolerance,
                        "{found} for {expected}"
                    );
                    weigh(&logits).backward().unwrap();
                    (parameters, flat(&logits))
                });
                let name = format!("{precision:?} {activation:?}");
                let worst = difference(&cpu.1, &device.1);
                assert!(worst < tolerance, "{name}: {worst} off");
                compare_gradients(&name, &cpu.0, &device.0, 2.0 * tolerance);
            }
        }
    }
}

#[test]
fn stacks_of_layers_are_those_of_the_cpu() {
    let a = architecture();
    let lengths = [3, 5];
    for engines in engines(Precision::F32) {
        let [cpu, device] = engines.map(|engine| {
            let stack = Stack::new("head", 2, &a, Initial::Uniform { seed: 3 }, &engine).unwrap();
            let mut input = Parameters::new();
            let values = normal(1, 1, 8 * a.width, 1.0);
            let input = input
                .insert("x", &[8, a.width], values, Kind::Matrix)
                .unwrap();
            let hidden = input.tensor().unwrap();
            let out = stack.forward(&hidden, &lengths, &dropout(2)).unwrap();
            weigh(&out).backward().unwrap();
            let gradient = input.gradient().unwrap().unwrap();
            (stack, flat(&out), gradient)
        });
        assert!(difference(&cpu.1, &device.1) < 1e-5);
        assert!(
            difference(&cpu.2, &device.2) < 3e-5,
            "gradient of the input"
        );
        compare_gradients("stack", cpu.0.parameters(), device.0.parameters(), 3e-5);
    }
}

#[test]
fn what_a_device_cannot_train_is_refused_by_name() {
    let engine = Engine::on_device(&config(Precision::Bf16), EmulatedGpu::new("gpu:0", 1 << 28));
    let engine = engine.unwrap();
    let folder = testkit::fixture("models/tiny-mpnet");
    let Err(error) = Encoder::load(&folder, &engine) else {
        panic!("MPNet has relative positions");
    };
    assert_eq!(
        error.to_string(),
        "gpu:0 cannot train this model: it has relative positions"
    );
    let engine =
        Engine::on_device(&config(Precision::F32), EmulatedGpu::new("gpu:0", 1 << 20)).unwrap();
    let a = Architecture {
        n_vocabulary: 9000,
        ..architecture()
    };
    let Err(error) = Encoder::random(a, 1, &engine) else {
        panic!("9,000 rows do not fit in a mebibyte");
    };
    assert!(
        error.to_string().contains("gpu:0 has no room for"),
        "{error}"
    );
}

#[test]
fn a_loss_that_is_not_finite_names_the_parameter_and_changes_nothing() {
    for [_, engine] in engines(Precision::F32) {
        let mut trained = Trained::new(&engine);
        let before = trained.values();
        let bias = trained.own.get("bias").unwrap();
        bias.add_gradient(&vec![f32::NAN; bias.shape()[0]]).unwrap();
        let error = trained.optimizer.step(1e-3, None).unwrap_err();
        assert_eq!(error.to_string(), "gradient of `bias` is not finite");
        assert_eq!(trained.values(), before);
    }
}
