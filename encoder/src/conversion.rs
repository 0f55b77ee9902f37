//! Model directories written again with other weights.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, View};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, hex};
use crate::directory::{Directory, modules, read_bytes, read_json, transformer_in};
use crate::error::LoadError;
use crate::fingerprint::sha256_of_json;
use crate::tokenizer::TextTokenizer;

/// Folders of a model directory that hold its weights for other runtimes.
const OTHER_RUNTIMES: [&str; 2] = ["onnx", "openvino"];

/// Endings of weight files: none of them is copied, since it would hold the weights as they were.
const WEIGHT_ENDINGS: [&str; 8] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".h5",
    ".msgpack",
    ".ot",
    ".onnx",
];

/// A type that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// 32 bits.
    F32,
    /// 16 bits: 11 of precision, magnitudes up to 65,504.
    F16,
    /// 16 bits: 8 of precision, the magnitudes of 32.
    Bf16,
}

impl WeightType {
    /// As safetensors' tools name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// What was converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Tensors.
    pub n_tensors: usize,
    /// Bytes of all of them.
    pub n_bytes: usize,
}

/// Why a model could not be written with other weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The model cannot be read, or is of another family.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A T5 was scaled before.
    #[error("the weights of `{}` are scaled already: its config.json has `t5_weight_scale`", path.display())]
    Scaled {
        /// The model.
        path: PathBuf,
    },
    /// Models that are averaged differ in more than the values of their weights.
    #[error("`{}` has another {what} than `{}`", path.display(), first.display())]
    Different {
        /// The model.
        path: PathBuf,
        /// The first one.
        first: PathBuf,
        /// What differs, such as the tokenizer, or the shape of a tensor.
        what: String,
    },
    /// A weight that the type has no number for.
    #[error("tensor `{tensor}` has the weight {value}, which is beyond {kind}")]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// The weight.
        value: f32,
        /// The type.
        kind: &'static str,
    },
    /// The folder to write to holds something.
    #[error("`{}` is not empty", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The folder to write to lies in the model's own.
    #[error("`{}` lies in the model that is converted", path.display())]
    Inside {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be copied or written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Writes the model of a folder to a new folder with the transformer's weights in another type, rounded to nearest,
/// ties to even, as `model.safetensors`. Other files are copied, weights for other runtimes are not; `config.json` keeps
/// the type that libraries compute in.
///
/// # Errors
/// [`ConvertError`]; a folder that was begun has no weights.
pub fn convert(from: &Path, to: &Path, kind: WeightType) -> Result<Converted, ConvertError> {
    average(from, &[], to, kind)
}

/// Writes the mean of models that were trained from one start: each weight is the mean of theirs, taken in f32. Everything
/// else is the first one's, as [`convert`] copies it, but for its card, which tells of that one alone.
///
/// Such a mean often keeps what each has learned and generalises better than any ("uniform soup", Wortsman et al. 2022,
/// "Model soups").
///
/// # Errors
/// As [`convert`]; [`ConvertError::Different`] for models of other tensors, another tokenizer or other modules after the transformer.
pub fn average(
    first: &Path,
    others: &[PathBuf],
    to: &Path,
    kind: WeightType,
) -> Result<Converted, ConvertError> {
    let checkpoint = Checkpoint::open(&Directory::transformer_of(first)?)?;
    let shapes = checkpoint.shapes();
    let mut others_open = Vec::new();
    for path in others {
        let other = Checkpoint::open(&Directory::transformer_of(path)?)?;
        if let Some(what) = difference(first, &shapes, path, &other)? {
            let (path, first) = (path.clone(), first.to_path_buf());
            return Err(ConvertError::Different { path, first, what });
        }
        others_open.push(other);
    }
    let writer = ModelWriter::new(first, to)?;
    let share = 1.0 / (1 + others.len()) as f32;
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let mut values = checkpoint.head_tensor(&name, &shape)?;
        for other in &others_open {
            let theirs = other.head_tensor(&name, &shape)?;
            values.iter_mut().zip(theirs).for_each(|(x, y)| *x += y);
        }
        values.iter_mut().for_each(|x| *x *= share);
        let stored = Stored::new(&name, shape, &values, kind)?;
        tensors.push((name, stored));
    }
    let converted = Converted {
        n_tensors: tensors.len(),
        n_bytes: tensors.iter().map(|(_, stored)| stored.bytes.len()).sum(),
    };
    writer.write(tensors, None)?;
    let card = to.join("README.md");
    if !others.is_empty() && card.exists() {
        fs::remove_file(&card).map_err(failed(&card))?;
    }
    Ok(converted)
}

/// Keys of `config.json` that say where a model came from, not what it computes.
const RECORDS: [&str; 4] = [
    "_name_or_path",
    "dtype",
    "torch_dtype",
    "transformers_version",
];

/// What sets a model apart from the first one besides the values of its weights.
fn difference(
    first: &Path,
    shapes: &BTreeMap<String, Vec<usize>>,
    path: &Path,
    other: &Checkpoint,
) -> Result<Option<String>, ConvertError> {
    let others = other.shapes();
    let changed = shapes
        .iter()
        .find(|(name, shape)| others.get(*name) != Some(shape));
    if let Some((name, _)) = changed {
        return Ok(Some(format!("`{name}`")));
    }
    if others.len() > shapes.len() {
        return Ok(Some("number of tensors".to_owned()));
    }
    let folders = (
        Directory::transformer_of(first)?,
        Directory::transformer_of(path)?,
    );
    if tokenizer_digest(&folders.0)? != tokenizer_digest(&folders.1)? {
        return Ok(Some("tokenizer".to_owned()));
    }
    let ours: Map<String, Value> = read_json(&folders.0.join("config.json"))?;
    let theirs: Map<String, Value> = read_json(&folders.1.join("config.json"))?;
    let other = ours.keys().chain(theirs.keys()).find(|key| {
        !RECORDS.contains(&key.as_str()) && ours.get(key.as_str()) != theirs.get(key.as_str())
    });
    if let Some(key) = other {
        return Ok(Some(format!("`{key}` of config.json")));
    }
    if modules(first)? != modules(path)? {
        return Ok(Some("modules.json".to_owned()));
    }
    let (ours, theirs) = (module_digests(first)?, module_digests(path)?);
    let mut names = ours.keys().chain(theirs.keys());
    let other = names.find(|name| ours.get(*name) != theirs.get(*name));
    Ok(other.map(|name| format!("`{name}`")))
}

/// What makes tokens of texts; none in a folder without a tokenizer.
fn tokenizer_digest(folder: &Path) -> Result<Option<String>, LoadError> {
    let mut files = ["tokenizer.json", "vocab.txt"].into_iter();
    if !files.any(|name| folder.join(name).exists()) {
        return Ok(None);
    }
    let tokenizer = TextTokenizer::load(folder, false)?;
    Ok(Some(tokenizer.digest().to_owned()))
}

/// Digests of the files of modules after the transformer, weights among them, by name.
fn module_digests(folder: &Path) -> Result<BTreeMap<String, String>, LoadError> {
    let mut digests = BTreeMap::new();
    for (kind, name) in modules(folder)? {
        let module = folder.join(&name);
        if kind == "Transformer" || name.is_empty() || !module.is_dir() {
            continue;
        }
        let failed = |source| LoadError::Read {
            path: module.clone(),
            source,
        };
        for entry in fs::read_dir(&module).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                continue;
            }
            let bytes = read_bytes(&path)?;
            // Libraries write the same JSON with other spaces.
            let digest = match serde_json::from_slice::<Value>(&bytes) {
                Ok(value) => sha256_of_json(&value),
                Err(_) => hex(&Sha256::digest(&bytes)),
            };
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            digests.insert(format!("{name}/{file}"), digest);
        }
    }
    Ok(digests)
}

/// Writes a model directory beside another one.
pub(crate) struct ModelWriter<'a> {
    from: &'a Path,
    to: &'a Path,
    /// The path of the transformer in both.
    transformer: PathBuf,
}

impl<'a> ModelWriter<'a> {
    /// Makes the folder `to`, which may be there if it is empty.
    pub(crate) fn new(from: &'a Path, to: &'a Path) -> Result<Self, ConvertError> {
        let path = to.to_path_buf();
        let transformer = transformer_in(from)?;
        let config = from.join(&transformer).join("config.json");
        if !config.exists() {
            return Err(LoadError::Missing { path: config }.into());
        }
        let real = from.canonicalize().map_err(failed(from))?;
        let whole = std::path::absolute(to).map_err(failed(to))?;
        let parents = whole.ancestors().filter_map(|one| one.canonicalize().ok());
        if parents.into_iter().any(|parent| parent == real) {
            return Err(ConvertError::Inside { path });
        }
        fs::create_dir_all(to).map_err(failed(to))?;
        match fs::read_dir(to).map_err(failed(to))?.next() {
            Some(_) => Err(ConvertError::NotEmpty { path }),
            None => Ok(Self {
                from,
                to,
                transformer,
            }),
        }
    }

    /// Copies what surrounds the weights, with another `config.json` where one is given, and writes the weights last.
    pub(crate) fn write(
        &self,
        tensors: Vec<(String, Stored)>,
        config: Option<Map<String, Value>>,
    ) -> Result<(), ConvertError> {
        copy_around_weights(self.from, self.to, &self.transformer).map_err(failed(self.to))?;
        let to = self.to.join(&self.transformer);
        if let Some(config) = config {
            let mut text = serde_json::to_string_pretty(&config).expect("a map is JSON");
            text.push('\n');
            let path = to.join("config.json");
            fs::write(&path, text).map_err(failed(&path))?;
        }
        let (part, path) = (
            to.join("model.safetensors.part"),
            to.join("model.safetensors"),
        );
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(tensors, Some(metadata), &part)
            .map_err(io::Error::other)
            // Its file is the owner's alone; the weights are for whoever reads the rest.
            .and_then(|()| fs::metadata(to.join("config.json")))
            .and_then(|config| fs::set_permissions(&part, config.permissions()))
            .and_then(|()| fs::rename(&part, &path))
            .map_err(failed(&path))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ConvertError {
    let path = path.to_path_buf();
    move |source| ConvertError::Write { path, source }
}

/// A tensor as it is stored.
pub(crate) struct Stored {
    kind: WeightType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    /// Refuses a value that becomes infinite.
    pub(crate) fn new(
        tensor: &str,
        shape: Vec<usize>,
        values: &[f32],
        kind: WeightType,
    ) -> Result<Self, ConvertError> {
        let is_beyond = |x: &&f32| match kind {
            WeightType::F32 => false,
            WeightType::F16 => f16::from_f32(**x).is_infinite(),
            WeightType::Bf16 => bf16::from_f32(**x).is_infinite(),
        };
        if let Some(&value) = values.iter().find(is_beyond) {
            return Err(ConvertError::OutOfRange {
                tensor: tensor.to_owned(),
                value,
                kind: kind.as_str(),
            });
        }
        let values = values.iter();
        let bytes = match kind {
            WeightType::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
            WeightType::F16 => values
                .flat_map(|&x| f16::from_f32(x).to_le_bytes())
                .collect(),
            WeightType::Bf16 => values
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
        };
        Ok(Self { kind, shape, bytes })
    }
}

impl View for Stored {
    fn dtype(&self) -> Dtype {
        match self.kind {
            WeightType::F32 => Dtype::F32,
            WeightType::F16 => Dtype::F16,
            WeightType::Bf16 => Dtype::BF16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Copies a model directory but for the transformer's weights, which lie in it or in the folder `transformer`. Other folders
/// in it belong to modules after the transformer.
fn copy_around_weights(from: &Path, to: &Path, transformer: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        let name = name.to_string_lossy();
        if entry.path().is_dir() {
            if let Ok(rest) = transformer.strip_prefix(&*name) {
                fs::create_dir(&target)?;
                copy_around_weights(&entry.path(), &target, rest)?;
            } else if !OTHER_RUNTIMES.contains(&&*name) && !name.starts_with('.') {
                copy_all(&entry.path(), &target)?;
            }
        } else if !WEIGHT_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

pub(crate) fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_all(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BiEncoder, CrossEncoder, EncoderConfig, ModelOptions, TextSpec};

    #[test]
    fn sixteen_bits_give_nearly_the_same_scores() {
        let folder = tempfile::tempdir().unwrap();
        let from = testkit::fixture("models/tiny-cross-bert");
        let score = |folder: &Path| {
            let model = CrossEncoder::load(folder, None, &EncoderConfig::default()).unwrap();
            let pairs = model.tokenize(&[("what is a tide", "the moon moves it")]);
            model.score(&pairs.unwrap()).unwrap().logits
        };
        let expected = score(&from)[0];
        for (kind, tolerance) in [
            (WeightType::F32, 0.0),
            (WeightType::F16, 2e-3),
            (WeightType::Bf16, 2e-2),
        ] {
            let to = folder.path().join(kind.as_str());
            let converted = convert(&from, &to, kind).unwrap();
            assert!(converted.n_tensors > 30, "{converted:?}");
            let found = score(&to)[0];
            assert!(
                (found - expected).abs() <= tolerance,
                "{kind:?}: {found}, not {expected}"
            );
            // What a type holds exactly goes through it and back unchanged.
            let (wide, back) = (to.with_extension("wide"), to.with_extension("back"));
            convert(&to, &wide, WeightType::F32).unwrap();
            convert(&wide, &back, kind).unwrap();
            let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
            assert_eq!(weights(&back), weights(&to));
        }
        let again = convert(&from, &folder.path().join("f16"), WeightType::F16);
        assert!(matches!(again, Err(ConvertError::NotEmpty { .. })));
        let (model, inside) = (folder.path().join("f16"), folder.path().join("f16/again"));
        let inside = convert(&model, &inside, WeightType::F16);
        assert!(matches!(inside, Err(ConvertError::Inside { .. })));
        assert!(!model.join("again").exists());
    }

    /// Writes a fixture as the oldest sentence-transformers did: the transformer in a folder of its own.
    fn in_old_layout(name: &str, to: &Path) {
        let from = testkit::fixture("models").join(name);
        let transformer = to.join("0_Transformer");
        copy_all(&from, &transformer).unwrap();
        for entry in fs::read_dir(&from).unwrap() {
            let name = entry.unwrap().file_name();
            let is_root = ["modules.json", "config_sentence_transformers.json"]
                .iter()
                .any(|root| name == *root);
            if is_root || from.join(&name).is_dir() {
                fs::rename(transformer.join(&name), to.join(&name)).unwrap();
            }
        }
        let path = to.join("modules.json");
        let mut modules: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        modules[0]["path"] = "0_Transformer".into();
        fs::write(path, modules.to_string()).unwrap();
    }

    #[test]
    fn the_transformer_may_have_a_folder_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let [plain, old, half, mean] =
            ["plain", "old", "half", "mean"].map(|name| folder.path().join(name));
        in_old_layout("tiny-bert-cls-dense", &old);
        fs::write(old.join("0_Transformer/pytorch_model.bin"), "others").unwrap();
        let fixture = testkit::fixture("models/tiny-bert-cls-dense");
        convert(&fixture, &plain, WeightType::F16).unwrap();
        convert(&old, &half, WeightType::F16).unwrap();
        let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
        assert_eq!(weights(&half.join("0_Transformer")), weights(&plain));
        assert_eq!(
            weights(&half.join("2_Dense")),
            weights(&old.join("2_Dense"))
        );
        for absent in ["model.safetensors", "0_Transformer/pytorch_model.bin"] {
            assert!(!half.join(absent).exists(), "{absent}");
        }
        let load = |folder: &Path| {
            BiEncoder::load(folder, &ModelOptions::default(), &EncoderConfig::default()).unwrap()
        };
        let fingerprint = |folder: &Path| load(folder).fingerprint(&TextSpec::default());
        assert_eq!(fingerprint(&half), fingerprint(&plain));

        average(&old, std::slice::from_ref(&half), &mean, WeightType::F32).unwrap();
        load(&mean);
        let config = old.join("0_Transformer/config.json");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("gelu_new", "relu")).unwrap();
        let other = folder.path().join("other");
        let error = average(&half, &[old], &other, WeightType::F32).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("`hidden_act` of config.json"), "{error}");
    }

    #[test]
    fn a_mean_lies_between_its_models() {
        let folder = tempfile::tempdir().unwrap();
        let [first, halved, mean] =
            ["first", "halved", "mean"].map(|name| folder.path().join(name));
        copy_all(&testkit::fixture("models/tiny-cross-bert"), &first).unwrap();
        fs::write(first.join("README.md"), "its card").unwrap();
        let checkpoint = Checkpoint::open(&first).unwrap();
        let of = |folder: &Path, name: &str, shape: &[usize]| {
            let checkpoint = Checkpoint::open(folder).unwrap();
            checkpoint.head_tensor(name, shape).unwrap()
        };
        let tensors = checkpoint.shapes().into_iter().map(|(name, shape)| {
            let values = of(&first, &name, &shape);
            let values: Vec<f32> = values.iter().map(|x| x / 2.0).collect();
            let stored = Stored::new(&name, shape, &values, WeightType::F32).unwrap();
            (name, stored)
        });
        let writer = ModelWriter::new(&first, &halved).unwrap();
        writer.write(tensors.collect(), None).unwrap();

        let others = [halved.clone(), halved.clone()];
        average(&first, &others, &mean, WeightType::F32).unwrap();
        for (name, shape) in checkpoint.shapes() {
            let expected = of(&first, &name, &shape);
            for (found, x) in of(&mean, &name, &shape).iter().zip(expected) {
                assert!((found - x * 2.0 / 3.0).abs() <= 1e-7 * x.abs(), "{name}");
            }
        }
        assert!(mean.join("tokenizer.json").exists());
        assert!(!mean.join("README.md").exists());

        let refused = |other: &Path| {
            let to = folder.path().join("refused");
            let others = [other.to_path_buf()];
            let error = average(&first, &others, &to, WeightType::F32).unwrap_err();
            assert!(!to.exists());
            error.to_string()
        };
        let config = fs::read_to_string(halved.join("config.json")).unwrap();
        let changed = config.replace("\"gelu\"", "\"relu\"");
        assert_ne!(changed, config);
        fs::write(halved.join("config.json"), changed).unwrap();
        let error = refused(&halved);
        assert!(error.contains("`hidden_act` of config.json"), "{error}");
        fs::write(halved.join("config.json"), config).unwrap();
        let settings = halved.join("tokenizer_config.json");
        let stored = fs::read_to_string(&settings).unwrap();
        let changed = stored.replace("\"do_lower_case\": true", "\"do_lower_case\": false");
        assert_ne!(changed, stored);
        fs::write(settings, changed).unwrap();
        let wide = testkit::fixture("models/tiny-cross-bert-3");
        for (other, what) in [(&halved, "another tokenizer"), (&wide, "`classifier.bias`")] {
            let error = refused(other);
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_mean_is_of_models_with_the_same_modules() {
        let folder = tempfile::tempdir().unwrap();
        let first = testkit::fixture("models/tiny-bert-cls-dense");
        let [other, mean] = ["other", "mean"].map(|name| folder.path().join(name));
        copy_all(&first, &other).unwrap();
        let average = || average(&first, std::slice::from_ref(&other), &mean, WeightType::F32);
        let change = |name: &str, change: fn(Vec<u8>) -> Vec<u8>| {
            let (path, stored) = (other.join(name), fs::read(first.join(name)).unwrap());
            fs::write(&path, change(stored.clone())).unwrap();
            let error = average().unwrap_err().to_string();
            assert!(
                error.contains("has another") && error.contains(name),
                "{error}"
            );
            assert!(!mean.exists());
            fs::write(path, stored).unwrap();
        };
        change("1_Pooling/config.json", |_| b"{}".to_vec());
        change("2_Dense/model.safetensors", |mut weights| {
            *weights.last_mut().unwrap() ^= 1;
            weights
        });
        change("modules.json", |stored| {
            let mut modules: Vec<Value> = serde_json::from_slice(&stored).unwrap();
            modules.pop();
            serde_json::to_vec(&modules).unwrap()
        });
        average().unwrap();
    }

    #[test]
    fn what_half_floats_cannot_hold_is_refused_by_name() {
        let stored = |value: f32, kind| Stored::new("w", vec![2], &[1.0, value], kind).map(|_| ());
        let error = stored(7e4, WeightType::F16).unwrap_err().to_string();
        assert_eq!(
            error,
            "tensor `w` has the weight 70000, which is beyond f16"
        );
        stored(65504.0, WeightType::F16).unwrap();
        stored(7e4, WeightType::Bf16).unwrap();
        assert!(stored(f32::MAX, WeightType::Bf16).is_err());
    }
}
