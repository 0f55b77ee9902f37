//! Attention beside a slow version in f64, on an emulated device, and on a GPU where there is one. Tolerances are relative to the sizes of the
//! terms of each sum, so they hold for every order of them.

use std::iter::zip;

use compute::Simd;
use compute::accelerator::{Buffer, MatrixType, SharedAccelerator};
use emulated_gpu::EmulatedGpu;
use half::bf16;

use super::{Attention, GradientAt, Heads, Tile, Tiles, TilesAt};
use crate::training::accelerated::MODULE;
use crate::training::dropout::{Dropout, First, Mask};

const TYPES: [MatrixType; 2] = [MatrixType::F32, MatrixType::Bf16];
/// About the sizes of tiles, of queries and of keys.
const LENGTHS: [usize; 11] = [17, 1, 2, 64, 15, 129, 16, 31, 33, 100, 65];
/// Bytes behind each buffer that nobody may touch.
const GUARD: usize = 64;

/// What attention is computed of.
#[derive(Clone, Copy)]
struct Case<'a> {
    heads: Heads,
    lengths: &'a [usize],
    first_only: bool,
    mask: Mask,
}

impl Case<'_> {
    fn name(&self) -> String {
        let Heads { n, d, of } = self.heads;
        let (first_only, is_dropping) = (self.first_only, !self.mask.is_none());
        format!("{of:?}, {n} heads of {d}, first only {first_only}, dropout {is_dropping}")
    }

    fn width(&self) -> usize {
        self.heads.n * self.heads.d
    }

    fn n_tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    fn n_kept(&self) -> usize {
        if self.first_only {
            self.lengths.len()
        } else {
            self.n_tokens()
        }
    }

    /// Each kept query: its row of the context, its token, and the first token and the length of its text.
    fn queries(&self) -> Vec<[usize; 4]> {
        let (mut queries, mut start) = (Vec::new(), 0);
        for &length in self.lengths {
            let n_queries = if self.first_only { 1 } else { length };
            for query in 0..n_queries {
                queries.push([queries.len(), start + query, start, length]);
            }
            start += length;
        }
        queries
    }

    /// By what the weights of a token are multiplied on the CPU.
    fn factors(&self, token: usize, head: usize, n_keys: usize) -> Vec<f32> {
        let mut factors = vec![1.0; n_keys];
        let row = self.mask.first_row + token as u64;
        let number = row * self.heads.n as u64 + head as u64;
        self.mask.apply(Simd::detect(), number, &mut factors);
        factors
    }
}

fn mask(probability: f32) -> Mask {
    let dropout = Dropout {
        seed: 7,
        step: 11,
        first: First {
            text: 3,
            row: (1 << 33) + 5,
        },
        ..Dropout::NONE
    };
    dropout.at(probability, 13)
}

/// Values from −1 to 1.
fn random(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut number = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / f64::from(1u32 << 23) - 1.0
    };
    (0..n).map(|_| number()).collect()
}

fn rounded(values: &[f64], of: MatrixType) -> Vec<f64> {
    let round = |&x: &f64| match of {
        MatrixType::Bf16 => bf16::from_f64(x).to_f64(),
        _ => f64::from(x as f32),
    };
    values.iter().map(round).collect()
}

/// A value and the sum of the sizes of the terms that make it, to which its rounding is relative.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    size: f64,
}

impl Sum {
    fn add(&mut self, value: f64, size: f64) {
        self.value += value;
        self.size += size;
    }
}

fn product(x: &[f64], y: &[f64]) -> Sum {
    let mut sum = Sum::default();
    for (x, y) in zip(x, y) {
        sum.add(x * y, (x * y).abs());
    }
    sum
}

/// What the kernels compute. Gradients are (3, T, H), those of queries first.
struct Slow {
    context: Vec<Sum>,
    log_sums: Vec<Sum>,
    deltas: Vec<Sum>,
    gradients: Vec<Sum>,
}

/// Attention by its definition.
fn slow(case: &Case<'_>, projected: &[f64], d_context: &[f64]) -> Slow {
    let Heads { n, d, .. } = case.heads;
    let (width, n_kept, n_tokens) = (case.width(), case.n_kept(), case.n_tokens());
    let scale = 1.0 / (d as f64).sqrt();
    let mut out = Slow {
        context: vec![Sum::default(); n_kept * width],
        log_sums: vec![Sum::default(); n * n_kept],
        deltas: vec![Sum::default(); n * n_kept],
        gradients: vec![Sum::default(); 3 * n_tokens * width],
    };
    for head in 0..n {
        let part = |part: usize, token: usize| {
            &projected[token * 3 * width + part * width + head * d..][..d]
        };
        for [row, token, start, length] in case.queries() {
            let keys = start..start + length;
            let query = part(0, token);
            let scores: Vec<f64> = keys
                .clone()
                .map(|key| scale * product(query, part(1, key)).value)
                .collect();
            let log_sum = scores.iter().map(|score| score.exp()).sum::<f64>().ln();
            let factors = case.factors(token, head, length);
            let at = row * width + head * d;
            let gradient = &d_context[at..][..d];
            let weights: Vec<f64> = scores.iter().map(|score| (score - log_sum).exp()).collect();
            for ((key, weight), &factor) in zip(zip(keys.clone(), &weights), &factors) {
                let weight = weight * f64::from(factor);
                for (sum, value) in zip(&mut out.context[at..], part(2, key)) {
                    sum.add(weight * value, (weight * value).abs());
                }
            }
            let mut delta = Sum::default();
            for (context, gradient) in zip(&out.context[at..], gradient) {
                delta.add(context.value * gradient, context.size * gradient.abs());
            }
            out.log_sums[head * n_kept + row].add(log_sum, 1.0 + log_sum.abs());
            out.deltas[head * n_kept + row] = delta;
            for ((key, weight), &factor) in zip(zip(keys, &weights), &factors) {
                let factor = f64::from(factor);
                let d_weight = product(gradient, part(2, key));
                let d_score = scale * weight * (factor * d_weight.value - delta.value);
                let size = scale * weight * (factor * d_weight.size + delta.size);
                let dropped = weight * factor;
                let at = |part: usize, token: usize| (part * n_tokens + token) * width + head * d;
                for i in 0..d {
                    let (query, key_value) = (query[i], part(1, key)[i]);
                    let gradients = &mut out.gradients;
                    gradients[at(0, token) + i].add(d_score * key_value, size * key_value.abs());
                    gradients[at(1, key) + i].add(d_score * query, size * query.abs());
                    let d_value = dropped * gradient[i];
                    gradients[at(2, key) + i].add(d_value, d_value.abs());
                }
            }
        }
    }
    out
}

#[test]
fn the_slow_gradients_are_those_of_finite_differences() {
    for first_only in [false, true] {
        let case = Case {
            heads: Heads {
                n: 2,
                d: 8,
                of: MatrixType::F32,
            },
            lengths: &[3, 1, 5],
            first_only,
            mask: mask(0.3),
        };
        let (width, n_tokens) = (case.width(), case.n_tokens());
        let projected = random(1, n_tokens * 3 * width);
        let d_context = random(2, case.n_kept() * width);
        let loss = |projected: &[f64]| -> f64 {
            let context = slow(&case, projected, &d_context).context;
            zip(&context, &d_context)
                .map(|(sum, x)| sum.value * x)
                .sum()
        };
        let gradients = slow(&case, &projected, &d_context).gradients;
        for token in 0..n_tokens {
            for column in 0..3 * width {
                let moved = |by: f64| {
                    let mut moved = projected.clone();
                    moved[token * 3 * width + column] += by;
                    loss(&moved)
                };
                const STEP: f64 = 1e-5;
                let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                let at = (column / width * n_tokens + token) * width + column % width;
                let found = gradients[at].value;
                assert!(
                    (found - expected).abs() < 1e-9,
                    "token {token}, column {column}: {found} for {expected}"
                );
            }
        }
    }
}

fn devices() -> Vec<SharedAccelerator> {
    let emulated: SharedAccelerator = EmulatedGpu::new("gpu:0", 1 << 28);
    let devices = [emulated].into_iter().chain(testkit::gpu());
    devices
        .inspect(|device| device.load(&MODULE).expect("all kernels are there"))
        .collect()
}

fn upload(device: &SharedAccelerator, values: &[f64], of: MatrixType) -> Buffer {
    let bytes: Vec<u8> = match of {
        MatrixType::Bf16 => {
            let halves = values.iter().map(|&x| bf16::from_f64(x));
            halves.flat_map(bf16::to_le_bytes).collect()
        }
        _ => values
            .iter()
            .flat_map(|&x| (x as f32).to_le_bytes())
            .collect(),
    };
    Buffer::of(device, &bytes).expect("there is room")
}

fn upload_tiles(device: &SharedAccelerator, tiles: &[Tile]) -> Buffer {
    let words = tiles.iter().flat_map(|tile| tile.words());
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    Buffer::of(device, &bytes).expect("there is room")
}

fn room(device: &SharedAccelerator, n: usize, of: MatrixType) -> Buffer {
    Buffer::of(device, &vec![0xa5; n * of.bytes() + GUARD]).expect("there is room")
}

/// The first `n` values; the bytes after them are as [`room`] left them.
fn read(buffer: &Buffer, n: usize, of: MatrixType) -> Vec<f64> {
    let mut bytes = vec![0; n * of.bytes() + GUARD];
    buffer.read(0, &mut bytes).expect("it reads");
    let guard = bytes.split_off(n * of.bytes());
    assert_eq!(guard, [0xa5; GUARD], "{of:?}: written beyond the end");
    let value = |value: &[u8]| match of {
        MatrixType::Bf16 => bf16::from_le_bytes(value.try_into().expect("two bytes")).to_f64(),
        _ => f64::from(f32::from_le_bytes(value.try_into().expect("four bytes"))),
    };
    bytes.chunks_exact(of.bytes()).map(value).collect()
}

/// What the device computed, as [`Slow`] has it.
struct Found {
    context: Vec<f64>,
    log_sums: Vec<f64>,
    deltas: Vec<f64>,
    gradients: Vec<f64>,
}

fn run(device: &SharedAccelerator, case: &Case<'_>, projected: &[f64], d_context: &[f64]) -> Found {
    let Heads { n, of, .. } = case.heads;
    let (width, n_kept, n_tokens) = (case.width(), case.n_kept(), case.n_tokens());
    let Tiles { queries, keys } = Tiles::new(case.lengths, case.first_only, case.heads.tile_rows());
    let buffers = [&queries, &keys].map(|tiles| upload_tiles(device, tiles));
    let tiles_at = |buffer: &Buffer, tiles: &[Tile]| TilesAt {
        address: buffer.address(),
        n: tiles.len(),
    };
    let (queries, keys) = (
        tiles_at(&buffers[0], &queries),
        tiles_at(&buffers[1], &keys),
    );
    let projected = upload(device, projected, of);
    let d_context = upload(device, d_context, of);
    let context = room(device, n_kept * width, of);
    let log_sums = room(device, n * n_kept, MatrixType::F32);
    let deltas = room(device, n * n_kept, MatrixType::F32);
    let gradients = room(device, 3 * n_tokens * width, of);
    let n_bytes = n_tokens * width * of.bytes();
    gradients.clear(0, n_bytes).expect("it is cleared");
    let attention = Attention {
        device: &**device,
        heads: case.heads,
        n_kept,
        mask: case.mask,
        projected: projected.address(),
        log_sums: log_sums.address(),
    };
    let from = GradientAt {
        context: d_context.address(),
        deltas: deltas.address(),
    };
    let planes = [0, 1, 2].map(|part| gradients.at(part * n_bytes));
    // SAFETY: the buffers are as large as the shapes say, and the tiles are those of the texts.
    unsafe {
        attention
            .forward(queries, context.address())
            .expect("it runs");
        attention.delta(context.address(), from).expect("it runs");
        attention
            .backward_queries(queries, from, planes[0])
            .expect("it runs");
        attention
            .backward_keys(keys, from, (planes[1], planes[2]))
            .expect("it runs");
    }
    Found {
        context: read(&context, n_kept * width, of),
        log_sums: read(&log_sums, n * n_kept, MatrixType::F32),
        deltas: read(&deltas, n * n_kept, MatrixType::F32),
        gradients: read(&gradients, 3 * n_tokens * width, of),
    }
}

/// Errors are at most this share of the sizes of terms, and all together `of_length` of it of the length of what is expected.
fn assert_near(what: &str, found: &[f64], expected: &[Sum], (tolerance, of_length): (f64, f64)) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in zip(found, expected).enumerate() {
        let Sum { value, size } = *expected;
        assert!(
            (found - value).abs() <= tolerance * size,
            "{what}, value {i}: {found} for {value}, of terms of {size}"
        );
    }
    let errors = zip(found, expected).map(|(found, expected)| (found - expected.value).powi(2));
    let length: f64 = expected.iter().map(|sum| sum.value.powi(2)).sum();
    let share = (errors.sum::<f64>() / length).sqrt();
    assert!(
        share <= of_length * tolerance,
        "{what}: errors are {share} of the length"
    );
}

#[test]
fn context_and_gradients_are_those_of_the_definition() {
    for device in devices() {
        for of in TYPES {
            for (n, d) in [(3, 8), (2, 24), (2, 32), (2, 64), (1, 72), (1, 128)] {
                for (first_only, probability) in
                    [(false, 0.0), (true, 0.0), (false, 0.2), (true, 0.2)]
                {
                    let case = Case {
                        heads: Heads { n, d, of },
                        lengths: &LENGTHS,
                        first_only,
                        mask: mask(probability),
                    };
                    let projected = random(1, case.n_tokens() * 3 * case.width());
                    check(&device, &case, &projected, (32.0 * ROUNDING, 0.5));
                }
            }
        }
    }
}

#[test]
fn scores_may_be_far_from_zero() {
    for device in devices() {
        for of in TYPES {
            for d in [24, 64] {
                for sign in [-1.0, 1.0] {
                    let case = Case {
                        heads: Heads { n: 1, d, of },
                        lengths: &[3, 70],
                        first_only: false,
                        mask: mask(0.2),
                    };
                    // Queries of 8 and keys of 8 to 9: scores of some hundreds, and of one text within some tens.
                    let mut projected = random(1, case.n_tokens() * 3 * d);
                    for row in projected.chunks_exact_mut(3 * d) {
                        row[..d].fill(8.0 * sign);
                        row[d..2 * d].iter_mut().for_each(|x| *x = 8.5 + 0.5 * *x);
                    }
                    // The parts of dQ by the keys that are all about 8.5 cancel each other.
                    check(
                        &device,
                        &case,
                        &projected,
                        (4096.0 * ROUNDING, f64::INFINITY),
                    );
                }
            }
        }
    }
}

/// Half a unit in the last place of f32.
const ROUNDING: f64 = 1.0 / (1u64 << 24) as f64;

/// `of_sums` is the relative error of sums and exponents in f32; `of_length` is as `assert_near` has it.
fn check(
    device: &SharedAccelerator,
    case: &Case<'_>,
    projected: &[f64],
    (of_sums, of_length): (f64, f64),
) {
    let projected = rounded(projected, case.heads.of);
    let d_context = rounded(&random(2, case.n_kept() * case.width()), case.heads.of);
    let found = run(device, case, &projected, &d_context);
    let expected = slow(case, &projected, &d_context);
    // In bf16, the weights and the context are rounded, to 2⁻⁸; for the gradients of scores both count, since deltas come from the
    // context, and these gradients are rounded before they are multiplied.
    let rounding = match case.heads.of {
        MatrixType::Bf16 => 2f64.powi(-8),
        _ => 0.0,
    };
    let name = case.name();
    let near = |what: &str, found: &[f64], expected: &[Sum], n_roundings: f64| {
        let tolerance = of_sums + n_roundings * rounding;
        assert_near(
            &format!("{name}: {what}"),
            found,
            expected,
            (tolerance, of_length),
        );
    };
    near("context", &found.context, &expected.context, 2.0);
    near("log-sums", &found.log_sums, &expected.log_sums, 0.0);
    near("deltas", &found.deltas, &expected.deltas, 2.0);
    let n = found.gradients.len() / 3;
    for (part, (what, n_roundings)) in [("dQ", 4.0), ("dK", 4.0), ("dV", 2.0)]
        .into_iter()
        .enumerate()
    {
        let range = part * n..(part + 1) * n;
        let (found, expected) = (&found.gradients[range.clone()], &expected.gradients[range]);
        near(what, found, expected, n_roundings);
    }
}

#[test]
fn every_kernel_drops_what_the_cpu_drops() {
    for device in devices() {
        for of in TYPES {
            for d in [8, 32, 64, 128] {
                for first_only in [false, true] {
                    let heads = Heads { n: 2, d, of };
                    let case = Case {
                        heads,
                        lengths: &[3, 70],
                        first_only,
                        mask: mask(0.4),
                    };
                    check_places(&device, &case);
                }
            }
        }
    }
}

/// Scores are 0, so that all weights of a text are equal. Where one operand of a sum has a 1 in each row and that in a column of its
/// own, the sums are single factors of the mask.
fn check_places(device: &SharedAccelerator, case: &Case<'_>) {
    let (name, d, width, n_tokens) = (case.name(), case.heads.d, case.width(), case.n_tokens());
    let scale = 1.0 / (d as f64).sqrt();
    let longest = case.lengths.iter().max().expect("there are texts");
    for (pass, first) in
        (0..3).flat_map(|pass| (0..*longest).step_by(d).map(move |first| (pass, first)))
    {
        let window = first..first + d;
        let one = |number: usize, column: usize| f64::from(u8::from(number == first + column % d));
        // Queries, keys, values, dC: first C and dV are factors, then dQ, then dK.
        let value = |part: usize, number: usize, column: usize| match (pass, part) {
            (0, 2 | 3) | (1, 1) | (2, 0) => one(number, column),
            (1 | 2, 2 | 3) => 1.0,
            _ => 0.0,
        };
        let mut projected = Vec::new();
        for &length in case.lengths {
            for number in 0..length {
                projected.extend((0..3 * width).map(|i| value(i / width, number, i % width)));
            }
        }
        let mut d_context = Vec::new();
        for [_, token, start, _] in case.queries() {
            d_context.extend((0..width).map(|column| value(3, token - start, column)));
        }
        let found = run(device, case, &projected, &d_context);
        for [row, token, start, length] in case.queries() {
            for head in 0..case.heads.n {
                let factors = case.factors(token, head, length);
                let delta = found.deltas[head * case.n_kept() + row];
                let of_score =
                    |gradient: f64| (gradient * length as f64 / scale + delta) / d as f64;
                for (key, &factor) in factors.iter().enumerate() {
                    let query = token - start;
                    let gradient = |part: usize, token: usize, number: usize| {
                        let column = head * d + number - first;
                        found.gradients[(part * n_tokens + token) * width + column]
                    };
                    let mut factors = Vec::new();
                    if pass == 0 && window.contains(&key) {
                        let context = found.context[row * width + head * d + key - first];
                        factors.push(("C", context * length as f64));
                    }
                    if pass == 0 && window.contains(&query) {
                        factors.push(("dV", gradient(2, start + key, query) * length as f64));
                    }
                    if pass == 1 && window.contains(&key) {
                        factors.push(("dQ", of_score(gradient(0, token, key))));
                    }
                    if pass == 2 && window.contains(&query) {
                        factors.push(("dK", of_score(gradient(1, start + key, query))));
                    }
                    for (what, found) in factors {
                        assert!(
                            (found - f64::from(factor)).abs() < 0.1,
                            "{name}: {what} of token {token}, head {head}, key {key}: {found} for {factor}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn tiles_cover_every_query_and_key_once() {
    let tile = |start, length, first, n, n_queries, target| Tile {
        start,
        length,
        first,
        n,
        n_queries,
        target,
    };
    assert_eq!(
        Tiles::new(&[5, 1, 4], false, 4),
        Tiles {
            queries: vec![
                tile(0, 5, 0, 4, 5, 0),
                tile(0, 5, 4, 1, 5, 0),
                tile(5, 1, 0, 1, 1, 5),
                tile(6, 4, 0, 4, 4, 6),
            ],
            keys: vec![
                tile(0, 5, 0, 4, 5, 0),
                tile(0, 5, 4, 1, 5, 0),
                tile(5, 1, 0, 1, 1, 5),
                tile(6, 4, 0, 4, 4, 6),
            ],
        }
    );
    assert_eq!(
        Tiles::new(&[5, 1, 4], true, 4),
        Tiles {
            queries: vec![
                tile(0, 5, 0, 1, 1, 0),
                tile(5, 1, 0, 1, 1, 1),
                tile(6, 4, 0, 1, 1, 2),
            ],
            keys: vec![
                tile(0, 5, 0, 4, 1, 0),
                tile(0, 5, 4, 1, 1, 0),
                tile(5, 1, 0, 1, 1, 1),
                tile(6, 4, 0, 4, 1, 2),
            ],
        }
    );
}
