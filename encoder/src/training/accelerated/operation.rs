//! Texts through tables and layers on a device, as one candle operation.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use compute::accelerator::{AcceleratorError, Buffer};

use super::kernels::TablesAt;
use super::network::{Batch, Hidden, Layers, NormTape, Tape, Weights, heads};
use super::{Device, download, failed};
use crate::training::dropout::{Dropout, Mask};
use crate::training::encoder::{Embeddings, floats, values};
use crate::training::engine::lock;
use crate::training::network::Network;

/// What an operation returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::training) enum Output {
    /// The last layer's vectors of all tokens, (T, H).
    Tokens,
    /// Those of the first token of each text, (B, H).
    First,
    /// Their mean for each text, (B, H).
    Mean,
}

/// What the first layer reads: rows of tables, summed, normalized and masked.
pub(in crate::training) struct Embedded {
    pub embeddings: Arc<Embeddings>,
    /// Of tokens, positions and types.
    pub ids: [Vec<u32>; 3],
    pub mask: Mask,
}

/// Some of the layers of a network for texts of these lengths: behind the tables, or behind token vectors that are given.
pub(in crate::training) struct Operation {
    pub network: Arc<Network>,
    pub embedded: Option<Embedded>,
    pub layers: Range<usize>,
    pub lengths: Vec<usize>,
    pub output: Output,
    pub dropout: Dropout,
    tape: Mutex<Option<OperationTape>>,
}

struct OperationTape {
    batch: Batch,
    weights: Arc<Weights>,
    embeddings: Option<NormTape>,
    layers: Tape,
}

impl Operation {
    pub fn new(
        network: &Arc<Network>,
        embedded: Option<Embedded>,
        layers: Range<usize>,
        lengths: &[usize],
        output: Output,
        dropout: &Dropout,
    ) -> Self {
        Self {
            network: network.clone(),
            embedded,
            layers,
            lengths: lengths.to_vec(),
            output,
            dropout: *dropout,
            tape: Mutex::default(),
        }
    }

    fn on_device(&self) -> &Layers {
        let layers = self.network.on_device.as_ref();
        layers.expect("the operation is that of a network on a device")
    }

    fn width(&self) -> usize {
        self.network.architecture.width
    }

    fn first_only(&self) -> bool {
        self.output == Output::First
    }

    /// Token vectors that are given.
    fn given(&self, hidden: &[f32]) -> std::result::Result<Hidden, AcceleratorError> {
        let device = self.on_device().device();
        let rows = device.upload(hidden)?;
        let operand = device.operands(hidden.len())?;
        let kernels = device.kernels();
        // SAFETY: there is room for as many operands.
        unsafe { kernels.store(rows.address(), hidden.len(), operand.address())? };
        Ok(Hidden { rows, operand })
    }
}

impl Embedded {
    fn forward(&self, device: &Device) -> Result<(Hidden, NormTape)> {
        let e = &*self.embeddings;
        let (n_tokens, width) = (self.ids[0].len(), e.tokens.width());
        let types = e.types.as_ref().map_or(0, |types| types.address());
        let tables = [e.tokens.address(), e.positions.address(), types];
        let room = || {
            let mut ids = Vec::with_capacity(3 * n_tokens);
            for part in &self.ids {
                ids.extend(part);
            }
            let hidden = Hidden {
                rows: device.floats(n_tokens * width)?,
                operand: device.operands(n_tokens * width)?,
            };
            Ok((
                device.upload_words(&ids)?,
                hidden,
                NormTape::new(device, n_tokens, width)?,
            ))
        };
        let (ids, hidden, tape) = room().map_err(failed)?;
        let from = TablesAt {
            ids: [0, 1, 2].map(|part| ids.at(part * n_tokens * size_of::<u32>())),
            tables,
        };
        let norm = tape.at(&e.norm, e.epsilon);
        let to = (hidden.rows.address(), hidden.operand.address());
        let kernels = device.kernels();
        // SAFETY: there is an id of each table for each token, and they were checked; the buffers were just made.
        unsafe { kernels.embed(&from, (n_tokens, width), norm, self.mask, to) }.map_err(failed)?;
        Ok((hidden, tape))
    }

    /// Adds the gradients of the tables and of the normalization.
    fn backward(&self, device: &Device, tape: &NormTape, gradient: &Buffer) -> Result<()> {
        let e = &*self.embeddings;
        let (shape, kernels) = ((self.ids[0].len(), e.tokens.width()), device.kernels());
        let rows = gradient.address();
        let norm = tape.at(&e.norm, e.epsilon);
        // SAFETY: there is a row of the gradient for each token.
        unsafe { kernels.drop_rows(rows, shape, self.mask) }.map_err(failed)?;
        device.add_norm_gradients(rows, norm, shape, &e.norm)?;
        let nothing = Mask::NONE;
        // SAFETY: as above.
        unsafe { kernels.norm_backward(rows, norm, shape, nothing, (0, 0)) }.map_err(failed)?;
        let tables = [Some(&e.tokens), Some(&e.positions), e.types.as_ref()];
        for (table, ids) in tables.into_iter().zip(&self.ids) {
            if let Some(table) = table {
                table.add_device_rows(ids, gradient)?;
            }
        }
        Ok(())
    }
}

impl CustomOp1 for Operation {
    fn name(&self) -> &'static str {
        "layers-on-device"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (network, on_device) = (&*self.network, self.on_device());
        let device = on_device.device();
        let (hidden, embeddings) = match &self.embedded {
            Some(embedded) => {
                let (hidden, tape) = embedded.forward(device)?;
                (hidden, Some(tape))
            }
            None => (self.given(floats(storage, layout)?).map_err(failed)?, None),
        };
        let weights = on_device.weights(network)?;
        let heads = heads(network, device.of);
        let batch = Batch::new(device, &self.lengths, heads, self.first_only()).map_err(failed)?;
        let (hidden, layers) = on_device.forward(
            (network, &weights),
            self.layers.clone(),
            hidden,
            &batch,
            self.first_only(),
            &self.dropout,
        )?;
        let vectors = match self.output {
            Output::Tokens | Output::First => hidden.rows,
            Output::Mean => {
                let vectors = device
                    .floats(batch.n_texts * self.width())
                    .map_err(failed)?;
                let texts = (batch.starts.address(), batch.n_texts);
                let places = (hidden.rows.address(), vectors.address());
                let kernels = device.kernels();
                // SAFETY: every text has a vector, and every token a row.
                unsafe { kernels.mean_rows(texts, self.width(), places) }.map_err(failed)?;
                vectors
            }
        };
        let vectors = download(&vectors).map_err(failed)?;
        *lock(&self.tape) = Some(OperationTape {
            batch,
            weights,
            embeddings,
            layers,
        });
        let shape = Shape::from((vectors.len() / self.width(), self.width()));
        Ok((CpuStorage::F32(vectors), shape))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (network, on_device) = (&*self.network, self.on_device());
        let device = on_device.device();
        let tape = lock(&self.tape);
        let tape = tape.as_ref().expect("candle runs the forward first");
        let mut gradient = device.upload(&values(gradient)?).map_err(failed)?;
        if self.output == Output::Mean {
            let rows = device
                .floats(tape.batch.n_tokens * self.width())
                .map_err(failed)?;
            let texts = (tape.batch.starts.address(), tape.batch.n_texts);
            let places = (gradient.address(), rows.address());
            let kernels = device.kernels();
            // SAFETY: every text has a gradient, and every token a row.
            unsafe { kernels.spread_rows(texts, self.width(), true, places) }.map_err(failed)?;
            gradient = rows;
        }
        let gradient = on_device.backward(
            (network, &tape.weights),
            self.layers.clone(),
            (&tape.layers, gradient),
            &tape.batch,
            self.first_only(),
            &self.dropout,
        )?;
        let Some(embedded) = &self.embedded else {
            let gradient = download(&gradient).map_err(failed)?;
            let gradient = Tensor::from_vec(gradient, input.shape(), input.device())?;
            return Ok(Some(gradient));
        };
        let norm = tape.embeddings.as_ref().expect("the forward embedded");
        embedded.backward(device, norm, &gradient)?;
        Ok(None)
    }
}
