//! Models on an accelerator, which is emulated, are those of the CPU.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use compute::accelerator::{AcceleratorError, SharedAccelerator};
use emulated_gpu::EmulatedGpu;
use encoder::training::{Encoder, Engine, EngineConfig};
use encoder::{
    AcceleratorConfig, Architecture, Arithmetic, BiEncoder, CrossEncoder, EncodeError,
    EncoderConfig, Golden, LoadError, ModelOptions, Output, Tokens,
};
use serde_json::json;

use crate::directories::{copy, edit, edit_weights};

const BI_ENCODERS: [&str; 9] = [
    "tiny-bert",
    "tiny-bert-cls-dense",
    "tiny-bert-last",
    "tiny-bert-weighted",
    "tiny-bert-bin",
    "tiny-roberta",
    "tiny-xlm-roberta",
    "tiny-distilbert",
    "tiny-mpnet",
];

const CROSS_ENCODERS: [&str; 4] = [
    "tiny-cross-bert",
    "tiny-cross-bert-3",
    "tiny-cross-roberta",
    "tiny-cross-distilbert",
];

/// The least cosine to f32 on the CPU. The random weights of these models are wide, which makes the losses large.
const ARITHMETIC: [(Arithmetic, f64); 3] = [
    (Arithmetic::F32, 0.999_99),
    (Arithmetic::F16, 0.9999),
    (Arithmetic::Bf16, 0.999),
];

fn gpu(n_bytes: u64) -> Arc<EmulatedGpu> {
    EmulatedGpu::new("gpu:0", n_bytes)
}

fn on(device: &Arc<EmulatedGpu>, arithmetic: Arithmetic, batch_tokens: usize) -> EncoderConfig {
    on_all(vec![device.clone()], arithmetic, batch_tokens)
}

fn on_all(
    devices: Vec<SharedAccelerator>,
    arithmetic: Arithmetic,
    batch_tokens: usize,
) -> EncoderConfig {
    EncoderConfig {
        threads: 1,
        arithmetic,
        accelerator: Some(AcceleratorConfig {
            batch_tokens,
            ..AcceleratorConfig::new(devices)
        }),
        ..EncoderConfig::default()
    }
}

fn on_cpu() -> EncoderConfig {
    EncoderConfig {
        threads: 1,
        ..EncoderConfig::default()
    }
}

fn bi(path: &Path, config: &EncoderConfig) -> BiEncoder {
    BiEncoder::load(path, &ModelOptions::default(), config).expect("the model loads")
}

fn fixture(name: &str) -> std::path::PathBuf {
    testkit::fixture("models").join(name)
}

/// Texts of ids all over the table; of some, tokens are left out of the pooling.
fn texts(lengths: &[usize], n_vocabulary: usize) -> Vec<Tokens> {
    let text = |(seed, &length): (usize, &usize)| Tokens {
        ids: (0..length)
            .map(|i| ((i * 131 + seed * 17 + 3) % n_vocabulary) as u32)
            .collect(),
        type_ids: vec![0; length],
        n_unpooled: seed % 3,
        ..Tokens::default()
    };
    lengths.iter().enumerate().map(text).collect()
}

fn n_vocabulary(path: &Path) -> usize {
    Architecture::read(&path.join("config.json"))
        .expect("config.json is valid")
        .n_vocabulary
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn shared(devices: &[Arc<EmulatedGpu>]) -> Vec<SharedAccelerator> {
    let devices = devices.iter();
    devices
        .map(|device| device.clone() as SharedAccelerator)
        .collect()
}

/// Compares what a bi-encoder makes of texts with what the CPU makes of them in f32.
fn check_vectors(path: &Path, texts: &[Tokens], outputs: &[Output]) {
    check_vectors_on((vec![gpu(1 << 28)], 300, 1), path, texts, outputs);
    if let Some(gpu) = testkit::gpu() {
        // The work of few tokens is recorded the second time, and replayed the third.
        check_vectors_on((vec![gpu.clone()], 300, 3), path, texts, outputs);
        check_vectors_on((vec![gpu; 2], 100, 3), path, texts, outputs);
    }
}

/// Encodes so many times, with as many tokens in a group.
fn check_vectors_on(
    (devices, batch_tokens, n_times): (Vec<SharedAccelerator>, usize, usize),
    path: &Path,
    texts: &[Tokens],
    outputs: &[Output],
) {
    let plain = bi(path, &on_cpu());
    for (arithmetic, least) in ARITHMETIC {
        let encoder = bi(path, &on_all(devices.clone(), arithmetic, batch_tokens));
        let name = format!("{} {arithmetic:?}", path.display());
        let outputs = std::iter::repeat_n(outputs, n_times).flatten();
        for &output in outputs {
            let found = encoder.encode_as(texts, output).expect("texts encode");
            let expected = plain.encode_as(texts, output).expect("texts encode");
            assert_eq!(found.len(), expected.len());
            let (mut found, mut expected) = (found.as_slice(), expected.as_slice());
            for (row, text) in texts.iter().enumerate() {
                let n_values = plain.n_values(text, output);
                let (values, rest) = found.split_at(n_values);
                let (of_cpu, rest_of_cpu) = expected.split_at(n_values);
                (found, expected) = (rest, rest_of_cpu);
                let near = cosine(values, of_cpu);
                assert!(
                    near >= least,
                    "{name} {output:?}, text {row}: cosine {near}"
                );
                if arithmetic == Arithmetic::F32 {
                    let apart = max_abs(values, of_cpu);
                    assert!(apart <= 1e-4, "{name} {output:?}, text {row}: {apart}");
                }
            }
        }
    }
}

#[test]
fn vectors_are_those_of_the_cpu() {
    for name in BI_ENCODERS {
        let path = fixture(name);
        check_vectors(
            &path,
            &texts(&[3, 33, 17, 4, 100, 64, 65], n_vocabulary(&path)),
            &[Output::Vector, Output::Unnormalized, Output::TokenVectors],
        );
    }
}

#[test]
fn vectors_are_those_of_the_reference() {
    for name in BI_ENCODERS {
        let encoder = bi(&fixture(name), &on(&gpu(1 << 28), Arithmetic::F32, 300));
        let golden = match name {
            "tiny-bert-bin" => "tiny-bert",
            name => name,
        };
        let golden = testkit::golden("encoder").join(golden).join("golden.json");
        let report = Golden::load(&golden)
            .and_then(|golden| golden.check_bi(&encoder))
            .expect("comparable");
        assert!(report.passed, "{name}: {report:?}");
    }
}

#[test]
fn scores_are_those_of_the_reference_and_the_cpu() {
    for name in CROSS_ENCODERS {
        let path = fixture(name);
        let load = |config: &EncoderConfig| {
            CrossEncoder::load(&path, None, config).expect("the model loads")
        };
        let plain = load(&on_cpu());
        let golden = testkit::golden("encoder").join(name).join("golden.json");
        let golden = Golden::load(&golden).expect("golden file");
        let pairs = texts(&[1, 2, 31, 33, 100, 128], n_vocabulary(&path));
        let expected = plain.score(&pairs).expect("pairs are scored");
        // bf16 keeps eight bits; the logits of these models are about 1.
        for (arithmetic, most) in [
            (Arithmetic::F32, 1e-4),
            (Arithmetic::F16, 0.01),
            (Arithmetic::Bf16, 0.05),
        ] {
            let emulated = shared(&[gpu(1 << 28)]);
            for device in emulated.into_iter().chain(testkit::gpu()) {
                let encoder = load(&on_all(vec![device], arithmetic, 150));
                // The work of few tokens is recorded the second time.
                for _ in 0..2 {
                    let found = encoder.score(&pairs).expect("pairs are scored");
                    let apart = max_abs(&found.logits, &expected.logits);
                    assert!(apart <= most, "{name} {arithmetic:?}: {apart}");
                    assert!(max_abs(&found.values, &expected.values) <= most);
                }
                if arithmetic == Arithmetic::F32 {
                    let report = golden.check_cross(&encoder).expect("comparable");
                    assert!(report.passed, "{name}: {report:?}");
                }
            }
        }
    }
}

/// DistilBERT's head has ReLU, behind which a score could look like any other.
#[test]
fn scores_that_overflow_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy(&fixture("tiny-cross-distilbert"), folder.path());
    edit_weights(folder.path(), |name, _, data| {
        if name.ends_with("layer.0.sa_layer_norm.weight") {
            for value in data.chunks_exact_mut(4) {
                value.copy_from_slice(&1e6f32.to_le_bytes()); // beyond f16
            }
        }
        true
    });
    let pairs = texts(&[9, 5], n_vocabulary(folder.path()));
    let emulated = shared(&[gpu(1 << 28)]);
    for device in emulated.into_iter().chain(testkit::gpu()) {
        let load = |arithmetic| {
            let config = on_all(vec![device.clone()], arithmetic, 150);
            CrossEncoder::load(folder.path(), None, &config).expect("the model loads")
        };
        let in_f32 = load(Arithmetic::F32).score(&pairs);
        in_f32.expect("pairs are scored");
        let encoder = load(Arithmetic::F16);
        // The work of few tokens is recorded the second time.
        for _ in 0..2 {
            let error = encoder.score(&pairs).expect_err("no number is a score");
            assert!(
                matches!(error, EncodeError::NotFinite { row: 0, .. }),
                "{error}"
            );
        }
    }
}

/// A model of random weights that takes 512 tokens.
fn long_model(folder: &Path, width: usize, n_heads: usize) {
    copy(&fixture("tiny-bert"), folder);
    edit(&folder.join("config.json"), |config| {
        config["hidden_size"] = json!(width);
        config["num_attention_heads"] = json!(n_heads);
        config["intermediate_size"] = json!(2 * width);
        config["max_position_embeddings"] = json!(512);
    });
    let architecture =
        Architecture::read(&folder.join("config.json")).expect("config.json is valid");
    let engine = Engine::new(&EngineConfig::default()).expect("threads start");
    let random = Encoder::random(architecture, 7, &engine).expect("a model");
    random
        .save(&folder.join("model.safetensors"))
        .expect("the weights are written");
}

#[test]
fn texts_of_every_length_are_those_of_the_cpu() {
    for (width, n_heads) in [(64, 2), (64, 1)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        long_model(folder.path(), width, n_heads);
        let lengths = [1, 2, 31, 33, 511, 512];
        let texts = texts(&lengths, n_vocabulary(folder.path()));
        check_vectors(folder.path(), &texts, &[Output::TokenVectors]);
    }
}

#[test]
fn every_activation_is_that_of_the_cpu() {
    let mut n_launches = Vec::new();
    for name in ["gelu", "gelu_new", "relu", "silu"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        copy(&fixture("tiny-bert"), path);
        edit(&path.join("config.json"), |config| {
            config["hidden_act"] = json!(name);
        });
        let texts = texts(&[3, 33, 17], n_vocabulary(path));
        check_vectors(path, &texts, &[Output::Unnormalized]);
        let device = gpu(1 << 28);
        let encoder = bi(path, &on(&device, Arithmetic::Bf16, 300));
        encoder.encode(&texts).expect("texts encode");
        n_launches.push(device.n_launches());
    }
    // Two layers, whose products end in the approximation of GELU and in ReLU, and not in the others.
    let [gelu, gelu_new, relu, silu] = n_launches[..] else {
        panic!("four activations");
    };
    assert_eq!((gelu_new + 2, relu + 2, silu), (gelu, gelu, gelu));
}

#[test]
fn a_batch_is_its_texts_one_by_one() {
    let path = fixture("tiny-bert");
    let texts = texts(&[5, 40, 1, 40, 77, 16, 128], n_vocabulary(&path));
    for (arithmetic, _) in ARITHMETIC {
        let alone = bi(&path, &on(&gpu(1 << 28), arithmetic, 1));
        let together = bi(&path, &on(&gpu(1 << 28), arithmetic, 1 << 20));
        let expected = alone.encode(&texts).expect("texts encode");
        assert_eq!(together.encode(&texts).expect("texts encode"), expected);
        let mut reversed = texts.clone();
        reversed.reverse();
        let found = together.encode(&reversed).expect("texts encode");
        for row in 0..texts.len() {
            assert_eq!(found.row(texts.len() - 1 - row), expected.row(row));
        }
        thread::scope(|scope| {
            for _ in 0..2 {
                scope
                    .spawn(|| assert_eq!(together.encode(&texts).expect("texts encode"), expected));
            }
        });
    }
}

#[test]
fn a_group_is_queued_while_the_one_before_it_is_computed() {
    for (model, output) in [
        ("tiny-bert", Output::Vector),
        ("tiny-bert", Output::TokenVectors),
        ("tiny-bert-cls-dense", Output::Vector),
    ] {
        let path = fixture(model);
        let texts = texts(&[20; 9], n_vocabulary(&path));
        let device = gpu(1 << 28);
        let encoder = bi(&path, &on(&device, Arithmetic::F32, 40));
        let encode = |texts: &[Tokens]| encoder.encode_as(texts, output).expect("texts encode");
        let found = encode(&texts);
        assert_eq!(device.n_waits(), 5, "{model} {output:?}: one for a group");
        assert_eq!(device.most_downloads(), 2, "{model} {output:?}");
        // Its memory is that of two groups, however many there are.
        let n_bytes = device.allocated_bytes();
        encode(&[&texts[..], &texts[..]].concat());
        assert_eq!(device.allocated_bytes(), n_bytes, "{model} {output:?}");
        let n_values = encoder.n_values(&texts[0], output);
        for (text, found) in texts.chunks(1).zip(found.chunks(n_values)) {
            assert_eq!(encode(text), found, "{model} {output:?}");
        }
    }
}

#[test]
fn a_batch_that_has_no_room_is_divided() {
    let path = fixture("tiny-bert");
    let texts = texts(
        &[100, 90, 80, 70, 60, 50, 40, 30, 20, 10],
        n_vocabulary(&path),
    );
    let large = gpu(1 << 28);
    let encoder = bi(&path, &on(&large, Arithmetic::Bf16, 1 << 20));
    let n_weights = large.allocated_bytes();
    let expected = encoder.encode(&texts).expect("texts encode");
    let n_workspace = large.allocated_bytes() - n_weights;

    let small = gpu(n_weights + n_workspace / 3);
    let encoder = bi(&path, &on(&small, Arithmetic::Bf16, 1 << 20));
    assert_eq!(small.allocated_bytes(), n_weights);
    assert_eq!(
        encoder.encode(&texts).expect("groups are divided"),
        expected
    );
    assert!(small.n_launches() > 2 * large.n_launches());

    // Room for the short texts only: the error says so, and they still go through.
    let tiny = gpu(n_weights + n_workspace / 20);
    let encoder = bi(&path, &on(&tiny, Arithmetic::Bf16, 1 << 20));
    let error = encoder.encode(&texts).expect_err("there is no room");
    let EncodeError::Accelerator(error) = error else {
        panic!("{error}");
    };
    let AcceleratorError::OutOfMemory { device, total, .. } = *error else {
        panic!("{error}");
    };
    assert_eq!(
        (device.as_str(), total),
        ("gpu:0", n_weights + n_workspace / 20)
    );
    let short = encoder.encode(&texts[8..]).expect("short texts fit");
    assert_eq!(short.row(1), expected.row(9));

    let error = BiEncoder::load(
        &path,
        &ModelOptions::default(),
        &on(&gpu(n_weights / 2), Arithmetic::Bf16, 1),
    );
    let Some(LoadError::Accelerator(AcceleratorError::OutOfMemory { .. })) = error.err() else {
        panic!("the weights do not fit");
    };
}

#[test]
fn several_devices_divide_the_texts() {
    let path = fixture("tiny-bert");
    let texts = texts(&[100, 9, 80, 7, 60, 50, 4, 30, 20, 10], n_vocabulary(&path));
    let one = bi(&path, &on(&gpu(1 << 28), Arithmetic::Bf16, 60));
    let devices = [0, 1, 2].map(|number| EmulatedGpu::new(&format!("gpu:{number}"), 1 << 28));
    let encoder = bi(&path, &on_all(shared(&devices), Arithmetic::Bf16, 60));
    let n_weights = devices.each_ref().map(|device| device.allocated_bytes());
    assert!(n_weights[0] > 0 && n_weights == [n_weights[0]; 3]);
    for output in [Output::Vector, Output::TokenVectors] {
        let before = devices.each_ref().map(|device| device.n_launches());
        assert_eq!(
            encoder.encode_as(&texts, output).expect("texts encode"),
            one.encode_as(&texts, output).expect("texts encode")
        );
        for (device, before) in devices.iter().zip(before) {
            assert!(device.n_launches() > before, "all of them compute");
        }
    }
    // What is one group is computed by one of them.
    let idle = devices.each_ref().map(|device| device.n_launches());
    encoder.encode(&texts[8..]).expect("texts encode");
    let busy = devices.iter().zip(idle);
    assert_eq!(
        busy.filter(|(device, n)| device.n_launches() > *n).count(),
        1
    );
    assert!(encoder.encode(&[]).expect("no texts").values.is_empty());
    drop(encoder);
    assert!(devices.iter().all(|device| device.allocated_bytes() == 0));
}

#[test]
fn what_a_device_has_no_room_for_is_left_to_the_others() {
    let path = fixture("tiny-bert");
    let texts = texts(&[100, 95, 90, 85, 20, 10, 5], n_vocabulary(&path));
    let large = EmulatedGpu::new("gpu:0", 1 << 28);
    let encoder = bi(&path, &on(&large, Arithmetic::Bf16, 100));
    let n_weights = large.allocated_bytes();
    let expected = encoder.encode(&texts).expect("texts encode");
    // Of 512 tokens.
    let n_workspace = large.allocated_bytes() - n_weights;

    for n_large in [1, 2] {
        let small = EmulatedGpu::new("gpu:1", n_weights + n_workspace / 8);
        let mut devices = vec![small.clone(), large.clone(), large.clone()];
        devices.truncate(1 + n_large);
        let encoder = bi(&path, &on_all(shared(&devices), Arithmetic::Bf16, 100));
        for _ in 0..3 {
            let found = encoder.encode(&texts).expect("the others have room");
            assert_eq!(found, expected);
        }
        // When it had no room for the longest text, the others took it. Short ones it computes itself.
        assert_eq!(
            encoder.encode(&texts[5..]).expect("they fit").row(1),
            expected.row(6)
        );
    }

    let names = ["gpu:1", "gpu:2"];
    let small = names.map(|name| EmulatedGpu::new(name, n_weights + n_workspace / 32));
    let encoder = bi(&path, &on_all(shared(&small), Arithmetic::Bf16, 100));
    for _ in 0..2 {
        let error = encoder.encode(&texts).expect_err("nowhere is room");
        let EncodeError::Accelerator(error) = error else {
            panic!("{error}");
        };
        let AcceleratorError::OutOfMemory { device, .. } = *error else {
            panic!("{error}");
        };
        assert!(names.contains(&device.as_str()), "{device}");
        let short = encoder.encode(&texts[5..]).expect("short texts fit");
        assert_eq!(short.row(1), expected.row(6));
    }
}

#[test]
fn few_tokens_are_computed_as_they_were_recorded() {
    for name in [
        "tiny-bert",
        "tiny-bert-cls-dense",
        "tiny-roberta",
        "tiny-mpnet",
    ] {
        let path = fixture(name);
        for (arithmetic, output) in [
            (Arithmetic::F32, Output::Unnormalized),
            (Arithmetic::Bf16, Output::Unnormalized),
            (Arithmetic::F16, Output::TokenVectors),
        ] {
            let device = gpu(1 << 28);
            let encoder = bi(&path, &on(&device, arithmetic, 1 << 20));
            // Of one shape: 48 tokens of four texts.
            let calls = [[20, 3, 9, 14], [1, 40, 1, 1], [17, 8, 9, 10], [46, 1, 0, 0]];
            let mut n_launches = Vec::new();
            for (seed, lengths) in calls.into_iter().enumerate() {
                let lengths: Vec<usize> = lengths.into_iter().filter(|&n| n > 0).collect();
                let mut texts = texts(&lengths, n_vocabulary(&path));
                for id in texts.iter_mut().flat_map(|text| &mut text.ids) {
                    *id = (*id + 5 * seed as u32) % 40;
                }
                let before = (device.n_launches(), device.n_waits());
                let found = encoder.encode_as(&texts, output).expect("texts encode");
                n_launches.push(device.n_launches() - before.0);
                assert_eq!(device.n_waits() - before.1, 1);
                // Each text alone, for the first time on another device.
                let other = bi(&path, &on(&gpu(1 << 28), arithmetic, 1));
                let expected = other.encode_as(&texts, output).expect("texts encode");
                assert_eq!(found, expected, "{name} {arithmetic:?} {lengths:?}");
            }
            // Two texts are another shape.
            assert!(n_launches[0] > 10);
            assert_eq!(n_launches, [n_launches[0], 1, 1, n_launches[0]], "{name}");
            assert_eq!(device.n_recordings(), 1);
        }
    }
}

#[test]
fn pairs_are_scored_as_they_were_recorded() {
    let path = fixture("tiny-cross-bert");
    let load =
        |config: &EncoderConfig| CrossEncoder::load(&path, None, config).expect("the model loads");
    let (plain, device) = (load(&on_cpu()), gpu(1 << 28));
    let encoder = load(&on(&device, Arithmetic::F32, 1 << 20));
    for lengths in [[30, 9, 20], [20, 20, 20], [25, 19, 17]] {
        let pairs = texts(&lengths, n_vocabulary(&path));
        let found = encoder.score(&pairs).expect("pairs are scored");
        let expected = plain.score(&pairs).expect("pairs are scored");
        let apart = max_abs(&found.logits, &expected.logits);
        assert!(apart <= 1e-4, "{lengths:?}: {apart}");
    }
    assert_eq!(device.n_recordings(), 1);
}

#[test]
fn recordings_are_few_and_end_before_their_memory() {
    let path = fixture("tiny-bert");
    let device = gpu(1 << 28);
    let encoder = bi(&path, &on(&device, Arithmetic::Bf16, 1 << 20));
    let n_weights = device.allocated_bytes();
    let encode = |lengths: &[usize]| {
        let texts = texts(lengths, n_vocabulary(&path));
        encoder.encode(&texts).expect("texts encode")
    };
    encode(&[3]);
    let n_bytes = device.allocated_bytes();
    let mut most = 0;
    for n_texts in [1, 2, 4, 8, 16] {
        for n_tokens in (16..=256.min(128 * n_texts)).step_by(16) {
            let lengths = vec![n_tokens / n_texts; n_texts];
            let first = encode(&lengths);
            assert_eq!(encode(&lengths), first, "{n_texts} of {n_tokens}");
            most = most.max(device.n_recordings());
        }
    }
    assert_eq!(most, 64);
    assert_eq!(device.allocated_bytes(), n_bytes, "its memory stays");

    // A group that has no room takes the memory of recordings, too; then they begin again.
    let found = encode(&[100, 90]);
    device.set_total_bytes(n_bytes + (n_bytes - n_weights) / 2);
    let long = encode(&[128; 5]);
    assert_eq!(device.n_recordings(), 0);
    assert_eq!(encode(&[100, 90]), found);
    device.set_total_bytes(1 << 28);
    assert_eq!(encode(&[128; 5]), long);
    for _ in 0..2 {
        assert_eq!(encode(&[100, 90]), found);
    }
    assert_eq!(device.n_recordings(), 1);
    drop(encoder);
    assert_eq!((device.n_recordings(), device.allocated_bytes()), (0, 0));
}

#[test]
fn memory_is_given_back() {
    let device = gpu(1 << 28);
    let encoder = bi(&fixture("tiny-bert"), &on(&device, Arithmetic::F16, 64));
    encoder.encode(&texts(&[9, 8], 50)).expect("texts encode");
    drop(encoder);
    assert_eq!(device.allocated_bytes(), 0);
}

#[test]
fn a_model_says_where_and_how_it_is_computed() {
    let device = gpu(1 << 28);
    let path = fixture("tiny-bert");
    let encoder = bi(&path, &on(&device, Arithmetic::Auto, 64));
    assert_eq!(encoder.config().arithmetic, Arithmetic::Bf16);
    let names: Vec<_> = encoder.devices().iter().map(|info| &info.name).collect();
    assert_eq!(names, ["gpu:0"]);
    assert!(!encoder.batch_invariant());
    let plain = bi(&path, &on_cpu());
    assert!(plain.devices().is_empty());
    assert!(plain.batch_invariant());
}

#[test]
fn what_an_accelerator_does_not_compute_is_refused() {
    let device = gpu(1 << 28);
    let load = |path: &Path, config: &EncoderConfig| {
        let loaded = BiEncoder::load(path, &ModelOptions::default(), config);
        loaded.err().expect("it is refused").to_string()
    };
    let check = |path: &Path, config: &EncoderConfig, expected: &str| {
        let found = load(path, config);
        assert!(found.ends_with(expected), "{found}");
    };
    let tiny = fixture("tiny-bert");
    for arithmetic in [Arithmetic::Int8, Arithmetic::Fixed16, Arithmetic::Bf16x3] {
        let expected = format!(
            "runs in f32, f16 and bf16 on an accelerator, not in {}",
            arithmetic.as_str()
        );
        check(&tiny, &on(&device, arithmetic, 64), &expected);
    }
    let f16 = EncoderConfig {
        arithmetic: Arithmetic::F16,
        ..on_cpu()
    };
    check(
        &tiny,
        &f16,
        "runs in f32, fixed16, bf16x3, bf16 and int8 on the CPU, not in f16",
    );
    check(
        &fixture("tiny-t5"),
        &on(&device, Arithmetic::F32, 64),
        "does not run on gpu:0: accelerators run the models that are of model_type bert, roberta, xlm-roberta, camembert, \
         distilbert or mpnet",
    );
    for (width, n_heads, expected) in [
        (36, 2, "hidden_size is 36, which is no multiple of 8"),
        (
            136,
            1,
            "the width of a head is 136; supported are up to 128",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        long_model(folder.path(), width, n_heads);
        check(folder.path(), &on(&device, Arithmetic::F32, 64), expected);
    }
    assert_eq!(device.allocated_bytes(), 0);
}

#[test]
fn an_optional_device_leaves_what_it_does_not_have_to_the_cpu() {
    for (model, arithmetic, on_device) in [
        ("tiny-bert", Arithmetic::Auto, true),
        ("tiny-bert", Arithmetic::F32, true),
        ("tiny-bert", Arithmetic::Int8, false),
        ("tiny-bert", Arithmetic::Fixed16, false),
        ("tiny-bert", Arithmetic::Bf16x3, false),
        ("tiny-modernbert", Arithmetic::Auto, false),
    ] {
        let mut config = on(&gpu(1 << 28), arithmetic, 1 << 10);
        let accelerator = config.accelerator.as_mut().expect("`on` names one");
        accelerator.optional = true;
        let encoder = bi(&fixture(model), &config);
        assert_eq!(
            !encoder.devices().is_empty(),
            on_device,
            "{model}, {arithmetic:?}"
        );
        if !on_device && arithmetic != Arithmetic::Auto {
            assert_eq!(encoder.config().arithmetic, arithmetic);
        }
    }
}
