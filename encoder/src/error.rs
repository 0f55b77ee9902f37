use std::io;
use std::path::PathBuf;

use compute::accelerator::AcceleratorError;

/// Why a model directory could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no model directory at this path.
    #[error("no model directory at `{}`", path.display())]
    NoDirectory {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// A file that every model needs is missing.
    #[error("model file `{}` is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("`{}` is not valid", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A configuration asks for what cannot be.
    #[error("`{}`: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The entry, what it says, and what is accepted.
        reason: String,
    },
    /// The directory is a plain checkpoint: nothing in it says how token vectors become one vector.
    #[error(
        "`{}` has no modules.json, so nothing says how its vectors are made; give --preset ({}), \
         or all of --pooling, --normalize, --similarity, --query-tokens and --passage-tokens (missing: {})",
        path.display(), crate::Preset::NAMES.join(", "), missing.join(", ")
    )]
    NotSentenceTransformers {
        /// The directory.
        path: PathBuf,
        /// The flags that neither the options nor a preset have given.
        missing: Vec<&'static str>,
    },
    /// The directory holds a cross-encoder, where vectors are asked for.
    #[error("`{}` is a cross-encoder: it scores pairs of query and passage and makes no vectors", path.display())]
    CrossEncoder {
        /// The directory.
        path: PathBuf,
    },
    /// modules.json names a module that is not known, or known ones in an order that makes no sense.
    #[error("`{}`: module {index} is `{kind}`, which is not supported there", path.display())]
    Module {
        /// The modules.json.
        path: PathBuf,
        /// Place in the list, from 0.
        index: usize,
        /// Its type.
        kind: String,
    },
    /// tokenizer.json cannot be used.
    #[error("cannot use tokenizer `{}`: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library says.
        reason: String,
    },
    /// A weight file is damaged.
    #[error("weight file `{}` is damaged: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint lacks a tensor.
    #[error("`{}` has no tensor `{tensor}`", path.display())]
    MissingTensor {
        /// The weight file, or the index of several.
        path: PathBuf,
        /// Its name in the checkpoint.
        tensor: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{tensor}` of `{}` has shape {found:?}, its configuration says {expected:?}", path.display())]
    Shape {
        /// The weight file.
        path: PathBuf,
        /// Its name in the checkpoint.
        tensor: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that is not supported.
    #[error("tensor `{tensor}` of `{}` is stored as {dtype}; supported are f64, f32, f16 and bf16", path.display())]
    Dtype {
        /// The weight file.
        path: PathBuf,
        /// Its name in the checkpoint.
        tensor: String,
        /// The type.
        dtype: String,
    },
    /// A tensor holds NaN or infinity.
    #[error("tensor `{tensor}` of `{}` holds {value} at position {position}", path.display())]
    NotFinite {
        /// The weight file.
        path: PathBuf,
        /// Its name in the checkpoint.
        tensor: String,
        /// The first such value.
        value: f32,
        /// Its place, row-major.
        position: usize,
    },
    /// An arithmetic was asked of a model that whoever computes it does not have.
    #[error("`{}` runs in {supported} {place}, not in {requested}", path.display())]
    Arithmetic {
        /// The config.json.
        path: PathBuf,
        /// What was asked for.
        requested: &'static str,
        /// What there is.
        supported: &'static str,
        /// Where it would be computed: `on the CPU` or `on an accelerator`.
        place: &'static str,
    },
    /// The model is none that accelerators compute.
    #[error("`{}` does not run on {device}: {reason}", path.display())]
    NotAccelerated {
        /// The config.json.
        path: PathBuf,
        /// The device that was asked for.
        device: String,
        /// What is not supported, and what is.
        reason: String,
    },
    /// The accelerator cannot take the model.
    #[error(transparent)]
    Accelerator(AcceleratorError),
    /// More tokens were asked for than the model has positions, or too few for any text.
    #[error("{requested} tokens for the {what}: the model takes {least} to {most}")]
    MaxTokens {
        /// `query`, `passage` or `pair`.
        what: &'static str,
        /// What was asked for.
        requested: usize,
        /// Special tokens and one more.
        least: usize,
        /// Positions of the model.
        most: usize,
    },
    /// An option is given that contradicts the model directory.
    #[error("`{}` says {found} for {option}, which cannot be changed to {requested}", path.display())]
    Contradiction {
        /// The file that decides.
        path: PathBuf,
        /// The option.
        option: &'static str,
        /// What the file says.
        found: String,
        /// What was asked for.
        requested: String,
    },
    /// The threads of the encoder cannot be started.
    #[error("cannot start {n_threads} threads")]
    Threads {
        /// How many.
        n_threads: usize,
        /// Why.
        source: rayon::ThreadPoolBuildError,
    },
}

/// Why texts could not be tokenised or encoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The tokenizer failed.
    #[error("cannot tokenise text {row}: {reason}")]
    Tokenize {
        /// Place of the text in the input.
        row: usize,
        /// What the tokenizer library says.
        reason: String,
    },
    /// A row has no tokens.
    #[error("row {row} has no tokens")]
    Empty {
        /// Place in the input.
        row: usize,
    },
    /// A row has more tokens than the model has positions.
    #[error("row {row} has {n_tokens} tokens, the model takes {most}")]
    TooLong {
        /// Place in the input.
        row: usize,
        /// Its tokens.
        n_tokens: usize,
        /// Positions of the model.
        most: usize,
    },
    /// A row has ids and type ids of different number.
    #[error("row {row} has {n_ids} ids and {n_type_ids} type ids")]
    Uneven {
        /// Place in the input.
        row: usize,
        /// Number of ids.
        n_ids: usize,
        /// Number of type ids.
        n_type_ids: usize,
    },
    /// A token id or type id is outside the model's table.
    #[error("row {row} has {what} {id}, the model has {n_known}")]
    UnknownId {
        /// Place in the input.
        row: usize,
        /// `token id` or `type id`.
        what: &'static str,
        /// The id.
        id: u32,
        /// Rows of the table.
        n_known: usize,
    },
    /// The library that computes the model fails on a row.
    #[error("the model fails on row {row}: {reason}")]
    Model {
        /// Place in the input.
        row: usize,
        /// What the library says.
        reason: String,
    },
    /// The accelerator fails.
    #[error(transparent)]
    Accelerator(Box<AcceleratorError>),
    /// The model gives NaN or infinity for a row.
    #[error("the model gives {value} for row {row}")]
    NotFinite {
        /// Place in the input.
        row: usize,
        /// The first such value.
        value: f32,
    },
}
