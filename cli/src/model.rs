//! Finding and loading models named on the command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use collection::Manifest;
use compute::Level;
use compute::accelerator::{AcceleratorError, DeviceInfo, SharedAccelerator};
use encoder::{
    AcceleratorConfig, Arithmetic, BiEncoder, CrossEncoder, Directory, EncoderConfig, ModelOptions,
    Pooling, Preset, Similarity,
};
use hub::{DEFAULT_RERANKER, ModelCache};
use index::Metric;
use serde::de::DeserializeOwned;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NameError, StrDeserializer};

use crate::bundle::Bundle;
use crate::device::DeviceChoice;
use crate::failure::{Exit, Failure, texts};

/// The encoder used when none is named.
pub const DEFAULT_MODEL: &str = "all-MiniLM-L6-v2";

/// How the encoder is found and read.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model directory, or the name of a model in the model folder (`$TRAWL_MODELS`).
    #[arg(long, value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,
    /// Layout of a checkpoint that has no `modules.json`: master, retromae, cotmae, openmatch, simlm.
    #[arg(long, value_name = "NAME", value_parser = named::<Preset>)]
    preset: Option<Preset>,
    /// How token vectors become one: cls, mean, max, last, weighted_mean, mean_sqrt_length, decoder (T5).
    #[arg(long, value_name = "NAME", value_parser = named::<Pooling>)]
    pooling: Option<Pooling>,
    /// Whether vectors are normalised.
    #[arg(long, value_name = "BOOL")]
    normalize: Option<bool>,
    /// How vectors are compared: inner_product, cosine, l2.
    #[arg(long, value_name = "NAME", value_parser = named::<Similarity>)]
    similarity: Option<Similarity>,
    /// Tokens that are read of a passage at most, special tokens included (default: the model's limit). The rest is cut
    /// off, unless `index build --stride` splits the text.
    #[arg(long, value_name = "N")]
    passage_tokens: Option<usize>,
    /// Tokens of a query at most, special tokens included.
    #[arg(long, value_name = "N")]
    query_tokens: Option<usize>,
    /// Text put before every passage.
    #[arg(long, value_name = "TEXT")]
    passage_prompt: Option<String>,
    /// Text put before every query.
    #[arg(long, value_name = "TEXT")]
    query_prompt: Option<String>,
    /// Threads (default: all that this process may use).
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub kernel: KernelArgs,
}

/// How a model computes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct KernelArgs {
    /// Numbers of the matrix products: auto, f32, fixed16, bf16x3 (for AMX), bf16, int8 (lossy); on GPUs f32, bf16, f16. `auto` is bf16 on
    /// GPUs and AMX, fixed16 on AVX-512 VNNI, else f32: each keeps a cosine of 0.9999 to f32 (default: auto; `embed`, `rerank` and
    /// `model check`: f32).
    #[arg(long, value_name = "NAME", value_parser = named::<Arithmetic>)]
    pub precision: Option<Arithmetic>,
    /// What computes models of the BERT family and searches vectors: cpu; cuda:0; cuda:0,cuda:1 and so on, which divide texts
    /// and vectors between them; auto for whatever is there (default: cpu; `serve` built for CUDA: auto).
    #[arg(long, value_name = "NAME")]
    pub device: Option<DeviceChoice>,
    /// Vector instructions at most: portable, avx2, avx512, amx (default: all that the machine has).
    #[arg(long, value_name = "NAME", value_parser = level)]
    simd: Option<Level>,
}

impl KernelArgs {
    /// The config of a model that runs on `threads`, all that this process may use when none are given.
    ///
    /// # Errors
    /// When a device that was named is not available.
    pub fn config(
        &self,
        default: Arithmetic,
        threads: Option<usize>,
    ) -> Result<EncoderConfig, AcceleratorError> {
        let devices = self.devices()?;
        let accelerator = (!devices.is_empty()).then(|| AcceleratorConfig {
            optional: self.device == Some(DeviceChoice::Auto),
            ..AcceleratorConfig::new(devices)
        });
        Ok(EncoderConfig {
            threads: compute::thread_budget(threads),
            arithmetic: self.precision.unwrap_or(default),
            simd: self.simd,
            accelerator,
            ..EncoderConfig::default()
        })
    }

    /// The devices that `--device` names, none for the CPU.
    ///
    /// # Errors
    /// When one of them is not available.
    pub fn devices(&self) -> Result<Vec<SharedAccelerator>, AcceleratorError> {
        self.device
            .as_ref()
            .map_or(Ok(Vec::new()), DeviceChoice::open)
    }
}

/// Parses the name of a level.
fn level(name: &str) -> Result<Level, String> {
    let found = Level::ALL.into_iter().find(|level| level.as_str() == name);
    found.ok_or_else(|| "expected portable, avx2, avx512 or amx".to_owned())
}

impl ModelArgs {
    /// A model as its directory describes it.
    pub fn named(model: &Path) -> Self {
        Self {
            model: Some(model.to_owned()),
            ..Self::default()
        }
    }

    pub fn options(&self) -> ModelOptions {
        ModelOptions {
            preset: self.preset,
            pooling: self.pooling,
            normalize: self.normalize,
            similarity: self.similarity,
            passage_tokens: self.passage_tokens,
            query_tokens: self.query_tokens,
            passage_prompt: self.passage_prompt.clone(),
            query_prompt: self.query_prompt.clone(),
        }
    }

    /// How the model is run; `default` is the arithmetic of the command.
    ///
    /// # Errors
    /// As [`KernelArgs::config`].
    pub fn encoder_config(&self, default: Arithmetic) -> Result<EncoderConfig, AcceleratorError> {
        self.kernel.config(default, self.threads)
    }

    /// The directory of the named model, else of the default one.
    pub fn directory(&self) -> anyhow::Result<PathBuf> {
        find(self.model.as_deref().unwrap_or(Path::new(DEFAULT_MODEL)))
    }

    /// Loads the encoder from `directory` with the options given.
    pub fn load(&self, directory: &Path, default: Arithmetic) -> anyhow::Result<Arc<BiEncoder>> {
        load_encoder(directory, &self.options(), &self.encoder_config(default)?)
    }
}

/// Says that a device that was asked for leaves a model to the CPU.
fn left_to_the_cpu(directory: &Path, config: &EncoderConfig, devices: &[&DeviceInfo]) {
    if let (Some(accelerator), []) = (&config.accelerator, devices) {
        let (model, devices) = (directory.display(), accelerator.names());
        tracing::warn!("{devices} cannot compute `{model}`; the CPU does");
    }
}

/// Loads a bi-encoder.
pub fn load_encoder(
    directory: &Path,
    options: &ModelOptions,
    config: &EncoderConfig,
) -> anyhow::Result<Arc<BiEncoder>> {
    let encoder = BiEncoder::load(directory, options, config)
        .with_context(|| format!("cannot load model `{}`", directory.display()))?;
    left_to_the_cpu(directory, config, &encoder.devices());
    Ok(Arc::new(encoder))
}

/// Loads a cross-encoder by directory or name.
pub fn load_reranker(model: &Path, config: &EncoderConfig) -> anyhow::Result<Arc<CrossEncoder>> {
    let directory = find(model)?;
    let reranker = CrossEncoder::load(&directory, None, config)
        .with_context(|| format!("cannot load reranker `{}`", directory.display()))?;
    left_to_the_cpu(&directory, config, &reranker.devices());
    Ok(Arc::new(reranker))
}

/// The folder that holds models: `$TRAWL_MODELS`, else `trawl/models` in the user's cache folder.
pub fn cache() -> anyhow::Result<ModelCache> {
    let root = match set("TRAWL_MODELS") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let context = "TRAWL_MODELS is not set, and there is no other place for models";
            user_cache().context(context)?.join("models")
        }
    };
    Ok(ModelCache::new(root))
}

/// `trawl` in the user's cache folder.
fn user_cache() -> anyhow::Result<PathBuf> {
    if let Some(folder) = set("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder).join("trawl"));
    }
    let home = set("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/trawl"))
}

/// The folder of what was copied of collections in object storage: `trawl/collections` in the user's cache folder.
pub fn collections_cache() -> anyhow::Result<PathBuf> {
    Ok(user_cache()?.join("collections"))
}

/// The folder of compiled kernels, `trawl/kernels` in the user's cache folder; none where there is no such folder.
pub fn kernel_cache() -> Option<PathBuf> {
    Some(user_cache().ok()?.join("kernels"))
}

/// The value of a variable that is not empty.
fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The bundle in a file, unpacked in the user's cache folder; none when the path is not a file.
pub fn bundle(path: &Path) -> anyhow::Result<Option<Bundle>> {
    Bundle::find(path, || Ok(user_cache()?.join("bundles")))
}

/// A directory is itself; anything else is a name in the model folder. The default reranker is put there if need be.
pub fn find(model: &Path) -> anyhow::Result<PathBuf> {
    if model.is_dir() {
        return Ok(model.to_owned());
    }
    let (cache, name) = (cache()?, model.to_string_lossy());
    if name == DEFAULT_RERANKER {
        let unpacked = cache.pull(&name, &mut |_| ()).map_err(|error| {
            let reason = texts(&error.into()).join(": ");
            Failure::new(Exit::Failed, format!("cannot unpack `{name}`: {reason}")).hint(
                "`TRAWL_MODELS` names a folder that can be written; `serve --rerank none` does without",
            )
        })?;
        return Ok(unpacked.path);
    }
    if let Some(path) = cache.path(&name).filter(|_| cache.contains(&name)) {
        return Ok(path);
    }
    let text = format!(
        "model `{name}` is neither a directory nor in `{}`",
        cache.root().display()
    );
    let failure = Failure::usage(text);
    // What is no name on the hub cannot be got there.
    Err(match cache.path(&name) {
        Some(_) => failure.hint(format!("get it with `trawl model pull {name}`")),
        None => failure,
    }
    .into())
}

/// Finds a model as [`find`] does and returns the folder of its `config.json` and tokenizer, which is another one in the
/// oldest layout of sentence-transformers.
pub fn find_transformer(model: &Path) -> anyhow::Result<PathBuf> {
    Ok(Directory::transformer_of(&find(model)?)?)
}

/// The name of a model's folder, which `.` has, too.
pub fn folder_name(model: &Path) -> String {
    let name = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    name(model)
        .or_else(|| name(&model.canonicalize().ok()?))
        .unwrap_or_else(|| model.display().to_string())
}

/// The encoder that a generation was built with: the one named, else the one its manifest names.
///
/// Refused when its fingerprint is another one.
pub fn encoder_of(manifest: &Manifest, args: &ModelArgs) -> anyhow::Result<Arc<BiEncoder>> {
    Ok(encoder_and_directory(manifest, args)?.0)
}

/// As [`encoder_of`], with the directory that the encoder was loaded from.
pub fn encoder_and_directory(
    manifest: &Manifest,
    args: &ModelArgs,
) -> anyhow::Result<(Arc<BiEncoder>, PathBuf)> {
    if manifest.fingerprint["space"] == "external" {
        let text =
            "vectors of the index were made elsewhere, so no model here can encode a query text";
        let hint =
            "search by words with `--lexical`, or by vectors: `--vectors`, over HTTP `vector`";
        return Err(Failure::usage(text).hint(hint).into());
    }
    let recorded = |name: &str| manifest.build.get(name).cloned().unwrap_or_default();
    let options = match args.options() {
        given if given != ModelOptions::default() => given,
        _ => serde_json::from_value(recorded("model_options")).unwrap_or_default(),
    };
    let directory = match (&args.model, recorded("model").as_str().map(PathBuf::from)) {
        (None, Some(path)) if path.is_dir() => path,
        (None, Some(path)) => {
            let text = format!(
                "model directory `{}` of the index is not there",
                path.display()
            );
            return Err(Failure::usage(text)
                .hint("name the model with `--model`")
                .into());
        }
        _ => args.directory()?,
    };
    let encoder = load_encoder(
        &directory,
        &options,
        &args.encoder_config(Arithmetic::Auto)?,
    )?;
    retriever::check_encoder(manifest, &encoder)?;
    if let Err(mismatch) = retriever::check_arithmetic(manifest, encoder.config().arithmetic) {
        tracing::warn!("{mismatch}");
    }
    Ok((encoder, directory))
}

/// Reads the name of a variant as configuration files write it.
pub fn named<T: DeserializeOwned>(name: &str) -> Result<T, NameError> {
    let name: StrDeserializer<'_, NameError> = name.into_deserializer();
    T::deserialize(name)
}

/// Parses a metric by its name in JSON or, for short, `ip`.
pub fn metric_named(name: &str) -> Result<Metric, NameError> {
    match name {
        "ip" => Ok(Metric::InnerProduct),
        name => named(name),
    }
}
