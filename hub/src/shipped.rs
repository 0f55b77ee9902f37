//! The default reranker, which travels inside the binary.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use crate::PullError;

/// The reranker that trawl brings along.
pub const DEFAULT_RERANKER: &str = "trawl-reranker-small";

/// A file of `models/` with its name.
macro_rules! shipped {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../../models/trawl-reranker-small/", $name)),
        )
    };
}

/// What `models/` has of it.
const FILES: [(&str, &[u8]); 5] = [
    shipped!("README.md"),
    shipped!("config.json"),
    shipped!("model.safetensors"),
    shipped!("tokenizer.json"),
    shipped!("tokenizer_config.json"),
];

/// Its folder in the model folder, named by what is in it: releases leave each other's alone.
pub fn folder() -> PathBuf {
    static DIGEST: LazyLock<String> = LazyLock::new(|| {
        let mut digest = Sha256::new();
        for (name, bytes) in FILES {
            digest.update(name);
            digest.update(bytes);
        }
        let digest = digest.finalize();
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    });
    [".shipped", &DIGEST, DEFAULT_RERANKER].iter().collect()
}

/// Writes the files into a folder that is there.
pub fn unpack(into: &Path) -> Result<String, PullError> {
    for (name, bytes) in FILES {
        let path = into.join(name);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|source| PullError::write(&path, source))?;
    }
    Ok("this binary".to_owned())
}
