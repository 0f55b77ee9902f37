use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use compute::Simd;
use compute::accelerator::DeviceInfo;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::accelerated;
use crate::backbone::{Backbone, BackboneConfig, Limits, load_beside};
use crate::batch;
use crate::checkpoint::Checkpoint;
use crate::cross_encoder::CrossEncoder;
use crate::directory::{DenseConfig, Directory, OutputActivation, Step};
use crate::error::{EncodeError, LoadError};
use crate::fingerprint::{Fingerprint, TextSpec};
use crate::kernel::{self, Format, Rows};
use crate::network::{PackedLinear, Wanted};
use crate::options::{EncoderConfig, ModelOptions, Pooling, Role, Similarity};
use crate::pooling::normalize;
use crate::threads::{TEXTS_AT_ONCE, Threads};
use crate::tokenizer::{Side, Text, TextTokenizer, Tokens};
use crate::weights::Linear;

/// Vectors of texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// Values of each vector.
    pub width: usize,
    /// One row per text in the order of the input, row-major.
    pub values: Vec<f32>,
    /// Tokens that were encoded.
    pub n_tokens: usize,
    /// Texts of which tokens were cut off.
    pub n_truncated: usize,
}

impl Embeddings {
    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The vector of a text.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }
}

/// What a text becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Its vector, as the model's modules make it.
    #[default]
    Vector,
    /// The same without the normalization that ends them, where one does.
    Unnormalized,
    /// The last layer's vectors of all its tokens, special ones included.
    TokenVectors,
}

/// A model that turns queries and passages into vectors of one space.
pub struct BiEncoder {
    name: String,
    config: EncoderConfig,
    directory: Directory,
    backbone_config: BackboneConfig,
    tokenizer: TextTokenizer,
    engine: Engine,
    dense: Vec<DenseLayer>,
    simd: Simd,
    width: usize,
    /// Whether vectors have length 1.
    normalizes: bool,
    query: OneSide,
    passage: OneSide,
    /// sha256 of the transformer's tensors.
    weights: String,
    threads: Option<Arc<Threads>>,
}

/// Who computes token vectors.
enum Engine {
    Host(Backbone),
    Accelerated(Box<accelerated::Networks>),
}

/// What differs between queries and passages.
struct OneSide {
    prompt: String,
    max_tokens: usize,
}

/// A Dense module, packed.
struct DenseLayer {
    linear: PackedLinear,
    /// sha256 of its tensors.
    weights: String,
}

impl BiEncoder {
    /// Loads a model directory.
    ///
    /// # Errors
    /// [`LoadError`], naming the file; [`LoadError::NotSentenceTransformers`] when neither the directory nor the
    /// options say how vectors are made, and [`LoadError::CrossEncoder`] where such a directory holds one.
    pub fn load(
        path: &Path,
        options: &ModelOptions,
        config: &EncoderConfig,
    ) -> Result<Self, LoadError> {
        let directory = Directory::read(path, options).map_err(|refused| match refused {
            LoadError::NotSentenceTransformers { .. } | LoadError::Module { .. }
                if CrossEncoder::is_in(path).unwrap_or(false) =>
            {
                LoadError::CrossEncoder {
                    path: path.to_path_buf(),
                }
            }
            refused => refused,
        })?;
        let config_path = directory.transformer.join("config.json");
        let mut backbone_config = BackboneConfig::read(&config_path)?;
        if directory.pooling == [Pooling::Decoder] {
            backbone_config.decode(&config_path)?;
        }
        let limits = backbone_config.limits();
        let (simd, config) = backbone_config.resolve(&config_path, config)?;
        let (tokenizer, loaded) = load_beside(
            || TextTokenizer::load(&directory.transformer, directory.lower_case),
            || {
                let mut checkpoint = Checkpoint::open(&directory.transformer)?;
                let engine = match &config.accelerator {
                    Some(accelerator) => Engine::Accelerated(backbone_config.load_accelerated(
                        &mut checkpoint,
                        (accelerator, config.arithmetic),
                        |_| Ok(None),
                    )?),
                    None => Engine::Host(backbone_config.load(
                        &mut checkpoint,
                        simd,
                        config.arithmetic,
                    )?),
                };
                Ok((engine, checkpoint.digest()))
            },
        );
        let tokenizer = tokenizer?;
        check_vocabulary(&config_path, limits, &tokenizer)?;
        let max_tokens = directory
            .max_tokens
            .or(tokenizer.max_tokens)
            .unwrap_or(usize::MAX);
        let max_tokens = max_tokens.min(limits.max_tokens);
        let side = |what, requested: Option<usize>, prompt: &str| {
            let max_tokens =
                check_max_tokens(what, requested.unwrap_or(max_tokens), limits, &tokenizer)?;
            Ok(OneSide {
                prompt: prompt.to_owned(),
                max_tokens,
            })
        };
        let query = side("query", directory.query_tokens, &directory.query_prompt)?;
        let passage = side(
            "passage",
            directory.passage_tokens,
            &directory.passage_prompt,
        )?;

        let (engine, weights) = loaded?;
        let mut width = limits.width * directory.pooling.len();
        let mut dense = Vec::new();
        for step in &directory.steps {
            if let Step::Dense(config) = step {
                dense.push(DenseLayer::load(simd, config, width)?);
                width = config.n_out;
            }
        }
        let kept = directory.truncate_width.unwrap_or(width).min(width);
        Ok(Self {
            name: name_of(path),
            threads: match &engine {
                Engine::Host(backbone) => backbone.threads(config.threads)?,
                Engine::Accelerated(_) => Threads::shared(config.threads, 2)?, // they tokenise
            },
            config,
            width: kept,
            // What is cut off is cut off after the modules.
            normalizes: kept == width && directory.steps.last() == Some(&Step::Normalize),
            weights,
            directory,
            backbone_config,
            tokenizer,
            engine,
            dense,
            simd,
            query,
            passage,
        })
    }

    /// Values of each vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How the vectors are compared.
    pub fn similarity(&self) -> Similarity {
        self.directory.similarity
    }

    /// Most tokens of a text, special tokens and prompt included.
    pub fn max_tokens(&self, role: Role) -> usize {
        self.side(role).max_tokens
    }

    /// What is put before each text of a role; often empty.
    pub fn prompt(&self, role: Role) -> &str {
        &self.side(role).prompt
    }

    /// Name of the model directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it is run.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// How token vectors become one; more than one are concatenated.
    pub fn pooling(&self) -> &[Pooling] {
        &self.directory.pooling
    }

    /// Whether a text's vector is bit-equal whatever texts are encoded beside it, and with how many threads.
    ///
    /// On the CPU it is: each value is computed in an order that its own text decides. In f32 and fixed16 AVX2 and
    /// AVX-512 give the same bits too. On an accelerator the last bits depend on how many tokens are
    /// computed together.
    pub fn batch_invariant(&self) -> bool {
        self.devices().is_empty()
    }

    /// The accelerators that compute, none where the CPU does.
    pub fn devices(&self) -> Vec<&DeviceInfo> {
        match &self.engine {
            Engine::Host(_) => Vec::new(),
            Engine::Accelerated(networks) => networks.devices().collect(),
        }
    }

    fn side(&self, role: Role) -> &OneSide {
        match role {
            Role::Query => &self.query,
            Role::Passage => &self.passage,
        }
    }

    /// Tokenises texts of a role, each after the role's prompt, in parallel.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`], naming the text.
    pub fn tokenize(&self, role: Role, texts: &[Text<'_>]) -> Result<Vec<Tokens>, EncodeError> {
        self.tokenize_with_prompt(&self.side(role).prompt, role, texts)
    }

    /// Tokenises texts of a role after a prompt of the caller's; of a pair the first text gets it.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`], naming the text.
    pub fn tokenize_with_prompt(
        &self,
        prompt: &str,
        role: Role,
        texts: &[Text<'_>],
    ) -> Result<Vec<Tokens>, EncodeError> {
        let max_tokens = self.side(role).max_tokens;
        let failed = |row, error: tokenizers::Error| EncodeError::Tokenize {
            row,
            reason: error.to_string(),
        };
        let n_unpooled = match self.directory.pools_prompt {
            true => 0,
            false => self
                .tokenizer
                .n_prompt_tokens(prompt, max_tokens)
                .map_err(|error| failed(0, error))?,
        };
        let encode = |(row, text): (usize, &Text<'_>)| {
            let tokens = self
                .tokenizer
                .encode(prompt, *text, max_tokens)
                .map_err(|error| failed(row, error))?;
            Ok(Tokens {
                n_unpooled,
                ..tokens
            })
        };
        match &self.threads {
            Some(threads) if texts.len() >= 2 * TEXTS_AT_ONCE => threads.pool.install(|| {
                texts
                    .par_iter()
                    .enumerate()
                    .with_min_len(TEXTS_AT_ONCE)
                    .map(encode)
                    .collect()
            }),
            _ => texts.iter().enumerate().map(encode).collect(),
        }
    }

    /// Tokenises one text after a prompt; where it is too long, tokens are lost at `side`, else where the model's own
    /// configuration says.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`].
    pub fn tokenize_cut(
        &self,
        prompt: &str,
        role: Role,
        text: &str,
        side: Option<Side>,
    ) -> Result<Tokens, EncodeError> {
        let Some(cut_at) = side else {
            let mut tokens = self.tokenize_with_prompt(prompt, role, &[Text::Single(text)])?;
            return Ok(tokens.swap_remove(0));
        };
        let max_tokens = self.side(role).max_tokens;
        let tokens = self
            .tokenizer
            .encode_from(prompt, Text::Single(text), max_tokens, side)
            .and_then(|tokens| {
                // A cut on the left takes the prompt first, so that nothing of it is left to leave out.
                let n_unpooled = match (self.directory.pools_prompt, cut_at) {
                    (false, Side::Left) if tokens.truncated => 0,
                    (false, _) => self.tokenizer.n_prompt_tokens(prompt, max_tokens)?,
                    (true, _) => 0,
                };
                Ok(Tokens {
                    n_unpooled,
                    ..tokens
                })
            });
        tokens.map_err(|error| EncodeError::Tokenize {
            row: 0,
            reason: error.to_string(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    /// Prompts by name, as the directory stores them.
    pub fn prompts(&self) -> &BTreeMap<String, String> {
        &self.directory.prompts
    }

    /// The prompt of texts of which nobody says what they are; often empty.
    pub fn default_prompt(&self) -> &str {
        let name = self.directory.default_prompt_name.as_deref();
        name.and_then(|name| self.prompts().get(name))
            .map_or("", String::as_str)
    }

    /// Returns the number of tokens of a text by itself, without prompt, special tokens and limit.
    ///
    /// # Errors
    /// [`EncodeError::Tokenize`].
    pub fn count_tokens(&self, text: &str) -> Result<usize, EncodeError> {
        let ids = self.tokenizer.ids(text);
        ids.map(|ids| ids.len())
            .map_err(|error| EncodeError::Tokenize {
                row: 0,
                reason: error.to_string(),
            })
    }

    /// Encodes tokenised texts; rows are in the order of the input.
    ///
    /// Texts are sorted by length and packed without padding into groups of `batch_tokens`, one per thread at a time;
    /// architectures that the engine does not compute take each text alone, and an accelerator takes larger groups.
    ///
    /// # Errors
    /// [`EncodeError`], naming the row: no or too many tokens, ids outside the tables, a vector that is not finite.
    pub fn encode(&self, texts: &[Tokens]) -> Result<Embeddings, EncodeError> {
        Ok(Embeddings {
            width: self.width,
            values: self.encode_as(texts, Output::Vector)?,
            n_tokens: texts.iter().map(Tokens::len).sum(),
            n_truncated: texts.iter().filter(|text| text.truncated).count(),
        })
    }

    /// Values that a text becomes.
    pub fn n_values(&self, text: &Tokens, output: Output) -> usize {
        match output {
            Output::Vector | Output::Unnormalized => self.width,
            Output::TokenVectors => text.len() * self.backbone_config.limits().width,
        }
    }

    /// Whether its vectors are brought to length 1.
    pub fn normalizes(&self) -> bool {
        self.normalizes
    }

    /// Whether the model has a vector for every token; one that pools by a decoder has not.
    pub fn has_token_vectors(&self) -> bool {
        self.directory.pooling != [Pooling::Decoder]
    }

    /// Encodes as [`Self::encode`] does; [`Self::n_values`] values for each text, in the order of the input.
    ///
    /// # Errors
    /// As [`Self::encode`].
    ///
    /// # Panics
    /// For [`Output::TokenVectors`] where there are [none](Self::has_token_vectors).
    pub fn encode_as(&self, texts: &[Tokens], output: Output) -> Result<Vec<f32>, EncodeError> {
        batch::check(self.backbone_config.limits(), texts)?;
        let lengths = || texts.iter().map(|text| self.n_values(text, output));
        assert!(output != Output::TokenVectors || self.has_token_vectors());
        let backbone = match &self.engine {
            Engine::Host(backbone) => backbone,
            Engine::Accelerated(networks) => {
                let values = match output {
                    Output::TokenVectors => networks.encode(texts, accelerated::Wanted::Tokens)?,
                    _ => {
                        let wanted = accelerated::Wanted::Pooled(&self.directory.pooling);
                        self.finish(networks.encode(texts, wanted)?, output)
                    }
                };
                batch::check_finite(&values, lengths())?;
                return Ok(values);
            }
        };
        let first_only = match self.directory.pooling[..] {
            _ if output == Output::TokenVectors => false,
            [Pooling::Cls] => texts.iter().all(|text| text.n_unpooled == 0),
            [Pooling::Decoder] => true,
            _ => false,
        };
        let wanted = match first_only {
            true => Wanted::FirstTokens,
            false => Wanted::AllTokens,
        };
        let values = backbone.for_groups(
            self.threads.as_deref(),
            texts,
            (self.config.batch_tokens, |text: &Tokens| {
                self.n_values(text, output)
            }),
            wanted,
            |group, hidden| match output {
                Output::TokenVectors => hidden.to_vec(),
                _ => self.finish_group(group, hidden, first_only, output),
            },
        )?;
        batch::check_finite(&values, lengths())?;
        Ok(values)
    }

    /// Tokenises and encodes.
    ///
    /// # Errors
    /// As [`Self::tokenize`] and [`Self::encode`].
    pub fn encode_texts(&self, role: Role, texts: &[Text<'_>]) -> Result<Embeddings, EncodeError> {
        self.encode(&self.tokenize(role, texts)?)
    }

    /// Computes the vectors of one group from its token vectors, or first tokens' vectors: pooling, modules.
    fn finish_group(
        &self,
        group: &[&Tokens],
        hidden: &[f32],
        first_only: bool,
        output: Output,
    ) -> Vec<f32> {
        let n_hidden = self.backbone_config.limits().width;
        let width = n_hidden * self.directory.pooling.len();
        let mut vectors = vec![0.0; group.len() * width];
        let mut start = 0;
        for (text, vector) in group.iter().zip(vectors.chunks_exact_mut(width)) {
            let n_rows = if first_only { 1 } else { text.len() };
            let tokens = &hidden[start * n_hidden..(start + n_rows) * n_hidden];
            for (pooling, part) in self
                .directory
                .pooling
                .iter()
                .zip(vector.chunks_exact_mut(n_hidden))
            {
                pooling.pool(self.simd, tokens, text.n_unpooled, part);
            }
            start += n_rows;
        }
        self.finish(vectors, output)
    }

    /// Applies the modules after the pooling to pooled rows.
    fn finish(&self, mut vectors: Vec<f32>, output: Output) -> Vec<f32> {
        let mut width = self.backbone_config.limits().width * self.directory.pooling.len();
        let mut dense = self.dense.iter();
        let steps = match (self.directory.steps.as_slice(), output) {
            ([steps @ .., Step::Normalize], Output::Unnormalized) => steps,
            (steps, _) => steps,
        };
        for step in steps {
            match step {
                Step::Normalize => vectors
                    .chunks_exact_mut(width)
                    .for_each(|vector| normalize(self.simd, vector)),
                Step::Dense(config) => {
                    let layer = dense
                        .next()
                        .expect("one layer was loaded for each Dense step");
                    let mut out = vec![0.0; vectors.len() / width * config.n_out];
                    layer
                        .linear
                        .apply(self.simd, &vectors, (&mut Rows::default(), None), &mut out);
                    config.activation.apply(self.simd, &mut out);
                    (vectors, width) = (out, config.n_out);
                }
            }
        }
        if self.width < width {
            vectors = vectors
                .chunks_exact(width)
                .flat_map(|vector| &vector[..self.width])
                .copied()
                .collect();
        }
        vectors
    }

    /// What the vectors of this model depend on, together with how its texts are made.
    pub fn fingerprint(&self, texts: &TextSpec) -> Fingerprint {
        let mut dense = self.dense.iter();
        let mut normalized = false;
        let mut layers = Vec::new();
        for step in &self.directory.steps {
            match step {
                Step::Normalize => normalized = true,
                Step::Dense(config) => {
                    let layer = dense
                        .next()
                        .expect("one layer was loaded for each Dense step");
                    layers.push(json!({
                        "in": config.n_in,
                        "out": config.n_out,
                        "activation": format!("{:?}", config.activation).to_lowercase(),
                        "normalized_input": normalized,
                        "weights": layer.weights,
                    }));
                    normalized = false;
                }
            }
        }
        let split = texts
            .passage_stride
            .map(|stride| json!({ "stride": stride }));
        let side = |side: &OneSide, template: &str, pair: bool, split: Option<Value>| {
            json!({
                "prompt": side.prompt,
                "template": template,
                "pair": pair,
                "max_tokens": side.max_tokens,
                "split": split,
            })
        };
        Fingerprint {
            version: Fingerprint::VERSION,
            space: json!({
                "architecture": self.backbone_config.describe(),
                "weights": self.weights,
                "tokenizer": self.tokenizer.digest,
                "pooling": {
                    "modes": self.directory.pooling.iter().map(|pooling| pooling.as_str()).collect::<Vec<_>>(),
                    "prompt": self.directory.pools_prompt,
                },
                "dense": layers,
                "normalize": normalized,
                "dimension": self.width,
                "similarity": self.directory.similarity.as_str(),
            }),
            passage: side(
                &self.passage,
                &texts.passage_template,
                texts.passage_pair,
                split,
            ),
            query: side(&self.query, &texts.query_template, texts.query_pair, None),
        }
    }
}

impl DenseLayer {
    fn load(simd: Simd, config: &DenseConfig, width: usize) -> Result<Self, LoadError> {
        if config.n_in != width {
            let reason = format!("in_features is {}, but {width} values come in", config.n_in);
            return Err(LoadError::Config {
                path: config.folder.join("config.json"),
                reason,
            });
        }
        let checkpoint = Checkpoint::open(&config.folder)?;
        let weight = checkpoint.tensor("linear.weight", &[config.n_out, config.n_in])?;
        let bias = config
            .has_bias
            .then(|| checkpoint.tensor("linear.bias", &[config.n_out]))
            .transpose()?;
        let linear = PackedLinear::new(
            simd,
            Format::F32,
            &Linear {
                weight,
                bias,
                n_in: config.n_in,
                n_out: config.n_out,
            },
        );
        Ok(Self {
            linear,
            weights: checkpoint.digest(),
        })
    }
}

impl OutputActivation {
    /// Applies it to every value.
    pub(crate) fn apply(self, simd: Simd, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Sigmoid => values
                .iter_mut()
                .for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Self::Tanh => values.iter_mut().for_each(|x| *x = x.tanh()),
            Self::Relu => kernel::relu(simd, values),
            Self::Gelu => kernel::gelu(simd, values),
        }
    }
}

/// Refuses a tokenizer that knows ids for which the token table has no row.
pub(crate) fn check_vocabulary(
    path: &Path,
    limits: Limits,
    tokenizer: &TextTokenizer,
) -> Result<(), LoadError> {
    let n_ids = tokenizer.n_ids();
    if n_ids > limits.n_vocabulary {
        let reason = format!(
            "vocab_size is {}, the tokenizer has ids up to {}",
            limits.n_vocabulary,
            n_ids - 1
        );
        return Err(LoadError::Config {
            path: path.to_path_buf(),
            reason,
        });
    }
    Ok(())
}

/// Refuses a length without room for a token, or beyond the model's positions.
pub(crate) fn check_max_tokens(
    what: &'static str,
    requested: usize,
    limits: Limits,
    tokenizer: &TextTokenizer,
) -> Result<usize, LoadError> {
    let (least, most) = (
        tokenizer.n_special(true).max(tokenizer.n_special(false)) + 1,
        limits.max_tokens,
    );
    if !(least..=most).contains(&requested) {
        return Err(LoadError::MaxTokens {
            what,
            requested,
            least,
            most,
        });
    }
    Ok(requested)
}

/// The last part of a path, resolved so that `.` has a name too.
pub(crate) fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
