//! The files of a model directory, read as sentence-transformers reads them.

mod openmatch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::LoadError;
use crate::options::{ModelOptions, Pooling, Role, Similarity};

/// Largest JSON file that is read; the largest tokenizers have about 30 MB.
const MAX_JSON_BYTES: u64 = 1 << 28;

/// What a directory of sentence-transformers begins with.
const MODULES: &str = "modules.json";

/// What sentence-transformers says about a whole model.
const SENTENCE_TRANSFORMERS_CONFIG: &str = "config_sentence_transformers.json";

/// What OpenMatch puts beside a checkpoint.
const OPENMATCH: &str = "openmatch_config.json";

/// A model directory, resolved: what follows the transformer, and for which texts.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Folder of `config.json`, the tokenizer and the weights.
    pub transformer: PathBuf,
    /// One or more, concatenated.
    pub pooling: Vec<Pooling>,
    /// Whether tokens of the prompt count in the pooling.
    pub pools_prompt: bool,
    /// What follows the pooling, in order.
    pub steps: Vec<Step>,
    /// How vectors are compared.
    pub similarity: Similarity,
    /// Columns that are kept, from the first.
    pub truncate_width: Option<usize>,
    /// Put before each query.
    pub query_prompt: String,
    /// Put before each passage.
    pub passage_prompt: String,
    /// All prompts that the directory stores, by name.
    pub prompts: BTreeMap<String, String>,
    /// Which of them stands before texts of which nobody says what they are.
    pub default_prompt_name: Option<String>,
    /// Length that the sentence-transformers configuration gives.
    pub max_tokens: Option<usize>,
    /// Most tokens of a query that the options give.
    pub query_tokens: Option<usize>,
    /// Most tokens of a passage that the options give.
    pub passage_tokens: Option<usize>,
    /// Lower-case before the tokenizer's own normalization.
    pub lower_case: bool,
}

/// A module after the pooling.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A linear layer with an activation.
    Dense(DenseConfig),
    /// To length 1.
    Normalize,
}

/// `2_Dense/config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseConfig {
    /// Its folder.
    pub folder: PathBuf,
    /// Width that comes in.
    pub n_in: usize,
    /// Width that goes out.
    pub n_out: usize,
    /// Whether `linear.bias` is stored.
    pub has_bias: bool,
    /// What follows the product.
    pub activation: OutputActivation,
}

/// Activation of a Dense module or of a cross-encoder's scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputActivation {
    /// `x`
    Identity,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid,
    /// `tanh x`
    Tanh,
    /// `max(x, 0)`
    Relu,
    /// `x Φ(x)`
    Gelu,
}

impl OutputActivation {
    /// Reads the class name that sentence-transformers stores, such as `torch.nn.modules.activation.Tanh`.
    pub(crate) fn from_class(class: &str) -> Option<Self> {
        if !class.starts_with("torch.") {
            return None;
        }
        Some(match class.rsplit('.').next()? {
            "Identity" => Self::Identity,
            "Sigmoid" => Self::Sigmoid,
            "Tanh" => Self::Tanh,
            "ReLU" => Self::Relu,
            "GELU" => Self::Gelu,
            _ => return None,
        })
    }

    /// The class name that sentence-transformers stores.
    pub fn class(self) -> &'static str {
        match self {
            Self::Identity => "torch.nn.modules.linear.Identity",
            Self::Sigmoid => "torch.nn.modules.activation.Sigmoid",
            Self::Tanh => "torch.nn.modules.activation.Tanh",
            Self::Relu => "torch.nn.modules.activation.ReLU",
            Self::Gelu => "torch.nn.modules.activation.GELU",
        }
    }
}

impl Directory {
    /// Reads what a folder says, and takes the rest from the options.
    ///
    /// # Errors
    /// [`LoadError`], naming the file; [`LoadError::NotSentenceTransformers`] when neither says how vectors are made.
    pub fn read(path: &Path, options: &ModelOptions) -> Result<Self, LoadError> {
        if !path.is_dir() {
            return Err(LoadError::NoDirectory {
                path: path.to_path_buf(),
            });
        }
        let (modules, openmatch) = (path.join(MODULES), path.join(OPENMATCH));
        if modules.exists() {
            Self::from_modules(path, &modules, options)
        } else if openmatch.exists() {
            openmatch::read(path, &openmatch, options)
        } else {
            Self::bare(path, options)
        }
    }

    /// Whether a folder says itself how vectors are made.
    pub fn is_described(path: &Path) -> bool {
        [MODULES, OPENMATCH]
            .iter()
            .any(|name| path.join(name).exists())
    }

    /// The folder of the transformer in a model's folder: in the oldest layout of sentence-transformers `0_Transformer`,
    /// else that folder itself.
    ///
    /// # Errors
    /// [`LoadError`], naming `modules.json`.
    pub fn transformer_of(path: &Path) -> Result<PathBuf, LoadError> {
        let folder = transformer_in(path)?;
        Ok(match folder.as_os_str().is_empty() {
            true => path.to_path_buf(),
            false => path.join(folder),
        })
    }

    /// Whether a file beside a transformer, such as `sentence_bert_config.json`, asks for lower-casing before the
    /// tokenizer's own normalization.
    ///
    /// # Errors
    /// [`LoadError`], naming the file.
    pub fn lower_cases(transformer: &Path) -> Result<bool, LoadError> {
        let config = SentenceConfig::read(transformer)?;
        Ok(config.do_lower_case.unwrap_or(false))
    }

    /// A checkpoint alone: everything else comes from the options or a preset.
    fn bare(path: &Path, options: &ModelOptions) -> Result<Self, LoadError> {
        // A folder without it is no model: options would not help.
        let config = path.join("config.json");
        if !config.exists() {
            return Err(LoadError::Missing { path: config });
        }
        let options = options.with_preset();
        let missing: Vec<_> = [
            ("--pooling", options.pooling.is_none()),
            ("--normalize", options.normalize.is_none()),
            ("--similarity", options.similarity.is_none()),
            ("--query-tokens", options.query_tokens.is_none()),
            ("--passage-tokens", options.passage_tokens.is_none()),
        ]
        .into_iter()
        .filter_map(|(flag, is_missing)| is_missing.then_some(flag))
        .collect();
        let (Some(pooling), Some(normalize), Some(similarity)) =
            (options.pooling, options.normalize, options.similarity)
        else {
            return Err(LoadError::NotSentenceTransformers {
                path: path.to_path_buf(),
                missing,
            });
        };
        if !missing.is_empty() {
            return Err(LoadError::NotSentenceTransformers {
                path: path.to_path_buf(),
                missing,
            });
        }
        refuse_extra_heads(path)?;
        Ok(Self {
            transformer: path.to_path_buf(),
            pooling: vec![pooling],
            pools_prompt: true,
            steps: if normalize {
                vec![Step::Normalize]
            } else {
                Vec::new()
            },
            similarity,
            truncate_width: None,
            query_prompt: options.query_prompt.unwrap_or_default(),
            passage_prompt: options.passage_prompt.unwrap_or_default(),
            prompts: BTreeMap::new(),
            default_prompt_name: None,
            max_tokens: None,
            query_tokens: options.query_tokens,
            passage_tokens: options.passage_tokens,
            lower_case: false,
        })
    }

    fn from_modules(
        path: &Path,
        modules_path: &Path,
        options: &ModelOptions,
    ) -> Result<Self, LoadError> {
        let modules: Vec<ModuleEntry> = read_json(modules_path)?;
        let refuse = |index: usize| refuse_module(modules_path, &modules, index);
        let kind = |index: usize| modules.get(index).map_or("", ModuleEntry::class);
        let folder = |index: usize| {
            let relative = modules[index].folder().ok_or_else(|| refuse(index))?;
            Ok::<_, LoadError>(path.join(relative))
        };
        if kind(0) != "Transformer" {
            return Err(refuse(0));
        }
        if kind(1) != "Pooling" {
            return Err(refuse(1));
        }
        let transformer = folder(0)?;
        let (pooling, pools_prompt) = read_pooling(&folder(1)?.join("config.json"))?;
        let mut steps = Vec::new();
        for index in 2..modules.len() {
            match kind(index) {
                "Dense" => steps.push(Step::Dense(read_dense(folder(index)?)?)),
                "Normalize" => steps.push(Step::Normalize),
                "Dropout" => {}
                _ => return Err(refuse(index)),
            }
        }
        contradict(
            modules_path,
            "pooling",
            options.pooling,
            &pooling,
            |&pooling| vec![pooling],
        )?;
        let normalizes = steps.contains(&Step::Normalize);
        contradict(
            modules_path,
            "normalize",
            options.normalize,
            &normalizes,
            |&normalize| normalize,
        )?;
        contradict(modules_path, "preset", options.preset, &None, |&preset| {
            Some(preset)
        })?;

        let sentence = SentenceConfig::read(&transformer)?;
        let config_path = path.join(SENTENCE_TRANSFORMERS_CONFIG);
        let config = SentenceTransformersConfig::read(&config_path)?;
        if config.truncate_dim == Some(0) {
            return Err(LoadError::Config {
                path: config_path,
                reason: "truncate_dim is 0".into(),
            });
        }
        let similarity = match config.similarity_fn_name.as_deref() {
            None | Some("cosine") => Similarity::Cosine,
            Some("dot" | "dot_score") => Similarity::InnerProduct,
            Some("euclidean") => Similarity::L2,
            Some(other) => {
                let reason = format!(
                    "similarity_fn_name is `{other}`; supported are cosine, dot and euclidean"
                );
                return Err(LoadError::Config {
                    path: config_path,
                    reason,
                });
            }
        };
        Ok(Self {
            transformer,
            pooling,
            pools_prompt,
            steps,
            similarity: options.similarity.unwrap_or(similarity),
            truncate_width: config.truncate_dim,
            query_prompt: options
                .query_prompt
                .clone()
                .unwrap_or_else(|| config.prompt(Role::Query)),
            passage_prompt: options
                .passage_prompt
                .clone()
                .unwrap_or_else(|| config.prompt(Role::Passage)),
            prompts: config
                .prompts
                .into_iter()
                .filter_map(|(name, prompt)| Some((name, prompt?)))
                .collect(),
            default_prompt_name: config.default_prompt_name,
            max_tokens: sentence.max_seq_length,
            query_tokens: options.query_tokens,
            passage_tokens: options.passage_tokens,
            lower_case: sentence.do_lower_case.unwrap_or(false),
        })
    }
}

/// Refuses an option that says something else than the directory.
fn contradict<O: std::fmt::Debug, F: std::fmt::Debug + PartialEq>(
    path: &Path,
    option: &'static str,
    requested: Option<O>,
    found: &F,
    convert: impl Fn(&O) -> F,
) -> Result<(), LoadError> {
    match requested {
        Some(requested) if convert(&requested) != *found => Err(LoadError::Contradiction {
            path: path.to_path_buf(),
            option,
            found: format!("{found:?}").to_lowercase(),
            requested: format!("{requested:?}").to_lowercase(),
        }),
        _ => Ok(()),
    }
}

/// Heads that the training projects store beside a checkpoint: without them the vectors would be others.
fn refuse_extra_heads(path: &Path) -> Result<(), LoadError> {
    for name in ["linear.pt", "pooler.pt"] {
        let head = path.join(name);
        if head.exists() {
            let reason = "a linear layer after the pooling, which is read from sentence-transformers directories only";
            return Err(LoadError::Config {
                path: head,
                reason: reason.into(),
            });
        }
    }
    Ok(())
}

const SENTENCE_CONFIGS: [&str; 5] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_xlm-roberta_config.json",
];

#[derive(Deserialize)]
struct ModuleEntry {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl ModuleEntry {
    /// The class of sentence-transformers that it names; empty for code of anybody else, whatever that calls its classes.
    fn class(&self) -> &str {
        match self.kind.starts_with("sentence_transformers.") {
            true => last_name(&self.kind),
            false => "",
        }
    }

    /// Its folder in the model's, where that is one: a path upwards could name any file of the machine.
    fn folder(&self) -> Option<&Path> {
        let folder = Path::new(&self.path);
        let mut parts = folder.components();
        parts
            .all(|part| matches!(part, Component::Normal(_)))
            .then_some(folder)
    }
}

fn refuse_module(path: &Path, modules: &[ModuleEntry], index: usize) -> LoadError {
    let kind = modules.get(index).map_or("missing", |module| &module.kind);
    LoadError::Module {
        path: path.to_path_buf(),
        index,
        kind: kind.to_owned(),
    }
}

#[derive(Default, Deserialize)]
struct SentenceConfig {
    #[serde(default)]
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: Option<bool>,
}

impl SentenceConfig {
    /// That of a transformer's folder, which need not have one.
    fn read(transformer: &Path) -> Result<Self, LoadError> {
        let mut paths = SENTENCE_CONFIGS.iter().map(|name| transformer.join(name));
        let path = paths.find(|path| path.exists());
        Ok(path
            .as_deref()
            .map(read_json)
            .transpose()?
            .unwrap_or_default())
    }
}

#[derive(Default, Deserialize)]
struct SentenceTransformersConfig {
    #[serde(default)]
    prompts: BTreeMap<String, Option<String>>,
    #[serde(default)]
    default_prompt_name: Option<String>,
    #[serde(default)]
    similarity_fn_name: Option<String>,
    #[serde(default)]
    truncate_dim: Option<usize>,
}

impl SentenceTransformersConfig {
    /// That of a file, which need not be there.
    fn read(path: &Path) -> Result<Self, LoadError> {
        match path.exists() {
            true => read_json(path),
            false => Ok(Self::default()),
        }
    }

    /// The prompt of a role: `query`, or the first of `document`, `passage` and `corpus` that says something, else the
    /// default prompt where none of them is stored.
    fn prompt(&self, role: Role) -> String {
        let names: &[&str] = match role {
            Role::Query => &["query"],
            Role::Passage => &["document", "passage", "corpus"],
        };
        // Saving adds empty prompts for `query` and `document`, so an empty one says nothing.
        let stored = |name: &&str| {
            self.prompts
                .get(*name)
                .cloned()
                .flatten()
                .filter(|prompt| !prompt.is_empty())
        };
        if let Some(prompt) = names.iter().find_map(stored) {
            return prompt;
        }
        if names.iter().any(|name| self.prompts.contains_key(*name)) {
            return String::new();
        }
        self.default_prompt_name
            .as_deref()
            .and_then(|name| stored(&name))
            .unwrap_or_default()
    }
}

/// What sentence-transformers stores beside a cross-encoder about its texts.
pub(crate) struct PairConfig {
    /// Most tokens of a pair.
    pub(crate) max_tokens: Option<usize>,
    /// Lower-case before the tokenizer's own normalization.
    pub(crate) lower_case: bool,
}

impl PairConfig {
    /// Reads a cross-encoder's folder; refuses modules after the transformer and a default prompt, which change scores.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let modules_path = path.join(MODULES);
        if modules_path.exists() {
            let modules: Vec<ModuleEntry> = read_json(&modules_path)?;
            let is_root =
                |module: &ModuleEntry| module.class() == "Transformer" && module.path.is_empty();
            if !modules.first().is_some_and(is_root) {
                return Err(refuse_module(&modules_path, &modules, 0));
            }
            if modules.len() > 1 {
                return Err(refuse_module(&modules_path, &modules, 1));
            }
        }
        let config_path = path.join(SENTENCE_TRANSFORMERS_CONFIG);
        let config = SentenceTransformersConfig::read(&config_path)?;
        let name = config.default_prompt_name.as_deref();
        let prompt = name.and_then(|name| config.prompts.get(name)?.as_deref());
        if prompt.is_some_and(|prompt| !prompt.is_empty()) {
            return Err(LoadError::Config {
                path: config_path,
                reason: "default_prompt_name names a prompt, which is not supported for pairs"
                    .into(),
            });
        }
        let sentence = SentenceConfig::read(path)?;
        Ok(Self {
            max_tokens: sentence.max_seq_length,
            lower_case: sentence.do_lower_case.unwrap_or(false),
        })
    }
}

/// Reads `1_Pooling/config.json`, in its present form (`pooling_mode`) or the older one (one flag for each mode).
fn read_pooling(path: &Path) -> Result<(Vec<Pooling>, bool), LoadError> {
    /// In the order in which several are concatenated.
    const FLAGS: [(&str, Pooling); 6] = [
        ("pooling_mode_cls_token", Pooling::Cls),
        ("pooling_mode_max_tokens", Pooling::Max),
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_mean_sqrt_len_tokens", Pooling::MeanSqrtLength),
        ("pooling_mode_weightedmean_tokens", Pooling::WeightedMean),
        ("pooling_mode_lasttoken", Pooling::Last),
    ];
    let config: BTreeMap<String, Value> = read_json(path)?;
    let refuse = |reason: String| LoadError::Config {
        path: path.to_path_buf(),
        reason,
    };
    let pools_prompt = config
        .get("include_prompt")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let by_name = |value: &Value| {
        let pooling = value.as_str().and_then(Pooling::from_sentence_transformers);
        pooling.ok_or_else(|| refuse(format!("pooling_mode {value} is not known")))
    };
    let mut modes = match config.get("pooling_mode") {
        Some(Value::Array(names)) => names.iter().map(by_name).collect::<Result<Vec<_>, _>>()?,
        Some(name) => vec![by_name(name)?],
        None => FLAGS
            .into_iter()
            .filter(|(flag, _)| config.get(*flag).and_then(Value::as_bool) == Some(true))
            .map(|(_, pooling)| pooling)
            .collect(),
    };
    if modes.is_empty() {
        modes.push(Pooling::Mean); // what sentence-transformers does with a Pooling module that chooses none
    }
    Ok((modes, pools_prompt))
}

fn read_dense(folder: PathBuf) -> Result<DenseConfig, LoadError> {
    #[derive(Deserialize)]
    struct Stored {
        in_features: usize,
        out_features: usize,
        #[serde(default = "yes")]
        bias: bool,
        #[serde(default)]
        activation_function: Option<String>,
        #[serde(default)]
        module_input_name: Option<String>,
        #[serde(default)]
        module_output_name: Option<String>,
        #[serde(default)]
        use_residual: bool,
    }
    fn yes() -> bool {
        true
    }
    let path = folder.join("config.json");
    let stored: Stored = read_json(&path)?;
    let refuse = |reason: String| LoadError::Config {
        path: path.clone(),
        reason,
    };
    for name in [&stored.module_input_name, &stored.module_output_name]
        .into_iter()
        .flatten()
    {
        if name != "sentence_embedding" {
            return Err(refuse(format!(
                "a Dense module on `{name}` is not supported"
            )));
        }
    }
    if stored.use_residual {
        return Err(refuse("use_residual is not supported".into()));
    }
    let activation = match &stored.activation_function {
        None => OutputActivation::Tanh,
        Some(class) => OutputActivation::from_class(class)
            .ok_or_else(|| refuse(format!("activation_function `{class}` is not supported")))?,
    };
    Ok(DenseConfig {
        n_in: stored.in_features,
        n_out: stored.out_features,
        has_bias: stored.bias,
        activation,
        folder,
    })
}

/// The path of the transformer in a model's folder; empty where it is that folder.
pub(crate) fn transformer_in(path: &Path) -> Result<PathBuf, LoadError> {
    let modules_path = path.join(MODULES);
    if !modules_path.exists() {
        return Ok(PathBuf::new());
    }
    let modules: Vec<ModuleEntry> = read_json(&modules_path)?;
    let folder = match modules.first() {
        Some(first) if first.class() == "Transformer" => first.folder(),
        _ => Some(Path::new("")),
    };
    let folder = folder.ok_or_else(|| refuse_module(&modules_path, &modules, 0))?;
    Ok(folder.to_path_buf())
}

/// Kind and folder of each module that a model lists; none where it lists none.
pub(crate) fn modules(folder: &Path) -> Result<Vec<(String, String)>, LoadError> {
    let path = folder.join(MODULES);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let modules: Vec<ModuleEntry> = read_json(&path)?;
    let module = |entry: ModuleEntry| (last_name(&entry.kind).to_owned(), entry.path);
    Ok(modules.into_iter().map(module).collect())
}

fn last_name(kind: &str) -> &str {
    kind.rsplit('.').next().unwrap_or(kind)
}

/// Opens a file of a model directory.
pub(crate) fn open(path: &Path) -> Result<File, LoadError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LoadError::Missing {
            path: path.to_path_buf(),
        },
        _ => LoadError::Read {
            path: path.to_path_buf(),
            source,
        },
    })
}

/// Reads a file of a model directory that is not weights.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, LoadError> {
    let mut bytes = Vec::new();
    let read = |source| LoadError::Read {
        path: path.to_path_buf(),
        source,
    };
    open(path)?
        .take(MAX_JSON_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(read(io::Error::other(format!(
            "longer than {MAX_JSON_BYTES} bytes"
        ))));
    }
    Ok(bytes)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    serde_json::from_slice(&read_bytes(path)?).map_err(|source| LoadError::Json {
        path: path.to_path_buf(),
        source,
    })
}

/// Runs a library's reader of outside bytes; a panic in it counts as damage of the file.
///
/// The pickle reader panics on an empty stack, the tokenizer on a template that names a token it does not list.
pub(crate) fn catch_damage<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err("it breaks off or contradicts itself".into()))
}
