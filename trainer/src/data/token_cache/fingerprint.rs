use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use encoder::TextTokenizer;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::super::{DataError, OnBytes};

/// What the tokens of a corpus were made of, by which a cache is known again: the files by path and content, the
/// tokenizer, and how it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    files: Vec<FileContent>,
    tokenizer: String,
    settings: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FileContent {
    path: String,
    n_bytes: u64,
    xxh3: u64,
}

impl Fingerprint {
    /// Reads the files once. `settings` says everything else that the tokens depend on.
    ///
    /// # Errors
    /// [`DataError::Read`].
    pub fn take(
        paths: &[PathBuf],
        tokenizer: &TextTokenizer,
        settings: String,
        on_bytes: &mut OnBytes<'_>,
    ) -> Result<Self, DataError> {
        let read = |path: &Path| {
            let path = path.to_owned();
            move |source| DataError::Read { path, source }
        };
        let (mut n_read, mut n_total) = (0, 0);
        for path in paths {
            n_total += std::fs::metadata(path).map_err(read(path))?.len();
        }
        let mut files = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        for path in paths {
            let mut file = File::open(path).map_err(read(path))?;
            let (mut hash, n_before) = (Xxh3::new(), n_read);
            loop {
                let n = file.read(&mut buffer).map_err(read(path))?;
                if n == 0 {
                    break;
                }
                hash.update(&buffer[..n]);
                n_read += n as u64;
                on_bytes(n_read, n_total);
            }
            let path = std::path::absolute(path).map_err(read(path))?;
            files.push(FileContent {
                path: path.to_string_lossy().into_owned(),
                n_bytes: n_read - n_before,
                xxh3: hash.digest(),
            });
        }
        Ok(Self {
            files,
            tokenizer: tokenizer.digest().to_owned(),
            settings,
        })
    }

    /// A name that the same files have whatever is in them, read in the same way as texts of a kind.
    pub(super) fn file_name(&self, kind: &str) -> String {
        let paths = self.files.iter().map(|file| file.path.as_str());
        let mut parts: Vec<&str> = paths.collect();
        let first = Path::new(parts.first().copied().unwrap_or_default());
        let first = first.file_name().unwrap_or_default().to_string_lossy();
        let stem = first.split('.').next().unwrap_or_default().to_owned();
        parts.extend([kind, &self.tokenizer, &self.settings]);
        format!(
            "{stem}-{:016x}.tokens",
            xxh3_64(parts.join("\0").as_bytes())
        )
    }

    /// A number that other tokens would not have, wherever the files are.
    pub(super) fn digest(&self, kind: &str) -> u64 {
        let mut hash = Xxh3::new();
        for part in [kind, &self.tokenizer, &self.settings] {
            hash.update(part.as_bytes());
            hash.update(&[0]);
        }
        for file in &self.files {
            hash.update(&file.n_bytes.to_le_bytes());
            hash.update(&file.xxh3.to_le_bytes());
        }
        hash.digest()
    }

    /// What is wrong with a corpus without a text.
    pub(super) fn is_empty(&self) -> DataError {
        let path = self.files.first().map(|file| file.path.as_str());
        DataError::Empty {
            path: path.unwrap_or_default().into(),
        }
    }

    /// Which file is another one than in `earlier`, where one is.
    pub(super) fn changed(&self, earlier: &Self) -> Option<&str> {
        let mut pairs = self.files.iter().zip(&earlier.files);
        let changed = pairs.find(|(now, earlier)| now != earlier);
        changed.map(|(now, _)| now.path.as_str())
    }
}
