//! Attention as a candle operation, for layers whose queries, keys and values are tensors of their own.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};

use super::attention::{Attention, Bias, PartGradients};
use super::dropout::{Dropout, Mask};
use super::encoder::{floats, values};
use super::engine::{Engine, lock};
use super::function;
use super::layer::place_of;
use super::matrix::Precision;
use super::parameter::Parameter;
use crate::network::relative_bucket;

/// The bias of a stack's self-attention, spread from buckets to offsets.
pub(super) struct Relative {
    /// (buckets, A)
    table: Arc<Parameter>,
    /// The bucket of each offset of key to query, from 1 − P to P − 1.
    buckets: Vec<usize>,
    /// By head and offset, (A, 2 P − 1).
    values: Vec<f32>,
}

impl Relative {
    /// For texts of up to `n_positions` tokens, P.
    pub(super) fn new(table: &Arc<Parameter>, max_distance: usize, n_positions: usize) -> Self {
        let (n_buckets, n_heads) = (table.shape()[0], table.shape()[1]);
        let n_positions = n_positions as i64;
        let buckets: Vec<usize> = (1 - n_positions..n_positions)
            .map(|offset| relative_bucket(offset, n_buckets, max_distance))
            .collect();
        let biases = &table.settled().values;
        let spread = |head| {
            buckets
                .iter()
                .map(move |bucket| biases[bucket * n_heads + head])
        };
        Self {
            values: (0..n_heads).flat_map(spread).collect(),
            table: table.clone(),
            buckets,
        }
    }

    /// Adds the gradient of the values to that of the table.
    fn add_gradient(&self, d_values: &[f32]) -> Result<()> {
        let n_heads = self.table.shape()[1];
        let mut d_table = vec![0.0; self.table.shape().iter().product()];
        for (head, offsets) in d_values.chunks_exact(self.buckets.len()).enumerate() {
            for (bucket, value) in self.buckets.iter().zip(offsets) {
                d_table[bucket * n_heads + head] += value;
            }
        }
        self.table.add_gradient(&d_table)
    }
}

/// What the queries of a text attend to.
pub(super) enum Keys {
    All,
    /// To all, with a bias for the distance.
    Relative(Arc<Relative>),
    /// To some: see [`Attend::seen`]. Numbers of each text.
    Seen(Vec<Vec<u64>>),
}

/// Attention with A heads of width d, of rows in which the heads lie one after the other.
pub struct Attend<'a> {
    /// A
    pub n_heads: usize,
    /// What queries times keys are multiplied by, mostly `1 / √d`; above 0.
    pub scale: f32,
    /// Of the attention weights; `place` tells layers apart, as in [`super::dropout`].
    pub dropout: &'a Dropout,
    /// See `dropout`.
    pub place: u32,
    /// What computes.
    pub engine: &'a Arc<Engine>,
}

impl Attend<'_> {
    /// Computes `softmax(s Q Kᵀ) V` of each text, (T, A · d), where a token attends only to those that it sees, from queries, keys and
    /// values, (T, A · d), of the texts one after the other.
    ///
    /// `seen` has ⌈n / 64⌉ numbers for each of a text's n tokens: bit `j % 64` of the `j / 64`-th says whether it sees token j.
    ///
    /// # Errors
    /// When the shapes, the heads or the numbers do not fit, for a text without tokens, when a token sees none, and for heads of an odd
    /// width in bf16.
    pub fn seen(
        &self,
        parts: [&Tensor; 3],
        lengths: &[usize],
        seen: Vec<Vec<u64>>,
    ) -> Result<Tensor> {
        self.dropout.check()?;
        let (n_tokens, width) = parts[0].dims2()?;
        if parts.iter().any(|part| part.shape() != parts[0].shape())
            || n_tokens != lengths.iter().sum::<usize>()
            || lengths.contains(&0)
            || self.n_heads == 0
            || !width.is_multiple_of(self.n_heads)
        {
            let shapes = parts.map(Tensor::shape);
            candle_core::bail!(
                "{shapes:?} are not queries, keys and values of {} heads for texts {lengths:?}",
                self.n_heads
            );
        }
        let head_width = width / self.n_heads;
        if self.engine.precision() == Precision::Bf16 && !head_width.is_multiple_of(2) {
            candle_core::bail!("heads are {head_width} wide; in bf16 that is even");
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            candle_core::bail!("the scale of scores is {}; it is above 0", self.scale);
        }
        if seen.len() != lengths.len() {
            candle_core::bail!(
                "{} texts, and what is seen of {}",
                lengths.len(),
                seen.len()
            );
        }
        for (text, (&n, numbers)) in lengths.iter().zip(&seen).enumerate() {
            let width = n.div_ceil(64);
            if numbers.len() != n * width {
                candle_core::bail!(
                    "{} numbers for what the {n} tokens of text {text} see",
                    numbers.len()
                );
            }
            let past_the_end = !(u64::MAX >> (width * 64 - n));
            let sees_none = |row: &[u64]| {
                row.iter().all(|&number| number == 0) || row[width - 1] & past_the_end != 0
            };
            if let Some(token) = numbers.chunks(width).position(sees_none) {
                candle_core::bail!(
                    "token {token} of text {text} sees none, or one that is not there"
                );
            }
        }
        self.texts(parts, (lengths, lengths), Keys::Seen(seen))
    }

    /// Computes `softmax(s Q Kᵀ + B) V` of each text, (N, A · d), from packed rows of queries, (N, A · d), keys and values,
    /// both (M, A · d). The lengths are the queries and the keys of each text.
    pub(super) fn texts(
        &self,
        [queries, keys, kept]: [&Tensor; 3],
        (n_queries, n_keys): (&[usize], &[usize]),
        attended: Keys,
    ) -> Result<Tensor> {
        let operation = AttendOperation {
            n_queries: n_queries.to_vec(),
            n_keys: n_keys.to_vec(),
            n_heads: self.n_heads,
            scale: self.scale,
            attended,
            mask: self
                .dropout
                .at(self.dropout.attention, place_of(self.place)),
            engine: self.engine.clone(),
            log_sums: Mutex::default(),
        };
        queries.apply_op3(keys, kept, operation)
    }
}

struct AttendOperation {
    n_queries: Vec<usize>,
    n_keys: Vec<usize>,
    n_heads: usize,
    scale: f32,
    attended: Keys,
    mask: Mask,
    engine: Arc<Engine>,
    /// ln Σ eˢ of each text, by head and query.
    log_sums: Mutex<Vec<Vec<f32>>>,
}

/// Queries, keys and values of one text.
#[derive(Clone, Copy)]
struct Text<'a> {
    number: usize,
    first_row: usize,
    rows: [&'a [f32]; 3],
}

impl AttendOperation {
    /// Cuts packed rows into texts.
    fn texts<'a>(&self, rows: [&'a [f32]; 3], inner: usize) -> Vec<Text<'a>> {
        let (mut query, mut key) = (0, 0);
        let lengths = self.n_queries.iter().zip(&self.n_keys).enumerate();
        let cut = |(number, (&n_queries, &n_keys)): (usize, (&usize, &usize))| {
            let (first_row, first_key) = (query, key);
            (query, key) = (query + n_queries, key + n_keys);
            Text {
                number,
                first_row,
                rows: [
                    &rows[0][first_row * inner..query * inner],
                    &rows[1][first_key * inner..key * inner],
                    &rows[2][first_key * inner..key * inner],
                ],
            }
        };
        lengths.map(cut).collect()
    }

    /// Packs a text and hands its attention to `work`.
    fn with<R>(&self, text: Text<'_>, inner: usize, work: impl FnOnce(&Attention<'_>) -> R) -> R {
        let kernel = self.engine.kernel;
        let words = text.rows.map(|rows| {
            let mut words = Vec::new();
            kernel.pack(rows, inner, &mut words);
            words
        });
        work(&Attention {
            kernel,
            n_heads: self.n_heads,
            head_width: inner / self.n_heads,
            scale: self.scale,
            bias: match &self.attended {
                Keys::All => Bias::None,
                Keys::Relative(relative) => Bias::Relative(&relative.values),
                Keys::Seen(seen) => Bias::Seen(&seen[text.number]),
            },
            mask: self.mask,
            first_row: text.first_row,
            n_queries: text.rows[0].len() / inner,
            n_keys: text.rows[1].len() / inner,
            parts: [&words[0], &words[1], &words[2]],
            stride: kernel.words(inner),
        })
    }
}

impl CustomOp3 for AttendOperation {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        query_layout: &Layout,
        keys: &CpuStorage,
        key_layout: &Layout,
        kept: &CpuStorage,
        kept_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inner = query_layout.dims()[1];
        let rows = [
            floats(queries, query_layout)?,
            floats(keys, key_layout)?,
            floats(kept, kept_layout)?,
        ];
        let mut rest = vec![0.0; rows[0].len()];
        let mut output = Vec::with_capacity(self.n_queries.len());
        let mut log_sums: Vec<Vec<f32>> = Vec::with_capacity(self.n_queries.len());
        for text in self.texts(rows, inner) {
            let tail = rest.split_off(text.rows[0].len());
            output.push((text, std::mem::replace(&mut rest, tail)));
            log_sums.push(vec![0.0; text.rows[0].len() / inner * self.n_heads]);
        }
        let mut work: Vec<_> = output.iter_mut().zip(&mut log_sums).collect();
        self.engine.run(&mut work, |((text, output), log_sums)| {
            self.engine.with_workspace(|workspace| {
                self.with(*text, inner, |attention| {
                    let log_sums = (&mut log_sums[..], attention.n_queries);
                    attention.forward(log_sums, (output, inner), &mut workspace.attention);
                });
            });
        });
        drop(work);
        *lock(&self.log_sums) = log_sums;
        let output = output.into_iter().flat_map(|(_, rows)| rows).collect();
        Ok((CpuStorage::F32(output), query_layout.shape().clone()))
    }

    fn bwd(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        kept: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        struct Share<'a> {
            text: Text<'a>,
            d_context: &'a [f32],
            log_sums: &'a [f32],
            d_parts: Vec<f32>,
            d_relative: Vec<f32>,
        }
        let (kernel, inner) = (self.engine.kernel, queries.dims2()?.1);
        let (rows, gradient) = (
            [values(queries)?, values(keys)?, values(kept)?],
            values(gradient)?,
        );
        let relative = match &self.attended {
            Keys::Relative(relative) => Some(relative),
            Keys::All | Keys::Seen(_) => None,
        };
        let n_relative = relative.map_or(0, |relative| relative.values.len());
        let log_sums = lock(&self.log_sums);
        let mut shares: Vec<Share<'_>> = self
            .texts([&rows[0], &rows[1], &rows[2]], inner)
            .into_iter()
            .zip(&*log_sums)
            .map(|(text, log_sums)| Share {
                d_context: &gradient[text.first_row * inner..][..text.rows[0].len()],
                text,
                log_sums,
                d_parts: vec![0.0; text.rows.iter().map(|rows| rows.len()).sum()],
                d_relative: vec![0.0; n_relative],
            })
            .collect();
        self.engine.run(&mut shares, |share| {
            let [n, m] = [0, 1].map(|part| share.text.rows[part].len());
            let mut words = Vec::new();
            kernel.pack(share.d_context, inner, &mut words);
            let mut gradients = PartGradients {
                values: &mut share.d_parts,
                starts: [0, n, n + m],
                stride: inner,
            };
            self.engine.with_workspace(|workspace| {
                self.with(share.text, inner, |attention| {
                    attention.backward(
                        (share.log_sums, attention.n_queries),
                        (&words, kernel.words(inner)),
                        &mut gradients,
                        &mut share.d_relative,
                        &mut workspace.attention,
                    );
                });
            });
        });
        if let Some(relative) = relative {
            let mut sum = vec![0.0; n_relative];
            for share in &shares {
                function::add(kernel.simd, &mut sum, &share.d_relative);
            }
            relative.add_gradient(&sum)?;
        }
        let mut parts: [Vec<f32>; 3] = Default::default();
        for share in &shares {
            let (query, rest) = share.d_parts.split_at(share.text.rows[0].len());
            let (key, value) = rest.split_at(share.text.rows[1].len());
            for (part, values) in parts.iter_mut().zip([query, key, value]) {
                part.extend_from_slice(values);
            }
        }
        let [query, key, value] = parts;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
        Ok((
            Some(tensor(query, queries)?),
            Some(tensor(key, keys)?),
            Some(tensor(value, kept)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Tensor};

    use super::Attend;
    use crate::training::assert_near;
    use crate::training::{Dropout, Engine, EngineConfig, Kind, Parameters, Precision, normal};

    /// Softmax over the keys that are seen, of basic operations; `seen` has a number for each token.
    fn slow(parts: [&Tensor; 3], lengths: &[usize], n_heads: usize, seen: &[Vec<u64>]) -> Tensor {
        let (mut start, mut texts) = (0, Vec::new());
        for (&n, seen) in lengths.iter().zip(seen) {
            let heads = |part: &Tensor| {
                let rows = part.narrow(0, start, n).unwrap();
                let shape = (n, n_heads, part.dims()[1] / n_heads);
                let rows = rows.reshape(shape).unwrap();
                rows.transpose(0, 1).unwrap().contiguous().unwrap()
            };
            let [query, key, value] = parts.map(heads);
            start += n;
            let width = n.div_ceil(64);
            let sees = |i: usize, j: usize| seen[i * width + j / 64] >> (j % 64) & 1 == 1;
            let hidden = (0..n * n).map(|at| if sees(at / n, at % n) { 0.0 } else { -1e9f32 });
            let hidden = Tensor::from_iter(hidden, &Device::Cpu).unwrap();
            let scale = 1.0 / (query.dims()[2] as f64).sqrt();
            let scores = (query.matmul(&key.t().unwrap()).unwrap() * scale).unwrap();
            let hidden = hidden.reshape((1, n, n)).unwrap();
            let scores = scores.broadcast_add(&hidden).unwrap();
            let most = scores.max_keepdim(D::Minus1).unwrap().detach();
            let powers = scores.broadcast_sub(&most).unwrap().exp().unwrap();
            let sums = powers.sum_keepdim(D::Minus1).unwrap();
            let context = powers.broadcast_div(&sums).unwrap().matmul(&value);
            let context = context.unwrap().transpose(0, 1).unwrap();
            texts.push(context.flatten_from(1).unwrap());
        }
        Tensor::cat(&texts, 0).unwrap()
    }

    /// Numbers of a text in which every third token is hidden, from another on in each row.
    fn some(n: usize) -> Vec<u64> {
        let width = n.div_ceil(64);
        let mut numbers = vec![0; n * width];
        for at in 0..n * n {
            let (i, j) = (at / n, at % n);
            numbers[i * width + j / 64] |= u64::from((i + j) % 3 > 0 || n == 1) << (j % 64);
        }
        numbers
    }

    fn engine_of(precision: Precision) -> std::sync::Arc<Engine> {
        let config = EngineConfig {
            precision,
            ..EngineConfig::default()
        };
        Engine::new(&config).unwrap()
    }

    #[test]
    fn what_is_not_seen_counts_for_nothing() {
        let lengths = [70, 1, 64, 5, 130];
        let n_rows = lengths.iter().sum::<usize>();
        let seen: Vec<_> = lengths.iter().map(|&n| some(n)).collect();
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2)] {
            let engine = engine_of(precision);
            let outcome = |fused: bool| {
                let mut parameters = Parameters::new();
                let mut rows = |name: &str, stream| {
                    let values = normal(7, stream, n_rows * 24, 1.0);
                    let rows = parameters.insert(name, &[n_rows, 24], values, Kind::Matrix);
                    rows.unwrap().tensor().unwrap()
                };
                let parts = [rows("query", 0), rows("key", 1), rows("value", 2)];
                let parts = [&parts[0], &parts[1], &parts[2]];
                let attend = Attend {
                    n_heads: 3,
                    scale: 1.0 / 8f32.sqrt(),
                    dropout: &Dropout::NONE,
                    place: 0,
                    engine: &engine,
                };
                let context = match fused {
                    true => attend.seen(parts, &lengths, seen.clone()).unwrap(),
                    false => slow(parts, &lengths, 3, &seen),
                };
                let weights =
                    Tensor::from_vec(normal(7, 3, n_rows * 24, 1.0), (n_rows, 24), &Device::Cpu);
                let loss = (&context * weights.unwrap()).unwrap().sum_all().unwrap();
                loss.backward().unwrap();
                let all = context.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let gradients = parameters
                    .iter()
                    .map(|one| one.gradient().unwrap().unwrap());
                std::iter::once(all).chain(gradients).collect::<Vec<_>>()
            };
            for (expected, found) in outcome(false).iter().zip(outcome(true)) {
                assert_near(expected, &found, tolerance, &format!("{precision:?}"));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let engine = engine_of(Precision::F32);
        let attend = Attend {
            n_heads: 2,
            scale: 1.0,
            dropout: &Dropout::NONE,
            place: 0,
            engine: &engine,
        };
        let rows = Tensor::ones((3, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let check = |lengths: &[usize], seen: Vec<Vec<u64>>, expected: &str| {
            let error = attend
                .seen([&rows; 3], lengths, seen)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(&[2], vec![vec![1; 2]], "for texts [2]");
        check(&[3, 0], vec![vec![7; 3], vec![]], "for texts [3, 0]");
        let odd = Tensor::ones((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let in_bf16 = Attend {
            n_heads: 1,
            engine: &engine_of(Precision::Bf16),
            ..attend
        };
        let error = in_bf16.seen([&odd; 3], &[1], vec![vec![1]]).unwrap_err();
        assert!(error.to_string().contains("heads are 3 wide"), "{error}");
        let error = Attend {
            scale: -1.0,
            ..attend
        }
        .seen([&rows; 3], &[3], vec![vec![7; 3]]);
        assert!(error.unwrap_err().to_string().contains("scale"));
        check(&[2, 1], vec![vec![1; 2]], "2 texts, and what is seen of 1");
        check(
            &[2, 1],
            vec![vec![1; 2], vec![]],
            "0 numbers for what the 1 tokens of text 1 see",
        );
        check(
            &[2, 1],
            vec![vec![1, 0], vec![1]],
            "token 1 of text 0 sees none",
        );
        check(
            &[2, 1],
            vec![vec![1, 4], vec![1]],
            "token 1 of text 0 sees none, or one that is not there",
        );
        attend
            .seen([&rows; 3], &[2, 1], vec![vec![1, 3], vec![1]])
            .unwrap();
    }
}
