//! A bundle: a generation, its encoder and a reranker in one file that runs where there is no network.
//!
//! ```text
//! magic (8), version (4), zero (4), length of the table (8), sha256 of the table (32)
//! table     JSON: what is inside, and each file with its length and sha256
//! files     one after the other
//! ```
//!
//! Every byte is covered by a checksum, and the length follows from the table. A bundle is unpacked once, into a folder that is named
//! after the digest of its table, under a temporary name until it is whole; it is then found there.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use collection::{
    Collection, Generation, GenerationId, Manifest, is_inside, sha256_hex, sync_folder,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Exit, Failure};
use crate::interrupt::{self, UntilStopped};
use crate::model::folder_name;

const MAGIC: &[u8; 8] = b"TRAWLBDL";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 56;
/// More than a million files.
const MAX_TABLE_BYTES: u64 = 256 << 20;

/// What the names of folders begin with that are being unpacked into.
const TEMPORARY: &str = ".bundle-";

/// Which generation is live, in a bundle that is unpacked.
const ALIASES: &str = "collection/aliases.json";

/// What is in a bundle.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    generation: GenerationId,
    /// Names of the models; none when vectors were brought, or none is wanted.
    encoder: Option<String>,
    reranker: Option<String>,
    files: Vec<Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: String,
    bytes: u64,
    sha256: String,
}

/// What is packed.
pub struct Contents<'a> {
    pub generation: &'a Generation,
    pub encoder: Option<&'a Path>,
    pub reranker: Option<&'a Path>,
}

/// A bundle, unpacked.
#[derive(Debug)]
pub struct Bundle {
    /// A collection with one generation, which is live.
    pub collection: PathBuf,
    pub encoder: Option<PathBuf>,
    pub reranker: Option<PathBuf>,
}

/// Writes a bundle, and returns its length.
pub fn write(path: &Path, contents: &Contents<'_>) -> anyhow::Result<u64> {
    let Contents {
        generation,
        encoder,
        reranker,
    } = contents;
    let mut files = Vec::new();
    let folder = format!("collection/generations/{}", generation.id);
    let listed = generation
        .manifest
        .files
        .iter()
        .map(|file| file.path.as_str());
    for name in listed.chain(["manifest.json"]) {
        files.push((format!("{folder}/{name}"), generation.path.join(name)));
    }
    // The reranker keeps its name, by which `search --rerank` asks for it.
    let reranker = reranker
        .map(|model| add_model(model, None, &mut files))
        .transpose()?;
    let encoder = encoder
        .map(|model| add_model(model, reranker.as_deref(), &mut files))
        .transpose()?;
    files.sort();
    files.dedup();
    let mut table = Table {
        generation: generation.id.clone(),
        encoder,
        reranker,
        files: Vec::new(),
    };
    for (name, path) in &files {
        let read = || sha256_of(&mut File::open(path)?, &mut io::sink());
        let (bytes, sha256) =
            read().with_context(|| format!("cannot read `{}`", path.display()))?;
        table.files.push(Entry {
            path: name.clone(),
            bytes,
            sha256,
        });
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let stopped = interrupt::flag()?;
    let mut temporary = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o666)) // less what the user's umask takes away
        .tempfile_in(folder.unwrap_or(Path::new(".")))?;
    let encoded = serde_json::to_vec(&table)?;
    let mut writer = UntilStopped::new(BufWriter::new(temporary.as_file_mut()), stopped);
    writer.write_all(MAGIC)?;
    writer.write_all(&VERSION.to_le_bytes())?;
    writer.write_all(&0u32.to_le_bytes())?;
    writer.write_all(&(encoded.len() as u64).to_le_bytes())?;
    writer.write_all(&Sha256::digest(&encoded))?;
    writer.write_all(&encoded)?;
    for ((_, path), entry) in files.iter().zip(&table.files) {
        let copied = sha256_of(&mut File::open(path)?, &mut writer)?;
        if copied != (entry.bytes, entry.sha256.clone()) {
            let text = format!("`{}` changed while it was packed", path.display());
            return Err(Failure::new(Exit::Failed, text).into());
        }
    }
    writer.flush()?;
    drop(writer);
    temporary.as_file().sync_all()?;
    let n_bytes = temporary.as_file().metadata()?.len();
    temporary.persist(path)?;
    sync_folder(folder.unwrap_or(Path::new(".")))?;
    Ok(n_bytes)
}

/// Adds the files of a model, and returns its name: that of its folder, unless the name is taken by the other model.
fn add_model(
    model: &Path,
    taken: Option<&str>,
    files: &mut Vec<(String, PathBuf)>,
) -> anyhow::Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut name: String = folder_name(model)
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    if taken == Some(name.as_str()) {
        name.push_str("-encoder");
    }
    let mut folders = vec![model.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let inside = path.strip_prefix(model)?.to_string_lossy().into_owned();
            // Weights in other formats, and what version control keeps.
            if is_unread(&path) || !is_inside(&inside) || inside.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((format!("models/{name}/{inside}"), path));
            }
        }
    }
    Ok(name)
}

/// Whether a file holds weights that the encoder does not read: in another format, or beside others of the same folder, which may
/// be that of a module.
fn is_unread(path: &Path) -> bool {
    let end = path.extension().unwrap_or_default().to_string_lossy();
    match &*end {
        "h5" | "msgpack" | "onnx" | "ot" => true,
        "bin" => {
            let mut first = ["model.safetensors", "model.safetensors.index.json"].into_iter();
            !path.ends_with("pytorch_model.bin")
                || first.any(|name| path.with_file_name(name).exists())
        }
        _ => false,
    }
}

/// Copies everything and returns its length and sha256.
fn sha256_of(reader: &mut impl Read, writer: &mut impl Write) -> io::Result<(u64, String)> {
    let (mut hasher, mut n_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => {
                let digest = hasher.finalize();
                let digits = digest.iter().map(|byte| format!("{byte:02x}"));
                return Ok((n_bytes, digits.collect()));
            }
            n => {
                hasher.update(&buffer[..n]);
                writer.write_all(&buffer[..n])?;
                n_bytes += n as u64;
            }
        }
    }
}

impl Bundle {
    /// The bundle in this file, unpacked below `folder`; none when the path is a folder or nothing.
    pub fn find(
        path: &Path,
        folder: impl FnOnce() -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<Option<Self>> {
        match path.is_file() {
            true => Self::open(path, &folder()?).map(Some),
            false => Ok(None),
        }
    }

    fn open(path: &Path, folder: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let n_bytes = file.metadata()?.len();
        let mut reader = BufReader::new(file);
        let (table, digest) = read_table(path, &mut reader, n_bytes)?;
        let target = folder.join(&digest);
        let bundle = Self {
            collection: target.join("collection"),
            encoder: table
                .encoder
                .as_ref()
                .map(|name| target.join("models").join(name)),
            reranker: table
                .reranker
                .as_ref()
                .map(|name| target.join("models").join(name)),
        };
        if is_whole(&target, &table) {
            return Ok(bundle);
        }
        let unpacked = || {
            format!(
                "cannot unpack `{}` into `{}`",
                path.display(),
                folder.display()
            )
        };
        fs::create_dir_all(folder).with_context(unpacked)?;
        // One process at a time: another one's temporary folder is that of a process that was ended.
        let lock = File::create(folder.join(".lock")).with_context(unpacked)?;
        lock.lock().with_context(unpacked)?;
        if is_whole(&target, &table) {
            return Ok(bundle);
        }
        remove_unfinished(folder).with_context(unpacked)?;
        let temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempdir_in(folder)
            .with_context(unpacked)?;
        for entry in &table.files {
            let to = temporary.path().join(&entry.path);
            fs::create_dir_all(to.parent().expect("it is below the folder"))
                .with_context(unpacked)?;
            let mut file = File::create(&to).with_context(unpacked)?;
            let copied = sha256_of(&mut reader.by_ref().take(entry.bytes), &mut file)
                .with_context(unpacked)?;
            if copied != (entry.bytes, entry.sha256.clone()) {
                return Err(damaged(
                    path,
                    &format!("`{}` in it is not what was packed", entry.path),
                ));
            }
            file.sync_all().with_context(unpacked)?;
        }
        let collection = Collection::open(&temporary.path().join("collection"))?;
        collection.writer("bundle")?.publish(&table.generation)?;
        let placed = match target.exists() {
            true => mend(&target, temporary.path(), &table),
            false => fs::rename(temporary.path(), &target),
        };
        placed.with_context(unpacked)?;
        sync_folder(folder).with_context(unpacked)?;
        Ok(bundle)
    }

    /// The model with this name, or the name itself.
    pub fn model(&self, name: &Path) -> PathBuf {
        let named = [&self.encoder, &self.reranker].into_iter().flatten();
        let mut named = named.filter(|path| path.file_name() == Some(name.as_os_str()));
        named.next().map_or_else(|| name.to_owned(), Clone::clone)
    }
}

fn read_table(
    path: &Path,
    reader: &mut impl Read,
    n_bytes: u64,
) -> anyhow::Result<(Table, String)> {
    let mut header = Vec::new();
    let mut start = reader.by_ref().take(HEADER_BYTES as u64);
    let read = start.read_to_end(&mut header);
    read.with_context(|| format!("cannot read `{}`", path.display()))?;
    if header.iter().zip(MAGIC).any(|(found, byte)| found != byte) {
        let text = format!("`{}` is not a bundle", path.display());
        let hint = "`trawl bundle` makes one of a collection, which is a folder";
        return Err(Failure::new(Exit::Failed, text).hint(hint).into());
    }
    let short = || damaged(path, "it is too short");
    let header: [u8; HEADER_BYTES] = header.try_into().map_err(|_| short())?;
    let u32_at = |i: usize| u32::from_le_bytes(header[i..i + 4].try_into().expect("4 bytes"));
    if u32_at(12) != 0 {
        return Err(damaged(path, "its header is not what was written"));
    }
    if u32_at(8) != VERSION {
        let text = format!(
            "bundle `{}` has format version {}, this program reads {VERSION}",
            path.display(),
            u32_at(8)
        );
        return Err(Failure::new(Exit::Failed, text).into());
    }
    let table_bytes = u64::from_le_bytes(header[16..24].try_into().expect("8 bytes"));
    if table_bytes > MAX_TABLE_BYTES.min(n_bytes) {
        return Err(short());
    }
    let mut table = vec![0; table_bytes as usize];
    reader.read_exact(&mut table).map_err(|_| short())?;
    if Sha256::digest(&table)[..] != header[24..] {
        return Err(damaged(path, "its table is not what was written"));
    }
    let digest = sha256_hex(&table);
    let table: Table =
        serde_json::from_slice(&table).map_err(|error| damaged(path, &error.to_string()))?;
    let names = [&table.encoder, &table.reranker].into_iter().flatten();
    let names = names.chain(table.files.iter().map(|entry| &entry.path));
    if let Some(name) = names.into_iter().find(|name| !is_inside(name)) {
        return Err(damaged(
            path,
            &format!("`{name}` is no path inside a bundle"),
        ));
    }
    let files = table
        .files
        .iter()
        .try_fold(0u64, |sum, entry| sum.checked_add(entry.bytes));
    match files.and_then(|files| files.checked_add(HEADER_BYTES as u64 + table_bytes)) {
        Some(expected) if expected == n_bytes => Ok((table, digest)),
        _ => Err(damaged(path, "its length is not that of its files")),
    }
}

/// Puts the files of a bundle in the place of those of a damaged copy. What else is in that stays: documents that were written to
/// its collection are nowhere else.
fn mend(target: &Path, unpacked: &Path, table: &Table) -> io::Result<()> {
    let replace = |name: &str| {
        let to = target.join(name);
        let folder = to.parent().expect("it is below the folder");
        fs::create_dir_all(folder)?;
        fs::rename(unpacked.join(name), &to)?;
        sync_folder(folder)
    };
    for entry in &table.files {
        replace(&entry.path)?;
    }
    // What is live may be a generation that has what was written.
    match target.join(ALIASES).is_file() {
        true => Ok(()),
        false => replace(ALIASES),
    }
}

/// Removes what was not unpacked to its end.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a folder has every file of the bundle with its length, and the models with their checksums; a generation is checked
/// whenever it is opened.
fn is_whole(folder: &Path, table: &Table) -> bool {
    let of_model = |entry: &Entry| entry.path.starts_with("models/");
    let is_whole = |entry: &Entry| -> io::Result<bool> {
        let mut file = File::open(folder.join(&entry.path))?;
        Ok(file.metadata()?.len() == entry.bytes
            && (!of_model(entry) || sha256_of(&mut file, &mut io::sink())?.1 == entry.sha256))
    };
    table
        .files
        .iter()
        .all(|entry| is_whole(entry).unwrap_or(false))
        && Manifest::read(&folder.join(format!(
            "collection/generations/{}/manifest.json",
            table.generation
        )))
        .is_ok()
        && folder.join(ALIASES).is_file()
}

fn damaged(path: &Path, reason: &str) -> anyhow::Error {
    let text = format!("bundle `{}` is damaged: {reason}", path.display());
    let hint = "copy it again, or pack it again with `trawl bundle`";
    Failure::new(Exit::Corrupt, text).hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_of_a_model_keeps_the_weights_that_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("mini");
        let read = [
            "mini/2_Dense/pytorch_model.bin",
            "mini/3_Dense/model.safetensors",
            "mini/config.json",
            "mini/model.safetensors",
        ];
        let unread = [
            "mini/3_Dense/pytorch_model.bin",
            "mini/onnx/model.onnx",
            "mini/openvino/openvino_model.bin",
            "mini/pytorch_model.bin",
            "mini/training_args.bin",
        ];
        for name in read.iter().chain(&unread) {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut files = Vec::new();
        assert_eq!(add_model(&model, None, &mut files).unwrap(), "mini");
        files.sort();
        let packed: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(packed, read.map(|name| format!("models/{name}")));
    }
}
