//! Layers of the BERT family, forward and backward, with the notation of `training/network.rs`. K rows are those that count behind the
//! last layer: all T, or the first of each text.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use compute::accelerator::{AcceleratorError, Buffer, MatrixType};

use super::attention::{Attention, GradientAt, Heads, Tile, Tiles, TilesAt};
use super::kernels::{Kernels, NormAt};
use super::{Device, failed};
use crate::accelerated::Function;
use crate::training::dropout::{Dropout, Mask};
use crate::training::engine::lock;
use crate::training::network::{LayerParameters, Network, Pair, Place};
use crate::training::parameter::Parameter;

/// The matrices of a network's layers in the type of operands, of the latest version of the parameters.
pub(in crate::training) struct Layers {
    device: Device,
    weights: Mutex<Option<(u64, Arc<Weights>)>>,
}

/// The weights of all layers.
pub(in crate::training) struct Weights(Vec<LayerWeights>);

struct LayerWeights {
    /// Of queries, keys and values: (3 H, H), and 3 H in f32.
    projections: Buffer,
    projection_bias: Buffer,
    output: Buffer,
    up: Buffer,
    down: Buffer,
}

/// The texts of a batch on the device.
pub(super) struct Batch {
    pub(super) n_tokens: usize,
    pub(super) n_texts: usize,
    /// The first row of each text, and the number of rows.
    pub(super) starts: Buffer,
    /// Pairs of a query and a key, all tokens or the first of each text being queries.
    pairs: [usize; 2],
    all: DeviceTiles,
    /// Of first rows alone, where the last layer computes no others.
    first: Option<DeviceTiles>,
}

/// Tiles of queries, and of keys.
struct DeviceTiles([(Buffer, usize); 2]);

impl DeviceTiles {
    fn new(device: &Device, tiles: &Tiles) -> Result<Self, AcceleratorError> {
        let upload = |tiles: &[Tile]| {
            let words: Vec<u32> = tiles.iter().flat_map(|tile| tile.words()).collect();
            Ok((device.upload_words(&words)?, tiles.len()))
        };
        Ok(Self([upload(&tiles.queries)?, upload(&tiles.keys)?]))
    }

    fn at(&self) -> [TilesAt; 2] {
        self.0.each_ref().map(|(tiles, n)| TilesAt {
            address: tiles.address(),
            n: *n,
        })
    }
}

impl Batch {
    pub(super) fn new(
        device: &Device,
        lengths: &[usize],
        heads: Heads,
        first_only: bool,
    ) -> Result<Self, AcceleratorError> {
        let mut starts = vec![0];
        let ends = lengths.iter().scan(0u32, |end, &length| {
            *end += length as u32;
            Some(*end)
        });
        starts.extend(ends);
        let tiles = |first_only| {
            let tiles = Tiles::new(lengths, first_only, heads.tile_rows());
            DeviceTiles::new(device, &tiles)
        };
        Ok(Self {
            n_tokens: lengths.iter().sum(),
            n_texts: lengths.len(),
            starts: device.upload_words(&starts)?,
            pairs: [
                lengths.iter().map(|length| length * length).sum(),
                lengths.iter().sum(),
            ],
            all: tiles(false)?,
            first: first_only.then(|| tiles(true)).transpose()?,
        })
    }
}

/// Token vectors in f32, and as operands.
pub(super) struct Hidden {
    pub(super) rows: Buffer,
    pub(super) operand: Buffer,
}

/// What a forward pass leaves for its backward, by layer.
pub(super) struct Tape(Vec<LayerTape>);

struct LayerTape {
    /// (T, H)
    input: Buffer,
    /// Queries, keys and values, (T, 3 H).
    projected: Buffer,
    /// ln Σ eˢ of each head and kept row, (A, K).
    log_sums: Buffer,
    /// (K, H)
    context: Buffer,
    attention_norm: NormTape,
    /// (K, H)
    attended: Buffer,
    /// Before the activation, (K, I).
    inner: Buffer,
    output_norm: NormTape,
}

/// x̂ of each row, and its scale.
pub(super) struct NormTape {
    normalized: Buffer,
    scales: Buffer,
}

impl NormTape {
    pub(super) fn new(
        device: &Device,
        n_rows: usize,
        width: usize,
    ) -> Result<Self, AcceleratorError> {
        Ok(Self {
            normalized: device.floats(n_rows * width)?,
            scales: device.floats(n_rows)?,
        })
    }

    pub(super) fn at(&self, norm: &Pair, epsilon: f32) -> NormAt {
        NormAt {
            weight: norm.weight.address(),
            bias: norm.bias.address(),
            epsilon,
            normalized: self.normalized.address(),
            scales: self.scales.address(),
        }
    }
}

impl Layers {
    pub(in crate::training) fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            weights: Mutex::default(),
        }
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The weights as they are now, rounded again where an optimizer has changed them.
    pub(in crate::training) fn weights(
        &self,
        network: &Network,
    ) -> candle_core::Result<Arc<Weights>> {
        let version = network.version();
        let mut cached = lock(&self.weights);
        let kept = match cached.take() {
            Some((known, weights)) if known == version => {
                *cached = Some((known, weights.clone()));
                return Ok(weights);
            }
            // Where a backward pass is still to come with the old weights, it keeps them.
            Some((_, weights)) => Arc::into_inner(weights),
            None => None,
        };
        let weights = match kept {
            Some(weights) => weights,
            None => self.room(network).map_err(failed)?,
        };
        for (layer, weights) in network.layers.iter().zip(&weights.0) {
            self.round(layer, weights)?;
        }
        let weights = Arc::new(weights);
        *cached = Some((version, weights.clone()));
        Ok(weights)
    }

    fn room(&self, network: &Network) -> Result<Weights, AcceleratorError> {
        let a = &network.architecture;
        let (width, n_inner) = (a.width, a.n_intermediate);
        let layer = |_| {
            Ok(LayerWeights {
                projections: self.device.operands(3 * width * width)?,
                projection_bias: self.device.floats(3 * width)?,
                output: self.device.operands(width * width)?,
                up: self.device.operands(n_inner * width)?,
                down: self.device.operands(width * n_inner)?,
            })
        };
        network
            .layers
            .iter()
            .map(layer)
            .collect::<Result<_, _>>()
            .map(Weights)
    }

    fn round(&self, layer: &LayerParameters, weights: &LayerWeights) -> candle_core::Result<()> {
        let kernels = self.device.kernels();
        let in_f32 = Kernels {
            of: MatrixType::F32,
            ..self.device.kernels()
        };
        let width = layer.query.weight.width();
        let parts = [&layer.query, &layer.key, &layer.value];
        let matrices = [
            (&layer.output, &weights.output),
            (&layer.up, &weights.up),
            (&layer.down, &weights.down),
        ];
        // SAFETY: there is room for each in the buffers of `room`.
        unsafe {
            for (part, pair) in parts.into_iter().enumerate() {
                let to = weights
                    .projections
                    .at(part * width * width * self.device.of.bytes());
                let from = pair.weight.address();
                kernels.store(from, width * width, to).map_err(failed)?;
                let to = weights.projection_bias.at(part * width * size_of::<f32>());
                in_f32
                    .store(pair.bias.address(), width, to)
                    .map_err(failed)?;
            }
            for (pair, to) in matrices {
                let n = pair.weight.shape().iter().product();
                kernels
                    .store(pair.weight.address(), n, to.address())
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Takes token vectors through some layers. With `first_only` the last of these computes the first row of each text alone.
    pub(super) fn forward(
        &self,
        (network, weights): (&Network, &Weights),
        layers: Range<usize>,
        mut hidden: Hidden,
        batch: &Batch,
        first_only: bool,
        dropout: &Dropout,
    ) -> candle_core::Result<(Hidden, Tape)> {
        let mut tapes = Vec::new();
        for index in layers.clone() {
            let pass = self.pass(
                (network, weights),
                index,
                batch,
                first_only && index + 1 == layers.end,
                dropout,
            );
            let (output, tape) = pass.forward(hidden)?;
            hidden = output;
            tapes.push(tape);
        }
        Ok((hidden, Tape(tapes)))
    }

    /// Adds the gradients of the parameters of these layers, and turns that of their result, (K, H), into that of their input, (T, H).
    pub(super) fn backward(
        &self,
        (network, weights): (&Network, &Weights),
        layers: Range<usize>,
        (tape, mut gradient): (&Tape, Buffer),
        batch: &Batch,
        first_only: bool,
        dropout: &Dropout,
    ) -> candle_core::Result<Buffer> {
        for (index, tape) in layers.clone().zip(&tape.0).rev() {
            let pass = self.pass(
                (network, weights),
                index,
                batch,
                first_only && index + 1 == layers.end,
                dropout,
            );
            gradient = pass.backward(tape, gradient)?;
        }
        Ok(gradient)
    }

    fn pass<'a>(
        &'a self,
        (network, weights): (&'a Network, &'a Weights),
        index: usize,
        batch: &'a Batch,
        first_only: bool,
        dropout: &'a Dropout,
    ) -> Pass<'a> {
        Pass {
            device: &self.device,
            network,
            layer: &network.layers[index],
            weights: &weights.0[index],
            index,
            batch,
            first_only,
            dropout,
        }
    }
}

/// The heads of a network as kernels see them.
pub(super) fn heads(network: &Network, of: MatrixType) -> Heads {
    let a = &network.architecture;
    Heads {
        n: a.n_heads,
        d: a.width / a.n_heads,
        of,
    }
}

/// A batch's way through one layer.
struct Pass<'a> {
    device: &'a Device,
    network: &'a Network,
    layer: &'a LayerParameters,
    weights: &'a LayerWeights,
    index: usize,
    batch: &'a Batch,
    first_only: bool,
    dropout: &'a Dropout,
}

impl Pass<'_> {
    /// K
    fn n_kept(&self) -> usize {
        if self.first_only {
            self.batch.n_texts
        } else {
            self.batch.n_tokens
        }
    }

    /// The row of the pass of each kept row; 0 where they are the same.
    fn sources(&self) -> u64 {
        if self.first_only {
            self.batch.starts.address()
        } else {
            0
        }
    }

    fn tiles(&self) -> [TilesAt; 2] {
        let tiles = match self.first_only {
            true => self.batch.first.as_ref().expect("made for first rows"),
            false => &self.batch.all,
        };
        tiles.at()
    }

    fn mask(&self, place: Place) -> Mask {
        let probability = match place {
            Place::Weights => self.dropout.attention,
            Place::Attention | Place::Output => self.dropout.hidden,
        };
        self.dropout.at(probability, place.number(self.index))
    }

    fn attention(&self, tape: &LayerTape) -> Attention<'_> {
        Attention {
            device: &*self.device.accelerator,
            heads: heads(self.network, self.device.of),
            n_kept: self.n_kept(),
            mask: self.mask(Place::Weights),
            projected: tape.projected.address(),
            log_sums: tape.log_sums.address(),
        }
    }

    /// Counts products of attention, each of as many multiplications as there are pairs and columns.
    fn count_attention(&self, n_products: usize) {
        let n_pairs = self.batch.pairs[usize::from(self.first_only)];
        let width = self.network.architecture.width;
        self.device.kernels().count(n_products * n_pairs * width);
    }

    fn epsilon(&self) -> f32 {
        self.network.architecture.epsilon as f32
    }

    fn forward(&self, hidden: Hidden) -> candle_core::Result<(Hidden, LayerTape)> {
        let (device, kernels) = (self.device, self.device.kernels());
        let a = &self.network.architecture;
        let (width, n_inner) = (a.width, a.n_intermediate);
        let (n_rows, n_kept) = (self.batch.n_tokens, self.n_kept());
        let room = || {
            Ok((
                LayerTape {
                    input: hidden.operand,
                    projected: device.operands(n_rows * 3 * width)?,
                    log_sums: device.floats(a.n_heads * n_kept)?,
                    context: device.operands(n_kept * width)?,
                    attention_norm: NormTape::new(device, n_kept, width)?,
                    attended: device.operands(n_kept * width)?,
                    inner: device.operands(n_kept * n_inner)?,
                    output_norm: NormTape::new(device, n_kept, width)?,
                },
                device.floats(n_kept * width)?,
                device.operands(n_kept * n_inner)?,
                Hidden {
                    rows: device.floats(n_kept * width)?,
                    operand: device.operands(n_kept * width)?,
                },
            ))
        };
        let (tape, attended, activated, output) = room().map_err(failed)?;
        let residual = hidden.rows.address();
        let (weights, layer, of) = (self.weights, self.layer, device.of);
        let (attention, context) = (self.attention(&tape), tape.context.address());
        let norms = (
            tape.attention_norm
                .at(&layer.attention_norm, self.epsilon()),
            tape.output_norm.at(&layer.output_norm, self.epsilon()),
        );
        let biases = [&layer.output, &layer.up, &layer.down].map(|pair| pair.bias.address());
        let [output_bias, up_bias, down_bias] = biases;
        let function = Function::from(a.activation);
        // SAFETY: the buffers were just made for these shapes; parameters and weights have those of the architecture.
        let queued = unsafe {
            (|| {
                // Queries, keys and values: (T, H) · (H, 3 H).
                let (input, projected) = (tape.input.address(), tape.projected.address());
                let shape = (n_rows, 3 * width, width);
                kernels.forward(
                    shape,
                    (input, weights.projections.address()),
                    (projected, of),
                )?;
                let bias = weights.projection_bias.address();
                let shape = (n_rows, 3 * width);
                kernels.add_bias((projected, bias), shape, Function::Relu, 0)?;
                let [queries, _] = self.tiles();
                attention.forward(queries, context)?;
                self.count_attention(2);

                // Output projection, dropout, residual, normalization.
                let shape = (n_kept, width, width);
                let operands = (context, weights.output.address());
                kernels.forward(shape, operands, (attended.address(), MatrixType::F32))?;
                kernels.add_norm(
                    (attended.address(), output_bias),
                    (self.mask(Place::Attention), self.sources()),
                    (residual, self.sources()),
                    (n_kept, width),
                    norms.0,
                    tape.attended.address(),
                )?;

                // Feed-forward: (K, H) · (H, I), activation, (K, I) · (I, H), dropout, residual, normalization.
                let operands = (tape.attended.address(), weights.up.address());
                let inner = tape.inner.address();
                kernels.forward((n_kept, n_inner, width), operands, (inner, of))?;
                let shape = (n_kept, n_inner);
                kernels.add_bias((inner, up_bias), shape, function, activated.address())?;
                let operands = (activated.address(), weights.down.address());
                let out = output.rows.address();
                kernels.forward((n_kept, width, n_inner), operands, (out, MatrixType::F32))?;
                kernels.add_norm(
                    (out, down_bias),
                    (self.mask(Place::Output), self.sources()),
                    (attended.address(), 0),
                    (n_kept, width),
                    norms.1,
                    output.operand.address(),
                )
            })()
        };
        queued.map_err(failed)?;
        Ok((output, tape))
    }

    fn backward(&self, tape: &LayerTape, gradient: Buffer) -> candle_core::Result<Buffer> {
        let (device, kernels) = (self.device, self.device.kernels());
        let a = &self.network.architecture;
        let (width, n_inner) = (a.width, a.n_intermediate);
        let (n_rows, n_kept) = (self.batch.n_tokens, self.n_kept());
        let (weights, layer, of) = (self.weights, self.layer, device.of);
        let room = || {
            Ok((
                [
                    device.operands(n_kept * width)?,
                    device.operands(n_kept * width)?,
                ],
                [
                    device.operands(n_kept * n_inner)?,
                    device.operands(n_kept * n_inner)?,
                ],
                device.floats(a.n_heads * n_kept)?,
                device.operands(3 * n_rows * width)?,
            ))
        };
        let ([dropped, d_context], [d_inner, activated], delta, d_parts) =
            room().map_err(failed)?;
        let output_norm = tape.output_norm.at(&layer.output_norm, self.epsilon());
        let attention_norm = tape
            .attention_norm
            .at(&layer.attention_norm, self.epsilon());
        let add_weights = |shape, operands, to: &Arc<Parameter>| {
            let to = to.gradient_address()?;
            // SAFETY: the parameter has the shape of the product.
            unsafe { kernels.add_weights(shape, operands, to) }.map_err(failed)
        };
        let rows = gradient.address();
        let normalize_backward = |norm: NormAt, pair: &Pair, place: Place| {
            let shape = (n_kept, width);
            device.add_norm_gradients(rows, norm, shape, pair)?;
            let to = (self.sources(), dropped.address());
            // SAFETY: all have K rows of H values.
            unsafe { kernels.norm_backward(rows, norm, shape, self.mask(place), to) }
                .map_err(failed)
        };
        let multiply = |shape, operands, to, adds| {
            // SAFETY: the operands and the result have the shapes of the products below.
            unsafe { kernels.backward(shape, operands, to, adds) }.map_err(failed)
        };

        // Feed-forward. The gradient of the residual stays in `gradient`, that of the block is added to it.
        normalize_backward(output_norm, &layer.output_norm, Place::Output)?;
        let [dropped, d_context, d_inner, activated] =
            [&dropped, &d_context, &d_inner, &activated].map(Buffer::address);
        device.add_columns((dropped, of), (n_kept, width), &layer.down.bias)?;
        let shape = (n_kept, n_inner, width);
        multiply(
            shape,
            (dropped, weights.down.address()),
            (d_inner, of),
            false,
        )?;
        let function = Function::from(a.activation);
        let (inner, n_values) = (tape.inner.address(), n_kept * n_inner);
        // SAFETY: all three have K rows of I values.
        unsafe { kernels.activation_backward((inner, d_inner), n_values, function, activated) }
            .map_err(failed)?;
        add_weights(
            (width, n_inner, n_kept),
            (dropped, activated),
            &layer.down.weight,
        )?;
        device.add_columns((d_inner, of), (n_kept, n_inner), &layer.up.bias)?;
        let attended = tape.attended.address();
        add_weights(
            (n_inner, width, n_kept),
            (d_inner, attended),
            &layer.up.weight,
        )?;
        let (shape, operands) = ((n_kept, width, n_inner), (d_inner, weights.up.address()));
        multiply(shape, operands, (rows, MatrixType::F32), true)?;

        // Attention block.
        normalize_backward(attention_norm, &layer.attention_norm, Place::Attention)?;
        device.add_columns((dropped, of), (n_kept, width), &layer.output.bias)?;
        let (context, shape) = (tape.context.address(), (width, width, n_kept));
        add_weights(shape, (dropped, context), &layer.output.weight)?;
        let shape = (n_kept, width, width);
        multiply(
            shape,
            (dropped, weights.output.address()),
            (d_context, of),
            false,
        )?;
        if self.first_only {
            // Queries that do not count have gradient 0.
            d_parts
                .clear(0, n_rows * width * of.bytes())
                .map_err(failed)?;
        }
        let attention = self.attention(tape);
        let from = GradientAt {
            context: d_context,
            deltas: delta.address(),
        };
        let [queries, keys] = self.tiles();
        let d_part = |part: usize| d_parts.at(part * n_rows * width * of.bytes());
        // SAFETY: the buffers are of these shapes, and the tape is that of the same texts.
        let queued = unsafe {
            attention
                .delta(context, from)
                .and_then(|()| attention.backward_queries(queries, from, d_part(0)))
                .and_then(|()| attention.backward_keys(keys, from, (d_part(1), d_part(2))))
        };
        queued.map_err(failed)?;
        self.count_attention(5);

        let mut gradient = gradient;
        if self.first_only {
            let all = device.floats(n_rows * width).map_err(failed)?;
            let texts = (self.batch.starts.address(), self.batch.n_texts);
            // SAFETY: every token is of a text.
            unsafe { kernels.spread_rows(texts, width, false, (rows, all.address())) }
                .map_err(failed)?;
            gradient = all;
        }
        let parts = [&layer.query, &layer.key, &layer.value];
        for (part, pair) in parts.into_iter().enumerate() {
            let d_part = d_part(part);
            device.add_columns((d_part, of), (n_rows, width), &pair.bias)?;
            let operands = (d_part, tape.input.address());
            add_weights((width, width, n_rows), operands, &pair.weight)?;
            let weight = weights.projections.at(part * width * width * of.bytes());
            let to = (gradient.address(), MatrixType::F32);
            multiply((n_rows, width, width), (d_part, weight), to, true)?;
        }
        Ok(gradient)
    }
}
