//! Tensors by name, from safetensors files or a PyTorch pickle.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::directory::{catch_damage, open, read_json};
use crate::error::LoadError;

/// Longest header of a safetensors file; the format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The number that `torch.save` of PyTorch before 1.6 begins with, pickled.
const OLD_PICKLE: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19";

/// A tensor's name in the checkpoint, type and shape.
type Used = BTreeMap<String, (&'static str, Vec<usize>)>;

/// The weight files of one folder. Tensors are read when they are asked for, and remembered for the digest.
pub struct Checkpoint {
    source: Source,
    /// The file that errors name.
    path: PathBuf,
    /// What this checkpoint puts before the names of the bare model, such as `bert.`.
    prefix: String,
    used: RefCell<Used>,
    hashing: RefCell<Option<Hashing>>,
}

/// A thread that hashes tensors while the next ones are read and packed.
struct Hashing {
    tensors: SyncSender<(String, Vec<u8>)>,
    thread: JoinHandle<HashMap<String, [u8; 32]>>,
}

impl Hashing {
    fn start() -> Self {
        // Room for one: a queue without bound could hold the whole checkpoint a second time.
        let (tensors, received) = sync_channel::<(String, Vec<u8>)>(1);
        let hash = |(name, bytes): (String, Vec<u8>)| (name, Sha256::digest(bytes).into());
        let thread = std::thread::spawn(move || received.into_iter().map(hash).collect());
        Self { tensors, thread }
    }

    fn finish(self) -> HashMap<String, [u8; 32]> {
        drop(self.tensors);
        self.thread.join().expect("hashing does not panic")
    }
}

enum Source {
    Safetensors {
        files: Vec<SafetensorsFile>,
        file_of: HashMap<String, usize>,
    },
    Pickle {
        tensors: PthTensors,
        /// Of the file.
        n_bytes: u64,
    },
}

struct SafetensorsFile {
    path: PathBuf,
    file: RefCell<File>,
    metadata: Metadata,
    /// Where tensor data start.
    data_start: u64,
}

/// A tensor as stored.
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Checkpoint {
    /// Opens the weights of a folder: `model.safetensors`, else `model.safetensors.index.json` and its shards, else
    /// `pytorch_model.bin`, else `pytorch_model.bin.index.json` is refused as missing `model.safetensors`.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Read`] or [`LoadError::Weights`], naming the file.
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let pickle = folder.join("pytorch_model.bin");
        if single.exists() {
            return Self::from_safetensors(vec![single.clone()], single);
        }
        if index.exists() {
            let map: Value = read_json(&index)?;
            let refuse = |reason: &str| LoadError::Config {
                path: index.clone(),
                reason: reason.into(),
            };
            let map = map
                .get("weight_map")
                .and_then(Value::as_object)
                .ok_or_else(|| refuse("weight_map is missing"))?;
            let mut shards = Vec::new();
            for name in map.values() {
                // A shard is a file of this folder: a path could name any file of the machine.
                let name = name
                    .as_str()
                    .filter(|name| !name.contains(['/', '\\']) && *name != "..");
                let shard =
                    folder.join(name.ok_or_else(|| {
                        refuse("weight_map names something that is no file name")
                    })?);
                if !shards.contains(&shard) {
                    shards.push(shard);
                }
            }
            return Self::from_safetensors(shards, index);
        }
        if pickle.exists() {
            return Self::from_pickle(pickle);
        }
        Err(LoadError::Missing { path: single })
    }

    fn from_safetensors(paths: Vec<PathBuf>, path: PathBuf) -> Result<Self, LoadError> {
        let files = paths
            .into_iter()
            .map(SafetensorsFile::open)
            .collect::<Result<Vec<_>, _>>()?;
        let mut file_of = HashMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                file_of.insert(name, index);
            }
        }
        Ok(Self::new(Source::Safetensors { files, file_of }, path))
    }

    fn from_pickle(path: PathBuf) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read {
            path: path.clone(),
            source,
        };
        let file = open(&path)?;
        let n_bytes = file.metadata().map_err(read)?.len();
        let mut start = Vec::new();
        file.take(OLD_PICKLE.len() as u64)
            .read_to_end(&mut start)
            .map_err(read)?;
        if start == OLD_PICKLE {
            return Err(LoadError::Config {
                path,
                reason: "its format is that of PyTorch before 1.6; save it again, best as model.safetensors"
                    .into(),
            });
        }
        let tensors =
            unpickle(|| PthTensors::new(&path, None)).map_err(|reason| LoadError::Weights {
                path: path.clone(),
                reason,
            })?;
        Ok(Self::new(Source::Pickle { tensors, n_bytes }, path))
    }

    fn new(source: Source, path: PathBuf) -> Self {
        Self {
            source,
            path,
            prefix: String::new(),
            used: RefCell::default(),
            hashing: RefCell::default(),
        }
    }

    /// The file that holds the weights, or the index of several.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the checkpoint holds a tensor of this full name, or of the one that old checkpoints have in its place.
    pub fn contains(&self, name: &str) -> bool {
        self.holds(name) || old_name(name).is_some_and(|old| self.holds(&old))
    }

    fn holds(&self, name: &str) -> bool {
        match &self.source {
            Source::Safetensors { file_of, .. } => file_of.contains_key(name),
            Source::Pickle { tensors, .. } => tensors.tensor_infos().contains_key(name),
        }
    }

    /// All weights by their full names, with their shapes. Tables of integers, such as position ids, are none.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        match &self.source {
            Source::Safetensors { files, file_of } => {
                let shape = |(name, &file): (&String, &usize)| {
                    let info = files[file].metadata.info(name);
                    let info = info.expect("the name comes from this header");
                    let is_weight = matches!(
                        info.dtype,
                        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16
                    );
                    is_weight.then(|| (name.clone(), info.shape.clone()))
                };
                file_of.iter().filter_map(shape).collect()
            }
            Source::Pickle { tensors, .. } => {
                let infos = tensors.tensor_infos().iter();
                infos
                    .filter(|(_, info)| info.dtype.is_float())
                    .map(|(name, info)| (name.clone(), info.layout.dims().to_vec()))
                    .collect()
            }
        }
    }

    /// Leaves out `prefix` from the names that follow, if the checkpoint has it: heads save their model under a name.
    pub(crate) fn set_prefix(&mut self, prefix: &str, probe: &str) {
        self.prefix = if self.contains(&format!("{prefix}{probe}")) {
            prefix.to_owned()
        } else {
            String::new()
        };
    }

    /// Returns a tensor of the bare model in f32.
    ///
    /// # Errors
    /// [`LoadError::MissingTensor`], [`LoadError::Shape`], [`LoadError::Dtype`], [`LoadError::NotFinite`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.read(name, &format!("{}{name}", self.prefix), shape)
    }

    /// Returns a tensor outside the bare model, such as the head of a cross-encoder, in f32.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn head_tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.read(name, name, shape)
    }

    fn read(&self, name: &str, stored: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let old = old_name(stored).filter(|old| !self.holds(stored) && self.holds(old));
        let stored = old.as_deref().unwrap_or(stored);
        let raw = self.raw(stored)?;
        let (path, tensor) = (self.path.clone(), stored.to_owned());
        if raw.shape != shape {
            return Err(LoadError::Shape {
                path,
                tensor,
                expected: shape.to_vec(),
                found: raw.shape,
            });
        }
        let (label, values) = match raw.dtype {
            Dtype::F32 => ("f32", decode(&raw.bytes, f32::from_le_bytes)),
            Dtype::F64 => (
                "f64",
                decode(&raw.bytes, |bytes| f64::from_le_bytes(bytes) as f32),
            ),
            Dtype::F16 => (
                "f16",
                decode(&raw.bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            ),
            Dtype::BF16 => (
                "bf16",
                decode(&raw.bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            ),
            other => {
                return Err(LoadError::Dtype {
                    path,
                    tensor,
                    dtype: format!("{other:?}").to_lowercase(),
                });
            }
        };
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            return Err(LoadError::NotFinite {
                path,
                tensor,
                value: values[position],
                position,
            });
        }
        let mut hashing = self.hashing.borrow_mut();
        hashing
            .get_or_insert_with(Hashing::start)
            .tensors
            .send((name.to_owned(), raw.bytes))
            .expect("the thread receives until it is finished");
        self.used
            .borrow_mut()
            .insert(name.to_owned(), (label, raw.shape));
        Ok(values)
    }

    fn raw(&self, name: &str) -> Result<Raw, LoadError> {
        let missing = || LoadError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
        };
        match &self.source {
            Source::Safetensors { files, file_of } => {
                files[*file_of.get(name).ok_or_else(missing)?].read(name)
            }
            Source::Pickle { tensors, n_bytes } => {
                let info = tensors.tensor_infos().get(name).ok_or_else(missing)?;
                let damaged = |reason| LoadError::Weights {
                    path: self.path.clone(),
                    reason: format!("tensor `{name}`: {reason}"),
                };
                // candle makes room for as many values as the pickle says before it reads one.
                let (shape, value_bytes) = (info.layout.dims(), info.dtype.size_in_bytes());
                let size = shape
                    .iter()
                    .try_fold(value_bytes, |size, &n| size.checked_mul(n));
                if size.is_none_or(|size| size as u64 > *n_bytes) {
                    let reason = format!("{shape:?} values are more than the file holds");
                    return Err(damaged(reason));
                }
                let raw = unpickle(|| tensors.get(name)?.as_ref().map(raw_of).transpose());
                raw.map_err(damaged)?.ok_or_else(missing)
            }
        }
    }

    /// The sha256 over all tensors read, in the order of their names in the bare model: name, type, shape, and the
    /// sha256 of the bytes. Equal for one file, shards and a pickle, and whatever else the files hold.
    pub(crate) fn digest(self) -> String {
        let hashing = self.hashing.into_inner();
        let digests = hashing.map(Hashing::finish).unwrap_or_default();
        let mut hasher = Sha256::new();
        for (name, (dtype, shape)) in self.used.into_inner() {
            hasher.update(format!("{name}\0{dtype}\0{shape:?}\0"));
            hasher.update(digests[&name]);
        }
        hex(&hasher.finalize())
    }
}

impl SafetensorsFile {
    fn open(path: PathBuf) -> Result<Self, LoadError> {
        let damaged = |reason: String| LoadError::Weights {
            path: path.clone(),
            reason,
        };
        let read = |source| LoadError::Read {
            path: path.clone(),
            source,
        };
        let mut file = open(&path)?;
        let file_bytes = file.metadata().map_err(read)?.len();
        let mut length = [0; 8];
        if file_bytes < 8 {
            return Err(damaged(format!(
                "{file_bytes} bytes are too few for a header"
            )));
        }
        file.read_exact(&mut length).map_err(read)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > MAX_HEADER_BYTES.min(file_bytes - 8) {
            return Err(damaged(format!(
                "a header of {header_bytes} bytes in a file of {file_bytes}"
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(read)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| damaged(format!("header: {error}")))?;
        let data_start = 8 + header_bytes;
        let expected = data_start + metadata.data_len() as u64;
        if expected != file_bytes {
            return Err(damaged(format!(
                "the header describes {expected} bytes, the file has {file_bytes}"
            )));
        }
        Ok(Self {
            file: RefCell::new(file),
            metadata,
            data_start,
            path,
        })
    }

    fn read(&self, name: &str) -> Result<Raw, LoadError> {
        let info = self
            .metadata
            .info(name)
            .expect("the name comes from this header");
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|source| LoadError::Read {
                path: self.path.clone(),
                source,
            })?;
        Ok(Raw {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes,
        })
    }
}

/// What old BERT checkpoints call the weight or bias of a normalization: gamma and beta.
fn old_name(name: &str) -> Option<String> {
    let endings = [
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    ];
    endings.into_iter().find_map(|(new, old)| {
        let stem = name.strip_suffix(new)?;
        Some(format!("{stem}{old}"))
    })
}

/// Turns a candle tensor back into what safetensors would hold.
fn raw_of(tensor: &Tensor) -> candle_core::Result<Raw> {
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    fn encode<T: Copy, const N: usize>(values: Vec<T>, to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
        values.into_iter().flat_map(to_bytes).collect()
    }
    let (dtype, bytes) = match tensor.dtype() {
        DType::F32 => (Dtype::F32, encode(flat.to_vec1()?, f32::to_le_bytes)),
        DType::F64 => (Dtype::F64, encode(flat.to_vec1()?, f64::to_le_bytes)),
        DType::F16 => (Dtype::F16, encode(flat.to_vec1()?, f16::to_le_bytes)),
        DType::BF16 => (Dtype::BF16, encode(flat.to_vec1()?, bf16::to_le_bytes)),
        DType::I64 => (Dtype::I64, Vec::new()),
        _ => (Dtype::U8, Vec::new()), // named in the error of a tensor that should hold weights
    };
    Ok(Raw {
        dtype,
        shape: tensor.dims().to_vec(),
        bytes,
    })
}

fn decode<const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<N>();
    values.iter().map(|&value| from(value)).collect()
}

/// The message of candle's error, without the backtrace that candle appends.
pub(crate) fn first_line(error: &candle_core::Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Runs a step of candle's pickle reader and returns what is wrong as a text.
fn unpickle<T>(step: impl FnOnce() -> candle_core::Result<T>) -> Result<T, String> {
    catch_damage(|| step().map_err(|error| first_line(&error)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
