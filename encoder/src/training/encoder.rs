use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};

use super::accelerated::{self, Embedded, Operation, Output};
use super::dropout::Dropout;
use super::engine::{Engine, lock};
use super::error::TrainingError;
use super::function;
use super::layer::{mean, norm_backward};
use super::matrix::Precision;
use super::network::{LayerParameters, Network, Packed, Pair, Tape};
use super::parameter::{Kind, Parameter, Parameters};
use crate::architecture::Architecture;
use crate::batch;
use crate::checkpoint::Checkpoint;
use crate::tokenizer::Tokens;
use crate::weights::{EMBEDDING_NORM, LayerNames, POSITIONS, RELATIVE_BIAS, TOKENS, TYPES};

/// A transformer of the BERT family to be trained on packed texts, with the checkpoint's names.
///
/// Token vectors are (T, H): the texts of a batch one after the other, without padding. The values are those of
/// [`crate::Transformer`], the gradients those of candle's basic operations on it. `loss.backward()` on any candle
/// tensor that depends on the token vectors adds to the gradients of [`Self::parameters`]; candle's own gradient store
/// does not hold them.
///
/// The dropout of the BERT family has its three places: after the normalization of the embeddings, on the attention
/// weights, and on what each block adds to the residual stream.
pub struct Encoder {
    network: Arc<Network>,
    embeddings: Arc<Embeddings>,
    parameters: Parameters,
}

/// The tables that make the first token vectors.
pub(super) struct Embeddings {
    engine: Arc<Engine>,
    pub(super) tokens: Arc<Parameter>,
    pub(super) positions: Arc<Parameter>,
    pub(super) types: Option<Arc<Parameter>>,
    pub(super) norm: Pair,
    pub(super) epsilon: f32,
}

/// Number of the embeddings among the places of dropout, behind those of any layer.
const EMBEDDINGS_PLACE: u64 = u64::MAX;

impl Encoder {
    /// Reads `config.json` and the weights of a model directory.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn load(folder: &Path, engine: &Arc<Engine>) -> Result<Self, TrainingError> {
        Self::load_as("", folder, engine)
    }

    /// Does as [`Self::load`], with a prefix before the name of each parameter: two towers of one model, or a model beside
    /// a head, have names of their own then.
    ///
    /// # Errors
    /// [`TrainingError::Load`].
    pub fn load_as(
        prefix: &str,
        folder: &Path,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let architecture = Architecture::read(&folder.join("config.json"))?;
        let mut checkpoint = Checkpoint::open(folder)?;
        checkpoint.set_prefix(architecture.family.prefix(), TOKENS);
        Self::new(architecture, prefix, engine, |name, shape| {
            Ok(checkpoint.tensor(name, shape)?)
        })
    }

    /// Draws weights as BERT does: normal with a deviation of 0.02, biases 0, scales of normalizations 1.
    ///
    /// # Errors
    /// [`TrainingError::Setting`] when the precision does not fit the head width.
    pub fn random(
        architecture: Architecture,
        seed: u64,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        Self::random_as("", architecture, seed, engine)
    }

    /// Does as [`Self::random`], with a prefix before the name of each parameter.
    ///
    /// # Errors
    /// As [`Self::random`].
    pub fn random_as(
        prefix: &str,
        architecture: Architecture,
        seed: u64,
        engine: &Arc<Engine>,
    ) -> Result<Self, TrainingError> {
        let mut drawn = 0u64;
        Self::new(architecture, prefix, engine, |name, shape| {
            let n = shape.iter().product();
            if name.ends_with(".bias") {
                return Ok(vec![0.0; n]);
            }
            if shape.len() == 1 {
                return Ok(vec![1.0; n]);
            }
            drawn += 1;
            Ok(normal(seed, drawn, n, 0.02))
        })
    }

    fn new(
        architecture: Architecture,
        prefix: &str,
        engine: &Arc<Engine>,
        mut get: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, TrainingError>,
    ) -> Result<Self, TrainingError> {
        let a = &architecture;
        check_heads(a, engine)?;
        let mut parameters = Parameters::new();
        let mut make = |name: &str,
                        shape: &[usize],
                        kind|
         -> Result<Arc<Parameter>, TrainingError> {
            Ok(parameters.insert(&format!("{prefix}{name}"), shape, get(name, shape)?, kind)?)
        };
        let tokens = make(TOKENS, &[a.n_vocabulary, a.width], Kind::Table)?;
        let positions = make(POSITIONS, &[a.n_positions, a.width], Kind::Table)?;
        let types = (a.n_types > 0)
            .then(|| make(TYPES, &[a.n_types, a.width], Kind::Table))
            .transpose()?;
        let norm = pair(&mut make, EMBEDDING_NORM, &[a.width])?;
        let layers = (0..a.n_layers)
            .map(|layer| layer_parameters(a, &LayerNames::new(a.family, layer), &mut make))
            .collect::<Result<Vec<_>, TrainingError>>()?;
        let relative_bias = (a.n_buckets > 0)
            .then(|| make(RELATIVE_BIAS, &[a.n_buckets, a.n_heads], Kind::Matrix))
            .transpose()?;
        place(a, &parameters, engine)?;
        let embeddings = Embeddings {
            engine: engine.clone(),
            tokens,
            positions,
            types,
            norm,
            epsilon: a.epsilon as f32,
        };
        Ok(Self {
            network: Arc::new(Network::new(
                engine.clone(),
                architecture,
                layers,
                relative_bias,
            )),
            embeddings: Arc::new(embeddings),
            parameters,
        })
    }

    /// The shape of the model.
    pub fn architecture(&self) -> &Architecture {
        &self.network.architecture
    }

    /// All parameters, with the checkpoint's names without the prefix of a head.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Threads and precision.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.network.engine
    }

    /// Returns the last layer's token vectors, (T, H).
    ///
    /// # Errors
    /// [`TrainingError::Encode`] for a text that does not fit the tables, [`TrainingError::Tensor`].
    pub fn forward(&self, texts: &[Tokens], dropout: &Dropout) -> Result<Tensor, TrainingError> {
        let layers = 0..self.network.layers.len();
        if self.is_on_device() {
            return self.on_device(texts, layers, Output::Tokens, dropout);
        }
        let (hidden, lengths) = (self.embed(texts, dropout)?, lengths(texts));
        self.layers(layers, &hidden, &lengths, dropout)
    }

    /// Returns the last layer's first token vector of each text, (B, H): what [`super::first`] takes from
    /// [`Self::forward`], but the last layer computes nothing else.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_first(
        &self,
        texts: &[Tokens],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let layers = 0..self.network.layers.len();
        if self.is_on_device() {
            return self.on_device(texts, layers, Output::First, dropout);
        }
        let (hidden, lengths) = (self.embed(texts, dropout)?, lengths(texts));
        let anchor = &self.embeddings.tokens;
        apply_layers(
            &self.network,
            anchor,
            layers,
            &hidden,
            &lengths,
            true,
            dropout,
        )
    }

    /// Returns the mean of the last layer's token vectors of each text, (B, H): what [`super::mean`] makes of
    /// [`Self::forward`], but a device keeps the token vectors to itself.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_mean(
        &self,
        texts: &[Tokens],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        if self.is_on_device() {
            let layers = 0..self.network.layers.len();
            return self.on_device(texts, layers, Output::Mean, dropout);
        }
        Ok(mean(&self.forward(texts, dropout)?, &lengths(texts))?)
    }

    fn is_on_device(&self) -> bool {
        self.network.on_device.is_some()
    }

    /// Takes texts through the tables and some layers on the device.
    fn on_device(
        &self,
        texts: &[Tokens],
        layers: Range<usize>,
        output: Output,
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let embedded = self.embedded(texts, dropout)?;
        if texts.is_empty() {
            let shape = (0, self.architecture().width);
            return Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?);
        }
        let lengths = lengths(texts);
        let network = &self.network;
        let operation = Operation::new(network, Some(embedded), layers, &lengths, output, dropout);
        Ok(self.embeddings.tokens.anchor().apply_op1(operation)?)
    }

    /// What of texts the tables read.
    fn embedded(&self, texts: &[Tokens], dropout: &Dropout) -> Result<Embedded, TrainingError> {
        let architecture = &self.network.architecture;
        batch::check(architecture.limits(), texts)?;
        dropout.check()?;
        let ids = texts.iter().flat_map(|text| &text.ids).copied().collect();
        let types = texts.iter().flat_map(|text| &text.type_ids).copied();
        let positions = texts
            .iter()
            .flat_map(|text| architecture.positions(&text.ids));
        Ok(Embedded {
            embeddings: self.embeddings.clone(),
            ids: [ids, positions.collect(), types.collect()],
            mask: dropout.at(dropout.hidden, EMBEDDINGS_PLACE),
        })
    }

    /// Returns what the first layer reads: sums of the tables' rows, normalized, (T, H).
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn embed(&self, texts: &[Tokens], dropout: &Dropout) -> Result<Tensor, TrainingError> {
        if self.is_on_device() {
            return self.on_device(texts, 0..0, Output::Tokens, dropout);
        }
        let operation = EmbedOperation {
            embedded: self.embedded(texts, dropout)?,
            kept: Mutex::default(),
        };
        Ok(self.embeddings.tokens.anchor().apply_op1(operation)?)
    }

    /// Takes token vectors of texts of these lengths, (T, H), through some of the layers.
    ///
    /// For heads that read an early layer, and for decoders: pass the layers in parts, or vectors made elsewhere.
    ///
    /// # Errors
    /// [`TrainingError::Tensor`] when shapes or the range do not fit.
    pub fn layers(
        &self,
        layers: Range<usize>,
        hidden: &Tensor,
        lengths: &[usize],
        dropout: &Dropout,
    ) -> Result<Tensor, TrainingError> {
        let anchor = &self.embeddings.tokens;
        apply_layers(
            &self.network,
            anchor,
            layers,
            hidden,
            lengths,
            false,
            dropout,
        )
    }

    /// Writes the weights in f32 to a safetensors file.
    ///
    /// # Errors
    /// [`TrainingError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), TrainingError> {
        self.parameters.save(path)
    }
}

/// Refuses heads that the products of this precision do not fit.
pub(super) fn check_heads(a: &Architecture, engine: &Engine) -> Result<(), TrainingError> {
    let d = a.width / a.n_heads;
    if engine.precision() == Precision::Bf16 && !d.is_multiple_of(2) {
        return Err(TrainingError::Setting {
            name: "head width",
            value: d as f64,
            rule: "in bf16 it is even",
        });
    }
    Ok(())
}

/// Moves parameters to the device of an engine that has one.
pub(super) fn place(
    a: &Architecture,
    parameters: &Parameters,
    engine: &Engine,
) -> Result<(), TrainingError> {
    let Some(device) = &engine.device else {
        return Ok(());
    };
    if let Some(reason) = accelerated::unsupported(a) {
        return Err(TrainingError::Unsupported {
            device: device.name(),
            reason,
        });
    }
    for parameter in parameters.iter() {
        parameter.place(device)?;
    }
    Ok(())
}

/// Takes token vectors through some layers, where the network computes.
pub(super) fn apply_layers(
    network: &Arc<Network>,
    anchor: &Parameter,
    layers: Range<usize>,
    hidden: &Tensor,
    lengths: &[usize],
    first_only: bool,
    dropout: &Dropout,
) -> Result<Tensor, TrainingError> {
    let checked = LayersOperation::new(
        network,
        layers.clone(),
        hidden,
        lengths,
        first_only,
        dropout,
    )?;
    let Some(operation) = checked else {
        return Ok(hidden.clone());
    };
    let hidden = anchor.input(hidden)?;
    if network.on_device.is_none() {
        return Ok(hidden.apply_op1(operation)?);
    }
    let output = if first_only {
        Output::First
    } else {
        Output::Tokens
    };
    let operation = Operation::new(network, None, layers, lengths, output, dropout);
    Ok(hidden.apply_op1(operation)?)
}

/// Makes a parameter of a name, a shape and a kind.
type Make<'a> = dyn FnMut(&str, &[usize], Kind) -> Result<Arc<Parameter>, TrainingError> + 'a;

fn pair(make: &mut Make<'_>, name: &str, shape: &[usize]) -> Result<Pair, TrainingError> {
    let kind = if shape.len() > 1 {
        Kind::Matrix
    } else {
        Kind::Plain
    };
    Ok(Pair {
        weight: make(&format!("{name}.weight"), shape, kind)?,
        bias: make(&format!("{name}.bias"), &shape[..1], Kind::Plain)?,
    })
}

/// Makes the parameters of a layer.
pub(super) fn layer_parameters(
    a: &Architecture,
    names: &LayerNames,
    make: &mut Make<'_>,
) -> Result<LayerParameters, TrainingError> {
    let mut pair = |name: &str, shape: &[usize]| pair(make, name, shape);
    Ok(LayerParameters {
        query: pair(&names.query, &[a.width, a.width])?,
        key: pair(&names.key, &[a.width, a.width])?,
        value: pair(&names.value, &[a.width, a.width])?,
        output: pair(&names.output, &[a.width, a.width])?,
        attention_norm: pair(&names.attention_norm, &[a.width])?,
        up: pair(&names.up, &[a.n_intermediate, a.width])?,
        down: pair(&names.down, &[a.width, a.n_intermediate])?,
        output_norm: pair(&names.output_norm, &[a.width])?,
    })
}

pub(super) fn lengths(texts: &[Tokens]) -> Vec<usize> {
    texts.iter().map(Tokens::len).collect()
}

pub(super) fn misfit(message: String) -> TrainingError {
    candle_core::Error::Msg(message).into()
}

/// Numbers from 0 to 1, by their place, from a multiplicative hash of it.
fn uniform(seed: u64, stream: u64) -> impl Fn(usize) -> f64 {
    let mask = Dropout {
        seed,
        step: stream,
        ..Dropout::NONE
    }
    .at(0.0, 0);
    move |place| (mask.number(place as u64) >> 11) as f64 / (1u64 << 53) as f64
}

/// Even numbers from −bound to bound, from a counter.
pub(super) fn even(seed: u64, stream: u64, n: usize, bound: f64) -> Vec<f32> {
    let uniform = uniform(seed, stream);
    let value = |place: usize| (bound * (2.0 * uniform(place) - 1.0)) as f32;
    (0..n).map(value).collect()
}

/// Normal numbers from a counter: Box & Muller's transform of even ones.
pub fn normal(seed: u64, stream: u64, n: usize, deviation: f64) -> Vec<f32> {
    let uniform = uniform(seed, stream);
    let value = |index: usize| {
        let radius = (-2.0 * (1.0 - uniform(2 * index)).ln()).sqrt();
        (deviation * radius * (std::f64::consts::TAU * uniform(2 * index + 1)).cos()) as f32
    };
    (0..n).map(value).collect()
}

/// The values of a contiguous f32 tensor on the CPU.
pub(super) fn floats<'a>(
    storage: &'a CpuStorage,
    layout: &Layout,
) -> candle_core::Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a training layer reads contiguous tensors, not {layout:?}");
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// A copy of all values of a tensor.
pub(super) fn values(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1::<f32>()
}

struct EmbedOperation {
    embedded: Embedded,
    /// Normalized rows and their scales.
    kept: Mutex<(Vec<f32>, Vec<f32>)>,
}

impl CustomOp1 for EmbedOperation {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let e = &*self.embedded.embeddings;
        let [ids, positions, types] = &self.embedded.ids;
        let (simd, width, n_tokens) = (e.engine.kernel.simd, e.tokens.width(), ids.len());
        let (mut rows, mut others) = (vec![0.0; n_tokens * width], vec![0.0; n_tokens * width]);
        e.tokens.gather(ids, &mut rows)?;
        e.positions.gather(positions, &mut others)?;
        function::add(simd, &mut rows, &others);
        if let Some(table) = &e.types {
            table.gather(types, &mut others)?;
            function::add(simd, &mut rows, &others);
        }
        let mut scales = vec![0.0; n_tokens];
        let (weight, bias) = (e.norm.weight.read()?, e.norm.bias.read()?);
        function::layer_norm(
            simd,
            &mut rows,
            &mut others,
            &mut scales,
            &weight.values,
            &bias.values,
            e.epsilon,
        );
        self.embedded.mask.apply_rows(simd, &mut rows, width);
        *lock(&self.kept) = (others, scales);
        Ok((CpuStorage::F32(rows), Shape::from((n_tokens, width))))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let e = &*self.embedded.embeddings;
        let [ids, positions, types] = &self.embedded.ids;
        let (simd, width) = (e.engine.kernel.simd, e.tokens.width());
        let mut gradient = values(gradient)?;
        self.embedded.mask.apply_rows(simd, &mut gradient, width);
        let norm = (&*e.norm.weight, &*e.norm.bias);
        norm_backward(simd, &mut gradient, &lock(&self.kept), norm)?;
        e.tokens.add_row_gradient(ids, &gradient)?;
        e.positions.add_row_gradient(positions, &gradient)?;
        if let Some(table) = &e.types {
            table.add_row_gradient(types, &gradient)?;
        }
        Ok(None)
    }
}

/// Some of the layers of a network, for texts of these lengths.
pub(super) struct LayersOperation {
    network: Arc<Network>,
    packed: Arc<Packed>,
    layers: Range<usize>,
    lengths: Vec<usize>,
    first_only: bool,
    dropout: Dropout,
    tape: Mutex<Option<Tape>>,
}

impl LayersOperation {
    /// Checks that the vectors are those of the texts; `None` where there is nothing to compute.
    pub(super) fn new(
        network: &Arc<Network>,
        layers: Range<usize>,
        hidden: &Tensor,
        lengths: &[usize],
        first_only: bool,
        dropout: &Dropout,
    ) -> Result<Option<Self>, TrainingError> {
        let architecture = &network.architecture;
        let (n_tokens, width) = hidden.dims2()?;
        if n_tokens != lengths.iter().sum::<usize>()
            || width != architecture.width
            || lengths.contains(&0)
        {
            return Err(misfit(format!(
                "token vectors {:?} are not those of texts {lengths:?}",
                hidden.shape()
            )));
        }
        if layers.start > layers.end || layers.end > network.layers.len() {
            return Err(misfit(format!(
                "layers {layers:?} of {}",
                network.layers.len()
            )));
        }
        let most = lengths.iter().copied().max().unwrap_or(0);
        if architecture.n_buckets > 0 && most > architecture.n_positions {
            return Err(misfit(format!(
                "{most} tokens; the model has {} positions",
                architecture.n_positions
            )));
        }
        dropout.check()?;
        if layers.is_empty() || lengths.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            packed: match &network.on_device {
                Some(_) => Arc::default(),
                None => network.packed(),
            },
            network: network.clone(),
            layers,
            lengths: lengths.to_vec(),
            first_only,
            dropout: *dropout,
            tape: Mutex::default(),
        }))
    }
}

impl CustomOp1 for LayersOperation {
    fn name(&self) -> &'static str {
        "layers"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let hidden = floats(storage, layout)?;
        let (output, tape) = self.network.forward(
            &self.packed,
            self.layers.clone(),
            hidden,
            &self.lengths,
            self.first_only,
            &self.dropout,
        );
        *lock(&self.tape) = Some(tape);
        let width = self.network.architecture.width;
        let shape = Shape::from((output.len() / width, width));
        Ok((CpuStorage::F32(output), shape))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let gradient = values(gradient)?;
        let mut tape = lock(&self.tape);
        let tape = tape.as_mut().expect("candle runs the forward first");
        let gradient = self.network.backward(
            &self.packed,
            self.layers.clone(),
            tape,
            &gradient,
            self.first_only,
            &self.dropout,
        );
        Ok(Some(Tensor::from_vec(
            gradient,
            hidden.shape(),
            &Device::Cpu,
        )?))
    }
}

impl Drop for LayersOperation {
    fn drop(&mut self) {
        if let Some(tape) = lock(&self.tape).take() {
            self.network.engine.give_back(tape);
        }
    }
}
