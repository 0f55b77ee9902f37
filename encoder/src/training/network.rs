//! Layers of the BERT family on packed texts, forward and backward, on slices.
//!
//! Whole texts are packed without padding into **groups** of up to 256 tokens. One thread takes a group through all
//! layers of the forward; what the backward needs goes to the group's tape, packed for the products in which it will
//! stand. The backward goes layer by layer: first the gradients of each group's inputs, then those of the weights, which
//! sum over all groups.
//!
//! Notation: R rows (tokens) of a group, width H, A heads of width d = H / A, inner width I.

mod attention;

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::accelerated::Layers;
use super::attention::Buffers;
use super::dropout::Dropout;
use super::engine::{Engine, lock};
use super::function;
use super::linear::{Due, PackedLinear, add_vector, add_weight_gradients};
use super::matrix::{Kernel, Left, PANEL, Panels, Start, multiply};
use super::parameter::Parameter;
use crate::architecture::Architecture;
use crate::network::mpnet_bucket;

/// Most tokens of a group that holds more than one text.
const GROUP_TOKENS: usize = 256;
/// Fewer tokens than this are not worth a group of their own.
const LEAST_TOKENS: usize = 32;

/// Weight and bias of a linear layer, or scale and shift of a normalization.
pub(super) struct Pair {
    pub(super) weight: Arc<Parameter>,
    pub(super) bias: Arc<Parameter>,
}

/// The parameters of one layer.
pub(super) struct LayerParameters {
    pub(super) query: Pair,
    pub(super) key: Pair,
    pub(super) value: Pair,
    pub(super) output: Pair,
    pub(super) attention_norm: Pair,
    pub(super) up: Pair,
    pub(super) down: Pair,
    pub(super) output_norm: Pair,
}

impl LayerParameters {
    fn pairs(&self) -> [&Pair; 8] {
        [
            &self.query,
            &self.key,
            &self.value,
            &self.output,
            &self.attention_norm,
            &self.up,
            &self.down,
            &self.output_norm,
        ]
    }
}

/// A stack of layers.
pub(super) struct Network {
    pub(super) engine: Arc<Engine>,
    pub(super) architecture: Architecture,
    pub(super) layers: Vec<LayerParameters>,
    /// (buckets, A), MPNet only.
    pub(super) relative_bias: Option<Arc<Parameter>>,
    packed: Mutex<Option<(u64, Arc<Packed>)>>,
    /// What computes the layers in place of this, where the engine has a device.
    pub(super) on_device: Option<Layers>,
}

/// All weights of a network as products want them, of one version of the parameters.
#[derive(Default)]
pub(super) struct Packed {
    layers: Vec<PackedLayer>,
    /// Added to scores, by head and offset of key to query from 1 − P to P − 1; empty without relative positions.
    relative: Vec<f32>,
}

#[derive(Default)]
struct PackedLayer {
    projections: PackedLinear,
    output: PackedLinear,
    attention_norm: Norm,
    up: PackedLinear,
    down: PackedLinear,
    output_norm: Norm,
}

#[derive(Default)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// What one forward pass leaves for its backward, by group.
#[derive(Default)]
pub(super) struct Tape {
    /// May hold more than `n_groups`, for their memory.
    groups: Vec<GroupTape>,
    n_groups: usize,
}

impl Tape {
    fn groups(&mut self) -> &mut [GroupTape] {
        &mut self.groups[..self.n_groups]
    }
}

/// Consecutive texts of a batch.
#[derive(Clone, Default)]
struct Group {
    /// Index of the first token in the batch.
    start: usize,
    lengths: Vec<usize>,
}

impl Group {
    fn n_rows(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Ranges of rows of the texts.
    fn texts(&self) -> impl Iterator<Item = Range<usize>> {
        self.lengths.iter().scan(0, |end, &length| {
            let start = *end;
            *end += length;
            Some(start..*end)
        })
    }
}

#[derive(Default)]
struct GroupTape {
    group: Group,
    /// Input of the next layer in the forward, gradient of the last layer's output in the backward, (R, H).
    hidden: Vec<f32>,
    layers: Vec<LayerTape>,
    gradients: GroupGradients,
}

#[derive(Default)]
struct LayerTape {
    input: Panels,
    /// Queries, keys and values, (R, 3 H), packed along 3 H.
    projected: Vec<u32>,
    /// ln Σ eˢ of each row and head, (A, R).
    log_sums: Vec<f32>,
    context: Panels,
    attention_norm: NormTape,
    attended: Panels,
    /// Before the activation, (R, I), packed along I.
    inner: Vec<u32>,
    output_norm: NormTape,
}

#[derive(Default)]
struct NormTape {
    normalized: Vec<f32>,
    scales: Vec<f32>,
}

/// One group's share of the gradients of one layer: operands of weight gradients, and sums over rows.
#[derive(Default)]
struct GroupGradients {
    projections: [Panels; 3],
    output: Panels,
    up: Panels,
    activated: Panels,
    down: Panels,
    projection_biases: Vec<f32>,
    output_bias: Vec<f32>,
    attention_norm: Norm,
    up_bias: Vec<f32>,
    down_bias: Vec<f32>,
    output_norm: Norm,
    relative: Vec<f32>,
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Workspace {
    rows: Vec<f32>,
    wide: Vec<f32>,
    tile: Vec<f32>,
    second_tile: Vec<f32>,
    words: Vec<u32>,
    wide_words: Vec<u32>,
    pub(super) attention: Buffers,
}

impl Network {
    pub(super) fn new(
        engine: Arc<Engine>,
        architecture: Architecture,
        layers: Vec<LayerParameters>,
        relative_bias: Option<Arc<Parameter>>,
    ) -> Self {
        Self {
            on_device: engine.device.as_ref().map(Layers::new),
            engine,
            architecture,
            layers,
            relative_bias,
            packed: Mutex::default(),
        }
    }

    /// Grows whenever a parameter changes.
    pub(super) fn version(&self) -> u64 {
        let parameters = self
            .layers
            .iter()
            .flat_map(|layer| layer.pairs())
            .flat_map(|pair| [&pair.weight, &pair.bias]);
        parameters
            .chain(&self.relative_bias)
            .map(|parameter| parameter.version())
            .sum()
    }

    /// The weights as they are now, packed again where an optimizer has changed them.
    pub(super) fn packed(&self) -> Arc<Packed> {
        let version = self.version();
        let mut cached = lock(&self.packed);
        let mut packed = match cached.take() {
            Some((known, packed)) if known == version => {
                *cached = Some((known, packed.clone()));
                return packed;
            }
            Some((_, packed)) => packed,
            None => Arc::default(),
        };
        // Where a backward pass is still to come with the old weights, it keeps them and new memory is taken.
        if Arc::get_mut(&mut packed).is_none() {
            packed = Arc::default();
        }
        let target = Arc::get_mut(&mut packed).expect("nobody else holds it");
        target
            .layers
            .resize_with(self.layers.len(), PackedLayer::default);
        let kernel = self.engine.kernel;
        let mut work: Vec<(Vec<&Pair>, &mut PackedLinear)> = Vec::new();
        for (layer, packed) in self.layers.iter().zip(&mut target.layers) {
            for (pair, norm) in [
                (&layer.attention_norm, &mut packed.attention_norm),
                (&layer.output_norm, &mut packed.output_norm),
            ] {
                norm.weight.clone_from(&pair.weight.settled().values);
                norm.bias.clone_from(&pair.bias.settled().values);
            }
            work.push((vec![&layer.up], &mut packed.up));
            work.push((vec![&layer.down], &mut packed.down));
            work.push((
                vec![&layer.query, &layer.key, &layer.value],
                &mut packed.projections,
            ));
            work.push((vec![&layer.output], &mut packed.output));
        }
        self.engine.run(&mut work, |(pairs, packed)| {
            let n_in = pairs[0].weight.width();
            let join = |part: fn(&Pair) -> &Arc<Parameter>| -> Vec<f32> {
                let all: Vec<_> = pairs.iter().map(|pair| part(pair).settled()).collect();
                all.iter()
                    .flat_map(|inner| &inner.values)
                    .copied()
                    .collect()
            };
            match &pairs[..] {
                [pair] => packed.pack(
                    kernel,
                    &pair.weight.settled().values,
                    &pair.bias.settled().values,
                    n_in,
                ),
                _ => packed.pack(
                    kernel,
                    &join(|pair| &pair.weight),
                    &join(|pair| &pair.bias),
                    n_in,
                ),
            }
        });
        if let Some(parameter) = &self.relative_bias {
            let a = &self.architecture;
            let table = &parameter.settled().values;
            target.relative = (0..a.n_heads)
                .flat_map(|head| {
                    self.buckets()
                        .map(move |bucket| table[bucket * a.n_heads + head])
                })
                .collect();
        }
        *cached = Some((version, packed.clone()));
        packed
    }

    /// The bucket of each offset from 1 − P to P − 1.
    fn buckets(&self) -> impl Iterator<Item = usize> {
        let a = &self.architecture;
        let n_positions = a.n_positions as i64;
        (1 - n_positions..n_positions).map(|offset| mpnet_bucket(offset, a.n_buckets))
    }

    /// Takes the token vectors of texts of these lengths, (T, H), through some layers, and keeps what the backward needs.
    ///
    /// With `first_only` the last of these layers computes the first row of each text alone, (B, H).
    pub(super) fn forward(
        &self,
        packed: &Packed,
        layers: Range<usize>,
        hidden: &[f32],
        lengths: &[usize],
        first_only: bool,
        dropout: &Dropout,
    ) -> (Vec<f32>, Tape) {
        let width = self.architecture.width;
        let mut tape = self.engine.take_tape();
        let groups = cut(lengths);
        tape.n_groups = groups.len();
        if tape.groups.len() < groups.len() {
            tape.groups.resize_with(groups.len(), GroupTape::default);
        }
        for (tape, group) in tape.groups.iter_mut().zip(groups) {
            tape.layers
                .resize_with(tape.layers.len().max(layers.len()), LayerTape::default);
            tape.group = group;
        }
        self.engine.run(tape.groups(), |tape| {
            let GroupTape {
                group,
                hidden: rows,
                layers: tapes,
                ..
            } = tape;
            let start = group.start * width;
            rows.clear();
            rows.extend_from_slice(&hidden[start..start + group.n_rows() * width]);
            self.engine.with_workspace(|workspace| {
                for (index, tape) in layers.clone().zip(tapes) {
                    let pass = self.pass(
                        packed,
                        index,
                        dropout,
                        group,
                        first_only && index + 1 == layers.end,
                    );
                    pass.forward(tape, rows, workspace);
                }
            });
        });
        let mut output = Vec::with_capacity(if first_only {
            lengths.len() * width
        } else {
            hidden.len()
        });
        for group in tape.groups() {
            output.extend_from_slice(&group.hidden);
        }
        (output, tape)
    }

    /// Adds the gradients of the parameters of these layers, and returns that of the layers' input, (T, H).
    pub(super) fn backward(
        &self,
        packed: &Packed,
        layers: Range<usize>,
        tape: &mut Tape,
        gradient: &[f32],
        first_only: bool,
        dropout: &Dropout,
    ) -> Vec<f32> {
        let mut rest = gradient;
        for tape in tape.groups() {
            let n_kept = if first_only {
                tape.group.lengths.len()
            } else {
                tape.group.n_rows()
            };
            let (own, others) = rest.split_at(n_kept * self.architecture.width);
            rest = others;
            tape.hidden.clear();
            tape.hidden.extend_from_slice(own);
        }
        for (place, index) in layers.clone().enumerate().rev() {
            self.engine.run(tape.groups(), |tape| {
                self.engine.with_workspace(|workspace| {
                    let pass = self.pass(
                        packed,
                        index,
                        dropout,
                        &tape.group,
                        first_only && index + 1 == layers.end,
                    );
                    pass.backward(
                        &tape.layers[place],
                        &mut tape.gradients,
                        &mut tape.hidden,
                        workspace,
                    );
                });
            });
            self.add_gradients(index, place, tape.groups());
        }
        let mut output = Vec::new();
        for group in tape.groups() {
            output.extend_from_slice(&group.hidden);
        }
        output
    }

    fn pass<'a>(
        &'a self,
        packed: &'a Packed,
        index: usize,
        dropout: &'a Dropout,
        group: &'a Group,
        first_only: bool,
    ) -> Pass<'a> {
        let kept = match first_only {
            true => group.texts().map(|text| text.start).collect(),
            false => (0..group.n_rows()).collect(),
        };
        Pass {
            kept,
            kernel: self.engine.kernel,
            architecture: &self.architecture,
            layer: &packed.layers[index],
            relative: &packed.relative,
            dropout,
            index,
            group,
        }
    }

    /// Adds what the groups have left for the parameters of one layer.
    fn add_gradients(&self, index: usize, place: usize, groups: &[GroupTape]) {
        let (a, layer) = (&self.architecture, &self.layers[index]);
        let (width, n_inner) = (a.width, a.n_intermediate);
        {
            let [mut query, mut key, mut value, mut output, mut up, mut down] = [
                &layer.query,
                &layer.key,
                &layer.value,
                &layer.output,
                &layer.up,
                &layer.down,
            ]
            .map(|pair| pair.weight.write());
            type Operands = for<'a> fn(&'a GroupTape, usize) -> (&'a Panels, &'a Panels);
            let due = [
                (
                    &mut down,
                    n_inner,
                    (|tape, _| (&tape.gradients.down, &tape.gradients.activated)) as Operands,
                ),
                (&mut up, width, |tape, place| {
                    (&tape.gradients.up, &tape.layers[place].attended)
                }),
                (&mut query, width, |tape, place| {
                    (&tape.gradients.projections[0], &tape.layers[place].input)
                }),
                (&mut key, width, |tape, place| {
                    (&tape.gradients.projections[1], &tape.layers[place].input)
                }),
                (&mut value, width, |tape, place| {
                    (&tape.gradients.projections[2], &tape.layers[place].input)
                }),
                (&mut output, width, |tape, place| {
                    (&tape.gradients.output, &tape.layers[place].context)
                }),
            ];
            let mut due = due.map(|(parameter, n_in, operands)| Due {
                parameter,
                n_in,
                operands: groups.iter().map(|tape| operands(tape, place)).collect(),
            });
            add_weight_gradients(&self.engine, &mut due);
        }
        let add = |parameter: &Parameter, part: &dyn Fn(&GroupGradients) -> &[f32]| {
            let inner = &mut *parameter.write();
            for tape in groups {
                add_vector(inner, part(&tape.gradients));
            }
        };
        for (part, pair) in [&layer.query, &layer.key, &layer.value]
            .into_iter()
            .enumerate()
        {
            add(&pair.bias, &|g| {
                &g.projection_biases[part * width..(part + 1) * width]
            });
        }
        add(&layer.output.bias, &|g| &g.output_bias);
        add(&layer.up.bias, &|g| &g.up_bias);
        add(&layer.down.bias, &|g| &g.down_bias);
        add(&layer.attention_norm.weight, &|g| &g.attention_norm.weight);
        add(&layer.attention_norm.bias, &|g| &g.attention_norm.bias);
        add(&layer.output_norm.weight, &|g| &g.output_norm.weight);
        add(&layer.output_norm.bias, &|g| &g.output_norm.bias);
        if let Some(parameter) = &self.relative_bias {
            let mut table = vec![0.0; a.n_buckets * a.n_heads];
            for tape in groups {
                let offsets = tape.gradients.relative.chunks_exact(2 * a.n_positions - 1);
                for (head, offsets) in offsets.enumerate() {
                    for (bucket, value) in self.buckets().zip(offsets) {
                        table[bucket * a.n_heads + head] += value;
                    }
                }
            }
            add_vector(&mut parameter.write(), &table);
        }
    }
}

/// Cuts texts into groups, by their lengths alone: the same batch gives the same groups on any machine.
fn cut(lengths: &[usize]) -> Vec<Group> {
    let n_tokens: usize = lengths.iter().sum();
    let budget = (n_tokens / 8).clamp(LEAST_TOKENS, GROUP_TOKENS);
    let (mut groups, mut group, mut n_rows) = (Vec::new(), Group::default(), 0);
    for &length in lengths {
        if n_rows > 0 && n_rows + length > budget {
            let start = group.start + n_rows;
            groups.push(std::mem::replace(
                &mut group,
                Group {
                    start,
                    ..Group::default()
                },
            ));
            n_rows = 0;
        }
        n_rows += length;
        group.lengths.push(length);
    }
    groups.push(group);
    groups
}

/// One group's way through one layer.
struct Pass<'a> {
    kernel: Kernel,
    architecture: &'a Architecture,
    layer: &'a PackedLayer,
    relative: &'a [f32],
    dropout: &'a Dropout,
    index: usize,
    group: &'a Group,
    /// Rows of the group whose output counts: all, or the first of each text.
    kept: Vec<usize>,
}

/// Places of dropout in a layer.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Weights,
    Attention,
    Output,
}

impl Place {
    /// Its number among those of all layers.
    pub(super) fn number(self, layer: usize) -> u64 {
        4 * layer as u64 + self as u64
    }
}

impl Pass<'_> {
    fn forward(&self, tape: &mut LayerTape, hidden: &mut Vec<f32>, workspace: &mut Workspace) {
        let (kernel, layer, n_rows) = (self.kernel, self.layer, self.group.n_rows());
        let n_kept = self.kept.len();
        let (width, n_inner) = (self.architecture.width, self.architecture.n_intermediate);
        workspace.tile.resize(n_rows * PANEL, 0.0);
        workspace.rows.resize(n_kept * width, 0.0);

        // Queries, keys and values: (R, H) · (H, 3 H).
        kernel.pack(hidden, width, &mut workspace.words);
        tape.input.fill(kernel, hidden, width, n_rows, width);
        let n_words = kernel.words(3 * width);
        tape.projected.resize(n_rows * n_words, 0);
        let left = Left::rows(&workspace.words, kernel.words(width));
        for panel in layer.projections.forward.iter() {
            multiply(
                kernel,
                left,
                panel,
                layer.projections.start(panel),
                (&mut workspace.tile, PANEL),
                n_rows,
            );
            let target = (&mut tape.projected[kernel.words(panel.first)..], n_words);
            kernel.pack_into((&workspace.tile, PANEL), panel.kept, target);
        }

        self.attend(tape, workspace);

        // Output projection, dropout, residual, normalization.
        let Workspace {
            rows,
            tile,
            words,
            wide_words,
            wide: context,
            ..
        } = workspace;
        if n_kept < n_rows {
            for (target, &row) in self.kept.iter().enumerate() {
                hidden.copy_within(row * width..(row + 1) * width, target * width);
            }
            hidden.truncate(n_kept * width);
            tile.truncate(n_kept * PANEL);
        }
        tape.context.fill(kernel, context, width, n_kept, width);
        kernel.pack(context, width, words);
        self.apply(&layer.output, Left::rows(words, kernel.words(width)), rows);
        self.mask(Place::Attention, rows);
        function::add(kernel.simd, rows, hidden);
        self.normalize(rows, &layer.attention_norm, &mut tape.attention_norm);
        tape.attended.fill(kernel, rows, width, n_kept, width);
        kernel.pack(rows, width, words);

        // Feed-forward: (R, H) · (H, I), activation, (R, I) · (I, H), dropout, residual, normalization.
        let n_words = kernel.words(n_inner);
        tape.inner.resize(n_kept * n_words, 0);
        wide_words.resize(n_kept * n_words, 0);
        let left = Left::rows(words, kernel.words(width));
        for panel in layer.up.forward.iter() {
            multiply(
                kernel,
                left,
                panel,
                layer.up.start(panel),
                (tile, PANEL),
                n_kept,
            );
            let first = kernel.words(panel.first);
            kernel.pack_into(
                (tile, PANEL),
                panel.kept,
                (&mut tape.inner[first..], n_words),
            );
            function::activation(kernel.simd, self.architecture.activation, tile);
            kernel.pack_into(
                (tile, PANEL),
                panel.kept,
                (&mut wide_words[first..], n_words),
            );
        }
        self.apply(&layer.down, Left::rows(wide_words, n_words), hidden);
        self.mask(Place::Output, hidden);
        function::add(kernel.simd, hidden, rows);
        self.normalize(hidden, &layer.output_norm, &mut tape.output_norm);
    }

    /// Turns the gradient of the layer's output into that of its input, and leaves the shares of its parameters.
    fn backward(
        &self,
        tape: &LayerTape,
        out: &mut GroupGradients,
        gradient: &mut Vec<f32>,
        workspace: &mut Workspace,
    ) {
        let (kernel, layer, n_rows) = (self.kernel, self.layer, self.group.n_rows());
        let n_kept = self.kept.len();
        let (width, n_inner) = (self.architecture.width, self.architecture.n_intermediate);
        let simd = kernel.simd;
        for (sums, n) in [
            (&mut out.projection_biases, 3 * width),
            (&mut out.output_bias, width),
            (&mut out.attention_norm.weight, width),
            (&mut out.attention_norm.bias, width),
            (&mut out.up_bias, n_inner),
            (&mut out.down_bias, width),
            (&mut out.output_norm.weight, width),
            (&mut out.output_norm.bias, width),
            (&mut out.relative, self.relative.len()),
        ] {
            sums.clear();
            sums.resize(n, 0.0);
        }
        workspace.tile.resize(n_kept * PANEL, 0.0);
        workspace.second_tile.resize(n_kept * PANEL, 0.0);

        // Feed-forward. The gradient of the residual stays in `gradient`, that of the block is added to it.
        self.normalize_backward(
            gradient,
            &layer.output_norm,
            &tape.output_norm,
            &mut out.output_norm,
        );
        {
            let Workspace {
                rows,
                tile,
                second_tile,
                words,
                wide_words,
                ..
            } = workspace;
            rows.clear();
            rows.extend_from_slice(gradient);
            self.mask(Place::Output, rows);
            out.down.fill(kernel, rows, width, n_kept, width);
            function::add_rows(simd, rows, width, &mut out.down_bias);
            kernel.pack(rows, width, words);
            let n_words = kernel.words(n_inner);
            wide_words.resize(n_kept * n_words, 0);
            out.activated.reshape(kernel, n_kept, n_inner);
            out.up.reshape(kernel, n_kept, n_inner);
            let left = Left::rows(words, kernel.words(width));
            for (index, panel) in layer.down.backward.iter().enumerate() {
                multiply(kernel, left, panel, Start::Zero, (tile, PANEL), n_kept); // (R, 48) of dG
                let first = kernel.words(panel.first);
                kernel.unpack(
                    (&tape.inner[first..], n_words),
                    panel.kept,
                    (second_tile, PANEL),
                );
                function::activation_backward(
                    simd,
                    self.architecture.activation,
                    second_tile,
                    tile,
                );
                out.activated.fill_panel(kernel, index, second_tile, PANEL);
                out.up.fill_panel(kernel, index, tile, PANEL);
                function::add_rows(
                    simd,
                    tile,
                    PANEL,
                    &mut out.up_bias[panel.first..panel.first + panel.kept],
                );
                kernel.pack_into(
                    (tile, PANEL),
                    panel.kept,
                    (&mut wide_words[first..], n_words),
                );
            }
            let left = Left::rows(wide_words, n_words);
            for panel in layer.up.backward.iter() {
                multiply(
                    kernel,
                    left,
                    panel,
                    Start::Sum,
                    (&mut gradient[panel.first..], width),
                    n_kept,
                );
            }

            // Attention block.
            self.normalize_backward(
                gradient,
                &layer.attention_norm,
                &tape.attention_norm,
                &mut out.attention_norm,
            );
            rows.clear();
            rows.extend_from_slice(gradient);
            self.mask(Place::Attention, rows);
            out.output.fill(kernel, rows, width, n_kept, width);
            function::add_rows(simd, rows, width, &mut out.output_bias);
            kernel.pack(rows, width, words);
            let left = Left::rows(words, kernel.words(width));
            for panel in layer.output.backward.iter() {
                multiply(
                    kernel,
                    left,
                    panel,
                    Start::Zero,
                    (&mut rows[panel.first..], width),
                    n_kept,
                );
            }
        }
        self.attend_backward(tape, out, workspace); // from `rows` (R, H) to `wide` (R, 3 H)
        if n_kept < n_rows {
            let own = std::mem::replace(gradient, vec![0.0; n_rows * width]);
            for (&row, own) in self.kept.iter().zip(own.chunks_exact(width)) {
                gradient[row * width..(row + 1) * width].copy_from_slice(own);
            }
        }
        let Workspace { words, wide, .. } = workspace;
        for (part, panels) in out.projections.iter_mut().enumerate() {
            panels.fill(kernel, &wide[part * width..], 3 * width, n_rows, width);
        }
        function::add_rows(simd, wide, 3 * width, &mut out.projection_biases);
        kernel.pack(wide, 3 * width, words);
        let left = Left::rows(words, kernel.words(3 * width));
        for panel in layer.projections.backward.iter() {
            multiply(
                kernel,
                left,
                panel,
                Start::Sum,
                (&mut gradient[panel.first..], width),
                n_rows,
            );
        }
    }

    /// The rows of a text, and the range of those kept among all that are: in a text these are the first ones.
    fn text(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let start = self.group.lengths[..index].iter().sum();
        let text = start..start + self.group.lengths[index];
        match self.kept.len() == self.group.n_rows() {
            true => (text.clone(), text),
            false => (text, index..index + 1),
        }
    }

    /// Computes `out = left · W + b`.
    fn apply(&self, linear: &PackedLinear, left: Left<'_>, out: &mut [f32]) {
        let (n_rows, width) = (self.kept.len(), self.architecture.width);
        for panel in linear.forward.iter() {
            let target = (&mut out[panel.first..], width);
            multiply(
                self.kernel,
                left,
                panel,
                linear.start(panel),
                target,
                n_rows,
            );
        }
    }

    fn mask(&self, place: Place, rows: &mut [f32]) {
        let mask = self
            .dropout
            .at(self.dropout.hidden, place.number(self.index));
        if mask.is_none() {
            return;
        }
        let rows = rows.chunks_exact_mut(self.architecture.width);
        for (&row, values) in self.kept.iter().zip(rows) {
            let number = mask.first_row + (self.group.start + row) as u64;
            mask.apply(self.kernel.simd, number, values);
        }
    }

    fn normalize(&self, rows: &mut [f32], norm: &Norm, tape: &mut NormTape) {
        tape.normalized.resize(rows.len(), 0.0);
        tape.scales.resize(self.kept.len(), 0.0);
        let epsilon = self.architecture.epsilon as f32;
        let NormTape { normalized, scales } = tape;
        function::layer_norm(
            self.kernel.simd,
            rows,
            normalized,
            scales,
            &norm.weight,
            &norm.bias,
            epsilon,
        );
    }

    fn normalize_backward(
        &self,
        gradient: &mut [f32],
        norm: &Norm,
        tape: &NormTape,
        out: &mut Norm,
    ) {
        let NormTape { normalized, scales } = tape;
        let Norm { weight, bias } = out;
        function::layer_norm_backward(
            self.kernel.simd,
            gradient,
            normalized,
            scales,
            &norm.weight,
            weight,
            bias,
        );
    }
}
