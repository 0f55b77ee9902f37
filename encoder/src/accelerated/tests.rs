//! Every kernel beside a slow version in f64, on an emulated device, and on a GPU where there is one.
//!
//! Tolerances are those of the types: half a unit in the last place for each rounding to them, and some tens of units of f32 for sums, whose
//! order the kernels themselves say. A GPU may fuse a product with a sum, which rounds once less, and its `expf` and `tanhf` are a few units off:
//! both are within them. cuBLASLt chooses the order of its own sums; they have 40 terms here.

use compute::Simd;
use compute::accelerator::{Accelerator, Buffer, MatrixType, SharedAccelerator};
use emulated_gpu::EmulatedGpu;
use half::{bf16, f16};

use super::kernels::{
    AttentionAt, EmbeddingsAt, Function, Heads, Kernels, MODULE, NormAt, ResidualAt, Tile,
};
use super::weights::upload;
use super::workspace::Sizes;
use crate::options::Pooling;

const TYPES: [MatrixType; 3] = [MatrixType::F32, MatrixType::F16, MatrixType::Bf16];
const EPSILON: f32 = 1e-12;

fn devices() -> Vec<SharedAccelerator> {
    let emulated: SharedAccelerator = EmulatedGpu::new("gpu:0", 1 << 28);
    let devices = [emulated].into_iter().chain(testkit::gpu());
    devices
        .inspect(|device| device.load(&MODULE).expect("all kernels are there"))
        .collect()
}

fn kernels(device: &SharedAccelerator, of: MatrixType) -> Kernels<'_> {
    Kernels {
        device: &**device,
        of,
    }
}

/// Values from −1 to 1 on a device in a type, and what they are after rounding.
fn random(device: &SharedAccelerator, seed: u64, n: usize, of: MatrixType) -> (Buffer, Vec<f64>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    let buffer = upload(device, &values, of).expect("there is room");
    let values = read(&buffer, n, of);
    (buffer, values)
}

fn words(device: &SharedAccelerator, words: &[u32]) -> Buffer {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Buffer::of(device, &bytes).expect("there is room")
}

/// Room for `n` values, far from any that kernels compute, and some that nobody may touch.
fn room(device: &SharedAccelerator, n: usize, of: MatrixType) -> Buffer {
    Buffer::of(device, &vec![0xa5; n * of.bytes() + GUARD]).expect("there is room")
}

const GUARD: usize = 64;

/// The first `n` values; the bytes after them are as [`room`] left them.
fn written(buffer: &Buffer, n: usize, of: MatrixType) -> Vec<f64> {
    let mut guard = [0; GUARD];
    buffer.read(n * of.bytes(), &mut guard).expect("it reads");
    assert_eq!(guard, [0xa5; GUARD], "{of:?}: written beyond the end");
    read(buffer, n, of)
}

fn read(buffer: &Buffer, n: usize, of: MatrixType) -> Vec<f64> {
    let mut bytes = vec![0; n * of.bytes()];
    buffer.read(0, &mut bytes).expect("it reads");
    let value = |value: &[u8]| match of {
        MatrixType::F32 => f64::from(f32::from_le_bytes(value.try_into().expect("four bytes"))),
        MatrixType::F16 => f16::from_le_bytes(value.try_into().expect("two bytes")).to_f64(),
        MatrixType::Bf16 => bf16::from_le_bytes(value.try_into().expect("two bytes")).to_f64(),
    };
    bytes.chunks_exact(of.bytes()).map(value).collect()
}

/// Half a unit in the last place of values of about 1.
fn rounding(of: MatrixType) -> f64 {
    match of {
        MatrixType::F32 => 6e-8,
        MatrixType::F16 => 4.9e-4,
        MatrixType::Bf16 => 3.9e-3,
    }
}

fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let most = tolerance * expected.abs().max(1.0);
        assert!(
            (found - expected).abs() <= most,
            "{what}, value {i}: {found} for {expected}"
        );
    }
}

fn normalized(row: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
    let parameters = weight.iter().zip(bias);
    row.iter()
        .zip(parameters)
        .map(|(x, (weight, bias))| (x - mean) * scale * weight + bias)
        .collect()
}

#[test]
fn embeddings_are_the_normalized_sum_of_their_rows() {
    for device in devices() {
        const ROWS_OF_TABLES: usize = 7;
        for of in TYPES {
            for (width, n_rows, has_types) in [
                (8, 1, true),
                (40, 5, false),
                (136, 33, true),
                (1024, 3, true),
            ] {
                let name = format!("{of:?} {width} {n_rows}");
                let table = |seed| random(&device, seed, ROWS_OF_TABLES * width, MatrixType::F32);
                let tables = [table(1), table(2), table(3)];
                let parameters = [4, 5].map(|seed| random(&device, seed, width, MatrixType::F32));
                let ids = |step: usize| -> Vec<u32> {
                    let id = |row: usize| (row * step % ROWS_OF_TABLES) as u32;
                    (0..n_rows).map(id).collect()
                };
                let ids = [ids(2), ids(3), ids(5)];
                let uploaded = ids.each_ref().map(|ids| words(&device, ids));
                let n_values = n_rows * width;
                let hidden = room(&device, n_values, MatrixType::F32);
                let operand = room(&device, n_values, of);
                let from = EmbeddingsAt {
                    ids: uploaded[0].address(),
                    positions: uploaded[1].address(),
                    types: uploaded[2].address(),
                    token_table: tables[0].0.address(),
                    position_table: tables[1].0.address(),
                    type_table: if has_types { tables[2].0.address() } else { 0 },
                };
                let norm = NormAt {
                    weight: parameters[0].0.address(),
                    bias: parameters[1].0.address(),
                    epsilon: EPSILON,
                };
                let out = (hidden.address(), operand.address());
                // SAFETY: the buffers are as large as the shape says, ids are rows of the tables.
                unsafe { kernels(&device, of).embed(&from, (n_rows, width), norm, out) }
                    .expect("it runs");
                let n_tables = if has_types { 3 } else { 2 };
                let expected: Vec<f64> = (0..n_rows)
                    .flat_map(|row| {
                        let sum: Vec<f64> = (0..width)
                            .map(|column| {
                                (0..n_tables)
                                    .map(|t| tables[t].1[ids[t][row] as usize * width + column])
                                    .sum()
                            })
                            .collect();
                        normalized(&sum, &parameters[0].1, &parameters[1].1)
                    })
                    .collect();
                assert_near(
                    &name,
                    &written(&hidden, n_values, MatrixType::F32),
                    &expected,
                    3e-6,
                );
                let tolerance = rounding(of) + 3e-6;
                assert_near(
                    &name,
                    &written(&operand, n_values, of),
                    &expected,
                    tolerance,
                );
            }
        }
    }
}

#[test]
fn residuals_are_added_before_the_normalization() {
    for device in devices() {
        for of in TYPES {
            for (width, n_rows, sources) in [
                (8, 1, None),
                (136, 33, None),
                (384, 4, Some([0u32, 2, 5, 6])),
            ] {
                let name = format!("{of:?} {width} {n_rows}");
                let n_values = n_rows * width;
                let product = room(&device, n_values, MatrixType::F32);
                let (given, values) = random(&device, 1, n_values, MatrixType::F32);
                let mut bytes = vec![0; n_values * 4];
                given.read(0, &mut bytes).expect("it reads");
                product.write(0, &bytes).expect("it is written");
                let n_before = if sources.is_some() { 7 } else { n_rows };
                let (residual, before) = random(&device, 2, n_before * width, MatrixType::F32);
                let [bias, weight, shift] =
                    [3, 4, 5].map(|seed| random(&device, seed, width, MatrixType::F32));
                let from = sources.map(|sources| words(&device, &sources));
                let operand = room(&device, n_values, of);
                let at = ResidualAt {
                    product: product.address(),
                    bias: bias.0.address(),
                    residual: residual.address(),
                    sources: from.as_ref().map_or(0, Buffer::address),
                    operand: operand.address(),
                };
                let norm = NormAt {
                    weight: weight.0.address(),
                    bias: shift.0.address(),
                    epsilon: EPSILON,
                };
                // SAFETY: the buffers are as large as the shape says, sources are rows of the residual.
                unsafe { kernels(&device, of).add_norm(&at, (n_rows, width), norm) }
                    .expect("it runs");
                let expected: Vec<f64> = (0..n_rows)
                    .flat_map(|row| {
                        let source = sources.map_or(row, |sources| sources[row] as usize);
                        let sum: Vec<f64> = (0..width)
                            .map(|i| {
                                values[row * width + i] + bias.1[i] + before[source * width + i]
                            })
                            .collect();
                        normalized(&sum, &weight.1, &shift.1)
                    })
                    .collect();
                assert_near(
                    &name,
                    &written(&product, n_values, MatrixType::F32),
                    &expected,
                    3e-6,
                );
                let tolerance = rounding(of) + 3e-6;
                assert_near(
                    &name,
                    &written(&operand, n_values, of),
                    &expected,
                    tolerance,
                );
            }
        }
    }
}

/// `Φ(x)` by the trapezoidal rule.
fn phi(x: f64) -> f64 {
    const STEPS: usize = 4000;
    let density = |t: f64| (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let width = x / STEPS as f64;
    let inner: f64 = (1..STEPS).map(|i| density(i as f64 * width)).sum();
    0.5 + width * (inner + 0.5 * (density(0.0) + density(x)))
}

const FUNCTIONS: [Function; 5] = [
    Function::Gelu,
    Function::GeluTanh,
    Function::Relu,
    Function::Silu,
    Function::Tanh,
];

fn definition(function: Function, x: f64) -> f64 {
    match function {
        Function::Gelu => x * phi(x),
        Function::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Function::Relu => x.max(0.0),
        Function::Silu => x / (1.0 + (-x).exp()),
        Function::Tanh => x.tanh(),
    }
}

#[test]
fn activations_follow_their_definitions() {
    for device in devices() {
        for of in TYPES {
            for function in FUNCTIONS {
                for (n_rows, width) in [(1, 8), (33, 24), (5, 1000)] {
                    let name = format!("{of:?} {function:?} {n_rows} {width}");
                    let n_values = n_rows * width;
                    let spread = |i: usize| (i * 37 % 97) as f32 / 8.0 - 6.0;
                    let given: Vec<f32> = (0..n_values).map(spread).collect();
                    let (rows, given) = {
                        let mut padded = given.clone();
                        padded.resize(n_values + GUARD / of.bytes(), 0.0);
                        let rows = upload(&device, &padded, of).expect("there is room");
                        rows.write(n_values * of.bytes(), &[0xa5; GUARD])
                            .expect("it is written");
                        let given = read(&rows, n_values, of);
                        (rows, given)
                    };
                    let (bias, added) = random(&device, 9, width, MatrixType::F32);
                    let shape = (n_rows, width);
                    // SAFETY: the buffers are as large as the shape says.
                    unsafe {
                        kernels(&device, of).activate(
                            rows.address(),
                            bias.address(),
                            shape,
                            function,
                        )
                    }
                    .expect("it runs");
                    let expected: Vec<f64> = given
                        .iter()
                        .enumerate()
                        .map(|(i, x)| definition(function, x + added[i % width]))
                        .collect();
                    let tolerance = rounding(of) + 2e-6;
                    assert_near(&name, &written(&rows, n_values, of), &expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn activations_keep_nan() {
    for device in devices() {
        for of in TYPES {
            for function in FUNCTIONS {
                let rows = upload(&device, &[f32::NAN; 8], of).expect("there is room");
                let bias = upload(&device, &[0.0; 8], MatrixType::F32).expect("there is room");
                let (at, added) = (rows.address(), bias.address());
                // SAFETY: the buffers are as large as the shape says.
                unsafe { kernels(&device, of).activate(at, added, (1, 8), function) }
                    .expect("it runs");
                let values = read(&rows, 8, of);
                assert!(values.iter().all(|x| x.is_nan()), "{of:?} {function:?}");
            }
        }
    }
}

#[test]
fn products_end_in_bias_and_activation() {
    let emulated = EmulatedGpu::new("gpu:0", 1 << 28);
    let devices = [emulated.clone() as SharedAccelerator];
    for device in devices.into_iter().chain(testkit::gpu()) {
        device.load(&MODULE).expect("all kernels are there");
        for of in TYPES {
            for function in FUNCTIONS {
                for (n_rows, n, k) in [(1, 8, 16), (33, 24, 8), (5, 136, 40)] {
                    let name = format!("{of:?} {function:?} {n_rows} {n} {k}");
                    let (rows, x) = random(&device, 1, n_rows * k, of);
                    let (weight, w) = random(&device, 2, n * k, of);
                    let (bias, b) = random(&device, 3, n, function.bias_type(of));
                    let out = room(&device, n_rows * n, of);
                    let operands = (rows.address(), weight.address(), bias.address());
                    let before = emulated.n_launches();
                    // SAFETY: the buffers are as large as the shape says.
                    unsafe {
                        let result = (out.address(), function);
                        kernels(&device, of).multiply_activated(n_rows, (n, k), operands, result)
                    }
                    .expect("it runs");
                    let in_product = matches!(function, Function::GeluTanh | Function::Relu);
                    if device.info() == emulated.info() {
                        let n_launches = emulated.n_launches() - before;
                        assert_eq!(n_launches, if in_product { 1 } else { 2 }, "{name}");
                    }
                    let expected: Vec<f64> = (0..n_rows * n)
                        .map(|i| {
                            let pairs = x[i / n * k..][..k].iter().zip(&w[i % n * k..][..k]);
                            let sum: f64 = pairs.map(|(x, w)| x * w).sum();
                            definition(function, sum + b[i % n])
                        })
                        .collect();
                    // Where a kernel follows, it reads sums that were rounded, up to about 8.
                    let tolerance = if in_product { 1.0 } else { 8.0 } * rounding(of) + 1e-5;
                    assert_near(&name, &written(&out, n_rows * n, of), &expected, tolerance);
                }
            }
        }
    }
}

struct AttentionCase {
    n_heads: usize,
    d: usize,
    lengths: &'static [usize],
    has_relative: bool,
    first_only: bool,
}

#[test]
fn attention_sees_its_own_text_only() {
    // Lengths about the sizes of tiles: 16 and 64 queries, 32 and 64 keys.
    const SHORT: &[usize] = &[1, 2, 17];
    const LONG: &[usize] = &[1, 31, 64, 33, 65, 130];
    for device in devices() {
        for of in TYPES {
            for (n_heads, d, lengths) in [
                (2, 4, SHORT),
                (3, 16, LONG),
                (2, 32, LONG),
                (1, 64, LONG),
                (2, 64, SHORT),
                (1, 80, SHORT),
                (1, 128, SHORT),
            ] {
                for (has_relative, first_only) in [(false, false), (true, false), (true, true)] {
                    check_attention(
                        &device,
                        of,
                        &AttentionCase {
                            n_heads,
                            d,
                            lengths,
                            has_relative,
                            first_only,
                        },
                    );
                }
            }
        }
    }
}

fn check_attention(device: &SharedAccelerator, of: MatrixType, case: &AttentionCase) {
    const POSITIONS: usize = 140;
    let &AttentionCase {
        n_heads,
        d,
        lengths,
        has_relative,
        first_only,
    } = case;
    let name =
        format!("{of:?} {n_heads} heads of {d}, relative {has_relative}, first {first_only}");
    let width = n_heads * d;
    let n_tokens: usize = lengths.iter().sum();
    let (projected, values) = random(device, 1, n_tokens * 3 * width, of);
    let (bias, added) = random(device, 2, 3 * width, MatrixType::F32);
    let (relative, offsets) = random(device, 3, n_heads * (2 * POSITIONS - 1), MatrixType::F32);
    let heads = Heads { n: n_heads, d, of };
    let most = heads.tile_queries();
    let (mut tiles, mut start) = (Vec::new(), 0);
    for (text, &length) in lengths.iter().enumerate() {
        let n_queries = if first_only { 1 } else { length };
        for first in (0..n_queries).step_by(most) {
            tiles.push(Tile {
                start: start as u32,
                length: length as u32,
                first: first as u32,
                n_queries: (n_queries - first).min(most) as u32,
                target: if first_only { text } else { start + first } as u32,
            });
        }
        start += length;
    }
    let laid_out: Vec<u32> = tiles.iter().flat_map(|tile| tile.words()).collect();
    let laid_out = words(device, &laid_out);
    let n_rows = if first_only { lengths.len() } else { n_tokens };
    let context = room(device, n_rows * width, of);
    let at = AttentionAt {
        projected: projected.address(),
        bias: bias.address(),
        tiles: laid_out.address(),
        relative: if has_relative { relative.address() } else { 0 },
        context: context.address(),
    };
    // SAFETY: the buffers are as large as the tiles say.
    unsafe { kernels(device, of).attend(heads, tiles.len(), &at, POSITIONS) }.expect("it runs");

    let part = |token: usize, part: usize, head: usize| {
        let column = part * width + head * d;
        let row = &values[token * 3 * width + column..][..d];
        let sums = row.iter().zip(&added[column..]);
        sums.map(|(value, bias)| value + bias).collect::<Vec<f64>>()
    };
    let mut expected = Vec::new();
    let mut start = 0;
    for &length in lengths {
        for query in 0..if first_only { 1 } else { length } {
            for head in 0..n_heads {
                let q = part(start + query, 0, head);
                let weights: Vec<f64> = (0..length)
                    .map(|key| {
                        let k = part(start + key, 1, head);
                        let product: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                        let offset = head * (2 * POSITIONS - 1) + POSITIONS - 1 + key - query;
                        let relative = if has_relative { offsets[offset] } else { 0.0 };
                        (product / (d as f64).sqrt() + relative).exp()
                    })
                    .collect();
                let total: f64 = weights.iter().sum();
                let mut row = vec![0.0; d];
                for (key, weight) in weights.iter().enumerate() {
                    for (sum, value) in row.iter_mut().zip(part(start + key, 2, head)) {
                        *sum += weight / total * value;
                    }
                }
                expected.extend(row);
            }
        }
        start += length;
    }
    // Queries, weights and the result are each rounded.
    let tolerance = 3.0 * rounding(of) + 3e-6;
    assert_near(
        &name,
        &written(&context, n_rows * width, of),
        &expected,
        tolerance,
    );
}

#[test]
fn poolings_are_those_of_the_cpu() {
    for device in devices() {
        let (lengths, skips, width) = ([1usize, 31, 2, 5], [0u32, 3, 2, 9], 40);
        let n_tokens: usize = lengths.iter().sum();
        let (hidden, values) = random(&device, 1, n_tokens * width, MatrixType::F32);
        let values: Vec<f32> = values.into_iter().map(|x| x as f32).collect();
        let starts: Vec<u32> = (0..=lengths.len())
            .map(|n| lengths[..n].iter().sum::<usize>() as u32)
            .collect();
        let (starts_at, skips_at) = (words(&device, &starts), words(&device, &skips));
        for pooling in [
            Pooling::Cls,
            Pooling::Last,
            Pooling::Max,
            Pooling::Mean,
            Pooling::MeanSqrtLength,
            Pooling::WeightedMean,
        ] {
            // Two poolings side by side: this is the second.
            let out = room(&device, lengths.len() * 2 * width, MatrixType::F32);
            let second = out.at(width * size_of::<f32>());
            let from = (hidden.address(), starts_at.address(), skips_at.address());
            // SAFETY: the buffers are as large as starts and stride say.
            unsafe {
                kernels(&device, MatrixType::F32).pool(
                    from,
                    (lengths.len(), width),
                    pooling,
                    (second, 2 * width),
                )
            }
            .expect("it runs");
            let found = written(&out, lengths.len() * 2 * width, MatrixType::F32);
            for text in 0..lengths.len() {
                let rows =
                    &values[starts[text] as usize * width..starts[text + 1] as usize * width];
                let mut expected = vec![0.0f32; width];
                pooling.pool(Simd::detect(), rows, skips[text] as usize, &mut expected);
                let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
                let found = &found[(2 * text + 1) * width..][..width];
                if expected.iter().all(|x| x.is_finite()) {
                    assert_near(&format!("{pooling:?} {text}"), found, &expected, 1e-6);
                } else {
                    assert_eq!(found, expected, "{pooling:?} {text}");
                }
            }
        }
    }
}

#[test]
fn labels_are_inner_products() {
    for device in devices() {
        for (n_rows, width, n_labels) in [(1, 8, 1), (5, 40, 3), (33, 384, 2)] {
            let (rows, x) = random(&device, 1, n_rows * width, MatrixType::F32);
            let (weight, w) = random(&device, 2, n_labels * width, MatrixType::F32);
            let (bias, b) = random(&device, 3, n_labels, MatrixType::F32);
            let logits = room(&device, n_rows * n_labels, MatrixType::F32);
            let from = (rows.address(), weight.address(), bias.address());
            // SAFETY: the buffers are as large as the shape says.
            unsafe {
                kernels(&device, MatrixType::F32).classify(
                    from,
                    (n_rows, width),
                    n_labels,
                    logits.address(),
                )
            }
            .expect("it runs");
            let logit = |i: usize| -> f64 {
                let row = &x[i / n_labels * width..][..width];
                let label = &w[i % n_labels * width..][..width];
                row.iter().zip(label).map(|(x, w)| x * w).sum::<f64>() + b[i % n_labels]
            };
            let expected: Vec<f64> = (0..n_rows * n_labels).map(logit).collect();
            let found = written(&logits, n_rows * n_labels, MatrixType::F32);
            assert_near(&format!("{n_rows} {width}"), &found, &expected, 3e-6);
        }
    }
}

#[test]
fn the_memory_of_a_token_is_what_the_documentation_says() {
    let folder = testkit::fixture("models/tiny-bert").join("config.json");
    let mut architecture = crate::Architecture::read(&folder).expect("config.json is valid");
    for (width, of, expected) in [
        (384, MatrixType::Bf16, 6_912),
        (768, MatrixType::F16, 13_824),
        (768, MatrixType::F32, 18_432),
    ] {
        (architecture.width, architecture.n_intermediate) = (width, 4 * width);
        let Sizes {
            residual,
            operand,
            scratch,
        } = Sizes::of_token(&architecture, of);
        assert_eq!(2 * residual + operand + scratch, expected);
    }
}
