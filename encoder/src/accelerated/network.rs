//! The inference forward on a device: packed texts of any length, no padding.

use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use compute::accelerator::{
    AcceleratorError, Buffer, DeviceInfo, Download, MatrixType, SharedAccelerator,
};

use super::groups::{Group, Groups};
use super::kernels::{AttentionAt, EmbeddingsAt, Heads, Kernels, MODULE, NormAt, ResidualAt, Tile};
use super::small::{GroupSizes, Shape, Small};
use super::weights::{self, DeviceHead, DeviceLayer, DeviceNorm, upload};
use super::workspace::Workspace;
use crate::architecture::Architecture;
use crate::cross_encoder::HeadWeights;
use crate::network::relative_bias;
use crate::options::Pooling;
use crate::threads::count_in;
use crate::tokenizer::Tokens;
use crate::weights::Weights;

/// A transformer whose weights are on a device.
///
/// Operands of products are of one type, sums and residuals are f32. Texts do not see each other, but the library that multiplies
/// chooses its way by the number of rows: results of other groupings may differ in the last bits.
pub(super) struct Network {
    /// One group is queued at a time: a device has one queue. Recordings in it name weights, which are dropped after it.
    memory: Mutex<Memory>,
    device: SharedAccelerator,
    of: MatrixType,
    architecture: Architecture,
    tokens: Buffer,
    positions: Buffer,
    types: Buffer,
    embedding_norm: DeviceNorm,
    relative_bias: Buffer,
    layers: Vec<DeviceLayer>,
    head: Option<DeviceHead>,
    /// Calls that are at work on it.
    pub n_running: AtomicUsize,
}

/// What a text becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    /// The last layer's vectors of its tokens.
    Tokens,
    /// Those pooled, one after the other.
    Pooled(&'a [Pooling]),
    /// What the head makes of its first token's.
    Logits,
}

/// What a group is for the kernels.
struct Inputs {
    words: Vec<u32>,
    sizes: GroupSizes,
}

/// Where groups are computed.
struct Memory {
    small: Option<Small>,
    workspace: Workspace,
}

/// Where the inputs are on the device.
struct InputsAt {
    ids: u64,
    positions: u64,
    types: u64,
    /// The first row of each text, and the number of rows.
    starts: u64,
    /// Rows that are not pooled.
    skips: u64,
    tiles: u64,
    /// Tiles for the first query of each text.
    first_tiles: u64,
}

impl Network {
    /// Uploads weights.
    ///
    /// # Errors
    /// [`AcceleratorError`], such as that there is no room.
    pub fn new(
        architecture: &Architecture,
        weights: &Weights,
        head: Option<&HeadWeights>,
        of: MatrixType,
        device: &SharedAccelerator,
    ) -> Result<Self, AcceleratorError> {
        device.load(&MODULE)?;
        let f32s = |values: &[f32]| upload(device, values, MatrixType::F32);
        let relative_bias = relative_bias(architecture, &weights.relative_bias);
        Ok(Self {
            tokens: f32s(&weights.tokens)?,
            positions: f32s(&weights.positions)?,
            types: f32s(&weights.types)?,
            embedding_norm: DeviceNorm::new(device, &weights.embedding_norm)?,
            relative_bias: f32s(&relative_bias)?,
            layers: weights
                .layers
                .iter()
                .map(|layer| DeviceLayer::new(device, layer, of, architecture.activation.into()))
                .collect::<Result<_, _>>()?,
            head: head.map(|head| DeviceHead::new(device, head)).transpose()?,
            device: device.clone(),
            of,
            architecture: architecture.clone(),
            n_running: AtomicUsize::new(0),
            memory: Mutex::new(Memory {
                small: None,
                workspace: Workspace::new(device)?,
            }),
        })
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// Computes a first group, and then others of up to so many tokens until none is left. While the device computes one, the next is
    /// laid out and queued.
    ///
    /// A group that the device has no room for is divided, and so are those after it. What is not computed is put back.
    ///
    /// # Errors
    /// [`AcceleratorError`]; [`AcceleratorError::OutOfMemory`] when there is no room for one text.
    pub fn compute(
        &self,
        groups: &Groups<'_>,
        (first, mut most_tokens): (Group, usize),
        wanted: Wanted<'_>,
        computed: &mut Vec<(Group, Vec<f32>)>,
    ) -> Result<(), AcceleratorError> {
        let (_, _end) = count_in(&self.n_running);
        let mut running: Option<(Group, Download)> = None;
        let mut next = Some(first);
        while let Some(group) = next {
            let texts = groups.texts(&group);
            let before = match self.start(&texts, wanted) {
                Ok(download) => running.replace((group, download)),
                Err(AcceleratorError::OutOfMemory { .. })
                    if group.n_texts() > 1 || running.is_some() =>
                {
                    // So that the group, or half of it, has all of the memory.
                    let mut memory = self.memory();
                    memory.small = None;
                    memory.workspace = Workspace::new(&self.device)?;
                    drop(memory);
                    if group.n_texts() > 1 {
                        most_tokens = group.n_tokens / 2;
                    }
                    groups.put_back(group);
                    running.take()
                }
                Err(error) => {
                    groups.put_back(group);
                    return Err(error);
                }
            };
            if let Some(before) = before {
                computed.push(self.finish(before)?);
            }
            next = groups.take(most_tokens);
        }
        if let Some(last) = running {
            computed.push(self.finish(last)?);
        }
        Ok(())
    }

    /// Values that a text becomes.
    pub fn n_values(&self, text: &Tokens, wanted: Wanted<'_>) -> usize {
        let width = self.architecture.width;
        match wanted {
            Wanted::Tokens => text.len() * width,
            Wanted::Pooled(poolings) => poolings.len() * width,
            Wanted::Logits => self.head().n_labels,
        }
    }

    fn head(&self) -> &DeviceHead {
        let head = self.head.as_ref();
        head.expect("logits are wanted of models that were loaded with a head")
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues all work of a group, and the copy of its results.
    fn start(&self, group: &[&Tokens], wanted: Wanted<'_>) -> Result<Download, AcceleratorError> {
        let n_values: usize = group.iter().map(|text| self.n_values(text, wanted)).sum();
        let first_only = match wanted {
            Wanted::Tokens => false,
            Wanted::Pooled(poolings) => {
                poolings == [Pooling::Cls] && group.iter().all(|text| text.n_unpooled == 0)
            }
            Wanted::Logits => true,
        };
        let sizes = self.sizes(group);
        if let Some(sizes) = sizes.rounded_up()
            && let Some(results) = self.run_small(group, sizes, (wanted, first_only))?
        {
            return results.start_read(n_values * size_of::<f32>());
        }
        let inputs = self.inputs(group, sizes);
        let mut memory = self.memory();
        let workspace = &mut memory.workspace;
        let results = workspace.reserve(
            &self.device,
            &self.architecture,
            self.of,
            (sizes.n_tokens, inputs.words.len(), n_values),
        )?;
        workspace.inputs.write(0, as_bytes(&inputs.words))?;
        // SAFETY: the workspace and the results have room for the group, and the ids were checked against the tables.
        unsafe { self.queue(&inputs, (wanted, first_only), workspace, results.address())? };
        results.start_read(n_values * size_of::<f32>())
    }

    /// Queues all work of a group of few tokens as it was recorded for its shape, and returns the buffer that begins with its results.
    /// None where there is no room, or another group has it.
    fn run_small(
        &self,
        group: &[&Tokens],
        sizes: GroupSizes,
        (wanted, first_only): (Wanted<'_>, bool),
    ) -> Result<Option<Buffer>, AcceleratorError> {
        let width = self.architecture.width;
        let (poolings, n_results) = match wanted {
            Wanted::Tokens => (&[][..], sizes.n_tokens * width),
            Wanted::Pooled(poolings) => (poolings, sizes.n_texts * poolings.len() * width),
            Wanted::Logits => (&[][..], sizes.n_texts * self.head().n_labels),
        };
        let shape = Shape {
            sizes,
            poolings: poolings.to_vec(),
            wants_logits: wanted == Wanted::Logits,
            first_only,
        };
        let inputs = self.inputs(group, sizes);
        let mut memory = self.memory();
        if memory.small.is_none() {
            let small = Small::new(&self.device, &self.architecture, self.of, Inputs::n_words);
            match small {
                Ok(small) => memory.small = Some(small),
                Err(AcceleratorError::OutOfMemory { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let Some(small) = &mut memory.small else {
            return Ok(None);
        };
        let Some(results) = small.take_results(n_results * size_of::<f32>()) else {
            return Ok(None);
        };
        small.workspace.inputs.write(0, as_bytes(&inputs.words))?;
        // SAFETY: the workspace and the results have room for the group and stay where they are, and the ids were checked against the
        // tables. Where each input is depends on the sizes only.
        unsafe {
            small.run(&self.device, shape, |workspace| {
                self.queue(&inputs, (wanted, first_only), workspace, results.address())
            })?;
        }
        Ok(Some(results))
    }

    /// Waits for the results of a group, one value after the other.
    fn finish(
        &self,
        (group, download): (Group, Download),
    ) -> Result<(Group, Vec<f32>), AcceleratorError> {
        let mut bytes = vec![0; download.n_bytes()];
        let results = download.wait(&mut bytes)?;
        let mut memory = self.memory();
        let Memory { small, workspace } = &mut *memory;
        let results = match small {
            Some(small) => small.give_back(results),
            None => Some(results),
        };
        if let Some(results) = results {
            workspace.give_back(results);
        }
        drop(memory);
        let values = bytes.chunks_exact(size_of::<f32>());
        let values = values.map(|value| f32::from_le_bytes(value.try_into().expect("four bytes")));
        Ok((group, values.collect()))
    }

    /// Queues all work of a group, which ends in the results.
    ///
    /// # Safety
    /// The workspace and the results have room for the group, and the workspace holds its inputs; ids are rows of their tables.
    unsafe fn queue(
        &self,
        inputs: &Inputs,
        (wanted, first_only): (Wanted<'_>, bool),
        workspace: &mut Workspace,
        results: u64,
    ) -> Result<(), AcceleratorError> {
        let at = inputs.at(&workspace.inputs);
        let (n_texts, width) = (inputs.sizes.n_texts, self.architecture.width);
        let kernels = Kernels {
            device: &*self.device,
            of: MatrixType::F32,
        };
        let is_last_layer = match wanted {
            Wanted::Tokens => true,
            Wanted::Pooled(_) => first_only,
            Wanted::Logits => false,
        };
        let target = is_last_layer.then_some(results);
        // SAFETY: the caller's.
        unsafe { self.forward(inputs, &at, first_only, target, workspace)? };
        match wanted {
            Wanted::Tokens => {}
            Wanted::Pooled(_) if is_last_layer => {}
            Wanted::Pooled(poolings) => {
                let stride = poolings.len() * width;
                for (i, &pooling) in poolings.iter().enumerate() {
                    let out = results + (i * width * size_of::<f32>()) as u64;
                    let rows = (workspace.hidden.address(), at.starts, at.skips);
                    // SAFETY: the results have a row of `stride` for every text.
                    unsafe { kernels.pool(rows, (n_texts, width), pooling, (out, stride))? };
                }
            }
            Wanted::Logits => {
                let head = self.head();
                let inner = workspace.summed.address();
                let (weight, bias) = (head.hidden.weight.address(), head.hidden.bias.address());
                let operands = (workspace.hidden.address(), weight);
                // SAFETY: there is a row of `hidden` for every text, and one of `summed` for every token.
                unsafe {
                    // A product that ends in ReLU may make 0 of NaN, and no residual follows that would keep it.
                    let result = (inner, MatrixType::F32);
                    kernels.multiply(n_texts, (width, width), operands, result)?;
                    kernels.activate(inner, bias, (n_texts, width), head.function)?;
                    let classifier = (
                        inner,
                        head.classifier.weight.address(),
                        head.classifier.bias.address(),
                    );
                    kernels.classify(classifier, (n_texts, width), head.n_labels, results)?;
                }
            }
        }
        Ok(())
    }

    /// Computes the last layer's token vectors, (T, H), or (texts, H) of the first tokens only: to `target`, else to `hidden` of the
    /// workspace.
    ///
    /// # Safety
    /// As [`Self::queue`]; the target has room for them.
    unsafe fn forward(
        &self,
        inputs: &Inputs,
        at: &InputsAt,
        first_only: bool,
        target: Option<u64>,
        workspace: &mut Workspace,
    ) -> Result<(), AcceleratorError> {
        let a = &self.architecture;
        let (width, n_intermediate) = (a.width, a.n_intermediate);
        let GroupSizes {
            n_tokens,
            n_texts,
            n_tiles,
        } = inputs.sizes;
        let kernels = Kernels {
            device: &*self.device,
            of: self.of,
        };
        let heads = self.heads();
        let epsilon = a.epsilon as f32;
        // Queries, keys, values and context share their place with what is between the feed-forward layers.
        let projected = workspace.scratch.address();
        let context = workspace.scratch.at(n_tokens * 3 * width * self.of.bytes());
        let inner = projected;
        let operand = workspace.operand.address();
        let embeddings = EmbeddingsAt {
            ids: at.ids,
            positions: at.positions,
            types: at.types,
            token_table: self.tokens.address(),
            position_table: self.positions.address(),
            type_table: self.types.address(),
        };
        let norm = self.embedding_norm.at(epsilon);
        let hidden = (workspace.hidden.address(), operand);
        // SAFETY: the workspace has so many rows.
        unsafe { kernels.embed(&embeddings, (n_tokens, width), norm, hidden)? };
        for (index, layer) in self.layers.iter().enumerate() {
            let is_last = index + 1 == self.layers.len();
            let first_only = first_only && is_last;
            let (n_rows, tiles, n_tiles, sources) = match first_only {
                true => (n_texts, at.first_tiles, n_texts, at.starts),
                false => (n_tokens, at.tiles, n_tiles, 0),
            };
            let attention = AttentionAt {
                projected,
                bias: layer.projections.bias.address(),
                tiles,
                relative: self.relative_bias.address(),
                context,
            };
            let input = workspace.operand(self.of);
            let weight = layer.projections.weight.address();
            // SAFETY: as above; the scratch has room for queries, keys, values and context.
            unsafe {
                let shape = (3 * width, width);
                kernels.multiply(n_tokens, shape, (input, weight), (projected, self.of))?; // (T, 3 H)
                kernels.attend(heads, n_tiles, &attention, a.n_positions)?;
            }
            let output = (&layer.output, &layer.attention_norm);
            // SAFETY: as above.
            unsafe {
                let shape = (n_rows, width);
                self.add_linear(&kernels, (context, sources), shape, output, None, workspace)?;
            }
            let input = workspace.operand(self.of);
            let (weight, bias) = (layer.up.weight.address(), layer.up.bias.address());
            // SAFETY: as above; the scratch has room for what is between the layers.
            unsafe {
                let (shape, operands) = ((n_intermediate, width), (input, weight, bias));
                let result = (inner, a.activation.into());
                kernels.multiply_activated(n_rows, shape, operands, result)?; // (rows, I)
            }
            let down = (&layer.down, &layer.output_norm);
            let target = target.filter(|_| is_last);
            // SAFETY: as above.
            unsafe {
                let shape = (n_rows, n_intermediate);
                self.add_linear(&kernels, (inner, 0), shape, down, target, workspace)?;
            }
        }
        Ok(())
    }

    /// `hidden = norm(input · Wᵀ + b + hidden)` for (rows, columns) of input, where row r of `hidden` is added, or the one that sources say;
    /// in `target` where there is one, and `hidden` stays as it is.
    ///
    /// # Safety
    /// As [`Self::queue`]; the input has so many rows, and the target has room for them.
    unsafe fn add_linear(
        &self,
        kernels: &Kernels<'_>,
        (input, sources): (u64, u64),
        (n_rows, n_columns): (usize, usize),
        (linear, norm): (&weights::DeviceLinear, &DeviceNorm),
        target: Option<u64>,
        workspace: &mut Workspace,
    ) -> Result<(), AcceleratorError> {
        let width = self.architecture.width;
        let product = target.unwrap_or(workspace.summed.address());
        let at = ResidualAt {
            product,
            bias: linear.bias.address(),
            residual: workspace.hidden.address(),
            sources,
            operand: workspace.operand.address(),
        };
        let norm: NormAt = norm.at(self.architecture.epsilon as f32);
        let operands = (input, linear.weight.address());
        // SAFETY: the caller's; the product has a row for every token.
        unsafe {
            kernels.multiply(
                n_rows,
                (width, n_columns),
                operands,
                (product, MatrixType::F32),
            )?; // (rows, H)
            kernels.add_norm(&at, (n_rows, width), norm)?;
        }
        if target.is_none() {
            std::mem::swap(&mut workspace.hidden, &mut workspace.summed);
        }
        Ok(())
    }

    fn heads(&self) -> Heads {
        let a = &self.architecture;
        Heads {
            n: a.n_heads,
            d: a.width / a.n_heads,
            of: self.of,
        }
    }

    fn sizes(&self, group: &[&Tokens]) -> GroupSizes {
        let most = self.heads().tile_queries();
        GroupSizes {
            n_tokens: group.iter().map(|text| text.len()).sum(),
            n_texts: group.len(),
            n_tiles: group.iter().map(|text| text.len().div_ceil(most)).sum(),
        }
    }

    /// Lays out a group for the kernels, in the order of [`Inputs::at`]. What the sizes have beyond it is computed for nobody: tokens
    /// that are the first row of each table, texts of one such token each, and tiles of no queries.
    fn inputs(&self, group: &[&Tokens], sizes: GroupSizes) -> Inputs {
        let mut starts = vec![0];
        let mut tiles = Vec::new();
        let most = self.heads().tile_queries();
        for text in group {
            let (start, length) = (starts[starts.len() - 1], text.len() as u32);
            for first in (0..length).step_by(most) {
                tiles.push(Tile {
                    start,
                    length,
                    first,
                    n_queries: (length - first).min(most as u32),
                    target: start + first,
                });
            }
            starts.push(start + length);
        }
        let first_tiles = group.iter().enumerate().map(|(index, text)| Tile {
            start: starts[index],
            length: text.len() as u32,
            first: 0,
            n_queries: 1,
            target: index as u32,
        });
        let first_tiles: Vec<Tile> = first_tiles.collect();
        let n_tokens = starts[starts.len() - 1];
        starts.extend((1..=sizes.n_texts - group.len()).map(|added| n_tokens + added as u32));

        let mut words = Vec::with_capacity(Inputs::n_words(sizes));
        let mut add = |some: &mut dyn Iterator<Item = u32>, n_words: usize| {
            let end = words.len() + n_words;
            words.extend(some);
            debug_assert!(words.len() <= end, "sizes are at least those of the group");
            words.resize(end, 0);
        };
        let positions = |text: &&Tokens| self.architecture.positions(&text.ids);
        let GroupSizes {
            n_tokens,
            n_texts,
            n_tiles,
        } = sizes;
        add(
            &mut group.iter().flat_map(|text| text.ids.iter().copied()),
            n_tokens,
        );
        add(&mut group.iter().flat_map(positions), n_tokens);
        add(
            &mut group.iter().flat_map(|text| text.type_ids.iter().copied()),
            n_tokens,
        );
        add(&mut starts.into_iter(), n_texts + 1);
        add(
            &mut group.iter().map(|text| text.n_unpooled as u32),
            n_texts,
        );
        add(
            &mut tiles.into_iter().flat_map(Tile::words),
            n_tiles * Tile::WORDS,
        );
        add(
            &mut first_tiles.into_iter().flat_map(Tile::words),
            n_texts * Tile::WORDS,
        );
        Inputs { words, sizes }
    }
}

impl Inputs {
    fn n_words(sizes: GroupSizes) -> usize {
        let of_texts = 2 * sizes.n_texts + 1;
        3 * sizes.n_tokens + of_texts + (sizes.n_tiles + sizes.n_texts) * Tile::WORDS
    }

    fn at(&self, buffer: &Buffer) -> InputsAt {
        let GroupSizes {
            n_tokens,
            n_texts,
            n_tiles,
        } = self.sizes;
        let mut word = 0;
        let mut next = |n_words: usize| {
            let at = buffer.at(word * size_of::<u32>());
            word += n_words;
            at
        };
        InputsAt {
            ids: next(n_tokens),
            positions: next(n_tokens),
            types: next(n_tokens),
            starts: next(n_texts + 1),
            skips: next(n_texts),
            tiles: next(n_tiles * Tile::WORDS),
            first_tiles: next(n_texts * Tile::WORDS),
        }
    }
}

pub(crate) fn as_bytes(words: &[u32]) -> &[u8] {
    // SAFETY: every four bytes of words are bytes, and the device is little-endian as every host is that has one.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
