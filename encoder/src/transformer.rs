//! The plain differentiable forward, for training and as the slow twin of [`crate::network`].

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::ops::softmax;

use crate::architecture::{Activation, Architecture};
use crate::network::mpnet_bucket;
use crate::tokenizer::Tokens;
use crate::weights::{EMBEDDING_NORM, LayerNames, POSITIONS, RELATIVE_BIAS, TOKENS, TYPES};

/// A transformer of the BERT family in candle's basic operations, each of which has a gradient.
///
/// Notation: B texts of up to L tokens, width H, A heads of width d = H / A. Devlin et al. 2018 (arXiv 1810.04805).
/// Deviation: no dropout.
pub struct Transformer {
    architecture: Architecture,
    tokens: Tensor,
    positions: Tensor,
    types: Option<Tensor>,
    embedding_norm: LayerNorm,
    relative_bias: Option<Tensor>,
    layers: Vec<TransformerLayer>,
}

struct TransformerLayer {
    query: candle_nn::Linear,
    key: candle_nn::Linear,
    value: candle_nn::Linear,
    output: candle_nn::Linear,
    attention_norm: LayerNorm,
    up: candle_nn::Linear,
    down: candle_nn::Linear,
    output_norm: LayerNorm,
}

/// A batch of tokenised texts, padded to the longest; all tensors are (B, L).
pub struct Batch {
    /// Token ids, u32.
    pub ids: Tensor,
    /// Segments, u32.
    pub type_ids: Tensor,
    /// Rows of the position table, u32: [`Architecture::positions`].
    pub positions: Tensor,
    /// 1 for tokens, 0 for padding, f32.
    pub mask: Tensor,
}

impl Transformer {
    /// Takes its tensors from `get`, by the checkpoint's names without the prefix of a head, and by shape.
    ///
    /// # Errors
    /// What `get` returns.
    pub fn load<E>(
        architecture: &Architecture,
        mut get: impl FnMut(&str, &[usize]) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<Self, E> {
        let (a, width, get) = (architecture, architecture.width, &mut get);
        Ok(Self {
            architecture: a.clone(),
            tokens: get(TOKENS, &[a.n_vocabulary, width])?,
            positions: get(POSITIONS, &[a.n_positions, width])?,
            types: (a.n_types > 0)
                .then(|| get(TYPES, &[a.n_types, width]))
                .transpose()?,
            embedding_norm: LayerNorm::load(get, EMBEDDING_NORM, a)?,
            relative_bias: (a.n_buckets > 0)
                .then(|| get(RELATIVE_BIAS, &[a.n_buckets, a.n_heads]))
                .transpose()?,
            layers: (0..a.n_layers)
                .map(|layer| {
                    let names = LayerNames::new(a.family, layer);
                    Ok(TransformerLayer {
                        query: linear(get, &names.query, width, width)?,
                        key: linear(get, &names.key, width, width)?,
                        value: linear(get, &names.value, width, width)?,
                        output: linear(get, &names.output, width, width)?,
                        attention_norm: LayerNorm::load(get, &names.attention_norm, a)?,
                        up: linear(get, &names.up, a.n_intermediate, width)?,
                        down: linear(get, &names.down, width, a.n_intermediate)?,
                        output_norm: LayerNorm::load(get, &names.output_norm, a)?,
                    })
                })
                .collect::<std::result::Result<_, E>>()?,
        })
    }

    /// Returns the last layer's token vectors, (B, L, H); rows of padding hold no meaning.
    ///
    /// # Errors
    /// candle's, when shapes or ids do not fit.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let mut hidden =
            (embed(&self.tokens, &batch.ids)? + embed(&self.positions, &batch.positions)?)?; // (B, L, H)
        if let Some(types) = &self.types {
            hidden = (hidden + embed(types, &batch.type_ids)?)?;
        }
        let mut hidden = self.embedding_norm.forward(&hidden)?;
        // −∞ would turn a row of padding into NaN; the least float does what it should and stays finite.
        let padding = ((batch.mask.to_dtype(DType::F32)? - 1.0)? * f64::from(f32::MAX))?;
        let mut biases = padding.unsqueeze(1)?.unsqueeze(1)?; // (B, 1, 1, L)
        if let Some(table) = &self.relative_bias {
            biases = biases.broadcast_add(&self.relative_biases(table, batch.ids.dim(1)?)?)?; // (B, A, L, L)
        }
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &biases, &self.architecture)?;
        }
        Ok(hidden)
    }

    /// Looks up what MPNet adds to the scores of a query and a key by their distance, (1, A, L, L).
    fn relative_biases(&self, table: &Tensor, length: usize) -> Result<Tensor> {
        let (length, n_buckets) = (length as i64, self.architecture.n_buckets);
        let bucket = |query: i64, key: i64| mpnet_bucket(key - query, n_buckets) as u32;
        let buckets: Vec<u32> = (0..length)
            .flat_map(|query| (0..length).map(move |key| bucket(query, key)))
            .collect();
        let shape = (length as usize, length as usize);
        let buckets = Tensor::from_vec(buckets, shape, table.device())?;
        embed(table, &buckets)?.permute((2, 0, 1))?.unsqueeze(0)
    }
}

impl TransformerLayer {
    fn forward(
        &self,
        hidden: &Tensor,
        biases: &Tensor,
        architecture: &Architecture,
    ) -> Result<Tensor> {
        let (n_texts, length, width) = hidden.dims3()?; // B, L, H
        let (n_heads, d) = (architecture.n_heads, width / architecture.n_heads);
        let heads = |projection: &candle_nn::Linear| {
            let projected = projection
                .forward(hidden)?
                .reshape((n_texts, length, n_heads, d))?;
            projected.transpose(1, 2)?.contiguous() // (B, A, L, d)
        };
        let (query, key, value) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?);
        let scores = (query.matmul(&key.t()?)? / (d as f64).sqrt())?; // (B, A, L, L)
        let weights = softmax(&scores.broadcast_add(biases)?, D::Minus1)?;
        let context = weights
            .matmul(&value)?
            .transpose(1, 2)?
            .reshape((n_texts, length, width))?; // (B, L, H)
        let attended = self
            .attention_norm
            .forward(&(self.output.forward(&context)? + hidden)?)?;
        let inner = self.up.forward(&attended)?; // (B, L, I)
        let inner = match architecture.activation {
            Activation::Gelu => inner.gelu_erf()?,
            Activation::GeluTanh => inner.gelu()?,
            Activation::Relu => inner.relu()?,
            Activation::Silu => inner.silu()?,
        };
        self.output_norm
            .forward(&(self.down.forward(&inner)? + attended)?)
    }
}

/// Where tensors come from, by name and shape.
type Get<'a, E> = dyn FnMut(&str, &[usize]) -> std::result::Result<Tensor, E> + 'a;

fn linear<E>(
    get: &mut Get<'_, E>,
    name: &str,
    n_out: usize,
    n_in: usize,
) -> std::result::Result<candle_nn::Linear, E> {
    let weight = get(&format!("{name}.weight"), &[n_out, n_in])?;
    let bias = get(&format!("{name}.bias"), &[n_out])?;
    Ok(candle_nn::Linear::new(weight, Some(bias)))
}

/// Layer normalization from basic operations: candle's fused one has no gradient.
struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    fn load<E>(
        get: &mut Get<'_, E>,
        name: &str,
        architecture: &Architecture,
    ) -> std::result::Result<Self, E> {
        let weight = get(&format!("{name}.weight"), &[architecture.width])?;
        let bias = get(&format!("{name}.bias"), &[architecture.width])?;
        Ok(Self {
            weight,
            bias,
            epsilon: architecture.epsilon,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        let normalized = centered.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        normalized
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }
}

/// Looks up rows of a table: (N, H) and (B, L) give (B, L, H).
fn embed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (rows, columns) = ids.dims2()?;
    table
        .index_select(&ids.flatten_all()?, 0)?
        .reshape((rows, columns, table.dim(1)?))
}

impl Batch {
    /// Pads tokenised texts with `padding_id` at the end.
    ///
    /// # Errors
    /// candle's, when the device has no room.
    pub fn new(
        texts: &[Tokens],
        architecture: &Architecture,
        padding_id: u32,
        device: &Device,
    ) -> Result<Self> {
        let length = texts.iter().map(Tokens::len).max().unwrap_or(0);
        let table = |row: &dyn Fn(&Tokens) -> Vec<u32>, padding: u32| {
            let padded = texts.iter().flat_map(|text| {
                let mut row = row(text);
                row.resize(length, padding);
                row
            });
            Tensor::from_vec(padded.collect(), (texts.len(), length), device)
        };
        Ok(Self {
            ids: table(&|text| text.ids.clone(), padding_id)?,
            type_ids: table(&|text| text.type_ids.clone(), 0)?,
            positions: table(
                &|text| architecture.positions(&text.ids),
                architecture.padding_id.unwrap_or(0),
            )?,
            mask: table(&|text| vec![1; text.len()], 0)?.to_dtype(DType::F32)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::path::Path;

    use candle_core::Var;
    use compute::Level;

    use super::*;
    use crate::architecture::Activation;
    use crate::checkpoint::Checkpoint;
    use crate::error::LoadError;
    use crate::kernel::{Format, n_products};
    use crate::network::{Network, Wanted, Workspace};
    use crate::training::{Encoder, Engine, EngineConfig};
    use crate::weights::Weights;

    fn architecture(name: &str) -> (std::path::PathBuf, Architecture) {
        let folder = testkit::fixture("models").join(name);
        let architecture =
            Architecture::read(&folder.join("config.json")).expect("config.json is valid");
        (folder, architecture)
    }

    fn load(folder: &Path, architecture: &Architecture) -> Transformer {
        let mut checkpoint = Checkpoint::open(folder).expect("weights open");
        checkpoint.set_prefix(architecture.family.prefix(), TOKENS);
        let get = |name: &str, shape: &[usize]| {
            let values = checkpoint.tensor(name, shape)?;
            Ok::<_, LoadError>(
                Tensor::from_vec(values, shape, &Device::Cpu).expect("the shape was checked"),
            )
        };
        Transformer::load(architecture, get).expect("all tensors are there")
    }

    /// Texts of several lengths, with ids and types all over the tables, a padding id among them.
    fn texts(architecture: &Architecture) -> Vec<Tokens> {
        let n_types = architecture.n_types.max(1);
        let text = |length: usize, seed: usize| Tokens {
            ids: (0..length)
                .map(|i| ((i * 131 + seed * 17) % architecture.n_vocabulary) as u32)
                .collect(),
            type_ids: (0..length).map(|i| (i % n_types) as u32).collect(),
            ..Tokens::default()
        };
        let most = architecture.max_tokens();
        let lengths = [1, 2, 17, 64, 65, 100].into_iter();
        let lengths = lengths.filter(|length| *length < most).chain([most]);
        lengths
            .enumerate()
            .map(|(seed, length)| text(length, seed))
            .collect()
    }

    fn check_twins(name: &str) {
        let (folder, architecture) = architecture(name);
        check_twins_in(name, &folder, &architecture);
    }

    fn check_twins_in(name: &str, folder: &Path, architecture: &Architecture) {
        let texts = texts(architecture);
        let batch = Batch::new(&texts, architecture, 0, &Device::Cpu).expect("a batch");
        let plain = load(folder, architecture).forward(&batch).expect("forward");
        let plain: Vec<Vec<Vec<f32>>> = plain.to_vec3().expect("three dimensions");
        let plain: Vec<&Vec<f32>> = texts
            .iter()
            .zip(&plain)
            .flat_map(|(text, rows)| &rows[..text.len()])
            .collect();
        // The least cosine of a token's vector; the random weights are wide, which makes the losses large.
        for (format, least) in [
            (Format::F32, 0.999_999_9),
            (Format::Fixed16, 0.999_999),
            (Format::Bf16x3, 0.999_999),
            (Format::Bf16, 0.999),
            (Format::Int8, 0.95),
        ] {
            let mut fused: Option<Vec<f32>> = None;
            for simd in testkit::simd_levels() {
                let mut checkpoint = Checkpoint::open(folder).expect("weights open");
                let weights =
                    Weights::load(architecture, &mut checkpoint).expect("all tensors are there");
                let network = Network::new(simd, format, architecture, weights);
                let group: Vec<&Tokens> = texts.iter().collect();
                let mut workspace = Workspace::default();
                let instructions = match format {
                    Format::Bf16 | Format::Bf16x3 if simd.has_amx() => "amx".to_owned(),
                    Format::Int8 if simd.has_amx_int8() => "amx".to_owned(),
                    _ => simd.at_most(Level::Avx512).to_string(),
                };
                let before = n_products(&instructions, format);
                let packed = network
                    .forward(&group, Wanted::AllTokens, &mut workspace)
                    .to_vec();
                let computed = n_products(&instructions, format) - before;
                assert!(
                    computed >= 4 * architecture.n_layers as u64,
                    "{name} {format:?} {simd}"
                );
                // Products of bf16 differ by level, and the attention of 8 bits is bf16 where that is fast.
                let has_bf16 = matches!(format, Format::Bf16 | Format::Bf16x3)
                    || format == Format::Int8 && simd.has_bf16();
                if simd.level() != Level::Portable && !has_bf16 {
                    let fused = fused.get_or_insert_with(|| packed.to_vec());
                    assert_eq!(*fused, packed, "{name} {format:?} {simd}");
                }
                let mut workspace = Workspace::default();
                let first = network.forward(&group, Wanted::FirstTokens, &mut workspace);
                let mut start = 0;
                for (text, first) in texts.iter().zip(first.chunks_exact(architecture.width)) {
                    assert_eq!(first, &packed[start * first.len()..][..first.len()]);
                    start += text.len();
                }
                for (index, (packed, plain)) in packed
                    .chunks_exact(architecture.width)
                    .zip(&plain)
                    .enumerate()
                {
                    let cosine = cosine(packed, plain);
                    assert!(
                        cosine >= least,
                        "{name} {format:?} {simd} token {index}: {cosine}"
                    );
                    if format == Format::F32 {
                        for (packed, plain) in packed.iter().zip(*plain) {
                            // Sums in another order move values by 1.5e-5 at most; a tensor left out by 5e-3 or more.
                            assert!(
                                (packed - plain).abs() < 3e-5,
                                "{name} {simd} token {index}: {packed} {plain}"
                            );
                        }
                    }
                }
            }
        }
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum()
        };
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn the_packed_forward_equals_the_plain_one() {
        for name in [
            "tiny-bert",
            "tiny-bert-cls-dense",
            "tiny-roberta",
            "tiny-xlm-roberta",
            "tiny-distilbert",
            "tiny-mpnet",
        ] {
            check_twins(name);
        }
    }

    #[test]
    fn wide_networks_take_every_path() {
        // Several slabs along k and along keys; heads of more columns than a panel, of an odd number, and of published models.
        for (width, n_heads, n_intermediate, n_positions, activation) in [
            (400, 5, 900, 512, Activation::Gelu),
            (400, 16, 900, 100, Activation::Silu),
            (256, 4, 1_024, 100, Activation::Relu),
            (768, 12, 3_072, 20, Activation::GeluTanh),
            (1_024, 16, 4_096, 20, Activation::Gelu),
        ] {
            let (_, mut architecture) = architecture("tiny-bert");
            (architecture.width, architecture.n_heads) = (width, n_heads);
            (architecture.n_intermediate, architecture.n_positions) = (n_intermediate, n_positions);
            (architecture.n_layers, architecture.activation) = (1, activation);
            let folder = tempfile::tempdir().expect("a temporary folder");
            let engine = Engine::new(&EngineConfig::default()).expect("threads start");
            let random = Encoder::random(architecture.clone(), 7, &engine).expect("a model");
            let path = folder.path().join("model.safetensors");
            random.save(&path).expect("the weights are written");
            check_twins_in(
                &format!("{width} columns in {n_heads} heads"),
                folder.path(),
                &architecture,
            );
        }
    }

    #[test]
    fn every_tensor_has_a_gradient() {
        for name in [
            "tiny-bert",
            "tiny-bert-weighted",
            "tiny-bert-last",
            "tiny-mpnet",
        ] {
            let (_, architecture) = architecture(name);
            let mut variables = Vec::new();
            let get = |name: &str, shape: &[usize]| {
                let variable = Var::randn(0f32, 0.5, shape, &Device::Cpu).expect("a tensor");
                let tensor = variable.as_tensor().clone();
                variables.push((name.to_owned(), variable));
                Ok::<_, Infallible>(tensor)
            };
            let Ok(transformer) = Transformer::load(&architecture, get);
            let batch =
                Batch::new(&texts(&architecture), &architecture, 0, &Device::Cpu).expect("a batch");
            let loss = transformer
                .forward(&batch)
                .and_then(|hidden| hidden.sqr()?.sum_all())
                .expect("forward");
            let gradients = loss.backward().expect("backward");
            for (name, variable) in &variables {
                assert!(gradients.get(variable).is_some(), "{name} has no gradient");
            }
        }
    }
}
