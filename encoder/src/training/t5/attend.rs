use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};

use crate::network::relative_bucket;
use crate::training::attention::{Attention, PartGradients};
use crate::training::dropout::{Dropout, Mask};
use crate::training::encoder::{floats, values};
use crate::training::engine::{Engine, lock};
use crate::training::function;
use crate::training::layer::place_of;
use crate::training::parameter::Parameter;

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

/// Computes `softmax(Q Kᵀ + B) V` of each text, (N, A · d), from packed rows of queries, (N, A · d), keys and values,
/// both (M, A · d). `lengths` are the queries and the keys of each text.
pub(super) fn attend(
    [queries, keys, kept]: [&Tensor; 3],
    (n_queries, n_keys): (&[usize], &[usize]),
    n_heads: usize,
    relative: Option<Arc<Relative>>,
    (dropout, place): (&Dropout, u32),
    engine: &Arc<Engine>,
) -> Result<Tensor> {
    let operation = AttendOperation {
        n_queries: n_queries.to_vec(),
        n_keys: n_keys.to_vec(),
        n_heads,
        relative,
        mask: dropout.at(dropout.attention, place_of(place)),
        engine: engine.clone(),
        log_sums: Mutex::default(),
    };
    queries.apply_op3(keys, kept, operation)
}

struct AttendOperation {
    n_queries: Vec<usize>,
    n_keys: Vec<usize>,
    n_heads: usize,
    relative: Option<Arc<Relative>>,
    mask: Mask,
    engine: Arc<Engine>,
    /// ln Σ eˢ of each text, by head and query.
    log_sums: Mutex<Vec<Vec<f32>>>,
}

/// Queries, keys and values of one text.
#[derive(Clone, Copy)]
struct Text<'a> {
    first_row: usize,
    rows: [&'a [f32]; 3],
}

impl AttendOperation {
    /// Cuts packed rows into texts.
    fn texts<'a>(&self, rows: [&'a [f32]; 3], inner: usize) -> Vec<Text<'a>> {
        let (mut query, mut key) = (0, 0);
        let lengths = self.n_queries.iter().zip(&self.n_keys);
        let cut = |(&n_queries, &n_keys): (&usize, &usize)| {
            let (first_row, first_key) = (query, key);
            (query, key) = (query + n_queries, key + n_keys);
            Text {
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
            scale: 1.0,
            relative: self
                .relative
                .as_ref()
                .map_or(&[], |relative| &relative.values),
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
        let n_relative = self
            .relative
            .as_ref()
            .map_or(0, |relative| relative.values.len());
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
        if let Some(relative) = &self.relative {
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
