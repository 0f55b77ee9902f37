//! Compares every file of a generation with what its manifest says.

use std::fs::{self, File};
use std::io;

use crate::Generation;
use crate::digest::sha256_of_file;

/// What is wrong with one file of a generation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum FileFault {
    /// The manifest names it, the folder does not have it.
    #[error("`{path}` is missing")]
    Missing { path: String },
    /// It is a folder, a link or a device.
    #[error("`{path}` is not a plain file")]
    NotAFile { path: String },
    /// It was cut or has grown.
    #[error("`{path}` has {found} bytes, the manifest says {expected}")]
    Length {
        path: String,
        expected: u64,
        found: u64,
    },
    /// It has its length, but other bytes.
    #[error("`{path}` has sha256 {found}, the manifest says {expected}")]
    Checksum {
        path: String,
        expected: String,
        found: String,
    },
    /// It cannot be read.
    #[error("`{path}` cannot be read")]
    Io { path: String, source: io::Error },
}

impl FileFault {
    /// The file, relative to the generation.
    pub fn path(&self) -> &str {
        match self {
            Self::Missing { path }
            | Self::NotAFile { path }
            | Self::Length { path, .. }
            | Self::Checksum { path, .. }
            | Self::Io { path, .. } => path,
        }
    }
}

impl Generation {
    /// Reads every file and returns what is wrong, in the manifest's order: nothing, when the generation is intact.
    ///
    /// `on_bytes` is told the length of each file when it is done.
    pub fn verify(&self, mut on_bytes: impl FnMut(u64)) -> Vec<FileFault> {
        let mut faults = Vec::new();
        for file in &self.manifest.files {
            faults.extend(self.verify_file(&file.path, file.bytes, &file.sha256).err());
            on_bytes(file.bytes);
        }
        faults
    }

    fn verify_file(&self, name: &str, n_bytes: u64, sha256: &str) -> Result<(), FileFault> {
        let full = self.path.join(name);
        let path = name.to_owned();
        let metadata = match fs::symlink_metadata(&full) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FileFault::Missing { path });
            }
            Err(source) => return Err(FileFault::Io { path, source }),
        };
        if !metadata.is_file() {
            return Err(FileFault::NotAFile { path });
        }
        if metadata.len() != n_bytes {
            return Err(FileFault::Length {
                path,
                expected: n_bytes,
                found: metadata.len(),
            });
        }
        match File::open(&full).and_then(|mut file| sha256_of_file(&mut file)) {
            Ok((_, found)) if found == sha256 => Ok(()),
            Ok((_, found)) => Err(FileFault::Checksum {
                path,
                expected: sha256.to_owned(),
                found,
            }),
            Err(source) => Err(FileFault::Io { path, source }),
        }
    }
}
